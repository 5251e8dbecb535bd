"""What may be asked of `sample`: draws by choices meet any budget, and numbers are checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from spacelang.analysis.budget import Budget
from spacelang.analysis.queries import counter, parsed
from spacelang.diagnostics import Source, SpaceError
from spacelang.engines.laws import whole
from spacelang.engines.pool import Pool, encoding
from spacelang.ir.decision import plain
from spacelang.ir.graph import Graph
from spacelang.loader import load

LINES = "".join(f"choose w{i} in 1..16 x = linear(x, w{i}) as f{i} " for i in range(8))


@pytest.fixture(scope="module")
def graph() -> Graph:
    return load(
        Source("<s>", f"space s {{ input x: [B, 4] {LINES} output x weights {{ _: entangle }} }}")
    )


def refused(graph: Graph, **asked: object) -> tuple[str, tuple[str, ...]]:
    with pytest.raises(SpaceError) as failed:
        graph.sample(**asked)  # type: ignore[arg-type]
    (found,) = failed.value.diagnostics
    return found.code, found.notes


def test_an_empty_budget_is_counted_before_it_is_drawn(graph: Graph) -> None:
    code, notes = refused(graph, where="params < 5", law="choices")
    assert code == "SP502"
    assert "params reaches" in notes[0]


def test_a_budget_that_draws_hardly_meet_is_met(graph: Graph) -> None:
    """Fewer than 100 of four billion: each is as likely as the other, since all decisions are live."""
    size = graph.size(where="params <= 22")
    assert isinstance(size, int)
    assert 0 < size < 100
    drawn = graph.sample(n=20 * size, seed=2, where="params <= 22", law="choices")
    met = Counter(encoding(assignment) for assignment in drawn)
    assert len(met) == size
    assert all(graph.cost(assignment).params <= 22 for assignment in drawn)
    assert sum((c - 20) ** 2 / 20 for c in met.values()) < 3 * size + 10


DEEP = """
space deep {
  input x: [B, 4]
  block layer(x: [B, C]) -> [B, C] {
    choose w in 1..4
    return x + (linear(x, w) as up |> linear(C) as down)
  }
  choose depth in 1..3
  for i in 0..<depth { x = layer(x) as layers[i] }
  output linear(x, 2) as head
  weights { _: entangle }
}
"""


@pytest.mark.parametrize("weights", [{}, {"depth": (1, 2, 5), "layers[0].w": (0, 1, 1, 2)}])
def test_exact_draws_have_the_law_of_choices(weights: Mapping[str, Sequence[int]]) -> None:
    """Against the chances of every architecture: those of its live decisions, within the budget."""
    graph, where = load(Source("<deep>", DEEP)), "params in 40..70"
    chances: dict[str, float] = {}
    for assignment, _ in Pool(graph, where).draw(1000, "all"):
        chances[encoding(assignment)] = 1.0
        for path, value in assignment.items():
            values = [plain(v) for v in graph.decisions[path].values]
            own = weights.get(path, [1] * len(values))
            chances[encoding(assignment)] *= own[values.index(value)] / sum(own)
    total = sum(chances.values())
    draws = counter(graph).by_choices.exact(3000, 1, parsed(graph, where) or Budget(), weights)
    met = Counter(map(encoding, draws))
    wanted = {name: 3000 * chance / total for name, chance in chances.items() if chance}
    assert len({*wanted.values()}) > 2, "depths are not alike"
    assert met.keys() <= wanted.keys()
    assert sum((met[n] - w) ** 2 / w for n, w in wanted.items()) < 3 * len(wanted) + 10


def test_weights_too_fine_to_count_by_are_told() -> None:
    draws = counter(load(Source("<deep>", DEEP))).by_choices
    with pytest.raises(SpaceError, match=r"(?s)SP507.*those of depth are 3333333:1000000:5000000"):
        draws.exact(1, 0, Budget(), {"depth": whole([0.3333333, 0.1, 0.5])})
    assert whole([0.05, 0.2, 0.75]) == (1, 4, 15)
    assert whole([2, 4, 6]) == (1, 2, 3)


def test_a_budget_that_only_candidates_of_no_weight_meet(graph: Graph) -> None:
    """The space meets it, so nothing is said of what its figures reach."""
    weights = {"w0": [0] * 8 + [1] * 8}
    with pytest.raises(SpaceError, match=r"(?s)SP502.*that is drawn.*weight 0: of w0") as failed:
        counter(graph).by_choices.exact(1, 0, parsed(graph, "w0 <= 4") or Budget(), weights)
    assert "reaches" not in str(failed.value)


def test_draws_by_choices_are_within_the_budget(graph: Graph) -> None:
    drawn = graph.sample(n=50, seed=3, where="params <= 700 and w3 >= 4 and w3 != 9", law="choices")
    assert len(drawn) == 50
    assert len({tuple(a.items()) for a in drawn}) > 40
    for assignment in drawn:
        assert graph.cost(assignment).params <= 700
        assert assignment["w3"] >= 4
        assert assignment["w3"] != 9


def test_draws_by_choices_follow_the_choices(graph: Graph) -> None:
    """Under a condition on one decision its candidates left are equally likely, as are the others."""
    drawn = graph.sample(n=4000, seed=1, where="w0 <= 4", law="choices")
    for name, values in (("w0", 4), ("w5", 16)):
        counts = [sum(a[name] == v for a in drawn) for v in range(1, values + 1)]
        wanted = 4000 / values
        assert sum((c - wanted) ** 2 / wanted for c in counts) < 3 * values + 10


@pytest.mark.parametrize(
    ("asked", "code"),
    [({"n": -1}, "SP103"), ({"n": 2.5}, "SP209"), ({"n": True}, "SP209"), ({"n": "2"}, "SP209"),
     ({"seed": -1}, "SP103"), ({"seed": None}, "SP209")],
)  # fmt: skip
@pytest.mark.parametrize("law", ["architectures", "choices"])
def test_numbers_are_checked(graph: Graph, asked: dict[str, object], code: str, law: str) -> None:
    assert refused(graph, **asked, law=law)[0] == code


def test_none_may_be_asked_for(graph: Graph) -> None:
    assert list(graph.sample(n=0)) == []
