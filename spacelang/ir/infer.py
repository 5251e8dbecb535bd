"""What the rows of an op see: a shape row infers types and parameters, a cost row counts.

A row asks for proofs (`need_equal` and its kind), which hold for every architecture or end in a
diagnostic; a row that needs a number where a decision stands raises `NeedsValue`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from spacelang.diagnostics import NOWHERE, SpaceError, Span, counted, error
from spacelang.ir.condition import Condition
from spacelang.ir.conflict import SETTLE, Conflict, Explain, open_question, plainly, shown
from spacelang.ir.dim import ONE, Dim, Symbol
from spacelang.ir.node import Attribute, TensorType
from spacelang.ir.param import Init, Param, Role, View, leading
from spacelang.ir.prove import Answer, Proved, Refuted, at_most, equal, whole


class NeedsValue(Exception):
    """A symbolic number where only a known one will do; the nearest block call splits on the
    symbol."""

    def __init__(self, symbol: Symbol, span: Span = NOWHERE) -> None:
        super().__init__(symbol.name)
        self.symbol, self.span = symbol, span


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
        """A size or number must not hang on the batch."""
        if any(symbol.free and not symbol.rate for symbol in a.symbols):
            self.fail("SP308", f"{what} must be known, not {shown(a)}", "a batch is of any size")

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


@dataclass
class Settled(Infer):
    """What a row sees of a node that stands in a graph: all that it asks was proved there, or is by
    the verifier after an edit, under conditions of the uses of its block that are not at hand."""

    def _judge(
        self,
        verdict: Answer,
        code: str,
        headline: str,
        sizes: tuple[Dim, ...],
        label: str = "",
        hint: str = "",
    ) -> None:
        """Nothing is refused."""


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
