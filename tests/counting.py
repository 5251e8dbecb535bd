"""Work counted in calls of Python functions: the same on any machine, busy or idle.

    with calls_at_most(2_000_000):
        parse(text)

What has to end soon is held by this; how long it takes is measured in `benchmarks/`.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def calls_at_most(limit: int) -> Generator[None]:
    """Fail where the block makes more calls, of functions in Python or in C."""
    count = 0

    def seen(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")
        if count > limit:
            sys.setprofile(None)
            raise AssertionError(f"more than {limit:,} calls")

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        yield
    finally:
        sys.setprofile(before)
    assert count <= limit, f"{count:,} calls"
