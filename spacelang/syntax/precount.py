"""Looking ahead: what a body surely asks for, counted before any of it is made.

    for i in 0..999 { for j in 0..999 { for k in 0..999 { .. } } }    # 1,001,001,000 turns

Loops in loops multiply, and so do candidates of decisions in them. What hangs on a loop itself, or
stands under a condition, is counted when its turn comes (`session.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from spacelang.diagnostics import SpaceError
from spacelang.ir.infer import NeedsValue
from spacelang.syntax import tree
from spacelang.syntax.evaluate import evaluate
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.session import MAX_TOGETHER, MAX_TURNS, Exhausted, Session
from spacelang.syntax.values import Numbers

Counted = tree.For | tree.Each | tree.Choose
PLAIN = (tree.Number, tree.Name, tree.Binary, tree.Unary, tree.Range)
"""What an expression is made of that may be evaluated before its time."""


@dataclass(frozen=True)
class Inside:
    """What stands in a body by itself: loops and decisions, and the names that it binds."""

    counted: tuple[Counted, ...]
    bound: frozenset[str]


def look_ahead(body: Sequence[tree.Tree], frame: Frame, scope: Scope) -> None:
    """SP507 for a body that surely takes too many turns of loops, or candidates."""
    session = frame.session
    inside = _inside(body, session)
    waiting = [(node, 1) for node in inside.counted]
    turns = candidates = 0
    while waiting:
        node, times = waiting.pop()
        source = node.domain if isinstance(node, tree.Choose) else node.source
        many = times * _entries(source, inside.bound, frame, scope)
        if isinstance(node, tree.Choose):
            candidates += many
            if candidates > MAX_TOGETHER:  # by itself: others may have counted the same before
                session.take_candidates(candidates, node.span)
        else:
            turns += many
            if session.taken("turns") + turns > MAX_TURNS:
                session.turn(turns, node.span)
            if many:
                deeper = node.body.statements if isinstance(node, tree.For) else (node.value,)
                waiting += [(one, many) for one in _inside(deeper, session).counted]


def _inside(body: Sequence[tree.Tree], session: Session) -> Inside:
    """What stands in a body, found once for each."""
    key = tuple(map(id, body))
    if key not in session.inside:
        session.cache.kept.append(tuple(body))  # an id is that of one thing as long as this lives
        session.inside[key] = _found(body)
    return session.inside[key]


def _found(body: Sequence[tree.Tree]) -> Inside:
    counted: list[Counted] = []
    bound: set[str] = set()
    waiting: list[tuple[object, bool]] = [(part, True) for part in reversed(body)]
    while waiting:
        node, here = waiting.pop()
        bound |= set(_binds(node))
        if isinstance(node, Counted) and here:
            counted.append(node)
        sure = here and not isinstance(
            node, tree.For | tree.Each | tree.When | tree.Either | tree.BlockOf
        )
        if isinstance(node, tree.Binary) and node.operator in ("and", "or"):
            waiting += [(node.left, sure), (node.right, False)]  # it may never be read
            continue
        children = node.children() if isinstance(node, tree.Tree) else node
        if isinstance(children, tuple):
            waiting += [(child, sure) for child in cast(tuple[object, ...], children)]
    return Inside(tuple(counted), frozenset(bound))


def _binds(node: object) -> Iterator[str]:
    match node:
        case tree.For() | tree.Each() | tree.Let() | tree.Assign():
            yield from node.names
        case tree.Choose() | tree.Input() | tree.BlockOf():
            yield node.name
        case tree.Region():
            yield from node.names
        case _:
            pass


def _entries(source: object, bound: frozenset[str], frame: Frame, scope: Scope) -> int:
    """How many entries a source has; 0 for what is not known yet."""
    if not isinstance(source, tree.Range | tree.Name) or not _plain(source, bound):
        return 0
    try:
        value = evaluate(source, frame, scope)
    except Exhausted:
        raise
    except (SpaceError, NeedsValue):  # told where it is read
        return 0
    if isinstance(value, Numbers):
        stop = value.stop.constant
        return 0 if stop is None else value.count(stop)
    return len(value) if isinstance(value, tuple) else 0


def _plain(node: object, bound: frozenset[str]) -> bool:
    """Whether an expression is arithmetic of names that the body does not bind."""
    if isinstance(node, tree.Name):
        return node.name not in bound
    if isinstance(node, PLAIN):
        return all(_plain(child, bound) for child in node.children())
    return not isinstance(node, tree.Tree)
