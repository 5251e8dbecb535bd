"""The memory of freed tensors, kept for the next ones: what a system's allocator gives back at once
is zeroed again, page by page, at the next use, which can take longer than a network computes."""

from __future__ import annotations

import ctypes
import os

TRIM, MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of glibc's mallopt
OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")


def keep_freed_memory() -> bool:
    """From now on freed memory stays with the process; whether that is so: under glibc alone.

    Where a variable of glibc's own settles it, that stands. There is no way back: glibc adjusts
    its thresholds by itself until one is set, and then never again.
    """
    tuned = "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "")
    if tuned or any(name in os.environ for name in OWN):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # Never trimmed, and never mapped on its own: glibc maps what is over 32 MiB whatever is set.
    return bool(mallopt(TRIM, -1)) and bool(mallopt(MMAP_MAX, 0))
