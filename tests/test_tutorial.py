"""docs/tutorial.md, run as it stands on pictures made here: crops of real photographs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.S | re.M)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
(PYTHON,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's space and a folder of class folders beside it."""
    data = pytest.importorskip("skimage.data")
    from PIL import Image

    folder = tmp_path_factory.mktemp("tutorial")
    (text,) = re.findall(r"^```space\n(.*?)^```", PAGE, re.S | re.M)
    (folder / "texture.space").write_text(text)
    for name in ("brick", "grass", "gravel"):
        picture = getattr(data, name)()
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(20):
            crop = picture[(i % 5) * 90 : (i % 5) * 90 + 64, (i // 5) * 110 : (i // 5) * 110 + 64]
            Image.fromarray(crop).save(folder / "photos" / name / f"{i:04}.png")
    return folder


def python(place: Path, root: Path, *words: str) -> str:
    """What Python prints in the place of the page."""
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) == 12


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=lambda n: COMMANDS[n].split()[1])
def test_commands_in_order(number: int, place: Path, root: Path) -> None:
    words = shlex.split(COMMANDS[number])
    assert words[0] == "spacelang"
    told = python(place, root, "-m", *words)
    if words[1] == "quickstart":
        assert (place / "runs" / "texture" / "report.html").stat().st_size > 10_000
    if words[1] == "extract":
        assert "spacelang" not in (place / "found" / "model.py").read_text()
    if words[1] == "bench":
        assert "fast:texture@1, 1 thread" in told


def test_what_is_found_runs_in_python(place: Path, root: Path) -> None:
    """Both networks find the same, of images that are given as their manifests say."""
    lines = python(place, root, "-c", PYTHON).splitlines()
    assert len(lines) == 60
    for line in lines:
        path, plain, fast = line.split()
        assert Path(path).parent.parent.name == "photos"
        assert plain == fast
        assert plain in ("brick", "grass", "gravel")
    manifests = [
        json.loads((place / name / "manifest.json").read_text()) for name in ("found", "fast")
    ]
    assert manifests[0]["images"] == manifests[1]["images"]
