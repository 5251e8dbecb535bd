"""The engines on toy trainers: published behaviour, budgets, replay, resume, Pareto fronts."""

from __future__ import annotations

import itertools
import json
import random as python_random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

import spacelang
from spacelang.analysis import count
from spacelang.analysis.eliminate import BandTooNarrow, Elimination
from spacelang.diagnostics import Source, SpaceError
from spacelang.engines import variation
from spacelang.engines.baselines import Extreme, RandomSearch, beside
from spacelang.engines.contraction import Contraction
from spacelang.engines.evolution import DEVIATIONS, Evolution, best_of, point, ranked
from spacelang.engines.pareto import best_first, crowding, dominates, front, fronts
from spacelang.engines.paths import Plans, SinglePath
from spacelang.engines.pool import Pool, assemble, encoding
from spacelang.engines.prioritized_path import PrioritizedPath
from spacelang.engines.protocol import (
    Candidate,
    EpochEnded,
    Evaluated,
    Found,
    GenerationEnded,
    Metrics,
    Samples,
    Score,
    Stepped,
    StepPlan,
)
from spacelang.engines.record import Recorded
from spacelang.engines.settings import check, configure
from spacelang.engines.stream import Stream, seed_of
from spacelang.ir.decision import Assignment
from spacelang.ir.figures import Between, Cost
from spacelang.ir.graph import Graph
from spacelang.journal import Journal

TINY = """
space tiny {
  input x: [B, 8]
  choose width in {4, 8, 12}
  choose depth in 1..3
  block layer(x: [B, C]) -> [B, C] {
    choose ratio in {1, 2}
    return x + (linear(x, C * ratio) as fc1 |> gelu |> linear(C) as fc2)
  }
  h = linear(x, width) as stem
  for i in 0..<depth { h = layer(h) }
  output linear(h, 2) as head
  weights { _: entangle }
}
"""


@pytest.fixture(scope="module")
def autoformer() -> Graph:
    return spacelang.load("spaces/autoformer.space:autoformer_t", classes=10)


@pytest.fixture(scope="module")
def tiny() -> Graph:
    return spacelang.load(Source("<tiny>", TINY))


def points_of(assignment: Assignment) -> int:
    """A made-up score that mutation and crossover can climb: large values are good."""
    total = 0
    for path, value in assignment.items():
        assert isinstance(value, int | float)
        total += int(value * 2) * (1 + len(path) % 3)
    return total


@dataclass
class Toy:
    """A trainer whose scores and losses are functions of the assignment."""

    asked: list[str]
    length: int = 4
    taken: int = 0

    @classmethod
    def new(cls) -> Toy:
        return cls([])

    def steps(self, data: str) -> int:
        return self.length

    def step(self, plan: StepPlan) -> Metrics:
        self.taken += 1
        return Metrics(1.0, {}, 0, 1, 0.1)

    def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
        for assignment in assignments:
            self.asked.append(encoding(assignment))
            yield Score(points_of(assignment), 1000)


def result(events: Iterable[object]) -> Found:
    *_, last = events
    assert isinstance(last, Found)
    return last


# Streams.


def test_streams_are_functions_of_their_name() -> None:
    assert Stream(0, "a", 1).word() == Stream(0, "a", 1).word()
    names = [(0, "a", 1), (1, "a", 1), (0, "a", 11), (0, "a", "1"), (0, "a1"), ("0", "a", 1)]
    assert len({Stream(*name).word() for name in names}) == len(names)
    # Published numbers of this stream: a change would make runs irreproducible.
    assert Stream(0, "evolution").word() == 12189865468046302032
    assert 0 <= seed_of(3, "pool") < 1 << 63


def test_streams_are_uniform() -> None:
    stream = Stream(0, "test")
    counts = Counter(stream.below(6) for _ in range(12_000))
    assert set(counts) == set(range(6))
    assert max(abs(n - 2000) for n in counts.values()) < 200  # 4.9 standard deviations
    numbers = [stream.uniform() for _ in range(4000)]
    assert all(0 <= n < 1 for n in numbers)
    assert abs(sum(numbers) / 4000 - 0.5) < 0.025
    with pytest.raises(ValueError, match="no bound"):
        stream.below(0)


# Mutation and crossover against the published program.

DEPTHS, WIDTHS, HEADS, RATIOS = (12, 13, 14), (192, 216, 240), (3, 4), (3, 3.5, 4)


@dataclass
class Draws:
    """The draws of our variation, handed to a program that asks for them in its own order."""

    name: variation.Name

    def happens(self, path: str, probability: float) -> tuple[bool, Stream]:
        stream = Stream(*self.name, path)
        return stream.happens(probability), stream


Layers = tuple[int, list[float], list[int], int]


def published(assignment: Assignment) -> Layers:
    """(depth, ratios, heads, width), as microsoft/Cream's evolution encodes a candidate."""
    depth = assignment["depth"]
    ratios = [assignment[f"encoder[{i}].ratio"] for i in range(depth)]
    heads = [assignment[f"encoder[{i}].heads"] for i in range(depth)]
    return depth, ratios, heads, assignment["width"]


