"""A program as files: the graphs of its networks, and what they share.

write_program(run / "program", program)
program = read_program(run / "program")

program/manifest.json      {"kind": "program", "name": .., "files": {"deep.spaceir": {..}}, ..}
program/deep.spaceir       each network, and the pool
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from spacelang.diagnostics import Source, SpaceError, error
from spacelang.files import atomic_folder, sha256
from spacelang.ir.graph import Graph
from spacelang.ir.program import Pool, Program
from spacelang.ir.text import stored
from spacelang.manifest import MANIFEST, MAX_GRAPH, read_object, unverified
from spacelang.manifest import hashes as files_of
from spacelang.syntax.ir_text import read
from spacelang.syntax.programs import edges, stands

KIND = "program"


def hashes(program: Program) -> dict[str, str]:
    """The hash of every graph of a program, by name."""
    pool = {} if program.pool is None else {program.pool.name: program.pool.graph}
    return {name: graph.hash for name, graph in {**program.networks, **pool}.items()}


def write_program(folder: Path, program: Program) -> None:
    """Write a folder at once; one that is there stays as it is."""
    if (folder / MANIFEST).is_file():
        return
    pool = program.pool
    graphs = {**program.networks, **({} if pool is None else {pool.name: pool.graph})}
    with atomic_folder(folder) as made:
        for name, graph in graphs.items():
            (made / f"{name}.spaceir").write_text(stored(graph), "utf-8", newline="\n")
        record = {
            "kind": KIND,
            "name": program.name,
            "networks": list(program.networks),
            "shared": {path: list(names) for path, names in program.shared.items()},
            "pool": pool and {"name": pool.name, "of": pool.of, "paths": list(pool.paths)},
            "files": files_of(made),
        }
        (made / MANIFEST).write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def read_program(folder: Path) -> Program:
    """The program of a folder (SP702 where there is none, or its files are not as written)."""
    try:
        record = cast(Mapping[str, Any], read_object(folder / MANIFEST))
        graphs = {
            name.removesuffix(".spaceir"): _graph(folder, name, about["sha256"])
            for name, about in record["files"].items()
        }
        networks = {name: graphs[name] for name in record["networks"]}
        shared = {path: tuple(names) for path, names in record["shared"].items()}
        kept = record["pool"]
        pool = kept and Pool(
            kept["name"], graphs[kept["name"]], kept["of"], networks[kept["of"]],
            tuple(kept["paths"]), stands(networks[kept["of"]]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as failed:
        found = error("SP702", f"{folder}: its program cannot be read: {failed}")
        raise SpaceError(found.hint("search the .space file again: the run goes on")) from failed
    return Program(record["name"], networks, shared, pool, edges(networks.values()))


def _graph(folder: Path, name: str, wanted: str) -> Graph:
    text = _text(folder, name)
    if sha256(folder / name) != wanted:
        raise unverified(f"{folder / name} is not as it was written")
    return read(Source(str(folder / name), text))


def _text(folder: Path, name: str) -> str:
    """A regular file of a folder, of a size that is read (ValueError)."""
    path = folder / name
    if path.name != name or not path.is_file():
        raise ValueError(f"{name} is no file of it")
    if path.stat().st_size > MAX_GRAPH:
        raise ValueError(f"{name} is larger than {MAX_GRAPH >> 20} MiB")
    return path.read_text("utf-8")
