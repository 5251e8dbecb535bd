"""Run folders as the commands lay them out, and the work that a backend does for them, by name.

RUN/space/            the artifact: what was trained, without its source
RUN/settings.json     the data, seed and recipe that `train` was given
RUN/train/            checkpoints, log
RUN/search/           scores, a result for each engine, the best architecture of each
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from spacelang import plugins
from spacelang.cli import options
from spacelang.cli.artifact import Artifact, is_artifact, read_artifact, write_artifact
from spacelang.diagnostics import SpaceError, error
from spacelang.files import atomic_write

if TYPE_CHECKING:
    from spacelang.ir.graph import Graph

SPACE, SETTINGS, TRAIN, SEARCH = "space", "settings.json", "train", "search"
MAX_SETTINGS = 1 << 20
COPIED = ("parameters", "passes", "assignment")  # of an artifact's manifest, into a run's


def work(backend: str, name: str) -> Callable[..., Any]:
    """What a backend does for a command (SP604 where it does not do that)."""
    return plugins.load("spacelang.commands", f"{backend}.{name}")


def space_of(folder: Path) -> Path:
    """The artifact that a folder is, or that a run folder holds."""
    return folder if is_artifact(folder) or not is_run(folder) else folder / SPACE


def is_run(folder: Path) -> bool:
    """Whether a folder is laid out as a run."""
    return is_artifact(folder / SPACE)


def opened(folder: str) -> Artifact:
    """The checked artifact of a run (SP702 where the folder is no run)."""
    if not is_run(Path(folder)):
        found = error("SP702", f"{folder} is no run")
        raise SpaceError(found.hint("`spacelang train SPACE -o RUN` makes one"))
    return read_artifact(Path(folder) / SPACE)


def origin(address: str, settings: Mapping[str, object]) -> Mapping[str, object]:
    """How the graph at an address came about, for the manifest of a run's artifact."""
    if os.path.isdir(address):
        return read_artifact(space_of(Path(address))).manifest
    return {"parameters": options.spelled_all(settings), "passes": "", "assignment": None}


def install(graph: Graph, run: Path, record: Mapping[str, object]) -> None:
    """Put the artifact of a graph into a run folder (SP702 where another one is there)."""
    from spacelang.ir.text import digest

    place = run / SPACE
    if is_run(run):
        held = read_artifact(place).manifest
        if held["graph"] != digest(graph):
            found = error("SP702", f"{run} is the run of another space, {held.get('name')}")
            raise SpaceError(found.hint("choose another folder with -o"))
        return
    run.mkdir(parents=True, exist_ok=True)
    kept = {name: record[name] for name in COPIED if name in record}
    write_artifact(place, graph, kept, {})


def write_settings(run: Path, settings: Mapping[str, object]) -> None:
    """Keep what `train` was given, so that later commands need not be told again."""
    atomic_write(run / SETTINGS, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def read_settings(run: Path) -> dict[str, object]:
    """What `train` was given; nothing where that is not recorded (SP702 where it is unreadable)."""
    place = run / SETTINGS
    try:
        if place.stat().st_size > MAX_SETTINGS:
            raise ValueError("it is larger than 1 MiB")
        data: object = json.loads(place.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as failed:
        raise SpaceError(error("SP702", f"{place} cannot be read: {failed}")) from failed
    if not isinstance(data, dict):
        raise SpaceError(error("SP702", f"{place} is no JSON object"))
    return cast("dict[str, object]", data)


def data_for(backend: str, spec: str, graph: Graph) -> Any:
    """A data set; images of files are brought to the size that the network takes."""
    read = work(backend, "data")
    if not os.path.exists(spec):
        return read(spec)
    shape = [size.constant for size in graph.root.inputs[0].types[0].shape[1:]]
    if len(shape) != 3 or None in shape:
        raise SpaceError(error("SP704", f"{graph.name} does not take images [B, C, H, W]"))
    channels, height, width = (int(cast(int, size)) for size in shape)
    return read(spec, size=(height, width), channels=channels)


def data_spec(spec: str) -> str:
    """A data set's name as a run keeps it: a path is made absolute."""
    return os.path.abspath(spec) if os.path.exists(spec) else spec


def device(function: Callable[..., Any]) -> Callable[..., Any]:
    """--device"""
    return click.option(
        "--device", default="cpu", show_default=True, metavar="NAME", help="cpu, cuda, cuda:1, .."
    )(function)


def progress(function: Callable[..., Any]) -> Callable[..., Any]:
    """--progress"""
    return click.option(
        "--progress",
        type=click.Choice(["auto", "json", "quiet"]),
        default="auto",
        show_default=True,
        help="On stderr: bars on a terminal and lines elsewhere, or JSON lines, or nothing.",
    )(function)


def backend(function: Callable[..., Any]) -> Callable[..., Any]:
    """--backend"""
    return click.option("--backend", default="torch", show_default=True, help="Who does the work.")(
        function
    )
