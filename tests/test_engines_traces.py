"""Searches replayed decision by decision: scripted scores and coins, and what follows, by hand.

Nothing that is expected here was computed: not by the engines, and not by what they draw with. An
architecture of the first space is written (width, depth, ratios), of the others (width, depth).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, TypeVar

import pytest

import spacelang
from spacelang.analysis import count
from spacelang.diagnostics import Source
from spacelang.engines import evolution, variation
from spacelang.engines.contraction import Contraction
from spacelang.engines.evolution import Evolution
from spacelang.engines.protocol import (
    Evaluated,
    Event,
    Found,
    GenerationEnded,
    Metrics,
    Samples,
    Score,
    SpaceMoved,
    StepPlan,
)
from spacelang.engines.space_evolution import SpaceEvolution
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph

Item = TypeVar("Item")
Name = tuple[object, ...]
Layers = tuple[int, int, tuple[int, ...]]
Shape = tuple[int, int]


class Told:
    """A prober that reads scores (of 100) off a table; None is a failure."""

    def __init__(self, scores: Mapping[tuple[object, ...], int | None]) -> None:
        self.scores = scores
        self.asked: list[tuple[object, ...]] = []

    def named(self, assignment: Assignment) -> tuple[object, ...]:
        ratios = tuple(v for path, v in assignment.items() if path.endswith(".ratio"))
        shape = (assignment["width"], assignment["depth"])
        return (*shape, ratios) if ratios else shape

    def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
        for assignment in assignments:
            self.asked.append(self.named(assignment))
            score = self.scores[self.asked[-1]]
            yield Score(0, 0, "out of memory") if score is None else Score(score, 100)


def best_of(event: Event) -> tuple[object, ...]:
    assert isinstance(event, Found | GenerationEnded)
    return Told({}).named(event.best.assignment)


# AutoFormer's evolution (systems: population, parents, mutation, crossover).

LAYERED = """
space layered {
  input x: [B, 8]
  choose width in {4, 8, 12}
  choose depth in 1..3
  block layer(x: [B, C]) -> [B, C] {
    choose ratio in {1, 2}
    return x + (linear(x, C * ratio) |> gelu |> linear(C))
  }
  h = linear(x, width) as stem
  for i in 0..<depth { h = layer(h) as layers[i] }
  output linear(h, 2) as head
  weights { _: entangle }
}
"""
# Parameters: the stem 9 w, a layer (w + 1) w r + (w r + 1) w, the head 2 w + 2. So of width
#    4:  46 and  40 or  76 a layer (of ratio 1 or 2)
#    8:  90 and 144 or 280
#   12: 134 and 312 or 612
SCORES: Mapping[Layers, int] = {
    (4, 1, (1,)): 10, (8, 2, (1, 2)): 30, (12, 1, (1,)): 20, (8, 1, (2,)): 25,
    (8, 2, (2, 2)): 35, (4, 1, (2,)): 12, (8, 1, (1,)): 5, (4, 2, (2, 2)): 14,
    (8, 2, (2, 1)): 50, (4, 2, (1, 2)): 11, (4, 3, (1, 1, 1)): 9, (8, 3, (1, 1, 1)): 33,
}  # fmt: skip
# What is drawn uniformly, call by call.
DRAWN: Sequence[Sequence[Layers]] = [
    [(4, 1, (1,)), (8, 2, (1, 2)), (12, 1, (1,)), (8, 1, (2,))],
    [(12, 1, (1,))],  # it was there: one more is drawn
    [(4, 2, (2, 2))],
    [(4, 3, (1, 1, 1)), (8, 3, (1, 1, 1))],
]
W, D, R0, R1, R2 = "width", "depth", "layers[0].ratio", "layers[1].ratio", "layers[2].ratio"
KEEP = [0.99]
# Coins by what they are thrown for: a number below 1 against a probability, an index for a choice.
# Without a path they choose parents, of which [0] is the best.
COINS: Mapping[Name, Sequence[float]] = {
    # The parents are (8, 2, (1, 2)) with 30 and (8, 1, (2,)) with 25.
    # 0: of the second; depth is redrawn to 3, so two ratios are drawn: 1 and 2. Width keeps, at 0.4
    # sharp, and the ratio at 0.2 sharp. (8, 3, (2, 1, 2)) has 90 + 280 + 144 + 280 = 794: too many.
    ("mutation", 1, 0): [1], ("mutation", 1, 0, W): [0.4], ("mutation", 1, 0, D): [0.39, 2],
    ("mutation", 1, 0, R0): [0.2], ("mutation", 1, 0, R1): [0], ("mutation", 1, 0, R2): [1],
    # 1: of the first; width is redrawn to 8 again, depth to 1, which drops the second ratio, the
    # first ratio to 2: (8, 1, (2,)) was tried.
    ("mutation", 1, 1): [0], ("mutation", 1, 1, W): [0.1, 1], ("mutation", 1, 1, D): [0.0, 0],
    ("mutation", 1, 1, R0): [0.19, 1],
    # 2: of the first, the first ratio 2: (8, 2, (2, 2)), 650 parameters.
    ("mutation", 1, 2): [0], ("mutation", 1, 2, W): KEEP, ("mutation", 1, 2, D): KEEP,
    ("mutation", 1, 2, R0): [0.0, 1], ("mutation", 1, 2, R1): KEEP,
    # 3: of the second, width 4: (4, 1, (2,)). Two mutants of four tries.
    ("mutation", 1, 3): [1], ("mutation", 1, 3, W): [0.0, 0], ("mutation", 1, 3, D): KEEP,
    ("mutation", 1, 3, R0): KEEP,
    # 0: the parents have other depths, are drawn again, are the first twice: it is tried.
    ("crossover", 1, 0): [0, 1, 0, 0], ("crossover", 1, 0, W): [0], ("crossover", 1, 0, D): [0],
    ("crossover", 1, 0, R0): [1], ("crossover", 1, 0, R1): [0],
    # 1: second and first, 51 times. Depth 1 of the second, ratio 1 of the first: (8, 1, (1,)).
    ("crossover", 1, 1): [1, 0] * 51, ("crossover", 1, 1, W): [1], ("crossover", 1, 1, D): [0],
    ("crossover", 1, 1, R0): [1],
    # The parents are (8, 2, (2, 2)) with 35 and (8, 2, (1, 2)) with 30.
    # 0: width 12: (12, 2, (2, 2)) has 134 + 2 x 612. 1: width 12, depth 1, ratio 1: tried.
    ("mutation", 2, 0): [0], ("mutation", 2, 0, W): [0.3, 2], ("mutation", 2, 0, D): [0.4],
    ("mutation", 2, 0, R0): [0.2], ("mutation", 2, 0, R1): [0.2],
    ("mutation", 2, 1): [0], ("mutation", 2, 1, W): [0.3, 2], ("mutation", 2, 1, D): [0.1, 0],
    ("mutation", 2, 1, R0): [0.1, 0],
    # 2: depth is redrawn and stays, the second ratio 1: (8, 2, (2, 1)).
    ("mutation", 2, 2): [0], ("mutation", 2, 2, W): KEEP, ("mutation", 2, 2, D): [0.1, 1],
    ("mutation", 2, 2, R0): KEEP, ("mutation", 2, 2, R1): [0.1, 0],
    # 3: of the second, width 4: (4, 2, (1, 2)).
    ("mutation", 2, 3): [1], ("mutation", 2, 3, W): [0.3, 0], ("mutation", 2, 3, D): KEEP,
    ("mutation", 2, 3, R0): KEEP, ("mutation", 2, 3, R1): KEEP,
}  # fmt: skip
# Ten crossings of the two that differ in one ratio: each is one of them, so none is made.
AGAIN: Mapping[str, Sequence[float]] = {"": [0, 1], W: [0], D: [1], R0: [0], R1: [1]}


class Coins:
    """Draws as written, all of them and no more."""

    made: ClassVar[list[Coins]] = []

    def __init__(self, seed: int, *name: object) -> None:
        assert seed == 7
        self.made.append(self)
        self.name = name
        self.path = str(name[3]) if len(name) > 3 else ""
        again = name[:2] == ("crossover", 2)
        self.left = list(AGAIN[self.path] if again else COINS[name])

    def choice(self, items: Sequence[Item]) -> Item:
        return items[int(self.left.pop(0))]

    def happens(self, probability: float) -> bool:
        """Published: 0.2 for what a layer takes, 0.4 for the depth and the width."""
        assert probability == (0.2 if "layers" in self.path else 0.4)
        return self.left.pop(0) < probability


def test_evolution_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two generations after the first: of each the candidates in order, and how they were made."""
    drawn = iter(DRAWN)

    def draw(counter: object, n: int, seed: int, where: object = None) -> list[Assignment]:
        given = next(drawn)
        assert len(given) == n
        return [
            {W: w, D: d, **{f"layers[{i}].ratio": r for i, r in enumerate(ratios)}}
            for w, d, ratios in given
        ]

    monkeypatch.setattr(count.Counter, "draw", draw)
    monkeypatch.setattr(evolution, "Stream", Coins)
    monkeypatch.setattr(variation, "Stream", Coins)
    monkeypatch.setattr(Coins, "made", [])
    told = Told(SCORES)  # type: ignore[arg-type]
    engine = Evolution(
        generations=2, population=4, parents=2, mutants=2, crossovers=1, where="params <= 700"
    )
    graph = spacelang.load(Source("<layered>", LAYERED))
    events = list(engine.run(graph, told, seed=7))
    made = [e.candidate for e in events if isinstance(e, Evaluated)]
    assert [(c.generation, c.origin, told.named(c.assignment), c.cost.params) for c in made] == [
        (0, "random", (4, 1, (1,)), 86),
        (0, "random", (8, 2, (1, 2)), 514),
        (0, "random", (12, 1, (1,)), 446),
        (0, "random", (8, 1, (2,)), 370),
        (1, "mutation", (8, 2, (2, 2)), 650),
        (1, "mutation", (4, 1, (2,)), 122),
        (1, "crossover", (8, 1, (1,)), 234),
        (1, "random", (4, 2, (2, 2)), 198),
        (2, "mutation", (8, 2, (2, 1)), 514),
        (2, "mutation", (4, 2, (1, 2)), 162),
        (2, "random", (4, 3, (1, 1, 1)), 166),
        (2, "random", (8, 3, (1, 1, 1)), 522),
    ]
    ended = [e for e in events if isinstance(e, GenerationEnded)]
    assert [(best_of(e), dict(e.tries)) for e in ended] == [
        ((8, 2, (1, 2)), {}),
        ((8, 2, (2, 2)), {"mutation": (2, 4), "crossover": (1, 2)}),
        ((8, 2, (2, 1)), {"mutation": (2, 4), "crossover": (0, 10)}),
    ]
    *_, last = events
    assert best_of(last) == (8, 2, (2, 1))
    # The front over accuracy and parameters, each beaten by none: 50 at 514, 25 at 370,
    # 14 at 198, 12 at 122, 10 at 86.
    assert isinstance(last, Found)
    assert sorted(c.number for c in last.front) == [0, 3, 5, 7, 8]
    assert (last.evaluated, last.exhausted) == (12, False)
    assert {c.name for c in Coins.made if c.name[:2] != ("crossover", 2)} == COINS.keys()
    assert not any(coins.left for coins in Coins.made)


