"""`profile`: what a network takes on this device, by block and by op, and a table for searches."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from spacelang.cli import options, runs
from spacelang.cli.output import emit, exact, many, millions, pairs, say, table
from spacelang.files import atomic_write
from spacelang.render import visible

if TYPE_CHECKING:
    from spacelang.analysis.latency_table import LatencyTable, Whole
    from spacelang.analysis.profile import Part, Profile
    from spacelang.ir.graph import Graph

DTYPES = ("float32", "bfloat16", "float16")
FORMS = {"evaluation": "extracted", "inference": "deployed"}


@click.command(short_help="Time and memory of a network here, by block and by op.")
@options.space
@options.arch
@click.option("--batch", type=click.IntRange(1, 1 << 20), default=1, show_default=True,
              help="Images at a time.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 4096), help="Of the processor.  [PyTorch's]")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True,
              help="The type that everything is held in.")  # fmt: skip
@runs.device
@click.option("--for", "purpose", type=click.Choice([*FORMS]), default="evaluation",
              show_default=True,
              help="inference: networks as `deploy` makes them, not as `extract` gives "
              "them.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(1, 10_000), default=20, show_default=True,
              help="Of every measurement; the median counts.")  # fmt: skip
@click.option("-o", "--output", metavar="TABLE.json",
              help="Measure every operation of the space; what is there is added to.")  # fmt: skip
@click.option("--random", "drawn", type=click.IntRange(1, 100_000), metavar="N",
              help="With -o: the operations of N random networks, not of all.")  # fmt: skip
@click.option("--hull", is_flag=True, help="All that a search of spaces may move to (`within`).")
@click.option("--networks", type=click.IntRange(0, 10_000), default=8, show_default=True,
              help="With -o: random networks measured as a whole, half for the fit, half for "
              "its error.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=0, show_default=True,
              help="Of the random networks.")  # fmt: skip
@click.option("--picture", metavar="FILE.svg", help="Draw it.")
@click.option("--depth", type=click.IntRange(1, 16), default=1, show_default=True,
              help="Words of the path of a block: encoder[0] is 1.")  # fmt: skip
@click.option("--backend", default="torch", show_default=True, help="Who does the work.")
@runs.progress
@options.as_json
def profile(
    space: str,
    settings: Mapping[str, object],
    arch: str | None,
    batch: int,
    threads: int | None,
    dtype: str,
    device: str,
    purpose: str,
    repeats: int,
    output: str | None,
    drawn: int | None,
    hull: bool,
    networks: int,
    seed: int,
    picture: str | None,
    depth: int,
    backend: str,
    progress: str,
    as_json: bool,
) -> None:
    """Time and memory of one architecture (the largest, or --arch), by block and by op.

    Every operation is measured by itself, in evaluation, and so is the network as a whole. Memory
    is counted on the graph: the results that something still reads.

    -o writes a latency table, by which `search --latency TABLE.json --where 'latency <= 5ms'`
    searches: latency = scale * sum of the operations + offset, fitted to whole networks and held
    against others. A killed run goes on where it stopped.
    """
    from spacelang.analysis.profile import Profile
    from spacelang.loader import load_hull

    if output is None and drawn is not None:
        raise click.UsageError("--random says what a table holds: -o TABLE.json is missing")
    if hull and os.path.isdir(space):
        raise click.UsageError("--hull is of a .space file: a folder holds the ranges as they are")
    graph = load_hull(space, **settings) if hull else options.load(space, settings)
    given = graph.decisions.extreme("largest") if arch is None else options.read_assignment(arch)
    given = graph.decisions.assignment(graph.decisions.check(given))
    place = runs.work(backend, "device")(device)
    facts = runs.work(backend, "facts")(place, threads, batch, dtype, FORMS[purpose])
    with runs.work(backend, "progress")(progress) as told:
        made: LatencyTable = runs.work(backend, "profile")(
            graph, given, facts,
            repeats=repeats, path=output, drawn=drawn, networks=networks, seed=seed, reporter=told,
        )  # fmt: skip
    found = Profile.of(graph, given, made)
    made = made.of(graph.hash)
    whole = next(n for n in made.networks if dict(n.assignment) == dict(given))
    if picture is not None:
        atomic_write(picture, _picture(graph, found, made, whole, depth))
    if as_json:
        emit(_json(graph, found, made, whole, depth))
        return
    _show(graph, found, made, whole, depth)
    for name in (output, picture):
        if name is not None:
            say(f"wrote {visible(name)}")


def _show(graph: Graph, found: Profile, made: LatencyTable, whole: Whole, depth: int) -> None:
    from spacelang.analysis.latency_table import shown

    say(f"{visible(graph.name)} on {visible(str(made.facts))}")
    total = found.total
    table(
        ("block", "time", "share", "macs", "GFLOP/s", "params", "results", "held"),
        [(part.path, *_figures(part, total)) for part in found.by_block(depth)],
        title="by block", right="lrrrrrrr",
    )  # fmt: skip
    rows = [p for p in found.by_op() if p.ns]
    table(
        ("op", "count", "time", "share", "macs", "GFLOP/s", "params", "results", "held"),
        [(part.op, exact(part.count), *_figures(part, total)) for part in rows],
        title="by op", right="lrrrrrrrr",
    )  # fmt: skip
    rate = 2 * total.macs / whole.measured
    pairs([
        ("the network", f"{shown(whole.measured)} as a whole, {rate:.1f} GFLOP/s"),
        ("its operations", f"{shown(whole.sum)} one by one"),
        ("activations", f"{_size(found.peak)} at most, of {_size(total.made)} made"),
    ])  # fmt: skip
    if len(made.networks) > 1:
        offset = shown(made.fit.offset)
        pairs([
            ("the table", many(len(made.entries), "operation")),
            ("latency", f"{made.fit.scale:.3f} * sum + {offset}; {made.stated}"),
        ])  # fmt: skip


def _figures(part: Part, total: Part) -> tuple[str, ...]:
    from spacelang.analysis.latency_table import shown

    share = f"{part.ns / total.ns:.1%}" if total.ns else ""
    macs = millions(part.macs) if part.macs else ""
    rate = f"{part.rate:.1f}" if part.macs else ""
    params = exact(part.params) if part.params else ""
    return shown(part.ns), share, macs, rate, params, _size(part.made), _size(part.live)


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count} B"


def _json(
    graph: Graph, found: Profile, made: LatencyTable, whole: Whole, depth: int
) -> dict[str, object]:
    from dataclasses import asdict

    def row(part: Part) -> dict[str, object]:
        figures = asdict(part) | {"gflops": part.rate}
        return {name: value for name, value in figures.items() if value != ""}

    return {
        "name": graph.name,
        "facts": asdict(made.facts),
        "assignment": dict(whole.assignment),
        "measured": whole.measured,
        "sum": whole.sum,
        "peak": found.peak,
        "operations": len(made.entries),
        "networks": len(made.networks),
        **made.fitted(),
        "blocks": [row(part) for part in found.by_block(depth)],
        "ops": [row(part) for part in found.by_op()],
    }


def _picture(graph: Graph, found: Profile, made: LatencyTable, whole: Whole, depth: int) -> str:
    from spacelang.analysis.latency_table import shown
    from spacelang.report.timing import Bar, Timing, timing

    bars: list[Bar] = []
    for block in found.by_block(depth):
        ops = {part.op: part.ns for part in found.of_block(block.path, depth).by_op()}
        rate = f"{block.rate:.1f} GFLOP/s" if block.macs else ""
        if block.ns:
            bars.append(Bar(block.path, ops, f"{shown(block.ns)}  {rate}".rstrip()))
    title = f"{graph.name}: {shown(whole.measured)}, its operations {shown(whole.sum)}"
    held = tuple(part.live for part in found.parts)
    return timing(Timing(title, str(made.facts), tuple(bars), held))
