"""`distill`: a student trained by a teacher, or by a store of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import click

from spacelang.cli import options, runs
from spacelang.cli.output import emit, exact, pairs, say
from spacelang.cli.train import recipe_of, run_options, shown
from spacelang.manifest import MANIFEST

# How a teacher is opened: what each option is called in settings.json too.
TEACHER = ("teacher", "teacher_arch", "teacher_weights", "teacher_untrained", "teacher_norm")
LEARNED = ("losses", "attention", "hidden", "temperature", "heads")


def teacher(function: Callable[..., Any]) -> Callable[..., Any]:
    """--teacher and how it is opened."""
    for option in reversed((
        click.option("--teacher", metavar="WHO",
                     help="A folder of `train` or `extract` (whose source runs), or timm:NAME."),
        click.option("--teacher-arch", metavar="FILE",
                     help="Of a run: its network that teaches.  [the largest]"),
        click.option("--teacher-weights", metavar="FILE",
                     help="Of timm:NAME: all of its tensors, .safetensors or .pt."),
        click.option("--teacher-untrained", is_flag=True, default=None,
                     help="Let timm:NAME teach with random weights."),
        click.option("--teacher-norm", type=click.Choice(["own", "data"]),
                     help="timm:NAME sees images as timm normalises, or as the student.  [own]"),
    )):  # fmt: skip
        function = option(function)
    return function


def confirmed(asked: object, kept: Mapping[str, object]) -> None:
    """UsageError where the teacher that was kept is a folder whose source would run unasked."""
    known = kept.get("teacher")
    if asked is None and isinstance(known, str):
        folder = Path(known)
        if (folder / MANIFEST).is_file() and not runs.is_run(folder):
            raise click.UsageError(
                f"--teacher {known} is missing: its source runs, so say it again"
            )


def opened(given: Mapping[str, object]) -> dict[str, object]:
    """The options of a teacher, as a backend opens it."""
    arch = given.get("teacher_arch")
    return {
        "arch": None if arch is None else options.read_assignment(cast(str, arch)),
        "weights": given.get("teacher_weights"),
        "untrained": bool(given.get("teacher_untrained")),
        "norm": given.get("teacher_norm") or "own",
    }


@click.command(short_help="Train a student by a teacher, or by its stored outputs.")
@options.space
@options.arch
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
@run_options
def distill(
    space: str,
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
    """Train SPACE, or with --arch one network of it, by what a teacher answers.

    A teacher is asked at every step, or a store is read that `spacelang store write` made, with
    the images that it was asked about. Losses are soft_cross_entropy, hard_cross_entropy,
    divergence, soft_labels (of a store), relations, hidden_relations, hidden_states, and
    cross_entropy for the labels. RUN is a run like those of `train`, and RUN alone goes on.
    """
    run = Path(output if output is not None else space)
    if output is None and not runs.is_run(run):
        raise click.UsageError("-o RUN is missing: where the run is kept")
    graph = options.load(space, settings)
    if arch is not None:
        from spacelang.passes.specialize import specialize

        chosen = options.read_assignment(arch)
        options.decided(graph, chosen, arch)
        graph = specialize(graph, chosen)
    before = runs.record_of(run) if runs.is_run(run) else {}
    kept = runs.kept(run)
    given = {name: flags.pop(name) for name in TEACHER}
    confirmed(given["teacher"], kept)
    given = {name: kept.get(name) if value is None else value for name, value in given.items()}
    store = store or cast("str | None", kept.get("store"))
    if given["teacher"] is None and store is None:
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
    images = runs.data_for(backend, spec, graph)
    place = work(backend, "device")(device)
    bad = on_bad or kept.get("on_bad") or learned.get("on_bad") or "error"
    lesson = work(backend, "lesson")(
        images, used, lessons(asked, learned, store is not None),
        teacher=given["teacher"], options=opened(given), store=store,
        on_bad=bad, device=place,
    )  # fmt: skip
    number = seed if seed is not None else before.get("seed", 42)
    with runs.together(backend, place, progress) as (told, first):
        made = work(backend, "distill")(
            graph, images, used, run, lesson,
            seed=number, keep=checkpoint_hist, device=place, reporter=told, on_nan=on_nan,
            settings=runs.settings_for(backend, spec, **given, store=store, on_bad=bad),
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
    asked: Mapping[str, object], learned: Mapping[str, object], stored: bool
) -> dict[str, object]:
    """Settings of the engine: what was asked for, else what the run was begun with."""
    from spacelang.engines.distillation import usual

    found = {
        name: learned[name] for name in LEARNED if name in learned and asked[name] in (None, ())
    }
    found |= {name: value for name, value in asked.items() if value not in (None, ())}
    if "losses" not in learned or asked["losses"]:
        texts = {name: cast("tuple[str, ...]", found.get(name, ())) for name in LEARNED[:3]}
        losses, attention, hidden = texts.values()
        found["losses"] = usual(losses, stored=stored, attention=attention, hidden=hidden)
    return found
