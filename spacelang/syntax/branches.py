"""Branches by decision: optional turns of loops, `when`, and two ways to the end of a body.

A part that a decision makes optional becomes a region; names that it rebinds leave it as results.
`return` ends the block: after a `when` that returns on one side, the rest is the other side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.build import Level, Tensor
from spacelang.ir.condition import FALSE, TRUE, Condition, negate
from spacelang.ir.prove import Proved, feasible, holds
from spacelang.syntax import tree
from spacelang.syntax.arithmetic import either
from spacelang.syntax.conflicts import spans
from spacelang.syntax.evaluate import evaluate
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import (
    BROKEN,
    Broken,
    Clash,
    Closure,
    Entry,
    Later,
    Module,
    Thing,
    Torn,
    Unbound,
    condition,
    flat,
    has_tensor,
    shaped,
)

if TYPE_CHECKING:
    from spacelang.syntax.statements import Returned

Pair = tuple[Tensor, Tensor]
"""Two tensors that take each other's place: where the condition holds, and where not."""


def settled(truth: bool | Condition, frame: Frame) -> bool | Condition:
    """A condition as decided as the present guards allow."""
    if isinstance(truth, bool):
        return truth
    if truth == TRUE or isinstance(holds(truth, frame.builder.guards), Proved):
        return True
    if truth == FALSE or feasible((*frame.builder.guards, truth)) is False:
        return False
    return truth


def guarded(truth: Condition, body: tree.Body, frame: Frame, scope: Scope, span: Span) -> None:
    """Run a body that is there only where a condition holds; what it rebinds falls back else."""
    from spacelang.syntax.statements import run

    known = settled(truth, frame)
    if known is True:
        run(body.statements, frame, scope)
    if isinstance(known, bool):
        return
    before = scope.snapshot()
    region = frame.builder.open(known)
    run(body.statements, frame, scope)
    frame.builder.close()
    join = Join(known, scope, before, span)
    results, fallbacks = [new for new, _ in join.pairs], [old for _, old in join.pairs]
    if results or region.nodes:
        join.end(frame.builder.guard(known, region, fallbacks, results, _place(results, span)))


def _place(made: Sequence[Tensor], span: Span) -> Span:
    """Where a value that leaves a branch was made, if one statement alone does."""
    found = list(spans(made))
    return found[0] if len(found) == 1 else span


def when(
    statement: tree.When, rest: Sequence[tree.Statement], frame: Frame, scope: Scope
) -> tuple[Returned | None, bool]:
    """Run a `when`; what it returned, and whether the rest of the body has been run with it."""
    from spacelang.syntax.statements import returns, run

    value = evaluate(statement.condition, frame, scope)
    truth = settled(condition(value, statement.condition.span), frame)
    first, second = statement.body.statements, tuple(statement.others)
    if isinstance(truth, bool):
        return run(first if truth else second, frame, scope), False
    if returns(first) or returns(second):
        # One side returns: the other goes on with the rest of the body.
        first = first if returns(first) else (*first, *rest)
        second = second if returns(second) else (*second, *rest)
        return _ends(truth, first, second, frame, scope, statement.span), True
    _branches(truth, first, second, frame, scope, statement.span)
    return None, False


def _branches(
    truth: Condition,
    first: Sequence[tree.Statement],
    second: Sequence[tree.Statement],
    frame: Frame,
    scope: Scope,
    span: Span,
) -> None:
    """Two branches by decision; names that either rebinds are joined after."""
    from spacelang.syntax.statements import run

    build, before = frame.builder, scope.snapshot()
    conditions = (truth, negate(truth))
    regions: list[Level] = []
    ends: list[Scope] = []
    for statements, here in zip((first, second), conditions, strict=True):
        scope.restore(before)
        regions.append(build.open(here))
        run(statements, frame, scope)
        build.close()
        ends.append(scope.snapshot())
    scope.restore(ends[0])
    join = Join(truth, scope, ends[1], span)
    results, fallbacks = [a for a, _ in join.pairs], [b for _, b in join.pairs]
    if not second:
        place = _place(results, span)
        join.end(build.guard(truth, regions[0], fallbacks, results, place))
        return
    for a, b in join.pairs:
        build.same_type(a, b, build.guards, span)
    types = tuple(a.type for a in results)
    join.end(build.choose(conditions, regions, [results, fallbacks], types, span))


