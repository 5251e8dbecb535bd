"""Multiplexing (MiniViT, CVPR 2022): consecutive blocks read one set of weights.

    multiplex(blocks, every: 2, own: [norm1, norm2, attn.rpe_k])
    multiplex(layers[_].blocks, every: [2, 2, 6, 2])       # a number for each stage

Decisions stay each block's own: tied layers may read different slices of one storage, so it is
stored sizes that must agree, not the sizes of one architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from spacelang.diagnostics import Diagnostic, Report, SpaceError, counted, error, spelt
from spacelang.ir.graph import Graph
from spacelang.ir.node import join
from spacelang.ir.pattern import Hop, Pattern, split
from spacelang.ir.storage import below
from spacelang.ir.uses import Chain
from spacelang.passes.base import Pass
from spacelang.passes.places import Spot, nothing, rewrite, spots
from spacelang.passes.ties import Change, Owned, alike, edited, seen, shown

Every = int | tuple["int | tuple[int, ...]", ...]


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
        return rewrite(graph, chosen, edited)

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
        if a is not None and b is not None and alike(a, b):
            continue
        report.add(
            error("SP402", f"{leader} and {follower} cannot share {path}")
            .also(members[leader][0].node.span, shown(a))
            .also(members[follower][0].node.span, shown(b))
            .hint(f"leave it to each block: own: [{path}]")
        )
        break
    return owned


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
    return Change(spot.node.id, seen(source, spot.instance.store), owned)
