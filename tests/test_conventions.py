"""`cost --convention`: what the counters of the publications print, to the last digit.

The figures come from running those counters (fvcore 0.1.5, thop 0.1.1, the publications' own
`flops()` and `get_complexity`) on the published code.
"""

from __future__ import annotations

import pytest
from command import TINY, data, good, refused

from spacelang.analysis.conventions import CONVENTIONS, counted
from spacelang.diagnostics import SpaceError
from spacelang.ir.figures import FIGURES
from spacelang.loader import load

GOLDEN = {
    "operators": {"autoformer.space:autoformer_t_subnet": 1_481_938_432},
    "convolutions": {
        "cream.space:cream_14m": 11_908_608,
        "cream.space:cream_43m": 39_375_232,
        "cream.space:cream_114m": 108_343_680,
        "cream.space:cream_481m": 459_118_080,
        "cdarts.space:cifar10_cdarts_cifar": 590_063_616,
        "cdarts.space:imagenet_cdarts_imagenet_cell": 712_176_192,
    },
    "layers": {
        "efficientvit.space:efficientvit_m0": 76_845_696,
        "efficientvit.space:efficientvit_m2": 197_842_656,
        "efficientvit.space:efficientvit_m3": 259_140_352,
        "efficientvit.space:efficientvit_m5": 516_399_184,
    },
    "fvcore": {
        "tinyvit.space:tinyvit_5m": 1_270_417_280,
        "tinyvit.space:tinyvit_11m": 2_033_095_680,
        "tinyvit.space:tinyvit_21m": 4_275_734_016,
        "tinyvit.space:tinyvit_21m_384": 13_772_517_696,
        "minivit.space:mini_deit_ti": 1_281_693_312,
        "minivit.space:mini_deit_s": 4_660_881_408,
        "minivit.space:mini_deit_b": 17_711_741_952,
        "minivit.space:mini_deit_b_384": 56_840_189_952,
        "deit.space:deit_ti": 1_258_411_200,
        "deit.space:deit_s": 4_608_338_304,
        "deit.space:deit_b": 17_582_740_224,
        "deit.space:deit_b_384": 55_539_742_464,
    },
    "cream": {
        "cream.space:cream_14m": 13_842_176,
        "cream.space:cream_43m": 42_402_240,
        "cream.space:cream_114m": 114_476_480,
        "cream.space:cream_481m": 481_575_488,
    },
    "efficientvit": {
        "efficientvit.space:efficientvit_m0": 80_826_752,
        "efficientvit.space:efficientvit_m2": 203_754_816,
        "efficientvit.space:efficientvit_m3": 265_661_152,
        "efficientvit.space:efficientvit_m5": 526_075_808,
    },
    "thop": {
        "cream.space:cream_14m": 14_418_176,
        "cream.space:cream_43m": 43_921_984,
        "cream.space:cream_114m": 118_689_344,
        "cream.space:cream_481m": 499_435_520,
        "cdarts.space:cifar10_cdarts_cifar": 614_326_464,
        "cdarts.space:cifar10_cdarts_imagenet_cell": 761_413_824,
        "cdarts.space:cifar10_dartsv1": 520_959_168,
        "cdarts.space:cifar10_dartsv2": 549_851_328,
        "cdarts.space:cifar10_pcdarts_cifar": 578_549_952,
        "cdarts.space:cifar10_pcdarts_imagenet": 593_286_336,
        "cdarts.space:imagenet_cdarts_imagenet_cell": 735_853_440,
        "cdarts.space:imagenet_cdarts_cifar": 617_839_488,
        "cdarts.space:imagenet_dartsv1": 521_435_712,
        "cdarts.space:imagenet_dartsv2": 546_508_032,
        "cdarts.space:imagenet_pcdarts_cifar": 588_524_160,
        "cdarts.space:imagenet_pcdarts_imagenet": 599_578_560,
    },
    "swin": {
        "swin.space:swin_t": 4_494_405_120,
        "swin.space:swin_s": 8_746_520_064,
        "swin.space:swin_b": 15_438_473_216,
        "swin.space:swin_b_384": 47_105_253_376,
        "swin.space:swin_l": 34_487_049_216,
        "minivit.space:mini_swin_t": 4_599_097_344,
        "minivit.space:mini_swin_b": 15_712_032_768,
        "minivit.space:mini_swin_b_384": 48_581_582_848,
        "s3.space:s3_t": 4_627_170_816,
        "s3.space:s3_s": 9_410_348_544,
        "s3.space:s3_b": 13_662_463_488,
    },
    "autoformer": {
        "autoformer.space:autoformer_t_subnet": 1_344_034_362,
        "autoformer.space:autoformer_s_subnet": 4_892_144_730,
        "autoformer.space:autoformer_b_subnet": 11_236_929_660,
    },
}
ROWS = [(name, address) for name, rows in GOLDEN.items() for address in rows]


