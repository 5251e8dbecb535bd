"""Who learns and who teaches, as `distill` and `store write` are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from spacelang.cli import options, runs
from spacelang.files import function_of
from spacelang.manifest import MANIFEST

if TYPE_CHECKING:
    from spacelang.ir.graph import Graph

# How a student that is of no space is made, and how a teacher is opened: what each option is called
# in settings.json too.
STUDENT = ("student", "student_weights", "image", "channels")
TEACHER = ("teacher", "teacher_arch", "teacher_weights", "teacher_untrained", "teacher_norm")
MISSING = "SPACE or --student WHO is missing: who learns"


def student(function: Callable[..., Any]) -> Callable[..., Any]:
    """--student and how it is made."""
    for option in reversed((
        click.option("--student", metavar="WHO",
                     help="Instead of SPACE: timm:NAME, or FILE.py:FUNCTION (which runs)."),
        click.option("--student-weights", metavar="FILE",
                     help="All tensors that it begins with, .safetensors or .pt.  [drawn]"),
        click.option("--image", type=click.IntRange(1), metavar="SIDE",
                     help="Of --student: the side of images of files."),
        click.option("--channels", type=click.IntRange(1), help="Of --student: those of files."),
    )):  # fmt: skip
        function = option(function)
    return function


def teacher(function: Callable[..., Any]) -> Callable[..., Any]:
    """--teacher and how it is opened."""
    for option in reversed((
        click.option("--teacher", multiple=True, metavar="WHO",
                     help="A folder of `train` or `extract` (whose source runs), timm:NAME, or"
                          " FILE.py:FUNCTION (which runs). Of `distill` several make a board."),
        click.option("--teacher-arch", multiple=True, metavar="FILE",
                     help="Of a run: its network that teaches, several: a board.  [the largest]"),
        click.option("--teacher-weights", multiple=True, metavar="FILE",
                     help="Of timm:NAME or a function, in their order: all of its tensors,"
                          " .safetensors or .pt."),
        click.option("--teacher-untrained", is_flag=True, default=None,
                     help="Let timm:NAME teach with random weights."),
        click.option("--teacher-norm", type=click.Choice(["own", "data"]),
                     help="timm:NAME sees images as timm normalises, or as the student.  [own]"),
    )):  # fmt: skip
        function = option(function)
    return function


def learner(
    space: str | None, output: str | None, asked: Mapping[str, object]
) -> tuple[Path, dict[str, object]]:
    """The folder of a run, and how its student is made: as asked, or as the run that goes on."""
    if space is None and output is None:
        raise click.UsageError(MISSING)
    run = Path(output or space or "")
    goes_on = runs.is_begun(run) and (space is None or output is None)
    kept = runs.kept(run) if goes_on else {}
    confirmed(asked["student"], kept, "student")
    chosen = {name: kept.get(name) if value is None else value for name, value in asked.items()}
    if output is None and not goes_on:
        raise click.UsageError("-o RUN is missing: where the run is kept")
    if chosen["student"] is None and goes_on and not runs.is_run(run):
        raise click.UsageError(f"{run} trains a module: say which, --student WHO")
    return run, chosen


def network(
    space: str | None, settings: Mapping[str, object], arch: str | None, output: str | None
) -> Graph:
    """A student that is a space, or one network of it; RUN alone is one too."""
    address = space or output
    assert address is not None
    if space is None and not runs.is_run(Path(address)):
        raise click.UsageError(MISSING)
    graph = options.load(address, settings)
    if arch is None:
        return graph
    from spacelang.passes.specialize import specialize

    chosen = options.read_assignment(arch)
    options.decided(graph, chosen, arch)
    return specialize(graph, chosen)


def confirmed(asked: object, kept: Mapping[str, object], who: str = "teacher") -> None:
    """UsageError where what was kept is a folder or a file whose source would run unasked."""
    before = () if asked else several(kept.get(who))
    running = [known for known in before if _runs(known)]
    if not running:
        return
    if len(before) == 1:
        raise click.UsageError(f"--{who} {running[0]} is missing: its source runs, so say it again")
    # What is said replaces all that was kept.
    whole = " ".join(f"--{who} {known}" for known in before)
    told = f"--{who} is missing: the source of {', '.join(running)} runs, so say them all again"
    raise click.UsageError(f"{told}: {whole}")


def _runs(known: str) -> bool:
    """Whether what a text names runs when it is opened."""
    folder = Path(known)
    extracted = (folder / MANIFEST).is_file() and not runs.is_run(folder)
    return extracted or function_of(known) is not None


def several(value: object) -> tuple[str, ...]:
    """What was given or kept of an option: no text, one, or some."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(cast("Sequence[str]", value))


def one_or_all(value: object) -> object:
    """The texts of an option as settings keep them: one by itself, none as nothing."""
    if not isinstance(value, tuple):
        return value
    given = cast("tuple[str, ...]", value)
    if len(given) < 2:
        return given[0] if given else None
    return None if "-" in given else list(given)  # what came by stdin is not there again


def opened(given: Mapping[str, object]) -> list[tuple[str, dict[str, object]]]:
    """The teachers, each with its options as a backend opens it (UsageError where what was given
    goes to no teacher)."""
    who, archs, weights = (several(given.get(name)) for name in TEACHER[:3])
    usual: dict[str, object] = {"arch": None, "weights": None}
    usual["untrained"] = bool(given.get("teacher_untrained"))
    usual["norm"] = given.get("teacher_norm") or "own"
    if archs and len(who) > 1:
        told = "--teacher-arch is of one run: with several teachers each teaches by its largest"
        raise click.UsageError(told)
    if archs and weights:
        told = "--teacher-weights are of timm:NAME or a function, --teacher-arch is of a run"
        raise click.UsageError(told)
    if archs:
        taken = [options.read_assignment(arch) for arch in archs]
        return [(name, {**usual, "arch": arch}) for name in who for arch in taken]
    models = [name for name in who if _weighable(name)] if len(who) > 1 else who
    if weights and len(weights) != len(models):
        told = f"{len(weights)} --teacher-weights for {len(models)} teachers that take some"
        raise click.UsageError(told)
    given_to = dict(zip(models, weights, strict=True)) if weights else {}
    return [(name, {**usual, "weights": given_to.get(name)}) for name in who]


def _weighable(name: str) -> bool:
    return name.startswith("timm:") or function_of(name) is not None
