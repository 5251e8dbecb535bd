"""Sites of a draft: its blocks as they are now, and where things stand in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.block_edits import BlockEdits
from spacelang.ir.graph import Graph
from spacelang.ir.levels import NodeContext, find
from spacelang.ir.node import Node, TensorType, Value, join
from spacelang.ir.pattern import Pattern, parse_pattern
from spacelang.ir.uses import ROOT, Chain, blocks_of, parted, uses, with_blocks
from spacelang.ir.words import base_name


@dataclass(frozen=True)
class Site:
    """A node of a block in a draft, as it is now; every use of the block has it."""

    draft: Sites = field(repr=False)
    block: str
    id: int

    @property
    def node(self) -> Node:
        """The node as the draft has it now."""
        return self.draft.node(self)

    @property
    def operands(self) -> tuple[Value, ...]:
        """What the node reads."""
        return self.node.operands

    @property
    def values(self) -> tuple[Value, ...]:
        """The results of the node."""
        return self.node.values

    @property
    def paths(self) -> tuple[str, ...]:
        """Where it is in the whole network, once for each use of its block."""
        return tuple(path for site, path in self.draft.places() if site == self)


def name_of(node: Node) -> str:
    """What a node is called in its block: its label, else its op; a call's path, else its block."""
    if node.call is not None:
        return node.call.path or base_name(node.call.block)
    return node.label or node.op


class Sites:
    """The blocks of a graph that is edited. Blocks are under their names, the root under "".

    Changes of a block wait until it is looked at, so that many are made in one go.
    """

    def __init__(self, graph: Graph) -> None:
        self.old = graph
        self.touched: set[str] = set()
        self._blocks = blocks_of(graph)
        self._waiting: dict[str, BlockEdits] = {}
        self._open = True

    @property
    def blocks(self) -> dict[str, Block]:
        """The blocks as they are now."""
        self._settle()
        return self._blocks

    def _settle(self, but: str | None = None) -> None:
        """Make the changes that wait, of all blocks or of all but one."""
        for name in [name for name in self._waiting if name != but]:
            self._blocks[name] = self._waiting.pop(name).block()

    def waiting(self, block: str) -> BlockEdits:
        """The changes of a block that wait, to which more may be added."""
        if block not in self._waiting:
            self._waiting[block] = BlockEdits(self._blocks[block])
        return self._waiting[block]

    @property
    def graph(self) -> Graph:
        """The graph as it is now; not verified."""
        return with_blocks(self.old, self.blocks)

    def node(self, site: Site) -> Node:
        """The node of a site as it is now. SP602 if it is gone."""
        waiting = self._waiting.get(site.block)
        found = None if waiting is None else waiting.nodes.get(site.id)
        if found is None and site.block in self._blocks:
            # A node with regions is not kept waiting, but one inside of them may be.
            found = self._blocks[site.block].all_by_id.get(site.id)
        if found is None or found.regions:
            return self._where(site).node
        return found

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
        wanted: dict[Chain, tuple[int, ...]] = {}
        for use in uses(self.graph):
            ids = tuple(
                node.id
                for node in use.instance.block.everywhere()
                if block in (None, use.block)
                and fits(node)
                and pattern.match(join(use.instance.path, name_of(node))) is not None
            )
            if ids:
                wanted[use.chain] = tuple(sorted(ids))
        if not wanted:
            raise SpaceError(error("SP504", f"{pattern} matches nothing in {self.old.name}"))
        self._check_open()
        self._blocks, names = parted(self.graph, wanted)
        found = ((names[chain], id) for chain, ids in wanted.items() for id in ids)
        return [Site(self, name, id) for name, id in dict.fromkeys(found)]

    def _check_open(self) -> None:
        if not self._open:
            raise SpaceError(error("SP602", f"the draft of {self.old.name} is closed"))

    def split(self, path: str | Pattern) -> list[str]:
        """Give the uses of blocks that a path matches blocks of their own; the names of these."""
        pattern = parse_pattern(path) if isinstance(path, str) else path
        marked = {
            use.chain: True
            for use in uses(self.graph)
            if use.named and pattern.match(use.instance.path) is not None
        }
        if not marked:
            raise SpaceError(error("SP504", f"{pattern} matches no block in {self.old.name}"))
        self._check_open()
        self._blocks, names = parted(self.graph, marked)
        return list(dict.fromkeys(names[chain] for chain in marked))

    def put(self, site: Site, node: Node) -> None:
        """Put a node in the place of the one of its id. SP602 if that is gone."""
        self._check_open()
        old = self.node(site)
        self.waiting(site.block).put(node)
        self.touched.add(site.block)
        if old.regions or node.regions:
            self._settle()

    def _where(self, site: Site) -> NodeContext:
        owner = self.blocks.get(site.block)
        found = None if owner is None else find(owner, site.id, ())
        if found is None:
            raise SpaceError(error("SP602", f"%{site.id} of {site.block or 'the root'} is gone"))
        return found
