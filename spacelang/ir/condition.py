"""Conditions on decisions: what presence, `when`, paths and picks put a statement under.

    depth > 12    op is k3e4    inputs[0] is 2    not op is skip    a and b    a or b

Made by `compare`, `is_value`, `chosen`, `negate`, `conjunction` and `disjunction`, which decide at
once what the normal form or an enumeration settles. `not` stands before `is` only.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import cast

from spacelang.ir.atom import Number, Symbol, Value, normal_value
from spacelang.ir.facts import exact_table, interval
from spacelang.ir.polynomial import Dim
from spacelang.ir.replace import Replacement, check_replacement
from spacelang.ir.values import has, looked_up, same, value_text

Size = Dim | Symbol | int | float | Fraction

RELATIONS: dict[str, Callable[[Number, Number], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_MIRROR = {">": "<", ">=": "<="}
_WRITTEN_MIRROR = {"<": ">", "<=": ">=", "==": "==", "!=": "!="}


class _Form:
    """Conditions are keys of most tables here, and deep: their hash is found once."""

    @cached_property
    def _hash(self) -> int:
        return hash((type(self), *(getattr(self, f.name) for f in fields(cast("Compare", self)))))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True)
class Compare(_Form):
    """`left op right` with op one of < <= == !=."""

    op: str
    left: Dim
    right: Dim

    @cached_property
    def symbols(self) -> frozenset[Symbol]:
        """The decisions in both sides."""
        return self.left.symbols | self.right.symbols

    __hash__ = _Form.__hash__

    def at(self, values: Mapping[str, Value]) -> bool:
        """Whether it holds for these values; Unbound without one of them."""
        return RELATIONS[self.op](self.left.at(values), self.right.at(values))

    def substitute(self, values: Mapping[str, Replacement]) -> Condition:
        """The condition with decisions replaced, decided at once where it can be."""
        made = compare(self.op, self.left.substitute(values), self.right.substitute(values))
        if made.symbols or not isinstance(made, Compare):
            return made
        return TRUE if made.at({}) else FALSE  # floats that no proof tells apart: as they are

    def __str__(self) -> str:
        if self.left.constant is not None:
            return f"{self.right} {_WRITTEN_MIRROR[self.op]} {self.left}"
        return f"{self.left} {self.op} {self.right}"


@dataclass(frozen=True)
class Is(_Form):
    """A path, string or boolean decision takes a value; numeric ones are compared."""

    symbol: Symbol
    value: Value

    @property
    def symbols(self) -> frozenset[Symbol]:
        """The one decision that it speaks of."""
        return self.symbol.symbols

    __hash__ = _Form.__hash__

    def at(self, values: Mapping[str, Value]) -> bool:
        """Whether the decision has the value; Unbound without it."""
        return same(looked_up(self.symbol, values), self.value)

    def substitute(self, values: Mapping[str, Replacement]) -> Condition:
        """The condition with the decision renamed, narrowed or decided."""
        if self.symbol.name not in values:
            return self
        new = values[self.symbol.name]
        check_replacement(self.symbol, new)
        if isinstance(new, Symbol):
            return is_value(new, self.value)
        if isinstance(new, Dim):
            if isinstance(self.value, bool | str | tuple):
                return FALSE
            return compare("==", new, self.value)
        return TRUE if same(new, self.value) else FALSE

    def __str__(self) -> str:
        return f"{self.symbol.name} is {value_text(self.value)}"


@dataclass(frozen=True)
class Chosen(_Form):
    """A pick has a source at a position."""

    symbol: Symbol
    position: int
    source: int

    @property
    def symbols(self) -> frozenset[Symbol]:
        """The one pick that it speaks of."""
        return self.symbol.symbols

    __hash__ = _Form.__hash__

    def at(self, values: Mapping[str, Value]) -> bool:
        """Whether the source stands at the position of the pick; Unbound without it."""
        return has(looked_up(self.symbol, values), self.position, self.source)

    def substitute(self, values: Mapping[str, Replacement]) -> Condition:
        """The condition with the pick renamed or decided."""
        if self.symbol.name not in values:
            return self
        new = values[self.symbol.name]
        if isinstance(new, Symbol):
            check_replacement(self.symbol, new)
            return chosen(new, self.position, self.source)
        if isinstance(new, Dim):
            raise TypeError(f"{self.symbol.name} is a pick, {new} is a size")
        return TRUE if has(new, self.position, self.source) else FALSE

    def __str__(self) -> str:
        return f"{self.symbol.name}[{self.position}] is {self.source}"


@dataclass(frozen=True)
class Not(_Form):
    """The opposite of an Is or Chosen; other conditions have opposites of their own."""

    operand: Is | Chosen

    @property
    def symbols(self) -> frozenset[Symbol]:
        """The decisions in what is denied."""
        return self.operand.symbols

    __hash__ = _Form.__hash__

    def at(self, values: Mapping[str, Value]) -> bool:
        """Whether what is denied fails for these values; Unbound without one of them."""
        return not self.operand.at(values)

    def substitute(self, values: Mapping[str, Replacement]) -> Condition:
        """The condition with decisions replaced, decided at once where it can be."""
        return negate(self.operand.substitute(values))

    def __str__(self) -> str:
        return f"not {self.operand}"


@dataclass(frozen=True)
class All(_Form):
    """Every operand holds, tested in the order written; none at all is TRUE."""

    operands: tuple[Condition, ...]

    @cached_property
    def symbols(self) -> frozenset[Symbol]:
        """The decisions in all operands."""
        return frozenset[Symbol]().union(*(operand.symbols for operand in self.operands))

    __hash__ = _Form.__hash__

    def at(self, values: Mapping[str, Value]) -> bool:
        """Whether every operand holds for these values; Unbound without one of them."""
        return all(operand.at(values) for operand in self.operands)

    def substitute(self, values: Mapping[str, Replacement]) -> Condition:
        """The condition with decisions replaced, decided at once where it can be."""
        return conjunction(*(operand.substitute(values) for operand in self.operands))

    def __str__(self) -> str:
        if not self.operands:
            return "true"
        return " and ".join(
            f"({operand})" if isinstance(operand, Any) else str(operand)
            for operand in self.operands
        )


@dataclass(frozen=True)
class Any(_Form):
    """Some operand holds; none at all is FALSE."""

    operands: tuple[Condition, ...]

    @cached_property
    def symbols(self) -> frozenset[Symbol]:
        """The decisions in all operands."""
        return frozenset[Symbol]().union(*(operand.symbols for operand in self.operands))

    __hash__ = _Form.__hash__

    def at(self, values: Mapping[str, Value]) -> bool:
        """Whether an operand holds for these values; Unbound without one of them."""
        return any(operand.at(values) for operand in self.operands)

    def substitute(self, values: Mapping[str, Replacement]) -> Condition:
        """The condition with decisions replaced, decided at once where it can be."""
        return disjunction(*(operand.substitute(values) for operand in self.operands))

    def __str__(self) -> str:
        return " or ".join(str(operand) for operand in self.operands) or "false"


Condition = Compare | Is | Chosen | Not | All | Any
CONDITIONS = (Compare, Is, Chosen, Not, All, Any)
"""The classes of conditions, for `isinstance`."""

TRUE = All(())
FALSE = Any(())


def compare(op: str, a: Size, b: Size) -> Condition:
    """`a op b` for < <= == != > >=; TRUE or FALSE if that is settled. KeyError for another op."""
    left, right = Dim.of(a), Dim.of(b)
    if op in _MIRROR:
        return _compare(_MIRROR[op], right, left)
    if op not in RELATIONS:
        raise KeyError(op)
    return _compare(op, left, right)


@lru_cache(maxsize=65536)
def _compare(op: str, left: Dim, right: Dim) -> Condition:
    difference = left - right
    truths = _truths(op, difference)
    if len(truths) == 1:
        return TRUE if True in truths else FALSE
    if op in ("==", "!=") and _side(right) < _side(left):
        left, right = right, left
    return Compare(op, left, right)


def _side(dim: Dim) -> tuple[bool, str]:
    """Of the sides of an equation the constant stands right."""
    return dim.constant is not None, str(dim)


def _truths(op: str, difference: Dim) -> set[bool]:
    """The truth values that `difference op 0` may take."""
    relation = RELATIONS[op]
    values = exact_table(difference)
    if values is not None:
        return {relation(value, 0) for value in values}
    low, high = interval(difference)
    if op == "<":
        return {high < 0, low < 0}
    if op == "<=":
        return {high <= 0, low <= 0}
    apart = low > 0 or high < 0
    return {op == "!="} if apart else {True, False}


def is_value(symbol: Symbol, value: Value) -> Condition:
    """The decision takes the value."""
    wanted = normal_value(value)
    if symbol.numeric:
        if isinstance(wanted, bool | str | tuple):
            return FALSE
        return compare("==", symbol, wanted)
    if not any(same(point, wanted) for point in symbol.values):
        return FALSE
    return Is(symbol, wanted) if len(symbol.points) > 1 else TRUE


@lru_cache(maxsize=65536)
def chosen(symbol: Symbol, position: int, source: int) -> Condition:
    """The pick's value has the source at the position."""
    found = {has(value, position, source) for value in symbol.values}
    if len(found) == 1:
        return TRUE if True in found else FALSE
    return Chosen(symbol, position, source)


