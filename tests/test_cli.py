"""The command line: what each command prints, as text and as JSON, and its exit code."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import spacelang
from spacelang.cli.main import COMMANDS, SECTIONS, commands
from spacelang.diagnostics import CODES

TINY = "autoformer.space:autoformer_t"
FIXED = "autoformer.space:autoformer_t_subnet"
SHIPPED = sorted(p.stem for p in (Path(__file__).parents[1] / "spaces").glob("*.space"))

SPACE = """
space small(classes = 10, widths = {8, 16}) {
  input x: [B, 12]
  choose width in widths
  choose depth in {1, 2}
  block layer(x: [B, width]) -> [B, width] {
    choose ratio in {1, 2}
    return x + (linear(x, width * ratio) as up |> gelu |> linear(width) as down)
  }
  y = linear(x, width) as stem
  for i in 0..<depth { y = layer(y) as layers[i] }
  output linear(y, classes) as head
  weights { _: entangle }
}
subnet least of small { width = 8  depth = 1  layers[0].ratio = 1 }
"""


def run(*words: object, stdin: str | bytes | None = None) -> Result:
    """One command in this process; an exception that leaves it fails the test."""
    result = CliRunner().invoke(commands, [str(word) for word in words], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def good(*words: object, stdin: str | bytes | None = None) -> str:
    """The stdout of a command that succeeds and says nothing on stderr."""
    result = run(*words, stdin=stdin)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def data(*words: object, stdin: str | bytes | None = None) -> Any:
    """The JSON document that a command prints."""
    return json.loads(good(*words, "--json", stdin=stdin))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.space"
    file.write_text(SPACE)
    return file


# The group.


def test_help_names_every_command_once() -> None:
    text = good("--help")
    for name, (_, line) in COMMANDS.items():
        assert len(re.findall(rf"^  {name} +{re.escape(line)}$", text, re.MULTILINE)) == 1
    assert all(f"{section}:" in text for section in SECTIONS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_json(name: str) -> None:
    text = good(name, "--help")
    assert "--json" in text
    assert "--help" in text
    command = commands.get_command(click.Context(commands), name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(200) == COMMANDS[name][1]
    assert COMMANDS[name][1].endswith(".")


def test_version_is_printed() -> None:
    assert good("--version") == f"spacelang {spacelang.__version__}\n"


def test_help_loads_no_command(fresh_python: Callable[..., str]) -> None:
    program = """
import sys
from spacelang.cli.main import commands
try:
    commands(["--help"])
except SystemExit:
    pass
