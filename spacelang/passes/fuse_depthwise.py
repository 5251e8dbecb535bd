"""Depthwise convolutions with their norms as groups, and squeeze-excite on what they give.

y = conv(x, groups: C) |> batch_norm |> activation               without the activation, too
y * (mean(y, axes: [2, 3]) |> conv |> relu |> conv |> sigmoid)   any layers from means to factors

The gate of a squeeze-excite is made from the means of y and multiplies y: the kernels find the
means without writing y, and write it gated. Layers between the two stay what they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from spacelang.ir.block import Block
from spacelang.ir.conflict import shown, values_of
from spacelang.ir.dim import ONE, Dim
from spacelang.ir.node import Node, Value
from spacelang.passes.fusion import Group, Misfit, Unfit, gathered, maker, only_reader, whole

KERNEL = "depthwise"
ACTIVATIONS = frozenset({"relu", "gelu", "swish", "hard_swish"})
LAYERS = ACTIVATIONS | {"conv", "sigmoid", "hard_sigmoid", "identity"}
"""What a gate is made by."""
WINDOWS = (3, 5, 7)
STRIDES = (1, 2)


@dataclass(frozen=True)
class Gate:
    """A squeeze-excite: means of planes, the layers that make factors of them, the product."""

    mean: Node
    layers: tuple[Node, ...]
    product: Node

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All of them in the order of the network."""
        return (self.mean, *self.layers, self.product)


@dataclass(frozen=True)
class Depthwise(Group):
    """A group, and its nodes in the order of the network."""

    conv: Node
    norm: Node
    activation: Node | None
    gate: Gate | None


def find(level: Block, node: Node) -> Depthwise | Unfit | None:
    """The convolution whose norm, and what follows it, ends in a node."""
    gate = _gate(level, node)
    last = node if gate is None else level.by_id[gate.mean.operands[0].node]
    norm = maker(level, last.operands[0], "batch_norm") if last.op in ACTIVATIONS else None
    activation = None if norm is None else last
    if last.op == "batch_norm":
        norm, after = last, only_reader(level, last)
        if after is not None and after.op in ACTIVATIONS:
            return None  # the group ends further on
    if norm is None:
        return None
    conv = maker(level, norm.operands[0], "conv")
    channels = None if conv is None else conv.types[0].shape[1]
    if conv is None or not _by_channel(level, conv, channels):
        return None
    if gate is None and any(_gate(level, r) for r in level.readers.get(Value(node.id), ())):
        return None
    if any(only_reader(level, n) is None for n in (conv, norm) if n is not last):
        return Unfit(KERNEL, conv, "what is inside of it is read outside, too")
    try:
        _check(conv, norm)
    except Misfit as misfit:
        return Unfit(KERNEL, misfit.node, misfit.why)
    nodes = [n for n in (conv, norm, activation) if n is not None]
    nodes += () if gate is None else gate.nodes
    return Depthwise(KERNEL, frozenset(n.id for n in nodes), node.id, conv, norm, activation, gate)


def _gate(level: Block, product: Node) -> Gate | None:
    """The squeeze-excite that ends in a product of planes with factors of their means."""
    if product.op != "mul" or len(product.operands) != 2:
        return None
    for planes, factors in (product.operands, product.operands[::-1]):
        layers: list[Node] = []
        node = level.by_id[factors.node]
        while node.op in LAYERS and len(node.operands) == 1 and only_reader(level, node):
            layers.append(node)
            node = level.by_id[node.operands[0].node]
        if node.op != "mean" or node.operands != (planes,) or only_reader(level, node) is None:
            continue
        shape = level.type_of(planes).shape
        means = (*shape[:2], ONE, ONE)
        alone = planes not in level.outputs and len(level.readers[planes]) == 2
        if alone and node.types[0].shape == means == level.type_of(factors).shape:
            return Gate(node, tuple(reversed(layers)), product)
    return None


def _by_channel(level: Block, conv: Node, channels: Dim | None) -> bool:
    groups = conv.attributes.get("groups")
    given = level.type_of(conv.operands[0]).shape[1]
    return channels != Dim.of(1) and groups == channels and given == channels


def _check(conv: Node, norm: Node) -> None:
    kernel, stride = conv.attributes["kernel"], whole(conv, "stride")
    assert isinstance(kernel, Dim)
    if any(side not in WINDOWS for side in values_of(kernel) or (None,)):
        raise Misfit(conv, f"no kernel takes a window of {shown(kernel)}")
    if stride not in STRIDES:
        raise Misfit(conv, f"no kernel takes a stride of {conv.attributes['stride']}")
    if whole(conv, "dilation") != 1:
        raise Misfit(conv, "no kernel takes a dilation")
    pad = conv.attributes["pad"]
    if isinstance(pad, Dim) and pad != (kernel - 1) / 2:
        raise Misfit(conv, f"no kernel pads by {shown(pad)}")
    if "weight" not in conv.params or "bias" in conv.params:
        raise Misfit(conv, "no kernel takes a bias before a norm, or weights that are operands")
    if not {"weight", "bias", "running_mean", "running_var"} <= norm.params.keys():
        raise Misfit(norm, "its norm has no scale and shift, or no statistics")
    if gathered(norm) or gathered(conv):
        raise Misfit(norm, "its weights are read through an index table")
