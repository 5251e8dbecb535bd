"""Proofs about sizes for every architecture at once, under the guards of the path to a statement.

    equal(64*heads, width, guards)   ->  Refuted(heads = 4, width = 192)

In order: the normal form settles it; the decisions of the question, with the guards that share one,
are enumerated (at most LIMIT points); past that only the decisions inside opaque atoms are, and the
normal forms of the rest compared; else it is unsettled. Nothing is guessed: every example that is
reported breaks the claim and satisfies every guard.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType

from spacelang.ir.atom import LIMIT, Atom, Number, Symbol, Value
from spacelang.ir.bounds import Bound, Interval
from spacelang.ir.condition import FALSE, TRUE, All, Any, Compare, Condition, conjunction
from spacelang.ir.enclosure import enclosed, irrational, summed, told
from spacelang.ir.facts import atom_interval, content, enumerable, interval
from spacelang.ir.polynomial import Dim
from spacelang.ir.search import Wanted, domains, found, nearest, satisfied, span

Size = Dim | Symbol | int | float | Fraction

ATTEMPTS = 16
"""How many failing points are tried for completion by guards that were not enumerated."""


@dataclass(frozen=True)
class Proved:
    """It holds for every architecture; `points` were visited, 0 is by normal form."""

    points: int = 0


@dataclass(frozen=True)
class Refuted:
    """It fails: values of the decisions of the question and of every guard."""

    example: Mapping[str, Value]


@dataclass(frozen=True)
class Unsettled:
    """Neither was found: the decisions it depends on and how many points they span."""

    symbols: tuple[str, ...]
    points: int


Answer = Proved | Refuted | Unsettled
BY_FORM = Proved()


def equal(a: Size, b: Size, guards: Iterable[Condition] = ()) -> Answer:
    """Whether two sizes are equal for every architecture that the guards admit."""
    left, right = Dim.of(a), Dim.of(b)
    if left == right:
        return BY_FORM
    return _settle("zero", left - right, left.symbols | right.symbols, guards)


def whole(a: Size, guards: Iterable[Condition] = ()) -> Answer:
    """Whether a size is a whole number for every architecture that the guards admit."""
    size = Dim.of(a)
    if size.constant is not None and size.constant.denominator == 1:
        return BY_FORM
    return _settle("whole", size, size.symbols, guards)


def at_most(a: Size, b: Size, guards: Iterable[Condition] = ()) -> Answer:
    """Whether `a <= b` for every architecture that the guards admit."""
    left, right = Dim.of(a), Dim.of(b)
    if left.constant is not None and right.constant is not None and left.constant <= right.constant:
        return BY_FORM
    return _settle("at most zero", left - right, left.symbols | right.symbols, guards)


def holds(condition: Condition, guards: Iterable[Condition] = ()) -> Answer:
    """Whether a condition holds for every architecture that the guards admit."""
    if condition == TRUE:
        return BY_FORM
    return _holds(condition, condition.symbols, _conjuncts(guards))


def _holds(condition: Condition, asked: frozenset[Symbol], parts: tuple[Condition, ...]) -> Answer:
    if condition in parts:
        return Proved()
    match condition:
        case Compare(op=op, left=left, right=right):
            return _settle(CLAIMS[op], left - right, asked, parts)
        case All(operands=operands) if not enumerable(condition.symbols):
            answers = [_holds(operand, asked, parts) for operand in operands]
            open_answers = [answer for answer in answers if not isinstance(answer, Proved)]
            refuted = [answer for answer in open_answers if isinstance(answer, Refuted)]
            visited = sum(answer.points for answer in answers if isinstance(answer, Proved))
            return (refuted or open_answers or [Proved(visited)])[0]
        case Any(operands=operands) if any(operand in parts for operand in operands):
            return Proved()
        case _:
            return _settle("holds", condition, asked, parts)


@lru_cache(maxsize=65536)
def _feasible(parts: tuple[Condition, ...]) -> bool | None:
    if FALSE in parts:
        return False
    known = domains(frozenset[Symbol]().union(*(part.symbols for part in parts)), parts)
    wanted = [
        Wanted(part.symbols, lambda point, part=part: satisfied(part, point))
        for part in _joint(parts)
    ]
    return found(known, wanted)[0]


def feasible(guards: Iterable[Condition]) -> bool | None:
    """Whether some architecture satisfies the guards: False is proved, None is not known."""
    return _feasible(_conjuncts(guards))


CLAIMS = {"<": "below zero", "<=": "at most zero", "==": "zero", "!=": "not zero"}
BY_RANGE = ("below zero", "at most zero", "not zero")


def _true_at(claim: str, subject: Dim | Condition, point: Mapping[str, Value]) -> bool | None:
    """Whether the claim holds at a point; None if a float is too close to tell."""
    if not isinstance(subject, Dim):
        return told(subject, point)
    verdict = _true_of(claim, subject.at(point))
    if not irrational(subject):
        return verdict
    low, high = enclosed(subject, point)
    return verdict if _true_within(claim, low, high) is verdict else None


def _true_within(claim: str, low: Bound, high: Bound) -> bool | None:
    """Whether the claim holds of every number of a range, or of none; None if of some."""
    match claim:
        case "zero" | "not zero":
            apart = low > 0 or high < 0
            return (claim == "not zero") == apart if apart or low == high else None
        case "at most zero":
            return True if high <= 0 else False if low > 0 else None
        case "below zero":
            return True if high < 0 else False if low >= 0 else None
        case _:
            if isinstance(low, float) or isinstance(high, float):
                return None
            whole = math.floor(high) >= low
            return whole if low == high or not whole else None


def _true_of(claim: str, value: Number) -> bool:
    """Whether the claim holds of a number."""
    match claim:
        case "zero":
            return value == 0
        case "whole":
            return value.is_integer() if isinstance(value, float) else value.denominator == 1
        case "at most zero":
            return value <= 0
        case "below zero":
            return value < 0
        case _:
            return value != 0


def _true_by_form(claim: str, subject: Dim | Condition) -> bool | None:
    """What the normal form says; ranges are asked only where an enumeration is not to be had."""
    if not isinstance(subject, Dim):
        return True if subject == TRUE else False if subject == FALSE else None
    if subject.constant is not None:
        return _true_of(claim, subject.constant)
    if claim == "whole":
        known = content(subject)
        return True if known is not None and known.denominator == 1 else None
    if claim == "zero":
        return None
    if enumerable(subject.symbols):
        return None
    low, high = interval(subject)
    shown = {
        "at most zero": high <= 0,
        "below zero": high < 0,
        "not zero": low > 0 or high < 0,
    }
    return True if shown[claim] else None


def _conjuncts(guards: Iterable[Condition]) -> tuple[Condition, ...]:
    """The guards taken apart into what must hold at once."""
    joint = conjunction(*guards)
    return joint.operands if isinstance(joint, All) else (joint,)


def _settle(
    claim: str, subject: Dim | Condition, asked: frozenset[Symbol], guards: Iterable[Condition]
) -> Answer:
    if _true_by_form(claim, subject) is True:
        return BY_FORM
    return _searched(claim, subject, asked, _conjuncts(guards))


@lru_cache(maxsize=65536)
def _searched(
    claim: str, subject: Dim | Condition, asked: frozenset[Symbol], parts: tuple[Condition, ...]
) -> Answer:
    known = domains(asked.union(*(part.symbols for part in parts)), parts)
    if FALSE in parts or any(not known[symbol] for symbol in known if not symbol.free):
        return Proved()  # nothing reaches it
    joint = _joint(parts)
    finite = frozenset(symbol for symbol in subject.symbols if not symbol.free)
    points = span(known, finite)
    unsettled = Unsettled(tuple(sorted(symbol.name for symbol in subject.symbols)), points)
    inner: frozenset[Symbol] = finite
    if points > LIMIT:
        if claim in BY_RANGE and _in_range(claim, subject, known):
            return Proved()
        inner = _split_symbols(subject) & finite
        inner = inner if span(known, inner) <= LIMIT else frozenset[Symbol]()
    inner, used = _with_guards(inner, joint, known)

    failing: list[tuple[dict[str, Value], Dim | Condition | None]] = []
    visited, doubt = 0, False
    for point in nearest(known, inner):
        visited += 1
        if any(satisfied(part, point) is False for part in used):
            continue
        verdict, rest = _verdict(claim, subject, point, inner)
        if verdict is False:
            failing.append((point, rest))
        doubt = doubt or verdict is None
    for point, rest in failing[:ATTEMPTS]:
        state, example = _completed(claim, rest, point, joint, known)
        if state:
            return Refuted(MappingProxyType(dict(sorted(example.items()))))
        doubt = doubt or state is None
    return unsettled if doubt or len(failing) > ATTEMPTS else Proved(visited)


def _in_range(
    claim: str, subject: Dim | Condition, known: Mapping[Symbol, tuple[Value, ...]]
) -> bool:
    """Whether the range of a size shows it where the guards leave less of its decisions: `i` of an
    index is not zero under `i > 0`."""
    less = [s for s in subject.symbols if not s.free and len(known[s]) < len(s.points)]
    left = {s.name: Symbol(s.name, known[s]) for s in less}
    try:
        return bool(left) and _true_by_form(claim, subject.substitute(left)) is True
    except ArithmeticError:
        return False


def _split_symbols(subject: Dim | Condition) -> frozenset[Symbol]:
    """The decisions to take apart when there are too many points."""
    return subject.opaque_symbols if isinstance(subject, Dim) else frozenset[Symbol]()


def _with_guards(
    symbols: frozenset[Symbol], joint: list[Condition], known: Mapping[Symbol, tuple[Value, ...]]
) -> tuple[frozenset[Symbol], list[Condition]]:
    """Adds the guards that share a decision, the cheapest first, while the points stay few."""
    used: list[Condition] = []
    waiting = [part for part in joint if not any(symbol.free for symbol in part.symbols)]
    while True:
        near = [
            (span(known, symbols | part.symbols), index)
            for index, part in enumerate(waiting)
            if part.symbols & symbols
        ]
        if not near or min(near)[0] > LIMIT:
            return symbols, used
        part = waiting.pop(min(near)[1])
        symbols |= part.symbols
        used.append(part)


def _verdict(
    claim: str, subject: Dim | Condition, point: Mapping[str, Value], inner: frozenset[Symbol]
) -> tuple[bool | None, Dim | Condition | None]:
    """The claim at a point of some decisions; what is left to break if others are open."""
    try:
        if subject.symbols <= inner:
            return _true_at(claim, subject, point), None
        rest = subject.substitute(point)
    except ArithmeticError:
        return False, None
    if irrational(subject):  # floats may have decided what is left
        return (True, None) if _true_in_range(claim, subject, point) else (False, subject)
    return (True, None) if _true_by_form(claim, rest) is True else (False, rest)


def _true_in_range(claim: str, subject: Dim | Condition, point: Mapping[str, Value]) -> bool:
    """Whether the claim holds wherever the known decisions are as at the point."""
    if not isinstance(subject, Dim):
        return False

    def look(atom: Atom) -> Interval:
        known = all(symbol.name in point for symbol in atom.symbols)
        return enclosed(atom, point) if known else atom_interval(atom)

    try:
        return _true_within(claim, *summed(subject, look)) is True
    except ArithmeticError:
        return False


def _joint(parts: Iterable[Condition]) -> list[Condition]:
    """The guards that domains do not hold: of several decisions, or with floats."""
    return [part for part in parts if len(part.symbols) > 1 or irrational(part)]


def _completed(
    claim: str,
    rest: Dim | Condition | None,
    point: dict[str, Value],
    joint: list[Condition],
    known: Mapping[Symbol, tuple[Value, ...]],
) -> tuple[bool | None, dict[str, Value]]:
    """Extends a point to an assignment that satisfies the guards and breaks the rest's claim."""
    open_symbols = {symbol: known[symbol] for symbol in known if symbol.name not in point}
    wanted: list[Wanted] = []
    doubt = False
    for part in joint:
        left = frozenset(symbol for symbol in part.symbols if symbol in open_symbols)
        if left:
            wanted.append(Wanted(left, lambda more, part=part: satisfied(part, point | dict(more))))
        else:
            holds = satisfied(part, point)
            if holds is False:
                return False, {}
            doubt = doubt or holds is None
    if rest is not None:
        left = frozenset(symbol for symbol in rest.symbols if symbol in open_symbols)
        wanted.append(Wanted(left, lambda more: _broken(claim, rest, point | dict(more))))
    state, more = found(open_symbols, wanted)
    return None if state and doubt else state, point | more


def _broken(claim: str, rest: Dim | Condition, point: Mapping[str, Value]) -> bool | None:
    try:
        verdict = _true_at(claim, rest, point)
    except ArithmeticError:
        return True
    return None if verdict is None else not verdict
