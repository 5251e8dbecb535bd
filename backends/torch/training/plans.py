"""Whether a trainer can take a step that an engine plans.

check_plan(trainer, plan)        # SP701 with the reason
check_joint_plan(plan, networks, groups)      # of the networks of a program
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from spacelang.backends.torch.training.losses import INTROSPECTING, LABELLED, REGULAR
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.protocol import StepPlan


class Takes(Protocol):
    """What a trainer can do.

    kinds     of loss terms; `alone` are those that compare a pass with no other, `mixable` those
              that mean something where images are mixed
    networks  that a pass may run; `groups` of parameters that a step may move together
    """

    @property
    def kinds(self) -> Collection[str]: ...
    @property
    def alone(self) -> Collection[str]: ...
    @property
    def mixable(self) -> Collection[str]: ...
    @property
    def networks(self) -> Collection[str]: ...
    @property
    def groups(self) -> Collection[tuple[str, ...]]: ...


def check_plan(trainer: Takes, plan: StepPlan, *, mixed: bool = False) -> None:
    """SP701 for a step that a trainer cannot take; `mixed` says whether its images are mixed."""
    passes, losses = plan.forwards, plan.losses
    teachers = {number for number, forward in enumerate(passes) if not forward.learns}
    unknown = [term.kind for term in losses if term.kind not in trainer.kinds]
    networks = {forward.network for forward in passes} - {*trainer.networks}
    astray = [
        term.name
        for term in losses
        if not 0 <= term.of < len(passes)
        or term.of in teachers
        or (term.against is None) != (term.kind in trainer.alone)
        or (term.against is not None and term.against not in teachers)
    ]
    unmixed = [t.kind for t in losses if t.kind not in trainer.mixable] if mixed else []
    refuse(
        plan,
        (
            (bool(networks), f"there is no network {', '.join(sorted(networks))}"),
            (len(teachers) == len(passes), "no pass learns"),
            (plan.groups not in trainer.groups, f"there are no parameter groups {plan.groups!r}"),
            (not losses, "it has no loss"),
            (len({term.name for term in losses}) < len(losses), "it has a loss twice"),
            (
                bool(unknown),
                f"there is no loss {', '.join(unknown)}; known: {', '.join(trainer.kinds)}",
            ),
            (bool(astray), f"{', '.join(astray)} reads no pass that it can"),
            (bool(unmixed), f"mixed labels are nothing for {', '.join(unmixed)}"),
        ),
    )


def check_joint_plan(plan: StepPlan, networks: Collection[str], groups: Collection[str]) -> None:
    """SP701 for a step that these networks of a program, with these groups, cannot take."""
    passes, losses = range(len(plan.forwards)), plan.losses
    known = (*LABELLED, *INTROSPECTING, *REGULAR)
    foreign = {f.network for f in plan.forwards} - {*networks}
    astray = [
        t.name
        for t in losses
        if t.of not in passes
        or (t.against not in passes if t.kind in INTROSPECTING else t.against is not None)
    ]
    refuse(
        plan,
        (
            (bool(foreign), f"there is no network {', '.join(sorted(foreign))}"),
            (not all(f.learns for f in plan.forwards), "every pass has to learn"),
            (
                not plan.groups or not {*groups} >= {*plan.groups},
                f"there are no parameter groups {plan.groups!r}",
            ),
            (not losses, "it has no loss"),
            (len({t.name for t in losses}) < len(losses), "it has a loss twice"),
            (
                any(t.kind not in known for t in losses),
                f"there is no such loss; known: {', '.join(known)}",
            ),
            (bool(astray), f"{', '.join(astray)} reads no pass that it can"),
        ),
    )


def refuse(plan: StepPlan, reasons: Collection[tuple[bool, str]]) -> None:
    """SP701 with the first reason that holds."""
    for holds, reason in reasons:
        if holds:
            raise SpaceError(error("SP701", f"step {plan.step} cannot be taken: {reason}"))
