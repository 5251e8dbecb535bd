"""Trials as an Optuna study, for its dashboard and its analyses.

    write_study(trials, "digits", "runs/digits/study.log")      # a journal file
    write_study(trials, "digits", "sqlite:///trials.db")        # or a database, by its URL

Accuracy is to be maximised, params and macs to be minimised. Every decision is a parameter of a
trial where it is live; evenly spaced whole numbers are a range, all else is categorical, over what
was tried. A journal is written whole or not at all; a process that is killed while it writes to a
database leaves a part of the study there.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from glob import escape
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from spacelang.diagnostics import SpaceError, error
from spacelang.engines.trials import Trial, cell, decisions_of
from spacelang.extras import install
from spacelang.files import explained, sync_folder

OBJECTIVES = {"accuracy": "maximize", "params": "minimize", "macs": "minimize"}
DETAILS = ("engine", "number", "generation", "origin", "activations", "failure")


def write_study(trials: Sequence[Trial], name: str, storage: str) -> int:
    """Write a new study of that name; the number of its trials.

    `storage` is the path of a new journal file, or the URL of a database. Raises ImportError
    without Optuna, SP702 for a study or file that is there already or cannot be opened, OSError.
    """
    optuna = _optuna()
    made = _trials(trials, optuna)
    if "://" in storage:
        _database(made, name, storage, optuna)
    else:
        _journal(made, name, Path(storage), optuna)
    return len(made)


def _optuna() -> Any:
    try:
        import_module("optuna.storages.journal")
        optuna: Any = import_module("optuna")
    except ImportError as missing:
        text = f"an Optuna study: {missing}; {install('search')}"
        raise ImportError(text, name=missing.name) from missing
    return optuna


def _database(made: Sequence[Any], name: str, url: str, optuna: Any) -> None:
    database = import_module("sqlalchemy.exc").SQLAlchemyError
    closed = (optuna.exceptions.OptunaError, database, ValueError, ImportError)
    try:
        study = _study(optuna, name, url)
    except optuna.exceptions.DuplicatedStudyError as there:
        found = error("SP702", f"{url} holds a study {name} already")
        raise SpaceError(found.hint("name another one")) from there
    except closed as failed:
        first = str(failed).partition("\n")[0]
        raise SpaceError(error("SP702", f"{url} cannot be opened: {first}")) from failed
    try:
        study.add_trials(made)
    except BaseException as failed:
        with suppress(Exception):  # what stopped the writing may stop this too
            optuna.delete_study(study_name=name, storage=url)
        if isinstance(failed, database | optuna.exceptions.OptunaError):
            first = str(failed).partition("\n")[0]
            raise SpaceError(error("SP702", f"{url} cannot be written: {first}")) from failed
        raise


def _journal(made: Sequence[Any], name: str, target: Path, optuna: Any) -> None:
    """A journal is one file, written aside and then named."""
    if target.exists():
        found = error("SP702", f"{target} is there already")
        raise SpaceError(found.hint("a study is written to a new file"))
    aside = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    journal = optuna.storages.JournalStorage
    try:
        backend = optuna.storages.journal.JournalFileBackend(str(aside))
        _study(optuna, name, journal(backend)).add_trials(made)
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.link(aside, target)  # which fails where somebody else has made it
        sync_folder(target.parent)
    except OSError as failed:
        raise explained(failed, "write", target) from failed
    finally:
        for left in aside.parent.glob(f"{escape(aside.name)}*"):  # its lock too
            with suppress(OSError):
                left.unlink()


def _study(optuna: Any, name: str, storage: object) -> Any:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage, study_name=name, directions=list(OBJECTIVES.values())
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(OBJECTIVES))
    optuna.logging.set_verbosity(verbosity)
    return study


def _trials(trials: Sequence[Trial], optuna: Any) -> list[Any]:
    spread = {path: _distribution(trials, path, optuna) for path in decisions_of(trials)}
    state = optuna.trial.TrialState
    made: list[Any] = []
    for trial in trials:
        row = asdict(trial)
        params = {path: cell(value) for path, value in trial.assignment.items()}
        made.append(
            optuna.trial.create_trial(
                state=state.FAIL if trial.failure else state.COMPLETE,
                values=None if trial.failure else [row[name] for name in OBJECTIVES],
                params=params,
                distributions={path: spread[path] for path in params},
                user_attrs={name: row[name] for name in DETAILS},
            )
        )
    return made


def _distribution(trials: Sequence[Trial], path: str, optuna: Any) -> Any:
    """What a decision took, as a distribution: one for all trials, as Optuna wants it."""
    seen: Mapping[Any, None] = {
        cell(t.assignment[path]): None for t in trials if path in t.assignment
    }
    if all(type(value) is int for value in seen) and len(seen) > 1:
        values = sorted(seen)
        steps = {b - a for a, b in pairwise(values)}
        if len(steps) == 1:
            return optuna.distributions.IntDistribution(values[0], values[-1], step=steps.pop())
    return optuna.distributions.CategoricalDistribution(
        sorted(seen, key=lambda value: (type(value).__name__, value))
    )
