"""The main job: a space, trained, searched, taken out, proved, exported and tested on real images.

    main(Options(seed=0))                          # what `spacelang quickstart` runs

Every stage has its own folder in the run folder and is taken up where it stopped; a finished stage
is read, not repeated. The test part is read once for each network that is reported.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

from spacelang.backends.torch.data.datasets import Dataset, open_data
from spacelang.backends.torch.data.preprocessing import preprocessing
from spacelang.backends.torch.inputs import example
from spacelang.backends.torch.lowering.kernels import chosen
from spacelang.backends.torch.quickstart.results import (
    Entry,
    Results,
    Takeaway,
    show,
    write_results,
)
from spacelang.backends.torch.runs.ledger import Ledger
from spacelang.backends.torch.runs.progress import Reporter, Style, progress
from spacelang.backends.torch.runs.run import Json, RunFolder
from spacelang.backends.torch.searching.search import Searched, search
from spacelang.backends.torch.subnets.export import Export, export, missing
from spacelang.backends.torch.subnets.subnet import load_subnet, write_subnet
from spacelang.backends.torch.training.evaluate import evaluate, evaluate_test
from spacelang.backends.torch.training.recalibrate import calibrate
from spacelang.backends.torch.training.recipe import Recipe, recipe_from
from spacelang.backends.torch.training.training import Trained, fits, train
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.baselines import Extreme, beside
from spacelang.engines.evolution import Evolution
from spacelang.engines.pool import Pool
from spacelang.engines.settings import check, configure
from spacelang.files import atomic_write
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.loader import load
from spacelang.syntax.literal import literal

# What reached 0.98 on 5,000 digits; other images get it too, with the variation of photographs.
RECIPE: Mapping[str, object] = MappingProxyType(
    {
        "epochs": 80,
        "batch_size": 32,
        "lr": 2e-3,
        "min_lr": 1e-6,
        "warmup_epochs": 8,
        "opt_betas": (0.9, 0.95),
        "val_interval": 5,
    }
)
VARIATION: Mapping[str, str] = MappingProxyType({"mnist5k": "digits", "digits": "digits"})
OTHERS = "photos"


@dataclass(frozen=True, slots=True)
class Options:
    """What `spacelang quickstart` is told.

    space     an address; `settings` are parameters of the space (classes are taken from the images)
    data      a data set by name, a folder of class folders, or an .npz file
    output    the run folder
    recipe    settings of training, by timm's names, over RECIPE
    search    settings of the evolution, over those of the space's file
    formats   what the winner is exported to; an exporter that is not installed is skipped
    """

    space: str = "quickstart.space"
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    data: str = "mnist5k"
    output: str = "runs/quickstart"
    seed: int = 0
    recipe: Mapping[str, object] = field(default_factory=dict[str, object])
    search: Mapping[str, object] = field(default_factory=dict[str, object])
    formats: tuple[str, ...] = ("pt2", "onnx")
    device: str = "cpu"
    style: Style = "auto"
    as_json: bool = False


def main(options: Options) -> None:
    """Run the job and print what came out.

    Raises Interrupted after a signal, ProofError where a network is not what it should be, and
    SpaceError, OSError and Locked for what the user can mend.
    """
    with progress(options.style) as told:
        results = run(options, told)
    if options.as_json:
        print(json.dumps(results.as_json(), indent=1))
    else:
        show(results)


def run(options: Options, told: Reporter) -> Results:
    """All stages, and what came out."""
    clock = Clock()
    options, graph, data = fitted(options)
    recipe = recipe_of(options, data)
    settings = graph.search.get("evolution", {})
    evolution = cast(Evolution, configure("evolution", settings, options.search))
    check(evolution, graph)
    # An empty budget is told now, not after the training.
    Pool(graph, evolution.where, latency=evolution.latency)
    folder = Path(options.output)
    about: Json = {
        "space": options.space,
        "graph": graph.hash,
        "data": {"name": data.name, "split": data.split_digest},
        "seed": options.seed,
    }
    with RunFolder(folder, "quickstart", about):
        with clock.times("train"):
            trained = train(
                graph,
                data,
                recipe,
                folder / "train",
                seed=options.seed,
                device=options.device,
                reporter=told,
            )
        searches = search_all(evolution, graph, trained, data, folder, options.seed, told, clock)
        winner = searches["evolution"].found.best.assignment
        text = json.dumps(dict(winner), indent=1) + "\n"
        atomic_write(folder / "architecture.json", text)
        takeaway = take_home(trained, winner, data, folder, options.formats, told, clock)
        with clock.times("test"):
            networks = test_all(trained, data, searches, folder)
        results = Results(
            options=options_json(options),
            graph=graph,
            data=data,
            recipe=recipe,
            evolution=evolution,
            trained=trained,
            searches=searches,
            networks=networks,
            takeaway=takeaway,
            seconds=dict(clock.seconds),
            folder=folder,
        )
        write_results(results)
    return results


class Clock:
    """Seconds that stages took, in this process."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def times(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - began, 1)


