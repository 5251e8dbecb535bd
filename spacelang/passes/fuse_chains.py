"""Groups that are chains: an MLP, a depthwise convolution with its norm, a mixture.

mlp         layer_norm |> linear |> gelu |> linear          without the norm, too; relu, too
depthwise   conv(groups: C) |> batch_norm |> activation     without the activation, too
mixture     mixture(weights, xs)
"""

from __future__ import annotations

from dataclasses import dataclass

from spacelang.ir.block import Block
from spacelang.ir.dim import Dim
from spacelang.ir.node import Node
from spacelang.ir.op import shown, values_of
from spacelang.passes.fusion import Group, Misfit, Unfit, gathered, maker, only_reader, whole

DEPTHWISE = frozenset({"relu", "gelu", "swish", "hard_swish"})
HIDDEN = frozenset({"gelu", "relu"})
WINDOWS = (3, 5, 7)
STRIDES = (1, 2)
CANDIDATES = 8


@dataclass(frozen=True)
class Mlp(Group):
    """A group, and its nodes in the order of the network."""

    norm: Node | None
    first: Node
    activation: Node
    second: Node


@dataclass(frozen=True)
class Depthwise(Group):
    """A group, and its nodes in the order of the network."""

    conv: Node
    norm: Node
    activation: Node | None


@dataclass(frozen=True)
class Mixture(Group):
    """A group of one node."""

    node: Node


def find_mlp(level: Block, node: Node) -> Mlp | Unfit | None:
    """The MLP that ends in a linear layer."""
    if node.op != "linear":
        return None
    activation = maker(level, node.operands[0], *HIDDEN, "dropout")
    if activation is None:
        return None
    before = activation.operands[0]
    if activation.op == "dropout":
        inner = maker(level, before, *HIDDEN)
        made = None if inner is None else maker(level, inner.operands[0], "linear")
        return None if made is None else Unfit("mlp", activation, "it drops hidden channels")
    first = maker(level, before, "linear")
    if first is None:
        return None
    for inner in (first, activation):
        if only_reader(level, inner) is None:
            return Unfit("mlp", inner, "what is inside of it is read outside, too")
    for linear in (first, node):
        if whole(linear, "axes") != 1 or isinstance(linear.attributes["out"], tuple):
            return Unfit("mlp", linear, "a layer of it reads or gives more than one axis")
        if "weight" not in linear.params:
            return Unfit("mlp", linear, "its weights are operands")
    norm = maker(level, first.operands[0], "layer_norm")
    plain = (
        norm is not None and whole(norm, "axes") == 1 and {"weight", "bias"} <= norm.params.keys()
    )
    if norm is not None and (not plain or only_reader(level, norm) is None):
        norm = None
    nodes = frozenset(n.id for n in (norm, first, activation, node) if n is not None)
    return Mlp("mlp", nodes, node.id, norm, first, activation, node)


def find_depthwise(level: Block, node: Node) -> Depthwise | Unfit | None:
    """The convolution whose norm, and what follows it, ends in a node."""
    norm = maker(level, node.operands[0], "batch_norm") if node.op in DEPTHWISE else None
    activation = None if norm is None else node
    if node.op == "batch_norm":
        norm, after = node, only_reader(level, node)
        if after is not None and after.op in DEPTHWISE:
            return None  # the group ends further on
    if norm is None:
        return None
    conv = maker(level, norm.operands[0], "conv")
    channels = None if conv is None else conv.types[0].shape[1]
    if conv is None or not _by_channel(level, conv, channels):
        return None
    if any(only_reader(level, n) is None for n in (conv, norm) if n is not node):
        return Unfit("depthwise", conv, "what is inside of it is read outside, too")
    try:
        _check_depthwise(conv, norm)
    except Misfit as misfit:
        return Unfit("depthwise", misfit.node, misfit.why)
    nodes = frozenset(n.id for n in (conv, norm, activation) if n is not None)
    return Depthwise("depthwise", nodes, node.id, conv, norm, activation)


def _by_channel(level: Block, conv: Node, channels: Dim | None) -> bool:
    groups = conv.attributes.get("groups")
    given = level.type_of(conv.operands[0]).shape[1]
    return channels != Dim.of(1) and groups == channels and given == channels


def _check_depthwise(conv: Node, norm: Node) -> None:
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


def find_mixture(level: Block, node: Node) -> Mixture | Unfit | None:
    """A mixture of candidates."""
    if node.op != "mixture":
        return None
    if len(node.operands) - 1 > CANDIDATES:
        return Unfit("mixture", node, f"it has more than {CANDIDATES} candidates")
    return Mixture("mixture", frozenset({node.id}), node.id, node)
