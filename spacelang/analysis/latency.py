"""Latency: what a network takes on a device, from what its operations took there one by one.

    table = read_table("table.json"); model = LatencyModel(graph, table)
    model.at(graph.decisions.check(assignment))      # nanoseconds, a few thousand times a second

    latency = scale * (the sum over the operations that run) + offset

The additive model of MnasNet and ProxylessNAS, whose sum is fitted to networks measured as a whole.
Its error on networks that the fit has not seen is in the table, and is told wherever it is used.
Where networks were deployed, batch norms and what follows from weights alone are no operations;
what else `deploy` joins the fit makes up for, as far as the error says. Fit and error are those of
the graph's own networks; where a table has none, that is told.
A signature (`operations.py`) that the table does not hold is SP512, never a guess.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

from spacelang.analysis.latency_table import EXTRACTED, Fit, LatencyTable, read_table
from spacelang.analysis.operations import Operation, decided_by, operation
from spacelang.analysis.traffic import at as values_at
from spacelang.diagnostics import SpaceError, error
from spacelang.files import PathLike
from spacelang.ir.condition import Condition
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.graph import Graph, Instance
from spacelang.ir.node import Node

POINTS = 4096  # values of the decisions of one node
SIGNATURES = 20_000  # of one space


@dataclass(frozen=True)
class Group:
    """Nodes that are there together and whose signatures hang on the same decisions."""

    guards: tuple[Condition, ...]
    paths: tuple[str, ...]
    nodes: tuple[tuple[Instance, Node], ...]

    def operations(
        self, values: Mapping[str, DecisionValue], form: str = EXTRACTED
    ) -> Iterator[Operation]:
        """What the nodes compute, whether or not they are there."""
        for instance, node in self.nodes:
            made = operation(instance, node, values, form)
            if made is not None:
                yield made


def groups(graph: Graph) -> tuple[Group, ...]:
    """All that an architecture may compute in evaluation."""
    found: dict[tuple[tuple[Condition, ...], tuple[str, ...]], list[tuple[Instance, Node]]] = {}
    for place in graph.places(inference=True):
        paths = tuple(sorted(s.name for s in decided_by(place.instance, place.node)))
        found.setdefault((place.guards, paths), []).append((place.instance, place.node))
    return tuple(Group(*key, tuple(nodes)) for key, nodes in found.items())


def operations(
    graph: Graph, values: Mapping[str, DecisionValue], form: str = EXTRACTED
) -> Iterator[Operation]:
    """What an architecture computes, in order; `values` as `traffic.at` gives them."""
    for place in graph.places(inference=True):
        if all(guard.at(values) for guard in place.guards):
            made = operation(place.instance, place.node, values, form)
            if made is not None:
                yield made


def every_operation(graph: Graph, batch: int, form: str = EXTRACTED) -> dict[str, Operation]:
    """All that any architecture computes, by signature (SP507 where that is too much to list)."""
    found: dict[str, Operation] = {}
    free = values_at(graph, None, batch)
    for group in graph.memo("latency groups", groups):
        lists = [graph.decisions[path].values for path in group.paths]
        if prod(map(len, lists)) > POINTS:
            raise _too_many(graph, f"an operation hangs on {len(lists)} decisions at once")
        known = [g for g in group.guards if {s.name for s in g.symbols} <= {*group.paths}]
        for point in product(*lists):
            values = {**free, **dict(zip(group.paths, point, strict=True))}
            if all(guard.at(values) for guard in known):
                found |= {made.signature: made for made in group.operations(values, form)}
        if len(found) > SIGNATURES:
            raise _too_many(graph, f"more than {SIGNATURES:,} operations differ")
    return found


def _too_many(graph: Graph, reason: str) -> SpaceError:
    found = error("SP507", f"the operations of {graph.name} cannot be listed: {reason}")
    return SpaceError(found.hint("measure those of some networks: --random 100"))


class LatencyModel:
    """The latency of every architecture of a graph, by a table.

    SP512 at once where the table lacks an operation that some architecture has, as far as the
    operations of the space can be listed; else when an architecture has it.
    """

    def __init__(self, graph: Graph, table: LatencyTable, name: str = "the table") -> None:
        self.graph, self.table, self.name = graph, table, name
        self._free = values_at(graph, None, table.facts.batch)
        self._groups = graph.memo("latency groups", groups)
        self._sums: list[dict[tuple[DecisionValue, ...], float]] = [{} for _ in self._groups]

    @cached_property
    def _own(self) -> LatencyTable:
        return self.table.of(self.graph.hash)

    @cached_property
    def _fit(self) -> Fit:
        """By the networks of the graph; by those of other spaces where none of its own is there."""
        return (self._own if self._own.networks else self.table).fit

    @property
    def stated(self) -> str:
        """The error on networks of the graph in words, for wherever a latency is shown."""
        if self._own.networks:
            return self._own.stated
        others = len(self.table.networks)
        by = f"; the fit is of {others} of other spaces" if others else ""
        return f"no network of {self.graph.name} was measured as a whole{by}, the error not known"

    def check(self) -> None:
        """SP512 with the first of the operations of the space that the table lacks, if it does."""
        try:
            every = every_operation(self.graph, self.table.facts.batch, self.table.facts.form)
        except SpaceError:  # too many to list: each is asked for when it is met
            return
        lacking = [signature for signature in every if signature not in self.table.entries]
        if lacking:
            raise self.lacks(lacking, len(every))

    def lacks(self, signatures: Sequence[str], of: int = 0) -> SpaceError:
        """SP512 for operations that were not measured."""
        count = f"{len(signatures)} of {of} operations" if of else "an operation"
        facts = self.table.facts
        command = (
            f"spacelang profile SPACE -o {self.name} --batch {facts.batch} "
            f"--threads {facts.threads} --dtype {facts.dtype}"
        )
        command += "" if facts.form == EXTRACTED else " --for inference"
        found = error("SP512", f"{self.name} lacks {count} of {self.graph.name}")
        found = found.note(f"as {signatures[0]}")
        return SpaceError(found.hint(f"measure what is missing: {command}"))

    def sum(self, values: Mapping[str, DecisionValue]) -> float:
        """Nanoseconds of all operations that an architecture runs, by values of all decisions."""
        total = 0.0
        for group, sums in zip(self._groups, self._sums, strict=True):
            if not all(guard.at(values) for guard in group.guards):
                continue
            point = tuple([values[path] for path in group.paths])
            known = sums.get(point)
            if known is None:
                known = sums[point] = self._measured(group, values)
            total += known
        return total

    def _measured(self, group: Group, values: Mapping[str, DecisionValue]) -> float:
        entries, total = self.table.entries, 0.0
        for made in group.operations({**self._free, **values}, self.table.facts.form):
            if made.signature not in entries:
                raise self.lacks([made.signature])
            total += entries[made.signature]
        return total

    def at(self, values: Mapping[str, DecisionValue]) -> int:
        """Nanoseconds of an architecture, by values of all decisions."""
        return self._fit.of(self.sum(values))

    def throughput(self, latency: int) -> int:
        """Whole images a second, where a batch of the table takes so many nanoseconds."""
        return self.table.facts.batch * 10**9 // max(1, latency)


def open_model(graph: Graph, path: PathLike) -> LatencyModel:
    """The model of a graph by a table's file, checked (SP702, SP512); kept with the graph, as long
    as the file does not change."""
    state = os.stat(path) if os.path.exists(path) else None
    version = (state.st_mtime_ns, state.st_size, state.st_ino) if state is not None else None

    def opened(graph: Graph) -> LatencyModel:
        made = LatencyModel(graph, read_table(path), str(path))
        made.check()
        return made

    return graph.memo(f"latency {path} {version}", opened)
