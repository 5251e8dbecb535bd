"""A search over time: the best so far, stage by stage, and what each stage tried and changed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from statistics import median

from spacelang.report.chart import curve
from spacelang.report.model import Stage
from spacelang.report.table import table
from spacelang.report.text import exact, html, percent

HEADS = ("stage", "tried#", "median#", "best#", "best so far#", "changed")


def over_time(stages: Sequence[Stage]) -> str:
    """A curve and a table; nothing of a search that had one stage and changed nothing."""
    if len(stages) < 2 and not any(stage.changes for stage in stages):
        return ""
    so_far = list(accumulate((max(s.accuracies, default=-1.0) for s in stages), max))
    rows = [
        (
            html(stage.name),
            exact(len(stage.accuracies)),
            _share(median(stage.accuracies) if stage.accuracies else -1.0),
            _share(max(stage.accuracies, default=-1.0)),
            _share(best),
            "<br/>".join(map(html, stage.changes)),
        )
        for stage, best in zip(stages, so_far, strict=True)
    ]
    points = [(float(n), best) for n, best in enumerate(so_far, 1) if best >= 0]
    drawn = curve(points, "best so far", "winner", percent, along="stage")
    return f"<figure><h3>Best accuracy so far</h3>{drawn}</figure>{table(HEADS, rows)}"


def _share(accuracy: float) -> str:
    """An accuracy; a dash where there is none."""
    return percent(accuracy) if accuracy >= 0 else "&#8211;"
