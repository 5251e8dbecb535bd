"""Trackers that are services, told by modules that stand for theirs: what is opened, and what is said."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from spacelang.backends.torch.runs.trackers import check_trackers, trackers


def lines(folder: Path, name: str) -> None:
    """Two epochs of a run, told by a process for each."""
    (folder / "run.json").write_text("{}")
    for epoch in (1, 2):
        (tracker,) = trackers([name], folder)
        tracker({"epoch": epoch, "step": 5 * epoch, "loss: kind[1]": 1 / epoch, "note": "text"})


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_of_runs_are_told_each_epoch(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both processes of a run open the same one; another run in another folder opens another."""
    opened: list[dict[str, str]] = []
    told: list[tuple[object, int]] = []

    def log(given: object, step: int) -> None:
        told.append((given, step))

    def init(**given: str) -> object:
        opened.append(given)
        return SimpleNamespace(log=log)

    monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=init))
    check_trackers([name])
    lines(tmp_path, name)
    assert told == [({"step": 5, "loss: kind[1]": 1.0}, 1), ({"step": 10, "loss: kind[1]": 0.5}, 2)]
    assert opened[0] == opened[1]
    assert (opened[0]["project"], opened[0]["resume"]) == ("spacelang", "allow")
    (tmp_path / "other").mkdir()
    lines(tmp_path / "other", name)
    key = "id" if name == "wandb" else "name"
    assert opened[2][key] != opened[0][key]


def test_mlflow_is_told_each_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is found again by its tag, and names are such as MLflow takes."""
    made: list[tuple[object, ...]] = []
    told: list[tuple[object, ...]] = []

    class Client:
        def get_experiment_by_name(self, name: str) -> object:
            return SimpleNamespace(experiment_id="7") if made else None

        def create_experiment(self, name: str) -> str:
            assert name == "spacelang"
            return "7"

        def search_runs(self, experiments: list[str], sought: str) -> list[object]:
            assert experiments == ["7"]
            found = [run for _, _, tags, run in made if sought == f"tags.spacelang = '{run}'"]
            return [SimpleNamespace(info=SimpleNamespace(run_id=run)) for run in found]

        def create_run(self, experiment: str, start: None, tags: object, name: str) -> object:
            made.append((experiment, start, tags, name))
            return SimpleNamespace(info=SimpleNamespace(run_id=name))

        def log_metric(self, run: str, key: str, value: float, step: int) -> None:
            told.append((run, key, value, step))

        def set_terminated(self, run: str) -> None:
            told.append((run, "ended"))

    ended: list[Callable[[], None]] = []
    monkeypatch.setattr("atexit.register", lambda end, *given: ended.append(partial(end, *given)))
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=Client))
    lines(tmp_path, "mlflow")
    ((experiment, _, tags, run),) = made
    assert (experiment, tags) == ("7", {"spacelang": run})
    assert told == [
        (run, "step", 5, 1), (run, "loss_ kind_1_", 1.0, 1),
        (run, "step", 10, 2), (run, "loss_ kind_1_", 0.5, 2),
    ]  # fmt: skip
    ended[0]()
    assert told[-1] == (run, "ended")
