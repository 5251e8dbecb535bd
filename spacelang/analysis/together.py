"""How many entries of a factor its readers read together, each entry once.

    together([(TRUE, [0:width]), (deep, [0:8])])     # max(width, 8 if deep else 0)

Readers of which one holds another read as many as the longest. Parts that start at known places are
counted from place to place. Any other readers are asked of every entry whether they read it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import methodcaller

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.condition import TRUE, Condition, conjunction, disjunction, is_value
from spacelang.ir.dim import ZERO, Dim, conditional, maximum, minimum
from spacelang.ir.facts import enumerable, points
from spacelang.ir.gather import INNER, PARTS, read, sizes_of
from spacelang.ir.param import Gather, Slice

Part = Slice | Gather
Reader = tuple[Condition, Part]
"""What is read of a factor, in the decisions of the whole space, and when."""
Run = tuple[int, Dim]
"""Entries side by side: the first, and how many there are."""


def together(readers: Sequence[Reader]) -> Dim:
    """The number of entries that a present reader reads, each counted once, where one is present.

    SP507 where one reads through a table by more decisions than can be tried.
    """
    first = readers[0][1]
    if all(part == first for _, part in readers):
        return first.length
    if _nested([part for _, part in readers]):
        return _largest((condition, part.length) for condition, part in readers)
    runs: list[tuple[Condition, Run]] = []
    for condition, part in readers:
        own = _runs(part)
        if own is None:
            return _by_entry(readers)
        runs += ((condition, run) for run in own)
    return _by_place(runs)


def _largest(sizes: Iterable[tuple[Condition, Dim]]) -> Dim:
    """The largest of some sizes that are there."""
    largest = ZERO
    for condition, size in sizes:
        largest = maximum(largest, conditional(condition, size, ZERO))
    return largest


def _nested(parts: Sequence[Part]) -> bool:
    """Whether of any two parts one holds the other, whatever is decided."""
    first, *rest = parts
    if isinstance(first, Gather):
        return first.table in INNER and all(
            isinstance(p, Gather) and (p.table, p.arguments) == (first.table, first.arguments)
            for p in rest
        )
    slices = [part for part in parts if isinstance(part, Slice)]
    if len(slices) < len(parts) or any(part.step != first.step for part in slices):
        return False
    middle = first.start * 2 + first.length
    return all(p.start == first.start for p in slices) or (
        first.step == 1 and all(p.start * 2 + p.length == middle for p in slices)
    )


def _runs(part: Part) -> list[Run] | None:
    """What a part reads as runs that start at known places; None where it is something else."""
    if isinstance(part, Slice):
        start = part.start.constant
        return [(int(start), part.length)] if start is not None and part.step == 1 else None
    if part.table != PARTS:
        return None
    found: list[Run] = []
    start, rest = 0, part.length
    for size, largest in zip(part.arguments[::2], part.arguments[1::2], strict=True):
        if largest.constant is None:
            return None
        found.append((start, size))
        start, rest = start + int(largest.constant), rest - size
    return [*found, (start, rest)]


def _by_place(runs: Sequence[tuple[Condition, Run]]) -> Dim:
    """From each place where a run starts to the next, the longest way that one reads."""
    places = sorted({start for _, (start, _) in runs})
    total = ZERO
    for place, after in zip(places, [*places[1:], None], strict=True):
        reached = (
            (condition, _way(length, place - start, None if after is None else after - place))
            for condition, (start, length) in runs
            if start <= place
        )
        total = total + _largest(reached)
    return total


def _way(length: Dim, passed: int, room: int | None) -> Dim:
    """How far a run reaches beyond `passed` entries, in so much room."""
    rest = maximum(length - passed, ZERO) if passed else length
    return rest if room is None else minimum(rest, Dim.of(room))


def _by_entry(readers: Sequence[Reader]) -> Dim:
    """Entry by entry; those that are read by the same readers alike are counted together."""
    entries: dict[int, list[Condition]] = {}
    for condition, part in readers:
        for entry, when in _conditions(part).items():
            entries.setdefault(entry, []).append(conjunction(condition, when))
    total = ZERO
    for when, count in Counter(disjunction(*each) for each in entries.values()).items():
        total = total + conditional(when, Dim.of(count), ZERO)
    return total


def _conditions(part: Part) -> dict[int, Condition]:
    """Every entry that a part may read, and when it does."""
    sizes = (part.start, part.length) if isinstance(part, Slice) else sizes_of(part)
    symbols = sorted({s for size in sizes for s in size.symbols}, key=lambda s: s.name)
    if not enumerable(symbols):
        raise SpaceError(
            error("SP507", "a parameter is shared by readers of too many different parts of it")
            .note(f"what one reads depends on {', '.join(s.name for s in symbols)}")
        )  # fmt: skip
    found: dict[int, list[Condition]] = {}
    count = 0
    for point in points(symbols):
        count += 1
        here = conjunction(*(is_value(s, point[s.name]) for s in symbols))
        try:
            own = read(part, methodcaller("at", point))
        except (ArithmeticError, ValueError):  # of no architecture: the view was proved
            own = ()
        for entry in own:
            found.setdefault(entry, []).append(here)
    return {
        entry: TRUE if len(each) == count else disjunction(*each) for entry, each in found.items()
    }
