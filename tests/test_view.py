"""The networkx view: one node for each node of each use, edges along which values flow."""

from __future__ import annotations

import subprocess
import sys

import networkx
import pytest

from spacelang.diagnostics import Source
from spacelang.ir.dim import Symbol
from spacelang.loader import load
from spacelang.syntax.ir_text import read

TEXT = """
spaceir 1
graph base
block twice {
  size %B
  size %w in {8, 12}
  %0: [%B, %w] = input() as x
  %1: [%B, %w/2], [%B, %w/2] = split(%0, parts=2, axis=1)
  %2: [%B, %w] = concat(%1.1, %1, axis=1) as joined
  yield %2
}
root base {
  decide dim width in {8, 12}
  decide presence depth in {1, 2}
  %0: [B, width] = input() as x
  %1: [B, width] = call twice(%0) [%B=B, %w=width] as a
  %2: [B, width] = guard(%1)
    when depth > 1 {
      %3: [B, width] = input()
      %4: [B, width] = call twice(%3) [%B=B, %w=width] as b
      yield %4
    }
  %5: [B, width] = add(%2, %2)
  yield %5
}
output %5 as output
"""


@pytest.fixture(scope="module")
def view():
    return read(Source("t", TEXT)).nx


def test_nodes(view):
    assert list(view) == [
        (0,), (1,), (1, 0), (1, 1), (1, 2), (2,), (3,), (4,), (4, 0), (4, 1), (4, 2), (5,),
    ]  # fmt: skip
    inner = view.nodes[4, 2]
    assert (inner["op"], inner["path"], inner["block"]) == ("concat", "b.joined", "twice")
    assert [str(t) for t in inner["types"]] == ["[B, width]"]
    assert [str(c) for c in inner["guards"]] == ["depth > 1"]
    assert view.nodes[1, 1]["guards"] == ()
    (half,) = view.nodes[1, 1]["node"].types[0].shape[1].symbols
    assert half == Symbol("%w", (8, 12))
    assert view.graph["outputs"] == {"output": ((5,), 0)}


def test_edges_are_keyed_by_the_position_of_the_operand(view):
    assert view.edges[(1, 1), (1, 2), 0] == {"index": 1, "role": "operand"}
    assert view.edges[(1, 1), (1, 2), 1] == {"index": 0, "role": "operand"}
    assert sorted(view[(2,)][(5,)]) == [0, 1]


def test_values_flow_through_calls_and_regions(view):
    path = networkx.shortest_path(view, (0,), (5,))
    assert path == [(0,), (1, 0), (1, 1), (1, 2), (1,), (2,), (5,)]
    assert not view.has_edge((0,), (1,))
    assert view.edges[(1, 2), (1,), 0]["role"] == "result"
    assert view.edges[(1,), (2,), 0]["role"] == "fallback"
    assert view.edges[(4,), (2,), 0]["role"] == "result"
    assert view.edges[(1,), (3,), 0]["role"] == "operand"
    assert networkx.is_directed_acyclic_graph(view)


def test_made_once_and_for_each_graph():
    graph = load("spaces/autoformer.space:autoformer_t")
    assert graph.nx is graph.nx
    assert len(graph.nx) == sum(1 for _ in graph.places())
    heads = [d for _, d in graph.nx.nodes(data=True) if d["path"].endswith("attn.qkv")]
    assert len(heads) == 14
    assert str(heads[13]["types"][0]) == "[B, 197, 3, encoder[13].heads, 64]"


def test_networkx_is_imported_only_when_it_is_asked_for():
    code = (
        "import sys; from spacelang.loader import load\n"
        "g = load('spaces/autoformer.space:autoformer_t'); g.hash; g.edit()\n"
        "assert 'networkx' not in sys.modules; g.nx; assert 'networkx' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
