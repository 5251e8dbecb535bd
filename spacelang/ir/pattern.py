"""Path patterns: `encoder[_].attn.qkv.bias`, `layers[0..1].blocks[_].window`, `_.kernel`, `_`.

A hop `_` matches one label with any indices, an index `_` any index; a leading `_.` matches any
depth and `_` alone everything. Any other name as an index matches and binds it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

Index = int | str | tuple[int, int]
Bindings = Mapping[str, int]
_WRITTEN = re.compile(r"([^\[\].]+)((?:\[(?:-?\d+(?:\.\.-?\d+)?|\w+)\])*)(\.?)")
_HOP = re.compile(r"([A-Za-z_]\w*)((?:\[\d+\])*)")


@dataclass(frozen=True)
class Hop:
    """A label and its index patterns; no index pattern at all matches none."""

    name: str
    indices: tuple[Index, ...] = ()

    def __str__(self) -> str:
        return self.name + "".join(f"[{_index(i)}]" for i in self.indices)


@dataclass(frozen=True)
class Pattern:
    """A sequence of hops; `anywhere` stands for a leading `_.` (any depth) or, alone, for
    everything."""

    hops: tuple[Hop, ...]
    anywhere: bool = False

    def __str__(self) -> str:
        return ".".join((["_"] if self.anywhere else []) + [str(h) for h in self.hops])

    def match(self, path: str) -> Bindings | None:
        """What the index names are where the pattern fits the whole path, else None."""
        hops = split(path)
        if not self.anywhere:
            return self.fit(hops) if len(hops) == len(self.hops) else None
        if len(hops) < len(self.hops):
            return None
        return self.fit(hops[len(hops) - len(self.hops) :])

    def match_prefix(self, path: str) -> Bindings | None:
        """The same where the pattern fits the first labels of a path."""
        hops = split(path)
        return self.fit(hops[: len(self.hops)]) if len(hops) >= len(self.hops) else None

    def fit(self, hops: tuple[Hop, ...]) -> Bindings | None:
        """What the index names are where these hops, as many as the pattern has, fit it."""
        for wanted, hop in zip(self.hops, hops, strict=True):
            if wanted.name != hop.name and wanted.name != "_":
                return None  # most patterns end here, before anything is bound
        bound: dict[str, int] = {}
        for wanted, hop in zip(self.hops, hops, strict=True):
            if wanted.name == "_" and not wanted.indices:
                continue
            if len(wanted.indices) != len(hop.indices):
                return None
            for index, value in zip(wanted.indices, hop.indices, strict=True):
                if not isinstance(value, int) or not _admits(index, value, bound):
                    return None
        return bound

    @cached_property
    def plain(self) -> bool:
        """Whether it fits one path alone, that which it is written as."""
        return not self.anywhere and all(
            hop.name != "_" and all(isinstance(i, int) for i in hop.indices) for hop in self.hops
        )

    @cached_property
    def weight(self) -> tuple[int, int]:
        """How particular the pattern is: labels it names, indices it fixes."""
        named = sum(h.name != "_" for h in self.hops)
        fixed = sum(isinstance(i, int) for h in self.hops for i in h.indices)
        return named, fixed


def _admits(index: Index, value: int, bound: dict[str, int]) -> bool:
    match index:
        case int():
            return index == value
        case (first, last):
            return first <= value <= last
        case "_":
            return True
        case name:
            return bound.setdefault(name, value) == value


def _index(index: Index) -> str:
    return f"{index[0]}..{index[1]}" if isinstance(index, tuple) else str(index)


@lru_cache(maxsize=65536)
def split(path: str) -> tuple[Hop, ...]:
    """The hops of a concrete path: `layers[2].blocks[5].attn` has three."""
    hops: list[Hop] = []
    for part in path.split("."):
        found = _HOP.fullmatch(part)
        if found is None:
            hops.append(Hop(part))
            continue
        digits = found[2][1:-1].split("][") if found[2] else []
        hops.append(Hop(found[1], tuple(int(d) for d in digits)))
    return tuple(hops)


def parse_pattern(text: str) -> Pattern:
    """The pattern that `str` writes so. ValueError if none does."""
    hops: list[Hop] = []
    position = 0
    while position < len(text) or not hops:
        found = _WRITTEN.match(text, position)
        if found is None or (found.end() == len(text)) == bool(found[3]):
            raise ValueError(f"{text!r} is no path pattern")
        written = found[2][1:-1].split("][") if found[2] else []
        hops.append(Hop(found[1], tuple(_parse_index(index) for index in written)))
        position = found.end()
    anywhere = hops[0] == Hop("_")
    return Pattern(tuple(hops[1:] if anywhere else hops), anywhere)


def _parse_index(text: str) -> Index:
    first, dots, last = text.partition("..")
    if dots:
        return int(first), int(last)
    return int(text) if text.lstrip("-").isdecimal() else text


def literal(path: str) -> Pattern:
    """The pattern that matches just this path."""
    return Pattern(split(path))
