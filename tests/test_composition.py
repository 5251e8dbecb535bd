"""The composition matrix: every technique, and every pair of them, on every system."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from composition import FULL, HOSTS, PAIRS, STEPS, TECHNIQUES, applied, cell, host, shipped
from composition_page import PARAGRAPHS, REASONS, Key, entries_of, entry, keys, page, refused

from spacelang.diagnostics import SpaceError
from spacelang.ir.words import base_name
from spacelang.passes.pipeline import run

PAGE = Path(__file__).parent.parent / "docs" / "composition.md"


@cache
def shown() -> dict[Key, str]:
    """The cells of the page as it is."""
    return entries_of(PAGE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "techniques"), keys(), ids=[f"{n}-{'+'.join(t)}" for n, t in keys()]
)
def test_cell(name: str, techniques: tuple[str, ...], update_golden: bool) -> None:
    """A cell works, or is refused as the reviewed table says; the page shows it."""
    found = cell(name, techniques)
    expected = refused(name, techniques)
    if expected is None:
        assert found.works, f"{found.code}: {found.message}"
        assert len(found.rewritten) == len(techniques)
        assert min(found.rewritten) > 0
    else:
        technique, code, _ = expected
        assert (found.code, found.rewritten) == (code, ()), f"{found} instead of a refusal"
        assert technique in found.message or code == "SP504"
    if not update_golden:
        assert shown()[name, techniques] == entry(found)


SINGLES = [(n, t) for n in FULL for t in TECHNIQUES]


@pytest.mark.parametrize(("name", "technique"), SINGLES, ids=[f"{n}-{t}" for n, t in SINGLES])
def test_shipped_hosts_are_rewritten_like_the_narrow_ones(name: str, technique: str) -> None:
    """In full size, too, every place that the pattern matches is rewritten, or it is refused."""
    graph = shipped(name)
    expected = refused(name, (technique,))
    if expected is None:
        made, done = applied(graph, name, technique)
        assert done > 0
        assert made.root != graph.root or made.blocks != graph.blocks
        return
    with pytest.raises(SpaceError) as failed:
        run(graph, STEPS[technique][name])
    assert {d.code for d in failed.value.diagnostics} == {expected[1]}


def test_page(update_golden: bool) -> None:
    """The page is what its own cells make, no cell is empty, and enough of them work."""
    if update_golden:
        PAGE.write_text(page({key: entry(cell(*key)) for key in keys()}), encoding="utf-8")
        shown.cache_clear()
    entries = shown()
    assert set(entries) == set(keys())
    assert all(entries.values())
    assert PAGE.read_text(encoding="utf-8") == page(entries)
    works = [k for k in keys() if not entries[k].startswith("SP")]
    assert sum(len(t) == 1 and t != ("sample",) for _, t in works) >= 28
    assert len({t for _, t in works if len(t) == 2}) >= 12


def test_tables_are_whole() -> None:
    assert set(PARAGRAPHS) == set(TECHNIQUES) == set(STEPS)
    assert all(set(steps) == set(HOSTS) for steps in STEPS.values())
    assert len(PAIRS) == 15
    assert all(t in TECHNIQUES and n in HOSTS and why for (t, n), (_, why) in REASONS.items())


REFUSALS = sorted(REASONS)


@pytest.mark.parametrize(("technique", "name"), REFUSALS, ids=[f"{n}-{t}" for t, n in REFUSALS])
def test_a_refusal_names_a_place_and_a_reason(technique: str, name: str) -> None:
    """The diagnostic names a block, the network or a decision, and says what is wrong with it."""
    graph = host(name)
    with pytest.raises(SpaceError) as failed:
        run(graph, STEPS[technique][name])
    code, _ = REASONS[technique, name]
    for found in failed.value.diagnostics:
        assert found.code == code
        words = found.headline.replace(":", " ").split()
        assert {graph.name, "depth", *map(base_name, graph.blocks)} & set(words), found.headline
        assert found.notes or ":" in found.headline or code == "SP504"
