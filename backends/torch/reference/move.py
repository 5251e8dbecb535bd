"""Rows that move elements and compute nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from spacelang.backends.torch.reference.at import At, row
from spacelang.ir.dim import Dim


def _groups(side: str) -> list[list[str]]:
    return [(a or b).split() for a, b in re.findall(r"\(([^)]*)\)|(\S+)", side)]


@row("rearrange")
def _(at: At, x: Tensor) -> Tensor:
    left, right = (_groups(side) for side in at.text("pattern").split("->"))
    spread = [f"...{i}" for i in range(x.dim() - len(left) + 1)]
    left = [[n] for n in spread] + left[1:] if left[0] == ["..."] else left
    right = [[n] for n in spread] + right[1:] if right[0] == ["..."] else right
    sizes = at.named("sizes")
    for group, whole in zip(left, x.shape, strict=True):
        names = [n for n in group if n != "1"]
        unknown = [n for n in names if n not in sizes]
        if unknown:
            sizes[unknown[0]] = whole // prod(sizes[n] for n in names if n != unknown[0])
    flat = [n for group in left for n in group if n != "1"]
    wanted = [n for group in right for n in group if n != "1"]
    x = x.reshape([sizes[n] for n in flat]).permute([flat.index(n) for n in wanted])
    return x.reshape([prod(sizes[n] for n in group if n != "1") for group in right])


@row("concat")
def _(at: At, *xs: Tensor) -> Tensor:
    return torch.cat(xs, at.whole("axis"))


@row("split")
def _(at: At, x: Tensor) -> Sequence[Tensor]:
    axis, parts = at.whole("axis"), at.wholes("parts")
    if not isinstance(at.given("parts"), tuple):
        parts = [x.shape[axis] // parts[0]] * parts[0]
    starts = [sum(parts[:i]) for i in range(len(parts))]
    return [x.narrow(axis, start, size) for start, size in zip(starts, parts, strict=True)]


@row("unstack")
def _(at: At, x: Tensor) -> Sequence[Tensor]:
    axis = at.whole("axis")
    return [x.select(axis, i) for i in range(x.shape[axis])]


@row("expand")
def _(at: At, x: Tensor) -> Tensor:
    return x.expand(at.wholes("to"))


@row("slice")
def _(at: At, x: Tensor) -> Tensor:
    given = at.given("index")
    entries = given if isinstance(given, tuple) else (given,)
    axis = 0
    for entry in entries:
        if isinstance(entry, Dim):
            x = x.select(axis, at.number(entry))
            continue
        if isinstance(entry, tuple):
            start, stop = (at.number(d) for d in entry if isinstance(d, Dim))
            x = x.narrow(axis, start, stop - start)
        axis += 1
    return x


@row("pad")
def _(at: At, x: Tensor) -> Tensor:
    for by, axis in zip(at.wholes("by"), at.wholes("axes"), strict=True):
        shape = list(x.shape)
        shape[axis] = by
        x = torch.cat([x, x.new_zeros(shape)], axis)
    return x


@row("roll")
def _(at: At, x: Tensor) -> Tensor:
    for by, axis in zip(at.wholes("by"), at.wholes("axes"), strict=True):
        n = x.shape[axis]
        x = x.index_select(axis, torch.tensor([(i - by) % n for i in range(n)], dtype=torch.int64))
    return x


@row("mean")
def _(at: At, x: Tensor) -> Tensor:
    return x.mean(at.wholes("axes"), keepdim=at.flag("keep"))