# TinyViT's contraction, as we reconstruct it.

CHAIN = """
space chain {{
  input x: [B, 8]
  choose width in {widths} within 8..32 by 8
  choose depth in {depths} within 1..3
  h = linear(x, width) as stem
  for i in 0..<depth {{ h = linear(h, width) as layers[i] }}
  output linear(h, 2) as head
  weights {{ _: entangle }}
}}
"""


def chain(widths: Iterable[float], depths: Iterable[float]) -> Graph:
    written = ["{" + ", ".join(map(str, values)) + "}" for values in (widths, depths)]
    text = CHAIN.format(widths=written[0], depths=written[1])
    return spacelang.load(Source("<chain>", text))


def test_contraction_by_hand() -> None:
    """One factor by one place; parameters are 9 w + d (w + 1) w + 2 w + 2.

    There are fewer networks within reach than may be tried, so all of them are, in any order.

    1. from (32, 3), 3,522 parameters, to at most 2,500: (24, 3) 2,066, (32, 2) 2,466.
    2. from (32, 2) with 80 and (24, 3) with 70, to at most 1,470: of the first (24, 2) 1,466 and
       (32, 1) 1,410, of the second (16, 3) 994 and (24, 2) once more. (32, 3) is beyond.
    3. from (16, 3) with 65 and (24, 2) with 60, for (32, 1) failed, to at most 1,000: (16, 3)
       itself, of it (8, 3) 306 and (16, 2) 722, of (24, 2) also (24, 1) 866 and (16, 2) once more.
       Two have 58: the cheaper is the best.
    """
    rounds: Sequence[Mapping[Shape, int | None]] = [
        {(24, 3): 70, (32, 2): 80},
        {(24, 2): 60, (32, 1): None, (16, 3): 65},
        {(16, 3): 58, (8, 3): 50, (16, 2): 58, (24, 1): 40},
    ]
    params = [{2066, 2466}, {1466, 1410, 994}, {994, 306, 722, 866}]

    class Rounds(Told):
        def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
            self.scores = dict(rounds[ended()])
            return super().probe(assignments, samples)

    events: list[Event] = []

    def ended() -> int:
        return sum(isinstance(event, GenerationEnded) for event in events)

    told = Rounds({})
    bounds = ("params <= 2500", "params <= 1470", "params <= 1000")
    engine = Contraction(bounds=bounds, population=6, keep=2, factors=1, reach=1)
    for event in engine.run(chain([8, 16, 24, 32], [1, 2, 3]), told, seed=0):
        events.append(event)
    made = [e.candidate for e in events if isinstance(e, Evaluated)]
    for number, wanted in enumerate(rounds):
        tried = [c for c in made if c.generation == number]
        assert len(tried) == len(wanted)
        assert {told.named(c.assignment) for c in tried} == wanted.keys()
        assert {c.cost.params for c in tried} == params[number]
    assert told.asked[5] == (16, 3), "a base within the bound is the first of its round"
    best = [best_of(e) for e in events if isinstance(e, GenerationEnded)]
    assert best == [(32, 2), (16, 3), (16, 2)]
    *_, last = events
    assert best_of(last) == (16, 2)
    assert isinstance(last, Found)
    assert last.evaluated == 9