def published_mutation(parent: Layers, draws: Draws, m_prob: float, s_prob: float) -> Layers:
    """The steps of microsoft/Cream's `get_mutation`, in its order, from the description of it."""
    depth, ratios, heads, width = parent[0], list(parent[1]), list(parent[2]), parent[3]
    grown = range(0)
    redrawn, stream = draws.happens("depth", s_prob)
    if redrawn:
        new = stream.choice(DEPTHS)
        if new > depth:
            grown = range(depth, new)
            for i in grown:
                ratios.append(Stream(*draws.name, f"encoder[{i}].ratio").choice(RATIOS))
                heads.append(Stream(*draws.name, f"encoder[{i}].heads").choice(HEADS))
        else:
            ratios, heads = ratios[:new], heads[:new]
        depth = new
    for values, name, candidates in ((ratios, "ratio", RATIOS), (heads, "heads", HEADS)):
        for i in range(depth):
            if i in grown:
                continue  # random already: drawing once more gives the same distribution
            redrawn, stream = draws.happens(f"encoder[{i}].{name}", m_prob)
            if redrawn:
                values[i] = stream.choice(candidates)
    redrawn, stream = draws.happens("width", s_prob)
    if redrawn:
        width = stream.choice(WIDTHS)
    return depth, ratios, heads, width


def test_mutation_is_autoformers(autoformer: Graph) -> None:
    parents = autoformer.sample(40, 1)
    depths = Counter()
    for number in range(1500):
        parent = parents[number % 40]
        name = (0, "mutation", number)
        child = variation.mutate(autoformer.decisions, parent, name, 0.2, 0.4)
        autoformer.decisions.check(child)
        assert published(child) == published_mutation(published(parent), Draws(name), 0.2, 0.4)
        depths[child["depth"] - parent["depth"]] += 1
    assert depths[-1] > 0
    assert depths[1] > 0


def test_rates_of_mutation(autoformer: Graph) -> None:
    """How often decisions change: a redraw of n candidates changes a value in (n-1)/n of cases."""
    (parent,) = autoformer.sample(1, 2)
    changed: Counter[str] = Counter()
    tries = 2500
    for number in range(tries):
        name = (5, "rates", number)
        child = variation.mutate(autoformer.decisions, parent, name, 0.2, 0.4)
        for path in ("depth", "width", "encoder[0].heads", "encoder[4].ratio"):
            changed[path] += child[path] != parent[path]
    wanted = {
        "depth": 0.4 * 2 / 3,
        "width": 0.4 * 2 / 3,
        "encoder[0].heads": 0.2 / 2,
        "encoder[4].ratio": 0.2 * 2 / 3,
    }
    for path, rate in wanted.items():
        assert abs(changed[path] / tries - rate) < 0.035, path  # at least 3.9 deviations


def test_appended_layers_are_uniform(autoformer: Graph) -> None:
    parent = next(a for a in autoformer.sample(50, 3, law="choices") if a["depth"] == 12)
    grown: Counter[tuple[object, object]] = Counter()
    for number in range(4000):
        child = variation.mutate(autoformer.decisions, parent, (1, "grow", number), 0.0, 1.0)
        if child["depth"] > 12:
            grown[child["encoder[12].heads"], child["encoder[12].ratio"]] += 1
    total = sum(grown.values())
    assert abs(total / 4000 - 2 / 3) < 0.04
    assert set(grown) == set(itertools.product(HEADS, RATIOS))
    assert all(abs(n / total - 1 / 6) < 0.035 for n in grown.values())


def test_mutation_that_never_happens_copies(autoformer: Graph) -> None:
    (parent,) = autoformer.sample(1, 4)
    assert variation.mutate(autoformer.decisions, parent, (0,), 0.0, 0.0) == parent


def test_crossover_is_autoformers(autoformer: Graph) -> None:
    """Parents of one depth: every decision comes from either, evenly and independently."""
    parents = [a for a in autoformer.sample(60, 5) if a["depth"] == 13][:2]
    first, second = parents
    differ = [path for path in first if first[path] != second[path]]
    assert len(differ) > 8
    taken: Counter[str] = Counter()
    patterns = set()
    for number in range(2000):
        child = variation.cross(autoformer.decisions, first, second, (0, "cross", number))
        assert child.keys() == first.keys()
        assert all(child[path] in (first[path], second[path]) for path in child)
        taken.update(path for path in differ if child[path] == first[path])
        patterns.add(tuple(child[path] == first[path] for path in differ))
    assert all(abs(taken[path] / 2000 - 0.5) < 0.055 for path in differ)
    assert len(patterns) > 100


def test_crossover_of_different_depths_is_whole(autoformer: Graph) -> None:
    shallow = next(a for a in autoformer.sample(50, 6, law="choices") if a["depth"] == 12)
    deep = next(a for a in autoformer.sample(50, 6, law="choices") if a["depth"] == 14)
    depths = set()
    for number in range(200):
        child = variation.cross(autoformer.decisions, shallow, deep, (0, "cross", number))
        autoformer.decisions.check(child)
        depths.add(child["depth"])
        for path, value in child.items():
            assert value in {p[path] for p in (shallow, deep) if path in p}
    assert depths == {12, 14}


