"""Branches by decision: optional turns of loops, `when`, and two ways to the end of a body.

A part that a decision makes optional becomes a region; names that it rebinds leave it as results.
`return` ends the block: after a `when` that returns on one side, the rest is the other side. A
chain of `else when` whose conditions exclude each other and leave nothing out is one choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.agreement import one_type
from spacelang.ir.build import Level, Tensor
from spacelang.ir.condition import FALSE, TRUE, Condition, conjunction, negate
from spacelang.ir.infer import NeedsValue
from spacelang.ir.prove import Proved, feasible, holds
from spacelang.syntax import tree
from spacelang.syntax.arithmetic import either
from spacelang.syntax.conflicts import spans
from spacelang.syntax.evaluate import evaluate
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import (
    BROKEN,
    NOTHING,
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
    not_of_the_batch,
    shaped,
)

if TYPE_CHECKING:
    from spacelang.syntax.statements import Returned

Row = tuple[Tensor, ...]
"""Tensors that take each other's place, one for each way."""
Statements = Sequence[tree.Statement]


def settled(truth: bool | Condition, frame: Frame, span: Span) -> bool | Condition:
    """A condition as decided as the present guards allow; SP209 where the batch would decide it."""
    if isinstance(truth, bool):
        return truth
    if truth == TRUE or isinstance(holds(truth, frame.builder.guards), Proved):
        return True
    if truth == FALSE or feasible((*frame.builder.guards, truth)) is False:
        return False
    not_of_the_batch(truth, "decides nothing", span)
    return truth


def guarded(truth: Condition, body: tree.Body, frame: Frame, scope: Scope, span: Span) -> None:
    """Run a body that is there only where a condition holds; what it rebinds falls back else."""
    from spacelang.syntax.statements import run

    known = settled(truth, frame, span)
    if known is True:
        run(body.statements, frame, scope)
    if isinstance(known, bool):
        return
    before = scope.snapshot()
    region = frame.builder.open(known)
    run(body.statements, frame, scope)
    frame.builder.close()
    join = Join((known, negate(known)), (scope, before), span)
    results, fallbacks = join.made
    if results or region.nodes:
        join.end(frame.builder.guard(known, region, fallbacks, results, _place(results, span)))


def _place(made: Sequence[Tensor], span: Span) -> Span:
    """Where a value that leaves a branch was made, if one statement alone does."""
    found = list(spans(made))
    return found[0] if len(found) == 1 else span


def when(
    statement: tree.When, rest: Statements, frame: Frame, scope: Scope
) -> tuple[Returned | None, bool]:
    """Run a `when`; what it returned, and whether the rest of the body has been run with it."""
    from spacelang.syntax.statements import returns, run

    truths, ways = _ways(statement, frame, scope)
    if isinstance(truths, bool):
        return run(ways[0] if truths else ways[1], frame, scope), False
    if any(map(returns, ways)):
        # A way that does not return goes on with the rest of the body.
        ends = [way if returns(way) else (*way, *rest) for way in ways]
        return _ends(truths, ends, frame, scope, statement.span), True
    _branches(truths, ways, frame, scope, statement.span)
    return None, False


def _ways(
    statement: tree.When, frame: Frame, scope: Scope
) -> tuple[bool | tuple[Condition, ...], tuple[Statements, ...]]:
    """The ways of a `when` and their conditions, of which one holds: two, but for a chain that is
    one choice; or whether it is the first of two, where that is known."""
    both = (statement.body.statements, tuple(statement.others))
    value = evaluate(statement.condition, frame, scope)
    span = statement.condition.span
    truth = settled(condition(value, span), frame, span)
    if isinstance(truth, bool):
        return truth, both
    links = [statement]
    while isinstance(links[-1].otherwise, tree.When):
        links.append(links[-1].otherwise)
    if len(links) > 1 and links[-1].otherwise is None:
        truths = [truth, *_others(links[1:], frame, scope)]
        if len(truths) == len(links) and _exactly_one(truths, frame.builder.guards):
            kept = [(t, link) for t, link in zip(truths, links, strict=True) if t != FALSE]
            if len(kept) > 1:
                return tuple(t for t, _ in kept), tuple(way.body.statements for _, way in kept)
    return (truth, negate(truth)), both


