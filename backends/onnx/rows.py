"""Rows of the ops: what each is written as for ONNX Runtime."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from spacelang.backends.onnx.emit import Emit, Result, row
from spacelang.backends.onnx.network import MICROSOFT, Tensor
from spacelang.backends.onnx.products import biased, einsum, on_maps
from spacelang.ir.dim import Dim
from spacelang.ir.node import Value
from spacelang.ir.op import Infer
from spacelang.ops.patterns import Group, bind_rearrange, parse_rearrange

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
    factor = emit.known("weight") / np.sqrt(variance.astype(np.float64) + emit.number("eps"))
    shift = emit.known("bias") - mean * factor
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


# What moves elements.


@row("rearrange")
def _rearrange(emit: Emit) -> Tensor:
    """Split axes, permute, merge."""
    node, net, types = emit.node, emit.network, emit.work.types
    infer = Infer("rearrange", (types[node.operands[0]],), node.attributes, span=node.span)
    sides = parse_rearrange(infer)
    sizes, leading = bind_rearrange(infer, sides)
    spread: list[Group] = [(f"..{i}",) for i in range(len(leading))]
    sizes |= {name: size for (name,), size in zip(spread, leading, strict=True)}
    left, right = (
        [
            name
            for group in side
            for part in (spread if group == ("...",) else [group])
            for name in part
            if name != "1"
        ]
        for side in (sides.left, sides.right)
    )
    x = net.reshape(emit.x, [int(emit.work.number(sizes[name])) for name in left])
    return net.reshape(net.transpose(x, [left.index(name) for name in right]), emit.shape)


@row("concat")
def _concat(emit: Emit) -> Tensor:
    return emit.network.concat(emit.operands, emit.axis())


@row("split")
def _split(emit: Emit) -> Result:
    """Parts of a map are channels by pixels, which most of what reads them would make of them."""
    net, axis, x = emit.network, emit.axis(), emit.x
    shapes = [emit.work.shape(v) for v in emit.node.values]
    if (x.rank, axis) == (4, 1):
        batch, channels, *sides = x.shape
        x = net.reshape(x, (*([batch] if batch > 1 else []), channels, prod(sides)))
    parts = net.split(x, axis - (emit.x.rank == 4 and x.rank == 2), [s[axis] for s in shapes])
    return tuple(net.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True))


@row("unstack")
def _unstack(emit: Emit) -> Result:
    axis, net, shape = emit.axis(), emit.network, emit.shape
    parts = net.split(emit.x, axis, [1] * len(emit.node.types))
    return tuple(net.reshape(x, shape) for x in parts)


@row("expand")
def _expand(emit: Emit) -> Tensor:
    net, shape = emit.network, emit.shape
    if emit.x.entries is not None and shape[0] == 1:
        return net.constant(np.broadcast_to(emit.x.entries, shape))
    return net.call("Expand", [emit.x, net.constant(np.array(shape))], shape)


@row("slice")
def _slice(emit: Emit) -> Tensor:
    """Parts of axes, then axes of which one entry is taken are gone."""
    given = emit.node.attributes["index"]
    net, x = emit.network, emit.x
    starts: list[int] = []
    stops: list[int] = []
    axes: list[int] = []
    size = list(x.shape)
    for axis, entry in enumerate(given if isinstance(given, tuple) else (given,)):
        if isinstance(entry, Dim):
            start = int(emit.work.number(entry)) % x.shape[axis]
            stop = start + 1
        elif isinstance(entry, tuple):
            start, stop = (int(emit.work.number(d)) for d in entry if isinstance(d, Dim))
        else:
            continue
        if (start, stop) == (0, x.shape[axis]):
            continue
        starts, stops, axes = [*starts, start], [*stops, stop], [*axes, axis]
        size[axis] = stop - start
    if axes:
        parts = [net.constant(np.array(part)) for part in (starts, stops, axes)]
        x = net.call("Slice", [x, *parts], size)
    return net.reshape(x, emit.shape)


@row("pad")
def _pad(emit: Emit) -> Tensor:
    """Zeros behind the last entries."""
    net, rank = emit.network, emit.x.rank
    by = dict(zip((a % rank for a in emit.wholes("axes")), emit.wholes("by"), strict=True))
    if not any(by.values()):
        return emit.x
    amounts = net.constant(np.array([0] * rank + [by.get(axis, 0) for axis in range(rank)]))
    return net.call("Pad", [emit.x, amounts], emit.shape)


@row("roll")
def _roll(emit: Emit) -> Tensor:
    """Rows in another order, or where the last axis is rolled its two parts changed about."""
    net, x = emit.network, emit.x
    for by, given in zip(emit.wholes("by"), emit.wholes("axes"), strict=True):
        axis = given % x.rank
        last = by % x.shape[axis]
        if axis == x.rank - 1:
            parts = net.split(x, axis, [x.shape[axis] - last, last]) if last else (x,)
            x = net.concat(parts[::-1], axis)
        else:
            places = np.arange(prod(x.shape[:-1])).reshape(x.shape[:-1])
            x = net.reshape(net.rows(x, np.roll(places, last, axis).reshape(-1)), x.shape)
    return x


@row("mean")
def _mean(emit: Emit) -> Tensor:
    net, x = emit.network, emit.x
    axes = sorted(axis % x.rank for axis in emit.wholes("axes"))
    size = tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))
    if x.rank == 4 and axes == [2, 3]:
        return net.reshape(net.call("GlobalAveragePool", [x], size), emit.shape)
    made = net.call("ReduceMean", [x, net.constant(np.array(axes))], size, keepdims=1)
    return net.reshape(made, emit.shape)


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


# Tables.


@row("take")
def _take(emit: Emit) -> Tensor:
    return emit.network.call("Gather", emit.operands, emit.shape, axis=emit.axis())


@row("gather")
def _gather(emit: Emit) -> Tensor:
    """One index for all leading axes."""
    net, x, shape = emit.network, emit.x, emit.shape
    index = _spread(emit, shape)
    return net.call("GatherElements", [x, index], shape, axis=x.rank - 1)


@row("bucket_sum")
def _bucket_sum(emit: Emit) -> Tensor:
    net, x, shape = emit.network, emit.x, emit.shape
    zeros = net.call("ConstantOfShape", [net.constant(np.array(shape))], shape)
    index = _spread(emit, x.shape)
    return net.call("ScatterElements", [zeros, index, x], shape, axis=x.rank - 1, reduction="add")


def _spread(emit: Emit, shape: tuple[int, ...]) -> Tensor:
    index = emit.operands[1]
    if index.shape == shape:
        return index
    net = emit.network
    return net.call("Expand", [index, net.constant(np.array(shape))], shape)
