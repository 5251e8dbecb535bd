"""Whether tensors can go to a kernel; where not: the reason, one warning, and the reference.

    @operator("soft_labels", NAME)
    def _op(logits): ...
        if launches(NAME, refusal(logits)): ...   # else compute the reference

A kernel that fails (it cannot be compiled, or needs more than the device has) is launched no more:
its operators compute their references.

Kernels run on CUDA and HIP devices, and on the CPU in Triton's interpreter, where the environment
has had TRITON_INTERPRET=1 since before the first import.
"""

from __future__ import annotations

import functools
import subprocess
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from triton import knobs
from triton.errors import TritonError
from triton.runtime.errors import InterpreterError

from spacelang.diagnostics import SpaceError, error

FLOATS = frozenset({torch.float32, torch.bfloat16, torch.float16})
ABSENT = "there are no kernels for "  # a device: the same of all kernels, so the network is named
INTERPRETED: bool = knobs.runtime.interpret
_required = 0  # how many `require_fused` are open
_counting = Lock()
_told: set[tuple[str, str]] = set()
_failed: dict[str, str] = {}  # kernel -> what it failed with
FAILURES = (TritonError, RuntimeError, OSError, subprocess.SubprocessError)
"""What compiling and launching raise: by Triton, its driver, and the compilers that it calls."""


class NotFused(UserWarning):
    """A kernel could not take its operands: the same was computed without it."""


@contextmanager
def require_fused() -> Iterator[None]:
    """Within it, what cannot be fused is an error (`--require-fused`), in every thread.

    Autograd runs what goes back on a GPU, and what it computes again, in threads of its own.
    """
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def _count(more: int) -> None:
    global _required
    with _counting:
        _required += more


def wide(x: Tensor) -> Tensor:
    """A tensor as references compute with it: in float32, a double as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def refusal(*tensors: Tensor, dtypes: Collection[torch.dtype] = FLOATS) -> str:
    """Why no kernel can take these tensors; empty if one can."""
    first = tensors[0]
    if any(t.device != first.device for t in tensors):
        return "its operands are on different devices"
    if first.device.type != "cuda" and not INTERPRETED:
        return f"{ABSENT}{first.device.type}"
    foreign = [t.dtype for t in tensors if t.dtype not in dtypes]
    if foreign:
        return f"no kernel takes {str(foreign[0]).removeprefix('torch.')}"
    return ""


def unmixed(operand: Tensor) -> AbstractContextManager[object]:
    """Without mixed precision: within an operator nothing is rounded any further."""
    kind = operand.device.type
    if not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def operator(name: str, kernel: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a function an operator: by its reference where its kernel has failed, which is told."""

    def make(function: Callable[..., Any]) -> Any:
        def at(*operands: Any) -> Any:
            """On the device of its operands, which need not be the current one, in their types."""
            first = next(x for x in tree_leaves(operands) if isinstance(x, Tensor))
            with torch.cuda.device_of(first), unmixed(first):
                return function(*operands)

        @functools.wraps(function)
        def run(*operands: Any) -> Any:
            try:
                return at(*operands)
            except (InterpreterError, torch.OutOfMemoryError):
                raise  # a defect of a kernel; and what a reference would need more of
            except FAILURES as failed:
                if kernel in _failed:
                    raise  # no kernel did that
                told = str(failed).strip().splitlines() or [type(failed).__name__]
                _failed[kernel] = f"it failed: {told[0]}"
            try:
                return at(*operands)
            except FAILURES:
                del _failed[kernel]  # its reference fails too: no kernel did that
                raise

        schema = torch.library.infer_schema(function, mutates_args=())
        return torch.library.custom_op(f"spacelang::{name}", run, mutates_args=(), schema=schema)

    return make


def differentiable(op: Any, setup: Callable[..., None], backward: Callable[..., Any]) -> None:
    """Register how an operator is differentiated: by the gradient of its first result alone.

    No zeros are made for gradients of the others, which are as large as what is kept.
    """

    def began(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)
        setup(ctx, inputs, output)

    def back(ctx: Any, *slopes: Any) -> Any:
        if all(part is None for part in tree_leaves(slopes)):
            return tree_map(lambda _: None, tuple(ctx.needs_input_grad))
        return backward(ctx, *slopes)

    op.register_autograd(back, setup_context=began)


def launches(kernel: str, reason: str) -> bool:
    """Whether to launch a kernel: where not, its reference has to do, and that is said once.

    SP605 within `require_fused`.
    """
    reason = reason or _failed.get(kernel, "")
    if not reason:
        return True
    if _required:
        raise SpaceError(error("SP605", f"{kernel} cannot run fused: {reason}"))
    what = "the network" if reason.startswith(ABSENT) else kernel
    if (what, reason) not in _told:
        _told.add((what, reason))
        warnings.warn(f"{what} does not run fused: {reason}", NotFused, stacklevel=5)
    return False
