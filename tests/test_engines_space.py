"""Engines that move or shrink a space: S3's ranges, TinyViT's contraction, on planted surfaces."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

import spacelang
from spacelang.analysis.latency import LatencyModel, every_operation
from spacelang.analysis.latency_table import Facts, LatencyTable
from spacelang.diagnostics import Source, SpaceError
from spacelang.engines.contraction import Contraction
from spacelang.engines.pool import Pool, encoding
from spacelang.engines.protocol import (
    Candidate,
    Evaluated,
    Found,
    GenerationEnded,
    Metrics,
    Samples,
    Score,
    SpaceMoved,
    Stepped,
    StepPlan,
)
from spacelang.engines.ranges import (
    Dimension,
    by_value,
    dimension_name,
    dimensions,
    et_error,
    move,
    tendency,
)
from spacelang.engines.space_evolution import SpaceEvolution
from spacelang.engines.stream import Stream
from spacelang.ir.decision import Assignment, exact
from spacelang.ir.graph import Graph

# Two stages: a width each, and in every layer of a stage a ratio.
TEXT = """
space staged {{
  input x: [B, 8]
  block layer(x: [B, C], ratios) -> [B, C] {{
    choose ratio in ratios within 1..8
    return x + (linear(x, C * ratio) as fc1 |> gelu |> linear(C) as fc2)
  }}
  for s in 0..1 {{
    choose width[s] in {widths}[s] within 8..128 by 8
    choose depth[s] in 1..2
    x = linear(x, width) as stem[s]
    for i in 0..<depth {{ x = layer(x, {ratios}[s]) as stages[s].blocks[i] }}
  }}
  output linear(x, 2) as head
  weights {{ _: entangle }}
}}
"""
START = {
    "width[0]": [32, 40, 48],
    "width[1]": [32, 40, 48],
    "stages[0].blocks[_].ratio": [3, 4],
    "stages[1].blocks[_].ratio": [3, 4],
}


def staged(ranges: Mapping[str, Sequence[float]]) -> Graph:
    """The space with these candidates."""

    def pair(form: str) -> str:
        lists = (ranges[form.format(s)] for s in range(2))
        return "[" + ", ".join("{" + ", ".join(map(str, values)) + "}" for values in lists) + "]"

    text = TEXT.format(widths=pair("width[{}]"), ratios=pair("stages[{}].blocks[_].ratio"))
    return spacelang.load(Source("<staged>", text))


class Surface:
    """A trainer whose errors are a planted surface: the best network is wide, then narrow."""

    def __init__(self) -> None:
        self.taken = 0
        self.plans: list[StepPlan] = []
        self.rebuilt: list[bool] = []
        self.inherited = 0

    def steps(self, data: str) -> int:
        return 2

    def step(self, plan: StepPlan) -> Metrics:
        self.taken += 1
        self.plans.append(plan)
        return Metrics(1.0, {}, 0, 1, 0.1)

    def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
        for assignment in assignments:
            yield Score(10_000 - round(100 * self.error(assignment)), 10_000)

    def error(self, assignment: Assignment) -> float:
        """In percent: half a point for every 8 channels away from widths 64 and 16."""
        found = 20.0
        for path, value in assignment.items():
            assert isinstance(value, int)
            if path == "width[0]":
                found += abs(value - 64) / 16
            elif path == "width[1]":
                found += abs(value - 16) / 16
        return found

    def space(self, ranges: Mapping[str, Sequence[float]]) -> Graph:
        return staged(ranges)

    def rebuild(self, ranges: Mapping[str, Sequence[float]], inherit: bool) -> Graph:
        self.taken = 0
        self.rebuilt.append(inherit)
        self.inherited = 1000 * len(self.rebuilt) if inherit else 0
        return staged(ranges)


# The arithmetic of a move: worked examples of the specification.


@pytest.mark.parametrize(
    ("errors", "slope", "floor", "trunc"),
    [
        ((20.0, 19.2, 18.6), -0.70, 2, 1),
        ((18.0, 18.1, 18.3), 0.15, 0, 0),
        ((18.3, 18.2, 18.0), -0.15, 1, 0),
        ((10.0, 11.0, 12.0), 1.00, -2, -2),
        ((10.0, math.nan, 12.0), 1.00, -2, -2),  # nothing was drawn of the second
        ((10.0,), 0.0, 0, 0),
        ((math.nan, 3.0), 0.0, 0, 0),
    ],
)
def test_moves_follow_the_slope(
    errors: tuple[float, ...], slope: float, floor: int, trunc: int
) -> None:
    found = tendency(errors)
    assert found == pytest.approx(slope)
    assert move(found, 0.4, "floor") == floor
    assert move(found, 0.4, "trunc") == trunc


def test_the_error_of_a_subspace_is_of_its_mean_and_its_best() -> None:
    assert et_error([4.0, 1.0, 2.0, 5.0], 2) == (3.0 + 1.5) / 2
    assert et_error([4.0], 50) == 4.0
    assert math.isnan(et_error([], 50))


def test_ranges_stay_in_their_hull() -> None:
    hull = tuple(map(Fraction, (7, 14, 28)))
    window = Dimension("window", ("a.window",), tuple(map(Fraction, (7, 14))), hull)
    assert window.step == 7
    assert [int(v) for v in window.moved(1).values] == [14]  # 21 is not in the hull
    assert [int(v) for v in window.moved(3).values] == [28]
    # Rather than lose all it stops at the edge.
    assert [int(v) for v in window.moved(9).values] == [28]
    assert [int(v) for v in window.moved(-9).values] == [7]


def test_a_dimension_is_what_the_uses_of_a_block_take_alike() -> None:
    names = {
        "width": "width",
        "width[2]": "width[2]",
        "layers[0].blocks[3].heads": "layers[0].blocks[_].heads",
        "encoder[11].ratio": "encoder[_].ratio",
        "encoder[11].attn.q[1]": "encoder[_].attn.q[1]",
    }
    assert {path: dimension_name(path) for path in names} == names
    found = dimensions(staged(START))
    assert {d.name: [int(v) for v in d.values] for d in found} == START
    assert {d.name: len(d.paths) for d in found} == {
        "width[0]": 1,
        "width[1]": 1,
        "stages[0].blocks[_].ratio": 2,
        "stages[1].blocks[_].ratio": 2,
    }


def test_an_architecture_counts_once_for_each_block_with_a_candidate() -> None:
    ratios = next(d for d in dimensions(staged(START)) if d.name == "stages[0].blocks[_].ratio")
    tried: list[tuple[Assignment, float]] = [
        ({"stages[0].blocks[0].ratio": 3, "stages[0].blocks[1].ratio": 3}, 10.0),
        ({"stages[0].blocks[0].ratio": 4}, 20.0),
        ({"stages[0].blocks[0].ratio": 3, "stages[0].blocks[1].ratio": 4}, 30.0),
    ]
    assert by_value(ratios, tried) == ((10.0, 10.0, 30.0), (20.0, 30.0))


# The engine.


def test_every_range_moves_the_way_its_error_falls() -> None:
    """The slope is half a point a candidate, so one step of 8 a move, until both sides are equal."""
    engine = SpaceEvolution(
        epochs=1, probes=200, top=40, generations=6, population=20, parents=5, mutants=8,
        crossovers=8,
    )  # fmt: skip
    trainer = Surface()
    events = list(engine.run(staged(START), trainer, seed=0))
    moves = [event for event in events if isinstance(event, SpaceMoved)]
    assert [m.iteration for m in moves] == [0, 1, 2]
    assert moves[0].before == START
    assert moves[0].slopes["width[0]"] == pytest.approx(-0.5, abs=0.1)
    assert [m.after["width[0]"] for m in moves] == [[40, 48, 56], [48, 56, 64], [56, 64, 72]]
    assert [m.after["width[1]"] for m in moves] == [[24, 32, 40], [16, 24, 32], [8, 16, 24]]
    assert all(m.after["stages[0].blocks[_].ratio"] == [3, 4] for m in moves)
    # A stage has 3 widths, and 2 ratios of one layer or 2 x 2 of two: 18; there are two stages.
    assert {m.sizes for m in moves} == {(324, 324)}
    # Each width moved by one of its three: of two widths a stage there are 12 networks.
    assert {m.shared for m in moves} == {144}
    assert not any(m.inherited for m in moves)
    found = events[-1]
    assert isinstance(found, Found)
    assert found.best.assignment["width[0]"] == 64
    assert found.best.assignment["width[1]"] == 16
    assert trainer.rebuilt == [False] * 3


def test_supernets_of_a_space_search_are_trained_by_the_sandwich_rule() -> None:
    engine = SpaceEvolution(iterations=0, epochs=2, paths=2, generations=0, population=8, mutants=0,
                            crossovers=0)  # fmt: skip
    graph = staged(START)
    trainer = Surface()
    events = list(engine.run(graph, trainer, seed=3))
    assert sum(isinstance(event, Stepped) for event in events) == 4
    for plan in trainer.plans:
        ends = [forward.assignment for forward in plan.forwards[:2]]
        assert ends == [graph.decisions.extreme(which) for which in ("largest", "smallest")]
        assert len(plan.forwards) == 4
        assert [loss.of for loss in plan.losses] == [0, 1, 2, 3]
    drawn = [tuple(map(str, plan.forwards[2:])) for plan in trainer.plans]
    assert len(set(drawn)) == 4


LEVEL = """
space level(depths = 1..3) {
  input x: [B, 8]
  block layer(x: [B, C]) -> [B, C] {
    choose ratio in 1..4
    choose inner in 1..6
    return x + (linear(x, C * ratio) as fc1 |> linear(4 * inner) as fc2 |> linear(C) as fc3)
  }
  choose width in 8..64 by 8
  choose depth in depths within 1..12
  x = linear(x, width) as stem
  for i in 0..<depth { x = layer(x) as layers[i] }
  output linear(x, 2) as head
  weights { _: entangle }
}
"""
JUDGED = SpaceEvolution(iterations=1, epochs=0, probes=200, top=10, threshold=1e6, generations=0,
                        population=1, parents=1, mutants=0, crossovers=0)  # fmt: skip


class Luck(Surface):
    """A trainer whose errors are a hash of the network: 20 to 40 percent, whatever it is."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.asked = seed, list[Assignment]()

    def error(self, assignment: Assignment) -> float:
        self.asked.append(assignment)
        return 20 + 20 * Stream(self.seed, encoding(assignment)).uniform()


