"""Small spaces for tests of backends, and what every backend is compared with."""

from __future__ import annotations

import random
from functools import cache

import torch
from torch import Tensor

from spacelang.backends.torch.inputs import input_of
from spacelang.backends.torch.reference.interpret import interpret
from spacelang.backends.torch.storage import tensor_names
from spacelang.backends.torch.subnets.proof import relative
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Source
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.loader import load

# AutoFormer itself on images of 32: widths stored wider, flat biases, relative tables, drop path.
BLOCKS = {  # of the systems that have batch norms
    "efficientvit": """use efficientvit
space t { input x: [B, 8, 2, 3]
  output merging(stage_block(x, 2, [3, 5], 3, true) as blocks[0], 4) as merge }""",
    "tinyvit": """use tinyvit
space t { input x: [B, 4, 5, 5]  output merging(mbconv(x, 2, 0.5) as blocks[0], 8) as merge }""",
    "cream": """use cream
space t { input x: [B, 4, 5, 5]
  output separable(mbconv(x, 8, 5, 2, 2) as blocks[0]) as blocks[1] }""",
}
VIT = """
use autoformer
space vit = autoformer({8, 12}, 1..3, {1, 2}, {1, 1.5, 2}, stored: 16, image: 32, classes: 5)
"""

# Paths, centred kernels, separate and tied storage, a size that copies, batch norm, two outputs.
CONVOLUTIONS = """
block mixing(x: [B, C, H, W], out) -> [B, out, H, W] {
  choose kernel in {3, 5}
  choose expand in {1, 2}
  h = conv(x, C * expand) as pw |> batch_norm as bn1 |> swish
  h = conv(h, C * expand, kernel, groups: C * expand) as dw |> batch_norm as bn2 |> relu
  return conv(h, out) as pwl |> batch_norm as bn3
}

block layer(x: [B, C, H, W]) -> [B, C, H, W] {
  return choose op {
    mix: x + drop_path(mixing(x, C) as _, 0.2)
    plain: conv(x, C, 3, bias: true) as c |> hard_swish
    pool: avg_pool(x, 3)
    skip: x
  }
}

space convolutions {
  input pixels: [B, 3, 8, 8]
  choose width in {4, 6, 8}
  choose depth in 1..3
  choose head in {6, 10}
  choose extra in {false, true}
  x = conv(pixels, width, 3, stride: 2) as stem |> batch_norm as stem_norm
  for i in 0..<depth { x = layer(x) as layers[i] }
  when extra { x = relu(conv(x, width, 3) as late) }
  output auxiliary: mean(x, axes: [2, 3]) |> linear(3) as side
  y = rearrange(x, "b c (h p) (w q) -> b h w (p q) c", p: 2, q: 2) |> layer_norm(axes: 2) as norm
  y = mean(linear(y, head, axes: 2) as merge, axes: [1, 2])
  output linear(tanh(y), 5) as head_out

  weights {
    _: entangle
    layers[_].op.mix.kernel: entangle(centre)
    head: separate
  }
}
"""

# Consecutive layers read one set of weights, and a cell takes its decisions once for all its uses.
SHARED = """
block unit(x: [B, C, H, W]) -> [B, C, H, W] {
  return choose op {
    small: conv(x, C) as c
    large: conv(x, C, 3) as c |> batch_norm as bn
    skip: x
  }
}
cell pair(a, b) {
  choose inputs in 2 of [a, b, a + b]
  return total(inputs) |s, source, e| { return unit(s) as edge[e] }
}
block layer(x: [B, C, H, W]) -> [B, C, H, W] {
  choose kernel in {3, 5}
  return conv(x, C, kernel) as kept |> batch_norm as own |> swish
}
space shared {
  input x: [B, 3, 6, 6]
  for i in 0..3 { x = layer(x) as layers[i] }
  x = pair(x, relu(x)) as cells[0] |> pair(x) as cells[1]
  output mean(x, axes: [2, 3]) |> linear(4) as head
  weights { _: entangle }
  rewrite { multiplex(layers, every: 2, own: [own]) }
}
"""

# A tensor for each candidate, of its size: alone, of two decisions, beside slices, tied.
SEPARATE = """
block layer(x: [B, C, H, W]) -> [B, C, H, W] {
  choose kernel in {3, 5}
  choose expand in {1, 2, 3}
  h = conv(x, C * expand, kernel, bias: true) as up |> batch_norm as bn |> relu
  return x + conv(h, C) as down
}
space separated {
  input pixels: [B, 3, 8, 8]
  choose width in {4, 6, 8}
  choose mix in {2, 4}
  x = conv(pixels, width, 3, stride: 2) as stem
  for i in 0..2 { x = layer(x) as layers[i] }
  x = mean(x, axes: [2, 3]) |> layer_norm as norm
  x = linear(linear(x, [mix, 3]) as grouped, width, axes: 2) as back
  output linear(x, 5) as head
  weights {
    _: separate
    layers[_].kernel: entangle(centre)
    mix: entangle
    layers[1..2]: tie
  }
}
"""

