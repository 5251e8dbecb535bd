"""benchmarks/studies.py and distillation.py: each study runs to its table and its report, and is taken up
where it was left."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from test_train import SPACE

import spacelang
from benchmarks import study_report
from benchmarks.stopwatch import Stopwatch
from spacelang.backends.torch.data.datasets import open_data
from spacelang.diagnostics import Source, SpaceError

STUDIES = Path(__file__).parents[1] / "benchmarks" / "studies.py"


def run(*words: str, script: Path = STUDIES) -> str:
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.soak
@pytest.mark.parametrize("name", ["evolution", "paths", "ranges", "contraction", "cells"])
def test_a_study(name: str, tmp_path: Path) -> None:
    words = (name, "--epochs", "1", "--seeds", "1", "--threads", "1", "-o", str(tmp_path))
    table = run(*words).split("\n\n")[1]
    record = (tmp_path / f"{name}.json").read_bytes()
    arms = json.loads(record)["seeds"][0]
    assert json.loads(record)["seconds"][0] > 1
    assert len(arms) >= 2
    assert all(f"\n{arm} " in table for arm in arms)
    page = (tmp_path / name / "report.html").read_text()
    assert all(f"</svg> {arm}</td>" in page or f"{arm}: " in page for arm in arms)
    assert run(*words).split("\n\n")[1] == table
    assert (tmp_path / f"{name}.json").read_bytes() == record


def test_a_record_goes_where_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(STUDIES.parent)
    studies, distillation = import_module("studies"), import_module("distillation")
    monkeypatch.setattr(studies, "STUDIES", {"paths": lambda work: SEEDS[work.seed]})
    monkeypatch.setattr(studies, "report", lambda *given: None)
    monkeypatch.setattr(distillation, "run", lambda *given: {"labels": SEEDS[0]["found"]})
    monkeypatch.setattr(distillation.study_report, "write", lambda *given: None)
    monkeypatch.setattr(distillation, "open_data", lambda name: None)
    kept = tmp_path / "kept"
    words = ["it", "-o", str(tmp_path / "runs"), "--record", str(kept), "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", words)
    threads = torch.get_num_threads()
    studies.main()
    distillation.main()
    torch.set_num_threads(threads)
    assert json.loads((kept / "paths.json").read_text())["seeds"] == SEEDS
    assert len(json.loads((kept / "distillation.json").read_text())["seeds"]) == 2
    assert not list((tmp_path / "runs").glob("*.json"))


def test_a_study_that_is_not_there() -> None:
    done = subprocess.run([sys.executable, STUDIES, "cream"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no study: cream" in done.stderr


@pytest.mark.soak
def test_a_distillation(tmp_path: Path) -> None:
    words = ("--seeds", "1", "--epochs", "1", "-o", str(tmp_path))
    table = run(*words, script=STUDIES.with_name("distillation.py")).split("\n\n")[1]
    page = (tmp_path / "report.html").read_text()
    for arm in (
        "teacher",
        "second",
        "labels",
        "soft",
        "hard",
        "stored",
        "minivit",
        "introspective",
        "board",
    ):
        assert f"\n{arm} " in table
        assert f"{arm}: 0." in page


def test_seconds_are_those_of_all_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that were stopped and one that came to its end; none of calls after it."""
    ticks = iter((10.0, 12.5, 100.0, 104.0, 200.0, 200.25, 300.0, 999.0))
    monkeypatch.setattr("benchmarks.stopwatch.time.perf_counter", lambda: next(ticks))
    place = tmp_path / "paths" / "0.seconds.json"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), Stopwatch(place):
            raise KeyboardInterrupt
    assert not Stopwatch(place).ended
    for _ in range(2):
        with Stopwatch(place) as watch:
            pass
        assert watch.seconds == 6.8


def test_a_seed_without_a_network_is_recorded_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(STUDIES.parent)
    studies = import_module("studies")
    space = spacelang.load(Source("<digits>", SPACE))
    work = studies.Work(Path("unused"), 0, None)
    assert studies.within(space, "params <= 3", work, 4) == []
    assert len(studies.within(space, "params >= 3", work, 4)) == 4
    with pytest.raises(SpaceError, match="nonsense"):
        studies.within(space, "nonsense <= 3", work, 4)
    arms = [{"first": {"test": 0.5}, "evolved": studies.figures([], [])}]
    assert arms[0]["evolved"] is None
    assert studies.whole(arms) == []
    assert studies.whole([*arms, *SEEDS]) == SEEDS


# Of two seeds: what the arms' networks read right of 359 test images.
SEEDS = [
    {
        "found": {"test": 0.90, "params": 1000, "macs": 5000},
        "random": {"test": 0.88, "params": 990.5, "macs": 5100},
    },
    {
        "found": {"test": 0.94, "params": 1100, "macs": 5400},
        "random": {"test": 0.95, "params": 1111, "macs": 5300},
    },
]


def test_the_arms_of_a_study_are_rows_of_its_report(tmp_path: Path) -> None:
    space, data = spacelang.load(Source("<digits>", SPACE)), open_data("digits")
    given = ("cells", "About cells.", space, data)
    path = study_report.write(tmp_path / "cells", *given, SEEDS, "found", "python it")
    page = path.read_text()
    told = "About cells. Test accuracy over 2 seeds, mean and spread. found: 0.9200, 0.0283. "
    assert told + "random: 0.9150, 0.0495; found leads by +0.0200, -0.0100." in page
    rows = [row for row in page.split("<tr") if "found</td>" in row or "random</td>" in row]
    assert len(rows) == 2
    for row, figures in zip(
        rows, (("91.9", "1,050", "5,200"), ("91.4", "1,051", "5,200")), strict=True
    ):
        assert all(figure in row for figure in figures)
    assert "python it" in page


def test_an_arm_alone_leads_nobody() -> None:
    seeds = [{"soft": {"test": 0.5, "params": 1, "macs": 1}}]
    assert study_report.summary(seeds, "labels").endswith(
        "1 seed, mean and spread. soft: 0.5000, 0.0000."
    )
