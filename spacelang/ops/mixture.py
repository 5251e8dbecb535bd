"""What search by gradient needs: `mixture`, the weighted sum that a choice becomes (DARTS)."""

from __future__ import annotations

from spacelang.ir.dim import Dim
from spacelang.ir.infer import Infer
from spacelang.ir.node import TensorType
from spacelang.ir.op import op

mixture = op("mixture", "weights xs*")


@mixture.shape
def _mixture(infer: Infer) -> TensorType:
    """weights [n] and n tensors of one type -> the sum of weights[i] * xs[i]."""
    weights, parts = infer.types[0], infer.types[1:]
    if weights.rank != 1 or not parts:
        infer.fail("SP301", "mixture reads a weight for each of its tensors", f"it is {weights}")
    infer.need_equal(weights.shape[0], Dim.of(len(parts)), "SP304", "weights and parts differ")
    for number, other in enumerate(parts[1:], 2):
        if other.rank != parts[0].rank or other.dtype != parts[0].dtype:
            infer.fail("SP304", f"part {number} of a mixture is {other}, the first is {parts[0]}")
        for a, b in zip(parts[0].shape, other.shape, strict=True):
            infer.need_equal(a, b, "SP304", "these two sizes must be equal", f"{parts[0]}, {other}")
    return parts[0]
