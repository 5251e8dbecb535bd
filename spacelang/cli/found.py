"""What a search found, on standard output."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacelang.cli.output import both, count_of, emit, exact, pairs, say, table
from spacelang.diagnostics import SpaceError

if TYPE_CHECKING:
    from spacelang.ir.graph import Graph


def _speed(made: Any, graph: Graph | None) -> dict[str, int]:
    """The latency of the best, in nanoseconds, and its throughput, in images a second, where the
    engine has a table that knows them."""
    from spacelang.analysis.latency import open_model

    name = getattr(made.engine, "latency", "")
    if not name or graph is None:
        return {}
    with suppress(SpaceError):  # of another space, which the engine moved to
        values = graph.decisions.check(made.found.best.assignment)
        model = open_model(graph, name)
        latency = model.at(values)
        return {"latency": latency, "throughput": model.throughput(latency)}
    return {}


def show(
    made: Any, space: str, engine: str, folder: Path, as_json: bool, graph: Graph | None = None
) -> None:
    """What was found, and in which file the best of it is."""
    from spacelang.engines.trials import best_file

    speed = _speed(made, graph)
    best = made.found.best
    file = best_file(folder, engine)
    front = [_candidate(candidate) for candidate in made.found.front]
    if as_json:
        found: dict[str, object] = {"run": space, "engine": engine}
        found["evaluated"] = made.found.evaluated
        found |= {"best": _candidate(best) | speed, "front": front, "file": str(file)}
        beside = [{"name": n, "evaluated": k} | _candidate(c) for n, k, c in _beside(made)]
        emit({**found, **({"baselines": beside} if beside else {})})
        return
    say(f"{engine}: {count_of(made.found.evaluated)} architectures evaluated")
    pairs([
        ("  best", f"{best.score.correct} of {best.score.total} right ({_percent(best)})"),
        ("  params", both(best.cost.params)),
        ("  macs", both(best.cost.macs)),
        *_times(speed, made.engine),
        ("  kept in", str(file)),
    ])  # fmt: skip
    rows = [(_percent(c), exact(c.cost.params), exact(c.cost.macs)) for c in made.found.front]
    table(("accuracy", "params", "macs"), rows, title="the front", right="rrr")
    beside = [
        (name, exact(count), _percent(c), exact(c.cost.params), exact(c.cost.macs))
        for name, count, c in _beside(made)
    ]
    if beside:
        columns = ("baseline", "evaluated", "accuracy", "params", "macs")
        table(columns, beside, title="beside it", right="lrrrr")


def _times(speed: dict[str, int], engine: Any) -> list[tuple[str, str]]:
    from spacelang.analysis.latency_table import shown

    if not speed:
        return []
    latency, rate = shown(speed["latency"]), exact(speed["throughput"])
    return [
        ("  latency", f"{latency} by {engine.latency}"),
        ("  throughput", f"{rate} images a second"),
    ]


def _beside(made: Any) -> list[tuple[str, int, Any]]:
    """Random search and the ends of the space, as far as they were searched too: what it is called,
    networks that were evaluated for it, and the best of these."""
    found: list[tuple[str, int, Any]] = []
    for other in made.baselines:
        if other.engine.name == "extreme":
            scored = [c for c in other.candidates if not c.score.failure]
            found += [(candidate.origin, 1, candidate) for candidate in scored]
        else:
            found.append((other.engine.name, other.found.evaluated, other.found.best))
    return found


def _percent(candidate: Any) -> str:
    return f"{100 * candidate.score.accuracy:.2f} %"


def _candidate(candidate: Any) -> dict[str, object]:
    return {
        "accuracy": candidate.score.accuracy,
        "params": candidate.cost.params,
        "macs": candidate.cost.macs,
        "assignment": dict(candidate.assignment),
    }
