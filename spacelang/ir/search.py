"""Looking through assignments, nearest to the defaults first.

A decision's default is its largest number, or else its first value. A domain is what the guards on
one decision alone leave of its values; a free size has a few trial values and no exhaustive domain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, compress, product

from spacelang.ir.atom import LIMIT, Symbol, Value
from spacelang.ir.condition import Condition
from spacelang.ir.enclosure import told

TRIALS: tuple[Value, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 31, 64, 100, 127, 1000, 1024)
"""Values tried for a free size."""

Test = Callable[[Mapping[str, Value]], bool | None]
"""Whether an assignment is one that is looked for; None if that cannot be told."""


@dataclass(frozen=True)
class Wanted:
    """A test and the decisions it reads."""

    symbols: frozenset[Symbol]
    test: Test


def _allowed(symbol: Symbol, guards: tuple[Condition, ...]) -> tuple[Value, ...]:
    values = symbol.points or TRIALS
    if not guards:
        return values
    return (_kept if len(values) <= LIMIT else _kept_of_many)(symbol, guards)


def _left(symbol: Symbol, guards: tuple[Condition, ...]) -> tuple[Value, ...]:
    values = symbol.points or TRIALS
    passed = -1
    for guard in guards:
        passed &= _passed(symbol, guard)
    return tuple(compress(values, map(int, f"{passed:0{len(values)}b}")))


_kept = lru_cache(maxsize=16384)(_left)
_kept_of_many = lru_cache(maxsize=64)(_left)
"""Of symbols with more than LIMIT values: each list of them is long."""


@lru_cache(maxsize=4096)
def _passed(symbol: Symbol, guard: Condition) -> int:
    """Which of its values may satisfy a guard, a bit for each, the first the highest: of one guard
    alone, for it stands in many lists of them."""
    values = symbol.points or TRIALS
    return int("".join("10"[satisfied(guard, {symbol.name: v}) is False] for v in values), 2)


def domains(
    symbols: Iterable[Symbol], guards: Iterable[Condition]
) -> dict[Symbol, tuple[Value, ...]]:
    """What each symbol may be under the guards that read it alone, the default first; where a float
    is too close to tell, what it perhaps may be.

    ValueError if two different symbols have one name.
    """
    alone: dict[Symbol, list[Condition]] = {}
    names: dict[str, Symbol] = {}
    for guard in guards:
        if len(guard.symbols) == 1:
            alone.setdefault(next(iter(guard.symbols)), []).append(guard)
    result: dict[Symbol, tuple[Value, ...]] = {}
    for symbol in sorted(symbols, key=lambda symbol: symbol.name):
        if names.setdefault(symbol.name, symbol) != symbol:
            raise ValueError(f"{symbol.name} has two different sets of values")
        result[symbol] = _allowed(symbol, tuple(alone.get(symbol, ())))
    return result


def satisfied(guard: Condition, point: Mapping[str, Value]) -> bool | None:
    """Whether a guard holds, None where a float is too close to tell; where it is undefined,
    nothing is reached through it."""
    try:
        return told(guard, point)
    except ArithmeticError:
        return False


def span(known: Mapping[Symbol, tuple[Value, ...]], symbols: Iterable[Symbol]) -> int:
    """How many points the symbols' domains span."""
    return math.prod(len(known[symbol]) for symbol in symbols)


def nearest(
    known: Mapping[Symbol, tuple[Value, ...]], symbols: Iterable[Symbol]
) -> Iterator[dict[str, Value]]:
    """Every assignment of the symbols, those with the fewest values off the default first."""
    ordered = sorted(symbols, key=lambda symbol: symbol.name)
    if any(not known[symbol] for symbol in ordered):
        return
    defaults: dict[str, Value] = {symbol.name: known[symbol][0] for symbol in ordered}
    movable = [symbol for symbol in ordered if len(known[symbol]) > 1]
    for moved in range(len(movable) + 1):
        for group in combinations(movable, moved):
            names = [symbol.name for symbol in group]
            for values in product(*(known[symbol][1:] for symbol in group)):
                yield {**defaults, **dict(zip(names, values, strict=True))}


def found(
    known: Mapping[Symbol, tuple[Value, ...]], wanted: Iterable[Wanted]
) -> tuple[bool | None, dict[str, Value]]:
    """An assignment of every known symbol that passes all tests, nearest to the defaults.

    True with it; False if there is provably none; None if none was met in LIMIT points of some
    group of symbols that the tests join.
    """
    result: dict[str, Value] = {}
    state: bool | None = True
    for symbols, tests in _groups(known, wanted):
        answer, point = _first(known, symbols, tests)
        if answer is False:
            return False, {}
        state = state and answer
        result |= point
    return state, result


def _first(
    known: Mapping[Symbol, tuple[Value, ...]], symbols: frozenset[Symbol], tests: list[Test]
) -> tuple[bool | None, dict[str, Value]]:
    doubt = any(symbol.free for symbol in symbols)
    for visited, point in enumerate(nearest(known, symbols)):
        if visited == LIMIT:
            return None, {}
        answers = [test(point) for test in tests]
        if all(answers):
            return True, point
        doubt = doubt or (None in answers and False not in answers)
    return (None if doubt else False), {}


def _groups(
    known: Mapping[Symbol, tuple[Value, ...]], wanted: Iterable[Wanted]
) -> list[tuple[frozenset[Symbol], list[Test]]]:
    """The symbols parted into groups that no test joins, each with its tests."""
    groups: list[tuple[frozenset[Symbol], list[Test]]] = [
        (frozenset((symbol,)), []) for symbol in known
    ]
    for item in wanted:
        joined, tests = frozenset[Symbol](), [item.test]
        apart: list[tuple[frozenset[Symbol], list[Test]]] = []
        for symbols, inner in groups:
            if symbols & item.symbols:
                joined, tests = joined | symbols, [*inner, *tests]
            else:
                apart.append((symbols, inner))
        groups = [*apart, (joined, tests)]
    return groups
