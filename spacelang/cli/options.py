"""Options that several commands share, from text to values.

--set classes=10 --set 'widths={192, 216}'     parameters of a space, as the language writes them
--arch FILE                                    an assignment: one JSON object, `-` is stdin
--where 'params in 5M..6M and macs <= 1.3G'    a budget
--json                                         output for programs
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from spacelang.diagnostics import Source, SpaceError, error

if TYPE_CHECKING:
    from spacelang.ir.decision import Assignment
    from spacelang.ir.dim import Value
    from spacelang.ir.graph import Graph
    from spacelang.syntax import tree

Function = TypeVar("Function", bound=Callable[..., Any])
MAX_ASSIGNMENT = 1 << 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def as_json(function: Function) -> Function:
    """--json"""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def settings(function: Function) -> Function:
    """--set"""
    return click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_settings,
        help="A parameter of the space: classes=10, 'widths={192, 216}'. May be repeated.",
    )(function)


def space(function: Function) -> Function:
    """The address of a space, and --set."""
    return click.argument("space", metavar="SPACE")(settings(function))


def where(function: Function) -> Function:
    """--where"""
    return click.option(
        "--where",
        default="",
        metavar="BUDGET",
        help="A budget: 'params in 5M..6M and macs <= 1.3G'.",
    )(function)


def arch(function: Function) -> Function:
    """--arch"""
    return click.option(
        "--arch",
        metavar="FILE",
        help="The architecture: a JSON object by decision path; - reads stdin.",
    )(function)


def after(function: Function) -> Function:
    """--after"""
    return click.option(
        "--after",
        default="",
        metavar="PASSES",
        help="Passes to run first: 'multiplex{path=encoder,every=2}, simplify'; 2 or rewrite.irpe "
        "in front stops after this step of the file's own rewrite { }.",
    )(function)


def load(address: str, settings: Mapping[str, object], after: str = "") -> Graph:
    """The graph of a space with parameters set, or of a checked artifact, after some passes."""
    first, _, rest = after.partition(",")
    step = first.strip()
    if step.isdecimal() or step.startswith("rewrite."):
        after = rest
    else:
        step = ""
    if os.path.isdir(address):
        from spacelang.cli.runs import graph_of

        if settings:
            raise click.UsageError("an artifact is compiled: --set comes too late for it")
        if step:
            raise click.UsageError(f"an artifact is compiled: it has no step {step}")
        graph = graph_of(Path(address))
    else:
        from spacelang.cli.given import at_parameters
        from spacelang.loader import load, load_after

        with at_parameters(address, settings):
            graph = load_after(address, step, **settings) if step else load(address, **settings)
    if after.strip():
        from spacelang.loader import blocks
        from spacelang.passes.pipeline import run
        from spacelang.passes.text import parse_pipeline

        graph = run(graph, parse_pipeline(after, blocks=blocks(address)))
    return graph


def spelled_all(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings as JSON, by name."""
    return {name: spelled(value) for name, value in sorted(settings.items())}


def spelled(value: object) -> object:
    """A setting as JSON: `192..240 by 24` and sets as their text, numbers and lists as such."""
    from spacelang.ir.dim import Dim
    from spacelang.syntax.literal import literal as as_written
    from spacelang.syntax.values import Candidates, Numbers

    match value:
        case Fraction():
            return int(value) if value.denominator == 1 else float(value)
        case Dim() if value.constant is not None:
            return spelled(value.constant)
        case tuple():
            return [spelled(item) for item in cast("tuple[object, ...]", value)]
        case Candidates(items):
            return {"set": [spelled(item) for item in items]}
        case Numbers():
            return as_written(value)
        case _:
            return value


def _settings(
    context: click.Context, option: click.Parameter, texts: Sequence[str]
) -> dict[str, object]:
    found: dict[str, object] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        name = name.strip()
        if not sign or not _NAME.fullmatch(name):
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", context, option)
        if name in found:
            raise click.BadParameter(f"{name} is set twice", context, option)
        found[name] = literal(name, value)
    return found


def literal(name: str, text: str) -> object:
    """The value of a literal of the language (SP101 to SP103, SP209)."""
    from spacelang.diagnostics import Source
    from spacelang.syntax.parse import expression

    return _value(expression(Source(f"--set {name}", text)))


