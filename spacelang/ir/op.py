"""The op table: operands, options, shape row and cost row of every op; numerics live in backends.

    linear = op("linear", "x", out=option("factors"), axes=option("whole", 1), bias=option("bool",
    True))

    @linear.shape
    def _(infer: Infer) -> TensorType: ...

    @linear.macs
    def _(cost: CostOf) -> Dim: ...

A module that defines ops registers them when it is imported; plug-ins name such modules under the
entry point `spacelang.ops`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, NoReturn

from spacelang import plugins
from spacelang.diagnostics import NOWHERE, Diagnostic, SpaceError, Span, counted, error
from spacelang.ir.condition import Condition, compare
from spacelang.ir.dim import LIMIT, Dim, Symbol, Value
from spacelang.ir.node import Attribute, TensorType
from spacelang.ir.param import Init, Param, Role, View, leading
from spacelang.ir.prove import Answer, Proved, Refuted, Unsettled, at_most, equal, whole

OptionKind = Literal[
    "size", "factors", "sizes", "shape", "whole", "wholes", "number", "rate", "bool", "string",
    "init", "any",
]  # fmt: skip
REQUIRED = "required"
ONE = Dim.of(1)
ShapeRow = Callable[["Infer"], "TensorType | Sequence[TensorType]"]
MacsRow = Callable[["CostOf"], Dim]
EntriesRow = Callable[["IndexOf"], "Entries | None"]
RoomRow = Callable[["IndexOf"], Dim]


class NeedsValue(Exception):
    """A symbolic number where only a known one will do; the nearest block call splits on the
    symbol."""

    def __init__(self, symbol: Symbol, span: Span = NOWHERE) -> None:
        super().__init__(symbol.name)
        self.symbol, self.span = symbol, span


@dataclass(frozen=True)
class Conflict:
    """What a proof failed on: the sizes, and the decisions of an architecture where it fails.

    `example` is None where neither a proof nor an architecture was found.
    """

    sizes: tuple[Dim, ...]
    example: Mapping[str, Value] | None = None


LONG = 28
"""A size whose text is longer is shown by its values, where it has few."""


def shown(value: Dim | TensorType) -> str:
    """A size or a type as messages show it: what a caller binds is named as the caller names it."""
    if isinstance(value, TensorType):
        body = f"[{', '.join(map(shown, value.shape))}]"
        return body if value.dtype == "f32" else f"{value.dtype}{body}"
    text = bare(str(value))
    values = values_of(value) if len(text) > LONG else ()
    return "|".join(map(str, values)) if 0 < len(values) <= 4 else text


MARK = re.compile(r"%\d+")
"""How symbols of a row of entries begin (`IndexOf.mark`): no name of a text is so."""


def bare(text: str) -> str:
    """A size without the signs of those that a block is given, and of indices (`%n`, `%0i`)."""
    return re.sub(r"%\d*", "", text)


def values_of(size: Dim) -> tuple[Fraction, ...]:
    """The values that a size takes, in order; none where they cannot be listed."""
    try:
        return size.candidates()
    except (ValueError, ArithmeticError):
        return ()


def plainly(found: Diagnostic, conflict: Conflict) -> Diagnostic:
    """The diagnostic with the sizes of a conflict and its example as notes."""
    found = found.note(" against ".join(map(shown, conflict.sizes)))
    return found if conflict.example is None else found.note(example_text(conflict.example))


def example_text(example: Mapping[str, object]) -> str:
    """A counter-example as a line: `first disagreement: width = 192, encoder[0].heads = 4`."""
    values = {n: str(v).lower() if isinstance(v, bool) else v for n, v in example.items()}
    known = ", ".join(f"{name} = {value}" for name, value in values.items())
    return f"first disagreement: {known}" if known else "in every architecture"


Explain = Callable[[Diagnostic, Conflict], Diagnostic]


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, as far as there are such ends; `above` and `below` say that an
    end is not among them."""

    low: int | None = None
    high: int | None = None
    above: bool = False
    below: bool = False

    def __str__(self) -> str:
        low = "" if self.low is None else f"{'above' if self.above else 'at least'} {self.low}"
        high = "" if self.high is None else f"{'below' if self.below else 'at most'} {self.high}"
        return " and ".join(end for end in (low, high) if end)

    def conditions(self, number: Dim) -> Iterator[Condition]:
        """What a number inside meets."""
        if self.low is not None:
            yield compare("<" if self.above else "<=", self.low, number)
        if self.high is not None:
            yield compare("<" if self.below else "<=", number, self.high)


