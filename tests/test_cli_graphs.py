"""Graphs on the command line: IR text as an address, and the graph between two steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import data, good, run

from spacelang import passes
from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.pattern import parse_pattern
from spacelang.loader import load, load_after, load_block
from spacelang.passes.insert import Insert

STEPS = """
use vit
block twice(x: [B, N, C]) { return x * 2 }
space s {
  input x: [B, 4, 16]
  choose r in {1, 2}
  for i in 0..3 { x = mlp(x, 16 * r) as blocks[i] }
  output mean(x, axes: [1]) |> linear(3) as head
  weights { _: entangle }
  rewrite {
    insert(twice, after: blocks[0], name: "a")
    insert(twice, after: blocks[1], name: "b")
    multiplex(blocks, every: 2)
  }
}
"""


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    file = tmp_path / "steps.space"
    file.write_text(STEPS)
    return file


def test_ir_text_is_an_address(steps: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.spaceir"
    good("show", str(steps), "--as", "ir", "-o", str(file))
    assert load(file).hash == load(steps).hash
    assert load(f"{file}:s").hash == load(Source("s.spaceir", file.read_text())).hash
    assert data("count", str(file))["size"] == "2"
    (assignment,) = data("sample", str(file), "-n", "1", "--seed", "3")["assignments"]
    arch = tmp_path / "arch.json"
    arch.write_text(json.dumps(assignment))
    wanted = data("cost", str(steps), "--arch", str(arch))
    assert data("cost", str(file), "--arch", str(arch)) == wanted
    assert data("info", str(file))["storage"] == data("info", str(steps))["storage"]
    assert data("check", str(file))["files"][0]["spaces"] == [{"name": "s", "decisions": 1}]
    made = data("compile", str(file), "-o", str(tmp_path / "built"))
    assert made["graph"] == load(steps).hash
    assert good("show", str(file)) == good("show", str(steps))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["count", "{}:other"], "SP201"),
        (["count", "{}", "--set", "n=1"], "SP204"),
        (["show", "{}", "--after", "1"], "SP604"),
    ],
)
def test_what_ir_text_has_not(arguments: list[str], code: str, steps: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.spaceir"
    good("show", str(steps), "--as", "ir", "-o", str(file))
    found = run(*(a.format(file) for a in arguments))
    assert (found.exit_code, code in found.stderr) == (2, True)


def test_broken_ir_text_is_a_diagnostic(tmp_path: Path) -> None:
    file = tmp_path / "s.spaceir"
    file.write_text("spaceir 1\ngraph s\nroot s {")
    for command in ("show", "check", "count"):
        found = run(command, str(file))
        assert (found.exit_code, "SP603" in found.stderr) == (2, True)


def shown(file: Path, after: str) -> str:
    return good("show", str(file), "--as", "ir", "--after", after)


def test_the_graph_between_two_steps(steps: Path) -> None:
    texts = [shown(steps, str(n)) for n in range(4)]
    assert len(set(texts)) == 4
    assert texts[3] == good("show", str(steps), "--as", "ir")
    assert shown(steps, "rewrite.insert[0]") == texts[1]
    assert shown(steps, "rewrite.insert[1]") == texts[2]
    assert shown(steps, "rewrite.multiplex") == texts[3]
    later = shown(steps, "1, multiplex{path=blocks,every=4}")
    assert later not in texts
    assert len(load_after(steps, "0").storages) == 2 * len(load_after(steps, "3").storages) - 2


def test_a_step_that_is_not_there_lists_those_that_are(steps: Path) -> None:
    for step in ("4", "rewrite.insert", "rewrite.nope"):
        with pytest.raises(SpaceError, match="SP604") as failed:
            load_after(steps, step)
        (note,) = failed.value.diagnostics[0].notes
        assert "1 rewrite.insert[0], 2 rewrite.insert[1], 3 rewrite.multiplex" in note


def test_a_graph_is_shown_as_a_space(steps: Path, tmp_path: Path) -> None:
    file = tmp_path / "again.space"
    good("show", str(steps), "--as", "space", "-o", str(file))
    assert load(file).hash == load(steps).hash
    assert good("fmt", "--check", str(file)) == ""


INSERTED = "insert{block=twice,after=blocks[0],name=a}, insert{block=%s,after=blocks[1],name=b}"


def test_a_block_is_inserted_from_the_command_line(steps: Path, tmp_path: Path) -> None:
    """As `rewrite { }` does it; into an artifact and a graph by the name of a file."""
    wanted = shown(steps, "2")
    assert shown(steps, f"0, {INSERTED % 'twice'}") == wanted
    art, ir, apart = tmp_path / "art", tmp_path / "s.spaceir", f"{steps}:twice"
    good("compile", steps, "--passes", "0", "-o", art)
    good("show", steps, "--after", "0", "--as", "ir", "-o", ir)
    for place in (art, ir):
        assert shown(place, INSERTED.replace("twice", apart) % apart) == wanted
        told = run("info", place, "--after", INSERTED % "twice")
        assert (told.exit_code, "SP209" in told.stderr) == (2, True)
        assert "block=FILE.space:NAME" in told.stderr
    good("compile", art, "--passes", INSERTED.replace("twice", apart) % apart, "-o", tmp_path / "b")
    assert load(tmp_path / "b" / "graph.spaceir").hash == load_after(steps, "2").hash


def test_a_block_is_inserted_from_python(steps: Path) -> None:
    block, path = load_block(f"{steps}:twice"), parse_pattern("blocks[0]")
    made = passes.run(load_after(steps, "0"), Insert(block, after=path, name_="a"))
    assert made.hash == load_after(steps, "1").hash