def _others(links: Sequence[tree.When], frame: Frame, scope: Scope) -> Iterator[Condition]:
    """The conditions of the further links of a chain, up to one that is not open by itself."""
    for link in links:
        try:
            span = link.condition.span
            truth = settled(condition(evaluate(link.condition, frame, scope), span), frame, span)
        except (SpaceError, NeedsValue):
            return  # as an `else` of its own it is read under more conditions, and reported there
        if truth is True:
            return
        yield FALSE if truth is False else truth


def _exactly_one(truths: Sequence[Condition], guards: tuple[Condition, ...]) -> bool:
    """Whether one of the conditions holds, and one alone, wherever the guards do."""
    if feasible((*guards, *map(negate, truths))) is not False:
        return False
    return all(feasible((*guards, *pair)) is False for pair in combinations(truths, 2))


def _branches(
    truths: tuple[Condition, ...],
    ways: tuple[Statements, ...],
    frame: Frame,
    scope: Scope,
    span: Span,
) -> None:
    """Branches by decision; names that any of them rebinds are joined after."""
    from spacelang.syntax.statements import run

    build, before = frame.builder, scope.snapshot()
    regions: list[Level] = []
    ends: list[Scope] = []
    for statements, here in zip(ways, truths, strict=True):
        scope.restore(before)
        regions.append(build.open(here))
        run(statements, frame, scope)
        build.close()
        ends.append(scope.snapshot())
    scope.restore(ends[0])
    join = Join(truths, (scope, *ends[1:]), span)
    results = join.made
    if not ways[-1]:
        new, old = results
        if not new and not regions[0].nodes:
            return
        join.end(build.guard(truths[0], regions[0], old, new, _place(new, span)))
        return
    types = tuple(
        one_type(build.level, row, regions, build.explain, [span] * len(row)) for row in join.rows
    )
    join.end(build.choose(truths, regions, results, types, span))


class Join:
    """Gives every name that several ways leave with different values one value, by the conditions.

    The first scope holds the names of the first way and gets the result. Tensors come as `rows`;
    `end` takes what they became.
    """

    def __init__(
        self, truths: tuple[Condition, ...], scopes: tuple[Scope, ...], span: Span
    ) -> None:
        self.truths, self.scope, self.span = truths, scopes[0], span
        self.ways = len(scopes)
        self.rows: list[Row] = []
        self.waiting: list[tuple[str, tuple[Thing, ...]]] = []
        for name in dict.fromkeys(name for scope in scopes for name in scope.names):
            if all(name in scope.names for scope in scopes):
                self._join(name, tuple(scope.names[name] for scope in scopes))
            else:
                place = next((s.spans[name] for s in scopes if name in s.spans), span)
                pairs = zip(truths, scopes, strict=True)
                known = [(t, s.names[name]) for t, s in pairs if name in s.names]
                ways = tuple(way for truth, entry in known for way in _ways_of(truth, entry))
                self.scope.bind(name, Unbound(name, place, ways), span)
                self.scope.constant.discard(name)
        for other in scopes[1:]:
            self.scope.constant |= other.constant & other.names.keys()

    @property
    def made(self) -> list[list[Tensor]]:
        """The tensors of each way, in the order of the rows."""
        return [[row[way] for row in self.rows] for way in range(self.ways)]

    def _join(self, name: str, values: tuple[Entry, ...]) -> None:
        first, names = values[0], self.scope.names
        if all(v is first for v in values) or isinstance(first, Closure | Clash | Module | Later):
            return
        if any(isinstance(v, Broken) for v in values):
            names[name] = BROKEN
            return
        things: list[Thing] = []
        for value in values:
            if isinstance(value, NOTHING):
                names[name] = Torn(name, self.truths[0], values)
                return
            things.append(value)
        if all(map(has_tensor, things)):
            rows = _rows(name, things, self.span)
            if rows is None:
                names[name] = Torn(name, self.truths[0])
            elif rows:
                self.rows += rows
                self.waiting.append((name, tuple(things)))
        elif any(type(v) is not type(first) or v != first for v in things):
            names[name] = self._either(name, things)

    def _either(self, name: str, values: Sequence[Thing]) -> Entry:
        """A number or truth value by the conditions; anything else is torn."""
        *rest, found = values
        for truth, value in reversed(list(zip(self.truths, rest, strict=False))):
            joined = either(truth, value, found)
            if joined is None:
                return Torn(name, self.truths[0])
            found = joined
        return found

    def end(self, made: Sequence[Tensor]) -> None:
        """Bind the names that waited to the tensors that came out, in order."""
        rest = iter(made)
        for name, values in self.waiting:
            self.scope.names[name] = _woven(values, rest)