def test_depth_has_no_slope_where_errors_know_nothing_of_it() -> None:
    """Each layer has 24 settings, so uniform draws of networks would be 24 of 25 times of depth 3,
    whose ten best are then the best of far more: a slope of -3.5 points a candidate."""
    level = spacelang.load(Source("<level>", LEVEL))
    slopes: list[float] = []
    for seed in range(40):
        luck = Luck(seed)
        (move,) = [e for e in JUDGED.run(level, luck, seed) if isinstance(e, SpaceMoved)]
        slopes.append(move.slopes["depth"])
        counts = move.networks["depth"]
        assert sum(counts) == 200
        assert min(counts) >= 40, "a third each, but for six standard deviations of luck"
        # A network that was drawn twice is scored once.
        assert len(luck.asked) == len({encoding(a) for a in luck.asked}) <= 201
    noise = statistics.stdev(slopes) / math.sqrt(len(slopes))
    assert abs(statistics.mean(slopes)) < 3 * noise


def test_what_was_not_drawn_is_unknown() -> None:
    """Five draws of twelve depths: the slope is over those that came."""

    class Deep(Luck):
        def error(self, assignment: Assignment) -> float:
            assert isinstance(assignment["depth"], int)
            return 10 + assignment["depth"] / 2

    deep = spacelang.load(Source("<level>", LEVEL), depths=set(range(1, 13)))
    engine = replace(JUDGED, probes=5)
    (move,) = [e for e in engine.run(deep, Deep(0), 0) if isinstance(e, SpaceMoved)]
    assert sum(move.networks["depth"]) == 5
    assert move.networks["depth"].count(0) >= 7
    assert move.slopes["depth"] == pytest.approx(0.5)


