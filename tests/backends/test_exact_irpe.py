"""iRPE of every kind over DeiT, against a reference in plain PyTorch with N x N gathers.

The reference follows the specification alone (section 2): it shares nothing with the pass, the bucket
tables or the backend.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import log

import pytest
import torch
import torch.nn.functional as F
from operator_counter import count, lowered, used_numel
from torch import Tensor

from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Source
from spacelang.ir.graph import Graph
from spacelang.loader import load
from spacelang.passes.irpe import Irpe
from spacelang.passes.pipeline import run

METHODS = ("euclidean", "quantised", "cross", "product")
KINDS = [
    (method, mode, shared)
    for method in METHODS
    for mode in ("contextual", "bias")
    for shared in (True, False)
]
WIDTH, HEADS, DEPTH = 12, 3, 2


def sides(mode: str) -> list[tuple[str, ...]]:
    """Every set of queries, keys and values; a bias on values does not exist."""
    letters = "qkv" if mode == "contextual" else "qk"
    return [s for n in range(1, len(letters) + 1) for s in combinations(letters, n)]


# The reference.


def piecewise(x: float, ratio: float) -> int:
    if abs(x) <= ratio:
        return round(x)
    far = min(2 * ratio, round(ratio + log(abs(x) / ratio) / log(8) * ratio))
    return int(far if x > 0 else -far)


def buckets(method: str, h: int, w: int, skip: int, ratio: float) -> tuple[list[Tensor], int]:
    """The matrices of bucket ids, [query, key], and how many buckets a table has."""
    reach = int(2 * ratio)
    side = 2 * reach + 1
    size = side * side if method == "product" else side
    cells = [(y, x) for y in range(h) for x in range(w)]
    count_ = 2 if method == "cross" else 1
    found = [
        torch.full((skip + h * w, skip + h * w), size, dtype=torch.long) for _ in range(count_)
    ]
    for i, (y, x) in enumerate(cells):
        for j, (v, u) in enumerate(cells):
            dr, dc = y - v, x - u
            ids = {
                "euclidean": (piecewise(round((dr * dr + dc * dc) ** 0.5), ratio) + reach,),
                "quantised": (piecewise(dr * dr + dc * dc, ratio) + reach,),
                "cross": (piecewise(dr, ratio) + reach, piecewise(dc, ratio) + reach),
                "product": ((piecewise(dr, ratio) + reach) * side + piecewise(dc, ratio) + reach,),
            }[method]
            for matrix, id_ in zip(found, ids, strict=True):
                matrix[skip + i, skip + j] = id_
    return found, size + (skip > 0)


class Reference:
    """The weights of a network by their paths, and its forward pass."""

    def __init__(self, model: Supernet, heads: int, matrices: list[Tensor]) -> None:
        self.weights = dict(model.named_parameters())
        self.heads, self.matrices = heads, matrices

    def tables(self, where: str, side: str, kind: str) -> list[tuple[Tensor, Tensor]]:
        """Tables of one side of an attention, each with its matrix of ids."""
        parts = ("rp_rows.", "rp_cols.") if len(self.matrices) == 2 else ("",)
        names = [f"{where}.rpe_{side}.{part}lookup_table_{kind}" for part in parts]
        return [
            (self.weights[n], m)
            for n, m in zip(names, self.matrices, strict=True)
            if n in self.weights
        ]

    def attention(self, x: Tensor, where: str) -> Tensor:
        b, n, c = x.shape
        d = c // self.heads
        qkv = F.linear(x, self.weights[f"{where}.qkv.weight"], self.weights[f"{where}.qkv.bias"])
        q, k, v = qkv.reshape(b, n, 3, self.heads, d).permute(2, 0, 3, 1, 4)
        q = q * d**-0.5
        a = q @ k.transpose(-1, -2)
        for table, ids in self.tables(where, "k", "weight"):
            rows = table[:, :, ids].expand(self.heads, -1, -1, -1)  # [h, d, n, n]
            a = a + torch.einsum("bhid,hdij->bhij", q, rows)
        for table, ids in self.tables(where, "q", "weight"):
            rows = table[:, :, ids].expand(self.heads, -1, -1, -1)
            a = a + torch.einsum("bhjd,hdji->bhji", k * d**-0.5, rows).transpose(-1, -2)
        for table, ids in self.tables(where, "k", "bias"):
            a = a + table[:, ids]
        for table, ids in self.tables(where, "q", "bias"):
            a = a + table[:, ids].transpose(-1, -2)
        p = a.softmax(-1)
        o = p @ v
        for table, ids in self.tables(where, "v", "weight"):
            rows = table[:, ids].expand(self.heads, -1, -1, -1)  # [h, n, n, d]
            o = o + torch.einsum("bhij,hijd->bhid", p, rows)
        o = o.transpose(1, 2).reshape(b, n, c)
        return F.linear(o, self.weights[f"{where}.proj.weight"], self.weights[f"{where}.proj.bias"])

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = (self.weights[f"{name}.{w}"] for w in ("weight", "bias"))
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps=1e-6)

    def encoder(self, x: Tensor, where: str) -> Tensor:
        x = x + self.attention(self.norm(x, f"{where}.norm1"), f"{where}.attn")
        h = self.norm(x, f"{where}.norm2")
        for label in ("fc1", "fc2"):
            name = f"{where}.mlp.{label}"
            h = F.linear(h, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])
            h = F.gelu(h) if label == "fc1" else h
        return x + h

    def deit(self, image: Tensor) -> Tensor:
        name = "patch_embed.proj"
        x = F.conv2d(image, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], stride=16)
        x = x.flatten(2).transpose(1, 2)
        if "cls_token" in self.weights:
            x = torch.cat([self.weights["cls_token"].expand(len(x), -1, -1), x], dim=1)
        x = x + self.weights["pos_embed"]
        for i in range(DEPTH):
            x = self.encoder(x, f"blocks.{i}")
        x = self.norm(x, "norm")
        x = x[:, 0] if "cls_token" in self.weights else x.mean(1)
        return F.linear(x, self.weights["head.weight"], self.weights["head.bias"])


def random_model(graph: Graph) -> Supernet:
    model = Supernet(graph).double().eval()
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            spread = 1.0 if "rpe_" in name or name.endswith("qkv.weight") else 0.3
            tensor.add_(spread * torch.randn(tensor.shape, dtype=tensor.dtype, generator=random))
    return model


def agree(found: Tensor | dict[str, Tensor], wanted: Tensor) -> bool:
    assert isinstance(found, Tensor)
    return float((found - wanted).abs().max()) < 1e-11 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("token", [True, False], ids=["token", "grid"])
@pytest.mark.parametrize(("method", "mode", "shared"), KINDS)
def test_every_kind(method: str, mode: str, shared: bool, token: bool) -> None:
    """All sets of sides; the class token has a bucket of its own, without it there is none. The
    space of the file is the pass on DeiT."""
    options = {"token": token, "depth": DEPTH, "image": 80, "classes": 5}
    base = load("deit.space:deit", width=WIDTH, heads=HEADS, **options)
    matrices, rows = buckets(method, 5, 5, int(token), 1.9)
    images = torch.randn(2, 3, 80, 80, dtype=torch.float64, generator=torch.manual_seed(1))
    for on in sides(mode):
        made = run(base, Irpe(method, on=on, mode=mode, shared=shared))
        kind = {"method": method, "on": on, "mode": mode, "shared": shared}
        file = load("irpe.space:irpe_deit", width=WIDTH, heads=HEADS, **kind, **options)
        assert replace(file, name=made.name).hash == made.hash
        model = random_model(made)
        each = (1 if shared else HEADS) * rows * (4 if mode == "contextual" else 1)
        added = made.cost().params - base.cost().params
        assert added == DEPTH * len(on) * len(matrices) * each
        with torch.no_grad():
            found = model(images)
            assert agree(found, Reference(model, HEADS, matrices).deit(images))
            for name, tensor in model.named_parameters():
                tensor.mul_(0 if "rpe_" in name else 1)
            assert not agree(found, model(images))  # tables that are read


MAPS = """
use vit
use deit
space wide {{ input map: [B, {width}, {h}, {w}]
  x = rearrange(map, "b c h w -> b h w c") |> tokens {token}
  output encoder(x, {heads}, 0) as only }}
