"""Searches that several processes share, one of which is killed: the others end by themselves, all
start anew, and in the end every file has the bytes of a search by one process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from lessons import RECIPE as LESSON
from lessons import a_teacher, student
from processes import run_together
from searches import (
    ALONE,
    CREAM_RECIPE,
    EVOLUTION,
    MOVING,
    content,
    contraction,
    cream,
    small_digits,
    spaces,
)

from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.distillation.distill import distill
from spacelang.backends.torch.distillation.lesson import BoardLesson, board_of
from spacelang.backends.torch.runs.ranks import Ranks
from spacelang.backends.torch.searching.search import search, search_scratch
from spacelang.backends.torch.searching.train_and_search import search_own

Search = Callable[[Path], object]
NAMES = ("evolution", "contraction", "prioritized_path", "space_evolution", "distill_board")


@pytest.fixture(scope="module")
def data() -> Dataset:
    """With validation images for two batches, so that two processes have some."""
    return small_digits(120, 300)


@pytest.fixture(scope="module")
def searches(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Search]:
    """Every search that has no test of this beside its others, and a board of teachers, in four
    shards."""
    of = spaces(tmp_path_factory.mktemp("searches"), data, epochs=1)
    anew, paths, taught = (replace(r, shards=4) for r in (ALONE, CREAM_RECIPE, LESSON))
    settings = {"teachers": 2, "update_every": 2}
    board = BoardLesson(board_of(taught, settings), tuple(a_teacher(seed) for seed in (1, 2)))
    return {
        "evolution": lambda at: search(EVOLUTION, of.digits, of.trained, data, at, seed=1),
        "contraction": lambda at: search_scratch(
            contraction(population=2, keep=1), of.digits, data, anew, at, seed=5
        ),
        "prioritized_path": lambda at: search_own(
            cream(epochs=2), of.paths, data, paths, at, seed=2
        ),
        "space_evolution": lambda at: search_own(
            MOVING, of.ranges, data, anew, at, seed=4, hull=of.hull
        ),
        "distill_board": lambda at: distill(student(), data, taught, at, board, seed=3),
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
