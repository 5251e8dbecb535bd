"""The op table: operands, options, shape row and cost row of every op; numerics live in backends.

    linear = op("linear", "x", out=option("factors"), axes=option("whole", 1), bias=option("bool", True))

    @linear.shape
    def _(infer: Infer) -> TensorType: ...

    @linear.macs
    def _(cost: CostOf) -> Dim: ...

A module that defines ops registers them when it is imported; plug-ins name such modules under the
entry point `spacelang.ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from spacelang import plugins
from spacelang.diagnostics import NOWHERE, Diagnostic, SpaceError, Span, error
from spacelang.ir.condition import Condition
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.node import Attribute, TensorType
from spacelang.ir.param import Init, Param, Role, View, leading
from spacelang.ir.prove import Proved, Refuted, at_most, equal, whole

OptionKind = Literal[
    "size", "factors", "sizes", "shape", "whole", "wholes", "number", "rate", "bool", "string", "init",
    "any",
]  # fmt: skip
REQUIRED = "required"
ShapeRow = Callable[["Infer"], "TensorType | Sequence[TensorType]"]
MacsRow = Callable[["CostOf"], Dim]


class NeedsValue(Exception):
    """A symbolic number where only a known one will do; the nearest block call splits on the symbol."""

    def __init__(self, symbol: Symbol) -> None:
        super().__init__(symbol.name)
        self.symbol = symbol


@dataclass(frozen=True)
class Option:
    """An option of an op: its kind and its default (`REQUIRED` where there is none).

    size     a number, symbolic or not               factors  a size or a list of sizes, one axis
    sizes    a list of sizes                         shape    a list whose entries are factors
    whole    a known whole number, or a list: wholes number   a known or symbolic number
    rate     a number that only scales: it may differ from call to call of one block
    """

    kind: OptionKind
    default: Attribute | int | str = REQUIRED


def option(kind: OptionKind, default: Attribute | int | str = REQUIRED) -> Option:
    return Option(kind, default)


@dataclass
class OpDef:
    """One op. `operands` are names; one that ends in `*` takes a list, in `?` may be absent."""

    name: str
    operands: tuple[str, ...]
    options: Mapping[str, Option]
    traits: frozenset[str] = frozenset()
    shape_row: ShapeRow | None = None
    macs_row: MacsRow | None = None
    doc: str = ""

    def shape(self, row: ShapeRow) -> ShapeRow:
        self.shape_row = row
        return row

    def macs(self, row: MacsRow) -> MacsRow:
        self.macs_row = row
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
    found = _TABLE.get(name) or ops().get(name)
    if found is None:
        raise SpaceError(error("SP604", f"no op is called {name}"))
    return found


@dataclass
class Infer:
    """What a shape row sees: operand types and options; it asks for proofs and declares parameters."""

    name: str
    types: tuple[TensorType, ...]
    options: Mapping[str, Attribute]
    given: tuple[str, ...] = ()
    guards: tuple[Condition, ...] = ()
    span: Span = NOWHERE
    params: dict[str, Param] = field(default_factory=dict[str, Param])
    views: dict[str, View] = field(default_factory=dict[str, View])
    found: list[Diagnostic] = field(default_factory=list[Diagnostic])
    explain: Callable[[Diagnostic, Mapping[str, object]], Diagnostic] = lambda d, _: d

    @property
    def x(self) -> TensorType:
        return self.types[0]

    def dim(self, name: str) -> Dim:
        value = self.options[name]
        assert isinstance(value, Dim), f"{self.name}: {name}"
        return value

    def whole(self, name: str) -> int:
        """An option as a known whole number; a symbolic one asks for a case split."""
        return known_whole(self.dim(name), f"{self.name}: {name}", self.span)

    def operand(self, name: str) -> TensorType:
        """The type of an optional operand that was given."""
        return self.types[len(self.types) - len(self.given) + self.given.index(name)]

    def known(self, dim: Dim, what: str) -> int:
        return known_whole(dim, what, self.span)

    def padding(self, default: Dim) -> Dim:
        """The option `pad`, or what keeps the size at stride 1."""
        value = self.options["pad"]
        return value if isinstance(value, Dim) else default

    def wholes(self, name: str) -> tuple[int, ...]:
        value = self.options[name]
        items = value if isinstance(value, tuple) else (value,)
        return tuple(
            known_whole(d, f"{self.name}: {name}", self.span) for d in items if isinstance(d, Dim)
        )

    def dims(self, name: str) -> tuple[Dim, ...]:
        """A size, or a list of sizes, as a tuple."""
        value = self.options[name]
        items = value if isinstance(value, tuple) else (value,)
        return tuple(d for d in items if isinstance(d, Dim))

    def flag(self, name: str) -> bool:
        return self.options[name] is True

    def text(self, name: str) -> str:
        value = self.options[name]
        return value if isinstance(value, str) else ""

    def init(self, name: str) -> Init | None:
        value = self.options[name]
        return value if isinstance(value, Init) else None

    def axis(self, index: int, rank: int, what: str = "axis") -> int:
        """An axis from 0; negative ones count from the end."""
        if not -rank <= index < rank:
            self.fail("SP307", f"{what} {index} of a tensor of {rank} axes")
        return index % rank

    def fail(self, code: str, headline: str, note: str = "", hint: str = "") -> NoReturn:
        found = error(code, headline, self.span)
        found = found.note(note) if note else found
        raise SpaceError(found.hint(hint) if hint else found)

    def need_equal(self, a: Dim, b: Dim, code: str, headline: str, note: str = "") -> None:
        """Two sizes must be equal for every architecture."""
        self._judge(equal(a, b, self.guards), code, headline, (f"{a} against {b}", note))

    def need_whole(self, a: Dim, what: str) -> None:
        self._judge(
            whole(a, self.guards),
            "SP302",
            f"{what} must be whole",
            (f"it is {a}",),
            "say how it rounds: //, floor(..)",
        )

    def need_at_most(self, a: Dim, b: Dim, code: str, headline: str) -> None:
        self._judge(at_most(a, b, self.guards), code, headline, (f"{a} against {b}",))

    def _judge(
        self, verdict: object, code: str, headline: str, notes: tuple[str, ...], hint: str = ""
    ) -> None:
        if isinstance(verdict, Proved):
            return
        found = error(code, headline, self.span).note(*(n for n in notes if n))
        if hint:
            found = found.hint(hint)
        if isinstance(verdict, Refuted):
            raise SpaceError(self.explain(found, verdict.example))
        raise SpaceError(
            error("SP308", f"cannot settle for the whole space: {headline}", self.span)
            .note(*(n for n in notes if n))
            .hint("make the sizes depend on fewer decisions here")
        )

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
                self.need_whole(factor, f"a size of {name}")
        declared = Param(name, axes, init, role, dtype, persistent, decay, span=self.span)
        self.params[name] = declared
        self.views[name] = leading(declared)


@dataclass(frozen=True)
class CostOf:
    """What a cost row sees: operand and result types, and options."""

    types: tuple[TensorType, ...]
    results: tuple[TensorType, ...]
    options: Mapping[str, Attribute]
    views: Mapping[str, View]

    @property
    def x(self) -> TensorType:
        return self.types[0]

    @property
    def y(self) -> TensorType:
        return self.results[0]

    def dim(self, name: str) -> Dim:
        value = self.options[name]
        assert isinstance(value, Dim)
        return value

    def whole(self, name: str) -> int:
        return int(self.dim(name).at({}))

    def text(self, name: str) -> str:
        value = self.options[name]
        return value if isinstance(value, str) else ""


def known_whole(dim: Dim, what: str, span: Span) -> int:
    """A number that must be known and whole; raises NeedsValue where a decision is in it."""
    if dim.constant is None:
        raise NeedsValue(min(dim.symbols, key=lambda s: (not s.values, s.name)))
    if dim.constant.denominator != 1:
        raise SpaceError(error("SP302", f"{what} must be a whole number, not {dim}", span))
    return int(dim.constant)
