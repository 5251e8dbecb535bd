"""Sizes, conditions and names of a graph as the language writes them.

What has no form in the language raises `cannot` (SP605), which names it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from functools import cache

from spacelang.diagnostics import NOWHERE, SpaceError, Span, error
from spacelang.grammars.loader import tables
from spacelang.ir.atom import Atom, Conditional, Divisor, Extremum, FloorDivide, Function
from spacelang.ir.condition import TRUE, All, Any, Chosen, Compare, Condition, Is, Not
from spacelang.ir.dim import Dim, Symbol, Value
from spacelang.ir.op import ops
from spacelang.ir.param import Init
from spacelang.syntax.forms import FORMS
from spacelang.syntax.functions import FUNCTIONS
from spacelang.syntax.names import CONSTANTS, INITS, LAYERS

INDENT = "  "
NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
LABEL = re.compile(r"[A-Za-z_]\w*(?:\[\d+\])*(?:\.\w+(?:\[\d+\])*)*", re.ASCII)


def cannot(what: str, why: str, span: Span = NOWHERE) -> SpaceError:
    """The error for what a text cannot say."""
    return SpaceError(error("SP605", f"{what} cannot be written as a .space text", span).note(why))


class Misplaced(SpaceError):
    """What cannot stand where its decisions stand in their turn; it may if they all stand first."""


def misplaced(what: str, why: str, span: Span = NOWHERE) -> Misplaced:
    """The error for what has no text unless all decisions of its block stand before it."""
    return Misplaced(cannot(what, why, span).diagnostics)


@cache
def reserved() -> frozenset[str]:
    """The words that are no names in a text."""
    return frozenset(text for text in tables("space").literals if text.isalpha())


@cache
def meant() -> frozenset[str]:
    """The names that mean something in every scope: a name of ours must not hide them."""
    return frozenset({*reserved(), *CONSTANTS, *FUNCTIONS, *FORMS, *INITS, *ops(), "_"})


class Names:
    """Names that are free: each is given out once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = {*meant(), *taken}

    def free(self, wish: str) -> str:
        """The wish as a name, with a number behind it where it is taken."""
        plain = re.sub(r"\W+", "_", wish, flags=re.ASCII).strip("_")
        plain = plain if NAME.fullmatch(plain) else f"x{plain}"
        name, number = plain, 2
        while name in self.taken:
            name, number = f"{plain}_{number}", number + 1
        self.taken.add(name)
        return name


def label(path: str, span: Span) -> str:
    """A label as it stands after `as`."""
    if not path:
        return "_"
    if not LABEL.fullmatch(path) or path.split(".")[0].split("[")[0] in reserved():
        raise cannot(f"the label {path}", "labels are names with indices", span)
    return path


