"""Random programs with a mistake in them: refused with a code and a place, never with a traceback,
and a counter-example is one."""

from __future__ import annotations

import pytest
from differential.faults import CERTAIN, fault, wrong

PROGRAMS, BATCH, SOAK = 600, 50, 20_000


def tried(first: int) -> list[str]:
    names: list[str] = []
    for number in range(first, first + BATCH):
        name, text, certain = fault(number)
        problem = wrong(text, certain)
        assert not problem, f"fault {number}, {name}: {problem}\n\n{text}"
        names.append(name)
    return names


@pytest.mark.parametrize("first", range(0, PROGRAMS, BATCH))
def test_random_mistakes(first: int) -> None:
    tried(first)


def test_every_certain_mistake_is_made() -> None:
    assert {fault(number)[0] for number in range(PROGRAMS)} >= CERTAIN.keys()


@pytest.mark.soak
@pytest.mark.parametrize("first", range(PROGRAMS, SOAK, BATCH))
def test_more_random_mistakes(first: int) -> None:
    tried(first)