# Tables read through index tables: a grid's distances, its signed offsets, bands, beside heads.
GATHERED = """
block attention(x: [B, N, C], side) -> [B, N, C] {
  choose heads in {1, 2, 3}
  choose reach in {1, 2, 3}
  q, k, v = linear(x, [3, heads, 4]) as qkv |> rearrange("b n three h d -> three b h n d") |> unstack(axis: 0)
  bias = take(parameter([heads, side * side], init: normal(0.1)) as distances,
              offset_index(side, side, kind: "absolute"), axis: 1)
  scores = einsum(q, k, "b h n d, b h m d -> b h n m") / 2 + bias
  band = parameter([heads, 4, 2 * reach + 2], init: normal(0.1)) as band
  along = mean(einsum(q, band, "b h n d, h d r -> b h n r"), axes: [3])
  y = einsum(softmax(scores), v, "b h n m, b h m d -> b h n d") * rearrange(along, "b h n -> b h n 1")
  return linear(rearrange(y, "b h n d -> b n (h d)"), C) as proj
}
block shift(x: [B, C]) -> [B, C] {
  choose reach in {1, 2, 3}
  return x + linear(x, C) * rearrange(mean(parameter([2 * reach + 2, C], init: normal(0.1)) as t, axes: [0]), "c -> 1 c")
}
space gathered {
  input x: [B, 9, 6]
  choose part in {1, 3}
  choose side in {2, 3}
  choose deep in {false, true}
  offsets = parameter([(2 * part + 1) * (2 * part + 1) + 1, 6], init: normal(0.1)) as offsets
  y = attention(x[:, 0..<side * side], side) as first
  when deep { y = attention(y[:, 0..<4], 2) as second |> mean(axes: [1]) |> rearrange("b c -> b 1 c")
              |> expand([B, side * side, 6]) }
  y = mean(y, axes: [1]) + rearrange(mean(offsets, axes: [0]), "c -> 1 c")
  for i in 0..1 { y = shift(y) as shifts[i] }
  y = linear(y, [2, side * side]) as grid
  a, b = linear(mean(y, axes: [2]), [2, side * side]) as taken |> unstack(axis: 1)
  output linear(mean(a * b, axes: [1]) |> rearrange("b -> b 1"), 5) as head
  weights {
    _: entangle
    part: entangle(square)
    side: entangle(corner)
    _.reach: entangle(band)
    shifts[_]: tie
  }
}
"""

# A block whose sizes are whole under a condition of its uses alone.
THIRDS = """
block third(x: [B, C]) -> [B, C] { return linear(x, C / 3) as down |> linear(C) as up }
space s {
  input x: [B, 5]
  choose width in {4, 6, 9}
  x = linear(x, width) as stem
  when width % 3 == 0 { x = x + third(x) as three }
  output linear(x, 2) as head
  weights { _: separate }
}
"""

# Sizes that are whole under a condition alone.
CONDITIONED = """
block thirds(x: [B, C]) -> [B, C] {
  y = rearrange(x, "b (g c) -> b c g", g: 3) |> linear(3) as fc
  y = einsum("bcg,bdg->bcd", y, y) |> softmax
  y = einsum("bcd,bdg->bcg", y, rearrange(x, "b (g c) -> b c g", g: 3))
  return rearrange(y, "b c g -> b (g c)") |> linear(C) as out
}
space conditioned {
  input x: [B, 5]
  choose width in {4, 6, 9}
  x = linear(x, width) as up
  when width % 3 == 0 { x = x + thirds(x) as three }
  output linear(x, 2) as head
  weights { _: entangle }
}
"""


@cache
def graph(text: str) -> Graph:
    return load(Source("<test>", text))


def supernet(text: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Supernet:
    return trained(graph(text), dtype, seed)


def trained(space: Graph, dtype: torch.dtype = torch.float64, seed: int = 0) -> Supernet:
    """A supernet whose every weight matters: norms and biases are moved off their first values."""
    model = Supernet(space, seed=seed)
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return model.to(dtype)


def architectures(space: Graph, count: int, seed: int = 0) -> list[Assignment]:
    """The largest, the smallest, and random ones."""
    draw = random.Random(seed)
    choices = space.decisions.values()
    found = [space.decisions.extreme("largest"), space.decisions.extreme("smallest")]
    for _ in range(count):
        values = {choice.path: draw.choice(choice.values) for choice in choices}
        found.append(space.decisions.assignment(values))
    return found


def inputs(space: Graph, batch: int = 2, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    found: list[Tensor] = []
    for node in space.root.inputs:
        read = input_of(node)
        shape = [batch if isinstance(size, str) else size for size in read.sizes]
        if read.within is None:
            found.append(torch.randn(shape, generator=generator, dtype=dtype))
        else:
            found.append(read.draw(generator, batch))
    return found


def tensors(model: Supernet) -> dict[str, Tensor]:
    """The parameters and buffers of a supernet as the interpreter names them."""
    return {
        f"{path}.{i}" if storage.bank else path: model.stored_tensor(path, i)
        for path, storage in model.graph.storages.items()
        for i in range(len(tensor_names(storage)))
    }


def reference(
    model: Supernet, images: list[Tensor], assignment: Assignment, seed: int | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Outputs of the interpreter, the weights that it read (for gradients), and those it left."""
    before = {name: tensor.detach().clone() for name, tensor in tensors(model).items()}
    for name, tensor in tensors(model).items():
        before[name].requires_grad_(tensor.requires_grad)
    after = dict(before)
    return interpret(model.graph, after, images, assignment, seed=seed), before, after


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-11) -> bool:
    return relative(found.detach(), wanted.detach()) <= tolerance
