"""RandAugment by timm's words, with draws of one generator that a word seeds.

    policy = Policy.read("rand-m9-mstd0.5-inc1")
    picture = policy.change(picture, Draws(word), {"fillcolor": 128, "resample": BICUBIC})

Operations, levels and the order of the draws are those of TinyViT's fork of timm 0.4. Pictures are
Pillow's, grey or colour.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

LEVELS = 10.0  # of the magnitude of an operation
SHARE = 0.5  # of the images that each operation changes


class Draws:
    """The draws of one sample."""

    def __init__(self, word: int) -> None:
        self.generator = np.random.Generator(np.random.PCG64(word))

    def share(self) -> float:
        """In [0, 1)."""
        return float(self.generator.random())

    def between(self, low: float, high: float) -> float:
        return self.share() * (high - low) + low

    def whole(self, low: int, high: int) -> int:
        """A whole number of low..high."""
        return min(int(self.share() * (high - low + 1)) + low, high)

    def signed(self, value: float) -> float:
        """With its sign turned every second time."""
        return -value if self.share() > 0.5 else value


Level = Callable[[float, Draws], float]  # of a magnitude in 0..10, the argument of an operation
Change = Callable[[Any, float, Mapping[str, Any]], Any]  # of a picture; how it is warped


class Operation(NamedTuple):
    """What RandAugment does to a picture."""

    name: str
    level: Level
    change: Change


def _affine(matrix: Callable[[float, tuple[int, int]], tuple[float, ...]]) -> Change:
    def change(picture: Any, value: float, warp: Mapping[str, Any]) -> Any:
        affine = import_module("PIL.Image").Transform.AFFINE
        return picture.transform(picture.size, affine, matrix(value, picture.size), **warp)

    return change


def _ops(name: str, *given: str) -> Change:
    """A function of Pillow's ImageOps, with the argument where it takes one."""

    def change(picture: Any, value: float, warp: Mapping[str, Any]) -> Any:
        function = getattr(import_module("PIL.ImageOps"), name)
        return function(picture, int(value)) if given else function(picture)

    return change


def _enhance(name: str) -> Change:
    def change(picture: Any, value: float, warp: Mapping[str, Any]) -> Any:
        return getattr(import_module("PIL.ImageEnhance"), name)(picture).enhance(value)

    return change


def _posterize(picture: Any, value: float, warp: Mapping[str, Any]) -> Any:
    """The first bits of each pixel; also none of them, which Pillow 13 refuses."""
    mask = ~((1 << 8 - min(8, int(value))) - 1)
    return picture.point([i & mask for i in range(256)] * len(picture.getbands()))


def _solarize_add(picture: Any, value: float, warp: Mapping[str, Any]) -> Any:
    table = [min(255, i + int(value)) if i < 128 else i for i in range(256)]
    return picture.point(table * len(picture.getbands()))


def _rotate(picture: Any, value: float, warp: Mapping[str, Any]) -> Any:
    return picture.rotate(value, **warp)


def _none(magnitude: float, draws: Draws) -> float:
    return 0.0


def _whole(most: int, first: int = 0, sign: int = 1) -> Level:
    return lambda magnitude, draws: first + sign * int(magnitude / LEVELS * most)


def _signed(most: float) -> Level:
    return lambda magnitude, draws: draws.signed(magnitude / LEVELS * most)


def _strength(magnitude: float, draws: Draws) -> float:
    return magnitude / LEVELS * 1.8 + 0.1


def _distance(magnitude: float, draws: Draws) -> float:
    """From what changes nothing, to either side."""
    return max(0.1, 1.0 + draws.signed(magnitude / LEVELS * 0.9))


def _operations(increasing: bool) -> tuple[Operation, ...]:
    """RandAugment's fifteen; `increasing` ones change more at a larger magnitude."""
    bits = _whole(4, 4, -1) if increasing else _whole(4)
    above = _whole(256, 256, -1) if increasing else _whole(256)
    strength = _distance if increasing else _strength
    return (
        Operation("AutoContrast", _none, _ops("autocontrast")),
        Operation("Equalize", _none, _ops("equalize")),
        Operation("Invert", _none, _ops("invert")),
        Operation("Rotate", _signed(30.0), _rotate),
        Operation("Posterize", bits, _posterize),
        Operation("Solarize", above, _ops("solarize", "threshold")),
        Operation("SolarizeAdd", _whole(110), _solarize_add),
        *(Operation(n, strength, _enhance(n)) for n in ("Color", "Contrast")),
        *(Operation(n, strength, _enhance(n)) for n in ("Brightness", "Sharpness")),
        Operation("ShearX", _signed(0.3), _affine(lambda v, _: (1, v, 0, 0, 1, 0))),
        Operation("ShearY", _signed(0.3), _affine(lambda v, _: (1, 0, 0, v, 1, 0))),
        Operation("TranslateX", _signed(0.45), _affine(lambda v, s: (1, 0, v * s[0], 0, 1, 0))),
        Operation("TranslateY", _signed(0.45), _affine(lambda v, s: (1, 0, 0, 0, 1, v * s[1]))),
    )


OPERATIONS: Mapping[bool, tuple[Operation, ...]] = MappingProxyType(
    {increasing: _operations(increasing) for increasing in (False, True)}
)


@dataclass(frozen=True, slots=True)
class Policy:
    """RandAugment by timm's words: "rand-m9-n2-mstd0.5-mmax10-inc1"."""

    magnitude: int = 10
    count: int = 2
    deviation: float = 0.0  # of the magnitude; above 100 it is uniform below `magnitude`
    most: int = 10
    increasing: bool = False

    @classmethod
    @lru_cache(maxsize=8)
    def read(cls, text: str) -> Policy:
        """ValueError for what is none."""
        first, *sections = text.split("-")
        if first != "rand":
            raise ValueError(f"{text!r} is no policy: rand-m9-mstd0.5-inc1 is one")
        kinds = {"m": int, "n": int, "mstd": float, "mmax": int, "inc": int}
        found: dict[str, float] = {}
        for section in sections:
            parts = re.fullmatch(r"([a-z]+)([0-9]{1,6}(?:\.[0-9]{1,6})?)", section)
            if parts is None or parts[1] not in kinds or parts[1] in found:
                raise ValueError(
                    f"{section!r} of {text!r} is none of {', '.join(kinds)}, each once"
                )
            found[parts[1]] = kinds[parts[1]](parts[2])
        count = int(found.get("n", 2))
        if not 1 <= count <= 16:
            raise ValueError(f"{count} operations: 1 to 16")
        return cls(
            int(found.get("m", 10)),
            count,
            found.get("mstd", 0.0),
            int(found.get("mmax", 10)) or 10,
            "inc" in found,
        )

    def change(self, picture: Any, draws: Draws, warp: Mapping[str, Any]) -> Any:
        """A picture after so many operations, each of which may leave it as it is."""
        operations = OPERATIONS[self.increasing]
        for number in draws.generator.choice(len(operations), self.count):
            if draws.share() > SHARE:
                continue
            operation = operations[int(number)]
            value = operation.level(self._magnitude(draws), draws)
            picture = operation.change(picture, value, warp)
        return picture

    def _magnitude(self, draws: Draws) -> float:
        found = float(self.magnitude)
        if self.deviation > 100:
            found = draws.between(0, found)
        elif self.deviation > 0:
            found = float(draws.generator.normal(found, self.deviation))
        return max(0.0, min(found, float(self.most)))