"""


@pytest.mark.parametrize("token", ["", "|> prepend_token as _"], ids=["grid", "token"])
@pytest.mark.parametrize(("method", "mode", "shared"), KINDS)
def test_maps_that_are_not_square(method: str, mode: str, shared: bool, token: str) -> None:
    """As in a detector: rows and columns come from the map, whatever its shape."""
    for h, w in ((4, 7), (9, 5)):
        text = MAPS.format(width=WIDTH, heads=HEADS, h=h, w=w, token=token)
        base = load(Source("wide.space", text))
        made = run(base, Irpe(method, on=sides(mode)[-1], mode=mode, shared=shared))
        model = random_model(made)
        matrices, _ = buckets(method, h, w, int(bool(token)), 1.9)
        maps = torch.randn(2, WIDTH, h, w, dtype=torch.float64, generator=torch.manual_seed(2))
        reference = Reference(model, HEADS, matrices)
        x = maps.flatten(2).transpose(1, 2)
        if token:
            x = torch.cat([reference.weights["cls_token"].expand(2, -1, -1), x], dim=1)
        with torch.no_grad():
            assert agree(model(maps), reference.encoder(x, "only"))


@pytest.mark.parametrize("ratio", [2.0, 2.5, 3.0])
def test_other_ratios(ratio: float) -> None:
    """The detector's names say how many buckets an axis has: 9, 11, 13."""
    base = load("deit.space:deit", width=WIDTH, heads=HEADS, depth=DEPTH, image=128, classes=5)
    made = run(base, Irpe("product", ratio=ratio, on=("q", "k", "v")))
    model = random_model(made)
    matrices, rows = buckets("product", 8, 8, 1, ratio)
    assert rows == {2.0: 9, 2.5: 11, 3.0: 13}[ratio] ** 2 + 1
    images = torch.randn(1, 3, 128, 128, dtype=torch.float64, generator=torch.manual_seed(1))
    with torch.no_grad():
        assert agree(model(images), Reference(model, HEADS, matrices).deit(images))


