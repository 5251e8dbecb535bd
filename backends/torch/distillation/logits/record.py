"""Sparse soft labels: the K largest probabilities of each sample, and how its image was varied.

    records = top(logits, k=100, ids=batch.ids, seeds=batch.ids)     # [N] samples

Probabilities are those of a softmax in float32, kept as float16 in falling order, as TinyViT's
code keeps them; what they lack to 1 is spread over the classes that are not kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.uint16 | np.int32]
BLOCK = 256  # records that share a checksum
EXCESS = 2.0**-10  # what rounding to float16 may add to a sum of probabilities that is 1


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Of N samples: ids and seeds [N]; classes and their probabilities [N, K], largest first."""

    ids: NDArray[np.int64]
    seeds: NDArray[np.int64]
    classes: Indices
    probabilities: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.int64] | slice) -> Records:
        """Some of them."""
        return Records(
            self.ids[rows], self.seeds[rows], self.classes[rows], self.probabilities[rows]
        )


def index_type(classes: int) -> np.dtype[np.uint16 | np.int32]:
    """The narrowest type for a class."""
    return np.dtype(np.uint16) if classes <= 1 << 16 else np.dtype(np.int32)


def top(
    logits: Tensor,
    k: int,
    *,
    ids: NDArray[np.int64],
    seeds: NDArray[np.int64],
    temperature: float = 1.0,
) -> Records:
    """The records of logits [N, classes]; `ids` and `seeds` are [N]."""
    chosen = (logits.detach().float() / temperature).softmax(1).topk(k, 1)
    return Records(
        np.asarray(ids, np.int64),
        np.asarray(seeds, np.int64),
        chosen.indices.cpu().numpy().astype(index_type(logits.shape[1])),
        chosen.values.cpu().numpy().astype(np.float16),
    )


def dense(records: Records, classes: int) -> Tensor:
    """Probabilities of all classes [N, classes], float32: the residual spread evenly."""
    kept = torch.from_numpy(records.probabilities.astype(np.float32))
    residual = (1 - kept.sum(1, keepdim=True)).clamp(min=0) / max(1, classes - kept.shape[1])
    index = torch.from_numpy(records.classes.astype(np.int64))
    return residual.repeat(1, classes).scatter_(1, index, kept)


def faults(records: Records, classes: int) -> dict[int, str]:
    """What is wrong with which records, by their place; nothing where all can be trained on."""
    values = records.probabilities.astype(np.float32)
    index = records.classes.astype(np.int64)
    ordered = np.sort(index, axis=1)
    with np.errstate(invalid="ignore"):
        tests = (
            ("a probability is no finite number", ~np.isfinite(values).all(1)),
            ("a probability is negative", (values < 0).any(1)),
            ("its probabilities do not fall", (np.diff(values, axis=1) > 0).any(1)),
            ("its probabilities add up to more than 1", values.sum(1) > 1 + EXCESS),
            (f"a class is not below {classes}", ((index < 0) | (index >= classes)).any(1)),
            ("a class stands twice", (np.diff(ordered, axis=1) == 0).any(1)),
            ("its seed is negative", records.seeds < 0),
        )
    found: dict[int, str] = {}
    for reason, wrong in tests:
        for row in np.flatnonzero(wrong).tolist():
            found.setdefault(row, reason)
    return found
