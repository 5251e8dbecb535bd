"""`spacelang trials`: CSV and Optuna studies of what searches tried."""

from __future__ import annotations

import csv
import json
import re
from io import StringIO
from pathlib import Path

import optuna
import pytest
from command import good, refused

from spacelang.backends.torch.runs.searched import Searched
from spacelang.diagnostics import SpaceError
from spacelang.engines.baselines import RandomSearch
from spacelang.engines.evolution import Evolution
from spacelang.engines.optuna_study import write_study
from spacelang.engines.protocol import Candidate, Found, Score
from spacelang.engines.trials import Trial, as_csv, read_trials
from spacelang.ir.figures import Cost

CANDIDATES = [
    ({"width": 32, "op": "k3", "picked": [0, 2]}, 0.5, "", 100),
    ({"width": 48, "op": "skip"}, 0.75, "", 200),
    ({"width": 64, "op": "k3", "picked": [1]}, 0.0, "out of memory", 300),
]


def record(name: str) -> dict[str, object]:
    """As a search writes it."""
    candidates = tuple(
        Candidate(
            number, number // 2, "random", taken, Cost(params, 10 * params, 5),
            Score(round(100 * accuracy), 100, failure),
        )
        for number, (taken, accuracy, failure, params) in enumerate(CANDIDATES)
    )  # fmt: skip
    engine = {"evolution": Evolution(), "random": RandomSearch()}[name]
    found = Found(candidates[1], candidates[:2], len(candidates), exhausted=False)
    return dict(Searched(engine, found, candidates).as_json())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "search").mkdir()
    for engine in ("evolution", "random"):
        (tmp_path / "search" / f"{engine}.json").write_text(json.dumps(record(engine)))
    (tmp_path / "search" / "evolution-best.json").write_text('{"width": 32}')
    (tmp_path / "run.json").write_text('{"kind": "train"}')
    (tmp_path / "search" / "foreign.json").write_text("[")
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
    """The disk is full at the second trial."""
    original = optuna.Study.add_trial
    added: list[object] = []

    def broken(self: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        added.append(trial)
        if len(added) % 2 == 0:
            raise OSError(28, "No space left on device")
        original(self, trial)

    monkeypatch.setattr(optuna.Study, "add_trial", broken)
    before = sorted(folder.iterdir())
    database = f"sqlite:///{folder.parent / 'trials.db'}"
    for storage in (str(folder / "study[1].log"), database):
        with pytest.raises(OSError, match="No space"):
            write_study(read_trials(folder), "digits", storage)
    assert len(added) == 4
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
        ('{"engine": "evolution"}', "KeyError"),
        ("3", "it is no JSON object"),
    ],
)
def test_damaged_records(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "evolution.json").write_text(text)
    with pytest.raises(SpaceError, match=said):
        read_trials(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"), [("params", "1e999"), ("accuracy", "NaN"), ("accuracy", "1.5")]
)
def test_figures_that_are_none(folder: Path, field: str, value: str) -> None:
    path = folder / "search" / "random.json"
    path.write_text(re.sub(rf'"{field}": [0-9.]+', f'"{field}": {value}', path.read_text()))
    assert "no record of a search" in refused("trials", folder)


def test_decisions_that_are_called_as_a_column() -> None:
    trial = Trial("random", 0, 0, "random", 0.5, "", 1, 1, 1, {"params": 3, "depth": 2})
    (row,) = csv.DictReader(StringIO(as_csv([trial])))
    assert (row["params"], row["decision:params"], row["depth"]) == ("1", "3", "2")


def test_what_is_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="no finished search by climb"):
        read_trials(folder, "climb")
    with pytest.raises(SpaceError, match="no finished search"):
        read_trials(tmp_path / "search" / "x")
    trial = Trial("random", 0, 0, "random", 0.5, "", 1, 1, 1, {"op": "k3"})
    for bad in ("nonsense://x", "redis://x", "sqlite:////nowhere/at/all.db"):
        with pytest.raises(SpaceError, match="cannot be opened"):
            write_study([trial], "digits", bad)
