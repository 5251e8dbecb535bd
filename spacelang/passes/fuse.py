"""Fusing: groups of nodes that one kernel computes become blocks of their own, `triton.KERNEL`.

    %8 = call triton.attention(%2, %2.1, %2.2) [%B=%B, %heads=%heads]

The function, its weights and what it costs stay: the body of such a block is what stood there, so a
backend without kernels lowers it as any other. Sizes stay sizes, so a whole space fuses once a block.

    result = fused(graph)
    result.graph; result.groups; result.refusals       # what fused, and what did not, with the reason
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import ClassVar

from spacelang.diagnostics import Report, SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.graph import Graph
from spacelang.ir.names import names_of
from spacelang.ir.node import Node, Value
from spacelang.passes.base import Pass
from spacelang.passes.bucketise import bucketised
from spacelang.passes.fuse_attention import find as find_attention
from spacelang.passes.fuse_cascade import find as find_cascade
from spacelang.passes.fuse_chains import find_depthwise, find_mixture, find_mlp
from spacelang.passes.fusion import PREFIX, Find, Group, Unfit, kernel_of
from spacelang.passes.opened import Helpers, open_helpers
from spacelang.passes.outline import outline
from spacelang.passes.remake import with_root

GROUPS: Mapping[str, Find] = {
    "cascade": find_cascade,
    "attention": find_attention,
    "mlp": find_mlp,
    "depthwise": find_depthwise,
    "mixture": find_mixture,
}
"""What is looked for, larger groups first: kernel -> how it is found."""

OPENED = frozenset({
    "add", "batch_norm", "bucket_index", "bucket_sum", "clipped_index", "conv", "div", "einsum",
    "gather", "gelu", "identity", "layer_norm", "linear", "mul", "offset_index", "parameter",
    "rearrange", "relu", "shift_mask", "slice", "softmax", "split", "sub", "table", "take",
})  # fmt: skip
"""The ops of helper blocks that groups may reach into."""


@dataclass(frozen=True)
class Refusal:
    """Nodes that look like a group of a kernel and are none: where, and why."""

    kernel: str
    block: str
    node: Node
    why: str

    def __str__(self) -> str:
        return f"{self.kernel} in {self.block}, at {self.node.label or self.node.op}: {self.why}"


@dataclass(frozen=True)
class Fused:
    """A graph with fused blocks, and what was refused."""

    graph: Graph
    refusals: tuple[Refusal, ...]

    @property
    def groups(self) -> tuple[Block, ...]:
        return tuple(block for name, block in self.graph.blocks.items() if kernel_of(name))


@dataclass(frozen=True)
class Fuse(Pass):
    """Make a block of every group that a kernel computes; `only` names the kernels.

    Relative terms as large as N x N x D fuse after `bucketise`.
    """

    name: ClassVar[str] = "fuse"
    preserves: ClassVar[frozenset[str]] = frozenset({"function", "parameters", "space"})
    only: tuple[str, ...] = ()

    def run(self, graph: Graph, report: Report) -> Graph:
        unknown = [kernel for kernel in self.only if kernel not in GROUPS]
        if unknown:
            found = error("SP209", f"fuse: there is no kernel {unknown[0]}")
            raise SpaceError(found.note(f"there are {', '.join(GROUPS)}"))
        result = fused(graph, self.only or tuple(GROUPS))
        if not result.groups:
            found = error("SP601", f"fuse finds no group of a kernel in {graph.name}")
            report.add(found.note(*map(str, result.refusals)))
        return result.graph


def for_kernels(graph: Graph) -> Fused:
    """A graph as a backend with kernels lowers it: bucketised, then fused."""
    return fused(bucketised(graph))


def fused(graph: Graph, only: Collection[str] = tuple(GROUPS)) -> Fused:
    """The graph with every group of these kernels as a block."""
    graph = masks_moved(graph)
    work = _Fuser(graph, {name: find for name, find in GROUPS.items() if name in only})
    root = work.block(graph.root)
    blocks = {name: work.block(block) for name, block in graph.blocks.items()}
    made = with_root(graph, root, {**work.made, **blocks})
    kept = {graph.root.name, *made.blocks}
    return Fused(made, tuple(r for r in work.refusals if r.block in kept))


class _Fuser:
    def __init__(self, graph: Graph, finds: Mapping[str, Find]) -> None:
        self.graph, self.finds = graph, finds
        self.helpers = Helpers(graph.blocks, OPENED)
        self.made: dict[str, Block] = {}
        self.refusals: list[Refusal] = []

    def block(self, block: Block) -> Block:
        if kernel_of(block.name):
            return block
        opened = open_helpers(block, self.helpers)
        groups = list(self._groups(opened.block))
        nodes = {n for _, group in groups for n in group.nodes}
        opened = open_helpers(block, self.helpers, opened.calls(nodes))
        owner = opened.block
        level, refused = self._level(owner, owner)
        self.refusals += (Refusal(u.kernel, block.name, u.node, u.why) for u in refused)
        if level is block:
            return block
        read = {view.param for node in level.everywhere() for view in node.params.values()}
        were = {view.param for node in owner.everywhere() for view in node.params.values()}
        kept = tuple(p for p in owner.params if p.path in read or p.path not in were)
        return replace(level, params=kept)

    def _groups(self, level: Block) -> Iterator[tuple[Block, Group]]:
        """All groups of a level and of its regions."""
        found, _ = find_groups(level, self.finds)
        yield from ((level, group) for group in found)
        for node in level.nodes:
            for region in node.regions:
                yield from self._groups(region)

    def _level(self, owner: Block, level: Block) -> tuple[Block, list[Unfit]]:
        """The level with its groups as calls."""
        refused: list[Unfit] = []
        nodes: list[Node] = []
        for node in level.nodes:
            if not node.regions:
                nodes.append(node)
                continue
            regions: list[Block] = []
            for region in node.regions:
                inner, more = self._level(owner, region)
                refused += more
                regions.append(inner)
            same = all(a is b for a, b in zip(regions, node.regions, strict=True))
            nodes.append(node if same else replace(node, regions=tuple(regions)))
        if any(a is not b for a, b in zip(nodes, level.nodes, strict=True)):
            level = replace(level, nodes=tuple(nodes))
        groups, unfit = find_groups(level, self.finds)
        for group in groups:
            level = self._outlined(owner, level, group)
        return level, [*refused, *unfit]

    def _outlined(self, owner: Block, level: Block, group: Group) -> Block:
        name = PREFIX + group.kernel
        found = outline(owner, level, group.nodes, group.root, name)
        name = self._named(found.block)
        assert found.call.call is not None
        call = replace(found.call, call=replace(found.call.call, block=name))
        nodes = [call if n.id == group.root else n for n in level.nodes]
        return replace(level, nodes=_without(nodes, group.nodes - {group.root}, level.outputs))

    def _named(self, block: Block) -> str:
        """The name under which a block is kept; equal blocks have one."""
        alike = [n for n in self.made if kernel_of(n) == kernel_of(block.name)]
        for name in alike:
            if replace(self.made[name], name=block.name) == block:
                return name
        name = f"{block.name}.{len(alike) + 1}" if alike else block.name
        self.made[name] = replace(block, name=name)
        return name


def find_groups(level: Block, finds: Mapping[str, Find]) -> tuple[list[Group], list[Unfit]]:
    """The groups of a level that share no node but constants, and what is none."""
    taken: set[int] = set()
    groups: list[Group] = []
    refused: dict[int, Unfit] = {}
    for find in finds.values():
        for node in level.nodes:
            if node.regions or not node.operands or node.id in taken:
                continue
            found = find(level, node)
            if isinstance(found, Unfit):
                refused.setdefault(found.node.id, found)
            elif found is not None and not (found.nodes - _constants(level, found)) & taken:
                groups.append(found)
                taken |= found.nodes
    place = {node.id: i for i, node in enumerate(level.nodes)}
    groups.sort(key=lambda group: place[group.root])
    return groups, [unfit for number, unfit in refused.items() if number not in taken]


def _constants(level: Block, group: Group) -> set[int]:
    from spacelang.passes.fusion import constant

    return {number for number in group.nodes if constant(level, Value(number))}


def _without(nodes: Sequence[Node], gone: Collection[int], outputs: Sequence[Value]) -> tuple[Node, ...]:
    """The nodes but for those of `gone` that nothing reads any more."""
    read = {v.node for v in outputs}
    kept: list[Node] = []
    for node in reversed(nodes):
        if node.id in read or node.id not in gone:
            kept.append(node)
            read |= {v.node for v in node.operands}
    return tuple(reversed(kept))


# Masks of windows, which the blocks that hold attention are given.


def masks_moved(graph: Graph) -> Graph:
    """The graph where a block makes by itself what all of its calls give it as one and the same mask."""
    given: dict[tuple[str, int], list[Node | None]] = {}
    for block in (graph.root, *graph.blocks.values()):
        for level in _levels(block):
            for node in level.nodes:
                if node.call is not None:
                    for position, value in enumerate(node.operands):
                        maker = level.by_id[value.node]
                        mask = _told(node, maker, graph.blocks[node.call.block])
                        given.setdefault((node.call.block, position), []).append(mask)
    blocks = dict(graph.blocks)
    for (name, position), masks in given.items():
        first = masks[0]
        if first is not None and all(mask == first for mask in masks):
            blocks[name] = _with_mask(blocks[name], position, first)
    same = all(blocks[name] is graph.blocks[name] for name in blocks)
    return graph if same else with_root(graph, graph.root, blocks)


def _levels(block: Block) -> Iterator[Block]:
    yield block
    for node in block.nodes:
        for region in node.regions:
            yield from _levels(region)


def _told(call: Node, mask: Node, callee: Block) -> Node | None:
    """A mask in the sizes of the block that a call gives it to; None if it is none, or not in them."""
    if mask.op != "shift_mask" or call.call is None:
        return None
    sizes = call.call.sizes
    inverse = {str(value): name for name, value in sizes.items()}
    known = {size.name: size for size in callee.sizes}
    symbols = {s for t in mask.types for d in t.shape for s in d.symbols}
    if any(str(s) not in inverse for s in symbols):
        return None
    from spacelang.ir.names import Names

    names = Names(symbol=lambda symbol: known[inverse[str(symbol)]])
    return replace(names.node(mask), id=0, label="")


def _with_mask(block: Block, position: int, mask: Node) -> Block:
    """The block with a mask of its own in the place of an input, which nothing reads any more."""
    old = Value(block.inputs[position].id)
    made = replace(mask, id=next(count(block.next_id)))

    def node(n: Node) -> Node:
        operands = tuple(Value(made.id) if v == old else v for v in n.operands)
        return n if operands == n.operands else replace(n, operands=operands)

    inputs = [n for n in block.nodes if n.op == "input"]
    others = [node(n) for n in block.nodes if n.op != "input"]
    outputs = tuple(Value(made.id) if v == old else v for v in block.outputs)
    return replace(block, nodes=(*inputs, made, *others), outputs=outputs)


__all__ = ["GROUPS", "Fuse", "Fused", "Refusal", "find_groups", "for_kernels", "fused", "names_of"]
