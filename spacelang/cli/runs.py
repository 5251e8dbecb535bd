"""Run folders, and the work that a backend does for the commands, by name.

RUN/run.json, graph.spaceir     what is trained, without its source
RUN/settings.json               where the images are
RUN/images.json                 how they are given to the network, and their classes
RUN/checkpoint-*, log.jsonl     the training
RUN/search/                     scores, and what each engine found
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import click

from spacelang import plugins
from spacelang.cli.artifact import read_artifact, read_graph
from spacelang.diagnostics import SpaceError, error
from spacelang.files import atomic_write
from spacelang.manifest import GRAPH, read_object, unverified

if TYPE_CHECKING:
    from spacelang.ir.graph import Graph

RECORD, SETTINGS, SEARCH, STORE = "run.json", "settings.json", "search", "store.json"
IMAGES = "images.json"
Json = dict[str, object]
# What settings.json may hold; what it lacks was not given.
KEPT: Mapping[str, tuple[type, ...]] = MappingProxyType(
    dict.fromkeys(("data", "store", "on_bad", "aug", "teacher_norm", "run", "student"), (str,))
    | dict.fromkeys(("teacher", "teacher_arch", "teacher_weights"), (str, list))
    | {"student_weights": (str,)}
    | dict.fromkeys(("image", "channels", "epochs", "k", "seed"), (int,))
    | {"temperature": (float, int), "teacher_untrained": (bool,), "baselines": (bool,)}
    | {"keep": (int,), "on_nan": (str,)}
)
# Those of them that are paths, where they name what is there; of `data` its names come first.
PLACES = frozenset(
    ("store", "teacher", "teacher_arch", "teacher_weights", "student_weights", "run")
)


def work(backend: str, name: str) -> Callable[..., Any]:
    """What a backend does for a command (SP604 where it does not do that)."""
    full, known = f"{backend}.{name}", plugins.table("spacelang.commands")
    if full not in known:
        plugins.load("spacelang.backends", backend)  # SP604 where there is none
        found = error("SP604", f"the backend {backend} does not do the work of {name}")
        able = sorted(work.partition(".")[0] for work in known if work.endswith(f".{name}"))
        raise SpaceError(found.note(f"done by: {', '.join(able) or 'none'}"))
    return plugins.load("spacelang.commands", full)


def is_run(folder: Path) -> bool:
    """Whether a folder holds a training."""
    return all(os.path.isfile(folder / name) for name in (RECORD, GRAPH))


def is_begun(folder: Path) -> bool:
    """Whether a folder holds a training, if only of a module, which has no graph."""
    return os.path.isfile(folder / RECORD)


def is_store(folder: Path) -> bool:
    """Whether a folder holds stored outputs of a teacher."""
    return os.path.isfile(folder / STORE)


def graph_of(folder: Path) -> Graph:
    """The graph of an artifact or of a run, its hash checked."""
    return run_graph(folder) if is_run(folder) else read_artifact(folder).graph


def run_graph(folder: Path) -> Graph:
    """The graph of a run (SP702 where there is none, VerificationError where it was changed)."""
    if not is_run(folder):
        found = error("SP702", f"{folder} is no run")
        raise SpaceError(found.hint("`spacelang train SPACE -o RUN` makes one"))
    wanted = record_of(folder).get("graph")
    graph = read_graph(folder / GRAPH)
    if graph.hash != wanted:
        raise unverified(f"{folder / GRAPH} is not the graph that the run is of")
    return graph


def record_of(folder: Path) -> Json:
    """What a run says of itself."""
    return _read(folder / RECORD)


def images_of(folder: Path) -> Json:
    """How images are given to the networks of a run, by name; empty where nothing is said of it."""
    place = folder / IMAGES
    return {"images": _read(place)} if is_run(folder) and place.is_file() else {}


def number_in(record: Json, name: str) -> int:
    """A whole number of a record, 0 where it says none (SP702 for what is no such number)."""
    found = record.get(name, 0)
    if type(found) is not int or found < 0:
        shown = json.dumps(found)[:40]
        raise SpaceError(error("SP702", f"the record of the run has {shown} for {name}"))
    return found


def settings_for(backend: str, spec: str, **more: object) -> Json:
    """What a run keeps, so that later commands need not be told again: where its images are.

    `more` are settings that its record leaves out, as the folder of a teacher.
    """
    named = work(backend, "named")(spec)
    given = {"data": _rooted(spec) if named else _absolute(spec)}
    given |= {n: _absolute(value) if n in PLACES else value for n, value in more.items()}
    # What came by stdin is not there again.
    return {n: value for n, value in given.items() if value not in (None, "-")}


def keep(folder: Path, given: Mapping[str, object]) -> None:
    """Keep how a folder is made, in place of what was kept of that."""
    atomic_write(folder / SETTINGS, json.dumps(dict(given)) + "\n")


def kept(folder: Path) -> Json:
    """How a folder was made, as far as that was kept (SP702 for what is no such setting)."""
    place = folder / SETTINGS
    found = _read(place) if place.is_file() else {}
    for name, value in found.items():
        if name in KEPT and not _is_one(value, KEPT[name]):
            told = error("SP702", f"{place} cannot be read: {name} is {json.dumps(value)[:40]}")
            raise SpaceError(told.hint("mend it, or remove it and say again what it held"))
    return found


def _is_one(value: object, kinds: tuple[type, ...]) -> bool:
    """Whether a value is of one of these types, a list one of texts."""
    if isinstance(value, list):
        return list in kinds and all(type(p) is str for p in cast("list[object]", value))
    return type(value) in kinds


def _absolute(value: object) -> object:
    """A path that is there, from wherever a later command is called; all else as it is."""
    if isinstance(value, str):
        return os.path.abspath(value) if os.path.exists(value) else value
    if isinstance(value, list):  # of several teachers
        return [_absolute(part) for part in cast("list[object]", value)]
    return value


def _rooted(spec: str) -> str:
    """The name of a data set, its `root=DIR` from wherever a later command is called."""
    words = (word.partition("root=") for word in spec.split(" "))
    return " ".join(n + (r and r + (p if n else os.path.abspath(p))) for n, r, p in words)


def data_of(folder: Path) -> str:
    """The data set that a run was trained on, by name or path (UsageError if unknown)."""
    found: object = None
    if (folder / SETTINGS).is_file():
        found = kept(folder).get("data")
    elif is_run(folder):
        about = record_of(folder).get("data")
        found = cast(Json, about).get("name") if isinstance(about, dict) else None
    if not isinstance(found, str):
        raise click.UsageError("--data is missing: a data set, as mnist5k or a folder of images")
    return found


def _read(path: Path) -> Json:
    try:
        return read_object(path)
    except ValueError as failed:
        raise SpaceError(error("SP702", f"{path} cannot be read: {failed}")) from failed


def data_for(backend: str, spec: str, graph: Graph) -> Any:
    """A data set; crops and images of files are brought to the size that the network takes."""
    read = work(backend, "data")
    if work(backend, "named")(spec) and not work(backend, "scales")(spec):
        return read(spec)
    shape = [size.constant for size in graph.root.inputs[0].types[0].shape[1:]]
    if len(shape) != 3 or None in shape:
        raise SpaceError(error("SP704", f"{graph.name} does not take images [B, C, H, W]"))
    channels, height, width = (int(cast(int, size)) for size in shape)
    return read(spec, size=(height, width), channels=channels)


def data_of_size(backend: str, spec: str, side: int | None, channels: int | None) -> Any:
    """A data set for a network that does not say what it takes."""
    read = work(backend, "data")
    if work(backend, "named")(spec) and not work(backend, "scales")(spec):
        return read(spec)
    return read(spec, size=side, channels=channels)


@contextmanager
def together(backend: str, device: str, style: str) -> Generator[tuple[Any, bool]]:
    """The reporter of a run, and whether this is the process that speaks, of those of torchrun."""
    with work(backend, "together")(device) as ranks:
        style = style if ranks.first else "quiet"
        with work(backend, "progress")(style) as told:
            yield told, ranks.first


def alone(what: str) -> None:
    """SP708 where torchrun started several processes for what one does."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        found = error("SP708", f"{what} runs in one process")
        raise SpaceError(found.hint("start it without torchrun"))


