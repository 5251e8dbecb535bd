"""The report: complete, self-contained, well-formed, and safe whatever the names in it hold."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacelang.report import (
    Candidate,
    Command,
    Data,
    Decision,
    Epoch,
    Network,
    Report,
    ReportError,
    Score,
    Stage,
    from_json,
    page,
    to_json,
    write_report,
)
from spacelang.report.chart import ticks
from spacelang.report.drawing import grouped
from spacelang.report.text import compact, exact
from spacelang.statistics import pareto_front, wilson

HOSTILE = "</style><script>alert('x')</script>\"&<!--\x00\x1b[31m\u202e\ud800]]>"


def example() -> Report:
    """A small run with made-up numbers."""
    decisions = [Decision("width", "dim", (32, 48)), Decision("depth", "presence", (1, 2, 3))]
    chosen: dict[str, Any] = {"width": 48, "depth": 2}
    for layer in range(3):
        decisions.append(Decision(f"encoder[{layer}].heads", "dim", (2, 3, 4)))
        decisions.append(Decision(f"encoder[{layer}].op", "path", ("plain", "gated")))
        if layer < 2:
            chosen |= {f"encoder[{layer}].heads": 3, f"encoder[{layer}].op": "gated"}
    return Report(
        space="some.space:digits",
        title="Digits",
        summary="A made-up run.",
        size=2_000_000_000_000_000_000_000_123,
        size_within=4_321,
        where="params <= 9K",
        limit=(None, 9_000),
        decisions=tuple(decisions),
        data=Data("mnist5k", 10, (1, 28, 28), 3000, 1000, 1000, "ab" * 32),
        training=tuple(Epoch(i, 2.0 / i, 1 - 0.5 / i) for i in range(1, 9)),
        candidates=(
            Candidate("random", 5_000, 0.91),
            Candidate("random", 8_000, 0.90),
            Candidate("evolution", 6_000, 0.93),
            Candidate("evolution", 7_000, 0.95),
            Candidate("other", 7_500, 0.92),
        ),
        networks=(
            Network(
                "evolution's best", "winner", 7_000, 70_000, Score(950, 1000), Score(940, 1000)
            ),
            Network("best of random", "random", 5_000, 50_000, Score(910, 1000), Score(905, 1000)),
            Network("largest", "largest", 12_000, 120_000, Score(955, 1000), Score(951, 1000)),
            Network("by hand", "other", 9_000, 90_000),
        ),
        chosen=chosen,
        commands=(Command("spacelang search runs/a --seed 0", "Search again"), Command("true")),
        environment={"torch": "2.13.0", "cores": "2"},
        stages=(
            Stage("generation 0", (0.91, 0.90, 0.93)),
            Stage("generation 1", (0.95, 0.92), ("width: 32 -> 48", "depth: 1 -> 2")),
            Stage("generation 2"),
        ),
        checks={"ONNX against eager": "2e-07"},
        version="0.1.0",
    )


def parsed(report: Report) -> ElementTree.Element:
    """The page as XML: the strictest of all readings."""
    text = page(report)
    assert text.startswith("<!DOCTYPE html>\n")
    return ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def text_of(root: ElementTree.Element) -> str:
    return " ".join(" ".join(root.find("body").itertext()).split())


def of_class(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [element for element in root.iter() if name in element.get("class", "").split()]


TAGS = """
html head meta title style body main header footer section h1 h2 h3 p b span sup br div dl dt dd ul
li pre table thead tbody tr th td figure svg g line polyline polygon path circle rect text
"""


class Strict(HTMLParser):
    """Checks that what a browser reads is balanced and loads nothing."""

    EMPTY = frozenset({"meta", "br"})
    ALLOWED = frozenset(TAGS.split())

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in self.ALLOWED
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names))
        assert not any(name.startswith("on") or name in ("src", "href", "style") for name in names)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(report: Report) -> ElementTree.Element:
    """Everything that holds for every report."""
    text = page(report)
    reader = Strict()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|javascript:", text)
    root = parsed(report)
    for element in root.iter():
        for name, value in element.attrib.items():
            if name in {"x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height"}:
                assert math.isfinite(float(value))
    assert "nan" not in re.sub(r"<[^>]*class[^>]*>", "", text).lower()
    return root


# --- what is in it


def test_a_search_over_time() -> None:
    root = check(example())
    assert "Best accuracy so far" in text_of(root)
    rows = ["".join(row.itertext()) for row in root.iter("tr")]
    assert "generation 0391.0 %93.0 %93.0 %" in rows
    assert "generation 1293.5 %95.0 %95.0 %width: 32 -> 48depth: 1 -> 2" in rows
    assert "generation 20––95.0 %" in rows  # noqa: RUF001
    one = dataclasses.replace(example(), stages=(Stage("generation 0", (0.5,)),))
    assert "Over time" not in text_of(check(one)), "what has no course has none shown"
    with pytest.raises(ValueError, match="is no accuracy"):
        Stage("generation 0", (91.0,))


def test_all_parts_are_there() -> None:
    root = check(example())
    heads = [h.text for h in root.iter("h2")]
    assert heads == [
        "The space",
        "Results",
        "Search",
        "Over time",
        "The chosen architecture",
        "Training",
        "Proofs",
        "Repeat it",
        "Environment",
    ]
    text = text_of(root)
    for piece in (
        "Digits",
        "some.space:digits",
        "A made-up run.",
        "exactly 2,000,000,000,000,000,000,000,123 architectures",
        "params <= 9K leaves 4,321",
        "3,000 to train, 1,000 to validate, 1,000 to test, split abababababab",
        "encoder[0..2].heads dim 2 3 4 3",
        "evolution's best 95.0 % 950 of 1,000 94.0 % 92.4 to 95.3",
        "7,000 7.000K 70,000 70.00K",
        "by hand",
        "evolution: 2 candidates",
        "random search: 2 candidates",
        "\u221242 % against the largest",
        "ONNX against eager 2e-07",
        "Search again spacelang search runs/a --seed 0",
        "torch 2.13.0 cores 2",
        "Written by spacelang 0.1.0.",
    ):
        assert piece in text, piece


def test_every_candidate_and_the_front_are_drawn() -> None:
    root = check(example())
    chart = next(
        s for s in root.iter("svg") if "against validation accuracy" in s.get("aria-label", "")
    )
    (cloud,) = of_class(chart, "cloud")
    kinds = [element.get("class") for element in cloud]
    assert sorted(kinds) == ["evolution", "evolution", "other", "random", "random"]
    assert len(of_class(chart, "halo")) == 3  # 5,000 at 91 %, 6,000 at 93 %, 7,000 at 95 %
    (front,) = of_class(chart, "front")
    assert front.get("d").count("L") == 5
    assert len(of_class(chart, "winner-mark")) == len(of_class(chart, "largest")) == 1
    assert len(of_class(chart, "best-random")) == len(of_class(chart, "limit")) == 1
    assert len(of_class(chart, "outside")) == 1
    place = {e.get("class"): e for e in cloud}
    evolution = [(float(e.get("cx")), float(e.get("cy"))) for e in cloud if e.tag == "circle"]
    assert max(x for x, _ in evolution) < float(of_class(chart, "limit")[0].get("x1"))
    assert float(place["other"].get("cy")) > min(y for _, y in evolution)  # up is better


def test_the_architecture_is_drawn_from_any_assignment() -> None:
    root = check(example())
    (network,) = of_class(root, "network")
    boxes = of_class(network, "layer")
    names = [box.find("h3").text for box in boxes]
    assert names == ["whole network", "input", "encoder[0]", "encoder[1]", "encoder[2]", "output"]
    assert [("absent" in box.get("class")) for box in boxes] == [False] * 4 + [True, False]
    gauges = of_class(network, "gauge")
    assert len(gauges) == 6
    heads = gauges[2]
    stops = [float(e.get("cx")) for e in of_class(heads, "stop")]
    assert stops == [5.0, 60.0, 115.0]
    assert [float(e.get("cx")) for e in of_class(heads, "taken")] == [60.0]
    assert "heads 3" in " ".join(heads.itertext())


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a[0].b", "a[1].b", "a[2].b"], ["a[0..2].b"]),
        (["a[0].b", "a[2].b"], ["a[_].b"]),
        (["s[0].l[0].b", "s[0].l[1].b"], ["s[0].l[0..1].b"]),
        (["s[0].l[0].b", "s[1].l[0].b", "s[1].l[1].b"], ["s[_].l[_].b"]),
        (["w[0]", "w[1]", "x"], ["w[0..1]", "x"]),
    ],
)
def test_decisions_are_grouped(paths: list[str], expected: list[str]) -> None:
    groups = grouped([Decision(path, "dim", (1, 2)) for path in paths])
    assert [group.path for group in groups] == expected
    assert sum(group.count for group in groups) == len(paths)


def test_equal_looking_candidates_stay_apart() -> None:
    groups = grouped([Decision("a[0]", "dim", (0, 1)), Decision("a[1]", "dim", (False, True))])
    assert len(groups) == 2


# --- what may come


def test_hostile_names_are_shown_and_not_obeyed() -> None:
    def poisoned(value: Any) -> Any:
        match value:
            case str() if value not in ("winner", "random", "largest", "evolution", "other"):
                return value + HOSTILE
            case list():
                return [poisoned(part) for part in value]
            case dict():
                return {
                    (name + HOSTILE if name in example().chosen else name): poisoned(part)
                    for name, part in value.items()
                }
            case _:
                return value

    data = poisoned(to_json(example()))
    data["size"] = data["size_within"] = "12"
    report = from_json(data)
    text = page(report)
    text.encode("utf-8")
    assert "<script" not in text
    for character in ("\x00", "\x1b", "\u202e", "\ud800"):
        assert character not in text
    shown = text_of(parsed(report))
    assert shown.count("<script>alert('x')</script>") > 30
    assert r"\x1b[31m\u{202e}" in shown
    reader = Strict()
    reader.feed(text)
    assert reader.open == []


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=40)
def test_any_text_gives_a_well_formed_page(name: str, path: str) -> None:
    report = dataclasses.replace(
        example(),
        title=name,
        decisions=(Decision(path, name, (name,)),),
        chosen={path: name, name: 1},
        environment={name: path},
    )
    parsed(report)
    page(report).encode("utf-8")


CHANGES: dict[str, Callable[[Report], Report]] = {
    "nothing measured": lambda r: dataclasses.replace(
        r,
        training=(),
        candidates=(),
        networks=(),
        chosen={},
        commands=(),
        environment={},
        checks={},
        decisions=(),
        where="",
        size_within=None,
        title="",
    ),
    "one candidate": lambda r: dataclasses.replace(
        r, candidates=r.candidates[:1], networks=(), limit=(None, None)
    ),
    "equal candidates": lambda r: dataclasses.replace(r, candidates=r.candidates[:1] * 5),
    "free candidates": lambda r: dataclasses.replace(
        r, candidates=(Candidate("other", 0, 0.0),), networks=()
    ),
    "one epoch": lambda r: dataclasses.replace(r, training=r.training[:1]),
    "unmeasured epochs": lambda r: dataclasses.replace(
        r, training=(Epoch(1, float("nan")), Epoch(2, float("inf")))
    ),
    "no test yet": lambda r: dataclasses.replace(
        r, networks=tuple(dataclasses.replace(n, test=None) for n in r.networks)
    ),
    "all right": lambda r: dataclasses.replace(
        r, networks=(Network("a", "winner", 0, 0, Score(9, 9), Score(9, 9)),)
    ),
    "macs": lambda r: dataclasses.replace(r, cost="macs", limit=(10_000, 100_000)),
    "another cost": lambda r: dataclasses.replace(r, cost="latency", limit=(1, 2)),
    "a limit far away": lambda r: dataclasses.replace(r, limit=(0, 10**15)),
    "a vast space": lambda r: dataclasses.replace(r, size=7**9999, size_within=7**900),
    "nested places": lambda r: dataclasses.replace(
        r,
        decisions=tuple(
            Decision(f"layers[{s}].blocks[{b}].inputs", "pick", ((0, 1), (1, 2)))
            for s in range(3)
            for b in range(2)
        ),
        chosen={"layers[0].blocks[0].inputs": (1, 2), "unknown.path": 1.25, "flag": True},
    ),
    "many candidates": lambda r: dataclasses.replace(
        r, decisions=(Decision("width", "dim", tuple(range(100))),), chosen={"width": 40}
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_kind_of_run_makes_a_page(change: str) -> None:
    check(CHANGES[change](example()))


def test_a_value_that_is_no_candidate_and_one_that_only_looks_equal() -> None:
    report = dataclasses.replace(
        example(),
        decisions=(Decision("a", "dim", (1, 2)), Decision("b", "dim", (True, 1))),
        chosen={"a": 7, "b": 1},
    )
    gauges = of_class(check(report), "gauge")
    assert of_class(gauges[0], "taken") == []
    assert [float(e.get("cx")) for e in of_class(gauges[1], "taken")] == [115.0]


# --- JSON


def test_json_round_trip() -> None:
    report = example()
    data = json.loads(json.dumps(to_json(report)))
    assert from_json(data) == report
    assert data["size"] == "2000000000000000000000123"
    picked = dataclasses.replace(report, chosen={"a": (1, 2), "b": True, "c": 0.5, "d": "x"})
    again = from_json(json.loads(json.dumps(to_json(picked))))
    assert again == picked
    assert [type(value) for value in again.chosen.values()] == [tuple, bool, float, str]


def wrong(*places: object, value: object) -> dict[str, Any]:
    data: Any = json.loads(json.dumps(to_json(example())))
    inner = data
    for place in places[:-1]:
        inner = inner[place]
    if value is KeyError:
        del inner[places[-1]]
    else:
        inner[places[-1]] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (wrong("size", value=KeyError), "report: the field 'size' is missing"),
        (wrong("sizes", value=1), "report: there is no field 'sizes'"),
        (wrong("size", value=-1), "report.size: -1 is negative"),
        (wrong("size", value="1e9"), "report.size: '1e9' is no whole number"),
        (wrong("size", value=True), "report.size: True is no whole number"),
        (wrong("size", value="9" * 5000), "report.size: a number of 5,000 digits"),
        (wrong("space", value=3), "report.space: 3 is no string"),
        (wrong("decisions", value={}), "report.decisions: {} is no array"),
        (wrong("decisions", 1, "candidates", 0, value={}), "decisions[1].candidates[0]"),
        (wrong("data", "shape", value=[1, 2]), "report.data.shape: has 2 entries, not 3"),
        (wrong("training", 0, "loss", value="x"), "report.training[0].loss: 'x' is no number"),
        (wrong("training", 0, "loss", value=float("nan")), "loss: nan is no finite number"),
        (wrong("training", 0, "accuracy", value=97.5), "training[0]: 97.5 is no accuracy"),
        (wrong("candidates", 0, "method", value="luck"), "'luck' is none of evolution, random"),
        (wrong("candidates", 0, "cost", value=1 << 70), "candidates[0]: a count is out of range"),
        (wrong("candidates", 0, value=[]), "report.candidates[0]: [] is no object"),
        (wrong("networks", 0, "test", "correct", value=1001), "networks[0].test: 1001 of 1000"),
        (wrong("limit", value=[None, "x"]), "report.limit[1]"),
        (wrong("chosen", "width", value=None), "report.chosen.width"),
        (wrong("chosen", "width", value=float("inf")), "report.chosen.width"),
        (wrong("environment", "torch", value=2), "report.environment.torch: 2 is no string"),
    ],
)
def test_wrong_data_is_refused_by_place(data: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ReportError) as caught:
        write_report(tmp_path, data)
    assert message in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_the_file_is_written_and_the_same_every_time(tmp_path: Path) -> None:
    path = write_report(tmp_path, example())
    assert path == tmp_path / "report.html"
    first = path.read_bytes()
    write_report(tmp_path, to_json(example()))
    assert path.read_bytes() == first
    assert os.listdir(tmp_path) == ["report.html"]


# --- numbers


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17 (1998), table I
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
        (970, 1000, 0.9575, 0.9789),
    ],
)
def test_wilson(correct: int, total: int, low: float, high: float) -> None:
    assert wilson(correct, total) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(("correct", "total"), [(1, 0), (0, 0), (-1, 5), (6, 5)])
def test_wilson_of_nothing(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(correct, total)
    with pytest.raises(ValueError, match="no score"):
        Score(correct, total)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=30))
def test_pareto_front(points: list[tuple[int, int]]) -> None:
    front = pareto_front([cost for cost, _ in points], [gain for _, gain in points])
    kept = [points[i] for i in front]

    def beaten(point: tuple[int, int]) -> bool:
        return any(o != point and o[0] <= point[0] and o[1] >= point[1] for o in points)

    assert kept == sorted({point for point in points if not beaten(point)})


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.000K"),
        (84_009, "84.01K"),
        (168_330, "168.3K"),
        (5_893_962, "5.894M"),
        (1_300_000_000, "1.300G"),
        (3**60, "4.23 &#215; 10<sup>28</sup>"),
        pytest.param(7**9999, "about 10^8,450", id="vast"),
    ],
)
def test_compact_numbers(number: int, expected: str) -> None:
    assert compact(number) == expected
    if number < 10**30:
        assert exact(number).replace(",", "") == str(number)


@given(
    st.floats(-1e12, 1e12, allow_nan=False),
    st.floats(1e-6, 1e12, allow_nan=False),
    st.integers(3, 9),
)
def test_ticks_are_few_and_within(low: float, width: float, wanted: int) -> None:
    high = low + width
    if high - low < 1e-9 * max(abs(low), abs(high)):
        return
    found = ticks(low, high, wanted)
    assert 1 <= len(found) <= wanted + 1
    slack = (high - low) * 1e-6
    assert all(low - slack <= value <= high + slack for value in found)
    assert found == sorted(set(found))
