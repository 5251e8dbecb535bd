"""Cream's choice of depths before training, from a range of MFLOPs: pure functions of the language.

    cream_depths(0, 287)      -> [1, 1, 3, 3, 3]
    cream_resolution(0, 50)   -> 160

Tables and rule are those of the published code (Cream of the Crop, 2020), which adds blocks to the
costliest path until the range is met, in a fixed order of stages and to fixed caps.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

# MFLOPs of a first and of a later block of each stage, for k3e4 and for k7e6.
CHEAPEST = ("21.828704", "11.808656", "8.198", "12.006112", "11.307456")
COSTLIEST = (
    ("44.711568", "46.22384"),
    ("22.20208", "25.307248"),
    ("14.174448", "20.2804"),
    ("21.791952", "27.9768"),
    ("18.136032", "25.40832"),
)
ORDER = (2, 3, 4, 1, 0, 2, 3, 4, 1, 0)
CAPS = (3, 3, 3, 2, 2, 4, 4, 4, 4, 4)
LARGEST = 7  # times 32 pixels: 224


def cream_depths(fmin: Fraction, fmax: Fraction) -> list[int]:
    """Blocks of each stage, in a supernet for paths between two numbers of MFLOPs.

    ValueError for a range that no supernet of the published stages meets.
    """
    return _settled(fmin, fmax)[0]


def cream_resolution(fmin: Fraction, fmax: Fraction) -> int:
    """The input size in pixels that goes with `cream_depths`."""
    return 32 * _settled(fmin, fmax)[1]


def _settled(fmin: Fraction, fmax: Fraction) -> tuple[list[int], int]:
    low = sum(map(_exact, CHEAPEST))
    high = sum(_exact(first) for first, _ in COSTLIEST)
    depths, scale = [1] * len(COSTLIEST), LARGEST
    if not 0 <= fmin <= fmax:
        raise ValueError(f"{fmin} to {fmax} MFLOPs is no range")
    if low > fmax:
        while low > fmax and scale >= 2:
            scale -= 1
            fmin, fmax = fmin * LARGEST / scale, fmax * LARGEST / scale
        if scale < 2:
            raise ValueError("the smallest path costs more, at the smallest resolution too")
    else:
        place = 0
        while high < fmin:
            if place == len(ORDER):
                raise ValueError(f"no path of these stages costs {fmin} MFLOPs")
            stage = ORDER[place]
            if depths[stage] < CAPS[place]:
                depths[stage] += 1
                high += _exact(COSTLIEST[stage][1])
            else:
                place += 1
    for stage, cap in zip(ORDER, CAPS, strict=True):
        while depths[stage] < cap:
            high += _exact(COSTLIEST[stage][1])
            if high > fmax:
                return depths, scale
            depths[stage] += 1
    return depths, scale


def _exact(text: str) -> Fraction:
    return Fraction(Decimal(text))
