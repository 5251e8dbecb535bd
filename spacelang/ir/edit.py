"""Editing a graph: in a draft that is verified and frozen into a new graph, or thrown away.

    with graph.edit() as draft:
        for site in draft.nodes(op="gelu", path="encoder[0..5].gelu"):
            draft.replace(site, op="relu")
    graph = draft.result

A block is edited for all of its uses. Where a path picks out some uses only, those get a copy of
the block first, and so do the blocks that lead to them. If the edit fails, or what it leaves is no
graph, a SpaceError is raised and the old graph is as it was. Untouched blocks are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.cursor import Cursor
from spacelang.ir.graph import Graph
from spacelang.ir.known import Known
from spacelang.ir.level import Tensor
from spacelang.ir.levels import Where, alive, changed, find, mapped, paths_read
from spacelang.ir.node import Node, TensorType, Value, join
from spacelang.ir.options import attribute
from spacelang.ir.param import Param
from spacelang.ir.pattern import Pattern, parse_pattern
from spacelang.ir.settle import pruned, settled
from spacelang.ir.text import base_name
from spacelang.ir.uses import ROOT, Chain, blocks_of, parted, uses, with_blocks
from spacelang.ir.verify import verified

Made = Tensor | Sequence[Tensor]
Make = Callable[..., Made | None]
"""What builds at a cursor: gets the cursor and tensors, returns what takes a value's place."""


@dataclass(frozen=True)
class Site:
    """A node of a block in a draft, as it is now; every use of the block has it."""

    draft: Draft = field(repr=False)
    block: str
    id: int

    @property
    def node(self) -> Node:
        return self.draft.node(self)

    @property
    def operands(self) -> tuple[Value, ...]:
        return self.node.operands

    @property
    def values(self) -> tuple[Value, ...]:
        return self.node.values

    @property
    def paths(self) -> tuple[str, ...]:
        """Where it is in the whole network, once for each use of its block."""
        return tuple(path for site, path in self.draft.places() if site == self)


def edit(graph: Graph) -> Draft:
    """A draft of a graph, for a `with`."""
    return Draft(graph)


def name_of(node: Node) -> str:
    """What a node is called in its block: its label, else its op; a call's path, else its block."""
    if node.call is not None:
        return node.call.path or base_name(node.call.block)
    return node.label or node.op


