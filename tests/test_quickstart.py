"""The main job on 8 x 8 digits: every stage, its files, resume, and one look at the test part."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import spacelang
from spacelang.backends.torch.data.datasets import open_data
from spacelang.backends.torch.lowering.kernels import with_fused
from spacelang.backends.torch.quickstart import quickstart
from spacelang.backends.torch.quickstart.quickstart import RECIPE, Options, main
from spacelang.backends.torch.quickstart.results import commands as repeating
from spacelang.backends.torch.runs.interrupt import Interrupted
from spacelang.backends.torch.runs.progress import progress
from spacelang.backends.torch.runs.run import read_graph
from spacelang.backends.torch.subnets import export
from spacelang.backends.torch.subnets.proof import ProofError
from spacelang.backends.torch.subnets.subnet import load_subnet
from spacelang.backends.torch.training.evaluate import evaluate, evaluate_test
from spacelang.backends.torch.training.recipe import recipe_from
from spacelang.backends.torch.training.trainer import TorchTrainer
from spacelang.backends.torch.training.training import load_trained
from spacelang.cli.main import commands
from spacelang.cli.options import literal
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.pool import encoding
from spacelang.statistics import wilson
from spacelang.syntax.literal import literal as written

SMALL: Mapping[str, object] = {
    "image": 8,
    "widths": {8, 16},
    "depths": {1, 2},
    "head_counts": {1, 2},
    "ratios": {1, 2},
}
OPTIONS = Options(
    settings=SMALL,
    data="digits",
    recipe={"epochs": 2, "batch_size": "64"},
    search={
        "population": 6,
        "generations": 1,
        "parents": 2,
        "mutants": 3,
        "crossovers": 2,
        "where": "params <= 10K",
    },
    formats=("pt2",),
    style="quiet",
)


@pytest.fixture(scope="module")
def looks() -> Counter[str]:
    """How often the run below looked at the test part."""
    return Counter()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, looks: Counter[str]) -> Path:
    """The run folder of a finished job."""
    place = tmp_path_factory.mktemp("runs") / "a b"  # a space in the name does no harm

    def counted(model, data, *rest):
        looks["test part"] += 1
        return evaluate_test(model, data, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "evaluate_test", counted)
        main(replace(OPTIONS, output=str(place)))
    return place


@pytest.fixture(scope="module")
def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_everything_is_there(folder: Path) -> None:
    for name in (
        "run.json",
        "results.json",
        "report.html",
        "architecture.json",
        "test.json",
        "train/run.json",
        "train/graph.spaceir",
        "train/log.jsonl",
        "train/summary.csv",
        "train/manifest.jsonl",
        "search/scores.jsonl",
        "search/evolution.json",
        "search/random.json",
        "search/extreme.json",
        "subnet/model.py",
        "subnet/weights.safetensors",
        "subnet/manifest.json",
        "subnet.pt2",
    ):
        assert (folder / name).is_file(), name


def test_results_hang_together(results: dict, folder: Path) -> None:
    graph = read_graph(folder / "train")
    evolution, random, largest = (results["search"][n] for n in ("evolution", "random", "largest"))
    assert evolution["evaluated"] == random["evaluated"] == 12
    assert largest["evaluated"] == 1
    assert int(results["space"]["size"]) == graph.size()
    assert int(results["space"]["size_within"]) == graph.size("params <= 10K")
    for found in (evolution, random):
        names = {encoding(c["assignment"]) for c in found["candidates"]}
        assert len(names) == 12
        assert all(c["params"] <= 10_000 for c in found["candidates"])
        assert found["best"]["accuracy"] == max(c["accuracy"] for c in found["candidates"])
    winner, _, biggest = results["networks"]
    assert winner["assignment"] == evolution["best"]["assignment"]
    assert winner["assignment"] == json.loads((folder / "architecture.json").read_text())
    assert biggest["assignment"] == graph.decisions.extreme("largest")
    assert winner["params"] == results["takeaway"]["params"] == evolution["best"]["params"]
    proof = {entry["dtype"]: entry for entry in results["takeaway"]["proof"]}
    assert proof["float64"]["outputs"] == proof["float64"]["gradients"] == 0
    assert 0 <= results["takeaway"]["exports"]["subnet.pt2"] <= 1e-5
    for entry in results["networks"]:
        test = entry["test"]
        assert test["total"] == results["data"]["counts"]["test"]
        assert test["interval"] == list(wilson(test["correct"], test["total"]))
        assert entry["params"] == graph.cost(entry["assignment"]).params
    assert [line["epoch"] for line in results["training"]["log"]] == [1, 2]
    assert results["training"]["recipe"]["opt_betas"] == list(RECIPE["opt_betas"])
    assert set(results["seconds"]) >= {"train", "evolution", "random search", "test"}


def test_scores_are_those_of_the_network_taken_home(results: dict, folder: Path) -> None:
    data = open_data("digits")
    network = load_subnet(folder / "subnet")
    winner = results["networks"][0]
    assert evaluate(network, data.validation).correct == winner["validation"]["correct"]
    assert evaluate_test(network, data).correct == winner["test"]["correct"]
    trained = load_trained(read_graph(folder / "train"), data, folder / "train")
    trained.model.activate(winner["assignment"])
    assert evaluate(trained.model, data.validation).correct == winner["validation"]["correct"]


def test_the_test_part_is_looked_at_once_a_network(results: dict, looks: Counter[str]) -> None:
    networks = {encoding(entry["assignment"]) for entry in results["networks"]}
    assert looks["test part"] == len(networks)


def test_again_it_works_nothing_out(
    results: dict, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object) -> None:
        pytest.fail("work was done twice")

    monkeypatch.setattr(TorchTrainer, "step", never)
    monkeypatch.setattr(TorchTrainer, "probe", never)
    monkeypatch.setattr(quickstart, "evaluate_test", never)
    main(replace(OPTIONS, output=str(folder), as_json=True, style="json"))
    out, err = capsys.readouterr()
    again = json.loads(out)
    again["seconds"] = results["seconds"]
    assert again == results
    assert all(json.loads(line)["stage"] for line in err.splitlines())


def test_a_stopped_job_goes_on(
    results: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal in training, another in the search; the third call ends with the same results."""
    options = replace(OPTIONS, output=str(tmp_path / "run"))
    step, probe = TorchTrainer.step, TorchTrainer.probe
    probed = []

    def stopping_step(self, plan):
        if plan.step == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, plan)

    def stopping_probe(self, assignments, samples):
        for assignment in assignments:
            probed.append(encoding(assignment))
            if len(probed) == 4:
                os.kill(os.getpid(), signal.SIGINT)
            yield from probe(self, [assignment], samples)

    monkeypatch.setattr(TorchTrainer, "step", stopping_step)
    with pytest.raises(Interrupted, match="the same command goes on") as stopped:
        main(options)
    assert stopped.value.code == 143
    monkeypatch.setattr(TorchTrainer, "step", step)
    monkeypatch.setattr(TorchTrainer, "probe", stopping_probe)
    with pytest.raises(Interrupted) as stopped:
        main(options)
    assert stopped.value.code == 130
    main(options)
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    for part in ("search", "networks", "training", "space", "data"):
        assert found[part] == results[part], part
    assert len(probed) == len(set(probed))


