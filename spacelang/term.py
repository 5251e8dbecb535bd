"""Values of the language in Python's hands, and what carries them over and back.

    x + h    4 * width    x[:, 1:]    depth > 12    act == "relu"    x.shape[-1]

A tensor, a size, a condition or a decision among words is a `Term`; operators on terms mean what
they mean in the text, for the elaborator computes them.
"""

from __future__ import annotations

import inspect
import linecache
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

from spacelang.diagnostics import NOWHERE, Report, Source, SpaceError, Span, error
from spacelang.ir.build import Tensor
from spacelang.ir.dim import Dim
from spacelang.ir.op import NeedsValue
from spacelang.ir.param import Init
from spacelang.loader import thing as thing_of
from spacelang.syntax import tree
from spacelang.syntax.calls import Arguments, apply
from spacelang.syntax.conflicts import not_known
from spacelang.syntax.evaluate import evaluate, known_number, row, split_on
from spacelang.syntax.frame import Frame
from spacelang.syntax.names import look_up
from spacelang.syntax.scope import Scope
from spacelang.syntax.statements import run
from spacelang.syntax.values import (
    Broken,
    Clash,
    Closure,
    Entry,
    Later,
    Module,
    Thing,
    Torn,
    Unbound,
    kind,
)
from spacelang.syntax.values import condition as condition_of

HERE = (__file__, __file__.replace("term.py", "build.py"))
LABEL = re.compile(r"[A-Za-z_]\w*(?:\[\d+\])*(?:\.\w+(?:\[\d+\])*)*", re.ASCII)


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


class Bridge:
    """What lies between Python and the elaborator: the block at work, values on their way."""

    def __init__(self, root: Frame, scope: Scope) -> None:
        self._root = root
        self._stack: list[tuple[Frame, Scope]] = [(root, scope)]

    def call(
        self, what: Block | str, *arguments: object, label: str | None = None, **named: object
    ) -> Any:
        """Call a block, or an op or function by its name; a label `_` opens no scope."""
        span = self.place()
        if label is not None and label != "_" and not LABEL.fullmatch(label):
            raise SpaceError(error("SP207", f"{label!r} is no label", span))
        path = "" if label == "_" else label
        positional = tuple(map(self.thing, arguments))
        given = Arguments(positional, self._things(named), dict.fromkeys(named, span), None, span)

        def made(frame: Frame, scope: Scope) -> Thing:
            found = what.closure if isinstance(what, Block) else look_up(what, span, frame, scope)
            return apply(found, given, frame, scope, path, span)

        return self._made(made)

    def thing(self, value: object) -> Thing:
        """A Python value as the block at work holds it."""
        frame, _ = self._stack[-1]
        match value:
            case Term():
                return frame.thing(value.frame, value.thing)
            case Block():
                return value.closure
            case Init():
                return value
            case list() | tuple() | range():
                return tuple(map(self.thing, cast(Iterable[object], value)))
            case _:
                return thing_of(value)

    def _things(self, named: Mapping[str, object]) -> dict[str, Thing]:
        return {name: self.thing(value) for name, value in named.items()}

    def python(self, thing: Thing, frame: Frame) -> Any:
        """A thing of a block as Python has it: lists as tuples, what is not plain as a `Term`."""
        match thing:
            case tuple():
                return tuple(self.python(item, frame) for item in thing)
            case bool() | str() | None | Init():
                return thing
            case Closure():
                return Block(self, thing)
            case _:
                return Term(self, frame, thing)

    def _entry(self, entry: Entry, frame: Frame) -> Any:
        if isinstance(entry, Clash | Module | Broken | Unbound | Torn | Later):
            raise SpaceError(())
        return self.python(entry, frame)

    def expression(self, value: object) -> tree.Expr:
        """A value where the elaborator wants an expression."""
        return self._constant(self.thing(value))

    def _constant(self, thing: Thing) -> tree.Expr:
        """An expression of a value, which any block inside may read."""
        origin, _ = self._stack[-1]
        return self._code(lambda frame, scope: frame.thing(origin, thing))

    def _code(self, make: Callable[[Frame, Scope], Thing]) -> tree.Expr:
        """An expression that Python code computes, with its block at work."""

        def run_it(frame: Frame, scope: Scope) -> Thing:
            with self._inside(frame, scope):
                return make(frame, scope)

        # No text has it, so it is not among the expressions that texts have.
        return cast(tree.Expr, Hosted(run_it, span=self.place()))

    @contextmanager
    def _inside(self, frame: Frame, scope: Scope) -> Generator[None]:
        self._stack.append((frame, scope))
        try:
            yield
        finally:
            self._stack.pop()

    def evaluated(self, expr: tree.Expr) -> Any:
        """The value of an expression in the block at work."""
        return self._made(lambda frame, scope: evaluate(expr, frame, scope))

    def _made(self, make: Callable[[Frame, Scope], Thing]) -> Any:
        return self.python(self.computed(make), self._stack[-1][0])

    def computed(self, make: Callable[[Frame, Scope], Any]) -> Any:
        """What `make` makes in the block at work; outside of blocks errors are raised in full."""
        frame, scope = self._stack[-1]
        try:
            return make(frame, scope)
        except SpaceError as failed:
            if frame is not self._root:
                raise
            frame.errors.extend(failed.diagnostics)
        except NeedsValue as need:
            if frame is not self._root:
                raise
            frame.errors.add(not_known(need, frame))
        self._check()
        raise SpaceError(error("SP208", "this part of the space failed before", self.place()))

    def _run(self, statement: tree.Statement) -> None:
        frame, scope = self._stack[-1]
        run((statement,), frame, scope)
        self._check()

    def _check(self) -> None:
        """Raise what was found: in a block, its call tells it."""
        frame, _ = self._stack[-1]
        if frame.errors.errors:
            if frame is not self._root:
                raise SpaceError(())
            found, frame.errors = frame.errors, Report()
            found.check()

    def _named(self, name: str) -> Any:
        frame, scope = self._stack[-1]
        return self._entry(scope.names[name], frame)

    def place(self) -> Span:
        """The line of the program that called the builder."""
        frame = inspect.currentframe()
        while frame is not None and frame.f_code.co_filename in HERE:
            frame = frame.f_back
        return NOWHERE if frame is None else _line(frame.f_code.co_filename, frame.f_lineno)


@cache
def _source(name: str) -> Source:
    return Source(name, "".join(linecache.getlines(name)))


def _line(name: str, number: int) -> Span:
    source = _source(name)
    if number > len(source.starts):
        return Span(source, 0, 0)
    text = source.line(number)
    start = source.starts[number - 1] + len(text) - len(text.lstrip())
    return Span(source, start, source.starts[number - 1] + len(text.rstrip()))
