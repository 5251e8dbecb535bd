"""Which axes an op leaves as they are, entry for entry, and along which its parameters lie.

    @row("conv")       axis 1 of the operand lies along axis 1 of the weight, rows along the result

Written for `parts.py`, which follows joined axes through a network. An op without a row keeps
none: what it makes of an axis with parts has lost them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spacelang.ir.dim import ONE, ZERO, Dim
from spacelang.ir.graph import Instance
from spacelang.ir.infer import Infer
from spacelang.ir.node import Node
from spacelang.ir.op import lookup
from spacelang.ops.patterns import parse_einsum, parse_rearrange

if TYPE_CHECKING:
    from spacelang.analysis.parts import Parts

Axes = Sequence[int]


@dataclass(frozen=True)
class Step:
    """A node in one use of its block, with the axes of its operands and results."""

    parts: Parts
    chain: tuple[int, ...]
    instance: Instance
    node: Node
    operands: Sequence[Axes]
    results: Sequence[Axes]

    @property
    def x(self) -> Axes:
        return self.operands[0]

    @property
    def y(self) -> Axes:
        return self.results[0]

    def size(self, axis: int) -> Dim:
        return self.parts.size(axis)

    def dim(self, name: str) -> Dim:
        """An option in the decisions of the whole space."""
        found = self.node.attributes[name]
        assert isinstance(found, Dim)
        return self.instance.absolute(found)

    def dims(self, name: str) -> tuple[Dim, ...]:
        found = self.node.attributes[name]
        entries = found if isinstance(found, tuple) else (found,)
        return tuple(self.instance.absolute(d) for d in entries if isinstance(d, Dim))

    def whole(self, name: str) -> int:
        return int(self.dim(name).at({}))

    def axis(self, name: str = "axis") -> int:
        return self.whole(name) % len(self.x)

    def same(self, a: Axes, b: Axes) -> None:
        """Axes of one position are one."""
        for m, n in zip(a, b, strict=False):
            self.parts.same(m, n)

    def read(self, role: str, axis: int, factor: int, along: int) -> None:
        self.parts.read(self, role, axis, factor, along)

    def drop(self, axis: int, of: int) -> None:
        """A result that reads an axis whose parts are not followed, where it is as long."""
        if self.size(axis) == self.size(of):
            self.parts.drop(axis, of)

    def infer(self) -> Infer:
        """For the readers of patterns, which ask for options alone."""
        return Infer(self.node.op, (), self.node.attributes)


Row = Callable[[Step], None]
ROWS: dict[str, Row] = {}


def row(*names: str) -> Callable[[Row], Row]:
    def add(found: Row) -> Row:
        ROWS.update(dict.fromkeys(names, found))
        return found

    return add


def row_of(op: str) -> Row:
    """The row of an op; of an elementwise op of a plug-in that of `add`, of others that of none."""
    found = ROWS.get(op)
    if found is None:
        found = _pointwise if "elementwise" in lookup(op).traits else _unknown
    return found


def _unknown(step: Step) -> None:
    for x in step.operands:
        for source in x:
            for y in step.results:
                for axis in y:
                    step.drop(axis, source)
            for role, view in step.node.params.items():
                for a, axis in enumerate(view.lengths):
                    for f, length in enumerate(axis):
                        if step.instance.absolute(length) == step.size(source):
                            step.read(role, a, f, source)


@row("identity", "softmax")
def _alike(step: Step) -> None:
    step.same(step.x, step.y)


@row("add", "sub", "mul", "div", "sum_of")
def _pointwise(step: Step) -> None:
    """Operands of fewer axes, or of one entry along an axis, are spread."""
    for x in step.operands:
        for a, b in zip(reversed(x), reversed(step.y), strict=False):
            if step.size(a) != ONE:
                step.parts.same(a, b)


@row("mixture")
def _mixture(step: Step) -> None:
    for x in step.operands[1:]:
        step.same(x, step.y)


@row("parameter", "buffer")
def _owned(step: Step) -> None:
    for view in step.node.params.values():
        for a, axis in enumerate(view.index):
            for f in range(len(axis)):
                if len(axis) == 1:
                    step.read("", a, f, step.y[a])


@row("linear")
def _linear(step: Step) -> None:
    axes = step.whole("axes")
    kept = len(step.x) - axes
    inner, out = step.x[kept:], step.y[kept:]
    step.same(step.x[:kept], step.y[:kept])
    for f, axis in enumerate(inner):
        step.read("weight", 1, f, axis)
    for f, axis in enumerate(out):
        step.read("weight", 0, f, axis)
        step.read("bias", 0, f, axis)
    weight, bias = _given(step, "weight"), _given(step, "bias")
    if weight is not None and axes == 1 and len(out) == 1:
        step.same(weight, (out[0], inner[0]))
    if bias is not None and len(out) == 1:
        step.same(bias, out)


def _given(step: Step, name: str) -> Axes | None:
    """The axes of a weight or bias that is an operand; these stand last."""
    given = step.node.attributes.get("given")
    if not isinstance(given, tuple) or name not in given:
        return None
    return step.operands[len(step.operands) - len(given) + given.index(name)]


@row("conv")
def _conv(step: Step) -> None:
    groups, inner, out = step.dim("groups"), step.x[1], step.y[1]
    step.same(step.x[:1], step.y[:1])
    step.read("weight", 0, 0, out)
    step.read("bias", 0, 0, out)
    weight, bias = _given(step, "weight"), _given(step, "bias")
    if weight is not None:
        step.parts.same(weight[0], out)
    if bias is not None:
        step.parts.same(bias[0], out)
    if groups == ONE:
        step.read("weight", 1, 0, inner)
        if weight is not None:
            step.parts.same(weight[1], inner)
    else:
        _grouped(step, groups, inner, out)


def _grouped(step: Step, groups: Dim, inner: int, out: int) -> None:
    """A group an entry follows the operand; larger groups mix parts, but for a part a group."""
    count = step.size(out) / step.size(inner)
    if groups != step.size(inner):
        each = step.size(inner) / groups
        group = step.parts.axis(each)
        step.parts.drop(group, inner, each)
        step.read("weight", 1, 0, group)
    elif count == ONE:
        step.parts.same(inner, out)
    elif count.constant is not None and count.constant.denominator == 1:
        step.parts.multiple(out, inner, count)


@row("conv_transpose")
def _conv_transpose(step: Step) -> None:
    groups, inner, out = step.dim("groups"), step.x[1], step.y[1]
    step.same(step.x[:1], step.y[:1])
    step.read("weight", 0, 0, inner)
    step.read("bias", 0, 0, out)
    if groups == ONE:
        step.read("weight", 1, 0, out)
    else:
        _grouped(step, groups, inner, out)


@row("layer_norm")
def _layer_norm(step: Step) -> None:
    _alike(step)
    kept = len(step.x) - step.whole("axes")
    for f, axis in enumerate(step.x[kept:]):
        step.read("weight", 0, f, axis)
        step.read("bias", 0, f, axis)


@row("rms_norm")
def _rms_norm(step: Step) -> None:
    _alike(step)
    step.read("weight", 0, 0, step.x[-1])


@row("batch_norm", "group_norm")
def _channels(step: Step) -> None:
    _alike(step)
    for role in ("weight", "bias", "running_mean", "running_var"):
        step.read(role, 0, 0, step.x[1])


@row("max_pool", "avg_pool", "resize", "zero")
def _pool(step: Step) -> None:
    """Maps; a zero of stride 1 is of any type."""
    strided = step.node.op != "zero" or step.whole("stride") != 1
    step.same(step.x[:2] if strided else step.x, step.y)


@row("concat")
def _concat(step: Step) -> None:
    at = step.axis()
    for x in step.operands:
        for i, (a, b) in enumerate(zip(x, step.y, strict=True)):
            if i != at:
                step.parts.same(a, b)
    if len(step.operands) == 1:
        step.parts.same(step.x[at], step.y[at])
    else:
        step.parts.join(step.y[at], tuple(x[at] for x in step.operands), step.node.span)


@row("split")
def _split(step: Step) -> None:
    at, start = step.axis(), ZERO
    for y in step.results:
        for i, (a, b) in enumerate(zip(step.x, y, strict=True)):
            if i != at:
                step.parts.same(a, b)
        stop = start + step.size(y[at])
        step.parts.section(y[at], step.x[at], start, stop)
        start = stop


@row("slice")
def _slice(step: Step) -> None:
    index = step.node.attributes["index"]
    entries = index if isinstance(index, tuple) else (index,)
    kept = iter(step.y)
    for i, axis in enumerate(step.x):
        entry = entries[i] if i < len(entries) else None
        if isinstance(entry, Dim):
            continue
        made = next(kept)
        if entry is None:
            step.parts.same(axis, made)
        elif isinstance(entry, tuple):
            start, stop = (step.instance.absolute(d) for d in entry if isinstance(d, Dim))
            step.parts.section(made, axis, start, stop)


@row("unstack")
def _unstack(step: Step) -> None:
    at = step.axis()
    for y in step.results:
        step.same([*step.x[:at], *step.x[at + 1 :]], y)


@row("expand")
def _expand(step: Step) -> None:
    for a, b in zip(step.x, step.y, strict=True):
        if step.size(a) != ONE:
            step.parts.same(a, b)


@row("pad", "roll")
def _moved(step: Step) -> None:
    """Axes that are not padded or rolled stay; what is rolled along parts has lost them."""
    moved = {int(d.at({})) % len(step.x) for d in step.dims("axes")}
    for i, (a, b) in enumerate(zip(step.x, step.y, strict=True)):
        if i in moved:
            step.drop(b, a)
        else:
            step.parts.same(a, b)


@row("mean")
def _mean(step: Step) -> None:
    gone = {int(d.at({})) % len(step.x) for d in step.dims("axes")}
    kept = [i for i in range(len(step.x)) if i not in gone]
    made = [step.y[i] for i in kept] if step.node.attributes.get("keep") else step.y
    step.same([step.x[i] for i in kept], made)


@row("take")
def _take(step: Step) -> None:
    table, index = step.operands
    at, count = step.axis(), len(index)
    step.same(table[:at], step.y)
    step.same(index, step.y[at:])
    step.same(table[at + 1 :], step.y[at + count :])


@row("gather", "bucket_sum")
def _gather(step: Step) -> None:
    step.same(step.x[:-1], step.y)


@row("einsum")
def _einsum(step: Step) -> None:
    """Axes of one letter are one."""
    pattern = parse_einsum(step.infer())
    found: dict[str, int] = {}
    sides, values = (*pattern.operands, pattern.result), (*step.operands, step.y)
    for letters, axes in zip(sides, values, strict=True):
        for name, axis in _lettered(letters, axes):
            step.parts.same(found.setdefault(name, axis), axis)


def _lettered(letters: Sequence[str], axes: Axes) -> list[tuple[str, int]]:
    """The axes by letter, those of `...` by number."""
    spread = len(axes) - len(letters) + 1
    names = [
        name
        for letter in letters
        for name in ([f"...{i}" for i in range(spread)] if letter == "..." else [letter])
    ]
    return list(zip(names, axes, strict=True))


@row("rearrange")
def _rearrange(step: Step) -> None:
    """An axis of its own stays; as the outermost of a group it has the parts, each times the rest.

    What is inside of a group has lost its parts, and so have pieces of an axis.
    """
    sides = parse_rearrange(step.infer())
    left = _lettered(["/".join(group) for group in sides.left], step.x)
    single = {name: axis for name, axis in left if name != "1"}
    for name, axis in _lettered(["/".join(g) for g in sides.right], step.y):
        names = name.split("/")
        if name in single:
            step.parts.same(single[name], axis)
        elif names[0] in single and step.size(single[names[0]]) != ZERO:
            outer = single[names[0]]
            step.parts.multiple(axis, outer, step.size(axis) / step.size(outer))


@row(
    "input", "offset_index", "clipped_index", "bucket_index", "shift_mask", "table",
)  # fmt: skip
def _new(step: Step) -> None:
    """Axes of their own."""
