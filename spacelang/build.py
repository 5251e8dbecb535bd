"""The Python Builder: the graphs that texts make, made by Python through the same elaborator.

    with Builder("tiny") as b:
        pixels = b.input("pixels", ["B", 3, 28, 28])
        width = b.choose("width", [32, 48])
        depth = b.choose("depth", range(2, 5))

        @b.block(late=["drop"])
        def layer(x, drop):
            ratio = b.choose("ratio", [2, 3])
            h = b.linear(x, width * ratio, label="fc1")
            return x + b.drop_path(b.linear(b.gelu(h), width, label="fc2"), drop)

        x = b.linear(b.mean(pixels, axes=[2, 3]), width, label="stem")
        x = b.repeat(depth, lambda i, x: layer(x, 0.1 * i, label=f"layers[{i}]"), x)
        b.output(b.linear(x, 10, label="head"))
        b.add("weights { _: entangle }")
    graph = b.graph

Ops, number functions and blocks of used files are methods by their names. `label` is the text's
`as`. A block's function runs once for each static signature of its calls, and `b` works inside.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

from spacelang.bridge import LABEL, Bridge, target
from spacelang.diagnostics import Source, SpaceError, error
from spacelang.ir.build import Tensor
from spacelang.ir.closing import Closing
from spacelang.ir.dim import Dim
from spacelang.ir.graph import Graph
from spacelang.ir.param import Init
from spacelang.passes.storage_layout import lay_out
from spacelang.syntax import tree
from spacelang.syntax.branches import guarded
from spacelang.syntax.calls import Arguments, init_of
from spacelang.syntax.forms import FORMS
from spacelang.syntax.frame import Frame
from spacelang.syntax.names import INITS, look_up
from spacelang.syntax.parse import parse
from spacelang.syntax.require import demand, told
from spacelang.syntax.scope import Library, Scope
from spacelang.syntax.sections import Host
from spacelang.syntax.session import Session
from spacelang.syntax.spaces import finished
from spacelang.syntax.statements import run, turns
from spacelang.syntax.values import Candidates, Closure, Numbers, Thing, candidate, condition, kind
from spacelang.term import Block, Term


class Builder(Closing, Bridge):
    """A space in the making. `use` names files as the text's `use`, found beside `folder`."""

    def __init__(
        self, name: str, use: Iterable[str] = (), folder: str | Path | None = None
    ) -> None:
        here = Path(folder) if folder is not None else None
        library = Library(here)
        text = "\n".join(f"use {used}" for used in use)
        scope = library.scope(parse(Source("<builder>", text)), here)
        root = Frame(Session(library), name, self.place())
        root.host = Host()
        super().__init__(root, scope.inside(root))
        self._graph: Graph | None = None

    def close(self, failed: bool) -> None:
        """End the space, unless making it failed."""
        if not failed:
            self.finish()

    def finish(self) -> Graph:
        """The graph, with storage laid out; all that is wrong with the space as a whole at once."""
        if self._graph is None:
            self._graph = lay_out(finished(self._root, self.place()))
        return self._graph

    @property
    def graph(self) -> Graph:
        """The graph, once the builder is finished."""
        if self._graph is None:
            raise SpaceError(error("SP208", f"{self._root.name} is not finished", self.place()))
        return self._graph

    # The space.

    def input(self, name: str, shape: Sequence[object], within: range | None = None) -> Any:
        """An input; `"B"` is the batch. `within`: whole numbers of that range."""
        axes = tuple(tree.Name(n) if isinstance(n, str) else self.expression(n) for n in shape)
        domain = None
        if within is not None:
            first, last = self.expression(within.start), self.expression(within.stop)
            domain = tree.Range(first, last, open=True)
        self._run(tree.Input(name, tree.TypeOf(axes), domain, span=self.place()))
        return self._named(name)

    def output(self, value: object, name: str | None = None) -> None:
        """The result; one of a name of its own is for training alone."""
        self._run(tree.Output(name, self.expression(value), span=self.place()))

    def add(self, text: str) -> None:
        """Run statements of the language: `weights { .. }`, `names .. { .. }`, `require ..`."""
        file = parse(Source("<builder>", f"space {self._root.name} {{\n{text}\n}}"))
        for item in file.items:
            assert isinstance(item, tree.SpaceOf)
            for statement in item.body.statements:
                self._run(statement)

    def require(self, limit: object) -> None:
        """A limit: a condition, or a text such as `params <= 5M`."""
        if isinstance(limit, str):
            return self.add(f"require {limit}")
        frame, _ = self._stack[-1]
        demand(told(condition(self.thing(limit), self.place()), frame, self.place()), frame)

    def default(self, op: str, **options: object) -> None:
        """Options of an op for all calls after this, in this space or block."""
        given = tuple(tree.Argument(n, self.expression(v)) for n, v in options.items())
        self._run(tree.Default(op, given, span=self.place()))

    # Decisions.

    def choose(
        self, path: str, values: Iterable[object], within: Iterable[object] | None = None
    ) -> Any:
        """A decision among numbers, words or booleans; `within` is its hull."""
        hull = None if within is None else self._candidates(within, path)
        return self._decided(path, self._candidates(values, path), hull)

    def pick(self, path: str, count: int, sources: Sequence[object]) -> Any:
        """A draw of `count` of some tensors, for `total`."""
        draw = tree.Draw(self.expression(count), self.expression(tuple(sources)))
        return self._decided(path, draw)

    def _decided(
        self, path: str, domain: tree.Expr | tree.Draw, hull: tree.Expr | None = None
    ) -> Any:
        """The value of a decision, which has no name here but its path."""
        frame, scope = self._stack[-1]
        statement = tree.Choose(target(path), domain, hull, span=self.place())
        with self._inside(frame, scope.inside(frame)):
            self._run(statement)
            return self._named(statement.name)

    def choose_path(self, path: str, alternatives: Mapping[str, Callable[[], object]]) -> Any:
        """One of some computations; each has a scope `path.name` of its own."""
        options = tuple(
            tree.Option(name, self._code(lambda _f, _s, make=make: self.thing(make())))
            for name, make in alternatives.items()
        )
        return self.evaluated(tree.ChoosePath(target(path), options, span=self.place()))

    def _candidates(self, values: Iterable[object], path: str) -> tree.Expr:
        items = tuple(self.thing(value) for value in values)
        for item in items:
            candidate(item, path, self.place())
        return self._constant(Candidates(items))

    # Control.

    def either(self, truth: object, value: object, other: object) -> Any:
        """`value if truth else other`, of numbers also where the truth hangs on a decision."""
        parts = [self.expression(part) for part in (value, truth, other)]
        return self.evaluated(tree.Either(*parts, span=self.place()))

    def repeat(self, bound: object, step: Callable[..., object], *state: object) -> Any:
        """`step(i, *state)` for each turn below a bound: the state after the last turn.

        Turns that a decision in the bound leaves out leave the state as it was.
        """
        span, stop = self.place(), self.thing(bound)
        if not isinstance(stop, Dim):
            raise SpaceError(error("SP209", f"the bound is {kind(stop)}, not a number", span))
        numbers = Numbers(Fraction(0), stop, Fraction(1), open=True)
        with self._state(state) as (frame, scope, names):
            for truth, turn in self.computed(lambda frame, scope: turns(numbers, span, frame)):
                body = tree.Body((self._assign(names, step, turn),))
                if truth is True:
                    run(body.statements, frame, scope)
                else:
                    guarded(truth, body, frame, scope, span)
                self._check()
            return self._end(scope, names)

    def when(
        self,
        truth: object,
        then: Callable[..., object],
        *state: object,
        otherwise: Callable[..., object] | None = None,
    ) -> Any:
        """`then(*state)` where a condition holds, else `otherwise(*state)` or the state itself."""
        with self._state(state) as (frame, scope, names):
            body = tree.Body((self._assign(names, then),))
            other = None if otherwise is None else tree.Body((self._assign(names, otherwise),))
            condition = self.expression(truth)
            run((tree.When(condition, body, other, span=self.place()),), frame, scope)
            self._check()
            return self._end(scope, names)

    @contextmanager
    def _state(self, state: Sequence[object]) -> Generator[tuple[Frame, Scope, tuple[str, ...]]]:
        """A scope that holds values under names that no text can write."""
        frame, outer = self._stack[-1]
        scope = outer.inside(frame)
        names = tuple(f"{number} of the state" for number in range(len(state)))
        for name, value in zip(names, state, strict=True):
            scope.bind(name, self.thing(value))
        with self._inside(frame, scope):
            yield frame, scope, names

    def _assign(
        self, names: tuple[str, ...], step: Callable[..., object], *first: Thing
    ) -> tree.Assign:
        def made(frame: Frame, scope: Scope) -> Thing:
            state = [self._entry(scope.names[name], frame) for name in names]
            return self.thing(step(*(self.python(value, frame) for value in first), *state))

        return tree.Assign(names, (self._code(made),), span=self.place())

    def _end(self, scope: Scope, names: tuple[str, ...]) -> Any:
        frame, _ = self._stack[-1]
        found = tuple(self._entry(scope.names[name], frame) for name in names)
        return found[0] if len(found) == 1 else found

    def total(self, values: object, step: Callable[..., object] | None = None) -> Any:
        """The sum of tensors; of a pick, `step(value, source, position)` of what is picked."""
        names = ("value", "source", "position")
        return self._form("total", values, names, step)

    def cascade(self, parts: object, step: Callable[..., object], axis: int = -1) -> Any:
        """Each part plus the result of the one before through `step(i, part)`, side by side."""
        return self._form("cascade", parts, ("i", "part"), step, axis=axis)

    def _form(
        self,
        name: str,
        value: object,
        names: tuple[str, ...],
        step: Callable[..., object] | None,
        **named: object,
    ) -> Any:
        span, region = self.place(), None
        if step is not None:
            count = len(inspect.signature(step).parameters)

            def made(frame: Frame, scope: Scope) -> Thing:
                given = [self._entry(scope.names[n], frame) for n in names[:count]]
                return self.thing(step(*given))

            body = tree.Body((tree.Return(self._code(made), span=span),))
            region = tree.Region(names, body, span=span)
        given = Arguments((self.thing(value),), self._things(named), {}, region, span)
        return self._made(lambda frame, scope: FORMS[name](given, frame, scope))

    # Blocks.

    def block(
        self,
        function: Callable[..., object] | None = None,
        *,
        name: str | None = None,
        late: Sequence[str] = (),
        kind: Literal["block", "cell"] = "block",
    ) -> Any:
        """A block of a function of tensors and numbers, also as a method of its name.

        `late` are parameters that are only ever rates: calls may differ in them. The decisions of a
        `cell` are taken once for all of its calls.
        """

        def make(function: Callable[..., object]) -> Block:
            return self._block(function, name or function.__name__, tuple(late), kind)

        return make if function is None else make(function)

    def cell(self, function: Callable[..., object] | None = None, **given: Any) -> Any:
        """A block whose decisions are taken once for all of its calls, under its name."""
        return self.block(function, kind="cell", **given)

    def _block(
        self, function: Callable[..., object], name: str, late: tuple[str, ...], kind: str
    ) -> Block:
        span = self.place()
        params: list[tree.Param] = []
        for param in inspect.signature(function).parameters.values():
            if param.kind in (param.VAR_KEYWORD, param.VAR_POSITIONAL):
                raise SpaceError(error("SP204", f"{name} has a parameter *{param.name}", span))
            empty = param.default is param.empty
            default = None if empty else self._constant(self.thing(param.default))
            params.append(tree.Param(param.name, default=default, span=span))
        names = [param.name for param in params]
        odd = next((word for word in late if word not in names), None)
        if odd is not None:
            raise SpaceError(error("SP204", f"{name} has no parameter {odd}", span))

        def run_it(frame: Frame, scope: Scope) -> Thing:
            return self.thing(
                function(**{word: self._entry(scope.names[word], frame) for word in names})
            )

        body = tree.Body((tree.Return(self._code(run_it), span=span),), span=span)
        definition = tree.BlockOf(kind, name, tuple(params), None, body, span=span)
        frame, scope = self._stack[-1]
        closure = Closure(definition, scope.snapshot(), frame)
        closure.scope.bind(name, closure, span)
        scope.bind(name, closure, span)
        frame.session.late[id(definition)] = late
        frame.session.cache.kept.append(closure)
        return Block(self, closure)

    def tag(self, value: object, label: str) -> Any:
        """Name a value, for taps and selectors."""
        found = self.thing(value)
        if not isinstance(found, Tensor) or not LABEL.fullmatch(label):
            raise SpaceError(error("SP207", f"a label on {kind(found)}", self.place()))
        return self._made(lambda frame, scope: frame.builder.tag(found, frame.path(label)))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        frame, scope = self.__dict__["_stack"][-1]
        if name in INITS and scope.find(name) is None:
            return lambda *numbers: self._init(name, numbers)
        try:
            look_up(name, self.place(), frame, scope)
        except SpaceError as failed:
            found = failed.diagnostics[0]
            text = f"{found.headline}; {found.help}" if found.help else found.headline
            raise AttributeError(text, name=name, obj=self) from None
        return partial(self.call, name)

    def _init(self, name: str, numbers: tuple[object, ...]) -> Init:
        span = self.place()
        frame, _ = self.__dict__["_stack"][-1]
        return init_of(name, [self.thing(number) for number in numbers], frame, span)


__all__ = ["Block", "Builder", "Term"]
