"""Figures of the specifications beside the golden ones: parts, ablations, other classes and depths."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from operator_counter import count, lowered, used_numel

from spacelang.ir.graph import Graph
from spacelang.loader import load


def params(address: str, **options: object) -> int:
    """By the closed form, and by the module."""
    graph = load(address, **options)
    found = graph.cost().params
    assert used_numel(lowered(graph)) == found
    return found


def stored(graph: Graph, *prefixes: str) -> int:
    """Elements of all weights below some paths."""
    return sum(
        s.numel
        for path, s in graph.storages.items()
        if s.param.role == "weight" and path.startswith(prefixes)
    )


# MiniViT: how often a layer is used, and what that saves.


@pytest.mark.parametrize(
    ("every", "wanted"),
    [(1, 86_607_208), (2, 44_098_408), (3, 29_928_808), (4, 22_844_008), (6, 15_759_208), (12, 8_674_408)],
)  # fmt: skip
def test_sharing_in_mini_deit(every: int, wanted: int) -> None:
    """The published code cannot build the unshared twin; the pass can."""
    assert params("minivit.space:mini_deit_b", every=every) == wanted


def test_unshared_twins_of_mini_deit() -> None:
    assert params("minivit.space:mini_deit_ti", every=1) == 5_754_880
    assert params("minivit.space:mini_deit_s", every=1) == 22_088_392


@pytest.mark.parametrize(
    ("size", "every", "wanted"),
    [
        ("t", [2, 2, 6, 2], 12_001_765),
        ("t", [2, 2, 2, 2], 15_551_677),
        ("t", [1, 1, 1, 1], 28_522_474),
        ("b", [2, 2, 2, 2], 46_444_852),
        ("b", [2, 2, 6, 2], 27_526_612),
        ("b", [2, 2, 18, 2], 21_220_532),
        ("b", [1, 1, 1, 1], 88_408_272),
    ],
)
def test_sharing_in_mini_swin(size: str, every: list[int], wanted: int) -> None:
    assert params(f"minivit.space:mini_swin_{size}", every=every) == wanted


def test_parts_of_mini_deit() -> None:
    graph = load("minivit.space:mini_deit_ti")
    parts = {
        "pos_embed": 37_632,
        "patch_embed": 147_648,
        "norm": 384,
        "head": 193_000,
    }
    assert {name: stored(graph, name) for name in parts} == parts
    blocks: dict[str, int] = {}
    for path, storage in graph.storages.items():
        if path.startswith("blocks["):
            label = path.split(".", 1)[1].rsplit(".", 1)[0]
            blocks[label] = blocks.get(label, 0) + storage.numel
    assert blocks["norm1"] + blocks["norm2"] == 9_216
    assert (blocks["attn.qkv"], blocks["attn.proj"]) == (667_008, 222_336)
    assert blocks["attn.rpe_k"] == 37_632
    assert blocks["attn.conv_l"] + blocks["attn.conv_w"] == 216
    assert blocks["mlp.fc1"] + blocks["mlp.fc2"] == 1_775_232


# TinyViT: other numbers of classes, and its stages.


@pytest.mark.parametrize(
    ("size", "many", "stages"),
    [
        ("5m", 12_082_725, (98_944, 448_232, 2_030_520, 2_473_940)),
        ("11m", 20_354_581, (98_944, 501_896, 5_086_976, 4_839_772)),
        ("21m", 33_223_825, (216_000, 1_121_484, 11_247_840, 7_992_036)),
    ],
)
def test_parts_of_tinyvit(size: str, many: int, stages: tuple[int, ...]) -> None:
    address = f"tinyvit.space:tinyvit_{size}"
    assert params(address, classes=21_841) == many
    graph = load(address)
    assert tuple(stored(graph, f"layers[{s}]") for s in range(4)) == stages


# EfficientViT: its parts.


@pytest.mark.parametrize(
    ("name", "stem", "blocks", "head", "tables"),
    [
        ("m0", 24_648, (44_548, 496_392, 1_590_464), 193_384, 780),
        ("m2", 97_680, (162_564, 1_239_558, 2_462_304), 225_448, 586),
        ("m3", 97_680, (162_692, 1_741_526, 4_577_184), 321_640, 682),
        ("m5", 219_096, (359_267, 3_550_665, 7_958_976), 385_768, 844),
    ],
)
def test_parts_of_efficientvit(
    name: str, stem: int, blocks: tuple[int, ...], head: int, tables: int
) -> None:
    graph = load(f"efficientvit.space:efficientvit_{name}")
    assert stored(graph, "patch_embed") == stem
    assert tuple(stored(graph, f"stages[{s}]") for s in range(3)) == blocks
    assert stored(graph, "head") == head
    biases = [s.numel for p, s in graph.storages.items() if p.endswith("attention_biases")]
    assert sum(biases) == tables
    distilled = {"m0": 2_542_820, "m2": 4_413_002, "m3": 7_222_362, "m5": 12_859_540}
    assert params(f"efficientvit.space:efficientvit_{name}", distilled=True) == distilled[name]


# S3: stages with their merging.


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("s3_t", (299_190, 1_188_204, 11_881_992, 14_183_856)),
        ("s3_s", (302_550, 1_194_924, 33_280_536, 14_183_856)),
        ("s3_b", (299_190, 1_188_204, 54_679_080, 14_183_856)),
    ],
)
def test_stages_of_s3(name: str, stages: tuple[int, ...]) -> None:
    graph = load(f"s3.space:{name}")
    assert tuple(stored(graph, f"layers[{s}]") for s in range(4)) == stages


# AutoFormer: other choices.


def test_other_heads_of_autoformer() -> None:
    graph = load("autoformer.space:autoformer_b", head_counts={9, 10})
    assert graph.size() == 10_108_977_168_384


# Cream: each choice of each block, and paths of one choice.

CHOICES = ("k3e4", "k3e6", "k5e4", "k5e6", "k7e4", "k7e6")
BLOCKS = {  # stage: choices of its first block, and of each later one
    1: ((5568, 9864, 6592, 11400, 8128, 13704), (10632, 20536, 12168, 22840, 14472, 26296)),
    2: ((12200, 22872, 13736, 25176, 16040, 28632), (27960, 53424, 30520, 57264, 34360, 63024)),
    3: ((34440, 63104, 37000, 66944, 40840, 72704), (107120, 199000, 112240, 206680, 119920, 218200)),
    4: ((112272, 206712, 117392, 214392, 125072, 225912), (153120, 284880, 159264, 294096, 168480, 307920)),
    5: ((190176, 340368, 196320, 349584, 205536, 363408), (601152, 1122720, 613440, 1141152, 631872, 1168800)),
}  # fmt: skip
PATHS = [
    (4_809_776, 283_918_336), (7_439_768, 419_413_376), (4_909_104, 319_041_536),
    (7_588_760, 472_098_176), (5_058_096, 371_726_336), (7_812_248, 551_125_376),
]  # fmt: skip


def test_blocks_of_cream() -> None:
    graph = load("cream.space:cream")
    for stage, (first, later) in BLOCKS.items():
        for block, wanted in ((0, first), (1, later)):
            found = tuple(stored(graph, f"blocks[{stage}][{block}].op.{c}.") for c in CHOICES)
            assert found == wanted
    assert (stored(graph, "blocks[0]"), stored(graph, "blocks[6]")) == (744, 62_080)
    statistics = [s.numel for p, s in graph.storages.items() if "running_" in p]
    assert sum(statistics) == 218_272


def test_uniform_paths_of_cream() -> None:
    """Of the published supernet, whose 21st block nothing runs."""
    graph = load("cream.space:cream", depths=[4, 4, 4, 4, 4])
    assert stored(graph, "") == 28_841_912
    model = lowered(graph)
    for choice, (wanted, macs) in zip(CHOICES, PATHS, strict=True):
        assignment = dict.fromkeys(graph.decisions, choice)
        cost = graph.cost(assignment)
        assert (cost.params, cost.macs) == (wanted, macs)
        assert count(model.activate(assignment), graph).macs == macs


@pytest.mark.parametrize(
    ("depths", "wanted"),
    [
        ([2, 4, 5, 4, 4], 29_595_185), ([2, 2, 5, 4, 3], 23_782_945), ([1, 1, 3, 3, 3], 20_115_369),
        ([1, 1, 3, 2, 1], 8_189_337), ([1, 1, 1, 1, 1], 4_895_257), ([4, 4, 5, 4, 4], 29_809_073),
    ],
)  # fmt: skip
def test_supernets_of_cream(depths: list[int], wanted: int) -> None:
    """With the meta layer of the search, 4,001 parameters."""
    assert stored(load("cream.space:cream", depths=depths), "") + 4_001 == wanted


# CDARTS: other classes, the search network and the heads inside.


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("cdarts_cifar", 3_911_248), ("cdarts_imagenet_cell", 4_721_464), ("dartsv1", 3_221_344),
        ("dartsv2", 3_401_272), ("pcdarts_cifar", 3_686_608), ("pcdarts_imagenet", 3_773_440),
    ],
)  # fmt: skip
def test_hundred_classes(name: str, wanted: int) -> None:
    found = load(f"cdarts.space:cifar10_{name}", classes=100)
    assert found.cost().params == wanted
    assert found.cost().macs - load(f"cdarts.space:cifar10_{name}").cost().macs == 51_840


def test_auxiliary_heads() -> None:
    sizes: dict[Callable[[], Graph], int] = {
        lambda: load("cdarts.space:cifar10_dartsv2"): 476_426,
        lambda: load("cdarts.space:cifar10_dartsv2", classes=100): 545_636,
        lambda: load("cdarts.space:imagenet_dartsv2"): 1_260_776,
    }
    for make, wanted in sizes.items():
        assert stored(make(), "aux_head") == wanted


@pytest.mark.parametrize(
    ("large", "stem", "cells", "classifier", "heads"),
    [
        (False, 1_392, 1_926_656, 2_570, (417_290, 433_674)),
        (True, 3_752, 1_925_120, 257_000, (1_178_600, 1_194_984)),
    ],
    ids=["cifar", "imagenet"],
)
def test_search_networks_of_cdarts(
    large: bool, stem: int, cells: int, classifier: int, heads: tuple[int, int]
) -> None:
    options = {"stem": 16, "image": 224, "classes": 1000, "large": True} if large else {}
    graph = load("cdarts.space:cifar10_search", **options)
    assert stored(graph, "feature_extractor") == stem
    assert stored(graph, "nas_layers") == cells
    assert stored(graph, "fc.") == classifier
    assert tuple(stored(graph, f"distill_aux_head{i}") for i in (1, 2)) == heads