def test_pairs_have_the_same_decisions_where_possible(autoformer: Graph) -> None:
    parents = autoformer.sample(10, 7, law="choices")
    for number in range(300):
        first, second = variation.pair(parents, (0, "pair", number))
        assert first.keys() == second.keys()
    lonely = [
        next(a for a in autoformer.sample(50, 8, law="choices") if a["depth"] == d)
        for d in (12, 13, 14)
    ]
    assert {
        len({a.keys() == b.keys(), a is b})
        for a, b in (variation.pair(lonely, (0, "pair", n)) for n in range(50))
    } == {1}


# The pool.


def test_pool_draws_each_architecture_once(tiny: Graph) -> None:
    pool = Pool(tiny, seed=3)
    assert pool.size == 3 * (2 + 4 + 8)
    drawn = [*pool.draw(30, "a"), *pool.draw(50, "b")]
    assert len({encoding(a) for a, _ in drawn}) == len(drawn) == 42
    assert pool.exhausted
    assert pool.draw(1, "c") == []
    assert all(cost == tiny.cost(assignment) for assignment, cost in drawn)
    assert [a for a, _ in Pool(tiny, seed=3).draw(30, "a")] == [a for a, _ in drawn[:30]]
    assert [a for a, _ in Pool(tiny, seed=4).draw(30, "a")] != [a for a, _ in drawn[:30]]


def test_pool_is_uniform_over_what_is_left(tiny: Graph) -> None:
    """With 30 of 42 taken, each of the other 12 is drawn next equally often."""
    before = [a for a, _ in Pool(tiny, seed=0).draw(30, "a")]
    counts: Counter[str] = Counter()
    for seed in range(300):
        pool = Pool(tiny, seed=seed)
        for assignment in before:
            assert pool.take(assignment) is not None
        ((drawn, _),) = pool.draw(1, "next")
        counts[encoding(drawn)] += 1
    assert len(counts) == 12
    assert max(abs(n - 25) for n in counts.values()) < 23  # 4.7 standard deviations


