"""`extract`, `export` and `quickstart`: a network to take home, and the whole road to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spacelang import plugins
from spacelang.cli import options, runs
from spacelang.cli.errors import nearest
from spacelang.cli.output import both, emit, pairs, say, working
from spacelang.cli.search import engine_settings
from spacelang.cli.train import recipe
from spacelang.diagnostics import SpaceError, error
from spacelang.manifest import check_free, kind_of

if TYPE_CHECKING:
    from spacelang.ir.decision import Assignment

SUBNET = "subnet"
FORMATS = ("pt2", "onnx")
BEST = f"{runs.SEARCH}/evolution-best.json"


def recalibrate_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--recalibrate"""
    return click.option(
        "--recalibrate", type=click.IntRange(0, 10**9), metavar="N",
        help="Find its batch-norm statistics first, from N training images.  [as the run]",
    )(function)  # fmt: skip


@click.command(short_help="A network of its own: source, weights, and a proof of equality.")
@options.space
@options.arch
@click.option("-o", "--output", required=True, metavar="DIR", help="The folder to write.")
@recalibrate_option
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=0, show_default=True,
              help="Of the proof's inputs, and of weights that were never trained.")  # fmt: skip
@runs.backend
@options.as_json
def extract(
    space: str,
    settings: Mapping[str, object],
    arch: str | None,
    output: str,
    recalibrate: int | None,
    seed: int,
    backend: str,
    as_json: bool,
) -> None:
    """Take one network out of the supernet of a run, as source that needs PyTorch alone.

    SPACE is a run; of a space or an artifact the weights are untrained. Without --arch it is what
    evolution found. The network read back from DIR is proved equal to the supernet before DIR is
    there: bit for bit in float64, within 1e-6 in float32, outputs and gradients.
    """
    runs.alone("extract")
    folder = Path(output)
    check_free(folder, SUBNET)
    model, own = model_of(space, settings, backend, seed)
    assignment = assignment_of(space, arch)
    trained, began = own is not None, time.perf_counter()
    options.decided(model.graph, assignment, arch)
    settle(space, model, own, assignment, recalibrate, backend)
    model.extract(assignment)
    extracted = time.perf_counter() - began
    with working("proving"):
        made = runs.work(backend, "write_subnet")(
            model, assignment, folder, seed=seed, **runs.images_of(Path(space))
        )
    proved = time.perf_counter() - began - extracted
    if as_json:
        emit({
            "folder": output, "params": made.params, "assignment": dict(made.assignment),
            "trained": trained, "proof": [asdict(proof) for proof in made.proof],
            "seconds": {"extract": round(extracted, 3), "write and prove": round(proved, 3)},
        })  # fmt: skip
        return
    say(f"wrote {output}" + ("" if trained else " (its weights are untrained)"))
    rows = [("  params", both(made.params))]
    for proof in made.proof:
        worst = max(proof.outputs, proof.gradients)
        verdict = "equal to the supernet, bit for bit" if worst == 0 else f"within {worst:.1e}"
        rows.append((f"  {proof.dtype}", verdict))
    pairs([*rows, ("  extracted in", f"{extracted:.2f} s"), ("  proved in", f"{proved:.2f} s")])


@click.command(short_help="A network as .pt2 or .onnx, checked against eager.")
@options.space
@options.arch
@click.option("--format", "formats", default="pt2", show_default=True, metavar="FORMAT",
              help="pt2, onnx, or both with a comma.")  # fmt: skip
@click.option(
    "-o", "--output", metavar="DIR", help="Where the files go.  [beside a subnet's folder]"
)
@recalibrate_option
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=0, show_default=True,
              help="Of weights that were never trained.")  # fmt: skip
@runs.backend
@options.as_json
def export(
    space: str,
    settings: Mapping[str, object],
    arch: str | None,
    formats: str,
    output: str | None,
    recalibrate: int | None,
    seed: int,
    backend: str,
    as_json: bool,
) -> None:
    """Export a network by torch.export or to ONNX; what is written agrees with eager to 1e-5.

    SPACE is a folder that `extract` wrote, whose source runs, so one that you trust; or a run, an
    artifact or a space, with --arch where something is left to decide.
    """
    runs.alone("export")
    wanted = _formats(formats)
    runs.work(backend, "exportable")(wanted)
    source = Path(space)
    if kind_of(source) == SUBNET:
        if settings or arch is not None or recalibrate:
            given = "--set, --arch and --recalibrate"
            raise click.UsageError(f"a subnet is one network: {given} come too late for it")
        network, inputs = runs.work(backend, "open_subnet")(source)
        name, folder = source.resolve().name, source.resolve().parent
    else:
        model, own = model_of(space, settings, backend, seed)
        assignment = assignment_of(space, arch)
        options.decided(model.graph, assignment, arch)
        settle(space, model, own, assignment, recalibrate, backend)
        network = model.extract(assignment).eval()
        inputs = runs.work(backend, "example")(model.graph)
        name, folder = model.graph.name, Path()
    folder = Path(output) if output is not None else folder
    folder.mkdir(parents=True, exist_ok=True)
    write = runs.work(backend, "export")
    made: list[Any] = []
    with working("exporting", len(wanted)) as done:
        for ending in wanted:
            made.append(write(network, inputs, folder / f"{name}.{ending}"))
            done()
    if as_json:
        emit({"exports": [{"file": str(m.path), "difference": m.difference} for m in made]})
        return
    for one in made:
        far = "not run: onnxruntime is missing"
        if one.difference is not None:
            far = (
                f"differs from eager by at most {one.difference:.1e}" if one.difference else "equal"
            )
        say(f"wrote {one.path}: {far}")


