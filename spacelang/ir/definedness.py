"""What of a size may have no value: divisors that may be zero, functions outside of their domain.

8//(i - 3) + sqrt(n)    i - 3 where i may be 3, sqrt(n) where n may be below 0

Each is asked where it is read: 8//i if i > 0 is asked under i > 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from spacelang.ir.atom import Atom, Conditional, Divisor, Extremum, FloorDivide, Function, Symbol
from spacelang.ir.condition import (
    FALSE,
    TRUE,
    All,
    Any,
    Compare,
    Condition,
    compare,
    conjunction,
    disjunction,
    negate,
)
from spacelang.ir.dim import Dim
from spacelang.ir.enclosure import irrational
from spacelang.ir.facts import never_zero, surely_whole
from spacelang.ir.prove import Answer, Proved, Unsettled, holds
from spacelang.ir.table_proofs import at_each

LARGEST_EXPONENT = 700
"""Of e, so that the power is a float."""
LARGEST = 1 << 1000
"""Of what is to be a float of a finite value."""


@dataclass(frozen=True)
class Obligation:
    """A divisor or a function that must have a value: it is read where all of the path holds."""

    what: Dim | Function
    path: tuple[Condition, ...] = ()

    def discharged(self, guards: Iterable[Condition]) -> bool:
        """Whether it has a value wherever the guards hold and it is read.

        Of its path only counts what has a value in any case: where a condition has none, nothing
        would be asked.
        """
        joint = conjunction(*self.path)
        parts = joint.operands if isinstance(joint, All) else (joint,)
        known = (*guards, *(part for part in parts if not obligations(part)))
        return isinstance(answer(_claim(self.what), known), Proved)

    def __str__(self) -> str:
        why = "may be zero and divides:" if isinstance(self.what, Dim) else "may have no value:"
        return f"{why} {self.what}"


def answer(claim: Condition, guards: Iterable[Condition]) -> Answer:
    """Whether a claim holds wherever the guards do, by a proof or by each place of a table."""
    known = tuple(guards)
    found = holds(claim, known)
    if isinstance(found, Unsettled) and isinstance(claim, Compare):
        apart = claim.left - claim.right
        if not irrational(apart):
            return at_each(claim.op, apart, known) or found
    return found


Obligations = tuple[Obligation, ...]


def obligation(what: Dim | Function) -> Obligations:
    """One obligation, or none if it is known to have a value wherever its decisions are."""
    return () if _claim(what) == TRUE else (Obligation(what),)


def under(condition: Condition, found: Obligations) -> Obligations:
    """The same, read only where a condition holds."""
    if condition in (TRUE, FALSE):
        return found if condition == TRUE else ()
    return tuple(replace(one, path=(condition, *one.path)) for one in found)


def joined(parts: Iterable[Obligations]) -> Obligations:
    """All of them, each once."""
    return tuple(dict.fromkeys(one for part in parts for one in part))


@lru_cache(maxsize=4096)
def obligations(size: Dim | Condition) -> Obligations:
    """The obligations in a size, at any depth."""
    match size:
        case Dim(terms):
            return joined(_atom(atom) for monomial, _ in terms for atom, _ in monomial)
        case Compare(_, left, right):
            return joined((obligations(left), obligations(right)))
        case All(operands):
            return _in_order(operands, operands)
        case Any(operands):
            return _in_order(operands, tuple(map(negate, operands)))
        case _:
            return ()


def conjuncts(condition: Condition) -> tuple[Condition, ...]:
    """The operands of a conjunction, to be asked apart from each other.

    One that has no value by itself stays with those before it that speak of decisions alone.
    """
    if not isinstance(condition, All):
        return (condition,)
    found: list[Condition] = []
    before: list[Condition] = []
    for operand in condition.operands:
        found.append(operand if total(operand) else conjunction(*before, operand))
        if all(symbol.values for symbol in operand.symbols):
            before.append(operand)
    return tuple(found)


def total(condition: Condition) -> bool:
    """Whether a condition has a value wherever its decisions have one."""
    return all(one.discharged(()) for one in obligations(condition))


def _in_order(operands: Sequence[Condition], passed: Sequence[Condition]) -> Obligations:
    """Each operand is read where those before it are passed."""
    return joined(
        under(conjunction(*passed[:number]), found)
        for number, found in enumerate(map(obligations, operands))
        if found
    )


def _atom(atom: Atom) -> Obligations:
    match atom:
        case Symbol():
            return ()
        case FloorDivide(numerator, denominator):
            return joined(
                (obligations(numerator), obligations(denominator), obligation(denominator))
            )
        case Divisor(divisor):
            return joined((obligations(divisor), obligation(divisor)))
        case Extremum(_, operands):
            return joined(map(obligations, operands))
        case Conditional(condition, then, otherwise):
            sides = (
                under(condition, obligations(then)),
                under(negate(condition), obligations(otherwise)),
            )
            return joined((obligations(condition), *sides))
        case Function(_, operands):
            return joined((*map(obligations, operands), obligation(atom)))


@lru_cache(maxsize=16384)
def _claim(what: Dim | Function) -> Condition:
    """Where it has a value if its operands do."""
    if isinstance(what, Function):
        return DOMAINS[what.name](*what.operands)
    return TRUE if never_zero(what) else compare("!=", what, 0)


def finite(number: Dim) -> Condition:
    """That a float holds a number, with room for a sum."""
    return conjunction(compare("<=", -LARGEST, number), compare("<=", number, LARGEST))


def _powers(base: Dim, exponent: Dim) -> Condition:
    upward = compare("<=", 0, exponent)
    if surely_whole(exponent):
        return disjunction(upward, compare("!=", base, 0))
    return disjunction(compare("<", 0, base), conjunction(compare("<=", 0, base), upward))


DOMAINS: Mapping[str, Callable[..., Condition]] = {
    "sqrt": partial(compare, "<=", 0),
    "rsqrt": partial(compare, "<", 0),
    "log": partial(compare, "<", 0),
    "exp": partial(compare, ">=", LARGEST_EXPONENT),
    **dict.fromkeys(("sin", "cos", "round"), finite),
    "power": _powers,
}
"""Where a function has a value."""