print("MODULES", *sorted(m for m in sys.modules if m.startswith("spacelang.")))
"""
    loaded = fresh_python("-c", program).splitlines()[-1].split()[1:]
    allowed = {"cli", "cli.main", "cli.errors", "cli.output", "diagnostics", "files", "journal"}
    assert {name.removeprefix("spacelang.") for name in loaded} <= {*allowed, "render"}


# check, fmt, explain.


def test_check_proves_every_space_of_a_file(small: Path) -> None:
    text = good("check", small, "autoformer.space")
    assert f"{small}: ok" in text
    assert re.search(r"autoformer_t +30 decisions", text)
    assert re.search(r"autoformer +open: widths, depths, head_counts, ratios, stored", text)
    found = data("check", small)
    assert found["errors"] == found["warnings"] == 0
    assert found["files"] == [
        {
            "file": str(small),
            "spaces": [{"name": "small", "decisions": 4}, {"name": "least", "decisions": 0}],
            "open": [],
            "diagnostics": [],
        }
    ]


def test_check_of_an_address_looks_at_one_space() -> None:
    (file,) = data("check", TINY)["files"]
    assert file["spaces"] == [{"name": "autoformer_t", "decisions": 30}]


def test_check_takes_settings(small: Path) -> None:
    assert run("check", f"{small}:small", "--set", "classes=2.5").exit_code == 2
    assert good("check", f"{small}:small", "--set", "classes=3")


def test_check_reports_all_errors_of_all_files(tmp_path: Path) -> None:
    first, second = tmp_path / "a.space", tmp_path / "b.space"
    first.write_text(SPACE.replace("linear(width) as down", "linear(width + 1) as down"))
    second.write_text(SPACE.replace("layers[0].ratio = 1", "layers[0].ratio = 7"))
    result = run("check", first, second)
    assert result.exit_code == 2
    assert "error[SP304]" in result.stderr
    assert "error[SP501]" in result.stderr
    assert "width + 1" in result.stderr
    result = run("check", first, second, "--json")
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert found["errors"] == 2
    codes = [[d["code"] for d in file["diagnostics"]] for file in found["files"]]
    assert codes == [["SP304"], ["SP501"]]
    place = found["files"][1]["diagnostics"][0]
    assert (place["file"], place["severity"]) == (str(second), "error")
    assert second.read_text().splitlines()[place["line"] - 1].startswith("subnet least")


def test_a_subnet_is_checked_against_its_space_whichever_way(small: Path) -> None:
    """Beside its space only its decisions are read, alone all of it: the verdict is the same."""
    small.write_text(SPACE.replace("depth = 1", "depth = 3"))
    for address in (f"{small}", f"{small}:least"):
        result = run("check", address, "--json")
        assert result.exit_code == 2
        (file,) = json.loads(result.stdout)["files"]
        assert [d["code"] for d in file["diagnostics"]] == ["SP501"]


def test_fmt_writes_the_canonical_form_once(small: Path) -> None:
    ugly = SPACE.replace("  choose width in widths", "choose   width in widths # kept")
    small.write_text(ugly)
    small.chmod(0o640)
    assert run("fmt", "--check", small).exit_code == 5
    assert small.read_text() == ugly, "--check changes nothing"
    assert good("fmt", small) == f"changed {small}\n"
    once = small.read_text()
    assert "  choose width in widths  # kept\n" in once
    assert small.stat().st_mode & 0o777 == 0o640
    assert data("fmt", small) == {
        "files": [{"file": str(small), "changed": False}],
        "diagnostics": [],
    }
    assert small.read_text() == once
    assert good("fmt", "--check", small) == ""


def test_fmt_of_stdin_goes_to_stdout(small: Path) -> None:
    assert good("fmt", "-", stdin="let   a=1") == "let a = 1\n"
    assert run("fmt", "--check", "-", stdin="let   a=1").exit_code == 5


def test_fmt_leaves_a_broken_file_alone_and_does_the_others(small: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.space"
    broken.write_text("space {")
    before = small.read_text()
    result = run("fmt", broken, small)
    assert result.exit_code == 2
    assert "error[SP101]" in result.stderr
    assert broken.read_text() == "space {"
    assert small.read_text() != before


def test_fmt_rewrites_line_ends(small: Path) -> None:
    good("fmt", small)
    plain = small.read_bytes()
    small.write_bytes(plain.replace(b"\n", b"\r\n"))
    assert run("fmt", "--check", small).exit_code == 5
    good("fmt", small)
    assert small.read_bytes() == plain


@pytest.mark.parametrize("code", CODES)
def test_explain_has_a_page_for_every_code(code: str) -> None:
    assert good("explain", code).startswith(f"# {code}")
    assert data("explain", code.lower())["headline"] == CODES[code]


def test_explain_lists_the_codes() -> None:
    assert [row["code"] for row in data("explain")["codes"]] == list(CODES)
    assert all(code in good("explain") for code in CODES)


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
    assert good("count", TINY, "--where", "params <= 1M") == "0\n"


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


# compile and doctor.


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_compile_gives_the_same_bytes_again(small: Path, tmp_path: Path) -> None:
    words = ("compile", f"{small}:small", "--set", "widths={8, 24}", "--set", "classes=3", "-o")
    found = data(*words, tmp_path / "one")
    moved = tmp_path / "elsewhere" / "small.space"
    moved.parent.mkdir()
    moved.write_bytes(small.read_bytes())
    good("compile", f"{moved}:small", *words[2:], tmp_path / "two")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert manifest["graph"] == found["graph"]
    assert manifest["parameters"] == {"classes": 3, "widths": {"set": [8, 24]}}
    assert manifest["files"].keys() == {"graph.spaceir"}
    good(*words, tmp_path / "one")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two"), "an artifact is replaced"


def test_an_artifact_needs_no_source(small: Path, tmp_path: Path) -> None:
    place = tmp_path / "art"
    before = {form: good("show", f"{small}:small", "--as", form) for form in ("ir", "text", "svg")}
    described = data("info", f"{small}:small")
    good("compile", f"{small}:small", "-o", place)
    small.unlink()
    assert {form: good("show", place, "--as", form) for form in before} == before
    assert data("info", place) == described
    assert data("count", place)["size"] == described["size"]
    arch = tmp_path / "arch.json"
    arch.write_text(good("sample", place))
    assert data("cost", place, "--arch", arch)["params"] > 0
    assert "too late" in run("info", place, "--set", "classes=3").stderr


def test_compile_takes_one_architecture_and_passes(small: Path, tmp_path: Path) -> None:
    arch = tmp_path / "arch.json"
    arch.write_text('{"width": 8, "depth": 1, "layers[0].ratio": 2}')
    wanted = data("cost", f"{small}:small", "--arch", arch)
    good("compile", f"{small}:small", "--arch", arch, "--passes", "inline", "-o", tmp_path / "art")
    found = data("info", tmp_path / "art")
    assert found["size"] == "1"
    assert found["params"] == {"min": wanted["params"], "max": wanted["params"]}
    assert "block " not in good("show", tmp_path / "art")


@pytest.mark.parametrize("foreign", ["notes.txt", ".hidden", "sub/file"])
def test_compile_replaces_no_other_folder(foreign: str, small: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    (place / foreign).parent.mkdir(parents=True)
    (place / foreign).write_text("mine")
    assert run("compile", f"{small}:small", "-o", place).exit_code == 3
    assert files_of(place) == {foreign: b"mine"}
    (place / foreign).unlink()
    if "/" in foreign:
        (place / foreign).parent.rmdir()
    good("compile", f"{small}:small", "-o", place)
    (place / foreign).parent.mkdir(parents=True, exist_ok=True)
    (place / foreign).write_text("mine")
    assert run("compile", f"{small}:small", "-o", place).exit_code == 3
    assert (place / foreign).read_text() == "mine", "not even beside an artifact"


@pytest.mark.parametrize(
    "harm",
    [
        lambda place: (place / "graph.spaceir").write_text("spaceir 1\n"),
        lambda place: (place / "graph.spaceir").unlink(),
        lambda place: _flip(place / "graph.spaceir"),
    ],
)
def test_a_changed_artifact_is_exit_5(
    harm: Callable[[Path], None], small: Path, tmp_path: Path
) -> None:
    place = tmp_path / "art"
    good("compile", f"{small}:small", "-o", place)
    assert data("doctor", place)["ok"]
    harm(place)
    for words in (["info"], ["show"], ["count"], ["compile", "-o", tmp_path / "b"]):
        result = run(words[0], place, *words[1:])
        assert result.exit_code == 5, result.output
        assert "SP702" in result.stderr
        assert "graph.spaceir" in result.stderr
    result = run("doctor", place)
    assert result.exit_code == 5
    assert "NOT as written" in result.stdout
    assert not (tmp_path / "b").exists()


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_manifest_that_was_rewritten_does_not_help(small: Path, tmp_path: Path) -> None:
    """A graph changed together with its hash still has another digest."""
    import hashlib

    place = tmp_path / "art"
    good("compile", f"{small}:small", "-o", place)
    text = (place / "graph.spaceir").read_text().replace("{8, 16}", "{8, 24}")
    (place / "graph.spaceir").write_text(text)
    manifest = json.loads((place / "manifest.json").read_text())
    record = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "size": len(text)}
    manifest["files"]["graph.spaceir"] = record
    (place / "manifest.json").write_text(json.dumps(manifest))
    result = run("info", place)
    assert result.exit_code == 5
    assert "another hash" in result.stderr


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "[]",
        "{",
        "null",
        '{"kind": "other"}',
        '{"kind": "artifact", "format": 2}',
        "[" * 100_000,
    ],
)
def test_a_folder_that_is_no_artifact_is_exit_2(manifest: str, tmp_path: Path) -> None:
    assert run("info", tmp_path).exit_code == 2
    (tmp_path / "manifest.json").write_text(manifest)
    result = run("info", tmp_path)
    assert result.exit_code == 2
    assert "error[SP702]" in result.stderr


def test_a_manifest_leads_nowhere_else(small: Path, tmp_path: Path) -> None:
    place = tmp_path / "art"
    good("compile", f"{small}:small", "-o", place)
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["files"]["../small.space"] = {"sha256": "", "size": 0}
    (place / "manifest.json").write_text(json.dumps(manifest))
    assert run("info", place).exit_code == 5
    result = run("doctor", place)
    assert result.exit_code == 5
    assert "leads out of the folder" in result.stdout


def test_doctor_reads_journals_and_what_they_record(tmp_path: Path) -> None:
    from spacelang.files import sha256
    from spacelang.journal import format_journal

    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_text(name)
    entries = [
        {"file": name, "sha256": sha256(tmp_path / name), "size": 5} for name in ("a.bin", "b.bin")
    ]
    log = tmp_path / "manifest.jsonl"
    log.write_bytes(format_journal(tuple(entries)))
    assert [f["state"] for f in data("doctor", tmp_path)["files"]] == ["ok"] * 3
    (tmp_path / "a.bin").unlink()
    assert data("doctor", tmp_path)["ok"], "an older one may be gone"
    log.write_bytes(log.read_bytes()[:-7])
    (tmp_path / "a.bin").write_text("a.bin")
    assert [f["state"] for f in data("doctor", tmp_path)["files"]] == ["torn", "ok"]
    log.write_bytes(format_journal(tuple(entries)).replace(b"a.bin", b"c.bin"))
    (tmp_path / "b.bin").unlink()
    states = {
        f["file"]: f["state"] for f in json.loads(run("doctor", tmp_path, "--json").stdout)["files"]
    }
    assert states == {"manifest.jsonl": "damaged", "b.bin": "missing"}


def test_doctor_needs_something_to_compare(tmp_path: Path) -> None:
    assert run("doctor", tmp_path).exit_code == 2
    assert run("doctor", tmp_path / "nothing").exit_code == 2


# new.


@pytest.mark.parametrize("like", SHIPPED)
def test_a_new_file_is_right_and_in_its_layout(
    like: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert good("new", "mine", "--like", like) == "wrote mine.space\n"
    assert good("fmt", "--check", "mine.space") == ""
    text = Path("mine.space").read_text()
    assert text.startswith(f"# mine: a space to change, made from {like}.space")
    addresses = re.findall(r"spacelang info (\S+)", text)
    assert len(addresses) == 1
    good("check", addresses[0])


def test_a_new_file_has_spaces_of_its_own(tmp_path: Path) -> None:
    good("new", tmp_path / "deep" / "mine.space", "--like", "autoformer")
    found = data("info", f"{tmp_path}/deep/mine.space:mine_t")
    assert found["size"] == "280804921344"
    assert "autoformer_" not in (tmp_path / "deep" / "mine.space").read_text()


def test_new_replaces_nothing(small: Path) -> None:
    before = small.read_text()
    result = run("new", small.with_suffix(""))
    assert result.exit_code == 3
    assert "not replaced" in result.stderr
    assert small.read_text() == before


# selftest.


def test_selftest_computes_the_published_figures() -> None:
    found = data("selftest")
    assert found["ok"]
    assert len(found["checks"]) >= 8
    assert all(check["found"] == check["wanted"] for check in found["checks"])
    assert found["versions"]["spacelang"] == spacelang.__version__
    assert "all as published" in good("selftest")


def test_selftest_fails_where_a_figure_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from spacelang.cli import selftest

    monkeypatch.setattr(selftest, "GOLDEN", {"two": (lambda: 2, 2), "three": (lambda: 2, 3)})
    result = run("selftest")
    assert result.exit_code == 5
    assert "WRONG" in result.stdout
    assert "NOT as published" in result.stdout
    assert [c["ok"] for c in json.loads(run("selftest", "--json").stdout)["checks"]] == [
        True,
        False,
    ]


# The manual.


MANUAL = Path(__file__).parents[1] / "docs" / "cli.md"
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_examples_of_the_manual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `$ spacelang ..` prints what stands below it; `..` is anything, `# exit N` the code."""
    monkeypatch.chdir(tmp_path)
    steps = re.split(
        r"^\$ spacelang ", "".join(CONSOLE.findall(MANUAL.read_text())), flags=re.MULTILINE
    )
    assert len(steps) > 12
    for step in steps[1:]:
        line, _, wanted = step.partition("\n")
        code = re.search(r"# exit (\d+)$", line)
        result = run(*shlex.split(line, comments=True))
        assert result.exit_code == int(code[1] if code else 0), (line, result.output)
        told = result.stdout + result.stderr
        parts = [re.escape(part) for part in re.split(r"^\.\.\n", wanted, flags=re.MULTILINE)]
        assert re.fullmatch("(?s:.*)".join(parts), told), (line, told)