@lru_cache(maxsize=65536)
def negate(condition: Condition) -> Condition:
    """The condition that holds exactly where this one does not."""
    match condition:
        case Compare():
            left, right = condition.left, condition.right
            match condition.op:
                case "<":
                    return Compare("<=", right, left)
                case "<=":
                    return Compare("<", right, left)
                case op:
                    return Compare("!=" if op == "==" else "==", left, right)
        case Is(value=bool(value)) if set(map(type, condition.symbol.values)) == {bool}:
            return is_value(condition.symbol, not value)
        case Is() | Chosen():
            return Not(condition)
        case Not():
            return condition.operand
        case All():
            return disjunction(*(negate(operand) for operand in condition.operands))
        case Any():
            return conjunction(*(negate(operand) for operand in condition.operands))


def conjunction(*conditions: Condition) -> Condition:
    """All of them; TRUE of none."""
    return _conjunction(conditions)


@lru_cache(maxsize=65536)
def _conjunction(conditions: tuple[Condition, ...]) -> Condition:
    kept = _absorbed(_flat(conditions, All), Any)
    if FALSE in kept or _contradictory(kept):
        return FALSE
    return next(iter(kept)) if len(kept) == 1 else All(tuple(kept))


def disjunction(*conditions: Condition) -> Condition:
    """Some of them; FALSE of none."""
    kept = _absorbed(_flat(conditions, Any), All)
    if TRUE in kept or not kept.keys().isdisjoint(map(negate, kept)):
        return TRUE
    return next(iter(kept)) if len(kept) == 1 else Any(tuple(kept))


