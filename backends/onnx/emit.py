"""A graph whose decisions are taken as a network of ONNX operators, for one batch.

    content = written(graph, weights, table, batch=16)

`weights` has an array for each parameter path, `table(node)` the entries of a node that computes a
constant. A row is a function of what it sees of a node; SP605 for an op without a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spacelang.backends.onnx.network import Array, Network, Tensor
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.dim import Dim
from spacelang.ir.gather import read
from spacelang.ir.graph import Graph
from spacelang.ir.node import Node, Value
from spacelang.ir.param import View

Result = Tensor | tuple[Tensor, ...]
Row = Callable[["Emit"], Result]
Tables = Callable[[Node], Array]
ROWS: dict[str, Row] = {}


def row(*ops: str) -> Callable[[Row], Row]:
    """Register the row of some ops."""

    def add(function: Row) -> Row:
        for op in ops:
            if op in ROWS:
                raise ValueError(f"the op {op} has two rows")
            ROWS[op] = function
        return function

    return add


class Group(Protocol):
    """Nodes that are written as one."""

    @property
    def inside(self) -> tuple[int, ...]:
        """The nodes but the last, which nothing else reads."""
        ...

    def emitted(self, work: Work) -> Tensor:
        """The result of the last."""
        ...


class Work:
    """The network in the making."""

    def __init__(
        self, graph: Graph, weights: Mapping[str, Array], table: Tables, batch: int
    ) -> None:
        self.graph, self.root = graph, graph.root
        self.weights, self.table = weights, table
        self.network = Network(graph.name)
        self.values: dict[Value, Tensor] = {}
        self.lacking: dict[Value, Array] = {}  # what a value should have had added to its rows
        lead = {s.name for s in self.root.inputs[0].types[0].shape[0].symbols}
        self._open = dict.fromkeys(lead, batch)
        self.types = {v: t for n in self.root.nodes for v, t in zip(n.values, n.types, strict=True)}

    def number(self, dim: Dim) -> int | float:
        return dim.at(self._open)  # pyright: ignore[reportReturnType]

    def shape(self, value: Value) -> tuple[int, ...]:
        """The sizes of a value."""
        type = self.root.by_id[value.node].types[value.index]
        return tuple(int(self.number(size)) for size in type.shape)

    def alone(self, value: Value) -> bool:
        """Whether one node reads a value."""
        return len(self.root.readers.get(value, ())) == 1 and value not in self.root.outputs


def written(graph: Graph, weights: Mapping[str, Array], table: Tables, batch: int) -> bytes:
    """The bytes of a model file; its inputs and outputs have the names of the graph's."""
    import spacelang.backends.onnx.moves  # the rows register themselves
    import spacelang.backends.onnx.rows  # noqa: F401
    from spacelang.backends.onnx.attention import groups
    from spacelang.backends.onnx.maps import perceptrons
    from spacelang.backends.onnx.stem import stems

    work = Work(graph, weights, table, batch)
    whole: dict[int, Group] = {**groups(work), **perceptrons(work), **stems(work)}
    inside = {node for group in whole.values() for node in group.inside}
    for node in work.root.nodes:
        if node.id in inside:
            continue
        if node.op == "input":
            found: Result = work.network.input(node.label or "x", work.shape(Value(node.id)))
        elif node.id in whole:
            found = whole[node.id].emitted(work)
        elif node.op in ROWS:
            found = ROWS[node.op](Emit(work, node))
        elif not node.operands:
            found = work.network.constant(table(node))
        else:
            told = f"{graph.name} has {node.op}, which is not written for ONNX Runtime"
            raise SpaceError(error("SP605", told, node.span))
        results = found if isinstance(found, tuple) else (found,)
        work.values.update(zip(node.values, results, strict=True))
    outputs = {o.name: work.values[o.value] for o in graph.outputs if not o.training}
    return work.network.written(outputs)


@dataclass(frozen=True)
class Emit:
    """What a row sees of a node."""

    work: Work
    node: Node

    @property
    def network(self) -> Network:
        return self.work.network

    @property
    def operands(self) -> tuple[Tensor, ...]:
        return tuple(self.work.values[v] for v in self.node.operands)

    @property
    def x(self) -> Tensor:
        """The first operand."""
        return self.work.values[self.node.operands[0]]

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the first result."""
        return self.work.shape(Value(self.node.id))

    def number(self, name: str) -> float:
        """An option that is a number."""
        return float(self.work.number(self.dims(name)[0]))

    def whole(self, name: str) -> int:
        """An option that is a whole number."""
        return int(self.number(name))

    def dims(self, name: str) -> tuple[Dim, ...]:
        """An option that is a size or several."""
        given = self.node.attributes[name]
        several = given if isinstance(given, tuple) else (given,)
        return tuple(d for d in several if isinstance(d, Dim))

    def wholes(self, name: str) -> tuple[int, ...]:
        """An option that is one whole number or several."""
        return tuple(int(self.work.number(d)) for d in self.dims(name))

    def axis(self, name: str = "axis") -> int:
        """An option that is an axis, from 0."""
        return self.whole(name) % self.x.rank

    def param(self, role: str) -> Tensor | None:
        """A weight that the node reads or is given; None where it has none."""
        given = self.node.attributes.get("given", ())
        if isinstance(given, tuple) and role in given:
            return self.operands[len(self.operands) - len(given) + given.index(role)]
        view = self.node.params.get(role)
        return None if view is None else self.network.constant(self._read(view))

    def known(self, role: str, otherwise: float | None = None) -> Array:
        """The entries of a weight that is known; a number in place of one that there is not."""
        found = self.param(role)
        if found is None and otherwise is not None:
            return np.array(otherwise, np.float32)
        assert found is not None
        assert found.entries is not None
        return found.entries

    def _read(self, view: View) -> Array:
        """What a view reads of a stored array, its factors and axes in order."""
        stored = self.work.weights[view.param]
        param = self.work.root.param[view.param]
        factors = [int(self.work.number(n)) for axis in param.shape for n in axis]
        parts = [read(part, self.work.number) for axis in view.index for part in axis]
        found = stored.reshape(factors)
        if any(range(n) != part for n, part in zip(factors, parts, strict=True)):
            found = found[np.ix_(*(list(part) for part in parts))]
        sizes: list[int] = []
        for axis in view.index:
            here = 1
            for _ in axis:
                here *= len(parts.pop(0))
            sizes.append(here)
        return found.reshape(sizes)
