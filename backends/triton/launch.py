"""Whether tensors can go to a kernel; where not: the reason, one warning, and the reference.

    if launches("soft_labels", refusal(logits)): ...   # else compute the reference

Kernels run on CUDA and HIP devices, and on the CPU in Triton's interpreter, where the environment
has had TRITON_INTERPRET=1 since before the first import.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from triton import knobs

from spacelang.diagnostics import SpaceError, error

FLOATS = frozenset({torch.float32, torch.bfloat16, torch.float16})
INTERPRETED: bool = knobs.runtime.interpret
_required: ContextVar[bool] = ContextVar("fused kernels are required", default=False)
_told: set[tuple[str, str]] = set()


class NotFused(UserWarning):
    """A kernel could not take its operands: the same was computed without it."""


@contextmanager
def require_fused() -> Iterator[None]:
    """Within it, what cannot be fused is an error (`--require-fused`)."""
    token = _required.set(True)
    try:
        yield
    finally:
        _required.reset(token)


def refusal(*tensors: Tensor, dtypes: Collection[torch.dtype] = FLOATS) -> str:
    """Why no kernel can take these tensors; empty if one can."""
    first = tensors[0]
    if any(t.device != first.device for t in tensors):
        return "its operands are on different devices"
    if first.device.type != "cuda" and not INTERPRETED:
        return f"there are no kernels for {first.device.type}"
    foreign = [t.dtype for t in tensors if t.dtype not in dtypes]
    if foreign:
        return f"no kernel takes {str(foreign[0]).removeprefix('torch.')}"
    return ""


def launches(kernel: str, reason: str) -> bool:
    """Whether to launch a kernel: where not, its reference has to do, and that is said once.

    SP605 within `require_fused`.
    """
    if not reason:
        return True
    if _required.get():
        raise SpaceError(error("SP605", f"{kernel} cannot run fused: {reason}"))
    if (kernel, reason) not in _told:
        _told.add((kernel, reason))
        warnings.warn(f"{kernel} does not run fused: {reason}", NotFused, stacklevel=4)
    return False
