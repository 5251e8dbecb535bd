"""Limits on architectures: `require` and budgets, over figures and decision paths.

    require params in 5M..12M
    require sum(depth[_]) <= 14    require width[s] <= width[s + 1]    require op[0] in {k3e4, k5e4}

A name in scope is what it is; any other path names a decision. `_` means every match: a list inside
a function, else each of them; a name as an index is bound by what it matches. What is absent from
an architecture is not limited. A bare word beside a decision is a candidate's key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fractions import Fraction
from itertools import product
from math import prod
from typing import cast

from spacelang.diagnostics import Diagnostic, SpaceError, Span, error, spelt
from spacelang.ir.condition import FALSE, TRUE, Condition, conjunction, disjunction, negate
from spacelang.ir.conflict import bare
from spacelang.ir.decision import Choice
from spacelang.ir.definedness import total
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.known import FIGURES, figure
from spacelang.ir.pattern import Hop, Index, Pattern
from spacelang.ir.prove import feasible
from spacelang.syntax import tree
from spacelang.syntax.evaluate import evaluate
from spacelang.syntax.frame import Frame
from spacelang.syntax.matches import fold
from spacelang.syntax.scope import Scope
from spacelang.syntax.selectors import is_number, path_of, pattern
from spacelang.syntax.values import (
    Entry,
    Picked,
    Text,
    Thing,
    Torn,
    Unbound,
    condition,
    not_of_the_batch,
)


class Unmet(SpaceError):
    """A limit that none of the architectures meet that have the branch it stands in."""

    def __init__(self, found: Diagnostic, guards: Sequence[Condition]) -> None:
        here = conjunction(*guards)
        if here != TRUE:
            found = found.note(f"so it is where {bare(str(here))}: no architecture there meets it")
        super().__init__(found)


def unmet(
    found: bool | Condition, guards: Sequence[Condition], before: Sequence[Condition] = ()
) -> bool:
    """Whether a limit leaves none of the architectures that have the branch it stands in; without
    a branch that is told of the whole space."""
    if isinstance(found, bool) or conjunction(*guards) == TRUE:
        return found is False
    return feasible((*guards, *before, found)) is False


COMPARED = {"==", "!=", "in", "not in"}


@dataclass
class Reader:
    """Reads conditions in a scope; `decisions` are those that paths name, `figures` what may be
    limited besides."""

    frame: Frame
    scope: Scope
    decisions: Mapping[str, Choice]
    figures: tuple[str, ...] = FIGURES
    _found: dict[Pattern, list[Choice]] = field(default_factory=dict[Pattern, list[Choice]])
    _folded: dict[tuple[str, Pattern], Dim] = field(default_factory=dict[tuple[str, Pattern], Dim])

    def conditions(self, expr: tree.Expr, strict: bool = True) -> Iterator[Condition]:
        """What an expression demands, joined by `and`; what always holds is left out.

        What never does is SP502 (`Unmet`), or without `strict` the condition FALSE. A part is read
        where those before it hold, and stays with them where it has no value else.
        """
        waiting, before = [expr], list[Condition]()
        while waiting:
            part = waiting.pop(0)
            if isinstance(part, tree.Binary) and part.operator == "and":
                waiting[:0] = [part.left, part.right]
                continue
            with self.frame.builder.under(conjunction(*before)):
                limits = list(self._instances(part))
            for found in limits:
                if found is False and not strict:
                    yield FALSE
                elif found is False or unmet(found, self.frame.builder.guards, before):
                    raise Unmet(self._false(part), self.frame.builder.guards)
                elif found is not True:
                    yield found if total(found) else conjunction(*before, found)
                    if all(symbol.values for symbol in found.symbols):
                        before.append(found)

    def _false(self, part: tree.Expr) -> Diagnostic:
        """SP502 for what never holds, with the values of the names in it."""
        found = error("SP502", f"{part.span.text} does not hold", part.span)
        known: dict[str, str | bool | int | Fraction] = {}
        for node in tree.below(part):
            owner = self.scope.find(node.name) if isinstance(node, tree.Name) else None
            value = None if owner is None else owner.names[cast(tree.Name, node).name]
            value = value.constant if isinstance(value, Dim) else value
            if isinstance(value, str | bool | int | Fraction):
                known[node.span.text] = value
        if known:
            found = found.note(", ".join(f"{n} is {spelt(v)}" for n, v in known.items()))
        words = [node.value for node in tree.below(part) if isinstance(node, tree.String)]
        given = [value for value in known.values() if isinstance(value, str)]
        near = [word for value in given for word in get_close_matches(value, words, 1)]
        return found.hint(f"did you mean {spelt(near[0])}?" if near else "")

    def _instances(self, part: tree.Expr) -> Iterator[bool | Condition]:
        """The condition, once for each binding of its index names."""
        bindings = self._bindings(part)
        if not bindings:
            yield from self._each(part, self.scope)
            return
        names, paths = list(bindings), list(self._paths(part))
        self.frame.session.match(prod(map(len, bindings.values())), part.span)
        found = 0
        for values in product(*bindings.values()):
            inner = self.scope.inside(self.frame)
            for name, value in zip(names, values, strict=True):
                inner.bind(name, Dim.of(value))
            if all(self._exists(path, inner) for path in paths):
                found += 1
                yield from self._each(part, inner)
        if not found:
            raise SpaceError(error("SP504", f"no decisions fit {part.span.text}", part.span))

    def _each(self, part: tree.Expr, scope: Scope) -> Iterator[bool | Condition]:
        """The condition, once for each match of a path with `_` outside of functions."""
        wild = [p for p in self._paths(part, functions=False) if self._wild(p, scope)]
        texts = {p.span.text for p in wild}
        if len(texts) > 1:
            raise SpaceError(
                error(
                    "SP508", f"{' and '.join(sorted(texts))} match apart from each other", part.span
                ).hint("bind an index: width[s] <= width[s + 1]")
            )
        if not wild:
            yield self._truth(part, scope, None)
            return
        matches = self._matches(wild[0], scope)
        self.frame.session.match(len(matches), part.span)
        for choice in matches:
            yield self._truth(part, scope, choice)

    def _truth(self, part: tree.Expr, scope: Scope, each: Choice | None) -> bool | Condition:
        inner = scope.inside(self.frame)
        resolver = _Resolver(self, inner, each)
        made = resolver.visit(part)
        present = conjunction(*resolver.lives)
        with self.frame.builder.under(present):
            truth = condition(evaluate(made, self.frame, inner), part.span)
        if not isinstance(truth, bool):
            not_of_the_batch(truth, "limits nothing", part.span)
        if present == TRUE or truth is True:
            return truth
        return negate(present) if truth is False else disjunction(negate(present), truth)

    def open(self, node: object) -> bool:
        """Whether an expression speaks of figures or decisions, not of parameters alone."""
        if self.is_path(node):
            return True
        if isinstance(node, tree.Name):
            owner = self.scope.find(node.name)
            value = None if owner is None else owner.names[node.name]
            return isinstance(value, Text | Picked) or (
                isinstance(value, Dim) and value.constant is None
            )
        inner = node.children() if isinstance(node, tree.Tree) else node
        return isinstance(inner, tuple) and any(map(self.open, cast(tuple[object, ...], inner)))

    # Paths.

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

    def _paths(self, node: object, functions: bool = True) -> Iterator[tree.Expr]:
        """The paths below a tree; with `functions` those in arguments of functions too."""
        if self.is_path(node):
            assert isinstance(node, tree.Name | tree.Item | tree.Field)
            yield node
        elif isinstance(node, tree.CallOf) and not functions:
            return
        elif isinstance(node, tree.Tree):
            for child in node.children():
                yield from self._paths(child, functions)
        elif isinstance(node, tuple):
            for child in cast(tuple[object, ...], node):
                yield from self._paths(child, functions)

    def _bindings(self, part: tree.Expr) -> dict[str, list[int]]:
        """The values of the names that stand as an index and are bound by what they match."""
        found: dict[str, set[int]] = {}
        for path in self._paths(part):
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

    def _wild(self, path: tree.Expr, scope: Scope) -> bool:
        return not self._pattern(path, scope).plain

    def _exists(self, path: tree.Expr, scope: Scope) -> bool:
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

    def _matches(self, path: tree.Expr, scope: Scope) -> list[Choice]:
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
        if self._wild(path, scope):
            assert each is not None
            return each
        return self._matches(path, scope)[0]

    def folded(self, name: str, path: tree.Expr, scope: Scope, span: Span) -> Dim | None:
        """A function of the decisions of a path with `_`, made once; None for a path without."""
        where = self._pattern(path, scope)
        if where.plain:
            return None
        if (name, where) not in self._folded:
            self._folded[name, where] = fold(name, self._matches(path, scope), span)
        return self._folded[name, where]


def _only(value: Entry, choice: Choice) -> bool:
    """Whether a name that some architectures have no value for is a decision in all others, be it
    taken in one place or in several."""
    match value:
        case Unbound(_, span, ways):
            known = [thing == _value(choice) for _, thing in ways]
            return span == choice.span or (bool(known) and all(known))
        case Torn(_, _, values):
            return bool(values) and all(_only(each, choice) for each in values)
        case _:
            return value == _value(choice)


def _is_chain(node: object) -> bool:
    """Whether a tree is names, dots and indices alone."""
    while isinstance(node, tree.Item | tree.Field):
        if isinstance(node, tree.Item) and any(
            isinstance(i, tree.Full | tree.Rest | tree.Leading) for i in node.indices
        ):
            return False
        node = node.value
    return isinstance(node, tree.Name)


@dataclass
class _Resolver:
    """Puts names that are bound in a scope of their own in the place of paths."""

    reader: Reader
    scope: Scope
    each: Choice | None
    lives: list[Condition] = field(default_factory=list[Condition])
    count: int = 0

    def visit(self, node: tree.Expr) -> tree.Expr:
        if self.reader.is_path(node):
            found = self.reader.one(node, self.scope, self.each)
            if isinstance(found, Symbol):
                return self._bound(Dim.of(found), node.span)
            self.lives.append(found.live)
            return self._bound(_value(found), node.span)
        match node:
            case tree.Binary(operator, left, right):
                a, b = self.visit(left), self.visit(right)
                if operator in COMPARED:
                    a, b = self._keys(a, b), self._keys(b, a)
                if isinstance(b, tree.Range) and b.step is None and operator in ("in", "not in"):
                    return _between(a, b, operator == "in", node.span)
                return tree.Binary(operator, a, b, span=node.span)
            case tree.Unary(operator, operand):
                return tree.Unary(operator, self.visit(operand), span=node.span)
            case tree.Either(value, truth, other):
                made = self.visit(truth)
                holds = condition(evaluate(made, self.reader.frame, self.scope), truth.span)
                parts = (self._where(holds, value), made, self._where(_opposite(holds), other))
                return tree.Either(*parts, span=node.span)
            case tree.Range(start, stop, step, open_):
                ends = self.visit(start), self.visit(stop)
                return tree.Range(*ends, step, open_, span=node.span)
            case tree.CallOf(tree.Name(name), arguments, None) if arguments:
                return self._call(name, node, arguments)
            case tree.List(items):
                return tree.List(tuple(self.visit(i) for i in items), span=node.span)
            case tree.Set(items):
                return tree.Set(tuple(self.visit(i) for i in items), span=node.span)
            case _:
                return node

    def _where(self, holds: bool | Condition, node: tree.Expr) -> tree.Expr:
        """One side of an `if`: what it reads has to be there where the side is taken."""
        before, self.lives = self.lives, []
        made = self.visit(node)
        taken = TRUE if holds is True else FALSE if holds is False else holds
        lives = (disjunction(negate(taken), live) for live in self.lives)
        self.lives = [*before, *(live for live in lives if live != TRUE)]
        return made

    def _call(self, name: str, node: tree.CallOf, arguments: Sequence[tree.Argument]) -> tree.Expr:
        """A function of matches: they are its list, those that are absent left out."""
        if len(arguments) == 1 and self.reader.is_path(arguments[0].value):
            value = self.reader.folded(name, arguments[0].value, self.scope, node.span)
            if value is not None:
                return self._bound(value, node.span)
        kept = tuple(tree.Argument(a.name, self.visit(a.value), span=a.span) for a in arguments)
        return tree.CallOf(node.callee, kept, None, span=node.span)

    def _bound(self, value: Thing, span: Span) -> tree.Name:
        self.count += 1
        name = f" {self.count}"
        self.scope.bind(name, value, span)
        return tree.Name(name, span=span)

    def _keys(self, node: tree.Expr, beside: tree.Expr) -> tree.Expr:
        """Bare words beside a decision among words as strings (SP501 if it has no such key)."""
        value: object = None
        if isinstance(beside, tree.Name) and (owner := self.scope.find(beside.name)) is not None:
            value = owner.names[beside.name]
        if not isinstance(value, Text) or value.boolean:
            return node
        if isinstance(node, tree.Set):
            items = tuple(self._keys(item, beside) for item in node.items)
            return tree.Set(items, span=node.span)
        match node:
            case tree.String(key):
                pass
            case tree.Name(key) if not key.startswith(" ") and self.scope.find(key) is None:
                pass
            case _:
                return node
        if key not in value.symbol.values:
            known = ", ".join(map(str, value.symbol.values))
            raise SpaceError(
                error("SP501", f"{key} is no candidate of {value.symbol.name}", node.span)
                .note(f"it takes {known}")
            )  # fmt: skip
        return tree.String(key, span=node.span)


def _between(value: tree.Expr, ends: tree.Range, inside: bool, span: Span) -> tree.Expr:
    """`macs in 4G..5G`: both ends and all between, rather than the whole numbers."""
    low = tree.Binary("<=", ends.start, value, span=span)
    high = tree.Binary("<" if ends.open else "<=", value, ends.stop, span=span)
    both = tree.Binary("and", low, high, span=span)
    return both if inside else tree.Unary("not", both, span=span)


def _opposite(truth: bool | Condition) -> bool | Condition:
    return not truth if isinstance(truth, bool) else negate(truth)


def _value(choice: Choice) -> Thing:
    return Dim.of(choice.symbol) if choice.symbol.numeric else Text(choice.symbol)
