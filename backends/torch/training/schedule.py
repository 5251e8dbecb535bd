"""Learning rates over a run, by timm's names and meanings: each a pure function of the time.

    rate = rate_of("cosine", times, peak=1e-3, floor=1e-5)     # times: where in the run a step is

Times are counted in ticks: epochs, or updates where the rate changes with every update. What timm
has beyond the table below (poly, tanh, wsd, rsqrt) comes from timm itself, where it is installed.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from spacelang.diagnostics import SpaceError, error
from spacelang.extras import install

OF_TIMM = ("poly", "tanh", "wsd", "rsqrt")


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule in epochs; `updates` of an epoch where it moves with every update, else None."""

    sched: str
    epochs: int
    lr: float
    min_lr: float
    warmup_lr: float
    warmup_epochs: float
    decay_epochs: float | None
    decay_rate: float
    decay_milestones: tuple[int, ...]
    updates: int | None

    @property
    def ticks(self) -> int:
        """Ticks of an epoch."""
        return self.updates or 1

    def at(self, tick: int) -> float:
        """The learning rate of a tick, counted from 0 over the run."""
        if self.sched in OF_TIMM:
            return _of_timm(self)(tick)
        epochs = tick / self.ticks
        if epochs < self.warmup_epochs:
            return self.warmup_lr + epochs * (self.lr - self.warmup_lr) / self.warmup_epochs
        return RATES[self.sched](self, tick)


def _cosine(given: Schedule, tick: int) -> float:
    share = min(1.0, tick / given.ticks / given.epochs)
    return given.min_lr + 0.5 * (given.lr - given.min_lr) * (1 + math.cos(math.pi * share))


def _step(given: Schedule, tick: int) -> float:
    length = 90 if given.decay_epochs is None else given.decay_epochs
    return given.lr * given.decay_rate ** (tick // (length * given.ticks))


def _multistep(given: Schedule, tick: int) -> float:
    """A milestone holds from the tick before it on: so timm counts."""
    milestones = [epoch * given.ticks for epoch in given.decay_milestones]
    return given.lr * given.decay_rate ** bisect_right(milestones, tick + 1)


def _constant(given: Schedule, tick: int) -> float:
    return given.lr


RATES: Mapping[str, Callable[[Schedule, int], float]] = MappingProxyType(
    {"cosine": _cosine, "step": _step, "multistep": _multistep, "constant": _constant}
)
NAMES: Sequence[str] = (*RATES, *OF_TIMM)
COOLED = ("cosine", "tanh", "poly")  # in timm those of cycles, which cooldown epochs may follow
# What timm has and a run here cannot, with the reason.
REFUSED: Mapping[str, str] = MappingProxyType(
    {"plateau": "; of plateau the rate follows scores, and here it is a function of the step alone"}
)


@lru_cache(maxsize=8)
def _of_timm(given: Schedule) -> Callable[[int], float]:
    """A schedule of timm's (SP604 where timm is not installed, SP103 for what it refuses)."""
    import torch

    factory = timm_module("timm.scheduler", f"the schedule {given.sched}")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=given.lr)
    try:
        scheduler, _ = factory.create_scheduler_v2(
            optimizer,
            sched=given.sched,
            num_epochs=given.epochs,
            decay_epochs=given.decay_epochs,
            decay_rate=given.decay_rate,
            min_lr=given.min_lr,
            warmup_lr=given.warmup_lr,
            warmup_epochs=given.warmup_epochs,
            step_on_epochs=given.updates is None,
            updates_per_epoch=given.updates or 0,
        )
    except (AssertionError, ValueError, TypeError) as refused:
        raise SpaceError(error("SP103", f"training: {given.sched}: {refused}")) from refused
    move = scheduler.step if given.updates is None else scheduler.step_update

    def rate(tick: int) -> float:
        move(tick)
        return float(optimizer.param_groups[0]["lr"])

    return rate


def timm_module(name: str, what: str) -> Any:
    """A module of timm (SP604 where it is not installed)."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as missing:
        raise SpaceError(
            error("SP604", f"{what} is timm's, which cannot be imported: {missing}").hint(
                install("timm")
            )
        ) from missing