def test_a_detector_of_any_shape_and_its_figures() -> None:
    """An image of 160 x 224: tokens of a grid of 10 x 14, without and with buckets of values."""
    base = load("deit.space:deit_ti", token=False, image=160, across=224)
    made = run(base, Irpe("product", on=("q", "k", "v"), shared=False))
    sizes = {"token": False, "image": 160, "across": 224, "shared": False}
    file = load("irpe.space:irpe_deit", width=192, heads=3, on=["q", "k", "v"], **sizes)
    assert replace(file, name=made.name).hash == made.hash
    cost, tokens = made.cost(), 140
    assert cost.params - base.cost().params == 12 * 3 * 3 * 49 * 64
    terms = 12 * 3 * tokens * 64 * (2 * 49 + tokens)
    assert cost.macs - base.cost().macs == terms
    model = lowered(made)
    assert (used_numel(model), count(model, made).macs) == (cost.params, cost.macs)


# Figures of the registered sizes, by the module itself.

ADDED = {  # buckets of a table, tables
    "euclidean": (8, 1),
    "quantised": (8, 1),
    "cross": (8, 2),
    "product": (50, 1),
}


@pytest.mark.parametrize(("method", "mode", "shared"), KINDS)
def test_figures_of_the_module(method: str, mode: str, shared: bool) -> None:
    base = load("deit.space:deit_s")
    rows, tables = ADDED[method]
    for on in sides(mode):
        made = run(base, Irpe(method, on=on, mode=mode, shared=shared))
        model = lowered(made)
        contextual = mode == "contextual"
        one = rows * (64 if contextual else 1) * (1 if shared else 6)
        assert used_numel(model) == 22_050_664 + 12 * len(on) * tables * one
        key = 12 * 6 * 197 * 64 * rows * tables * sum(s in "qk" for s in on)
        value = 12 * 6 * 197 * 197 * 64 * tables * ("v" in on)
        wanted = 4_598_882_304 + (key + value if contextual else 0)
        assert count(model, made).macs == wanted == made.cost().macs
