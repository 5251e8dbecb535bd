"""Paths in `weights`, `names`, `subnet` and pass options: from the tree to patterns and rules."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.dialect import ForeignHop, Layout, Rename
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.pattern import Hop, Index, Pattern
from spacelang.ir.rule import StorageRule
from spacelang.syntax import tree
from spacelang.syntax.expressions import evaluate, known_number, listed, whole
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import Numbers, number

KINDS = {"entangle": ("", "flat", "centre"), "separate": ("",), "tie": (), "store": ()}


def pattern(path: tree.Path, frame: Frame, scope: Scope, binds: bool = False) -> Pattern:
    """A path pattern; a leading `_` followed by more is any depth, `_` alone is everything.

    With `binds` a name as an index is bound by what it matches, whatever it means outside.
    """
    hops = [
        Hop(h.name, tuple(_index(i, frame, scope, binds) for i in h.indices)) for h in path.hops
    ]
    anywhere = hops[0] == Hop("_")
    return Pattern(tuple(hops[1:] if anywhere else hops), anywhere)


def _index(expr: tree.Expr, frame: Frame, scope: Scope, binds: bool) -> Index:
    if isinstance(expr, tree.Name) and (binds or expr.name == "_" or scope.find(expr.name) is None):
        return expr.name
    if isinstance(expr, tree.Range):
        value = evaluate(expr, frame, scope)
        assert isinstance(value, Numbers)
        numbers = listed(value, expr.span)
        if not numbers:
            raise SpaceError(error("SP504", "an empty range of indices", expr.span))
        return int(numbers[0]), int(numbers[-1])
    return whole(expr, frame, scope, "an index")


def storage_rule(rule: tree.Rule, frame: Frame, scope: Scope) -> StorageRule:
    """`path: entangle(flat)` as a rule (SP604 for an unknown one)."""
    where, expr = pattern(rule.path, frame, scope), rule.rule
    name, arguments = (expr.callee, expr.arguments) if isinstance(expr, tree.CallOf) else (expr, ())
    if not isinstance(name, tree.Name) or name.name not in KINDS:
        raise SpaceError(
            error("SP604", f"no sharing rule is called {expr.span.text}", expr.span).note(
                f"there are {', '.join(KINDS)}"
            )
        )
    word, argument = name.name, ""
    if word == "store" or (word == "tie" and arguments):
        if len(arguments) != 1:
            raise SpaceError(error("SP204", f"{word} takes one number", expr.span))
        return StorageRule(
            where, word, whole(arguments[0].value, frame, scope, word), span=rule.span
        )
    if arguments:
        value = arguments[0].value
        argument = value.name if isinstance(value, tree.Name) else ""
        if len(arguments) != 1 or argument not in KINDS[word] or not argument:
            allowed = " or ".join(f"{word}({a})" for a in KINDS[word] if a)
            raise SpaceError(
                error("SP204", f"{expr.span.text} is no rule", expr.span).note(
                    f"there is {word}{', ' + allowed if allowed else ''}"
                )
            )
    return StorageRule(where, word, argument, span=rule.span)


def renames(rename: tree.Rename, frame: Frame, scope: Scope) -> Iterator[Rename]:
    """A rule of a dialect; one that looks up a list by a bound index becomes a rule per entry."""
    own = pattern(rename.own, frame, scope, binds=True)
    layout = _layout(rename.layout, frame, scope)
    bound = [i for h in own.hops for i in h.indices if isinstance(i, str) and i != "_"]
    looked = sorted({n for h in rename.foreign.hops for i in h.indices for n in _lists(i, bound)})
    ranges = [range(_length(rename.foreign, name, frame, scope)) for name in looked]
    for values in product(*ranges):
        inner = Scope(scope)
        inner.frame = frame
        for name in bound:
            inner.bind(name, Dim.of(Symbol(name)))
        for name, value in zip(looked, values, strict=True):
            inner.bind(name, Dim.of(value))
        fixed = dict(zip(looked, values, strict=True))
        hops = tuple(
            Hop(h.name, tuple(fixed.get(i, i) if isinstance(i, str) else i for i in h.indices))
            for h in own.hops
        )
        foreign = tuple(
            ForeignHop(
                h.name,
                tuple(number(evaluate(i, frame, inner), "an index", i.span) for i in h.indices),
            )
            for h in rename.foreign.hops
            if not (own.anywhere and h.name == "_")
        )
        yield Rename(Pattern(hops, own.anywhere), foreign, layout)


def _lists(expr: object, bound: list[str]) -> Iterator[str]:
    """Bound names that index a list below an expression."""
    if isinstance(expr, tree.Item):
        for index in expr.indices:
            if isinstance(index, tree.Name) and index.name in bound:
                yield index.name
    if isinstance(expr, tree.Binary):
        yield from _lists(expr.left, bound)
        yield from _lists(expr.right, bound)


def _length(path: tree.Path, name: str, frame: Frame, scope: Scope) -> int:
    """How many entries the shortest list has that a bound name indexes."""
    lengths: list[int] = []

    def visit(expr: object) -> None:
        if isinstance(expr, tree.Item):
            if any(isinstance(i, tree.Name) and i.name == name for i in expr.indices):
                value = evaluate(expr.value, frame, scope)
                lengths.append(len(value) if isinstance(value, tuple) else 0)
        elif isinstance(expr, tree.Binary):
            visit(expr.left)
            visit(expr.right)

    for hop in path.hops:
        for index in hop.indices:
            visit(index)
    return min(lengths, default=0)


def _layout(expr: tree.Expr | None, frame: Frame, scope: Scope) -> Layout | None:
    if expr is None:
        return None
    if isinstance(expr, tree.CallOf) and isinstance(expr.callee, tree.Name):
        if expr.callee.name == "order":
            return Layout("order", tuple(a.value.span.text for a in expr.arguments))
        if expr.callee.name == "shape":
            sizes = (evaluate(a.value, frame, scope) for a in expr.arguments)
            return Layout("shape", shape=tuple(number(s, "a size", expr.span) for s in sizes))
    raise SpaceError(
        error("SP604", f"no layout is called {expr.span.text}", expr.span).note(
            "there are order(..) and shape(..)"
        )
    )


def known(value: Dim, what: str, at: tree.Tree) -> int:
    return int(known_number(value, what, at.span))
