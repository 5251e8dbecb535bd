"""What is taken below a use of a block: decisions by their path in it, and those of cells."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from spacelang.ir.graph import Graph, Instance

Taken = TypeVar("Taken")


def _has_cells(graph: Graph) -> bool:
    """Whether any call takes its decisions under a name of the root's."""
    return any(
        node.call is not None and node.call.decide.startswith("/")
        for block in (graph.root, *graph.blocks.values())
        for node in block.everywhere()
    )


class Below(Generic[Taken]):
    """What is taken of decisions by their paths, of which each use of a block sees its own."""

    def __init__(self, graph: Graph, taken: Mapping[str, Taken]) -> None:
        self.taken, self._cells = taken, _has_cells(graph)
        self._sorted = sorted(taken)

    def of(self, instance: Instance) -> tuple[tuple[str, Taken], ...]:
        """What is taken inside a use: its own by their path in it, a cell's from the root (`/..`).

        A network of many uses asks this of each, so the paths are looked up, not walked.
        """
        decide = instance.decide
        if not decide:
            return tuple(self.taken.items())
        own = [path for sign in ".[" for path in self._under(decide + sign)]
        found = [(path[len(decide) :], self.taken[path]) for path in own]
        if self._cells:
            mine = set(own)
            found += [("/" + path, v) for path, v in self.taken.items() if path not in mine]
        return tuple(found)

    def _under(self, prefix: str) -> Iterator[str]:
        for position in range(bisect_left(self._sorted, prefix), len(self._sorted)):
            if not self._sorted[position].startswith(prefix):
                return
            yield self._sorted[position]
