"""docs/engines.md: its engine runs, its tables are those of the sources."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
from command import data

import spacelang
from spacelang import plugins
from spacelang.backends.torch.data.batches import batch_count
from spacelang.backends.torch.data.datasets import open_data
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.diagnostics import Source
from spacelang.engines.board import MatchWarning
from spacelang.engines.protocol import Evaluated, Found, Samples, Score
from spacelang.engines.rehearse import Rehearsal, Runs, rehearse
from spacelang.engines.settings import configure
from spacelang.engines.teacher_board import TeacherBoard
from spacelang.ir.decision import Assignment

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "engines.md").read_text("utf-8")
SPACE = """
space small {
  input x: [B, 4]
  choose width in 4..32 by 4
  choose depth in 1..3
  x = linear(x, width) as stem
  for i in 0..<depth { x = linear(x, width) as layers[i] |> gelu }
  output linear(x, 2) as head
  weights { _: entangle }
}
"""


def example(heading: str) -> str:
    """The Python example below a heading of the page."""
    (text,) = re.findall(rf"#+ {heading}\n(?:(?!\n#).)*?```python\n(.*?)```", PAGE, re.S)
    return text


class Wide:
    """The wider and the shallower, the better."""

    def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
        for assignment in assignments:
            width, depth = assignment["width"], assignment["depth"]
            assert isinstance(width, int)
            assert isinstance(depth, int)
            yield Score(10 * width - depth, 1000)


def test_an_engine_of_your_own_in_under_forty_lines(tmp_path: Path) -> None:
    text = example("An engine of your own")
    assert len(text.splitlines()) < 40
    assert max(map(len, text.splitlines())) <= 110
    (tmp_path / "climbing.py").write_text(text)
    spec = importlib.util.spec_from_file_location("climbing", tmp_path / "climbing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    graph = spacelang.load(Source("<small>", SPACE))
    *events, last = module.Climb(steps=60).run(graph, Wide(), seed=1)
    assert isinstance(last, Found)
    assert 2 < last.evaluated == sum(isinstance(e, Evaluated) for e in events) <= 60
    assert last.best.assignment == {"width": 32, "depth": 1}
    limit = graph.cost(graph.decisions.extreme("largest")).params // 4
    *_, bounded = module.Climb(steps=60, where=f"params <= {limit}").run(graph, Wide(), seed=1)
    assert isinstance(bounded, Found)
    assert bounded.best.cost.params <= limit


def test_a_student_of_your_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(example("Students of your own"))
    made = subprocess.run([sys.executable, "own.py"], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert "'epoch': 2" in made.stdout
    assert "VisionTransformer(" in made.stdout
    report = (tmp_path / "runs" / "small" / "report.html").read_text()
    assert "small vit, distilled" in report


def test_functions_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = PAGE.partition("### Students of your own")[2].partition("\n### ")[0]
    (tmp_path / "nets.py").write_text(section.split("```python\n")[2].partition("```")[0])
    monkeypatch.chdir(tmp_path)
    words = ("--student", "nets.py:small", "--teacher", "nets.py:large", "--data", "digits")
    made = data("distill", *words, "--epochs", 1, "-o", "run", "--progress", "quiet")
    assert made["space"] == "nets.py:small"


def test_every_engine_stands_in_the_table() -> None:
    table = PAGE.partition("## Which engine")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\|[^|]*\| `(\w+)` \|", table, re.M))
    assert named == set(plugins.BUILTIN["spacelang.engines"])


@pytest.mark.parametrize(
    "engine",
    [
        "evolution",
        "prioritized_path",
        "cyclic_differentiable",
        "space_evolution",
        "contraction",
    ],
)
def test_every_deviation_stands_there(engine: str) -> None:
    section = PAGE.partition(f"### `{engine}`")[2].partition("\n### ")[0]
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section, re.M))
    rows.pop("what")
    assert rows == dict(import_module(f"spacelang.engines.{engine}").DEVIATIONS)


def test_so_does_every_deviation_of_several_teachers() -> None:
    section = PAGE.partition("### Several teachers")[2].partition("\n### ")[0]
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section, re.M))
    rows.pop("what")
    assert rows == dict(import_module("spacelang.engines.teacher_board").DEVIATIONS)


def test_commands_name_engines_and_settings_that_there_are() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("spacelang search")]
    assert len(lines) == 7
    for line in lines:
        (engine,) = re.findall(r"--engine (\w+)", line)
        settings = re.findall(r"-s '?(\w+)=([^']*?)(?:'| |$)", line)
        configure(engine, dict(settings))


def test_commands_that_match_do_so_to_the_second_order() -> None:
    """An epoch of the documented commands, and one of the study, is long enough for an update."""
    asked: list[tuple[str, dict[str, str]]] = []
    for page in DOCS.glob("*.md"):
        for line in page.read_text("utf-8").splitlines():
            words = shlex.split(line) if line.startswith("spacelang ") else []
            if "prioritized_path" in words or words.count("--teacher") > 1:
                named = {w: v for w, v in pairwise(words) if w.startswith("-")}
                asked.append((words[2], named))
    assert {bool(named.get("--engine")) for _, named in asked} == {True, False}
    asked.append(("small_paths.space", {"--engine": "", "--data": "mnist5k", "-b": "64"}))
    opened = cache(open_data)
    for space, named in asked:
        size = int(named.get("-b", Recipe().batch_size))
        length = batch_count(opened(named["--data"]).train, size)
        trainer = Rehearsal(steps=lambda part, length=length: length)
        engine: Runs
        if "--engine" in named:
            graph = spacelang.load(space)
            engine = configure("prioritized_path", graph.search["prioritized_path"])
        else:
            graph = spacelang.load(Source("<small>", SPACE))
            every = int(named.get("--match-every", TeacherBoard(2).update_every))
            engine = TeacherBoard(2, update_every=every)
        with warnings.catch_warnings():
            warnings.simplefilter("error", MatchWarning)
            rehearse(engine, graph, trainer, seed=0)
