"""Other resolutions: every space with one compiles at two more, tables are resized when loading."""

from __future__ import annotations

from math import isqrt

import pytest
import torch
import torch.nn.functional as F
from operator_counter import count, lowered, used_numel
from torch import Tensor

from spacelang.backends.torch import weights
from spacelang.backends.torch.resize import Grid, resized
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Report, SpaceError
from spacelang.ir.verify import verify
from spacelang.loader import load

SIZES: dict[str, list[dict[str, object]]] = {
    "autoformer.space:autoformer_t": [{"image": 192}, {"image": 288}],
    "autoformer.space:autoformer_s": [{"image": 256}, {"image": 384}],
    "deit.space:deit_ti": [{"image": 288}, {"image": 384}, {"image": 160, "across": 224}],
    "deit.space:deit_ti_distilled": [{"image": 192}, {"image": 256}],
    "irpe.space:deit_ti_product_k": [{"image": 192}, {"image": 384}],
    "irpe.space:deit_s_cross_k": [{"image": 160}, {"image": 288}],
    "minivit.space:mini_deit_ti": [{"image": 192}, {"image": 384}],
    "minivit.space:mini_swin_t": [
        {"image": 448},
        {"image": 256, "windows": [8, 8, 8, 8]},
        {"image": 384, "windows": [12, 12, 12, 12]},
    ],
    "swin.space:swin_t": [{"image": 448}, {"image": 256, "windows": [8, 8, 8, 8]}],
    "s3.space:s3_t": [{"image": 448}, {"image": 384, "windows": [12, 12, 24, 12]}],
    "s3.space:s3_start": [
        {"image": 448, "budget": [16 * 10**9, 20 * 10**9]},
        {"image": 896, "budget": [64 * 10**9, 80 * 10**9]},
    ],
    "tinyvit.space:tinyvit_5m": [{"image": 256}, {"image": 320, "windows": [10, 20, 10]}],
    "tinyvit.space:tinyvit_contraction": [{"image": 192, "larger_windows": True}, {"image": 448}],
    "efficientvit.space:efficientvit_m0": [
        *({"image": side} for side in (160, 192, 256, 512)),
    ],
    "efficientvit.space:efficientvit_search": [{"image": 192}, {"image": 256}],
    "cream.space:cream": [{"image": 160}, {"image": 96}],
    "cdarts.space:cifar10": [{"image": 40}, {"image": 48}],
    "cdarts.space:imagenet": [{"image": 256}, {"image": 320}],
    "mobilenetv3.space:mobilenetv3_large": [{"image": 160}, {"image": 256}],
}
EFFICIENTVIT = {192: 2_349_248, 160: 2_349_160, 256: 2_349_436, 512: 2_349_832}


@pytest.mark.parametrize(
    ("address", "options"), [(address, o) for address, found in SIZES.items() for o in found]
)
def test_compiles_at_other_sizes(address: str, options: dict[str, object]) -> None:
    graph = load(address, **options)
    report = Report()
    verify(graph, report)
    report.check()
    shape = [int(size.at({})) for size in graph.root.inputs[0].types[0].shape[2:]]
    assert shape == [options["image"], options.get("across", options["image"])]
    assert graph.size() > 0
    model, cost = lowered(graph), graph.cost(graph.decisions.extreme("largest"))
    assert (used_numel(model), count(model, graph).macs) == (cost.params, cost.macs)
    if address.endswith("efficientvit_m0"):
        assert cost.params == EFFICIENTVIT[shape[0]]


