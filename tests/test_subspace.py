"""Sub-spaces: every operation against sets of architectures that are listed one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

import pytest

import spacelang
from spacelang import Subspace
from spacelang.analysis.count import Counter
from spacelang.diagnostics import Source, SpaceError
from spacelang.engines.pool import Pool, encoding
from spacelang.ir.decision import Assignment, plain
from spacelang.ir.figures import Between
from spacelang.ir.graph import Graph
from spacelang.passes.narrow import narrow

# Sizes, presence, paths and a pick, and a requirement that couples two of them.
TEXT = """
space mixed {
  input x: [B, 6]
  choose width in {4, 8, 12}
  choose depth in 1..2
  block layer(x: [B, C]) -> [B, C] {
    choose ratio in {1, 2, 3}
    x = linear(x, C * ratio) as up |> relu |> linear(C) as down
    return choose op { plain: x  more: linear(x, C) as more |> gelu }
  }
  states = [x, relu(x), gelu(x)]
  choose inputs in 2 of states
  x = total(inputs) |value, source, e| { return linear(value, width) as edge[e] }
  for i in 0..<depth { x = layer(x) as layers[i] }
  output linear(x, 2) as head
  weights { _: entangle }
  require width * depth <= 16
}
"""
Set = frozenset[str]


@pytest.fixture(scope="module")
def graph() -> Graph:
    return spacelang.load(Source("<mixed>", TEXT))


@pytest.fixture(scope="module")
def every(graph: Graph) -> dict[str, Assignment]:
    found = {encoding(a): a for a, _ in Pool(graph).draw(10_000, "all")}
    # Three widths of one layer of 3 x 2 kinds, two of two layers; 3 ways to draw the inputs.
    assert len(found) == graph.size() == 3 * (3 * 6 + 2 * 36)
    return found


def some(
    graph: Graph, every: Mapping[str, Assignment], draw: Random
) -> tuple[Subspace, Set, dict[str, list[object]]]:
    """A sub-space of a few ranges, and mostly of a budget; the same by looking at each one."""
    ranges: dict[str, list[object]] = {}
    for path in draw.sample(sorted(graph.decisions), draw.randint(0, 3)):
        values = [plain(value) for value in graph.decisions[path].values]
        ranges[path] = sorted(draw.sample(values, draw.randint(1, len(values))), key=str)
    figure = draw.choice(["params", "macs", "activations"])
    ends = sorted(getattr(graph.cost(draw.choice([*every.values()])), figure) for _ in range(2))
    where, least = draw.choice(
        [
            ("", 0),
            (f"{figure} in {ends[0]}..{ends[1]}", 0),
            (f"{figure} < {ends[1]} and width >= 8", 8),
        ]
    )

    def inside(assignment: Assignment) -> bool:
        known = all(p not in assignment or assignment[p] in kept for p, kept in ranges.items())
        reached = getattr(graph.cost(assignment), figure)
        budget = not where or (reached < ends[1] if least else ends[0] <= reached <= ends[1])
        width = assignment["width"]
        assert isinstance(width, int)
        return known and budget and width >= least

    made = Subspace(graph).restrict(ranges, where)
    return made, frozenset(name for name, a in every.items() if inside(a)), ranges


def agree(found: Subspace, wanted: Set, every: Mapping[str, Assignment], draw: Random) -> None:
    assert found.size == len(wanted)
    for name in draw.sample(sorted(every), 12):
        assert (every[name] in found) == (name in wanted)
    witness = found.witness()
    assert (witness is None) == (not wanted)
    assert witness is None or encoding(witness) in wanted


@pytest.mark.parametrize("seed", range(10))
def test_every_operation_is_that_of_sets(
    seed: int, graph: Graph, every: Mapping[str, Assignment]
) -> None:
    draw = Random(seed)
    (a, one, _), (b, two, _), (c, three, _) = (some(graph, every, draw) for _ in range(3))
    for found, wanted in (
        (a, one),
        (a & b, one & two),
        (a | b, one | two),
        (a - b, one - two),
        (c - (a | b), three - (one | two)),
        ((a - b) | (b & c), (one - two) | (two & three)),
        ((a | b) & (b | c), (one | two) & (two | three)),
        ((a | c) - (b - c), (one | three) - (two - three)),
    ):
        agree(found, wanted, every, draw)
    for (left, these), (right, those) in (((a, one), (b, two)), ((a & b, one & two), (a, one))):
        assert (left <= right) == (these <= those)
        assert (left >= right) == (these >= those)
        witness = left.witness(right)
        assert (witness is None) == (these <= those)
        assert witness is None or encoding(witness) in these - those


def test_the_whole_and_nothing(graph: Graph, every: Mapping[str, Assignment]) -> None:
    whole = Subspace(graph)
    assert whole.size == len(every)
    assert (whole - whole).size == 0
    assert (whole - whole).witness() is None
    assert whole.restrict(where="params <= 1").size == 0
    assert whole.restrict({path: c.values for path, c in graph.decisions.items()}) >= whole
    assert all(assignment in whole for assignment in every.values())
    assert whole.restrict({"width": [4]}) & whole.restrict({"width": [8]}) <= whole - whole


@pytest.mark.parametrize(
    "ranges",
    [
        {"width": [8, 12]},
        {"depth": [2], "layers[1].ratio": [3]},
        {"depth": [1]},
        {"layers[0].op": ["more"], "layers[1].ratio": [1, 2], "width": [4]},
    ],
)
def test_a_narrowed_network_has_the_same_architectures(
    ranges: Mapping[str, Sequence[object]], graph: Graph
) -> None:
    assert narrow(graph, ranges).size() == Subspace(graph).restrict(ranges).size


def test_where_only_bounds_are_counted_sizes_are_bounds(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [Subspace(graph).restrict({"width": [width]}) for width in (4, 8)]
    sizes = iter((Between(1, 3), 5))
    monkeypatch.setattr(Counter, "size", lambda self, where=None: next(sizes))
    assert (parts[0] | parts[1]).size == Between(6, 8)


def test_a_range_bounds_a_decision_where_it_is_live(
    graph: Graph, every: Mapping[str, Assignment]
) -> None:
    third = Subspace(graph).restrict({"layers[1].ratio": [3]})
    shallow = Subspace(graph).restrict({"depth": [1]})
    assert shallow <= third
    assert third.size == sum(a.get("layers[1].ratio", 3) == 3 for a in every.values())


def test_a_pick_is_spelt_in_any_order(graph: Graph) -> None:
    first, turned = (Subspace(graph).restrict({"inputs": [pair]}) for pair in ([0, 2], (2, 0)))
    assert first <= turned <= first
    assert first.size == Subspace(graph).size // 3  # type: ignore[operator]
    witness = first.witness()
    assert witness is not None
    assert {**witness, "inputs": [2, 0]} in turned
    assert {**witness, "inputs": [1, 0]} not in turned


@pytest.mark.parametrize(
    ("ranges", "where", "code", "says"),
    [
        ({"height": [1]}, "", "SP504", "no decision has the path height"),
        ({"width": [5]}, "", "SP501", "5 is no candidate of width"),
        ({"width": [True]}, "", "SP501", "true is no candidate of width"),
        ({"width": [object]}, "", "SP501", "no candidate of width"),
        ({"width": []}, "", "SP501", "nothing is left of width"),
        ({"width": 8}, "", "SP209", "the range of width is a list of candidates, not 8"),
        ({"width": "8"}, "", "SP209", 'the range of width is a list of candidates, not "8"'),
        ({}, "latency <= 5ms", "SP508", "latency is measured"),
        ({}, "throughput >= 5", "SP508", "throughput is measured"),
        ({}, "height > 3", "SP201", "height"),
    ],
)
def test_what_is_no_restriction(
    ranges: Mapping[str, Sequence[object]], where: str, code: str, says: str, graph: Graph
) -> None:
    with pytest.raises(SpaceError, match=says) as refused:
        Subspace(graph).restrict(ranges, where)
    assert [found.code for found in refused.value.diagnostics] == [code]


def test_sub_spaces_of_two_graphs_are_not_compared(graph: Graph) -> None:
    whole = Subspace(graph)
    again = Subspace(spacelang.load(Source("<again>", TEXT)))
    assert whole <= again <= whole, "the same graph, loaded twice"
    other = Subspace(spacelang.load(Source("<other>", TEXT.replace("{4, 8, 12}", "{4, 8}"))))
    for operation in (whole.__and__, whole.__or__, whole.__sub__, whole.witness):
        with pytest.raises(SpaceError, match="SP701"):
            operation(other)
