"""One architecture op by op: what each takes, by a latency table, and what it makes and computes.

    found = Profile.of(graph, assignment, table)
    found.by_block(depth=1); found.by_op(); found.peak

Times are those of the table, as measured one by one: they add up to the *sum* that the fit of the
table makes a latency of. An op's parameters are counted where they are read first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spacelang.analysis.activation_memory import Step, liveness
from spacelang.analysis.latency import LatencyModel
from spacelang.analysis.latency_table import LatencyTable
from spacelang.analysis.operations import operation
from spacelang.analysis.queries import model
from spacelang.analysis.traffic import at
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph, Place
from spacelang.ir.node import join

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Part:
    """An op that runs, or several together: nanoseconds, multiply-accumulates of the batch,
    parameters, and bytes of results; `live` are those held while it runs, at their most."""

    path: str
    op: str
    count: int
    ns: float
    macs: int
    params: int
    made: int
    live: int

    @property
    def rate(self) -> float:
        """GFLOP/s; a multiply-accumulate is two operations."""
        return 2 * self.macs / self.ns if self.ns else 0.0


@dataclass(frozen=True)
class Profile:
    """The ops that run, in order."""

    parts: tuple[Part, ...]

    @staticmethod
    def of(graph: Graph, assignment: Assignment, table: LatencyTable) -> Profile:
        """SP512 for an op that the table lacks."""
        batch = table.facts.batch
        values = at(graph, assignment, batch)
        costs = model(graph)
        params: dict[tuple[str, str], int] = {}
        for row in costs.per_op(values):
            params[row.path, row.op] = params.get((row.path, row.op), 0) + row.params
        lacks = LatencyModel(graph, table).lacks

        def part(step: Step) -> Part:
            instance, node = step.instance, step.node
            path = join(instance.path, node.label) or node.op
            made = operation(instance, node, values, table.facts.form)
            ns = 0.0
            if made is not None:
                if made.signature not in table.entries:
                    raise lacks([made.signature])
                ns = table.entries[made.signature]
            macs = int(costs.of_node(Place(instance, node))[0].at(values)) * batch
            owned = params.pop((path, node.op), 0)
            return Part(path, node.op, 1, ns, macs, owned, step.made, step.live)

        steps = liveness(graph, values, WIDTHS[table.facts.dtype])
        return Profile(tuple(map(part, steps)))

    @property
    def total(self) -> Part:
        return _together("", "", self.parts)

    @property
    def peak(self) -> int:
        """The most bytes of activations that are held at once."""
        return max((part.live for part in self.parts), default=0)

    def by_block(self, depth: int) -> tuple[Part, ...]:
        """The first `depth` words of a path together, in the order of the network."""
        return self._grouped(lambda part: (_above(part.path, depth), ""))

    def by_op(self) -> tuple[Part, ...]:
        """The slowest first."""
        found = self._grouped(lambda part: ("", part.op))
        return tuple(sorted(found, key=lambda part: -part.ns))

    def of_block(self, path: str, depth: int) -> Profile:
        """The ops of one row of `by_block`."""
        return Profile(tuple(p for p in self.parts if _above(p.path, depth) == path))

    def _grouped(self, key: Callable[[Part], tuple[str, str]]) -> tuple[Part, ...]:
        found: dict[tuple[str, str], list[Part]] = {}
        for part in self.parts:
            found.setdefault(key(part), []).append(part)
        return tuple(_together(*name, parts) for name, parts in found.items())


def _together(path: str, op: str, parts: Sequence[Part]) -> Part:
    return Part(
        path,
        op,
        len(parts),
        sum(part.ns for part in parts),
        sum(part.macs for part in parts),
        sum(part.params for part in parts),
        sum(part.made for part in parts),
        max((part.live for part in parts), default=0),
    )


def _above(path: str, depth: int) -> str:
    """encoder[3].attn.qkv at depth 1 -> encoder[3]"""
    return ".".join(path.split(".")[:depth])
