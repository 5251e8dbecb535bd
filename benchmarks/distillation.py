"""Distilled against undistilled: one small network of the quickstart's space on 5,000 digits.

python benchmarks/distillation.py -o runs/distillation                    # three seeds
python benchmarks/distillation.py --record benchmarks/results             # distillation.json there
python benchmarks/distillation.py -o runs/try --seeds 1 --epochs 2        # does it run?

Every student has the same architecture, first weights, order of images and epochs; only what it
learns from differs. The teacher is the largest network of the space, trained by labels; a board's
second one is the same network from another seed. A student reads the test images once, at its end.
Folders are taken up, so a run that is stopped goes on; its seconds are those of all calls. The
whole ends in a `report.html` whose rows are what was learned from.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import study_report
import torch
from stopwatch import Stopwatch

import spacelang
from spacelang.backends.torch.data.datasets import Dataset, open_data
from spacelang.backends.torch.distillation.distill import BoardLesson, Lesson, distill, engine_of
from spacelang.backends.torch.distillation.lesson import board_of
from spacelang.backends.torch.distillation.logits.asked import write_store
from spacelang.backends.torch.distillation.logits.replay import Replay
from spacelang.backends.torch.distillation.logits.store import About
from spacelang.backends.torch.distillation.teacher import Teacher, open_teacher
from spacelang.backends.torch.runs.progress import progress
from spacelang.backends.torch.runs.run import environment
from spacelang.backends.torch.training.evaluate import evaluate_test
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.training import Trained, train
from spacelang.files import atomic_write
from spacelang.ir.graph import Graph
from spacelang.passes.specialize import specialize

SEED, STORED_EPOCHS, DATA = 0, 10, "mnist5k"
ABOUT = (
    "One small network, by what it learned from; its teacher is the largest network of its space."
)
RECIPE = Recipe(epochs=30, batch_size=64, lr=2e-3, warmup_epochs=2, aug="digits", val_interval=5)
TEACHERS, OTHER_SEED = ("teacher", "second"), 1000  # between a seed and that of its second teacher
# What a student learns from; None is labels alone, `board` (Cream) has settings of its own: its
# matching network is to have a second-order step in each epoch, which is of 47 steps.
BOARD: Mapping[str, Any] = {"teachers": 2, "update_every": 20}
LAYERS = ("encoder[{0,1}] = encoder[{1,4}]",)  # of the student, and of its teacher
LESSONS: Mapping[str, Mapping[str, Any] | None] = {
    "labels": None,
    "soft": {"losses": ("cross_entropy=0.1", "soft_cross_entropy=0.9"), "temperature": 2.0},
    "hard": {"losses": ("cross_entropy=0.5", "hard_cross_entropy=0.5")},
    "stored": {"losses": ("soft_labels",)},
    "minivit": {
        "losses": ("soft_cross_entropy", "relations", "hidden_relations=0.1"),
        "attention": ("encoder[{0,1}].attn.qkv = encoder[{1,4}].attn.qkv",),
        "hidden": LAYERS,
    },
    "introspective": {  # CDARTS
        "losses": ("cross_entropy", "introspection_kl"),
        "outputs": LAYERS,
        "temperature": 2.0,
    },
    "board": BOARD,
}


def networks() -> tuple[Graph, Graph]:
    """The student, two narrow layers, and the teacher, the largest network."""
    space = spacelang.load("quickstart.space")
    small = {"width": 32, "depth": 2}
    small |= {f"encoder[{n}].{what}": 1 for n in range(2) for what in ("heads", "ratio")}
    return specialize(space, small), specialize(space, space.decisions.extreme("largest"))


def stored(folder: Path, teacher: Teacher, data: Dataset, epochs: int) -> Replay:
    """The teacher's four likeliest digits, of ten epochs or as many as there are."""
    about = About.of(teacher.name, teacher.digest, data, RECIPE.aug, seed=SEED, k=4)
    write_store(folder, teacher, data, about, epochs=min(epochs, STORED_EPOCHS))
    return Replay(folder)


