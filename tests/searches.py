"""What tests that kill, stop or share searches search: small spaces on digits, and short engines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from test_engines_cream import ENGINE as CREAM
from test_engines_cream import RECIPE as CREAM_RECIPE
from test_engines_cream import SPACE as PATHS
from test_train import RECIPE, SPACE

import spacelang
from spacelang.backends.torch.data.datasets import Dataset, first_samples, open_data
from spacelang.backends.torch.training.training import load_trained, train
from spacelang.diagnostics import Source
from spacelang.engines.contraction import Contraction
from spacelang.engines.evolution import Evolution
from spacelang.engines.prioritized_path import PrioritizedPath
from spacelang.engines.space_evolution import SpaceEvolution
from spacelang.ir.graph import Graph
from spacelang.loader import load_hull

SHORT = replace(RECIPE, epochs=3, batch_size=60, val_interval=0)
ALONE = replace(SHORT, epochs=1, model_ema=False)
ANEW = replace(ALONE, epochs=2)
RANGES = SPACE.replace("choose ratio in {1, 2}", "choose ratio in {1, 2} within 1..4")
EVOLUTION = Evolution(population=6, generations=3, parents=3, mutants=3, crossovers=2)
MOVING = SpaceEvolution(
    epochs=1, iterations=1, probes=3, top=1, population=3, generations=1, parents=2, mutants=1,
    crossovers=1,
)  # fmt: skip
LASTING = ("*.jsonl", "*.csv", "*.json", "checkpoint-*.safetensors")


def contraction(population: int, keep: int) -> Contraction:
    """Two contractions to a number of parameters."""
    bounds = ("params <= 2400", "")
    return Contraction(bounds=bounds, population=population, keep=keep, factors=2)


def cream(epochs: int) -> PrioritizedPath:
    """A board that learns at every other step."""
    return replace(CREAM, epochs=epochs)


def small_digits(train: int, validation: int) -> Dataset:
    """The first so many images of each part of the digits."""
    whole = open_data("digits")
    parts = {"train": train, "validation": validation}
    return replace(whole, **{n: first_samples(getattr(whole, n), k) for n, k in parts.items()})


@dataclass(frozen=True)
class Spaces:
    """Spaces to search: of a trained supernet, of paths, and of ranges that move in their hull."""

    digits: Graph
    paths: Graph
    ranges: Graph
    hull: Graph | None
    trained: Any  # the supernet of `digits`


def spaces(place: Path, data: Dataset, epochs: int = 3) -> Spaces:
    """The spaces, with a supernet that is trained in a folder."""
    file = place / "ranges.space"
    file.write_text(RANGES)
    digits = spacelang.load(Source("<digits>", SPACE))
    train(digits, data, replace(SHORT, epochs=epochs), place / "trained", seed=3)
    return Spaces(
        digits,
        spacelang.load(Source("<paths>", PATHS)),
        spacelang.load(file),
        load_hull(str(file)),
        load_trained(digits, data, place / "trained"),
    )


def content(folder: Path) -> dict[str, object]:
    """What must not depend on how often a run was stopped: every file by its bytes, but for journals,
    whose lines may be cut elsewhere, and for the numbers of checkpoints."""
    found: dict[str, object] = {}
    for pattern in LASTING:
        for path in sorted(folder.rglob(pattern)):
            name = path.relative_to(folder).as_posix()
            if path.name in ("manifest.jsonl", "answers.jsonl"):
                continue
            if path.name.startswith("checkpoint-"):  # the last one stands for all
                name = path.relative_to(folder).parent.as_posix() + "/checkpoint"
            found[name] = path.read_bytes()
    return found


__all__ = [
    "ALONE",
    "ANEW",
    "CREAM_RECIPE",
    "EVOLUTION",
    "MOVING",
    "PATHS",
    "RANGES",
    "SHORT",
    "SPACE",
    "Spaces",
    "content",
    "contraction",
    "cream",
    "small_digits",
    "spaces",
]
