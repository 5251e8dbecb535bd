"""A network of ONNX operators whose every size is known, as it is built and written.

    net = Network("m0")
    x = net.input("x", (1, 3, 224, 224))
    y = net.call("Relu", [x], x.shape)
    content = net.written([("logits", y)])          # the bytes of a model file

Views are joined as they are made: a reshape of a reshape is one, a transpose that moves axes of one
entry is a reshape, one that undoes another is none, and views of constants are constants. What
nobody reads is not written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

OPSET, MICROSOFT, IR = 20, "com.microsoft", 10
ROW = 32  # entries from which rows are moved one by one as fast as by a transpose
Array = NDArray[Any]


@dataclass(frozen=True)
class Tensor:
    """A value: its name, its shape, its entries where they are known.

    `ordered` is a matrix of which its rows (all axes but the last) are the rows in another order,
    and that order; such a value is made when something reads it that rows in another order would
    not do for.
    """

    name: str
    shape: tuple[int, ...]
    entries: Array | None = field(default=None, compare=False, repr=False)
    ordered: tuple[Tensor, Array] | None = field(default=None, compare=False, repr=False)

    @property
    def rank(self) -> int:
        """How many axes."""
        return len(self.shape)


@dataclass(frozen=True)
class Call:
    """An operator applied to values; its attributes are as ONNX takes them."""

    op: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    attributes: Mapping[str, Any]
    domain: str = ""


class Network:
    """Calls in the order in which they run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inputs: list[Tensor] = []
        self._calls: list[Call] = []
        self._makers: dict[str, Call] = {}  # by the name of an output
        self._gathered: dict[tuple[str, bytes], Tensor] = {}
        self._count = 0

    # Values.

    def input(self, name: str, shape: Sequence[int]) -> Tensor:
        """A float32 input."""
        self.inputs.append(Tensor(name, tuple(shape)))
        return self.inputs[-1]

    def constant(self, entries: Any) -> Tensor:
        """A value that is known: float32, or int64 of whole numbers."""
        array = np.asarray(entries)
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        return Tensor(self._named("c"), array.shape, array)

    def maker(self, x: Tensor) -> Call | None:
        """The call that a value is a result of."""
        return self._makers.get(x.name)

    def _named(self, letter: str) -> str:
        self._count += 1
        return f"{letter} {self._count}"  # no label has a space in it

    # Calls.

    def call(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        shape: Sequence[int],
        domain: str = "",
        **attributes: Any,
    ) -> Tensor:
        """The one result of an operator."""
        return self.several(op, inputs, [shape], domain, **attributes)[0]

    def several(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        shapes: Sequence[Sequence[int]],
        domain: str = "",
        **attributes: Any,
    ) -> tuple[Tensor, ...]:
        """All results of an operator."""
        plain = tuple(x if x is None else self.plain(x) for x in inputs)
        made = tuple(Tensor(self._named("v"), tuple(shape)) for shape in shapes)
        call = Call(op, plain, made, attributes, domain)
        self._calls.append(call)
        self._makers.update((x.name, call) for x in made)
        return made

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """The entries of a value in another shape."""
        size = tuple(shape)
        assert prod(size) == prod(x.shape), (x.shape, size)
        if x.ordered is not None and (size == x.shape or _has_rows(size, x.ordered)):
            return Tensor(x.name, size, ordered=x.ordered)
        x = self.plain(x)
        if x.entries is not None:
            return x if size == x.shape else self.constant(x.entries.reshape(size))
        maker = self.maker(x)
        while maker is not None and maker.op == "Reshape":
            x = _first(maker)
            maker = self.maker(x)
        if size == x.shape:
            return x
        return self.call("Reshape", [x, self.constant(np.array(size, np.int64))], size)

    # Rows in another order.

    def rows(self, x: Tensor, order: Array) -> Tensor:
        """The matrix of the rows of a value in this order: the i-th is the one at order[i]."""
        x = self.reshape(x, (prod(x.shape[:-1]), x.shape[-1]))
        if x.ordered is not None:
            x, before = x.ordered
            order = before[order]
        if _same(order, np.arange(len(order))):
            return x
        return Tensor(self._named("v"), x.shape, ordered=(x, order))

    def plain(self, x: Tensor) -> Tensor:
        """The value itself, its rows where they should be."""
        if x.ordered is None:
            return x
        matrix, order = x.ordered
        key = (matrix.name, order.tobytes())
        if key not in self._gathered:
            index = Tensor(self._named("c"), order.shape, order.astype(np.int32))
            self._gathered[key] = self.call("Gather", [matrix, index], matrix.shape, axis=0)
        return self.reshape(self._gathered[key], x.shape)

    def source(self, x: Tensor) -> Tensor:
        """The value that a value is another shape of; itself where it is none."""
        maker = self.maker(x)
        return _first(maker) if maker is not None and maker.op == "Reshape" else x

    def pointwise(self, op: str, x: Tensor, domain: str = "", **attributes: Any) -> Tensor:
        """A function of each entry, before the reshape that made the value."""
        if x.ordered is not None:
            rows, order = x.ordered
            return self.reshape(self.rows(self.pointwise(op, rows, domain, **attributes), order),
                                x.shape)  # fmt: skip
        inner = self.source(x)
        made = self.call(op, [inner], inner.shape, domain, **attributes)
        return self.reshape(made, x.shape)

    def both(self, op: str, x: Tensor, y: Tensor, free: bool = False) -> Tensor:
        """A function of entries of two values, before the reshapes that made them.

        With `free` the order of its rows is nobody's concern: that of either value is taken.
        """
        shape = np.broadcast_shapes(x.shape, y.shape)
        if x.shape == y.shape and (lead := y.ordered or x.ordered) is not None:
            matrix, order = lead
            same = x.ordered and y.ordered and _same(x.ordered[1], y.ordered[1])
            if free or same:
                back = np.argsort(order)
                first, second = (
                    self.plain(self.rows(self.reshape(z, matrix.shape), back)) for z in (x, y)
                )
                return self.reshape(self.rows(self.both(op, first, second), order), shape)
        x, y = self.plain(x), self.plain(y)
        if (turned := self._turned(x, y)) is not None:
            first, second, order = turned
            return self.reshape(self.moved(self.both(op, first, second), order), shape)
        if x.shape == y.shape:
            inner = next((z for z in map(self.source, (x, y)) if z is not x and z is not y), x)
            x, y = self.reshape(x, inner.shape), self.reshape(y, inner.shape)
            return self.reshape(self.call(op, [x, y], inner.shape), shape)
        for one in (x, y):
            if one.shape == () and one.entries is not None:
                other = y if one is x else x
                inner = self.source(other)
                pair = [inner if z is other else z for z in (x, y)]
                return self.reshape(self.call(op, pair, inner.shape), shape)
        return self.call(op, [x, y], shape)

    def _turned(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[int]] | None:
        """Two values whose axes were changed about alike, before that, and how."""
        a, b = (self.maker(self.source(z)) for z in (x, y))
        if a is None or b is None or a.op != "Transpose" or b.op != "Transpose":
            return None
        order, first, second = a.attributes["perm"], _first(a), _first(b)
        same = order == b.attributes["perm"] and first.shape == second.shape
        return (first, second, order) if same and x.shape == y.shape else None

    def split(self, x: Tensor, axis: int, sizes: Sequence[int]) -> tuple[Tensor, ...]:
        """Parts along an axis, before the reshape that made the value where it has the axis."""
        x = self.plain(x)
        inner, place = self._before(x, axis)
        shapes = [_with(inner.shape, place, n) for n in sizes]
        parts = self.several("Split", [inner, self.constant(np.array(sizes))], shapes, axis=place)
        ends = [_with(x.shape, axis, n) for n in sizes]
        return tuple(self.reshape(part, end) for part, end in zip(parts, ends, strict=True))

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """Values side by side, before the reshapes that made them where all have the axis."""
        parts = [self.plain(part) for part in parts]
        found = [self._before(part, axis) for part in parts]
        if len({(place, _with(x.shape, place, 0)) for x, place in found}) > 1:
            found = [(part, axis) for part in parts]
        whole, (first, place) = sum(part.shape[axis] for part in parts), found[0]
        made = self.call("Concat", [x for x, _ in found], _with(first.shape, place, whole),
                         axis=place)  # fmt: skip
        return self.reshape(made, _with(parts[0].shape, axis, whole))

    def _before(self, x: Tensor, axis: int) -> tuple[Tensor, int]:
        """The value that a value is another shape of, and which of its axes this one is there."""
        inner, before = self.source(x), prod(x.shape[:axis])
        for place, size in enumerate(inner.shape):
            if size == x.shape[axis] and prod(inner.shape[:place]) == before:
                return inner, place
        return x, axis

    def transpose(self, x: Tensor, order: Sequence[int]) -> Tensor:
        """The axes of a value in another order."""
        order = tuple(order)
        shape = tuple(x.shape[i] for i in order)
        if x.entries is not None:
            return self.constant(np.ascontiguousarray(x.entries.transpose(order)))
        if order[-1] == x.rank - 1 and x.shape[-1] >= ROW:
            places = np.arange(prod(x.shape[:-1])).reshape(x.shape[:-1])
            return self.reshape(self.rows(x, places.transpose(order[:-1]).reshape(-1)), shape)
        return self.moved(x, order)

    def moved(self, x: Tensor, order: Sequence[int]) -> Tensor:
        """The axes of a value in another order, made at once."""
        x, order = self.plain(x), tuple(order)
        shape = tuple(x.shape[i] for i in order)
        wide = [i for i in order if x.shape[i] != 1]
        if wide == sorted(wide):
            return self.reshape(x, shape)
        maker = self.maker(x)
        if maker is not None and maker.op == "Transpose":
            inner = maker.attributes["perm"]
            both = [inner[i] for i in order]
            if both == sorted(both):
                return _first(maker)
        return self.call("Transpose", [x], shape, perm=list(order))

    # Writing.

    def calls(self, outputs: Sequence[Tensor]) -> list[Call]:
        """The calls that some outputs need, in order."""
        needed = {x.name for x in outputs}
        found: list[Call] = []
        for call in reversed(self._calls):
            if any(x.name in needed for x in call.outputs):
                needed.update(x.name for x in call.inputs if x is not None)
                found.append(call)
        return found[::-1]

    def written(self, outputs: Mapping[str, Tensor]) -> bytes:
        """The model file: the same bytes for the same network."""
        from onnx import TensorProto, helper, numpy_helper

        calls = self.calls(list(outputs.values()))
        names, constants = _Names([x.name for x in self.inputs], outputs), dict[str, Tensor]()
        for call in calls:
            for x in call.inputs:
                if x is not None and x.entries is not None:
                    constants.setdefault(x.name, x)
        for x in outputs.values():
            if x.entries is not None:
                constants.setdefault(x.name, x)
        given = [helper.make_tensor_value_info(x.name, TensorProto.FLOAT, x.shape)
                 for x in self.inputs]  # fmt: skip
        stored = [numpy_helper.from_array(np.ascontiguousarray(x.entries), names[x.name])
                  for x in constants.values()]  # fmt: skip
        nodes: list[Any] = []
        for call in calls:
            inputs = ["" if x is None else names[x.name] for x in call.inputs]
            made = [names[x.name] for x in call.outputs]
            label = f"{call.op}_{len(nodes)}"
            nodes.append(helper.make_node(call.op, inputs, made, label, domain=call.domain,
                                          **call.attributes))  # fmt: skip
        ends: list[Any] = []
        for name, x in outputs.items():
            nodes.append(helper.make_node("Identity", [names[x.name]], [name], f"output_{name}"))
            ends.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape))
        graph = helper.make_graph(nodes, self.name, given, ends, stored)
        sets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=sets, ir_version=IR,
                                  producer_name="spacelang")  # fmt: skip
        return model.SerializeToString(deterministic=True)


class _Names(dict[str, str]):
    """Short names in the order in which they are first asked for, none that of an input or output.

    Inputs keep theirs.
    """

    def __init__(self, inputs: Iterable[str], outputs: Iterable[str]) -> None:
        super().__init__((name, name) for name in inputs)
        self._taken = {*self, *outputs}

    def __missing__(self, name: str) -> str:
        number = len(self)
        while (short := f"{name[0]}_{number}") in self._taken:
            number += 1
        self._taken.add(short)
        self[name] = short
        return short


def _with(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _same(a: Array, b: Array) -> bool:
    return bool(np.array_equal(a, b))


def _has_rows(shape: tuple[int, ...], ordered: tuple[Tensor, Array]) -> bool:
    """Whether the first axes of a shape are the rows of a matrix."""
    return any(prod(shape[:n]) == len(ordered[1]) for n in range(1, len(shape)))


def _first(call: Call) -> Tensor:
    x = call.inputs[0]
    assert x is not None
    return x
