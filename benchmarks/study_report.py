"""report.html of a study: its arms as rows, and their mean and spread over the seeds.

    write(folder, "paths", "Cream: ..", space, data, seeds, "found", "python benchmarks/studies.py")

An arm's figures are `test`, an accuracy, `params` and `macs`, and `validation` where it is known. A
row is a mean, over the arm's networks and over the seeds; its interval is that of one network.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from spacelang import __version__
from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.reports.search_report import (
    data_of,
    decisions_of,
    sizes,
    surroundings,
)
from spacelang.ir.graph import Graph
from spacelang.report import Command, Network, Report, Score, write_report
from spacelang.report.model import Role

Figures = Mapping[str, float]
Seeds = Sequence[Mapping[str, Figures]]  # of each seed the figures of each arm
ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("found", "evolved", "cyclic"), "winner"),
    **{"random": "random", "teacher": "largest"},
}


def write(
    folder: Path,
    name: str,
    about: str,
    space: Graph,
    data: Dataset,
    seeds: Seeds,
    against: str,
    command: str,
) -> Path:
    """Write the report; leads are those of the arm `against`, if it is one of the study's."""
    whole, _ = sizes(space, "")
    report = Report(
        space=space.name,
        size=whole,
        decisions=decisions_of(space),
        data=data_of(data),
        training=(),
        candidates=(),
        networks=tuple(_row(arm, seeds, data) for arm in seeds[0]),
        chosen={},
        commands=(Command(command, "the study"),),
        environment=surroundings(),
        title=f"{name}, a study",
        summary=f"{about} {summary(seeds, against)}",
        version=__version__,
    )
    folder.mkdir(parents=True, exist_ok=True)
    return write_report(folder, report)


def summary(seeds: Seeds, against: str) -> str:
    """Means, spreads and leads in a sentence an arm."""
    told = [f"Test accuracy over {len(seeds)} seed{'s' * (len(seeds) > 1)}, mean and spread."]
    for arm in seeds[0]:
        mean, spread = spread_of(seeds, arm)
        compared = against in seeds[0] and arm != against
        leads = f"; {against} leads by {leads_of(seeds, against, arm)}" if compared else ""
        told.append(f"{arm}: {mean:.4f}, {spread:.4f}{leads}.")
    return " ".join(told)


def spread_of(seeds: Seeds, arm: str) -> tuple[float, float]:
    """The mean of an arm's accuracy, and its standard deviation over the seeds."""
    tests = [seed[arm]["test"] for seed in seeds]
    return statistics.mean(tests), statistics.stdev(tests) if len(tests) > 1 else 0.0


def leads_of(seeds: Seeds, first: str, arm: str) -> str:
    """What the first arm has more than another, seed by seed."""
    return ", ".join(f"{seed[first]['test'] - seed[arm]['test']:+.4f}" for seed in seeds)


def _row(arm: str, seeds: Seeds, data: Dataset) -> Network:
    def mean(figure: str) -> float:
        return statistics.mean(seed[arm][figure] for seed in seeds)

    def score(figure: str, part: str) -> Score | None:
        count = data.counts[part]
        return Score(round(mean(figure) * count), count) if figure in seeds[0][arm] else None

    tested, validated = score("test", "test"), score("validation", "validation")
    role = ROLES.get(arm, "other")
    return Network(arm, role, round(mean("params")), round(mean("macs")), validated, tested)
