"""`search`: engines over the weights of a run, over networks trained anew, or that train too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from spacelang.cli import options, runs
from spacelang.cli.continued import SCRATCH, continued, tell
from spacelang.cli.found import show
from spacelang.cli.output import complain
from spacelang.cli.train import recipe, recipe_file, recipe_of
from spacelang.diagnostics import SpaceError, error
from spacelang.files import atomic_write

if TYPE_CHECKING:
    from spacelang.ir.decision import Assignment
    from spacelang.ir.graph import Graph

OF_ENGINES = ("epochs", "smoothing")  # flags of training that an engine which trains has as its own
# Those that an engine for programs has not.
OF_PROGRAMS = (
    "batch_size", "aug", "amp", "channels_last", "grad_checkpointing", "shards", "reduce",
)  # fmt: skip
# How a training is kept, by what it is called there; no part of what it is.
KEPT = {"keep": "--checkpoint-hist", "on_nan": "--on-nan", "log_to": "--log"}


@click.command(short_help="Search a trained supernet, or train while searching.")
@options.space
@click.option("--engine", metavar="NAME",
              help="Who searches.  [that of DIR if SPACE is one, else evolution]")  # fmt: skip
@click.option("-s", "--setting", "texts", multiple=True, metavar="NAME=VALUE",
              help="A setting of the engine: population=50. May be repeated.")  # fmt: skip
@options.where
@click.option("--latency", metavar="TABLE.json",
              help="Of `spacelang profile`, for --where 'latency <= 5ms'.")  # fmt: skip
@click.option("--scratch", is_flag=True,
              help="Train every network anew, by the settings of training below.")  # fmt: skip
@click.option("--inherit", is_flag=True,
              help="Begin each space with the weights it shares with the last.")  # fmt: skip
@click.option("--baselines/--no-baselines", default=None,
              help="Then random search by as many scores, the largest and the smallest network."
              "  [yes; where each network is trained anew, the last two alone; of a program none,"
              " else random cells by as many epochs]")  # fmt: skip
@click.option("--data", metavar="DATA", help="The data set, if not the one it was trained on.")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), help="Of everything drawn.  [0]")
@click.option("-o", "--output", metavar="DIR", help="Where the results go.  [RUN/search]")
@click.option("--checkpoint-hist", type=click.IntRange(1, 100),
              help="Checkpoints that an engine that trains keeps.  [as begun, or 2]")  # fmt: skip
@click.option("--on-nan", type=click.Choice(["error", "skip", "rollback"]),
              help="What a step does whose loss is not finite.  [as begun, or error]")  # fmt: skip
@click.option("--log", "log_to", multiple=True, metavar="NAME",
              help="Tell its log to a tracker too, as `train` does, in this call.")  # fmt: skip
@click.option("--recipe", "file", metavar="FILE", help="Settings from a TOML file; flags win.")
@recipe
@runs.device
@runs.backend
@runs.progress
@options.as_json
def search(
    space: str,
    settings: Mapping[str, object],
    engine: str | None,
    texts: tuple[str, ...],
    where: str,
    latency: str | None,
    scratch: bool,
    inherit: bool,
    baselines: bool | None,
    data: str | None,
    seed: int | None,
    output: str | None,
    checkpoint_hist: int | None,
    on_nan: str | None,
    log_to: tuple[str, ...],
    file: str | None,
    device: str,
    backend: str,
    progress: str,
    as_json: bool,
    **flags: object,
) -> None:
    """Search the trained supernet of a run on its validation images.

    With --scratch, and by engines that share no weights (contraction), SPACE is a space or an
    artifact, and every network is trained anew by the settings of training. Engines that train
    while they search (prioritized_path, space_evolution) take a space too, and one that trains
    several networks (cyclic_differentiable) a program. All but --log is kept in DIR, and DIR alone
    goes on as it was begun.

    Settings of the engine come from the space's `search { }`, then from here. What was scored
    before is not scored again. The best architecture is written to ENGINE-best.json.
    """
    from spacelang.engines.protocol import weights_of
    from spacelang.engines.settings import GROUP, configure
    from spacelang.loader import load_hull
    from spacelang.plugins import load

    known = continued(space, output, engine)
    named, space, engine = space, known.space, known.engine
    record = runs.record_of(Path(space)) if runs.is_run(Path(space)) else {}
    weights = weights_of(load(GROUP, engine))
    if scratch and weights in ("own", "program"):
        raise click.UsageError(f"--scratch is not for {engine}, which trains while it searches")
    weights = SCRATCH if scratch else weights
    if weights == "shared" and record.get("kind") == SCRATCH:
        weights = SCRATCH
    asked_of_it: dict[str, object] = engine_settings(texts)
    asked_of_it |= {"where": where} if where else {}
    asked_of_it |= {"inherit": True} if inherit else {}
    asked_of_it |= {"latency": os.path.abspath(latency)} if latency is not None else {}
    given = {"baselines": baselines, "keep": checkpoint_hist, "on_nan": on_nan}
    followed = {"log_to": log_to} if log_to else {}
    for name, value in {**given, **followed}.items():
        if name in KEPT and value is not None and weights not in ("own", "program"):
            raise click.UsageError(f"{KEPT[name]} is for engines that train while they search")
    if baselines is None and known.begun is not None:
        baselines = known.begun.baselines
    place = runs.work(backend, "device")(device)
    if weights == "program":
        folder = _folder(space, output, weights)
        said = _said(folder, given)
        with runs.together(backend, place, progress) as (told, first):
            made = _program(space, settings, engine, asked_of_it, folder, data, seed, file, flags,
                            said, followed, backend, place, told, first)  # fmt: skip
        if first:
            show(made, named, engine, folder, as_json)
        return
    graph = runs.run_graph(Path(space)) if weights == "shared" else options.load(space, settings)
    if weights == "shared":
        recalibrate = flags.pop("recalibrate")
        asked = [name for name, value in flags.items() if value is not None]
        if asked or file:
            name = f"--{asked[0].replace('_', '-')}" if asked else "--recipe"
            raise click.UsageError(f"{name} is of training: a run has its weights already")
        written = graph.search.get(engine, {})
        chosen = configure(engine, written, known.settings, asked_of_it)
        tell(known, chosen, configure(engine, written, asked_of_it))
        _timed(chosen, graph, backend, place)
        folder = known.folder or Path(space) / runs.SEARCH
        before = runs.record_of(folder) if (folder / runs.RECORD).is_file() else None
        spec = data or runs.data_of(folder if known.alone else Path(space))
        images = runs.data_for(backend, spec, graph)
        trained = runs.work(backend, "trained")(graph, images, space, device=place)
        kept_seed = known.begun.seed if known.begun is not None else 0
        number = seed if seed is not None else kept_seed
        count = number_of(recalibrate)
        if count is None and before is not None:
            count = runs.number_in(before, "recalibrate")
        with runs.together(backend, place, progress) as (told, first):
            made = runs.work(backend, "search")(
                chosen, graph, trained, images, folder,
                seed=number, recalibrate=count, reporter=told, baselines=baselines,
                settings=runs.settings_for(backend, spec, run=os.path.abspath(space)),
            )  # fmt: skip
    else:
        folder = _folder(space, output, weights)
        before = runs.record_of(folder) if runs.is_run(folder) else {}
        kept = known.settings if weights == SCRATCH else _settings_of(before, engine)
        if weights == "own":  # which says itself how long it trains
            kept |= {n: flags.pop(n) for n in OF_ENGINES if flags.get(n) is not None}
        written = graph.search.get(engine, {})
        chosen = configure(engine, written, kept, asked_of_it)
        if weights == SCRATCH:
            tell(known, chosen, configure(engine, written, asked_of_it))
        said = _said(folder, given) if weights == "own" else {}
        hull: dict[str, Any] = {}
        if getattr(chosen, "moves", False) and not os.path.isdir(space):
            hull["hull"] = load_hull(space, **settings)
        _timed(chosen, hull.get("hull", graph), backend, place)
        used = recipe_of(backend, before, file, flags)
        spec = data or runs.data_of(folder if before else Path(space))
        images = runs.data_for(backend, spec, graph)
        number = seed if seed is not None else runs.number_in(before, "seed")
        with runs.together(backend, place, progress) as (told, first):
            made = runs.work(backend, f"search_{weights}")(
                chosen, graph, images, used, folder, seed=number, device=place, reporter=told,
                settings=runs.settings_for(backend, spec, **said),
                **{"baselines": baselines, **said}, **hull, **followed,
            )  # fmt: skip
    if first:
        show(made, named, engine, folder, as_json, graph)


def _said(folder: Path, asked: Mapping[str, object]) -> dict[str, Any]:
    """What was said of a run, as it was begun where it is not said again."""
    known = runs.kept(folder)
    said = {name: known.get(name) if value is None else value for name, value in asked.items()}
    if said["keep"] is not None and not 1 <= cast(int, said["keep"]) <= 100:
        found = error("SP702", f"{folder / runs.SETTINGS} cannot be read: keep is {said['keep']}")
        raise SpaceError(found.hint("say it again: --checkpoint-hist 2"))
    return {name: value for name, value in said.items() if value is not None}


def _folder(space: str, output: str | None, weights: str) -> Path:
    """Where a search that trains is kept: as asked, or where it goes on."""
    record = runs.record_of(Path(space)) if runs.is_run(Path(space)) else {}
    if output is None and record.get("kind") != weights:
        raise click.UsageError("-o DIR is missing: where the search is kept")
    return Path(output if output is not None else space)


def _program(
    space: str,
    settings: Mapping[str, object],
    engine: str,
    asked: Mapping[str, object],
    folder: Path,
    data: str | None,
    seed: int | None,
    file: str | None,
    flags: Mapping[str, object],
    said: Mapping[str, object],
    followed: Mapping[str, object],
    backend: str,
    place: object,
    told: Any,
    first: bool,
) -> Any:
    """What an engine for programs finds; flags of training that it has too are its settings. Where
    baselines are `said` as many epochs again are spent on random cells, in a folder below; what the
    search found is kept before that."""
    from spacelang.cli.program import program_of
    from spacelang.engines.settings import GROUP, configure
    from spacelang.plugins import load

    run = runs.is_run(Path(space))
    program = runs.work(backend, "open_program")(space) if run else program_of(space, settings)
    before = runs.record_of(folder) if runs.is_run(folder) else {}
    known = {field.name for field in fields(load(GROUP, engine))}
    typed = {name: value for name, value in flags.items() if value is not None}
    given = {**recipe_file(file), **typed}
    for name in sorted(given.keys() - known - {*OF_PROGRAMS}):
        asked_by = f"--{name.replace('_', '-')}" if name in typed else f"{name} of {file}"
        raise click.UsageError(f"{asked_by} is nothing that {engine} has a use for")
    written = [graph.search.get(engine, {}) for graph in program.networks.values()]
    own = {name: value for name, value in given.items() if name in known}
    chosen: Any = configure(engine, *written, _settings_of(before, engine), own, asked)
    luck = _luck(chosen) if said.get("baselines") else None
    keeping = {name: value for name, value in said.items() if name in KEPT}
    graph = chosen.derivation(program).space
    spec = data or runs.data_of(folder if before else Path(space))
    images = runs.data_for(backend, spec, graph)
    used = recipe_of(backend, before, None, {n: v for n, v in given.items() if n in OF_PROGRAMS})
    number = seed if seed is not None else runs.number_in(before, "seed")

    def searched(engine: Any, folder: Path) -> Any:
        kept = runs.settings_for(backend, spec, **said)
        return runs.work(backend, "search_program")(
            engine, program, images, used, folder,
            seed=number, device=place, reporter=told, settings=kept, **keeping, **followed,
        )  # fmt: skip

    found = searched(chosen, folder)
    if first:
        _genotype(found.found.best.assignment, folder / f"{engine}-genotype.json")
    if luck is None:
        return found
    try:
        return replace(found, baselines=(searched(luck, folder / luck.name),))
    except SpaceError as failed:
        if not runs.work(backend, "left_out")(failed):
            raise
        told.say(f"no baseline {luck.name}: {failed.diagnostics[0].headline}")
        return found


def _luck(engine: Any) -> Any:
    """Random cells by the settings of a search of cells; None for those themselves."""
    from spacelang.engines.cyclic_differentiable import CyclicDifferentiable
    from spacelang.engines.random_cells import RandomCells
    from spacelang.engines.settings import made, settings_of

    if isinstance(engine, RandomCells):
        return None
    if not isinstance(engine, CyclicDifferentiable):
        raise click.UsageError(f"--baselines: there are none of {engine.name}")
    return made(RandomCells, settings_of(engine))


def _genotype(assignment: Assignment, place: Path) -> None:
    """The record of a cell as the DARTS family publishes it, of spaces that have such cells."""
    from spacelang.syntax.genotypes import write

    with suppress(SpaceError):
        atomic_write(place, write(assignment))


def _timed(chosen: object, graph: Graph, backend: str, device: str) -> None:
    """Open the table of an engine, before any work (SP702, SP512); another machine's is named."""
    from spacelang.analysis.latency import open_model

    name = getattr(chosen, "latency", "")
    if not name:
        return
    model = open_model(graph, name)
    facts = model.table.facts
    here = runs.work(backend, "facts")(device, None, facts.batch, facts.dtype)
    complain(f"latency by {name}: {facts}; {model.stated}")
    if other := facts.differs(replace(here, form=facts.form)):
        complain(f"warning: {name} was measured elsewhere: {'; '.join(other)}")


def _settings_of(record: Mapping[str, object], engine: str) -> dict[str, object]:
    """The settings that a run was begun with, where it is one of the engine."""
    kept = record.get("engine")
    known = cast("dict[str, object]", kept) if isinstance(kept, dict) else {}
    settings = known.get("settings")
    if known.get("name") != engine or not isinstance(settings, dict):
        return {}
    return dict(cast("dict[str, object]", settings))


def engine_settings(texts: tuple[str, ...]) -> dict[str, object]:
    """NAME=VALUE, each once; what the values mean is the engine's to say."""
    found: dict[str, object] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.strip() or name.strip() in found:
            raise click.UsageError(f"{text!r} is not NAME=VALUE, or is set twice")
        found[name.strip()] = value.strip()
    return found


def number_of(text: object) -> int | None:
    """A number of images as it was given, if it was."""
    if text is None:
        return None
    if not str(text).isdecimal() or len(str(text)) > 9:
        raise click.UsageError(f"--recalibrate is a number of images, not {text!r}")
    return int(str(text))