def _value(expr: tree.Expr) -> object:
    from spacelang.syntax import tree
    from spacelang.syntax.values import Candidates, Numbers

    words = {"true": True, "false": False, "none": None}
    match expr:
        case tree.Number(value):
            return value
        case tree.Unary("-", tree.Number(value)):
            return -value
        case tree.String(value):
            return value
        case tree.Name(name) if name in words:
            return words[name]
        case tree.List(items):
            return tuple(map(_value, items))
        case tree.Range(tree.Number(start), tree.Number(stop), step, open_) if (
            step is None or isinstance(step, tree.Number)
        ):
            from spacelang.ir.dim import Dim

            by = Fraction(1) if step is None else step.value
            if by <= 0:
                raise SpaceError(error("SP103", f"a step of {by}", expr.span))
            return Numbers(start, Dim.of(stop), by, open_)
        case tree.Set(items):
            return Candidates(tuple(_members(items)))
        case tree.Name(name):
            found = error("SP209", "a word stands in quotes", expr.span, "no literal")
            raise SpaceError(
                found.hint(f"""in a shell: '{expr.span.source.name.split()[-1]}="{name}"'""")
            )
        case _:
            raise SpaceError(
                error("SP209", "a setting is a literal", expr.span, "no literal").hint(
                    'write 10, 4M, 0.5, true, "product", [2, 2, 6], {3, 4} or 192..240 by 24'
                )
            )


def _members(items: Sequence[tree.Expr]) -> list[Any]:
    """The values of a set; a range among them stands for its numbers."""
    from spacelang.ir.dim import Dim
    from spacelang.syntax.evaluate import listed
    from spacelang.syntax.values import Numbers

    found: list[Any] = []
    for item in items:
        value = _value(item)
        if isinstance(value, Numbers):
            found += [Dim.of(number) for number in listed(value, item.span)]
        else:
            found.append(Dim.of(value) if isinstance(value, Fraction) else value)
    return found


def read_assignment(name: str) -> Assignment:
    """The assignment of a JSON file (SP509); whether its paths and values exist is not asked."""
    return read_architecture(name)[0]


def read_architecture(name: str) -> tuple[Assignment, bool]:
    """The assignment of a JSON file, and whether it stood there as a published genotype."""
    from spacelang.syntax.genotypes import is_genotype, read

    try:
        found = content(name, MAX_ASSIGNMENT)
    except (OSError, ValueError) as failed:  # a name with a NUL is a ValueError
        reason = failed.strerror if isinstance(failed, OSError) else None
        raise _unreadable(name, reason or str(failed)) from failed
    if len(found) > MAX_ASSIGNMENT:
        raise _unreadable(name, "it is larger than 1 MiB")
    try:
        text = found.decode("utf-8-sig")
        data: object = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError as failed:
        raise _unreadable(name, "it is nested too deep") from failed
    except ValueError as failed:
        raise _unreadable(name, f"it is no JSON object: {failed}") from failed
    if not isinstance(data, dict):
        raise _unreadable(name, "it is no JSON object")
    if is_genotype(cast("object", data)):
        return read(Source("stdin" if name == "-" else name, text)), True
    return cast("Assignment", data), False


def decided(graph: Graph, assignment: Mapping[str, object], arch: str | None) -> dict[str, Value]:
    """Exact values of all decisions; without --arch the way out is to give one."""
    try:
        return graph.decisions.check(assignment)
    except SpaceError as failed:
        if arch is not None:
            raise
        hint = "say which architecture: --arch FILE (`spacelang sample SPACE -n 1 > FILE`)"
        raise SpaceError(found.hint(hint) for found in failed.diagnostics) from None


def content(name: str, limit: int) -> bytes:
    """The bytes of a regular file, or of stdin for `-`: at most one more than the limit."""
    if name == "-":
        return sys.stdin.buffer.read(limit + 1)
    path = Path(name)
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "it is no regular file (- reads stdin)")
    with path.open("rb") as file:
        return file.read(limit + 1)


def _object(entries: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(entries)
    if len(found) < len(entries):
        names = [name for name, _ in entries]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} stands there twice")
    return found


def _constant(word: str) -> object:
    raise ValueError(f"{word} is no number")


def _unreadable(name: str, reason: str) -> SpaceError:
    shown = "stdin" if name == "-" else name
    found = error("SP509", f"the assignment {shown} cannot be read: {reason}")
    return SpaceError(found.hint("`spacelang sample SPACE -n 1 > FILE` writes one"))