def test_a_space_that_does_not_move_is_not_built_again() -> None:
    class Flat(Surface):
        def error(self, assignment: Assignment) -> float:
            return 30.0

    trainer = Flat()
    engine = SpaceEvolution(epochs=0, probes=20, generations=0, population=5, mutants=0,
                            crossovers=0)  # fmt: skip
    events = list(engine.run(staged(START), trainer, seed=0))
    (only,) = [event for event in events if isinstance(event, SpaceMoved)]
    assert only.before == only.after == START
    assert trainer.rebuilt == []


def test_a_move_beyond_the_budget_is_not_made() -> None:
    class Wide(Surface):
        def error(self, assignment: Assignment) -> float:
            return 90.0 - sum(v for p, v in assignment.items() if "width" in p) / 4  # type: ignore

    free = SpaceEvolution(iterations=1, epochs=0, probes=60, generations=0, population=5,
                          mutants=0, crossovers=0)  # fmt: skip
    (move,) = [e for e in free.run(staged(START), Wide(), seed=0) if isinstance(e, SpaceMoved)]
    beyond = staged(move.after)
    least = beyond.cost(beyond.decisions.extreme("smallest")).params
    trainer = Wide()
    bounded = replace(free, iterations=3, where=f"params < {least}")
    events = list(bounded.run(staged(START), trainer, seed=0))
    (last,) = [event for event in events if isinstance(event, SpaceMoved)]
    assert last.before == last.after == START
    assert trainer.rebuilt == []
    assert isinstance(events[-1], Found)
    assert events[-1].best.cost.params < least


