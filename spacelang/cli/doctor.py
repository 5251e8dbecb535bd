"""`doctor`: is everything in a run or artifact folder as it was written?"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

import click
from click.exceptions import Exit

from spacelang.cli import options, runs
from spacelang.cli.errors import UNVERIFIED
from spacelang.cli.output import emit, say, working
from spacelang.diagnostics import SpaceError, error
from spacelang.files import MARKER, sha256
from spacelang.journal import read_journal
from spacelang.manifest import GRAPH, MANIFEST, read_object

State = Literal["ok", "missing", "changed", "damaged", "torn"]
# A torn last line is what a killed process leaves, and is dropped by the next one.
GOOD: frozenset[State] = frozenset(("ok", "torn"))
JOURNALS = "*.jsonl"
JOURNALS_OF_RUNS = ("manifest.jsonl", "scores.jsonl")
LOG = "log.jsonl"
EPOCH: Mapping[str, type] = MappingProxyType({"step": int, "epoch": int, "loss": float})
CHECKED = b'{"check":"'
# Of files that nothing says a hash of: in a folder with a manifest, and in that of a run.
NOWHERE = UNLISTED, UNRECORDED = ("not listed", "not recorded")


@dataclass(frozen=True)
class Finding:
    """The state of one file, and where it is recorded."""

    file: str
    state: State
    note: str = ""


@click.command(short_help="Verify every hash of a run or artifact folder.")
@click.argument("folder", metavar="RUN")
@options.as_json
def doctor(folder: str, as_json: bool) -> None:
    """Compare every file of a run or artifact folder with the hash that is recorded for it.

    Nothing is changed. Exit 5: something is missing, changed or damaged.
    """
    with working("verifying"):
        found = list(examined(Path(folder)))
    if all(finding.note in NOWHERE for finding in found):
        raise SpaceError(
            error("SP702", f"{folder} holds no record of hashes").hint(
                "name a folder that `compile`, `train`, `search` or `extract` wrote"
            )
        )
    good = all(finding.state in GOOD for finding in found)
    if as_json:
        rows = [{"file": f.file, "state": f.state, "note": f.note} for f in found]
        emit({"folder": folder, "files": rows, "ok": good})
    else:
        for finding in found:
            note = f"  ({finding.note})" if finding.note else ""
            say(f"{finding.state:<8}  {finding.file}{note}")
        others = sum(finding.note in NOWHERE for finding in found)
        more = f", and {others} of which no hash is recorded" if others else ""
        say(f"{len(found) - others} files, all as written{more}" if good else "NOT as written")
    if not good:
        raise Exit(UNVERIFIED)


def examined(folder: Path) -> Iterator[Finding]:
    """The state of every recorded file below a folder, and what else its runs have kept (SP702
    where it is no folder)."""
    if not folder.is_dir():
        raise SpaceError(error("SP702", f"{folder} is no folder"))
    for place, folders, _ in os.walk(folder):
        folders.sort()
        here = Path(place)
        if runs.is_store(here):
            yield from _of_store(here, folder)
            folders.clear()
            continue
        found = list(_of_folder(here, folder))
        yield from found
        if runs.is_begun(here):
            yield from _rest(here, folder, {finding.file for finding in found}, UNRECORDED)


def _of_folder(here: Path, folder: Path) -> Iterator[Finding]:
    """The recorded files of one folder."""
    if (here / MANIFEST).is_file():
        yield from _of_manifest(here, folder)
    if runs.is_run(here):
        yield _of_run(here, folder)
        yield from _of_log(here / LOG, folder)
    for journal in sorted(here.glob(JOURNALS)):
        if journal.is_file() and _has_checks(journal):
            yield from _of_journal(journal, folder)


def _rest(here: Path, folder: Path, known: Collection[str], note: str) -> Iterator[Finding]:
    """The files that stand in no record: they are there, and that is all that is known."""
    for path in sorted(here.iterdir()):
        shown = os.path.relpath(path, folder)
        if path.is_file() and shown not in known and not path.name.startswith("."):
            yield Finding(shown, "ok", note)


def _has_checks(path: Path) -> bool:
    """Whether a log has a checksum a line; a plain one is for reading, and says nothing here."""
    with path.open("rb") as file:
        return file.read(len(CHECKED)) == CHECKED or path.name in JOURNALS_OF_RUNS


def _of_manifest(here: Path, folder: Path) -> Iterator[Finding]:
    """The files that `manifest.json` lists: name -> {sha256, size}, or name -> sha256."""
    shown = str((here / MANIFEST).relative_to(folder))
    try:
        listed = dict(cast("Mapping[str, object]", read_object(here / MANIFEST)["files"]))
    except (ValueError, TypeError, KeyError) as failed:
        yield Finding(shown, "damaged", f"unreadable: {failed}")
        return
    yield Finding(shown, "ok", f"lists {len(listed)} files")
    for name, record in listed.items():
        if Path(name).name != name:
            yield Finding(name, "damaged", "the record leads out of the folder itself")
            continue
        full = isinstance(record, dict)
        wanted = cast("Mapping[str, object]", record).get("sha256") if full else record
        yield _compared(here / name, wanted, folder)
    expected = (here / name for name in (MANIFEST, MARKER, *listed))
    yield from _rest(here, folder, {os.path.relpath(p, folder) for p in expected}, UNLISTED)


def _of_run(here: Path, folder: Path) -> Finding:
    """The graph of a training, against what the run says it is of."""
    shown = os.path.relpath(here / GRAPH, folder)
    try:
        runs.run_graph(here)
    except SpaceError as failed:
        return Finding(shown, "changed", failed.diagnostics[0].headline)
    return Finding(shown, "ok", "the graph of the run")


def _of_log(log: Path, folder: Path) -> Iterator[Finding]:
    """The log of a training, whose lines have no checksums: whether they are lines of one."""
    if not log.is_file():
        return
    lines = log.read_bytes().splitlines()
    wrong = [str(number) for number, line in enumerate(lines, 1) if not _is_epoch(line)]
    note = f"{len(lines)} lines" + (f", damaged at {', '.join(wrong)}" if wrong else "")
    yield Finding(os.path.relpath(log, folder), "damaged" if wrong else "ok", note)


def _is_epoch(line: bytes) -> bool:
    """Whether a line says of an epoch what every one says."""
    try:
        entry: object = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if not isinstance(entry, dict):
        return False
    known = cast("Mapping[str, object]", entry)
    return all(type(known.get(name)) is kind for name, kind in EPOCH.items())


def _of_store(here: Path, folder: Path) -> Iterator[Finding]:
    """The epochs of a store of a teacher's outputs, every record of them."""
    shown = os.path.relpath(here / runs.STORE, folder)
    try:
        found: Mapping[str, list[str]] = runs.work("torch", "store_verify")(str(here), None)
    except SpaceError as failed:
        yield Finding(shown, "damaged", failed.diagnostics[0].headline)
        return
    yield Finding(shown, "ok", f"{len(found)} epochs")
    for name, wrong in found.items():
        note = (
            wrong[0] + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else "") if wrong else ""
        )
        yield Finding(os.path.relpath(here / name, folder), "damaged" if wrong else "ok", note)


