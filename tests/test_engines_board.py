"""Cream's engine on a scripted trainer: who enters the board, who teaches, and with what weight."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

import spacelang
from spacelang.analysis.choices import ByChoices
from spacelang.diagnostics import Source, SpaceError, error
from spacelang.engines.board import Board, MatchWarning
from spacelang.engines.prioritized_path import PrioritizedPath
from spacelang.engines.protocol import (
    EpochEnded,
    Evaluated,
    Found,
    Metrics,
    Samples,
    Score,
    Stepped,
    StepPlan,
)
from spacelang.ir.decision import Assignment
from spacelang.ir.figures import Cost
from spacelang.ir.graph import Graph

TEXT = """
space chain {
  input x: [B, 8]
  block layer(x: [B, C]) -> [B, C] {
    return x + choose op { narrow: linear(x, C) wide: linear(x, 2 * C) |> relu |> linear(C) }
  }
  for i in 0..2 { x = layer(x) }
  output linear(x, 4) as head
}
"""


@pytest.fixture(scope="module")
def chain() -> Graph:
    return spacelang.load(Source("<chain>", TEXT))


LEFT_OUT = -1  # no accuracy: the policy left the step out, and no image was seen


class Script:
    """Gives the accuracies and matches of a list, and records what was asked."""

    def __init__(
        self, accuracies: Sequence[int] = (), matches: Sequence[Sequence[float]] = ()
    ) -> None:
        self.accuracies, self.matches = iter(accuracies), iter(matches)
        self.plans: list[StepPlan] = []
        self.remembered: list[tuple[int, int, int]] = []  # slot, step, pass
        self.asked: list[tuple[int, ...]] = []
        self.asked_at: list[int] = []  # the steps
        self.length = 4

    @property
    def taken(self) -> int:
        return len(self.plans)

    def steps(self, data: str) -> int:
        return self.length

    def step(self, plan: StepPlan) -> Metrics:
        assert plan.step == len(self.plans)
        self.plans.append(plan)
        correct = 0 if plan.groups == ("match",) else next(self.accuracies, 50)
        return Metrics(1.0, {}, max(correct, 0), 0 if correct == LEFT_OUT else 100, 0.1)

    def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
        for number, _ in enumerate(assignments):
            yield Score(10 + number, 100)

    def remember(self, slot: int, plan: StepPlan, of: int, images: int) -> None:
        assert images == 4
        self.remembered.append((slot, plan.step, of))

    def match(self, plan: StepPlan, slots: Sequence[int]) -> Sequence[float]:
        self.asked.append(tuple(slots))
        self.asked_at.append(plan.step)
        return next(self.matches, [0.0] * len(slots))


def cost(macs: int) -> Cost:
    return Cost(params=1, macs=macs, activations=1)


# The board: the admission rule as a truth table.


@pytest.mark.parametrize(
    ("accuracy", "macs", "admitted"),
    [
        (65.1, 200, True),  # better by more than the gap, though dearer
        (65.0, 200, False),  # exactly the gap
        (60.1, 99, True),  # a little better and cheaper
        (60.1, 100, False),  # as dear
        (60.0, 50, False),  # no better
        (10.0, 1, False),
    ],
)
def test_who_enters_a_full_board(accuracy: float, macs: int, admitted: bool) -> None:
    board = Board(2, gap=5.0)
    assert board.offer({"op": "a"}, cost(100), 60.0) is not None
    assert board.offer({"op": "b"}, cost(100), 70.0) is not None
    assert board.admits(accuracy, macs) is admitted
    slot = board.offer({"op": "c"}, cost(macs), accuracy)
    assert (slot is not None) is admitted
    left = [entry.assignment["op"] for entry in board.entries]
    assert ("a" in left) is not admitted


def test_slots_of_entries_are_never_shared() -> None:
    board = Board(3, gap=1.0)
    for number in range(50):
        board.offer({"op": number}, cost(100 + number % 7), float(number * 37 % 101))
        slots = [entry.slot for entry in board.entries]
        assert len(set(slots)) == len(slots)
        assert set(slots) <= {0, 1, 2, 3}
        accuracies = [entry.accuracy for entry in board.entries]
        assert accuracies == sorted(accuracies, reverse=True)


@pytest.mark.parametrize(("ties", "first"), [("cheaper", "light"), ("dearer", "heavy")])
def test_equally_accurate_paths_go_by_cost(ties: str, first: str) -> None:
    board = Board(2, ties=ties)  # type: ignore[arg-type]
    board.offer({"op": "heavy"}, cost(9), 50.0)
    board.offer({"op": "light"}, cost(5), 50.0)
    assert board.entries[0].assignment["op"] == first


# The engine: a trace by hand. Epoch 0 is warm (published: up to and with that epoch).


def test_a_trace_by_hand(chain: Graph) -> None:
    """Board of two. Epoch 1: 40 and 60 enter; 44 is refused (no gap); 90 enters, 40 leaves.

    An update has a selection of its own, and after it the teacher of the step is selected anew.
    """
    matches = [[0.1], [0.2, 0.9], [0.8, 0.3], [0.3, 0.1], [0.7, 0.7]]
    script = Script([1, 2, 3, 4, 40, 60, 44, 90, 50, 50, 50, 50], matches)
    engine = PrioritizedPath(epochs=3, warm_epochs=0, board=2, update_every=2)
    events = list(engine.run(chain, script, seed=0))
    assert [e.epoch for e in events if isinstance(e, EpochEnded)] == [0, 1, 2]
    warm, taught = script.plans[:4], script.plans[4:]
    assert all(len(p.forwards) == 1 and p.losses[0].kind == "cross_entropy" for p in warm)
    # Steps 4.. : the first has no teacher yet; the third of an epoch follows an update.
    kinds = [(plan.batch, plan.losses[0].kind) for plan in taught[:5]]
    assert kinds == [(0, "cross_entropy"), (1, "matched"), (2, "matching"), (2, "matched"),
                     (3, "matched")]  # fmt: skip
    first, second = script.remembered[0], script.remembered[1]
    assert (first[1], second[1]) == (4, 5)
    assert script.asked[0] == (first[0],)
    # Batch 2: the board is (60, 40). The update is of the second, which is the path of step 4; the
    # matching network, so moved, prefers the first, the path of step 5.
    assert script.asked[1] == script.asked[2] == (second[0], first[0])
    assert script.asked_at[1:3] == [6, 7]
    update, after = taught[2:4]
    assert update.groups == ("match",)
    assert update.forwards[1].assignment == taught[0].assignment
    assert update.losses[0].options["slot"] == first[0]
    assert after.groups == ("weights", "match")
    assert after.forwards[0] == update.forwards[0]
    assert after.forwards[1].assignment == taught[1].assignment
    assert after.losses[0].options["slot"] == second[0]
    # Batch 3: the first of the board, the path of step 5, teaches.
    assert taught[4].forwards[1].assignment == taught[1].assignment
    # 90 came in for 40: the slot of the path of step 4 is free and unasked.
    assert len(script.remembered) == 3
    third = script.remembered[2]
    assert script.asked[4] == (third[0], second[0])
    # Equal matches: the first wins, which the strict comparison of the publication gives too.
    assert taught[5].forwards[1].assignment == taught[4].assignment
    found = events[-1]
    assert isinstance(found, Found)
    assert found.best.assignment == taught[4].assignment  # the first of the board, not of the probe
    assert sum(isinstance(event, Evaluated) for event in events) == 2


def test_a_step_that_was_left_out_enters_no_board(chain: Graph) -> None:
    """Of the second epoch the first and third step: 60 and 40 stand there, of steps 5 and 7."""
    script = Script([1, 1, 1, 1, LEFT_OUT, 60, LEFT_OUT, 40])
    engine = PrioritizedPath(epochs=2, warm_epochs=0, board=3, second_order=False)
    *_, ended, _, _, found = engine.run(chain, script, seed=0)
    assert [step for _, step, _ in script.remembered] == [5, 7]
    assert isinstance(ended, EpochEnded)
    assert [accuracy for accuracy, _ in ended.board] == [0.6, 0.4]
    assert isinstance(found, Found)
    assert found.best.assignment == script.plans[5].assignment


def test_reference_weights_a_teacher_by_the_last_of_the_board(chain: Graph) -> None:
    script = Script([1, 1, 1, 1, 60, 40, 30, 30], [[0.0], [0.9, 0.1]])
    engine = PrioritizedPath(
        epochs=2, warm_epochs=0, board=2, match="reference", second_order=False
    )
    list(engine.run(chain, script, seed=0))
    plan = script.plans[6]
    slots = [slot for slot, _, _ in script.remembered]
    assert plan.forwards[1].assignment == script.plans[4].assignment  # the winner teaches
    options = plan.losses[0].options
    assert (options["slot"], options["sign"]) == (slots[1], -1)  # the last weighs, sign turned


def test_top1_and_scores_that_are_no_numbers(chain: Graph) -> None:
    """A fixed half, no gradient to the matching network, and nothing that it could lack."""
    for script, pick in (
        (Script([1, 1, 1, 1, 60, 40]), "top1"),
        (Script([1, 1, 1, 1, 60, 40], [[math.nan], [math.nan, 0.1]]), "meta"),
    ):
        engine = PrioritizedPath(epochs=2, warm_epochs=0, pick=pick, update_every=1)
        list(engine.run(chain, script, seed=0))
        plan = script.plans[6] if pick == "top1" else script.plans[5]
        losses = [(loss.kind, loss.weight, loss.against) for loss in plan.losses]
        assert losses == [("cross_entropy", 0.75, None), ("soft_cross_entropy", 0.25, 1)]
        assert plan.groups == ("weights",)


def test_paths_are_uniform_or_as_the_prior_says(chain: Graph) -> None:
    for sampling, share in (("uniform", 0.5), ("prior", 0.9)):
        script = Script()
        script.length = 200
        engine = PrioritizedPath(
            epochs=2, warm_epochs=0, sampling=sampling, probabilities=(0.1, 0.9), pick="top1"
        )
        list(engine.run(chain, script, seed=5))
        drawn = Counter(op for plan in script.plans for op in plan.assignment.values())
        assert drawn.total() == 1200
        assert drawn["wide"] / 1200 == pytest.approx(share, abs=0.05)


def test_an_epoch_too_short_for_an_update_is_told(chain: Graph) -> None:
    """The update is after `update_every` steps of an epoch, of which there are four."""
    engine = PrioritizedPath(epochs=2, warm_epochs=0, update_every=4)
    with pytest.warns(MatchWarning, match="an epoch has 4 steps, and update_every is 4"):
        list(engine.run(chain, Script(), seed=0))
    for quiet in (replace(engine, update_every=3), replace(engine, second_order=False)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            list(quiet.run(chain, Script(), seed=0))


def test_a_board_that_stays_empty_is_refused_before_training(chain: Graph) -> None:
    script = Script()
    engine = PrioritizedPath(epochs=3, warm_epochs=2)
    with pytest.raises(SpaceError, match=r"(?s)SP701.*before a path could enter.*warm_epochs \+ 2"):
        list(engine.run(chain, script, seed=5))
    assert not script.plans


def test_sampling_as_the_board_does(chain: Graph) -> None:
    """What stands on a board of one is drawn twice as often as what does not; nothing is lost."""
    script = Script([1] * 300 + [99] + [0] * 300)
    script.length = 300
    engine = PrioritizedPath(epochs=2, warm_epochs=0, board=1, sampling="board", pick="top1")
    list(engine.run(chain, script, seed=2))
    teacher = script.plans[300].assignment
    drawn = [
        plan.assignment[path] == op for plan in script.plans[301:] for path, op in teacher.items()
    ]
    assert len(drawn) == 3 * 299
    assert sum(drawn) / len(drawn) == pytest.approx(2 / 3, abs=0.06)  # 3.8 standard deviations


def test_a_budget_binds_the_paths(chain: Graph) -> None:
    script = Script()
    smallest = chain.cost(chain.decisions.extreme("smallest")).params
    both = [chain.cost(a).params for a in chain.sample(20, seed=0)]
    limit = (min(both) + max(both)) // 2
    engine = PrioritizedPath(epochs=2, warm_epochs=0, where=f"params <= {limit}")
    list(engine.run(chain, script, seed=0))
    found = [chain.cost(plan.assignment).params for plan in script.plans]
    assert smallest <= max(found) <= limit


MANY = """
space many {
  input x: [B, 8]
  block layer(x: [B, C]) -> [B, C] {
    return x + choose op {
      a: linear(x, C)
      b: linear(x, 2 * C) |> linear(C)
      c: linear(x, 3 * C) |> linear(C)
      d: linear(x, 4 * C) |> linear(C)
    }
  }
  for i in 0..5 { x = layer(x) }
  output linear(x, 4) as head
}
"""


def narrow() -> tuple[Graph, str]:
    """A space of 4,096 paths, and a budget that seven meet: all `a`, or one `b`."""
    graph = spacelang.load(Source("<many>", MANY))
    least = graph.decisions.extreme("smallest")
    where = f"params <= {graph.cost({**least, next(iter(least)): 'b'}).params}"
    assert graph.size(where=where) == 7
    return graph, where


@pytest.mark.parametrize("sampling", ["uniform", "prior", "board"])
def test_a_narrow_budget_is_met_by_every_step(sampling: Any) -> None:
    """By chance a step would miss it for ever, once in so many: by the prior one draw in 10^7 is in."""
    graph, where = narrow()
    script = Script([n * 31 % 97 for n in range(30)])
    script.length = 10
    engine = PrioritizedPath(
        epochs=3, warm_epochs=0, board=3, where=where, pick="top1", sampling=sampling,
        probabilities=(0.05, 0.1, 0.25, 0.6),
    )  # fmt: skip
    list(engine.run(graph, script, seed=1))
    assert len(script.plans) == 30
    for plan in script.plans:
        assert sorted(plan.assignment.values()) in (["a"] * 6, [*"aaaaab"])


def test_a_narrow_budget_keeps_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seven paths are alike by the uniform law; by the prior one with a `b` is twice as likely."""
    graph, where = narrow()
    monkeypatch.setattr("spacelang.engines.pool.FEW", 1)
    for sampling, even in (("uniform", 1 / 7), ("prior", 1 / 13)):
        script = Script()
        script.length = 60
        engine = PrioritizedPath(
            epochs=2, warm_epochs=0, where=where, sampling=sampling, pick="top1",
            probabilities=(0.25, 0.5, 0.125, 0.125),
        )  # fmt: skip
        list(engine.run(graph, script, seed=4))
        plain = sum(set(plan.assignment.values()) == {"a"} for plan in script.plans)
        spread = math.sqrt(120 * even * (1 - even))
        assert abs(plain - 120 * even) < 3 * spread


