"""Ops on each element: arithmetic with broadcast, activations, dropout and drop path."""

from __future__ import annotations

from spacelang.diagnostics import counted
from spacelang.ir.dim import Dim
from spacelang.ir.node import TensorType
from spacelang.ir.op import Infer, Interval, op, option, shown

ONE = Dim.of(1)
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


for _name in ("add", "sub", "mul", "div"):
    op(
        _name,
        "a b?",
        "elementwise written",
        number=option("number", None),
        flipped=option("bool", False),
    ).shape(_arithmetic)
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
