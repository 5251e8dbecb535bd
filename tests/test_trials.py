"""`spacelang trials`: CSV and Optuna studies of what searches tried."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import optuna
import pytest
from command import good

from spacelang.diagnostics import SpaceError
from spacelang.engines.optuna_study import write_study
from spacelang.engines.trials import Trial, as_csv, read_trials

CANDIDATES = [
    ({"width": 32, "op": "k3", "picked": [0, 2]}, 0.5, "", 100),
    ({"width": 48, "op": "skip"}, 0.75, "", 200),
    ({"width": 64, "op": "k3", "picked": [1]}, 0.0, "out of memory", 300),
]


def record(engine: str) -> dict[str, object]:
    rows = [
        {
            "number": number, "generation": number // 2, "origin": "random", "accuracy": accuracy,
            "score": {"correct": 0, "total": 0, "failure": failure},
            "params": params, "macs": 10 * params, "activations": 5, "assignment": taken,
        }
        for number, (taken, accuracy, failure, params) in enumerate(CANDIDATES)
    ]  # fmt: skip
    return {"engine": engine, "settings": {}, "candidates": rows}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "search").mkdir()
    for engine in ("evolution", "random"):
        (tmp_path / "search" / f"{engine}.json").write_text(json.dumps(record(engine)))
    (tmp_path / "search" / "evolution-best.json").write_text('{"width": 32}')
    (tmp_path / "run.json").write_text('{"kind": "train"}')
    return tmp_path


def test_every_candidate_has_a_line(folder: Path) -> None:
    rows = list(csv.DictReader(StringIO(as_csv(read_trials(folder)))))
    assert [row["engine"] for row in rows] == ["evolution"] * 3 + ["random"] * 3
    assert [row["width"] for row in rows[:3]] == ["32", "48", "64"]
    assert [row["picked"] for row in rows[:3]] == ["[0, 2]", "", "[1]"]
    assert rows[2]["failure"] == "out of memory"
    assert read_trials(folder / "search") == read_trials(folder)
    assert {trial.engine for trial in read_trials(folder, "random")} == {"random"}


@pytest.mark.parametrize("storage", ["study.log", "sqlite:///{}/trials.db"])
def test_a_study_holds_what_was_tried(folder: Path, storage: str) -> None:
    where = storage.format(folder) if "://" in storage else str(folder / storage)
    assert write_study(read_trials(folder, "evolution"), "digits", where) == 3
    opened = (
        where
        if "://" in where
        else optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(where))
    )
    study = optuna.load_study(study_name="digits", storage=opened)
    assert study.metric_names == ["accuracy", "params", "macs"]
    assert [trial.values for trial in study.trials] == [[0.5, 100, 1000], [0.75, 200, 2000], None]
    assert [trial.params for trial in study.trials] == [
        {"width": 32, "op": "k3", "picked": "[0, 2]"},
        {"width": 48, "op": "skip"},
        {"width": 64, "op": "k3", "picked": "[1]"},
    ]
    assert study.trials[0].distributions["width"] == optuna.distributions.IntDistribution(
        32, 64, step=16
    )
    assert {trial.number for trial in study.best_trials} == {0, 1}
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []
    with pytest.raises(SpaceError, match="already"):
        write_study(read_trials(folder, "evolution"), "digits", where)


def test_nothing_half_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(optuna.Study, "add_trials", broken)
    before = sorted(folder.iterdir())
    database = f"sqlite:///{folder.parent / 'trials.db'}"
    for storage in (str(folder / "study.log"), database):
        with pytest.raises(OSError, match="No space"):
            write_study(read_trials(folder), "digits", storage)
    assert sorted(folder.iterdir()) == before
    assert optuna.get_all_study_names(database) == []


def test_the_command(folder: Path) -> None:
    assert good("trials", folder, "--engine", "random").count("\n") == 4
    out = folder / "trials.csv"
    good("trials", folder, "-o", out, "--optuna", folder / "study.log")
    assert out.read_text() == as_csv(read_trials(folder))
    (name,) = optuna.get_all_study_names(
        optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(folder / "study.log"))
        )
    )
    assert name == folder.name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "cannot be read"),
        ('{"engine": "evolution", "candidates": [{"number": 1}]}', "KeyError 'generation'"),
        ('{"engine": "evolution", "candidates": 3}', "TypeError"),
    ],
)
def test_damaged_records(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "evolution.json").write_text(text)
    with pytest.raises(SpaceError, match=said):
        read_trials(tmp_path)


def test_what_is_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="no finished search by climb"):
        read_trials(folder, "climb")
    with pytest.raises(SpaceError, match="no finished search"):
        read_trials(tmp_path / "search" / "x")
    trial = Trial("random", 0, 0, "random", 0.5, "", 1, 1, 1, {"op": "k3"})
    for bad in ("nonsense://x", "sqlite:////nowhere/at/all.db"):
        with pytest.raises(SpaceError, match="cannot be opened"):
            write_study([trial], "digits", bad)
