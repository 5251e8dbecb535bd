"""Whether supernets compute fused groups by kernels: `--backend triton`, `--backend fused`.

with with_kernels(required=True):
    model = Supernet(graph)            # SP605 for a group that no kernel can take
with with_fused():
    model = Supernet(graph)            # attention and MLPs by functions of PyTorch that keep little
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from spacelang import plugins
from spacelang.backends.torch.lowering.lower import Lowering
from spacelang.diagnostics import Report, SpaceError, error
from spacelang.extras import install
from spacelang.ir.graph import Graph
from spacelang.passes.bucketise import bucketised
from spacelang.passes.fuse import Fused, for_kernels, fused
from spacelang.passes.fusion import kernel_of

Mode = Literal["no", "where they fit", "required", "fused"]
FUSED = ("attention", "mlp")  # that `fused/` has
BACKENDS: Mapping[Mode, tuple[str, bool]] = MappingProxyType(
    {
        "no": ("torch", False),
        "where they fit": ("triton", False),
        "required": ("triton", True),
        "fused": ("fused", False),
    }
)
_mode: ContextVar[Mode] = ContextVar("how supernets are lowered", default="no")


class PlainWarning(UserWarning):
    """What was to run in kernels runs without them."""


@contextmanager
def with_kernels(required: bool = False) -> Iterator[str]:
    """Within it supernets are lowered to kernels; `required`: what a kernel cannot take is SP605.

    Gives the name of the backend that does the rest. SP605 where Triton is not installed.
    """
    try:
        require = plugins.load("spacelang.kernels", "required")
    except ImportError as failed:
        found = error("SP605", f"the triton backend cannot be loaded: {failed}")
        raise SpaceError(found.hint(f"{install('triton')}; it is made for Linux")) from failed
    required = required or _mode.get() == "required"
    token = _mode.set("required" if required else "where they fit")
    try:
        with require() if required else nullcontext():
            yield "torch"
    finally:
        _mode.reset(token)


@contextmanager
def with_fused(required: bool = False) -> Iterator[str]:
    """Within it supernets compute attention and MLPs as one function each, in plain PyTorch.

    Gives the name of the backend that does the rest. SP605 for `required`: it is for Triton.
    """
    if required:
        found = error("SP605", "the fused backend takes what it can, and cannot be required")
        raise SpaceError(found.hint("leave --require-fused out, or use --backend triton"))
    token = _mode.set("fused")
    try:
        yield "torch"
    finally:
        _mode.reset(token)


def chosen() -> tuple[str, bool]:
    """The --backend, and --require-fused, by which supernets are lowered here."""
    return BACKENDS[_mode.get()]


def by_triton() -> bool:
    """Whether supernets are lowered to kernels of Triton here."""
    return _mode.get() in ("where they fit", "required")


def loss_of(name: str, plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The kernel of a loss where supernets are lowered to kernels here, else the plain function."""
    return plugins.load("spacelang.kernels", name) if by_triton() else plain


def lowering_of(graph: Graph) -> Lowering:
    """How a graph is lowered here: node by node, or with its groups fused."""
    match _mode.get():
        case "no":
            return Lowering(graph)
        case "fused":
            return Lowering(fused(bucketised(graph), FUSED).graph, kernels="fused")
        case _:
            return Lowering(_fused(graph).graph, kernels="triton")


def unfused(graph: Graph, what: str) -> None:
    """SP605 where kernels are required of what runs without them, else a PlainWarning."""
    told = f"{what} of {graph.name} cannot run fused"
    if _mode.get() == "required":
        raise SpaceError(
            error("SP605", told).hint("leave --require-fused out, or what is compared")
        )
    warnings.warn(f"{told}: its layers are computed node by node", PlainWarning, stacklevel=3)


def fits(graph: Graph) -> dict[str, int]:
    """How many places of a network each kernel computes."""
    places = (kernel_of(instance.block.name) for instance in _fused(graph).graph.instances())
    return dict(sorted(Counter(kernel for kernel in places if kernel).items()))


def _fused(graph: Graph) -> Fused:
    """The graph with its groups fused; SP605 for each that cannot be, where that is required."""
    result = for_kernels(graph)
    if _mode.get() == "required":
        report = Report()
        for refusal in result.refusals:
            report.add(error("SP605", f"cannot run fused: {refusal}", refusal.node.span))
        report.check()
    return result
