"""Statements: assignments, loops that unroll, what a body returns.

An error in one statement is kept and the next ones go on; the names that the statement would have
bound are broken, and what reads a broken name fails without a word of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.condition import compare
from spacelang.ir.dim import Dim
from spacelang.ir.infer import NeedsValue
from spacelang.syntax import tree
from spacelang.syntax.branches import guarded, when
from spacelang.syntax.choices import choose, mark_presence
from spacelang.syntax.conflicts import not_known
from spacelang.syntax.evaluate import each, entries, evaluate, needs
from spacelang.syntax.frame import Frame
from spacelang.syntax.functions import most
from spacelang.syntax.names import bind, evaluate_let
from spacelang.syntax.precount import look_ahead
from spacelang.syntax.require import require
from spacelang.syntax.scope import Scope, check_default
from spacelang.syntax.session import Exhausted
from spacelang.syntax.values import BROKEN, Broken, Closure, Numbers, Thing, has_tensor, kind

RESERVED = {"true", "false", "none"}


@dataclass(frozen=True)
class Returned:
    """The value with which a body ended, and where."""

    value: Thing | Broken
    span: Span


def returned(body: tree.Body, frame: Frame, scope: Scope, span: Span) -> Returned:
    """Run a body that must return."""
    ended = run(body.statements, frame, scope)
    if ended is None:
        raise SpaceError(error("SP208", "this body ends without `return`", span).hint("return x"))
    return ended


def run_body(body: tree.Body, frame: Frame, scope: Scope, span: Span) -> Thing:
    """The value that a body returns."""
    ended = returned(body, frame, scope, span)
    if isinstance(ended.value, Broken):
        raise SpaceError(())
    return ended.value


def run(statements: Sequence[tree.Statement], frame: Frame, scope: Scope) -> Returned | None:
    """Run statements in order; what they returned, if they did. Errors go to the frame."""
    for position, statement in enumerate(statements):
        rest = statements[position + 1 :]
        level, prefix = frame.builder.level, frame.prefix
        try:
            if isinstance(statement, tree.When):
                ended, done = when(statement, rest, frame, scope)
                if ended is not None or done:
                    _last(statement, rest, frame)
                    return ended
            elif isinstance(statement, tree.Return):
                _last(statement, rest, frame)
                value = evaluate(statement.value, frame, scope)
                return Returned(value, statement.value.span)
            else:
                run_one(statement, frame, scope)
            continue
        except Exhausted:
            raise
        except SpaceError as failed:
            frame.errors.extend(failed.diagnostics)
        except NeedsValue as need:
            if frame.caller is not None:
                raise
            frame.errors.add(not_known(need, frame))
        frame.session.fail()
        frame.builder.level, frame.prefix = level, prefix
        if poison(statement, scope):
            return Returned(BROKEN, statement.span)
    return None


def _last(statement: tree.Statement, rest: Sequence[tree.Statement], frame: Frame) -> None:
    """SP208 for what stands after a statement that returns on every way through."""
    if rest and returns((statement,)):
        frame.errors.add(error("SP208", "nothing after a `return` is reached", rest[0].span))


def returns(statements: Sequence[tree.Statement]) -> bool:
    """Whether statements return on every way through."""
    return any(
        isinstance(statement, tree.Return)
        or (
            isinstance(statement, tree.When)
            and returns(statement.body.statements)
            and returns(statement.others)
        )
        for statement in statements
    )


def poison(statement: tree.Statement, scope: Scope) -> bool:
    """Break the names that a statement binds; whether it may return."""
    names: Iterable[str] = ()
    ends = False
    match statement:
        case tree.Assign(names=names) | tree.Let(names=names):
            pass
        case tree.Choose():
            names = (statement.name,)
        case tree.Input(name=name) | tree.BlockOf(name=name):
            names = (name,)
        case tree.For(names=names, body=body):
            for inner in body.statements:
                poison(inner, scope)
        case tree.When(body=body):
            for inner in (*body.statements, *statement.others):
                ends = poison(inner, scope) or ends
        case tree.Return():
            ends = True
        case _:
            pass
    for name in names:
        scope.names[name] = BROKEN
    return ends


def run_one(statement: tree.Statement, frame: Frame, scope: Scope) -> None:
    """Run a statement that does not return."""
    row = ROWS.get(type(statement))
    if row is None:
        word = statement.span.text.split(maxsplit=1)[0] if statement.span.text else "this"
        raise SpaceError(error("SP208", f"`{word}` has no place here", statement.span))
    row(statement, frame, scope)


def protect(names: Sequence[str], span: Span) -> None:
    """SP202 for `true`, `false` and `none` as names."""
    taken = next((n for n in names if n in RESERVED), None)
    if taken is not None:
        raise SpaceError(error("SP202", f"{taken} cannot be another value", span))


def _keep(names: Sequence[str], scope: Scope, span: Span) -> None:
    """SP202 for a second value of a name that keeps its value."""
    protect(names, span)
    taken = next((n for n in names if n in scope.constant), None)
    if taken is not None:
        found = error("SP202", f"{taken} has its value already", span, "again here")
        before = scope.spans.get(taken)
        raise SpaceError(found if before is None else found.also(before, "first here"))


# Rows.


def _let(statement: tree.Let, frame: Frame, scope: Scope) -> None:
    _keep(statement.names, scope, statement.span)
    evaluate_let(statement, frame, scope)
    scope.constant.update(statement.names)


def _assign(statement: tree.Assign, frame: Frame, scope: Scope) -> None:
    _keep(statement.names, scope, statement.span)
    values = each(statement.values, lambda expr: evaluate(expr, frame, scope))
    for value, expr in zip(values, statement.values, strict=True):
        if value is not None and value != () and not has_tensor(value):
            raise SpaceError(
                error("SP209", f"`=` binds tensors; this is {kind(value)}", expr.span).hint(
                    f"let {statement.names[0]} = .."
                )
            )
    value = values[0] if len(values) == 1 else tuple(values)
    bind(statement.names, value, statement.span, scope)


def _choose(statement: tree.Choose, frame: Frame, scope: Scope) -> None:
    _keep([statement.name], scope, statement.span)
    choose(statement, frame, scope)
    if statement.plain:  # `width[1]` binds `width` anew after `width[0]`
        scope.constant.add(statement.name)


def _block(statement: tree.BlockOf, frame: Frame, scope: Scope) -> None:
    _keep([statement.name], scope, statement.span)
    closure = Closure(statement, scope.snapshot(), frame)
    closure.scope.bind(statement.name, closure, statement.span)
    scope.bind(statement.name, closure, statement.span)


def _default(statement: tree.Default, frame: Frame, scope: Scope) -> None:
    check_default(statement)
    scope.defaults[statement.op] = (*scope.defaults.get(statement.op, ()), *statement.arguments)


def _for(statement: tree.For, frame: Frame, scope: Scope) -> None:
    """Unroll to the largest bound; a turn that a decision may leave out becomes a guard."""
    protect(statement.names, statement.span)
    _no_return(statement.body)
    look_ahead((statement,), frame, scope)
    source = evaluate(statement.source, frame, scope)
    before = {name: scope.names[name] for name in statement.names if name in scope.names}
    for truth, item in turns(source, statement.source.span, frame):
        scope.constant -= set(_constants(statement.body))
        bind(statement.names, item, statement.span, scope)
        if truth is True:
            run(statement.body.statements, frame, scope)
        else:
            guarded(truth, statement.body, frame, scope, statement.span)
    for name in statement.names:  # the names of a loop are its own
        scope.names.pop(name, None)
    scope.names.update(before)


def turns(source: Thing, span: Span, frame: Frame) -> Iterable[tuple[Any, Thing]]:
    """The turns of a loop: the condition of each, True where none hangs on it, and its value."""
    if isinstance(source, Numbers) and source.stop.constant is not None:
        frame.session.turn(source.count(source.stop.constant), span)
        return [(True, item) for item in entries(source, span, "what `for` walks")]
    if not isinstance(source, Numbers):
        items = entries(source, span, "what `for` walks")
        frame.session.turn(len(items), span)
        return [(True, item) for item in items]
    if not any(s.values for s in source.stop.symbols):
        raise needs(source.stop, "the end of a loop", span)
    mark_presence(frame, source.stop.symbols)
    last = most(source.stop, span)
    frame.session.turn(source.count(last), span)
    order = "<" if source.open else "<="
    return [(compare(order, Dim.of(turn), source.stop), Dim.of(turn)) for turn in source.upto(last)]


def _constants(body: tree.Body) -> Iterable[str]:
    """Names that a turn binds anew, each turn to a value of its own."""
    for statement in body.statements:
        match statement:
            case tree.Let(names=names):
                yield from names
            case tree.Choose():
                yield statement.name
            case tree.For(body=inner):
                yield from _constants(inner)
            case tree.When(body=inner):
                yield from _constants(inner)
                yield from _constants(tree.Body(tuple(statement.others)))
            case _:
                pass


def _no_return(body: tree.Body) -> None:
    for statement in body.statements:
        if isinstance(statement, tree.Return):
            raise SpaceError(error("SP208", "no `return` inside `for`", statement.span))
        if isinstance(statement, tree.When):
            _no_return(statement.body)
            _no_return(tree.Body(tuple(statement.others)))


ROWS: dict[type, Callable[[Any, Frame, Scope], None]] = {
    tree.Let: _let,
    tree.Assign: _assign,
    tree.Choose: _choose,
    tree.BlockOf: _block,
    tree.Default: _default,
    tree.For: _for,
    tree.Require: require,
}
