"""Reading by index: entries lie in the axis that they read, in every architecture, or it is said."""

from __future__ import annotations

import re
from itertools import product

import pytest

from spacelang.backends.torch.lowering.tables import FUNCTIONS
from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.dim import Dim
from spacelang.ir.entries import IndexOf
from spacelang.ir.graph import Graph
from spacelang.ir.op import lookup
from spacelang.ir.text import write
from spacelang.ir.verify import verified
from spacelang.loader import load
from spacelang.ops.buckets import METHODS
from spacelang.syntax.ir_text import read


def space(body: str, inputs: str = "x: [B, 9, 3]") -> Graph:
    return load(Source("s.space", f"space s {{ input {inputs}\n{body} }}"))


def refused(body: str, inputs: str = "x: [B, 9, 3]") -> list[str]:
    """The codes, and the text of all that is wrong."""
    with pytest.raises(SpaceError) as found:
        space(body, inputs)
    return [
        f"{d.code} {d.headline} "
        + " ".join((d.primary.text, *(label.text for label in d.secondary), *d.notes))
        for d in found.value.diagnostics
    ]


def ends(op: str, options: dict[str, Dim | str]) -> tuple[int, int]:
    row = lookup(op).entries_row
    assert row is not None
    found = row(IndexOf((), options, (), "%0"))
    assert found is not None
    return int(found.low.at({})), int(found.high.at({}))


SIDES = (1, 2, 3, 5, 8, 14)


@pytest.mark.parametrize("op", ["offset_index", "clipped_index", "bucket_index"])
def test_bounds_are_those_of_the_tables(op: str) -> None:
    """Reached, where no token is skipped; a skipped one may have an entry of its own."""
    own: dict[str, list[dict[str, int | str | float]]] = {
        "offset_index": [{"kind": kind} for kind in ("signed", "absolute")],
        "clipped_index": [
            {"axis": axis, "reach": reach, "skip": skip}
            for axis, reach, skip in product((0, 1), (0, 2, 14), (0, 1))
        ],
        "bucket_index": [
            {"method": method, "ratio": ratio, "skip": skip}
            for methods in METHODS.values()
            for method, ratio, skip in product(methods, (0.5, 1.9, 3.0), (0, 1))
        ],
    }
    for (h, w), options in product(product(SIDES, SIDES), own[op]):
        table = FUNCTIONS[op](h=h, w=w, **options)
        given = {n: v if isinstance(v, str) else Dim.of(v) for n, v in options.items()}
        low, high = ends(op, {"h": Dim.of(h), "w": Dim.of(w), **given})
        assert high == int(table.max()), (h, w, options)
        assert low <= int(table.min())
        assert low == int(table.min()) or options["skip"]


def test_an_axis_that_is_too_short_has_an_architecture() -> None:
    (found,) = refused(
        "choose n in {1, 2} output mean(take(x, offset_index(n, 2), axis: 2), axes: [1, 2, 3])"
    )
    assert found.startswith("SP307 take reads outside of its axis an axis of 3 entries up to")
    assert "first disagreement: n = 2" in found
    (found,) = refused("output mean(take(x, offset_index(2, 2)), axes: [1, 2, 3])")
    assert "an axis of B" in found
    assert "B = 1" in found


BLOCKS = """
    block index(n) { return offset_index(n, n, kind: "absolute") }
    block reads(x, at) { return take(x, at, axis: 1) as got }
    choose n in {2, 3, 4}
"""


def test_entries_are_followed_through_blocks_and_branches() -> None:
    (found,) = refused(BLOCKS + "output mean(reads(x, index(n)) as r, axes: [1, 2, 3])")
    assert "n = 4" in found
    assert "at r.got" in found
    way = "when n {} 3 {{ y = y + mean(reads(x, index(n)) as r, axes: [1, 2, 3]) }} output y"
    start = BLOCKS + "y = 0 * mean(x, axes: [1, 2]) "
    assert space(start + way.format("<="))
    assert "n = 4" in refused(start + way.format(">="))[0]
    chosen = "at = choose op { a: offset_index(1, 5)  b: offset_index(2, 2) }"
    assert space(
        f"{chosen.replace('2, 2', '1, 5')} output mean(take(x, at, axis: 1), axes: [1, 2])"
    )