def test_how_far_a_contraction_reaches_by_hand() -> None:
    """Two factors by two places: of (32, 3) all but width 8, which is three places away."""
    told = Told({(w, d): w + d for w in (16, 24, 32) for d in (1, 2, 3)})
    engine = Contraction(population=12, factors=2, reach=2)
    list(engine.run(chain([8, 16, 24, 32], [1, 2, 3]), told, seed=0))
    assert told.asked[0] == (32, 3)
    assert sorted(told.asked) == [
        (16, 1), (16, 2), (16, 3), (24, 1), (24, 2), (24, 3), (32, 1), (32, 2), (32, 3),
    ]  # fmt: skip


# S3's search of spaces, as we reconstruct it.

SPACES: Sequence[Mapping[Shape, int]] = [
    {(16, 1): 60, (16, 2): 62, (24, 1): 64, (24, 2): 70},
    {(24, 2): 60, (24, 3): 69, (32, 2): 61, (32, 3): 68},
    {(24, 3): 70, (32, 3): 60},
    {(8, 3): 71, (16, 3): 75},
]


class Spaces(Told):
    """A trainer whose scores are those of the space that it is in."""

    def __init__(self) -> None:
        super().__init__(dict(SPACES[0]))
        self.number = self.taken = self.inherited = 0
        self.ends: list[list[tuple[object, ...]]] = []

    def named(self, assignment: Assignment) -> tuple[object, ...]:
        return assignment["width"], assignment.get("depth", 3)  # 3 where nothing else is left

    def steps(self, data: str) -> int:
        return 1

    def step(self, plan: StepPlan) -> Metrics:
        self.taken += 1
        self.ends.append([self.named(forward.assignment) for forward in plan.forwards[:2]])
        return Metrics(1.0, {}, 0, 1, 0.1)

    def space(self, ranges: Mapping[str, Sequence[float]]) -> Graph:
        return chain(ranges["width"], ranges["depth"])

    def rebuild(self, ranges: Mapping[str, Sequence[float]], inherit: bool) -> Graph:
        assert inherit
        self.number += 1
        self.taken, self.inherited = 0, 100 * self.number
        self.scores = dict(SPACES[self.number])
        return self.space(ranges)