def _formats(text: str) -> tuple[str, ...]:
    """The formats of a list with commas, each once; a wrong one is told before any work."""
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    wrong = next((part for part in found if part not in FORMATS), None)
    if wrong is not None:
        told = error("SP604", f"no network is exported to {wrong!r}")
        told = told.note(f"there are {', '.join(FORMATS)}")
        raise SpaceError(told.hint(nearest(wrong, FORMATS)))
    if not found:
        raise SpaceError(error("SP604", f"--format names none of {', '.join(FORMATS)}"))
    return found


def model_of(
    space: str, settings: Mapping[str, object], backend: str, seed: int
) -> tuple[Any, int | None]:
    """A supernet, and by how many images its run recalibrates; None where it was not trained."""
    folder = Path(space)
    if runs.is_run(folder) and not settings:
        graph = runs.run_graph(folder)
        found = runs.work(backend, "trained")(graph, None, folder)
        return found.model, found.recipe.recalibrate
    graph = options.load(space, settings)
    return plugins.load("spacelang.backends", backend)().lower(graph, seed), None


def settle(
    space: str,
    model: Any,
    own: int | None,
    assignment: Mapping[str, object],
    asked: int | None,
    backend: str,
) -> None:
    """Batch-norm statistics of its own for a network of a run, by as many images as are asked for
    or else as the run says; without any a warning where it needs them."""
    if own is None:
        if asked:
            raise click.UsageError("--recalibrate is for the weights of a run")
        return
    count = own if asked is None else asked
    images = runs.data_for(backend, runs.data_of(Path(space)), model.graph) if count else None
    runs.work(backend, "recalibrate")(model, assignment, images, count)


def assignment_of(space: str, arch: str | None) -> Assignment:
    """The architecture of --arch, or of a run what evolution found; else nothing."""
    best = Path(space) / BEST
    if arch is None and runs.is_run(Path(space)) and best.is_file():
        arch = str(best)
    return {} if arch is None else options.read_assignment(arch)


@click.command(short_help="The whole road on real images, with a report.")
@click.argument("space", metavar="[SPACE]", default="quickstart.space")
@options.settings
@click.option("-o", "--output", default="runs/quickstart", show_default=True, metavar="RUN",
              help="The folder of the run.")  # fmt: skip
@click.option("--data", default="mnist5k", show_default=True, metavar="DATA",
              help="A data set by name, a folder of class folders, an .npz file.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=0, show_default=True,
              help="Of everything drawn.")  # fmt: skip
@click.option("-s", "--setting", "texts", multiple=True, metavar="NAME=VALUE",
              help="A setting of the evolution: population=50. May be repeated.")  # fmt: skip
@options.where
@click.option("--format", "formats", default="pt2,onnx", show_default=True, metavar="FORMAT",
              help="What the winner is exported to.")  # fmt: skip
@recipe
@runs.device
@runs.backend
@runs.progress
@options.as_json
def quickstart(
    space: str,
    settings: Mapping[str, object],
    output: str,
    data: str,
    seed: int,
    texts: tuple[str, ...],
    where: str,
    formats: str,
    device: str,
    backend: str,
    progress: str,
    as_json: bool,
    **flags: object,
) -> None:
    """Train, search, extract, prove, export and test a space on images, and write a report.

    The same command goes on where it stopped. RUN holds report.html, results.json, the training,
    the search and the network that was found.
    """
    runs.alone("quickstart")
    wanted = _formats(formats)
    chosen = runs.work(backend, "quickstart_options")(
        space=space,
        settings=settings,
        data=data,
        output=output,
        seed=seed,
        recipe={name: value for name, value in flags.items() if value is not None},
        search={**engine_settings(texts), **({"where": where} if where else {})},
        formats=wanted,
        device=runs.work(backend, "device")(device),
        style=progress,
        as_json=as_json,
    )
    runs.work(backend, "quickstart")(chosen)
