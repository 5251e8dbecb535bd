"""What `check` says of `search { }`, `names { }` and `default`, each at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from spacelang.checking import examine
from spacelang.diagnostics import Diagnostic, Source

BODY = "input x: [B, 16] choose width in {8, 16} x = linear(x, width) as fc output x weights { _: entangle }"
FOUND = {
    'search evolution { where = "params < " }': ("error", "SP101", 'where = "params < "'),
    'search evolution { where = "params < 3" }': ("error", "SP502", 'where = "params < 3"'),
    'search evolution { where = "params > 3" }': ("warning", "SP511", 'where = "params > 3"'),
    'search evolution { where = "width == 193" }': ("error", "SP502", 'where = "width == 193"'),
    'search evolution { where = "widht == 8" }': ("error", "SP201", 'where = "widht == 8"'),
    'search evolution { population = "x" }': ("error", "SP209", 'population = "x"'),
    "search evolution { bogus = 1 }": ("error", "SP204", "bogus = 1"),
    "search evolution { population = 0 }": ("error", "SP103", "population = 0"),
    'search contraction { bounds = ["", "params <= 3"] }': ("error", "SP502", 'bounds = ["", "params <= 3"]'),
    "search nope { }": ("warning", "SP604", "search nope { }"),
    "names pub { fc: a  fc: b }": ("error", "SP203", "fc: b"),
    "names pub { fc.weight: b in order(7, 7) }": ("error", "SP606", "fc.weight: b in order(7, 7)"),
    "names pub { fc.weight: b in shape(4, 4) }": ("error", "SP606", "fc.weight: b in shape(4, 4)"),
    "names pub { zzz: a }": ("warning", "SP504", "zzz: a"),
    "names pub { _.wieght: _.w }": ("warning", "SP504", "_.wieght: _.w"),
    "default nope(bias: 1)": ("error", "SP201", "default nope(bias: 1)"),
    "default linear(bogus: 1)": ("error", "SP204", "bogus: 1"),
}  # fmt: skip
RIGHT = (
    'search evolution { population = 24  parents = 6  mutants = 12  crossovers = 12  where = "params <= 200" }',
    "search evolution { }",
    "names pub { fc: a.b  _.bias: _.offset  other: none }",
    "default linear(bias: false)",
)


def told(body: str, before: str = "", indexed: bool = False) -> list[Diagnostic]:
    layers = BODY.replace("as fc", "as fc[0] |> linear(4) as fc[1]") if indexed else BODY
    source = Source("t.space", f"{before} space s {{ {layers} {body} }}")
    return list(examine("t.space", source, Path()).report)


@pytest.mark.parametrize("body", FOUND)
def test_a_mistake_is_told_at_its_place(body: str) -> None:
    (found,) = told(body)
    severity, code, place = FOUND[body]
    if code == "SP103":  # of settings together: the engine's statement, or the one setting
        assert found.primary.span.text in body
        assert (found.severity, found.code) == (severity, code)
    else:
        assert (found.severity, found.code, found.primary.span.text) == (severity, code, place)


@pytest.mark.parametrize(
    ("index", "code"),
    [
        ("4 // i", "SP210"),
        ("i % (i - 1)", "SP210"),
        ("power(i, -1)", "SP210"),
        ("log(i)", "SP210"),
        ("sqrt(i - 5)", "SP210"),
        ("rsqrt(i)", "SP210"),
        ("i / 2", "SP307"),
        ("i - 5", "SP307"),
        ("4 // (i + 1)", None),
        ("sum([4 // (j + 1) for j in 0..<2]) + i", None),
    ],
)
def test_an_index_of_a_foreign_name_is_one_for_every_parameter(
    index: str, code: str | None
) -> None:
    rule = f"fc[i]: a[{index}]"
    found = told(f"names pub {{ {rule} }}", indexed=True)
    assert [(d.code, d.primary.span.text) for d in found] == ([(code, rule)] if code else [])


@pytest.mark.parametrize("body", RIGHT)
def test_what_is_right_is_silent(body: str) -> None:
    assert told(body) == []


def test_a_default_of_a_file_is_checked_too() -> None:
    assert [d.code for d in told("", "default linear(bogus: 1)")] == ["SP204"]
    assert [d.code for d in told("", "default nope(bias: 1)")] == ["SP201"]
