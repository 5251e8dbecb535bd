"""Shipped spaces, eager against fused, of architectures drawn at random.

By the references of the kernels, in float64: that groups are found, and given what they need.
"""

from __future__ import annotations

import warnings

import pytest
import torch

from spacelang import compile as build
from spacelang import load
from spacelang.backends.torch.bench.work import fill
from spacelang.backends.torch.lowering.kernels import fits, with_kernels
from spacelang.backends.torch.subnets.proof import example
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.triton import launch

TOLERANCE = 1e-9
SMALL = {  # that are drawn small
    "quickstart.space:quickstart": {"image": 8},
    "mobilenetv3.space:mobilenetv3_search": {"image": 32, "classes": 3},
    "small_ranges.space:small_ranges": {"image": 8},
}
WHOLE = (
    "autoformer.space:autoformer_t",
    "irpe.space:deit_s_product_qkv",
    "irpe.space:deit_s_cross_k",
    "minivit.space:mini_deit_ti",
    "minivit.space:mini_swin_t",
    "swin.space:swin_t",
    "s3.space:s3_start",
    "tinyvit.space:tinyvit_5m",
    "efficientvit.space:efficientvit_search",
    "cream.space:cream_to_50",
)


@pytest.mark.parametrize(
    "address", [*SMALL, *(pytest.param(address, marks=pytest.mark.soak) for address in WHOLE)]
)
def test_random_architectures(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "INTERPRETED", False)
    graph = load(address, **SMALL.get(address, {}))
    with with_kernels(required=False):
        fused = Supernet(graph).double().eval()
        assert fits(graph)
    fill(fused.state_dict())
    plain = build(graph).double().eval()
    plain.load_state_dict(fused.state_dict())
    inputs = [x[:1].double() if x.is_floating_point() else x[:1] for x in example(graph, seed=1)]
    for architecture in graph.sample(n=2, seed=1, law="choices") if graph.decisions else [{}]:
        plain.activate(architecture)
        fused.activate(architecture)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", launch.NotFused)
            found, wanted = fused(*inputs), plain(*inputs)
        worst = (found - wanted).abs().max()
        assert worst <= TOLERANCE * wanted.abs().max(), architecture
        assert wanted.abs().max() > 0
