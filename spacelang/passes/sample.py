"""Path sampling as a pass: one architecture of a space, the same IR with nothing left to decide.

    sample{seed=3}            one at random, by the law of `spacelang sample`: uniform
    sample{take=largest}      the one with the largest value of every decision; or smallest

`specialize` does the same for an architecture that is given, from Python or as a `subnet`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from spacelang.diagnostics import Diagnostic, Report, error, spelt
from spacelang.ir.graph import Graph
from spacelang.passes.base import Pass
from spacelang.passes.specialize import specialize

TAKES = ("random", "largest", "smallest")


@dataclass(frozen=True)
class Sample(Pass):
    """`take` says which architecture; a random one is that of `seed`."""

    name: ClassVar[str] = "sample"
    preserves: ClassVar[frozenset[str]] = frozenset()

    seed: int = 0
    take: str = "random"

    def run(self, graph: Graph, report: Report) -> Graph:
        """The network of the architecture. SP601 where nothing is decided."""
        report.extend(self._mistakes())
        if not graph.decisions:
            report.add(error("SP601", f"sample finds no decision in {graph.name}: it is a network"))
        report.check()
        if self.take == "random":
            (assignment,) = graph.sample(1, seed=self.seed)
        else:
            which = "largest" if self.take == "largest" else "smallest"
            assignment = graph.decisions.extreme(which)
        return specialize(graph, assignment)

    def _mistakes(self) -> Iterator[Diagnostic]:
        if not any(self.take == known for known in TAKES):
            wanted = ", ".join(TAKES)
            yield error("SP209", f"sample: take must be one of {wanted}, not {spelt(self.take)}")
        if not _counts(self.seed):
            yield error("SP209", f"sample: seed must be a whole number, not {spelt(self.seed)}")


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
