"""An artifact: a folder with a compiled space, proved by hashes before it is used.

    graph.spaceir      the graph, exactly
    manifest.json      {"kind": "artifact", "graph": <digest>, "files": {"graph.spaceir": {..}}, ..}

Nothing in it depends on when or in which folder it was made, so the same input gives the same
bytes; weights that are computed are the same bytes from the same processor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spacelang import __version__
from spacelang.diagnostics import Source
from spacelang.files import atomic_folder
from spacelang.manifest import (
    GRAPH,
    MANIFEST,
    check_free,
    hashes,
    read_manifest,
    read_text,
    unusable,
    unverified,
    verify,
)  # fmt: skip

if TYPE_CHECKING:
    from spacelang.ir.graph import Graph

KIND, FORMAT = "artifact", 1


@dataclass(frozen=True)
class Artifact:
    """What a checked folder holds."""

    folder: Path
    manifest: Mapping[str, object]
    graph: Graph


def write_artifact(
    folder: Path, graph: Graph, record: Mapping[str, object], more: Mapping[str, str | bytes]
) -> Mapping[str, object]:
    """Write a folder at once; `more` are further files, by name. The manifest comes back.

    FileExistsError where the folder holds anything that is no artifact.
    """
    from spacelang.ir.text import VERSION, stored

    check_free(folder, KIND)
    with atomic_folder(folder) as made:
        for name, content in {GRAPH: stored(graph), **more}.items():
            (made / name).write_bytes(content.encode() if isinstance(content, str) else content)
        manifest = {
            "kind": KIND,
            "format": FORMAT,
            "versions": {"spacelang": __version__, "spaceir": VERSION},
            "name": graph.name,
            "graph": graph.hash,
            **record,
            "files": hashes(made),
        }
        text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
        (made / MANIFEST).write_text(text, "utf-8")
    return manifest


def read_artifact(folder: Path) -> Artifact:
    """The graph of an artifact, after every hash was checked.

    SP702 where the folder is no artifact; VerificationError where it is not as it was written.
    """
    manifest = read_manifest(folder)
    if manifest.get("kind") != KIND:
        raise unusable(folder, f"its {MANIFEST} is not that of an artifact")
    if manifest.get("format") != FORMAT:
        raise unusable(folder, f"it has format {manifest.get('format')!r}, not {FORMAT}")
    verify(folder, manifest, GRAPH, hint="compile it again, or restore the folder")
    graph = read_graph(folder / GRAPH)
    if graph.hash != manifest.get("graph"):
        raise unverified(f"the graph of {folder} has another hash than its manifest says")
    return Artifact(folder, manifest, graph)


def read_graph(path: Path) -> Graph:
    """The graph of a file of IR text (SP702 where it is too large, SP603 where it is none)."""
    from spacelang.syntax.ir_text import read

    return read(Source(str(path), read_text(path)))