def candidate(value: Value) -> str:
    """A value of a decision."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return text(value)
        case tuple():
            return f"[{', '.join(map(str, sorted(value)))}]"
        case _:
            short = re.sub(r"e-0?", "e-", repr(float(value)))
            exact = "e+" not in short and Fraction(short) == value
            return short.removesuffix(".0") if exact else str(Dim.of(value))


def text(value: str) -> str:
    """A string; the language has no escapes."""
    if '"' in value or "\n" in value:
        raise cannot(f"the text {json.dumps(value)}", "texts hold no quotes and no line breaks")
    return f'"{value}"'


class Speller:
    """Writes sizes and conditions; `name` says how a symbol is called where it stands."""

    def __init__(self, name: Callable[[Symbol], str]) -> None:
        self.name = name

    def dim(self, dim: Dim, span: Span = NOWHERE) -> str:
        if dim.constant is not None:
            return candidate(dim.constant)
        names = {s.name: self.name(s) for s in sorted(dim.symbols, key=str)}
        if not _plain(dim):
            return str(self._spelled(dim))
        values = {s.name: s.values for s in dim.symbols}
        return str(dim.substitute({n: Symbol(to, values[n]) for n, to in names.items() if n != to}))

    def _spelled(self, dim: Dim) -> Dim:
        """A size in whose terms a symbol that is called like its text stands for what is chosen by
        a condition: conditions on words spell themselves otherwise."""
        return Dim(
            tuple(
                (tuple((self._atom(atom), power) for atom, power in monomial), number)
                for monomial, number in dim.terms
            )
        )

    def _atom(self, atom: Atom) -> Atom:
        match atom:
            case Symbol():
                return Symbol(self.name(atom))
            case Conditional():
                parts = (self.dim(atom.then), self.condition(atom.condition))
                return Symbol(f"({parts[0]} if {parts[1]} else {self.dim(atom.otherwise)})")
            case FloorDivide(numerator, denominator):
                return FloorDivide(self._spelled(numerator), self._spelled(denominator))
            case Divisor(divisor):
                return Divisor(self._spelled(divisor))
            case Extremum() | Function():
                return replace(atom, operands=tuple(map(self._spelled, atom.operands)))

    def operand(self, dim: Dim, span: Span = NOWHERE) -> str:
        """A size beside an operator."""
        found = self.dim(dim, span)
        return found if re.fullmatch(r"[\w.]+", found) else f"({found})"

    def condition(self, condition: Condition, span: Span = NOWHERE) -> str:
        match condition:
            case Compare(op, left, right):
                return f"{self.dim(left, span)} {op} {self.dim(right, span)}"
            case Is(symbol, value):
                return f"{self.name(symbol)} == {candidate(value)}"
            case Not(Is(symbol, value)):
                return f"{self.name(symbol)} != {candidate(value)}"
            case Chosen(symbol, position, source):
                return f"{self.name(symbol)}[{position}] == {source}"
            case Not():
                return f"not ({self.condition(condition.operand, span)})"
            case All(operands):
                if condition == TRUE:
                    return "true"
                parts = (self.condition(part, span) for part in operands)
                both = zip(operands, parts, strict=True)
                return " and ".join(f"({t})" if isinstance(c, Any) else t for c, t in both)
            case Any(operands):
                parts = dict.fromkeys(self.condition(part, span) for part in operands)
                return self._one_place(operands) or " or ".join(parts) or "false"

    def _one_place(self, operands: tuple[Condition, ...]) -> str:
        """`inputs[0] in {0, 1}`, where all conditions are about one place of a pick."""
        chosen = [part for part in operands if isinstance(part, Chosen)]
        if len(chosen) < max(2, len(operands)):
            return ""
        if len({(part.symbol, part.position) for part in chosen}) > 1:
            return ""
        sources = ", ".join(str(part.source) for part in chosen)
        return f"{self.name(chosen[0].symbol)}[{chosen[0].position}] in {{{sources}}}"

    def init(self, init: Init, span: Span = NOWHERE) -> str:
        taken = () if init.rule in LAYERS else INITS.get(init.rule)
        if taken is None or len(taken) != len(init.arguments):
            raise cannot(f"the initialisation {init}", "the language has no word for it", span)
        if not init.arguments:
            return init.rule
        return f"{init.rule}({', '.join(self.dim(d, span) for d in init.arguments)})"


def _plain(dim: Dim) -> bool:
    """Whether every condition in a size compares numbers: others spell themselves otherwise."""
    waiting = [dim]
    for size in waiting:
        for monomial, _ in size.terms:
            for atom, _ in monomial:
                match atom:
                    case FloorDivide():
                        waiting += [atom.numerator, atom.denominator]
                    case Extremum() | Function():
                        waiting += atom.operands
                    case Divisor():
                        waiting.append(atom.divisor)
                    case Conditional():
                        waiting += [atom.then, atom.otherwise]
                        if not _compares(atom.condition):
                            return False
                    case Symbol():
                        pass
    return True


def _compares(condition: Condition) -> bool:
    match condition:
        case All(operands) | Any(operands):
            return all(map(_compares, operands))
        case _:
            return isinstance(condition, Compare)
