"""From `train` to `export` on the command line: folders, proofs, and what is wrong with them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from command import data, refused, run
from safetensors.torch import load_file

from spacelang import load_deployed
from spacelang.analysis.latency import LatencyModel, open_model
from spacelang.backends.torch.data.batches import ordered_batches
from spacelang.backends.torch.data.datasets import open_data
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.trainer import TorchTrainer
from spacelang.cli.runs import run_graph
from spacelang.cli.train import RECIPE, SWITCHES
from spacelang.engines.pool import Pool
from spacelang.files import Lock
from spacelang.ir.decision import Assignment

SPACE = """
space tiny(classes = 2) {
  input x: [B, 1, 6, 6]
  choose width in {4, 8}
  choose depth in {1, 2}
  block layer(x: [B, width]) -> [B, width] {
    choose ratio in {1, 2}
    return x + (linear(x, width * ratio) as up |> gelu |> linear(width) as down)
  }
  y = linear(x, width, axes: 3) as stem
  for i in 0..<depth { y = layer(y) as layers[i] }
  output linear(y, classes) as head
  weights { _: entangle }
  search evolution { population = 4  generations = 2  parents = 2  mutants = 2  crossovers = 1 }
}
"""
QUICK = ("--epochs", "2", "-b", "16", "--lr", "0.01", "--warmup-epochs", "0", "--progress", "quiet")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a space, and images of two classes, dark and bright."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tiny.space").write_text(SPACE)
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 2
    images = rng.integers(0, 100, (90, 6, 6)) + labels[:, None, None] * 120
    np.savez(folder / "images.npz", images=images.astype(np.uint8), labels=labels)
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """A finished run whose source is gone."""
    space = place / "gone.space"
    space.write_text(SPACE)
    words = ("train", space, "-o", place / "run", "--data", place / "images.npz", *QUICK)
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert result.stderr == "", "--progress quiet"
    assert "trained for 2 epochs" in result.stdout
    space.unlink()
    return place / "run"


def test_there_is_a_flag_for_every_setting() -> None:
    assert {*RECIPE, *SWITCHES} == {field.name for field in fields(Recipe)}
    switches = {f.name for f in fields(Recipe) if f.type in ("bool", "bool | None")}
    assert set(SWITCHES) == switches


def test_a_killed_run_knows_its_data(place: Path, tmp_path: Path) -> None:
    """SIGKILL at the first batch: the run goes on without --data."""
    folder = tmp_path / "run"
    words = ("train", place / "tiny.space", "-o", folder, "--data", place / "images.npz", *QUICK)
    child = os.fork()
    if child == 0:
        try:
            TorchTrainer.step = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore
            torch.set_num_threads(1)
            run(*words)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert data("train", folder, *QUICK)["epochs"] == 2


def test_a_run_holds_all_that_later_commands_need(trained: Path) -> None:
    assert data("info", trained)["name"] == "tiny"
    assert data("doctor", trained)["ok"]
    found = data("search", trained, "--progress", "quiet")
    assert found["evaluated"] >= 4
    best = json.loads(Path(found["file"]).read_text())
    assert best == found["best"]["assignment"]
    cost = data("cost", trained, "--arch", found["file"])
    assert (cost["params"], cost["macs"]) == (found["best"]["params"], found["best"]["macs"])
    assert found["best"]["accuracy"] == max(row["accuracy"] for row in found["front"])
    assert data("doctor", trained)["ok"]


def test_training_goes_on_where_it_stopped(trained: Path, place: Path) -> None:
    first = data("train", trained, "--progress", "quiet")
    assert first["epochs"] == 2
    longer = refused("train", trained, "--epochs", "3")
    assert "SP702" in longer
    assert "recipe.epochs: 2 there, 3 here" in longer
    words = ("--data", place / "images.npz", *QUICK)
    again = data("train", place / "tiny.space", "-o", place / "again", *words)
    assert again["weights"] == first["weights"], "the same command gives the same bits"
    assert len(again["log"]) == 2
    report = Path(again["report"]).read_text()
    assert "tiny, trained" in report
    assert "Training loss" in report
    graph = run_graph(trained)
    for end in ("largest", "smallest"):
        assert f"{graph.cost(graph.decisions.extreme(end)).params:,}" in report


def test_an_artifact_is_all_that_later_commands_need(place: Path, trained: Path) -> None:
    """Its source is gone; what it is trained to are the bits of the space."""
    art, source = place / "art", place / "away.space"
    source.write_text(SPACE)
    assert run("compile", source, "-o", art).exit_code == 0
    source.unlink()
    found = data("train", art, "-o", place / "by-art", "--data", place / "images.npz", *QUICK)
    assert found["weights"] == data("train", trained, "--progress", "quiet")["weights"]
    assert data("info", place / "by-art") == data("info", art)
    search = (
        "--scratch",
        "--engine",
        "random",
        "-s",
        "evaluations=1",
        "--no-baselines",
        "--epochs",
        "1",
    )
    words = (*search, *QUICK[2:], "--data", place / "images.npz")
    best = data("search", art, "-o", place / "of-art", *words)["file"]
    assert data("extract", art, "--arch", best, "-o", place / "taken")["proof"]
    (made,) = data("export", art, "--arch", best, "-o", place / "taken-out")["exports"]
    assert made["difference"] <= 1e-5


def test_a_search_keeps_to_its_budget_and_repeats_nothing(trained: Path) -> None:
    words = (
        "search",
        trained,
        "--engine",
        "random",
        "--where",
        "params <= 250",
        "--progress",
        "quiet",
    )
    found = data(*words)
    assert found["best"]["params"] <= 250
    lines = (trained / "search" / "scores.jsonl").read_text().count("\n")
    assert data(*words) == found
    assert (trained / "search" / "scores.jsonl").read_text().count("\n") == lines
    told = refused(*words[:4], "--where", "params <= 3")
    assert "SP502" in told


def test_settings_come_from_a_file_and_flags_win(place: Path) -> None:
    recipe = place / "recipe.toml"
    recipe.write_text(
        "epochs = 5\nbatch_size = 16\nwarmup_epochs = 0\nlr = 0.01\nmodel_ema = true\nmodel_ema_warmup = true\n"
    )
    words = (
        "--data",
        place / "images.npz",
        "--recipe",
        recipe,
        "--epochs",
        1,
        "--progress",
        "quiet",
    )
    found = data("train", place / "tiny.space", "-o", place / "toml", *words, "--no-model-ema")
    assert found["epochs"] == 1
    record = json.loads((place / "toml" / "run.json").read_text())["recipe"]
    assert (record["epochs"], record["batch_size"], record["model_ema"]) == (1, 16, False)
    assert record["model_ema_warmup"] is True


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "-o RUN is missing"),
        (["-o", "RUN"], "--data is missing"),
        (["-o", "RUN", "--data", "nothing"], "SP704"),
        (["-o", "RUN", "--data", "images.npz", "--epochs", "0"], "epochs are at least 1"),
        (["-o", "RUN", "--data", "images.npz", "--epochs", "two"], "SP209"),
        (["-o", "RUN", "--data", "images.npz", "--lr", "nan"], "SP209"),
        (["-o", "RUN", "--data", "images.npz", "--aug", "wild"], "aug is one of"),
        (["-o", "RUN", "--data", "images.npz", "--sched", "steps"], "sched is one of cosine, step"),
        (["-o", "RUN", "--data", "images.npz", "--opt", "adan2"], "no optimiser is called adan2"),
        (["-o", "RUN", "--data", "images.npz", "--amp-dtype", "float16"], "one of bfloat16"),
        (["-o", "RUN", "--data", "images.npz", "--reduce", "fsdp2"], "one of explicit, ddp"),
        (["-o", "RUN", "--data", "images.npz", "--clip-mode", "sign"], "one of norm, value, agc"),
        (["-o", "RUN", "--data", "images.npz", "--opt-betas", "0.9"], "opt_betas are at least two"),
        (["-o", "RUN", "--data", "images.npz", "--device", "gpu"], "gpu is no device"),
        (["-o", "RUN", "--data", "images.npz", "--backend", "jax"], "SP604"),
        (["-o", "RUN", "--data", "images.npz", "--set", "classes=3"], "--set classes=2"),
        (["-o", "RUN", "--data", "images.npz", "--recipe", "nothing.toml"], "SP104"),
        (["-o", "RUN", "--data", "images.npz", "--recipe", "tiny.space"], "SP104"),
        (["-o", "RUN", "--data", "images.npz", "--recipe", "odd.toml"], "no setting epoch"),
    ],
)
def test_wrong_words_of_train(
    words: list[str], says: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "odd.toml").write_text("epoch = 3\n")
    target = tmp_path / "run"
    told = refused("train", "tiny.space", *[str(target) if w == "RUN" else w for w in words])
    assert says in told
    assert not (target / "run.json").exists() or "--set" in says


def test_a_search_keeps_to_a_latency_by_a_table_of_this_machine(
    trained: Path, tmp_path: Path
) -> None:
    table, quiet = tmp_path / "table.json", ("--progress", "quiet")
    words = ("--repeats", 1, "--threads", 1, "--for", "inference", "-o", table)
    data("profile", trained, *words, *quiet)
    # Times that tell networks apart, and a median that half of them meet.
    made = json.loads(table.read_text())
    made["entries"] = {text: 100.0 * len(text) for text in made["entries"]}
    made["facts"]["model"] = "another processor"
    table.write_text(json.dumps(made))
    model = open_model(run_graph(trained), table)
    latencies = sorted({model.at(model.graph.decisions.check(a)) for a in _all(model)})
    limit = latencies[len(latencies) // 2]
    words = ("--where", f"latency <= {limit}ns", "--latency", table, "-o", tmp_path / "s", *quiet)
    done = run("search", trained, "--engine", "random", "-s", "evaluations=50", *words, "--json")
    assert done.exit_code == 0, done.output
    assert (
        f"latency by {table}: another processor (cpu), 1 thread, batch 1, float32, deployed; "
        in (done.stderr)
    )
    assert "was measured elsewhere: model: another processor, not" in done.stderr
    assert "form: " not in done.stderr, "a search compares machines, not forms"
    assert "; error" in done.stderr
    found = json.loads((tmp_path / "s" / "random.json").read_text())
    tried = [candidate["assignment"] for candidate in found["candidates"]]
    assert len(tried) == sum(model.at(model.graph.decisions.check(a)) <= limit for a in _all(model))
    assert all(model.at(model.graph.decisions.check(a)) <= limit for a in tried)
    best = json.loads(done.stdout)["best"]
    assert best["latency"] <= limit
    assert best["throughput"] == 10**9 // best["latency"]


def _all(model: LatencyModel) -> list[Assignment]:
    return [assignment for assignment, _ in Pool(model.graph).draw(1000, "all")]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--where", "latency <= 5ms"], "needs a table"),
        (["--where", "latency <= 5", "--latency", "run.json"], "SP702"),
        (["--engine", "extreme", "--latency", "run.json"], "has no setting latency"),
        (["--engine", "luck"], "SP604"),
        (["-s", "population"], "is not NAME=VALUE"),
        (["-s", "popularity=3"], "did you mean population?"),
        (["-s", "population=many"], "SP209"),
        (["-s", "population=0"], "SP103"),
        (["--where", "params <"], "SP101"),
        (["--data", "nothing"], "SP704"),
        (["--device", "cuda:9x"], "is no device"),
        (["--recalibrate", "few"], "is a number of images"),
        (["--epochs", "3"], "--epochs is of training"),
    ],
)
def test_wrong_words_of_search(words: list[str], says: str, trained: Path) -> None:
    assert says in refused("search", trained, *words)


def test_folders_that_are_no_runs(place: Path, trained: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing", place / "tiny.space"):
        assert "is no run" in refused("search", folder)
    (tmp_path / "other.space").write_text(SPACE.replace("{4, 8}", "{4, 6}"))
    words = ("--data", place / "images.npz", *QUICK)
    told = refused("train", tmp_path / "other.space", "-o", trained, *words)
    assert "holds another run" in told


def test_a_changed_run_is_exit_5(trained: Path, tmp_path: Path) -> None:
    changed = tmp_path / "run"
    shutil.copytree(trained, changed)
    text = (changed / "graph.spaceir").read_text()
    (changed / "graph.spaceir").write_text(text.replace("{4, 8}", "{4, 6}"))
    for words in (["train"], ["search"], ["info"], ["extract", "-o", tmp_path / "subnet"]):
        told = refused(words[0], changed, *words[1:], code=5)
        assert "is not the graph that the run is of" in told
    told = refused("distill", trained.parent / "tiny.space", "--data", trained.parent / "images.npz",
                   "-o", tmp_path / "student", "--teacher", changed, code=5)  # fmt: skip
    assert "is not the graph that the run is of" in told
    assert run("doctor", changed).exit_code == 5
    assert not (tmp_path / "subnet").exists()
    (changed / "graph.spaceir").write_text("\xff")
    assert refused("info", changed)


@pytest.mark.parametrize(
    ("name", "old", "new", "state"),
    [
        ("run.json", '"seed": 42', '"seed": 43', "changed"),
        ("log.jsonl", '"step"', '"stop"', "damaged"),
        ("log.jsonl", "{", "[", "damaged"),
        ("log.jsonl", '"epoch": 1,', '"epoch": true,', "damaged"),
    ],
)
def test_doctor_reads_what_a_run_says_of_itself(
    name: str, old: str, new: str, state: str, trained: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "run"
    shutil.copytree(trained, changed)
    text = (changed / name).read_text()
    assert old in text
    (changed / name).write_text(text.replace(old, new, 1))
    result = run("doctor", changed, "--json")
    assert result.exit_code == 5
    states = {f["file"]: f["state"] for f in json.loads(result.stdout)["files"]}
    assert {f for f, found in states.items() if found != "ok"} == {name}
    assert states[name] == state


def test_a_device_that_is_not_there_is_exit_3(place: Path, tmp_path: Path) -> None:
    words = ("--data", place / "images.npz", "--device", "cuda:99")
    assert "cuda" in refused("train", place / "tiny.space", "-o", tmp_path / "run", *words, code=3)


def test_a_locked_run_is_exit_4(trained: Path) -> None:
    with Lock(trained):
        told = refused("train", trained, code=4)
    assert f"process {os.getpid()}" in told


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)]
)
def test_a_signal_ends_a_run_in_good_order(
    number: int, code: int, place: Path, tmp_path: Path
) -> None:
    root = str(Path(__file__).parents[1])
    words = ["train", "tiny.space", "-o", str(tmp_path / "run"), "--data", "images.npz", *QUICK]
    words[words.index("--epochs") + 1] = "5000"
    command = [sys.executable, "-m", "spacelang", *words]
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        log = tmp_path / "run" / "log.jsonl"
        try:
            for _ in range(600):
                time.sleep(0.1)
                if log.exists() or child.poll() is not None:
                    break
            child.send_signal(number)
            _, told = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode == code, told
    assert b"the same command goes on" in told
    assert b"Traceback" not in told
    assert data("doctor", tmp_path / "run")["ok"]
    assert "epochs are trained" in refused("search", tmp_path / "run")


# extract and export.


def test_the_weights_of_a_run_are_compiled_or_it_is_told(trained: Path, tmp_path: Path) -> None:
    arch = tmp_path / "arch.json"
    arch.write_text('{"width": 4, "depth": 1, "layers[0].ratio": 2}')
    words = ("compile", trained, "--for", "inference", "--arch", arch, "-o", tmp_path / "net")
    assert "give --weights FILE" in refused(*words, "--passes", "inline")
    assert not (tmp_path / "net").exists()
    made = data(*words)
    assert made["weights"] == "run"
    assert "seed" not in made
    assert load_deployed(tmp_path / "net")(torch.zeros(1, 1, 6, 6)).shape[-1] == 2


@pytest.fixture(scope="module")
def subnet(trained: Path) -> Path:
    """What evolution found, taken out of the run."""
    data("search", trained, "--progress", "quiet")
    folder = trained.parent / "subnet"
    found = data("extract", trained, "-o", folder)
    assert found["trained"]
    assert found["assignment"] == json.loads((trained / "search/evolution-best.json").read_text())
    assert {proof["dtype"] for proof in found["proof"]} == {"float64", "float32"}
    assert all(proof["outputs"] <= 1e-6 for proof in found["proof"])
    return folder


def test_networks_say_how_images_are_given(trained: Path, subnet: Path, tmp_path: Path) -> None:
    """As the run does, whose images they are; of a space alone nothing is said."""
    told = json.loads((trained / "images.json").read_text())
    images = open_data(str(trained.parent / "images.npz"))
    assert told["classes"] == [*images.classes]
    assert (told["channels"], told["height"], told["width"]) == images.shape
    pixels = next(iter(ordered_batches(images.train, len(images.train)))).images.double()
    back = (
        pixels * torch.tensor(told["deviation"])[:, None, None]
        + torch.tensor(told["mean"])[:, None, None]
    )
    assert torch.allclose(back * 255, images.train.images.double(), atol=1e-3)
    fast = data("compile", trained, "--for", "inference", "-o", tmp_path / "fast")
    assert fast["images"] == told == json.loads((subnet / "manifest.json").read_text())["images"]
    arch = tmp_path / "arch.json"
    arch.write_text((trained / "search/evolution-best.json").read_text())
    data("extract", trained.parent / "tiny.space", "--arch", arch, "-o", tmp_path / "plain")
    assert "images" not in json.loads((tmp_path / "plain" / "manifest.json").read_text())


def test_statistics_of_its_own_go_with_a_subnet(place: Path, tmp_path: Path) -> None:
    """Of a space with batch norms: a warning, or statistics that are those of the network alone."""
    space = SPACE.replace(
        "linear(x, width, axes: 3) as stem", "linear(x, width, axes: 3) as stem |> batch_norm as bn"
    )
    (tmp_path / "normed.space").write_text(space)
    run_folder, best = tmp_path / "run", tmp_path / "best.json"
    words = ("train", tmp_path / "normed.space", "-o", run_folder, "--data", place / "images.npz")
    assert run(*words, *QUICK).exit_code == 0
    best.write_text('{"width": 4, "depth": 1, "layers[0].ratio": 1}')
    take = ("extract", run_folder, "--arch", best, "-o")
    with pytest.warns(UserWarning, match="--recalibrate"):
        run(*take, tmp_path / "mixed")
    assert run(*take, tmp_path / "own", "--recalibrate", "40").exit_code == 0
    means = [
        load_file(tmp_path / name / "weights.safetensors")["bn.running_mean"]
        for name in ("mixed", "own")
    ]
    assert means[0].shape == means[1].shape == (4,)
    assert not torch.equal(*means)
    again = tmp_path / "again"
    words = ("train", tmp_path / "normed.space", "-o", again, "--data", place / "images.npz")
    assert run(*words, *QUICK, "--recalibrate", "40").exit_code == 0
    assert run("extract", again, "--arch", best, "-o", tmp_path / "as-run").exit_code == 0
    kept = load_file(tmp_path / "as-run" / "weights.safetensors")["bn.running_mean"]
    assert torch.equal(kept, means[1]), "what the run says is what counts without the flag"
    with pytest.warns(UserWarning, match="--recalibrate"):
        run("export", run_folder, "--arch", best, "-o", tmp_path)
    refusal = refused(
        "extract",
        tmp_path / "normed.space",
        "--arch",
        best,
        "-o",
        tmp_path / "x",
        "--recalibrate",
        "3",
    )
    assert "is for the weights of a run" in refusal


def test_a_subnet_needs_nothing_else(subnet: Path, tmp_path: Path) -> None:
    cost = json.loads((subnet / "manifest.json").read_text())
    program = f"""
