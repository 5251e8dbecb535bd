"""What the kernels of fused blocks move and launch in evaluation, and their compiled variants.

    compare(graph, fused, assignment, batch=8, width=2)    # every group: as written, and fused

Every tensor is read and written once by each kernel that does: modelled, not measured. Kernels
read the norms of a network in evaluation where they lie: nothing is launched before, to fold them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

from spacelang.analysis.traffic import Model, Sizes, Traffic, at, flops, of_node, parts
from spacelang.ir.block import Block
from spacelang.ir.decision import Assignment
from spacelang.ir.dim import Dim
from spacelang.ir.graph import Graph
from spacelang.ir.node import Node
from spacelang.passes.attention_cost import ONE_BYTE, moved_by_attention, padded, rows_of
from spacelang.passes.attention_parts import Attention
from spacelang.passes.fuse import GROUPS
from spacelang.passes.fuse_cascade import Cascade
from spacelang.passes.fuse_chains import Mixture, Mlp
from spacelang.passes.fuse_depthwise import Depthwise
from spacelang.passes.fusion import Group, kernel_of

REWRITTEN = ("attention", "mixed_attention")  # kernels whose groups `bucketise` has written anew
VECTORS = 4  # of a norm: mean, variance, scale, shift
SQUEEZE = "squeeze"  # the kernel beside `depthwise`
POINTERS = 4  # to heads of a cascade, in the variant for few
Variant = frozenset[tuple[str, int | str]]  # what is compiled in, by the kernel's name for it


@dataclass(frozen=True)
class Row:
    """A group of a space: its kernel, how often it is there, and what it moves either way."""

    block: str
    kernel: str
    places: int
    variants: int
    before: Traffic
    after: Traffic


def group_of(block: Block) -> Group | None:
    """The group that a block is, if it was made for a kernel and its body still is one."""
    kernel = kernel_of(block.name)
    if kernel not in GROUPS or len(block.outputs) != 1:
        return None
    found = GROUPS[kernel](block, block.by_id[block.outputs[0].node])
    body = {node.id for node in block.nodes if node.op != "input"}
    return found if isinstance(found, Group) and found.nodes >= body else None


def models(graph: Graph) -> dict[str, Model]:
    """What the fused blocks of a graph move, by their names."""
    found: dict[str, Model] = {}
    for name, block in graph.blocks.items():
        group = group_of(block)
        if group is not None:
            found[name] = lambda block, sizes, group=group: moved(block, group, sizes)
    return found


def compare(
    graph: Graph,
    fused: Graph,
    assignment: Assignment | None = None,
    batch: int = 1,
    width: int = 4,
) -> list[Row]:
    """The groups of a graph that was fused, in the order of their first place.

    What a group moved before is that of its nodes; of an attention, whose terms `bucketise` has
    rewritten, all that the place moves as written, less what it moves beside its groups.
    """
    values = at(fused, assignment, batch)
    kept = models(fused)
    written = _by_path(graph, assignment, batch, width, {})
    beside = _by_path(fused, assignment, batch, width, dict.fromkeys(kept, _nothing))
    rows: dict[str, Row] = {}
    places: dict[str, list[tuple[Block, Traffic]]] = {}
    for instance in fused.instances():
        if instance.block.name in kept and all(guard.at(values) for guard in instance.guards):
            sizes = Sizes(instance, values, width)
            block = instance.block
            nodes = [node for node in block.nodes if node.op != "input"]
            before = sum((of_node(node, block, sizes) for node in nodes), Traffic())
            places.setdefault(instance.path, []).append((block, before))
            row = rows.get(block.name) or _row(block)
            after = row.after + kept[block.name](block, sizes)
            rows[block.name] = replace(row, places=row.places + 1, after=after)
    for path, found in places.items():
        rewritten = [block for block, _ in found if kernel_of(block.name) in REWRITTEN]
        below = [one for other, all_ in places.items() if _under(other, path) for one in all_]
        others = [before for block, before in below if kernel_of(block.name) not in REWRITTEN]
        inside = sum(1 for block, _ in below if kernel_of(block.name) in REWRITTEN)
        left = _total(written, path) - _total(beside, path) - sum(others, Traffic())
        for block, before in found:
            if block in rewritten and inside:
                before = Traffic(*(figure // inside for figure in left))
            rows[block.name] = replace(rows[block.name], before=rows[block.name].before + before)
    return list(rows.values())


def _row(block: Block) -> Row:
    group = group_of(block)
    assert group is not None
    kinds = len(set(variants(group, block)))
    return Row(block.name, group.kernel, 0, kinds, Traffic(), Traffic())


def _nothing(block: Block, sizes: Sizes) -> Traffic:
    return Traffic()


def _by_path(
    graph: Graph,
    assignment: Assignment | None,
    batch: int,
    width: int,
    known: Mapping[str, Model],
) -> dict[str, Traffic]:
    """What moves at each place of a network."""
    found: dict[str, Traffic] = {}
    for path, _, part in parts(graph, assignment, batch, width, known):
        found[path] = found.get(path, Traffic()) + part
    return found


def _under(path: str, place: str) -> bool:
    return not place or path == place or path.startswith(place + ".")


def _total(by_path: Mapping[str, Traffic], place: str) -> Traffic:
    return sum((part for path, part in by_path.items() if _under(path, place)), Traffic())


def all_variants(graph: Graph) -> dict[str, set[Variant]]:
    """The variants of each kernel that a whole space launches in evaluation, whatever the type.

    The means of planes that squeeze-excite takes are a kernel of their own.
    """
    found: dict[str, set[Variant]] = {}
    for block in graph.blocks.values():
        group = group_of(block)
        if group is not None:
            for name, variant in variants(group, block):
                found.setdefault(name, set()).add(variant)
    return found


# What kernels move.


def moved(block: Block, group: Group, sizes: Sizes) -> Traffic:
    """What the kernels of a group move, launch and compute."""
    nodes = [block.by_id[number] for number in group.nodes]
    work = sum(_flops(block, node, sizes) for node in nodes if node.op != "input")
    bytes, launches = MOVED[group.kernel](block, group, sizes)
    return Traffic(bytes, launches, work)


def _flops(block: Block, node: Node, sizes: Sizes) -> int:
    alone = of_node(node, block, sizes)
    types = tuple(block.type_of(v) for v in node.operands)
    return flops(node, types, sizes) if alone.launches else 0


def _mlp(block: Block, group: Mlp, sizes: Sizes) -> tuple[int, int]:
    first = group.norm or group.first
    read = sizes.bytes(block.type_of(first.operands[0]))
    hidden, written = (sizes.bytes(n.types[0]) for n in (group.first, group.second))
    nodes = [node for node in (group.norm, group.first, group.second) if node is not None]
    return read + 2 * hidden + written + sum(map(sizes.weights, nodes)), 2


def _depthwise(block: Block, group: Depthwise, sizes: Sizes) -> tuple[int, int]:
    read = sizes.bytes(block.type_of(group.conv.operands[0]))
    given = read + _normed(group.conv, sizes)
    written = sizes.bytes(group.conv.types[0])
    if group.gate is None:
        return given + written, 1
    # Means of planes that are not written; layers from them to factors; the planes, gated.
    layers = sum((of_node(node, block, sizes) for node in group.gate.layers), Traffic())
    means = sizes.bytes(group.gate.mean.types[0])
    return 2 * given + 2 * means + layers.bytes + written, 2 + layers.launches


def _cascade(block: Block, group: Cascade, sizes: Sizes) -> tuple[int, int]:
    x = sizes.bytes(block.type_of(group.x))
    convs = [node for head in group.heads for node in (head.qkv, head.conv)]
    given = sum(_normed(conv, sizes) for conv in convs) + sizes.bytes(block.type_of(group.table))
    # A head's result is written, read by the next, and read and written once more to be rectified.
    return x + 4 * x + given, 1


def _normed(conv: Node, sizes: Sizes) -> int:
    """The weights of a convolution, and the vectors of the norm after it."""
    vector = sizes.width * sizes.of(conv.types[0].shape[1])
    return sizes.weights(conv) + VECTORS * vector


def _mixture(block: Block, group: Mixture, sizes: Sizes) -> tuple[int, int]:
    read = sum(sizes.bytes(block.type_of(v)) for v in group.node.operands)
    return read + sizes.bytes(group.node.types[0]), 1


Moved = Callable[[Block, Group, Sizes], tuple[int, int]]
MOVED: Mapping[str, Moved] = {
    "attention": cast(Moved, moved_by_attention),
    "cascade": cast(Moved, _cascade),
    "depthwise": cast(Moved, _depthwise),
    "mixed_attention": cast(Moved, moved_by_attention),
    "mixture": cast(Moved, _mixture),
    "mlp": cast(Moved, _mlp),
}


# Variants.

Constants = dict[str, int | str]
WIDE = 8  # elements that divide strides, for loads of 16 bytes
TERMS: Mapping[str, str] = {
    "offsets": "TABLES", "query": "ROWS", "key": "COLUMNS", "values": "MASSES", "regions": "MASKED",
}  # fmt: skip


def variants(group: Group, block: Block) -> Iterator[tuple[str, Variant]]:
    """What differs between compiled variants of the kernels that compute a group in evaluation."""
    for found in VARIANTS[group.kernel](block, group):
        kernel = SQUEEZE if found.pop(SQUEEZE, 0) else group.kernel
        yield kernel, frozenset(found.items())


def _values(*sizes: Dim) -> Iterator[tuple[int, ...]]:
    """The values that sizes take; a free one is none that a variant hangs on."""
    known = [tuple(map(int, size.candidates())) for size in sizes]
    yield from _product(known)


def _product(known: list[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    if not known:
        yield ()
        return
    for first in known[0]:
        for rest in _product(known[1:]):
            yield (first, *rest)


def _attention_variants(block: Block, group: Attention) -> Iterator[Constants]:
    widths = [block.type_of(o.value).shape[o.channel] for o in (group.q, group.v)]
    terms = {kind: group.terms_of(kind) for kind in TERMS}
    looked_up = ("query", "key", "values")
    entries = [sum((rows_of(block, t) for t in terms[kind]), Dim.of(0)) for kind in looked_up]
    indexed = [kind for kind in ("offsets", *looked_up) if terms[kind]]
    counts = {name: len(terms[kind]) for kind, name in TERMS.items()}
    read = [rows_of(block, terms[kind][0]) for kind in indexed]
    for width, value, *rest in _values(*widths, *entries, *read):
        wide, numbers = max(rest[: len(entries)]), rest[len(entries) :]
        sizes = {"WIDTH": padded(width), "VALUE": padded(value), "BUCKETS": padded(wide)}
        bytes = {f"{kind} index": 1 if n <= ONE_BYTE else 2
                 for kind, n in zip(indexed, numbers, strict=True)}  # fmt: skip
        aligned = {"ALIGNED": WIDE if width % WIDE == value % WIDE == 0 else 1}
        yield {**sizes, **counts, **bytes, **aligned}


def _mixed_variants(block: Block, group: Attention) -> Iterator[Constants]:
    assert group.q.head is not None
    heads = block.type_of(group.q.value).shape[group.q.head]
    for found in _attention_variants(block, group):
        for (count,) in _values(heads):
            yield {"HEADS": max(8, 1 << (count - 1).bit_length()), **found}


def _mlp_variants(block: Block, group: Mlp) -> Iterator[Constants]:
    for node, norm, activation in (
        (group.first, group.norm is not None, group.activation.op),
        (group.second, False, "none"),
    ):
        weight = node.params["weight"]
        inner = [size for axis in weight.lengths[1:] for size in axis]
        flags = {"NORM": int(norm), "BIAS": int("bias" in node.params), "ACTIVATION": activation}
        for sizes in _values(*inner):
            yield {**flags, "ALIGNED": WIDE if all(n % WIDE == 0 for n in sizes) else 1}


def _depthwise_variants(block: Block, group: Depthwise) -> Iterator[Constants]:
    activation = "none" if group.activation is None else group.activation.op
    kernel = group.conv.attributes["kernel"]
    assert isinstance(kernel, Dim)
    for (side,) in _values(kernel):
        yield {"K": side, "ACTIVATION": activation}
        if group.gate is not None:
            yield {"K": side, "ACTIVATION": activation, SQUEEZE: 1}


def _cascade_variants(block: Block, group: Cascade) -> Iterator[Constants]:
    tokens = group.sides[0] * group.sides[1]
    few = int(len(group.heads) <= POINTERS)
    for count, keys, channels in _values(tokens, group.keys, group.values):
        sizes = {"TOKENS": padded(count), "KEY": padded(keys)}
        yield {**sizes, "shallow": int(channels <= 16), "few heads": few}


def _mixture_variants(block: Block, group: Mixture) -> Iterator[Constants]:
    yield {}


Variants = Callable[[Block, Group], Iterator[Constants]]
VARIANTS: Mapping[str, Variants] = {
    "attention": cast(Variants, _attention_variants),
    "cascade": cast(Variants, _cascade_variants),
    "depthwise": cast(Variants, _depthwise_variants),
    "mixed_attention": cast(Variants, _mixed_variants),
    "mixture": cast(Variants, _mixture_variants),
    "mlp": cast(Variants, _mlp_variants),
}
