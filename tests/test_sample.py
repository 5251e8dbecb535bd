"""What may be asked of `sample`: draws by choices under a budget end, and numbers are checked."""

from __future__ import annotations

import pytest

from spacelang.diagnostics import Source, SpaceError
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


def test_a_budget_that_draws_do_not_meet_ends_with_its_count(graph: Graph) -> None:
    size = graph.size(where="params <= 22")
    assert 0 < size < 100
    code, notes = refused(graph, where="params <= 22", law="choices")
    assert code == "SP507"
    assert notes == (f"there are {size:,} of {16**8:,}",)


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
