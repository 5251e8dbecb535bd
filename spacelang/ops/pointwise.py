"""Ops on each element: arithmetic with broadcast, activations, dropout and drop path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce

from spacelang.diagnostics import counted
from spacelang.ir.conflict import shown
from spacelang.ir.dim import ONE, Dim, maximum, minimum
from spacelang.ir.entries import Entries, IndexOf
from spacelang.ir.infer import Infer
from spacelang.ir.node import TensorType
from spacelang.ir.op import Interval, op, option
from spacelang.ir.prove import Proved, whole

RATE = Interval(0, 1, below=True)
ACTIVATIONS = (
    "relu", "gelu", "swish", "sigmoid", "hard_sigmoid", "hard_swish", "softmax", "tanh", "exp",
    "sqrt", "abs",
)  # fmt: skip


def _same(infer: Infer) -> TensorType:
    return infer.x


def _arithmetic(infer: Infer) -> TensorType:
    """Two tensors with broadcast, or a tensor and a number (`flipped`: the number stands left)."""
    if len(infer.types) == 1:
        return infer.x
    a, b = infer.types
    rank = max(a.rank, b.rank)
    left = (ONE,) * (rank - a.rank) + a.shape
    right = (ONE,) * (rank - b.rank) + b.shape
    shape: list[Dim] = []
    for m, n in zip(left, right, strict=True):
        if m == ONE or n == ONE:
            shape.append(n if m == ONE else m)
            continue
        if m != n:
            label = f"left is {shown(a)}, right is {shown(b)}"
            infer.need_equal(m, n, "SP304", "these two sizes must be equal", label)
        shape.append(m)
    return TensorType(tuple(shape), a.dtype)


Ends = tuple[Dim, Dim]
"""The least and the largest of whole numbers."""


def _added(a: Ends, b: Ends) -> Ends:
    return a[0] + b[0], a[1] + b[1]


def _subtracted(a: Ends, b: Ends) -> Ends:
    return a[0] - b[1], a[1] - b[0]


def _multiplied(a: Ends, b: Ends) -> Ends:
    corners = [m * n for m in a for n in b]
    return reduce(minimum, corners), reduce(maximum, corners)


WHOLE_NUMBERS: Mapping[str, Callable[[Ends, Ends], Ends]] = {
    "add": _added,
    "sub": _subtracted,
    "mul": _multiplied,
}


def _entries(ends: Callable[[Ends, Ends], Ends], of: IndexOf) -> Entries | None:
    """Of two indices, or of one and a number that is known to be whole."""
    given = [((e.low, e.high), e.where) for e in of.operands]
    number = of.options.get("number")
    if isinstance(number, Dim):
        given.append(((number, number), ()))
    if len(given) != 2 or (isinstance(number, Dim) and not isinstance(whole(number), Proved)):
        return None
    (a, at), (b, there) = reversed(given) if of.options.get("flipped") is True else given
    return Entries(*ends(a, b), (*at, *there))


for _name in ("add", "sub", "mul", "div"):
    _definition = op(
        _name,
        "a b?",
        "elementwise written",
        number=option("number", None),
        flipped=option("bool", False),
    )
    _definition.shape(_arithmetic)
    if _name in WHOLE_NUMBERS:
        _definition.entries(partial(_entries, WHOLE_NUMBERS[_name]))
for _name in ACTIVATIONS:
    op(_name, "x", "elementwise").shape(_same)
op("dropout", "x", "elementwise random", rate=option("rate", within=RATE)).shape(_same)
drop_path = op("drop_path", "x", "elementwise random", rate=option("rate", within=RATE))


@drop_path.shape
def _drop_path(infer: Infer) -> TensorType:
    """Whole samples, along the first axis, dropped in training."""
    if not infer.x.rank:
        infer.fail("SP301", "drop_path reads [B, ..], not a number")
    return infer.x


total = op("sum_of", "xs*", "elementwise written")


@total.shape
def _sum_of(infer: Infer) -> TensorType:
    """The sum of a list of tensors of one type."""
    for number, other in enumerate(infer.types[1:], 2):
        if other.rank != infer.x.rank:
            infer.fail("SP301", f"part {number} of a sum has {counted(other.rank, 'axis')}")
        label = f"part 1 is {shown(infer.x)}, part {number} is {shown(other)}"
        for a, b in zip(infer.x.shape, other.shape, strict=True):
            infer.need_equal(a, b, "SP304", "these two sizes must be equal", label)
    return infer.x
