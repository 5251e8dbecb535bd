"""A frame: one block while it is elaborated, and how its sizes lead back to those of its caller.

A block is elaborated once for each static signature. Inside, every decision of a caller is a size
of its own (`%width`), bound at each call; only decisions that the block takes itself keep their
name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from spacelang.diagnostics import Diagnostic, Report, SpaceError, Span, error
from spacelang.ir.build import BlockBuilder, Tensor
from spacelang.ir.condition import CONDITIONS, Condition
from spacelang.ir.conflict import Conflict
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.node import TensorType, join
from spacelang.ir.param import Init
from spacelang.syntax.conflicts import explained
from spacelang.syntax.session import Import, Session
from spacelang.syntax.tree import BlockOf, Expr
from spacelang.syntax.values import Candidates, Numbers, Picked, Place, Text, Thing

if TYPE_CHECKING:
    from spacelang.syntax.scope import Scope
    from spacelang.syntax.sections import Host


class Frame:
    """A block in the making.

    `fixed` holds values of decisions that this alternative of the block is made for: a size that
    the caller binds (by the symbol's name there) or, after a dot, a decision of its own. `errors`
    are kept here, not in the session: an elaboration that asks for a split is thrown away with
    them. `unmet` are the limits that leave this alternative out, errors where they do so with each.

    A block of a file takes its sizes from its immediate caller, whoever that is. One that sees
    names of another frame is `anchored`: its sizes are those of the frames where they were first
    bound, so that a size it is given and the same size seen by name are one. What is `alike` is one
    thing for all alternatives of a block, whatever is fixed in them.
    """

    def __init__(
        self,
        session: Session,
        name: str,
        span: Span,
        caller: Frame | None = None,
        fixed: Mapping[str, DecisionValue] | None = None,
        definition: BlockOf | None = None,
        place: str = "",
        anchored: bool = False,
        alike: object = None,
    ) -> None:
        self.session, self.caller, self.name = session, caller, name
        self.definition, self.place, self.anchored = definition, place, anchored
        self.alike = object() if alike is None else alike
        self.fixed = dict(fixed or {})
        self.builder = BlockBuilder(name, span, explain=self._explain)
        self.builder.remarks = session.remarks
        self.prefix = ""
        self.counts: dict[str, int] = {}
        self.imports: dict[tuple[int, Symbol], Import] = {}
        self.late: list[str] = []
        self.chain: tuple[Frame, ...] = (*caller.chain, self) if caller else (self,)
        self.errors = Report()
        self.host: Host | None = None
        self.origins: dict[Dim, Span] = {}
        self.require: list[Condition] = []
        self.unmet: list[Diagnostic] = []
        self.deferred: list[tuple[Expr, Scope, tuple[Condition, ...]]] = []

    def _explain(
        self, found: Diagnostic, conflict: Conflict, operands: Sequence[Tensor]
    ) -> Diagnostic:
        return explained(self, found, conflict, operands)

    @property
    def apart(self) -> bool:
        """Whether it is in an alternative that a block was split into."""
        return any(frame.fixed for frame in self.chain)

    # Names.

    def path(self, label: str) -> str:
        return join(self.prefix, label)

    def count(self, name: str) -> int:
        """The number of this unlabelled instance among those of its block here."""
        key = self.path(name)
        self.counts[key] = self.counts.get(key, -1) + 1
        return self.counts[key]

    def next(self, name: str) -> str:
        """The path that the next unlabelled instance of a block will have."""
        key = self.path(name)
        return f"{key}[{self.counts.get(key, -1) + 1}]"

    # Symbols of other frames.

    def symbol(self, origin: Frame, symbol: Symbol) -> Dim | Symbol:
        """A symbol of `origin`, a frame that is being elaborated too, as this frame sees it."""
        if origin is self:
            own = self.fixed.get("." + symbol.name)
            return symbol if own is None else _value(symbol, own)
        if self.caller is None:
            raise SpaceError(error("SP208", f"{symbol.name} belongs to a space apart"))
        if self.anchored:
            origin, symbol = origin.home(symbol)
        outer = self.caller.symbol(origin, symbol)
        if isinstance(outer, Dim):
            return self.dim(self.caller, outer)
        if outer.name in self.fixed:
            return _value(outer, self.fixed[outer.name])
        key = (id(origin), symbol)
        if key not in self.imports:
            taken = {i.size.name for i in self.imports.values()} | set(self.late)
            name = "%" + outer.name.lstrip("%")
            while name in taken:
                name += "'"
            size = Symbol(name, outer.values, outer.rate)
            self.builder.size(size)
            self.imports[key] = Import(size, None if origin is self.caller else origin, symbol)
        return self.imports[key].size

    def origin(self, name: str) -> tuple[Frame, str]:
        """The frame from which a symbol of this one comes, and its name there."""
        here: Frame = self
        while here.caller is not None:
            found = here.import_of(name)
            if found is None:
                break
            name, here = found.symbol.name, found.frame or here.caller
        return here, name

    def home(self, symbol: Symbol) -> tuple[Frame, Symbol]:
        """The frame that first bound a symbol of this one, as far as that is certain for all
        calls."""
        here: Frame = self
        while here.anchored and (found := here.import_of(symbol.name)) is not None:
            symbol, here = found.symbol, found.frame or here.chain[-2]
        return here, symbol

    def import_of(self, name: str) -> Import | None:
        """Where a size of this block comes from; None for a decision of its own."""
        return next((i for i in self.imports.values() if i.size.name == name), None)

    def dim(self, origin: Frame, dim: Dim) -> Dim:
        if origin is self or not dim.symbols:
            return dim
        # In an order of their own: a size is bound where it is first asked for.
        return dim.substitute(
            {s.name: self.symbol(origin, s) for s in sorted(dim.symbols, key=str)}
        )

    def type(self, origin: Frame, type: TensorType) -> TensorType:
        return TensorType(tuple(self.dim(origin, d) for d in type.shape), type.dtype)

    def condition(self, origin: Frame, value: Condition) -> Condition:
        if origin is self:
            return value
        return value.substitute(
            {s.name: self.symbol(origin, s) for s in sorted(value.symbols, key=str)}
        )

    def thing(self, origin: Frame, value: Thing) -> Thing:
        """A value of another frame, with its sizes as this frame sees them."""
        if origin is self:
            return value
        match value:
            case Dim():
                return self.dim(origin, value)
            case tuple():
                return tuple(self.thing(origin, v) for v in value)
            case Candidates():
                return Candidates(tuple(self.thing(origin, v) for v in value.items))
            case Numbers():
                return replace(value, stop=self.dim(origin, value.stop))
            case Text():
                return self._text(origin, value.symbol)
            case Place():
                found = self.symbol(origin, value.symbol)
                assert isinstance(found, Symbol)
                return replace(value, symbol=found)
            case Init():
                return Init(value.rule, tuple(self.dim(origin, d) for d in value.arguments))
            case Tensor() | Picked():
                raise SpaceError(
                    error("SP208", "a block reads only its arguments, not tensors around it").hint(
                        "hand the tensor over as an argument"
                    )
                )
            case _ if isinstance(value, CONDITIONS):
                return self.condition(origin, value)
            case _:
                return value

    def _text(self, origin: Frame, symbol: Symbol) -> Thing:
        """A decision among strings or booleans; the word itself where this alternative fixes it."""
        found = self.symbol(origin, symbol)
        assert isinstance(found, Symbol)
        first, *others = found.values
        return first if isinstance(first, bool | str) and not others else Text(found)


def _value(symbol: Symbol, value: DecisionValue) -> Dim | Symbol:
    if isinstance(value, str | bool | tuple):
        return Symbol(symbol.name, (value,))
    return Dim.of(value)