def test_inputs_and_sums_of_indices() -> None:
    table = "t = parameter([50, 8]) as t output mean(take(t, {}), axes: [1])"
    ids = "ids: [B, 5] in 0..<50"
    assert space(table.format("ids"), ids)
    assert space(table.format("49 - ids"), ids)
    assert "entries up to 50" in refused(table.format("ids + 1"), ids)[0]
    assert "entries from -49" in refused(table.format("ids - 49"), ids)[0]
    assert (
        "SP308 nothing says which entries take reads" in refused(table.format("relu(ids)"), ids)[0]
    )


@pytest.mark.parametrize(("n", "fits"), [("9", True), ("10", False)])
def test_a_table_by_a_formula(n: str, fits: bool) -> None:
    """Known, decided, and of more places than a proof tries."""
    for side, more in ((n, "0"), ("n", "0"), (n, "0 * (i // 200)")):
        body = (
            f"choose n in {{4, {n}}} index = table([{side}, {side}], index: true) "
            f"|i, j| {{ return abs(i - j) + {more} }} "
            "output mean(take(x, index, axis: 1), axes: [1, 2, 3])"
        )
        if fits:
            assert space(body)
        else:
            assert "SP307" in refused(body)[0]
            assert "up to 9" in refused(body)[0]


ROWS = range(4)
PLACES = [(i, j) for i in ROWS for j in ROWS]
APART: dict[str, tuple[str, list[int]]] = {
    "transposed": ('t - rearrange(t, "i j -> j i")', [i - j for i, j in PLACES]),
    "rolled": ("t - roll(t, [1], axes: [0])", [i - (i - 1) % 4 for i in ROWS]),
    "parted": ("b - a", [(i + 2) - i for i in (0, 1)]),
    "product": (
        '(t - 1) * (rearrange(t, "i j -> j i") - 1)',
        [(i - 1) * (j - 1) for i, j in PLACES],
    ),
    "in a block": ("less(t)", [i - j for i, j in PLACES]),
    "of itself": ("t - t", [0]),
    "at its place": ("t + 2 - t", [2]),
    "taken": ("t - take(t, flipped)", [i - (3 - i) for i in ROWS]),
}


@pytest.mark.parametrize(("made", "entries"), APART.values(), ids=list(APART))
def test_places_that_are_apart(made: str, entries: list[int]) -> None:
    """Entries of one table at two places are not taken for one: by tables that are listed here."""
    body = """
        block less(t) {{ return t - rearrange(t, "i j -> j i") }}
        choose n in {{3, 4}}
        t = table([n, n], index: true) |i, j| {{ return i }}
        flipped = table([n], index: true) |i| {{ return n - 1 - i }}
        a, b = split(table([4, 4], index: true) |i, j| {{ return i }}, [2, 2], axis: 0)
        w = parameter([{}, 2]) as w
        output mean(take(w, {} + {}), axes: [0, 1]) + x
    """
    least, most = min(entries), max(entries)
    same = made in ("t - t", "t + 2 - t")  # each place beside itself: no bound is given away
    low, high = (least, most) if same else (min(least, -3), max(most, 4))
    assert space(body.format(high - low + 1, made, -low), "x: [B, 2]")
    one = [(1, 0)] if entries != [0] else []
    for rows, shift in (*one, (most - least or 1, -least + 1), (most + 1 - least, -least - 1)):
        (found,) = refused(body.format(rows, made, shift), "x: [B, 2]")
        assert found.startswith("SP307 take reads outside")


def test_sums_into_buckets_are_no_entries_of_what_they_add() -> None:
    """Four 2s are an 8, of which an axis of 3 has no entry."""
    body = """
        t = table([4, 4], index: true) |i, j| { return 2 }
        zeros = table([4, 4], index: true) |i, j| { return 0 }
        w = parameter([3, 2]) as w
        output mean(take(w, bucket_sum(t, zeros, buckets: 1)), axes: [0, 1]) + x
    """
    assert "SP308 nothing says which entries take reads" in refused(body, "x: [B, 2]")[0]


SWIN = """
    choose w in {{7, 14}}
    index = table([w * w, w * w], index: true) |i, j| {{
        return (i // w - j // w + w - 1) * (2 * w - 1) + i % w - j % w + w - 1
    }}
    rows = parameter([{}, 2]) as rows
    output mean(take(rows, index), axes: [0, 1]) + x
    weights {{ w: entangle }}
"""


