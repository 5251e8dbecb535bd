"""What the searches of a folder were begun with, so that the folder alone goes on.

    start = SearchStart(settings_of(engine), seed=0)
    begin(folder, "evolution", start)       # before anything is scored
    start = begun(folder)["evolution"]      # in a later process
    end(folder, "evolution")                # when all of it is written

`begun.json` has an entry for each engine, the one that was begun last at its end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, cast

from spacelang.diagnostics import SpaceError, error
from spacelang.files import atomic_write
from spacelang.manifest import read_object

BEGUN = "begun.json"
KINDS = {"settings": (dict,), "seed": (int,), "baselines": (bool, NoneType), "ended": (bool,)}


@dataclass(frozen=True, slots=True)
class SearchStart:
    """The settings of an engine as JSON, its seed, whether baselines are searched beside it (None
    where nothing was said of them), and whether it came to its end."""

    settings: Mapping[str, object]
    seed: int = 0
    baselines: bool | None = False
    ended: bool = False


def begun(folder: Path) -> dict[str, SearchStart]:
    """By the name of the engine, the last one last; none where there is no file (SP702 where it
    cannot be read)."""
    place = folder / BEGUN
    try:
        return {name: _entry(entry) for name, entry in read_object(place).items()}
    except FileNotFoundError:
        return {}
    except ValueError as failed:
        found = error("SP702", f"{place} cannot be read: {failed}")
        raise SpaceError(found.hint("remove it, and say again how the search is set")) from failed


def _entry(entry: object) -> SearchStart:
    found = dict[str, Any](cast(Mapping[str, Any], entry)) if isinstance(entry, dict) else {}
    fits = (type(value) in KINDS.get(name, ()) for name, value in found.items())
    if found.keys() != KINDS.keys() or not all(fits):
        raise ValueError(f"{json.dumps(entry)[:40]} does not say how a search was begun")
    return SearchStart(**found)


def begin(folder: Path, name: str, entry: SearchStart) -> None:
    """Note how an engine is begun."""
    others = {other: kept for other, kept in begun(folder).items() if other != name}
    _write(folder, {**others, name: entry})


def end(folder: Path, name: str) -> None:
    """Note that an engine came to its end."""
    known = begun(folder)
    _write(folder, {**known, name: replace(known[name], ended=True)})


def _write(folder: Path, entries: Mapping[str, SearchStart]) -> None:
    content = {name: asdict(entry) for name, entry in entries.items()}
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    if not (folder / BEGUN).is_file() or (folder / BEGUN).read_text("utf-8") != text:
        atomic_write(folder / BEGUN, text)
