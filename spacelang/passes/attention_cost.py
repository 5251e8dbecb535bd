"""What the kernels of attention move and launch in evaluation, and the copies that they need.

Figures are those of `fused_cost`: every tensor is read and written once by each launch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from spacelang.analysis.traffic import Sizes
from spacelang.ir.block import Block
from spacelang.ir.dim import ONE, Dim
from spacelang.passes.attention_parts import Attention, Term

REGION = 2  # bytes of a token's region
ONE_BYTE = 128  # entries that an index of a byte counts
STATISTIC = 4  # of a sum that is kept in float32
MADE, MIXED = 64, 16  # entries and heads of lookups that `mixed_attention` makes by itself, at most
HELD, TABLE_BYTES = 256, 2**15  # entries, beside masses a fourth, and tables of `attention`


def moved_by_attention(block: Block, group: Attention, sizes: Sizes) -> tuple[int, int]:
    """Bytes and launches of a group, with what its tables are copied for."""
    q, k, v = (sizes.bytes(block.type_of(o.value)) for o in (group.q, group.k, group.v))
    shape = [sizes.of(size) for size in block.type_of(group.q.value).shape]
    rows = q // (sizes.width * shape[group.q.channel])
    tokens = 1
    for axis in group.q.tokens:
        tokens *= shape[axis]
    total = q + k + 2 * v + rows * STATISTIC
    total += sum(sizes.weights(mix) for mix in (group.before, group.after) if mix is not None)
    launches = 1
    inside = INSIDE[group.kernel](block, group, sizes)
    for kind in dict.fromkeys(term.kind for term in group.terms):
        terms = group.terms_of(kind)
        first = terms[0]
        if kind == "regions":
            total += REGION * sizes.of(first.index.node.types[0].shape[0]) * tokens
            continue
        tables = sum(_table(block, term, sizes) for term in terms)
        index = 1 if entries(block, first, sizes) <= ONE_BYTE else 2
        total += index * len(terms) * tokens**2 + tables
        scale = group.scale if kind in ("query", "key") else ONE
        # Each table is multiplied by what it lacks, and all are stacked.
        copied = [_table(block, term, sizes) for term in terms if term.factor != scale]
        copied += [tables] if len(terms) > 1 else []
        if kind != "offsets" and kind not in inside:
            wide = STATISTIC if group.kernel == "mixed_attention" else sizes.width
            looked = rows * wide * sum(entries(block, term, sizes) for term in terms)
            # A scaled copy of the tables and its product, which the kernel reads; or a product with
            # the masses that the kernel writes, and what it gives is added.
            read = {"query": q, "key": k, "values": 4 * v}[kind]
            total += read + 2 * looked
            copied += [] if kind == "values" else [tables]
            launches += 2 if kind == "values" else 1
        total += 2 * sum(copied)
        launches += len(copied)
    return total, launches


def _inside(block: Block, group: Attention, sizes: Sizes) -> tuple[str, ...]:
    """Kinds of terms that the kernel of `attention` computes itself: tables are not too large."""
    count = {
        kind: sum(entries(block, term, sizes) for term in group.terms_of(kind))
        for kind in ("query", "key", "values")
    }
    columns = padded(max(count.values()))
    most = HELD // 4 if count["values"] else HELD
    widths = (sizes.of(block.type_of(o.value).shape[o.channel]) for o in (group.q, group.v))
    fits = columns <= most and columns * padded(max(widths)) * sizes.width <= TABLE_BYTES
    return ("query", "key", "values") if fits else ()


def _inside_mixed(block: Block, group: Attention, sizes: Sizes) -> tuple[str, ...]:
    """The same of `mixed_attention`: of tables of all heads, and few."""
    terms = group.terms_of("query")
    shared = all(term.table is not None and term.table.head is None for term in terms)
    assert group.q.head is not None
    heads = sizes.of(block.type_of(group.q.value).shape[group.q.head])
    made = sum(entries(block, term, sizes) for term in terms) <= MADE
    return ("query",) if shared and heads <= MIXED and made else ()


INSIDE: Mapping[str, Callable[[Block, Attention, Sizes], tuple[str, ...]]] = {
    "attention": _inside,
    "mixed_attention": _inside_mixed,
}


def _table(block: Block, term: Term, sizes: Sizes) -> int:
    return 0 if term.table is None else sizes.bytes(block.type_of(term.table.value))


def entries(block: Block, term: Term, sizes: Sizes) -> int:
    return sizes.of(rows_of(block, term))


def rows_of(block: Block, term: Term) -> Dim:
    """How many entries the table of a term has."""
    assert term.table is not None
    axis = term.table.entry + (term.table.picked is not None)
    return block.type_of(term.table.value).shape[axis]


def padded(size: int) -> int:
    """The power of two, of at least 16, that a size is padded to."""
    return max(16, 1 << (size - 1).bit_length())
