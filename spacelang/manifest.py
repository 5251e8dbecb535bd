"""The manifest of a folder that was written whole: what it is, with the hash of every file.

    manifest = read_manifest(folder)              # {"kind": "artifact", "files": {..}, ..}
    verify(folder, manifest)                      # SP702: graph.spaceir was changed

    manifest.json      {"files": {"graph.spaceir": {"sha256": "..", "size": 120}}, ..}

What a folder holds is used only after it was compared with this.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from spacelang.diagnostics import SpaceError, VerificationError, error
from spacelang.files import check_replaceable, sha256
from spacelang.render import visible

MANIFEST, GRAPH = "manifest.json", "graph.spaceir"
MAX_MANIFEST = 1 << 20
MAX_GRAPH = 8 << 20  # of an IR text, read or written
COMPILE = "compile SPACE"


def read_object(path: Path, most: int = MAX_MANIFEST) -> dict[str, object]:
    """The JSON object of a file of at most so many bytes (ValueError says what else it is)."""
    if path.stat().st_size > most:
        raise ValueError(f"it is larger than {most >> 20} MiB")
    try:
        data: object = json.loads(path.read_bytes())
    except RecursionError as failed:
        raise ValueError("it is nested too deep") from failed
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    return cast("dict[str, object]", data)


def read_manifest(folder: Path, writer: str = COMPILE) -> Mapping[str, object]:
    """What a folder says of itself (SP702 where it says nothing that can be read); `writer` is the
    command that writes such folders."""
    path = folder / MANIFEST
    try:
        if not path.is_file():
            raise unusable(folder, f"it has no {MANIFEST}", writer)
        return read_object(path)
    except ValueError as failed:
        raise unusable(folder, f"its {MANIFEST} cannot be read: {failed}", writer) from failed


def kind_of(folder: Path) -> object:
    """What a folder says that it is: `artifact`, `subnet`, or None where it says nothing."""
    try:
        return read_manifest(folder).get("kind")
    except SpaceError:
        return None


def differences(folder: Path, manifest: Mapping[str, object], *needed: str) -> list[str]:
    """What is not as the manifest says, a line a file; `needed` are those that it must list."""
    listed = manifest.get("files")
    if not isinstance(listed, dict):
        return [f"{MANIFEST} lists no files"]
    wrong = [f"{MANIFEST} lists no {name}" for name in needed if name not in listed]
    for name, record in cast("dict[str, object]", listed).items():
        path = folder / name
        if Path(name).name != name or not os.path.isfile(path) or path.is_symlink():
            wrong.append(f"{name} is missing")
            continue
        entry = cast("dict[str, object]", record) if isinstance(record, dict) else {}
        if path.stat().st_size != entry.get("size") or sha256(path) != entry.get("sha256"):
            wrong.append(f"{name} was changed")
    return wrong


def verify(folder: Path, manifest: Mapping[str, object], *needed: str, hint: str = "") -> None:
    """VerificationError where a folder is not as its manifest says; `needed` are those that it must
    list."""
    wrong = differences(folder, manifest, *needed)
    if wrong:
        shown = f"{visible(str(folder))} is not as it was written: {wrong[0]}"
        raise unverified(shown, *wrong[1:], hint=hint)


def hashes(folder: Path) -> dict[str, object]:
    """The files of a folder as its manifest lists them."""
    return {
        path.name: {"sha256": sha256(path), "size": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }


def read_text(path: Path, most: int = MAX_GRAPH) -> str:
    """A text of at most so many bytes (SP702 where it is larger, or none)."""
    if path.stat().st_size > most:
        raise unusable(path.parent, f"{path.name} is larger than {most >> 20} MiB")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as failed:
        raise unusable(path.parent, f"{path.name} is no text: {failed}") from failed


def check_free(folder: Path, kind: str) -> None:
    """FileExistsError where a folder holds anything that is not of this kind, and ours."""
    if folder.is_dir() and any(folder.iterdir()) and kind_of(folder) != kind:
        message = f"the folder is not empty and no {kind}, so it is not replaced"
        raise FileExistsError(errno.EEXIST, message, str(folder))
    check_replaceable(folder)


def unverified(headline: str, *notes: str, hint: str = "") -> VerificationError:
    """An error about files that are not as they were written."""
    return VerificationError(error("SP702", headline).note(*notes).hint(hint))


def unusable(folder: Path, reason: str, writer: str = COMPILE) -> SpaceError:
    """SP702; the hint names the command that writes such a folder."""
    found = error("SP702", f"{visible(str(folder))} cannot be used: {reason}")
    return SpaceError(found.hint(f"`spacelang {writer} -o DIR` writes one"))