def of_hull(folder: Path) -> tuple[Graph, LatencyTable, str]:
    """All that a move may lead to, and a made-up table of it."""
    wide = [8 * i for i in range(1, 17)]
    hull = staged({**dict.fromkeys(START, wide), "stages[0].blocks[_].ratio": [*range(1, 9)],
                   "stages[1].blocks[_].ratio": [*range(1, 9)]})  # fmt: skip
    facts = Facts("cpu", "a made-up processor", 1, 1, "float32")
    made = {text: made.bytes for text, made in every_operation(hull, 1).items()}
    table = LatencyTable(facts, made)
    table.write(folder / "table.json")
    return hull, table, str(folder / "table.json")


def test_a_move_out_of_time_is_not_made(tmp_path: Path) -> None:
    """Wider is better, and too slow: the supernet of a space without a network in time is not
    trained."""

    class Wide(Surface):
        def error(self, assignment: Assignment) -> float:
            return 90.0 - sum(v for p, v in assignment.items() if "width" in p) / 4  # type: ignore

    hull, table, path = of_hull(tmp_path)
    model = LatencyModel(hull, table)
    free = SpaceEvolution(iterations=1, epochs=0, probes=60, generations=0, population=5,
                          mutants=0, crossovers=0)  # fmt: skip
    (move,) = [e for e in free.run(staged(START), Wide(), seed=0) if isinstance(e, SpaceMoved)]
    beyond = staged(move.after)
    least = min(model.at(hull.decisions.check(a)) for a, _ in Pool(beyond).draw(10_000, "all"))
    trainer = Wide()
    bounded = replace(free, iterations=10, epochs=1, where=f"latency < {least}ns", latency=path)
    events = list(bounded.run(staged(START), trainer, seed=0))
    *made, last = [event for event in events if isinstance(event, SpaceMoved)]
    assert last.before == last.after, "the next step is too slow"
    assert any(slope <= -bounded.threshold for slope in last.slopes.values()), "yet wanted"
    assert len(trainer.rebuilt) == len(made) < 9
    assert isinstance(events[-1], Found)
    assert model.at(hull.decisions.check(events[-1].best.assignment)) < least


def test_a_table_has_to_know_the_hull_before_any_training(tmp_path: Path) -> None:
    trainer = Surface()
    facts = of_hull(tmp_path)[1].facts
    own = every_operation(staged(START), 1)
    LatencyTable(facts, dict.fromkeys(own, 5.0)).write(tmp_path / "own.json")
    engine = SpaceEvolution(iterations=1, epochs=1, probes=5, generations=0, population=5,
                            mutants=0, crossovers=0, where="latency <= 1s",
                            latency=str(tmp_path / "own.json"))  # fmt: skip
    with pytest.raises(SpaceError, match="SP512") as refused:
        list(engine.run(staged(START), trainer, seed=0))
    assert (refused.value.diagnostics[0].help or "").endswith("--hull")
    assert trainer.taken == 0
    still = replace(engine, iterations=0)
    assert any(isinstance(event, Found) for event in still.run(staged(START), trainer, seed=0))


def test_a_window_of_latency_holds_in_every_space(tmp_path: Path) -> None:
    """The table knows all of the hull; what is tried before and after moves is in time."""
    hull, table, path = of_hull(tmp_path)
    model = LatencyModel(hull, table)

    def latency(assignment: Assignment) -> int:
        return model.at(hull.decisions.check(assignment))

    limit = sorted(latency(a) for a in staged(START).sample(50, 0))[25]
    engine = SpaceEvolution(
        iterations=2, epochs=0, probes=60, generations=1, population=6, mutants=2, crossovers=2,
        where=f"latency <= {limit}ns", latency=path,
    )  # fmt: skip
    events = list(engine.run(staged(START), Surface(), seed=0))
    moves = [event for event in events if isinstance(event, SpaceMoved)]
    assert any(move.before != move.after for move in moves)
    tried = [e.candidate.assignment for e in events if isinstance(e, Evaluated)]
    assert len(tried) > 60
    assert all(latency(assignment) <= limit for assignment in tried)