def test_space_evolution_by_hand() -> None:
    """Of the seeds from 0 on, 180 is the first whose four draws of each space have all of its
    networks equally often. An error is 100 - score; the E-T error of a candidate is half the mean
    of all with it and half the best one (top = 1); a step is 4 points a candidate.

    1. width 16: (39 + 38) / 2 = 38.5, 24: (33 + 30) / 2 = 31.5; -7, 1.75 steps, one: 24 and 32.
       depth 1: (38 + 36) / 2 = 37, 2: (34 + 30) / 2 = 32; -5, 1.25 steps, one: 2 and 3.
    2. width 24: (35.5 + 31) / 2 = 33.25, 32: (35.5 + 32) / 2 = 33.75; 0.5: it stays.
       depth 2: (39.5 + 39) / 2 = 39.25, 3: (31.5 + 31) / 2 = 31.25; -8, two steps, 4 and 5: these
       are outside of the hull, and so is all; one step leaves 3.
    3. width 24: 30, 32: 40; +10, 2.5 steps, two down: 8 and 16. Of depth one candidate is left.

    So the spaces have 4, 4, 2 and 2 networks, each shares 1, 2 and none with the next, and the best
    of the last one is what is found.
    """
    trainer = Spaces()
    engine = SpaceEvolution(
        iterations=3, epochs=1, paths=1, probes=4, top=1, threshold=4.0, inherit=True,
        generations=1, population=4, parents=2, mutants=1, crossovers=1,
    )  # fmt: skip
    events = list(engine.run(chain([16, 24], [1, 2]), trainer, seed=180))
    moves = [e for e in events if isinstance(e, SpaceMoved)]
    assert [dict(m.before) for m in moves] == [
        {"width": [16, 24], "depth": [1, 2]},
        {"width": [24, 32], "depth": [2, 3]},
        {"width": [24, 32], "depth": [3]},
    ]
    assert [dict(m.after) for m in moves] == [
        {"width": [24, 32], "depth": [2, 3]},
        {"width": [24, 32], "depth": [3]},
        {"width": [8, 16], "depth": [3]},
    ]
    assert [dict(m.slopes) for m in moves] == [
        {"width": pytest.approx(-7.0), "depth": pytest.approx(-5.0)},
        {"width": pytest.approx(0.5), "depth": pytest.approx(-8.0)},
        {"width": pytest.approx(10.0), "depth": 0.0},
    ]
    both = {"width": (2, 2), "depth": (2, 2)}
    assert [dict(m.networks) for m in moves] == [both, both, {"width": (2, 2)}]
    assert [(m.sizes, m.inherited) for m in moves] == [((4, 4), 100), ((4, 2), 200), ((2, 2), 300)]
    assert [m.shared for m in moves] == [1, 2, 0]
    # The largest and the smallest of each space are in every step of its training.
    assert trainer.ends == [
        [(24, 2), (16, 1)], [(32, 3), (24, 2)], [(32, 3), (24, 3)], [(16, 3), (8, 3)],
    ]  # fmt: skip
    scored = [4, 4, 2, 2]
    for space in SPACES:
        tried, trainer.asked = trainer.asked[: len(space)], trainer.asked[len(space) :]
        assert sorted(tried) == sorted(space)
    *_, last = events
    assert isinstance(last, Found)
    assert trainer.named(last.best.assignment) == (16, 3)
    assert last.best.score.correct == 75
    assert (last.evaluated, last.exhausted) == (sum(scored), True)
