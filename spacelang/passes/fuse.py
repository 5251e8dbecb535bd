"""Fusing: groups of nodes that one kernel computes become blocks of their own, `triton.KERNEL`.

    %8 = call triton.attention(%2, %2.1, %2.2) [%B=%B, %heads=%heads]

The function, its weights and what it costs stay: the body of such a block is what stood there, so a
backend without kernels lowers it as any other. Sizes stay sizes: a whole space fuses once a block.

    result = fused(graph)
    result.graph; result.groups; result.refusals    # what fused, and what did not, with the reason
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

from spacelang.diagnostics import Report, SpaceError, error, spelt
from spacelang.ir.block import Block
from spacelang.ir.graph import Graph
from spacelang.ir.levels import without
from spacelang.ir.mentions import of_node
from spacelang.ir.names import Names, fresh
from spacelang.ir.node import Call, Node, Value
from spacelang.passes.base import Pass
from spacelang.passes.bucketise import bucketised
from spacelang.passes.fuse_attention import find as find_attention
from spacelang.passes.fuse_attention import find_mixed
from spacelang.passes.fuse_cascade import find as find_cascade
from spacelang.passes.fuse_chains import find_mixture, find_mlp
from spacelang.passes.fuse_depthwise import find as find_depthwise
from spacelang.passes.fusion import PREFIX, Find, Group, Unfit, constant, kernel_of
from spacelang.passes.opened import Helpers, open_helpers
from spacelang.passes.outline import outline
from spacelang.passes.remake import each_block, with_root

GROUPS: Mapping[str, Find] = {
    "cascade": find_cascade,
    "attention": find_attention,
    "mixed_attention": find_mixed,
    "mlp": find_mlp,
    "depthwise": find_depthwise,
    "mixture": find_mixture,
}
"""What is looked for, larger groups first: kernel -> how it is found."""

OPENED = frozenset({
    "add", "batch_norm", "bucket_index", "bucket_sum", "clipped_index", "conv", "div", "einsum",
    "gather", "gelu", "hard_sigmoid", "hard_swish", "identity", "layer_norm", "linear", "mean",
    "mul", "offset_index", "parameter", "rearrange", "relu", "shift_mask", "sigmoid", "slice",
    "softmax", "split", "sub", "swish", "table", "take",
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
        """The blocks that stand for kernels."""
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
        """The graph in which groups that a kernel computes are one block each."""
        given = cast(object, self.only)
        if not isinstance(given, tuple | list):
            raise SpaceError(error("SP209", f"fuse: only is a list of kernels, not {spelt(given)}"))
        unknown = [kernel for kernel in map(str, self.only) if kernel not in GROUPS]
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
    root, blocks = work.block(graph.root), dict[str, Block]()
    waiting = _called(root)
    while waiting:
        name = waiting.pop(0)
        if name not in blocks and name in graph.blocks:
            blocks[name] = work.block(graph.blocks[name])
            waiting += _called(blocks[name])
    kept = {name: blocks[name] for name in graph.blocks if name in blocks}
    return Fused(with_root(graph, root, {**kept, **work.made}), tuple(work.refusals.values()))


def _called(block: Block) -> list[str]:
    return [node.call.block for node in block.everywhere() if node.call is not None]


class _Fuser:
    def __init__(self, graph: Graph, finds: Mapping[str, Find]) -> None:
        self.finds = finds
        self.helpers = Helpers(graph.blocks, OPENED)
        self.made = {name: block for name, block in graph.blocks.items() if kernel_of(name)}
        self.refusals: dict[object, Refusal] = {}

    def block(self, block: Block) -> Block:
        """The block with its groups as calls, helpers open as far as groups reach into them."""
        if kernel_of(block.name):
            return block
        opened = open_helpers(block, self.helpers)
        nodes: set[int] = set()
        for level in levels(opened.block):
            groups, unfit = find_groups(level, self.finds)
            nodes.update(n for group in groups for n in group.nodes)
            self._refuse(block.name, unfit)
        owner = open_helpers(block, self.helpers, opened.calls(nodes)).block
        level = self._level(owner, owner)
        if level is block:
            return block
        read = {view.param for node in level.everywhere() for view in node.params.values()}
        were = {view.param for node in owner.everywhere() for view in node.params.values()}
        kept = tuple(p for p in owner.params if p.path in read or p.path not in were)
        return replace(level, params=kept)

    def _refuse(self, block: str, unfit: Sequence[Unfit]) -> None:
        """Keep what is refused, once for what stands in one place of the text."""
        for found in unfit:
            alike = (found.kernel, found.why, found.node.span, found.node.op)
            self.refusals.setdefault(alike, Refusal(found.kernel, block, found.node, found.why))

    def _level(self, owner: Block, level: Block) -> Block:
        """The level with its groups as calls; itself where it has none."""
        nodes: list[Node] = []
        for node in level.nodes:
            regions = tuple(self._level(owner, region) for region in node.regions)
            same = all(a is b for a, b in zip(regions, node.regions, strict=True))
            nodes.append(node if same else replace(node, regions=regions))
        if any(a is not b for a, b in zip(nodes, level.nodes, strict=True)):
            level = replace(level, nodes=tuple(nodes))
        for group in find_groups(level, self.finds)[0]:
            level = self._outlined(owner, level, group)
        return level

    def _outlined(self, owner: Block, level: Block, group: Group) -> Block:
        name = PREFIX + group.kernel
        found = outline(owner, level, group.nodes, group.root, name)
        name = self._named(found.block)
        assert found.call.call is not None
        call = replace(found.call, call=replace(found.call.call, block=name))
        gone = group.nodes - {group.root}
        nodes = [call if n.id == group.root else n for n in level.nodes]
        return replace(level, nodes=without(nodes, gone, level.outputs))

    def _named(self, block: Block) -> str:
        """The name under which a block is kept; equal blocks have one, those fused before too."""
        alike = [n for n in self.made if kernel_of(n) == kernel_of(block.name)]
        for name in alike:
            if replace(self.made[name], name=block.name) == block:
                return name
        name = fresh(block.name, self.made)
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
            elif found is not None:
                own = {n for n in found.nodes if not constant(level, Value(n))}
                if not own & taken:
                    groups.append(found)
                    taken |= own
    return groups, [unfit for number, unfit in refused.items() if number not in taken]


# Masks of windows, which the blocks that hold attention are given.


def masks_moved(graph: Graph) -> Graph:
    """The graph where a block makes by itself the mask that all of its calls give it alike."""
    given: dict[tuple[str, int], list[Node | None]] = {}
    for block in (graph.root, *graph.blocks.values()):
        for level in levels(block):
            for call in level.nodes:
                for position, value in enumerate(call.operands if call.call is not None else ()):
                    assert call.call is not None
                    name = call.call.block
                    mask = _told(call.call, level.by_id[value.node], graph.blocks[name])
                    given.setdefault((name, position), []).append(mask)
    moved: dict[str, dict[int, Node]] = {}
    for (name, position), masks in given.items():
        first = masks[0]
        if first is not None and all(mask == first for mask in masks):
            moved.setdefault(name, {})[position] = first
    if not moved:
        return graph

    def change(block: Block) -> Block:
        if block.name in moved and block is not graph.root:
            block = _with_masks(block, moved[block.name])
        return _less_given(block, moved)

    return each_block(graph, change)


def levels(block: Block) -> Iterator[Block]:
    """A block's body and all its regions."""
    yield block
    for node in block.nodes:
        for region in node.regions:
            yield from levels(region)