import sys
sys.path[:] = [p for p in sys.path if "spacelang" not in p and p != {str(Path.cwd())!r}]
sys.path.insert(0, {str(subnet)!r})
import torch, model
from safetensors.torch import load_file
network = model.Network()
network.load_state_dict(load_file({str(subnet / "weights.safetensors")!r}))
params = sum(p.numel() for p in network.parameters())
print(tuple(network.eval()(torch.zeros(3, 1, 6, 6)).shape), params)
print("spacelang" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.split("\n")[:2] == [f"(3, 2) {cost['params']}", "False"], done.stderr
    assert data("doctor", subnet)["ok"]


def test_a_network_of_an_untrained_space_is_extracted_too(place: Path, tmp_path: Path) -> None:
    arch = tmp_path / "arch.json"
    arch.write_text(run("sample", place / "tiny.space").stdout)
    result = run("extract", place / "tiny.space", "--arch", arch, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "its weights are untrained" in result.stdout
    assert "equal to the supernet, bit for bit" in result.stdout
    told = refused("extract", place / "tiny.space", "-o", tmp_path / "other")
    assert "say which architecture: --arch FILE" in told
    assert not (tmp_path / "other").exists()


def test_extract_replaces_only_a_subnet(subnet: Path, trained: Path, place: Path) -> None:
    before = (subnet / "weights.safetensors").read_bytes()
    assert run("extract", trained, "-o", subnet).exit_code == 0
    assert (subnet / "weights.safetensors").read_bytes() == before
    assert run("compile", place / "tiny.space", "-o", place / "kept").exit_code == 0
    assert "no subnet" in refused("extract", trained, "-o", place / "kept", code=3)
    assert "no artifact" in refused("compile", place / "tiny.space", "-o", subnet, code=3)
    assert "no subnet" in refused("extract", trained, "-o", trained, code=3)


def test_a_proof_that_fails_is_exit_5(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spacelang.backends.torch.subnets import proof

    monkeypatch.setattr(proof, "TOLERANCE", {torch.float64: -1.0})
    told = refused("extract", trained, "-o", tmp_path / "subnet", code=5)
    assert "differs in float64" in told
    assert not (tmp_path / "subnet").exists()


def test_export_agrees_with_eager(subnet: Path, tmp_path: Path) -> None:
    found = data("export", subnet, "-o", tmp_path / "out")
    (made,) = found["exports"]
    assert made["file"] == str(tmp_path / "out" / "subnet.pt2")
    assert made["difference"] <= 1e-5
    network = torch.export.load(made["file"]).module()
    assert network(torch.zeros(5, 1, 6, 6)).shape == (5, 2)


def test_export_of_a_run(trained: Path, subnet: Path, tmp_path: Path) -> None:
    result = run("export", trained, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "tiny.pt2").is_file()


def test_a_changed_subnet_is_not_run(subnet: Path, tmp_path: Path) -> None:
    changed = tmp_path / "subnet"
    shutil.copytree(subnet, changed)
    with (changed / "model.py").open("a") as file:
        file.write("raise SystemExit(99)\n")
    assert "model.py was changed" in refused("export", changed, code=5)
    words = ("--data", "digits", "-o", tmp_path / "student", "--teacher", changed)
    told = refused("distill", "quickstart.space", "--set", "image=8", *words, code=5)
    assert "model.py was changed" in told
    assert run("doctor", changed).exit_code == 5


def test_a_missing_exporter_is_told_before_anything_is_written(
    subnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spacelang.backends.torch.subnets import export

    monkeypatch.setattr(export, "find_spec", lambda name: None)
    told = refused("export", subnet, "-o", tmp_path / "out", "--format", "pt2,onnx")
    assert "onnx is not installed" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [None, "x", -1, True])
def test_a_record_of_a_search_that_was_edited(value: object, trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    (copy / "search").mkdir(exist_ok=True)
    (copy / "search" / "run.json").write_text(json.dumps({"recalibrate": value}))
    told = refused("search", copy, "--engine", "extreme", "--progress", "quiet")
    assert f"the record of the run has {json.dumps(value)} for recalibrate" in told


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--format", "tflite"], "SP604"),
        (["--format", ""], "SP604"),
        (["--arch", "x.json"], "too late"),
        (["--set", "classes=3"], "too late"),
        (["--recalibrate", "3"], "too late"),
    ],
)
def test_wrong_words_of_export(words: list[str], says: str, subnet: Path, tmp_path: Path) -> None:
    assert says in refused("export", subnet, "-o", tmp_path, *words)
    assert list(tmp_path.iterdir()) == []


# quickstart.


def test_quickstart_goes_the_whole_road_and_its_commands_repeat_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    words = ["quickstart", "tiny.space", "--data", "images.npz", "-o", "q", "--format", "pt2"]
    words += ["--epochs", "2", "-b", "16", "--aug", "none", "--where", "params <= 500"]
    found = json.loads(run(*words, "--json").stdout)
    assert [row["role"] for row in found["networks"]] == ["winner", "random", "largest"]
    assert found["networks"][0]["params"] <= 500
    assert {"report.html", "results.json", "subnet", "subnet.pt2"} <= set(os.listdir("q"))
    assert data("doctor", "q")["ok"]
    again = json.loads(run(*words, "--json").stdout)
    assert again["networks"] == found["networks"], "the same command goes on"
    repeated = [command["text"] for command in found["commands"]]
    assert [text.split()[1] for text in repeated[1:]] == [
        "check", "count", "compile", "train", "search", "search", "extract", "export",
    ]  # fmt: skip
    for text in repeated[1:]:
        result = run(*shlex.split(text)[1:])
        assert result.exit_code == 0, (text, result.output)


def test_a_damaged_report_folder_is_seen(place: Path) -> None:
    with (place / "q" / "subnet" / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    assert run("doctor", place / "q").exit_code == 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing.space"], "SP104"),
        (["--data", "nothing"], "SP704"),
        (["--epochs", "none"], "SP209"),
        (["-s", "popularity=3"], "did you mean population?"),
        (["--where", "params <"], "SP101"),
        (["--device", "tpu"], "tpu is no device"),
    ],
)
def test_wrong_words_of_quickstart(
    words: list[str], says: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    given = [] if words[0].endswith(".space") else ["tiny.space"]
    images = [] if "--data" in words else ["--data", "images.npz"]
    told = refused("quickstart", *given, *QUICK[:4], *images, *words, "-o", tmp_path / "q")
    assert says in told
