"""Formulas: the entry of a table at each of its places, as words in postfix order.

    "0 -10000 i1 i0 <= if"     0 where the second index is at most the first, else -10000

`i0`, `i1` are indices and `n0`, `n1` sizes that a table is given. Written so, a formula names no
decision: what a block or a use of it knows stands in the sizes alone.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from typing import NamedTuple, TypeVar

from spacelang.diagnostics import SpaceError, counted, error
from spacelang.ir.atom import (
    Atom,
    Conditional,
    Divisor,
    Extremum,
    FloorDivide,
    Function,
    Number,
    Symbol,
    tidy,
)
from spacelang.ir.condition import (
    RELATIONS,
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
from spacelang.ir.definedness import Obligations, joined, obligation, obligations, under
from spacelang.ir.dim import Dim, Monomial, conditional, function, maximum, minimum
from spacelang.ir.functions import FUNCTIONS
from spacelang.ops.limits import MAX_BITS, MAX_TERMS, Beyond, held, held_size, raised

MAX_WORDS = 2_000
_PLACE = re.compile(r"([in])(0|[1-9]\d{0,3})")
_NUMBER = re.compile(r"-?\d{1,40}(/[1-9]\d{0,39})?")
Entry = Dim | Condition
"""What the words of a formula are as a size: truths stay conditions as long as they can."""
Found = Number | ArithmeticError
"""What they are at a place: a number, or why there is none."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class Word:
    """What a word does with the last `takes` values: as numbers, and as sizes. What is `flat` makes
    no size deeper: "sums" nowhere, the others in a chain of their own. Where one operand decides
    which others are read, `read` has None for it and else the truth for which each is. `partial` is
    the divisor or function by which it may have no value."""

    takes: int
    number: Callable[..., Found]
    size: Callable[..., Entry]
    flat: str = ""
    read: tuple[bool | None, ...] = ()
    partial: Callable[..., Dim | Function] | None = None


class Place(NamedTuple):
    """The index `i` or the size `n` of a number."""

    kind: str
    number: int


def _divided(a: Number, b: Number) -> Number:
    if b == 0:
        raise ZeroDivisionError("a division by zero")
    return a / b if isinstance(a, float) or isinstance(b, float) else Fraction(a) / b


def _floored(a: Number, b: Number) -> Number:
    return a // b


def _powered(a: Number, b: Number) -> Number:
    if not isinstance(a, float) and not isinstance(b, float):
        bits = max(a.numerator.bit_length(), a.denominator.bit_length())
        if abs(b) * bits > MAX_BITS:
            raise Beyond("SP103", f"a power of more than {MAX_BITS:,} bits")
    return FUNCTIONS["power"](a, b)


def _sizes(make: Callable[..., Dim]) -> Callable[..., Entry]:
    def made(*operands: Entry) -> Dim:
        return make(*map(_number, operands))

    return made


def _multiplied(a: Dim, b: Dim) -> Dim:
    if len(a.terms) * len(b.terms) > MAX_TERMS:
        raise Beyond("SP507", f"a size of more than {MAX_TERMS:,} terms")
    return a * b


def _compared(op: str) -> Callable[[Entry, Entry], Entry]:
    def compared(a: Entry, b: Entry) -> Condition:
        return compare(op, _number(a), _number(b))

    return compared


def _logical(join: Callable[[Condition, Condition], Condition]) -> Callable[[Entry, Entry], Entry]:
    def logical(a: Entry, b: Entry) -> Condition:
        return join(_truth(a), _truth(b))

    return logical


def _both(a: Number, b: Found) -> Found:
    return _said(b) if a else False


def _either(a: Number, b: Found) -> Found:
    return True if a else _said(b)


def _said(truth: Found) -> Found:
    return truth if isinstance(truth, ArithmeticError) else bool(truth)


def _if(value: Found, other: Found, truth: Number) -> Found:
    return value if truth else other


def _if_size(value: Entry, other: Entry, truth: Entry) -> Dim:
    return conditional(_truth(truth), _number(value), _number(other))


def _number(found: Entry) -> Dim:
    return found if isinstance(found, Dim) else conditional(found, Dim.of(1), Dim.of(0))


def _truth(found: Entry) -> Condition:
    return compare("!=", found, 0) if isinstance(found, Dim) else found


def _divisor(_: Dim, divisor: Dim) -> Dim:
    return divisor


def _function(name: str) -> Callable[..., Function]:
    return lambda *operands: Function(name, operands)


