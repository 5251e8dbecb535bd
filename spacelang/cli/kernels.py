"""`kernels`: which groups of a space run fused, what that moves, and why others do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from spacelang.analysis.traffic import Traffic, traffic
from spacelang.cli import options
from spacelang.cli.output import emit, exact, many, millions, say
from spacelang.render import visible

if TYPE_CHECKING:
    from spacelang.passes.fuse import Refusal
    from spacelang.passes.fused_cost import Row

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}


@click.command(short_help="What runs as fused kernels, and what that saves.")
@options.space
@options.arch
@click.option("--passes", default="", metavar="PASSES", help="Passes to run first.")
@click.option("--batch", type=click.IntRange(1, 1 << 20), default=1, show_default=True,
              help="Images at a time.")  # fmt: skip
@click.option("--dtype", type=click.Choice(list(WIDTHS)), default="float32", show_default=True,
              help="The type that everything is held in.")  # fmt: skip
@options.as_json
def kernels(
    space: str,
    settings: Mapping[str, object],
    arch: str | None,
    passes: str,
    batch: int,
    dtype: str,
    as_json: bool,
) -> None:
    """The groups of a space that --backend triton computes by a kernel each, and what it does not.

    Bytes, launches and FLOPs are those of one architecture (the largest, or --arch) in evaluation:
    node by node as the space is written, and fused. They are modelled from the graph: every tensor
    is read and written once by each operation. Variants are compiled for the whole space, for one
    type and target.
    """
    from spacelang.passes.fuse import for_kernels
    from spacelang.passes.fused_cost import all_variants, compare, models

    graph = options.load(space, settings, passes)
    assignment = None if arch is None else options.read_assignment(arch)
    result = for_kernels(graph)
    width = WIDTHS[dtype]
    rows = compare(graph, result.graph, assignment, batch, width)
    whole = traffic(graph, assignment, batch, width)
    fused = traffic(result.graph, assignment, batch, width, models(result.graph))
    if as_json:
        emit({
            "name": graph.name,
            "batch": batch,
            "dtype": dtype,
            "groups": [_row(row) for row in rows],
            "variants": all_variants(result.graph),
            "network": {"unfused": _figures(whole), "fused": _figures(fused)},
            "refused": [_refusal(refusal) for refusal in result.refusals],
        })  # fmt: skip
        return
    say(f"{visible(graph.name)}, {many(batch, 'image')} of {dtype}; modelled")
    for kernel, count in all_variants(result.graph).items():
        mine = [row for row in rows if row.kernel == kernel]
        places, blocks = sum(row.places for row in mine), many(len(mine), "block")
        say(f"  {kernel}: {many(places, 'place')}, {blocks}, {many(count, 'variant')}")
        before = sum((row.before for row in mine), Traffic())
        say(f"    {_change(before, sum((row.after for row in mine), Traffic()))}")
    if not rows:
        say("  nothing runs fused")
    say(f"  the network: {_change(whole, fused)}")
    for refusal in result.refusals:
        say(f"  not fused: {visible(str(refusal))}")


def _figures(traffic: Traffic) -> dict[str, int]:
    return {"bytes": traffic.bytes, "launches": traffic.launches, "flops": traffic.flops}


def _row(row: Row) -> dict[str, object]:
    return {
        "block": row.block,
        "kernel": row.kernel,
        "places": row.places,
        "variants": row.variants,
        "unfused": _figures(row.before),
        "fused": _figures(row.after),
    }


def _refusal(refusal: Refusal) -> dict[str, object]:
    return {
        "kernel": refusal.kernel,
        "block": refusal.block,
        "node": refusal.node.label or refusal.node.op,
        "why": refusal.why,
    }


def _change(before: Traffic, after: Traffic) -> str:
    """Two sets of figures in a line."""
    launches = f"{exact(before.launches)} -> {exact(after.launches)} launches"
    share = f" (1/{before.bytes / after.bytes:.1f})" if after.bytes else ""
    work = f"{millions(before.flops)} -> {millions(after.flops)}FLOP"
    return f"{_size(before.bytes)} -> {_size(after.bytes)}{share}, {launches}, {work}"


def _size(count: int) -> str:
    return f"{count / 1e6:,.3f} MB"
