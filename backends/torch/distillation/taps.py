"""Taps: the values that the file gives labels to, read by their path from any form of a network.

    taps(model, ["encoder[3].attn", "encoder[3].mid"], image)    # {path: value}, what is there
    tapped = Tapped(model, ["encoder[3].mid"]); output, values = tapped(image)    # many times

A supernet lowers once more, with these values as results, fused if it is and no group of a kernel
holds one of them; an extracted network is run node by node;
a printed one, and any other module, is read by hooks on its modules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from spacelang.backends.torch.lowering.kernels import unfused
from spacelang.backends.torch.lowering.lower import Lowering
from spacelang.backends.torch.lowering.program import Program
from spacelang.backends.torch.lowering.views import block_key
from spacelang.backends.torch.supernet import Supernet, Taps
from spacelang.backends.torch.training.evaluate import main_output
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.dialect import dotted
from spacelang.ir.graph import Graph, Place
from spacelang.passes.fusion import kernel_of

TAPS = "taps"  # in the `meta` of an extracted network: path -> names of its nodes and an axis
OUTPUT = "output "  # begins the name of an output beside the first; no path has a blank
Given = tuple[Tensor, dict[str, Tensor]]


def taps(network: nn.Module, paths: Sequence[str], *inputs: Tensor) -> dict[str, Tensor]:
    """Labelled values by path; what the architecture does not compute is left out.

    SP504 for a path that names no value of a network of this kind.
    """
    return Tapped(network, paths)(*inputs)[1]


class Tapped:
    """A network whose passes give labelled values beside its output, its first where it has more.

    With `every` the other outputs are among the values, those for training too, in their order.
    `wrapper` is what is called in place of the network, if something else runs it.

    SP504, now, for a path that names no value of a network of this kind.
    """

    def __init__(
        self,
        network: nn.Module,
        paths: Sequence[str],
        every: bool = False,
        wrapper: nn.Module | None = None,
    ) -> None:
        self.network, self.paths = network, tuple(dict.fromkeys(paths))
        self._run: Callable[..., Given]
        called = wrapper or network
        if isinstance(network, Supernet):
            self._run = _of_supernet(network, called, self.paths, every)
        elif isinstance(network, fx.GraphModule) and TAPS in network.meta:
            self._run = _of_graph(network, self.paths)
        else:
            self._run = _of_modules(network, called, self.paths, every)

    def __call__(self, *inputs: Tensor) -> Given:
        return self._run(*inputs)


def _unknown(path: str) -> SpaceError:
    return SpaceError(error("SP504", f"no value that can be read has the path {path}"))


def _of_supernet(
    model: Supernet, called: nn.Module, paths: Sequence[str], every: bool
) -> Callable[..., Given]:
    wanted, kernels = set(paths), model.lowering.kernels
    found = _named(model.graph, wanted)
    for path in paths:
        if path not in found:
            raise _unknown(path)
    graph = model.lowering.graph
    apart = _named(graph, wanted) if kernels else found
    hidden = next((path for path in paths if apart.get(path, {}) != found[path]), "")
    if hidden:
        unfused(graph, f"a pass that gives {hidden}, which a kernel does not,")
        graph, kernels = model.graph, ""
    exposed = frozenset(
        (block_key(place.instance, graph), place.node.id) for place in _labelled(graph, wanted)
    )
    asked = Taps(Program(Lowering(graph, exposed, kernels)), OUTPUT if every else None)

    def run(*inputs: Tensor) -> Given:
        output, values = called(*inputs, taps=asked)
        return output, {n: v for n, v in values.items() if n in wanted or n.startswith(OUTPUT)}

    return run


def _labelled(graph: Graph, paths: Collection[str]) -> Iterator[Place]:
    """The values of these paths; alternatives that exclude each other may give several to one."""
    for place in graph.places():
        if place.node.label and place.node.types and place.path in paths:
            yield place


def _named(graph: Graph, paths: Collection[str]) -> dict[str, Counter[str]]:
    """Path -> what computes it, and how often, outside of the groups of kernels."""
    found: dict[str, Counter[str]] = {}
    for place in _labelled(graph, paths):
        if not kernel_of(place.instance.block.name):
            found.setdefault(place.path, Counter())[place.node.op] += 1
    return found


class _Reader(fx.Interpreter):
    """Runs a network and keeps the values of some of its nodes."""

    def __init__(self, module: fx.GraphModule, wanted: set[str]) -> None:
        super().__init__(module)
        self.wanted = wanted
        self.kept: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.wanted:
            self.kept[n.name] = value
        return value


def _of_graph(network: fx.GraphModule, paths: Sequence[str]) -> Callable[..., Given]:
    known: Mapping[str, tuple[tuple[str, ...], int]] = network.meta[TAPS]
    for path in paths:
        if path not in known:
            raise _unknown(path)

    def run(*inputs: Tensor) -> Given:
        reader = _Reader(network, {name for path in paths for name in known[path][0]})
        output = main_output(reader.run(*inputs))
        found: dict[str, Tensor] = {}
        for path in paths:
            names, axis = known[path]
            parts = [reader.kept[name] for name in names]
            found[path] = parts[0] if len(parts) == 1 else torch.stack(parts, axis)
        return output, found

    return run


def _of_modules(
    network: nn.Module, called: nn.Module, paths: Sequence[str], every: bool
) -> Callable[..., Given]:
    modules = dict(network.named_modules())
    for path in paths:
        if dotted(path) not in modules:
            raise _unknown(path)

    def run(*inputs: Tensor) -> Given:
        found: dict[str, Tensor] = {}
        handles = []
        for path in paths:

            def keep(module: nn.Module, given: object, value: Any, path: str = path) -> None:
                found[path] = value if isinstance(value, Tensor) else value[0]

            handles.append(modules[dotted(path)].register_forward_hook(keep))
        try:
            result = called(*inputs)
            output = main_output(result)
            return output, found | (_others(result, output) if every else {})
        finally:
            for handle in handles:
                handle.remove()

    return run


def _others(result: object, main: Tensor) -> dict[str, Tensor]:
    """What a module gives beside its logits that has their shape."""
    named: Iterable[tuple[object, object]] = ()
    if isinstance(result, Mapping):
        named = cast(Mapping[object, object], result).items()
    elif isinstance(result, tuple | list):
        named = enumerate(cast(Sequence[object], result))
    return {
        f"{OUTPUT}{name}": value
        for name, value in named
        if isinstance(value, Tensor) and value is not main and value.shape == main.shape
    }