def test_the_manual_names_every_command_and_code() -> None:
    text = MANUAL.read_text()
    assert re.findall(r"^### (\w+)", text, re.MULTILINE) == list(COMMANDS)
    assert re.findall(r"^## (.*)", text, re.MULTILINE)[1:] == list(SECTIONS)
    for name in COMMANDS:
        options = re.findall(r"^  (?:-\w, )?(--[a-z-]+)", good(name, "--help"), re.MULTILINE)
        section = re.search(rf"^### {name}\b(.*?)(?=^##)", text + "\n##", re.MULTILINE | re.DOTALL)
        assert section, name
        assert name in ("train", "search") or all(
            option in text for option in options if option not in ("--help", "--output")
        ), f"an option of {name} is not described"


# A process of its own.


def process(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command as a user starts it."""
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), **options.pop("env", {})}
    command = [sys.executable, "-m", "spacelang", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


def test_exit_codes_of_a_process(tmp_path: Path) -> None:
    done = process("check", "autoformer.space", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    done = process("check", "nothing.space", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error[SP104]")
    assert process("sampl").returncode == 2
    done = process("show", TINY, "-o", tmp_path / "no" / "folder" / "x.svg", cwd=tmp_path)
    assert done.returncode == 3
    assert "No such file or directory" in done.stderr


def test_colours_are_for_terminals_only(tmp_path: Path) -> None:
    broken = tmp_path / "broken.space"
    broken.write_text("space {")
    assert "\x1b" not in process("check", broken).stderr

    def shown(**environment: str) -> str:
        import pty

        master, slave = pty.openpty()
        root = str(Path(__file__).parents[1])
        env = {**os.environ, "PYTHONPATH": root, "TERM": "xterm", **environment}
        command = [sys.executable, "-m", "spacelang", "check", str(broken)]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=slave, env=env, check=False)
        os.close(slave)
        found = b""
        try:
            while part := os.read(master, 4096):
                found += part
        except OSError:  # the other end is closed
            pass
        os.close(master)
        return found.decode()

    assert "\x1b[1;31merror" in shown()
    assert "\x1b" not in shown(NO_COLOR="1")


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    root = Path(__file__).parents[1]
    command = (
        f"{sys.executable} -m spacelang sample {TINY} -n 2000 | head -n 1; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=root)
    assert done.returncode == 141
    assert done.stderr == ""
    assert json.loads(done.stdout)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_exit_3() -> None:
    root = Path(__file__).parents[1]
    command = f"{sys.executable} -m spacelang info {TINY} > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=root)
    assert done.returncode == 3
    assert done.stderr == "error: No space left on device\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_command_with_their_code(number: int, code: int) -> None:
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "spacelang", "fmt", "-"]  # waits for its input
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        _wait_until_it_reads(child.pid)
        child.send_signal(number)
        _, stderr = child.communicate(timeout=20)
    assert child.returncode == code
    assert stderr == b""


def _wait_until_it_reads(pid: int) -> None:
    """Until the process sleeps in a read of its standard input."""
    for _ in range(200):
        time.sleep(0.05)
        words = Path(f"/proc/{pid}/syscall").read_text().split()
        if words[:2] == ["0", "0x0"]:
            return
    pytest.fail("the command did not come to read its input")
