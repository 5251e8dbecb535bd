"""Picks: `choose inputs in 2 of states`, and what a region makes of each value that is picked.

A region is elaborated once for each group of sources that it treats alike (equal types, equal
nodes); within a group the source is selected by the pick.
"""

from __future__ import annotations

from collections.abc import Sequence

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.agreement import one_type
from spacelang.ir.build import Level, Tensor
from spacelang.ir.condition import Condition, chosen, disjunction
from spacelang.ir.dim import Dim
from spacelang.ir.node import Value
from spacelang.syntax import tree
from spacelang.syntax.calls import Arguments
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import Picked


def picked_values(picked: Picked, given: Arguments, frame: Frame, scope: Scope) -> list[Tensor]:
    """One tensor for each position of the draw; the region sees (value, source, position)."""
    if not picked.sources:
        raise SpaceError(
            error("SP209", f"{picked.symbol.name} draws from no list of tensors", given.span).hint(
                f"xs[{picked.symbol.name}[0]] is the entry of a list at its first position"
            )
        )
    return [_position(picked, given, frame, scope, e) for e in range(picked.count)]


def _position(
    picked: Picked, given: Arguments, frame: Frame, scope: Scope, position: int
) -> Tensor:
    build = frame.builder
    groups: dict[object, list[int]] = {}
    for index, source in enumerate(picked.sources):
        key = (source.type, _trial(picked, given, frame, scope, index, position))
        groups.setdefault(key, []).append(index)
    if len(groups) == 1:
        (group,) = groups.values()
        source = _select(picked, group, position, frame, given.span)
        return _run(given.region, source, group[0], position, frame, scope, given.span)
    conditions: list[Condition] = []
    regions: list[Level] = []
    results: list[list[Tensor]] = []
    for group in groups.values():
        truth = disjunction(*(chosen(picked.symbol, position, i) for i in group))
        build.open(truth)
        source = _select(picked, group, position, frame, given.span)
        results.append([_run(given.region, source, group[0], position, frame, scope, given.span)])
        regions.append(build.close())
        conditions.append(truth)
    ways = [made for (made,) in results]
    type = one_type(build.level, ways, regions, build.explain, [given.span] * len(ways))
    return build.choose(conditions, regions, results, (type,), given.span)[0]


def _run(
    region: tree.Region | None,
    source: Tensor,
    index: int,
    position: int,
    frame: Frame,
    scope: Scope,
    span: Span,
) -> Tensor:
    from spacelang.syntax.forms import run_region

    if region is None:
        return source
    made = run_region(region, (source, Dim.of(index), Dim.of(position)), frame, scope)
    if not isinstance(made, Tensor):
        raise SpaceError(error("SP209", "the region returns a tensor", span))
    return made


def _trial(
    picked: Picked, given: Arguments, frame: Frame, scope: Scope, index: int, position: int
) -> object:
    """What the region makes of one source, in a form that compares; nothing of it is kept."""
    if given.region is None:
        return None
    counts, required = dict(frame.counts), list(frame.require)
    source = picked.sources[index]
    with frame.builder.trial(chosen(picked.symbol, position, index)) as region:
        _run(given.region, source, index, position, frame, scope, given.span)
    frame.counts, frame.require = counts, required
    return _spelling(region, source.value)


def _spelling(region: Level, source: Value) -> object:
    """The nodes of a region with ids in order and the source by its role."""
    outside = {
        inner: ("source" if outer == source else outer) for outer, inner in region.imports.items()
    }
    nodes = [node for node in region.nodes.values() if node.op != "input"]
    order = {node.id: i for i, node in enumerate(nodes)}
    return tuple(
        (
            node.op,
            tuple(outside.get(v) or (order[v.node], v.index) for v in node.operands),
            tuple(node.attributes.items()),
            tuple(node.params.items()),
            repr(node.call),
            repr(node.regions),
            node.types,
        )
        for node in nodes
    )


def _select(
    picked: Picked, group: Sequence[int], position: int, frame: Frame, span: Span
) -> Tensor:
    """The source that is picked at a position, of a group of one type."""
    if len(group) == 1:
        return picked.sources[group[0]]
    build = frame.builder
    conditions: list[Condition] = []
    regions: list[Level] = []
    results: list[list[Tensor]] = []
    for index in group:
        truth = chosen(picked.symbol, position, index)
        build.open(truth)
        results.append([picked.sources[index]])
        regions.append(build.close())
        conditions.append(truth)
    return build.choose(conditions, regions, results, (picked.sources[group[0]].type,), span)[0]
