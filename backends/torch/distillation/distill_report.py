"""report.html of a distillation: what was learned from whom, the curves, and how good it came out.

write_distill_report(folder, graph, data, trained, losses, "runs/large", [teacher])
"""

from __future__ import annotations

from collections.abc import Sequence

from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.distillation.teacher import Teacher
from spacelang.backends.torch.reports.training_report import ends, right, write_training_report
from spacelang.backends.torch.training.evaluate import evaluate
from spacelang.backends.torch.training.training import Trained
from spacelang.engines.protocol import Score
from spacelang.files import PathLike
from spacelang.ir.graph import Graph


def write_distill_report(
    folder: PathLike,
    graph: Graph,
    data: Dataset,
    made: Trained,
    losses: Sequence[str],
    name: str,
    teachers: Sequence[Teacher] = (),
) -> None:
    """Write the report of a folder; its networks are the ends of the space.

    All processes of a run come here: they share the validation images. The first one writes.
    """
    rows = ends(graph, data, made, "student")
    summary = f"Learned from {name} by {', '.join(losses)}; {right(rows[0])}."
    shown = [_shown(answers(teacher, data)) for teacher in teachers]
    if shown:
        summary += f" The teacher{'s' if len(shown) > 1 else ''}: {'; '.join(shown)}."
    write_training_report(folder, graph, data, made, rows, summary, f"{graph.name}, distilled")


def answers(teacher: Teacher, data: Dataset) -> Score:
    """How a teacher answers the validation images."""
    return evaluate(teacher.as_module(), data.validation)


def _shown(score: Score) -> str:
    if score.failure:
        return score.failure
    return f"{score.correct:,} of {score.total:,}"
