"""What a process does with memory that is freed."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from spacelang.backends.torch.heap import OWN, keep_freed_memory

GLIBC = platform.libc_ver()[0] == "glibc"
MIB = 1 << 20


def resident() -> int:
    """Bytes that this process has in memory."""
    status = Path("/proc/self/status").read_text("utf-8")
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.skipif(not GLIBC, reason="another allocator")
def test_freed_memory_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """128 MiB, which glibc would give back at once whatever its thresholds are."""
    for name in (*OWN, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    assert keep_freed_memory()
    x = torch.ones(32 * MIB)
    held = resident()
    del x
    assert held - resident() < 64 * MIB
    torch.ones(32 * MIB)
    assert resident() - held < 64 * MIB


@pytest.mark.parametrize(
    ("name", "value"),
    [(OWN[0], "131072"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072")],
)
def test_variables_of_the_allocator_stand(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert not keep_freed_memory()
