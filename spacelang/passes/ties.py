"""How instances come to read weights of others: what `tie` and `multiplex` have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.node import Node
from spacelang.ir.param import Param, View, larger
from spacelang.ir.pattern import Pattern
from spacelang.ir.storage import Storage


class Change(NamedTuple):
    """A node, the store that its call reads and what that keeps for itself, and by role the
    parameters that an op reads in place of its own."""

    node: int
    store: str = ""
    own: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


class Owned:
    """The option `own`: which paths inside an instance it names, and which of it was ever met."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self.patterns = tuple(patterns)
        self.used: set[Pattern] = set()
        self._naming: dict[str, list[Pattern]] = {}

    def among(self, paths: Iterable[str]) -> tuple[str, ...]:
        """The shortest beginnings of parameter paths that a pattern names."""
        found: dict[str, None] = {}
        for path in paths:
            hops = path.split(".")
            for end in range(1, len(hops) + 1):
                start = ".".join(hops[:end])
                if start not in self._naming:  # tied blocks have the same paths
                    naming = [p for p in self.patterns if p.match(start) is not None]
                    self._naming[start] = naming
                    self.used.update(naming)
                if self._naming[start]:
                    found[start] = None
                    break
        return tuple(found)

    def refuse_unused(self) -> None:
        for pattern in self.patterns:
            if pattern not in self.used:
                raise SpaceError(error("SP504", f"tied blocks have nothing called {pattern}"))


def edited(block: Block, changes: tuple[Change, ...]) -> Block:
    """The block with the stores of some calls and the parameters of some ops changed."""
    stores = {node: (store, own) for node, store, own, pairs in changes if not pairs}
    params = {node: dict(pairs) for node, _, _, pairs in changes if pairs}
    declared: dict[str, Param] = {}

    def changed(node: Node) -> Node:
        if node.call is not None and node.id in stores:
            store, own = stores[node.id]
            node = replace(node, call=replace(node.call, store=store, own=own))
        if node.id in params:
            views = dict(node.params)
            for role, path in params[node.id].items():
                old = block.param[views[role].param]
                here = declared.get(path) or block.param.get(path)
                moved = replace(old, path=path)
                declared[path] = moved if here is None else larger(here, moved)
                views[role] = View(path, views[role].index)
            node = replace(node, params=views)
        return replace(node, regions=tuple(level(r) for r in node.regions))

    def level(inner: Block) -> Block:
        return replace(inner, nodes=tuple(map(changed, inner.nodes)))

    made = level(block)
    read = {view.param for node in made.everywhere() for view in node.params.values()}
    kept = {p.path: p for p in block.params if p.path in read or p.reserved}
    return replace(made, params=tuple({**kept, **declared}.values()))


def seen(path: str, base: str) -> str:
    """A path as a block whose parameters are kept under `base` names it."""
    if not base:
        return path
    return path[len(base) + 1 :] if path.startswith(base + ".") else "/" + path


def alike(a: Storage, b: Storage, slices: str = "") -> bool:
    """Whether two are stored alike; where slices are tied, their extents may differ."""

    def rest(s: Storage) -> object:
        extents = [len(axis) for axis in s.extents] if slices else s.extents
        return extents, s.param.role, s.param.dtype, [x.values for x in s.bank]

    return rest(a) == rest(b)


def shown(stored: Storage | None) -> str:
    """What a message says of a storage."""
    if stored is None:
        return "stores none"
    return "stores " + (" x ".join("*".join(map(str, axis)) for axis in stored.shape) or "a number")
