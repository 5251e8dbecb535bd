"""Random legal programs, their subnets and what passes make of them, as `.space` texts.

What is written loads to the same hash: `write_space` sees to it, and raises where it would not.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from differential.program import NAME, program

from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.graph import Graph
from spacelang.loader import load
from spacelang.passes.pipeline import run
from spacelang.passes.specialize import specialize
from spacelang.syntax.write import write_space

PROGRAMS = 100
BATCH = 10


def made(number: int) -> Iterator[tuple[str, Graph]]:
    """The graphs of a program: itself, a subnet, and both after two passes."""
    try:
        graph = load(Source(NAME, program(number)))
    except SpaceError:
        return  # for `differential` to find
    yield "whole", graph
    yield "subnet", taken(graph, number)
    try:
        after = run(graph, "inline, simplify")
    except SpaceError:
        return  # tied uses of a bank, which must stay calls
    yield "after", after
    yield "subnet after", taken(after, number)


def taken(graph: Graph, seed: int) -> Graph:
    """One architecture, drawn without regard to limits."""
    return specialize(graph, graph.decisions.extreme("largest" if seed % 2 else "smallest"))


@pytest.mark.parametrize("first", range(0, PROGRAMS, BATCH))
def test_random_programs(first: int) -> None:
    for number in range(first, first + BATCH):
        for _, graph in made(number):
            write_space(graph)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(PROGRAMS, 30 * PROGRAMS, BATCH))
def test_more_random_programs(first: int) -> None:
    test_random_programs(first)