WORDS: Mapping[str, Word] = {
    "+": Word(2, operator.add, _sizes(Dim.__add__), "sums"),
    "-": Word(2, operator.sub, _sizes(Dim.__sub__), "sums"),
    "*": Word(2, operator.mul, _sizes(_multiplied), "sums"),
    "/": Word(2, _divided, _sizes(Dim.__truediv__), partial=_divisor),
    "//": Word(2, _floored, _sizes(Dim.__floordiv__), partial=_divisor),
    "min": Word(2, min, _sizes(minimum), "min"),
    "max": Word(2, max, _sizes(maximum), "max"),
    "power": Word(2, _powered, _sizes(raised), partial=_function("power")),
    **{op: Word(2, holds, _compared(op)) for op, holds in RELATIONS.items()},
    "and": Word(2, _both, _logical(conjunction), "and", (None, True)),
    "or": Word(2, _either, _logical(disjunction), "or", (None, False)),
    "if": Word(3, _if, _if_size, read=(True, False, None)),
    **{
        name: Word(1, make, _sizes(partial(function, name)), partial=_function(name))
        for name, make in FUNCTIONS.items()
        if name != "power"
    },
}


def formula(entry: Dim, indices: Sequence[Symbol]) -> tuple[str, tuple[Dim, ...]]:
    """An entry as words, and the sizes that they call `n0`, `n1`: all in it but the indices."""
    writer = _Writer({symbol.name: f"i{axis}" for axis, symbol in enumerate(indices)})
    words = writer.dim(entry)
    if len(words) > MAX_WORDS:
        raise SpaceError(error("SP507", f"an entry of a table of more than {MAX_WORDS:,} words"))
    return " ".join(words), tuple(writer.sizes)


def mistake(words: str, indices: int, sizes: int) -> str:
    """What is wrong with the words of a formula; nothing where it has a value."""
    height, number = 0, {"i": indices, "n": sizes}
    if len(words.split()) > MAX_WORDS:
        return f"it has more than {MAX_WORDS:,} words"
    for word, step in zip(words.split(), _steps(words), strict=True):
        if step is None:
            return f"{word} is no word"
        if isinstance(step, Place) and step.number >= number[step.kind]:
            return f"it has no {word}"
        taken = step.takes if isinstance(step, Word) else 0
        if height < taken:
            return f"{word} lacks an operand"
        height += 1 - taken
    return "" if height == 1 else f"it leaves {counted(height, 'value')}"


def depth(words: str) -> int:
    """How deep in each other the words of a formula stand that make a size deeper."""

    def deeper(word: Word, operands: list[tuple[int, str]]) -> tuple[int, str]:
        if word.flat == "sums":  # multiplied out: they stand side by side
            return max(inner for inner, _ in operands), word.flat
        chained = (inner + (last != word.flat or not last) for inner, last in operands)
        return max(1, *chained), word.flat

    return _run(words, lambda _: (0, ""), lambda _: (0, ""), deeper)[0]


def entry_at(words: str, indices: Sequence[Number], sizes: Sequence[Number]) -> Number:
    """The value of a formula at a place, exact where it is rational. ArithmeticError if none."""
    known = {"i": indices, "n": sizes}
    found = _run(words, lambda place: known[place.kind][place.number], tidy, _numbers)
    if isinstance(found, ArithmeticError):
        raise found
    return found


def entry_of(
    words: str,
    indices: Sequence[Dim],
    sizes: Sequence[Dim],
    guards: Iterable[Condition] = (),
) -> Dim:
    """A formula as a size of its indices and sizes: what `formula` wrote. ArithmeticError where a
    part of it has no value, or may have none where the guards hold: as a size it may be forgotten
    (1 / i * 0) or hidden (8 // i min 2)."""

    def look(place: Place) -> _Part:
        if place.kind == "i":
            return _Part(indices[place.number])
        return _Part(sizes[place.number], obligations(sizes[place.number]))

    found = _run(words, look, lambda number: _Part(Dim.of(number)), _parts)
    known = tuple(guards)
    for one in found.obligations:
        if not one.discharged(known):
            raise ArithmeticError(f"a part of its formula {one}")
    return _number(found.entry)


class _Part(NamedTuple):
    """A part of a formula as a size, and what in it may have no value."""

    entry: Entry
    obligations: Obligations = ()


Step = Word | Place | Fraction


@lru_cache(maxsize=1024)
def _steps(words: str) -> tuple[Step | None, ...]:
    """What each word is; None where it is none."""
    return tuple(map(_step, words.split()))


def _step(word: str) -> Step | None:
    place = _PLACE.fullmatch(word)
    if place is not None:
        return Place(place[1], int(place[2]))
    return Fraction(word) if _NUMBER.fullmatch(word) else WORDS.get(word)


