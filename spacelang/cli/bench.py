"""`bench`: our networks beside what one would run instead, on this machine, in one run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spacelang.bench.rows import NAMES, ROWS, Row, UnknownRow, select
from spacelang.cli import options
from spacelang.cli.output import complain, emit, many, say, table
from spacelang.diagnostics import SpaceError, error
from spacelang.files import atomic_write
from spacelang.render import visible

if TYPE_CHECKING:
    from collections.abc import Mapping

KERNELS = "kernels"


@click.command(short_help="Our networks beside what one would run instead.")
@click.argument("names", nargs=-1, metavar="[NAME].. | kernels")
@click.option("--list", "listed", is_flag=True, help="Print the names, and what is compared.")
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True,
              help="Threads of every contender.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(7, 1000), default=7, show_default=True,
              help="Rounds that are counted.")  # fmt: skip
@click.option("--compiled", is_flag=True,
              help="Also the rows of torch.compile, which takes minutes a network.")  # fmt: skip
@click.option("-o", "--output", metavar="FILE", help="Put the records into this JSON file.")
@click.option("--device", type=click.Choice(["cuda", "interpret"]),
              help="Of `bench kernels`: a GPU, or tiny shapes in the interpreter.")  # fmt: skip
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]),
              help="Of `bench kernels`: the type of everything; float32 if not given.")  # fmt: skip
@options.as_json
def bench(
    names: Sequence[str],
    listed: bool,
    threads: int,
    repeats: int,
    compiled: bool,
    output: str | None,
    device: str | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Time contenders in turns, each in a fresh process, and print ratios with their quartiles.

    NAME is a row (efficientvit_m0@16), all of one network (efficientvit_m0), `onnxruntime`, the
    rows that it runs on both sides, or a folder that `compile --for inference` wrote, which has no
    rival (./efficientvit_m0, where a row is called so); none is all rows.
    Rows of torch.compile (efficientvit_m0@1/compiled) are there with --compiled, or by their name.
    Results are compared before anything is timed. A ratio above 1 says that ours is faster.
    What is wanted of a row is against its best rival by the same runtime; others are told beside.
    `bench kernels` times every Triton kernel against eager PyTorch, in evaluation and in training;
    what it moves and computes a second is told with its share of what the device does at most.
    """
    if KERNELS in names:
        if len(names) > 1 or listed or compiled:
            raise click.UsageError("bench kernels stands alone")
        _kernels(device or "cuda", dtype or "float32", repeats, output, as_json)
        return
    for option, given in (("--device", device), ("--dtype", dtype)):
        if given is not None:
            raise click.UsageError(f"{option} goes with `bench kernels`")
    folders = [name for name in names if name not in NAMES and Path(name).is_dir()]
    try:
        own = tuple(_row_of(Path(name)) for name in folders)
        given = [name for name in names if name not in folders]
        rows = (*own, *(select(given, compiled) if given or not own else ()))
    except UnknownRow as unknown:
        raise click.UsageError(str(unknown)) from None
    if listed:
        _print_list(rows, as_json)
        return
    from spacelang.bench.measure import measure
    from spacelang.bench.store import kept, merged

    before = None if output is None else kept(Path(output))
    records: list[dict[str, Any]] = []
    failed: SpaceError | None = None
    for row in rows:
        try:
            record = measure(row, threads, repeats)
        except SpaceError as wrong:  # the other rows are measured nevertheless
            failed = failed or wrong
            complain(f"{row.name} is left out: {wrong.diagnostics[0].headline}")
            continue
        records.append(record)
        if not as_json:
            _print_row(row, record)
        if output is not None and before is not None:
            before = merged(before, record)
            atomic_write(output, json.dumps(before, indent=1) + "\n")
    if as_json:
        emit({"records": records})
    elif output is not None:
        say(f"{many(len(records), 'record')} in {visible(output)}")
    if failed is not None:
        raise failed


