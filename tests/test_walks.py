"""Going through a network: each use of each block, each node there, under which conditions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from spacelang.diagnostics import Source
from spacelang.ir.block import Block, Node
from spacelang.ir.condition import FALSE, conjunction
from spacelang.ir.graph import Graph, Instance, conditions
from spacelang.ir.text import write
from spacelang.loader import load
from spacelang.syntax.ir_text import read

SPACES = Path(__file__).parent.parent / "spaces"
SMALL = """
block inner(x: [B, C], n) -> [B, C] {
  when n == 4 { x = linear(x, C) as four }
  else { when n == 8 { x = linear(relu(x), C) as eight } else { x = tanh(x) as none } }
  return x
}
block outer(x: [B, C], n, rate) -> [B, C] {
  choose hidden in {2, 3}
  x = inner(x, n) as first
  when hidden == 3 { x = inner(x, n) as second }
  return linear(linear(x, hidden) as up, C) as down
}
space main {
  input x: [B, 8]
  choose n in {4, 8, 12}
  when n == 4 { x = outer(x, n, 0) as low } else { x = outer(x, n, 1) as high }
  for i in 0..1 { x = outer(x, n, i) as layers[i] }
  output x
  weights { _: entangle }
}
"""
TWO = """
block up(x: [B, C]) -> [B, C] { return linear(x, C) as up }
space two {
  input x: [B, 8]
  choose n in {4, 8}
  choose m in {4, 8}
  when n == 4 {
    x = up(x) as kept
    when m == 4 { x = up(x) as gone }
  }
  output x
  weights { _: entangle }
}
"""
NAMES = ("small", "cdarts", "cream", "mobilenetv3", "small_cells", "small_paths", "tinyvit")


@cache
def graph_of(name: str) -> Graph:
    return load(Source("small.space", SMALL) if name == "small" else str(SPACES / f"{name}.space"))


def walked(graph: Graph, here: Instance, level: Block) -> Iterator[tuple[Instance, Node]]:
    """A level, node by node, and after each node what it holds."""
    for node in level.nodes:
        yield here, node
        if node.call is not None:
            block = graph.blocks[node.call.block]
            yield from walked(graph, here.enter(node.call, block), block)
        for region, condition in zip(node.regions, conditions(node), strict=True):
            there = here.under(here.condition(condition))
            if conjunction(*there.guards) != FALSE:
                yield from walked(graph, there, region)


def told(here: Instance, *rest: Any) -> tuple[Any, ...]:
    return (here.block.name, here.path, here.decide, here.store, here.sizes, here.guards, *rest)


@pytest.mark.parametrize("name", NAMES)
def test_the_nodes_are_those_of_a_plain_walk(name: str) -> None:
    graph = graph_of(name)
    wanted = [told(here, node.id, node.op) for here, node in walked(graph, graph.top, graph.root)]
    for _ in range(2):  # the second walk finds what the first one entered
        found = [told(place.instance, place.node.id, place.node.op) for place in graph.places()]
        assert found == wanted


@pytest.mark.parametrize("name", NAMES)
def test_what_is_told_of_nodes_is_that_of_a_plain_walk(name: str) -> None:
    graph, asked = graph_of(name), Counter[tuple[int, int]]()

    def find(block: Block, node: Node) -> Iterator[str]:
        asked[id(block), id(node)] += 1
        return (f"{block.name} {path}" for path in node.params)

    found = [told(here, node.id, what) for here, node, what in graph.nodes_of(find)]
    assert set(asked.values()) == {1}
    every = walked(graph, graph.top, graph.root)
    assert found == [
        told(here, node.id, f"{here.block.name} {path}") for here, node in every for path in node.params
    ]  # fmt: skip
    assert not list(graph.nodes_of(lambda _block, _node: ()))


@pytest.mark.parametrize("name", NAMES)
def test_the_instances_are_the_calls_of_a_plain_walk(name: str) -> None:
    graph = graph_of(name)
    wanted = [told(graph.top)] + [
        told(here.enter(node.call, graph.blocks[node.call.block]))
        for here, node in walked(graph, graph.top, graph.root)
        if node.call is not None
    ]
    found = [told(instance) for instance in graph.instances()]
    assert found == wanted
    blocks = Counter(name for name, *_ in found)
    assert max(blocks.values()) > 1  # one block is used in several places


def test_a_node_is_there_where_its_guards_hold() -> None:
    """As what each architecture computes says, evaluated way by way."""
    graph = graph_of("small")

    def present(level: Block, here: Instance, values: Any) -> Iterator[str]:
        for node in level.nodes:
            yield f"{here.path} {node.id}"
            if node.call is not None:
                block = graph.blocks[node.call.block]
                yield from present(block, here.enter(node.call, block), values)
            for region, condition in zip(node.regions, conditions(node), strict=True):
                if here.condition(condition).at(values):
                    yield from present(region, here, values)

    seen: set[str] = set()
    choices = graph.decisions
    for taken in product(*(choice.values for choice in choices.values())):
        values = dict(zip(choices, taken, strict=True))
        wanted = sorted(present(graph.root, graph.top, values))
        found = [place for place in graph.places() if all(g.at(values) for g in place.guards)]
        assert sorted(f"{p.instance.path} {p.node.id}" for p in found) == wanted
        seen |= set(wanted)
    # No other nodes are gone through: what stands under conditions that exclude each other is not.
    assert {f"{p.instance.path} {p.node.id}" for p in graph.places()} == seen
    labels = {place.path for place in graph.places()}
    assert "low.first.four" in labels
    assert not labels & {"low.first.eight", "high.first.four"}


def test_what_stands_under_conditions_that_exclude_each_other_is_not_entered() -> None:
    """As far as a conjunction says so: of a condition and its opposite. The front end leaves none."""
    text = write(load(Source("two.space", TWO)))
    assert text.count("m == 4") == 1
    graph = read(Source("two.spaceir", text.replace("m == 4", "n != 4")))
    labels = [place.path for place in graph.places() if place.node.label]
    assert "kept.up" in labels
    assert "gone.up" not in labels
    assert [told(i) for i, _ in walked(graph, graph.top, graph.root)] == [
        told(place.instance) for place in graph.places()
    ]
    assert [instance.path for instance in graph.instances()] == ["", "kept"]
