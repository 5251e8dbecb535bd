"""README.md, as it stands: its space, its commands, its error and its Python."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from command import good, refused

import spacelang

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
# The two commands, the space, its figures, an error.
PLAIN = re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
_, SPACE, FIGURES, ERROR = PLAIN[:4]
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
HEADS, OTHER_HEADS = "12..14, {3, 4}", "12..14, {3, 5}"
PROJECTED = "return linear(o, C, axes: 2) as proj"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "autoformer.space").write_text(SPACE, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_space_is_right_and_counted_as_it_says(place: Path) -> None:
    good("check", "autoformer.space")
    told = [part.partition("\n") for part in FIGURES.split("$ spacelang ")[1:]]
    assert len(told) == 2
    for words, _, answer in told:
        assert good(*shlex.split(words)) == answer


def test_the_space_is_the_shipped_one(place: Path) -> None:
    """The same graph, to the hash, but for the names of published weights."""
    shipped = spacelang.load(ROOT / "spaces" / "autoformer.space:autoformer_t")
    shown = spacelang.load(place / "autoformer.space:autoformer_t")
    assert shipped.dialects
    assert not shown.dialects
    assert replace(shipped, dialects={}).hash == shown.hash
    assert len(SPACE.splitlines()) <= 45


def test_the_error_is_the_one_that_it_shows(place: Path) -> None:
    (unprojected,) = re.findall(r"(return rearrange\(.*\))$", ERROR, re.MULTILINE)
    assert HEADS in SPACE
    assert PROJECTED in SPACE
    wrong = SPACE.replace(HEADS, OTHER_HEADS).replace(PROJECTED, unprojected)
    (place / "autoformer.space").write_text(wrong, "utf-8")
    assert refused("check", "autoformer.space").rstrip() == ERROR.rstrip()


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_the_python_runs(number: int, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "timm" in PYTHON[number]:
        pytest.importorskip("timm")
    exec(PYTHON[number], {})
    printed = capsys.readouterr().out
    assert ("280804921344" in printed) == ("print" in PYTHON[number])