def _told(call: Call, mask: Node, callee: Block) -> Node | None:
    """A mask in the sizes of the block that a call gives it to; None for what is none in them."""
    if mask.op != "shift_mask":
        return None
    inverse = {str(value): name for name, value in call.sizes.items()}
    known = {size.name: size for size in callee.sizes}
    symbols = {s for what in of_node(mask) for s in what.symbols}
    if any(str(s) not in inverse for s in symbols):
        return None
    names = Names(symbol=lambda symbol: known[inverse[str(symbol)]])
    return replace(names.node(mask), id=0, label="")


def _with_masks(block: Block, masks: Mapping[int, Node]) -> Block:
    """The block with masks of its own in the place of inputs."""
    old = {block.inputs[position].id: mask for position, mask in masks.items()}
    inputs = [n for n in block.nodes if n.op == "input" and n.id not in old]
    made = [replace(mask, id=number) for number, mask in old.items()]
    others = [n for n in block.nodes if n.op != "input"]
    return replace(block, nodes=(*inputs, *made, *others))


def _less_given(level: Block, moved: Mapping[str, Mapping[int, Node]]) -> Block:
    """The level whose calls give no mask that a block makes by itself, nor make it for that."""
    nodes: list[Node] = []
    masks: set[int] = set()
    for node in level.nodes:
        regions = tuple(_less_given(region, moved) for region in node.regions)
        if any(a is not b for a, b in zip(regions, node.regions, strict=True)):
            node = replace(node, regions=regions)
        gone = moved.get(node.call.block) if node.call is not None else None
        if gone is not None:
            masks |= {node.operands[i].node for i in gone}
            kept = tuple(v for i, v in enumerate(node.operands) if i not in gone)
            node = replace(node, operands=kept)
        nodes.append(node)
    if all(a is b for a, b in zip(nodes, level.nodes, strict=True)):
        return level
    return replace(level, nodes=without(nodes, masks, level.outputs))


__all__ = ["GROUPS", "Fuse", "Fused", "Refusal", "find_groups", "for_kernels", "fused"]