def test_every_convention_has_a_golden_figure() -> None:
    assert GOLDEN.keys() == CONVENTIONS.keys()


@pytest.mark.parametrize(("name", "address"), ROWS)
def test_published_figure(name: str, address: str) -> None:
    graph = load(address)
    assert counted(graph, graph.decisions.check({}), name) == GOLDEN[name][address]


# Width, depth, heads and ratio of all layers -> parameters, and what the published code counts.
ENDS = {
    "T min": ((192, 12, 3, 3.5), 5_366_056, 1_225_422_264),
    "T max": ((240, 14, 4, 4), 10_517_272, 2_340_356_964),
    "T whole": ((256, 14, 4, 4), 11_669_224, 2_567_412_892),
    "S min": ((320, 12, 5, 3), 13_057_320, 2_860_660_088),
    "S max": ((448, 14, 7, 4), 34_790_440, 7_342_476_988),
    "B min": ((528, 14, 8, 3), 39_792_856, 8_399_076_180),
    "B max": ((624, 16, 10, 4), 76_882_264, 15_971_697_192),
    "B whole": ((640, 16, 10, 4), 80_160_360, 16_619_678_944),
}


@pytest.mark.parametrize("name", ENDS)
def test_ends_of_the_supernets_of_autoformer(name: str) -> None:
    """The smallest and largest networks of each, and whole supernets, which are wider."""
    (width, depth, heads, ratio), params, macs = ENDS[name]
    counts = {heads, heads + 1}  # its rule for biases wants candidates
    one = {"widths": {width}, "depths": {depth}, "head_counts": counts, "ratios": {ratio}}
    graph = load("autoformer.space:autoformer", stored=width, **one)
    values = graph.decisions.check(graph.decisions.extreme("smallest"))
    assert graph.cost(values).params == params
    assert counted(graph, values, "operators") == graph.cost(values).macs
    assert counted(graph, values, "autoformer") == macs


@pytest.mark.parametrize(
    ("op", "macs", "by_cream"),
    [
        ("k3e4", 283_918_336, 299_507_392),
        ("k3e6", 419_413_376, 441_468_864),
        ("k5e4", 319_041_536, 334_630_592),
        ("k5e6", 472_098_176, 494_153_664),
        ("k7e4", 371_726_336, 387_315_392),
        ("k7e6", 551_125_376, 573_180_864),
    ],
)
def test_paths_of_one_operation(op: str, macs: int, by_cream: int) -> None:
    """The published supernet runs twenty of its blocks: the last of the third stage is left out."""
    graph = load("cream.space:cream", depths=[4, 4, 4, 4, 4])
    values = graph.decisions.check(dict.fromkeys(graph.decisions, op))
    assert counted(graph, values, "operators") == macs
    assert counted(graph, values, "cream") == by_cream


def test_command_line() -> None:
    address = "cream.space:cream_14m"
    found = data("cost", address, "--convention", "cream")
    assert found["convention"] == "cream"
    assert found["macs"] == GOLDEN["cream"][address]
    plain = data("cost", address)
    assert {f: plain[f] for f in FIGURES if f != "macs"} == {
        f: found[f] for f in FIGURES if f != "macs"
    }
    assert "convention" not in plain
    assert "13,842,176" in good("cost", address, "--convention", "cream")


def test_unknown_name_lists_those_there_are() -> None:
    told = refused("cost", TINY, "--convention", "fvcor")
    assert "SP604" in told
    assert "did you mean fvcore?" in told
    assert all(name in told for name in CONVENTIONS)


def test_formula_of_another_kind_of_network_is_refused() -> None:
    for name in ("swin", "autoformer"):
        assert "SP601" in refused("cost", "cream.space:cream_14m", "--convention", name)
    graph = load("deit.space:deit_ti")
    with pytest.raises(SpaceError, match="does not fit"):
        counted(graph, {}, "swin")


def test_rows_of_ops_take_no_convention() -> None:
    assert "--per-op" in refused("cost", TINY, "--per-op", "--convention", "thop")
