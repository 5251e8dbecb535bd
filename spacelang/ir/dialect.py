"""Dialects: other names and layouts for the parameters (`names published { .. }`).

encoder[i]: blocks[i]                                      # the longest rule that fits, once
encoder[i].attn.qkv.weight: blocks[i].attn.qkv.weight in order(heads, dim, 3)
_.c: _.conv                                                # then a label wherever it stands
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from spacelang.ir.dim import Dim
from spacelang.ir.pattern import Hop, Pattern, split


@dataclass(frozen=True)
class Layout:
    """How the foreign tensor is laid out: `order` permutes the factors of the first axis, `shape`
    reshapes.

    order  our factors of the first axis in the foreign order: numbers, or names of sizes
    shape  the foreign sizes
    """

    kind: str
    order: tuple[str, ...] = ()
    shape: tuple[Dim, ...] = ()


@dataclass(frozen=True)
class ForeignHop:
    """A label of the foreign name; its indices are computed from the names that the rule binds."""

    name: str
    indices: tuple[Dim, ...] = ()

    def at(self, bound: Mapping[str, int]) -> str:
        return self.name + "".join(f"[{index.at(bound)}]" for index in self.indices)


@dataclass(frozen=True)
class Rename:
    """`own: foreign [in layout]`. A rule whose own pattern is `anywhere` renames labels."""

    own: Pattern
    foreign: tuple[ForeignHop, ...]
    layout: Layout | None = None


@dataclass(frozen=True)
class Dialect:
    name: str
    renames: tuple[Rename, ...] = ()

    @cached_property
    def _prefixes(self) -> tuple[Rename, ...]:
        rules = [r for r in self.renames if not r.own.anywhere]
        return tuple(
            sorted(rules, key=lambda r: (-len(r.own.hops), tuple(-w for w in r.own.weight)))
        )

    @cached_property
    def _labels(self) -> tuple[Rename, ...]:
        return tuple(r for r in self.renames if r.own.anywhere)

    def foreign(self, path: str) -> tuple[str, Layout | None]:
        """The foreign name of a parameter, `a.b.0.c` in PyTorch's dotted form, and its layout."""
        parts = list(split(path))
        layout: Layout | None = None
        head: list[str] = []
        for rule in self._prefixes:
            bound = rule.own.match_prefix(path)
            if bound is not None:
                head = [hop.at(bound) for hop in rule.foreign]
                layout = rule.layout if len(rule.own.hops) == len(parts) else None
                parts = parts[len(rule.own.hops) :]
                break
        return dotted(".".join([*head, *(self._relabel(hop) for hop in parts)])), layout

    def _relabel(self, hop: Hop) -> str:
        for rule in self._labels:
            bound = rule.own.fit((hop,)) if len(rule.own.hops) == 1 else None
            if bound is not None:
                return ".".join(f.at(bound) for f in rule.foreign)
        return str(hop)


def dotted(path: str) -> str:
    """`blocks[3].norm` as PyTorch names it: `blocks.3.norm`."""
    return path.replace("][", ".").replace("[", ".").replace("]", "")