def test_a_large_table_of_decisions_is_computed_for_each() -> None:
    """The index of a Swin window, as it is written in its papers."""
    assert space(SWIN.format("(2 * w - 1) * (2 * w - 1)"), "x: [B, 2]")
    (found,) = refused(SWIN.format("(2 * w - 1) * (2 * w - 1) - 1"), "x: [B, 2]")
    assert found.startswith("SP307 take reads outside")
    (found,) = refused(SWIN.format("(2 * w - 1) * (2 * w - 1)").replace("14", "28"), "x: [B, 2]")
    assert "SP308" in found
    assert "617,057 combinations, of which 262,144 are tried" in found


def test_a_large_table_is_computed() -> None:
    body = (
        "index = table([196, 196], index: true) |i, j| {{ return (i * j) % {} }} "
        "output mean(gather(x, index), axes: [1, 2])"
    )
    assert space(body.format(9), "x: [B, 196, 9]")
    assert "SP307 gather" in refused(body.format(10), "x: [B, 196, 9]")[0]


def test_sums_into_buckets() -> None:
    body = "output mean(bucket_sum(x, offset_index(3, 1), buckets: {}), axes: [1, 2])"
    assert space(body.format(5), "x: [B, 3, 3]")
    assert "an axis of 4" in refused(body.format(4), "x: [B, 3, 3]")[0]


def test_a_graph_by_its_text_is_held_to_it() -> None:
    graph = space("output mean(take(x, offset_index(1, 5), axis: 1), axes: [1, 2, 3])")
    text = write(graph)
    assert verified(read(Source("s.spaceir", text))) == graph
    with pytest.raises(SpaceError, match="take reads outside of its axis"):
        verified(read(Source("s.spaceir", text.replace("w=5", "w=6").replace("5, 5", "6, 6"))))


WRITTEN = """
spaceir 1
graph s
root s {
  %0: [B, 9, 3] = input() as x
  %1: i64 [4, 4] = AT
  %2: [B, 4, 4, 3] = take(%0, %1, axis=1)
  yield %2
}
output %2 as output
"""
TABLE = "table(shape=[4, 4], formula={}, index=true)"
WRONG = {
    TABLE.format('"i5"'): "it has no i5",
    TABLE.format('"n0"'): "it has no n0",
    TABLE.format('"+"'): "+ lacks an operand",
    TABLE.format('"1 1"'): "it leaves 2 values",
    TABLE.format('"1 i1 2 - /"'): "no value at 0, 2: a division by zero",
    TABLE.format('"1 i1 2 - / 0 <= 0 and"'): "no value at 0, 2: a division by zero",
    TABLE.format('"1 1 1 i1 2 - / 1 <= if"'): "no value at 0, 2: a division by zero",
    TABLE.format('"10 100000000 power 0 *"'): "a power of more than 63 bits",
    TABLE.format('"2 i0 200 power power"'): "a power of more than 63 bits",
    TABLE.format(f'"1 {"9999999999 * " * 90}0 *"'): "a number of more than 1,024 bits",
    TABLE.format(f'"i0{" sin" * 1900}"'): "nested deeper than 64",
    TABLE.format(f'"i0 8 min{" i0 * 8 min" * 450}"'): "formula is nested deeper than 64",
    TABLE.format(f'"i0 1 <{" i0 2 < and i0 3 < or" * 240}"'): "a formula is nested deeper",
    TABLE.format('"0"').replace("4, 4", "4, 700000000000000"): "65,536 on an axis",
    TABLE.format('"0"').replace("4, 4", "60000, 60000"): "16,777,216 entries",
    TABLE.format('"0"').replace("4, 4", "4, -7"): "a size of a table must be at least 1",
    "clipped_index(h=2, w=2, axis=5, reach=1)": "axis of clipped_index is 5",
    "clipped_index(h=2, w=2, axis=1/2, reach=1)": "axis must be a whole number, not 1/2",
    'bucket_index(h=2, w=2, method="euclidean", ratio=0)': "ratio of bucket_index is 0",
    'bucket_index(h=2, w=2, method="euclidean", ratio=-1)': "ratio of bucket_index is -1",
}


@pytest.mark.parametrize(("at", "cause"), WRONG.items(), ids=list(WRONG.values()))
def test_a_text_is_asked_for_entries_where_all_else_is_right(at: str, cause: str) -> None:
    with pytest.raises(SpaceError) as found:
        verified(read(Source("s.spaceir", WRITTEN.replace("AT", at))))
    (diagnostic,) = found.value.diagnostics
    assert diagnostic.code == "SP602"
    assert cause in diagnostic.headline


