"""report.html of a distillation: what was learned from whom, the curves, and how good it came out.

write_distill_report(folder, graph, data, trained, engine, "runs/large", teacher)
"""

from __future__ import annotations

from pathlib import Path

from spacelang import __version__
from spacelang.backends.torch.data import Dataset, first_samples, ordered_batches
from spacelang.backends.torch.evaluate import BATCH, evaluate
from spacelang.backends.torch.ranks import current
from spacelang.backends.torch.recalibrate import recalibrated
from spacelang.backends.torch.search_report import (
    data_of,
    decisions_of,
    epochs_of,
    sizes,
    surroundings,
    value_of,
)
from spacelang.backends.torch.teacher import Teacher
from spacelang.backends.torch.touched import Regions
from spacelang.backends.torch.training import Trained
from spacelang.engines.distillation import Distillation
from spacelang.engines.protocol import Score
from spacelang.files import PathLike
from spacelang.ir.graph import Graph
from spacelang.report import Network, Report, write_report
from spacelang.report import Score as ReportScore


def write_distill_report(
    folder: PathLike,
    graph: Graph,
    data: Dataset,
    made: Trained,
    engine: Distillation,
    name: str,
    teacher: Teacher | None = None,
) -> None:
    """Write the report of a folder; its networks are the ends of the space.

    All processes of a run come here: they share the validation images. The first one writes.
    """
    rows: list[Network] = []
    ends = ("largest", "smallest") if graph.decisions else ("largest",)
    for end in ends:
        taken = graph.decisions.extreme(end)
        made.model.activate(taken)
        found = _score(made, data)
        cost = graph.cost(taken)
        score = None if found.failure else ReportScore(found.correct, found.total)
        title = f"{end} student" if graph.decisions else "student"
        role = "largest" if end == "largest" else "other"
        rows.append(Network(title, role, cost.params, cost.macs, score))
    made.model.activate(graph.decisions.extreme("largest"))
    best = rows[0].validation
    own = f"{best.correct:,} of {best.total:,} validation images right" if best else "no number"
    report = Report(
        space=graph.name,
        size=sizes(graph, "")[0],
        decisions=decisions_of(graph),
        data=data_of(data),
        training=epochs_of(made.log),
        candidates=(),
        networks=tuple(rows),
        chosen={p: value_of(v) for p, v in graph.decisions.extreme("largest").items()},
        commands=(),
        environment=surroundings(),
        title=f"{graph.name}, distilled",
        summary=f"Learned from {name} by {', '.join(engine.losses)}; {rows[0].name}: {own}."
        + (f" The teacher: {_shown(answers(teacher, data))}." if teacher is not None else ""),
        version=__version__,
    )
    if current().first:
        write_report(Path(folder), report)


def _score(made: Trained, data: Dataset) -> Score:
    """The score of the active network, with statistics of its own where the run recalibrates."""
    count = made.recipe.recalibrate
    if not count:
        return evaluate(made.model, data.validation)
    batches = ordered_batches(first_samples(data.train, count), BATCH)
    with recalibrated(made.model, Regions(made.model.graph), batches):
        return evaluate(made.model, data.validation)


def answers(teacher: Teacher, data: Dataset) -> Score:
    """How a teacher answers the validation images."""
    return evaluate(teacher.as_module(), data.validation)


def _shown(score: Score) -> str:
    if score.failure:
        return score.failure
    return f"{score.correct:,} of {score.total:,}"
