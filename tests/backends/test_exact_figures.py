"""Every golden figure three ways: the closed form, the elements of the module, its operators.

The module is the graph as written: no pass has run on it. Its operators are counted by PyTorch's
own dispatcher on the meta device (`operator_counter.py`), which knows nothing of graphs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import command
import pytest
import torch
from operator_counter import OperatorCounter, count, lowered, used_numel
from torch import nn

from spacelang.diagnostics import SpaceError
from spacelang.ir.graph import Graph
from spacelang.loader import load
from spacelang.passes.pipeline import run

FIGURES: Mapping[str, Mapping[str, int | str]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "figures.json").read_text()
)
NETWORKS = [address for address, figures in FIGURES.items() if "params" in figures]
SUPERNETS = [address for address, figures in FIGURES.items() if "params" not in figures]
SEARCHED = [
    *SUPERNETS,
    *("s3.space:s3_start", "tinyvit.space:tinyvit_contraction", "cdarts.space:cifar10"),
    *("efficientvit.space:efficientvit_search", "cdarts.space:imagenet"),
]


@pytest.mark.parametrize("address", NETWORKS)
def test_networks(address: str) -> None:
    """Parameters and multiply-accumulates; a figure that is given is met by both."""
    graph, wanted = load(address), FIGURES[address]
    model, cost = lowered(graph), graph.cost()
    found = {"params": used_numel(model), "macs": count(model, graph).macs}
    assert found == {"params": cost.params, "macs": cost.macs}
    assert found.items() >= wanted.items()


@pytest.mark.parametrize("address", SUPERNETS)
def test_supernets(address: str) -> None:
    """Storage of the whole space, and its smallest and largest networks cut out of it."""
    graph = load(address)
    model = lowered(graph)
    found = {"supernet_params": sum(p.numel() for p in model.parameters())}
    for end in ("smallest", "largest"):
        assignment = graph.decisions.extreme(end)
        numel = used_numel(model.activate(assignment))
        assert numel == graph.cost(assignment).params
        found["min_params" if end == "smallest" else "max_params"] = numel
    wanted = {name: number for name, number in FIGURES[address].items() if name != "size"}
    assert found.items() >= wanted.items()


@pytest.mark.parametrize("address", SEARCHED)
def test_networks_of_searched_spaces(address: str) -> None:
    graph = load(address)
    model = lowered(graph)
    for assignment in graph.sample(3, seed=5):
        cost = graph.cost(assignment)
        assert count(model.activate(assignment), graph).macs == cost.macs
        assert used_numel(model) == cost.params


# Figures of the specifications beside those of the table.

OTHERS = {
    "autoformer.space:autoformer_b_subnet": (53_691_688, 11_691_179_008),
    "s3.space:s3_s": (49_737_298, None),
    "s3.space:s3_t_subnet": (28_328_674, 4_623_332_352),
    "minivit.space:mini_deit_s": (11_450_824, 4_651_473_408),
    "minivit.space:mini_swin_s": (26_463_205, None),
    "deit.space:deit_b_384": (86_859_496, 55_484_350_464),
    "swin.space:swin_b_384": (87_903_584, 47_083_134_976),
    "swin.space:swin_l": (196_532_476, 34_475_759_616),
    "irpe.space:deit_s_product_qk": (22_127_464, 4_689_659_904),
    "cream.space:cream_287m": (6_044_368, None),
    "cream.space:cream_604m": (9_695_624, None),
    "cdarts.space:cifar10_pdarts": (None, None),
    "cdarts.space:imagenet_pdarts": (None, None),
    "efficientvit.space:efficientvit_m1": (None, None),
    "efficientvit.space:efficientvit_m4": (None, None),
    "tinyvit.space:tinyvit_21m_512": (None, None),
    "tinyvit.space:tinyvit_11m_found": (10_996_972, 2_016_046_144),
}


@pytest.mark.parametrize("address", OTHERS)
def test_networks_of_the_specifications(address: str) -> None:
    graph = load(address)
    model, cost = lowered(graph), graph.cost()
    assert (used_numel(model), count(model, graph).macs) == (cost.params, cost.macs)
    params, macs = OTHERS[address]
    assert params in (None, cost.params)
    assert macs in (None, cost.macs)


@pytest.mark.parametrize(
    ("name", "dense", "depthwise", "pointwise", "attention"),
    [
        ("m0", 13_547_520, 1_604_736, 61_501_440, 2_347_904),
        ("m2", 48_771_072, 2_223_072, 146_624_512, 3_193_056),
        ("m3", 48_771_072, 2_507_008, 207_542_272, 3_521_856),
        ("m5", 105_670_656, 3_584_080, 406_760_448, 5_183_920),
    ],
)
def test_shares_of_efficientvit(
    name: str, dense: int, depthwise: int, pointwise: int, attention: int
) -> None:
    graph = load(f"efficientvit.space:efficientvit_{name}")
    found = count(lowered(graph), graph).by_kind
    wanted = {"dense": dense, "depthwise": depthwise, "pointwise": pointwise, "bmm": attention}
    assert {kind: found[kind] for kind in wanted} == wanted


@pytest.mark.parametrize(
    ("name", "convolutions", "linear", "attention"),
    [
        ("5m", 368_382_784, 790_290_944, 96_500_992),
        ("11m", 404_459_328, 1_469_601_280, 141_985_536),
        ("21m", 872_996_544, 3_165_276_672, 212_056_320),
        ("21m_384", 2_565_540_864, 9_300_920_832, 1_831_403_520),
    ],
)
def test_shares_of_tinyvit(name: str, convolutions: int, linear: int, attention: int) -> None:
    graph = load(f"tinyvit.space:tinyvit_{name}")
    found = count(lowered(graph), graph).by_kind
    shares = (found["dense"] + found["depthwise"] + found["pointwise"], found["addmm"])
    assert (*shares, found["bmm"]) == (convolutions, linear, attention)


# What passes leave.

IRPE = "irpe{on=[q,k,v]}"
TERMS = "irpe{method=cross,on=[k,v],shared=false}, bucketise"
PAIRS = "multiplex{path=layers[_].blocks,every=2}"
REWRITTEN = {
    "deit.space:deit_ti": [
        *(IRPE, TERMS, "simplify", "multiplex{path=blocks,every=2}"),
        *("irpe{method=euclidean,mode=bias,on=[k]}", "cascade{path=blocks[_].attn}"),
        f"{IRPE}, bucketise, multiplex{{path=blocks,every=3}}, simplify",
    ],
    "autoformer.space:autoformer_t": [
        *(IRPE, TERMS, "bucketise", "simplify", "multiplex{path=encoder,every=2}"),
    ],
    "autoformer.space:autoformer_t_subnet": ["bucketise", f"{IRPE}, bucketise, simplify"],
    "s3.space:s3_start": [IRPE, TERMS, PAIRS],
    "swin.space:swin_t": [IRPE, TERMS, PAIRS, "cascade{path=layers[_].blocks[_].attn}"],
    "tinyvit.space:tinyvit_5m": [IRPE, TERMS, PAIRS],
    "tinyvit.space:tinyvit_contraction": [f"{IRPE}, simplify"],
    "efficientvit.space:efficientvit_m0": [IRPE, TERMS, "multiplex{path=stages[_].blocks,every=3}"],
    "efficientvit.space:efficientvit_search": [f"{IRPE}, bucketise"],
    "irpe.space:deit_s_product_qkv": ["bucketise", "multiplex{path=blocks,every=2}"],
    "minivit.space:mini_deit_ti": ["bucketise, simplify"],
    "cream.space:cream": ["simplify"],
    "cdarts.space:cifar10_dartsv2": ["simplify"],
}
CASES = [(address, passes) for address, list_ in REWRITTEN.items() for passes in list_]


@cache
def hosts(address: str) -> Graph:
    return load(address)


@pytest.mark.parametrize(("address", "passes"), CASES)
def test_costs_after_passes(address: str, passes: str) -> None:
    made = run(hosts(address), passes)
    model = lowered(made)
    for assignment in (made.decisions.extreme("largest"), *made.sample(1, seed=1)):
        cost = made.cost(assignment)
        assert count(model.activate(assignment), made).macs == cost.macs
        assert used_numel(model) == cost.params


def test_published_savings_of_buckets() -> None:
    """Attention mass in 30 rows a table in the place of N x N rows: 60.5M for 198.7M in T."""
    graph = hosts("autoformer.space:autoformer_t_subnet")
    made = run(graph, "bucketise")
    without = 1_283_236_352
    assert graph.cost().macs - without == 198_702_080
    assert made.cost().macs - without == 60_518_400
    small = run(load("irpe.space:deit_s_product_qkv"), "bucketise").cost().macs
    assert small == 4_598_882_304 + 3 * 45_388_800


def test_the_command_line_gives_these_figures() -> None:
    for address, passes in (("deit.space:deit_ti", IRPE), ("swin.space:swin_t", PAIRS)):
        found = command.data("cost", address, "--after", passes)
        made = run(hosts(address), passes)
        assert (found["params"], found["macs"]) == (made.cost().params, made.cost().macs)
        as_written = command.data("cost", address, "--after", "none")
        assert as_written["macs"] == FIGURES[address]["macs"]
    with pytest.raises(SpaceError, match="SP604"):
        run(hosts("deit.space:deit_ti"), "none, simplify")


# The counter itself.


def test_the_counter_sees_every_product() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            grouped = torch.nn.functional.conv2d(x, torch.empty(8, 2, 3, 3), groups=2, padding=1)
            rows = grouped.flatten(2)  # [1, 8, 36]
            square = torch.einsum("bcn,bdn->bcd", rows, rows)
            return torch.nn.functional.linear(square, torch.empty(5, 8)) @ torch.empty(5)

    with torch.device("meta"), OperatorCounter() as counted:
        Net()(torch.empty(1, 4, 6, 6))
    assert counted.macs == 8 * 36 * 2 * 9 + 8 * 8 * 36 + 8 * 5 * 8 + 8 * 5
    with torch.device("meta"), OperatorCounter(), pytest.raises(AssertionError, match="nowhere"):
        torch.cdist(torch.empty(4, 8), torch.empty(5, 8))
