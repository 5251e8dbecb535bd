"""A reporter that is told of a run's stages as they take turns.

told = StageReporter(reporter)
told.step(plan, total, tally); told.score("evolution", planned)
"""

from __future__ import annotations

from dataclasses import dataclass

from spacelang.backends.torch.runs.progress import Reporter
from spacelang.backends.torch.training.training import Tally
from spacelang.engines.protocol import StepPlan


@dataclass
class StageReporter:
    """A reporter, told of stages that take turns."""

    reporter: Reporter
    stage: str = ""

    def step(self, plan: StepPlan, total: int, tally: Tally) -> None:
        self._begin("training", total, "steps")
        if plan.groups != ("match",):  # which come in between
            self.reporter.advance(1, epoch=plan.epoch + 1, loss=tally.mean)

    def score(self, name: str, planned: int) -> None:
        self._begin(f"search: {name}", planned, "architectures")
        self.reporter.advance(1)

    def _begin(self, stage: str, total: int, unit: str) -> None:
        if stage == self.stage:
            return
        if self.stage:
            self.reporter.done()
        self.stage = stage
        self.reporter.begin(stage, total, unit)
