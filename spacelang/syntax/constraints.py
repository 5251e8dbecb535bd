"""Constraints on architectures: `require` and budgets, over figures and decision paths.

    require params in 5M..12M
    require sum(depth[_]) <= 14    require width[s] <= width[s + 1]    require op[0] in {k3e4, k5e4}

A name in scope is what it is; any other path names a decision. `_` means every match: a list inside
a function, else each of them; a name as an index is bound by what it matches. What is absent from
an architecture is not limited. A bare word beside a decision is a candidate's key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from functools import cached_property
from itertools import product
from math import prod
from typing import cast

from spacelang.diagnostics import Diagnostic, SpaceError, error, spelt
from spacelang.ir.condition import FALSE, TRUE, Condition, conjunction, disjunction, negate
from spacelang.ir.conflict import bare
from spacelang.ir.decision import Choice
from spacelang.ir.definedness import total
from spacelang.ir.dim import Dim
from spacelang.ir.figures import FIGURES
from spacelang.ir.prove import feasible
from spacelang.syntax import tree
from spacelang.syntax.constraint_names import Resolver
from spacelang.syntax.constraint_paths import Paths
from spacelang.syntax.evaluate import evaluate
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import (
    Picked,
    Text,
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


@dataclass
class Reader:
    """Reads conditions in a scope; `decisions` are those that paths name, `figures` what may be
    limited besides."""

    frame: Frame
    scope: Scope
    decisions: Mapping[str, Choice]
    figures: tuple[str, ...] = FIGURES

    @cached_property
    def _paths(self) -> Paths:
        return Paths(self.frame, self.scope, self.decisions, self.figures)

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
        bindings = self._paths.bindings(part)
        if not bindings:
            yield from self._each(part, self.scope)
            return
        names, paths = list(bindings), list(self._paths.below(part))
        self.frame.session.match(prod(map(len, bindings.values())), part.span)
        found = 0
        for values in product(*bindings.values()):
            inner = self.scope.inside(self.frame)
            for name, value in zip(names, values, strict=True):
                inner.bind(name, Dim.of(value))
            if all(self._paths.exists(path, inner) for path in paths):
                found += 1
                yield from self._each(part, inner)
        if not found:
            raise SpaceError(error("SP504", f"no decisions fit {part.span.text}", part.span))

    def _each(self, part: tree.Expr, scope: Scope) -> Iterator[bool | Condition]:
        """The condition, once for each match of a path with `_` outside of functions."""
        wild = [p for p in self._paths.below(part, functions=False) if self._paths.wild(p, scope)]
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
        matches = self._paths.matches(wild[0], scope)
        self.frame.session.match(len(matches), part.span)
        for choice in matches:
            yield self._truth(part, scope, choice)

    def _truth(self, part: tree.Expr, scope: Scope, each: Choice | None) -> bool | Condition:
        inner = scope.inside(self.frame)
        resolver = Resolver(self._paths, inner, each)
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
        if self._paths.is_path(node):
            return True
        if isinstance(node, tree.Name):
            owner = self.scope.find(node.name)
            value = None if owner is None else owner.names[node.name]
            return isinstance(value, Text | Picked) or (
                isinstance(value, Dim) and value.constant is None
            )
        inner = node.children() if isinstance(node, tree.Tree) else node
        return isinstance(inner, tuple) and any(map(self.open, cast(tuple[object, ...], inner)))
