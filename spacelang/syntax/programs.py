"""`program`: networks that train together, checked for what they share.

    program cycle {
      network shallow = cifar10_search
      network deep = cifar10_evaluation
      share feature_extractor, distill_aux_head1
      pool memory = cifar10_pool of deep: nas_layers
    }

What is shared is stored in one shape by all that have it, one decision has the same candidates
wherever it is taken, and every weight that the pooled network may read has its slot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter

from spacelang.diagnostics import Diagnostic, Report, SpaceError, Span, error
from spacelang.ir.block import Block
from spacelang.ir.decision import Choice
from spacelang.ir.graph import Graph, Instance
from spacelang.ir.node import join
from spacelang.ir.program import Pool, Position, Program, below
from spacelang.passes.picks import drawn, sources, sums
from spacelang.syntax import tree
from spacelang.syntax.evaluate import label
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Library, Scope
from spacelang.syntax.session import Session
from spacelang.syntax.spaces import elaborate
from spacelang.syntax.values import ProgramValue, SpaceValue

WRITTEN = "network a = ..  network b = ..  share path  pool c = .. of b: path"


def program(value: ProgramValue, library: Library) -> Program:
    """The program of a declaration; all that is wrong with it is raised at once."""
    definition, scope = value.definition, value.scope
    report = Report()
    graphs: dict[str, Graph] = {}
    spans: dict[str, Span] = {}
    pools: list[tree.Network] = []
    shares: list[tree.Share] = []
    for member in definition.members:
        word = member.word
        if isinstance(member, tree.Share) and word == "share":
            shares.append(member)
        elif isinstance(member, tree.Network) and (word, member.of is None) in (
            ("network", True),
            ("pool", False),
        ):
            if member.name in spans:
                found = error("SP203", f"two networks called {member.name}", member.span)
                report.add(found.also(spans[member.name], "first here"))
                continue
            spans[member.name] = member.span
            pools += [member] if word == "pool" else []
            try:
                graphs[member.name] = _graph(member, scope, library)
            except SpaceError as failed:
                report.extend(failed.diagnostics)
        else:
            report.add(error("SP208", f"`{word}` reads otherwise", member.span).hint(WRITTEN))
    report.check()
    networks = {n: g for n, g in graphs.items() if all(n != pool.name for pool in pools)}
    if len(networks) < 2:
        found = error("SP208", f"{definition.name} needs two networks", definition.span)
        raise SpaceError(found.hint(WRITTEN))
    for second in pools[1:]:
        report.add(error("SP203", "a second pool", second.span, "a program has one"))
    frame = Frame(Session(library), definition.name, definition.span)
    shared: dict[str, tuple[str, ...]] = {}
    for share in shares:
        for path in share.paths:
            report.extend(_shared(path, networks, shared, frame, scope.inside(frame)))
    report.extend(_decisions(networks, spans))
    pool: Pool | None = None
    try:
        pool = _pool(pools[0], networks, graphs, frame, scope) if pools else None
    except SpaceError as failed:
        report.extend(failed.diagnostics)
    report.check()
    return Program(definition.name, networks, shared, pool, edges(networks.values()))


def _graph(member: tree.Network, scope: Scope, library: Library) -> Graph:
    """A network by itself, as if its source were a space of its name."""
    value = scope.names.get(member.base.name)
    if isinstance(value, SpaceValue) and member.base.arguments is None:
        _, proved = library.graphs.get(id(value.definition), (None, None))
        if proved is not None:
            return proved.restated(name=member.name)
    instance = tree.Instance(member.name, (), member.base, span=member.span)
    session = Session(library, cache=library.caches[False])
    return elaborate(SpaceValue(instance, scope), member.name, session, {})


# Checks.


def _shared(
    path: tree.Path,
    networks: Mapping[str, Graph],
    shared: dict[str, tuple[str, ...]],
    frame: Frame,
    scope: Scope,
) -> Iterator[Diagnostic]:
    """Enter what lies below a path into `shared`; what is wrong with it."""
    prefix = label(path, frame, scope)
    readers: dict[str, list[str]] = {}
    for name, graph in networks.items():
        for stored in graph.storages:
            if below(stored, prefix):
                readers.setdefault(stored, []).append(name)
    if all(len(names) < 2 for names in readers.values()):
        own = next((names[0] for names in readers.values()), "")
        found = error("SP504", f"no two networks store {prefix}", path.span)
        yield found.note(f"{own} alone does" if own else "none does")
    for stored, names in readers.items():
        kinds = {
            name: (s.tensors, s.param.role, s.param.dtype)
            for name in names
            for s in (networks[name].storages[stored],)
        }
        if len(set(kinds.values())) > 1:
            found = error("SP402", f"the networks store {stored} differently", path.span)
            for name in names:
                sizes = "x".join(map(str, networks[name].storages[stored].sizes))
                found = found.note(f"{name}: {sizes or 'one number'}")
            yield found
        elif len(names) > 1:
            shared[stored] = tuple(names)


def _decisions(networks: Mapping[str, Graph], spans: Mapping[str, Span]) -> Iterator[Diagnostic]:
    """Decisions of one path with other candidates: they could not be one."""
    first: dict[str, str] = {}
    for name, graph in networks.items():
        for path, choice in graph.decisions.items():
            before = networks[first.setdefault(path, name)].decisions[path]
            if (before.kind, before.values) != (choice.kind, choice.values):
                found = error("SP402", f"{path} has other candidates in {name}", spans[name])
                found = found.note(f"{first[path]}: {', '.join(map(str, before.values[:12]))}")
                yield found.note(f"{name}: {', '.join(map(str, choice.values[:12]))}")


# The pool.


def _pool(
    member: tree.Network,
    networks: Mapping[str, Graph],
    graphs: Mapping[str, Graph],
    frame: Frame,
    scope: Scope,
) -> Pool:
    """A pool whose slots fit the weights of its network, in every architecture."""
    assert member.of is not None
    if member.of not in networks:
        known = ", ".join(networks)
        found = error("SP201", f"no network of the program is called {member.of}", member.span)
        raise SpaceError(found.note(f"there are {known}"))
    network = networks[member.of]
    paths = tuple(label(path, frame, scope.inside(frame)) for path in member.paths)
    pool = Pool(member.name, graphs[member.name], member.of, network, paths, stands(network))
    slots = pool.stored
    for path, span in zip(paths, (p.span for p in member.paths), strict=True):
        if not any(below(stored, path) for stored in slots):
            raise SpaceError(error("SP504", f"{member.name} stores nothing below {path}", span))
    if pool.crossed is not None:
        one, other = pool.crossed
        found = error("SP402", f"{one.path} has no one slot in {member.name}", member.span)
        drawn = [f"position {p.number} of {p.decision}" for p in (one, other)]
        raise SpaceError(found.note(f"it stands at {' and at '.join(drawn)}, which draw apart"))
    for path, slot, sure in pool.wanted():
        kept, read = slots.get(slot), network.storages[path]
        # Of thousands nearly all are alike factor by factor, which is seen without their sizes.
        if kept is None or (kept.extents != read.extents and kept.sizes != read.sizes):
            found = error("SP402", f"{path} has no slot in {member.name}", member.span)
            there = "nothing" if kept is None else "x".join(map(str, kept.sizes))
            sizes = "x".join(map(str, read.sizes))
            if not sure:
                unknown = f"whether {path} is ever drawn from {slot} cannot be settled"
                found = error("SP308", unknown, member.span)
            raise SpaceError(found.note(f"it is {sizes}, {member.name} has {there} at {slot}"))
    return pool


def stands(network: Graph) -> tuple[Position, ...]:
    """What the picks of a network make at their positions, by paths of weights."""
    return tuple(dict.fromkeys(_positions(network, attrgetter("store"))))


def edges(networks: Iterable[Graph]) -> tuple[Position, ...]:
    """The positions of picks with decisions below them, by paths of decisions; a pick that cannot
    become a mixture has none."""
    found = dict.fromkeys(
        position
        for network in networks
        for position in _positions(network, attrgetter("decide"), every=False)
        if any(below(decision, position.path) for decision in network.decisions)
    )
    return tuple(found)


def _positions(
    network: Graph, prefix: Callable[[Instance], str], every: bool = True
) -> Iterator[Position]:
    """What picks of a network make at their positions, and what it is called for each source;
    SP601 where `every` pick has to have some, and one cannot become a mixture."""
    known: dict[int, list[tuple[Choice, tuple[str, ...]]]] = {}
    for instance in network.instances():
        block = instance.block
        if id(block) not in known:
            known[id(block)] = list(_named(block, every))
        for choice, inner in known[id(block)]:
            names = tuple(join(prefix(instance), name) for name in inner)
            for number in range(drawn(choice)):
                yield Position(join(instance.decide, choice.path), number, names[number], names)


def _named(block: Block, every: bool) -> Iterator[tuple[Choice, tuple[str, ...]]]:
    """The picks of a block, with what each thing that they make is called for each source."""
    for choice in block.decisions:
        if choice.kind != "pick":
            continue
        try:
            made = sums(block, choice)
        except SpaceError:
            if every:
                raise
            continue
        for found in made:
            for name in found.named:
                yield choice, tuple(found.renamed(s)(name) for s in range(sources(choice)))