class Join:
    """Gives every name that two ways leave with different values one value, by the condition.

    `scope` holds the names where the condition is met and gets the result. Tensors come as `pairs`;
    `end` takes what they became.
    """

    def __init__(self, truth: Condition, scope: Scope, other: Scope, span: Span) -> None:
        self.truth, self.scope, self.span = truth, scope, span
        self.pairs: list[Pair] = []
        self.waiting: list[tuple[str, Thing, Thing]] = []
        for name in dict.fromkeys((*scope.names, *other.names)):
            if name not in scope.names or name not in other.names:
                place = scope.spans.get(name) or other.spans.get(name) or span
                scope.bind(name, Unbound(name, place), span)
                scope.constant.discard(name)
            else:
                self._join(name, scope.names[name], other.names[name])
        scope.constant |= other.constant & other.names.keys()

    def _join(self, name: str, a: Entry, b: Entry) -> None:
        if a is b or isinstance(a, Closure | Clash | Module | Later):
            return
        if isinstance(a, Broken) or isinstance(b, Broken):
            self.scope.names[name] = BROKEN
        elif isinstance(a, Unbound | Torn) or isinstance(
            b, Unbound | Torn | Clash | Module | Later
        ):
            self.scope.names[name] = Torn(name, self.truth)
        elif has_tensor(a) and has_tensor(b):
            pairs = _pairs(name, a, b, self.span)
            if pairs is None:
                self.scope.names[name] = Torn(name, self.truth)
            elif pairs:
                self.pairs += pairs
                self.waiting.append((name, a, b))
        elif type(a) is not type(b) or a != b:
            value = either(self.truth, a, b)
            self.scope.names[name] = Torn(name, self.truth) if value is None else value

    def end(self, made: Sequence[Tensor]) -> None:
        """Bind the names that waited to the tensors that came out, in order."""
        rest = iter(made)
        for name, a, b in self.waiting:
            self.scope.names[name] = _woven(a, b, rest)


def _pairs(name: str, a: Thing, b: Thing, span: Span) -> list[Pair] | None:
    """Tensors of two values that take each other's place; None if the rest of them differs."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return [] if a is b else [(a, b)]
    if isinstance(a, tuple) and isinstance(b, tuple):
        if len(a) != len(b):
            raise SpaceError(
                error("SP205", f"the list {name} leaves with {len(a)} or {len(b)} entries", span)
            )
        found: list[Pair] = []
        for m, n in zip(a, b, strict=True):
            inner = _pairs(name, m, n, span)
            if inner is None:
                return None
            found += inner
        return found
    return [] if type(a) is type(b) and a == b else None


def _woven(a: Thing, b: Thing, made: Iterator[Tensor]) -> Thing:
    """The first value with what each pair of tensors became in the place of its tensors."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return tuple(_woven(m, n, made) for m, n in zip(a, b, strict=True))
    return next(made) if isinstance(a, Tensor) and a is not b else a


def _ends(
    truth: Condition,
    first: Sequence[tree.Statement],
    second: Sequence[tree.Statement],
    frame: Frame,
    scope: Scope,
    span: Span,
) -> Returned:
    """Two ways to the end of the body: a choose of what they return."""
    from spacelang.syntax.statements import Returned, run

    build, before = frame.builder, scope.snapshot()
    conditions = (truth, negate(truth))
    regions: list[Level] = []
    values: list[Thing] = []
    ways: list[Returned] = []
    for statements, here in zip((first, second), conditions, strict=True):
        scope.restore(before)
        regions.append(build.open(here))
        ended = run(statements, frame, scope)
        build.close()
        if ended is None:
            raise SpaceError(error("SP208", "this way through ends without `return`", span))
        ways.append(ended)
        if not isinstance(ended.value, Broken):
            values.append(ended.value)
    scope.restore(before)
    if len(values) < len(ways):
        return Returned(BROKEN, span)
    ends = [flat(v) for v in values]
    if len(ends[0]) != len(ends[1]):
        raise SpaceError(error("SP205", "the two ways return lists of different lengths", span))
    for a, b in zip(*ends, strict=True):
        build.same_type(a, b, build.guards, ways[1].span)
    made = build.choose(conditions, regions, ends, tuple(t.type for t in ends[0]), span)
    return Returned(shaped(values[0], iter(made)), span)
