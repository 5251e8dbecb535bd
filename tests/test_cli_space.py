"""`info`, `count`, `sample`, `cost` and `show`: what the command line says of a space."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from command import FIXED, SHIPPED, SPACE, TINY, data, good, refused, run

import spacelang


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.space"
    file.write_text(SPACE)
    return file


# info, count, sample, cost.


@pytest.mark.parametrize(
    ("name", "size", "stored", "params"),
    [
        ("autoformer_t", "280804921344", 11669224, (4922536, 10517272)),
        ("autoformer_s", "77103263459313", 34790440, (13057320, 34790440)),
        ("autoformer_b", "6245364340204353", 80160360, (39792856, 76882264)),
    ],
)
def test_info_of_the_published_spaces(
    name: str, size: str, stored: int, params: tuple[int, int]
) -> None:
    found = data("info", f"autoformer.space:{name}")
    assert (found["name"], found["size"]) == (name, size)
    assert found["storage"] == {"params": stored, "buffers": 0}
    assert (found["params"]["min"], found["params"]["max"]) == params
    assert found["macs"]["min"] < found["macs"]["max"]
    assert found["decisions"]["encoder[3].ratio"] == {"kind": "dim", "candidates": [3, 3.5, 4]}
    last = max(found["decisions"]["depth"]["candidates"]) - 1
    assert found["decisions"][f"encoder[{last}].heads"]["when"] == f"depth > {last}"
    assert (found["shared"], found["copied"]) == ({}, [])


def test_info_is_laid_out_for_people() -> None:
    text = good("info", TINY)
    assert "280,804,921,344 (2.80e11)" in text
    assert "11.669 M (11,669,224) parameters in 232 tensors" in text
    assert "4.923 M (4,922,536) to 10.517 M (10,517,272)" in text
    assert re.search(r"encoder\[0\.\.13\]\.ratio +dim +3, 3\.5, 4 +14", text)
    assert max(map(len, text.splitlines())) <= 100


def test_info_agrees_with_cost_at_both_ends(small: Path, tmp_path: Path) -> None:
    found = data("info", f"{small}:small")
    graph = spacelang.load(f"{small}:small")
    costs = [graph.cost(a) for a in _all(graph)]
    assert found["size"] == str(len(costs)) == "12"
    for figure in ("params", "macs", "activations"):
        values = [getattr(cost, figure) for cost in costs]
        assert found[figure] == {"min": min(values), "max": max(values)}


def _all(graph: Any) -> list[Mapping[str, Any]]:
    """Every architecture, by brute force."""
    from itertools import product

    choices = graph.decisions
    found: dict[str, Mapping[str, Any]] = {}
    for values in product(*(choice.values for choice in choices.values())):
        assignment = choices.assignment(dict(zip(choices, values, strict=True)))
        found[json.dumps(dict(assignment))] = assignment
    return list(found.values())


def test_info_of_a_space_that_requires_something(small: Path) -> None:
    small.write_text(SPACE.replace("weights {", "require width == 16 or depth == 1\n  weights {"))
    found = data("info", f"{small}:small")
    assert found["size"] == "8"
    assert len(found["require"]) == 1
    low, high = found["params"].values()
    small.write_text(SPACE.replace("weights {", f"require params < {high}\n  weights {{"))
    found = data("info", f"{small}:small")
    assert found["size"] == "11"
    assert found["params"] == {"min": low, "max": high}, "the range leaves limits on figures out"


def test_info_names_what_is_shared(small: Path) -> None:
    small.write_text(SPACE.replace("_: entangle", "_: entangle  layers[_]: tie(every: 2)"))
    found = data("info", f"{small}:small")
    assert found["shared"]["layers[0].up.weight"] == 2
    assert "4 tensors with several readers" in good("info", f"{small}:small")


def test_info_names_what_is_copied(small: Path) -> None:
    """Rows of three parts, each sliced: what is read is no slice of what is stored."""
    small.write_text(
        SPACE.replace(
            "linear(x, width) as stem", "linear(x, [3, width]) as stem |> mean(axes: [1])"
        )
    )
    found = data("info", f"{small}:small")
    assert {"param": "stem.weight", "use": "stem", "bytes": 4 * 3 * 16 * 12} in found["copied"]
    assert "copied a step" in good("info", f"{small}:small")


def test_count_is_exact() -> None:
    found = data("count", TINY, "--where", "params in 5M..6M")
    assert found == {
        "name": "autoformer_t", "where": "params in 5M..6M", "size": "5164334576",
    }  # fmt: skip
    assert good("count", TINY) == "280,804,921,344 (2.80e11)\n"
    empty = run("count", TINY, "--where", "params <= 1M")
    assert (empty.exit_code, empty.stdout) == (0, "0\n")
    assert "params reaches 4,922,536 to 10,517,272; asked for at most 1,000,000" in empty.stderr


def test_count_gives_bounds_where_no_exact_table_fits() -> None:
    """Three figures at once, whose sums are no key of 64 bits; 1,227 by trying each of 6,720
    networks (tests/test_truncated.py)."""
    taken = " and ".join(f"kernels[{i}] == 3" for i in (1, 2, 3)) + " and depths[2] == 3"
    bands = "params >= 7116408 and macs in 133862512..440088320 and activations in 1465207..2109760"
    where = f"{bands} and {taken}"
    asked = ("count", "efficientvit.space:efficientvit_search", "--where", where)
    found = data(*asked)
    assert found.keys() == {"name", "where", "size", "at_least", "at_most"}
    assert (found["name"], found["where"], found["size"]) == ("efficientvit_search", where, None)
    low, high = int(found["at_least"]), int(found["at_most"])
    assert 0 < low <= 1_227 <= high < 6_720
    assert good(*asked) == f"between {low:,} and {high:,}\n"


def test_samples_are_legal_repeatable_and_within_the_budget() -> None:
    budget = ("--where", "params in 6M..6.1M")
    lines = good("sample", TINY, "-n", 20, "--seed", 5, *budget).splitlines()
    assert len(lines) == 20
    assert lines == good("sample", TINY, "-n", 20, "--seed", 5, *budget).splitlines()
    assert lines != good("sample", TINY, "-n", 20, "--seed", 6, *budget).splitlines()
    graph = spacelang.load(f"spaces/{TINY}")
    assert all(6_000_000 <= graph.cost(json.loads(line)).params <= 6_100_000 for line in lines)
    found = data("sample", TINY, "-n", 20, "--seed", 5, *budget)
    assert found["law"] == "architectures"
    assert found["assignments"] == [json.loads(line) for line in lines]
    assert data("sample", TINY, "--law", "choices")["law"] == "choices"


def test_cost_of_published_networks() -> None:
    found = data("cost", FIXED)
    assert (found["params"], found["macs"]) == (5867944, 1481938432)
    assert "5.868 M (5,867,944)" in good("cost", FIXED)
    found = data("cost", FIXED, "--per-op")
    for figure in ("params", "macs", "activations"):
        assert sum(row[figure] for row in found["ops"]) == found[figure]
    assert "encoder[0].attn.qkv" in good("cost", FIXED, "--per-op")


def test_cost_of_an_architecture_from_a_file_or_stdin(tmp_path: Path) -> None:
    line = good("sample", TINY, "--where", "params in 6M..6.1M")
    file = tmp_path / "arch.json"
    file.write_text(line)
    found = data("cost", TINY, "--arch", file)
    assert 6_000_000 <= found["params"] <= 6_100_000
    assert data("cost", TINY, "--arch", "-", stdin=line) == found


def test_cost_without_an_architecture_says_how_to_give_one() -> None:
    result = run("cost", TINY)
    assert result.exit_code == 2
    assert "error[SP506]" in result.stderr
    assert "help: say which architecture: --arch FILE" in result.stderr


def test_settings_reach_the_space() -> None:
    many = data("cost", FIXED)["params"]
    few = data("cost", FIXED, "--set", "classes=10")["params"]
    assert many - few == 990 * (192 + 1)
    found = data("info", TINY, "--set", "widths={192, 216}", "--set", "depths=12..13")
    assert found["decisions"]["width"]["candidates"] == [192, 216]
    assert found["decisions"]["depth"]["candidates"] == [12, 13]


# show.


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_space_is_shown(name: str) -> None:
    text = good("show", f"{name}.space")
    assert text.startswith("network ")
    blocks = re.findall(r"^block (\S+)", text, re.MULTILINE)
    assert len(blocks) == len(set(blocks)), "every block stands there once"
    assert "%B" not in text
    drawing = ElementTree.fromstring(good("show", f"{name}.space", "--as", "svg"))
    boxes = [rect for rect in drawing.iter("{http://www.w3.org/2000/svg}rect")]
    assert len(boxes) > 5
    _, _, width, height = map(float, drawing.attrib["viewBox"].split())
    for box in boxes[1:]:
        x, y, w, h = (float(box.attrib[key]) for key in ("x", "y", "width", "height"))
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= height
    assert good("show", f"{name}.space", "--as", "dot").startswith("digraph ")


def test_boxes_of_a_drawing_do_not_overlap() -> None:
    from spacelang.cli.drawing import sketch, svg

    drawn = sketch(spacelang.load("spaces/cdarts.space:cifar10"))
    assert all(start < end for start, end in drawn.arrows)
    root = ElementTree.fromstring(svg(drawn))
    places = [
        tuple(float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        for rect in list(root.iter("{http://www.w3.org/2000/svg}rect"))[1:]
    ]
    assert len(places) == len(drawn.boxes)
    for i, (x, y, w, h) in enumerate(places):
        for a, b, c, d in places[:i]:
            assert x >= a + c or a >= x + w or y >= b + d or b >= y + h


def test_show_folds_repeated_blocks_and_marks_presence() -> None:
    text = good("show", TINY)
    assert re.search(r"encoder\[0\.\.11\] = encoder\(%4\) +x 12 ", text)
    assert re.search(r"encoder\[13\] = encoder\(encoder\[12\], .*\) +when depth > 13 ", text)
    assert "choose heads in {3, 4}" in text
    assert 'pattern: "...ihd,...jhd->...hij"' in text


def test_show_tells_shared_weights() -> None:
    """Of one layer whose they are, of several in a row how many sets; in text and in drawings."""
    text = good("show", "minivit.space:mini_swin_t")
    assert len(re.findall(r" weights of layers\[2\]\.blocks\[0\] ", text)) == 5
    assert re.search(
        r"blocks\[0\.\.11\] = .* x 12   6 sets of weights ",
        good("show", "minivit.space:mini_deit_ti"),
    )
    pairs = good("show", "combinations/autoformer_pairs.space", "--as", "dot")
    assert "x 12\\n6 sets of weights" in pairs
    assert "x 2\\n1 set of weights\\nwhen depth > 12" in pairs
    for name in ("swin.space:swin_t", "autoformer.space:autoformer_t"):
        assert not re.search("weights of|of weights", good("show", name))


def test_a_block_is_drawn_alone() -> None:
    address = "irpe.space:deit_ti_product_k"
    text = good("show", address, "--block", "attention", "--as", "dot")
    assert '"rpe_k\\n[B, 3, 197, 197]"' in text
    assert "%B" not in text
    ElementTree.fromstring(good("show", address, "--block", "attention", "--as", "svg"))
    told = refused("show", address, "--block", "atention", "--as", "svg")
    assert "SP201" in told
    assert "did you mean attention?" in told
    for whole in (address, "cdarts.space:cifar10_cycles"):
        assert "--block is of a drawing" in refused("show", whole, "--block", "attention")


def test_a_page_stands_alone(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    assert good("show", TINY, "--as", "html", "-o", file) == f"wrote {file}\n"
    text = file.read_text()
    ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    assert "default-src 'none'" in text
    assert not re.search(r"<script|<link|<img|src=|@import|url\((?!#)", text)
    assert "280,804,921,344" in text


def test_shown_text_reads_back(tmp_path: Path) -> None:
    from spacelang.diagnostics import Source
    from spacelang.ir.text import write
    from spacelang.syntax.ir_text import read

    text = good("show", TINY, "--as", "ir")
    assert write(read(Source("shown", text))) == text
    assert data("show", TINY, "--as", "ir")["text"] == text
