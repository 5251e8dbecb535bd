"""The bound of compiled variants over whole spaces, by the keys of Triton's own cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pytest

from spacelang import load
from spacelang.passes.fuse import for_kernels
from spacelang.passes.fused_cost import all_variants

BOUND = 8  # of a kernel, type and target
SPACES: Mapping[str, Mapping[str, object]] = {  # so small that windows are larger than maps
    "efficientvit.space:efficientvit_search": {"image": 64, "larger_windows": True},
    "mobilenetv3.space:mobilenetv3_search": {"image": 64},
    "tinyvit.space:tinyvit_contraction": {"image": 64, "larger_windows": True},
}
MODELLED: Mapping[str, str] = {  # kernel -> its name in `all_variants`
    "attention_kernels.forward_kernel": "attention",
    "cascade_kernels._kernel": "cascade",
    "depthwise_kernels._forward_kernel": "depthwise",
    "depthwise_kernels._squeeze_kernel": "squeeze",
    "mlp._linear_kernel": "mlp",
}


def variants(
    count: int, fresh_python: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> list[tuple[dict[str, int], dict[str, int]]]:
    """Of each space what its evaluations launch, and what is modelled; within the bound."""
    monkeypatch.delenv("TRITON_INTERPRET")
    asked = ("tests/kernels/count_network_variants.py", str(count), json.dumps(SPACES))
    both: list[tuple[dict[str, int], dict[str, int]]] = []
    for address, found in json.loads(fresh_python(*asked)).items():
        known = all_variants(for_kernels(load(address, **SPACES[address])).graph)
        for name in ("evaluation", "training"):
            assert max(found[name].values()) <= BOUND, (address, name)
        launched = {MODELLED[kernel]: number for kernel, number in found["evaluation"].items()}
        both.append((launched, {kernel: len(mine) for kernel, mine in known.items()}))
        assert any("backward" in kernel for kernel in found["training"])
    assert len(both) == len(SPACES)
    return both


def test_what_networks_launch_is_modelled(
    fresh_python: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and in training: depthwise, cascades, attention and MLPs of random architectures."""
    for launched, known in variants(10, fresh_python, monkeypatch):
        assert launched.keys() == known.keys()
        assert all(launched[kernel] <= known[kernel] for kernel in known)


@pytest.mark.soak
def test_all_that_is_modelled_is_launched(
    fresh_python: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By 500 architectures of each space."""
    for launched, known in variants(500, fresh_python, monkeypatch):
        assert launched == known
