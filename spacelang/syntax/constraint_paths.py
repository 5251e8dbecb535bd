"""Which decisions the paths of a constraint name, with `_` and with names as indices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import cast

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.decision import Choice
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.figures import FIGURES, figure
from spacelang.ir.pattern import Hop, Index, Pattern
from spacelang.syntax import tree
from spacelang.syntax.frame import Frame
from spacelang.syntax.matches import fold
from spacelang.syntax.scope import Scope
from spacelang.syntax.selectors import is_number, path_of, pattern
from spacelang.syntax.values import (
    Entry,
    Text,
    Thing,
    Torn,
    Unbound,
)


@dataclass
class Paths:
    """What paths name in a scope; `decisions` are those that they may name, `figures` what else may
    be limited."""

    frame: Frame
    scope: Scope
    decisions: Mapping[str, Choice]
    figures: tuple[str, ...] = FIGURES
    _found: dict[Pattern, list[Choice]] = field(default_factory=dict[Pattern, list[Choice]])
    _folded: dict[tuple[str, Pattern], Dim] = field(default_factory=dict[tuple[str, Pattern], Dim])

    def is_path(self, node: object) -> bool:
        """Whether a tree names a decision or a figure rather than a value in scope."""
        match node:
            case tree.Name(name):
                known = name in self.decisions or name in self.figures
                return known and (self.scope.find(name) is None or self._partly(name))
            case tree.Item() | tree.Field():
                base = path_of(node).hops[0].name if _is_chain(node) else ""
                owner = self.scope.find(base) if base else None
                if not base or self.scope.find("." + base) is not None:
                    return False
                return owner is None or not isinstance(owner.names[base], tuple)
            case _:
                return False

    def _partly(self, name: str) -> bool:
        """Whether a name stands for a decision where that is there, and for nothing elsewhere."""
        owner, choice = self.scope.find(name), self.decisions.get(name)
        value = None if owner is None else owner.names[name]
        return choice is not None and isinstance(value, Unbound | Torn) and _only(value, choice)

    def below(self, node: object, functions: bool = True) -> Iterator[tree.Expr]:
        """The paths below a tree; with `functions` those in arguments of functions too."""
        if self.is_path(node):
            assert isinstance(node, tree.Name | tree.Item | tree.Field)
            yield node
        elif isinstance(node, tree.CallOf) and not functions:
            return
        elif isinstance(node, tree.Tree):
            for child in node.children():
                yield from self.below(child, functions)
        elif isinstance(node, tuple):
            for child in cast(tuple[object, ...], node):
                yield from self.below(child, functions)

    def bindings(self, part: tree.Expr) -> dict[str, list[int]]:
        """The values of the names that stand as an index and are bound by what they match."""
        found: dict[str, set[int]] = {}
        for path in self.below(part):
            loose = Pattern(tuple(self._loose(hop) for hop in path_of(path).hops))
            for choice in self._fitting(loose, path.span):
                for name, value in (loose.match(choice.path) or {}).items():
                    found.setdefault(name, set()).add(value)
        return {name: sorted(values) for name, values in found.items()}

    def _loose(self, hop: tree.Hop) -> Hop:
        """A hop with its index names, anything for other indices."""
        indices: list[Index] = []
        for index in hop.indices:
            free = isinstance(index, tree.Name) and not is_number(index.name, self.scope)
            indices.append(index.name if free and isinstance(index, tree.Name) else "_")
        return Hop(hop.name, tuple(indices))

    def _pattern(self, path: tree.Expr, scope: Scope) -> Pattern:
        return pattern(path_of(path), self.frame, scope)

    def wild(self, path: tree.Expr, scope: Scope) -> bool:
        return not self._pattern(path, scope).plain

    def exists(self, path: tree.Expr, scope: Scope) -> bool:
        return bool(self._fitting(self._pattern(path, scope), path.span)) or self._figure(path)

    def _fitting(self, where: Pattern, span: Span) -> list[Choice]:
        """The decisions that a pattern fits; all of them are gone through once for each pattern
        (counted, SP507), and for a plain path not at all."""
        if where.plain:
            choice = self.decisions.get(str(where))
            return [] if choice is None else [choice]
        if where not in self._found:
            self.frame.session.walk(len(self.decisions), span)
            self._found[where] = [
                c for p, c in self.decisions.items() if where.match(p) is not None
            ]
        return self._found[where]

    def _figure(self, path: tree.Expr) -> bool:
        return isinstance(path, tree.Name) and path.name in self.figures

    def matches(self, path: tree.Expr, scope: Scope) -> list[Choice]:
        """The decisions of a path (SP504 if there is none)."""
        where = self._pattern(path, scope)
        found = self._fitting(where, path.span)
        if not found:
            wrong = error("SP504", f"no decision has the path {where}", path.span)
            near = get_close_matches(str(where), list(self.decisions), 1)
            raise SpaceError(wrong.hint(f"did you mean {near[0]}?") if near else wrong)
        return found

    def one(self, path: tree.Expr, scope: Scope, each: Choice | None) -> Choice | Symbol:
        """The decision or figure that a path names; one with `_` is the match at hand."""
        if self._figure(path) and isinstance(path, tree.Name) and path.name not in self.decisions:
            return figure(path.name)
        if self.wild(path, scope):
            assert each is not None
            return each
        return self.matches(path, scope)[0]

    def folded(self, name: str, path: tree.Expr, scope: Scope, span: Span) -> Dim | None:
        """A function of the decisions of a path with `_`, made once; None for a path without."""
        where = self._pattern(path, scope)
        if where.plain:
            return None
        if (name, where) not in self._folded:
            self._folded[name, where] = fold(name, self.matches(path, scope), span)
        return self._folded[name, where]


def _only(value: Entry, choice: Choice) -> bool:
    """Whether a name that some architectures have no value for is a decision in all others, be it
    taken in one place or in several."""
    match value:
        case Unbound(_, span, ways):
            known = [thing == value_of(choice) for _, thing in ways]
            return span == choice.span or (bool(known) and all(known))
        case Torn(_, _, values):
            return bool(values) and all(_only(each, choice) for each in values)
        case _:
            return value == value_of(choice)


def _is_chain(node: object) -> bool:
    """Whether a tree is names, dots and indices alone."""
    while isinstance(node, tree.Item | tree.Field):
        if isinstance(node, tree.Item) and any(
            isinstance(i, tree.Full | tree.Rest | tree.Leading) for i in node.indices
        ):
            return False
        node = node.value
    return isinstance(node, tree.Name)


def value_of(choice: Choice) -> Thing:
    """What a decision is in an expression: a number, or a text among its candidates."""
    return Dim.of(choice.symbol) if choice.symbol.numeric else Text(choice.symbol)
