"""CDARTS's engine on scripted trainers: what is derived, what is asked for, and in which order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, repeat
from pathlib import Path

import pytest
from cells import cells, text
from command import good, refused, run

from spacelang.diagnostics import Source, SpaceError
from spacelang.engines.cyclic_differentiable import CyclicDifferentiable
from spacelang.engines.derive import Derivation, sigmoid, softmax
from spacelang.engines.protocol import (
    Derived,
    EpochEnded,
    Evaluated,
    Found,
    Group,
    LossTerm,
    Metrics,
    Samples,
    Score,
    Slots,
    Stepped,
    StepPlan,
)
from spacelang.engines.random_cells import RandomCells
from spacelang.engines.replay import Answers, ReplayedCycles
from spacelang.engines.settings import configure, made, settings_of
from spacelang.engines.stream import Stream
from spacelang.ir.decision import Assignment
from spacelang.journal import Journal
from spacelang.loader import load_program

SHORT = CyclicDifferentiable(epochs=3, warm=1, never=("none",), regular_on=("pool", "skip"))
EVEN = {"normal.inputs[0]": (0.1, 0.1), "normal.inputs[1]": (0.1, 0.1, 0.1)}
Alphas = dict[str, Sequence[float]]


def alphas(**columns: Sequence[float]) -> Alphas:
    """Parameters of the operations by node and source, `n1s2`; even ones elsewhere."""
    found: Alphas = dict(EVEN)
    for node, sources in ((0, 2), (1, 3)):
        for source in range(sources):
            values = columns.get(f"n{node}s{source}", (0, 0, 0, 0))
            found[f"normal.dag[{node}][{source}].op"] = values
    return found


# Derivation, worked out by hand. The operations are pool, skip, conv, none.


def derived(values: Alphas) -> Assignment:
    return Derivation(cells(), ("none",)).assignment(values)


def test_the_best_edges_are_kept_in_the_order_of_their_scores() -> None:
    """Of node 1: source 0 has e^1 / (3 + e^1) = 0.475 of conv, source 1 e^2 / (3 + e^2) = 0.711 of
    pool, source 2 has 1/4 of each: sources 1 and 0, in this order."""
    found = derived(alphas(n1s0=(0, 0, 1, 0), n1s1=(2, 0, 0, 0), n0s1=(0, 0.1, 0, 0)))
    assert found == {
        "normal.inputs[0]": [1, 0],
        "normal.dag[0][0].op": "skip",  # position 0 draws source 1
        "normal.dag[0][1].op": "pool",  # of equals the first
        "normal.inputs[1]": [1, 0],
        "normal.dag[1][0].op": "pool",
        "normal.dag[1][1].op": "conv",
    }


def test_what_is_never_taken_weighs_all_the_same() -> None:
    """Source 0: conv has e^3 / (2 + e^3 + e^3) = 0.476 beside a large none; source 2: conv has
    e^2 / (3 + e^2) = 0.711, source 1: e^1.5 / (3 + e^1.5) = 0.599. So 2 and 1, not 0."""
    found = derived(alphas(n1s0=(0, 0, 3, 3), n1s1=(0, 0, 1.5, 0), n1s2=(0, 0, 2, 0)))
    assert found["normal.inputs[1]"] == [2, 1]
    assert found["normal.dag[1][0].op"] == found["normal.dag[1][1].op"] == "conv"
    alone = derived(alphas(n0s0=(0, 0, -5, 9)))
    assert alone["normal.dag[0][1].op"] == "pool", "none is never taken, whatever it weighs"


def test_the_weights_of_sources_count() -> None:
    """Softmax of (0, 0, 1) is (0.212, 0.212, 0.576): source 2 wins with 1/4 against 0.475 * 0.212."""
    values = alphas(n1s0=(0, 0, 1, 0)) | {"normal.inputs[1]": (0, 0, 1)}
    assert derived(values)["normal.inputs[1]"] == [2, 0]


def test_equal_scores_go_by_the_text() -> None:
    found = derived(alphas())
    assert found["normal.inputs[1]"] == [0, 1]
    assert {found[path] for path in found if path.endswith("op")} == {"pool"}


def test_mixtures_are_weighted_as_they_say() -> None:
    """Sigmoid weights do not crowd each other out, plain ones are what they are."""
    values = alphas(n1s0=(3, 3, 3, 3), n1s2=(1, -9, -9, -9))
    open = Derivation(cells(relax='op: "sigmoid", inputs: "softmax"'), ("none",))
    assert open.assignment(values)["normal.inputs[1]"] == [0, 2]
    assert derived(values)["normal.inputs[1]"] == [2, 0]
    plain = Derivation(cells(relax='op: "plain", inputs: "plain"'), ("none",))
    assert plain.assignment(values)["normal.inputs[1]"] == [0, 2]
    assert softmax([1000, 1000]) == [0.5, 0.5]
    assert sigmoid([-1e9, 0, 1e9]) == [0, 0.5, 1]


# The schedule.


class Script:
    """Records all that it is asked; gives scripted architecture parameters."""

    def __init__(self, script: Sequence[Alphas] = (), lengths: tuple[int, int] = (2, 1)) -> None:
        self.script = iter(script)
        self.lengths = {"train/first": lengths[0], "train/second": lengths[1]}
        self.asked: list[tuple[object, ...]] = []
        self.plans: list[StepPlan] = []
        self.scores = iter(range(50, 100))

    @property
    def taken(self) -> int:
        return len(self.plans)

    def steps(self, data: str) -> int:
        return self.lengths[data]

    def step(self, plan: StepPlan) -> Metrics:
        assert plan.step == len(self.plans)
        self.plans.append(plan)
        networks = tuple(forward.network for forward in plan.forwards)
        where = plan.data.removeprefix("train/")
        self.asked.append(("step", plan.epoch, plan.batch, where, networks, plan.groups))
        return Metrics(1.0, {term.name: 1.0 for term in plan.losses}, 5, 10, 0.1)

    def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
        for assignment in assignments:
            self.asked.append(("probe", assignment["normal.inputs[1]"]))
            yield Score(next(self.scores), 100)

    def reset(self, groups: Sequence[Group]) -> None:
        self.asked.append(("reset", *(group.name for group in groups)))

    def alphas(self, network: str) -> Mapping[str, Sequence[float]]:
        self.asked.append(("alphas", network))
        return next(self.script, alphas())

    def weigh(self, network: str, values: Mapping[str, Sequence[float]]) -> None:
        self.asked.append(("weigh", network, dict(values)))

    def renew(self, slots: Slots, number: int) -> None:
        self.asked.append(("renew", slots.network, slots.paths, number))

    def copy(self, source: Slots, target: Slots) -> None:
        moved = dict(zip(source.paths, target.paths, strict=True))
        edges = {a: b for a, b in moved.items() if "cells[1].dag" in a}
        self.asked.append(("copy", source.network, target.network, edges))


RESET = ("reset", "search", "evaluation", "alphas")
SHALLOW, DEEP, BOTH = ("shallow",), ("deep",), ("shallow", "deep")
FIRST_CELL = alphas(n0s0=(0, 0, 1, 0), n1s2=(0, 0, 1, 0))  # conv 0, pool 1; conv 2, pool 0
SECOND_CELL = alphas(n1s0=(0, 1, 0, 0))  # pool 0, pool 1; skip 0, pool 1
LAST_CELL = alphas(n1s1=(0, 0, 2, 0))  # pool 0, pool 1; conv 1, pool 0


def test_a_search_step_by_step() -> None:
    """Two cycles after a first epoch; each line as the specification has it (5.2 and 5.3)."""
    script = Script([FIRST_CELL, SECOND_CELL, LAST_CELL])
    events = list(SHORT.run(cells(), script, seed=0))
    weight = "cells[1].dag[{}][{}].op.conv.conv.weight"
    node, other = weight.format(0, 0), weight.format(1, 0)
    kept, away = weight.format(0, 0), weight.format(1, 2)  # by source: 0 of node 0, 2 of node 1
    assert script.asked == [
        ("weigh", "shallow", EVEN),
        RESET,
        # The search network alone, on the first half.
        ("step", 0, 0, "first", SHALLOW, ("search",)),
        ("step", 0, 1, "first", SHALLOW, ("search",)),
        ("alphas", "shallow"),
        # A cycle: a new network, its weights from the pool, all optimisers anew, warmed up.
        ("renew", "deep", ("cells",), 1),
        ("copy", "memory", "deep", {kept: node, away: other}),
        RESET,
        ("step", 1, 0, "second", DEEP, ("evaluation",)),
        # Its joint epoch: as many pairs as both halves have.
        ("step", 2, 0, "second", BOTH, ("evaluation", "alphas")),
        ("step", 2, 0, "first", SHALLOW, ("search",)),
        ("copy", "deep", "memory", {node: kept, other: away}),
        ("probe", [2, 0]),
        ("alphas", "shallow"),
        # The next cell has no weights but those of its first convolutions.
        ("renew", "deep", ("cells",), 3),
        ("copy", "memory", "deep", {}),
        RESET,
        ("step", 3, 0, "second", DEEP, ("evaluation",)),
        ("step", 4, 0, "second", BOTH, ("evaluation", "alphas")),
        ("step", 4, 0, "first", SHALLOW, ("search",)),
        ("copy", "deep", "memory", {}),
        ("probe", [0, 1]),
        ("alphas", "shallow"),
        # The last one, warmed up as in a cycle.
        ("renew", "deep", ("cells",), 5),
        ("copy", "memory", "deep", {weight.format(1, 1): other}),
        RESET,
        ("step", 5, 0, "second", DEEP, ("evaluation",)),
        ("probe", [1, 0]),
    ]
    *_, last = events
    assert isinstance(last, Found)
    assert last.best.assignment["normal.inputs[1]"] == [1, 0], "the last, whatever was scored"
    scores = [e.candidate.score.correct for e in events if isinstance(e, Evaluated)]
    assert scores == [50, 51, 52]
    assert last.evaluated == SHORT.planned == 3
    ended = [e.epoch for e in events if isinstance(e, EpochEnded)]
    assert ended == list(range(SHORT.passes))
    assert sum(isinstance(e, Stepped) for e in events) == SHORT.planned_steps(2, 1)
    drawn = [e for e in events if isinstance(e, Derived)]
    assert [(e.cycle, e.alphas) for e in drawn] == [(0, SECOND_CELL), (1, LAST_CELL)]


def test_the_losses_of_a_joint_step() -> None:
    """[CE + CE] / lambda + lambda D + R; R is 5 * (1 - 1 / (2 * 0.667)) in the second joint epoch."""
    engine = replace(SHORT, balance=2.0, detach=True, smoothing=0.1)
    script = Script()
    list(engine.run(cells(), script, seed=0))
    joint = [plan for plan in script.plans if plan.groups == ("evaluation", "alphas")]
    labels = {"smoothing": 0.1}
    said = {"temperature": 2.0, "detach": 1.0, "summed": 0.0}
    assert joint[1].losses == (
        LossTerm("cross_entropy", 0.5, labels, of=0),
        LossTerm("cross_entropy", 0.5, labels, of=1),
        LossTerm("introspection_smooth_l1", 2.0, said, of=0, against=1),
        LossTerm("alpha_norm", 5 * (1 - 1 / 1.334), {"pool": 3.0, "skip": 3.0}),
    )
    assert joint[0].losses[-1].weight == 5.0
    others = [plan for plan in script.plans if plan not in joint]
    assert all(plan.losses == (LossTerm("cross_entropy", 1.0, labels),) for plan in others)
    assert joint[0].forwards[0].assignment == {}
    assert joint[0].forwards[1].assignment == derived(alphas())
    assert all(forward.learns for plan in script.plans for forward in plan.forwards)


def test_the_regulariser_of_the_published_script() -> None:
    """32 iterations, 2 of them alone, share 0.667: from 5 down, and gone at e = 2 + 20.01."""
    engine = CyclicDifferentiable(never=("none",))
    values = [engine.coefficient(joint) for joint in range(30)]
    assert values[0] == 5
    assert all(a > b for a, b in pairwise(values[:21]))
    assert values[20] == pytest.approx(5 * (1 - 20 / 20.01))
    assert values[21:] == [0.0] * 9
    kinds = [[term.kind for term in engine.losses(joint)] for joint in (20, 21)]
    assert kinds[0][-1] == "alpha_norm"
    assert kinds[1] == kinds[0][:-1]


def test_the_groups_of_the_optimisers() -> None:
    engine = replace(SHORT, frozen=("near",), evaluation_lr=0.5, ensemble="even")
    search, evaluation, decided = engine.groups(Derivation(cells()))
    assert search == Group("search", "shallow", "weights", "sgd", 0.08, 3e-4, 0.9)
    assert evaluation == Group(
        "evaluation", "deep", "weights", "sgd", 0.5, 3e-4, 0.9, omitted=("near",)
    )
    still = ("normal.inputs[0]", "normal.inputs[1]")
    assert decided == Group(
        "alphas", "shallow", "alphas", "adam", 3e-4, betas=(0.5, 0.999), omitted=still
    )
    learned = replace(engine, sources="learned", ensemble="learned").groups(Derivation(cells()))
    assert learned[2].omitted == ()
    assert learned[1].ensemble
    script = Script()
    list(replace(SHORT, sources="learned").run(cells(), script, seed=0))
    assert "weigh" not in {asked[0] for asked in script.asked}


def test_shares_inner_epochs_and_a_program_without_a_pool() -> None:
    """A share of 0.3 of 10 batches is floor(3) + 1 = 4 of them."""
    engine = replace(SHORT, share=0.3, inner=2, evaluation_warm=2)
    script = Script(lengths=(10, 7))
    events = list(engine.run(cells(pool=""), script, seed=0))
    assert not {"renew", "copy"} & {str(asked[0]) for asked in script.asked}
    kinds = [plan.groups for plan in script.plans if plan.epoch == 3]
    assert kinds == [("evaluation", "alphas"), ("search",)] * 3
    assert len([plan for plan in script.plans if plan.epoch == 0]) == 4
    assert sum(isinstance(e, Stepped) for e in events) == engine.planned_steps(10, 7)
    assert sum(isinstance(e, EpochEnded) for e in events) == engine.passes
    weights = [p.losses[-1].weight for p in script.plans if p.losses[-1].kind == "alpha_norm"]
    assert sorted(set(weights), reverse=True) == [
        pytest.approx(5 * (1 - joint / (4 * 0.667))) for joint in range(3)
    ]


def test_the_plain_mode_is_darts() -> None:
    """No evaluation network takes part; it is built once, of what was found."""
    engine = replace(SHORT, mode="plain")
    script = Script([alphas(), FIRST_CELL, LAST_CELL])
    events = list(engine.run(cells(), script, seed=0))
    assert [asked for asked in script.asked if asked[0] == "step"] == [
        ("step", 0, 0, "first", SHALLOW, ("search",)),
        ("step", 0, 1, "first", SHALLOW, ("search",)),
        ("step", 1, 0, "second", SHALLOW, ("alphas",)),
        ("step", 1, 0, "first", SHALLOW, ("search",)),
        ("step", 2, 0, "second", SHALLOW, ("alphas",)),
        ("step", 2, 0, "first", SHALLOW, ("search",)),
        ("step", 3, 0, "second", DEEP, ("evaluation",)),
    ]
    assert [asked[0] for asked in script.asked].count("reset") == 2
    assert {len(plan.losses) for plan in script.plans} == {1}
    *_, last = events
    assert isinstance(last, Found)
    assert last.evaluated == engine.planned == 1
    assert last.best.assignment["normal.inputs[1]"] == [1, 0]
    assert sum(isinstance(e, Stepped) for e in events) == engine.planned_steps(2, 1)
    assert sum(isinstance(e, EpochEnded) for e in events) == engine.passes


def test_random_cells_are_trained_for_as_many_epochs() -> None:
    """Each as the last cell of a search is; what is found is the best of them."""
    luck = made(RandomCells, settings_of(SHORT))
    script = Script()
    events = list(luck.run(cells(), script, seed=0))
    assert luck.planned == luck.passes == SHORT.passes
    cell = ["renew", "copy", "reset", "step", "probe"]
    assert [asked[0] for asked in script.asked] == cell * luck.planned
    steps = [asked for asked in script.asked if asked[0] == "step"]
    assert {asked[3:] for asked in steps} == {("second", DEEP, ("evaluation",))}
    assert [e.epoch for e in events if isinstance(e, EpochEnded)] == list(range(luck.passes))
    assert sum(isinstance(e, Stepped) for e in events) == luck.planned_steps(2, 1)
    tried = [e.candidate for e in events if isinstance(e, Evaluated)]
    assert {c.origin for c in tried} == {"random"}
    *_, last = events
    assert isinstance(last, Found)
    assert last.best == tried[-1], "scores of the script rise"
    assert list(luck.run(cells(), Script(), seed=0)) == events
    assert list(luck.run(cells(), Script(), seed=1)) != events
    longer = replace(luck, evaluation_warm=2)
    assert longer.planned == replace(SHORT, evaluation_warm=2).passes // 2
    assert longer.passes == 2 * longer.planned


def test_random_cells_are_even_and_different() -> None:
    """Of 3 operations for each of 4 edges, and 3 pairs of sources of the second node."""
    script = Script()
    script.scores = repeat(50)
    luck = made(RandomCells, settings_of(replace(SHORT, epochs=61)))
    events = luck.run(cells(), script, seed=0)
    tried = [e.candidate.assignment for e in events if isinstance(e, Evaluated)]
    assert len(tried) == len({str(cell) for cell in tried}) == 122
    for path in ("normal.dag[0][0].op", "normal.dag[1][1].op", "normal.inputs[1]"):
        counts = Counter(
            str(sorted(v) if isinstance(v := cell[path], list) else v) for cell in tried
        )
        assert len(counts) == 3, "an operation that is never taken is none of them"
        assert all(abs(count - 122 / 3) < 26 for count in counts.values()), path  # five deviations


def test_a_search_is_replayed_from_its_answers(tmp_path: Path) -> None:
    """Over the answers of a first run, cut anywhere, the same events come with less work."""
    first = Script([FIRST_CELL, SECOND_CELL, LAST_CELL])
    with Journal(tmp_path / "whole.jsonl") as journal:
        answers = Answers(journal)
        events = list(SHORT.run(cells(), ReplayedCycles(first, answers, ()), seed=0))
        answers.flush()
        whole = answers.known(len(answers))
    for cut in range(len(whole) + 1):
        rest = [FIRST_CELL, SECOND_CELL, LAST_CELL]
        seen = sum("alphas" in answer for answer in whole[:cut])
        again = Script(rest[seen:])
        again.plans = [p for p in first.plans if any(a.get("step") == p.step for a in whole[:cut])]
        again.scores = iter(range(50 + sum("probe" in a for a in whole[:cut]), 100))
        with Journal(tmp_path / f"{cut}.jsonl") as journal:
            replayed = ReplayedCycles(again, Answers(journal), whole[:cut])
            assert list(SHORT.run(cells(), replayed, seed=0)) == events
        assert again.asked == first.asked[cut:]


# What it cannot take.


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (
            {"relax": 'op: "softmax"', "pool": ""},
            "not a network of mixtures and one with decisions",
        ),
        ({"deep": ", false", "share": "stem"}, "other outputs"),
    ],
)
def test_other_programs_are_refused(parts: Mapping[str, str], says: str) -> None:
    with pytest.raises(SpaceError, match=says) as failed:
        next(SHORT.run(cells(**parts), Script(), seed=0))
    assert failed.value.diagnostics[0].code == "SP701"


CHAIN = """
space chain(more = false) {
  input x: [B, 4]
  y = choose op { same: x  dense: linear(x, 4) as dense }
  y = choose then { dense: linear(y, 4) as wide  same: y }
  when more { choose width in {2, 8} y = linear(y, width) as stem }
  output linear(y, 3) as head
  weights { _: entangle }
}
space mixed from chain { rewrite { relax(op: "softmax", then: "softmax") } }
program both { network a = mixed  network b = chain(MORE) }
"""


def test_a_chain_without_sources_is_derived() -> None:
    program = load_program(Source("<chain>", CHAIN.replace("MORE", "false")))
    derivation = Derivation(program)
    assert derivation.sources == ()
    found = derivation.assignment({"op": (0, 1), "then": (1, 0)})
    assert found == {"op": "dense", "then": "dense"}


LINES = """
cell node(a, b) {
  states = [a, b, relu(a)]
  choose inputs in 2 of states
  return total(inputs) |s, source, e| {
    h = choose before[e] { same: s  dense: linear(s, 8) as dense }
    return choose edge[e].op { fc: linear(h, 8) as fc  skip: h }
  }
}
space net(layers) {
  input x: [B, 4]
  a = linear(x, 8) as stem
  b = a
  for i in 0..<layers { a, b = b, node(a, b) as nodes[i] }
  output linear(b, 3) as head
}
space mixed from net(1) {
  rewrite { relax(op: "softmax", before: "softmax", inputs: "softmax") }
}
program cycle { network shallow = mixed  network deep = net(2) }
"""


def test_several_decisions_of_an_edge_are_derived_together() -> None:
    """Source 1 has 0.5 * 0.9, source 0 0.731 * 0.6, source 2 0.5 * 0.5: 1 and 0 are drawn."""
    derivation = Derivation(load_program(Source("<lines>", LINES)))
    values = {path: [0.0] * size for path, size in derivation.sizes.items()}
    values["node.edge[1].op"] = [0, math.log(9)]
    values["node.edge[0].op"] = [math.log(1.5), 0]
    values["node.before[0]"] = [0, 1]
    assert derivation.assignment(values) == {
        "node.inputs": [1, 0],
        "node.before[0]": "same",
        "node.edge[0].op": "skip",
        "node.before[1]": "dense",
        "node.edge[1].op": "fc",
    }


def test_decisions_of_another_kind_are_refused() -> None:
    program = load_program(Source("<chain>", CHAIN.replace("MORE", "true")))
    with pytest.raises(SpaceError, match="cannot take decisions of kind dim") as failed:
        next(CyclicDifferentiable(epochs=3, regular=0).run(program, Script(), seed=0))
    assert failed.value.diagnostics[0].code == "SP701"
    with pytest.raises(SpaceError, match="width is no mixture of a"):
        Derivation(program)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"never": ("nome",)}, "an alternative nome"),
        ({"never": ("pool", "skip", "conv", "none")}, "none of its values"),
        ({"regular_on": ("pol",)}, "an alternative pol"),
    ],
)
def test_settings_that_do_not_fit_the_space_are_refused(
    settings: dict[str, object], says: str
) -> None:
    with pytest.raises(SpaceError, match=says) as failed:
        next(replace(SHORT, **settings).run(cells(), Script(), seed=0))
    assert failed.value.diagnostics[0].code == "SP701"


@pytest.mark.parametrize(
    "setting",
    [
        {"warm": 3}, {"evaluation_warm": 0}, {"inner": 0}, {"share": 0}, {"share": 1.1},
        {"balance": 0}, {"temperature": 0}, {"regular_share": 0}, {"clip_grad": 0},
        {"alpha_betas": (0.5,)}, {"momentum": 1}, {"lr": -1}, {"smoothing": 1}, {"regular": -1},
    ],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(SpaceError) as failed:
        configure("cyclic_differentiable", {"epochs": 3}, setting)
    assert failed.value.diagnostics[0].code == "SP103"


def test_settings_come_from_the_space_and_from_text() -> None:
    written = cells().networks["shallow"].search["cyclic_differentiable"]
    made = configure("cyclic_differentiable", written, {"mode": "plain", "clip_grad": "none"})
    assert made == replace(SHORT, mode="plain", clip_grad=None)


# A planted optimum.

NAMES = ("pool", "skip", "conv", "none")


class Slope(Script):
    """Architecture parameters that descend a noisy loss: each misses a planted architecture.

    With `interacting` edges an operation pulls weakly as long as none of those at the other edges
    of its node leads.
    """

    def __init__(self, planted: Assignment, seed: int, interacting: bool) -> None:
        super().__init__(lengths=(3, 3))
        self.interacting = interacting
        self.derivation = Derivation(cells(4), ("none",))
        self.noise = Stream(seed, "noise")
        self.values = {
            path: [self.noise.uniform() / 100 for _ in range(size)]
            for path, size in self.derivation.sizes.items()
        }
        self.wanted: dict[str, str] = {}
        for pick in self.derivation.sources:
            node = pick.removeprefix("normal.inputs")
            drawn = planted[pick]
            assert isinstance(drawn, list)
            for position, source in enumerate(drawn):
                operation = str(planted[f"normal.dag{node}[{position}].op"])
                self.wanted[f"normal.dag{node}[{source}].op"] = operation

    def pull(self, path: str, values: Mapping[str, Sequence[float]]) -> float:
        """How fast the operation of a planted edge gains."""
        node = path[: path.rindex("[")]
        others = (other for other in self.wanted if other.startswith(node) and other != path)
        leads = any(
            max(NAMES, key=lambda name: values[other][NAMES.index(name)]) == self.wanted[other]
            for other in others
        )
        return 0.3 if leads or not self.interacting else 0.1

    def step(self, plan: StepPlan) -> Metrics:
        if "alphas" in plan.groups:
            before = {path: tuple(values) for path, values in self.values.items()}
            for path, values in self.values.items():
                for place, name in enumerate(NAMES if path.endswith("op") else ()):
                    gain = self.pull(path, before) if self.wanted.get(path) == name else 0.0
                    values[place] += gain + (self.noise.uniform() - 0.5)
        return super().step(plan)

    def alphas(self, network: str) -> Mapping[str, Sequence[float]]:
        return {path: tuple(values) for path, values in self.values.items()}

    def weigh(self, network: str, values: Mapping[str, Sequence[float]]) -> None:
        self.values |= {path: list(numbers) for path, numbers in values.items()}

    def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
        for _ in assignments:
            yield Score(1, 2)


@pytest.mark.parametrize("seeds", [20, pytest.param(100, marks=pytest.mark.soak)])
@pytest.mark.parametrize("interacting", [False, True])
def test_a_planted_architecture_is_found(interacting: bool, seeds: int) -> None:
    """Of 11,796,480 architectures the planted one, in spite of the noise.

    The planted sources are in the order of their positions, so what is asked is which source and
    operation belong together; the order of a pick says nothing here. Random search may look at an
    architecture for every step of the engine, and is told without noise how many edges are right.
    """
    program = cells(4)
    space = program.networks["deep"]
    assert space.size() == 11_796_480
    engine = replace(SHORT, epochs=62, warm=2)
    steps = engine.planned_steps(3, 3)
    found, drawn = list[int](), list[int]()
    for seed in range(seeds):
        (planted,) = [a for a in space.sample(1, seed, law="choices")]
        planted = {p: ("conv" if v == "none" else v) for p, v in planted.items()}
        wanted = edges(planted)
        *_, last = engine.run(program, Slope(planted, seed, interacting), seed)
        assert isinstance(last, Found)
        found.append(len(edges(last.best.assignment) & wanted))
        drawn.append(max(len(edges(a) & wanted) for a in space.sample(steps, seed + 1)))
    every = len(wanted)
    print(f"cyclic_differentiable, {interacting=}: {found.count(every)} of {seeds}, mean "
          f"{sum(found) / seeds:.1f}; random: {drawn.count(every)}, {sum(drawn) / seeds:.1f}")  # fmt: skip
    assert drawn.count(every) <= 0.20 * seeds
    assert found.count(every) >= 0.95 * seeds
    assert sum(found) >= sum(drawn)


def edges(assignment: Assignment) -> set[tuple[str, object, object]]:
    """Node, source and operation of every edge."""
    found: set[tuple[str, object, object]] = set()
    for path, drawn in assignment.items():
        if isinstance(drawn, list):
            node = path.removeprefix("normal.inputs")
            for position, source in enumerate(drawn):
                found.add((node, source, assignment[f"normal.dag{node}[{position}].op"]))
    return found


def test_what_a_space_asks_of_an_engine_is_checked_with_the_space(tmp_path: Path) -> None:
    """Settings by `check` of the file; whether networks fit together by that of the program."""
    file = tmp_path / "cells.space"
    file.write_text(text())
    assert "ok" in good("check", f"{file}:cycle")
    file.write_text(text().replace("warm = 1", "wamr = 1"))
    assert "SP204" in refused("check", f"{file}:cycle")
    file.write_text(text().replace('never = "none"', 'never = "nome"'))
    assert "an alternative nome" in refused("check", f"{file}:cycle")
    file.write_text(
        "space s { input x: [B, 4] choose n in {2, 3} output linear(x, n) |> linear(2) "
        "weights { _: entangle } search prioritized_path { board = 5 } }"
    )
    assert "cannot take decisions of kind dim" in refused("check", file)
    file.write_text(
        file.read_text().replace("prioritized_path { board = 5 }", "elsewhere { a = 1 }")
    )
    assert run("check", file).exit_code == 0, "an engine of a package that is not here"
