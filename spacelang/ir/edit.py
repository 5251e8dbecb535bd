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

from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.block_edits import BlockEdits
from spacelang.ir.closing import Closing
from spacelang.ir.cursor import Cursor
from spacelang.ir.graph import Graph
from spacelang.ir.level_builder import Tensor
from spacelang.ir.levels import NodeContext, alive, changed, find, mapped, paths_read
from spacelang.ir.names import fresh
from spacelang.ir.node import Node, Value
from spacelang.ir.options import attribute
from spacelang.ir.param import Param
from spacelang.ir.settle import pruned, settled
from spacelang.ir.sites import Site, Sites, name_of
from spacelang.ir.uses import ROOT, blocks_of, with_blocks
from spacelang.ir.verify import verified

Made = Tensor | Sequence[Tensor]
Make = Callable[..., Made | None]
"""What builds at a cursor: gets the cursor and tensors, returns what takes a value's place."""


def edit(graph: Graph) -> Draft:
    """A draft of a graph, for a `with`."""
    return Draft(graph)


class Draft(Closing, Sites):
    """A graph while it is edited; `result` is the new one, once the `with` has ended."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self._result: Graph | None = None

    def close(self, failed: bool) -> None:
        """End the draft: the new graph is settled and verified."""
        self._open = False
        if not failed:
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

    def replace(self, site: Site, **changes: Any) -> None:
        """Replace fields of a node: `op=..`, `attributes=..`, `call=replace(call, store=..)`."""
        node = replace(self.node(site), **changes)
        if node.id != site.id:
            raise SpaceError(
                error("SP602", f"%{site.id} of {site.block or 'the root'} keeps its id")
            )
        self.put(site, node)

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
        cursor = self._cursor(site, after=False)
        yield cursor
        self._commit(site, cursor)

    @contextmanager
    def after(self, site: Site) -> Generator[Cursor]:
        """Add nodes right after a node."""
        cursor = self._cursor(site, after=True)
        yield cursor
        self._commit(site, cursor)

    def _cursor(self, site: Site, after: bool, freed: frozenset[str] = frozenset()) -> Cursor:
        """A cursor at a node; what it makes may declare the parameters of `freed` anew."""
        where, owner = self._place(site), self.waiting(site.block)
        if freed:
            block = self.blocks[site.block]
            kept = tuple(p for p in block.params if p.path not in freed)
            owner = BlockEdits(replace(block, params=kept))

        def graph() -> Graph:
            self._settle(but=site.block)
            return with_blocks(self.old, self._blocks)

        return Cursor(owner, where, after, graph)

    def _place(self, site: Site) -> NodeContext:
        """Where a node stands in its block, but for changes that wait."""
        if site.block in self._waiting and self._waiting[site.block].is_new(site.id):
            self._settle()
        owner = self._blocks.get(site.block)
        found = None if owner is None else find(owner, site.id, ())
        return self._where(site) if found is None else found

    def _commit(self, site: Site, cursor: Cursor) -> None:
        self._check_open()
        self._place(site)  # SP602 if it is gone by now
        owner = self.waiting(site.block)
        made = cursor.made()
        if made and owner.next_id > cursor.first:
            text = f"another cursor added to {site.block or 'the root'} while this one was open"
            hint = "close one cursor of a block before the next is opened"
            raise SpaceError(error("SP602", text, made[0].span).hint(hint))
        owner.add(made, site.id, cursor.after)
        owner.declare(cursor.declared)
        self.touched.add(site.block)

    def replace_uses(self, site: Site, old: Value, new: Value, but: Collection[int] = ()) -> None:
        """Let all that reads a value beside a node read another; `but` are ids of nodes."""
        self._check_open()
        if self._place(site).level is self._blocks[site.block]:
            self.waiting(site.block).replace_uses(old, new, but)
            self.touched.add(site.block)
            return

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
        cursor = self._cursor(site, False, frozenset(freed))
        result = make(cursor, *map(cursor.value, node.operands))
        if result is None:
            return ()
        values = [tensor.value for tensor in _tensors(result)]
        if len(values) != len(node.values):
            text = f"{len(values)} values in the place of {len(node.values)}"
            raise SpaceError(error("SP602", text, node.span))
        cursor.cover(node.span)
        made = tuple(inner.id for inner in cursor.made())
        again = freed & cursor.declared.params.keys()
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
        name = fresh(block.name, self.blocks)
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

    def _level(self, site: Site, change: Callable[[Block], Block]) -> None:
        """Change the level that a node stands in."""
        self._check_open()
        self._where(site)
        self.blocks[site.block] = changed(self.blocks[site.block], site.id, change)
        self.touched.add(site.block)


def _tensors(made: Made | None) -> tuple[Tensor, ...]:
    return (made,) if isinstance(made, Tensor) else tuple(made or ())


__all__ = ["ROOT", "Draft", "Make", "Site", "edit", "name_of"]
