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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from spacelang import plugins
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.condition import Condition, compare
from spacelang.ir.dim import Dim
from spacelang.ir.entries import Entries, IndexOf
from spacelang.ir.infer import CostOf, Infer
from spacelang.ir.node import Attribute, TensorType

OptionKind = Literal[
    "size", "factors", "sizes", "shape", "whole", "wholes", "number", "rate", "bool", "string",
    "init", "any",
]  # fmt: skip
REQUIRED = "required"
ShapeRow = Callable[[Infer], TensorType | Sequence[TensorType]]
MacsRow = Callable[[CostOf], Dim]
EntriesRow = Callable[[IndexOf], Entries | None]
RoomRow = Callable[[IndexOf], Dim]


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
