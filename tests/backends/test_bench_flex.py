"""`flex_attention` beside our kernels: the same results where it can express a group, else why not."""

from __future__ import annotations

import pytest
import torch
from rewriting import text_graph

from spacelang import load
from spacelang.backends.torch.bench import flex
from spacelang.backends.torch.bench.kernels import cut
from spacelang.backends.torch.bench.work import filled
from spacelang.backends.torch.lowering.lower import Lowering
from spacelang.backends.torch.supernet import Supernet
from spacelang.passes.fuse import for_kernels
from spacelang.passes.fusion import kernel_of

FLEXED = {
    "offsets and windows": "use swin\nspace t = swin(16, [2, 1, 1, 1], heads: [1, 1, 2, 2], windows: [4, 4, 2, 1], drop: 0, image: 32, classes: 3)",
    "on queries and keys": 'use irpe\nuse deit\nspace t from deit(24, heads: 3, depth: 2, drop: 0, patch: 8, image: 32, classes: 5) {\n  rewrite { irpe(method: "product", on: ["q", "k"]) }\n}',
    "plain": "use deit\nspace t = deit(24, heads: 3, depth: 2, drop: 0, patch: 8, image: 32, classes: 5)",
}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", FLEXED)
def test_flex_attention_computes_the_same(name: str) -> None:
    """Of every group that it can express; what is compiled on a GPU is this, in eager mode."""
    graph = for_kernels(text_graph(FLEXED[name])).graph
    groups = [block for block in graph.blocks if kernel_of(block) == "attention"]
    assert groups
    for block in groups:
        one = cut(graph, graph.blocks[block])
        assert flex.lacks(one, block) == ""
        plain = filled(Supernet(one, lowering=Lowering(one)))
        flexed = flex.flexible(one, block, compiled=False)
        flexed.load_state_dict(plain.state_dict())
        inputs = [
            torch.randn([int(d.at({"B": 8})) for d in n.types[0].shape]) for n in one.root.inputs
        ]
        with torch.no_grad():
            wanted = plain.eval()(*inputs)
            assert torch.allclose(flexed(*inputs), wanted, atol=1e-5 * float(wanted.abs().max()))


def test_what_flex_attention_lacks() -> None:
    for address, kernel, why in (
        ("irpe.space:deit_s_product_qkv", "attention", "no relative term of the values"),
        ("minivit.space:mini_swin_t", "mixed_attention", "mixes no heads"),
        ("deit.space:deit_ti", "mlp", "no attention"),
    ):
        graph = for_kernels(load(address)).graph
        block = next(name for name in graph.blocks if kernel_of(name) == kernel)
        assert why in flex.lacks(graph, block)
