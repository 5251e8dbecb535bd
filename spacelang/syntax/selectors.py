"""Paths in `weights`, `names`, `subnet` and pass options: from the tree to patterns and rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

from spacelang import plugins
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.dialect import ForeignHop, Layout, Rename
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.gather import forms as gathered_forms
from spacelang.ir.pattern import Hop, Index, Pattern
from spacelang.ir.rule import StorageRule, Tie
from spacelang.syntax import tree
from spacelang.syntax.evaluate import evaluate, index, listed, whole
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import Broken, Later, Numbers, number

KINDS: dict[str, tuple[str, ...]] = {
    "entangle": ("", "flat", "centre"),
    "separate": ("",),
    "store": (),
}


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
    if isinstance(expr, tree.Name) and (binds or not is_number(expr.name, scope)):
        return expr.name
    if isinstance(expr, tree.Range):
        value = evaluate(expr, frame, scope)
        numbers = listed(value, expr.span) if isinstance(value, Numbers) else ()
        if not numbers or any(n.denominator != 1 or n < 0 for n in numbers):
            raise SpaceError(error("SP504", "no range of indices", expr.span))
        if numbers != tuple(range(int(numbers[0]), int(numbers[-1]) + 1)):
            raise SpaceError(error("SP504", "a range of indices has no step", expr.span))
        return int(numbers[0]), int(numbers[-1])
    return index(expr, frame, scope)


def is_number(name: str, scope: Scope) -> bool:
    """Whether a name may stand for a number, so that as an index it is not bound by a match."""
    owner = scope.find(name)
    return owner is not None and isinstance(owner.names[name], Dim | Later | Broken)


def storage_rule(rule: tree.Rule, frame: Frame, scope: Scope) -> StorageRule:
    """`path: entangle(flat)` as a rule (SP604 for an unknown one)."""
    where = pattern(rule.path, frame, scope)
    word, arguments = _word(rule)
    if word == "store":
        if len(arguments) != 1:
            raise SpaceError(error("SP204", "store takes one number", rule.rule.span))
        size = whole(arguments[0].value, frame, scope, "the stored size")
        return StorageRule(where, word, size, span=rule.span)
    names = [a.value.name if isinstance(a.value, tree.Name) else "?" for a in arguments]
    forms = (*KINDS.get(word, ("",)), *(gathered_forms() if word == "entangle" else ()))
    if len(names) > 1 or not set(names) <= set(forms) - {""}:
        allowed = " or ".join(f"{word}({a})" if a else word for a in forms)
        raise SpaceError(
            error("SP204", f"{rule.rule.span.text} is no rule", rule.rule.span).note(
                f"there is {allowed}"
            )
        )
    return StorageRule(where, word, names[0] if names else "", span=rule.span)


def _word(rule: tree.Rule) -> tuple[str, tuple[tree.Argument, ...]]:
    """The name of a rule and its arguments (SP604 for an unknown one)."""
    expr = rule.rule
    name, arguments = (expr.callee, expr.arguments) if isinstance(expr, tree.CallOf) else (expr, ())
    known = (*KINDS, "tie", *plugins.table("spacelang.sharing"))
    if isinstance(name, tree.Name) and name.name in known:
        return name.name, arguments
    raise SpaceError(
        error("SP604", f"no sharing rule is called {expr.span.text}", expr.span).note(
            f"there are {', '.join(known)}"
        )
    )


def tie(rule: tree.Rule, frame: Frame, scope: Scope) -> Tie | None:
    """`path: tie`, `tie(every: 2)` or `tie(path)`, with `own: [path, ..]`, the last with
    `slices: leading`, too; None for another rule."""
    word, arguments = _word(rule)
    if word != "tie":
        return None
    where = pattern(rule.path, frame, scope)
    kept = [a for a in arguments if a.name == "own"]
    sliced = [a.value for a in arguments if a.name == "slices"]
    forms = [value.name if isinstance(value, tree.Name) else "" for value in sliced]
    arguments = tuple(a for a in arguments if a.name not in ("own", "slices"))
    wrong = len(kept) > 1 or len(arguments) > 1 or len(forms) > 1
    wrong = wrong or any(a.name not in (None, "every") for a in arguments)
    if forms:
        plain = [a for a in arguments if a.name is None]
        wrong = wrong or not plain or forms[0] not in ("leading", "centre")
    if wrong:
        raise SpaceError(
            error("SP204", f"{rule.rule.span.text} is no rule", rule.rule.span)
            .note("there is tie, tie(every: 2) or tie(path), each with own: [path, ..]")
            .note("of another size: tie(path, slices: leading) or tie(path, slices: centre)")
        )  # fmt: skip
    own = tuple(pattern(path, frame, scope) for a in kept for path in _paths(a.value))
    if not arguments:
        return Tie(where, own=own, span=rule.span)
    value = arguments[0].value
    if arguments[0].name == "every":
        every = whole(value, frame, scope, "every")
        if every < 1:
            raise SpaceError(error("SP103", f"every {every}", value.span))
        return Tie(where, every, own=own, span=rule.span)
    bound = [i for h in where.hops for i in h.indices if isinstance(i, str) and i != "_"]
    to = _computed(path_of(value), bound, frame, scope)
    return Tie(where, None, to, own, forms[0] if forms else "", rule.span)


def _paths(expr: tree.Expr) -> Iterator[tree.Path]:
    """The paths of a list."""
    items = expr.items if isinstance(expr, tree.List) else (expr,)
    yield from map(path_of, items)


def _computed(
    path: tree.Path, bound: Iterable[str], frame: Frame, scope: Scope
) -> tuple[ForeignHop, ...]:
    """A path whose indices are computed from names that a pattern binds."""
    inner = scope.inside(frame)
    for name in bound:
        inner.bind(name, Dim.of(Symbol(name, rate=True)))
    return tuple(
        ForeignHop(h.name, tuple(_of_bound(i, frame, inner) for i in h.indices)) for h in path.hops
    )


def _of_bound(expr: tree.Expr, frame: Frame, scope: Scope) -> Dim:
    """An index computed from bound names; what it is for a path is seen where they are known."""
    return number(evaluate(expr, frame, scope), "an index", expr.span)


def renames(rename: tree.Rename, frame: Frame, scope: Scope) -> Iterator[Rename]:
    """A rule of a dialect; one that looks up a list by a bound index becomes a rule per entry."""
    own = pattern(rename.own, frame, scope, binds=True)
    layout = _layout(rename.layout, frame, scope)
    bound = [i for h in own.hops for i in h.indices if isinstance(i, str) and i != "_"]
    looked = sorted({n for h in rename.foreign.hops for i in h.indices for n in _lists(i, bound)})
    ranges = [range(_length(rename.foreign, name, frame, scope)) for name in looked]
    for values in product(*ranges):
        inner = scope.inside(frame)
        for name in bound:
            inner.bind(name, Dim.of(Symbol(name, rate=True)))
        for name, value in zip(looked, values, strict=True):
            inner.bind(name, Dim.of(value))
        fixed = dict(zip(looked, values, strict=True))
        hops = tuple(
            Hop(h.name, tuple(fixed.get(i, i) if isinstance(i, str) else i for i in h.indices))
            for h in own.hops
        )
        foreign = tuple(
            ForeignHop(h.name, tuple(_of_bound(i, frame, inner) for i in h.indices))
            for h in rename.foreign.hops
            if not (own.anywhere and h.name == "_")
        )
        yield Rename(Pattern(hops, own.anywhere), foreign, layout, rename.span)


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
        for item in hop.indices:
            visit(item)
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


def path_of(expr: tree.Expr) -> tree.Path:
    """A bare path that the grammar read as an expression: `blocks[_].attn.softmax`."""
    hops: list[tree.Hop] = []
    here: tree.Expr = expr
    indices: tuple[tree.Expr, ...] = ()
    while True:
        match here:
            case tree.Item(value, found):
                kept = tuple(
                    i for i in found if not isinstance(i, tree.Full | tree.Rest | tree.Leading)
                )
                indices, here = (*kept, *indices), value
            case tree.Field(value, name):
                hops.append(tree.Hop(name, indices, span=here.span))
                indices, here = (), value
            case tree.Name(name):
                hops.append(tree.Hop(name, indices, span=here.span))
                return tree.Path(tuple(reversed(hops)), span=expr.span)
            case tree.Path():
                return here
            case _:
                raise SpaceError(error("SP209", "a path is wanted here", expr.span))
