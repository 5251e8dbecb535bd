"""What augmentations of other tools share: their settings as one text, and what cuts may be.

how = read_named(TimmAugmentation, "timm", "timm scale=0.5:1 reprob=0.25")
"""

from __future__ import annotations

from typing import TypeVar

from spacelang.diagnostics import SpaceError, error
from spacelang.engines.settings import read_fields

MOST_ERASED = 100  # boxes of an image
Settings = TypeVar("Settings")


def read_named(cls: type[Settings], tool: str, text: str) -> Settings:
    """Settings from `TOOL NAME=VALUE ..`, pairs with a colon (SP204, SP209, SP103)."""
    settings = named_values(text)
    try:
        return cls(**read_fields(cls, f"--aug {tool}", settings))
    except ValueError as problem:
        raise SpaceError(error("SP103", f"--aug {text}: {problem}")) from problem


def named_values(text: str) -> dict[str, object]:
    """The settings of `NAME a=1 b=2:3`, colons read as commas (SP209)."""
    settings: dict[str, object] = {}
    for word in text.split()[1:]:
        name, equals, value = word.partition("=")
        if not equals:
            raise SpaceError(error("SP209", f"--aug {text}: {word!r} is not NAME=VALUE"))
        if name in settings:
            raise SpaceError(error("SP209", f"--aug {text}: {name} stands twice"))
        settings[name] = value.replace(":", ",")
    return settings


def check_cuts(
    scale: tuple[float, float],
    ratio: tuple[float, float],
    recount: int,
    shares: tuple[float, ...],
) -> None:
    """ValueError where areas, sides, boxes to erase or probabilities cannot be."""
    if len(scale) != 2 or len(ratio) != 2:
        raise ValueError("scale and ratio are pairs: scale=0.08:1")
    low, high = scale
    narrow, wide = ratio
    if not (0 < low <= high <= 1 and 0 < narrow <= wide and all(0 <= p <= 1 for p in shares)):
        raise ValueError("0 < scale <= 1, ratio > 0 and probabilities in 0..1 are needed")
    if not 1 <= recount <= MOST_ERASED:
        raise ValueError(f"recount is in 1..{MOST_ERASED}")
