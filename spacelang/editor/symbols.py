"""The names of a text: what each one means, and every place where it stands.

A scope is a file, the body of a block or a space, or a region; loops and `when` have none of their
own but for the names of the loop. What an assignment binds again is the same name.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, cast

from spacelang.diagnostics import Report, Source, SpaceError, Span
from spacelang.grammars.loader import tables
from spacelang.syntax import tree
from spacelang.syntax.parse import parse
from spacelang.syntax.tokens import Token, scan

Kind = Literal["file", "block", "space", "parameter", "decision", "name", "size"]


@dataclass(eq=False)
class Symbol:
    """A name in its scope; the first of its places declares it."""

    name: str
    kind: Kind
    declared: Span
    node: tree.Tree
    places: list[Span] = field(default_factory=list[Span])


@dataclass(eq=False)
class Level:
    """A scope. `symbols` are its own; `outer` is searched after them."""

    outer: Level | None
    symbols: dict[str, Symbol] = field(default_factory=dict[str, Symbol])

    def find(self, name: str) -> Symbol | None:
        level: Level | None = self
        while level is not None:
            if name in level.symbols:
                return level.symbols[name]
            level = level.outer
        return None


class Symbols:
    """All symbols of a text that parses (SpaceError where it does not).

    `free` are places of names that the text does not declare: ops, and what other files own.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.file = parse(source)
        self.all: list[Symbol] = []
        self.free: list[tuple[str, Span]] = []
        self._inner: dict[int, Level] = {}  # of what has parameters, by its node
        self._words = [t for t in tokens(source) if t.kind in ("NAME", "WORD")]
        self._starts = [t.start for t in self._words]
        self.top = Level(None)
        self._declare(self.file.items, self.top)
        self._walk(self.file.items, self.top)
        self._paths()

    def at(self, offset: int) -> Symbol | None:
        """The symbol that stands at a character offset."""
        return next((s for s in self.all for p in s.places if p.start <= offset <= p.end), None)

    def unknown_at(self, offset: int) -> tuple[str, Span] | None:
        """The name at an offset that the text does not declare."""
        return next((f for f in self.free if f[1].start <= offset <= f[1].end), None)

    def seen_outside(self, symbol: Symbol) -> bool:
        """Whether files that use this one may say a name: not that of a tensor, a loop, a size."""
        return symbol.kind not in ("name", "size") or symbol in self.top.symbols.values()

    @cached_property
    def calls(self) -> tuple[tree.Tree, ...]:
        """Calls, pipes and labelled values, those inside before those around."""
        found = [n for n in tree.below(self.file) if isinstance(n, tree.CallOf | tree.Labelled)]
        return tuple(sorted(found, key=lambda n: n.span.end - n.span.start))

    # Declarations.

    def _add(self, level: Level, name: str, kind: Kind, place: Span, node: tree.Tree) -> Symbol:
        symbol = level.symbols.get(name)
        if symbol is None:
            symbol = level.symbols[name] = Symbol(name, kind, place, node)
            self.all.append(symbol)
        if place not in symbol.places:
            symbol.places.append(place)
        return symbol

    def _word(self, name: str, start: int, end: int) -> Span:
        """Where a word first stands in a stretch; the stretch itself where it does not."""
        for index in range(bisect_left(self._starts, start), len(self._words)):
            token = self._words[index]
            if token.start >= end:
                break
            if token.text == name:
                return Span(self.source, token.start, token.end)
        return Span(self.source, start, end)

    def _named(self, level: Level, name: str, kind: Kind, node: tree.Tree, start: int = -1) -> None:
        begin = node.span.start if start < 0 else start
        self._add(level, name, kind, self._word(name, begin, node.span.end), node)

    def _declare(self, statements: Sequence[tree.Tree], level: Level) -> None:
        """Bind what statements bind in their scope, those inside of loops and branches too."""
        for node in statements:
            match node:
                case tree.BlockOf(name=name, params=params):
                    self._named(level, name, "block", node)
                    self._open(params, node, level)
                case (
                    tree.SpaceOf(name=name, params=params) | tree.Instance(name=name, params=params)
                ):
                    self._named(level, name, "space", node)
                    self._open(params, node, level)
                case tree.Subnet(name=name) | tree.Program(name=name):
                    self._named(level, name, "space", node)
                case tree.Use(names):
                    self._named(level, names[-1], "file", node)
                case tree.Input(name):
                    self._named(level, name, "name", node)
                case tree.Choose(given=[name, *_]):
                    self._named(level, name, "decision", node)
                case tree.Choose(target):
                    hop = target.hops[-1]
                    place = self._word(hop.name, hop.span.start, hop.span.end)
                    self._add(level, hop.name, "decision", place, node)
                case tree.Let(names) | tree.Assign(names):
                    for name in names:
                        self._named(level, name, "name", node)
                case tree.For(body=body):
                    self._declare(body.statements, level)
                case tree.When(body=body):
                    self._declare((*body.statements, *node.others), level)
                case _:
                    pass

    # Uses.

    def _walk(self, node: object, level: Level) -> None:
        match node:
            case tree.BlockOf(params=params, result=result, body=body):
                inner = self._params(params, node, level)
                self._walk(result, inner)
                self._body(body, inner)
            case tree.SpaceOf(params=params, base=base, body=body):
                inner = self._params(params, node, level)
                self._walk(base, inner)
                self._body(body, inner)
            case tree.Instance(params=params, base=base):
                self._walk(base, self._params(params, node, level))
            case tree.For(names, source, body):
                self._walk(source, level)
                self._walk(body, self._loop(names, node, level, node.span.start))
            case tree.Each(value, names, source):
                self._walk(source, level)
                self._walk(value, self._loop(names, node, level, value.span.end))
            case tree.Region(names, body):
                self._body(body, self._loop(names, node, level, node.span.start))
            case tree.Choose(_, domain, hull):
                self._walk((domain, hull), level)
            case tree.ChoosePath(target, options):
                hop = target.hops[-1]
                place = self._word(hop.name, hop.span.start, hop.span.end)
                self._add(level, hop.name, "decision", place, node)
                self._walk(options, level)
            case tree.Option(value=tree.Body() as body):
                self._body(body, Level(level))
            case tree.Name(name):
                self._use(name, node.span, level)
            case tree.SourceOf(name, arguments):
                self._use(name, self._word(name, node.span.start, node.span.end), level)
                self._arguments(level.find(name), arguments or (), level)
            case tree.CallOf(callee, arguments, region):
                self._walk((callee, region), level)
                known = level.find(callee.name) if isinstance(callee, tree.Name) else None
                self._arguments(known, arguments, level)
            case tree.Path(hops):
                self._walk(tuple(index for hop in hops for index in hop.indices), level)
            case tree.Weights() | tree.Names() | tree.Rewrite() | tree.Default() | tree.Search():
                pass  # paths, options and words: not names of a scope
            case tree.Subnet(base=base, decisions=decisions):
                self._walk((base, tuple(d.value for d in decisions)), level)
            case tree.Tree():
                self._walk(node.children(), level)
            case tuple():
                for part in cast("tuple[object, ...]", node):
                    self._walk(part, level)
            case _:
                pass

    def _use(self, name: str, place: Span, level: Level) -> None:
        symbol = level.find(name)
        if symbol is None:
            self.free.append((name, place))
        elif place not in symbol.places:
            symbol.places.append(place)

    def _open(self, params: Sequence[tree.Param], node: tree.Tree, outer: Level) -> Level:
        """Bind parameters in a scope of their own, once: a call may name them above their block."""
        level = self._inner.setdefault(id(node), Level(outer))
        level.outer = outer  # where it is walked the names of a loop are known too
        for param in params:
            self._named(level, param.name, "parameter", param)
        return level

    def _params(self, params: Sequence[tree.Param], node: tree.Tree, outer: Level) -> Level:
        """The scope of parameters; an axis of their types that is a new word is a size of it."""
        level = self._open(params, node, outer)
        for param in params:
            for axis in param.type.axes if param.type is not None else ():
                if isinstance(axis, tree.Name) and level.find(axis.name) is None:
                    self._add(level, axis.name, "size", axis.span, param)
            self._walk((param.type, param.default), level)
        return level

    def _loop(self, names: Sequence[str], node: tree.Tree, outer: Level, start: int) -> Level:
        level = Level(outer)
        for name in names:
            self._named(level, name, "name", node, start)
        return level

    def _body(self, body: tree.Body, level: Level) -> None:
        self._declare(body.statements, level)
        self._walk(body.statements, level)

    def _arguments(
        self, callee: Symbol | None, arguments: Sequence[tree.Argument], level: Level
    ) -> None:
        """Values of arguments, and their names where the callee is of this text."""
        known: dict[str, Symbol] = {}
        if callee is not None and isinstance(
            callee.node, tree.BlockOf | tree.SpaceOf | tree.Instance
        ):
            params = {id(param) for param in callee.node.params}
            known = {s.name: s for s in self.all if id(s.node) in params}
        for argument in arguments:
            self._walk(argument.value, level)
            name = argument.name
            if name is not None and name in known:
                start = argument.span.start
                place = Span(self.source, start, start + len(name))
                if place not in known[name].places:
                    known[name].places.append(place)

    def _paths(self) -> None:
        """Places of decisions in paths: of `weights`, `require`, and of subnets."""
        decisions: dict[str, list[Symbol]] = {}
        for symbol in self.all:
            if symbol.kind == "decision":
                decisions.setdefault(symbol.name, []).append(symbol)
        for node in tree.below(self.file):
            match node:
                case tree.Rule(path) | tree.DecisionOf(path):
                    for hop in path.hops:
                        self._mention(decisions, hop.name, hop.span.start, hop.span.end)
                case tree.Field(value, name):
                    self._mention(decisions, name, value.span.end, node.span.end)
                case _:
                    pass

    def _mention(self, decisions: dict[str, list[Symbol]], name: str, start: int, end: int) -> None:
        place = self._word(name, start, end)
        for symbol in decisions.get(name, ()):
            if place not in symbol.places:
                symbol.places.append(place)


def tokens(source: Source) -> list[Token]:
    """The tokens of any text, also of one that does not parse; none where it passes the limits."""
    try:
        return scan(source, tables("space"), Report()).tokens
    except SpaceError:
        return []
