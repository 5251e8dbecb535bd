"""A frame: one block while it is elaborated, and how its sizes lead back to those of its caller.

A block is elaborated once for each static signature. Inside, every decision of a caller is a size of
its own (`%width`), bound at each call; only decisions that the block takes itself keep their name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from spacelang.diagnostics import Diagnostic, Report, SpaceError, Span, error
from spacelang.ir.block import Block
from spacelang.ir.build import BlockBuilder, Tensor
from spacelang.ir.condition import Condition
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.node import TensorType, join
from spacelang.ir.param import Init
from spacelang.syntax.values import CONDITIONS, Candidates, Numbers, Picked, Text, Thing

if TYPE_CHECKING:
    from spacelang.syntax.scope import Library

MAX_NODES = 100_000


@dataclass(frozen=True)
class Import:
    """A size of a block: where its symbol comes from. `frame` None is the immediate caller."""

    size: Symbol
    frame: Frame | None
    symbol: Symbol


@dataclass(frozen=True)
class Compiled:
    """A block that was elaborated, with what a call of it needs."""

    block: Block
    imports: tuple[Import, ...]
    late: tuple[str, ...]
    result: Thing
    named: bool


@dataclass
class Session:
    """What all frames of one elaboration share."""

    library: Library
    report: Report = field(default_factory=Report)
    compiled: dict[object, Compiled] = field(default_factory=dict[object, Compiled])
    blocks: dict[str, Block] = field(default_factory=dict[str, Block])
    kept: list[object] = field(default_factory=list[object])
    named: dict[str, bool] = field(default_factory=dict[str, bool])
    failed: Frame | None = None
    nodes: int = 0
    reserved: set[str] = field(default_factory=set[str])

    def unique(self, name: str) -> str:
        """A block name that is not taken: `encoder`, `encoder.2`."""
        taken = {*self.blocks, *self.reserved}
        found, count = name, 2
        while found in taken:
            found, count = f"{name}.{count}", count + 1
        return found

    def spend(self, nodes: int, span: Span) -> None:
        """Count nodes made against the limit (SP507)."""
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise SpaceError(error("SP507", f"the graph has more than {MAX_NODES:,} nodes", span))


class Frame:
    """A block in the making.

    `fixed` holds values of decisions that this alternative of the block is made for: a size that the
    caller binds (by the symbol's name there) or a decision of its own.
    """

    def __init__(
        self,
        session: Session,
        name: str,
        span: Span,
        caller: Frame | None = None,
        fixed: Mapping[str, DecisionValue] | None = None,
    ) -> None:
        self.session, self.caller, self.name = session, caller, name
        self.fixed = dict(fixed or {})
        self.builder = BlockBuilder(name, span, explain=self.explain)
        self.prefix = ""
        self.counts: dict[str, int] = {}
        self.imports: dict[tuple[int, Symbol], Import] = {}
        self.late: list[str] = []
        self.chain: tuple[object, ...] = (*caller.chain, self) if caller else (self,)
        self.definition: object = None
        self.place = ""

    # Names.

    def path(self, label: str) -> str:
        return join(self.prefix, label)

    def count(self, name: str) -> int:
        """The number of this unlabelled instance among those of its block here."""
        key = self.path(name)
        self.counts[key] = self.counts.get(key, -1) + 1
        return self.counts[key]

    # Symbols of other frames.

    def symbol(self, origin: Frame, symbol: Symbol) -> Dim | Symbol:
        """A symbol of `origin`, a frame that is being elaborated too, as this frame sees it."""
        if origin is self:
            own = self.fixed.get("." + symbol.name)
            return symbol if own is None else _value(symbol, own)
        assert self.caller is not None, symbol
        outer = self.caller.symbol(origin, symbol)
        if isinstance(outer, Dim):
            found = self.dim(self.caller, outer)
            return found
        if outer.name in self.fixed:
            return _value(outer, self.fixed[outer.name])
        key = (id(origin), symbol)
        if key not in self.imports:
            taken = {i.size.name for i in self.imports.values()} | set(self.late)
            name = "%" + outer.name.lstrip("%")
            while name in taken:
                name += "'"
            size = Symbol(name, outer.values)
            self.builder.size(size)
            self.imports[key] = Import(size, None if origin is self.caller else origin, symbol)
        return self.imports[key].size

    def dim(self, origin: Frame, dim: Dim) -> Dim:
        if origin is self or not dim.symbols:
            return dim
        return dim.substitute({s.name: self.symbol(origin, s) for s in dim.symbols})

    def type(self, origin: Frame, type: TensorType) -> TensorType:
        return TensorType(tuple(self.dim(origin, d) for d in type.shape), type.dtype)

    def thing(self, origin: Frame, value: Thing) -> Thing:
        """A value of another frame, with its sizes as this frame sees them."""
        if origin is self:
            return value
        if isinstance(value, Dim):
            return self.dim(origin, value)
        if isinstance(value, CONDITIONS):
            return self.condition(origin, value)
        if isinstance(value, tuple):
            return tuple(self.thing(origin, v) for v in value)
        if isinstance(value, Candidates):
            return Candidates(tuple(self.thing(origin, v) for v in value.items))
        if isinstance(value, Numbers):
            return replace(value, stop=self.dim(origin, value.stop))
        if isinstance(value, Text):
            found = self.symbol(origin, value.symbol)
            return Text(found) if isinstance(found, Symbol) else self.fixed_text(value.symbol)
        if isinstance(value, Init):
            return Init(value.rule, tuple(self.dim(origin, d) for d in value.arguments))
        if isinstance(value, Tensor | Picked):
            raise SpaceError(
                error("SP208", "a block reads only its arguments, not tensors around it").hint(
                    "hand the tensor over as an argument"
                )
            )
        return value

    def condition(self, origin: Frame, value: Condition) -> Condition:
        if origin is self:
            return value
        names = {s.name: self.symbol(origin, s) for s in value.symbols}
        return value.substitute(names)

    def fixed_text(self, symbol: Symbol) -> Thing:
        frame: Frame | None = self
        while frame is not None:
            for name, value in frame.fixed.items():
                if name.lstrip("%.") == symbol.name.lstrip("%") and isinstance(value, str | bool):
                    return value
            frame = frame.caller
        raise KeyError(symbol.name)

    # Counter-examples.

    def outward(self, name: str) -> str:
        """A symbol's name as the whole space knows it, for messages."""
        frame: Frame = self
        while frame.caller is not None:
            found = next((i for i in frame.imports.values() if i.size.name == name), None)
            if found is None:
                if name.startswith("%"):
                    return name.lstrip("%")
                name = join(frame.place, name)
                frame = frame.caller
                continue
            name = found.symbol.name
            frame = found.frame or frame.caller
        return name.lstrip("%/")

    def explain(self, found: Diagnostic, example: Mapping[str, object]) -> Diagnostic:
        """The diagnostic with the architecture that breaks it, in the names of the whole space."""
        from spacelang.ir.build import example_text

        named = {self.outward(name): _shown(value) for name, value in example.items()}
        for frame in self.chain:
            if isinstance(frame, Frame):
                for name, value in frame.fixed.items():
                    named.setdefault((frame.caller or frame).outward(name), _shown(value))
        return found.note(example_text(named))


def _value(symbol: Symbol, value: DecisionValue) -> Dim | Symbol:
    if isinstance(value, str | bool | tuple):
        return Symbol(symbol.name, (value,))
    return Dim.of(value)


def _shown(value: object) -> object:
    from fractions import Fraction

    if isinstance(value, Fraction):
        return int(value) if value.denominator == 1 else float(value)
    return value
