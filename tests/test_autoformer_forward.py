"""AutoFormer's forward figures: logits of the original code on weights filled by a formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from spacelang.backends.torch import weights
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Source
from spacelang.ir.decision import Assignment, Plain
from spacelang.loader import load

T_RATIOS = [3.5, 3.5, 3, 3.5, 3, 3, 4, 4, 3.5, 4, 3.5, 4, 3.5]
T_HEADS = [3] * 10 + [4, 3, 3]
S_RATIOS = [3, 3.5, 3, 3.5, 4, 4, 4, 4, 4, 4, 4, 3.5, 4]
# The whole supernet is no architecture of the shipped space: its width is none of the candidates.
FULL = """
use autoformer
space full = autoformer({240, 256}, 12..14, {3, 4}, {3, 3.5, 4}, stored: 256)
"""
S_HEADS = [6, 6, 5, 7, 5, 5, 5, 6, 6, 7, 7, 6, 7]


def filled(count: int, seed: int) -> np.ndarray:
    """The fractions of a wild sine, less a half."""
    u = np.sin(12.9898 * np.arange(count, dtype=np.float64) + 78.233 * seed) * 43758.5453
    return u - np.floor(u) - 0.5


def published_fill(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for number, name in enumerate(sorted(shapes), 1):
        shape = shapes[name]
        values = 0.2 * filled(int(np.prod(shape)), number)
        if len(shape) == 1 and name.endswith("weight"):
            values = values + 1
        found[name] = torch.tensor(values.astype(np.float32)).reshape(shape)
    return found


def architecture(width: int, ratios: list[float], heads: list[int]) -> Assignment:
    found: dict[str, Plain] = {"width": width, "depth": len(heads)}
    for i, (ratio, head) in enumerate(zip(ratios, heads, strict=True)):
        found |= {f"encoder[{i}].heads": head, f"encoder[{i}].ratio": ratio}
    return found


@pytest.fixture(scope="module")
def supernet() -> Callable[[str], Supernet]:
    made: dict[str, Supernet] = {}

    def make(name: str) -> Supernet:
        if name not in made:
            address = Source("<test>", FULL) if name == "full" else f"autoformer.space:{name}"
            model = Supernet(load(address)).eval()
            shapes = {e.foreign: e.shape for e in weights.entries(model.graph, "published")}
            weights.load(model, published_fill(shapes), names="published")
            made[name] = model
        return made[name]

    return make


@pytest.mark.parametrize(
    ("space", "assignment", "first", "total", "absolute", "top"),
    [
        pytest.param(
            "autoformer_t", architecture(192, T_RATIOS, T_HEADS),
            [.20907, -.21420, -.05930, -.03762, .34245], -0.5976, 474.7807, 560, id="T-published",
        ),
        pytest.param(
            "autoformer_t", architecture(192, [3.5] * 12, [3] * 12),
            [.19687, -.11806, -.01532, -.08701, .41088], 9.9293, 468.1523, 95, id="T-min",
        ),
        pytest.param(
            "full", architecture(256, [4] * 14, [4] * 14),
            [.88122, -.12811, .57254, -.92511, .47151], -49.1419, 537.1604, 379, id="T-full",
        ),
        pytest.param(
            "autoformer_s", architecture(384, S_RATIOS, S_HEADS),
            [-.06784, -.01439, 1.12940, .84834, .95132], -49.8771, 709.3074, 629, id="S-published",
        ),
    ],
)  # fmt: skip
def test_logits(
    supernet: Callable[[str], Supernet],
    space: str,
    assignment: Assignment,
    first: list[float],
    total: float,
    absolute: float,
    top: int,
) -> None:
    logits = run(supernet(space).activate(assignment))
    assert logits[:5].tolist() == pytest.approx(first, abs=1e-4)
    assert float(logits.sum()) == pytest.approx(total, abs=2e-3)
    assert float(logits.abs().sum()) == pytest.approx(absolute, abs=2e-3)
    assert int(logits.argmax()) == top


def run(model: Supernet) -> Tensor:
    image = torch.tensor(2 * filled(3 * 224 * 224, 0).astype(np.float32)).reshape(1, 3, 224, 224)
    with torch.no_grad():
        found = model(image)
    assert isinstance(found, Tensor)
    return found[0].double()
