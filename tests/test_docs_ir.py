"""Every Python example of docs/ir.md runs, in a process of its own, and prints something true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "ir.md"
EXAMPLES = re.findall(r"^## (.+?)$.*?^```python\n(.*?)^```", PAGE.read_text(), re.S | re.M)
PRINTS = {
    "Load, look, count": r"280804921344 \d+\n",
    "Sub-spaces": r"^\d+ True\nTrue False True\nTrue$",
    "A rewriting in thirty lines": r"True \d+\ntrained a step",
    "Edits in a draft": r"^\['relu', 'relu', 'relu', 'relu', 'relu', 'relu', 'gelu'",
    "Walking the network": r"True \d+",
    "Text": "True True",
    "A new op": r"\(3, 2\)",
    "A new pass": r"\{'0'\}",
    "A new engine": r"^(192|216|240)$",
}


def test_every_section_has_an_expectation() -> None:
    assert {title for title, _ in EXAMPLES} == set(PRINTS)


@pytest.mark.parametrize(("title", "program"), EXAMPLES, ids=[t for t, _ in EXAMPLES])
def test_the_example_runs(title: str, program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PAGE.parent.parent
    )
    assert done.returncode == 0, done.stderr
    assert re.search(PRINTS[title], done.stdout, re.M), done.stdout


def lines(title: str) -> int:
    """How many lines of an example are not blank."""
    return sum(bool(line.strip()) for line in dict(EXAMPLES)[title].splitlines())


@pytest.mark.parametrize("title", ["A new op", "A new pass", "A new engine"])
def test_extensions_take_less_than_forty_lines(title: str) -> None:
    assert lines(title) <= 40


def test_the_rewriting_takes_at_most_thirty_lines() -> None:
    assert lines("A rewriting in thirty lines") <= 30
