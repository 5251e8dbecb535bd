"""Every access of every kernel is checked, and buffers that are made begin as no numbers.

`tests/conftest.py` has kernels run in Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

MARGIN = 64  # elements on each side of a guarded buffer
MARK = 7.0


class Room(NamedTuple):
    """Where the elements of an operand lie: bytes from `first` to `end`."""

    first: int
    end: int
    size: int  # of an element
    held: np.ndarray | None  # of each place between, whether it is an element; None if all are


def room(x: Any) -> Room:
    """The elements of a tensor, with the gaps between them."""
    import torch

    reach = 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    held = torch.zeros(reach, dtype=torch.bool)
    held.as_strided(x.shape, x.stride()).fill_(True)
    end = x.data_ptr() + reach * x.element_size()
    return Room(x.data_ptr(), end, x.element_size(), None if held.all() else held.numpy())


def inside(places: np.ndarray, size: int, rooms: list[Room]) -> bool:
    """Whether all of an access lies on elements of one and the same operand."""
    low, high = int(places.min()), int(places.max()) + size
    for part in rooms:
        if part.first <= low and high <= part.end and size == part.size:
            if part.held is None:
                return True
            offset, rest = np.divmod(places.astype(np.int64) - part.first, size)
            if not rest.any() and part.held[offset].all():
                return True
    return False


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel reads or writes what is no element of an operand of its, not even to drop it."""
    from torch import Tensor
    from torch.utils._pytree import tree_leaves
    from triton.runtime import interpreter

    rooms: list[Room] = []
    begin = interpreter.GridExecutor._init_args_hst

    def begun(self, given, named):
        operands = tree_leaves((given, named))
        rooms[:] = [room(x) for x in operands if isinstance(x, Tensor) and x.numel()]
        return begin(self, given, named)

    def checked(name: str, mask_at: int) -> None:
        plain = getattr(interpreter.InterpreterBuilder, name)

        def access(self, places, *rest):
            wanted = np.broadcast_to(rest[mask_at].data.astype(bool), places.data.shape)
            met = places.data[wanted]
            size = places.dtype.element_ty.primitive_bitwidth // 8
            if met.size and not inside(met, size, rooms):
                raise IndexError(f"{name}: beyond the operands")
            return plain(self, places, *rest)

        monkeypatch.setattr(interpreter.InterpreterBuilder, name, access)

    monkeypatch.setattr(interpreter.GridExecutor, "_init_args_hst", begun)
    checked("create_masked_load", 0)
    checked("create_masked_store", 1)


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Every buffer that is allocated from now on has guards, and holds no numbers to begin with.

    The returned function checks that all guards are as they were, and says how many buffers it saw.
    """
    import torch
    from torch import Tensor

    memories: list[tuple[Tensor, int]] = []
    plain, alike = torch.empty, torch.empty_like

    def made(like: Tensor) -> Tensor:
        count = like.numel()
        memory = plain(count + 2 * MARGIN, dtype=like.dtype).fill_(MARK)
        memory[MARGIN : MARGIN + count] = torch.nan
        memories.append((memory, count))
        return memory.as_strided(like.shape, like.stride(), MARGIN)

    def untouched() -> int:
        for memory, count in memories:
            assert (memory[:MARGIN] == MARK).all()
            assert (memory[MARGIN + count :] == MARK).all()
        return len(memories)

    monkeypatch.setattr(torch, "empty", lambda *a, **k: made(plain(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: made(alike(*a, **k)))
    return untouched
