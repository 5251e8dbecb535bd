"""benchmarks/studies.py: each study runs to its table, and is taken up where it was left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

STUDIES = Path(__file__).parents[1] / "benchmarks" / "studies.py"


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, STUDIES, *words], capture_output=True, text=True)
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
    assert run(*words).split("\n\n")[1] == table
    assert (tmp_path / f"{name}.json").read_bytes() == record


def test_a_study_that_is_not_there() -> None:
    done = subprocess.run([sys.executable, STUDIES, "cream"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no study: cream" in done.stderr
