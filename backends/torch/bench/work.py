"""What a contender is, and the weights and inputs that all of a row have in common.

    model = model_of(graph); x = images(graph, batch=8)
    work = forward(network, x, about(graph, None, 8))
    work.call()           # one call, what is timed
    work.results()        # what it computes, to be compared with the others

Weights are drawn from one seed and moved off their first values: norms that are the identity, zero
tables and statistics would hide what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from spacelang.backends.torch.heap import keep_freed_memory
from spacelang.backends.torch.supernet import Supernet
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph

Request = Mapping[str, Any]
GAIN = 0.75  # of matrices: with larger ones attention saturates, and rounding decides
LIBRARIES = ("torch", "timm", "onnxruntime")


class Missing(Exception):
    """A contender that cannot be there, as a library is not installed; the reason."""


@dataclass(frozen=True)
class Work:
    """A contender ready to be called; `cycle` calls make a whole repeat.

    `call` may return what it did and in how many seconds, to be told with the time.
    """

    call: Callable[[], Mapping[str, float] | None]
    results: Callable[[], Mapping[str, Tensor]]
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    cycle: int = 1


def forward(network: Callable[[Tensor], Tensor], x: Tensor, told: Mapping[str, Any]) -> Work:
    """A network for inference, on inputs that are always the same.

    Its process keeps freed memory: a deployed network sees to that by itself, and for every other
    one a user can set it by a variable of the allocator.
    """
    keep_freed_memory()

    def call() -> None:
        with torch.inference_mode():
            network(x)

    def results() -> dict[str, Tensor]:
        with torch.inference_mode():
            return {"logits": network(x)}

    return Work(call, results, told)


def model_of(graph: Graph) -> Supernet:
    """The space with weights that all matter, always the same, in evaluation.

    Matrices keep the size of what they are given, so that results depend on the images; all else is
    moved off what it starts from.
    """
    return filled(Supernet(graph, seed=0))


def filled(model: Supernet) -> Supernet:
    """A model in evaluation with such weights."""
    fill(model.state_dict())
    return model.eval()


def fill(state: Mapping[str, Tensor]) -> None:
    """Such weights into tensors by name."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in state.items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=random)
            if name.endswith("running_var"):
                tensor.mul_(1 + 0.1 * noise.abs())
            elif name.endswith("weight") and tensor.dim() > 1:
                tensor.copy_(GAIN * noise / (tensor.numel() / tensor.shape[0]) ** 0.5)
            elif name.endswith("weight"):
                tensor.copy_(1 + 0.1 * noise)
            else:  # tables, tokens, shifts, means, architecture parameters
                tensor.add_(0.2 * noise)


@contextmanager
def in_float64(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Tensors in float64, each the same object, and in float32 again afterwards.

    Where a network has ReLUs and maxima, rounding decides which side some of a million values are
    on, and with it gradients: two orders of adding up agree in float64 only.
    """
    cast = [tensor for tensor in tensors if tensor.is_floating_point()]
    for dtype in (torch.float64, torch.float32):
        for tensor in cast:
            tensor.grad = None
            tensor.data = tensor.data.to(dtype)
        if dtype == torch.float64:
            yield


def images(graph: Graph, batch: int) -> Tensor:
    """Normal noise of the size that a network takes."""
    shape = graph.root.inputs[0].types[0].shape
    sizes = [batch, *(int(size.at({})) for size in shape[1:])]
    return torch.randn(sizes, generator=torch.Generator().manual_seed(1))


def about(graph: Graph, assignment: Assignment | None, batch: int) -> dict[str, Any]:
    """FLOPs of a call, two for each multiply-add of a graph; and what is installed."""
    macs = graph.cost(assignment).macs
    return {"flops": 2 * batch * macs, "versions": versions()}


def versions() -> dict[str, str]:
    """Of the libraries that contenders run on."""
    return {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def library(name: str) -> Any:
    """A library by name (Missing where it is not installed)."""
    try:
        return import_module(name)
    except ImportError:
        raise Missing(f"{name} is not installed") from None


__all__ = [
    "Missing", "Request", "Work", "about", "fill", "filled", "forward", "images", "in_float64",
    "library", "model_of", "versions",
]  # fmt: skip
