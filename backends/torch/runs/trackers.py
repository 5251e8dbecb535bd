"""Where the figures of a log go besides its files: `--log wandb`, and what plug-ins add.

    check_trackers(["tensorboard"])                        # before anything is written
    followers = trackers(["tensorboard"], folder)          # each a function of a line of the log

A plug-in of the group `spacelang.trackers` is a function of the run folder that gives one. What a
tracker does wrong is told once and stops no run: the log itself is on disk. A run that goes on is
the same one in its tracker, by `name_of`.
"""

from __future__ import annotations

import atexit
import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import cast

from spacelang import plugins
from spacelang.backends.torch.runs.ranks import current
from spacelang.backends.torch.runs.run import RECORD
from spacelang.extras import install

GROUP = "spacelang.trackers"
NO_NAME = re.compile(r"[^\w\-. ]")  # what trackers take in no name
PROJECT = "spacelang"
# What a tracker of ours is made of, and how that is installed.
NEEDS = {
    "mlflow": ("mlflow", "pip install mlflow"),
    "tensorboard": ("torch.utils.tensorboard", install("track")),
    "trackio": ("trackio", "pip install trackio"),
    "wandb": ("wandb", "pip install wandb"),
}
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
        module, how = NEEDS[name]
        try:
            import_module(module)
        except ImportError as missing:
            text = f"--log {name}: {missing}; {how}"
            raise ImportError(text, name=missing.name) from missing


def trackers(names: Sequence[str], folder: Path) -> list[Tracker]:
    """The trackers of a run, at its first process."""
    if not current().first:
        return []
    return [SafeTracker(name, partial(plugins.load(GROUP, name), folder)) for name in names]


class SafeTracker:
    """A tracker that is made with its first line, and left out after its first failure."""

    def __init__(self, name: str, make: Callable[[], Tracker]) -> None:
        self.name, self.make = name, make
        self.tracker: Tracker | None = None
        self.failed = False

    def __call__(self, entry: Entry) -> None:
        if self.failed:
            return
        try:
            self.tracker = self.tracker or self.make()
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
        for name, value in figures(entry).items():
            writer.add_scalar(name, value, epoch_of(entry))
        writer.flush()

    return add


def wandb(folder: Path) -> Tracker:
    """A run of Weights & Biases; its own files are in the run folder."""
    # Of a run that moves from space to space, each space is one.
    made = import_module("wandb").init(
        project=PROJECT,
        id=name_of(folder),
        name=name_of(folder),
        dir=str(folder),
        resume="allow",
        reinit="finish_previous",
    )
    return lambda entry: made.log(figures(entry), step=epoch_of(entry))


def trackio(folder: Path) -> Tracker:
    """A run of Trackio."""
    made = import_module("trackio").init(project=PROJECT, name=name_of(folder), resume="allow")
    return lambda entry: made.log(figures(entry), step=epoch_of(entry))


def mlflow(folder: Path) -> Tracker:
    """A run of MLflow, where MLFLOW_TRACKING_URI says; others of the process are none of it."""
    module, name = import_module("mlflow"), name_of(folder)
    client = module.MlflowClient()
    known = client.get_experiment_by_name(PROJECT)
    experiment = known.experiment_id if known else client.create_experiment(PROJECT)
    found = client.search_runs([experiment], f"tags.{PROJECT} = '{name}'")
    made = found[0] if found else client.create_run(experiment, None, {PROJECT: name}, name)
    run = made.info.run_id

    def add(entry: Entry) -> None:
        for figure, value in figures(entry).items():
            client.log_metric(run, NO_NAME.sub("_", figure), value, step=epoch_of(entry))

    atexit.register(client.set_terminated, run)
    return add


def figures(entry: Entry) -> dict[str, float]:
    """What of a line is a number, but for its epoch."""
    numbers = {n: v for n, v in entry.items() if isinstance(v, int | float)}
    return {name: value for name, value in numbers.items() if name != "epoch"}


def epoch_of(entry: Entry) -> int:
    """The epoch of a line, from 1."""
    return cast(int, entry["epoch"])


def name_of(folder: Path) -> str:
    """A run's name in a tracker: that of its folder, and what tells it from others called so."""
    place = folder.resolve()
    about = (place / RECORD).read_bytes() if (place / RECORD).is_file() else b""
    digest = hashlib.sha256(str(place).encode() + about).hexdigest()
    return f"{NO_NAME.sub('_', place.name)}-{digest[:12]}"