class Draft:
    """A graph while it is edited; `result` is the new one, once the `with` has ended.

    Blocks are under their names in `blocks`, the root under "".
    """

    def __init__(self, graph: Graph) -> None:
        self.old = graph
        self.blocks = blocks_of(graph)
        self.touched: set[str] = set()
        self._open = True
        self._result: Graph | None = None

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = False
        if failure is None:
            old = blocks_of(self.old)
            same = old.keys() == self.blocks.keys() and all(
                self.blocks[name] is block for name, block in old.items()
            )
            made = self.old if same else pruned(settled(self.graph, self.touched))
            self._result = made if same else verified(made)

    @property
    def result(self) -> Graph:
        """The new graph. SP602 while the draft is open, and where it failed."""
        if self._result is None:
            raise SpaceError(error("SP602", f"the draft of {self.old.name} has no result"))
        return self._result

    # Looking.

    @property
    def graph(self) -> Graph:
        """The graph as it is now; not verified."""
        return with_blocks(self.old, self.blocks)

    def node(self, site: Site) -> Node:
        """The node of a site as it is now. SP602 if it is gone."""
        return self._where(site).node

    def level(self, site: Site) -> Block:
        """The block or region that a node stands in."""
        return self._where(site).level

    def type_of(self, site: Site, value: Value) -> TensorType:
        """The type of a value of the level that a node stands in."""
        return self.level(site).type_of(value)

    def places(self) -> Iterator[tuple[Site, str]]:
        """Every node of every use with its path in the whole network."""
        for use in uses(self.graph):
            for node in use.instance.block.everywhere():
                yield Site(self, use.block, node.id), join(use.instance.path, name_of(node))

    def nodes(
        self, op: str | None = None, path: str | Pattern | None = None, block: str | None = None
    ) -> list[Site]:
        """Nodes by op, by path, by the name of the block that holds them.

        With a path, the sites stand for the uses that it matches and for no others: where these are
        not all uses of a block, they get a copy of it. SP504 for a path that matches nothing.
        """
        if path is not None:
            return self._matching(path, lambda node: op in (None, node.op), block)
        return [
            Site(self, name, node.id)
            for name, owner in self.blocks.items()
            if block in (None, name)
            for node in owner.everywhere()
            if op in (None, node.op)
        ]

    def calls(self, what: str | Pattern) -> list[Site]:
        """Calls of a block, by its name (`encoder`: its variants too), or by path as `nodes`."""
        named = {n for n in self.blocks if n != ROOT and what in (n, base_name(n))}
        if not named:
            return self._matching(what, lambda node: node.call is not None, None)
        return [
            Site(self, name, node.id)
            for name, owner in self.blocks.items()
            for node in owner.everywhere()
            if node.call is not None and node.call.block in named
        ]

    def _matching(
        self, path: str | Pattern, fits: Callable[[Node], bool], block: str | None
    ) -> list[Site]:
        pattern = parse_pattern(path) if isinstance(path, str) else path
        wanted: dict[Chain, frozenset[int]] = {}
        for use in uses(self.graph):
            wanted[use.chain] = frozenset(
                node.id
                for node in use.instance.block.everywhere()
                if block in (None, use.block)
                and fits(node)
                and pattern.match(join(use.instance.path, name_of(node))) is not None
            )
        if not any(wanted.values()):
            raise SpaceError(error("SP504", f"{pattern} matches nothing in {self.old.name}"))
        self._check_open()
        self.blocks, names = parted(self.graph, wanted)
        found = ((names[chain], id) for chain, ids in wanted.items() for id in sorted(ids))
        return [Site(self, name, id) for name, id in dict.fromkeys(found)]

    def _check_open(self) -> None:
        if not self._open:
            raise SpaceError(error("SP602", f"the draft of {self.old.name} is closed"))

    def split(self, path: str | Pattern) -> list[str]:
        """Give the uses of blocks that a path matches blocks of their own; the names of these."""
        pattern = parse_pattern(path) if isinstance(path, str) else path
        marked = {
            use.chain: frozenset(
                {0} if use.named and pattern.match(use.instance.path) is not None else ()
            )
            for use in uses(self.graph)
        }
        if not any(marked.values()):
            raise SpaceError(error("SP504", f"{pattern} matches no block in {self.old.name}"))
        self._check_open()
        self.blocks, names = parted(self.graph, marked)
        return list(dict.fromkeys(names[chain] for chain, ids in marked.items() if ids))

    # Changing.

    def replace(self, site: Site, **changes: Any) -> None:
        """Replace fields of a node: `op=..`, `attributes=..`, `call=replace(call, store=..)`."""
        node = replace(self.node(site), **changes)
        if node.id != site.id:
            raise SpaceError(
                error("SP602", f"%{site.id} of {site.block or 'the root'} keeps its id")
            )
        self._level(site, lambda level: mapped(level, lambda n: node if n.id == site.id else n))

    def tie(self, site: Site, leader: Site, own: Sequence[str] = ()) -> None:
        """Let a call read the parameters of another, but for those below the paths of `own`."""
        call, first = self.node(site).call, self.node(leader).call
        if call is None or first is None:
            raise SpaceError(error("SP602", "only calls are tied", self.node(site).span))
        self.replace(site, call=replace(call, store=first.store, own=tuple(own)))

    def configure(self, site: Site, **options: object) -> None:
        """Set options of a node's op."""
        given = {name: attribute(value) for name, value in options.items()}
        self.replace(site, attributes={**self.node(site).attributes, **given})

    @contextmanager
    def before(self, site: Site) -> Generator[Cursor]:
        """Add nodes right before a node."""
        cursor = self._cursor(site, 0)
        yield cursor
        self._commit(site, cursor)

    @contextmanager
    def after(self, site: Site) -> Generator[Cursor]:
        """Add nodes right after a node."""
        cursor = self._cursor(site, 1)
        yield cursor
        self._commit(site, cursor)

    def _cursor(self, site: Site, offset: int, freed: frozenset[str] = frozenset()) -> Cursor:
        """A cursor at a node; what it makes may declare the parameters of `freed` anew."""
        where, owner = self._where(site), self.blocks[site.block]
        owner = replace(owner, params=tuple(p for p in owner.params if p.path not in freed))
        position = where.level.nodes.index(where.node) + offset
        known = Known(self.graph)
        return Cursor(owner, where.level, position, where.guards, self.blocks, known)

    def _commit(self, site: Site, cursor: Cursor) -> None:
        made, position = cursor.made(), cursor.position

        def added(level: Block) -> Block:
            return replace(level, nodes=(*level.nodes[:position], *made, *level.nodes[position:]))

        self._level(site, added)
        owner = self.blocks[site.block]
        params = {param.path: param for param in (*owner.params, *cursor.declared)}
        self.blocks[site.block] = replace(
            owner,
            sizes=tuple(cursor.sizes.values()),
            decisions=tuple(cursor.decisions.values()),
            params=tuple(params.values()),
        )

    def replace_uses(self, site: Site, old: Value, new: Value, but: Collection[int] = ()) -> None:
        """Let all that reads a value beside a node read another; `but` are ids of nodes."""

        def value(v: Value) -> Value:
            return new if v == old else v

        def node(n: Node) -> Node:
            if n.id in but or old not in n.operands:
                return n
            return replace(n, operands=tuple(map(value, n.operands)))

        self._level(
            site,
            lambda level: replace(mapped(level, node), outputs=tuple(map(value, level.outputs))),
        )

    def wrap(self, site: Site, make: Make) -> None:
        """Let all that reads the value of a node read `make(cursor, value)`."""
        (old,) = self.node(site).values
        with self.after(site) as at:
            (new,) = _tensors(make(at, at.value(old)))
            made = [node.id for node in at.made()]
        self.replace_uses(site, old, new.value, made)

    def wrap_operand(self, site: Site, position: int, make: Make) -> None:
        """Let a node read `make(cursor, value)` in place of one of its operands."""
        operands = list(self.node(site).operands)
        with self.before(site) as at:
            (new,) = _tensors(make(at, at.value(operands[position])))
        operands[position] = new.value
        self.replace(site, operands=tuple(operands))

    def substitute(self, site: Site, make: Make, also: Collection[int] = ()) -> tuple[int, ...]:
        """Put what `make(cursor, *operands)` builds in the place of a node: the ids of it.

        The node goes, and those of `also` (ids of its level) that nobody reads then; their
        parameters may be declared anew. Where `make` returns None, nothing happens. What is built
        without a span takes over the node's.
        """
        node, owner = self.node(site), self.blocks[site.block]
        going = {site.id, *also}
        freed = paths_read(owner, going) - paths_read(
            owner, {n.id for n in owner.everywhere()} - going
        )
        cursor = self._cursor(site, 0, frozenset(freed))
        result = make(cursor, *map(cursor.value, node.operands))
        if result is None:
            return ()
        values = [tensor.value for tensor in _tensors(result)]
        if len(values) != len(node.values):
            text = f"{len(values)} values in the place of {len(node.values)}"
            raise SpaceError(error("SP602", text, node.span))
        cursor.cover(node.span)
        made = tuple(inner.id for inner in cursor.made())
        again = freed & {param.path for param in cursor.declared}
        self._commit(site, cursor)
        for old, new in zip(node.values, values, strict=True):
            self.replace_uses(site, old, new)
        place = self._where(site).level.nodes
        for inner in reversed([n.id for n in place if n.id in going]):
            here = Site(self, site.block, inner)
            if inner == site.id or not self._read(here):
                self.remove(here)
        going &= {n.id for n in self.blocks[site.block].everywhere()}
        if twice := again & paths_read(self.blocks[site.block], going):
            text = f"two parameters called {min(twice)}: what read the first is still needed"
            raise SpaceError(error("SP203", text, node.span))
        return made

    def remove(self, site: Site) -> None:
        """Take a node out that nothing reads. SP602 if something does."""
        node, level = self.node(site), self.level(site)
        if self._read(site):
            text = f"%{node.id} of {site.block or 'the root'} is still read"
            raise SpaceError(error("SP602", text, node.span))
        kept = tuple(n for n in level.nodes if n.id != node.id)
        self._level(site, lambda found: replace(found, nodes=kept))

    def remove_dead(self, block: str | None = None) -> int:
        """Take out all nodes that no output needs, of a block or everywhere: how many."""
        self._check_open()
        count = 0
        for name in [block] if block is not None else list(self.blocks):
            made = alive(self.blocks[name])
            here = sum(1 for _ in self.blocks[name].everywhere()) - sum(
                1 for _ in made.everywhere()
            )
            if here:
                self.blocks[name] = made
                self.touched.add(name)
            count += here
        return count

    def add_block(self, block: Block) -> str:
        """Add a block that cursors may call; its name, which is made another if it is taken."""
        self._check_open()
        name, number = block.name, 2
        while name in self.blocks:
            name, number = f"{block.name}.{number}", number + 1
        self.blocks[name] = replace(block, name=name)
        return name

    def add_param(self, block: str, param: Param) -> None:
        """Declare a parameter of a block; one that no node reads is kept if it is `reserved`."""
        self._check_open()
        owner = self.blocks[block]
        self.blocks[block] = replace(owner, params=(*owner.params, param))
        self.touched.add(block)

    # Inside.

    def _read(self, site: Site) -> bool:
        """Whether anything reads a value of a node."""
        level = self.level(site)
        return any(v in level.readers or v in level.outputs for v in self.node(site).values)

    def _where(self, site: Site) -> Where:
        owner = self.blocks.get(site.block)
        found = None if owner is None else find(owner, site.id, ())
        if found is None:
            raise SpaceError(error("SP602", f"%{site.id} of {site.block or 'the root'} is gone"))
        return found

    def _level(self, site: Site, change: Callable[[Block], Block]) -> None:
        """Change the level that a node stands in."""
        self._check_open()
        self._where(site)
        self.blocks[site.block] = changed(self.blocks[site.block], site.id, change)
        self.touched.add(site.block)


def _tensors(made: Made | None) -> tuple[Tensor, ...]:
    return (made,) if isinstance(made, Tensor) else tuple(made or ())


__all__ = ["ROOT", "Draft", "Make", "Site", "edit", "name_of"]
