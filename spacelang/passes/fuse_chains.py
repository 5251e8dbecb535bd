"""Groups that are chains: an MLP, a mixture.

mlp       layer_norm |> linear |> gelu |> linear          without the norm, too; relu, too
mixture   mixture(weights, xs)
"""

from __future__ import annotations

from dataclasses import dataclass

from spacelang.ir.block import Block
from spacelang.ir.node import Node
from spacelang.passes.fusion import Group, Unfit, maker, only_reader, whole

HIDDEN = frozenset({"gelu", "relu"})
CANDIDATES = 8


@dataclass(frozen=True)
class Mlp(Group):
    """A group, and its nodes in the order of the network."""

    norm: Node | None
    first: Node
    activation: Node
    second: Node


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


def find_mixture(level: Block, node: Node) -> Mixture | Unfit | None:
    """A mixture of candidates."""
    if node.op != "mixture":
        return None
    if len(node.operands) - 1 > CANDIDATES:
        return Unfit("mixture", node, f"it has more than {CANDIDATES} candidates")
    return Mixture("mixture", frozenset({node.id}), node.id, node)
