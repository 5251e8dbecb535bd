"""The architectures of a space within a budget, each handed out at most once.

    pool = Pool(graph, "params <= 6M", seed=0)
    pool.draw(50, "random", 0)             # 50 that were not taken, exactly uniform
    pool.take(assignment)                  # its cost, or None: outside the budget or taken before
    pool.by_choices(1000, "probes", 0)     # each decision drawn by itself; none of them is taken
    pool = Pool(graph, "latency <= 5ms", seed=0, latency="table.json")

What lies outside the budget is remembered too, so that nothing is costed twice. Latency, and the
throughput that it comes to, are what the model of a table says (`analysis/latency.py`). No exact
count knows them: architectures are drawn uniformly within the rest of the budget, and those outside
of the window are rejected, which leaves the draws uniform over those inside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from spacelang.analysis.budget import Band, Budget
from spacelang.analysis.latency import LatencyModel, open_model
from spacelang.analysis.latency_table import shown
from spacelang.analysis.queries import counter, model, parsed
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.stream import seed_of
from spacelang.ir.decision import Assignment, Choice, Decisions
from spacelang.ir.dim import Value
from spacelang.ir.figures import Cost
from spacelang.ir.graph import Graph

if TYPE_CHECKING:
    from spacelang.analysis.choices import Weights

Taken = tuple[Assignment, Cost]
Name = tuple[int | str, ...]
MISSES = 10_000
"""Draws in a row that may all give nothing new, where nobody knows how much is left."""
AT_ONCE = 256  # draws, where most of them may be rejected
REDRAWS = 10_000  # of a law, until the budget is met
FEW = 50  # of those, until it is met exactly


def encoding(assignment: Assignment) -> str:
    """The one text of an architecture."""
    return json.dumps(dict(assignment), sort_keys=True, separators=(",", ":"))


def assemble(decisions: Decisions, take: Callable[[Choice], Value]) -> Assignment:
    """An architecture made decision by decision, each asked for only where it is live."""
    taken: dict[str, Value] = {}
    for choice in decisions.order:
        needed = {symbol.name for symbol in choice.live.symbols}
        if needed <= taken.keys() and choice.live.at(taken):
            taken[choice.path] = take(choice)
    return decisions.assignment(decisions.complete(taken))


class Pool:
    """What is left to try of a space under a budget (SP502 if there is nothing from the start).

    `latency` is the file of a table, which a budget on latency or throughput needs (SP508 without
    one, SP702 for what is none, SP512 for one that lacks operations of the space).
    """

    def __init__(self, space: Graph, where: str = "", seed: int = 0, latency: str = "") -> None:
        self.space, self.where, self.seed = space, where, seed
        self._model = model(space)
        self._counter = counter(space)
        wanted = parsed(space, where) or Budget()
        self._window = _window(space, wanted, latency)
        self._asked = wanted.exact
        self._wanted: Budget = self._counter.required.meet(self._asked)
        self._taken: set[str] = set()
        self._rejected: set[str] = set()
        self._outside = 0  # of the window alone
        self._latencies: tuple[int, int] | None = None  # the least and the largest seen
        self.inexact: tuple[str, ...] = ()  # why no draw of a law is made that meets the budget
        size = self._counter.size(self._asked)
        self.size: int | None = size if isinstance(size, int) else None
        if self.size == 0:
            raise self._counter.empty(self._wanted)

    @property
    def exhausted(self) -> bool:
        """Whether every architecture within the budget was taken."""
        return self.size is not None and len(self._taken) + self._outside >= self.size

    def _in_time(self, values: Mapping[str, Value]) -> bool:
        """Whether an architecture is within the window of latency."""
        if self._window is None:
            return True
        timed, (low, high) = self._window
        latency = timed.at(values)
        least, most = self._latencies or (latency, latency)
        self._latencies = min(least, latency), max(most, latency)
        return (low is None or low <= latency) and (high is None or latency <= high)

    def cost(self, values: Mapping[str, Value]) -> Cost | None:
        """The cost of an architecture given by values of all decisions; None beyond the budget, its
        window of latency aside."""
        if not all(condition.at(values) for condition in self._wanted.conditions):
            return None
        cost = self._model.at(values)
        for figure, (low, high) in self._wanted.bands.items():
            reached: int = getattr(cost, figure)
            if (low is not None and reached < low) or (high is not None and reached > high):
                return None
        return cost

    def excess(self, assignment: Assignment) -> float:
        """How far an architecture is beyond the budget: the shares by which figures miss their
        bounds, and 1 for each condition that does not hold."""
        values = self.space.decisions.check(assignment)
        cost = self._model.at(values)
        reached = [(getattr(cost, figure), band) for figure, band in self._wanted.bands.items()]
        if self._window is not None:
            reached.append((self._window[0].at(values), self._window[1]))
        unmet = sum(not condition.at(values) for condition in self._wanted.conditions)
        return unmet + sum(_share(figure, band) for figure, band in reached)

    def take(self, assignment: Assignment) -> Taken | None:
        """The architecture with its cost, once; None if it lies outside or was taken before."""
        name = encoding(assignment)
        if name in self._taken or name in self._rejected:
            return None
        values = self.space.decisions.check(assignment)
        cost = self.cost(values)
        if cost is None or not self._in_time(values):
            self._outside += cost is not None
            self._rejected.add(name)
            return None
        self._taken.add(name)
        return assignment, cost

    def draw(self, count: int, *name: int | str) -> list[Taken]:
        """Up to `count` architectures not yet taken, uniform over those; fewer if no more are left.

        Where it is not known how many are left, under a window of latency or a budget of which
        only bounds are counted, also fewer if `MISSES` draws in a row gave none. The draws are a
        function of the seed and the name alone. SP502 where a window of latency was never met.
        """
        found: list[Taken] = []
        turn, missed = 0, 0
        known = self._window is None and self.size is not None
        at_once = count if known else max(count, AT_ONCE)
        while len(found) < count and not self.exhausted and missed < MISSES:
            seed = seed_of(self.seed, "pool", *name, turn)
            for assignment in self._counter.draw(at_once, seed, self._asked):
                if len(found) == count:
                    break
                taken = self.take(assignment)
                if taken is not None:
                    found.append(taken)
                missed = 0 if taken is not None or known else missed + 1
            turn += 1
        if count and not self._taken:
            raise self.never_met(missed)
        return found

    def by_choices(self, count: int, *name: int | str) -> list[Taken]:
        """Independent draws within the budget, each of which takes every decision by itself, all
        candidates alike; one may come again, and none is taken.

        Under a window of latency fewer if `MISSES` draws in a row lie outside, and SP502 where it
        was never met. SP507 where few meet the budget and no exact table fits.
        """
        found: list[Taken] = []
        turn, missed = 0, 0
        at_once = count if self._window is None else max(count, AT_ONCE)
        while len(found) < count and missed < MISSES:
            seed = seed_of(self.seed, "choices", *name, turn)
            for assignment in self._counter.draw(at_once, seed, self._asked, "choices"):
                values = self.space.decisions.check(assignment)
                cost = self.cost(values)
                missed += 1
                if cost is not None and self._in_time(values):
                    found.append((assignment, cost))
                    missed = 0
            turn += 1
        if count and not found:
            raise self.never_met(missed)
        return found[:count]

    def redrawn(
        self,
        draw: Callable[[int], Assignment],
        weights: Callable[[], Weights],
        *name: int | str,
    ) -> Taken | None:
        """The first of the draws, by number, within the budget, whether it was taken or not.

        They take every decision by itself, each candidate as its weight says (all alike where there
        is none). Where a FEW miss the budget one is drawn that meets it, by the same law exactly,
        however narrow it is. None where no such draw can be made, which `inexact` says why, and all
        miss. SP502 where what meets the budget has no weight.
        """
        for assignment in self._draws(draw, weights, name):
            cost = self.cost(self.space.decisions.check(assignment))
            if cost is not None:
                return assignment, cost
        return None

    def _draws(
        self, draw: Callable[[int], Assignment], weights: Callable[[], Weights], name: Name
    ) -> Iterator[Assignment]:
        for number in range(REDRAWS):
            if number == FEW:
                yield from self._met(weights(), name)
            yield draw(number)

    def _met(self, weights: Weights, name: Name) -> Sequence[Assignment]:
        """A draw by choices that meets the budget; none where no exact table fits."""
        try:
            return self._counter.by_choices.exact(1, seed_of(*name, "met"), self._asked, weights)
        except SpaceError as failed:
            found = failed.diagnostics[0]
            if found.code != "SP507":
                raise
            self.inexact = (f"none that meets it is drawn: {found.headline}", *found.notes)
            return ()

    def never_met(self, draws: int) -> SpaceError:
        """SP502 for a window of latency, with what was seen."""
        headline = f"none of {draws:,} architectures drawn takes the time asked for"
        return SpaceError(error("SP502", headline).note(f"in {self.where!r}", *self.seen))

    @property
    def seen(self) -> tuple[str, ...]:
        """The latencies that were asked for so far, and by what model, in words."""
        if self._window is None or self._latencies is None:
            return ()
        timed = self._window[0]
        least, most = map(shown, self._latencies)
        fast, slow = map(timed.throughput, self._latencies)
        seen = f"latencies of {least} to {most} were seen, {fast:,} to {slow:,} images a second"
        return seen, f"{timed.name}: {timed.stated}"


def _share(figure: int, band: Band) -> float:
    """By what share of a bound a figure misses it."""
    low, high = band
    if low is not None and figure < low:
        return (low - figure) / low
    return (figure - high) / max(high, 1) if high is not None and figure > high else 0.0


def _window(space: Graph, wanted: Budget, table: str) -> tuple[LatencyModel, Band] | None:
    """The model, and the window of latency that a budget leaves."""
    if not wanted.timed:
        return None
    if not table:
        found = error("SP508", "a budget on time needs a table of what operations take")
        raise SpaceError(
            found.hint("--latency TABLE.json, which `spacelang profile SPACE -o TABLE.json` writes")
        )
    timed = open_model(space, table)
    return timed, wanted.window(timed.table.facts.batch)
