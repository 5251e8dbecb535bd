"""Ties: calls and parameters that read one set of weights (`weights { up[_]: tie }`).

    up[_]: tie                  all matches read what the first in the text reads
    up[_]: tie(every: 2)        runs of consecutive ones, as `multiplex` ties them
    a[i].up: tie(b[i].up)       each match reads what the path names

A path names a call, an op with parameters, or one parameter. What is tied must be stored in one
shape (SP402); decisions stay each call's own, so tied calls may read different slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from spacelang.diagnostics import Report, SpaceError, error, placed
from spacelang.ir.block import Block
from spacelang.ir.graph import Graph
from spacelang.ir.node import Node, join
from spacelang.ir.param import Param, View
from spacelang.ir.rule import Tie
from spacelang.passes.multiplex import Multiplex
from spacelang.passes.places import Chain, Spot, nothing, rewrite, spots


@dataclass(frozen=True)
class Owner:
    """Something with parameters that a path names: a call, or an op (then `views` are its own)."""

    path: str
    spot: Spot

    @property
    def call(self) -> bool:
        return self.spot.node.call is not None

    @property
    def store(self) -> str:
        """Where a call's parameters are kept."""
        call = self.spot.node.call
        assert call is not None
        return join(self.spot.instance.store, call.store)


def tied(graph: Graph, ties: Iterable[Tie]) -> Graph:
    """The graph with ties made in order (SP402, SP504)."""
    for tie in ties:
        if tie.every is not None:
            report = Report()
            graph = Multiplex(tie.pattern, tie.every).run(graph, report)
            report.check()
        else:
            graph = _one(graph, tie)
    return graph


def _one(graph: Graph, tie: Tie) -> Graph:
    owners = _owners(graph)
    report = Report()
    changes: dict[Chain, list[Change]] = {}
    for leader, follower in _couples(owners, tie):
        for owner in owners[follower]:
            found = _change(graph, owners[leader][0], owner, tie, report)
            changes.setdefault(owner.spot.chain, []).extend(found)
    report.check()
    return rewrite(graph, {chain: tuple(found) for chain, found in changes.items()}, _edited)


def _owners(graph: Graph) -> dict[str, list[Owner]]:
    """What has parameters, by its path: several where alternatives of it exclude each other."""
    found: dict[str, list[Owner]] = {}
    for spot in spots(graph):
        node = spot.node
        if node.call is not None and node.call.path:
            found.setdefault(spot.path, []).append(Owner(spot.path, spot))
        elif node.params and node.label:
            path = join(spot.instance.path, node.label)
            found.setdefault(path, []).append(Owner(path, spot))
    return found


def _couples(owners: Mapping[str, Sequence[Owner]], tie: Tie) -> Iterator[tuple[str, str]]:
    """Leader and follower of each tie (SP504 for paths of nothing)."""
    matches = [path for path in owners if tie.pattern.match(path) is not None]
    if not matches:
        raise SpaceError(placed(nothing(tie.pattern, list(owners)), tie.span))
    for path in matches:
        leader = matches[0]
        if tie.to is not None:
            bound = tie.pattern.match(path) or {}
            leader = ".".join(hop.at(bound) for hop in tie.to)
            if leader not in owners:
                raise SpaceError(error("SP504", f"nothing has the path {leader}", tie.span))
        if leader != path:
            yield leader, path


Change = tuple[int, str, tuple[tuple[str, str], ...]]
"""A node, the store that its call reads, and the parameters that it reads instead of its own."""


def _change(
    graph: Graph, leader: Owner, owner: Owner, tie: Tie, report: Report
) -> Iterator[Change]:
    """What makes an owner read the leader's parameters; SP402 where they are stored otherwise."""
    if leader.call != owner.call:
        report.add(error("SP402", f"{leader.path} and {owner.path} are not of one kind", tie.span))
        return
    theirs, own = _params(graph, leader), _params(graph, owner)
    for role in dict.fromkeys((*theirs, *own)):
        a, b = theirs.get(role), own.get(role)
        if a is None or b is None or not _alike(graph, a, b):
            report.add(
                error("SP402", f"{leader.path} and {owner.path} cannot share {role}", tie.span)
                .also(leader.spot.node.span, _stored(graph, a))
                .also(owner.spot.node.span, _stored(graph, b))
            )
            return
    base = owner.spot.instance.store
    if owner.call:
        yield owner.spot.node.id, _seen(leader.store, base), ()
    else:
        pairs = tuple((role, _seen(path, base)) for role, path in theirs.items())
        yield owner.spot.node.id, "", pairs


def _seen(path: str, base: str) -> str:
    """A path as a block whose parameters are kept under `base` names it."""
    if not base:
        return path
    return path[len(base) + 1 :] if path.startswith(base + ".") else "/" + path


def _params(graph: Graph, owner: Owner) -> dict[str, str]:
    """The paths of an owner's parameters by what they are called inside it."""
    if owner.call:
        start = owner.store + "."
        return {p[len(start) :]: p for p in graph.storages if p.startswith(start)}
    instance, node = owner.spot.instance, owner.spot.node
    return {role: instance.param(view.param) for role, view in node.params.items()}


def _alike(graph: Graph, a: str, b: str) -> bool:
    first, second = graph.storages[a], graph.storages[b]
    return (first.shape, first.param.role, first.param.dtype) == (
        second.shape,
        second.param.role,
        second.param.dtype,
    )


def _stored(graph: Graph, path: str | None) -> str:
    if path is None:
        return "stores none"
    return "stores " + " x ".join("*".join(map(str, axis)) for axis in graph.storages[path].shape)


def _edited(block: Block, changes: tuple[Change, ...]) -> Block:
    """The block with the stores of some calls and the parameters of some ops changed."""
    stores = {node: store for node, store, pairs in changes if not pairs}
    params = {node: dict(pairs) for node, _, pairs in changes if pairs}
    declared: dict[str, Param] = {}

    def changed(node: Node) -> Node:
        if node.call is not None and node.id in stores:
            node = replace(node, call=replace(node.call, store=stores[node.id]))
        if node.id in params:
            views = dict(node.params)
            for role, path in params[node.id].items():
                old = block.param[views[role].param]
                declared.setdefault(path, replace(old, path=path))
                views[role] = View(path, views[role].index)
            node = replace(node, params=views)
        return replace(node, regions=tuple(level(r) for r in node.regions))

    def level(inner: Block) -> Block:
        return replace(inner, nodes=tuple(map(changed, inner.nodes)))

    made = level(block)
    read = {view.param for node in made.everywhere() for view in node.params.values()}
    kept = {p.path: p for p in block.params if p.path in read or p.reserved}
    return replace(made, params=tuple({**declared, **kept}.values()))
