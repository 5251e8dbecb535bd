"""Alternatives of a path as candidates of one storage (after OFA and weight-entangled DARTS).

    choose op { k3: conv(x, C, 3) as c   k7: conv(x, C, 7) as c }      entangle{path=op,form=centre}

Alternatives whose parameters have the same names read slices of what the first of them is called,
stored as large as the largest needs it: leading entries of every axis, or those around the middle
(a 3x3 kernel in a 7x7 one). Alternatives with other names keep what is theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.condition import Is
from spacelang.ir.dim import Dim
from spacelang.ir.graph import Graph, conditions
from spacelang.ir.node import Node
from spacelang.ir.param import Param, Slice, View
from spacelang.ir.storage import below
from spacelang.ir.uses import Chain
from spacelang.passes.places import Spot, rewrite, spots

Names = tuple[tuple[str, str], ...]
"""Beginnings of parameter paths in a block, and what they are to be called instead."""
Starts = tuple[tuple[int, str, tuple[tuple[int, ...], ...]], ...]
"""Where the slices of a node's parameter start: node, role, a number for each factor."""


def entangled(graph: Graph, decisions: Iterable[str], centre: bool) -> Graph:
    """The graph whose alternatives of these paths share storage. SP601, SP402, SP302."""
    wanted = set(decisions)
    names: dict[Chain, dict[str, str]] = {}
    roots: set[str] = set()
    met: set[str] = set()
    for spot in spots(graph):
        for group in _groups(graph, spot, wanted):
            met.add(group.decision)
            first, *others = group.prefixes
            names.setdefault(spot.chain, {}).update(dict.fromkeys(others, first))
            roots.add(spot.instance.param(first) + ".")
    for path in sorted(wanted - met):
        raise SpaceError(
            error("SP601", f"entangle finds nothing to share in {path}", graph.decisions[path].span)
            .note("no two of its alternatives have parameters of the same names")
        )  # fmt: skip
    chosen = {chain: tuple(found.items()) for chain, found in names.items()}
    tied = rewrite(graph, chosen, _renamed)
    return centred(tied, tuple(roots)) if centre else tied


@dataclass(frozen=True)
class _Group:
    """Alternatives with parameters of the same names; prefixes are paths in their block."""

    decision: str
    prefixes: tuple[str, ...]


def _groups(graph: Graph, spot: Spot, wanted: set[str]) -> Iterator[_Group]:
    """The alternatives of a `choose` that share, by the names and ranks of their parameters."""
    node = spot.node
    if node.op != "choose" or not node.label:
        return
    found: dict[object, list[tuple[str, str]]] = {}
    for condition in conditions(node):
        if not isinstance(condition, Is):
            return
        here = spot.instance.condition(condition)
        if not isinstance(here, Is) or here.symbol.name not in wanted:
            return
        prefix = f"{node.label}.{condition.value}"
        kept = below(graph, spot.instance.param(prefix))
        stored = {path: tuple(len(axis) for axis in s.shape) for path, s in kept.items()}
        if stored:
            found.setdefault(tuple(sorted(stored.items())), []).append((here.symbol.name, prefix))
    for alike in found.values():
        if len(alike) > 1:
            yield _Group(alike[0][0], tuple(prefix for _, prefix in alike))


def _renamed(block: Block, names: Names) -> Block:
    """The block whose calls and parameters below some beginnings are stored elsewhere."""

    def moved(path: str) -> str:
        # Again, where an alternative that shares is part of one that shares.
        for old, new in names:
            if path == old or path.startswith(old + "."):
                return moved(new + path[len(old) :])
        return path

    def changed(node: Node) -> Node:
        call = node.call
        if call is not None and moved(call.store) != call.store:
            if call.store != call.path or call.own:
                raise SpaceError(error("SP601", f"{call.path} is tied already", node.span))
            call = replace(call, store=moved(call.store))
        params = {role: replace(v, param=moved(v.param)) for role, v in node.params.items()}
        regions = tuple(level(r) for r in node.regions)
        return replace(node, call=call, params=params, regions=regions)

    def level(inner: Block) -> Block:
        return replace(inner, nodes=tuple(map(changed, inner.nodes)))

    params: dict[str, Param] = {}
    for param in block.params:
        path = moved(param.path)
        params[path] = _larger(params[path], param) if path in params else replace(param, path=path)
    return replace(level(block), params=tuple(params.values()))


def _larger(first: Param, second: Param) -> Param:
    """The first parameter, as large as the second needs it. SP402 where that is not known."""
    shape: list[tuple[Dim, ...]] = []
    for a, b in zip(first.shape, second.shape, strict=True):
        sizes: list[Dim] = []
        for m, n in zip(a, b, strict=True):
            if m != n and (m.constant is None or n.constant is None):
                found = error("SP402", f"{first.path} and {second.path} cannot share", first.span)
                raise SpaceError(found.also(second.span, f"of size {n}, the other of {m}"))
            sizes.append(m if m == n else Dim.of(max(int(m.at({})), int(n.at({})))))
        shape.append(tuple(sizes))
    return replace(first, shape=tuple(shape))


def centred(graph: Graph, roots: tuple[str, ...]) -> Graph:
    """The graph with slices of known size around the middle of some storages, those at or below
    paths that end with a dot."""
    found: dict[Chain, list[tuple[int, str, tuple[tuple[int, ...], ...]]]] = {}
    for spot in spots(graph):
        for role, view in spot.node.params.items():
            path = spot.instance.param(view.param)
            if not f"{path}.".startswith(roots):
                continue
            starts = tuple(
                tuple(_start(spot, path, n, m) for n, m in zip(axis, stored, strict=True))
                for axis, stored in zip(view.lengths, graph.storages[path].shape, strict=True)
            )
            if any(start for axis in starts for start in axis):
                found.setdefault(spot.chain, []).append((spot.node.id, role, starts))
    return rewrite(graph, {chain: tuple(starts) for chain, starts in found.items()}, _started)


def _start(spot: Spot, path: str, length: Dim, stored: int) -> int:
    """Where a slice of a factor starts; sizes by decision are left to their own rules."""
    if length.constant is None:
        return 0
    rest = stored - int(length.at({}))
    if rest % 2:
        raise SpaceError(
            error("SP302", f"{length} of {stored} entries of {path} have no middle", spot.node.span)
            .hint("a centred slice leaves as much on both sides: choose all odd, or all even")
        )  # fmt: skip
    return rest // 2


def _started(block: Block, starts: Starts) -> Block:
    """The block with other starts of some views."""
    wanted: Mapping[tuple[int, str], tuple[tuple[int, ...], ...]] = {
        (node, role): found for node, role, found in starts
    }

    def view(node: Node, role: str, old: View) -> View:
        found = wanted.get((node.id, role))
        if found is None:
            return old
        index = tuple(
            tuple(
                replace(part, start=Dim.of(start)) if start and isinstance(part, Slice) else part
                for part, start in zip(axis, begins, strict=True)
            )
            for axis, begins in zip(old.index, found, strict=True)
        )
        return View(old.param, index)

    def changed(node: Node) -> Node:
        params = {role: view(node, role, old) for role, old in node.params.items()}
        return replace(node, params=params, regions=tuple(level(r) for r in node.regions))

    def level(inner: Block) -> Block:
        return replace(inner, nodes=tuple(map(changed, inner.nodes)))

    return level(block)
