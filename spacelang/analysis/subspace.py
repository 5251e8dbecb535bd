"""Sub-spaces: sets of architectures of one graph, and their algebra with exact sizes.

    whole = Subspace(graph)
    small = whole.restrict({"width": (8, 12)}, where="params <= 90K")
    (small & other).size, (small | other).size, (small - other).size
    small <= other, small.witness(other)     # an architecture of small that other has not, or None

A sub-space is a union of parts that have nothing in common, each of them what meets some bands of
figures and conditions on decisions (`Budget`). What a part does not meet is again such parts, so
the results are sub-spaces too, and a size is the sum of exact counts. A range bounds a decision
where it is live: a network of two layers is in every range of the third.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spacelang.analysis.budget import Budget
from spacelang.analysis.queries import countable, counter, parsed
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.condition import Condition, disjunction, is_value, negate
from spacelang.ir.dim import Value
from spacelang.ir.figures import Between
from spacelang.ir.graph import Graph

if TYPE_CHECKING:
    from spacelang.ir.decision import Assignment


@dataclass(frozen=True, eq=False)
class Subspace:
    """Some architectures of a graph; of the graph alone, all of them.

    Two are compared as sets, `a <= b` and `a >= b`, by counting. SP701 for those of two graphs;
    where exact tables do not fit into memory, a size is bounds and what hangs on one is SP507.
    """

    graph: Graph
    parts: tuple[Budget, ...] = (Budget(),)

    def restrict(
        self, ranges: Mapping[str, Iterable[object]] | None = None, where: str = ""
    ) -> Subspace:
        """Those with these candidates, by the path of a decision, and within a budget.

        `narrow(graph, ranges)` is the network of the same ranges. SP504 for a path that is no
        decision's, SP501 for what is no candidate or for none at all, SP508 for a budget that
        cannot be counted.
        """
        asked = countable(parsed(self.graph, where)) or Budget()
        bounds = Budget(asked.bands, (*asked.conditions, *_within(self.graph, ranges or {})))
        return self & Subspace(self.graph, (bounds,))

    def __and__(self, other: Subspace) -> Subspace:
        self._same(other)
        return Subspace(self.graph, tuple(_meets(self.parts, other.parts)))

    def __sub__(self, other: Subspace) -> Subspace:
        self._same(other)
        left = self.parts
        for taken in other.parts:
            left = tuple(rest for part in left for rest in _outside(part, taken))
        return Subspace(self.graph, left)

    def __or__(self, other: Subspace) -> Subspace:
        return Subspace(self.graph, (*self.parts, *(other - self).parts))

    @property
    def size(self) -> int | Between:
        """How many architectures it has: exactly, or between exact bounds."""
        sizes = [counter(self.graph).size(part) for part in self.parts]
        low = sum(size if isinstance(size, int) else size.lower for size in sizes)
        high = sum(size if isinstance(size, int) else size.upper for size in sizes)
        return low if low == high else Between(low, high)

    def witness(self, other: Subspace | None = None) -> Assignment | None:
        """An architecture that `other` has not, or any, always the same one; None where there is
        none, which is proved."""
        left = self if other is None else self - other
        for part in left.parts:
            try:
                return counter(self.graph).draw(1, 0, part)[0]
            except SpaceError as failed:
                if failed.diagnostics[0].code != "SP502":
                    raise
        return None

    def __le__(self, other: Subspace) -> bool:
        return self.witness(other) is None

    def __ge__(self, other: Subspace) -> bool:
        return other <= self

    def __contains__(self, assignment: Mapping[str, object]) -> bool:
        """Whether an architecture is in it (SP504, SP501, SP506 for what is none of the graph)."""
        known = counter(self.graph)
        taken = self.graph.decisions.check(assignment)
        live = {choice.path for choice in self.graph.decisions.live(taken)}
        # As counting has it: one order of a pick, and the first candidate of what is not live.
        values = {
            path: choice.values[0] if path not in live else _ordered(taken[path])
            for path, choice in self.graph.decisions.items()
        }
        return any(known.meets(values, known.required.meet(part)) for part in self.parts)

    def _same(self, other: Subspace) -> None:
        if self.graph is not other.graph and self.graph.hash != other.graph.hash:
            names = f"{self.graph.name} and {other.graph.name}"
            found = error("SP701", f"sub-spaces of two graphs, {names}, have nothing to compare")
            raise SpaceError(found.hint("restrict both in one graph that has the ranges of both"))


def _ordered(value: Value) -> Value:
    return tuple(sorted(value)) if isinstance(value, tuple) else value


def _within(graph: Graph, ranges: Mapping[str, Iterable[object]]) -> Iterator[Condition]:
    """A condition for each range: the decision is not live, or takes one of the candidates."""
    for path, values in graph.decisions.ranges(ranges).items():
        choice = graph.decisions[path]
        if values != choice.values:
            taken = (is_value(choice.symbol, value) for value in values)
            yield disjunction(negate(choice.live), *taken)


def _meets(parts: Iterable[Budget], others: tuple[Budget, ...]) -> Iterator[Budget]:
    """What parts have in common with others, pair by pair."""
    for part in parts:
        for other in others:
            met = part.meet(other)
            if _possible(met):
                yield Budget(met.bands, tuple(dict.fromkeys(met.conditions)))


def _outside(part: Budget, taken: Budget) -> Iterator[Budget]:
    """What is left of a part: parts that meet some bounds of another, and break the next."""
    met = part
    for figure, (low, high) in taken.bands.items():
        beyond = (
            *([Budget({figure: (None, low - 1)})] if low is not None else []),
            *([Budget({figure: (high + 1, None)})] if high is not None else []),
        )
        yield from _meets([met], beyond)
        met = met.meet(Budget({figure: (low, high)}))
    for condition in taken.conditions:
        yield from _meets([met], (Budget(conditions=(negate(condition),)),))
        met = met.meet(Budget(conditions=(condition,)))


def _possible(part: Budget) -> bool:
    """Whether bounds do not exclude each other by their form alone: what saves a count of none."""
    if any(
        low is not None and high is not None and low > high for low, high in part.bands.values()
    ):
        return False
    return not any(negate(condition) in part.conditions for condition in part.conditions)
