"""How parameters start: a table of rules by the names that the IR gives them.

trunc_normal(0.02)    cut at -2 and 2, not at two deviations
linear, conv          PyTorch's own: uniform within 1 / sqrt(inputs of an output)
fan_out               normal of variance 2 / (kernel area * outputs of a group)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Generator, Tensor, nn

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.dim import Dim, Value
from spacelang.ir.graph import Graph, Place
from spacelang.ir.storage import Storage, largest

Picks = Mapping[str, Value]
"""Values of the decisions by which a tensor is picked from its bank; none outside of one."""
Start = Callable[[Tensor, Generator, Picks], object]


@dataclass(frozen=True)
class Fans:
    """The first use of a parameter: inputs of one output, and groups."""

    inputs: int
    groups: int


Rule = Callable[[Tensor, Generator, tuple[float, ...], Callable[[], Fans]], object]


def _uniform(tensor: Tensor, generator: Generator, bound: float) -> object:
    return nn.init.uniform_(tensor, -bound, bound, generator=generator)


def _outputs(tensor: Tensor) -> int:
    """Entries of the first axis; a number is one."""
    return tensor.shape[0] if tensor.ndim else 1


def _by_inputs(
    tensor: Tensor, generator: Generator, _: tuple[float, ...], fans: Callable[[], Fans]
) -> object:
    return _uniform(tensor, generator, 1 / math.sqrt(fans().inputs))


def _fan_out(
    tensor: Tensor, generator: Generator, _: tuple[float, ...], fans: Callable[[], Fans]
) -> object:
    area = math.prod(tensor.shape[2:])
    deviation = math.sqrt(2 * fans().groups / (area * _outputs(tensor)))
    return nn.init.normal_(tensor, 0, deviation, generator)


RULES: dict[str, Rule] = {
    "zeros": lambda t, g, a, f: nn.init.zeros_(t),
    "ones": lambda t, g, a, f: nn.init.ones_(t),
    "constant": lambda t, g, a, f: nn.init.constant_(t, a[0]),
    "normal": lambda t, g, a, f: nn.init.normal_(t, 0, a[0], g),
    "trunc_normal": lambda t, g, a, f: nn.init.trunc_normal_(t, 0, a[0], -2, 2, g),
    "linear": _by_inputs,
    "linear_bias": _by_inputs,
    "conv": _by_inputs,
    "conv_bias": _by_inputs,
    "fan_out": _fan_out,
    "uniform_out": lambda t, g, a, f: _uniform(t, g, 1 / math.sqrt(_outputs(t))),
}


def initial(graph: Graph) -> dict[str, Start]:
    """What fills each storage, by its path (SP605 for a rule that is not known)."""
    first: dict[str, Place] = {}
    for place in graph.places():
        for view in place.node.params.values():
            first.setdefault(place.instance.param(view.param), place)
    return {path: _start(storage, first[path], graph) for path, storage in graph.storages.items()}


def _start(storage: Storage, place: Place, graph: Graph) -> Start:
    init = storage.param.init
    rule = RULES.get(init.rule)
    if rule is None:
        known = ", ".join(RULES)
        raise SpaceError(
            error("SP605", f"no initialisation is called {init.rule}", storage.param.span).note(
                f"there are {known}"
            )
        )
    arguments = tuple(float(place.instance.absolute(a).at({})) for a in init.arguments)
    return lambda tensor, generator, picks: rule(
        tensor, generator, arguments, lambda: _fans(place, graph, picks)
    )


def _fans(place: Place, graph: Graph, picks: Picks) -> Fans:
    """Of the node that reads the parameter, at the largest that these picks leave."""
    node, instance = place.node, place.instance

    def most(dim: Dim) -> int:
        return largest(instance.absolute(dim).substitute(picks), graph.stored)

    if not node.operands:  # a bare parameter: an output has its trailing axes
        return Fans(math.prod(most(d) for d in node.types[0].shape[1:]), 1)
    source = node.operands[0]
    shape = instance.block.all_by_id[source.node].types[source.index].shape
    if node.op in ("conv", "conv_transpose"):
        kernel, groups = node.attributes["kernel"], node.attributes["groups"]
        assert isinstance(kernel, Dim)
        assert isinstance(groups, Dim)
        # PyTorch takes axis 1 of the weight for the inputs, also where the first axis are these.
        channels = shape[1] if node.op == "conv" else node.types[0].shape[1]
        return Fans(most(channels / groups * kernel * kernel), most(groups))
    axes = node.attributes["axes"]
    assert isinstance(axes, Dim)
    return Fans(math.prod(most(d) for d in shape[len(shape) - int(axes.at({})) :]), 1)
