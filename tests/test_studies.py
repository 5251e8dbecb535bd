"""benchmarks/studies.py and distillation.py: each study runs to its table and its report, and is taken up
where it was left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_train import SPACE

import spacelang
from benchmarks import study_report
from spacelang.backends.torch.data.datasets import open_data
from spacelang.diagnostics import Source

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
    assert len(arms) >= 2
    assert all(f"\n{arm} " in table for arm in arms)
    page = (tmp_path / name / "report.html").read_text()
    assert all(f"</svg> {arm}</td>" in page or f"{arm}: " in page for arm in arms)
    assert run(*words).split("\n\n")[1] == table
    assert (tmp_path / f"{name}.json").read_bytes() == record


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
