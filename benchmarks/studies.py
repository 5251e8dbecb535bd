"""What each search finds, against what one would have had without it, on real images.

python benchmarks/studies.py -o runs/studies                 # all five, three seeds each
python benchmarks/studies.py cells --seeds 5                 # one of them
python benchmarks/studies.py --record benchmarks/results     # STUDY.json there, to be kept
python benchmarks/studies.py --epochs 1 --seeds 1            # does it run?

A study is one engine beside its plain alternative, by one recipe, one seed and the same images.
Architectures of equal cost have the found one's parameters to a twentieth. Networks read the test
images once, at their end; nothing is decided by them. A folder is taken up where it was left, and
its seconds are those of all calls; each search in it has its own `report.html`, and so has the
study, with its arms as rows. A seed with an arm of no network (none has the size) is recorded, that
arm as null, and left out of the table.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import study_report
import torch
from stopwatch import Stopwatch

import spacelang
from spacelang.backends.torch.data.datasets import Dataset, open_data
from spacelang.backends.torch.runs.run import environment, read_graph
from spacelang.backends.torch.searching.cycles import search_program
from spacelang.backends.torch.searching.search import search, search_scratch
from spacelang.backends.torch.searching.train_and_search import search_own
from spacelang.backends.torch.training.evaluate import evaluate_test
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.training import Trained, load_trained, train
from spacelang.diagnostics import SpaceError
from spacelang.engines.contraction import Contraction
from spacelang.engines.cyclic_differentiable import CyclicDifferentiable
from spacelang.engines.evolution import Evolution
from spacelang.engines.pool import Pool
from spacelang.engines.prioritized_path import PrioritizedPath
from spacelang.engines.settings import configure
from spacelang.engines.space_evolution import SpaceEvolution
from spacelang.files import atomic_write
from spacelang.ir.decision import Assignment
from spacelang.ir.figures import Cost
from spacelang.ir.graph import Graph
from spacelang.loader import load_hull
from spacelang.passes.specialize import specialize

PEERS = 4  # random architectures beside a found one
SHARED_PEERS = 20  # where they need no training of their own
SMALL = Recipe(batch_size=64, lr=2e-3, warmup_epochs=2, aug="digits", val_interval=0)
# A search of spaces: how ranges are judged. The space that it comes to is not searched, as random
# networks of it are what counts.
RANGES = {"epochs": 10, "probes": 150, "samples": 500, "generations": 0, "population": 1}
RANGES |= {"parents": 1, "mutants": 0, "crossovers": 0}

Arms = dict[str, dict[str, float] | None]  # figures by arm; None for one without a network
EMPTY = "SP502"  # a budget that nothing meets


@dataclass(frozen=True)
class Work:
    """Where a seed of a study runs; `epochs` replaces those of every training."""

    folder: Path
    seed: int
    epochs: int | None

    def of(self, recipe: Recipe, epochs: int) -> Recipe:
        """The recipe for so many epochs."""
        count = self.epochs or epochs
        return replace(recipe, epochs=count, warmup_epochs=min(recipe.warmup_epochs, count / 4))


def peers(space: Graph, found: Assignment, work: Work, count: int) -> list[Assignment]:
    """Random architectures of equal cost without the found one, fewer if there are not so many."""
    params = space.cost(found).params
    pool = Pool(space, f"params in {params * 19 // 20}..{params * 21 // 20}", work.seed)
    pool.take(found)
    return [assignment for assignment, _ in pool.draw(count, "peers")]


def within(space: Graph, where: str, work: Work, count: int) -> list[Assignment]:
    """Random architectures of a budget, none where nothing meets it."""
    try:
        return [found for found, _ in Pool(space, where, work.seed).draw(count, "peers")]
    except SpaceError as failed:
        if failed.diagnostics[0].code != EMPTY:
            raise
        return []


def figures(tests: list[float], costs: list[Cost]) -> dict[str, float] | None:
    """The means of some networks; None of none."""
    if not tests:
        return None
    found = {name: statistics.mean(getattr(c, name) for c in costs) for name in ("params", "macs")}
    return {"test": statistics.mean(tests), **found}


def anew(space: Graph, chosen: Iterable[Assignment], data: Dataset, work: Work, epochs: int,
         name: str) -> dict[str, float] | None:  # fmt: skip
    """The mean of networks that are trained alone from first weights, by the test images."""
    tests, costs = [], []
    for number, assignment in enumerate(chosen):
        network, place = specialize(space, assignment), work.folder / f"{name}-{number}"
        made = train(network, data, work.of(SMALL, epochs), place, seed=work.seed)
        tests.append(evaluate_test(made.model, data).accuracy)
        costs.append(network.cost({}))
    return figures(tests, costs)


def inherited(trained: Trained, space: Graph, chosen: Iterable[Assignment],
              data: Dataset) -> dict[str, float] | None:  # fmt: skip
    """The mean of networks with the supernet's weights, by the test images."""
    tests, costs = [], []
    for assignment in chosen:
        tests.append(evaluate_test(trained.model.extract(assignment), data).accuracy)
        costs.append(space.cost(assignment))
    return figures(tests, costs)


