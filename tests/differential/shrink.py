"""A program made as small as it can be while something stays true of it.

    small = shrunk(text, lambda candidate: fails(candidate))

The steps work on the syntax tree: statements, arguments and entries go, a body takes the place of
its loop or `when`, an expression becomes one of its parts, numbers become small.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from typing import Any, get_args

from spacelang.diagnostics import Source, SpaceError
from spacelang.syntax import tree
from spacelang.syntax.format import format
from spacelang.syntax.parse import parse

Spot = tuple[tuple[int, int | None], ...]
"""The way from the root: the number of a field, and of an entry where that is a tuple."""

EXPRESSIONS = tuple(t for t in get_args(tree.Expr) if t is not tree.Path)
OPTIONAL = {(tree.When, 2), (tree.Range, 2), (tree.CallOf, 2), (tree.Choose, 2), (tree.Input, 2),
            (tree.Param, 1), (tree.BlockOf, 3), (tree.SourceOf, 1), (tree.Rename, 2)}  # fmt: skip
SMALL = (Fraction(0), Fraction(1), Fraction(2), Fraction(4))


def shrunk(text: str, keeps: Callable[[str], bool], seconds: float = 90.0) -> str:
    """The smallest text that was found, formatted; `text` where nothing smaller keeps it."""
    end = time.monotonic() + seconds
    seen: set[str] = {text}
    best, before = text, ""
    while best != before:
        before = best
        for step in (_chunks, _hoisted, _parts, _small):
            tried = 0  # of the candidates of this step: after a success the next are tried first
            while time.monotonic() < end:
                file = bare(parse(Source("shrink.space", best)))
                spots = sorted(positions(file), key=lambda pair: len(pair[0]))
                pairs = ((spot, made) for spot, node in spots for made in step(node))
                found = None
                for spot, made in islice(pairs, tried, None):
                    tried += 1
                    candidate = _text(replaced(file, spot, made))
                    if (
                        candidate is None
                        or candidate in seen
                        or _weight(candidate) >= _weight(best)
                    ):
                        continue
                    seen.add(candidate)
                    if keeps(candidate):
                        found = candidate
                        break
                    if time.monotonic() > end:
                        return best
                if found is None:
                    break
                best, tried = found, tried - 1
    return best


def _weight(text: str) -> tuple[int, int]:
    return len("".join(text.split())), sum(int(c) for c in text if c.isdigit())


def _text(file: Any) -> str | None:
    try:
        text = format(file)
        parse(Source("shrink.space", text))
    except (SpaceError, ValueError):  # `max` of no options, or a form without what it needs
        return None
    return text


def bare(node: Any) -> Any:
    """The tree without places in a text: it is laid out anew."""
    if isinstance(node, tuple):
        return tuple(bare(inner) for inner in node)
    if isinstance(node, tree.File):
        return tree.File(bare(node.items))
    return type(node)(*map(bare, node.children())) if isinstance(node, tree.Tree) else node


def positions(node: Any, spot: Spot = ()) -> Iterator[tuple[Spot, Any]]:
    """All nodes of a tree, each with its spot."""
    yield spot, node
    for number, value in enumerate(node.children()):
        if isinstance(value, tree.Tree):
            yield from positions(value, (*spot, (number, None)))
        elif isinstance(value, tuple):
            for entry, inner in enumerate(value):
                if isinstance(inner, tree.Tree):
                    yield from positions(inner, (*spot, (number, entry)))


def replaced(node: Any, spot: Spot, made: Any) -> Any:
    """The tree with another node at a spot."""
    if not spot:
        return made
    (number, entry), *rest = spot
    values = [*node.children()]
    if entry is None:
        values[number] = replaced(values[number], tuple(rest), made)
    else:
        inner = [*values[number]]
        inner[entry] = replaced(inner[entry], tuple(rest), made)
        values[number] = tuple(inner)
    return type(node)(*values)


def _with(node: Any, number: int, value: object) -> Any:
    values = [*node.children()]
    values[number] = value
    return type(node)(*values)


def _chunks(node: Any) -> Iterator[Any]:
    """Without some entries of a tuple, half of them at first; without what is optional."""
    for number, value in enumerate(node.children()):
        if (type(node), number) in OPTIONAL and value is not None:
            yield _with(node, number, None)
        if not isinstance(value, tuple) or not value or isinstance(node, tree.Hop):
            continue
        size = len(value)
        while size:
            for start in range(0, len(value), size):
                yield _with(node, number, value[:start] + value[start + size :])
            size //= 2


def _hoisted(node: Any) -> Iterator[Any]:
    """A body in the place of the statement that holds it."""
    if not isinstance(node, tree.Body):
        return
    for at, statement in enumerate(node.statements):
        bodies = [b for b in statement.children() if isinstance(b, tree.Body)]
        if isinstance(statement, tree.For | tree.When):
            for body in bodies:
                before, after = node.statements[:at], node.statements[at + 1 :]
                yield tree.Body((*before, *body.statements, *after))


def _parts(node: Any) -> Iterator[Any]:
    """An expression inside of an expression in its place."""
    if not isinstance(node, EXPRESSIONS):
        return
    for _, inner in positions(node):
        if inner is not node and isinstance(inner, EXPRESSIONS):
            yield inner
    if not isinstance(node, tree.Name | tree.Number):
        yield tree.Name("x")


def _small(node: Any) -> Iterator[Any]:
    if isinstance(node, tree.Number):
        for value in SMALL:
            if value < node.value:
                yield tree.Number(value, str(value))
