"""Signals that end a run in good order: the step is finished, the state saved, then 130 or 143.

    with Interrupt() as interrupt:
        for step in steps:
            ...
            interrupt.check()          # raises Interrupted once one of SIGNALS has come

The first signal asks, a second one ends the process at once. Processes that run together ask each
other, so that all end after the same step.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from spacelang.backends.torch.runs.ranks import current

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last is Slurm's warning, by habit
TERMINATED = 128 + signal.SIGTERM  # the exit code, whoever asked: to a shell both are one event


class Interrupted(Exception):
    """A run was asked to stop and did, with everything saved; `code` is the exit code."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; the same command goes on")
        self.code = 128 + number if number == signal.SIGINT else TERMINATED


class Interrupt:
    """Notes the first of SIGNALS. Outside the main thread signals are not touched."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def asked(self) -> bool:
        """Whether a signal had come, here or to another process of the run, when it was asked.

        One that comes meanwhile is kept for the next time: all processes give the same answer.
        """
        agreed = current().largest(self.number or 0)
        if agreed:
            self.number = agreed
        return agreed > 0

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.asked():
            assert self.number is not None
            raise Interrupted(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore(to_default=True)

    def _restore(self, to_default: bool = False) -> None:
        for number, handler in self._before.items():
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default if to_default else handler)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failed: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()
        self._before.clear()