def evolution(work: Work) -> Arms:
    """AutoFormer: the best of a trained supernet, random ones of its size; weights inherited."""
    space, data = spacelang.load("quickstart.space"), open_data("mnist5k")
    recipe = work.of(replace(SMALL, batch_size=32, warmup_epochs=4), 40)
    trained = train(space, data, recipe, work.folder / "train", seed=work.seed)
    engine = configure("evolution", space.search["evolution"], {"where": "params <= 60K"})
    assert isinstance(engine, Evolution)
    best = search(engine, space, trained, data, work.folder / "search", seed=work.seed).found.best
    random = peers(space, best.assignment, work, SHARED_PEERS)
    return {
        "found": inherited(trained, space, [best.assignment], data),
        "random": inherited(trained, space, random, data),
    }


def paths(work: Work) -> Arms:
    """Cream: the best of the board, random paths of its size, each trained anew."""
    space, data = spacelang.load("small_paths.space"), open_data("mnist5k")
    settings = {"epochs": work.epochs + 1, "warm_epochs": 0} if work.epochs else {}
    engine = configure("prioritized_path", space.search["prioritized_path"], settings)
    assert isinstance(engine, PrioritizedPath)
    recipe = replace(SMALL, recalibrate=500)
    found = search_own(engine, space, data, recipe, work.folder / "search", seed=work.seed).found
    random = peers(space, found.best.assignment, work, PEERS)
    return {
        "found": anew(space, [found.best.assignment], data, work, 15, "found"),
        "random": anew(space, random, data, work, 15, "random"),
    }


def ranges(work: Work) -> Arms:
    """S3: random networks of 70,000 to 90,000 parameters of the first and the evolved space."""
    address, data = "small_ranges.space", open_data("mnist5k")
    space, hull = spacelang.load(address), load_hull(address)
    settings = {**space.search["space_evolution"], **RANGES}
    settings |= {"epochs": work.epochs} if work.epochs else {}
    engine = configure("space_evolution", settings)
    assert isinstance(engine, SpaceEvolution)
    place = work.folder / "search"
    search_own(engine, space, data, SMALL, place, seed=work.seed, hull=hull)
    last = max(place.glob("space-*"), key=lambda p: int(p.name[6:]), default=place)
    # The search trained each of its spaces from first weights, for as many epochs.
    arms: Arms = {}
    for name, folder in (("first", place), ("evolved", last)):
        graph = read_graph(folder)
        drawn = within(graph, "params in 70K..90K", work, SHARED_PEERS)
        arms[name] = inherited(load_trained(graph, data, folder), graph, drawn, data)
    return arms


def contraction(work: Work) -> Arms:
    """TinyViT: the last of the contracted networks, random ones of its size, each trained anew."""
    space, data = spacelang.load("quickstart.space"), open_data("mnist5k")
    engine = Contraction(
        bounds=("params <= 150K", "params <= 70K", "params <= 35K"), population=6, keep=2
    )
    recipe = work.of(SMALL, 4)
    found = search_scratch(
        engine, space, data, recipe, work.folder / "search", seed=work.seed
    ).found
    random = peers(space, found.best.assignment, work, PEERS)
    return {
        "found": anew(space, [found.best.assignment], data, work, 15, "found"),
        "random": anew(space, random, data, work, 15, "random"),
    }