def data(function: Callable[..., Any]) -> Callable[..., Any]:
    """--data"""
    return click.option(
        "--data",
        metavar="DATA",
        help="A data set by name, a folder of class folders, .npz, 'timm:NAME root=DIR'.",
    )(function)


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
    """--backend and --require-fused: the command runs within what the backend sets up, and is told
    who does the work in it."""

    @click.option("--backend", default="torch", show_default=True,
                  help="torch; fused: the same, attention and MLPs as one function each;"
                  " triton: with kernels where they fit.")  # fmt: skip
    @click.option("--require-fused", is_flag=True,
                  help="With --backend triton: what cannot run fused is an error.")  # fmt: skip
    @wraps(function)
    def run(*arguments: Any, backend: str, require_fused: bool, **others: Any) -> Any:
        with using(backend, require_fused) as worker:
            return function(*arguments, backend=worker, **others)

    return run


def plain_backend(function: Callable[..., Any]) -> Callable[..., Any]:
    """--backend, where its results have to be those of no fused kernels (SP604 for one of them)."""

    @click.option("--backend", default="torch", show_default=True, help="Who does the work.")
    @wraps(function)
    def run(*arguments: Any, backend: str, **others: Any) -> Any:
        if f"{backend}.within" in plugins.table("spacelang.commands"):
            found = error("SP604", f"the kernels of {backend} write no store: last bits differ")
            raise SpaceError(found.hint("leave --backend out"))
        return function(*arguments, backend=backend, **others)

    return run


@contextmanager
def using(backend: str, required: bool) -> Generator[str]:
    """Who does the work of a backend, within what it sets up for that (UsageError if it cannot be
    required to fuse)."""
    name = f"{backend}.within"
    if name in plugins.table("spacelang.commands"):
        with plugins.load("spacelang.commands", name)(required) as worker:
            yield worker
        return
    if required:
        raise click.UsageError(f"--require-fused needs a backend that fuses, not {backend}")
    yield backend