POSITIVE, COUNTED = Interval(0, above=True), Interval(1)
"""Numbers above zero; counts of one at least."""


@dataclass(frozen=True)
class Option:
    """An option of an op: its kind and its default (`REQUIRED` where there is none).

    A number keeps `within` an interval, a string is one of `words`, where there are such
    (`ranges.py`).

    size     a number, symbolic or not               factors  a size or a list of sizes, one axis
    sizes    a list of sizes                         shape    a list whose entries are factors
    whole    a known whole number, or a list: wholes number   a known or symbolic number
    rate     a number that only scales: it may differ from call to call of one block
    """

    kind: OptionKind
    default: Attribute | int | str = REQUIRED
    within: Interval | None = None
    words: tuple[str, ...] = ()


option = Option


@dataclass
class OpDef:
    """One op. `operands` are names; one that ends in `*` takes a list, in `?` may be absent.

    An op that gives whole numbers says by `entries` what they are between, unless it `moves` those
    of its operands; one that reads by an operand called `index` says by `room` how many entries
    there are to read (`indices.py`).
    """

    name: str
    operands: tuple[str, ...]
    options: Mapping[str, Option]
    traits: frozenset[str] = frozenset()
    shape_row: ShapeRow | None = None
    macs_row: MacsRow | None = None
    entries_row: EntriesRow | None = None
    room_row: RoomRow | None = None
    doc: str = ""

    def shape(self, row: ShapeRow) -> ShapeRow:
        """Decorator: what finds the types of the results and declares the parameters."""
        self.shape_row = row
        return row

    def macs(self, row: MacsRow) -> MacsRow:
        """Decorator: what counts the multiply-accumulates of one use, at its batch."""
        self.macs_row = row
        return row

    def entries(self, row: EntriesRow) -> EntriesRow:
        """Decorator: what bounds the whole numbers of the result; None where nothing is known, or
        an ArithmeticError that says why."""
        self.entries_row = row
        return row

    def room(self, row: RoomRow) -> RoomRow:
        """Decorator: how many entries the operand `index` may point at, counted from 0."""
        self.room_row = row
        return row


_TABLE: dict[str, OpDef] = {}


def op(name: str, operands: str = "", traits: str = "", /, **options: Option) -> OpDef:
    """Define an op and register it; two definitions of one name are an error."""
    if name in _TABLE:
        raise ValueError(f"the op {name} is defined twice")
    definition = OpDef(name, tuple(operands.split()), options, frozenset(traits.split()))
    _TABLE[name] = definition
    return definition


def ops() -> Mapping[str, OpDef]:
    """All ops, built-in and of plug-ins."""
    plugins.load_all("spacelang.ops")
    return _TABLE


def lookup(name: str) -> OpDef:
    """The op of a name, ours or a plug-in's (SP604 if there is none)."""
    found = _TABLE.get(name) or ops().get(name)
    if found is None:
        raise SpaceError(error("SP604", f"no op is called {name}"))
    return found


class Options:
    """What a row asks of the options of a use."""

    options: Mapping[str, Attribute]

    def dim(self, name: str) -> Dim:
        """An option that is one size, known or symbolic."""
        value = self.options[name]
        assert isinstance(value, Dim), name
        return value

    def dims(self, name: str) -> tuple[Dim, ...]:
        """A size, or a list of sizes, as a tuple."""
        value = self.options[name]
        items = value if isinstance(value, tuple) else (value,)
        return tuple(d for d in items if isinstance(d, Dim))

    def whole(self, name: str) -> int:
        """An option as a known whole number (SP302 for a fraction); a symbolic one asks for a case
        split."""
        return known_whole(self.dim(name), name, NOWHERE)

    def text(self, name: str) -> str:
        """An option that is a word; empty where it is none."""
        value = self.options[name]
        return value if isinstance(value, str) else ""


