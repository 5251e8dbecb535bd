"""Whether a row is met: the ratio in time and the share of memory that are asked for.

    verdict(row, record).text       # ">= 1.45, memory <= 0.53: time met, memory missed (0.60)"

The time is also met where ours reaches 85 % of the rate of products of matrices, in its type of
numbers, that was measured in the same rounds: no ratio can be asked beyond the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spacelang.bench.measure import best, ratio, share_of_limit
from spacelang.bench.rows import Row

NEAR = 0.85  # of the matrix-product rate


@dataclass(frozen=True)
class Verdict:
    """What was asked for and what came of it; a row without a wish is met."""

    met: bool
    text: str = ""


def verdict(row: Row, record: Mapping[str, Any]) -> Verdict:
    """Of a record of a row."""
    if row.wanted is None:
        return Verdict(True)
    rival = best(record, row.ours, row.against)
    compared = None if rival is None else ratio(record, row.ours, rival)
    share = share_of_limit(record, row.ours)
    in_time = compared is not None and compared[0] >= row.wanted
    near = row.same and share is not None and share >= NEAR
    told = "met" if in_time else "met at the limit" if near else "missed"
    asked = f">= {row.wanted:.3g}"
    if row.memory is None or rival is None:
        return Verdict(in_time or near, f"{asked}: {told}")
    part = memory(record, row.ours) / memory(record, rival)
    held = part <= row.memory
    kept = "met" if held else "missed"
    text = f"{asked}, memory <= {row.memory:.2f}: time {told}, memory {kept} ({part:.2f})"
    return Verdict((in_time or near) and held, text)


def memory(record: Mapping[str, Any], name: str) -> float:
    """MiB at the peak of a contender's process."""
    return float(record["contenders"][name]["peak_mib"])


__all__ = ["Verdict", "memory", "verdict"]
