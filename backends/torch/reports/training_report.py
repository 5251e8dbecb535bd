"""A training that ends in a report: the curves, and how good the ends of the space came out.

    made = train_and_report(graph, data, Recipe(epochs=60), "runs/a/train", seed=0)

What distillation reports besides is in `distill_report.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spacelang import __version__
from spacelang.backends.torch.data.datasets import Dataset, first_samples, ordered_batches
from spacelang.backends.torch.reports.search_report import (
    data_of,
    decisions_of,
    epochs_of,
    sizes,
    surroundings,
    value_of,
)
from spacelang.backends.torch.runs.ranks import current
from spacelang.backends.torch.training.evaluate import BATCH, evaluate
from spacelang.backends.torch.training.fixed import Fixed
from spacelang.backends.torch.training.read_regions import Regions
from spacelang.backends.torch.training.recalibrate import recalibrated
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.training import Trained, train
from spacelang.engines.protocol import Score
from spacelang.files import PathLike
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.report import Network, Report, write_report
from spacelang.report import Score as ReportScore


def train_and_report(
    graph: Graph, data: Dataset, recipe: Recipe, folder: PathLike, **options: Any
) -> Trained:
    """As `training.train`, and `report.html` in the folder."""
    made = train(graph, data, recipe, folder, **options)
    networks = ends(graph, data, made, "network")
    law = "" if not graph.decisions else f" each step by the law {made.recipe.law},"
    summary = f"Trained for {made.recipe.all_epochs} epochs,{law} {right(networks[0])}."
    write_training_report(folder, graph, data, made, networks, summary, f"{graph.name}, trained")
    return made


def ends(graph: Graph, data: Dataset, made: Trained, noun: str) -> tuple[Network, ...]:
    """The largest and the smallest network of what was trained, with their scores.

    All processes of a run come here: they share the validation images.
    """
    rows: list[Network] = []
    for end in ("largest", "smallest") if graph.decisions else ("largest",):
        taken = graph.decisions.extreme(end)
        _activate(made, graph, taken)
        found, cost = _score(made, data), graph.cost(taken)
        score = None if found.failure else ReportScore(found.correct, found.total)
        title = f"{end} {noun}" if graph.decisions else noun
        role = "largest" if end == "largest" else "other"
        rows.append(Network(title, role, cost.params, cost.macs, score))
    _activate(made, graph, graph.decisions.extreme("largest"))
    return tuple(rows)


def _activate(made: Trained, graph: Graph, assignment: Assignment) -> None:
    if not isinstance(graph, Fixed):
        made.model.activate(assignment)


def right(network: Network) -> str:
    """A network and what it answers, in words."""
    found = network.validation
    told = f"{found.correct:,} of {found.total:,} validation images right" if found else "no number"
    return f"{network.name}: {told}"


def write_training_report(
    folder: PathLike,
    graph: Graph,
    data: Dataset,
    made: Trained,
    networks: tuple[Network, ...],
    summary: str,
    title: str,
) -> None:
    """Write the report of a folder; of processes that run together the first does it."""
    report = Report(
        space=graph.name,
        size=sizes(graph, "")[0],
        decisions=decisions_of(graph),
        data=data_of(data),
        training=epochs_of(made.log),
        candidates=(),
        networks=networks,
        chosen={p: value_of(v) for p, v in graph.decisions.extreme("largest").items()},
        commands=(),
        environment=surroundings(),
        title=title,
        summary=summary,
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
