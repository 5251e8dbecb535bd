"""Multiply-accumulates counted from the operators that PyTorch runs, knowing nothing of a graph.

    with OperatorCounter() as counted:
        model(images)
    counted.macs, counted.by_kind            # of the whole batch

The convention is that of the published figures: convolutions (squeeze-and-excite ones too), linear
layers and the two products of attention count, every other operator is free. An operator that could
hide a product and is none of the known ones fails the count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spacelang.backends.torch.supernet import Supernet
from spacelang.ir.graph import Graph

aten = torch.ops.aten


def _convolution(arguments: tuple[Any, ...], result: Tensor) -> int:
    """Each output is a sum over the inputs of its group under the kernel."""
    weight, transposed = arguments[1], arguments[6]
    if transposed:
        return arguments[0].numel() * weight[0].numel()
    return result.numel() * weight[0].numel()


def _product(left: int) -> Callable[[tuple[Any, ...], Tensor], int]:
    """A matrix product: each output is a sum over the last axis of the left matrix."""
    return lambda arguments, result: result.numel() * arguments[left].shape[-1]


RULES: Mapping[Any, Callable[[tuple[Any, ...], Tensor], int]] = {
    aten.convolution.default: _convolution,
    aten.mm.default: _product(0),
    aten.bmm.default: _product(0),
    aten.mv.default: _product(0),
    aten.dot.default: lambda arguments, _: arguments[0].numel(),
    aten.addmm.default: _product(1),
    aten.baddbmm.default: _product(1),
    aten.addmv.default: _product(1),
}
HIDDEN = ("linear", "matmul", "einsum", "attention", "conv", "mm", "bilinear", "tensordot", "cdist")
"""Parts of names of operators that multiply and accumulate."""


class OperatorCounter(TorchDispatchMode):
    """Counts while it is entered; `macs` is the sum, `by_kind` the share of each operator."""

    def __init__(self) -> None:
        super().__init__()
        self.by_kind: Counter[str] = Counter()

    @property
    def macs(self) -> int:
        return self.by_kind.total()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func in RULES:
            self.by_kind[_kind(name, args)] += RULES[func](args, result)
        elif any(word in name for word in HIDDEN):
            raise AssertionError(f"{func} is counted nowhere")
        return result


def _kind(name: str, arguments: tuple[Any, ...]) -> str:
    """Which share an operator adds to: dense, depthwise and 1x1 convolutions stand apart."""
    if name != "convolution":
        return name
    kernel, groups = arguments[1].shape[2:], arguments[8]
    if groups > 1:
        return "depthwise"
    return "pointwise" if set(kernel) == {1} else "dense"


def count(model: nn.Module, graph: Graph) -> OperatorCounter:
    """The operators of one sample through a module on the meta device."""
    with torch.no_grad(), OperatorCounter() as counted:
        model(*samples(graph))
    return counted


def samples(graph: Graph) -> list[Tensor]:
    """One sample of every input, without values."""
    shapes = [
        [1 if size.constant is None else int(size.constant) for size in node.types[0].shape]
        for node in graph.root.inputs
    ]
    return [torch.empty(shape, device="meta") for shape in shapes]


def lowered(graph: Graph) -> Supernet:
    """The network of a graph on the meta device, for use: shapes without values."""
    with torch.device("meta"):
        return Supernet(graph).eval()


def used_numel(model: Supernet) -> int:
    """Elements of all parameters that the outputs read; what only training reads is not there."""
    return sum(p.numel() for p in model.extract().parameters())
