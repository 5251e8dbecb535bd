"""Search runs: an engine over scores, every one of them in a journal.

    result = search(Evolution(where="params <= 150K"), graph, trained, data, "a/search", seed=0)
    result = search_scratch(Contraction(), graph, data, Recipe(epochs=3), "a/contraction", seed=0)

The first scores networks of a trained supernet, the second trains each of them anew. The folder
holds `scores.jsonl`, a line for every architecture that was scored, shared by all engines that
search alike, `begun.json`, how each was set, and for each that came to its end `<engine>.json` and
its best, `<engine>-best.json`; `report.html` shows them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.data.preprocessing import IMAGES, preprocessing
from spacelang.backends.torch.reports.search_report import write_search_report
from spacelang.backends.torch.runs.interrupt import Interrupt
from spacelang.backends.torch.runs.progress import Reporter, progress
from spacelang.backends.torch.runs.ranks import current
from spacelang.backends.torch.runs.run import Json, RunFolder, write_graph, write_json
from spacelang.backends.torch.runs.searched import Searched
from spacelang.backends.torch.searching.baselines import found_by, search_beside
from spacelang.backends.torch.searching.scratch import Scratch
from spacelang.backends.torch.searching.under_way import UnderWay, under_way
from spacelang.backends.torch.training.fsdp_check import check_pieces
from spacelang.backends.torch.training.optimizers import check_optimizer
from spacelang.backends.torch.training.recalibrate import warn_if_mixed
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.torch_compile_check import refuse_compiling
from spacelang.backends.torch.training.trainer import TorchTrainer
from spacelang.backends.torch.training.training import Trained, fits, identity
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.baselines import beside
from spacelang.engines.begun import SearchStart, begin, end
from spacelang.engines.protocol import Engine, Prober
from spacelang.engines.record import Recorded
from spacelang.engines.rehearse import Rehearsal, rehearse
from spacelang.engines.settings import settings_of
from spacelang.files import PathLike
from spacelang.ir.graph import Graph
from spacelang.journal import Journal, JournalError, ReadJournal

SCORES = "scores.jsonl"
SHARED, SCRATCH = "search", "scratch"  # kinds of runs
ABOUT = ("format", "kind")  # of a folder's identity, what scores do not depend on


def search(
    engine: Engine,
    graph: Graph,
    trained: Trained,
    data: Dataset,
    folder: PathLike,
    *,
    seed: int = 0,
    recalibrate: int | None = None,
    reporter: Reporter | None = None,
    settings: Mapping[str, object] | None = None,
    baselines: bool | None = False,
) -> Searched:
    """Run an engine to its end; what an earlier call scored is not scored again.

    With `baselines` those that belong to it (`engines/baselines.py: beside`) are searched after it.
    Each network gets batch-norm statistics of its own from the first `recalibrate` training images
    before it is scored; by default from as many as the recipe of the training says.
    Raises Interrupted after a signal, SP701 where engine and space do not fit, SP702 for a folder
    of other weights or images.
    """
    recalibrate = trained.recipe.recalibrate if recalibrate is None else recalibrate
    basis: Json = {"graph": graph.hash, "weights": trained.weights, "split": data.split_digest}
    basis |= {"recalibrate": recalibrate} if recalibrate else {}
    # The model holds the moving average already, where there is one; nothing is compiled here.
    # A score has no gradients: how a batch was cut, and the weights, is the training's alone.
    size = current().size
    recipe = replace(
        trained.recipe, model_ema=False, torchcompile=False, recalibrate=recalibrate,
        reduce="explicit", shards=size, batch_size=max(size, trained.recipe.batch_size),
    )  # fmt: skip
    trainer = TorchTrainer(trained.model, graph, data, recipe, seed)
    rehearse(engine, graph, Rehearsal(), seed)
    warn_if_mixed(graph, recalibrate)
    note = _note(engine, folder, seed, baselines)
    with RunFolder(folder, SHARED, basis, settings, note) as run, Interrupt() as interrupt:
        report = partial(write_search_report, run.path, graph, data, log=trained.log)
        return _searched(engine, graph, trainer, run, interrupt, seed, reporter, baselines, report)


def search_scratch(
    engine: Engine,
    graph: Graph,
    data: Dataset,
    recipe: Recipe,
    folder: PathLike,
    *,
    seed: int = 0,
    device: str = "cpu",
    reporter: Reporter | None = None,
    settings: Mapping[str, object] | None = None,
    baselines: bool | None = False,
) -> Searched:
    """Run an engine over networks that are each trained anew by a recipe, alone.

    As `search` otherwise; baselines are trained too, with None the ends of the space alone. The
    training of the network that is under way is kept too, and goes on.
    """
    fits(graph, data)
    check_optimizer(recipe)
    check_pieces(recipe, current())
    refuse_compiling(recipe, "--scratch")
    about = identity(graph, data, recipe, seed)
    rehearse(engine, graph, Rehearsal(), seed)
    note = _note(engine, folder, seed, baselines)
    with RunFolder(folder, SCRATCH, about, settings, note) as run, Interrupt() as interrupt:
        write_graph(run.path, graph)
        write_json(run.path / IMAGES, preprocessing(data))
        kept = UnderWay(run.path, interrupt)
        prober = Scratch(graph, data, recipe, seed, device, kept)
        report = partial(write_search_report, run.path, graph, data)
        result = _searched(engine, graph, prober, run, interrupt, seed, reporter, baselines, report)
        current().lead(kept.clear)
    return result


def _note(
    engine: Engine, folder: PathLike, seed: int, baselines: bool | None
) -> Callable[[], None]:
    """Keeps with a folder how a search is begun."""
    entry = SearchStart(settings_of(engine), seed, baselines)
    return lambda: begin(Path(folder), engine.name, entry)


def _searched(
    engine: Engine,
    graph: Graph,
    prober: Prober,
    run: RunFolder,
    interrupt: Interrupt,
    seed: int,
    reporter: Reporter | None,
    baselines: bool | None,
    report: Callable[[Searched], None],
) -> Searched:
    """What an engine finds by the scores of a folder's journal and, beyond it, of a prober, and
    what baselines do beside it. What it found is kept, and reported, before they begin."""
    told = reporter or progress("quiet")
    ranks = current()
    with open_journal(run.path / SCORES) as journal:
        ranks.same(str(len(journal.entries)), "the scores that they see: is the folder shared?")
        basis = {n: v for n, v in run.identity.items() if n not in ABOUT}
        recorded = Recorded(prober, journal, basis)
        run.begun = lambda: len(recorded) > 0 or under_way(run.path)
        result = found_by(engine, graph, recorded, interrupt, seed, told)
        result.keep(run.path)
        report(result)
        wanted = beside(
            engine, result.found.evaluated, baselines, anew=run.identity["kind"] == SCRATCH
        )
        if wanted:
            others = search_beside(wanted, graph, recorded, run.path, interrupt, seed, told)
            result = replace(result, baselines=others)
            report(result)
        ranks.lead(lambda: end(run.path, engine.name))
    return result


def open_journal(path: Path) -> Journal:
    """A journal to go on with (SP702 where it is damaged).

    Of processes that run together the first writes to it, the others only know what it held.
    """
    ranks = current()
    try:
        made = Journal(path) if ranks.first else None
        ranks.wait()  # until a torn line is cut off
        return made or ReadJournal(path)
    except JournalError as damaged:
        # Scores are found again; without its answers a trained run leads nowhere.
        anew = "remove it to search anew" if path.name == SCORES else "start in another folder"
        raise SpaceError(
            error("SP702", str(damaged)).hint(f"restore the file from a copy, or {anew}")
        ) from damaged
