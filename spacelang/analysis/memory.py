"""What a network holds in memory before it computes anything, against what there is.

    check_memory(graph)    # SP507, with the bytes, before a tensor is made

Weights of the whole supernet, index tables and one input, counted on the graph. The limit is the
machine's memory; `allow_memory` sets another one (`spacelang --memory 300G ..`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from contextvars import ContextVar
from math import prod
from pathlib import Path

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.dim import Dim
from spacelang.ir.graph import Graph
from spacelang.ir.names import Names
from spacelang.ir.node import Attribute, TensorType
from spacelang.ir.op import ops

BYTES = {"f32": 4, "i64": 8}
CGROUP = Path("/sys/fs/cgroup/memory.max")
_allowed: ContextVar[int | None] = ContextVar("allowed", default=None)


def allow_memory(size: int | None) -> None:
    """Let networks take so many bytes; None for what the machine has."""
    _allowed.set(size)


def machine_memory() -> int:
    """Bytes of memory of the machine, or of the group of processes that this one is in."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no such file, or `max`
        found = min(found, int(CGROUP.read_text()))
    return found


def weight_bytes(graph: Graph) -> int:
    """Bytes of all that the supernet stores."""
    return sum(s.numel * BYTES.get(s.param.dtype, 8) for s in graph.storages.values())


def held_bytes(graph: Graph) -> int:
    """Bytes of weights, of index tables and of inputs at batch 1, at their largest.

    Tables of one op and equal options are one where they are read; a label makes each a buffer of
    its own besides, if no decision is in it.
    """
    definitions = ops()
    total = weight_bytes(graph) + sum(_bytes(n.types[0]) for n in graph.root.inputs)
    tables: dict[object, TensorType] = {}
    for place in graph.places():
        definition = definitions.get(place.node.op)
        if definition is not None and "table" in definition.traits:
            names = Names(symbol=place.instance.symbol)
            options = {(n, names.attribute(v)) for n, v in place.node.attributes.items()}
            key = place.node.op, frozenset(options)
            type = names.type(place.node.types[0])
            tables.setdefault(key, type)
            if place.node.label and not any(_symbols(value) for _, value in options):
                tables[place.path] = type
    return total + sum(map(_bytes, tables.values()))


def _symbols(value: Attribute) -> bool:
    """Whether a decision is in an option."""
    if isinstance(value, tuple):
        return any(map(_symbols, value))
    return isinstance(value, Dim) and bool(value.symbols)


def _bytes(type: TensorType) -> int:
    sizes = (
        1 if any(s.free for s in size.symbols) else int(size.bounds()[1]) for size in type.shape
    )
    return prod(sizes) * BYTES.get(type.dtype, 8)


def check_memory(graph: Graph) -> None:
    """SP507 for a network that memory does not hold."""
    needed, allowed = held_bytes(graph), _allowed.get()
    there = machine_memory() if allowed is None else allowed
    if needed <= there:
        return
    limit = f"this machine has {there:,}" if allowed is None else f"{there:,} are allowed"
    found = error("SP507", f"{graph.name} takes {needed:,} bytes of memory", graph.root.span)
    raise SpaceError(
        found.note(limit, f"its weights are {weight_bytes(graph):,} of them").hint(
            f"make it smaller, or allow more: spacelang --memory {-(-needed // 10**9)}G .."
        )
    )
