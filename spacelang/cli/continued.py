"""What a folder says of the search in it: what is searched, by whom, and how it was set.

DIR of a search             goes on as it was begun, whatever is not said again
RUN, a training             a search of RUN/search that was stopped goes on so too
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from spacelang.cli import runs
from spacelang.cli.output import complain

if TYPE_CHECKING:
    from spacelang.engines.begun import SearchStart
    from spacelang.engines.protocol import Engine

SHARED, SCRATCH = "search", "scratch"  # kinds of folders that several engines share
DEFAULT = "evolution"


@dataclass(frozen=True)
class Continued:
    """What is searched, where, by what engine, and how that was begun.

    `folder` is None where nothing says it; `alone` says that it was named as what is searched.
    """

    space: str
    folder: Path | None
    engine: str
    begun: SearchStart | None
    alone: bool

    @property
    def settings(self) -> dict[str, object]:
        """Those that the engine was begun with."""
        return dict(self.begun.settings) if self.begun is not None else {}


def continued(space: str, output: str | None, engine: str | None) -> Continued:
    """What is meant by SPACE, -o and --engine, as far as folders say more."""
    from spacelang.engines.begun import begun

    here = Path(space)
    record = runs.record_of(here) if os.path.isfile(here / runs.RECORD) else {}
    kind = record.get("kind")
    alone = kind in (SHARED, SCRATCH) and output is None
    given = Path(output) if output is not None else None
    folder = given or (here if alone else here / runs.SEARCH if runs.is_run(here) else None)
    known = begun(folder) if folder is not None else {}
    name = engine or _engine_of(record)
    if name is None and alone and not known:
        told = f"{here} does not say how it was begun: repeat --engine and its settings"
        raise click.UsageError(told)
    if name is None:
        last, entry = next(reversed(known.items()), (DEFAULT, None))
        name = last if alone or (entry is not None and not entry.ended) else DEFAULT
    kept = known.get(name)
    if kept is not None and kept.ended and not alone:
        kept = None
    return Continued(_searched(here) if kind == SHARED else space, folder, name, kept, alone)


def _engine_of(record: Mapping[str, object]) -> str | None:
    """The engine that a run trains by, where it does that while it searches."""
    about = record.get("engine")
    name = cast("Mapping[str, object]", about).get("name") if isinstance(about, dict) else None
    return name if isinstance(name, str) else None


def _searched(folder: Path) -> str:
    """The run whose weights a folder is a search of."""
    place = folder.resolve()
    above = [place.parent] if place.name == runs.SEARCH else []  # it may have moved with its run
    for run in (*above, Path(str(runs.kept(folder).get("run")))):
        if runs.is_run(run):
            return str(run)
    raise click.UsageError(
        f"{folder} does not say which run it searches: spacelang search RUN -o {folder}"
    )


def tell(found: Continued, chosen: Engine, asked: Engine) -> None:
    """What a search that was stopped goes on with, where that was not said again, or is another.

    `chosen` is the engine as it goes on, `asked` what the words of the command alone make.
    """
    from spacelang.engines.settings import settings_of

    if found.begun is None or found.begun.ended:
        return
    now, before, said = settings_of(chosen), found.begun.settings, settings_of(asked)
    other = [f"{n}: {before.get(n)} there, {v} here" for n, v in now.items() if before.get(n) != v]
    if other:
        told = f"{found.folder}: {chosen.name} was begun with other settings"
        complain(f"warning: {told}: {'; '.join(other)}")
    silent = [f"{n}={v}" for n, v in now.items() if said[n] != v]
    if silent and not found.alone:
        complain(f"{found.folder}: {chosen.name} goes on as it was begun: {', '.join(silent)}")
