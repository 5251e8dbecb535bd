"""What cannot be searched or learned is refused on the command line, before a folder is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cells import cells
from command import good, refused
from lessons import SPACE
from test_engines_cream import SPACE as PATHS

import spacelang
from spacelang.backends.torch.data.datasets import Dataset, open_data
from spacelang.backends.torch.searching.cycles import search_program
from spacelang.backends.torch.searching.search import search_scratch
from spacelang.backends.torch.searching.train_and_search import search_own
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.diagnostics import Source, SpaceError, error
from spacelang.engines.baselines import RandomSearch
from spacelang.engines.cyclic_differentiable import CyclicDifferentiable
from spacelang.engines.prioritized_path import PrioritizedPath
from spacelang.engines.rehearse import Rehearsal, rehearse

QUICK = ("--epochs", "1", "-b", "20", "--warmup-epochs", "0", "--progress", "quiet")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A space, images of ten classes and of two, and a run on each."""
    folder = tmp_path_factory.mktemp("refusals")
    (folder / "d.space").write_text(SPACE)
    rng = np.random.default_rng(0)
    for name, classes in (("ten", 10), ("two", 2)):
        labels = np.arange(60) % classes
        images = rng.integers(0, 255, (60, 8, 8)).astype(np.uint8)
        np.savez(folder / f"{name}.npz", images=images, labels=labels)
        words = ("--set", f"classes={classes}", "--data", folder / f"{name}.npz")
        good("train", folder / "d.space", *words, "-o", folder / f"run-{name}", *QUICK)
    return folder


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("search PLACE/d.space --engine prioritized_path", "cannot take decisions of kind dim"),
        ("search PLACE/d.space --engine cyclic_differentiable", "has no program"),
        ("search PLACE/d.space --engine space_evolution", "no range of digits can move"),
        ("search PLACE/d.space --engine contraction -s bounds=params<=9", "at most 9"),
        ("search PLACE/d.space --engine random --scratch --where params<=9", "at most 9"),
        ("search PLACE/run-ten --engine evolution --where params<=9", "at most 9"),
        ("distill PLACE/d.space --teacher PLACE/run-two", "run-two was trained on two.npz"),
        ("distill PLACE/d.space --teacher PLACE/run-ten --on-bad skip", "there is none"),
        ("distill PLACE/d.space --teacher timm:none --teacher-untrained", "no model none"),
        ("distill PLACE/d.space --store PLACE/run-ten", "no store"),
    ],
)
def test_nothing_is_made_for_what_cannot_be(
    words: str, says: str, place: Path, tmp_path: Path
) -> None:
    given = [word.replace("PLACE", str(place)) for word in words.split()]
    data = [] if "run-ten --engine" in words else ["--data", place / "ten.npz"]
    told = refused(*given, *data, "-o", tmp_path / "out", "--progress", "quiet")
    assert says in told
    assert not (tmp_path / "out").exists()


class Engine:
    """One that says when it began, and refuses what it is told to."""

    def __init__(self, wrong: bool) -> None:
        self.wrong, self.begun, self.length = wrong, False, 0

    def run(self, space: object, trainer: Rehearsal, seed: int):
        self.length = trainer.steps("train")
        if self.wrong:
            raise SpaceError(error("SP701", "no"))
        try:
            trainer.probe([], None)
        except Exception:
            pytest.fail("it can be caught")
        self.begun = True
        yield None


def test_a_rehearsal_ends_at_the_first_work() -> None:
    engine = Engine(wrong=False)
    rehearse(engine, None, Rehearsal(steps=lambda part: 7), 0)
    assert (engine.begun, engine.length) == (False, 7)
    with pytest.raises(SpaceError):
        rehearse(Engine(wrong=True), None, Rehearsal(steps=lambda part: 7), 0)


def own(engine: PrioritizedPath, data: Dataset, folder: Path) -> None:
    graph = spacelang.load(Source("<paths>", PATHS))
    search_own(engine, graph, data, Recipe(recalibrate=100), folder)


def scratch(engine: RandomSearch, data: Dataset, folder: Path) -> None:
    graph = spacelang.load(Source("<paths>", PATHS))
    search_scratch(engine, graph, data, Recipe(), folder)


def cycles(engine: CyclicDifferentiable, data: Dataset, folder: Path) -> None:
    search_program(engine, cells(), data, Recipe(), folder)


@pytest.mark.parametrize(
    ("search", "engine", "writes"),
    [
        (own, PrioritizedPath(), "answers.jsonl"),
        (scratch, RandomSearch(2), "scores.jsonl"),
        (cycles, CyclicDifferentiable(regular_on=("pool", "skip")), "program/manifest.json"),
    ],
)
def test_what_is_refused_late_takes_back_what_it_wrote(
    search: Callable[[object, Dataset, Path], None],
    engine: object,
    writes: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of it, with the folders above; and nothing that others put there in the meantime."""
    folder = tmp_path / "runs" / "new" / "run"
    theirs = [folder / "notes.txt", folder / "more" / "notes.txt", folder.parent / "notes.txt"]
    others = False

    def refuse(*given: object) -> None:
        assert (folder / "run.json").exists()
        assert (folder / writes).exists()
        for place in theirs if others else ():
            place.parent.mkdir(exist_ok=True)
            place.write_text("theirs")
        raise SpaceError(error("SP701", "refused late"))

    monkeypatch.setattr(type(engine), "run", refuse)
    for module in ("train_and_search", "search"):
        monkeypatch.setattr(
            f"spacelang.backends.torch.searching.{module}.rehearse", lambda *given: None
        )
    data = open_data("digits")
    with pytest.raises(SpaceError, match="refused late"):
        search(engine, data, folder)
    assert list(tmp_path.iterdir()) == []
    others = True
    for _ in range(2):  # the second time the folder is there
        with pytest.raises(SpaceError, match="refused late"):
            search(engine, data, folder)
        assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(theirs)
