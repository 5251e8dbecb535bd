"""Blocks whose inside is worked out again in the backward pass, and not kept until then.

    y = recomputed(scope, (module, tensors, weights, others, by_mode), weights)

What a block computes between its calls is one piece. The second time it is the same to the bit:
torch's random numbers are those of the first time, and running statistics do not move again.
`torch.utils.checkpoint` does the same, but loads PyTorch's compiler: seconds, and 100 MiB of what
was to be saved.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from spacelang.backends.torch.storage import Reference

Result = Tensor | tuple[Tensor, ...]


def recomputed(
    call: Callable[..., Result], given: Sequence[object], weights: Sequence[Reference]
) -> Result:
    """The result of a call, whose inner values are not kept for the backward pass."""
    stored = (getattr(module, name) for module, name in weights)
    buffers = [tensor for tensor in stored if not isinstance(tensor, torch.nn.Parameter)]
    piece = _Piece(call, given, buffers)
    with saved_tensors_hooks(piece.number, piece.value):
        return call(*given)


class _Piece:
    """What a call keeps, by number in the order in which it does so: values only once one is read.

    Each reading takes its value away; when all are read, another backward pass begins anew.
    """

    def __init__(
        self, call: Callable[..., Result], given: Sequence[object], buffers: Sequence[Tensor]
    ) -> None:
        self.call, self.given, self.buffers = call, given, buffers
        self.count = 0
        self.values: dict[int, Tensor] = {}
        self.device = next((x.device for x in _tensors(given)), torch.device("cpu"))
        self.random = _random(self.device)
        kind = self.device.type
        self.autocast = (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))

    def number(self, tensor: Tensor) -> int:
        self.count += 1
        return self.count - 1

    def value(self, number: int) -> Tensor:
        if number not in self.values:
            self.values = dict(enumerate(self._again()))
        return self.values.pop(number)

    def _again(self) -> list[Tensor]:
        """What the call keeps when it is made once more."""
        kept: list[Tensor] = []

        def keep(tensor: Tensor) -> None:  # a graph that held its results would never go
            kept.append(tensor.detach())

        enabled, dtype = self.autocast
        with ExitStack() as stack:
            stack.enter_context(_as_before(self.buffers))
            stack.enter_context(_drawn_from(self.random, self.device))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.autocast(self.device.type, dtype, enabled))
            stack.enter_context(saved_tensors_hooks(keep, lambda _: kept[0]))
            self.call(*self.given)
        if len(kept) != self.count:
            raise RuntimeError(f"a block kept {self.count} values and, once more, {len(kept)}")
        return kept


def _tensors(given: object) -> Generator[Tensor]:
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, list | tuple):
        for part in given:
            yield from _tensors(part)


def _random(device: torch.device) -> tuple[Tensor, ...]:
    """The states of the generators that a call may draw from."""
    states = (torch.get_rng_state(),)
    return (*states, torch.cuda.get_rng_state(device)) if device.type == "cuda" else states


@contextmanager
def _drawn_from(states: tuple[Tensor, ...], device: torch.device) -> Generator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.set_rng_state(states[0])
        if len(states) > 1:
            torch.cuda.set_rng_state(states[1], device)
        yield


@contextmanager
def _as_before(buffers: Sequence[Tensor]) -> Generator[None]:
    """Buffers that are afterwards what they were before."""
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
