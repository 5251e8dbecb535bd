"""Rows of the ops that move elements, and of tables and what is read by them."""

from __future__ import annotations

from math import prod

import numpy as np

from spacelang.backends.onnx.emit import Emit, Result, row
from spacelang.backends.onnx.network import Tensor
from spacelang.ir.dim import Dim
from spacelang.ir.infer import Settled
from spacelang.ops.patterns import Group, bind_rearrange, parse_rearrange


@row("rearrange")
def _rearrange(emit: Emit) -> Tensor:
    """Split axes, permute, merge."""
    node, net, types = emit.node, emit.network, emit.work.types
    infer = Settled("rearrange", (types[node.operands[0]],), node.attributes, span=node.span)
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
