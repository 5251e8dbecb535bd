"""Deterministic weights and images of the specifications, with which their logits were measured."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt

import torch
from torch import Tensor

F64 = torch.float64


def sines(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """sin(0.37 (j + 1) + 0.11 k) for entry j of the k-th tensor, scaled by what it is.

    Counters of batch norms and index tables are not filled and not counted.
    """
    found: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if shape == () or name.endswith("_idxs"):
            continue
        j = torch.arange(1, prod(shape) + 1, dtype=F64)
        s = torch.sin(0.37 * j + 0.11 * len(found))
        if name.endswith("running_var"):
            values = 1 + 0.5 * s
        elif name.endswith("bn.weight"):
            values = 0.5 + 0.25 * s
        elif name.endswith(("running_mean", "bias", "attention_biases")):
            values = 0.1 * s
        else:
            values = s * 1.5 / sqrt(prod(shape[1:]))
        found[name] = values.reshape(shape)
    return found


def sine_images(batch: int = 2, side: int = 224) -> Tensor:
    j = torch.arange(batch * 3 * side * side, dtype=F64)
    return torch.sin(0.0137 * j).reshape(batch, 3, side, side)


def fractions(count: int, seed: int) -> Tensor:
    """The fractions of a wild sine, less a half; NumPy's sine, whose last digits matter here."""
    import numpy as np

    u = np.sin(12.9898 * np.arange(count, dtype=np.float64) + 78.233 * seed) * 43758.5453
    return torch.from_numpy(u - np.floor(u) - 0.5)


def portable(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Parameters by their sorted names, pseudo-random about 0, scales of norms about 1."""
    found: dict[str, Tensor] = {}
    for number, name in enumerate(sorted(shapes), 1):
        values = 0.2 * fractions(prod(shapes[name]), number)
        if len(shapes[name]) == 1 and name.endswith("weight"):
            values = values + 1
        found[name] = values.reshape(shapes[name]).to(torch.float32)
    return found


def portable_image(side: int = 224) -> Tensor:
    return (2 * fractions(3 * side * side, 0)).to(torch.float32).reshape(1, 3, side, side)