@dataclass
class Infer(Options):
    """What a shape row sees: operand types and options; it asks for proofs and declares
    parameters."""

    name: str
    types: tuple[TensorType, ...]
    options: Mapping[str, Attribute]
    given: tuple[str, ...] = ()
    guards: tuple[Condition, ...] = ()
    span: Span = NOWHERE
    params: dict[str, Param] = field(default_factory=dict[str, Param])
    views: dict[str, View] = field(default_factory=dict[str, View])
    explain: Explain = plainly

    @property
    def x(self) -> TensorType:
        """The type of the first operand."""
        return self.types[0]

    def whole(self, name: str) -> int:
        """An option as a known whole number; a symbolic one asks for a case split."""
        return known_whole(self.dim(name), f"{self.name}: {name}", self.span)

    def operand(self, name: str) -> TensorType:
        """The type of an optional operand that was given."""
        return self.types[len(self.types) - len(self.given) + self.given.index(name)]

    def known(self, dim: Dim, what: str) -> int:
        """A size as the whole number that it must be here; NeedsValue where a decision is in it."""
        return known_whole(dim, what, self.span)

    def padding(self, default: Dim) -> Dim:
        """The option `pad`, or what keeps the size at stride 1."""
        value = self.options["pad"]
        return value if isinstance(value, Dim) else default

    def wholes(self, name: str) -> tuple[int, ...]:
        """An option that is a list of known whole numbers, or one; NeedsValue as `known`."""
        value = self.options[name]
        items = value if isinstance(value, tuple) else (value,)
        return tuple(
            known_whole(d, f"{self.name}: {name}", self.span) for d in items if isinstance(d, Dim)
        )

    def flag(self, name: str) -> bool:
        """Whether an option is true."""
        return self.options[name] is True

    def init(self, name: str) -> Init | None:
        """An option that says how a parameter starts; None where it is not given."""
        value = self.options[name]
        return value if isinstance(value, Init) else None

    def axis(self, index: int, rank: int, what: str = "axis") -> int:
        """An axis from 0; negative ones count from the end."""
        if not -rank <= index < rank:
            self.fail("SP307", f"{what} {index} of a tensor of {counted(rank, 'axis')}")
        return index % rank

    def fail(self, code: str, headline: str, note: str = "", hint: str = "") -> NoReturn:
        """Refuse the use of the op, at its place in the text."""
        found = error(code, headline, self.span)
        found = found.note(note) if note else found
        raise SpaceError(found.hint(hint) if hint else found)

    def need_equal(self, a: Dim, b: Dim, code: str, headline: str, label: str = "") -> None:
        """Two sizes must be equal for every architecture."""
        self._judge(equal(a, b, self.guards), code, headline, (a, b), label)

    def need_whole(self, a: Dim, what: str) -> None:
        """A number must be whole for every architecture (SP302; SP308 if that is not settled)."""
        hint = "say how it rounds: //, floor(..)"
        self._judge(whole(a, self.guards), "SP302", f"{what} must be whole", (a,), "", hint)

    def need_at_most(self, a: Dim, b: Dim, code: str, headline: str) -> None:
        """One size must not be above another in any architecture (SP308 if that is not settled)."""
        self._judge(at_most(a, b, self.guards), code, headline, (a, b))

    def need_bound(self, a: Dim, what: str) -> None:
        """A size must not hang on the batch."""
        if any(symbol.free for symbol in a.symbols):
            self.fail("SP308", f"{what} must be known, not {shown(a)}")

    def need_some(self, a: Dim, what: str) -> None:
        """A size must be one at least."""
        self._judge(at_most(ONE, a, self.guards), "SP302", f"{what} must be at least 1", (a,))

    def _judge(
        self,
        verdict: Answer,
        code: str,
        headline: str,
        sizes: tuple[Dim, ...],
        label: str = "",
        hint: str = "",
    ) -> None:
        if isinstance(verdict, Proved):
            return
        if isinstance(verdict, Refuted):
            found = error(code, headline, self.span, label).hint(hint)
            raise SpaceError(self.explain(found, Conflict(sizes, verdict.example)))
        found = error("SP308", f"not settled for the whole space: {headline}", self.span, label)
        found = self.explain(found, Conflict(sizes))
        raise SpaceError(found.note(open_question(verdict)).hint(SETTLE))

    def param(
        self,
        name: str,
        shape: Sequence[Dim | Sequence[Dim]],
        init: Init,
        *,
        role: Role = "weight",
        dtype: str = "f32",
        persistent: bool = True,
        decay: bool = True,
    ) -> None:
        """Declare a parameter of this op; an axis is a size or a list of factors."""
        axes = tuple(tuple(a) if not isinstance(a, Dim) else (a,) for a in shape)
        for axis in axes:
            for factor in axis:
                self.need_bound(factor, f"a size of {name or 'a parameter'}")
                self.need_whole(factor, f"a size of {name or 'a parameter'}")
        declared = Param(name, axes, init, role, dtype, persistent, decay, span=self.span)
        self.params[name] = declared
        self.views[name] = leading(declared)


