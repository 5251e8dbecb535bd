"""The size and reach of a space in plain Python: against the counting with numpy, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from math import prod
from pathlib import Path
from random import Random

import numpy as np
import pytest

from spacelang import load
from spacelang.analysis import count
from spacelang.analysis import extent as extents
from spacelang.analysis.cost import Term
from spacelang.analysis.extent import extent, median
from spacelang.analysis.order import order
from spacelang.analysis.queries import counter
from spacelang.analysis.running import apart
from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.atom import Extremum
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.polynomial import of_atom

SEARCHABLE = (
    "autoformer.space:autoformer_t",
    "cream.space:cream",
    "s3.space:s3_start",
    "efficientvit.space:efficientvit_search",
    "tinyvit.space:tinyvit_contraction",
    "cdarts.space:cifar10",
    "deit.space:deit_ti",
)


@pytest.mark.parametrize("address", SEARCHABLE)
def test_it_agrees_with_counting(address: str) -> None:
    graph = load(f"spaces/{address}")
    found = extent(graph)
    for figure in ("params", "macs", "activations"):
        assert getattr(found, figure) == counter(graph).extremes(figure)
    assert found.size == graph.size()
    if not graph.require:
        low, high = found.params
        assert graph.size(where=f"params in {low}..{high}") == found.size
        assert graph.size(where=f"params < {low}") == 0
        assert graph.size(where=f"params > {high}") == 0


ARCHITECTURES: tuple[dict[str, int], ...] = tuple(
    {"a": a, "depth": depth, **({"last.b": b} if depth else {})}
    for a in (2, 3)
    for depth, b in ((0, 0), (1, 1), (1, 4))
)


def test_by_hand() -> None:
    """One layer of 2 or 3, and a second of 1 or 4 that is there or not: 2 + 2 * 2 networks."""
    text = """
    space hand {
      input x: [B, 5]
      choose a in {2, 3}
      choose depth in {0, 1}
      block last(x: [B, 5]) -> [B, 5] { choose b in {1, 4} return x + linear(x, 5, bias: false) }
      y = linear(linear(x, a, bias: false) as one, 5, bias: false) as two
      for i in 0..<depth { y = last(y) as last }
      output y
      weights { _: entangle }
    }
    """
    graph = load(Source("hand", text))
    found = extent(graph)
    assert found.size == 6
    assert found.params == (2 * 5 * 2, 2 * 5 * 3 + 25)
    assert found.macs == found.params
    assert found.activations == (2 + 5, 3 + 5 + 5)
    costs = sorted(graph.cost(a).params for a in ARCHITECTURES)
    assert (costs[0], costs[-1]) == found.params
    assert median(graph, "params") == costs[2], "three of six are at most this"


def test_a_requirement_that_nothing_meets() -> None:
    text = """
    space none {
      input x: [B, 5]
      choose a in {2, 3}
      choose b in {2, 3}
      output linear(linear(x, a) as one, b) as two
      weights { _: entangle }
      require a + b > 6
    }
    """

    def found() -> object:
        return extent(load(Source("none", text)))

    with pytest.raises(SpaceError, match="SP502"):
        found()


def test_what_hangs_together_too_closely_is_counted_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = load("spaces/autoformer.space:autoformer_t")
    plain = extent(graph)
    monkeypatch.setattr(extents, "POINTS", 8)
    assert extent(graph) == plain


def test_it_needs_no_numpy(fresh_python: Callable[..., str], root: Path) -> None:
    program = """
