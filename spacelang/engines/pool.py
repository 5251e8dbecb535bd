"""The architectures of a space within a budget, each handed out at most once.

    pool = Pool(graph, "params <= 6M", seed=0)
    pool.draw(50, "random", 0)             # 50 that were not taken, exactly uniform
    pool.take(assignment)                  # its cost, or None: outside the budget or taken before

What lies outside the budget is remembered too, so that nothing is costed twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from spacelang.analysis.cost import Cost
from spacelang.analysis.queries import counter, model, parsed
from spacelang.analysis.where import Where
from spacelang.engines.stream import seed_of
from spacelang.ir.decision import Assignment, Choice, Decisions
from spacelang.ir.dim import Value
from spacelang.ir.graph import Graph

Taken = tuple[Assignment, Cost]


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
    """What is left to try of a space under a budget (SP502 if there is nothing from the start)."""

    def __init__(self, space: Graph, where: str = "", seed: int = 0) -> None:
        self.space, self.where, self.seed = space, where, seed
        self._model = model(space)
        counted = counter(space)
        self._wanted: Where = counted.required.both(parsed(space, where) or Where())
        self._taken: set[str] = set()
        self._rejected: set[str] = set()
        size = space.size(where)
        # Where only bounds are known the space is far larger than any search.
        self.size: int | None = size if isinstance(size, int) else None
        if self.size == 0:
            raise counted.empty(self._wanted)

    @property
    def exhausted(self) -> bool:
        """Whether every architecture within the budget was taken."""
        return self.size is not None and len(self._taken) >= self.size

    def cost(self, values: Mapping[str, Value]) -> Cost | None:
        """The cost of an architecture given by values of all decisions; None beyond the budget."""
        if not all(condition.at(values) for condition in self._wanted.conditions):
            return None
        cost = self._model.at(values)
        for figure, (low, high) in self._wanted.bands.items():
            reached: int = getattr(cost, figure)
            if (low is not None and reached < low) or (high is not None and reached > high):
                return None
        return cost

    def take(self, assignment: Assignment) -> Taken | None:
        """The architecture with its cost, once; None if it lies outside or was taken before."""
        name = encoding(assignment)
        if name in self._taken or name in self._rejected:
            return None
        cost = self.cost(self.space.decisions.check(assignment))
        if cost is None:
            self._rejected.add(name)
            return None
        self._taken.add(name)
        return assignment, cost

    def draw(self, count: int, *name: int | str) -> list[Taken]:
        """Up to `count` architectures not yet taken, uniform over those; fewer if no more are left.

        The draws are a function of the seed and the name alone.
        """
        found: list[Taken] = []
        turn = 0
        while len(found) < count and not self.exhausted:
            seed = seed_of(self.seed, "pool", *name, turn)
            for assignment in self.space.sample(count, seed, self.where):
                if len(found) == count:
                    break
                taken = self.take(assignment)
                if taken is not None:
                    found.append(taken)
            turn += 1
        return found
