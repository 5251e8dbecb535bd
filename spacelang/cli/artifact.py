"""An artifact: a folder with a compiled space, proved by hashes before it is used.

    graph.spaceir      the graph, exactly
    manifest.json      {"kind": "artifact", "graph": <digest>, "files": {"graph.spaceir": {..}}, ..}

Nothing in it depends on when or where it was made, so the same input gives the same bytes.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from spacelang import __version__
from spacelang.cli.errors import unverified
from spacelang.diagnostics import Source, SpaceError, error
from spacelang.files import atomic_folder, sha256
from spacelang.render import visible

if TYPE_CHECKING:
    from spacelang.ir.graph import Graph

KIND, FORMAT = "artifact", 1
MANIFEST, GRAPH = "manifest.json", "graph.spaceir"
MAX_MANIFEST = 1 << 20
MAX_GRAPH = 256 << 20


@dataclass(frozen=True)
class Artifact:
    """What a checked folder holds."""

    folder: Path
    manifest: Mapping[str, object]
    graph: Graph


def kind_of(folder: Path) -> object:
    """What a folder says that it is: `artifact`, `subnet`, or None where it says nothing."""
    try:
        return _manifest(folder).get("kind")
    except SpaceError:
        return None


def changed_files(folder: Path) -> list[str]:
    """The files of a folder that are not as its manifest says, a line each (SP702)."""
    return differences(folder, _manifest(folder))


def write_artifact(
    folder: Path, graph: Graph, record: Mapping[str, object], more: Mapping[str, str | bytes]
) -> Mapping[str, object]:
    """Write a folder at once; `more` are further files, by name. The manifest comes back.

    FileExistsError where the folder holds anything that is no artifact.
    """
    from spacelang.ir.text import VERSION, write

    if folder.is_dir() and any(folder.iterdir()) and kind_of(folder) != KIND:
        message = "the folder is not empty and no artifact, so it is not replaced"
        raise FileExistsError(errno.EEXIST, message, str(folder))
    with atomic_folder(folder) as made:
        for name, content in {GRAPH: write(graph), **more}.items():
            (made / name).write_bytes(content.encode() if isinstance(content, str) else content)
        manifest = {
            "kind": KIND,
            "format": FORMAT,
            "versions": {"spacelang": __version__, "spaceir": VERSION},
            "name": graph.name,
            "graph": graph.hash,
            **record,
            "files": _hashes(made),
        }
        text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
        (made / MANIFEST).write_text(text, "utf-8")
    return manifest


def read_artifact(folder: Path) -> Artifact:
    """The graph of an artifact, after every hash was checked.

    SP702 where the folder is no artifact; VerificationError where it is not as it was written.
    """
    manifest = _manifest(folder)
    if manifest.get("kind") != KIND:
        raise _unusable(folder, f"its {MANIFEST} is not that of an artifact")
    if manifest.get("format") != FORMAT:
        raise _unusable(folder, f"it has format {manifest.get('format')!r}, not {FORMAT}")
    wrong = differences(folder, manifest, GRAPH)
    if wrong:
        hint = "compile it again, or restore the folder"
        raise unverified(f"{folder} is not as it was written", *wrong, hint=hint)
    graph = read_graph(folder / GRAPH)
    if graph.hash != manifest.get("graph"):
        raise unverified(f"the graph of {folder} has another hash than its manifest says")
    return Artifact(folder, manifest, graph)


def read_graph(path: Path) -> Graph:
    """The graph of a file of IR text (SP702 where it is too large, SP603 where it is none)."""
    from spacelang.syntax.ir_text import read

    if path.stat().st_size > MAX_GRAPH:
        raise _unusable(path.parent, f"{GRAPH} is larger than {MAX_GRAPH >> 20} MiB")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as failed:
        raise _unusable(path.parent, f"{GRAPH} is no text: {failed}") from failed
    return read(Source(str(path), text))


def differences(folder: Path, manifest: Mapping[str, object], needed: str = "") -> list[str]:
    """What is not as the manifest says, a line a file; `needed` is one that it must list."""
    listed = manifest.get("files")
    if not isinstance(listed, dict) or (needed and needed not in listed):
        return [f"{MANIFEST} lists no {needed or 'files'}"]
    wrong: list[str] = []
    for name, record in cast("dict[str, object]", listed).items():
        path = folder / name
        if Path(name).name != name or not path.is_file() or path.is_symlink():
            wrong.append(f"{name} is missing")
            continue
        entry = cast("dict[str, object]", record) if isinstance(record, dict) else {}
        if path.stat().st_size != entry.get("size") or sha256(path) != entry.get("sha256"):
            wrong.append(f"{name} was changed")
    return wrong


def _hashes(folder: Path) -> dict[str, object]:
    return {
        path.name: {"sha256": sha256(path), "size": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }


def _manifest(folder: Path) -> Mapping[str, object]:
    path = folder / MANIFEST
    try:
        if not path.is_file() or path.stat().st_size > MAX_MANIFEST:
            raise _unusable(folder, f"it has no {MANIFEST}")
        data: object = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as failed:
        raise _unusable(folder, f"its {MANIFEST} cannot be read: {failed}") from failed
    if not isinstance(data, dict):
        raise _unusable(folder, f"its {MANIFEST} is no JSON object")
    return cast("Mapping[str, object]", data)


def _unusable(folder: Path, reason: str) -> SpaceError:
    found = error("SP702", f"{visible(str(folder))} cannot be used: {reason}")
    return SpaceError(found.hint("`spacelang compile SPACE -o DIR` writes an artifact"))
