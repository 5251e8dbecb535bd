"""The search for cycles stays out of what makes a graph and its model."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_spaces import VIT

from spacelang.backends.torch.supernet import Supernet
from spacelang.checking import examine
from spacelang.collector import collector_paused
from spacelang.diagnostics import Report, Source
from spacelang.ir.text import digest, write
from spacelang.ir.verify import verify
from spacelang.loader import load
from spacelang.syntax.ir_text import read
from spacelang.syntax.parse import parse


@pytest.fixture
def searches() -> Iterator[list[str]]:
    """Which searches for cycles there were, where one follows every hundred objects."""
    found: list[str] = []

    def told(phase: str, info: dict[str, int]) -> None:
        found.append(phase)

    before = gc.get_threshold()
    gc.callbacks.append(told)
    gc.set_threshold(100)
    yield found
    gc.set_threshold(*before)
    gc.callbacks.remove(told)


def test_what_makes_graphs_is_not_searched(searches: list[str]) -> None:
    graph = load(Source("small", VIT))
    text = write(graph)
    works: tuple[Callable[[], object], ...] = (
        lambda: parse(Source("parsed", VIT)),
        lambda: load(Source("again", VIT)),
        lambda: read(Source("small.spaceir", text)),
        lambda: examine("small", Source("small", VIT), Path()),
        lambda: graph.restated(()).size(),
        lambda: digest(graph.restated(())),
        lambda: verify(graph.restated(()), Report()),
        lambda: Supernet(graph),
    )
    for work in works:
        work()  # what is imported for it
        parse.cache_clear()
        searches.clear()
        work()
        # One that is due is made when the pause ends.
        assert len(searches) <= 4, work
    searches.clear()
    assert [[] for _ in range(1000)]
    assert len(searches) > 4, "it is no pause that nobody asked for"


def test_the_collector_is_left_as_it_was() -> None:
    with pytest.raises(ValueError, match="inside"), collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            pass
        assert not gc.isenabled(), "who paused it first ends the pause"
        raise ValueError("inside")
    assert gc.isenabled()