def _of_journal(journal: Path, folder: Path) -> Iterator[Finding]:
    """A log with a checksum a line, and the files that its lines record; older ones may be gone."""
    content = read_journal(journal, salvage=True)
    lines = f"{len(content.entries)} lines"
    shown = str(journal.relative_to(folder))
    if content.damaged:
        numbers = ", ".join(map(str, content.damaged))
        yield Finding(shown, "damaged", f"{lines}, damaged at {numbers}")
    else:
        yield Finding(shown, "torn" if content.torn else "ok", lines)
    recorded = [entry for entry in content.entries if {"file", "sha256"} <= entry.keys()]
    for entry in recorded:
        path = journal.parent / str(entry["file"])
        if os.path.isfile(path) or entry is recorded[-1]:
            yield _compared(path, entry["sha256"], folder)
    state = recorded[-1].get("state") if recorded else None
    wanted = cast("Mapping[str, object]", state).get("run") if isinstance(state, dict) else None
    if wanted is not None:
        yield _compared(journal.parent / runs.RECORD, wanted, folder)


def _compared(path: Path, wanted: object, folder: Path) -> Finding:
    shown = os.path.relpath(path, folder)
    try:
        inside, there = path.resolve().is_relative_to(folder.resolve()), path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, links in a circle
        return Finding(shown, "damaged", "the record names what can be no file")
    if not inside:
        return Finding(shown, "damaged", "the record leads out of the folder")
    if not there:
        return Finding(shown, "missing")
    return Finding(shown, "ok" if sha256(path) == wanted else "changed")