def fitted(options: Options) -> tuple[Options, Graph, Dataset]:
    """The space and the images, each fitted to the other: sizes by input, classes by data; and the
    options with that said."""
    graph = load(options.space, **options.settings)
    shape = [size.constant for size in graph.root.inputs[0].types[0].shape[1:]]
    if len(graph.root.inputs) != 1 or len(shape) != 3 or None in shape:
        raise SpaceError(error("SP704", f"{graph.name} does not take images [B, C, H, W]"))
    channels, height, width = (int(size) for size in shape if size is not None)
    data = open_data(options.data, size=(height, width), channels=channels)
    if "classes" not in options.settings and len(data.classes) != classes_of(graph):
        options = replace(options, settings={**options.settings, "classes": len(data.classes)})
        try:
            graph = load(options.space, **options.settings)
        except SpaceError as failed:
            if failed.diagnostics[0].code == "SP204":  # it has no parameter `classes`
                fits(graph, data)
            raise
    return options, graph, data


def classes_of(graph: Graph) -> int:
    """How many classes the main output of a graph has."""
    output = next(o for o in graph.outputs if not o.training)
    node = next(n for n in graph.root.nodes if n.id == output.value.node)
    return int(node.types[output.value.index].shape[-1].at({}))


def recipe_of(options: Options, data: Dataset) -> Recipe:
    """The recipe of training: what was asked for over RECIPE."""
    variation = {"aug": VARIATION.get(options.data, OTHERS)}
    return recipe_from({**RECIPE, **variation, **options.recipe})


def search_all(
    evolution: Evolution,
    graph: Graph,
    trained: Trained,
    data: Dataset,
    folder: Path,
    seed: int,
    told: Reporter,
    clock: Clock,
) -> dict[str, Searched]:
    """The evolution, random search with as many evaluations, and the largest network."""
    found: dict[str, Searched] = {}
    place = folder / "search"
    with clock.times("evolution"):
        found["evolution"] = search(
            evolution, graph, trained, data, place, seed=seed, reporter=told
        )
    chance, _ = beside(evolution, found["evolution"].found.evaluated)
    with clock.times("random search"):
        found["random"] = search(chance, graph, trained, data, place, seed=seed, reporter=told)
    # That of the whole space, within the budget or not: what it costs to keep to the budget.
    largest = Extreme("largest", part=evolution.part, samples=evolution.samples)
    found["largest"] = search(largest, graph, trained, data, place, seed=seed)
    return found


def take_home(
    trained: Trained,
    winner: Assignment,
    data: Dataset,
    folder: Path,
    formats: tuple[str, ...],
    told: Reporter,
    clock: Clock,
) -> Takeaway:
    """The winner as a folder of its own, proved equal, and exported (ProofError)."""
    told.say("taking the winner out of the supernet, and proving it equal")
    with clock.times("extract and prove"):
        settle(trained, winner, data)
        subnet = write_subnet(trained.model, winner, folder / "subnet", images=preprocessing(data))
    exports: list[Export] = []
    skipped: list[str] = []
    for ending in formats:
        if missing(ending):
            skipped.append(ending)
            continue
        told.say(f"exporting it: subnet.{ending}")
        with clock.times(f"export to {ending}"):
            network, inputs = load_subnet(subnet.folder), example(trained.model.graph)
            exports.append(export(network, inputs, folder / f"subnet.{ending}"))
    return Takeaway(subnet, tuple(exports), tuple(skipped))


def settle(trained: Trained, assignment: Assignment, data: Dataset) -> None:
    """Give an architecture batch-norm statistics of its own, where the recipe asks for that."""
    if trained.recipe.recalibrate:
        calibrate(trained.model, assignment, data, trained.recipe.recalibrate)


def test_all(
    trained: Trained,
    data: Dataset,
    searches: Mapping[str, Searched],
    folder: Path,
) -> tuple[Entry, ...]:
    """Each reported network, taken out of the supernet, on validation and, once, on test images.

    The winner is the one that was read back from its folder.
    """
    rows: tuple[tuple[str, Literal["winner", "random", "largest"], str], ...] = (
        ("evolutionary search", "winner", "evolution"),
        ("random search", "random", "random"),
        ("largest network", "largest", "largest"),
    )
    ledger = Ledger(folder / "test.json", trained.weights, data.split_digest)
    entries: list[Entry] = []
    for name, role, key in rows:
        best = searches[key].found.best
        winner = role == "winner"
        settle(trained, best.assignment, data)
        subnet = (
            load_subnet(folder / "subnet") if winner else trained.model.extract(best.assignment)
        )
        subnet = subnet.eval()
        validation = evaluate(subnet, data.validation)
        tested = ledger.known(best.assignment)
        if tested is None:
            tested = ledger.add(best.assignment, evaluate_test(subnet, data))
        entries.append(Entry(name, role, best.assignment, best.cost, validation, tested))
    return tuple(entries)


def options_json(options: Options) -> Json:
    """The options as JSON."""
    backend, required = chosen()
    return {
        "space": options.space,
        "settings": {name: literal(value) for name, value in options.settings.items()},
        "data": options.data,
        "output": options.output,
        "seed": options.seed,
        "recipe": dict(options.recipe),
        "search": dict(options.search),
        "formats": list(options.formats),
        "device": options.device,
        "backend": backend,
        "require_fused": required,
    }


__all__ = ["RECIPE", "Options", "main", "run"]