def test_what_no_table_answers_is_redrawn_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def beyond(*given: object) -> None:
        raise SpaceError(error("SP507", "too large"))

    graph, where = narrow()
    monkeypatch.setattr(ByChoices, "exact", beyond)
    monkeypatch.setattr("spacelang.engines.pool.REDRAWS", 60)
    with pytest.raises(SpaceError, match=r"(?s)SP502.*draws met no path.*is drawn: too large"):
        list(PrioritizedPath(epochs=3, warm_epochs=0, where=where).run(graph, Script(), seed=1))


def test_what_it_cannot_take_is_refused(chain: Graph) -> None:
    wide = TEXT.replace("input x: [B, 8]", "input x: [B, 8] choose width in {8, 16}").replace(
        "linear(x, 4) as head", "linear(x, width) |> linear(4) as head"
    )
    sized = spacelang.load(
        Source("<sized>", wide.replace("\n}\n", "\nweights { _: entangle }\n}\n"))
    )
    with pytest.raises(SpaceError, match="cannot take decisions of kind dim"):
        list(PrioritizedPath().run(sized, Script(), seed=0))
    with pytest.raises(SpaceError, match="2 candidates, the prior 6"):
        list(PrioritizedPath(sampling="prior").run(chain, Script(), seed=0))


def test_plans_and_results_are_functions_of_seed_and_answers(chain: Graph) -> None:
    def run() -> tuple[list[StepPlan], list[object]]:
        script = Script([n * 31 % 97 for n in range(40)])
        events = list(PrioritizedPath(epochs=4, warm_epochs=0, board=3).run(chain, script, seed=9))
        return script.plans, [event for event in events if not isinstance(event, Stepped)]

    assert run() == run()