def test_a_space_without_a_hull_is_refused() -> None:
    text = TEXT.format(widths="[{8, 16}, {8, 16}]", ratios="[{1, 2}, {1, 2}]")
    fixed = spacelang.load(
        Source("<fixed>", text.replace(" within 1..8", "").replace(" within 8..128 by 8", ""))
    )
    with pytest.raises(SpaceError, match="no range of staged can move") as failed:
        list(SpaceEvolution().run(fixed, Surface(), seed=0))
    assert failed.value.diagnostics[0].code == "SP701"


# Contraction.


def tried_by(events: Iterable[object]) -> list[Candidate]:
    return [event.candidate for event in events if isinstance(event, Evaluated)]


def test_contraction_keeps_the_best_under_ever_tighter_bounds() -> None:
    graph = staged(START)
    largest = graph.cost(graph.decisions.extreme("largest")).params
    bounds = tuple(f"params <= {round(largest * share)}" for share in (0.8, 0.6))
    engine = Contraction(bounds=bounds, population=12, keep=2, factors=3, reach=1)
    events = list(engine.run(graph, Surface(), seed=1))
    tried = tried_by(events)
    first = [c for c in tried if c.generation == 0]
    second = [c for c in tried if c.generation == 1]
    assert all(c.cost.params <= round(largest * 0.8) for c in first)
    assert all(c.cost.params <= round(largest * 0.6) for c in second)
    assert [c.number for c in tried] == list(range(len(tried)))
    kept = sorted(first, key=lambda c: (-c.score.accuracy, c.number))[:2]
    for candidate in second:  # at most three factors from a base, each by one place
        assert any(_moves(graph, base.assignment, candidate.assignment) for base in kept)
    rounds = [event.best for event in events if isinstance(event, GenerationEnded)]
    found = events[-1]
    assert isinstance(found, Found)
    assert found.best == rounds[-1]
    assert found.best.score.accuracy == max(c.score.accuracy for c in second)


def _moves(graph: Graph, base: Assignment, child: Assignment) -> bool:
    shared = [path for path in base if path in child and base[path] != child[path]]
    places = [graph.decisions[path].values for path in shared]
    near = all(
        abs(values.index(exact(base[p])) - values.index(exact(child[p]))) == 1
        for p, values in zip(shared, places, strict=True)
    )
    return len(shared) <= 3 and near


def test_contraction_says_where_nothing_is_left() -> None:
    graph = staged(START)
    with pytest.raises(SpaceError, match="SP502"):
        list(Contraction(bounds=("params <= 100",)).run(graph, Surface(), seed=0))
    # No figure says which way to go, and what is asked for is two steps away.
    ratio = next(path for path, choice in graph.decisions.items() if len(choice.values) > 2)
    least = graph.decisions[ratio].smallest
    engine = Contraction(bounds=(f"{ratio} == {least}",), factors=1, reach=1)
    with pytest.raises(SpaceError, match="no network near those kept"):
        list(engine.run(graph, Surface(), seed=0))


def test_contraction_passes_through_what_is_beyond_a_bound() -> None:
    """One decision moves by one place a step, and the bound leaves the smallest network alone: those on
    the way are not trained."""
    graph = staged(START)
    smallest = graph.decisions.extreme("smallest")
    bound = f"params <= {graph.cost(smallest).params}"
    engine = Contraction(bounds=("", bound), population=6, keep=2, factors=1, reach=1)
    tried = tried_by(engine.run(graph, Surface(), seed=0))
    assert [c.assignment for c in tried if c.generation == 1] == [smallest]
    assert len(tried) == 7
    assert tried == tried_by(engine.run(graph, Surface(), seed=0))


@pytest.mark.parametrize(
    "settings",
    [{"bounds": ()}, {"population": 0}, {"keep": 0}, {"factors": 0}, {"reach": 0}],
)
def test_settings_of_contraction_are_checked(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Contraction(**settings)  # type: ignore[arg-type]
