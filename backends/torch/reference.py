"""What every op computes, written for the eye: the rows of the reference interpreter.

    @row("layer_norm")
    def _(at: At, x: Tensor) -> Tensor: ...

Norms, windows and index tables are spelt out; nothing here is shared with the lowering rules.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from spacelang.ir.dim import Dim
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.graph import Instance
from spacelang.ir.node import Attribute, Node
from spacelang.ops.buckets import bucket, bucket_count


@dataclass
class At:
    """A node where it runs: its options as numbers, its parameters as it reads them."""

    node: Node
    instance: Instance
    values: Mapping[str, DecisionValue]
    training: bool
    params: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    mask: Tensor | None = None
    updates: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def value(self, dim: Dim) -> float | int:
        found = self.instance.absolute(dim).at(self.values)
        return int(found) if found == int(found) else float(found)

    def number(self, dim: Dim) -> int:
        return int(self.value(dim))

    def given(self, name: str) -> Attribute:
        return self.node.attributes[name]

    def real(self, name: str) -> float:
        dim = self.given(name)
        assert isinstance(dim, Dim)
        return float(self.value(dim))

    def whole(self, name: str) -> int:
        return int(self.real(name))

    def flag(self, name: str) -> bool:
        return self.given(name) is True

    def text(self, name: str) -> str:
        return str(self.given(name))

    def wholes(self, name: str) -> list[int]:
        given = self.given(name)
        dims = given if isinstance(given, tuple) else (given,)
        return [self.number(d) for d in dims if isinstance(d, Dim)]

    def weight(self, role: str, extra: Sequence[Tensor]) -> Tensor | None:
        """A parameter, or the operand that stands for it."""
        names = self.node.attributes.get("given", ())
        assert isinstance(names, tuple)
        return extra[names.index(role)] if role in names else self.params.get(role)


Row = Callable[..., "Tensor | Sequence[Tensor]"]
ROWS: dict[str, Row] = {}


def row(*names: str) -> Callable[[Row], Row]:
    def add(function: Row) -> Row:
        ROWS.update(dict.fromkeys(names, function))
        return function

    return add


@row("identity")
def _(at: At, x: Tensor) -> Tensor:
    return x


@row("parameter", "buffer")
def _(at: At) -> Tensor:
    return at.params[""]


@row("linear")
def _(at: At, x: Tensor, *extra: Tensor) -> Tensor:
    weight, bias = at.weight("weight", extra), at.weight("bias", extra)
    assert weight is not None
    x = x.reshape(*x.shape[: x.dim() - at.whole("axes")], -1)
    y = torch.matmul(x, weight.T)
    y = y if bias is None else y + bias
    return y.reshape(*x.shape[:-1], *at.wholes("out"))


@row("conv")
def _(at: At, x: Tensor, *extra: Tensor) -> Tensor:
    weight, bias = at.weight("weight", extra), at.weight("bias", extra)
    assert weight is not None
    kernel, dilation = at.whole("kernel"), at.whole("dilation")
    pad = dilation * (kernel - 1) // 2 if at.given("pad") is None else at.whole("pad")
    return F.conv2d(x, weight, bias, at.whole("stride"), pad, dilation, at.whole("groups"))


@row("einsum")
def _(at: At, *xs: Tensor) -> Tensor:
    return torch.einsum(at.text("pattern"), *xs)


def _normal(x: Tensor, axes: Sequence[int], eps: float) -> Tensor:
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / torch.sqrt(((x - mean) ** 2).mean(axes, keepdim=True) + eps)


@row("layer_norm")
def _(at: At, x: Tensor) -> Tensor:
    axes = range(x.dim() - at.whole("axes"), x.dim())
    shape = [x.shape[a] for a in axes]
    y = _normal(x, list(axes), at.real("eps"))
    return y * at.params["weight"].reshape(shape) + at.params["bias"].reshape(shape)


@row("rms_norm")
def _(at: At, x: Tensor) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + at.real("eps")) * at.params["weight"]


@row("group_norm")
def _(at: At, x: Tensor) -> Tensor:
    groups = at.whole("groups")
    parts = x.reshape(x.shape[0], groups, -1)
    y = _normal(parts, [2], at.real("eps")).reshape(x.shape)
    shape = [1, -1] + [1] * (x.dim() - 2)
    return y * at.params["weight"].reshape(shape) + at.params["bias"].reshape(shape)


@row("batch_norm")
def _(at: At, x: Tensor) -> Tensor:
    shape = [1, -1] + [1] * (x.dim() - 2)
    axes = [0, *range(2, x.dim())]
    mean, variance = at.params["running_mean"], at.params["running_var"]
    if at.training:
        count = x.numel() // x.shape[1]
        momentum = at.real("momentum")
        here = x.mean(axes)
        spread = ((x - here.reshape(shape)) ** 2).mean(axes)
        unbiased = spread.detach() * count / (count - 1)
        at.updates["running_mean"] = (1 - momentum) * mean + momentum * here.detach()
        at.updates["running_var"] = (1 - momentum) * variance + momentum * unbiased
        at.updates["num_batches_tracked"] = at.params["num_batches_tracked"] + 1
        mean, variance = here, spread
    y = (x - mean.reshape(shape)) / torch.sqrt(variance.reshape(shape) + at.real("eps"))
    if "weight" in at.params:
        y = y * at.params["weight"].reshape(shape) + at.params["bias"].reshape(shape)
    return y


def _arithmetic(function: Callable[..., Tensor]) -> Row:
    def run(at: At, a: Tensor, *b: Tensor) -> Tensor:
        if b:
            return function(a, b[0])
        dim = at.given("number")
        assert isinstance(dim, Dim)
        number = at.value(dim)
        return function(number, a) if at.flag("flipped") else function(a, number)

    return run


for _name, _function in {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
}.items():
    ROWS[_name] = _arithmetic(_function)

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: x.clamp(min=0),
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "swish": lambda x: x * torch.sigmoid(x),
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "hard_sigmoid": lambda x: (x + 3).clamp(0, 6) / 6,
    "hard_swish": lambda x: x * (x + 3).clamp(0, 6) / 6,
    "softmax": lambda x: torch.softmax(x, -1),
    "tanh": torch.tanh,
    "exp": torch.exp,
    "sqrt": torch.sqrt,
    "abs": torch.abs,
}
for _name, _function in _ACTIVATIONS.items():
    ROWS[_name] = lambda at, x, _function=_function: _function(x)


@row("sum_of")
def _(at: At, *xs: Tensor) -> Tensor:
    total = xs[0]
    for x in xs[1:]:
        total = total + x
    return total


@row("mixture")
def _(at: At, weights: Tensor, *xs: Tensor) -> Tensor:
    return torch.einsum("n,n...->...", weights, torch.stack(xs))


@row("dropout")
def _(at: At, x: Tensor) -> Tensor:
    return F.dropout(x, at.real("rate"), at.training)


@row("drop_path")
def _(at: At, x: Tensor) -> Tensor:
    if at.mask is None:
        return x
    return x * at.mask.to(x.dtype).reshape([-1] + [1] * (x.dim() - 1))


# Moving elements.


def _groups(side: str) -> list[list[str]]:
    return [(a or b).split() for a, b in re.findall(r"\(([^)]*)\)|(\S+)", side)]


@row("rearrange")
def _(at: At, x: Tensor) -> Tensor:
    left, right = (_groups(side) for side in at.text("pattern").split("->"))
    spread = [f"...{i}" for i in range(x.dim() - len(left) + 1)]
    left = [[n] for n in spread] + left[1:] if left[0] == ["..."] else left
    right = [[n] for n in spread] + right[1:] if right[0] == ["..."] else right
    given = at.given("sizes")
    sizes = {str(n): at.number(d) for n, d in given}  # type: ignore[union-attr]
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


# Windows of a map.


def _patches(at: At, x: Tensor, fill: float) -> Tensor:
    """[B, C, H, W] -> [B, C, H', W', k*k], padded with `fill`."""
    kernel, stride = at.whole("kernel"), at.whole("stride")
    pad = kernel // 2 if at.given("pad") is None else at.whole("pad")
    x = F.pad(x, (pad, pad, pad, pad), value=fill)
    windows = x.unfold(2, kernel, stride).unfold(3, kernel, stride)
    return windows.flatten(4)


@row("max_pool")
def _(at: At, x: Tensor) -> Tensor:
    return _patches(at, x, -math.inf).amax(-1)


@row("avg_pool")
def _(at: At, x: Tensor) -> Tensor:
    if at.flag("count_pad"):
        return _patches(at, x, 0).mean(-1)
    return _patches(at, x, 0).sum(-1) / _patches(at, torch.ones_like(x), 0).sum(-1)


@row("zero")
def _(at: At, x: Tensor) -> Tensor:
    stride = at.whole("stride")
    return torch.zeros_like(x if stride == 1 else x[:, :, ::stride, ::stride])


# Reading by index, and the index tables.


@row("take")
def _(at: At, table: Tensor, index: Tensor) -> Tensor:
    axis = at.whole("axis") % table.dim()
    found = table.index_select(axis, index.reshape(-1))
    return found.reshape(*table.shape[:axis], *index.shape, *table.shape[axis + 1 :])


@row("gather")
def _(at: At, x: Tensor, index: Tensor) -> Tensor:
    rows = torch.arange(index.shape[0]).unsqueeze(1)
    return x[..., rows, index]


@row("bucket_sum")
def _(at: At, x: Tensor, index: Tensor) -> Tensor:
    columns = F.one_hot(index, at.whole("buckets")).to(x.dtype)
    return torch.einsum("...nm,nmt->...nt", x, columns)


def _table(at: At, entry: Callable[[int, int, int, int], int], skip_entry: int = 0) -> Tensor:
    """The square table of `entry(row i, column i, row j, column j)` over pairs of positions."""
    places = list(product(range(at.whole("h")), range(at.whole("w"))))
    skip = at.whole("skip") if "skip" in at.node.attributes else 0
    side = len(places) + skip
    table = [[skip_entry] * side for _ in range(side)]
    for i, a in enumerate(places):
        for j, b in enumerate(places):
            table[i + skip][j + skip] = entry(*a, *b)
    return torch.tensor(table, dtype=torch.int64).reshape(side, side)


@row("offset_index")
def _(at: At) -> Tensor:
    """Swin's signed offsets, or the absolute ones of LeViT."""
    h, w = at.whole("h"), at.whole("w")
    if at.text("kind") == "absolute":
        return _table(at, lambda a, b, c, d: abs(a - c) * w + abs(b - d))
    return _table(at, lambda a, b, c, d: (a - c + h - 1) * (2 * w - 1) + b - d + w - 1)


