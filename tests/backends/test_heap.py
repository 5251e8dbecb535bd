"""What a process does with memory that is freed."""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest

from spacelang.backends.torch.heap import OWN, keep_freed_memory

GLIBC = platform.libc_ver()[0] == "glibc"


PROGRAM = """
from pathlib import Path
import torch
from spacelang.backends.torch.heap import keep_freed_memory

def resident():
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) >> 10

assert keep_freed_memory()
x = torch.ones(32 << 20)
held = resident()
del x
freed = resident()
torch.ones(31 << 20)
print(held, freed, resident())
"""  # of 128 MiB, which glibc would give back at once whatever its thresholds are
# The second is smaller: glibc asks for an edge more than an aligned tensor fills, so that the place
# of the first is too narrow for its like wherever something else came to lie behind it.


@pytest.mark.skipif(not GLIBC, reason="another allocator")
def test_freed_memory_stays(
    fresh_python: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, whose memory is what this one tensor makes it."""
    for name in (*OWN, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    held, freed, again = map(int, fresh_python("-c", PROGRAM).split())
    assert held - freed < 64
    assert again - held < 64


@pytest.mark.parametrize(
    ("name", "value"),
    [(OWN[0], "131072"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072")],
)
def test_variables_of_the_allocator_stand(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert not keep_freed_memory()
