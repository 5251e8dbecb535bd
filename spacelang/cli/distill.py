"""`distill`: a student trained by a teacher, or by a store of its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import click

from spacelang.cli import options, runs
from spacelang.cli.output import emit, exact, pairs, say
from spacelang.cli.student import (
    STUDENT,
    TEACHER,
    confirmed,
    learner,
    network,
    one_or_all,
    opened,
    student,
    teacher,
)
from spacelang.cli.train import recipe_of, run_options, shown

PAIRS = ("attention", "hidden", "outputs")
BOARD = ("images", "update_every", "match_lr")
LEARNED = ("losses", *PAIRS, "temperature", "heads", "ensemble", "joined", *BOARD)


@click.command(short_help="Train a student by a teacher, or by its stored outputs.")
@click.argument("space", metavar="SPACE", required=False)
@options.settings
@options.arch
@student
@click.option("-o", "--output", metavar="RUN", help="The run folder; not needed to go on in one.")
@runs.data
@teacher
@click.option("--store", metavar="DIR", help="Outputs that `store write` kept, instead of asking.")
@click.option("--on-bad", type=click.Choice(["error", "skip", "recompute"]),
              help="What is done about a record that is damaged or missing.  [error]")  # fmt: skip
@click.option("--loss", "losses", multiple=True, metavar="NAME[@HEAD][=WEIGHT]",
              help="A loss and its weight: cross_entropy=0.1; of one of several heads "
                   "cross_entropy@head=0.1. May be repeated.")  # fmt: skip
@click.option("--temperature", type=float, help="Of the answers that are compared.  [1]")
@click.option("--attention", multiple=True, metavar="STUDENT=TEACHER",
              help="Queries, keys and values to compare: 'blocks[{1,3}].attn.qkv = "
                   "blocks.{3,9}.attn.qkv'. May be repeated.")  # fmt: skip
@click.option("--relation-heads", "heads", type=int, help="Of `relations`.  [1]")
@click.option("--hidden", multiple=True, metavar="STUDENT=TEACHER",
              help="Hidden states to compare. May be repeated.")  # fmt: skip
@click.option("--outputs", multiple=True, metavar="STUDENT=TEACHER",
              help="What the two say before their logits, for introspection_*.  [all outputs that"
                   " both have]")  # fmt: skip
@click.option("--ensemble", type=click.Choice(["learned", "even"]),
              help="The weights of these outputs.  [learned]")  # fmt: skip
@click.option("--joined", type=click.Choice(["concatenated", "summed"]),
              help="How these outputs are put together.  [concatenated]")  # fmt: skip
@click.option("--match-every", "update_every", type=int, metavar="STEPS",
              help="Of several teachers: between two updates of what matches them by the student's"
                   " next loss; 0 for none.  [200]")  # fmt: skip
@click.option("--match-lr", type=float, help="The learning rate of that.  [0.0001]")
@click.option("--match-images", "images", type=int, help="A teacher is remembered by.  [4]")
@run_options
def distill(
    space: str | None,
    settings: Mapping[str, object],
    arch: str | None,
    output: str | None,
    data: str | None,
    store: str | None,
    on_bad: str | None,
    seed: int | None,
    checkpoint_hist: int,
    file: str | None,
    on_nan: str,
    log_to: tuple[str, ...],
    device: str,
    backend: str,
    progress: str,
    as_json: bool,
    **flags: object,
) -> None:
    """Train SPACE, with --arch one network of it, or --student, by what a teacher answers.

    A teacher is asked at every step, or a store is read that `spacelang store write` made, with
    the images that it was asked about. Losses are soft_cross_entropy, hard_cross_entropy,
    divergence, soft_labels (of a store), relations, hidden_relations, hidden_states,
    introspection_kl (_cosine, _mse, _smooth_l1), and cross_entropy for the labels. RUN is a run
    like those of `train`, and RUN alone goes on.
    """
    run, chosen = learner(space, output, {name: flags.pop(name) for name in STUDENT})
    kept = runs.kept(run)
    before = runs.record_of(run) if runs.is_begun(run) else {}
    given = {name: flags.pop(name) for name in TEACHER}
    confirmed(given["teacher"], kept)
    given = {n: kept.get(n) if value in (None, ()) else value for n, value in given.items()}
    teachers = opened(given)
    store = store or cast("str | None", kept.get("store"))
    if not teachers and store is None:
        raise click.UsageError("--teacher WHO or --store DIR is missing: who teaches")
    if on_bad is not None and store is None:
        raise click.UsageError("--on-bad is about the records of a --store, and there is none")
    asked = {name: flags.pop(name) for name in LEARNED}
    known = before.get("distillation")
    learned = cast("dict[str, object]", known) if isinstance(known, dict) else {}
    work = runs.work
    usual: dict[str, object] = {}
    if store is not None:
        usual["aug"] = work(backend, "store_aug")(store)
    used = recipe_of(backend, before, file, flags, usual)
    spec = data if data is not None else runs.data_of(run)
    number = seed if seed is not None else runs.number_in({"seed": 42, **before}, "seed")
    who = chosen["student"]
    if who is None and any(value is not None for value in chosen.values()):
        raise click.UsageError("--student-weights, --image and --channels are of a --student")
    if who is not None:
        if arch or settings or (space is not None and output is not None):
            told = "--student is of no SPACE: leave SPACE, --arch and --set out"
            raise click.UsageError(told)
        side, channels = (cast("int | None", chosen[name]) for name in ("image", "channels"))
        images = runs.data_of_size(backend, spec, side, channels)
        weights = chosen["student_weights"]
        graph = work(backend, "student")(who, images, seed=number, weights=weights)
    else:
        graph = network(space, settings, arch, output)
        images = runs.data_for(backend, spec, graph)
    place = work(backend, "device")(device)
    bad = on_bad or kept.get("on_bad") or learned.get("on_bad") or "error"
    read = learned.get("epochs")  # of the store, which may have grown since
    lesson = work(backend, "lesson")(
        images, used, lessons(asked, learned, store is not None, len(teachers) > 1),
        teachers=teachers, store=store, on_bad=bad, device=place,
        epochs=read if isinstance(read, int) else None,
    )  # fmt: skip
    with runs.together(backend, place, progress) as (told, first):
        made = work(backend, "distill")(
            graph, images, used, run, lesson,
            seed=number, keep=checkpoint_hist, device=place, reporter=told, on_nan=on_nan,
            settings=runs.settings_for(
                backend, spec, **{n: one_or_all(value) for n, value in given.items()}, **chosen,
                store=store, on_bad=bad,
            ),
            log_to=log_to,
        )  # fmt: skip
    if not first:
        return
    last: Mapping[str, Any] = made.log[-1]
    report = str(run / "report.html")
    if as_json:
        found = {"run": str(run), "space": graph.name, "epochs": last["epoch"], "steps": made.steps}
        found |= {"weights": made.weights, "last": dict(last), "log": list(made.log)}
        emit({**found, "losses": list(lesson.engine.losses), "report": report})
        return
    say(f"{run}: {graph.name} distilled for {last['epoch']} epochs, {exact(made.steps)} steps")
    rows = [(f"  {name}", f"{value:.4g}") for name, value in last.items() if shown(name, value)]
    pairs([*rows, ("  report", report)])


def lessons(
    asked: Mapping[str, object], learned: Mapping[str, object], stored: bool, board: bool
) -> dict[str, object]:
    """Settings of the engine: what was asked for, else what the run was begun with."""
    from spacelang.engines.distillation import usual

    found = {
        name: learned[name] for name in LEARNED if name in learned and asked[name] in (None, ())
    }
    found |= {name: value for name, value in asked.items() if value not in (None, ())}
    if "losses" not in learned or asked["losses"]:
        pairs = {name: cast("tuple[str, ...]", found.get(name, ())) for name in PAIRS}
        named = cast("tuple[str, ...]", found.get("losses", ()))
        found["losses"] = usual(named, stored=stored, board=board, **pairs)
    return found
