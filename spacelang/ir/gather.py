"""Index tables: which entries of a stored factor a gathered view reads, in the order of the table.

    weights { attn.window: entangle(corner) }      view bias[through corner(49):window*window]

A table is a pure function `(length, *arguments) -> entries` of whole numbers, found by its name in
the group `spacelang.tables`; ValueError for numbers that it is not made for. As a form of
`entangle` it is asked for `length` out of `stored` entries.

    square   signed offsets of a grid, as of Swin and iRPE: the middle of the stored square
    corner   distances in a grid, as of LeViT and TinyViT: the first rows and columns of it
    band     signed offsets along an axis, as of iRPE's cross: the middle of the stored run
    parts    of an axis that `concat` joined, each from its place in the largest network; no form

What follows the square or the odd run is kept last: iRPE's bucket of tokens without a place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from math import isqrt
from operator import methodcaller
from typing import cast

from spacelang import plugins
from spacelang.ir.condition import Condition
from spacelang.ir.dim import Dim
from spacelang.ir.facts import enumerable, points
from spacelang.ir.param import Gather, Slice
from spacelang.ir.prove import Answer, Proved, at_most

Table = Callable[..., Sequence[int]]
GROUP = "spacelang.tables"
PARTS = "parts"
INNER = frozenset({"square", "corner", "band"})
"""Tables of which a longer one, of as many stored entries, reads all that a shorter one does."""
ENTRIES = 1 << 20
"""How many entries a view gathers at most."""


def tables() -> tuple[str, ...]:
    """The names of the index tables."""
    return tuple(plugins.table(GROUP))


def forms() -> tuple[str, ...]:
    """The tables that a rule may name: those that need no numbers but what is stored."""
    return tuple(name for name in tables() if name != PARTS)


@lru_cache(maxsize=4096)
def entries(table: str, length: int, arguments: tuple[int, ...]) -> tuple[int, ...]:
    """What a table reads. ValueError where it is not made for these numbers, or of another length;
    SpaceError (SP604) for an unknown one."""
    if not 0 <= length <= ENTRIES:
        raise ValueError(f"{length:,} entries, not up to {ENTRIES:,}")
    found = tuple(cast(Table, plugins.load(GROUP, table))(length, *arguments))
    if len(found) != length:
        raise ValueError(f"{table} gives {len(found)} entries, not {length}")
    return found


def gathered(part: Gather, number: Callable[[Dim], float | Fraction]) -> tuple[int, ...]:
    """What a part of a view reads where sizes are known numbers. ValueError as `entries`."""
    length, *arguments = (_whole(number(size)) for size in sizes_of(part))
    return entries(part.table, length, tuple(arguments))


def read(part: Slice | Gather, number: Callable[[Dim], float | Fraction]) -> Sequence[int]:
    """What a part of a view reads where sizes are known numbers: a range, where it is one.

    ValueError as `entries`.
    """
    if isinstance(part, Gather):
        return in_order(gathered(part, number))
    start, length = _whole(number(part.start)), _whole(number(part.length))
    return range(start, start + length * part.step, part.step)


def in_order(entries: Sequence[int]) -> Sequence[int]:
    """Entries as a range where they stand side by side, else as a tuple."""
    first = entries[0] if entries else 0
    plain = range(first, first + len(entries))
    return plain if tuple(plain) == tuple(entries) else tuple(entries)


def ascending(entries: Sequence[int]) -> bool:
    """Whether each entry stands after the one before it, as parts of a view read them."""
    if isinstance(entries, range):
        return entries.step > 0 or len(entries) < 2
    return all(a < b for a, b in pairwise(entries))


def picked(places: Sequence[int]) -> Slice | Gather:
    """The part of a view that reads entries in ascending order; ValueError in another."""
    if not ascending(places):
        raise ValueError("entries are not in ascending order")
    if isinstance(places, range):
        return Slice(Dim.of(places.start), Dim.of(len(places)), max(places.step, 1))
    runs: list[list[int]] = [[0, 0]]  # the first entry of each, and how many there are
    for place in places:
        if place != sum(runs[-1]):
            runs.append([place, 0])
        runs[-1][1] += 1
    arguments: list[Dim] = []
    for (start, count), (after, _) in pairwise(runs):
        arguments += (Dim.of(count), Dim.of(after - start))
    return Gather(PARTS, tuple(arguments), Dim.of(len(places)))


def joined(a: Sequence[int], b: Sequence[int]) -> Sequence[int]:
    """All entries that one of two reads, in order; both if they are the same."""
    return a if a == b else in_order(sorted({*a, *b}))


def sizes_of(part: Gather) -> tuple[Dim, ...]:
    """The numbers that a table is asked with."""
    return (part.length, *part.arguments)


def refused(part: Gather, guards: Sequence[Condition], extent: int) -> str:
    """Why a table does not fit into so many entries for every architecture; empty if it does.

    `part` and `guards` are in the decisions of the whole space, which are tried one by one.
    """
    symbols = frozenset(symbol for size in sizes_of(part) for symbol in size.symbols)
    if part.table == PARTS and _fits(part, guards, extent):
        return ""
    if not enumerable(symbols):
        return f"{part.table} has too many values to be tried"
    bounds = [guard for guard in guards if guard.symbols <= symbols]
    for point in points(symbols):
        if not all(guard.at(point) for guard in bounds):
            continue
        try:
            found = gathered(part, methodcaller("at", point))
        except (ArithmeticError, ValueError) as failed:
            return str(failed)
        if found and not 0 <= min(found) <= max(found) < extent:
            return f"{part.table} reads entries {min(found)} to {max(found)} of {extent}"
    return ""


def _fits(part: Gather, guards: Sequence[Condition], extent: int) -> bool:
    """Whether parts lie side by side inside of the storage, as far as can be shown of each."""
    rest, room = part.length, Dim.of(extent)
    claims: list[Answer] = []
    for size, largest in zip(part.arguments[::2], part.arguments[1::2], strict=True):
        claims += (at_most(0, size, guards), at_most(size, largest, guards))
        rest, room = rest - size, room - largest
    claims += (at_most(0, rest, guards), at_most(rest, room, guards))
    return all(isinstance(claim, Proved) for claim in claims)


def _whole(number: float | Fraction) -> int:
    if number != int(number):
        raise ValueError(f"{number} is no number of entries")
    return int(number)


def square(length: int, stored: int) -> list[int]:
    """The middle of a square of `stored` entries, row by row, and what follows the square."""
    side, full, rest = _sides(length, stored)
    first = _middle(side, full)
    return [*_grid(side, full, first), *range(stored - rest, stored)]


def corner(length: int, stored: int) -> list[int]:
    """The first rows and columns of a square of `stored` entries, and what follows the square."""
    side, full, rest = _sides(length, stored)
    return [*_grid(side, full, 0), *range(stored - rest, stored)]


def band(length: int, stored: int) -> list[int]:
    """The middle of an odd run; an even number of entries has one more, the last."""
    rest = (length + 1) % 2
    if rest != (stored + 1) % 2 or length > stored:
        raise ValueError(f"no {length} of {stored} entries stand around one middle")
    first = _middle(length - rest, stored - rest)
    return [*range(first, first + length - rest), *range(stored - rest, stored)]


def parts(length: int, *sizes: int) -> list[int]:
    """Parts side by side, each but the last told by its size and by its largest: the last has what
    is left of `length`. A part starts where it starts with all before it at their largest."""
    start, found = 0, list[int]()
    for size, largest in zip(sizes[::2], sizes[1::2], strict=True):
        if not 0 <= size <= largest:
            raise ValueError(f"a part of {size} is larger than the largest, {largest}")
        found += range(start, start + size)
        start += largest
    if len(found) > length:
        raise ValueError(f"parts of {len(found)} entries in all, more than {length}")
    return [*found, *range(start, start + length - len(found))]


def _sides(length: int, stored: int) -> tuple[int, int, int]:
    """The sides of two squares, and how many entries follow both."""
    side, full = isqrt(length), isqrt(stored)
    rest = length - side * side
    if rest != stored - full * full or side > full:
        raise ValueError(f"{length} and {stored} are no squares with as much after them")
    return side, full, rest


def _middle(inner: int, outer: int) -> int:
    first, odd = divmod(outer - inner, 2)
    if odd:
        raise ValueError(f"{inner} have no place around the middle of {outer}")
    return first


def _grid(side: int, full: int, first: int) -> list[int]:
    rows = range(first, first + side)
    return [row * full + column for row in rows for column in rows]
