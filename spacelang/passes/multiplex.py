"""Multiplexing (MiniViT, CVPR 2022): consecutive blocks read one set of weights.

    multiplex(blocks, every: 2, own: [norm1, norm2, attn.rpe_k])
    multiplex(layers[_].blocks, every: [2, 2, 6, 2])       # a number for each stage

Decisions stay each block's own: tied layers may read different slices of one storage, so it is
stored sizes that must agree, not the sizes of one architecture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

from spacelang.diagnostics import Diagnostic, Report, SpaceError, counted, error, spelt
from spacelang.ir.block import Block
from spacelang.ir.graph import Graph
from spacelang.ir.node import Call, Node, join
from spacelang.ir.pattern import Hop, Pattern, split
from spacelang.ir.storage import Storage, below
from spacelang.passes.base import Pass
from spacelang.passes.places import Chain, Spot, nothing, rewrite, spots

Every = int | tuple["int | tuple[int, ...]", ...]
Change = tuple[int, str, tuple[str, ...]]


@dataclass(frozen=True)
class Multiplex(Pass):
    """Ties runs of consecutive instances of a block.

    path    the instances; a last label without an index is all of its instances in their order
    every   instances in a run (the last run of a group may be shorter), or a list: for each group a
            number or the lengths of its runs; of a single group it may be the lengths themselves
    own     what each instance keeps for itself, by its path inside the instance
    """

    name: ClassVar[str] = "multiplex"
    preserves: ClassVar[frozenset[str]] = frozenset({"space"})

    path: Pattern
    every: Every = 2
    own: tuple[Pattern, ...] = ()

    def run(self, graph: Graph, report: Report) -> Graph:
        """The graph with weights tied. SP504 for a path of nothing, SP402 where shapes differ."""
        report.extend(self._mistakes())
        report.check()
        groups = _groups(graph, self.path)
        kept = Owned(self.own)
        changes: dict[Chain, list[Change]] = {}
        for members, lengths in zip(groups.values(), self._lengths(groups), strict=True):
            names = list(members)
            for name in names:
                kept.among(below(graph, name))
            start = 0
            for length in lengths:
                leader, *followers = names[start : start + length]
                start += length
                for follower in followers:
                    owned = _compare(graph, leader, follower, kept, members, report)
                    for spot in members[follower]:
                        change = _tied(members[leader][0], spot, owned)
                        changes.setdefault(spot.chain, []).append(change)
        report.check()
        kept.refuse_unused()
        chosen = {chain: tuple(found) for chain, found in changes.items()}
        return rewrite(graph, chosen, _edited)

    def _mistakes(self) -> Iterator[Diagnostic]:
        def number(value: object) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and value >= 1

        def lengths(value: object) -> bool:
            if not isinstance(value, tuple):
                return number(value)
            return all(map(number, cast("tuple[object, ...]", value)))

        given = self.every
        if not (lengths(given) or (isinstance(given, tuple) and all(map(lengths, given)))):
            yield error(
                "SP209",
                f"multiplex: every must be a number above 0 or a list, not {spelt(given)}",
            )
        if not getattr(self.path, "hops", ()):
            yield error("SP209", f"multiplex: path cannot be {self.path}")

    def _lengths(self, groups: Mapping[str, Mapping[str, object]]) -> list[tuple[int, ...]]:
        """The lengths of the runs of each group. SP505 for a list of another length."""
        sizes = {name: len(members) for name, members in groups.items()}
        given = self.every
        if isinstance(given, int):
            return [_runs(given, size) for size in sizes.values()]
        if len(given) != len(sizes) and len(sizes) == 1:
            given = (tuple(n for n in given if isinstance(n, int)),)
        if len(given) != len(sizes):
            raise SpaceError(
                error(
                    "SP505",
                    f"every has {counted(len(given), 'entry')} for {counted(len(sizes), 'group')}",
                )
                .note(", ".join(f"{name} has {size} instances" for name, size in sizes.items()))
            )  # fmt: skip
        found: list[tuple[int, ...]] = []
        for entry, (name, size) in zip(given, sizes.items(), strict=True):
            runs = entry if isinstance(entry, tuple) else _runs(entry, size)
            if sum(runs) != size:
                shown = ", ".join(map(str, runs))
                raise SpaceError(
                    error("SP505", f"{name} has {size} instances, not runs of {shown}")
                )
            found.append(runs)
        return found


def _runs(every: int, size: int) -> tuple[int, ...]:
    rest = size % every
    return (every,) * (size // every) + ((rest,) if rest else ())


def _groups(graph: Graph, pattern: Pattern) -> dict[str, dict[str, list[Spot]]]:
    """Group -> instance -> its calls: several where alternatives of it exclude each other.

    Instances that differ in their last index alone are one group. SP504 if there are none.
    """
    groups: dict[str, dict[str, list[Spot]]] = {}
    called: list[str] = []
    open_ = not pattern.hops[-1].indices
    for spot in spots(graph):
        call = spot.node.call
        if call is None or not call.path:
            continue
        *before, hop = split(spot.path)
        name = ".".join(map(str, (*before, Hop(hop.name) if open_ else hop)))
        called.append(name)
        if pattern.match(name) is None:
            continue
        group = ".".join(map(str, (*before, Hop(hop.name, hop.indices[:-1]))))
        groups.setdefault(group, {}).setdefault(spot.path, []).append(spot)
    if not groups:
        raise SpaceError(nothing(pattern, called))
    return groups


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
                raise SpaceError(
                    error("SP504", f"multiplex: tied blocks have nothing called {pattern}")
                )


def _compare(
    graph: Graph,
    leader: str,
    follower: str,
    kept: Owned,
    members: Mapping[str, Sequence[Spot]],
    report: Report,
) -> tuple[str, ...]:
    """What the follower owns; SP402 unless all else is stored as the leader stores it."""
    first, second = (below(graph, path) for path in (leader, follower))
    owned = kept.among([*first, *(p for p in second if p not in first)])
    for path in dict.fromkeys((*first, *second)):
        if any(path == o or path.startswith(o + ".") for o in owned):
            continue
        a, b = first.get(path), second.get(path)
        if a is not None and b is not None and _alike(a, b):
            continue
        report.add(
            error("SP402", f"{leader} and {follower} cannot share {path}")
            .also(members[leader][0].node.span, f"stores {_shown(a)}")
            .also(members[follower][0].node.span, f"stores {_shown(b)}")
            .hint(f"leave it to each block: own: [{path}]")
        )
        break
    return owned


def _alike(a: Storage, b: Storage) -> bool:
    def rest(s: Storage) -> object:
        return s.extents, s.param.role, s.param.dtype, [x.values for x in s.bank]

    return rest(a) == rest(b)


def _shown(stored: Storage | None) -> str:
    if stored is None:
        return "none"
    return " x ".join("*".join(map(str, axis)) for axis in stored.shape) or "a number"


def _tied(leader: Spot, spot: Spot, owned: tuple[str, ...]) -> Change:
    """The change of a call that makes it read the leader's weights."""
    call, first = spot.node.call, leader.node.call
    assert call is not None
    assert first is not None
    if call.store != call.path or call.own:
        raise SpaceError(
            error("SP601", f"{spot.path} is tied already").also(spot.node.span, "this call")
        )
    source = join(leader.instance.store, first.store)
    base = spot.instance.store
    inside = not base or source.startswith(base + ".")
    store = source[len(base) + 1 :] if base and inside else source
    return spot.node.id, store if inside else "/" + store, owned


def _edited(block: Block, changes: tuple[Change, ...]) -> Block:
    """The block with the store and the own paths of some of its calls changed."""
    stores = {node: (store, own) for node, store, own in changes}

    def changed(node: Node) -> Node:
        call: Call | None = node.call
        if call is not None and node.id in stores:
            store, own = stores[node.id]
            call = replace(call, store=store, own=own)
        return replace(node, call=call, regions=tuple(level(r) for r in node.regions))

    def level(block: Block) -> Block:
        return replace(block, nodes=tuple(map(changed, block.nodes)))

    return level(block)
