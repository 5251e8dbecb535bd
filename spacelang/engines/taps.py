"""Inner values of two networks that a loss compares, and how they are written.

    pairs("blocks[{1,3}].attn.qkv = blocks.{3,9}.attn.qkv:from=1")
    # blocks[1].attn.qkv with blocks.3.attn.qkv, and blocks[3] with blocks.9

The student's side stands first. Braces list what takes turns, on both sides as often; so a student
of six layers learns from six of a teacher's twelve. After a colon: `from=N` leaves out the first N
tokens (class tokens), `per_head=H` is a projection whose rows are q, k, v of one head after the
other, `map` is a value [B, channels, height, width]. `q + k + v` are three values instead of one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_BRACES = re.compile(r"\{([^{}]*)\}")
_EQUALS = re.compile(r"(?<!from)(?<!per_head)=")  # those that are no option's
_WORD = re.compile(r"(?P<name>from|per_head|map)(?:=(?P<number>[0-9]{1,6}))?")


@dataclass(frozen=True, slots=True)
class Tap:
    """A value of a network, by its path; `paths` are three where q, k and v stand apart.

    first     the tokens before it are not compared
    per_head  of so many heads, each with its q, k and v side by side; 0: all q first, then k, v
    map       channels come before the places
    """

    paths: tuple[str, ...]
    first: int = 0
    per_head: int = 0
    map: bool = False

    def __str__(self) -> str:
        words = [f"{n}={v}" for n, v in (("from", self.first), ("per_head", self.per_head)) if v]
        words += ["map"] if self.map else []
        return " + ".join(self.paths) + (f":{','.join(words)}" if words else "")


def pairs(text: str) -> tuple[tuple[Tap, Tap], ...]:
    """The pairs of a text (ValueError where it is not of the form above)."""
    sides = _EQUALS.split(text)
    if len(sides) != 2:
        raise ValueError(f"{text!r} is not STUDENT = TEACHER")
    left, right = (tuple(map(tap, _turns(side))) for side in sides)
    if len(left) != len(right):
        raise ValueError(f"{text!r} pairs {len(left)} values with {len(right)}")
    return tuple(zip(left, right, strict=True))


def _turns(text: str) -> Sequence[str]:
    """A text once for each part of its braces, which take their turns together."""
    lists = [found.split(",") for found in _BRACES.findall(text)]
    if not lists:
        return (text,)
    if len({*map(len, lists)}) > 1:
        raise ValueError(f"{text!r} has braces of different lengths")
    between = _BRACES.split(text)[::2]
    return [
        between[0] + "".join(p.strip() + b for p, b in zip(turn, between[1:], strict=True))
        for turn in zip(*lists, strict=True)
    ]


def tap(text: str) -> Tap:
    """A value, `PATH` or `Q + K + V`, and its options after a colon (ValueError)."""
    path, colon, rest = text.partition(":")
    paths = tuple(part.strip() for part in path.split("+"))
    if not all(paths) or len(paths) not in (1, 3):
        raise ValueError(f"{text.strip()!r} is no path, nor three of q, k and v")
    options: dict[str, int] = {}
    for word in rest.split(",") if colon else ():
        found = _WORD.fullmatch(word.strip())
        if found is None or (found["number"] is None) != (found["name"] == "map"):
            raise ValueError(f"{word.strip()!r} is none of from=N, per_head=H and map")
        options[found["name"]] = int(found["number"] or 1)
    return Tap(
        paths, options.get("from", 0), options.get("per_head", 0), bool(options.get("map", 0))
    )
