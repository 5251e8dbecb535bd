"""A flat network being rewritten node by node, the shapes of all values known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Node
from torch.fx.node import map_arg


def attribute(network: torch.nn.Module, path: str) -> Tensor:
    """A constant by its dotted path."""
    found: Any = network
    for name in path.split("."):
        found = getattr(found, name)
    return found


def shape(node: Node) -> tuple[int, ...]:
    """The shape of a value."""
    return node.meta["shape"]


def has_shape(value: object) -> bool:
    return isinstance(value, Node) and "shape" in value.meta


class Rewriter:
    """Rules on the nodes of one graph; each returns the value instead of a node, or None."""

    def __init__(self, network: fx.GraphModule) -> None:
        self.network, self.graph = network, network.graph

    def apply(self, rule: Callable[[Node], Node | None]) -> None:
        """Use a rule on every node until it changes none, then drop what nobody reads."""
        changed = True
        while changed:
            changed = False
            for node in list(self.graph.nodes):
                if node.op not in ("call_function", "call_method") or not node.users:
                    continue
                made = rule(node)
                if made is not None and made is not node:
                    node.replace_all_uses_with(made, lambda user, m=made: user is not m)
                    changed = True
            self.graph.eliminate_dead_code()

    # Making nodes, their shapes known; new ones stand before the node that is rewritten.

    def call(self, at: Node, function: Any, size: Sequence[int], *args: Any, **kw: Any) -> Node:
        with self.graph.inserting_before(at):
            made = self.graph.call_function(function, args, kw)
        made.meta["shape"] = tuple(size)
        return made

    def method(self, at: Node, name: str, size: Sequence[int], *args: Any) -> Node:
        with self.graph.inserting_before(at):
            made = self.graph.call_method(name, args)
        made.meta["shape"] = tuple(size)
        return made

    def permuted(self, at: Node, x: Node, order: Sequence[int]) -> Node:
        if list(order) == list(range(len(order))):
            return x
        return self.method(at, "permute", [shape(x)[i] for i in order], x, *order)

    def reshaped(self, at: Node, x: Node, size: Sequence[int]) -> Node:
        return x if tuple(size) == shape(x) else self.method(at, "reshape", size, x, tuple(size))

    def computed(self) -> None:
        """What depends on constants alone is computed now: masks of attention, mostly."""
        for node in list(self.graph.nodes):
            values = node.all_input_nodes
            made_here = node.op in ("call_function", "call_method") and has_shape(node)
            if not made_here or not values or any(v.op != "get_attr" for v in values):
                continue
            known = {v: attribute(self.network, str(v.target)).detach() for v in values}
            args, options = map_arg((node.args, node.kwargs), known.__getitem__)
            if node.op == "call_method":
                found = getattr(args[0], str(node.target))(*args[1:], **options)
            else:
                found = node.target(*args, **options)
            name = f"computed_{node.name}"
            self.network.register_buffer(name, found)
            with self.graph.inserting_before(node):
                made = self.graph.get_attr(name)
            made.meta["shape"] = shape(node)
            node.replace_all_uses_with(made)
        self.graph.eliminate_dead_code()
