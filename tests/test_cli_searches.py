"""Searches on the command line: a folder goes on as it was begun, and what is searched beside it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from cells import text as cells
from command import data as answer
from command import good, refused, run
from test_engines_scratch import SPACE

from spacelang import plugins
from spacelang.backends.torch.runs.run import read_log
from spacelang.backends.torch.searching.baselines import search_beside
from spacelang.backends.torch.training.checkpoint import Checkpoints
from spacelang.backends.torch.training.nonfinite import NotFinite
from spacelang.backends.torch.training.trainer import TorchTrainer
from spacelang.diagnostics import SpaceError, error
from spacelang.engines import settings
from spacelang.engines.baselines import Extreme
from spacelang.engines.protocol import ALL_KINDS, Event, Forward, Score, StepPlan
from spacelang.engines.random_cells import Luck
from spacelang.engines.trials import read_trials
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.journal import read_journal

QUIET = ("--progress", "quiet")
QUICK = ("--epochs", "1", "-b", "100", "--lr", "0.01", "--warmup-epochs", "0", *QUIET)
SMALL = ("-s", "population=4", "-s", "generations=1", "-s", "parents=2", "-s", "mutants=2",
         "-s", "crossovers=1")  # fmt: skip
BUDGET = ("--where", "params <= 2000")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searches")
    (folder / "digits.space").write_text(SPACE)
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    done = run("train", place / "digits.space", "--data", "digits", "-o", place / "run", *QUICK)
    assert done.exit_code == 0, done.output
    return place / "run"


@pytest.fixture
def again(trained: Path, tmp_path: Path) -> Path:
    """The trained run, nothing searched yet."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def killed(scores: int, *words: object) -> None:
    """A command in a process that is killed (-9) before it takes one score more."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            taken = iter(range(scores))

            def mortal(probe):
                def probing(self, *given) -> Iterator[Score]:
                    for score in probe(self, *given):
                        if next(taken, None) is None:
                            os.kill(os.getpid(), signal.SIGKILL)
                        yield score

                return probing

            TorchTrainer.probe = mortal(TorchTrainer.probe)  # type: ignore[method-assign]
            run(*words)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)


def scored(folder: Path) -> list[str]:
    """The architectures in a journal of scores, as text."""
    entries = read_journal(folder / "scores.jsonl").entries[1:]
    return [json.dumps(entry["assignment"], sort_keys=True) for entry in entries]


@pytest.fixture(scope="module")
def whole(trained: Path, place: Path) -> dict[str, bytes]:
    """The files of a search that nothing happened to."""
    words = ("search", trained, *BUDGET, *SMALL, "--seed", "3", "-o", place / "whole", *QUIET)
    answer(*words)
    names = ("evolution.json", "random.json", "extreme.json", "scores.jsonl", "begun.json")
    return {name: (place / "whole" / name).read_bytes() for name in names}


# A folder goes on.


@pytest.mark.parametrize("after", [2, 7, 9])
@pytest.mark.parametrize("alone", [True, False])
def test_a_killed_search_goes_on_as_it_was_begun(
    alone: bool, after: int, whole: dict[str, bytes], again: Path
) -> None:
    """By its own folder, or by the run: in the search, in random search, at the ends of the space."""
    killed(after, "search", again, *BUDGET, *SMALL, "--seed", "3", *QUIET)
    done = run("search", again / "search" if alone else again, *QUIET)
    assert done.exit_code == 0, done.output
    for name, content in whole.items():
        assert (again / "search" / name).read_bytes() == content, name
    said = "" if alone else "search: evolution goes on as it was begun: generations=1, population=4"
    assert said in done.stderr
    assert bool(done.stderr) != alone
    assert max(Counter(scored(again / "search")).values()) == 1


def test_nothing_is_forgotten_from_the_first_moment_on(again: Path) -> None:
    """The record of a search, `run.json`, is there only where its settings are."""
    words = ("search", again, *BUDGET, *SMALL, *QUIET)
    killed(0, *words)
    folder = again / "search"
    assert not scored(folder)
    order = [(folder / name).stat().st_mtime_ns for name in ("begun.json", "run.json")]
    assert order == sorted(order)
    assert answer("search", folder, *QUIET)["best"]["params"] <= 2000
    (folder / "begun.json").unlink()  # as versions before left it
    assert "does not say how it was begun" in refused("search", folder)
    answer("search", folder, "--engine", "extreme", *QUIET)


def test_another_setting_is_told_where_a_search_was_stopped(again: Path) -> None:
    killed(2, "search", again, *BUDGET, *SMALL, *QUIET)
    done = run("search", again, "-s", "generations=2", *QUIET)
    assert done.exit_code == 0, done.output
    assert "was begun with other settings: generations: 1 there, 2 here" in done.stderr
    found = json.loads((again / "search" / "evolution.json").read_text())
    assert found["settings"]["generations"] == 2
    assert found["settings"]["where"] == BUDGET[1], "what was not said again stays"


def test_after_its_end_a_run_is_searched_anew(again: Path) -> None:
    """A search that ended is repeated by its folder alone; by the run it is another one."""
    answer("search", again, *BUDGET, *SMALL, *QUIET, "--no-baselines")
    answer("search", again, "--engine", "random", "-s", "evaluations=3", *QUIET)
    first = json.loads((again / "search" / "evolution.json").read_text())
    assert answer("search", again / "search", *QUIET)["engine"] == "random"
    answer("search", again / "search", "--engine", "evolution", *QUIET)
    assert json.loads((again / "search" / "evolution.json").read_text()) == first
    assert not (again / "search" / "extreme.json").exists()
    found = answer("search", again, *SMALL, *QUIET)
    assert found["engine"] == "evolution"
    record = json.loads((again / "search" / "evolution.json").read_text())
    assert record["settings"]["where"] == ""


@pytest.mark.parametrize("engine", ["random", "contraction"])
def test_networks_trained_anew_go_on_by_their_folder(
    engine: str, place: Path, tmp_path: Path
) -> None:
    """The engine, its budget and its seed are the folder's."""
    asked = {
        "random": ("--scratch", "-s", "evaluations=3", "--where", "params <= 700"),
        "contraction": ("-s", "population=2", "-s", "bounds=params <= 2000,params <= 700"),
    }
    words = ("search", place / "digits.space", "--engine", engine, "--data", "digits", *QUICK)
    killed(1, *words, *asked[engine], "--seed", "4", "-o", tmp_path / "run")
    found = answer("search", tmp_path / "run", *QUIET)
    assert found["engine"] == engine
    record = json.loads((tmp_path / "run" / f"{engine}.json").read_text())
    assert record["best"]["params"] <= 700
    whole = answer(*words, *asked[engine], "--seed", "4", "-o", tmp_path / "whole")
    assert {**whole, "run": "", "file": ""} == {**found, "run": "", "file": ""}


