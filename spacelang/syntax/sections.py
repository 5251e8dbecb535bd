"""Statements that only a space has: input, output, weights, names, search, rewrite.

They add to the `Host` of the space's frame; in a block they have no place, and nothing that they
say hangs on a decision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.build import Tensor
from spacelang.ir.dialect import Dialect
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.node import TensorType
from spacelang.ir.rule import StorageRule, Tie
from spacelang.syntax import tree
from spacelang.syntax.evaluate import evaluate
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.selectors import renames, storage_rule, tie
from spacelang.syntax.statements import ROWS, protect
from spacelang.syntax.values import Numbers, Thing, kind, number

BATCH = "B"


@dataclass
class Host:
    """What the statements of a space add beside nodes."""

    outputs: list[tuple[str, Tensor, bool]] = field(default_factory=list[tuple[str, Tensor, bool]])
    inputs: dict[str, Span] = field(default_factory=dict[str, Span])
    rules: list[StorageRule] = field(default_factory=list[StorageRule])
    ties: list[Tie] = field(default_factory=list[Tie])
    dialects: dict[str, Dialect] = field(default_factory=dict[str, Dialect])
    search: dict[str, Mapping[str, object]] = field(default_factory=dict[str, Mapping[str, object]])
    steps: list[tuple[tree.Step, Scope]] = field(default_factory=list[tuple[tree.Step, Scope]])


def _host(statement: tree.Statement, frame: Frame) -> Host:
    word = statement.span.text.split(maxsplit=1)[0] if statement.span.text else "this"
    if frame.host is None:
        raise SpaceError(error("SP208", f"`{word}` has no place in a block", statement.span))
    if frame.builder.guards:
        raise SpaceError(error("SP208", f"an `{word}` cannot hang on a decision", statement.span))
    return frame.host


def _input(statement: tree.Input, frame: Frame, scope: Scope) -> None:
    """`input pixels: [B, 3, image, image]`; `B` is the batch, any size, unless it is bound."""
    host, name = _host(statement, frame), statement.name
    protect([name], statement.span)
    if name in host.inputs:
        found = error("SP203", f"two inputs called {name}", statement.span, "again here")
        raise SpaceError(found.also(host.inputs[name], "first here"))
    host.inputs[name] = statement.span
    shape = tuple(_axis(axis, frame, scope) for axis in statement.type.axes)
    within = None if statement.domain is None else _integers(statement.domain, frame, scope)
    dtype = "f32" if within is None else "i64"
    tensor = frame.builder.input(TensorType(shape, dtype), name, statement.span, within)
    scope.bind(name, tensor, statement.span)


def _axis(axis: tree.Expr | tree.Leading, frame: Frame, scope: Scope) -> Dim:
    if isinstance(axis, tree.Leading):
        raise SpaceError(error("SP208", "an input has known axes", axis.span))
    if isinstance(axis, tree.Name) and axis.name == BATCH and scope.find(BATCH) is None:
        scope.bind(BATCH, Dim.of(Symbol(BATCH)), axis.span)
    size = number(evaluate(axis, frame, scope), "a size", axis.span)
    decision = next((s for s in size.symbols if s.values), None)
    if decision is not None:
        raise SpaceError(
            error("SP208", f"the decision {decision.name} in the shape of an input", axis.span)
            .note("who feeds the network does not know what is decided")
            .hint("resize(pixels, [size, size]) inside of the network")
        )
    if size.constant is not None and (size.constant < 1 or size.constant.denominator != 1):
        raise SpaceError(error("SP302", f"a size of {size}", axis.span))
    return size


def _integers(expr: tree.Expr, frame: Frame, scope: Scope) -> tuple[Dim, Dim]:
    """The least and the largest entry of an input of whole numbers."""
    value = evaluate(expr, frame, scope)
    if not isinstance(value, Numbers) or value.step != 1 or value.start.denominator != 1:
        raise SpaceError(
            error("SP209", "the entries of an input are a range of whole numbers", expr.span).hint(
                "input ids: [B, 64] in 0..<vocabulary"
            )
        )
    if value.stop.constant is None or not value.upto(value.stop.constant):
        raise SpaceError(error("SP302", "a range of entries that is empty or open", expr.span))
    last = value.start + value.count(value.stop.constant) - 1
    return Dim.of(value.start), Dim.of(last)


def _output(statement: tree.Output, frame: Frame, scope: Scope) -> None:
    """`output x` is the result; `output name: x` is for training alone."""
    host = _host(statement, frame)
    label = statement.name or "output"
    value = evaluate(statement.value, frame, scope)
    if not isinstance(value, Tensor):
        raise SpaceError(error("SP209", f"the output is {kind(value)}", statement.value.span))
    if any(name == label for name, _, _ in host.outputs):
        raise SpaceError(error("SP203", f"two outputs called {label}", statement.span))
    host.outputs.append((label, value, statement.name is not None))


def _weights(statement: tree.Weights, frame: Frame, scope: Scope) -> None:
    host = _host(statement, frame)
    for rule in statement.rules:
        try:
            found = tie(rule, frame, scope)
            if found is None:
                host.rules.append(storage_rule(rule, frame, scope))
            else:
                host.ties.append(found)
        except SpaceError as failed:
            frame.errors.extend(failed.diagnostics)


def _names(statement: tree.Names, frame: Frame, scope: Scope) -> None:
    host = _host(statement, frame)
    found = [r for rule in statement.renames for r in renames(rule, frame, scope)]
    host.dialects[statement.dialect] = Dialect(statement.dialect, tuple(found))


def _rewrite(statement: tree.Rewrite, frame: Frame, scope: Scope) -> None:
    here = scope.snapshot()
    _host(statement, frame).steps += [(step, here) for step in statement.steps]


def _search(statement: tree.Search, frame: Frame, scope: Scope) -> None:
    host = _host(statement, frame)
    settings: dict[str, object] = {}
    for setting in statement.settings:
        if setting.name in settings:
            raise SpaceError(error("SP204", f"{setting.name} is given twice", setting.span))
        value = evaluate(setting.value, frame, scope)
        settings[setting.name] = plain_setting(value, setting.value.span)
    host.search[statement.engine] = settings


def plain_setting(value: Thing, span: Span) -> object:
    """A setting of an engine or pass: a plain number, string, boolean or list of them."""
    if isinstance(value, bool | str | None):
        return value
    if isinstance(value, Dim) and value.constant is not None:
        whole = value.constant.denominator == 1
        return int(value.constant) if whole else float(value.constant)
    if isinstance(value, tuple):
        return tuple(plain_setting(v, span) for v in value)
    what = "a number that hangs on a decision" if isinstance(value, Dim) else kind(value)
    raise SpaceError(error("SP209", f"a setting cannot be {what}", span))


SECTIONS: Mapping[type, Callable[[Any, Frame, Scope], None]] = {
    tree.Input: _input,
    tree.Output: _output,
    tree.Weights: _weights,
    tree.Names: _names,
    tree.Rewrite: _rewrite,
    tree.Search: _search,
}
ROWS.update(SECTIONS)

DERIVED = (
    tree.Rewrite, tree.Weights, tree.Names, tree.Require, tree.Search, tree.Let, tree.BlockOf,
    tree.Default,
)  # fmt: skip
"""What the body of a derived space may hold."""
