"""Between Python and the elaborator: the block at work, and values on their way in and out."""

from __future__ import annotations

import inspect
import linecache
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, cast

from spacelang.diagnostics import NOWHERE, Report, Source, SpaceError, Span, error
from spacelang.ir.infer import NeedsValue
from spacelang.ir.param import Init
from spacelang.loader import thing as thing_of
from spacelang.syntax import tree
from spacelang.syntax.calls import Arguments, apply
from spacelang.syntax.conflicts import not_known
from spacelang.syntax.evaluate import evaluate
from spacelang.syntax.frame import Frame
from spacelang.syntax.names import look_up
from spacelang.syntax.scope import Scope
from spacelang.syntax.statements import run
from spacelang.syntax.values import NOTHING, Closure, Entry, Thing
from spacelang.term import Block, Hosted, Term

HERE = frozenset(
    str(Path(__file__).with_name(name)) for name in ("bridge.py", "build.py", "term.py")
)
LABEL = re.compile(r"[A-Za-z_]\w*(?:\[\d+\])*(?:\.\w+(?:\[\d+\])*)*", re.ASCII)


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
        if isinstance(entry, NOTHING):
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


INDEXED = re.compile(r"([A-Za-z_]\w*)((?:\[\d+\])*)", re.ASCII)


def target(path: str) -> tree.Path:
    """`width[2]` as the name and index of a decision."""
    found = INDEXED.fullmatch(path)
    if found is None:
        raise SpaceError(error("SP504", f"{path!r} is no name of a decision"))
    digits = found[2][1:-1].split("][") if found[2] else []
    return tree.Path((tree.Hop(found[1], tuple(tree.Number(Fraction(d), d) for d in digits)),))
