"""An append-only log that survives a crash: one JSON object a line, each line with a checksum.

    {"check":"5f0c...","previous":"91ab...","entry":{"epoch":3,"loss":0.41}}

`check` is the BLAKE2b (16 bytes) of `previous` and the entry's text; `previous` is the check of
the line before, so a flipped bit, a lost line and two swapped lines are all seen. A line counts
once it is whole and synced: a torn last line, the mark of a crash, is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from spacelang.files import PathLike, explained, sync_folder, write_all

Entry = dict[str, object]

_START = "0" * 32  # the `previous` of the first line
_LINE = re.compile(rb'\{"check":"([0-9a-f]{32})","previous":"([0-9a-f]{32})","entry":(.*)\}')


class JournalError(Exception):
    """A journal is damaged in the middle, which no crash does; `lines` are the line numbers."""

    def __init__(self, path: Path, lines: tuple[int, ...]) -> None:
        super().__init__(f"{path}: damaged at line {', '.join(map(str, lines))}")
        self.path, self.lines = path, lines


@dataclass(frozen=True, slots=True)
class JournalContent:
    """What a journal holds: its good entries, and what is wrong with the rest."""

    entries: tuple[Entry, ...]
    torn: bool  # a last line was cut off and is not among the entries
    damaged: tuple[int, ...]  # numbers (from 1) of other lines that do not match their checksum
    size: int  # bytes up to the torn line
    last_check: str


def read_journal(path: PathLike, *, salvage: bool = False) -> JournalContent:
    """Read a journal that may be growing; a missing file is an empty one.

    Damage before the last line raises JournalError; with `salvage` the good lines are returned
    and the others listed.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    lines = content.split(b"\n")
    unfinished = lines.pop()  # empty where the file ends in a newline
    entries: list[Entry] = []
    damaged: list[int] = []
    check, known = _START, True
    torn, size = bool(unfinished), len(content) - len(unfinished)
    for number, line in enumerate(lines, 1):
        parsed = _parse(line)
        if parsed is None:
            if number == len(lines) and not unfinished:
                torn, size = True, size - len(line) - 1
            else:
                damaged.append(number)
                known = False
            continue
        if known and parsed.previous != check:
            damaged.append(number)
        entries.append(parsed.entry)
        check, known = parsed.check, True
    if damaged and not salvage:
        raise JournalError(path, tuple(damaged))
    return JournalContent(tuple(entries), torn, tuple(damaged), size, check)


class Journal:
    """A journal open for appending; `entries` are those found at the start, none after.

    Opening drops a torn last line from the file; damage before it raises JournalError and changes
    nothing. One writer at a time: hold the folder's Lock.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        content = read_journal(self.path)
        self.entries = content.entries
        self.torn = content.torn
        self._check, self._size = content.last_check, content.size
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o666)
        self._dirty = content.torn
        try:
            self._rewind()
            sync_folder(self.path.parent)
        except BaseException:
            self.close()
            raise

    def append(self, entry: Mapping[str, object]) -> None:
        """Add one entry; when this returns it is on disk.

        On an OSError the journal is as before and a later append may succeed. What JSON cannot
        hold (an infinity, a set) raises ValueError or TypeError before anything is written.
        """
        line, check = format_entry(entry, self._check)
        try:
            self._rewind()
            self._dirty = True  # from here to the end of the sync, a part of it may be in the file
            write_all(self._descriptor, line)
            os.fsync(self._descriptor)
        except OSError as error:
            with suppress(OSError):  # if this fails too, the next append begins with it
                self._rewind()
            raise explained(error, f"cannot append {len(line):,} bytes", self.path) from error
        self._dirty = False
        self._size += len(line)
        self._check = check

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _rewind(self) -> None:
        """Cut off what an unfinished append left."""
        if self._dirty:
            os.ftruncate(self._descriptor, self._size)
            os.fsync(self._descriptor)
            self._dirty = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class ReadJournal(Journal):
    """A journal that another process writes to: the entries found at the start, and no more."""

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        content = read_journal(self.path)
        self.entries, self.torn = content.entries, content.torn
        self._descriptor = -1

    def append(self, entry: Mapping[str, object]) -> None:
        """Nothing: the other process adds it."""


def format_journal(entries: tuple[Mapping[str, object], ...]) -> bytes:
    """The bytes of a journal that holds exactly these entries."""
    lines: list[bytes] = []
    check = _START
    for entry in entries:
        line, check = format_entry(entry, check)
        lines.append(line)
    return b"".join(lines)


def format_entry(entry: Mapping[str, object], previous: str) -> tuple[bytes, str]:
    """One line and its check, after a line whose check is `previous`."""
    payload = json.dumps(dict(entry), allow_nan=False, separators=(",", ":")).encode()
    check = _check(previous.encode(), payload)
    prefix = f'{{"check":"{check}","previous":"{previous}","entry":'.encode()
    return prefix + payload + b"}\n", check


@dataclass(frozen=True, slots=True)
class _Line:
    check: str
    previous: str
    entry: Entry


def _parse(line: bytes) -> _Line | None:
    match = _LINE.fullmatch(line)
    if match is None or _check(match[2], match[3]) != match[1].decode():
        return None
    try:
        entry: object = json.loads(match[3])
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    return _Line(match[1].decode(), match[2].decode(), cast(Entry, entry))


def _check(previous: bytes, payload: bytes) -> str:
    return hashlib.blake2b(previous + payload, digest_size=16).hexdigest()
