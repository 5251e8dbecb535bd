"""Statements: assignments, loops that unroll, `when` that decides now or by decision.

A turn or branch that a decision makes optional becomes a region; names that it rebinds leave it as
results. `return` ends the block: after a `when` that returns on one side, the rest is the other side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.build import Level, Tensor
from spacelang.ir.condition import FALSE, TRUE, Condition, compare, negate
from spacelang.ir.dim import Dim, conditional
from spacelang.ir.prove import Proved, feasible, holds
from spacelang.syntax import tree
from spacelang.syntax.choices import choose, mark_presence
from spacelang.syntax.expressions import (
    bind,
    entries,
    evaluate,
    evaluate_let,
    split_on,
)
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import (
    Closure,
    Entry,
    Numbers,
    Thing,
    Unbound,
    condition,
    flat,
    kind,
    shaped,
)

RESERVED = {"true", "false", "none"}


@dataclass(frozen=True)
class Returned:
    """The value with which a body ended."""

    value: Thing


def run_body(body: tree.Body, frame: Frame, scope: Scope, span: Span) -> Thing:
    """Run a body that must return; its value."""
    ended = run(body.statements, frame, scope)
    if ended is None:
        raise SpaceError(error("SP208", "this body ends without `return`", span).hint("return x"))
    return ended.value


def run(statements: Sequence[tree.Statement], frame: Frame, scope: Scope) -> Returned | None:
    """Run statements in order; what they returned, if they did.

    An error in one statement is reported and the next go on, unless they need its value.
    """
    for position, statement in enumerate(statements):
        match statement:
            case tree.Return(value):
                if position + 1 < len(statements):
                    raise SpaceError(
                        error("SP208", "nothing after a `return` is reached", statements[position + 1].span)
                    )  # fmt: skip
                return Returned(evaluate(value, frame, scope))
            case tree.When():
                rest = statements[position + 1 :]
                ended, done = _when(statement, rest, frame, scope)
                if ended is not None or done:
                    return ended
            case _:
                _run_one(statement, frame, scope)
    return None


def _run_one(statement: tree.Statement, frame: Frame, scope: Scope) -> None:
    row = ROWS.get(type(statement))
    if row is None:
        word = statement.span.text.split(maxsplit=1)[0] if statement.span.text else "this"
        raise SpaceError(error("SP208", f"`{word}` has no place in a block", statement.span))
    row(statement, frame, scope)


def _protect(names: Sequence[str], span: Span) -> None:
    taken = next((n for n in names if n in RESERVED), None)
    if taken is not None:
        raise SpaceError(error("SP202", f"{taken} cannot be another value", span))


def _let(statement: tree.Let, frame: Frame, scope: Scope) -> None:
    _protect(statement.names, statement.span)
    evaluate_let(statement, frame, scope)


def _assign(statement: tree.Assign, frame: Frame, scope: Scope) -> None:
    _protect(statement.names, statement.span)
    values = [evaluate(v, frame, scope) for v in statement.values]
    for value, expr in zip(values, statement.values, strict=True):
        if not isinstance(value, Tensor | tuple | None):
            raise SpaceError(
                error("SP209", f"`=` binds tensors; this is {kind(value)}", expr.span).hint(
                    f"let {statement.names[0]} = .."
                )
            )
    value = values[0] if len(values) == 1 else tuple(values)
    bind(statement.names, value, statement.span, scope)


def _choose(statement: tree.Choose, frame: Frame, scope: Scope) -> None:
    _protect([statement.target.name], statement.span)
    choose(statement, frame, scope)


def _block(statement: tree.BlockOf, frame: Frame, scope: Scope) -> None:
    closure = Closure(statement, scope.snapshot(), frame)
    closure.scope.bind(statement.name, closure, statement.span)
    scope.bind(statement.name, closure, statement.span)


def _default(statement: tree.Default, frame: Frame, scope: Scope) -> None:
    scope.defaults[statement.op] = (*scope.defaults.get(statement.op, ()), *statement.arguments)


def _for(statement: tree.For, frame: Frame, scope: Scope) -> None:
    """Unroll to the largest bound; a turn that a decision may leave out becomes a guard."""
    _protect(statement.names, statement.span)
    _no_return(statement.body)
    source = evaluate(statement.source, frame, scope)
    if not isinstance(source, Numbers) or source.stop.constant is not None:
        for item in entries(source, statement.source.span, "what `for` walks"):
            bind(statement.names, item, statement.span, scope)
            run(statement.body.statements, frame, scope)
        return
    mark_presence(frame, source.stop.symbols)
    for turn in source.upto(source.stop.bounds()[1]):
        here = Dim.of(turn)
        truth = compare("<" if source.open else "<=", here, source.stop)
        bind(statement.names, here, statement.span, scope)
        guarded(truth, statement.body, frame, scope, statement.span)


def _no_return(body: tree.Body) -> None:
    for statement in body.statements:
        if isinstance(statement, tree.Return):
            raise SpaceError(error("SP208", "no `return` inside `for`", statement.span))
        if isinstance(statement, tree.When):
            _no_return(statement.body)
            if isinstance(statement.otherwise, tree.Body):
                _no_return(statement.otherwise)
            elif statement.otherwise is not None:
                _no_return(tree.Body((statement.otherwise,)))


def settled(truth: bool | Condition, frame: Frame) -> bool | Condition:
    """A condition as decided as the present guards allow."""
    if isinstance(truth, bool):
        return truth
    if truth == TRUE or isinstance(holds(truth, frame.builder.guards), Proved):
        return True
    if truth == FALSE or feasible((*frame.builder.guards, truth)) is False:
        return False
    return truth


def guarded(
    truth: bool | Condition, body: tree.Body, frame: Frame, scope: Scope, span: Span
) -> None:
    """Run a body that is there only where a condition holds; what it rebinds falls back else."""
    truth = settled(truth, frame)
    if truth is True:
        run(body.statements, frame, scope)
    if isinstance(truth, bool):
        return
    before = dict(scope.names)
    region = frame.builder.open(truth)
    run(body.statements, frame, scope)
    frame.builder.close()
    changed = _changed(before, scope.names)
    fallbacks: list[Tensor] = []
    results: list[Tensor] = []
    for name in changed:
        old, new = before.get(name), scope.names[name]
        if name not in before:
            scope.names[name] = Unbound(name, scope.spans.get(name, span))
            continue
        if isinstance(old, Dim) and isinstance(new, Dim):
            scope.names[name] = conditional(truth, new, old)
            continue
        pairs = _pairs(name, old, new, truth, span)
        fallbacks += [a for a, _ in pairs]
        results += [b for _, b in pairs]
    made = iter(frame.builder.guard(truth, region, fallbacks, results, span))
    for name in changed:
        old, new = before.get(name), scope.names[name]
        if isinstance(new, Tensor):
            scope.names[name] = next(made)
        elif isinstance(new, tuple) and isinstance(old, tuple):
            scope.names[name] = tuple(
                next(made) if a is not b and isinstance(b, Tensor) else b
                for a, b in zip(old, new, strict=True)
            )


def _changed(before: dict[str, Entry], after: dict[str, Entry]) -> list[str]:
    """Names whose value is another one, blocks aside (they hold no tensor)."""
    return [
        n
        for n, v in after.items()
        if not isinstance(v, Closure) and (n not in before or before[n] is not v)
    ]


def _pairs(
    name: str, old: Entry, new: Entry, truth: Condition, span: Span
) -> list[tuple[Tensor, Tensor]]:
    """Tensors of two values that take each other's place, entry by entry."""
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        return [(old, new)]
    if isinstance(old, tuple) and isinstance(new, tuple):
        if len(old) != len(new):
            raise SpaceError(
                error(
                    "SP205", f"the list {name} leaves with {len(old)} or {len(new)} entries", span
                )
            )
        return [
            p for a, b in zip(old, new, strict=True) if a is not b for p in _pairs(name, a, b, truth, span)
        ]  # fmt: skip
    if old == new and not isinstance(old, Tensor):
        return []
    raise split_on(truth)


