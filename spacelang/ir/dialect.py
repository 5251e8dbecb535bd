"""Dialects: other names and layouts for the parameters (`names published { .. }`).

encoder[i]: blocks[i]                                      # the longest rule that fits, once
encoder[i].attn.qkv.weight: blocks[i].attn.qkv.weight in order(heads, dim, 3)
_.c: _.conv                                                # then a label wherever it stands
_.index_table: none                                        # is not written, and not read
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from spacelang.diagnostics import NOWHERE, SpaceError, Span, error
from spacelang.ir.dim import Dim
from spacelang.ir.pattern import Hop, Pattern, split

Item = TypeVar("Item")


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

    def at(self, bound: Mapping[str, int], span: Span = NOWHERE) -> str:
        """The label as it reads where the names of the rule are bound: `layers[3]`.

        SpaceError at the rule's span where an index has no value there (SP210), or one that is no
        index (SP307).
        """
        return self.name + "".join(f"[{_index(index, bound, span)}]" for index in self.indices)


def _index(index: Dim, bound: Mapping[str, int], span: Span) -> int:
    names = sorted(symbol.name for symbol in index.symbols)
    where = ", ".join(f"{name} = {bound[name]}" for name in names if name in bound)
    try:
        number = index.at(bound)
        whole = int(number)
    except ArithmeticError as failed:
        found = error("SP210", f"{index} has no value where {where}", span)
        raise SpaceError(found.note(str(failed))) from failed
    if whole != number or whole < 0:
        found = error("SP307", f"the index {index} of a label is {number} where {where}", span)
        raise SpaceError(found)
    return whole


@dataclass(frozen=True)
class Rename:
    """`own: foreign [in layout]`. A rule whose own pattern is `anywhere` renames labels."""

    own: Pattern
    foreign: tuple[ForeignHop, ...]
    layout: Layout | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    def matches(self, path: str) -> bool:
        """Whether the rule says something of one of our paths."""
        if not self.own.anywhere:
            return self.own.match_prefix(path) is not None
        return any(self.own.fit(run) is not None for run in _runs(split(path), len(self.own.hops)))


NONE = (ForeignHop("none"),)


@dataclass(frozen=True)
class Dialect:
    """The names that another code base has for our parameters, by rules."""

    name: str
    renames: tuple[Rename, ...] = ()

    @cached_property
    def _nones(self) -> tuple[Rename, ...]:
        return tuple(r for r in self.renames if r.foreign == NONE)

    def omits(self, path: str) -> bool:
        """Whether the other code has nothing called by our path."""
        return any(rule.matches(path) for rule in self._nones)

    def ignores(self, foreign: str) -> bool:
        """Whether we have nothing called by a foreign name, `meta_layer.weight`."""
        labels = tuple(foreign.split("."))
        for rule in self._nones:
            wanted = tuple(str(hop) for hop in rule.own.hops)
            runs = _runs(labels, len(wanted)) if rule.own.anywhere else (labels[: len(wanted)],)
            if wanted in runs:
                return True
        return False

    @cached_property
    def _prefixes(self) -> tuple[Rename, ...]:
        rules = [r for r in self.renames if not r.own.anywhere and r.foreign != NONE]
        return tuple(
            sorted(rules, key=lambda r: (-len(r.own.hops), tuple(-w for w in r.own.weight)))
        )

    @cached_property
    def _labels(self) -> tuple[Rename, ...]:
        rules = [r for r in self.renames if r.own.anywhere and r.foreign != NONE]
        return tuple(sorted(rules, key=lambda r: -len(r.own.hops)))

    def foreign(self, path: str) -> tuple[str, Layout | None]:
        """The foreign name of a parameter, `a.b.0.c` in PyTorch's dotted form, and its layout.

        SP210 or SP307 at a rule whose index is no number, or no index, for this parameter.
        """
        parts = list(split(path))
        layout: Layout | None = None
        head: list[str] = []
        for rule in self._prefixes:
            bound = rule.own.match_prefix(path)
            if bound is not None:
                head = [hop.at(bound, rule.span) for hop in rule.foreign]
                layout = rule.layout if len(rule.own.hops) == len(parts) else None
                parts = parts[len(rule.own.hops) :]
                break
        return dotted(".".join([*head, *self._relabelled(parts)])), layout

    def _relabelled(self, parts: Sequence[Hop]) -> Iterator[str]:
        """Labels as the other code calls them; rules of several labels go before those of one."""
        at = 0
        while at < len(parts):
            for rule in self._labels:
                end = at + len(rule.own.hops)
                bound = rule.own.fit(tuple(parts[at:end])) if end <= len(parts) else None
                if bound is not None:
                    yield from (hop.at(bound, rule.span) for hop in rule.foreign)
                    at = end
                    break
            else:
                yield str(parts[at])
                at += 1


def _runs(items: tuple[Item, ...], length: int) -> Iterator[tuple[Item, ...]]:
    """Every run of so many neighbours."""
    return (items[at : at + length] for at in range(len(items) - length + 1))


def dotted(path: str) -> str:
    """`blocks[3].norm` as PyTorch names it: `blocks.3.norm`."""
    return path.replace("][", ".").replace("[", ".").replace("]", "")
