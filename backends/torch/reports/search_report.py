"""report.html of a search folder: all that was searched there, and the parts other reports share.

    write_search_report(folder, graph, data, searched, log)

Engines that came to their end in the folder are shown together, read from their `<engine>.json`;
the architecture drawn is that of the engine which ended last.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from spacelang import __version__
from spacelang.analysis.queries import parsed
from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.reports.stages import stages_of
from spacelang.backends.torch.runs.ranks import current
from spacelang.backends.torch.runs.run import Json, environment
from spacelang.backends.torch.runs.searched import Searched
from spacelang.engines.trials import MAX_RECORD
from spacelang.ir.decision import plain
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.graph import Graph
from spacelang.manifest import read_object
from spacelang.report import Candidate, Data, Decision, Epoch, Network, Report, Score, Value
from spacelang.report import write_report as write
from spacelang.report.model import Method, Role

METHODS: Mapping[str, Method] = {"evolution": "evolution", "random": "random"}
EXTREME = "extreme"
ROLES: Mapping[str, Role] = {"random": "random", "largest": "largest"}


def write_search_report(
    folder: Path, graph: Graph, data: Dataset, searched: Searched, log: Sequence[Json] = ()
) -> None:
    """Write the report of a search folder; `log` is that of the weights that were searched."""
    if not current().first:
        return
    where = str(getattr(searched.engine, "where", ""))
    axis, limit = budget(graph, where)
    records = tuple(_records(folder))
    best, name = searched.found.best, searched.engine.name
    low, within = sizes(graph, where)
    score = best.score
    report = Report(
        space=graph.name,
        size=low,
        decisions=decisions_of(graph),
        data=data_of(data),
        training=epochs_of(log),
        candidates=tuple(
            Candidate(METHODS.get(str(r["engine"]), "other"), c[axis], c["accuracy"])
            for r in records
            for c in cast(list[Any], r["candidates"])
            if not c["score"]["failure"]
        ),
        networks=tuple(_networks(records, name)),
        chosen={path: value_of(value) for path, value in best.assignment.items()},
        commands=(),
        environment=surroundings(),
        summary=f"{name} evaluated {searched.found.evaluated:,} architectures; its best has "
        f"{best.cost.params:,} parameters and reads {score.correct:,} of {score.total:,} "
        "validation images right. It was chosen by these images: another score, of images that "
        "nothing was chosen by, will be lower.",
        where=where,
        size_within=within if where else None,
        cost=axis,
        limit=limit,
        stages=stages_of(searched),
        version=__version__,
    )
    write(folder, report)


def _records(folder: Path) -> Iterator[dict[str, object]]:
    """What the engines of a folder found, as they wrote it."""
    for path in sorted(folder.glob("*.json")):
        try:
            record = read_object(path, MAX_RECORD)
        except ValueError:
            continue
        if {"engine", "candidates", "best"} <= record.keys():
            yield record


def _networks(records: Sequence[Json], winner: str) -> Iterator[Network]:
    """The best of each engine, that of the last one first; of the extremes each."""
    for record in sorted(records, key=lambda r: r["engine"] != winner):
        name = str(record["engine"])
        if name == EXTREME and name != winner:
            for row in cast(list[Json], record["candidates"]):
                which = str(row["origin"])
                if not cast(Json, row["score"])["failure"]:
                    yield _network(f"{which} network", ROLES.get(which, "other"), row)
            continue
        role: Role = "winner" if name == winner else ROLES.get(name, "other")
        scores = cast(int, record["evaluated"])
        yield _network(f"best of {name}, of {scores:,} scores", role, cast(Json, record["best"]))


def _network(name: str, role: Role, row: Json) -> Network:
    """A candidate, as its record holds it."""
    counted = cast(dict[str, int], row["score"])
    score = Score(counted["correct"], counted["total"])
    return Network(name, role, cast(int, row["params"]), cast(int, row["macs"]), score)


# What every report shows.


def sizes(graph: Graph, where: str) -> tuple[int, int | None]:
    """Architectures of a space, and within a budget; None where only bounds are known, or where it
    bounds a latency or a throughput, of which no count knows."""
    wanted, whole = parsed(graph, where), graph.size()
    timed = wanted is not None and wanted.timed
    within = None if timed else graph.size(where)
    low = whole if isinstance(whole, int) else whole.lower
    return low, within if isinstance(within, int) else None


def decisions_of(graph: Graph) -> tuple[Decision, ...]:
    """The decisions of a space, in its order."""
    return tuple(
        Decision(choice.path, choice.kind, tuple(value_of(v) for v in choice.values))
        for choice in graph.decisions.values()
    )


def data_of(data: Dataset) -> Data:
    """The images, in figures."""
    counts = data.counts
    return Data(
        data.name,
        len(data.classes),
        data.shape,
        counts["train"],
        counts["validation"],
        counts["test"],
        data.split_digest,
    )


def epochs_of(log: Sequence[Json]) -> tuple[Epoch, ...]:
    """The lines of a training's log."""
    return tuple(
        Epoch(
            cast(int, line["epoch"]),
            cast(float, line["loss"]),
            cast(float | None, line.get("validation_accuracy")),
        )
        for line in log
    )


def value_of(value: object) -> Value:
    """A decision's value as a report holds it."""
    shown = value if isinstance(value, list) else plain(cast(DecisionValue, value))
    return tuple(shown) if isinstance(shown, list) else shown


def budget(graph: Graph, where: str) -> tuple[str, tuple[int | None, int | None]]:
    """The figure that a budget bounds (params where it bounds several, or none), and its limits."""
    bands = dict(wanted.exact.bands) if (wanted := parsed(graph, where)) is not None else {}
    axis = "params" if "params" in bands or len(bands) != 1 else next(iter(bands))
    return axis, bands.get(axis, (None, None))


def surroundings() -> dict[str, str]:
    """What may change the last digits of a result."""
    known = {name: str(value) for name, value in environment().items()}
    return known | {"system": f"{platform.system()} {platform.release()}"}
