"""Links of the documents lead somewhere: files, headings and pictures of the repository."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = {".venv", ".venv-quickstart", "node_modules", ".git", "build", "runs"}
LINK = re.compile(r"!?\[[^\]\n]*\]\(([^)\s]+)\)|<img[^>]*\ssrc=\"([^\"]+)\"")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.M | re.S)


def documents() -> list[Path]:
    found = sorted(ROOT.rglob("*.md"))
    return [p for p in found if not SKIPPED & set(p.relative_to(ROOT).parts)]


def prose(document: Path) -> str:
    """The text without its examples."""
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def links(document: Path) -> Iterator[str]:
    for match in LINK.finditer(re.sub(r"`[^`\n]*`", "", prose(document))):
        yield match[1] or match[2]


def anchors(document: Path) -> set[str]:
    """The anchors of headings, as GitHub makes them."""
    found: dict[str, int] = {}
    made: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", prose(document), re.M):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        again = found.get(anchor, 0)
        found[anchor] = again + 1
        made.add(f"{anchor}-{again}" if again else anchor)
    return made


@pytest.mark.parametrize("document", documents(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        if re.match(r"[a-z]+:", link):
            assert link.startswith(("https://", "mailto:")), link
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading"


def test_the_test_sees_links() -> None:
    found = [link for document in documents() for link in links(document)]
    assert len(found) > 10
    assert "docs/report.png" in found
