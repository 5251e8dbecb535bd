"""Run folders: what a run is, who writes to it, and its log.

    with RunFolder(path, "training", identity) as run: ...
    log = Log(run.path, taken); log.add({"epoch": 3, "step": 188, "loss": 0.61})

`run.json` holds the identity of a run: a folder takes up only the run it was made by. Before it is
written `settings.json` is, what later commands need not be told: where the images are. `log.jsonl`
is one JSON object an epoch, `summary.csv` the same as a table; both are rewritten whole. With
`graph.spaceir` in it, a folder needs no other file to be searched or taken from.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, cast

import torch

from spacelang import __version__
from spacelang.backends.torch.runs.ranks import current
from spacelang.diagnostics import Source, SpaceError, error
from spacelang.files import LOCK_NAME, MARKER, Lock, PathLike, atomic_write, sweep
from spacelang.ir.graph import Graph
from spacelang.ir.text import stored
from spacelang.manifest import MAX_GRAPH, read_object, unverified
from spacelang.syntax.ir_text import read

RECORD, LOG, SUMMARY, GRAPH = "run.json", "log.jsonl", "summary.csv", "graph.spaceir"
SETTINGS = "settings.json"
RENEWED = ("baselines", "keep", "on_nan")  # of the settings: what may be said again, and then stays
# What runs that can be taken back write, files of a folder before the folder.
WRITTEN = (
    *(SETTINGS, RECORD, GRAPH, LOG, SUMMARY, LOCK_NAME),
    *("begun.json", "images.json", "scores.jsonl", "answers.jsonl", "hull.spaceir"),
    *("manifest.jsonl", "checkpoint-*.safetensors", "saves.tsv", "nan-*.json"),
    *("program/*.spaceir", "program/manifest.json", f"program/{MARKER}", "program"),
    *("under-way/*/*", "under-way/*", "under-way"),
)
FORMAT = 1
_COLUMNS = {"step": int, "epoch": int, "loss": float}  # of every line of a log
Json = dict[str, object]
Part = TypeVar("Part")


class RunFolder:
    """The folder of one run, locked while it is written to.

    Entering makes the folder, takes its lock (`Locked` where another process holds it), and writes
    or compares `run.json`: SP702 with what differs if the folder belongs to another run. What its
    `settings.json` says stays, but for what is `RENEWED`; where it has none, `settings` are
    written. `first` is done at each entry: before `run.json` is there, or after it was compared. Of
    processes that run together the first does all that. What was `WRITTEN` is taken back where a
    SpaceError leaves the run before it has `begun`; unless told otherwise, it has at once.
    """

    def __init__(
        self,
        path: PathLike,
        kind: str,
        identity: Mapping[str, object],
        settings: Mapping[str, object] | None = None,
        first: Callable[[], object] = lambda: None,
    ) -> None:
        self.path, self.settings, self.first = Path(path), settings, first
        self.identity: Json = {"format": FORMAT, "kind": kind, **identity}
        self.begun: Callable[[], bool] = lambda: True
        self._lock = Lock(self.path)
        self._before: set[Path] | None = None  # what was there when this made it a run

    def __enter__(self) -> Self:
        ranks = current()
        ranks.same(json.dumps(self.identity, sort_keys=True), "what they are to do")
        ranks.lead(self._open)
        return self

    def _open(self) -> None:
        before = {place for place in (self.path, *self.path.parents) if place.exists()}
        before.update(self.path.iterdir() if self.path.is_dir() else ())
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        try:
            sweep(self.path)
            if not (self.path / RECORD).exists():
                self._before = before
            self._claim()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failed: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(failed, SpaceError) and not self.begun():
            self._take_back()
        self._lock.release()

    def _take_back(self) -> None:
        """Remove what a run wrote, and folders that are empty then: others may have files here."""
        if self._before is None:
            return
        for place in (place for pattern in WRITTEN for place in self.path.glob(pattern)):
            if self.path / place.relative_to(self.path).parts[0] not in self._before:
                with suppress(OSError):
                    if place.is_dir() and not place.is_symlink():
                        place.rmdir()
                    else:
                        place.unlink()
        with suppress(OSError):  # what is not empty stays, and so does all above it
            for place in (self.path, *self.path.parents):
                if place not in self._before:
                    place.rmdir()

    def _claim(self) -> None:
        place = self.path / RECORD
        wanted = cast(Json, json.loads(json.dumps(self.identity)))
        if not place.exists():
            self._keep()  # so that every run has them
            self.first()
            text = json.dumps({**wanted, "made_with": environment()}, indent=2) + "\n"
            atomic_write(place, text)
            return
        found = read_record(self.path)
        found.pop("made_with", None)
        differing = [n for n in sorted({*found, *wanted}) if found.get(n) != wanted.get(n)]
        if differing:
            rows = [row for name in differing for row in _rows(name, found, wanted)]
            raise SpaceError(
                error("SP702", f"{self.path}: the folder holds another run")
                .note(*rows)
                .hint("choose another folder, or repeat the settings it was made with")
            )
        self._keep()
        self.first()

    def _keep(self) -> None:
        place = self.path / SETTINGS
        if self.settings is None:
            return
        known: Json | None = None
        given = dict(self.settings)
        if place.exists():
            given = {n: v for n, v in given.items() if n in RENEWED}
            try:
                known = read_object(place) if given else {}
            except ValueError as problem:
                raise SpaceError(error("SP702", f"{place}: cannot be read: {problem}")) from problem
        fresh = {**(known or {}), **given}
        if fresh != known:
            atomic_write(place, json.dumps(fresh) + "\n")


def read_record(folder: PathLike) -> Json:
    """What `run.json` of a folder says (SP702 if there is none, or it cannot be read)."""
    place = Path(folder) / RECORD
    try:
        found = read_object(place)
    except FileNotFoundError as missing:
        raise SpaceError(error("SP702", f"{folder}: no run ({RECORD} is missing)")) from missing
    except ValueError as problem:
        raise SpaceError(error("SP702", f"{place}: cannot be read: {problem}")) from problem
    if found.get("format") != FORMAT:
        raise SpaceError(error("SP702", f"{place}: not a run of this version"))
    return found


def part(record: Json, name: str, kind: type[Part]) -> Part:
    """An entry of a record, of its type (SP702 if it is not)."""
    found = record.get(name)
    if not isinstance(found, kind):
        raise SpaceError(error("SP702", f"the record of the run has {found!r} for {name}"))
    return found


def write_graph(folder: Path, graph: Graph) -> None:
    """Keep the graph that a run is of beside its record."""
    if current().first:
        atomic_write(folder / GRAPH, stored(graph))


def write_json(path: Path, content: Mapping[str, object], indent: int = 1) -> None:
    """Write an object to a file of a run; of processes that run together the first does it."""
    if current().first:
        atomic_write(path, json.dumps(dict(content), indent=indent, allow_nan=False) + "\n")


def read_graph(folder: PathLike) -> Graph:
    """The graph that a run is of (SP702 if it is not there, VerificationError if it is not the one
    of `run.json`)."""
    place = Path(folder) / GRAPH
    wanted = read_record(folder).get("graph")
    try:
        if place.stat().st_size > MAX_GRAPH:
            raise ValueError(f"it is larger than {MAX_GRAPH >> 20} MiB")
        text = place.read_text("utf-8")
    except (OSError, ValueError) as problem:
        raise SpaceError(error("SP702", f"{place}: cannot be read: {problem}")) from problem
    graph = read(Source(str(place), text))
    if graph.hash != wanted:
        raise unverified(f"{place} is not the graph that the run is of")
    return graph


def environment() -> Json:
    """What may change the last digits of a result, and who made it."""
    return {
        "spacelang": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def preflight(folder: Path, needed: int) -> None:
    """OSError(ENOSPC) where the disk has fewer than `needed` bytes: now, not after an epoch."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        message = f"{needed:,} bytes are needed, {free:,} are free"
        raise OSError(errno.ENOSPC, message, os.fspath(folder))