def _run(
    words: str,
    look: Callable[[Place], Item],
    plain: Callable[[Fraction], Item],
    apply: Callable[[Word, list[Item]], Item],
) -> Item:
    """What the words leave on the stack."""
    stack: list[Item] = []
    for step in _steps(words):
        match step:
            case Word(takes):
                operands = stack[-takes:]
                del stack[-takes:]
                stack.append(apply(step, operands))
            case Place():
                stack.append(look(step))
            case Fraction():
                stack.append(plain(step))
            case None:
                raise ValueError(f"{words}: {mistake(words, 0, 0)}")
    (found,) = stack
    return found


def _numbers(word: Word, operands: list[Found]) -> Found:
    for operand, read in zip(operands, word.read or (None,) * word.takes, strict=True):
        if read is None and isinstance(operand, ArithmeticError):
            return operand
    try:
        found = word.number(*operands)
        return found if isinstance(found, ArithmeticError) else held(found)
    except ArithmeticError as failed:
        return failed


def _parts(word: Word, operands: list[_Part]) -> _Part:
    entries = [part.entry for part in operands]
    found = word.size(*entries)
    inner = [part.obligations for part in operands]
    if word.read and any(inner):
        truth = _truth(entries[word.read.index(None)])
        where = {None: TRUE, True: truth, False: negate(truth)}
        inner = [under(where[read], own) for read, own in zip(word.read, inner, strict=True)]
    own = obligation(word.partial(*map(_number, entries))) if word.partial else ()
    size = held_size(found) if isinstance(found, Dim) else found
    return _Part(size, joined((*inner, own)))


class _Writer:
    """Words of sizes and conditions; what no index is in becomes one of `sizes`."""

    def __init__(self, indices: Mapping[str, str]) -> None:
        self.indices = indices
        self.sizes: list[Dim] = []

    def dim(self, dim: Dim) -> list[str]:
        if dim.constant is not None:
            return [str(dim.constant)]
        if not self._indexed(dim):
            if dim not in self.sizes:
                self.sizes.append(dim)
            return [f"n{self.sizes.index(dim)}"]
        terms: dict[Monomial, Dim] = {}
        for monomial, number in dim.terms:
            own = tuple(f for f in monomial if self._indexed(f[0]))
            rest = Dim(((tuple(f for f in monomial if f not in own), number),))
            terms[own] = terms.get(own, Dim.of(0)) + rest
        # Whole numbers alone are exact: fractions share one divisor, which comes last.
        numbers = [c for c in (number.constant for number in terms.values()) if c is not None]
        scale = math.lcm(*(number.denominator for number in numbers))
        words: list[str] = []
        for own, number in terms.items():
            words += [*self._term(own, number * scale), *(["+"] if words else [])]
        return words if scale == 1 else [*words, str(scale), "/"]

    def _term(self, monomial: Monomial, number: Dim) -> list[str]:
        """A number times its atoms; 1 is left out before a factor."""
        words = [] if number == 1 and any(e > 0 for _, e in monomial) else self.dim(number)
        for atom, exponent in sorted(monomial, key=lambda factor: -factor[1]):
            for _ in range(abs(exponent)):
                sign = "*" if exponent > 0 else "/"
                words += [*self.atom(atom), *([sign] if words else [])]
        return words

    def atom(self, atom: Atom) -> list[str]:
        match atom:
            case Symbol():
                return [self.indices[atom.name]] if self._indexed(atom) else self.dim(Dim.of(atom))
            case FloorDivide():
                return [*self.dim(atom.numerator), *self.dim(atom.denominator), "//"]
            case Extremum():
                first, *others = map(self.dim, atom.operands)
                return [*first, *(w for other in others for w in (*other, atom.name))]
            case Conditional():
                sides = (*self.dim(atom.then), *self.dim(atom.otherwise))
                return [*sides, *self.condition(atom.condition), "if"]
            case Divisor():
                return self.dim(atom.divisor)
            case Function():
                return [*(w for operand in atom.operands for w in self.dim(operand)), atom.name]

    def condition(self, condition: Condition) -> list[str]:
        if not self._indexed(condition):
            return self.dim(conditional(condition, Dim.of(1), Dim.of(0)))
        match condition:
            case Compare(op, left, right):
                numbers = (number for _, number in (*left.terms, *right.terms))
                scale = math.lcm(*(number.denominator for number in numbers))
                return [*self.dim(left * scale), *self.dim(right * scale), op]
            case All(operands) | Any(operands):
                word = "and" if isinstance(condition, All) else "or"
                first, *others = map(self.condition, operands)
                return [*first, *(w for other in others for w in (*other, word))]
            case _:
                raise TypeError(f"{condition} compares no numbers")

    def _indexed(self, what: Dim | Condition | Atom) -> bool:
        return any(symbol.name in self.indices for symbol in what.symbols)
