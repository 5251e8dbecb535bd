"""What an expression of the language may stand for while the graph is built.

Numbers are `Dim`s, symbolic or not; booleans are `bool` or, where a decision is in them, a
`Condition`; strings, lists (tuples) and `None` are Python's own; the rest is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.build import Tensor
from spacelang.ir.condition import (
    CONDITIONS,
    FALSE,
    TRUE,
    Condition,
    chosen,
    disjunction,
)
from spacelang.ir.condition import is_value as _is_value
from spacelang.ir.conflict import bare
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.figures import MEASURED
from spacelang.ir.infer import NeedsValue
from spacelang.ir.param import Init
from spacelang.syntax import tree

if TYPE_CHECKING:
    from spacelang.syntax.frame import Frame
    from spacelang.syntax.scope import Scope


@dataclass(frozen=True)
class Candidates:
    """A set `{..}`: candidates, without order or repeats."""

    items: tuple[Thing, ...]


@dataclass(frozen=True)
class Numbers:
    """A range `start..stop by step`; `stop` is symbolic where a decision is the bound."""

    start: Fraction
    stop: Dim
    step: Fraction
    open: bool

    def count(self, stop: Fraction) -> int:
        """How many numbers there are up to a known end."""
        steps = (stop - self.start) / self.step
        return max(0, -int(-steps // 1) if self.open else int(steps // 1) + 1)

    def upto(self, stop: Fraction) -> tuple[Fraction, ...]:
        """The numbers up to a known end."""
        return tuple(self.start + k * self.step for k in range(self.count(stop)))


@dataclass(frozen=True)
class Pending:
    """`choose {..}` given for a parameter: becomes a decision named after it."""

    items: tuple[Thing, ...]
    span: Span


@dataclass(frozen=True, eq=False)
class Closure:
    """A block or cell with the names it sees."""

    definition: tree.BlockOf
    scope: Scope
    frame: Frame | None

    @property
    def name(self) -> str:
        return self.definition.name


@dataclass(frozen=True)
class OpName:
    """An op as a callable name."""

    name: str


@dataclass(frozen=True)
class Function:
    """A number function: `max`, `len`, `zip`."""

    name: str


@dataclass(frozen=True)
class Picked:
    """The value of `choose a in k of xs`: the decision, and the list that it draws from; none
    where it draws from as many things as a number says."""

    symbol: Symbol
    count: int
    sources: tuple[Tensor, ...]


@dataclass(frozen=True)
class Place:
    """`inputs[0]`: the index, in the list that a pick draws from, of what stands at a position."""

    symbol: Symbol
    position: int

    @property
    def indices(self) -> tuple[int, ...]:
        """The indices that it may be, in order."""
        drawn = (v[self.position] for v in self.symbol.values if isinstance(v, tuple))
        return tuple(sorted(set(drawn)))

    def among(self, indices: Iterable[int]) -> Condition:
        """That it is one of some indices."""
        return disjunction(*(chosen(self.symbol, self.position, i) for i in indices))


@dataclass(frozen=True)
class Text:
    """A decision among strings or booleans."""

    symbol: Symbol

    @property
    def boolean(self) -> bool:
        return all(isinstance(v, bool) for v in self.symbol.values)


@dataclass(frozen=True)
class SpaceValue:
    """A space, instance or subnet of some file."""

    definition: tree.SpaceOf | tree.Instance | tree.Subnet
    scope: Scope


@dataclass(frozen=True)
class ProgramValue:
    """A program, with the scope in which it is written."""

    definition: tree.Program
    scope: Scope


@dataclass(frozen=True)
class Clash:
    """A name that two used files own: an error where it is read."""

    name: str
    owners: tuple[str, str]


@dataclass(frozen=True, eq=False)
class Module:
    """A used file under its name: `vit.mlp`."""

    name: str
    scope: Scope


@dataclass(frozen=True)
class Broken:
    """A name whose statement failed; what reads it fails too, without a word of its own."""


BROKEN = Broken()


@dataclass(frozen=True)
class Unbound:
    """A name that has a value only in some architectures; reading it is an error, but where one of
    `ways` holds: conditions, and what the name stands for under each."""

    name: str
    span: Span
    ways: tuple[tuple[Condition, Thing], ...] = ()


@dataclass(frozen=True)
class Torn:
    """A name whose value hangs on a condition and is no size or tensor on both sides.

    Reading it asks for an alternative of the block for each value of a decision. `values` are those
    of a name that one of the sides has no value for.
    """

    name: str
    condition: Condition
    values: tuple[Entry, ...] = ()


@dataclass(frozen=True, eq=False)
class Later:
    """A `let` of a file: evaluated in that file when it is first read."""

    let: tree.Let
    scope: Scope


Thing: TypeAlias = (
    Dim | bool | Condition | str | tuple["Thing", ...] | Candidates | Numbers | Pending | Tensor
    | Closure | OpName | Function | Init | Picked | Place | Text | SpaceValue
    | ProgramValue | None
)  # fmt: skip
Entry: TypeAlias = Thing | Clash | Module | Broken | Unbound | Torn | Later
"""What a scope may hold under a name: a thing, or why there is none."""
NOTHING = (Clash, Module, Broken, Unbound, Torn, Later)
"""What a name may hold that is no thing."""

KINDS: Mapping[type, str] = {
    Dim: "a number",
    bool: "a boolean",
    str: "a string",
    type(None): "none",
    tuple: "a list",
    Candidates: "a set",
    Numbers: "a range",
    Tensor: "a tensor",
    Closure: "a block",
    OpName: "an op",
    Function: "a function",
    Init: "an initialisation",
    Picked: "a pick",
    Place: "a place of a pick",
    Text: "a decision",
    Pending: "a choice",
    SpaceValue: "a space",
    ProgramValue: "a program",
}


def kind(value: object) -> str:
    """What a value is, in words."""
    if isinstance(value, CONDITIONS):
        return "a condition"
    return next((word for cls, word in KINDS.items() if type(value) is cls), "nothing known")


def number(value: Thing, what: str, span: Span) -> Dim:
    """A number, symbolic or not (SP209 otherwise)."""
    if isinstance(value, Dim):
        return value
    if isinstance(value, Pending):
        found = error("SP208", "`choose {..}` stands only for a whole argument", value.span)
        raise SpaceError(found.hint("choose name in {..} before, then the name here"))
    raise SpaceError(error("SP209", f"{what} must be a number, not {kind(value)}", span))


def candidate(value: Thing, what: str, span: Span) -> DecisionValue:
    """A value that a decision may take: a known number, a string or a boolean."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, Dim) and value.constant is not None:
        return value.constant
    found = error("SP209", f"a candidate of {what} cannot be {kind(value)}", span)
    if isinstance(value, Dim):
        found = error("SP209", f"a candidate of {what} hangs on a decision", span)
    if isinstance(value, Closure | OpName):
        found = found.hint("choose op { a: .. b: .. } chooses between computations")
    raise SpaceError(found)


