"""What an engine refuses, before anything is made for it.

    rehearse(engine, space, trainer=Rehearsal(steps=feed.steps), seed=0)

The engine runs until it asks for the first work. So a space that it cannot take, or a budget that
nothing meets, is told while there is no folder yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn, Protocol


class WorkRequested(BaseException):
    """The first work was asked for. No Exception: an engine may catch those."""


class Rehearsal:
    """A trainer that answers what costs nothing, by the functions it is given, and does no work."""

    taken = 0

    def __init__(self, **known: Callable[..., object]) -> None:
        self._known = known

    def __getattr__(self, name: str) -> Callable[..., object]:
        return self._known.get(name, _begin)


def _begin(*given: object, **named: object) -> NoReturn:
    raise WorkRequested


class Runs(Protocol):
    """What can be rehearsed."""

    def run(self, space: Any, trainer: Any, seed: int) -> Iterator[object]: ...


def rehearse(engine: Runs, space: object, trainer: Rehearsal, seed: int) -> None:
    """Run an engine up to its first work; what it raises until then (a SpaceError) goes on."""
    with suppress(WorkRequested):
        next(iter(engine.run(space, trainer, seed)), None)