def _flat(conditions: Iterable[Condition], kind: type[All] | type[Any]) -> dict[Condition, None]:
    """The operands, those of the same kind taken apart, each once and in order."""
    kept: dict[Condition, None] = {}
    for condition in conditions:
        inner = condition.operands if isinstance(condition, kind) else (condition,)
        kept.update(dict.fromkeys(inner))
    return kept


def _absorbed(
    conditions: dict[Condition, None], inner: type[All] | type[Any]
) -> dict[Condition, None]:
    """The operands without those that another one decides: `a or (a and b)` is `a`."""
    if not any(isinstance(condition, inner) for condition in conditions):
        return conditions
    parts = {c: set(c.operands) if isinstance(c, inner) else {c} for c in conditions}
    by_one: dict[Condition | None, list[set[Condition]]] = {}
    for part in parts.values():  # TRUE and FALSE have none
        by_one.setdefault(next(iter(part), None), []).append(part)
    return {
        c: None
        for c, here in parts.items()
        if not any(part < here for one in (None, *here) for part in by_one.get(one, ()))
    }


def _contradictory(conditions: Mapping[Condition, None]) -> bool:
    """Whether two of them exclude each other by their form alone."""
    values: dict[Symbol, Value] = {}
    if not conditions.keys().isdisjoint(map(negate, conditions)):
        return True
    for condition in conditions:
        if isinstance(condition, Is):
            known = values.setdefault(condition.symbol, condition.value)
            if not same(known, condition.value):
                return True
    return False
