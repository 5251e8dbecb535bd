"""Views taken straight from the tensor whose memory they show: one call, whatever led to them.

    permute(getitem(split(permute(y))))  ->  as_strided(y, size, stride, offset)

Two calls of three in a small network are views. Where entries lie is read from one run, so the
network takes its input in the strides of the example.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx import Node

Place = tuple[tuple[int, ...], tuple[int, ...], int]
"""Where the entries of a tensor lie in its memory: sizes, strides, and the first one."""


class _Recorder(fx.Interpreter):
    """Runs a network once and writes down where values lie, and whose memory views show."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.places: dict[Node, Place] = {}
        self.owners: dict[Node, Node] = {}

    def run_node(self, n: Node) -> Any:
        found = super().run_node(n)
        if isinstance(found, Tensor) and _memory(found):
            self.places[n] = (tuple(found.size()), found.stride(), int(found.storage_offset()))
        name = getattr(n.target, "__name__", str(n.target))
        if n.op in ("call_function", "call_method") and not name.endswith("_") and _memory(found):
            for x in n.all_input_nodes:
                if _memory(self.env[x]) == _memory(found):
                    self.owners[n] = self.owners.get(x, x)
        return found


def direct(network: fx.GraphModule, *example: Tensor) -> fx.GraphModule:
    """A copy with its views taken so; those of its inputs, constants too, stay as they are."""
    network = fx.GraphModule({}, copy.deepcopy(network.graph))
    recorder, graph = _Recorder(network), network.graph
    with torch.inference_mode():
        recorder.run(*example)
    taken: dict[tuple[Node, Place], Node] = {}
    for node, owner in recorder.owners.items():
        place = recorder.places.get(node)
        if place is None or owner.op not in ("call_function", "call_method"):
            continue
        if owner.target is F.scaled_dot_product_attention:  # its strides hang on who computes it
            continue
        if (owner, place) not in taken:
            made = owner
            if place != recorder.places[owner]:
                with graph.inserting_before(node):
                    made = graph.call_function(torch.as_strided, (owner, *place))
            taken[owner, place] = made
        node.replace_all_uses_with(taken[owner, place])
    graph.eliminate_dead_code()
    graph.lint()
    network.recompile()
    return network


def _memory(value: object) -> int:
    """Where the memory of a tensor, or of the first of several, begins; 0 for what has none."""
    if isinstance(value, tuple | list) and value:
        value = value[0]
    if not isinstance(value, Tensor) or value.is_mkldnn:
        return 0
    return value.untyped_storage().data_ptr()
