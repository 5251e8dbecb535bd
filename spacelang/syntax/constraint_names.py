"""Constraints as expressions of bound names: what a path names in the place of the path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.condition import FALSE, TRUE, Condition, disjunction, negate
from spacelang.ir.decision import Choice
from spacelang.ir.dim import Dim, Symbol
from spacelang.syntax import tree
from spacelang.syntax.constraint_paths import Paths, value_of
from spacelang.syntax.evaluate import evaluate
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import (
    Text,
    Thing,
    condition,
)

COMPARED = {"==", "!=", "in", "not in"}


@dataclass
class Resolver:
    """Puts names that are bound in a scope of their own in the place of paths."""

    paths: Paths
    scope: Scope
    each: Choice | None
    lives: list[Condition] = field(default_factory=list[Condition])
    count: int = 0

    def visit(self, node: tree.Expr) -> tree.Expr:
        if self.paths.is_path(node):
            found = self.paths.one(node, self.scope, self.each)
            if isinstance(found, Symbol):
                return self._bound(Dim.of(found), node.span)
            self.lives.append(found.live)
            return self._bound(value_of(found), node.span)
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
                holds = condition(evaluate(made, self.paths.frame, self.scope), truth.span)
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
        if len(arguments) == 1 and self.paths.is_path(arguments[0].value):
            value = self.paths.folded(name, arguments[0].value, self.scope, node.span)
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