@dataclass(frozen=True)
class CostOf(Options):
    """What a cost row sees: operand and result types, and options."""

    types: tuple[TensorType, ...]
    results: tuple[TensorType, ...]
    options: Mapping[str, Attribute]
    views: Mapping[str, View]

    @property
    def x(self) -> TensorType:
        """The type of the first operand."""
        return self.types[0]

    @property
    def y(self) -> TensorType:
        """The type of the first result."""
        return self.results[0]


@dataclass(frozen=True)
class Entries:
    """Whole numbers: the least and the largest, where the conditions hold.

    Both may hold symbols of their own, as the indices of a table, each with the row's `mark`: then
    what lies between them is said of each value of these that meets the conditions.
    """

    low: Dim
    high: Dim
    where: tuple[Condition, ...] = ()

    @property
    def symbols(self) -> frozenset[Symbol]:
        """All that the bounds and conditions hang on."""
        return self.low.symbols.union(self.high.symbols, *(c.symbols for c in self.where))

    def substitute(self, names: Mapping[str, Symbol]) -> Entries:
        """The same with symbols renamed."""
        where = tuple(condition.substitute(names) for condition in self.where)
        return Entries(self.low.substitute(names), self.high.substitute(names), where)


@dataclass(frozen=True)
class IndexOf(Options):
    """What a row of entries or of room sees, in the decisions of the whole space.

    `operands` are the entries of each operand; `mark` is a prefix for symbols that are the row's
    own; `guards` hold wherever the node is.
    """

    types: tuple[TensorType, ...]
    options: Mapping[str, Attribute]
    operands: tuple[Entries, ...]
    mark: str
    guards: tuple[Condition, ...] = ()


def open_question(verdict: Unsettled, tried: int = LIMIT) -> str:
    """What an unsettled proof hangs on, of which at most so many points are tried, as a note."""
    names = ", ".join(map(bare, verdict.symbols))
    return f"it hangs on {names}: {verdict.points:,} combinations, of which {tried:,} are tried"


SETTLE = "let fewer decisions meet in one size, or give them fewer candidates"


def known_whole(dim: Dim, what: str, span: Span) -> int:
    """A number that must be known and whole; raises NeedsValue where a decision is in it."""
    if dim.constant is None:
        decisions = [s for s in dim.symbols if s.values]
        if not decisions:
            raise SpaceError(error("SP308", f"{what} must be known, not {shown(dim)}", span))
        raise NeedsValue(min(decisions, key=lambda s: s.name), span)
    if dim.constant.denominator != 1:
        raise SpaceError(error("SP302", f"{what} must be a whole number, not {dim}", span))
    return int(dim.constant)
