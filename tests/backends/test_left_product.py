"""A linear layer along the heads as a product from the left: where it is made, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from spacelang.backends.torch.inference.left_product import LEAST, MOST
from spacelang.backends.torch.inference.peephole import lean


class Mixed(nn.Module):
    """A layer along the last axis of a permuted map, which others read too."""

    def __init__(self, channels: int, outputs: int, biased: bool, order: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, channels))
        self.bias = nn.Parameter(torch.randn(outputs)) if biased else None
        self.order = order

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        turned = x.permute(*self.order)
        return F.linear(turned, self.weight, self.bias), turned.sum(0)


# shape of the map, the order of its axes, outputs, and whether the layer becomes a product
CASES = {
    "heads": ((2, 3, 9, 8), (0, 2, 3, 1), 5, True),
    "first axis": ((3, 9, 8), (1, 2, 0), 3, True),
    "most": ((1, MOST, LEAST), (0, 2, 1), MOST, True),
    "too many channels": ((1, MOST + 1, LEAST), (0, 2, 1), 3, False),
    "too many outputs": ((1, 3, LEAST), (0, 2, 1), MOST + 1, False),
    "too few that follow": ((2, 3, LEAST - 1), (0, 2, 1), 3, False),
    "others move too": ((2, 3, 9, 8), (0, 3, 2, 1), 5, False),
    "already last": ((2, 9, 8, 3), (0, 1, 2, 3), 5, False),
}


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_gives_what_the_layer_gives(
    case: tuple[tuple[int, ...], tuple[int, ...], int, bool], biased: bool
) -> None:
    shape, order, outputs, made = case
    torch.manual_seed(0)
    network = Mixed(shape[order[-1]], outputs, biased, order).eval()
    x = torch.randn(shape)
    with torch.inference_mode():
        wanted = network(x)
        rewritten = lean(fx.symbolic_trace(network), x)
        found = rewritten(x)
    products = {torch.bmm, torch.baddbmm}
    assert any(node.target in products for node in rewritten.graph.nodes) is made
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)
