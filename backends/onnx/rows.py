"""Rows of the ops: what each is written as for ONNX Runtime."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from spacelang.backends.onnx.emit import Emit, row
from spacelang.backends.onnx.network import MICROSOFT, Tensor
from spacelang.backends.onnx.products import biased, einsum, on_maps
from spacelang.ir.dim import Dim
from spacelang.ir.node import Value

ARITHMETIC = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"}
ACTIVATIONS = {
    "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "exp": "Exp", "sqrt": "Sqrt",
    "abs": "Abs", "gelu": "Gelu", "hard_swish": "HardSwish",
}  # fmt: skip
BY_ROWS = frozenset({"layer_norm", "linear", "add", *ACTIVATIONS})
"""Ops of which each row of the result is of one row of each operand."""


# Layers.


@row("linear")
def _linear(emit: Emit) -> Tensor:
    """One product of matrices: rows are all but the last axes."""
    net, axes, shape = emit.network, emit.whole("axes"), emit.shape
    wide = prod(emit.x.shape[emit.x.rank - axes :])
    weight, bias = emit.param("weight"), emit.param("bias")
    assert weight is not None
    x = net.reshape(emit.x, (-(-prod(emit.x.shape) // wide), wide))
    out = prod(weight.shape) // wide
    weight = net.transpose(net.reshape(weight, (out, wide)), (1, 0))
    order = x.ordered
    x = x if order is None else order[0]
    size = (x.shape[0], out)
    lacking = emit.work.lacking.get(emit.node.operands[0])
    if lacking is not None and bias is not None:
        assert weight.entries is not None
        bias = net.constant(emit.known("bias").reshape(-1) + lacking @ weight.entries)
    if bias is None:
        found = net.call("MatMul", [x, weight], size)
    else:
        found = net.call("Gemm", [x, weight, net.reshape(bias, (out,))], size)
    return net.reshape(found if order is None else net.rows(found, order[1]), shape)


CONVOLUTIONS = frozenset({"conv", "input", *ACTIVATIONS})


@row("conv")
def _conv(emit: Emit) -> Tensor:
    if _is_product(emit):
        return _product(emit)
    kernel, dilation = emit.whole("kernel"), emit.whole("dilation")
    pad = emit.node.attributes["pad"]
    by = emit.whole("pad") if isinstance(pad, Dim) else dilation * (kernel - 1) // 2
    return emit.network.call(
        "Conv", _given(emit), emit.shape, kernel_shape=[kernel] * 2, pads=[by] * 4,
        strides=[emit.whole("stride")] * 2, dilations=[dilation] * 2, group=emit.whole("groups"),
    )  # fmt: skip


def _is_product(emit: Emit) -> bool:
    """Whether it is of one pixel and stands between no other convolutions.

    The runtime has maps in an order of its own between convolutions; one alone would be a product
    between two changes of order.
    """
    root, (value, *_) = emit.work.root, emit.node.operands
    if any(emit.whole(name) != 1 for name in ("kernel", "stride", "groups")):
        return False
    pad = emit.node.attributes["pad"]
    if isinstance(pad, Dim) and emit.whole("pad"):
        return False
    maker = root.by_id[value.node]
    if maker.op == "relu":
        maker = root.by_id[maker.operands[0].node]
    if maker.op in CONVOLUTIONS:
        return False
    readers = root.readers.get(Value(emit.node.id), ())
    return all(node.op in ("split", "rearrange") for node in readers)


def _product(emit: Emit) -> Tensor:
    """Channels by channels times channels by pixels: of one image by matrices, of several by a
    convolution along one axis, which is left as it lies."""
    net, (batch, channels, *sides) = emit.network, emit.x.shape
    weight, bias = emit.param("weight"), emit.param("bias")
    assert weight is not None
    out, pixels = weight.shape[0], prod(sides)
    if batch == 1:
        inputs = [net.reshape(weight, (out, channels)), net.reshape(emit.x, (channels, pixels))]
        if bias is None:
            made = net.call("MatMul", inputs, (out, pixels))
        else:
            made = net.call("Gemm", [*inputs, net.reshape(bias, (out, 1))], (out, pixels))
    else:
        x = net.reshape(emit.x, (batch, channels, pixels))
        weight = net.reshape(weight, (out, channels, 1))
        inputs = [x, weight] if bias is None else [x, weight, bias]
        made = net.call("Conv", inputs, (batch, out, pixels), kernel_shape=[1])
    return net.reshape(made, emit.shape)


@row("conv_transpose")
def _conv_transpose(emit: Emit) -> Tensor:
    stride, kernel = emit.whole("stride"), emit.whole("kernel")
    pad, extra = (emit.node.attributes[name] for name in ("pad", "extra"))
    over = kernel - stride
    by = emit.whole("pad") if isinstance(pad, Dim) else (over + 1) // 2
    more = emit.whole("extra") if isinstance(extra, Dim) else over % 2 * min(stride - 1, 1)
    return emit.network.call(
        "ConvTranspose", _given(emit), emit.shape, kernel_shape=[kernel] * 2, pads=[by] * 4,
        strides=[stride] * 2, output_padding=[more] * 2, group=emit.whole("groups"),
    )  # fmt: skip


def _given(emit: Emit) -> list[Tensor | None]:
    weight, bias = emit.param("weight"), emit.param("bias")
    return [emit.x, weight] if bias is None else [emit.x, weight, bias]


@row("einsum")
def _einsum(emit: Emit) -> Tensor:
    return einsum(emit.network, str(emit.node.attributes["pattern"]), emit.operands)


@row("parameter", "buffer")
def _parameter(emit: Emit) -> Tensor:
    found = emit.param("")
    assert found is not None
    return emit.network.reshape(found, emit.shape)


@row("layer_norm")
def _layer_norm(emit: Emit) -> Tensor:
    """Over the last axis; several are one for it."""
    net, shape, wide = emit.network, emit.shape, prod(emit.shape[-emit.whole("axes") :])
    x = net.reshape(emit.x, (prod(shape) // wide, wide))
    weights = [net.reshape(net.constant(emit.known(role)), (wide,)) for role in ("weight", "bias")]
    order = x.ordered
    x = x if order is None else order[0]
    made = net.call("LayerNormalization", [x, *weights], x.shape, axis=-1,
                    epsilon=emit.number("eps"))  # fmt: skip
    return net.reshape(made if order is None else net.rows(made, order[1]), shape)


@row("rms_norm")
def _rms_norm(emit: Emit) -> Tensor:
    net, x, shape = emit.network, emit.x, emit.shape
    squares = net.call("Mul", [x, x], shape)
    axes = net.constant(np.array([-1]))
    mean = net.call("ReduceMean", [squares, axes], (*shape[:-1], 1), keepdims=1)
    moved = net.call("Add", [mean, net.constant(np.float32(emit.number("eps")))], mean.shape)
    size = net.call("Sqrt", [moved], mean.shape)
    return net.call("Mul", [net.call("Div", [x, size], shape), emit.param("weight")], shape)


@row("batch_norm")
def _batch_norm(emit: Emit) -> Tensor:
    """One that no product stands beside: a factor and a shift of each channel."""
    net, shape = emit.network, emit.shape
    mean, variance = emit.known("running_mean"), emit.known("running_var")
    scale, bias = emit.known("weight", 1.0), emit.known("bias", 0.0)
    factor = scale / np.sqrt(variance.astype(np.float64) + emit.number("eps"))
    shift = bias - mean * factor
    size = (-1, *(1 for _ in shape[2:]))
    by, plus = (net.constant(n.astype(np.float32).reshape(size)) for n in (factor, shift))
    return net.call("Add", [net.call("Mul", [emit.x, by], shape), plus], shape)


# What is pointwise.


@row(*ARITHMETIC)
def _arithmetic(emit: Emit) -> Tensor:
    net, op = emit.network, ARITHMETIC[emit.node.op]
    if len(emit.operands) == 2:
        x, y = emit.operands
        if op == "Add" and (found := biased(net, x, y) or on_maps(net, x, y)) is not None:
            return found
        readers = emit.work.root.readers.get(Value(emit.node.id), ())
        return net.both(op, x, y, free=all(node.op in BY_ROWS for node in readers))
    number = net.constant(np.float32(emit.number("number")))
    flipped = emit.node.attributes["flipped"] is True
    return net.both(op, number, emit.x) if flipped else net.both(op, emit.x, number)


@row(*ACTIVATIONS)
def _activation(emit: Emit) -> Tensor:
    return emit.network.pointwise(ACTIVATIONS[emit.node.op], emit.x)


@row("hard_sigmoid")
def _hard_sigmoid(emit: Emit) -> Tensor:
    return emit.network.pointwise("HardSigmoid", emit.x, alpha=1 / 6, beta=0.5)


@row("swish")
def _swish(emit: Emit) -> Tensor:
    return emit.network.pointwise("QuickGelu", emit.x, MICROSOFT, alpha=1.0)


@row("softmax")
def _softmax(emit: Emit) -> Tensor:
    """Over the last axis, before a reshape that leaves it."""
    net, inner = emit.network, emit.network.source(emit.x)
    x = inner if inner.shape[-1] == emit.x.shape[-1] else emit.x
    return net.reshape(net.call("Softmax", [x], x.shape, axis=-1), emit.shape)


@row("sum_of")
def _sum_of(emit: Emit) -> Tensor:
    total, *others = emit.operands
    for other in others:
        total = emit.network.both("Add", total, other)
    return total


@row("identity", "dropout", "drop_path")
def _identity(emit: Emit) -> Tensor:
    return emit.x


# Pooling.


def _window(emit: Emit) -> dict[str, Any]:
    kernel, pad = emit.whole("kernel"), emit.node.attributes["pad"]
    by = emit.whole("pad") if isinstance(pad, Dim) else kernel // 2
    stride = emit.whole("stride")
    return {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [by] * 4}


@row("max_pool")
def _max_pool(emit: Emit) -> Tensor:
    return emit.network.call("MaxPool", [emit.x], emit.shape, **_window(emit))


@row("avg_pool")
def _avg_pool(emit: Emit) -> Tensor:
    counted = int(emit.node.attributes["count_pad"] is True)
    return emit.network.call(
        "AveragePool", [emit.x], emit.shape, **_window(emit), count_include_pad=counted
    )
