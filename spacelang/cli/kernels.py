"""`kernels`: which groups of a space run fused, what that moves, and why others do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from spacelang.analysis.traffic import Traffic, traffic
from spacelang.cli import options, runs
from spacelang.cli.output import emit, exact, many, millions, say
from spacelang.diagnostics import SpaceError, error
from spacelang.extras import install
from spacelang.render import visible

if TYPE_CHECKING:
    from spacelang.passes.fuse import Refusal
    from spacelang.passes.fused_cost import Row

Variant = Mapping[str, int | str]
Needs = tuple[Mapping[str, Mapping[str, int]], Sequence[Variant]]  # of builds; what has none
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
KERNELS: Mapping[str, str] = {
    "attention": "attention with relative positions",
    "mixed_attention": "the same where heads are mixed before and after the softmax",
    "cascade": "cascaded attention of a window",
    "mlp": "layer norm, linear, activation and linear on slices of weights",
    "depthwise": "depthwise convolution, norm and activation",
    "squeeze": "the same, and the means that squeeze-excite takes of it",
    "mixture": "the weighted sum of candidates",
    "soft_labels": "the loss against sparse soft labels, of `distill`",
    "relations": "the loss of attention relations, of `distill`",
}


@click.command(short_help="What runs as fused kernels, and what that saves.")
@click.argument("space", metavar="[SPACE]", default="")
@options.settings
@options.arch
@click.option("--passes", default="", metavar="PASSES", help="Passes to run first.")
@click.option("--batch", type=click.IntRange(1, 1 << 20), default=1, show_default=True,
              help="Images at a time.")  # fmt: skip
@click.option("--dtype", type=click.Choice(list(WIDTHS)), default="float32", show_default=True,
              help="The type that everything is held in.")  # fmt: skip
@click.option("--target", type=click.Choice(TARGETS),
              help="Compile the kernels for it: registers, spills, shared memory.")  # fmt: skip
@options.as_json
def kernels(
    space: str,
    settings: Mapping[str, object],
    arch: str | None,
    passes: str,
    batch: int,
    dtype: str,
    target: str | None,
    as_json: bool,
) -> None:
    """The groups of a space that --backend triton computes by a kernel each, and what it does not.

    Bytes, launches and FLOPs are those of one architecture (the largest, or --arch) in evaluation:
    node by node as the space is written, and fused. They are modelled from the graph: every tensor
    is read and written once by each operation. Variants are compiled for the whole space, for one
    type and target. With --target what they need of it is read from binaries, forward and backward,
    in the types that published networks have, and a variant that none of those has is named; no
    device is needed. Without SPACE all kernels are listed.
    """
    if not space:
        _list(target, as_json)
        return
    from spacelang.passes.fuse import for_kernels
    from spacelang.passes.fused_cost import all_variants, compare, models

    graph = options.load(space, settings, passes)
    assignment = None if arch is None else options.read_assignment(arch)
    result = for_kernels(graph)
    width = WIDTHS[dtype]
    rows = compare(graph, result.graph, assignment, batch, width)
    whole = traffic(graph, assignment, batch, width)
    fused = traffic(result.graph, assignment, batch, width, models(result.graph))
    variants = all_variants(result.graph)
    needs = {
        kernel: _needs(kernel, target, [dict(pairs) for pairs in sorted(map(sorted, mine))])
        for kernel, mine in variants.items()
        if target
    }
    if as_json:
        emit({
            "name": graph.name,
            "batch": batch,
            "dtype": dtype,
            "groups": [_row(row) for row in rows],
            "variants": {kernel: len(mine) for kernel, mine in variants.items()},
            "binaries": {kernel: binaries for kernel, (binaries, _) in needs.items()},
            "unbuilt": {kernel: unbuilt for kernel, (_, unbuilt) in needs.items() if unbuilt},
            "network": {"unfused": _figures(whole), "fused": _figures(fused)},
            "refused": [_refusal(refusal) for refusal in result.refusals],
        })  # fmt: skip
        return
    say(f"{visible(graph.name)}, {many(batch, 'image')} of {dtype}; modelled")
    for kernel, known in variants.items():
        mine, count = [row for row in rows if row.kernel == kernel], many(len(known), "variant")
        if mine:
            places, blocks = sum(row.places for row in mine), many(len(mine), "block")
            say(f"  {kernel}: {many(places, 'place')}, {blocks}, {count}")
            before = sum((row.before for row in mine), Traffic())
            say(f"    {_change(before, sum((row.after for row in mine), Traffic()))}")
        else:  # a second kernel of such groups
            say(f"  {kernel}: {count}")
        if target:
            _say_needs(needs[kernel], "    ")
    if not rows:
        say("  nothing runs fused")
    say(f"  the network: {_change(whole, fused)}")
    for refusal in result.refusals:
        say(f"  not fused: {visible(str(refusal))}")


def _list(target: str | None, as_json: bool) -> None:
    """The kernels that there are, whatever the space."""
    needs = {kernel: _needs(kernel, target, None) for kernel in KERNELS if target}
    if as_json:
        binaries = {kernel: found for kernel, (found, _) in needs.items()}
        emit({"kernels": dict(KERNELS), "binaries": binaries})
        return
    for kernel, what in KERNELS.items():
        say(f"{kernel}: {what}")
        if target:
            _say_needs(needs[kernel], "  ")


def _needs(kernel: str, target: str | None, variants: Sequence[Variant] | None) -> Needs:
    """What variants of a kernel need of a target (SP605 where Triton is not installed)."""
    try:
        return runs.work("triton", "needs")(kernel, target, variants)
    except ImportError as failed:
        found = error("SP605", f"the triton backend cannot be loaded: {failed}")
        raise SpaceError(found.hint(f"{install('triton')}; it is made for Linux")) from failed


def _say_needs(needs: Needs, margin: str) -> None:
    binaries, unbuilt = needs
    for build, found in binaries.items():
        say(f"{margin}{build}: {_need(found)}")
    for variant in unbuilt:
        told = ", ".join(f"{name} {value}" for name, value in sorted(variant.items()))
        say(f"{margin}not compiled, as no published network has it: {told}")


def _need(found: Mapping[str, int]) -> str:
    registers, spilled = many(found["registers"], "register"), many(found["spilled"], "byte")
    return f"{registers}, {spilled} spilled, {found['shared'] / 1024:g} KiB shared"


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
