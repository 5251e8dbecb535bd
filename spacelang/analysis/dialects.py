"""What is wrong with the names of a space in other code (`names { }`), weights unseen.

dialects(graph)    two rules for one thing, indices that are none, layouts that do not fit
idle(graphs)       rules that say nothing of any of the graphs that they stand in
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from spacelang.diagnostics import Diagnostic, SpaceError, Span, error, warning
from spacelang.ir.block import Block
from spacelang.ir.dialect import NONE, Dialect, Rename
from spacelang.ir.dim import Dim, symbol_of
from spacelang.ir.graph import Graph
from spacelang.ir.layout import order_of, shape_of
from spacelang.ir.node import Node, join
from spacelang.ir.op import ops
from spacelang.ir.pattern import Hop, Pattern, split
from spacelang.ir.storage import Storage


def dialects(graph: Graph) -> Iterator[Diagnostic]:
    """Errors of the dialects of a graph: SP203, SP210, SP307 and SP606."""
    for dialect in graph.dialects.values():
        yield from _twice(dialect)
        wrong = list(_unnamed(dialect, graph))
        yield from wrong
        if wrong:
            continue
        laid_out = [rule.own for rule in dialect.renames if rule.layout is not None]
        for path, storage in graph.storages.items() if laid_out else ():
            if any(own.match(path) is not None for own in laid_out) and not dialect.omits(path):
                yield from _laid_out(dialect, storage)


def _unnamed(dialect: Dialect, graph: Graph) -> Iterator[Diagnostic]:
    """SP210 and SP307 for parameters whose foreign name has an index that is none, one a rule."""
    reckoning = [rule for rule in dialect.renames if not all(map(_plain, _indices(rule)))]
    if not reckoning:
        return
    # Rules of places name what lies below in one way.
    longest = max(len(rule.own.hops) for rule in dialect.renames)
    length = None if any(rule.own.anywhere for rule in reckoning) else longest
    paths: dict[tuple[Hop, ...], str] = {}
    for path in (*graph.storages, *_tables(graph)):
        beginning = split(path)[:length]
        if beginning not in paths and not dialect.omits(path):
            paths[beginning] = path
    told: set[Span] = set()
    for path in paths.values():
        try:
            dialect.foreign(path)
        except SpaceError as failed:
            for found in failed.diagnostics:
                if found.primary.span not in told:
                    told.add(found.primary.span)
                    yield found.note(f"of {path}, in the names of {dialect.name}")


def _indices(rule: Rename) -> Iterator[Dim]:
    return (index for hop in rule.foreign for index in hop.indices)


def _plain(index: Dim) -> bool:
    """Whether an index is a number, or a name that the rule binds, as it is."""
    return index.constant is not None or symbol_of(index) is not None


def _laid_out(dialect: Dialect, storage: Storage) -> Iterator[Diagnostic]:
    """SP606 for a layout that the storage does not have."""
    _, layout = dialect.foreign(storage.path)
    rule = _rule(dialect, storage.path)
    if layout is None or rule is None:
        return
    try:
        (order_of if layout.kind == "order" else shape_of)(storage, layout)
    except SpaceError as failed:
        for found in failed.diagnostics:
            note = f"in the names of {dialect.name}"
            yield error(found.code, found.headline, rule.span).note(*found.notes, note)


def _twice(dialect: Dialect) -> Iterator[Diagnostic]:
    """SP203 for two rules of one left side; rules that one line stands for differ in it."""
    first: dict[Pattern, Span] = {}
    for rule in dialect.renames:
        before = first.setdefault(rule.own, rule.span)
        if before is not rule.span:
            found = error("SP203", f"two names of {rule.own}", rule.span, "again here")
            yield found.also(before, "first here")


def _rule(dialect: Dialect, path: str) -> Rename | None:
    """The rule that a path goes by, or one of those that say something of it."""
    found = [r for r in dialect.renames if r.foreign != NONE and r.matches(path)]
    return max(found, key=lambda r: (not r.own.anywhere, len(r.own.hops)), default=None)


def idle(graphs: Iterable[Graph]) -> Iterator[Diagnostic]:
    """SP504, a warning, for rules that match nothing in any graph. One to `none` may: it is there
    for what only the other side has."""
    matched: dict[Span, tuple[Rename, bool]] = {}
    for graph in graphs:
        rules = {rule for dialect in graph.dialects.values() for rule in dialect.renames}
        paths = [*graph.storages, *_tables(graph)] if rules else []
        for rule in rules:
            _, before = matched.get(rule.span, (rule, False))
            here = before or rule.foreign == NONE or any(map(rule.matches, paths))
            matched[rule.span] = rule, here
    for span, (rule, found) in matched.items():
        if not found:
            yield warning("SP504", f"no parameter has a path that starts with {rule.own}", span)


def _tables(graph: Graph) -> Iterator[str]:
    """The paths of labelled index tables."""
    for instance, node, _ in graph.nodes_of(_labelled):
        yield join(instance.path, node.label)


def _labelled(_block: Block, node: Node) -> tuple[None, ...]:
    """One entry for a labelled index table, none for another node."""
    definition = ops().get(node.op) if node.label else None
    return (None,) if definition is not None and "table" in definition.traits else ()
