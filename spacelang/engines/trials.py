"""The candidates of finished searches, read back from their records.

    trials = read_trials("runs/digits")      # of every engine of a folder, or of its `search/`
    text = as_csv(trials)

A record is `<engine>.json`, as a search writes it at its end.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any, cast

from spacelang import plugins
from spacelang.diagnostics import SpaceError, error
from spacelang.files import PathLike
from spacelang.ir.decision import Plain
from spacelang.ir.figures import FIGURES
from spacelang.manifest import read_object

GROUP, SEARCH = "spacelang.engines", "search"
MAX_RECORD = 1 << 28


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate of a search: `accuracy` in 0..1, costs as counts; `failure` is "" or why none.

    `generation` is what the engine counts: generations, iterations, bounds or epochs.
    """

    engine: str
    number: int
    generation: int
    origin: str
    accuracy: float
    failure: str
    params: int
    macs: int
    activations: int
    assignment: Mapping[str, Plain]


def best_file(folder: Path, engine: str) -> Path:
    """Where a search keeps the best architecture that it found, for `--arch`."""
    return folder / f"{engine}-best.json"


def read_trials(folder: PathLike, engine: str | None = None) -> list[Trial]:
    """The trials of a run folder or of the searches in it, by engine and number.

    SP702 where there is none, where the named engine has none, or where a record cannot be read.
    """
    place = Path(folder)
    found: dict[str, list[Trial]] = {}
    names = [engine] if engine is not None else sorted(plugins.table(GROUP))
    for home, name in product((place, place / SEARCH), names):
        path = home / f"{name}.json"
        if path.is_file():
            found.setdefault(name, []).extend(_trials(path, _record(path)))
    if not found:
        by = f" by {engine}" if engine is not None else ""
        problem = error("SP702", f"{folder} holds no finished search{by}")
        raise SpaceError(problem.hint("`spacelang search` writes a record at its end"))
    return [trial for name in sorted(found) for trial in found[name]]


def _record(path: Path) -> Mapping[str, Any]:
    try:
        return read_object(path, MAX_RECORD)
    except ValueError as failed:
        raise SpaceError(error("SP702", f"{path} cannot be read: {failed}")) from failed


def _trials(path: Path, record: Mapping[str, Any]) -> list[Trial]:
    try:
        return [
            Trial(
                engine=path.stem,
                number=int(row["number"]),
                generation=int(row["generation"]),
                origin=str(row["origin"]),
                accuracy=_accuracy(row["accuracy"]),
                failure=str(row["score"]["failure"]),
                **{figure: int(row[figure]) for figure in FIGURES},
                assignment={str(path): _plain(value) for path, value in row["assignment"].items()},
            )
            for row in record["candidates"]
        ]
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as problem:
        raise SpaceError(
            error("SP702", f"{path} is no record of a search: {type(problem).__name__} {problem}")
        ) from problem


def _accuracy(value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no accuracy")
    return float(value)


def _plain(value: object) -> Plain:
    """A value of a decision; lists are picks."""
    if not isinstance(value, bool | int | float | str | list):
        raise TypeError(f"{value!r} is no value of a decision")
    return cast(Plain, value)


def decisions_of(trials: Iterable[Trial]) -> list[str]:
    """Paths of all decisions that a trial took, in the order in which they turn up."""
    return list(dict.fromkeys(path for trial in trials for path in trial.assignment))


def cell(value: Plain) -> str | int | float | bool:
    """A value as one number, truth value or text: what is picked is a list of JSON."""
    return json.dumps(value) if isinstance(value, list | tuple) else value


def as_csv(trials: Sequence[Trial]) -> str:
    """One line a trial, one column a decision, empty where it is not live.

    A decision that is called as another column is `decision:NAME`.
    """
    paths = decisions_of(trials)
    fixed = ("engine", "number", "generation", "origin", "accuracy", "failure", *FIGURES)
    text = StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*fixed, *(f"decision:{path}" if path in fixed else path for path in paths)])
    for trial in trials:
        row = [getattr(trial, name) for name in fixed]
        own = trial.assignment
        table.writerow([*row, *(cell(own[path]) if path in own else "" for path in paths)])
    return text.getvalue()