def cells(work: Work) -> Arms:
    """CDARTS: the cell of the cycles, that of plain DARTS, and random cells, each trained anew."""
    data = open_data("digits")
    program = spacelang.load_program("small_cells.space:digits_cycles")
    net = spacelang.load("small_cells.space:digits_net")
    arms: Arms = {}
    best: dict[str, Assignment] = {}
    for mode in ("cyclic", "plain"):
        asked: dict[str, object] = {"mode": mode, "epochs": 24, "warm": 4}
        asked |= {"epochs": work.epochs, "warm": 0} if work.epochs else {}
        written = program.networks["shallow"].search["cyclic_differentiable"]
        engine = configure("cyclic_differentiable", written, asked)
        assert isinstance(engine, CyclicDifferentiable)
        recipe = Recipe(batch_size=48, aug=SMALL.aug)
        found = search_program(
            engine, program, data, recipe, work.folder / mode, seed=work.seed
        ).found
        arms[mode] = anew(net, [found.best.assignment], data, work, 40, f"{mode}-net")
        best[mode] = found.best.assignment
    random = peers(net, best["cyclic"], work, PEERS)
    arms["random"] = anew(net, random, data, work, 40, "random")
    return arms


STUDIES: Mapping[str, Callable[[Work], Arms]] = {
    "evolution": evolution,
    "paths": paths,
    "ranges": ranges,
    "contraction": contraction,
    "cells": cells,
}

# What a study's report is of: its space and its images.
ABOUT: Mapping[str, tuple[str, str]] = {
    "evolution": ("quickstart.space", "mnist5k"),
    "paths": ("small_paths.space", "mnist5k"),
    "ranges": ("small_ranges.space", "mnist5k"),
    "contraction": ("quickstart.space", "mnist5k"),
    "cells": ("small_cells.space:digits_net", "digits"),
}


def whole(seeds: Iterable[Arms]) -> study_report.Seeds:
    """The seeds whose arms all have networks."""
    return [
        {arm: found for arm, found in seed.items() if found} for seed in seeds if all(seed.values())
    ]


def show(name: str, seeds: study_report.Seeds) -> None:
    """A table of a study: means over seeds, their spread, the lead of the first arm by seed."""
    print(f"\n{name}: {STUDIES[name].__doc__}")
    print(f"{'arm':<8}  params     test  spread  the first arm's lead, seed by seed")
    first = next(iter(seeds[0]))
    for arm in seeds[0]:
        mean, spread = study_report.spread_of(seeds, arm)
        params = statistics.mean(seed[arm]["params"] for seed in seeds)
        lead = "" if arm == first else study_report.leads_of(seeds, first, arm)
        print(f"{arm:<8}  {params:6,.0f}  {mean:7.4f}  {spread:.4f}  {lead}")


def report(name: str, seeds: study_report.Seeds, folder: Path) -> None:
    """The report of a study, of the seeds that there are."""
    address, images = ABOUT[name]
    about, first = str(STUDIES[name].__doc__), next(iter(seeds[0]))
    command = f"python benchmarks/studies.py {name} --seeds {len(seeds)}"
    space, data = spacelang.load(address), open_data(images)
    study_report.write(folder, name, about, space, data, seeds, first, command)


def count(text: str) -> int:
    """A number of at least 1."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("studies", nargs="*", metavar="STUDY", help=", ".join(STUDIES))
    options.add_argument("-o", "--output", type=Path, default=Path("runs/studies"))
    options.add_argument("--record", type=Path, help="where STUDY.json goes, if not to the output")
    options.add_argument("--seeds", type=count, default=3)
    options.add_argument("--epochs", type=count, help="of every training, for a trial")
    options.add_argument("--threads", type=int, default=2)
    given = options.parse_args()
    if unknown := set(given.studies) - set(STUDIES):
        options.error(f"no study: {', '.join(sorted(unknown))}; there are {', '.join(STUDIES)}")
    torch.set_num_threads(given.threads)
    for name in given.studies or STUDIES:
        seeds: list[Arms] = []
        seconds: list[float] = []
        for seed in range(given.seeds):
            place = given.output / name / str(seed)
            with Stopwatch(place.with_suffix(".seconds.json")) as watch:
                seeds.append(STUDIES[name](Work(place, seed, given.epochs)))
            seconds.append(watch.seconds)
            told = f"{name}, seed {seed}: {watch.seconds:.0f} s, {json.dumps(seeds[-1])}"
            print(told, flush=True)
            record = {"epochs": given.epochs, "seconds": seconds, "seeds": seeds}
            record["environment"] = environment()
            kept = given.record or given.output
            kept.mkdir(parents=True, exist_ok=True)
            atomic_write(kept / f"{name}.json", json.dumps(record, indent=1) + "\n")
            if known := whole(seeds):
                report(name, known, given.output / name)
        if known := whole(seeds):
            show(name, known)
        if len(known) < len(seeds):
            print(f"{name}: of {len(seeds) - len(known)} seeds an arm has no network of the size")


if __name__ == "__main__":
    main()