import sys
from spacelang import load
from spacelang.analysis.extent import extent, median
graph = load("spaces/cream.space:cream")
print(extent(graph).size, "numpy" in sys.modules)
"""
    assert fresh_python("-c", program, cwd=root).split() == ["21936950640377856", "False"]


TIED = """
space tied {
  input x: [B, 4]
  choose depth in 5..7
  for i in 0..<depth {
    choose hidden[i] in {2, 3, 5}
    x = linear(x, hidden, bias: false) as up[i] |> linear(4, bias: false) as down[i]
  }
  output x
  weights { _: entangle  up[_]: tie  down[_]: tie }
}
"""


def test_what_all_layers_share_is_as_large_as_the_largest_that_is_present() -> None:
    """One tensor read by seven layers, against all 2,997 architectures by hand."""
    graph = load(Source("tied", TIED))
    figures = [
        (max(hidden) * 8, sum(hidden) * 8)
        for depth in (5, 6, 7)
        for hidden in product((2, 3, 5), repeat=depth)
    ]
    assert len(counter(graph).extrema.variables) > 0, "no table is over all of them"
    params, macs = zip(*figures, strict=True)
    found = extent(graph)
    assert found.size == graph.size() == len(figures)
    assert found.params == counter(graph).extremes("params") == (min(params), max(params))
    assert found.macs == (min(macs), max(macs))
    for params_at_most, macs_at_least in ((16, 0), (24, 100), (40, 150), (24, 1000)):
        where = f"params <= {params_at_most} and macs >= {macs_at_least}"
        met = sum(p <= params_at_most and m >= macs_at_least for p, m in figures)
        assert graph.size(where=where) == met
    drawn = graph.sample(300, seed=1, where="params == 24")
    assert {graph.cost(one).params for one in drawn} == {24}
    indices = counter(graph).draw_indices(200, np.random.default_rng(0))
    assert indices.shape == (200, 8)
    costs = counter(graph).costs(indices)
    for row, cost in zip(indices, costs["params"], strict=True):
        depth = 5 + row[0]
        assert cost == 8 * max((2, 3, 5)[i] for i in row[1 : 1 + depth])


def sums_of_two(layers: int, candidates: int) -> str:
    """Layers that share what the sum of two decisions each sizes: as many values as pairs."""
    steps = ", ".join(str(candidates * i) for i in range(1, candidates + 1))
    lines = [
        f"choose a{i} in 1..{candidates} choose b{i} in {{{steps}}} "
        f"x = linear(x, a{i} + b{i}, bias: false) as up[{i}] "
        f"|> linear(4, bias: false) as down[{i}]"
        for i in range(layers)
    ]
    rules = "weights { _: entangle up[_]: tie down[_]: tie }"
    return f"space sums {{ input x: [B, 4] {' '.join(lines)} output x {rules} }}"


def test_shared_sums_are_counted_by_whichever_table_is_smaller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Running values of 16 x 16 pairs are more points than the pairs of two layers themselves; of
    three layers neither fits, and of many small ones no table over all would."""
    direct = counter(load(Source("sums", sums_of_two(2, 4))))
    assert not direct.extrema.variables
    assert direct.size() == 4**4
    wide = load(Source("sums", sums_of_two(3, 16)))
    for question in (wide.size, lambda: extent(wide)):
        with pytest.raises(SpaceError, match=r"SP507.*6 decisions"):
            question()
    running = counter(load(Source("sums", sums_of_two(7, 4))))
    assert running.size() == 4**14
    monkeypatch.setattr(count, "MAX_POINTS", 4095)
    bounded = counter(
        load(
            Source(
                "sums",
                sums_of_two(7, 4),
            )
        )
    )
    with pytest.raises(SpaceError, match=r"SP507.*and on the layers before"):
        bounded.size()


@pytest.mark.parametrize("name", ["min", "max"])
def test_running_values_are_those_that_pairs_have(name: str) -> None:
    a, b = Symbol("a", (1, 4, 9)), Symbol("b", (3, 4, 20))
    pick = min if name == "min" else max
    other = [Symbol(f"c{i}", (2, 8)) for i in range(12)]
    extremum = Extremum(name, tuple(map(Dim.of, (a, b, *other))))
    first, second, *_ = apart({"params": [Term((), of_atom(extremum))]}).variables
    assert set(second.symbol.values) == {pick(m, n) for m in a.values for n in b.values}
    numbers = [pick(m, n) for m in second.of_operand({"b": b.values}) for n in second.of_before()]
    found = [second.symbol.values[number] for number in numbers]
    assert found == [pick(m, n) for m in b.values for n in first.symbol.values]


# The order of elimination.


def by_hand(scopes: list[tuple[str, ...]], sizes: dict[str, int]) -> list[str]:
    """The same order, each cost worked out anew over all scopes that are left."""
    left, found = [set(scope) for scope in scopes], list[str]()
    while len(found) < len(sizes):
        around = {
            v: {v}.union(*(s for s in left if v in s)) for v in sizes if v not in found
        }  # of two that cost the same, the first
        chosen = min(around, key=lambda v: prod(sizes[w] for w in around[v]))
        left = [s for s in left if chosen not in s] + [around[chosen] - {chosen}]
        found.append(chosen)
    return found


def test_the_order_is_that_of_costs_worked_out_anew() -> None:
    random = Random(0)
    for _ in range(100):
        names = [f"v{i}" for i in range(random.randint(1, 9))]
        sizes = {name: random.randint(1, 4) for name in names}
        scopes = [
            tuple(random.sample(names, random.randint(0, min(3, len(names)))))
            for _ in range(random.randint(0, 12))
        ]
        assert order(scopes, sizes) == by_hand(scopes, sizes)
    assert order([("w", "h"), ("w", "r")], {"w": 3, "h": 2, "r": 4}) == ["h", "w", "r"]


class Read(dict[str, int]):
    """Numbers of candidates that count how often one is read."""

    times = 0

    def __getitem__(self, name: str) -> int:
        self.times += 1
        return super().__getitem__(name)


def test_the_order_of_many_decisions_takes_few_steps() -> None:
    """A depth that all layers hang on, and layers each beside the next."""
    many = 2_000
    layers = [f"layer[{i}]" for i in range(many)]
    sizes = Read(dict.fromkeys(["depth", *layers], 3))
    scopes = [("depth", a, b) for a, b in pairwise(layers)]
    assert len(order(scopes, sizes)) == many + 1
    assert sizes.times < 20 * many
