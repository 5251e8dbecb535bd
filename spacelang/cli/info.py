"""What a space holds: `info`, `count`, `sample` and `cost`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from spacelang import plugins
from spacelang.cli import options
from spacelang.cli.output import (
    both,
    complain,
    count_of,
    decimal,
    dumps,
    emit,
    exact,
    many,
    pairs,
    say,
    table,
    working,
)
from spacelang.ir.decision import Plain, plain

if TYPE_CHECKING:
    from spacelang.analysis.cost import OpCost
    from spacelang.analysis.extent import Extent
    from spacelang.ir.graph import Graph

# Candidates of one decision that a table shows.
SHOWN = 12
MOST = 1_000_000  # architectures of one `sample`


@click.command(short_help="Decisions, exact size, storage, and the range of costs.")
@options.space
@options.after
@click.option("--median", "with_median", is_flag=True, help="Also the exact median of each range.")
@options.as_json
def info(
    space: str, settings: Mapping[str, object], after: str, with_median: bool, as_json: bool
) -> None:
    """Decisions, exact number of architectures, what the supernet keeps, and the range of costs.

    Ranges are over all architectures; where the space requires something of params or macs itself,
    they leave that limit out, and the size does not.
    """
    from spacelang.analysis.extent import extent, median
    from spacelang.cli.program import listing, program_at, record
    from spacelang.ir.figures import FIGURES

    program = program_at(space, settings)
    if program is not None:
        if after or with_median:
            raise click.UsageError("--after and --median are of one network of a program")
        emit(record(program)) if as_json else listing(program)
        return
    graph = options.load(space, settings, after)
    reach = extent(graph)
    medians = {figure: median(graph, figure) for figure in FIGURES} if with_median else {}
    tied = _tied(graph)
    copied = plugins.load("spacelang.analyses", "copies")(graph)
    if as_json:
        emit(
            {
                "name": graph.name,
                "decisions": _decisions(graph),
                **_size(reach.size),
                "storage": {role: stored(graph, role) for role in ("params", "buffers")},
                **{figure: _reach(reach, figure, medians) for figure in FIGURES},
                "require": list(map(str, graph.require)),
                "shared": tied,
                "copied": [{"param": c.param, "use": c.use, "bytes": c.bytes} for c in copied],
            }
        )
        return
    _print(graph, reach, medians, tied, sum(copy.bytes for copy in copied))


def _reach(reach: Extent, figure: str, medians: Mapping[str, int | None]) -> dict[str, int | None]:
    low, high = getattr(reach, figure)
    return {"min": low, **({"median": medians[figure]} if medians else {}), "max": high}


def _print(
    graph: Graph,
    reach: Extent,
    medians: Mapping[str, int | None],
    tied: Mapping[str, int],
    copied: int,
) -> None:
    tensors = sum(len(s.tensors) for s in graph.storages.values() if s.param.role == "weight")
    say(graph.name)
    rows = [
        ("  architectures", size_text(reach.size)),
        ("  decisions", exact(len(graph.decisions))),
        ("  storage", f"{both(stored(graph, 'params'))} parameters in {many(tensors, 'tensor')}"),
        ("  buffers", both(kept) if (kept := stored(graph, "buffers")) else "none"),
    ]
    for figure, ends in (
        ("params", reach.params), ("macs", reach.macs), ("activations", reach.activations),
    ):  # fmt: skip
        rows.append((f"  {figure}", _range(ends)))
        if medians:
            middle = medians[figure]
            rows.append(("    median", "unknown" if middle is None else both(middle)))
    rows += [("  requires", str(limit)) for limit in graph.require]
    if tied:
        rows.append(("  shared", f"{many(len(tied), 'tensor')} with several readers"))
    rows.append(("  copied a step", f"{both(copied)} bytes at most" if copied else "none"))
    pairs(rows)
    if graph.decisions:
        table(("decision", "kind", "candidates", "places"), grouped_decisions(graph), right="lllr")


def _decisions(graph: Graph) -> dict[str, object]:
    from spacelang.ir.condition import TRUE

    return {
        path: {
            "kind": choice.kind,
            "candidates": [plain(value) for value in choice.values],
            **({} if choice.live == TRUE else {"when": str(choice.live)}),
        }
        for path, choice in graph.decisions.items()
    }


def grouped_decisions(graph: Graph) -> list[tuple[str, str, str, str]]:
    """Decisions that differ in their indices alone, one row each."""
    from spacelang.report.drawing import grouped
    from spacelang.report.model import Decision, Value

    def value(given: Plain) -> Value:
        return tuple(given) if isinstance(given, list) else given

    listed = [
        Decision(path, choice.kind, tuple(value(plain(v)) for v in choice.values))
        for path, choice in graph.decisions.items()
    ]
    rows: list[tuple[str, str, str, str]] = []
    for group in grouped(listed):
        shown = ", ".join(map(str, group.candidates[:SHOWN]))
        more = len(group.candidates) - SHOWN
        shown += f", .. ({more} more)" if more > 0 else ""
        rows.append((group.path, group.kind, shown, exact(group.count)))
    return rows


def stored(graph: Graph, role: str) -> int:
    """Elements that the supernet keeps of a role."""
    wanted = {"params": "weight", "buffers": "buffer"}[role]
    return sum(s.numel for s in graph.storages.values() if s.param.role == wanted)


def _tied(graph: Graph) -> dict[str, int]:
    """Tensors that several uses of blocks read, with the number of those."""
    readers: dict[str, set[str]] = {}
    for place in graph.places():
        for view in place.node.params.values():
            path = place.instance.param(view.param)
            readers.setdefault(path, set()).add(f"{place.instance.path}:{view.param}")
    return {path: len(uses) for path, uses in readers.items() if len(uses) > 1}


def _size(size: object) -> dict[str, object]:
    """A number of architectures in JSON: a decimal string, or exact bounds."""
    if isinstance(size, int):
        return {"size": decimal(size)}
    lower, upper = _between(size)
    return {"size": None, "at_least": decimal(lower), "at_most": decimal(upper)}


def size_text(size: object) -> str:
    if isinstance(size, int):
        return count_of(size)
    lower, upper = _between(size)
    return f"between {count_of(lower)} and {count_of(upper)}"


def _between(size: object) -> tuple[int, int]:
    from spacelang.ir.figures import Between

    assert isinstance(size, Between)
    return size.lower, size.upper


def _range(ends: tuple[int, int]) -> str:
    low, high = ends
    return both(low) if low == high else f"{both(low)} to {both(high)}"


@click.command(short_help="The exact number of architectures, also within a budget.")
@options.space
@options.where
@options.after
@options.as_json
def count(
    space: str, settings: Mapping[str, object], where: str, after: str, as_json: bool
) -> None:
    """The exact number of architectures, all or those within a budget.

    Where no exact table fits into memory, exact lower and upper bounds are printed instead. What
    an empty budget could reach stands on stderr, with --json in the document.
    """
    from spacelang.analysis.queries import why_empty

    graph = options.load(space, settings, after)
    with working("counting"):
        size = graph.size(where=where)
    empty = why_empty(graph, where).diagnostics if size == 0 else ()
    notes = [note for found in empty for note in found.notes]
    if as_json:
        more = {"notes": notes} if notes else {}
        emit({"name": graph.name, "where": where, **_size(size), **more})
        return
    for note in notes:
        complain(f"note: {note}")
    say(size_text(size))


@click.command(short_help="Architectures drawn exactly uniformly, one a line.")
@options.space
@click.option("-n", "number", type=click.IntRange(1, MOST), default=1, show_default=True,
              help="How many, independent of each other.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=0, show_default=True,
              help="Of the random numbers.")  # fmt: skip
@options.where
@click.option("--law", type=click.Choice(["architectures", "choices"]), default="architectures",
              show_default=True, help="Uniform over what.")  # fmt: skip
@options.as_json
def sample(
    space: str,
    settings: Mapping[str, object],
    number: int,
    seed: int,
    where: str,
    law: str,
    as_json: bool,
) -> None:
    """Draw architectures, one JSON assignment a line; with --json all in one document.

    By the law `architectures` each one within the budget is equally likely; by `choices` each
    decision is drawn uniformly from its candidates, and what misses the budget is drawn again.
    """
    graph = options.load(space, settings)
    with working("drawing"):
        drawn: Sequence[Mapping[str, object]] = graph.sample(
            n=number, seed=seed, where=where, law=law
        )
    if as_json:
        found = {"name": graph.name, "law": law, "seed": seed, "where": where}
        emit({**found, "assignments": [dict(assignment) for assignment in drawn]})
    else:
        for assignment in drawn:
            print(dumps(dict(assignment)))


@click.command(short_help="Exact params, MACs and activations of one architecture.")
@options.space
@options.arch
@options.after
@click.option("--per-op", is_flag=True, help="Also a row for each op that costs anything.")
@click.option("--convention", metavar="NAME",
              help="Count MACs as a publication does: fvcore, thop, swin, ..")  # fmt: skip
@options.as_json
def cost(
    space: str,
    settings: Mapping[str, object],
    arch: str | None,
    after: str,
    per_op: bool,
    convention: str | None,
    as_json: bool,
) -> None:
    """Exact parameters, multiply-accumulates and activations at batch 1.

    MACs count convolutions, linear layers and matrix products of the graph as written, or as the
    passes of --after leave it. Activations are the elements that these ops give. By a --convention
    MACs are what the counter of a publication prints; an unknown NAME lists those there are.
    """
    from spacelang.analysis.conventions import CONVENTIONS, counted, named
    from spacelang.analysis.queries import model

    if convention is not None:
        named(convention)  # a wrong name is told before the space is read
        if per_op:
            raise click.UsageError("--per-op counts operators: it takes no --convention")
    graph = options.load(space, settings, after)
    assignment: Mapping[str, object] = options.read_assignment(arch) if arch is not None else {}
    values = options.decided(graph, assignment, arch)
    found = model(graph).at(values)
    macs = found.macs if convention is None else counted(graph, values, convention)
    figures = {"params": found.params, "macs": macs, "activations": found.activations}
    rows: list[OpCost] = model(graph).per_op(values) if per_op else []
    if as_json:
        listed = [
            {"path": r.path, "op": r.op, "params": r.params, "macs": r.macs,
             "activations": r.activations} for r in rows
        ]  # fmt: skip
        counting = {} if convention is None else {"convention": convention}
        emit({"name": graph.name, **counting, **figures, **({"ops": listed} if per_op else {})})
        return
    say(graph.name)
    pairs([(f"  {name}", both(value)) for name, value in figures.items()])
    if convention is not None:
        say(f"  macs by {convention}: {CONVENTIONS[convention].about}")
    if per_op:
        table(
            ("path", "op", "params", "macs", "activations"),
            [(r.path, r.op, exact(r.params), exact(r.macs), exact(r.activations)) for r in rows],
            right="llrrr",
        )
