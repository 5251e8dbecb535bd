"""Whether supernets compute fused groups by kernels: `--backend triton`.

    with with_kernels(required=True):
        model = Supernet(graph)            # SP605 for a group that no kernel can take
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from spacelang import plugins
from spacelang.backends.torch.lower import Lowering
from spacelang.diagnostics import Report, SpaceError, error
from spacelang.ir.graph import Graph
from spacelang.passes.fuse import for_kernels

Mode = Literal["no", "where they fit", "required"]
_mode: ContextVar[Mode] = ContextVar("how supernets are lowered", default="no")


@contextmanager
def with_kernels(required: bool = False) -> Iterator[None]:
    """Within it supernets are lowered to kernels; `required`: what a kernel cannot take is SP605.

    SP605 where Triton is not installed.
    """
    try:
        require = plugins.load("spacelang.kernels", "required")
    except ImportError as failed:
        found = error("SP605", f"the triton backend cannot be loaded: {failed}")
        raise SpaceError(found.hint("install spacelang-nas[triton]; it is made for Linux")) from failed
    token = _mode.set("required" if required else "where they fit")
    try:
        if required:
            with require():
                yield
        else:
            yield
    finally:
        _mode.reset(token)


def lowering_of(graph: Graph) -> Lowering:
    """How a graph is lowered here: node by node, or with its groups fused."""
    mode = _mode.get()
    if mode == "no":
        return Lowering(graph)
    result = for_kernels(graph)
    if mode == "required":
        report = Report()
        for refusal in result.refusals:
            report.add(error("SP605", f"cannot run fused: {refusal}", refusal.node.span))
        report.check()
    return Lowering(result.graph, kernels=True)
