"""Searches that several processes share, one of which is killed: the others end by themselves, all
start anew, and in the end every file has the bytes of a search by one process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from processes import run_together
from test_crash import ALONE, PATHS, RANGES, SHORT, content
from test_engines_cream import ENGINE as CREAM
from test_engines_cream import RECIPE as CREAM_RECIPE
from test_train import SPACE

import spacelang
from spacelang.backends.torch.data.datasets import Dataset, first_samples, open_data
from spacelang.backends.torch.runs.ranks import Ranks
from spacelang.backends.torch.searching.search import search, search_scratch
from spacelang.backends.torch.searching.train_and_search import search_own
from spacelang.backends.torch.training.training import load_trained, train
from spacelang.diagnostics import Source
from spacelang.engines.contraction import Contraction
from spacelang.engines.evolution import Evolution
from spacelang.engines.space_evolution import SpaceEvolution
from spacelang.loader import load_hull

Search = Callable[[Path], object]
NAMES = ("evolution", "contraction", "prioritized_path", "space_evolution")


@pytest.fixture(scope="module")
def data() -> Dataset:
    """With validation images for two batches, so that two processes have some."""
    whole = open_data("digits")
    return replace(
        whole,
        train=first_samples(whole.train, 120),
        validation=first_samples(whole.validation, 300),
    )


@pytest.fixture(scope="module")
def searches(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Search]:
    """Every search that has no test of this beside its others, in four shards."""
    place = tmp_path_factory.mktemp("searches")
    (place / "ranges.space").write_text(RANGES)
    digits = spacelang.load(Source("<digits>", SPACE))
    paths = spacelang.load(Source("<paths>", PATHS))
    ranges, hull = spacelang.load(place / "ranges.space"), load_hull(str(place / "ranges.space"))
    train(digits, data, replace(SHORT, epochs=1), place / "trained", seed=3)
    trained = load_trained(digits, data, place / "trained")
    evolution = Evolution(population=6, generations=3, parents=3, mutants=3, crossovers=2)
    contraction = Contraction(bounds=("params <= 2400", ""), population=2, keep=1, factors=2)
    moving = SpaceEvolution(
        epochs=1, iterations=1, probes=3, top=1, population=3, generations=1, parents=2, mutants=1,
        crossovers=1,
    )  # fmt: skip
    cream = replace(CREAM, epochs=2)
    anew = replace(ALONE, shards=4)
    return {
        "evolution": lambda at: search(evolution, digits, trained, data, at, seed=1),
        "contraction": lambda at: search_scratch(contraction, digits, data, anew, at, seed=5),
        "prioritized_path": lambda at: search_own(
            cream, paths, data, replace(CREAM_RECIPE, shards=4), at, seed=2
        ),
        "space_evolution": lambda at: search_own(moving, ranges, data, anew, at, seed=4, hull=hull),
    }


def exchanges(action: Callable[[], object], fatal: int = -1) -> int:
    """How many exchanges of figures an action asks for; at the `fatal`-th the process dies."""
    gather, count = Ranks.gather, 0

    def counting(self: Ranks, rows: Sequence[Sequence[float]]) -> list[list[float]]:
        nonlocal count
        count += 1
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return gather(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ranks, "gather", counting)
        action()
    return count


def killed(run: Search, size: int, wanted: int, folder: Path) -> None:
    """Kill the second process at so many exchanges, each in a search of its own."""
    whole = folder / "whole"
    count = exchanges(lambda: run(whole))  # of one process; several have more, as they begin
    assert count > wanted
    for number in range(1, wanted + 1):
        place, fatal = folder / str(number), number * count // wanted if wanted > 1 else count // 2

        def dying(rank: int, place: Path = place, fatal: int = fatal) -> None:
            exchanges(lambda: run(place), fatal if rank == 1 else -1)

        ends = run_together(size, dying)
        assert ends == [1, -signal.SIGKILL, *[1] * (size - 2)], f"exchange {fatal}"
        assert run_together(size, lambda rank, at=place: run(at)) == [0] * size
        assert content(place) == content(whole), f"exchange {fatal}"


@pytest.mark.parametrize("name", NAMES)
def test_a_search_goes_on_where_a_process_was_killed(
    name: str, searches: dict[str, Search], tmp_path: Path
) -> None:
    killed(searches[name], 2, 1, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_killed_at_ten_exchanges(
    name: str, size: int, searches: dict[str, Search], tmp_path: Path
) -> None:
    killed(searches[name], size, 10, tmp_path)
