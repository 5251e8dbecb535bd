"""Random legal programs, their subnets and what passes make of them, as `.space` texts.

What is written loads to the same hash (`write_space` sees to it). What is refused is refused for
one of the reasons below, and stands in a list that only `--update-golden` changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

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
UNWRITTEN = Path(__file__).resolve().parent / "golden" / "unwritten.json"  # known refusals, exactly
REASONS = {
    r"the decision \S+ cannot": "inlined, it is taken in another order than it is read",
    r"main|inst": "dead results of branches, and types proved under another condition",
    r"derived": "the same; a folded convolution, whose bias is an operand that it does not declare",
}


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


def refusals(first: int) -> list[str]:
    """The graphs of a batch that no text can say yet, each for one of the known reasons."""
    refused: list[str] = []
    for number in range(first, first + BATCH):
        for name, graph in made(number):
            try:
                write_space(graph)
            except SpaceError as failed:
                found = failed.diagnostics[0]
                assert found.code == "SP605"
                assert any(re.match(reason, found.headline) for reason in REASONS), found.headline
                refused.append(f"{number} {name}")
    return refused


@pytest.mark.parametrize("first", range(0, PROGRAMS, BATCH))
def test_random_programs(first: int, update_golden: bool) -> None:
    """None is refused but those that are known: a mended one has to be struck from the list."""
    known = json.loads(UNWRITTEN.read_text("utf-8")) if UNWRITTEN.exists() else {}
    found = refusals(first)
    if update_golden:
        known[str(first)] = found
        ordered = dict(sorted(known.items(), key=lambda item: int(item[0])))
        UNWRITTEN.write_text(json.dumps(ordered, indent=1) + "\n", "utf-8")
    assert found == known[str(first)]


@pytest.mark.soak
@pytest.mark.parametrize("first", range(PROGRAMS, 30 * PROGRAMS, BATCH))
def test_more_random_programs(first: int) -> None:
    refusals(first)
