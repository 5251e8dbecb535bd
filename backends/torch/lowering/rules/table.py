"""Rules of index tables and of reading by index."""

from __future__ import annotations

import torch
from torch import fx

from spacelang.backends.torch.lowering.emit import Emit, lowers
from spacelang.backends.torch.lowering.frame import Size
from spacelang.backends.torch.lowering.tables import TABLES
from spacelang.ir.node import TensorType


@lowers(*TABLES)
def _table(emit: Emit) -> fx.Node:
    return emit.frame.table(emit.node)


@lowers("take")
def _take(emit: Emit) -> fx.Node:
    """By index_select: its backward adds rows up 14 times as fast as that of an index (30 x 64)."""
    axis = emit.whole("axis") % emit.rank
    index = emit.type(1)
    if index.rank == 1:
        return emit.call(torch.index_select, emit.x, axis, emit.operand(1))
    flat = emit.method("flatten", emit.operand(1))
    found = emit.call(torch.index_select, emit.x, axis, flat)
    return emit.method("unflatten", found, axis, emit.sizes(index.shape))


@lowers("gather")
def _gather(emit: Emit) -> fx.Node:
    """One index for all leading axes."""
    rows = emit.method("expand", emit.operand(1), *_sizes(emit, emit.node.types[0]))
    return emit.call(torch.gather, emit.x, -1, rows)


@lowers("bucket_sum")
def _bucket_sum(emit: Emit) -> fx.Node:
    rows = emit.method("expand", emit.operand(1), *_sizes(emit, emit.type()))
    empty = emit.method("new_zeros", emit.x, _sizes(emit, emit.node.types[0]))
    return emit.method("scatter_add", empty, -1, rows, emit.x)


def _sizes(emit: Emit, type: TensorType) -> tuple[Size, ...]:
    return tuple(emit.size(d) for d in type.shape)
