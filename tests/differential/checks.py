"""What is true of every legal program: one function a claim, in the order of their cost.

A claim is given a case and fails with `AssertionError` or any other exception; the table `CHECKS`
says how often each is tried in a normal run (a replay tries them all).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from differential.case import Case, Skipped
from differential.figures import costs, counts, extremes, numels, partial, samples
from differential.networks import gradients, outputs, sources, specialised, tapped, training
from differential.rewritten import passes
from differential.texts import (
    derived_subnet,
    formats,
    ir_text,
    loads,
    programs,
    space_text,
    subnets_load,
)

from spacelang.diagnostics import SpaceError

CHECKS: Mapping[Callable[[Case], None], int] = {
    loads: 1,
    partial: 1,
    counts: 1,
    formats: 1,
    ir_text: 1,
    numels: 1,
    outputs: 1,
    gradients: 1,
    sources: 1,
    costs: 2,
    passes: 2,
    training: 3,
    specialised: 4,
    tapped: 6,
    programs: 1,
    samples: 3,
    extremes: 4,
    subnets_load: 6,
    derived_subnet: 6,
    space_text: 20,
}
"""A claim, and that it is tried on every n-th program of a normal run."""


@dataclass(frozen=True)
class Failure:
    """A claim that did not hold."""

    check: str
    kind: str
    detail: str

    @property
    def signature(self) -> tuple[str, str]:
        return self.check, self.kind


def failure(
    text: str, number: int | None = None, only: str = "", tally: Counter[str] | None = None
) -> Failure | None:
    """The first claim that a program breaks; with a number only those that are its turn.

    A `tally` counts how often each claim was tried, and why it said nothing: `NAME: WHY`.
    """
    case = Case(text, number)
    for place, (check, every) in enumerate(CHECKS.items()):
        turn = number is None or (number + place) % every == 0
        if not turn or (only and check.__name__ not in (only, "loads")):
            continue
        if tally is not None:
            tally[check.__name__] += 1
        try:
            check(case)
        except Skipped as why:
            if tally is not None:
                tally[f"{check.__name__}: {why}"] += 1
        except SpaceError as refused:
            return Failure(check.__name__, _headlines(refused), str(refused)[:3000])
        except Exception as problem:  # whatever it is: the text is what is wanted
            kind = f"{type(problem).__name__} {key(problem)}"
            return Failure(check.__name__, kind, str(problem)[:3000])
    return None


def _headlines(refused: SpaceError) -> str:
    """Codes and headlines without the names and numbers in them, which shrink."""
    found = {
        f"{d.code} {re.sub(r'[^ ]*[^a-z ][^ ]*', '_', d.headline)}" for d in refused.diagnostics
    }
    return ", ".join(sorted(found))


def key(problem: Exception) -> str:
    """Where an exception comes from: the function that raised it, and its line."""
    back = problem.__traceback__
    name = ""
    while back is not None:
        name, line = back.tb_frame.f_code.co_name, back.tb_lineno
        back = back.tb_next
        if back is None:
            return f"in {name}:{line}"
    return name