def test_the_report_tells_all(results: dict, folder: Path) -> None:
    page = (folder / "report.html").read_text()
    winner = results["networks"][0]
    assert f"{winner['params']:,}" in page
    assert "params &lt;= 10K" in page
    assert "spacelang quickstart" in page
    assert "<script" not in page
    assert "float64" in page


def called(words: list[str]) -> object:
    """The exit code of `spacelang WORDS`."""
    with pytest.raises(SystemExit) as ended:
        commands.main(words)
    return ended.value.code


def test_commands_repeat_the_run(
    results: dict, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command is run as it stands, in another folder: the same weights, scores and bytes."""
    other = tmp_path / "c d"
    lines = [command["text"].replace(str(folder), str(other)) for command in results["commands"]]
    first, *parts = [shlex.split(line) for line in lines]
    assert first[:2] == ["spacelang", "quickstart"]
    assert "--seed=0" in first
    assert first[2] == results["options"]["space"]
    assert f"--data={results['options']['data']}" in first
    assert f"--format={','.join(results['options']['formats'])}" in first
    other.mkdir()
    shutil.copy(folder / "architecture.json", other)
    for words in parts:
        assert called(words[1:]) == 0, words
    capsys.readouterr()
    for name in ("train/summary.csv", "search/evolution.json", "search/random.json"):
        assert (other / name).read_bytes() == (folder / name).read_bytes(), name
    for name in ("model.py", "weights.safetensors"):
        assert (other / "subnet" / name).read_bytes() == (folder / "subnet" / name).read_bytes()
    assert (other / "subnet.pt2").is_file()
    assert called([*first[1:], "--progress=quiet"]) == 0
    again = json.loads((other / "results.json").read_text())
    assert again["networks"] == results["networks"]


@pytest.mark.parametrize(
    "text", ["8", "3.5", "{8, 16}", "48..80 by 16", "[2, 2, 6]", "true", "none", '"product"']
)
def test_parameters_are_written_as_they_are_read(text: str) -> None:
    assert written(literal("name", text)) == text


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ({"cooldown_epochs": 1}, "--cooldown-epochs=1"),
        ({"layer_decay": 0.7}, "--layer-decay=0.7"),
        ({"aug_repeats": 3}, "--aug-repeats=3"),
    ],
)
def test_settings_that_are_recorded_only_where_they_are_set_are_repeated(
    setting: dict[str, object], flag: str, folder: Path
) -> None:
    found = quickstart.run(replace(OPTIONS, output=str(folder)), progress("quiet"))
    texts = [c.text for c in repeating(replace(found, recipe=replace(found.recipe, **setting)))]
    (trained,) = [text for text in texts if text.startswith("spacelang train")]
    assert flag in trained.split()


def test_the_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(replace(OPTIONS, output=str(folder)))
    out = capsys.readouterr().out
    for words in ("evolutionary search", "random search", "largest network", "95 % interval"):
        assert words in out
    assert "report.html" in out


def test_a_folder_of_ones_own_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Class folders of coloured images of any size; sizes, channels and classes are fitted."""
    rng = np.random.default_rng(0)
    for number, label in enumerate(("circle", "cross", "dot")):
        place = tmp_path / "images" / label
        place.mkdir(parents=True)
        for index in range(20):
            pixels = rng.integers(0, 80, (10 + index % 3, 12, 3), dtype=np.uint8)
            pixels[:, 4 * number : 4 * number + 4] += 150
            Image.fromarray(pixels).save(place / f"{index}.png")
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    options = replace(
        OPTIONS,
        settings={**SMALL, "channels": 3},
        data=str(tmp_path / "images"),
        output=str(tmp_path / "run"),
        formats=("onnx",),
    )
    with with_fused():
        main(options)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["data"]["classes"] == ["circle", "cross", "dot"]
    assert results["training"]["recipe"]["aug"] == "photos"
    assert results["takeaway"]["skipped"] == ["onnx"]
    assert "skipped: its exporter is not installed" in capsys.readouterr().out
    assert results["networks"][0]["test"]["total"] == 12
    assert results["options"]["settings"]["classes"] == "3"
    texts = [command["text"] for command in results["commands"]]
    fused = {text.split()[1] for text in texts if "--backend=fused" in text.split()}
    assert fused == {"quickstart", "train", "search", "extract"}
    assert not any(text.startswith("spacelang export") for text in texts), "nothing was exported"
    other = tmp_path / "again"
    other.mkdir()
    shutil.copy(tmp_path / "run" / "architecture.json", other)
    for text in texts:
        if text.split()[1] != "quickstart":
            words = shlex.split(text.replace(str(tmp_path / "run"), str(other)))
            assert called(words[1:]) == 0, words
    for name in ("train/summary.csv", "search/evolution.json", "subnet/weights.safetensors"):
        assert (other / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name


def test_a_space_without_classes_is_told_what_the_images_have(tmp_path: Path) -> None:
    text = "space mine() { input x: [B, 1, 8, 8] output linear(x, 7, axes: 3) as head }"
    (tmp_path / "mine.space").write_text(text)
    options = Options(space=str(tmp_path / "mine.space"), data="digits", output=str(tmp_path / "r"))
    with pytest.raises(SpaceError, match=r"SP704.*digits: has 10 classes, not 7"):
        main(options)


def test_what_stops_the_job_is_json_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signal and a proof that failed end as in every other command."""
    words = ["quickstart", "-o", str(tmp_path), "--json"]
    failed = ProofError(error("SP605", "the extracted network differs in float64"))
    for raised, code in ((Interrupted(signal.SIGTERM), 143), (failed, 5)):

        def ending(*_: object, raised: Exception = raised) -> None:
            raise raised

        monkeypatch.setattr(quickstart, "run", ending)
        assert called(words) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert json.loads(err)["exit"] == code


@pytest.mark.parametrize("text", ["{", "[]", '{"basis": {}, "scores": 3}'])
def test_a_damaged_ledger_is_diagnosed(text: str, tmp_path: Path) -> None:
    place = tmp_path / "test.json"
    place.write_text(text)
    basis = {"weights": "w", "split": "s"}
    if "scores" in text:
        place.write_text(json.dumps({"basis": basis, "scores": 3}))
    with pytest.raises(SpaceError, match="SP702"):
        quickstart.Ledger(place, **basis)


def test_mistakes_are_diagnosed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"SP702(.|\n)*seed: 0 there, 1 here"):
        main(replace(OPTIONS, output=str(folder), seed=1))
    with pytest.raises(SpaceError, match="no data set named 'nowhere'"):
        main(replace(OPTIONS, output=str(tmp_path), data="nowhere"))
    with pytest.raises(SpaceError, match="SP204"):
        main(replace(OPTIONS, output=str(tmp_path), recipe={"epoch": 3}))
    with pytest.raises(SpaceError, match="SP502"):
        main(replace(OPTIONS, output=str(tmp_path), search={"where": "params <= 10"}))
    assert not (tmp_path / "train").exists()


def test_the_shipped_job_is_within_its_limits() -> None:
    """What `make quickstart` does: the space for MNIST, its budget, and so many evaluations."""
    graph = spacelang.load("spaces/quickstart.space")
    assert graph.root.inputs[0].types[0].shape[1:] == (1, 28, 28)
    engine = quickstart.configure("evolution", graph.search["evolution"])
    assert 200 <= engine.planned <= 300
    assert graph.size(engine.where) > 100_000
    recipe = recipe_from(RECIPE)
    assert 3000 / recipe.batch_size * recipe.epochs <= 8_000
    data = open_data("mnist5k")
    assert data.shape == (1, 28, 28)
    assert data.counts["test"] >= 1000
