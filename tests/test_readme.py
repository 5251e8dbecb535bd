"""README.md, as it stands: its space, its commands, its error and its Python."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from command import good, refused

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
PLAIN = re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
HEADS, OTHER_HEADS = "choose heads in {3, 4}", "choose heads in {3, 5}"
PROJECTED = "linear(weigh(softmax(scores(q, k) / 8), v), width, axes: 2) as proj"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny.space").write_text(PLAIN[0], "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_space_is_right_and_counted_as_it_says(place: Path) -> None:
    good("check", "tiny.space")
    told = [part.partition("\n") for part in PLAIN[1].split("$ spacelang ")[1:]]
    assert len(told) == 2
    for words, _, answer in told:
        assert good(*shlex.split(words)) == answer


def test_the_error_is_the_one_that_it_shows(place: Path) -> None:
    (unprojected,) = re.findall(r"x = x \+ (rearrange\(.*\))$", PLAIN[2], re.MULTILINE)
    assert PROJECTED in PLAIN[0]
    wrong = PLAIN[0].replace(HEADS, OTHER_HEADS).replace(PROJECTED, unprojected)
    (place / "tiny.space").write_text(wrong, "utf-8")
    assert refused("check", "tiny.space").rstrip() == PLAIN[2].rstrip()


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_the_python_runs(number: int, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "timm" in PYTHON[number]:
        pytest.importorskip("timm")
    exec(PYTHON[number], {})
    printed = capsys.readouterr().out
    assert ("280804921344" in printed) == ("print" in PYTHON[number])
