"""What a long run tells while it goes: bars on a terminal, lines elsewhere, JSON, or nothing.

    with progress("auto") as told:
        told.begin("training", 70, "epochs")
        told.advance(1, loss=0.51)

Everything goes to stderr; what a command answers stays on stdout.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

if TYPE_CHECKING:
    from rich.progress import TaskID

OF_TIME = ("at", "total", "unit", "seconds", "left")  # in a record beside the figures of a run
Style = Literal["auto", "quiet", "json"]
PAUSE = 20.0  # seconds between two lines where there is no terminal
WINDOW, BETWEEN = 60.0, 0.5  # seconds over which a pace is taken, and between two looks at it


class Reporter(Protocol):
    """Told by a run, in this order: begin, advance .., done, begin .."""

    def begin(self, stage: str, total: int, unit: str) -> None: ...
    def advance(self, count: int = 1, **figures: float) -> None: ...
    def done(self, **figures: float) -> None: ...
    def say(self, text: str) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        failed: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def progress(style: Style = "auto") -> Reporter:
    """The reporter of a style; "auto" has bars on a terminal and lines elsewhere."""
    if style == "auto" and sys.stderr.isatty():
        return Bars()
    return Lines(WRITERS[style])


def _silent(stage: str, event: str, record: Mapping[str, object]) -> None:
    return


def _as_json(stage: str, event: str, record: Mapping[str, object]) -> None:
    print(json.dumps({"stage": stage, "event": event, **record}), file=sys.stderr, flush=True)


def _as_text(stage: str, event: str, record: Mapping[str, object]) -> None:
    if event == "say":
        text = str(record["text"])
    elif event == "begin":
        text = f"{stage}: {record['total']:,} {record['unit']}"
    else:
        figures = {k: v for k, v in record.items() if k not in OF_TIME}
        text = f"{stage}: {record['at']:,} of {record['total']:,} {record['unit']}"
        text += "".join(f", {name} {shown(value)}" for name, value in figures.items())
        text += f", {record['seconds']:.0f} s"
        if isinstance(left := record.get("left"), float):
            text += f", {clock(left)} left"
    print(text, file=sys.stderr, flush=True)


WRITERS: Mapping[Style, Callable[[str, str, Mapping[str, object]], None]] = {
    "auto": _as_text,
    "quiet": _silent,
    "json": _as_json,
}


def shown(value: object) -> str:
    """A figure in four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def clock(seconds: float) -> str:
    """A time as hours, minutes and seconds: 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


class Pace:
    """How fast something goes lately: steps that were done before, or only read again, are not long
    taken for its speed."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, now: float, at: int) -> None:
        """So much is done by now (in seconds of some clock)."""
        if self._samples and now - self._samples[-1][0] < BETWEEN:
            return
        self._samples.append((now, at))
        while len(self._samples) > 2 and now - self._samples[0][0] > WINDOW:
            self._samples.popleft()

    def left(self, total: int) -> float | None:
        """The seconds until all is done; None where nothing is known of that."""
        if len(self._samples) < 2:
            return None
        (first, before), (last, at) = self._samples[0], self._samples[-1]
        if at <= before:
            return None
        return round((total - at) * (last - first) / (at - before), 1)


class Lines:
    """A line now and then, through one of the writers above."""

    def __init__(self, write: Callable[[str, str, Mapping[str, object]], None]) -> None:
        self._write = write
        self._stage, self._unit, self._total, self._at = "", "", 0, 0
        self._began = self._told = time.monotonic()
        self._pace = Pace()

    def begin(self, stage: str, total: int, unit: str) -> None:
        self._stage, self._total, self._unit, self._at = stage, total, unit, 0
        self._pace = Pace()
        self._began = self._told = time.monotonic()
        self._write(stage, "begin", {"total": total, "unit": unit})

    def advance(self, count: int = 1, **figures: float) -> None:
        self._at += count
        self._pace.note(time.monotonic(), self._at)
        if time.monotonic() - self._told >= PAUSE:
            self._told = time.monotonic()
            left = self._pace.left(self._total)
            self._write(self._stage, "progress", {**self._record(figures), "left": left})

    def done(self, **figures: float) -> None:
        self._write(self._stage, "done", self._record(figures))

    def say(self, text: str) -> None:
        self._write(self._stage, "say", {"text": text})

    def _record(self, figures: Mapping[str, float]) -> dict[str, object]:
        seconds = round(time.monotonic() - self._began, 1)
        where = {"at": self._at, "total": self._total, "unit": self._unit}
        return {**where, **figures, "seconds": seconds}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failed: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return


class Bars:
    """A bar a stage, on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=Console(file=sys.stderr, markup=False, emoji=False, highlight=False),
        )
        self._task: TaskID | None = None
        self._figures = ""

    def begin(self, stage: str, total: int, unit: str) -> None:
        self._figures = ""
        self._task = self._progress.add_task(stage, total=total, unit=unit, figures="")

    def advance(self, count: int = 1, **figures: float) -> None:
        if self._task is not None:
            text = "  ".join(f"{name} {shown(value)}" for name, value in figures.items())
            self._figures = text or self._figures
            self._progress.update(self._task, advance=count, figures=self._figures)

    def done(self, **figures: float) -> None:
        self.advance(0, **figures)

    def say(self, text: str) -> None:
        self._progress.console.print(text)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failed: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