def test_pool_keeps_budgets_and_remembers(tiny: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    where = "params <= 200 and depth >= 2"
    pool = Pool(tiny, where)
    assert pool.size == tiny.size(where)
    legal = {encoding(a) for a, _ in pool.draw(100, "all")}
    everything = [a for a, _ in Pool(tiny).draw(100, "all")]
    assert legal == {
        encoding(a) for a in everything if tiny.cost(a).params <= 200 and a["depth"] >= 2
    }
    costed: list[object] = []
    original = Pool.cost
    monkeypatch.setattr(
        Pool, "cost", lambda self, values: costed.append(values) or original(self, values)
    )
    outside = next(a for a in everything if encoding(a) not in legal)
    assert [pool.take(outside) for _ in range(3)] == [None] * 3
    assert len(costed) == 1  # rejected once, then remembered


# Costs too large for the tables of a test: of a budget only bounds are counted.
UNEVEN = """
space uneven {
  input x: [B, 97]
  block layer(x: [B, C], times, ratios) -> [B, C] {
    choose ratio in ratios
    return linear(x, times * ratio) |> linear(C)
  }
  for i in 0..2 { x = layer(x, 1000003, {1, 2, 3, 4}) as layers[i] }
  for i in 0..2 { x = layer(x, 1000033, {1, 5, 7, 11}) as others[i] }
  output linear(x, 2) as head
  weights { _: entangle }
}
"""


def test_drawing_ends_where_only_bounds_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """35 networks are within the budget, 8 to 376 by the count; 40 are asked for."""
    graph = spacelang.load(Source("<uneven>", UNEVEN))
    least, most = (graph.cost(graph.decisions.extreme(e)).params for e in ("smallest", "largest"))
    where = f"params <= {least + (most - least) // 8}"
    assert graph.size(where) == 35
    monkeypatch.setattr(count, "Elimination", partial(Elimination, entries=8))
    graph = spacelang.load(Source("<uneven>", UNEVEN))
    assert graph.size(where) == Between(8, 376)
    pool = Pool(graph, where)
    assert pool.size is None
    drawn = pool.draw(40, "all")
    assert len({encoding(a) for a, _ in drawn}) == len(drawn) == 35
    assert not pool.exhausted, "which nobody knows"
    toy = Toy.new()
    end = result(RandomSearch(evaluations=60, where=where).run(graph, toy, 0))
    assert end.evaluated == len(toy.asked) == 35
    engine = Evolution(2, population=20, parents=4, mutants=5, crossovers=5, where=where)
    assert result(engine.run(graph, Toy.new(), 0)).evaluated == 35


def test_pool_respects_the_requirements_of_the_space() -> None:
    text = TINY.replace("  input", "  require params <= 300\n  input").replace(
        "choose depth", "choose depth"
    )
    try:
        graph = spacelang.load(Source("<tiny>", text))
    except SpaceError as refused:
        pytest.fail(str(refused))
    pool = Pool(graph)
    drawn = pool.draw(100, "all")
    assert 0 < len(drawn) < 42
    assert all(cost.params <= 300 for _, cost in drawn)
    assert pool.take(graph.decisions.extreme("largest")) is None


def test_assemble_asks_for_live_decisions_only(autoformer: Graph) -> None:
    asked: list[str] = []

    def take(choice):
        asked.append(choice.path)
        return choice.values[0]

    made = assemble(autoformer.decisions, take)
    assert made["depth"] == 12
    assert sorted(asked) == sorted(made)
    assert "encoder[12].heads" not in made


# Evolution.


def reference_evolution(
    space: Graph, engine: Evolution, score: Mapping[str, int] | None, seed: int
) -> list[list[str]]:
    """The published loop on plain lists; children and random draws come from our variation."""
    pool_seen: set[str] = set()
    where = Pool(space, engine.where, seed)
    memory: list[list[str]] = []
    top: list[tuple[int, Assignment]] = []
    candidates = [a for a, _ in where.draw(engine.population, "random", 0)]
    for generation in range(1, engine.generations + 2):
        memory.append([encoding(c) for c in candidates])
        assert not pool_seen & set(memory[-1])
        pool_seen |= set(memory[-1])
        top += [(points_of(c), c) for c in candidates]
        top.sort(key=lambda pair: pair[0], reverse=True)  # stable, as published
        if generation > engine.generations:
            break
        parents = [c for _, c in top[: engine.parents]]
        children: list[Assignment] = []
        for kind, wanted in (("mutation", engine.mutants), ("crossover", engine.crossovers)):
            made, tries = 0, 10 * wanted
            attempt = 0
            while made < wanted and tries > 0:
                tries -= 1
                name = (seed, kind, generation, attempt)
                attempt += 1
                if kind == "mutation":
                    parent = Stream(*name).choice(parents)
                    child = variation.mutate(
                        space.decisions, parent, name, engine.m_prob, engine.s_prob
                    )
                else:
                    child = variation.cross(space.decisions, *variation.pair(parents, name), name)
                if where.take(child) is None:
                    continue
                children.append(child)
                made += 1
        fill = engine.population - len(children)
        candidates = [*children, *(a for a, _ in where.draw(fill, "random", generation))]
    return memory


def test_evolution_replays_the_published_loop(autoformer: Graph) -> None:
    engine = Evolution(
        generations=4, population=20, parents=5, mutants=8, crossovers=8, where="params <= 5.9M"
    )
    toy = Toy.new()
    events = list(engine.run(autoformer, toy, seed=11))
    memory = reference_evolution(autoformer, engine, None, seed=11)
    candidates = [event.candidate for event in events if isinstance(event, Evaluated)]
    by_generation = [
        [encoding(c.assignment) for c in candidates if c.generation == g] for g in range(5)
    ]
    assert by_generation == memory
    assert toy.asked == [name for names in memory for name in names]
    assert len(set(toy.asked)) == len(toy.asked) == engine.planned == 100
    assert all(c.cost.params <= 5_900_000 for c in candidates)
    assert all(c.cost == autoformer.cost(c.assignment) for c in candidates[::9])
    assert [c.number for c in candidates] == list(range(100))
    assert {c.origin for c in candidates if c.generation == 0} == {"random"}
    ended = [event for event in events if isinstance(event, GenerationEnded)]
    assert [event.generation for event in ended] == list(range(5))
    assert ended[0].tries == {}
    for event in ended[1:]:
        made = Counter(c.origin for c in candidates if c.generation == event.generation)
        assert {kind: count for kind, (count, _) in event.tries.items()} == {
            kind: made[kind] for kind in ("mutation", "crossover")
        }
        assert all(count <= tried <= 80 for count, tried in event.tries.values())
    end = events[-1]
    assert isinstance(end, Found)
    assert end.best.score.correct == max(c.score.correct for c in candidates)
    bred, drawn = (
        [c.score.correct for c in candidates if c.origin == origin]
        for origin in ("crossover", "random")
    )
    assert sum(bred) / len(bred) > sum(drawn) / len(drawn) + 10  # it climbs
    assert not end.exhausted


def test_the_last_generation_counts(tiny: Graph) -> None:
    """Deviation "explicit-best": here the winner is only met in the last generation."""
    engine = Evolution(generations=1, population=6, parents=2, mutants=3, crossovers=3)
    for seed in range(40):
        events = list(engine.run(tiny, Toy.new(), seed))
        candidates = [e.candidate for e in events if isinstance(e, Evaluated)]
        best = max(c.score.correct for c in candidates)
        if all(c.score.correct < best for c in candidates if c.generation == 0):
            assert result(events).best.score.correct == best
            return
    pytest.fail("no seed showed it")


def test_defaults_are_the_published_ones() -> None:
    engine = Evolution()
    assert (engine.generations, engine.population, engine.parents) == (20, 50, 10)
    assert (engine.mutants, engine.crossovers) == (25, 25)
    assert (engine.m_prob, engine.s_prob) == (0.2, 0.4)
    assert engine.planned == RandomSearch().evaluations == 1050
    assert "uniform-start" in DEVIATIONS


def test_evolution_ends_where_the_space_does(tiny: Graph) -> None:
    engine = Evolution(generations=20, population=10, parents=3, mutants=4, crossovers=4)
    toy = Toy.new()
    end = result(engine.run(tiny, toy, seed=0))
    assert end.exhausted
    assert len(toy.asked) == len(set(toy.asked)) == 42
    assert end.best.assignment == tiny.decisions.extreme("largest")


def test_equal_scores_go_to_the_cheapest(tiny: Graph) -> None:
    class Flat(Toy):
        def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
            yield from (Score(7, 10) for _ in assignments)

    end = result(RandomSearch(evaluations=42).run(tiny, Flat.new(), 0))
    assert end.best.assignment == tiny.decisions.extreme("smallest")
    assert [c.cost.params for c in end.front] == [end.best.cost.params]


def test_failed_candidates_never_breed(tiny: Graph) -> None:
    class Fragile(Toy):
        def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
            for assignment in assignments:
                wide = assignment["width"] == 12
                yield Score(0, 0, "out of memory") if wide else Score(points_of(assignment), 1000)

    engine = Evolution(generations=3, population=10, parents=3, mutants=4, crossovers=4)
    events = list(engine.run(tiny, Fragile.new(), seed=1))
    end = result(events)
    assert end.best.assignment["width"] == 8
    assert all(not c.score.failure for c in end.front)
    assert any(e.candidate.score.failure for e in events if isinstance(e, Evaluated))

    class Broken(Toy):
        def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
            yield from (Score(0, 0, "out of memory") for _ in assignments)

    with pytest.raises(SpaceError, match=r"SP703.*\n.*out of memory|SP703"):
        list(engine.run(tiny, Broken.new(), seed=1))
    with pytest.raises(SpaceError, match="SP703"):
        list(RandomSearch(evaluations=3).run(tiny, Broken.new(), seed=1))


def test_an_empty_budget_says_what_can_be_reached(tiny: Graph) -> None:
    with pytest.raises(SpaceError, match=r"SP502(.|\n)*params reaches"):
        list(Evolution(where="params <= 3").run(tiny, Toy.new(), 0))


def test_no_global_generator_is_used(tiny: Graph) -> None:
    python_random.seed(0)
    numpy.random.seed(0)
    before = (python_random.getstate(), numpy.random.get_state()[1].tolist())
    result(Evolution(generations=2, population=6, mutants=3, crossovers=3).run(tiny, Toy.new(), 0))
    list(SinglePath(epochs=1).run(tiny, Toy.new(), 0))
    assert (python_random.getstate(), numpy.random.get_state()[1].tolist()) == before


# Resume.


class Killed(Exception):
    """The process died here."""


def test_resumed_search_is_the_uninterrupted_one(tiny: Graph, tmp_path: Path) -> None:
    engine = Evolution(generations=3, population=8, parents=3, mutants=3, crossovers=3)
    whole_toy = Toy.new()
    whole = list(engine.run(tiny, whole_toy, seed=5))

    class Mortal(Toy):
        left = 5

        def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
            for assignment in assignments:
                if self.left == 0:
                    raise Killed
                self.left -= 1
                yield from super().probe([assignment], samples)

    asked: list[str] = []
    path = tmp_path / "scores.jsonl"
    for _ in range(100):
        toy = Mortal.new()
        try:
            with Journal(path) as journal:
                recorded = Recorded(toy, journal, {"weights": "abc"})
                events = list(engine.run(tiny, recorded, seed=5))
            break
        except Killed:
            with path.open("ab") as file:  # the torn line of a process that died writing
                file.write(b'{"check":"00')
        finally:
            asked += toy.asked
    assert events == whole
    assert asked == whole_toy.asked  # each evaluated once, in the same order
    assert len(asked) > 20
    with Journal(path) as journal:
        again = Recorded(Mortal.new(), journal, {"weights": "abc"})
        assert len(again) == len(asked)
        assert list(engine.run(tiny, again, seed=5)) == whole
        assert again.evaluated == 0


def test_scores_of_other_weights_are_refused(tiny: Graph, tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with Journal(path) as journal:
        Recorded(Toy.new(), journal, {"weights": "abc", "graph": "g"})
    with (
        Journal(path) as journal,
        pytest.raises(
            SpaceError, match=r"SP702.*another search(.|\n)*weights: abc there, xyz here"
        ),
    ):
        Recorded(Toy.new(), journal, {"weights": "xyz", "graph": "g"})


@pytest.mark.parametrize("entry", [{}, {"assignment": {}, "part": 3}, {"basis": {}}])
def test_foreign_lines_are_refused(entry: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with Journal(path) as journal:
        journal.append({"basis": {}})
        journal.append(entry)
    with Journal(path) as journal, pytest.raises(SpaceError, match="no score"):
        Recorded(Toy.new(), journal, {})


# Pareto fronts.

POINTS = st.integers(1, 3).flatmap(
    lambda axes: st.lists(
        st.tuples(*[st.integers(0, 5).map(float)] * axes), min_size=1, max_size=24
    )
)


def brute_force(points: Sequence[tuple[float, ...]], among: Iterable[int]) -> list[int]:
    among = list(among)
    return [
        i
        for i in among
        if not any(
            all(points[j][k] >= points[i][k] for k in range(len(points[i])))
            and points[j] != points[i]
            for j in among
        )
    ]


@given(POINTS)
def test_fronts_are_those_of_brute_force(points: list[tuple[float, ...]]) -> None:
    left = list(range(len(points)))
    layers: list[tuple[int, ...]] = []
    while left:
        layer = brute_force(points, left)
        layers.append(tuple(layer))
        left = [i for i in left if i not in layer]
    assert fronts(points) == tuple(layers)
    assert front(points) == layers[0]
    order = best_first(points)
    assert sorted(order) == list(range(len(points)))
    depth = {i: number for number, layer in enumerate(layers) for i in layer}
    assert [depth[i] for i in order] == sorted(depth[i] for i in order)
    if len(points[0]) == 1:
        assert list(order) == sorted(range(len(points)), key=lambda i: -points[i][0])


def test_crowding_by_hand() -> None:
    points = [(0.0, 10.0), (2.0, 6.0), (4.0, 5.0), (8.0, 0.0)]
    inf = float("inf")
    assert crowding(points) == (inf, (4 / 8) + (5 / 10), (6 / 8) + (6 / 10), inf)
    assert crowding([(1.0, 1.0)] * 3) == (0.0, 0.0, 0.0)
    assert crowding([]) == ()
    assert best_first(points) == (0, 3, 2, 1)
    assert dominates((1, 1), (1, 0))
    assert not dominates((1, 1), (1, 1))


@settings(max_examples=50)
@given(st.integers(1, 4), st.integers(0, 60), st.integers(1, 12), st.randoms(use_true_random=False))
def test_layers_are_those_of_pymoo(
    axes: int, count: int, spread: int, random: python_random.Random
) -> None:
    points = [tuple(float(random.randrange(spread)) for _ in range(axes)) for _ in range(count)]
    if not points:
        assert fronts(points) == ()
        return
    worse = -numpy.array(points)  # pymoo minimises
    wanted = NonDominatedSorting().do(worse)
    assert [sorted(map(int, layer)) for layer in wanted] == [
        list(layer) for layer in fronts(points)
    ]


@settings(max_examples=50)
@given(st.integers(2, 3), st.integers(3, 40), st.randoms(use_true_random=False))
def test_crowding_is_that_of_pymoo(axes: int, count: int, random: python_random.Random) -> None:
    columns = [random.sample(range(100), count) for _ in range(axes)]  # without ties
    points = [tuple(map(float, row)) for row in zip(*columns, strict=True)]
    wanted = get_crowding_function("cd").do(-numpy.array(points))
    # pymoo gives the mean over the axes.
    assert numpy.allclose(numpy.array(crowding(points)), wanted * axes, rtol=1e-12)


def test_multi_objective_evolution_finds_the_true_front(tiny: Graph) -> None:
    """Over the whole space, the front of the search is that of brute force."""
    engine = Evolution(
        generations=20, population=10, mutants=4, crossovers=4, objectives=("accuracy", "macs")
    )
    toy = Toy.new()
    events = list(engine.run(tiny, toy, seed=2))
    candidates = [e.candidate for e in events if isinstance(e, Evaluated)]
    points = [point(c, engine.objectives) for c in candidates]
    wanted = {encoding(candidates[i].assignment) for i in brute_force(points, range(len(points)))}
    end = result(events)
    assert {encoding(c.assignment) for c in end.front} == wanted
    assert len(wanted) > 3


def test_multi_objective_parents_spread(autoformer: Graph) -> None:
    engine = Evolution(
        generations=5, population=20, mutants=8, crossovers=8, objectives=("accuracy", "params")
    )
    candidates = [
        e.candidate for e in engine.run(autoformer, Toy.new(), seed=3) if isinstance(e, Evaluated)
    ]
    late = [c.cost.params for c in candidates if c.generation == 5]
    first = [c.cost.params for c in candidates if c.generation == 0]
    assert min(late) < min(first)  # cheap ones breed too
    assert (
        best_of(candidates)
        == ranked(sorted(candidates, key=lambda c: (c.cost.params, c.cost.macs)), ("accuracy",))[0]
    )


def test_points_count_costs_against_a_candidate() -> None:
    candidate = Candidate(0, 0, "random", {}, Cost(3, 5, 7), Score(1, 4))
    assert point(candidate, ("accuracy", "params", "macs", "activations")) == (0.25, -3, -5, -7)
    failed = replace(candidate, score=Score(0, 0, "why"))
    assert point(failed, ("accuracy",)) == (-1.0,)
    assert ranked([failed, candidate], ("accuracy",)) == [candidate]


# Baselines and training plans.


def test_random_search_is_distinct_within_budget_and_counted(autoformer: Graph) -> None:
    toy = Toy.new()
    where = "params in 5.5M..5.9M"
    end = result(RandomSearch(evaluations=120, where=where).run(autoformer, toy, seed=0))
    assert end.evaluated == len(set(toy.asked)) == 120
    assert 5_500_000 <= end.best.cost.params <= 5_900_000
    assert end.best.score.correct == max(points_of(json.loads(name)) for name in toy.asked)


@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_extremes(which: str, tiny: Graph) -> None:
    end = result(Extreme(which).run(tiny, Toy.new(), 0))
    assert end.best.assignment == tiny.decisions.extreme(which)
    assert end.best.origin == which
    every = [tiny.cost(a).params for a, _ in Pool(tiny).draw(42, "all")]
    assert end.best.cost.params == {"largest": max, "smallest": min}[which](every)


@pytest.mark.parametrize(
    "where", ["params in 900..1500", "depth == 1", "macs <= 2K and depth >= 2"]
)
def test_extremes_within_a_budget(where: str, tiny: Graph) -> None:
    """Against all that the budget leaves."""
    every = [cost.params for _, cost in Pool(tiny, where).draw(1000, "all")]
    toy = Toy.new()
    events = list(Extreme("both", where).run(tiny, toy, 0))
    ends = [event.candidate for event in events if isinstance(event, Evaluated)]
    assert [(c.origin, c.cost.params) for c in ends] == [
        ("largest", max(every)), ("smallest", min(every))
    ]  # fmt: skip
    assert [encoding(c.assignment) for c in ends] == toy.asked
    assert all(Pool(tiny, where).take(c.assignment) for c in ends)
    with pytest.raises(SpaceError, match="SP502"):
        list(Extreme("largest", "params <= 3").run(tiny, toy, 0))


def test_an_extreme_keeps_to_what_the_space_requires() -> None:
    text = TINY.replace("weights {", "require params <= 1500\n  weights {")
    bound = spacelang.load(Source("<bound>", text))
    assert text != TINY
    every = [cost.params for _, cost in Pool(bound).draw(1000, "all")]
    assert result(Extreme().run(bound, Toy.new(), 0)).best.cost.params == max(every)


# As many multiply-accumulates wherever a ratio grows, but eight, four, two or one times the weights.
TRADED = """
space traded {
  input a: [B, 1, 97]
  input b: [B, 2, 97]
  input c: [B, 4, 97]
  input d: [B, 8, 97]
  block layer(x: [B, N, C], times) -> [B, N, C] {
    choose ratio in {1, 2, 3, 4}
    return linear(x, times * ratio) |> linear(C)
  }
  for i in 0..1 { a = layer(a, 800) as first[i] }
  for i in 0..1 { b = layer(b, 400) as second[i] }
  for i in 0..1 { c = layer(c, 200) as third[i] }
  for i in 0..1 { d = layer(d, 100) as fourth[i] }
  a, b, c, d = mean(a, axes: [1]), mean(b, axes: [1]), mean(c, axes: [1]), mean(d, axes: [1])
  output linear(a + b + c + d, 2) as head
  weights { _: entangle }
}
"""


@pytest.mark.parametrize("which", ["largest", "smallest", "both"])
@pytest.mark.parametrize("entries", [16, 20, 24, 32])
@pytest.mark.parametrize("share", [1 / 12, 1 / 6, 1 / 2, 5 / 6])
def test_an_extreme_whose_count_ends_on_the_way_is_refused(
    which: Any, entries: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget is counted exactly; with a bound on parameters beside it only bounds are. Of both
    ends the other one is there."""
    monkeypatch.setattr(count, "Elimination", partial(Elimination, entries=entries))
    graph = spacelang.load(Source("<traded>", TRADED))
    least, most = (graph.cost(graph.decisions.extreme(e)).macs for e in ("smallest", "largest"))
    budget = int(least + (most - least) * share)
    where = f"macs >= {budget}" if which == "smallest" else f"macs <= {budget}"
    assert isinstance(graph.size(where), int)
    if which == "both":
        events = list(Extreme("both", where).run(graph, Toy.new(), 0))
        assert [e.candidate.origin for e in events if isinstance(e, Evaluated)] == ["smallest"]
        return
    with pytest.raises(SpaceError, match=r"SP701(.|\n)*more than can be counted"):
        list(Extreme(which, where).run(graph, Toy.new(), 0))


def test_an_extreme_that_cannot_be_drawn_is_refused(
    tiny: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where exact tables count the networks at the end, but not each of their parts."""

    def sample(*given: object) -> None:
        raise BandTooNarrow

    monkeypatch.setattr(Elimination, "sample", sample)
    with pytest.raises(SpaceError, match=r"SP701(.|\n)*more than can be counted"):
        list(Extreme("largest", "params <= 200").run(tiny, Toy.new(), 0))


def test_baselines_of_an_engine() -> None:
    evolution = Evolution(where="params <= 6M", samples=100, part="test")
    chance, ends = beside(evolution, 70)
    assert chance == RandomSearch(70, "params <= 6M", "", "test", 100)
    assert ends == Extreme("both", "params <= 6M", "test", 100)
    chance, _ = beside(Contraction(bounds=("params <= 9M", "params <= 6M"), latency="t.json"), 5)
    assert chance == RandomSearch(5, "params <= 6M", "t.json")
    assert beside(RandomSearch(), 5) == beside(Extreme(), 1) == ()
    # Where nothing is said of them: all, but of networks trained anew the ends alone.
    assert beside(evolution, 70, None) == beside(evolution, 70)
    assert beside(evolution, 70, None, anew=True) == (ends,)
    assert beside(evolution, 70, anew=True) == beside(evolution, 70)
    assert beside(evolution, 70, False) == beside(evolution, 70, False, anew=True) == ()
    assert beside(PrioritizedPath(where="macs <= 1M"), 8) == (
        RandomSearch(8, "macs <= 1M"),
        Extreme("both", "macs <= 1M"),
    )


def test_plans_are_functions_of_seed_and_step(tiny: Graph) -> None:
    for law in ("choices", "architectures"):
        engine = SinglePath(epochs=3, law=law, smoothing=0.2)
        forward = [Plans(engine, tiny, 0, 5).at(step) for step in range(15)]
        plans = Plans(engine, tiny, 0, 5)
        shuffled = {step: plans.at(step) for step in (14, 0, 7, 3, 11, 6, 2)}
        assert all(forward[step] == plan for step, plan in shuffled.items())
        assert [p.assignment for p in forward] != [
            Plans(engine, tiny, 1, 5).at(step).assignment for step in range(15)
        ]
        assert [(p.step, p.epoch, p.batch) for p in forward[4:7]] == [
            (4, 0, 4),
            (5, 1, 0),
            (6, 1, 1),
        ]
        assert forward[0].losses[0].options == {"smoothing": 0.2}


def test_the_laws_differ_as_named(tiny: Graph) -> None:
    """By choices every depth is as likely; over architectures the deep ones are: they are many."""
    for law, wanted in (("choices", 1 / 3), ("architectures", 8 / 14)):
        plans = Plans(SinglePath(law=law), tiny, 0, 1500)
        deep = sum(plans.at(step).assignment["depth"] == 3 for step in range(1500))
        assert abs(deep / 1500 - wanted) < 0.06, law


def test_single_path_drives_a_trainer_and_resumes(tiny: Graph) -> None:
    events = list(SinglePath(epochs=2).run(tiny, Toy.new(), 0))
    steps = [e.plan.step for e in events if isinstance(e, Stepped)]
    assert steps == list(range(8))
    ends = [i for i, e in enumerate(events) if isinstance(e, EpochEnded)]
    assert ends == [4, 9]
    toy = Toy.new()
    toy.taken = 6
    assert list(SinglePath(epochs=2).run(tiny, toy, 0)) == events[7:]


# Settings and legality.


def test_settings_from_file_and_command_line() -> None:
    engine = configure(
        "evolution",
        {"population": 60, "where": "params <= 6M"},
        {"population": "80", "objectives": "accuracy, macs", "samples": "none"},
    )
    assert engine == Evolution(
        population=80, where="params <= 6M", objectives=("accuracy", "macs"), samples=None
    )
    assert configure("random", {"evaluations": 5}) == RandomSearch(evaluations=5)


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ({"populaton": 3}, "SP204", "did you mean population"),
        ({"population": "many"}, "SP209", "whole number"),
        ({"population": 2.5}, "SP209", "whole number"),
        ({"population": True}, "SP209", "whole number"),
        ({"m_prob": "nan"}, "SP209", "a number"),
        ({"objectives": ("speed",)}, "SP209", "one of accuracy"),
        ({"where": 3}, "SP209", "a text"),
        ({"population": 0}, "SP103", "population"),
        ({"m_prob": 1.5}, "SP103", "0..1"),
        ({"mutants": 40}, "SP103", "at most the population"),
        ({"objectives": ("macs", "macs")}, "SP103", "each once"),
    ],
)
def test_wrong_settings_are_diagnosed(
    settings: Mapping[str, object], code: str, words: str
) -> None:
    with pytest.raises(SpaceError) as caught:
        configure("evolution", settings)
    assert caught.value.diagnostics[0].code == code
    assert words in str(caught.value)


def test_an_unknown_engine_lists_the_known() -> None:
    with pytest.raises(SpaceError, match=r"SP604(.|\n)*evolution"):
        configure("evolutoin")


def test_kinds_of_decisions_are_checked_before_the_run(tiny: Graph) -> None:
    @dataclass(frozen=True)
    class Sizes(Evolution):
        kinds = frozenset({"dim"})

    with pytest.raises(SpaceError, match=r"SP701.*presence(.|\n)*depth"):
        check(Sizes(), tiny)
    check(Evolution(), tiny)
    fixed = spacelang.load(
        Source("<fixed>", "space fixed {\n  input x: [B, 8]\n  output linear(x, 2) as head\n}\n")
    )
    assert [
        e.plan.assignment for e in SinglePath(1).run(fixed, Toy.new(), 0) if isinstance(e, Stepped)
    ] == [{}] * 4
    for engine in (Evolution(), RandomSearch(), Extreme()):
        with pytest.raises(SpaceError, match=r"SP701.*nothing to decide"):
            list(engine.run(fixed, Toy.new(), 0))


def test_lists_of_a_command_line_keep_what_stands_in_brackets() -> None:
    engine = configure("contraction", {"bounds": "width in {8, 16}, params <= 400"})
    assert engine.bounds == ("width in {8, 16}", "params <= 400")