def condition(value: Thing, span: Span) -> bool | Condition:
    """A truth value, decided or by decision."""
    if isinstance(value, Text) and value.boolean:
        return decided(_is_value(value.symbol, True))
    if isinstance(value, (bool, *CONDITIONS)):
        return value
    raise SpaceError(error("SP209", f"a condition is wanted here, not {kind(value)}", span))


def not_of_the_batch(truth: Condition, why: str, span: Span) -> None:
    """SP209 for a condition on the batch, which is any size; figures of limits are measured."""
    open_symbols = (s for s in truth.symbols if s.free and not s.rate)
    free = next((s.name for s in open_symbols if s.name not in MEASURED), None)
    if free is not None:
        raise SpaceError(error("SP209", f"{bare(free)} is any size, and {why}", span))


def decided(value: Condition) -> bool | Condition:
    """A condition as a boolean where it is one."""
    return True if value == TRUE else False if value == FALSE else value


def is_value(decision: Text, value: Thing) -> bool | Condition:
    """Whether a decision among strings or booleans takes a value."""
    if not isinstance(value, str | bool) or value not in decision.symbol.values:
        return False
    return decided(_is_value(decision.symbol, value))


def settled(value: Thing) -> Thing:
    """A value where a known one is needed: a decision among strings or booleans asks for a
    split."""
    if isinstance(value, Text):
        raise NeedsValue(value.symbol)
    return value


def has_tensor(value: Thing) -> bool:
    """Whether a value is a tensor or holds one."""
    return isinstance(value, Tensor) or (
        isinstance(value, tuple) and bool(value) and any(has_tensor(v) for v in value)
    )


def tensors(value: Thing) -> list[Tensor] | None:
    """The entries of a list of tensors, None if it is anything else."""
    if not isinstance(value, tuple) or not value:
        return None
    found = [v for v in value if isinstance(v, Tensor)]
    return found if len(found) == len(value) else None


def flat(value: Thing) -> list[Tensor]:
    """The tensors of a value, lists opened."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple):
        return [tensor for item in value for tensor in flat(item)]
    return []


def shaped(like: Thing, tensors: Iterator[Tensor]) -> Thing:
    """The same lists with other tensors in them."""
    if isinstance(like, tuple):
        return tuple(shaped(v, tensors) for v in like)
    return next(tensors) if isinstance(like, Tensor) else like
