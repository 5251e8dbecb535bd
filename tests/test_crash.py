"""Runs and searches that are killed or meet a bad disk, again and again: nothing finished is lost, no
file is unreadable, and in the end every bit is that of a run that was left alone."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
import torch
from cells import cells
from lessons import MINIVIT, a_teacher, learn, student
from lessons import RECIPE as LESSON
from searches import (
    ALONE,
    ANEW,
    CREAM_RECIPE,
    EVOLUTION,
    MOVING,
    SHORT,
    content,
    contraction,
    cream,
    small_digits,
    spaces,
)
from test_cycles import ENGINE as CYCLES
from test_cycles import RECIPE as CYCLES_RECIPE
from unreliable import Unreliable, calls_of, die, full, install

from spacelang import files, journal
from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.distillation.distill import distill
from spacelang.backends.torch.distillation.lesson import BoardLesson, board_of
from spacelang.backends.torch.distillation.logits.asked import write_store
from spacelang.backends.torch.distillation.logits.replay import Replay
from spacelang.backends.torch.distillation.logits.store import About
from spacelang.backends.torch.runs.run import read_graph, read_log, read_record
from spacelang.backends.torch.searching.cycles import search_program
from spacelang.backends.torch.searching.search import search, search_scratch
from spacelang.backends.torch.searching.train_and_search import search_own
from spacelang.backends.torch.searching.under_way import FOLDER as UNDER_WAY
from spacelang.backends.torch.training.checkpoint import Checkpoints
from spacelang.backends.torch.training.training import train
from spacelang.engines.cyclic_differentiable import CyclicDifferentiable
from spacelang.engines.distillation import Distillation
from spacelang.engines.paths import SinglePath
from spacelang.engines.prioritized_path import PrioritizedPath
from spacelang.engines.protocol import EpochEnded
from spacelang.engines.teacher_board import TeacherBoard
from spacelang.journal import read_journal
from spacelang.passes.specialize import specialize

Work = Callable[[Path], object]  # something that is done in a folder, going on where it was left


@pytest.fixture(scope="module")
def data() -> Dataset:
    return small_digits(120, 60)


@pytest.fixture(scope="module")
def works(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Work]:
    """Training, distillation, and every engine that trains or searches."""
    place = tmp_path_factory.mktemp("works")
    of = spaces(place, data)
    front = replace(EVOLUTION, objectives=("accuracy", "params"))
    teachers = tuple(a_teacher(seed) for seed in (1, 2))
    about = About.of(teachers[0].name, teachers[0].digest, data, "digits", seed=9, k=4)
    write_store(place / "store", teachers[0], data, about, epochs=2)
    board = BoardLesson(board_of(LESSON, {"teachers": 2, "update_every": 2}), teachers)
    stored = {"losses": ("soft_labels",)}
    return {
        "train": lambda at: train(of.digits, data, SHORT, at, seed=3),
        "evolution": lambda at: search(
            EVOLUTION, of.digits, of.trained, data, at, seed=1, baselines=True
        ),
        "front": lambda at: search(front, of.digits, of.trained, data, at, seed=1),
        "contraction": lambda at: search_scratch(
            contraction(population=3, keep=2), of.digits, data, ANEW, at, seed=5
        ),
        "prioritized_path": lambda at: search_own(
            cream(epochs=3), of.paths, data, CREAM_RECIPE, at, seed=2, baselines=True
        ),
        "space_evolution": lambda at: search_own(
            MOVING, of.ranges, data, ALONE, at, seed=4, hull=of.hull
        ),
        "cyclic_differentiable": lambda at: search_program(
            CYCLES, cells(), data, CYCLES_RECIPE, at, seed=3
        ),
        "distill": lambda at: learn(at, data, MINIVIT, teacher=teachers[0]),
        "distill_stored": lambda at: learn(at, data, stored, stored=Replay(place / "store")),
        "distill_board": lambda at: distill(student(), data, LESSON, at, board, seed=3),
    }


NAMES = (
    "train", "evolution", "front", "contraction", "prioritized_path", "space_evolution",
    "cyclic_differentiable", "distill", "distill_stored", "distill_board",
)  # fmt: skip
KILLS = {"train": 80} | dict.fromkeys(NAMES[1:], 25)


def readable(folder: Path) -> int:
    """Every file of a folder can be read; the epochs that it has kept."""
    for path in folder.rglob("*.jsonl"):
        if path.name == "log.jsonl":
            read_log(path.parent)
        else:
            read_journal(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is fallen back from
        spaces = (
            p.parent for p in folder.rglob("manifest.jsonl") if p.parent.parent.name != UNDER_WAY
        )
        return sum(map(of_space, spaces)) + of_networks(folder)


def of_space(place: Path) -> int:
    """The epochs up to the last checkpoint of a space."""
    found = Checkpoints(place, graph=str(read_record(place)["graph"])).load()
    if found is None:
        return 0
    epochs = sum(int(str(line["step"])) <= found.record.step for line in read_log(place))
    assert found.record.epoch == epochs, "what the manifest says of it"
    return epochs


def of_networks(folder: Path) -> int:
    """The epochs of networks that are trained anew: of those with a score, and of those under way."""
    record = read_record(folder) if (folder / "run.json").is_file() else {}
    if record.get("kind") != "scratch":
        return 0
    scores = read_journal(folder / "scores.jsonl").entries[1:]
    scored = [specialize(read_graph(folder), cast(Any, s["assignment"])).hash for s in scores]
    epochs = len(scored) * cast(Any, record["recipe"])["epochs"]
    for manifest in folder.glob(f"{UNDER_WAY}/[!.]*/manifest.jsonl"):
        last = read_journal(manifest).entries[-1:]
        if last and last[0]["graph"] not in scored:
            found = Checkpoints(manifest.parent, graph=str(last[0]["graph"])).load()
            epochs += 0 if found is None else found.record.epoch
    return epochs


def tell(end: int) -> None:
    """Write a byte to a pipe for each epoch that ended and was seen to: who asks an engine to go on has
    kept what there was."""

    def telling(run: Callable[..., Iterator[object]]) -> Callable[..., Iterator[object]]:
        def told(*given: object) -> Iterator[object]:
            for event in run(*given):
                yield event
                if isinstance(event, EpochEnded):
                    os.write(end, b".")

        return told

    for engine in (SinglePath, Distillation, TeacherBoard, PrioritizedPath, CyclicDifferentiable):
        engine.run = telling(engine.run)  # type: ignore[method-assign]


def life(action: Callable[[], object], fatal: int) -> tuple[bool, int]:
    """An action in a process that dies at its k-th disk call: whether it died, epochs it finished."""
    told, telling = os.pipe()
    child = os.fork()
    if child == 0:
        tell(telling)
        torch.set_num_threads(1)
        vars(files)["os"] = vars(journal)["os"] = Unreliable(fatal, die)
        try:
            action()
        finally:
            os._exit(0)
    os.close(telling)
    _, status = os.waitpid(child, 0)
    finished = len(os.read(told, 4096))
    os.close(told)
    return os.WIFSIGNALED(status), finished


def points(count: int, wanted: int) -> list[int]:
    """So many different calls of 1..count, evenly spread; all where there are no more."""
    wanted = min(count, wanted)
    return [1 + i * count // wanted for i in range(wanted)]


def killed_runs(work: Work, folder: Path, wanted: int) -> int:
    """Kill a run at many calls, each time in a folder of its own; how many were killed and went on."""
    whole = folder / "whole"
    count = calls_of(lambda: work(whole))
    for fatal in points(count, wanted):
        place = folder / str(fatal)
        died, finished = life(lambda at=place: work(at), fatal)
        assert died
        assert readable(place) >= finished, f"call {fatal}: a finished epoch is lost"
        work(place)
        assert content(place) == content(whole), f"call {fatal}"
        assert not [f.name for f in place.rglob(".*.tmp-*")], "nothing is left behind"
        shutil.rmtree(place)
    return len(points(count, wanted))


def test_training_killed_anywhere(works: dict[str, Work], tmp_path: Path) -> None:
    assert killed_runs(works["train"], tmp_path, 24) == 24


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_200_kills(name: str, works: dict[str, Work], tmp_path: Path) -> None:
    kills = killed_runs(works[name], tmp_path, KILLS[name])
    print(f"{name}: {kills} runs killed, each at another disk call")
    assert kills == KILLS[name]
    assert sum(KILLS.values()) >= 200


def killed_again_and_again(work: Work, folder: Path, wanted: int) -> int:
    """Kill one run over and over, at calls drawn at random; how often it was."""
    whole, place = folder / "whole", folder / "parts"
    count = calls_of(lambda: work(whole))
    chance, kills = Random(wanted), 0
    while kills < wanted:
        died, _ = life(lambda: work(place), chance.randint(1, max(6, 2 * count // wanted)))
        if not died:
            break
        kills += 1
        if place.exists():
            readable(place)
    work(place)
    assert content(place) == content(whole)
    return kills


@pytest.mark.parametrize("name", NAMES[1:])
def test_killed_5_times(name: str, works: dict[str, Work], tmp_path: Path) -> None:
    assert killed_again_and_again(works[name], tmp_path, 5) >= 3


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_killed_50_times(name: str, works: dict[str, Work], tmp_path: Path) -> None:
    kills = killed_again_and_again(works[name], tmp_path, 50)
    print(f"{name}: one run killed {kills} times")
    assert kills == 50


def failing_calls(work: Work, folder: Path, wanted: int) -> int:
    """Let calls fail, each in a run of its own: told as what it is, and the run goes on afterwards."""
    whole = folder / "whole"
    count = calls_of(lambda: work(whole))
    for number, fatal in enumerate(points(count, wanted)):
        place = folder / str(fatal)
        disk = Unreliable(fatal, full, sticky=number % 2 == 1)
        with pytest.MonkeyPatch.context() as patch:
            install(patch, disk)
            told = ""
            try:
                work(place)
            except OSError as failed:
                told = str(failed)
        # A name that stays in the file of a lock hurts nobody.
        unseen = set(disk.struck) == {"ftruncate"} and not told
        assert unseen or "No space left" in told, f"call {fatal}"
        readable(place)
        work(place)
        assert content(place) == content(whole), f"call {fatal}"
        shutil.rmtree(place)
    return len(points(count, wanted))


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_fails(name: str, works: dict[str, Work], tmp_path: Path) -> None:
    assert failing_calls(works[name], tmp_path, 5) == 5


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_every_call_fails_once(name: str, works: dict[str, Work], tmp_path: Path) -> None:
    calls = failing_calls(works[name], tmp_path, 10**6)
    print(f"{name}: {calls} disk calls, each failed in a run of its own")
    assert calls >= 15
