"""Whether a row is met: the ratio in time and the share of memory that are asked for.

    verdict(row, record).text
    # ">= 1.45, memory <= 0.53: time met, memory missed (0.60 of the peak, 0.41 of what was added)"

Where other work took cores that the row wants, or the rate of the limits swung, a record is
disturbed: then nothing is met, and it has to be measured again. The time is also met where ours
reaches 85 % of the rate of products of matrices, in its type of numbers, that was measured in the
same rounds: no ratio can be asked beyond the limit. Memory is judged by peaks of whole processes;
one that holds more than is wanted before the work begins cannot meet that, and then the text says
so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spacelang.bench.measure import best, rates, ratio, share_of_limit
from spacelang.bench.rows import Row

MEDIAN = "met by the median alone"  # the lower quartile is below
NEAR = 0.85  # of the matrix-product rate
OTHERS = 0.3  # of the cores that a row uses, which other work may take
SWING = 1.5  # times, from the slowest to the fastest round of the limits


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
    sure = compared is not None and compared[1] >= row.wanted
    told = "met" if sure else MEDIAN if in_time else "met at the limit" if near else "missed"
    asked = f">= {row.wanted:.3g}"
    if disturbed(record):
        return Verdict(False, f"{asked}: disturbed")
    if row.memory is None or rival is None:
        return Verdict(in_time or near, f"{asked}: {told}")
    part = memory(record, row.ours) / memory(record, rival)
    held = part <= row.memory
    kept = "met" if held else "missed"
    grown = added(record, row.ours) / added(record, rival)
    parts = f"{part:.2f} of the peak, {grown:.2f} of what was added"
    base = memory(record, row.ours) - added(record, row.ours)
    most = row.memory * memory(record, rival)
    beyond = f"; out of reach: {base:.0f} MiB before the work, {most:.0f} wanted" * (base > most)
    text = f"{asked}, memory <= {row.memory:.2f}: time {told}, memory {kept} ({parts}{beyond})"
    return Verdict((in_time or near) and held, text)


def disturbed(record: Mapping[str, Any]) -> bool:
    """Whether something else took so much of the machine that figures say little."""
    found, others = rates(record), record["machine"]["others"]
    free = record["machine"]["cores"] - record["threads"]
    crowded = others is not None and others > free + OTHERS * record["threads"]
    return crowded or max(found) > SWING * min(found)


def memory(record: Mapping[str, Any], name: str) -> float:
    """MiB at the peak of a contender's process."""
    return float(record["contenders"][name]["peak_mib"])


def added(record: Mapping[str, Any], name: str) -> float:
    """MiB of the peak that were not there before the work: PyTorch and the network left out."""
    return float(record["contenders"][name]["added_mib"])


__all__ = ["Verdict", "added", "disturbed", "memory", "verdict"]
