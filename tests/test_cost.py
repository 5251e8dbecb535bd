"""Closed forms against the networks themselves, counting against enumeration, budgets against
filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice, product
from typing import get_type_hints

import numpy as np
import pytest

from spacelang.analysis.claims import claims
from spacelang.analysis.queries import counter, model
from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.decision import Assignment
from spacelang.ir.figures import Between, Cost
from spacelang.ir.graph import Graph
from spacelang.loader import load
from spacelang.passes.specialize import specialize
from spacelang.syntax.budget import parse_where

SEARCHABLE = [
    "autoformer.space:autoformer_t",
    "autoformer.space:autoformer_b",
    "s3.space:s3_start",
    "tinyvit.space:tinyvit_contraction",
    "efficientvit.space:efficientvit_search",
    "cream.space:cream",
    "cdarts.space:cifar10",
]
SMALL = """
use vit
space small(image = 8) {
  input pixels: [B, 1, image, image]
  choose width in {8, 12}
  choose depth in 1..3
  block layer(x: [B, N, width]) -> [B, N, width] {
    choose ratio in {1, 1.5, 2}
    return choose op {
      wide: x + mlp(x, width * ratio) as mlp
      skip: x
      norm: layer_norm(x) as norm
    }
  }
  x = patch_embed(pixels, width, patch: 4) as stem |> tokens
  for i in 0..<depth { x = layer(x) }
  output mean(x, axes: [1]) |> linear(10) as head
  weights { _: entangle }
}
"""


@pytest.fixture(scope="module")
def small() -> Graph:
    return load(Source("<small>", SMALL))


def everything(graph: Graph) -> list[dict[str, object]]:
    """All assignments of a small space, by brute force over the values of all decisions."""
    names = list(graph.decisions)
    found: dict[str, dict[str, object]] = {}
    for point in product(*(graph.decisions[n].values for n in names)):
        assignment = graph.decisions.assignment(dict(zip(names, point, strict=True)))
        found[str(sorted(assignment.items()))] = dict(assignment)
    return list(found.values())


@pytest.mark.parametrize("number", [12, pytest.param(200, marks=pytest.mark.soak)])
@pytest.mark.parametrize("address", SEARCHABLE)
def test_closed_form_is_the_cost_of_the_network(address: str, number: int) -> None:
    graph = load(f"spaces/{address}")
    for assignment in graph.sample(
        n=number, seed=3, law="choices" if not graph.require else "architectures"
    ):
        network = specialize(graph, assignment)
        assert not network.decisions
        assert graph.cost(assignment) == network.cost()


@pytest.mark.parametrize("address", [a for a in SEARCHABLE if "cdarts" not in a])
def test_params_are_the_elements_of_the_storage(address: str) -> None:
    graph = load(f"spaces/{address}")
    for assignment in graph.sample(n=6, seed=5):
        network = specialize(graph, assignment)
        weights = [s.numel for s in network.storages.values() if s.param.role == "weight"]
        assert sum(weights) == graph.cost(assignment).params


def test_size_is_the_number_of_distinct_assignments(small: Graph) -> None:
    assert graph_size(small) == len(everything(small))


def graph_size(graph: Graph, where: str = "") -> int:
    size = graph.size(where)
    assert isinstance(size, int)
    return size


@pytest.mark.parametrize(
    "where",
    [
        "params <= 1200",
        "params in 600..1500",
        "macs < 3000 and params > 500",
        "depth == 2 and macs in 1K..9K",
        "width == 12 and layer[0].op == wide",
        "not layer[0].op == skip",
        "depth in {1, 3}",
    ],
)
def test_a_budget_counts_what_a_filter_counts(small: Graph, where: str) -> None:
    parsed = parse_where(small, where)
    checks = counter(small)
    expected = [a for a in everything(small) if checks.meets(small.decisions.check(a), parsed)]
    assert 0 < len(expected) < graph_size(small)
    assert graph_size(small, where) == len(expected)
    drawn = small.sample(n=200, seed=1, where=where)
    assert all(dict(a) in expected for a in drawn)


def test_extremes_are_reached(small: Graph) -> None:
    costs = [small.cost(a) for a in everything(small)]
    for figure in ("params", "macs", "activations"):
        values = [getattr(c, figure) for c in costs]
        assert counter(small).extremes(figure) == (min(values), max(values))


def test_vectorised_costs_are_the_single_ones() -> None:
    graph = load("spaces/autoformer.space:autoformer_s")
    counts = counter(graph)
    indices = counts.draw_indices(50, np.random.default_rng(7))
    many = counts.costs(indices)
    for row, params, macs in zip(indices.tolist(), many["params"], many["macs"], strict=True):
        choices = zip(graph.decisions.values(), row, strict=True)
        cost = model(graph).at({c.path: c.values[i] for c, i in choices})
        assert (cost.params, cost.macs) == (params, macs)


def test_an_empty_budget_says_what_can_be_reached(small: Graph) -> None:
    with pytest.raises(SpaceError) as failed:
        small.sample(n=1, where="params <= 10")
    (found,) = failed.value.diagnostics
    assert found.code == "SP502"
    least, most = counter(small).extremes("params")
    assert f"{least:,} to {most:,}" in found.notes[0]


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ("parms <= 5", "SP201"),
        ("params * depth <= 5", "SP508"),
        ("params <= 5 or macs <= 5", "SP508"),
        ("params <=", "SP101"),
        ("linear(3)", "SP204"),
        ("params + 1", "SP209"),
        ("layer[7].ratio == 2", "SP504"),
    ],
)
def test_a_budget_that_cannot_be_read(small: Graph, where: str, code: str) -> None:
    with pytest.raises(SpaceError) as failed:
        small.size(where)
    assert [d.code for d in failed.value.diagnostics] == [code]


@pytest.mark.parametrize(
    "address",
    ["efficientvit.space:efficientvit_search", "combinations/autoformer_pairs.space"],
)
def test_per_op_costs_add_up(address: str) -> None:
    graph = load(f"spaces/{address}")
    (assignment,) = graph.sample(n=1, seed=2)
    rows = model(graph).per_op(graph.decisions.check(assignment))
    total = graph.cost(assignment)
    assert sum(r.params for r in rows) == total.params
    assert sum(r.macs for r in rows) == total.macs
    assert sum(r.activations for r in rows) == total.activations


def test_the_same_seed_draws_the_same() -> None:
    graph = load("spaces/autoformer.space:autoformer_t")
    first, again = (graph.sample(n=3, seed=11, where="params in 5M..6M") for _ in range(2))
    assert first == again
    assert first != graph.sample(n=3, seed=12, where="params in 5M..6M")
    assert all(5_000_000 <= graph.cost(a).params <= 6_000_000 for a in islice(first, 3))


@pytest.mark.parametrize(
    "ask",
    [lambda g: g.cost(5), lambda g: g.cost(["width"]), lambda g: g.size(where=5)],
)
def test_questions_of_the_wrong_kind_are_told(ask: Callable[[Graph], object]) -> None:
    with pytest.raises(SpaceError, match=r"not (int|list)"):
        ask(load("quickstart.space"))


# Figures of more than 63 bits.

LARGE = {
    "deep": """
      input x: [B, 1000000, 1000000]
      choose depth in 1..12
      for i in 0..<depth { x = linear(x, 1000000) as fc[i] }
      output x
    """,
    "wide": """
      input x: [B, 4000000, 4000000]
      choose w in {1000000, 4000000}
      require w <= 1000000 and macs >= 1G
      output linear(x, w) as fc
      weights { _: entangle }
    """,
    "fixed": """
      input x: [B, 40000000, 4000000]
      output linear(linear(x, 4000000) as a, 4000000) as b
    """,
    "fixed in parts": """
      input x: [B, 4000000, 4000000]
      choose w in {4, 8}
      output linear(linear(linear(x, 600000) as a, 4000000) as b, w) as c
      weights { _: entangle }
    """,
    "nearly fixed": """
      input x: [B, 40000000, 4000000]
      choose w in {4, 8}
      output linear(linear(x, 4000000) as fc, w) as head
      weights { _: entangle }
    """,
}


def large(name: str) -> Graph:
    return load(Source("<large>", f"space s {{ {LARGE[name]} }}"))


@pytest.mark.parametrize("name", LARGE)
def test_figures_beyond_63_bits_are_exact(name: str) -> None:
    graph = large(name)
    found = counter(graph)
    inside = [a for a in everything(graph) if graph_meets(graph, a)]
    costs = [graph.cost(architecture).macs for architecture in inside]
    assert max(costs) >= 1 << 63
    assert found.extremes("macs") == (min(costs), max(costs))
    for where in ("macs >= 1", "macs >= 2e18", "macs <= 9e18", "macs >= 1G and params >= 1"):
        expected = sum(graph_meets(graph, a, where) for a in inside)
        assert graph_size(graph, where) == expected
    drawn = found.draw_indices(32, np.random.default_rng(0))
    for row, macs in zip(drawn.tolist(), found.costs(drawn)["macs"].tolist(), strict=True):
        choices = zip(graph.decisions.values(), row, strict=True)
        assert model(graph).at({c.path: c.values[i] for c, i in choices}).macs == macs


def graph_meets(graph: Graph, assignment: dict[str, object], where: str = "") -> bool:
    found = counter(graph)
    wanted = found.required.meet(parse_where(graph, where)) if where else found.required
    return found.meets(graph.decisions.check(assignment), wanted)


def test_draws_by_choices_where_figures_have_more_than_63_bits() -> None:
    graph = large("nearly fixed")
    drawn = graph.sample(n=8, seed=0, where="macs >= 2e18", law="choices")
    assert all(graph.cost(one).macs >= 2 * 10**18 for one in drawn)


def test_a_requirement_on_figures_of_more_than_63_bits_is_checked() -> None:
    assert {found.code for found in claims(large("wide"))} <= {"SP511"}


def test_what_a_graph_says_of_its_answers() -> None:
    """The three questions that everybody asks first are typed, though higher layers answer them."""
    given = {"cost": Cost, "size": int | Between, "sample": Sequence[Assignment]}
    assert {name: get_type_hints(getattr(Graph, name))["return"] for name in given} == given
