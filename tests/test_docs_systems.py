"""The pages of the systems: figures, files and pictures are made, to the byte, and links hold."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "systems"
NAMES = sorted(path.stem for path in PAGES.glob("*.md"))
STALE = "run python docs/systems/build.py"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """The script that makes the pages."""
    spec = spec_from_file_location("systems_build", PAGES / "build.py")
    assert spec is not None
    assert spec.loader is not None
    made = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_up_to_date(build: ModuleType, name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert build.page(name, text) == text, STALE
    for heading in ("## What it teaches", "## What differs from the publication", "## Figures"):
        assert heading in text


@pytest.mark.parametrize("name", NAMES)
def test_the_picture_is_up_to_date_and_small(build: ModuleType, name: str) -> None:
    text = (PAGES / f"{name}.svg").read_text(encoding="utf-8")
    assert build.picture(name) == text, STALE
    assert len(text) < 200_000
    boxes = [e for e in ElementTree.fromstring(text).iter() if e.tag.endswith("rect")]
    assert 5 < len(boxes) < 60, "readable at the level of blocks"


def test_every_system_has_a_page(build: ModuleType) -> None:
    assert sorted(build.SYSTEMS) == NAMES
    shipped = {path.stem for path in (ROOT / "spaces").glob("*.space")}
    small = {"quickstart", "small_cells", "small_paths", "small_ranges"}  # of no publication
    assert shipped - small - {"cdarts_imagenet"} == set(NAMES)  # which is on CDARTS's page
    assert "cdarts_imagenet.space" in (PAGES / "cdarts.md").read_text(encoding="utf-8")
    index = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
    assert all(f"(systems/{name}.md)" in index for name in NAMES)


def test_a_changed_page_is_made_again(build: ModuleType) -> None:
    text = (PAGES / "deit.md").read_text(encoding="utf-8")
    assert build.page("deit", text.replace("5,717,416", "5,717,417")) == text
    with pytest.raises(ValueError, match="has no part"):
        build.page("deit", "# nothing")
