"""What attention is modelled to move against what its launches and operations read and write.

So a copy that the model does not know of is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernels.moved import Moved
from rewriting import text_graph
from small_spaces import VIT

from spacelang.analysis.traffic import Traffic
from spacelang.backends.torch.lowering.kernels import with_kernels
from spacelang.backends.torch.subnets.proof import example
from spacelang.backends.torch.supernet import Supernet
from spacelang.passes.fuse import for_kernels
from spacelang.passes.fused_cost import compare
from spacelang.passes.specialize import specialize

MINI = "use minivit\nspace t = mini_swin(24, [1, 1, 1, 1], heads: [3, 2, 2, 2], every: [1, 1, 1, 1], windows: [4, 2, 2, 1], image: 32)"


def irpe(method: str, on: str, ratio: float = 1.9) -> str:
    return f"""use deit
use irpe
space t from deit(32, heads: 2, depth: 1, drop: 0, patch: 8, image: 32, classes: 3) {{
  rewrite {{ irpe(method: "{method}", ratio: {ratio}, on: [{on}]) }}
}}"""


TEXTS = {
    "autoformer": VIT,
    "irpe_k": irpe("product", '"k"'),
    "irpe_qkv": irpe("product", '"q", "k", "v"'),
    "cross_k": irpe("cross", '"k"', 20),
    "euclidean_qkv": irpe("euclidean", '"q", "k", "v"', 20),  # more entries than a program can hold
    "mini_deit": "use minivit\nspace t = mini_deit(24, heads: 3, every: 12, image: 32)",
    "mini_swin": MINI,
    "swin": "use swin\nspace t = swin(32, [1, 1, 1, 1], heads: [2, 2, 2, 4], windows: [2, 2, 2, 1], drop: 0, image: 32, classes: 3)",
}
KERNELS = ("attention", "mixed_attention")


@pytest.mark.parametrize("name", TEXTS)
def test_what_moves_is_what_is_modelled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = text_graph(TEXTS[name])
    if graph.decisions:
        graph = specialize(graph, graph.decisions.extreme("largest"))
    inputs = [torch.cat([x[:1]] * 2).half() for x in example(graph, seed=0)]
    with with_kernels(required=True):
        network = Supernet(graph).eval().half()
    moved = Moved(monkeypatch, runs=False)
    rows = compare(graph, for_kernels(graph).graph, None, batch=2, width=2)
    rows = [row for row in rows if row.kernel in KERNELS]
    for row in rows:
        module = network.lowering.block(row.block).module

        def watched(*operands: Any, plain: Callable[..., Any] = module.forward) -> Any:
            with moved:
                return plain(*operands)

        monkeypatch.setattr(module, "forward", watched)
    with torch.no_grad():
        network(*inputs)
    modelled = sum((row.after for row in rows), Traffic())
    assert (moved.bytes, moved.launches) == (modelled.bytes, modelled.launches), moved.others
