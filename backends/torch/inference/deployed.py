"""Networks that are deployed: callable, for inputs of one shape, on the processor in float32."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor, fx, nn

from spacelang.backends.torch.heap import keep_freed_memory
from spacelang.backends.torch.inference.rewriter import attribute
from spacelang.backends.torch.inference.views import direct
from spacelang.backends.torch.inputs import check
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.graph import Graph


class Deployed(nn.Module):
    """A network in evaluation for inputs of one shape, on the processor in float32.

    It has no parameters to train. Its weights are in an order that only this processor's library
    knows, so it is not copied, saved, moved or converted, nor given others (SP605): keep the model,
    and deploy that. Autocast leaves it as it is.
    """

    def __init__(self, graph: Graph, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.graph, self.shape = graph, shape
        self.eval()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """The output for one input of the network's shape (SP301 for another), no gradients."""
        if x.shape != self.shape or x.dtype != torch.float32 or x.device.type != "cpu":
            check(self.graph, (x,))
            found = f"{list(x.shape)} of {str(x.dtype).removeprefix('torch.')} on {x.device.type}"
            wanted = f"it is deployed for {list(self.shape)} of float32 on cpu, not {found}"
            raise SpaceError(error("SP301", f"{self.graph.name}: {wanted}"))
        if torch.is_autocast_enabled("cpu"):  # it would narrow what packed products then refuse
            with torch.autocast("cpu", enabled=False):
                return self.run(x)
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        """The output, in memory of its own, its entries in order."""
        raise NotImplementedError

    def _apply(self, fn: object, recurse: bool = True) -> NoReturn:
        raise _bound(self.graph, "moved or converted")

    def _save_to_state_dict(self, *_: object, **__: object) -> NoReturn:
        raise _bound(self.graph, "saved")

    def _load_from_state_dict(self, *_: object, **__: object) -> NoReturn:
        raise _bound(self.graph, "given other weights")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise _bound(self.graph, "copied")

    def __reduce__(self) -> NoReturn:
        raise _bound(self.graph, "copied or saved")


class Packed(Deployed):
    """A network of PyTorch's own operators; the process keeps the memory that is freed."""

    def __init__(self, graph: Graph, network: fx.GraphModule, example: Tensor) -> None:
        super().__init__(graph, tuple(example.shape))
        keep_freed_memory()
        self._constants, self._plain = _with_constants(network)
        self._last = torch.channels_last if example.dim() == 4 else torch.contiguous_format
        x = example.contiguous(memory_format=self._last)
        self._strides = x.stride()
        self._network = direct(self._plain, *self._constants, x)
        held = {_memory(tensor) for tensor in (*self._constants, x) if not tensor.is_mkldnn}
        self._borrowed = _memory(self._network(*self._constants, x)) in held

    def run(self, x: Tensor) -> Tensor:
        """The output, in memory of its own, its entries in order."""
        x = x.contiguous(memory_format=self._last)
        if x.stride() != self._strides:  # along axes of size 1, where it is the same memory
            x = x.as_strided(x.shape, self._strides)
        found = self.left(x)
        if self._borrowed:  # a constant, or the input: neither is the caller's to write into
            return found.clone(memory_format=torch.contiguous_format)
        return found.contiguous()

    def left(self, x: Tensor) -> Tensor:
        """The output as the network leaves it, of an input whose channels lie side by side: what a
        part of a larger network gives."""
        # PyTorch's compiler makes views of its own, and takes no `as_strided` that is written to.
        network = self._plain if torch.compiler.is_compiling() else self._network
        return network(*self._constants, x)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bound(graph: Graph, how: str) -> SpaceError:
    found = error("SP605", f"{graph.name} is deployed for this processor; it cannot be {how}")
    return SpaceError(found.hint("keep the model, and deploy that where it is to run"))


def _with_constants(network: fx.GraphModule) -> tuple[list[Tensor], fx.GraphModule]:
    """A function of constants and the input: reading attributes of modules takes longer."""
    constants: list[Tensor] = []
    graph = network.graph
    places: dict[str, fx.Node] = {}
    first = next(iter(graph.nodes))
    for node in list(graph.nodes):
        if node.op != "get_attr":
            continue
        path = str(node.target)
        if path not in places:
            with graph.inserting_before(first):
                places[path] = graph.placeholder(f"w{len(places)}")
            constants.append(attribute(network, path).detach())
        node.replace_all_uses_with(places[path])
        graph.erase_node(node)
    graph.lint()
    return constants, fx.GraphModule({}, graph)