def _ways_of(truth: Condition, entry: Entry) -> Iterator[tuple[Condition, Thing]]:
    """Under which conditions a name may be read after a branch that binds it; no tensors, which
    stay inside."""
    if isinstance(entry, Unbound):
        yield from ((conjunction(truth, inner), value) for inner, value in entry.ways)
    elif not isinstance(entry, NOTHING) and not has_tensor(entry):
        yield truth, entry


def _rows(name: str, values: Sequence[Thing], span: Span) -> list[Row] | None:
    """Tensors of several values that take each other's place; None if the rest of them differs."""
    tensors = [v for v in values if isinstance(v, Tensor)]
    if len(tensors) == len(values):
        return [] if all(t is tensors[0] for t in tensors) else [tuple(tensors)]
    lists = [v for v in values if isinstance(v, tuple)]
    if len(lists) == len(values):
        lengths = list(dict.fromkeys(map(len, lists)))
        if len(lengths) > 1:
            shown = " or ".join(map(str, lengths))
            raise SpaceError(error("SP205", f"the list {name} leaves with {shown} entries", span))
        found: list[Row] = []
        for inner in zip(*lists, strict=True):
            rows = _rows(name, inner, span)
            if rows is None:
                return None
            found += rows
        return found
    first = values[0]
    return [] if all(type(v) is type(first) and v == first for v in values) else None


def _woven(values: tuple[Thing, ...], made: Iterator[Tensor]) -> Thing:
    """The first value with what each row of tensors became in the place of its tensors."""
    first = values[0]
    lists = [v for v in values if isinstance(v, tuple)]
    if len(lists) == len(values):
        return tuple(_woven(inner, made) for inner in zip(*lists, strict=True))
    same = all(value is first for value in values)
    return next(made) if isinstance(first, Tensor) and not same else first


def _ends(
    truths: tuple[Condition, ...],
    ways: Sequence[Statements],
    frame: Frame,
    scope: Scope,
    span: Span,
) -> Returned:
    """Several ways to the end of the body: a choose of what they return."""
    from spacelang.syntax.statements import Returned, run

    build, before = frame.builder, scope.snapshot()
    regions: list[Level] = []
    values: list[Thing] = []
    ended: list[Returned] = []
    for statements, here in zip(ways, truths, strict=True):
        scope.restore(before)
        regions.append(build.open(here))
        found = run(statements, frame, scope)
        build.close()
        if found is None:
            raise SpaceError(error("SP208", "this way through ends without `return`", span))
        ended.append(found)
        if not isinstance(found.value, Broken):
            values.append(found.value)
    scope.restore(before)
    if len(values) < len(ended):
        return Returned(BROKEN, span)
    ends = [flat(v) for v in values]
    if any(len(end) != len(ends[0]) for end in ends):
        raise SpaceError(error("SP205", "the two ways return lists of different lengths", span))
    places = [way.span for way in ended]
    types = tuple(
        one_type(build.level, row, regions, build.explain, places)
        for row in zip(*ends, strict=True)
    )
    made = build.choose(truths, regions, ends, types, span)
    return Returned(shaped(values[0], iter(made)), span)