def _row_of(folder: Path) -> Row:
    """The row of a network that was compiled for inference (SP702 for another folder).

    The folder is in its name: the same network may be compiled twice, or have a row of the table.
    """
    from spacelang.cli.artifact import read_artifact

    manifest = read_artifact(folder).manifest
    batch = manifest.get("batch")
    if not isinstance(batch, int):
        found = error("SP702", f"{visible(str(folder))} holds no network for inference")
        raise SpaceError(found.hint("spacelang compile SPACE --for inference -o DIR"))
    return Row(f"{folder}:{manifest.get('name')}", str(folder), batch, "deployed", ())


def _kernels(device: str, dtype: str, repeats: int, output: str | None, as_json: bool) -> None:
    from spacelang.bench.kernels import measured, picture

    # The interpreter shows that it works; its times say nothing, so once is enough.
    records, failed = measured(device, 1 if device == "interpret" else repeats, dtype)
    if output is not None and records:
        picture_path = Path(output).with_suffix(".svg")
        atomic_write(output, json.dumps({"records": records}, indent=1) + "\n")
        atomic_write(picture_path, picture(records))
    if as_json:
        emit({"records": records})
    elif records:
        _print_kernels(records)
        if device == "interpret":
            say("in Triton's interpreter: results are compared, times say nothing of a GPU")
    for wrong in failed[1:]:
        complain(f"also left out: {wrong.diagnostics[0].headline}")
    if failed:
        raise failed[0]


def _print_kernels(records: Sequence[Mapping[str, Any]]) -> None:
    from spacelang.bench.kernels import median

    rows: list[tuple[str, ...]] = []
    for record in records:
        for name in record["seconds"]:
            time = f"{median(record, name) * 1e6:,.1f} us"
            done = ("", "")
            if name == "kernel" and record["share"] is not None:
                share = record["share"]
                done = (
                    f"{record['bytes_a_second'] / 1e9:.2f} GB/s, {share['bytes']:.0%}",
                    f"{record['flops_a_second'] / 1e9:.2f} GFLOP/s, {share['flops']:.0%}",
                )
            rows.append((record["name"], name, time, f"{record['errors'][name]:.0e}", *done))
        rows += [
            (record["name"], n, "left out", why, "", "") for n, why in record["left_out"].items()
        ]
    columns = ("kernel", "contender", "a call", "difference", "moved (modelled)", "computed")
    table(columns, rows, right="llrrrr")


def _print_list(rows: Sequence[Row], as_json: bool) -> None:
    if as_json:
        emit({"rows": [_told(row) for row in rows], "all": len(ROWS)})
        return
    columns = ("name", "ours", "rivals", "also measured", "wanted")
    lines = [
        (r.name, r.ours, ", ".join(r.against), ", ".join((*r.also, *r.beside)), _wanted(r))
        for r in rows
    ]
    table(columns, lines)


def _told(row: Row) -> dict[str, object]:
    return {
        "name": row.name, "space": row.space, "batch": row.batch, "ours": row.ours,
        "against": list(row.against), "also": [*row.also, *row.beside], "wanted": row.wanted,
        "memory": row.memory,
    }  # fmt: skip


def _wanted(row: Row) -> str:
    return "" if row.wanted is None else f">= {row.wanted:.3g}"


def _print_row(row: Row, record: Mapping[str, Any]) -> None:
    from spacelang.bench.measure import ratio, seconds, share_of_limit

    threads = many(record["threads"], "thread")
    others = record["machine"]["others"]
    busy = "" if others is None else f", other processes took {others:g} cores"
    say(f"{row.name}, {threads}{busy}")
    lines: list[tuple[str, ...]] = []
    for name in row.contenders:
        found, times = record["contenders"][name], seconds(record, name)
        if times is None:
            complain(f"{row.name}: {name} is missing: {found['missing']}")
            continue
        compared, share = ratio(record, row.ours, name), share_of_limit(record, name)
        spread = "" if compared is None else "{:.2f} ({:.2f}..{:.2f})".format(*compared)
        lines.append((
            name, f"{statistics.median(times) * 1e3:.2f} ms", spread,
            "" if share is None else f"{share:.0%}", f"{found['peak_mib']:.0f} MiB",
            f"{round(found['added_mib'])} MiB",
        ))  # fmt: skip
    head = ("contender", "a call", "times ours", "of the limit", "peak", "added")
    table(head, lines, right="lrrrrr")


__all__ = ["bench"]
