"""An op: `leaky_relu(x, slope)`."""

from spacelang.ir.dim import Dim
from spacelang.ir.infer import Infer
from spacelang.ir.node import TensorType
from spacelang.ir.op import op, option

leaky_relu = op("leaky_relu", "x", "elementwise", slope=option("number", Dim.of(0.01)))


@leaky_relu.shape
def _leaky_relu(infer: Infer) -> TensorType:
    return infer.x
