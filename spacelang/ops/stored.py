"""Reading what the network keeps beside its weights: `buffer`."""

from __future__ import annotations

from spacelang.ir.dim import Dim
from spacelang.ir.infer import Infer
from spacelang.ir.node import TensorType
from spacelang.ir.op import op, option
from spacelang.ir.param import Init

buffer = op("buffer", "", shape=option("shape"), init=option("init", None))


@buffer.shape
def _buffer(infer: Infer) -> TensorType:
    """A stored tensor that is not learned (running statistics), one size an axis."""
    shape = infer.dims("shape")
    infer.param("", shape, infer.init("init") or Init("zeros"), role="buffer", decay=False)
    return TensorType(tuple(Dim.of(size) for size in shape))
