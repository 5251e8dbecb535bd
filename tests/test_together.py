"""Entries that several readers of a factor read together: closed forms against sets of entries."""

from __future__ import annotations

import random
from fractions import Fraction
from operator import methodcaller

import pytest

from spacelang.analysis.together import Part, Reader, together
from spacelang.diagnostics import SpaceError
from spacelang.ir.condition import TRUE, is_value
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.facts import points
from spacelang.ir.gather import in_order, picked, read
from spacelang.ir.param import Gather, Slice

STORED = 17
FLAGS = [Symbol(name, (False, True)) for name in ("one", "two")]
SIZES = [Symbol(name, tuple(map(Fraction, values))) for name, values in
         (("a", (1, 3, 5)), ("b", (3, 7)), ("c", (2, 4)))]  # fmt: skip


def leading(rng: random.Random) -> Part:
    return Slice(Dim.of(0), Dim.of(rng.choice(SIZES)))


def later(rng: random.Random) -> Part:
    return Slice(Dim.of(rng.choice([1, 4, 6])), Dim.of(rng.choice(SIZES)) + rng.choice([0, 2]))


def middle(rng: random.Random) -> Part:
    size = Dim.of(rng.choice(SIZES[:2]))
    return Slice((STORED - size) / 2, size)


def parts(rng: random.Random) -> Part:
    one, two = rng.sample(SIZES, 2)
    largest = Dim.of(int(max(one.values)))
    return Gather("parts", (Dim.of(one), largest), Dim.of(one) + Dim.of(two))


def band(rng: random.Random) -> Part:
    return Gather("band", (Dim.of(STORED),), Dim.of(rng.choice(SIZES[:2])))


def every_other(rng: random.Random) -> Part:
    return Slice(Dim.of(rng.choice([0, 1])), Dim.of(rng.choice(SIZES)), 2)


KINDS = {
    "nested": [leading],
    "middles": [middle],
    "bands": [band],
    "parts": [parts, leading, later],
    "any": [leading, later, middle, parts, band, every_other],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_is_counted_once(kind: str) -> None:
    rng = random.Random(kind)
    for _ in range(30):
        readers: list[Reader] = []
        for _ in range(rng.choice([1, 2, 3])):
            flag = rng.choice(FLAGS)
            when = rng.choice([TRUE, is_value(flag, True), is_value(flag, False)])
            readers.append((when, rng.choice(KINDS[kind])(rng)))
        if len({part for _, part in readers}) == 1:  # counted where one of them is present
            continue
        size = together(readers)
        for values in points([*FLAGS, *SIZES]):
            number = methodcaller("at", values)
            read_by = [set(read(part, number)) for when, part in readers if when.at(values)]
            assert size.at(values) == len(set[int]().union(*read_by)), (readers, values)


def test_what_is_simple_stays_simple() -> None:
    a, b = (Dim.of(symbol) for symbol in SIZES[:2])
    both = [(TRUE, Slice(Dim.of(0), a)), (TRUE, Slice(Dim.of(0), b))]
    assert str(together(both)) == "max(a, b)"
    joined = [(TRUE, Gather("parts", (a, Dim.of(5)), a + b)), (TRUE, Slice(Dim.of(0), Dim.of(5)))]
    assert together(joined) == 5 + b


def test_a_reader_of_too_many_kinds_is_refused() -> None:
    many = Symbol("n", tuple(map(Fraction, range(1, 5000, 2))))
    more = Symbol("m", tuple(map(Fraction, range(1, 7))))
    length = Dim.of(many) + 2 * Dim.of(more)
    readers = [(TRUE, Gather("band", (Dim.of(5011),), length)), (TRUE, Slice(Dim.of(0), length))]
    with pytest.raises(SpaceError, match=r"SP507.*too many"):
        together(readers)


def test_places_are_picked_in_order() -> None:
    for places in ((0, 1, 2), (3, 4), (0, 2, 3, 7), (4, 6), (1,), ()):
        part = picked(in_order(places))
        assert isinstance(part, Slice) == (places in ((0, 1, 2), (3, 4), (1,), ()))
        assert tuple(read(part, lambda size: size.at({}))) == places
    assert list(read(picked(range(1, 7, 2)), lambda size: size.at({}))) == [1, 3, 5]
    for places in ((3, 2), range(3, 0, -1), (1, 1)):
        with pytest.raises(ValueError, match="ascending"):
            picked(places)
