"""Python's search for cycles, kept out of work that makes many small objects which stay.

@collector_paused()
def load(..): ..

Each search visits what was made before and finds nothing. Without a pause a graph of 10,000 nodes
takes half as long again to lower, and the time grows faster than the graph.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Generator[None]:
    """Within it nothing is searched for cycles; who finds the collector off leaves it off."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