def _rows(name: str, found: Json, wanted: Json) -> list[str]:
    """What differs under a name; of two objects, the entries that do."""
    before, now = found.get(name), wanted.get(name)
    if isinstance(before, dict) and isinstance(now, dict):
        inner = cast(Json, before), cast(Json, now)
        names = [n for n in sorted({*inner[0], *inner[1]}) if inner[0].get(n) != inner[1].get(n)]
        return [f"{name}.{n}: {inner[0].get(n)} there, {inner[1].get(n)} here" for n in names]
    return [f"{name}: {before} there, {now} here"]


class Log:
    """The lines of `log.jsonl`; those after step `taken` belong to a lost end and are cut off.

    Each new line is also told to the `followers`.
    """

    def __init__(
        self, folder: Path, taken: int, followers: Sequence[Callable[[Json], None]] = ()
    ) -> None:
        self._folder, self._followers = folder, followers
        self.entries = [e for e in read_log(folder) if cast(int, e["step"]) <= taken]

    def add(self, entry: Json) -> None:
        """Add a line: `step` (how many were taken), `epoch` (from 1), `loss`, and what else."""
        self.entries.append(entry)
        self._write()
        for follow in self._followers:
            follow(entry)

    def _write(self) -> None:
        if not current().first:
            return
        lines = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in self.entries)
        atomic_write(self._folder / LOG, lines)
        columns = list(dict.fromkeys(name for entry in self.entries for name in entry))
        table = io.StringIO()
        rows = csv.DictWriter(table, columns, lineterminator="\n")
        rows.writeheader()
        rows.writerows(self.entries)
        atomic_write(self._folder / SUMMARY, table.getvalue())


def read_log(folder: PathLike) -> list[Json]:
    """The lines of a log, none where there is no file (SP702 if one cannot be read)."""
    place = Path(folder) / LOG
    try:
        lines = place.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    entries: list[Json] = []
    for number, line in enumerate(lines, 1):
        try:
            entry: object = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        known = isinstance(entry, dict) and all(
            type(cast(Json, entry).get(name)) is kind for name, kind in _COLUMNS.items()
        )
        if not known:
            found = error("SP702", f"{place}: line {number} cannot be read")
            raise SpaceError(found.hint(f"restore it from a copy; {SUMMARY} has the same figures"))
        entries.append(cast(Json, entry))
    return entries
