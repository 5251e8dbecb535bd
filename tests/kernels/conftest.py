"""Guards around the buffers of kernels; `tests/conftest.py` has them run in the interpreter."""

from __future__ import annotations

from collections.abc import Callable

import pytest

MARGIN = 64  # elements on each side of a guarded buffer
MARK = 7.0


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
