"""Two strided convolutions of few channels, two pixels of a row as channels of one.

    conv 3 -> 8, stride 2 -> relu -> conv 8 -> C, stride 2

The runtime computes maps of 16 channels at a time, and 8 with half of its lanes idle. The first
convolution gives the 8 channels of two neighbours in a row as 16 of one pixel, by kernels of five
columns; the second reads them so, by kernels of two. What the kernels have more is zeros, and no
entry is moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spacelang.backends.onnx.emit import Emit, Work
from spacelang.backends.onnx.network import Array, Tensor
from spacelang.backends.onnx.products import LANES
from spacelang.ir.dim import Dim
from spacelang.ir.node import Node, Value

KERNEL, STRIDE = 3, 2
CHANNELS = LANES // 2


@dataclass(frozen=True)
class Stem:
    """The nodes that are one group."""

    first: Node
    relu: Node
    last: Node

    @property
    def inside(self) -> tuple[int, ...]:
        """The nodes but the last, which nothing else reads."""
        return (self.first.id, self.relu.id)

    def emitted(self, work: Work) -> Tensor:
        """The result of the second convolution."""
        net, first, last = work.network, Emit(work, self.first), Emit(work, self.last)
        batch, channels, high, wide = first.shape
        weight, bias = wider(first.known("weight")), first.known("bias")
        given = [first.x, net.constant(weight), net.constant(np.concatenate([bias, bias]))]
        both = net.call(
            "Conv", given, (batch, 2 * channels, high, wide // 2), kernel_shape=[KERNEL, 5],
            pads=[1, 1, 1, 0], strides=[STRIDE, 2 * STRIDE],
        )  # fmt: skip
        given = [
            net.call("Relu", [both], both.shape),
            net.constant(paired(last.known("weight"))),
            net.constant(last.known("bias")),
        ]
        return net.call(
            "Conv", given, last.shape, kernel_shape=[KERNEL, 2], pads=[1, 1, 1, 0],
            strides=[STRIDE, 1],
        )  # fmt: skip


def wider(weight: Array) -> Array:
    """[2 out, in, 3, 5] of [out, in, 3, 3]: the right neighbour's kernel stands two further."""
    out, channels, *_ = weight.shape
    found = np.zeros((2, out, channels, KERNEL, 5), weight.dtype)
    found[0, ..., :3] = weight
    found[1, ..., 2:] = weight
    return found.reshape(2 * out, channels, KERNEL, 5)


def paired(weight: Array) -> Array:
    """[out, 2 in, 3, 2] of [out, in, 3, 3]: of the pair before only the right one is read."""
    out, channels, *_ = weight.shape
    found = np.zeros((out, 2, channels, KERNEL, 2), weight.dtype)
    found[:, 1, :, :, 0] = weight[..., 0]
    found[:, 0, :, :, 1] = weight[..., 1]
    found[:, 1, :, :, 1] = weight[..., 2]
    return found.reshape(out, 2 * channels, KERNEL, 2)


def stems(work: Work) -> Mapping[int, Stem]:
    """The groups of a network by the node that each ends with."""
    found = (_stem(work, node) for node in work.root.nodes if node.op == "conv")
    return {group.last.id: group for group in found if group is not None}


def _stem(work: Work, last: Node) -> Stem | None:
    """The group that a convolution ends."""
    nodes = work.root.by_id
    relu = nodes[last.operands[0].node]
    if relu.op != "relu" or not work.alone(last.operands[0]):
        return None
    first = nodes[relu.operands[0].node]
    if first.op != "conv" or not work.alone(relu.operands[0]):
        return None
    if not (_fits(work, first) and _fits(work, last)):
        return None
    shape = work.shape(Value(first.id))
    even = work.shape(first.operands[0])[-1] == STRIDE * shape[-1] and shape[-1] % 2 == 0
    return Stem(first, relu, last) if even and shape[1] == CHANNELS else None


def _fits(work: Work, conv: Node) -> bool:
    """Whether it is 3 by 3 with stride 2 and a border, and has weights and a bias of its own."""
    emit, pad = Emit(work, conv), conv.attributes["pad"]
    wanted = {"kernel": KERNEL, "stride": STRIDE, "groups": 1, "dilation": 1}
    if any(emit.whole(name) != value for name, value in wanted.items()):
        return False
    if isinstance(pad, Dim) and emit.whole("pad") != 1:
        return False
    return conv.attributes["bias"] is True and not conv.attributes.get("given")
