"""Values of the language in Python's hands; `bridge.py` carries them over and back.

    x + h    4 * width    x[:, 1:]    depth > 12    act == "relu"    x.shape[-1]

A tensor, a size, a condition or a decision among words is a `Term`; operators on terms mean what
they mean in the text, for the elaborator computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.build import Tensor
from spacelang.ir.dim import Dim
from spacelang.syntax import tree
from spacelang.syntax.evaluate import known_number, row, split_on
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import Closure, Thing, kind
from spacelang.syntax.values import condition as condition_of

if TYPE_CHECKING:
    from spacelang.bridge import Bridge


class Hosted(tree.Tree):
    """What Python computes where a text would have an expression."""

    run: Callable[[Frame, Scope], Thing]


@row(Hosted)
def _hosted(expr: Hosted, frame: Frame, scope: Scope) -> Thing:
    return expr.run(frame, scope)


class Term:
    """A value and the block that it belongs to; inner blocks see it with sizes of their own.

    A condition that hangs on a decision has no truth value, nor has such a number a Python one: in
    a block they ask for one alternative of it for each value, in the space they are SP308.
    """

    __slots__ = ("builder", "frame", "thing")

    def __init__(self, builder: Bridge, frame: Frame, thing: Thing) -> None:
        self.builder, self.frame, self.thing = builder, frame, thing

    def __repr__(self) -> str:
        return f"<{kind(self.thing)}: {self.thing}>"

    def __str__(self) -> str:
        """A number as it stands in a label: `f"blocks[{i}]"`."""
        return str(self.thing) if isinstance(self.thing, Dim) else repr(self)

    @property
    def shape(self) -> tuple[Any, ...]:
        """The sizes of a tensor."""
        if not isinstance(self.thing, Tensor):
            raise SpaceError(error("SP209", f"{kind(self.thing)} has no shape"))
        return tuple(Term(self.builder, self.frame, size) for size in self.thing.shape)

    # Known values.

    def _known(self) -> Any:
        if not isinstance(self.thing, Dim):
            raise TypeError(f"{kind(self.thing)} is not a number")
        thing, span = self.thing, self.builder.place()
        return self.builder.computed(lambda frame, scope: known_number(thing, "this", span))

    def __int__(self) -> int:
        return int(self._known())

    __index__ = __int__

    def __float__(self) -> float:
        return float(self._known())

    def __bool__(self) -> bool:
        span = self.builder.place()

        def truth(frame: Frame, scope: Scope) -> bool:
            found = condition_of(frame.thing(self.frame, self.thing), span)
            if isinstance(found, bool):
                return found
            raise split_on(found, span)

        return cast(bool, self.builder.computed(truth))

    # Operators.

    def _with(self, operator: str, other: object, swapped: bool = False) -> Any:
        sides = (other, self) if swapped else (self, other)
        left, right = map(self.builder.expression, sides)
        span = self.builder.place()
        return self.builder.evaluated(tree.Binary(operator, left, right, span=span))

    def __add__(self, other: object) -> Any:
        return self._with("+", other)

    def __radd__(self, other: object) -> Any:
        return self._with("+", other, swapped=True)

    def __sub__(self, other: object) -> Any:
        return self._with("-", other)

    def __rsub__(self, other: object) -> Any:
        return self._with("-", other, swapped=True)

    def __mul__(self, other: object) -> Any:
        return self._with("*", other)

    def __rmul__(self, other: object) -> Any:
        return self._with("*", other, swapped=True)

    def __truediv__(self, other: object) -> Any:
        return self._with("/", other)

    def __rtruediv__(self, other: object) -> Any:
        return self._with("/", other, swapped=True)

    def __floordiv__(self, other: object) -> Any:
        return self._with("//", other)

    def __rfloordiv__(self, other: object) -> Any:
        return self._with("//", other, swapped=True)

    def __mod__(self, other: object) -> Any:
        return self._with("%", other)

    def __rmod__(self, other: object) -> Any:
        return self._with("%", other, swapped=True)

    def __neg__(self) -> Any:
        expr = tree.Unary("-", self.builder.expression(self), span=self.builder.place())
        return self.builder.evaluated(expr)

    def __lt__(self, other: object) -> Any:
        return self._with("<", other)

    def __le__(self, other: object) -> Any:
        return self._with("<=", other)

    def __gt__(self, other: object) -> Any:
        return self._with(">", other)

    def __ge__(self, other: object) -> Any:
        return self._with(">=", other)

    def __eq__(self, other: object) -> Any:
        return self._with("==", other)

    def __ne__(self, other: object) -> Any:
        return self._with("!=", other)

    __hash__ = object.__hash__

    def __and__(self, other: object) -> Any:
        return self._with("and", other)

    def __or__(self, other: object) -> Any:
        return self._with("or", other)

    def __invert__(self) -> Any:
        expr = tree.Unary("not", self.builder.expression(self), span=self.builder.place())
        return self.builder.evaluated(expr)

    def __getitem__(self, index: object) -> Any:
        """`x[:, 0]`, `x[:, 1:]`, `x[.., :half]`: a slice keeps its axis, a number drops it."""
        given = cast(Sequence[object], index) if isinstance(index, tuple) else (index,)
        span = self.builder.place()
        indices = tuple(self._index(entry) for entry in given)
        expr = tree.Item(self.builder.expression(self), indices, span=span)
        return self.builder.evaluated(expr)

    def _index(self, entry: object) -> tree.Index:
        if entry is Ellipsis:
            return tree.Leading()
        if not isinstance(entry, slice):
            return self.builder.expression(entry)
        part = cast("slice[object, object, object]", entry)
        if part.step is not None:
            raise SpaceError(error("SP209", "a slice has no step", self.builder.place()))
        if part.start is None and part.stop is None:
            return tree.Full()
        start = self.builder.expression(0 if part.start is None else part.start)
        if part.stop is None:
            return tree.Rest(start)
        return tree.Range(start, self.builder.expression(part.stop), open=True)


class Block:
    """A block of a builder: call it, with the label of the call."""

    def __init__(self, bridge: Bridge, closure: Closure) -> None:
        self.bridge, self.closure = bridge, closure

    def __call__(self, *arguments: object, label: str | None = None, **named: object) -> Any:
        return self.bridge.call(self, *arguments, label=label, **named)