def moving(place: Path, *settings: str) -> list[str]:
    """The words that search a space whose ranges may move."""
    space = place / "ranges.space"
    space.write_text(SPACE.replace("choose ratio in {1, 2}", "choose ratio in {1, 2} within 1..3"))
    given = ("iterations=0", "population=2", "generations=0", "probes=2", "top=1", "mutants=0",
             "crossovers=0", "parents=1", *settings)  # fmt: skip
    words = [word for setting in given for word in ("-s", setting)]
    return ["search", str(space), "--engine", "space_evolution", "--data", "digits", *words, *QUICK]


def test_an_engine_that_trains_goes_on_without_its_name(place: Path, tmp_path: Path) -> None:
    found = answer(*moving(place), "-o", tmp_path / "run")
    assert answer("search", tmp_path / "run", *QUIET) == found | {"run": str(tmp_path / "run")}


def test_an_engine_that_trains_has_baselines_by_its_weights(place: Path, tmp_path: Path) -> None:
    """Killed in its search, in random search and at the ends, it goes on to the same files."""
    words = moving(place, "where=params <= 700")
    answer(*words, "-o", tmp_path / "whole")
    for _ in range(3):
        killed(1, *words, "-o", tmp_path / "run")
    found = answer("search", tmp_path / "run", *QUIET)
    rows = [(row["name"], row["evaluated"]) for row in found["baselines"]]
    assert rows == [("random", 2), ("largest", 1), ("smallest", 1)]
    assert all(row["params"] <= 700 for row in found["baselines"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(name in page for name in ("best of random", "largest network", "smallest network"))
    assert {trial.engine for trial in read_trials(tmp_path / "run")} == {
        "space_evolution", "random", "extreme"
    }  # fmt: skip
    for name in ("space_evolution.json", "random.json", "extreme.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    told = good("doctor", tmp_path / "run")
    assert "all as written, and" in told
    rows = {line.split()[1] for line in told.splitlines() if line.endswith("(not recorded)")}
    found = {"space_evolution.json", "space_evolution-best.json", "hull.spaceir", "report.html"}
    assert found <= rows
    assert not rows & {"run.json", "graph.spaceir", "log.jsonl", "manifest.jsonl", "answers.jsonl"}


def test_an_engine_that_trains_without_baselines(place: Path, tmp_path: Path) -> None:
    """What was said when it was begun stays, until it is said again."""
    words = (*moving(place), "--no-baselines", "-o", tmp_path / "run")
    killed(1, *words)
    assert "baselines" not in answer("search", tmp_path / "run", *QUIET)
    assert not (tmp_path / "run" / "random.json").exists()
    assert "baselines" in answer("search", tmp_path / "run", "--baselines", *QUIET)
    assert "baselines" in answer("search", tmp_path / "run", *QUIET), "what is said again stays"


def test_how_a_training_is_kept_is_as_it_was_begun(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder alone prunes no checkpoint that was to be kept."""
    asked: list[int] = []

    def keeps(*given: Any, keep: int, **named: Any) -> Checkpoints:
        asked.append(keep)
        return Checkpoints(*given, keep=keep, **named)

    folder = tmp_path / "run"
    words = (*moving(place, "epochs=3"), "--no-baselines", "-o", folder)
    killed(1, *words[: words.index("--epochs")], *words[words.index("--epochs") + 2 :],
           "--checkpoint-hist", "3", "--on-nan", "skip")  # fmt: skip
    assert len(list(folder.glob("checkpoint-*"))) == 3
    monkeypatch.setattr("spacelang.backends.torch.searching.train_and_search.Checkpoints", keeps)
    answer("search", folder, *QUIET)
    assert asked == [3]
    kept = json.loads((folder / "settings.json").read_text())
    assert (kept["keep"], kept["on_nan"], kept["baselines"]) == (3, "skip", False)
    answer("search", folder, "--checkpoint-hist", "1", *QUIET)
    assert asked == [3, 1]
    assert json.loads((folder / "settings.json").read_text()) == {**kept, "keep": 1}
    (folder / "settings.json").write_text(json.dumps({**kept, "keep": 0}))
    assert "keep is 0" in refused("search", folder)


def test_random_cells_beside_a_search_of_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are asked for, for as many epochs again, in a run of their own. Where they fail
    the search stands."""
    space = tmp_path / "cells.space"
    space.write_text(cells())
    words = ("search", f"{space}:cycle", "--engine", "cyclic_differentiable", "--data", "digits",
             "-b", "300", "--epochs", "2", "-s", "warm=1", *QUIET)  # fmt: skip
    assert "baselines" not in answer(*words, "-o", tmp_path / "run")
    found = ("cyclic_differentiable-best.json", "cyclic_differentiable-genotype.json")
    for name in found:
        (tmp_path / "run" / name).unlink(missing_ok=True)

    def fails(*given: object) -> Iterator[Event]:
        kept.append((tmp_path / "run" / found[0]).exists())
        raise NotFinite("loss", StepPlan(0, 0, 0, (Forward({}),)), [], 0)

    kept: list[bool] = []
    with monkeypatch.context() as patch:
        patch.setattr(Luck, "drawn", fails)
        done = run(*words, "--progress", "json", "--baselines", "-o", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "no baseline random_cells: the loss of step 0 is not finite" in done.stderr
    assert kept == [True], "what the search found is written before its baselines are made"
    (luck,) = answer(*words, "--baselines", "-o", tmp_path / "run")["baselines"]
    assert (luck["name"], luck["evaluated"]) == ("random_cells", 4)
    below = answer("search", tmp_path / "run" / "random_cells", *QUIET)
    assert below["engine"] == "random_cells"
    assert below["best"]["assignment"] == luck["assignment"]
    assert len(read_log(tmp_path / "run" / "random_cells")) == 4


@dataclass(frozen=True)
class Other:
    """An engine for programs that has nothing to do with cells."""

    name = "other"
    weights = "program"
    kinds = ALL_KINDS


def test_baselines_that_an_engine_has_not_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = plugins.load
    monkeypatch.setattr(
        plugins, "load", lambda *name: Other if name[1] == "other" else known(*name)
    )
    monkeypatch.setattr(settings, "load", plugins.load)
    space = tmp_path / "cells.space"
    space.write_text(cells())
    words = ("search", f"{space}:cycle", "--engine", "other", "--data", "digits", *QUIET)
    told = refused(*words, "--baselines", "-o", tmp_path / "run")
    assert "--baselines: there are none of other" in told
    assert not (tmp_path / "run").exists()


def test_a_search_that_does_not_know_its_run(again: Path, tmp_path: Path) -> None:
    answer("search", again, "--engine", "extreme", "-o", tmp_path / "far", *QUIET)
    moved = again.rename(tmp_path / "moved")
    told = refused("search", tmp_path / "far")
    assert "does not say which run it searches" in told
    good("search", moved, "--engine", "extreme", "-o", tmp_path / "far", *QUIET)
    # In its run it moves with it.
    answer("search", moved, "--engine", "extreme", *QUIET)
    after = moved.rename(tmp_path / "again")
    assert answer("search", after / "search", *QUIET)["engine"] == "extreme"


@pytest.mark.parametrize(
    "text",
    ["[", "[]", '{"evolution": {}}', '{"evolution": 3}', '{"a": {"settings": [], "seed": 1}}'],
)
def test_a_damaged_record_is_told(text: str, again: Path) -> None:
    (again / "search").mkdir()
    (again / "search" / "begun.json").write_text(text)
    assert "SP702" in refused("search", again)
    assert "begun.json" in refused("search", again)


# What is searched beside it.


def test_baselines_have_the_same_cost_and_the_same_budget(
    again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found is there, and reported, before they begin."""

    def beside(*given: Any) -> Any:
        names = ("evolution.json", "evolution-best.json", "report.html")
        assert all((given[3] / name).exists() for name in names)
        began.append(given[0])
        return search_beside(*given)

    began: list[Any] = []
    place = "spacelang.backends.torch.searching.search.search_beside"
    monkeypatch.setattr(place, beside)
    found = answer("search", again, *BUDGET, *SMALL, *QUIET)
    assert len(began) == 1
    assert json.loads(Path(found["file"]).read_text()) == found["best"]["assignment"]
    names = [(row["name"], row["evaluated"]) for row in found["baselines"]]
    assert names == [("random", found["evaluated"]), ("largest", 1), ("smallest", 1)]
    trials = read_trials(again)
    assert Counter(t.engine for t in trials) == {
        "evolution": found["evaluated"], "random": found["evaluated"], "extreme": 2
    }  # fmt: skip
    assert all(trial.params <= 2000 for trial in trials)
    page = (again / "search" / "report.html").read_text()
    for network in ("best of evolution", "best of random", "largest network", "smallest network"):
        assert network in page
    assert "smallest" in good("search", again / "search", *QUIET)
    alone = answer("search", again, *SMALL, "--no-baselines", "-o", again / "alone", *QUIET)
    assert "baselines" not in alone
    assert not (again / "alone" / "random.json").exists()


def test_one_end_of_a_space_that_cannot_be_found_is_left_out(
    again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(self: Extreme, space: Graph, which: Literal["largest", "smallest"]) -> Assignment:
        if which in lost:
            raise SpaceError(error("SP701", f"the {which} network is not found"))
        return space.decisions.extreme(which)

    monkeypatch.setattr(Extreme, "_end", end)
    lost = {"largest"}
    words = ("search", again, *SMALL, "-o", again / "two", "--progress", "json")
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert "no largest network: no exact count finds it" in done.stderr
    record = json.loads((again / "two" / "extreme.json").read_text())
    assert [candidate["origin"] for candidate in record["candidates"]] == ["smallest"]
    lost = {"largest", "smallest"}
    told = run(*words).stderr
    assert "no baseline extreme: the smallest network is not found" in told


def test_networks_trained_anew_have_the_ends_beside_them_and_luck_where_asked(
    place: Path, tmp_path: Path
) -> None:
    words = ("search", place / "digits.space", "--engine", "contraction", "--data", "digits",
             "-s", "population=2", "-s", "bounds=params <= 700", *QUICK)  # fmt: skip
    assert "baselines" not in answer(*words, "--no-baselines", "-o", tmp_path / "run")
    found = answer(*words, "-o", tmp_path / "run")
    assert [row["name"] for row in found["baselines"]] == ["largest", "smallest"]
    found = answer(*words, "--baselines", "-o", tmp_path / "run")
    assert [row["name"] for row in found["baselines"]] == ["random", "largest", "smallest"]
    assert all(row["params"] <= 700 for row in found["baselines"])
    # Each of them was trained once.
    assert max(Counter(scored(tmp_path / "run")).values()) == 1
