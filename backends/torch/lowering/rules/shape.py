"""Rules of the ops that move elements: views where PyTorch has one."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import fx

from spacelang.backends.torch.lowering.emit import Emit, lowers
from spacelang.backends.torch.lowering.frame import Entries
from spacelang.ir.dim import Dim
from spacelang.ir.infer import Settled
from spacelang.ops.patterns import Group, bind_rearrange, parse_rearrange


@lowers("rearrange")
def _rearrange(emit: Emit) -> fx.Node:
    """Split axes, permute, merge: `b (h p) c -> b p (h c)`."""
    infer = Settled("rearrange", (emit.type(),), emit.node.attributes, span=emit.node.span)
    sides = parse_rearrange(infer)
    sizes, leading = bind_rearrange(infer, sides)
    spread: list[Group] = [(f"..{i}",) for i in range(len(leading))]
    left, right = (
        [g for group in side for g in (spread if group == ("...",) else [group])]
        for side in (sides.left, sides.right)
    )
    x = emit.x
    for axis in reversed(range(len(left))):
        names = [n for n in left[axis] if n != "1"]
        if not names:
            x = emit.method("squeeze", x, axis)
        elif len(names) > 1:
            x = emit.method("unflatten", x, axis, emit.sizes([sizes[n] for n in names]))
    have = [n for group in left for n in group if n != "1"]
    want = [n for group in right for n in group if n != "1"]
    if have != want:
        x = emit.method("permute", x, *(have.index(n) for n in want))
    counts = [len([n for n in group if n != "1"]) for group in right]
    for axis in reversed(range(len(right))):
        before = sum(counts[:axis])
        if counts[axis] > 1:
            x = emit.method("flatten", x, before, before + counts[axis] - 1)
    for axis, count in enumerate(counts):
        if count == 0:
            x = emit.method("unsqueeze", x, axis)
    return x


@lowers("concat")
def _concat(emit: Emit) -> fx.Node:
    return emit.call(torch.cat, emit.operands, emit.axis())


@lowers("split")
def _split(emit: Emit) -> tuple[fx.Node, ...]:
    axis = emit.axis()
    sizes = [emit.size(type.shape[axis]) for type in emit.node.types]
    parts = emit.method("split", emit.x, sizes, axis)
    parts.meta["several"] = len(sizes)
    return tuple(emit.call(operator.getitem, parts, i) for i in range(len(sizes)))


@lowers("unstack")
def _unstack(emit: Emit) -> tuple[fx.Node, ...]:
    given = emit.result(0)
    if isinstance(given, Entries):
        return given.parts
    parts = emit.method("unbind", emit.x, emit.axis())
    parts.meta["several"] = len(emit.node.types)
    return tuple(emit.call(operator.getitem, parts, i) for i in range(len(emit.node.types)))


@lowers("expand")
def _expand(emit: Emit) -> fx.Node:
    old, new = emit.type().shape, emit.dims("to")
    sizes = (-1 if a == b else emit.size(b) for a, b in zip(old, new, strict=True))
    return emit.method("expand", emit.x, *sizes)


@lowers("slice")
def _slice(emit: Emit) -> fx.Node:
    given = emit.node.attributes["index"]
    index: list[object] = []
    for axis, entry in enumerate(given if isinstance(given, tuple) else (given,)):
        if isinstance(entry, Dim):
            index.append(emit.size(entry))
        elif isinstance(entry, tuple):
            start, stop = (d for d in entry if isinstance(d, Dim))
            last = None if stop == emit.type().shape[axis] else emit.size(stop)
            index.append(slice(None if start == 0 else emit.size(start), last))
        else:
            index.append(slice(None))
    return emit.call(operator.getitem, emit.x, tuple(index))


@lowers("pad")
def _pad(emit: Emit) -> fx.Node:
    """PyTorch counts from the last axis, two numbers each."""
    by = dict(zip((a % emit.rank for a in emit.wholes("axes")), emit.dims("by"), strict=True))
    amounts = [
        n for axis in reversed(range(min(by), emit.rank)) for n in (0, _amount(emit, by, axis))
    ]
    return emit.call(F.pad, emit.x, amounts)


def _amount(emit: Emit, by: dict[int, Dim], axis: int) -> object:
    return emit.size(by[axis]) if axis in by else 0


@lowers("roll")
def _roll(emit: Emit) -> fx.Node:
    by = tuple(emit.size(d) for d in emit.dims("by"))
    if all(n == 0 for n in by):
        return emit.x
    return emit.call(torch.roll, emit.x, by, emit.wholes("axes"))


@lowers("mean")
def _mean(emit: Emit) -> fx.Node:
    axes = emit.wholes("axes")
    return (
        emit.method("mean", emit.x, axes, True)
        if emit.flag("keep")
        else emit.method("mean", emit.x, axes)
    )
