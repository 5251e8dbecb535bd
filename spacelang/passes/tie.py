"""Ties: calls and parameters that read one set of weights (`weights { up[_]: tie }`).

    up[_]: tie                  all matches read what the first in the text reads
    up[_]: tie(every: 2)        runs of consecutive ones, as `multiplex` ties them
    a[i].up: tie(b[i].up)       each match reads what the path names
    up[_]: tie(own: [norm])     but for what it keeps for itself
    a.up: tie(b.up, slices: centre)     slices of what is stored there, of any size

A path names a call, an op with parameters, or one parameter. What is tied must be stored in one
shape (SP402), but for `slices`; decisions stay each call's own, so tied calls may read different
slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from spacelang.diagnostics import Report, SpaceError, error, placed
from spacelang.ir.graph import Graph
from spacelang.ir.node import join
from spacelang.ir.rule import Tie
from spacelang.ir.storage import below
from spacelang.ir.uses import Chain
from spacelang.passes.alternatives import centred
from spacelang.passes.multiplex import Multiplex
from spacelang.passes.places import Spot, nothing, rewrite, spots
from spacelang.passes.sharing import Rules, centre, start_of
from spacelang.passes.ties import Change, Owned, alike, edited, seen, shown


@dataclass(frozen=True)
class Owner:
    """Something with parameters that a path names: a call, an op, or one parameter of an op."""

    path: str
    spot: Spot
    role: str | None = None

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
            graph = Multiplex(tie.pattern, tie.every, tie.own).run(graph, report)
            report.check()
        else:
            graph = _one(graph, tie)
    return graph


def _one(graph: Graph, tie: Tie) -> Graph:
    owners = _owners(graph)
    report, kept = Report(), Owned(tie.own)
    changes: dict[Chain, list[Change]] = {}
    roots: set[str] = set()
    for leader, follower in _couples(owners, tie):
        for owner in owners[follower]:
            first = owners[leader][0] if leader in owners else None
            found = _change(graph, leader, first, owner, tie, kept, report)
            changes.setdefault(owner.spot.chain, []).extend(found)
        roots.add(f"{leader}.")
    report.check()
    kept.refuse_unused()
    made = rewrite(graph, {chain: tuple(found) for chain, found in changes.items()}, edited)
    if tie.slices != "centre":
        return made
    _check_middles(made, tuple(roots), tie)
    return centred(made, tuple(roots))


def _check_middles(graph: Graph, roots: tuple[str, ...], tie: Tie) -> None:
    """SP402 where a factor is read around its middle, and from its start by a decision's size."""
    rules = Rules(graph, Report())
    moved: set[tuple[str, int, int]] = set()
    started: dict[tuple[str, int, int], tuple[Spot, str]] = {}
    for spot in spots(graph):
        for view in spot.node.params.values():
            path = spot.instance.param(view.param)
            if not f"{path}.".startswith(roots):
                continue
            stored = graph.storages[path].shape
            for a, axis in enumerate(view.lengths):
                for f, length in enumerate(map(spot.instance.absolute, axis)):
                    if length.constant is not None and length.constant < stored[a][f]:
                        moved.add((path, a, f))
                    for name in sorted(symbol.name for symbol in length.symbols):
                        rule = rules.of_tensor(path) or rules.of_decision(name)
                        if start_of(rule) is not centre:
                            started[path, a, f] = spot, name
    for factor in sorted(moved & started.keys()):
        spot, name = started[factor]
        found = f"{factor[0]} is tied around its middle, and {name} reads it from its start"
        found = error("SP402", found, tie.span).also(spot.node.span, "read here")
        raise SpaceError(found.hint(f"{name}: entangle(centre)"))


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
            for role in filter(None, node.params):
                found.setdefault(join(path, role), []).append(Owner(join(path, role), spot, role))
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
            leader = ".".join(hop.at(bound, tie.span) for hop in tie.to)
            if leader not in owners and not tie.slices:
                raise SpaceError(error("SP504", f"nothing has the path {leader}", tie.span))
        if leader != path:
            yield leader, path


def _change(
    graph: Graph,
    to: str,
    leader: Owner | None,
    owner: Owner,
    tie: Tie,
    kept: Owned,
    report: Report,
) -> Iterator[Change]:
    """What makes an owner read the parameters at a path; SP402 where they are stored otherwise."""
    own = _params(graph, owner)
    if leader is None:
        yield _named(to, owner, own, kept.among(tuple(own)) if owner.call else ())
        return
    if leader.call != owner.call or (leader.role is None) != (owner.role is None):
        report.add(error("SP402", f"{leader.path} and {owner.path} are not of one kind", tie.span))
        return
    theirs = _params(graph, leader)
    kept.among(theirs)
    roles = tuple(dict.fromkeys((*theirs, *own)))
    owned = kept.among(roles) if owner.call else ()
    for role in roles:
        if any(role == o or role.startswith(o + ".") for o in owned):
            continue
        a, b = theirs.get(role), own.get(role)
        if tie.slices and (a is None or b is None):
            continue
        if a is None or b is None or not alike(graph.storages[a], graph.storages[b], tie.slices):
            report.add(
                error("SP402", f"{leader.path} and {owner.path} cannot share {role}", tie.span)
                .also(leader.spot.node.span, shown(graph.storages.get(a or "")))
                .also(owner.spot.node.span, shown(graph.storages.get(b or "")))
            )
            return
    base = owner.spot.instance.store
    if owner.call:
        yield Change(owner.spot.node.id, seen(leader.store, base), owned)
    else:
        pairs = tuple((owner.role or r, seen(p, base)) for r, p in theirs.items() if r in own)
        yield Change(owner.spot.node.id, pairs=pairs)


def _named(to: str, owner: Owner, own: Mapping[str, str], kept: tuple[str, ...]) -> Change:
    """The change of an owner whose parameters are kept at a path where nothing else stands."""
    base, node = owner.spot.instance.store, owner.spot.node.id
    if owner.call:
        return Change(node, seen(to, base), kept)
    return Change(
        node, pairs=tuple((owner.role or role, seen(join(to, role), base)) for role in own)
    )


def _params(graph: Graph, owner: Owner) -> dict[str, str]:
    """The paths of an owner's parameters by what they are called inside it."""
    if owner.call:
        return {path: join(owner.store, path) for path in below(graph, owner.store)}
    instance, node = owner.spot.instance, owner.spot.node
    if owner.role is not None:
        return {"": instance.param(node.params[owner.role].param)}
    return {role: instance.param(view.param) for role, view in node.params.items()}
