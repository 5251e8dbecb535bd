"""What training does where a loss or gradient is not finite, by policy.

error      stop; nothing was updated (the default)
skip       leave the step out: no weight, average or statistic moves; at most 10 of any 100 steps
rollback   go on from the last checkpoint at half the learning rate; at most 5 times

A state that is not finite is in no checkpoint, whatever the policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from torch import Tensor, nn

from spacelang.diagnostics import SpaceError, error
from spacelang.engines.protocol import Metrics, StepPlan

Kept = Sequence[tuple[Tensor, Tensor]]  # buffers, and what they were

Policy = Literal["error", "skip", "rollback"]
SKIPS, WINDOW = 10, 100
ROLLBACKS = 5


def policy_of(text: str) -> Policy:
    """A policy by its name (SP204 for another)."""
    if text not in get_args(Policy):
        known = ", ".join(get_args(Policy))
        raise SpaceError(error("SP204", f"on_nan is one of {known}, not {text!r}"))
    return cast(Policy, text)


class NotFinite(SpaceError):
    """A loss or gradient is not finite; `record` says where. Nothing was updated.

    `masks` in it is the seed of torch's generators in that step.
    """

    def __init__(self, what: str, plan: StepPlan, ids: list[int], masks: int) -> None:
        super().__init__(
            error("SP703", f"the {what} of step {plan.step} is not finite")
            .note(f"architecture {dict(plan.assignment)}")
            .hint("lower the learning rate, or limit gradients: --clip-grad 1")
        )
        self.record: dict[str, object] = {
            "what": what,
            "step": plan.step,
            "epoch": plan.epoch,
            "batch": plan.batch,
            "assignment": dict(plan.assignment),
            "samples": ids,
            "masks": masks,
        }


@dataclass
class NonFiniteGuard:
    """A policy and what it did so far.

    scale    of every learning rate: halved at each rollback
    skipped  the steps that were left out lately
    note     is told of each step that was not finite
    """

    policy: Policy = "error"
    scale: float = 1.0
    skipped: list[int] = field(default_factory=list[int])
    note: Callable[[Mapping[str, object]], None] = lambda record: None

    def skips(self, step: int) -> bool:
        """Whether a step that is not finite is left out."""
        if self.policy != "skip":
            return False
        recent = [s for s in self.skipped if step - WINDOW < s < step]
        self.skipped = [*recent, step]
        return len(recent) < SKIPS

    def before(self, module: nn.Module) -> Kept:
        """The statistics of a module before a step that may be left out."""
        return [(b, b.clone()) for b in module.buffers()] if self.policy == "skip" else []

    def leave_out(self, failed: NotFinite, rate: float, kept: Kept = ()) -> Metrics:
        """What a step that is left out measured: nothing. Statistics are as they were before.

        `failed` again where the policy leaves no step out, or too many were.
        """
        self.note(failed.record)
        if not self.skips(cast(int, failed.record["step"])):
            raise failed
        for buffer, value in kept:
            buffer.copy_(value)
        return Metrics(0.0, {}, 0, 0, rate)

    def rolls_back(self) -> bool:
        """Whether to go on from the last checkpoint; the learning rate is halved for it."""
        if self.policy != "rollback" or self.scale <= 0.5**ROLLBACKS:
            return False
        self.scale /= 2
        return True

    def state(self) -> dict[str, object]:
        """What a later process has to know."""
        return {"scale": self.scale, "skipped": list(self.skipped)}

    def restore(self, state: Mapping[str, object]) -> None:
        """Know what an earlier process did. A rate that was halved since then stays so."""
        self.scale = min(self.scale, cast(float, state.get("scale", 1.0)))
        self.skipped = list(cast(Sequence[int], state.get("skipped", ())))
