"""Where the figures of a log go besides its files: `--log tensorboard`, and what plug-ins add.

    check_trackers(["tensorboard"])                        # before anything is written
    followers = trackers(["tensorboard"], folder)          # each a function of a line of the log

A plug-in of the group `spacelang.trackers` is a function of the run folder that gives one. What a
tracker does wrong is told once and stops no run: the log itself is on disk.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

from spacelang import plugins
from spacelang.backends.torch.ranks import current

GROUP = "spacelang.trackers"
NEEDS = {"tensorboard": "torch.utils.tensorboard"}  # of what a tracker of ours is made
Entry = Mapping[str, object]
Tracker = Callable[[Entry], None]


class TrackerWarning(UserWarning):
    """A tracker failed and is left out from here on."""


def check_trackers(names: Sequence[str]) -> None:
    """SP604 for a name that is none, ImportError for a package that is missing: before a run."""
    for name in names:
        plugins.load(GROUP, name)
        if name not in NEEDS:
            continue
        try:
            import_module(NEEDS[name])
        except ImportError as missing:
            text = f"--log {name}: {missing}; pip install 'spacelang-nas[track]'"
            raise ImportError(text, name=missing.name) from missing


def trackers(names: Sequence[str], folder: Path) -> list[Tracker]:
    """The trackers of a run, at its first process."""
    if not current().first:
        return []
    return [Careful(name, plugins.load(GROUP, name)(folder)) for name in names]


class Careful:
    """A tracker that is left out after its first failure."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self.name, self.tracker = name, tracker
        self.failed = False

    def __call__(self, entry: Entry) -> None:
        if self.failed:
            return
        try:
            self.tracker(entry)
        except Exception as problem:  # whatever somebody else's service raises
            self.failed = True
            text = f"--log {self.name} failed and is left out: {problem}"
            warnings.warn(text, TrackerWarning, stacklevel=2)


def tensorboard(folder: Path) -> Tracker:
    """Event files in the run folder: every figure a line, by epoch."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))

    def add(entry: Entry) -> None:
        epoch = cast(int, entry["epoch"])
        for name, value in entry.items():
            if name != "epoch" and isinstance(value, int | float):
                writer.add_scalar(name, value, epoch)
        writer.flush()

    return add
