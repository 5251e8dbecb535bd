"""Blocks whose inside is worked out again in the backward pass, and not kept until then.

    y = recomputed(scope, (module, tensors, weights, others, by_mode), weights)

What a block computes between its calls is one piece. The second time it is the same to the bit:
torch's random numbers are those of the first time, and running statistics do not move again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spacelang.backends.torch.storage import Reference

Result = Tensor | tuple[Tensor, ...]


def recomputed(
    call: Callable[..., Result], given: Sequence[object], weights: Sequence[Reference]
) -> Result:
    """The result of a call, whose inner values are not kept for the backward pass."""
    stored = (getattr(module, name) for module, name in weights)
    buffers = [tensor for tensor in stored if not isinstance(tensor, torch.nn.Parameter)]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _kept(buffers)

    return checkpoint(call, *given, use_reentrant=False, context_fn=contexts)


@contextmanager
def _kept(buffers: Sequence[Tensor]) -> Generator[None]:
    """Buffers that are afterwards what they were before."""
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
