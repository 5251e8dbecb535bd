"""Laws of paths with weights: what they draw, and what they refuse."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path

import pytest
from command import data, good, refused

import spacelang
from spacelang.backends.torch.training.recipe import Recipe, recipe_from
from spacelang.diagnostics import Source, SpaceError
from spacelang.engines.laws import CandidateWeights
from spacelang.engines.paths import Plans, SinglePath
from spacelang.engines.prioritized_path import PrioritizedPath
from spacelang.ir.graph import Graph
from spacelang.passes.specialize import specialize

PAGE = (Path(__file__).parents[1] / "docs" / "engines.md").read_text("utf-8")
TEXT = """
block layer(x: [B, C]) -> [B, C] {
  return choose op { plain: linear(x, C) as plain  wide: linear(x, 2 * C) as wide |> gelu |> linear(C) as back }
}
space small {
  input x: [B, 4]
  choose width in {4, 8, 12}
  choose depth in 1..2
  x = linear(x, width) as stem
  for i in 0..<depth { x = layer(x) as layers[i] }
  output linear(x, 2) as head
  weights { _: entangle }
}
"""


@pytest.fixture(scope="module")
def small() -> Graph:
    return spacelang.load(Source("<small>", TEXT))


def test_candidates_come_as_often_as_their_weights_say(small: Graph) -> None:
    weights = ("width=1:0:3", "layers[_].op=1:4", "layers[1].op=1:0")
    plans = Plans(SinglePath(law="weighted", law_weights=weights), small, 3, 4000)
    drawn = [plans.at(step).assignment for step in range(4000)]
    widths = Counter(a["width"] for a in drawn)
    assert widths.keys() == {4, 12}
    assert abs(widths[12] / 4000 - 0.75) < 0.03
    assert abs(Counter(a["depth"] for a in drawn)[2] / 4000 - 0.5) < 0.03  # uniform: not weighed
    assert abs(Counter(a["layers[0].op"] for a in drawn)["wide"] / 4000 - 0.8) < 0.03
    assert {a["layers[1].op"] for a in drawn if "layers[1].op" in a} == {"plain"}  # the later text


def test_even_weights_are_as_uniform_as_none(small: Graph) -> None:
    even = CandidateWeights.read(("width=2:2:2",), small.decisions)
    drawn = Counter(even.draw(small.decisions, (0, n))["width"] for n in range(3000))
    assert all(abs(count - 1000) < 100 for count in drawn.values())


def test_a_draw_is_a_function_of_seed_and_step(small: Graph) -> None:
    engine = SinglePath(law="weighted", law_weights=("width=1:2:3",))
    once = [Plans(engine, small, 0, 5).at(step).assignment for step in range(12)]
    plans = Plans(engine, small, 0, 5)
    assert [plans.at(step).assignment for step in reversed(range(12))] == once[::-1]


@pytest.mark.parametrize(
    ("law", "weights", "said"),
    [
        ("weighted", "", "needs weights"),
        ("choices", "width=1:2:3", "has no use for weights"),
        ("weighted", "width", "no weight of a law"),
        ("weighted", "width=1:x:2", "no weight of a law"),
        ("weighted", "width=0:0:0", "no weight of a law"),
        ("weighted", "width=1:-1:2", "no weight of a law"),
        ("weighted", "width=1:nan:2", "no weight of a law"),
        ("weighted", "wi dth.=1:1", "no path pattern"),
    ],
)
def test_what_is_no_law(law: str, weights: str, said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        recipe_from({"law": law} | ({"law_weights": weights} if weights else {}))


@pytest.mark.parametrize(
    ("weights", "said"),
    [("height=1:1", "no decision has that path"), ("width=1:1", "has 3 candidates")],
)
def test_weights_of_another_space(small: Graph, weights: str, said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        CandidateWeights.read((weights,), small.decisions)


def test_a_single_network_is_trained_by_any_law(small: Graph) -> None:
    network = specialize(small, small.decisions.extreme("largest"))
    engine = SinglePath(law="weighted", law_weights=("width=1:2:3",))
    assert Plans(engine, network, 0, 5).at(3).assignment == {}


def test_the_least_weights_there_are(small: Graph) -> None:
    tiny = CandidateWeights.read(("width=5e-324:5e-324:0",), small.decisions)
    drawn = {tiny.draw(small.decisions, (0, n))["width"] for n in range(200)}
    assert drawn <= {4, 8}


def test_what_an_engine_that_trains_refuses(tmp_path: Path) -> None:
    words = ("small_paths.space", "--engine", "prioritized_path", "--data", "mnist5k")
    law = ("--law", "weighted", "--law-weights", "nonsense=1:1")
    assert "a law of its own" in refused("search", *words, *law, "-o", tmp_path / "run")
    mixed = "-s", "warm_epochs=2", "-s", "epochs=9", "--cutmix", 0.5, "--mixup-off-epoch"
    found = refused("search", *words, *mixed, 4, "-o", tmp_path / "run")
    assert "knows nothing of mixed images" in found
    assert "--mixup-off-epoch 3" in found
    assert not (tmp_path / "run").exists()
    warm = Recipe(cutmix=0.5, mixup_off_epoch=3)
    assert not any(map(warm.mixing, PrioritizedPath(epochs=9, warm_epochs=2).matched))
    assert not PrioritizedPath(epochs=9, warm_epochs=2, pick="top1").matched


def test_from_the_command_line(tmp_path: Path) -> None:
    given = ("--set", "image=8", "--data", "digits", "--law", "weighted", "--epochs", "1")
    run = tmp_path / "run"
    found = refused("train", "quickstart.space", *given, "--law-weights", "depth=1:1", "-o", run)
    assert "depth has 4 candidates" in found
    assert not run.exists()
    run_with = ("train", "quickstart.space", *given, "--law-weights", "depth=0:1:1:2", "-o", run)
    good(*run_with, "--progress", "quiet")
    recipe = json.loads((run / "run.json").read_text())["recipe"]
    assert (recipe["law"], recipe["law_weights"]) == ("weighted", ["depth=0:1:1:2"])


def test_how_few_of_all_architectures_are_shallow() -> None:
    """AutoFormer-T: 3 widths, 2 x 3 kinds of a layer, 12 to 14 layers; 1 of 43 has 12, as
    docs/engines.md says, and as often it is drawn."""
    lines = [line for line in PAGE.splitlines() if line.startswith("spacelang count autoformer")]
    shallow, whole = (int(data(*shlex.split(line)[1:])["size"]) for line in lines)
    assert (shallow, whole) == (3 * 6**12, 3 * (6**12 + 6**13 + 6**14))
    assert f"{shallow:,} of {whole:,} architectures" in PAGE
    assert f"are {100 * shallow / whole:.1f} %" in PAGE
    graph = spacelang.load("autoformer.space:autoformer_t")
    # Five standard deviations of a binomial count, of 100 and of a third.
    for law, steps, mean, away in (("architectures", 4300, 100, 50), ("choices", 300, 100, 41)):
        plans = Plans(SinglePath(law=law), graph, seed=0, length=steps)  # type: ignore[arg-type]
        drawn = sum(plans.at(step).assignment["depth"] == 12 for step in range(steps))
        assert abs(drawn - mean) < away, law


NARROW = """
space narrow {
  input x: [B, 4]
  block layer(x: [B, C]) -> [B, C] {
    choose w in 1..4
    return x + (linear(x, w) as up |> linear(C) as down)
  }
  for i in 0..4 { x = layer(x) as layers[i] }
  output linear(x, 2) as head
  weights { _: entangle }
  require params <= 84
}
"""


@pytest.mark.parametrize("weights", [(), ("layers[_].w=1:1:1:9",)])
def test_a_narrow_requirement_is_met_by_every_step(weights: tuple[str, ...]) -> None:
    """Six networks of 1,024 are small enough; with weights by one draw of 200,000."""
    narrow = spacelang.load(Source("<narrow>", NARROW))
    assert narrow.size() == 6
    engine = SinglePath(law="weighted" if weights else "choices", law_weights=weights)
    plans = Plans(engine, narrow, 0, 40)
    drawn = [plans.at(step).assignment for step in range(40)]
    assert all(sum(a.values()) <= 6 for a in drawn)
    assert len({tuple(a.values()) for a in drawn}) > 3


def test_weights_that_no_exact_draw_is_made_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers up to 4,096 only: then by chance, and what ends that says so."""
    monkeypatch.setattr("spacelang.engines.pool.REDRAWS", 60)
    narrow = spacelang.load(Source("<narrow>", NARROW))
    engine = SinglePath(law="weighted", law_weights=("layers[_].w=0.0001:0.0001:0.0001:0.9997",))
    with pytest.raises(SpaceError, match=r"(?s)SP502.*too fine to be counted by.*1:1:1:9997"):
        Plans(engine, narrow, 0, 1).at(0)