def _when(
    statement: tree.When, rest: Sequence[tree.Statement], frame: Frame, scope: Scope
) -> tuple[Returned | None, bool]:
    """Run a `when`; what it returned, and whether the rest of the body has been run with it."""
    truth = settled(
        condition(evaluate(statement.condition, frame, scope), statement.condition.span), frame
    )
    otherwise = _otherwise(statement)
    if isinstance(truth, bool):
        return run(statement.body.statements if truth else otherwise, frame, scope), False
    if not (_returns(statement.body.statements) or _returns(otherwise)):
        _branches(truth, statement.body.statements, otherwise, frame, scope, statement.span)
        return None, False
    # One side returns: the other goes on with the rest of the body.
    first, second = list(statement.body.statements), list(otherwise)
    if not _returns(first):
        first += rest
    if not _returns(second):
        second += rest
    return _either(truth, first, second, frame, scope, statement.span), True


def _otherwise(statement: tree.When) -> tuple[tree.Statement, ...]:
    if statement.otherwise is None:
        return ()
    if isinstance(statement.otherwise, tree.When):
        return (statement.otherwise,)
    return statement.otherwise.statements


def _returns(statements: Sequence[tree.Statement]) -> bool:
    """Whether statements return on every way through."""
    for statement in statements:
        if isinstance(statement, tree.Return):
            return True
        if isinstance(statement, tree.When) and (
            _returns(statement.body.statements) and _returns(_otherwise(statement))
        ):
            return True
    return False