@row("clipped_index")
def _(at: At) -> Tensor:
    """AutoFormer's clipped offset of key and query along one axis; 0 for a skipped token."""
    reach, axis = at.whole("reach"), at.whole("axis")
    return _table(
        at, lambda *p: max(-reach, min(reach, p[2 + axis] - p[axis])) + reach + 1, skip_entry=0
    )


@row("bucket_index")
def _(at: At) -> Tensor:
    ratio, method, skip = at.real("ratio"), at.text("method"), at.whole("skip")
    outside = bucket_count(method, ratio, skip) - 1
    return _table(at, lambda a, b, c, d: bucket(method, a - c, b - d, ratio), outside)


@row("shift_mask")
def _(at: At) -> Tensor:
    """-100 between positions of a window that were not neighbours before the cyclic shift."""
    h, w, window, shift = (at.whole(n) for n in ("h", "w", "window", "shift"))

    def part(i: int, n: int) -> int:
        return 0 if i < n - window else 1 if i < n - shift else 2

    masks: list[list[list[list[float]]]] = []
    for y, x in product(range(0, h, window), range(0, w, window)):
        places = product(range(y, y + window), range(x, x + window))
        parts = [(part(i, h), part(j, w)) for i, j in places]
        masks.append([[[0.0 if a == b else -100.0 for b in parts] for a in parts]])
    return torch.tensor(masks)
