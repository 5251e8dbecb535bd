"""The memory of freed tensors, kept for the next ones: what a system's allocator gives back at once
is zeroed again, page by page, at the next use, which can take longer than a network computes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM, MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's mallopt
MOST = (1 << 31) - 1
LARGEST = 1 << 25  # the most that glibc takes
USUAL = 1 << 17  # of both, where nothing was set


@contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """Within it freed memory stays with the process, and whether that is so: under glibc alone."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        yield False
        return
    kept = bool(mallopt(TRIM, MOST)) and bool(mallopt(MMAP, LARGEST))
    try:
        yield kept
    finally:
        mallopt(TRIM, USUAL)
        mallopt(MMAP, USUAL)