def lesson_of(
    kind: str, settings: Mapping[str, Any], recipe: Recipe, data: Dataset, folder: Path
) -> Lesson | BoardLesson:
    """What a student learns from, by the teachers of a seed's folder."""
    teacher = open_teacher(str(folder / "teacher"), data)
    if kind == "board":
        board = (teacher, open_teacher(str(folder / "second"), data))
        return BoardLesson(board_of(recipe, settings), board)
    engine = engine_of(recipe, settings)
    if engine.reads:
        return Lesson(engine, stored=stored(folder / "store", teacher, data, recipe.epochs))
    return Lesson(engine, teacher)


def run(folder: Path, epochs: int, seed: int, kinds: list[str]) -> dict[str, dict[str, float]]:
    """The scores of teachers and their students, by what they learned from."""
    data, recipe = open_data(DATA), replace(RECIPE, epochs=epochs)
    student, large = networks()
    found: dict[str, dict[str, float]] = {}

    def timed(name: str) -> Stopwatch:
        return Stopwatch(folder / f"{name}.seconds.json")

    def note(name: str, made: Trained, watch: Stopwatch) -> None:
        score = evaluate_test(made.model, data)
        last, cost = made.log[-1], (large if name in TEACHERS else student).cost({})
        found[name] = {
            "test": score.accuracy,
            "validation": float(str(last["validation_accuracy"])),
            "params": cost.params,
            "macs": cost.macs,
            "seconds": watch.seconds,
        }
        print(f"seed {seed}  {name:<13} {found[name]}", flush=True)

    with progress("quiet") as told:
        for name, number in zip(TEACHERS, (seed, seed + OTHER_SEED), strict=True):
            if name == TEACHERS[0] or "board" in kinds:
                with timed(name) as watch:
                    made = train(large, data, recipe, folder / name, seed=number, reporter=told)
                note(name, made, watch)
        for kind in kinds:
            settings, place = LESSONS[kind], folder / kind
            with timed(kind) as watch:
                if settings is None:
                    made = train(student, data, recipe, place, seed=seed, reporter=told)
                else:
                    lesson = lesson_of(kind, settings, recipe, data, folder)
                    made = distill(student, data, recipe, place, lesson, seed=seed, reporter=told)
            note(kind, made, watch)
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("-o", "--output", type=Path, default=Path("runs/distillation"))
    options.add_argument(
        "--record", type=Path, help="where distillation.json goes, if not to the output"
    )
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--epochs", type=int, default=RECIPE.epochs)
    options.add_argument("--lessons", nargs="*", choices=list(LESSONS), default=list(LESSONS))
    given = options.parse_args()
    torch.set_num_threads(2)
    student, large = networks()
    sizes = {"student": student.cost({}).params, "teacher": large.cost({}).params}
    seeds: list[dict[str, dict[str, float]]] = []
    for seed in range(given.seeds):
        seeds.append(run(given.output / f"seed-{seed}", given.epochs, seed, given.lessons))
        record = {"epochs": given.epochs, "params": sizes, "seeds": seeds}
        text = json.dumps({**record, "environment": environment()}, indent=1) + "\n"
        kept = given.record or given.output
        kept.mkdir(parents=True, exist_ok=True)
        atomic_write(kept / "distillation.json", text)
        study_report.write(
            given.output, "distillation", ABOUT, student, open_data(DATA), seeds, "labels",
            f"python benchmarks/distillation.py --seeds {len(seeds)} --epochs {given.epochs}",
        )  # fmt: skip
    print(f"\nstudent {sizes['student']:,} parameters, teacher {sizes['teacher']:,}")
    print(f"{'learned from':<13}  test mean  spread   against labels, seed by seed")
    for name in seeds[0]:
        mean, spread = study_report.spread_of(seeds, name)
        gains = [f"{seed[name]['test'] - seed['labels']['test']:+.3f}" for seed in seeds
                 if "labels" in seed]  # fmt: skip
        print(f"{name:<13}  {mean:9.4f}  {spread:.4f}   {', '.join(gains)}")


if __name__ == "__main__":
    main()
