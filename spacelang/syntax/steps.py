"""Steps of `rewrite { }`: from their text to passes, run in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import Any, get_type_hints

from spacelang.diagnostics import SpaceError, Span, counted, error
from spacelang.ir.graph import Graph
from spacelang.ir.infer import NeedsValue
from spacelang.ir.node import TensorType
from spacelang.passes.base import Insertion, Pass, options
from spacelang.plugins import load
from spacelang.syntax import tree
from spacelang.syntax.blocks import call_block
from spacelang.syntax.calls import Arguments
from spacelang.syntax.conflicts import not_known
from spacelang.syntax.evaluate import evaluate
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Library, Scope
from spacelang.syntax.sections import plain_setting
from spacelang.syntax.selectors import path_of, pattern
from spacelang.syntax.session import Session
from spacelang.syntax.values import Closure, kind


@dataclass(frozen=True)
class ClosureSource:
    """A block of a file, made to fit wherever a pass puts it."""

    closure: Closure
    library: Library

    @property
    def name(self) -> str:
        return self.closure.name

    def at(self, type: TensorType, path: str, taken: frozenset[str]) -> Insertion:
        session = Session(self.library)
        session.reserved |= taken
        host = Frame(session, "host", self.closure.definition.span)
        tensor = host.builder.input(type)
        span = self.closure.definition.span
        try:
            call_block(self.closure, Arguments((tensor,), {}, {}, None, span), host, path)
        except SpaceError as failed:
            host.errors.extend(failed.diagnostics)
        if host.require:
            host.errors.add(
                error("SP601", f"{self.name} cannot be inserted: it has limits (require)", span)
            )
        host.errors.check()
        node = next(reversed(host.builder.level.nodes.values()))
        if node.call is None or len(node.types) != 1:
            raise SpaceError(
                error(
                    "SP601",
                    f"{self.name} cannot be inserted: it needs the value of a decision",
                    span,
                )
            )
        return Insertion(node.call, node.types[0], dict(session.cache.blocks))


def run_steps(graph: Graph, steps: Sequence[tuple[tree.Step, Scope]], frame: Frame) -> Graph:
    """Run the steps in order; each sees the graph that the steps before it left."""
    from spacelang.passes.pipeline import apply

    for step, scope in steps:
        try:
            found = made(step, frame, scope)
        except NeedsValue as need:
            raise SpaceError(not_known(need, frame)) from need
        graph = apply(found, graph, step.span)
    return graph


def made(step: tree.Step, frame: Frame, scope: Scope) -> Pass:
    """The pass of a step with its options (SP204, SP604)."""
    try:
        cls = load("spacelang.passes", step.name)
    except SpaceError as failed:
        (found,) = failed.diagnostics
        raise SpaceError(
            error(found.code, found.headline, step.span).note(*found.notes)
        ) from failed
    known = options(cls)
    hints = get_type_hints(cls)
    given: dict[str, Any] = {}
    names = list(known)
    for position, argument in enumerate(step.arguments):
        name = argument.name
        if name is None:
            if position >= len(names):
                raise SpaceError(
                    error(
                        "SP204", f"{step.name} takes {counted(len(names), 'option')}", argument.span
                    )
                )
            name = names[position]
        if name not in known:
            if "open" in hints:
                given.setdefault("open", {})[name] = _value(Any, argument.value, frame, scope)
                continue
            raise SpaceError(
                error("SP204", f"{step.name} has no option {name}", argument.span).note(
                    f"its options: {', '.join(names) or 'none'}"
                )
            )
        if name in given:
            raise SpaceError(error("SP204", f"{name} is given twice", argument.span))
        given[name] = _value(hints[known[name].name], argument.value, frame, scope)
    missing = [
        n
        for n, f in known.items()
        if n not in given and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise SpaceError(error("SP204", f"{step.name} needs {', '.join(missing)}", step.span))
    return cls(**{known[n].name if n in known else n: v for n, v in given.items()})


def _value(hint: Any, expr: tree.Expr, frame: Frame, scope: Scope) -> Any:
    if "Pattern" in str(hint):
        if isinstance(expr, tree.List):
            return tuple(pattern(path_of(e), frame, scope) for e in expr.items)
        found = pattern(path_of(expr), frame, scope)
        return (found,) if "tuple" in str(hint) else found
    if "BlockSource" in str(hint):
        return _block(expr, frame, scope)
    return plain_setting(evaluate(expr, frame, scope), expr.span)


def named_block(name: str, span: Span, library: Library, scope: Scope) -> ClosureSource:
    """The block of a name in the scope of a file: `mix`, `vit.mlp` (SP201, SP202, SP209)."""
    first, *rest = name.split(".")
    expr: tree.Expr = tree.Name(first, span=span)
    for part in rest:
        expr = tree.Field(expr, part, span=span)
    return _block(expr, Frame(Session(library), name, span), scope)


def _block(expr: tree.Expr, frame: Frame, scope: Scope) -> ClosureSource:
    value = evaluate(expr, frame, scope)
    if not isinstance(value, Closure):
        raise SpaceError(error("SP209", f"a block is wanted here, not {kind(value)}", expr.span))
    return ClosureSource(value, frame.session.library)
