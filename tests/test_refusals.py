"""What cannot be searched or learned is refused on the command line, before a folder is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command import good, refused
from lessons import SPACE

from spacelang.diagnostics import SpaceError, error
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