FOLDED = {
    "1 i0 / 0 *": "may be zero and divides: i0",
    "1 i0 3 - / 1 i0 3 - / -": "may be zero and divides: i0 - 3",
    "3 i0 // 0 <= 0 and": "may be zero and divides: i0",
    "1 i0 / 0 power": "may be zero and divides: i0",
    "1 1 1 i0 / 1 <= if": "may be zero and divides: i0",
    "i0 log 0 *": "may have no value: log(i0)",
    "i0 4 - sqrt 0 *": "may have no value: sqrt(i0 - 4)",
    "3 i0 1 - sqrt 0 * 1 i0 <= if 0 *": "may have no value: sqrt(i0 - 1)",
    "8 i0 // 3 min 0 max 2 min": "may be zero and divides: i0",
    "8 i0 // sin 1 + 1 min 0 max": "may be zero and divides: i0",
    "i0 4 - sqrt 2 min": "may have no value: sqrt(i0 - 4)",
    "9 i0 // 4 < 0 i0 < and": "may be zero and divides: i0",
    "8 i0 // 0 0 i0 < if 8 i0 // + 8 i0 // - 2 min": "may be zero and divides: i0",
    "8 i0 // 2 min 0 0 i0 < 8 i0 // 9 < and 8 i0 // 9 < or if": "may be zero and divides: i0",
    "8 i0 3 - // 2 min 0 0 i0 < i0 4 <= and 5 i0 3 - // 9 < or 0 i0 < or if": (
        "may be zero and divides: i0 - 3"
    ),
}
"""Formulas of small numbers as a size, that have no value at one of their places."""


def by_formula(formula: str, places: int) -> Graph:
    text = WRITTEN.replace("AT", TABLE.format(f'"{formula}"')).replace("4, 4", f"{places}, 1")
    return verified(read(Source("s.spaceir", text)))


@pytest.mark.parametrize("formula", FOLDED)
def test_what_has_no_value_is_not_forgotten(formula: str) -> None:
    with pytest.raises(SpaceError, match=r"has no value at (0|3), 0"):
        by_formula(formula, 4)
    with pytest.raises(SpaceError, match=re.escape(FOLDED[formula])):
        by_formula(formula, 5000)


@pytest.mark.parametrize("places", [4, 5000])
@pytest.mark.parametrize(
    "formula",
    [
        "8 i0 // 2 min 0 0 i0 < if",
        "i0 1 <= 8 i0 // 4 < or",
        "0 i0 < 8 i0 // 9 < and",
        "8 i0 // 2 min 0 0 i0 < 8 i0 // 9 < and if",
        "0 8 i0 // 2 min i0 1 < 8 i0 // 9 < or if",
        "1 i0 1 + / 0 * i0 sqrt 2 min 0 * +",
        "i0 1 - sqrt 2 min 0 0 i0 < if",
        "8 i0 i0 * 2 - // 0 max",
    ],
)
def test_only_what_is_read_needs_a_value(formula: str, places: int) -> None:
    """The side that an `if` takes, and the right of `and` and `or` where the left leaves it open."""
    assert by_formula(formula, places)


@pytest.mark.parametrize(("below", "valued"), [("<", True), ("<=", False)])
def test_a_divisor_of_two_indices_is_tried_at_each_place(below: str, valued: bool) -> None:
    formula = f"8 i0 i1 - // 0 i1 i0 {below} if"
    text = WRITTEN.replace("AT", TABLE.format(f'"{formula}"')).replace("4, 4", "80, 80")
    if valued:
        assert verified(read(Source("s.spaceir", text)))
    else:
        with pytest.raises(SpaceError, match="may be zero and divides: i0 - i1"):
            verified(read(Source("s.spaceir", text)))


@pytest.mark.parametrize(("type", "axis"), [("[]", "0"), ("[B, 9, 3]", "1/2"), ("[B, 9, 3]", "3")])
def test_a_text_that_reads_an_axis_that_is_none(type: str, axis: str) -> None:
    text = WRITTEN.replace("AT", "offset_index(h=2, w=2)").replace("[B, 9, 3]", type)
    text = text.replace("[B, 4", "[2, 4") if type == "[]" else text
    with pytest.raises(SpaceError) as found:
        verified(read(Source("s.spaceir", text.replace("axis=1", f"axis={axis}"))))
    assert "reads outside" not in str(found.value)
    assert {d.code for d in found.value.diagnostics} == {"SP602"}
