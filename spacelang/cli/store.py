"""`store`: outputs of a teacher, written once and read at every training after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import click
from click.exceptions import Exit

from spacelang.cli import options, runs
from spacelang.cli.errors import UNVERIFIED
from spacelang.cli.output import emit, exact, pairs, say, working
from spacelang.cli.student import TEACHER, confirmed, one_or_all, opened
from spacelang.cli.student import teacher as teacher_options

WRITTEN = ("aug", "epochs", "k", "temperature", "seed")
SEEN = ("data", "image", "channels")
USUAL: dict[str, object] = {"aug": "none", "k": 10, "temperature": 1.0, "seed": 0}


@click.group(short_help="Write, look into and verify stored outputs of a teacher.")
def store() -> None:
    """Outputs of a teacher for the training images, varied anew in every epoch.

    Of each image the K largest probabilities are kept. `spacelang distill --store DIR` reads them.
    """


@store.command(short_help="Ask a teacher and keep its answers, or go on with it.")
@click.argument("folder", metavar="DIR")
@teacher_options
@runs.data
@click.option(
    "--image",
    type=click.IntRange(1),
    metavar="SIDE",
    help="The side of images of files; a teacher that is a run says it itself.",
)
@click.option("--channels", type=click.IntRange(1), help="Of images of files.")
@click.option("--aug", metavar="NAME", help="How images vary, as in training.  [none]")
@click.option("--epochs", type=click.IntRange(1, 100_000), help="How many epochs are kept.")
@click.option("-k", type=click.IntRange(1, 1 << 20), help="Probabilities kept of an image.  [10]")
@click.option("--temperature", type=float, help="Of the teacher's logits.  [1]")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), help="Of the augmentation.  [0]")
@click.option("--shard", type=click.IntRange(1), default=1 << 16, show_default=True,
              help="Records of a file; a crash loses those of an unfinished one.")  # fmt: skip
@runs.device
@runs.plain_backend
@runs.progress
@options.as_json
def write(
    folder: str,
    shard: int,
    device: str,
    backend: str,
    progress: str,
    as_json: bool,
    **given: object,
) -> None:
    """Ask a teacher about every training image in each of so many epochs, and keep what it says.

    The same command goes on where it stopped, and so does DIR alone, to the most epochs that were
    asked for; with more --epochs it adds some. It may run several times at once: each process
    takes epochs that no other writes.
    """
    place = Path(folder)
    kept = {**USUAL, **runs.kept(place)}
    confirmed(given["teacher"], kept)
    chosen = {n: kept.get(n) if value in (None, ()) else value for n, value in given.items()}
    for name, what in (("teacher", "WHO"), ("data", "DATA"), ("epochs", "N")):
        if chosen[name] in (None, ()):
            raise click.UsageError(f"--{name} {what} is missing")
    if len(teachers := opened(chosen)) > 1:
        told = "a store keeps the answers of one teacher: which of several is asked hangs on the"
        raise click.UsageError(f"{told} student as it is at a step")
    (who,) = teachers
    where = runs.work(backend, "device")(device)
    images = _images(backend, who[0], chosen)
    teacher = runs.work(backend, "teacher")(who[0], images, **who[1])
    more = {name: one_or_all(chosen[name]) for name in (*TEACHER, *SEEN[1:], *WRITTEN)}
    more["epochs"] = max(cast(int, chosen["epochs"]), cast(int, kept.get("epochs", 0)))
    settings = runs.settings_for(backend, cast(str, chosen["data"]), **more)
    with runs.work(backend, "progress")(progress) as told:
        made = runs.work(backend, "store_write")(
            place, teacher, images, shard=shard, device=where, reporter=told,
            begun=lambda: runs.keep(place, settings), **{n: chosen[n] for n in WRITTEN},
        )  # fmt: skip
    if as_json:
        emit({"store": folder, "epochs": made.epochs, "written": made.records,
              "busy": list(made.busy)})  # fmt: skip
        return
    say(f"{folder}: {exact(made.records)} records written")
    if made.busy:
        say(f"  {len(made.busy)} epochs are being written by other processes")


def _images(backend: str, teacher: str, chosen: Mapping[str, Any]) -> Any:
    """The images as the teacher takes them."""
    folder, spec = Path(teacher), chosen["data"]
    if runs.is_run(folder) and chosen["image"] is None:
        return runs.data_for(backend, spec, runs.run_graph(folder))
    return runs.data_of_size(backend, spec, chosen["image"], chosen["channels"])


@store.command(short_help="What a store holds.")
@click.argument("folder", metavar="DIR")
@click.option("--classes", type=click.IntRange(1), help="Of published files, which do not say.")
@runs.plain_backend
@options.as_json
def info(folder: str, classes: int | None, backend: str, as_json: bool) -> None:
    """Whose outputs a store holds, of which images, and how many epochs are finished.

    DIR may also be an epoch as TinyViT published them, logits_top100_epoch0.
    """
    found: dict[str, Any] = runs.work(backend, "store_info")(folder, classes)
    if as_json:
        emit(found)
        return
    say(folder)
    pairs([(f"  {name}", _shown(value)) for name, value in found.items() if value is not None])


@store.command(short_help="Read every record of a store.")
@click.argument("folder", metavar="DIR")
@click.option("--classes", type=click.IntRange(1), help="Of published files, which do not say.")
@runs.plain_backend
@options.as_json
def verify(folder: str, classes: int | None, backend: str, as_json: bool) -> None:
    """Read every block of a store and compare it with its checksum, and every record with sense.

    Exit 5: something is damaged. Published files have no checksums: only their sizes and the sense
    of each record can be looked at.
    """
    with working("verifying"):
        found: dict[str, list[str]] = runs.work(backend, "store_verify")(folder, classes)
    good = not any(found.values())
    if as_json:
        emit({"store": folder, "epochs": found, "ok": good})
    else:
        for name, wrong in found.items():
            say(f"{'damaged' if wrong else 'ok':<8}  {name}")
            for line in wrong[:20]:
                say(f"          {line}")
            if len(wrong) > 20:
                say(f"          and {len(wrong) - 20} more")
        say(f"{len(found)} epochs, all as written" if good else "NOT as written")
    if not good:
        raise Exit(UNVERIFIED)


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, cast("list[object]", value))) or "none"
    return exact(value) if isinstance(value, int) else str(value)