@pytest.mark.parametrize(
    ("address", "options", "message"),
    [
        ("efficientvit.space:efficientvit_m0", {"image": 200}, "image % 16 == 0"),
        ("swin.space:swin_t", {"image": 256}, "36/7|window|whole"),
        ("deit.space:deit_ti", {"image": 200}, "whole|patch"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    address: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(SpaceError, match=message):
        load(address, **options)


def test_a_budget_of_another_size() -> None:
    """That of S3 is a parameter: its default fits 224 pixels, and 448 need another."""
    graph = load("s3.space:s3_start", image=448)
    with pytest.raises(SpaceError, match="SP502"):
        graph.sample(1, seed=0)


# Loading across sizes.


def bicubic(table: Tensor, side: int) -> Tensor:
    """[maps, n * n] to [maps, side * side]."""
    n = isqrt(table.shape[-1])
    maps = table.reshape(1, -1, n, n)
    found = F.interpolate(maps, size=(side, side), mode="bicubic", align_corners=False)
    return found.reshape(-1, side * side)


def positions(before: Tensor, tokens: int, skip: int) -> Tensor:
    """Position embeddings [1, skip + n * n, C], the first tokens kept."""
    side = isqrt(tokens - skip)
    cells = bicubic(before[0, skip:].T, side).T
    return torch.cat([before[0, :skip], cells])[None]


CASES = [
    ("autoformer.space:autoformer_t", {}, {"image": 288}, "pos_embed", 1),
    ("deit.space:deit_ti", {}, {"image": 384}, "pos_embed", 1),
    ("deit.space:deit_ti_distilled", {}, {"image": 192}, "pos_embed", 2),
    ("irpe.space:deit_ti_product_k", {}, {"image": 288}, "pos_embed", 1),
    ("minivit.space:mini_deit_ti", {}, {"image": 384}, "pos_embed", 0),
    ("swin.space:swin_t", {}, {"image": 256, "windows": [8] * 4}, "relative_position_bias_table", -1),
    ("minivit.space:mini_swin_t", {}, {"image": 384, "windows": [12] * 4}, "relative_position_bias_table", -1),
    ("s3.space:s3_t", {}, {"image": 384, "windows": [12, 12, 24, 12]}, "relative_position_bias_table", -1),
    ("tinyvit.space:tinyvit_5m", {}, {"image": 384, "windows": [12, 24, 12]}, "attention_biases", -2),
    ("efficientvit.space:efficientvit_m0", {}, {"image": 192}, "attention_biases", -2),
    ("efficientvit.space:efficientvit_m0", {"image": 192}, {"image": 512}, "attention_biases", -2),
]  # fmt: skip


@pytest.mark.parametrize(("address", "one", "other", "name", "kind"), CASES)
def test_tables_are_resized_when_loading(
    address: str, one: dict[str, object], other: dict[str, object], name: str, kind: int
) -> None:
    """`kind` is the number of tokens before the grid, -1 rows of offsets, -2 columns of cells."""
    source, model = Supernet(load(address, **one), seed=1), Supernet(load(address, **other))
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in source.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=random))
    given = weights.save(source, "published")
    with pytest.raises(SpaceError, match=r"of another shape|other entries|unexpected"):
        weights.load(model, given, "published")
    weights.load(model, given, "published", resize=True)
    found = weights.save(model, "published")
    tables = [e.foreign for e in weights.entries(model.graph, "published") if e.table is None]
    changed = 0
    for key in tables:
        before, after = given[key], found[key]
        if before.shape == after.shape:
            assert torch.equal(before, after), key
            continue
        assert key.endswith(name)
        changed += 1
        if kind >= 0:
            wanted = positions(before, after.shape[1], kind)
        elif kind == -1:
            wanted = bicubic(before.T, isqrt(len(after))).T
        else:
            wanted = bicubic(before, isqrt(after.shape[1]))
        assert torch.equal(wanted, after), key
    assert changed
    with torch.no_grad():
        graph = model.graph
        side = int(graph.root.inputs[0].types[0].shape[-1].at({}))
        result = model.eval()(torch.randn(1, 3, side, side, generator=random))
    assert isinstance(result, Tensor)


def test_a_window_of_seven_in_one_of_twelve() -> None:
    """The published step of Mini-Swin: sides 13 to 23, and masks of the new size."""
    one = Supernet(load("minivit.space:mini_swin_t"))
    other = Supernet(load("minivit.space:mini_swin_t", image=384, windows=[12] * 4))
    weights.load(other, weights.save(one, "published"), "published", resize=True)
    found = weights.save(other, "published")
    assert found["layers.0.blocks.0.attn.relative_position_bias_table"].shape == (23 * 23, 3)
    assert found["layers.0.blocks.0.attn_mask"].shape == (64, 144, 144)


def test_a_square_grid_fills_one_that_is_not() -> None:
    one = Supernet(load("deit.space:deit_ti"))
    other = Supernet(load("deit.space:deit_ti", image=160, across=320))
    weights.load(other, weights.save(one), resize=True)
    before, after = (m.state_dict()["pos_embed"] for m in (one, other))
    maps = before[:, 1:].transpose(1, 2).reshape(1, 192, 14, 14)
    wanted = F.interpolate(maps, size=(10, 20), mode="bicubic", align_corners=False)
    assert torch.equal(after[:, 1:], wanted.flatten(2).transpose(1, 2))
    assert torch.equal(after[:, :1], before[:, :1])


@pytest.mark.parametrize(
    ("shape", "wanted", "grid"),
    [
        ((1, 18, 4), (1, 26, 4), Grid(1, 5, 5, 1)),  # 17 cells are no square
        ((1, 17, 3), (1, 26, 4), Grid(1, 5, 5, 1)),  # other channels
        ((17, 4), (1, 26, 4), Grid(1, 5, 5, 1)),
        ((1, 1, 4), (1, 26, 4), Grid(1, 5, 5, 1)),  # no cell at all
    ],
)
def test_what_cannot_be_a_table_of_another_size(
    shape: tuple[int, ...], wanted: tuple[int, ...], grid: Grid
) -> None:
    assert resized(torch.zeros(shape), wanted, grid) is None


def test_a_table_of_a_constant_stays_one() -> None:
    found = resized(torch.full((2, 49), 3.5), (2, 144), Grid(1, 12, 12))
    assert found is not None
    assert torch.allclose(found, torch.full((2, 144), 3.5))


def test_heads_of_other_classes_are_still_refused() -> None:
    given = weights.save(Supernet(load("deit.space:deit_ti")))
    model = Supernet(load("deit.space:deit_ti", image=384, classes=10))
    with pytest.raises(SpaceError) as failed:
        weights.load(model, given, resize=True)
    (found,) = failed.value.diagnostics
    assert "2 of another shape: head.weight is [1000, 192], not [10, 192]" in found.notes[0]