def _branches(
    truth: Condition,
    first: Sequence[tree.Statement],
    second: Sequence[tree.Statement],
    frame: Frame,
    scope: Scope,
    span: Span,
) -> None:
    """Two branches by decision; names that either rebinds are joined after."""
    before = dict(scope.names)
    conditions = (truth, negate(truth))
    regions: list[Level] = []
    ends: list[dict[str, Entry]] = []
    for statements, here in zip((first, second), conditions, strict=True):
        scope.names = dict(before)
        regions.append(frame.builder.open(here))
        run(statements, frame, scope)
        frame.builder.close()
        ends.append(scope.names)
    scope.names = dict(before)
    names = list(dict.fromkeys(n for end in ends for n in _changed(before, end)))
    joined: list[str] = []
    pairs: list[tuple[Tensor, Tensor]] = []
    for name in names:
        a, b = ends[0].get(name), ends[1].get(name)
        if name not in ends[0] or name not in ends[1]:
            scope.names[name] = Unbound(name, span)
        elif isinstance(a, Dim) and isinstance(b, Dim):
            scope.names[name] = conditional(truth, a, b)
        elif isinstance(a, Tensor) and isinstance(b, Tensor):
            joined.append(name)
            pairs.append((a, b))
        elif a is b:
            scope.names[name] = a
        else:
            raise split_on(truth)
    fallbacks = [v for n in joined if isinstance(v := before.get(n), Tensor)]
    if not second and len(fallbacks) == len(joined):
        results = [a for a, _ in pairs]
        made = frame.builder.guard(truth, regions[0], fallbacks, results, span)
    else:
        for a, b in pairs:
            frame.builder.same_type(a.type, b.type, frame.builder.guards, span)
        types = tuple(a.type for a, _ in pairs)
        both = [[a for a, _ in pairs], [b for _, b in pairs]]
        made = frame.builder.choose(conditions, regions, both, types, span)
    for name, value in zip(joined, made, strict=True):
        scope.names[name] = value


def _either(
    truth: Condition,
    first: Sequence[tree.Statement],
    second: Sequence[tree.Statement],
    frame: Frame,
    scope: Scope,
    span: Span,
) -> Returned:
    """Two ways to the end of the body: a choose of what they return."""
    before = dict(scope.names)
    conditions = (truth, negate(truth))
    regions: list[Level] = []
    values: list[Thing] = []
    for statements, here in zip((first, second), conditions, strict=True):
        scope.names = dict(before)
        regions.append(frame.builder.open(here))
        ended = run(statements, frame, scope)
        frame.builder.close()
        if ended is None:
            raise SpaceError(error("SP208", "this way through ends without `return`", span))
        values.append(ended.value)
    scope.names = before
    ends = [flat(v) for v in values]
    if len(ends[0]) != len(ends[1]):
        raise SpaceError(error("SP205", "the two ways return lists of different lengths", span))
    for a, b in zip(*ends, strict=True):
        frame.builder.same_type(a.type, b.type, frame.builder.guards, span)
    made = frame.builder.choose(conditions, regions, ends, tuple(t.type for t in ends[0]), span)
    return Returned(shaped(values[0], iter(made)))


ROWS: dict[type, Callable[..., None]] = {
    tree.Let: _let,
    tree.Assign: _assign,
    tree.Choose: _choose,
    tree.BlockOf: _block,
    tree.Default: _default,
    tree.For: _for,
}

