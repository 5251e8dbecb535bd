"""`distill` and `store` on the command line: the whole road, going on, and what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import data, refused, run
from lessons import SPACE
from test_logits import published, some

from spacelang.cli.runs import settings_for
from spacelang.files import Lock

QUICK = ("--epochs", "2", "-b", "16", "--lr", "0.01", "--warmup-epochs", "0", "--progress", "quiet")
QUIET = ("--progress", "quiet")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A space, images of two classes, a teacher that was trained on them, and a store of it."""
    folder = tmp_path_factory.mktemp("distill")
    (folder / "digits.space").write_text(SPACE.replace("classes = 10", "classes = 2"))
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = rng.integers(0, 100, (60, 8, 8)) + labels[:, None, None] * 120
    np.savez(folder / "images.npz", images=images.astype(np.uint8), labels=labels)
    space, spec = folder / "digits.space", folder / "images.npz"
    wide = ("--set", "widths={16}", "--set", "depths={3}")
    for words in (
        ("train", space, *wide, "--data", spec, "-o", folder / "teacher", *QUICK),
        ("store", "write", folder / "store", "--teacher", folder / "teacher", "--data", spec,
         "--aug", "digits", "--epochs", 1, *QUIET),
    ):  # fmt: skip
        result = run(*words)
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
    return folder


def test_a_teacher_is_asked_and_a_run_goes_on(place: Path) -> None:
    folder = place / "student"
    words = (
        "distill", place / "digits.space", "--data", place / "images.npz", "-o", folder,
        "--teacher", place / "teacher", *QUICK,
        "--loss", "soft_cross_entropy=0.9", "--loss", "cross_entropy=0.1", "--temperature", 2,
        "--attention", "layers[{0,1}].attn.qkv = layers[{0,2}].attn.qkv",
        "--hidden", "layers[1] = layers[2]", "--outputs", "layers[0] = layers[1]",
    )  # fmt: skip
    found = data(*words)
    assert found["losses"] == [
        "soft_cross_entropy=0.9", "cross_entropy=0.1", "relations", "hidden_relations=0.1",
        "introspection_kl",
    ]  # fmt: skip
    assert (found["epochs"], len(found["log"])) == (2, 2)
    report = Path(found["report"]).read_text()
    assert f"Learned from {place / 'teacher'}" in report
    assert data("distill", folder, *QUIET)["weights"] == found["weights"]
    assert data("distill", "-o", folder, *QUIET)["weights"] == found["weights"]
    assert data(*words)["weights"] == found["weights"]
    assert data("doctor", folder)["ok"]
    assert data("search", folder, "--engine", "extreme", *QUIET)["evaluated"] >= 1
    assert "losses" in refused("distill", folder, "--loss", "divergence")


@pytest.mark.parametrize("value", ["x", -1, 1.5, True, None])
def test_a_record_whose_seed_is_no_number(value: object, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"seed": value}))
    who = ("--student", "nets.py:small", "--teacher", "nets.py:large")
    told = refused("distill", "-o", tmp_path, *who, "--data", "digits")
    assert f"[SP702]: the record of the run has {json.dumps(value)} for seed" in told
    (tmp_path / "digits.space").write_text(SPACE)
    (tmp_path / "graph.spaceir").write_text("")
    told = refused("train", tmp_path / "digits.space", "--data", "digits", "-o", tmp_path)
    assert f"the record of the run has {json.dumps(value)} for seed" in told


def test_a_store_is_written_looked_into_and_learned_from(place: Path) -> None:
    store = place / "store"
    about = data("store", "info", store)
    assert (about["epochs"], about["k"], about["classes"], about["aug"]) == (1, 2, 2, "digits")
    assert (about["records"], about["unfinished"]) == (36, [])
    assert data("store", "write", store, *QUIET)["written"] == 0
    assert data("store", "write", store, "--epochs", 2, *QUIET)["written"] == 36
    again = data("store", "write", store, *QUIET)
    assert (again["epochs"], again["written"]) == (2, 0), "DIR alone: to the most epochs asked for"
    before = (store / "settings.json").read_bytes()
    (store / "settings.json").unlink()
    whole = ("--teacher", place / "teacher", "--data", place / "images.npz", "--epochs", 2)
    refused("store", "write", store, *whole, "--aug", "none", *QUIET)
    assert not (store / "settings.json").exists(), "what was refused is not kept"
    assert data("store", "write", store, *whole, "--aug", "digits", *QUIET)["written"] == 0
    assert (store / "settings.json").read_bytes() == before
    assert data("store", "verify", store)["ok"]
    assert data("doctor", store)["ok"]
    words = ("--data", place / "images.npz", "--store", store, *QUICK)
    found = data("distill", place / "digits.space", "-o", place / "stored", *words)
    assert found["losses"] == ["soft_labels"]
    record = json.loads((place / "stored" / "run.json").read_text())
    assert record["recipe"]["aug"] == "digits", "that of the store"
    assert data("store", "write", store, "--epochs", 3, *QUIET)["written"] == 36, "it grows"
    assert data("distill", place / "stored", *QUIET)["weights"] == found["weights"]


def test_images_are_named(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    teacher = ("--teacher", "timm:resnet10t", "--teacher-untrained", "--teacher-norm", "data")
    words = ("--data", "digits", "--epochs", 1, *QUIET)
    found = data("store", "write", tmp_path / "store", *teacher, *words)
    assert found["written"] == data("store", "info", tmp_path / "store")["records"] > 0


def test_one_network_is_taught(place: Path, tmp_path: Path) -> None:
    space = place / "digits.space"
    drawn = data("sample", space, "-n", 1, "--seed", 0)["assignments"][0]
    (tmp_path / "arch.json").write_text(json.dumps(drawn))
    words = ("--data", place / "images.npz", "--teacher", place / "teacher", *QUICK)
    arch = ("--arch", tmp_path / "arch.json")
    found = data("distill", space, *arch, "-o", tmp_path / "run", *words, "--epochs", 1)
    assert found["epochs"] == 1
    assert data("info", tmp_path / "run")["decisions"] == {}
    cost = data("cost", space, *arch)
    assert data("cost", tmp_path / "run")["params"] == cost["params"]


def test_damage_is_exit_5_and_teaches_nobody(place: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(place / "store", store)
    shard = store / "epoch-00000" / "shard-0-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-9] ^= 4
    shard.write_bytes(content)
    for words in (("store", "verify"), ("doctor",)):
        result = run(*words, store)
        assert result.exit_code == 5, result.output
        assert "epoch-00000" in result.stdout
    shard.write_bytes(content[:-1])
    words = ("--data", place / "images.npz", "--store", store, *QUICK)
    told = refused("distill", place / "digits.space", "-o", tmp_path / "run", *words)
    assert "is damaged: it has" in told
    assert not (tmp_path / "run").exists()


def test_folders_in_use_are_exit_4(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "store", tmp_path / "store")
    (tmp_path / "store" / "epoch-00004").mkdir()
    with Lock(tmp_path / "store" / "epoch-00004"):
        found = data("store", "write", tmp_path / "store", "--epochs", 5, *QUIET)
        assert found["busy"] == [4]
        refused("store", "write", tmp_path / "store", "--epochs", 5, *QUIET, code=4)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "-o RUN is missing"),
        (["-o", "RUN", "--data", "images.npz"], "who teaches"),
        (["-o", "RUN", "--teacher", "teacher"], "--data is missing"),
        (["-o", "RUN", "--data", "images.npz", "--teacher", "nobody"], "is no teacher"),
        (["-o", "RUN", "--data", "images.npz", "--teacher", "timm:resnet18"], "teach noise"),
        (["-o", "RUN", "--data", "images.npz", "--teacher", "teacher", "--loss", "kl"], "SP103"),
        (["-o", "RUN", "--data", "images.npz", "--teacher", "teacher", "--loss", "soft_labels"],
         "soft_labels reads a store"),
        (["-o", "RUN", "--data", "images.npz", "--teacher", "teacher", "--teacher-untrained"],
         "weights of its own"),
        (["-o", "RUN", "--data", "images.npz", "--teacher", "teacher", "--hidden", "stem=nowhere"],
         "SP504"),
        (["-o", "RUN", "--data", "images.npz", "--teacher", "teacher", "--loss", "introspection_kl"],
         "speak at as many depths"),
        (["-o", "RUN", "--data", "images.npz", "--store", "store", "--outputs", "stem=stem"],
         "there is no teacher to ask"),
        (["-o", "RUN", "--data", "images.npz", "--teacher", "teacher", "--temperature", "0"], "SP103"),
        (["-o", "RUN", "--data", "images.npz", "--teacher", "teacher", "--teacher-arch", "none"],
         "SP509"),
        (["-o", "RUN", "--data", "images.npz", "--store", "teacher"], "store.json is missing"),
        (["-o", "RUN", "--data", "images.npz", "--store", "store", "--aug", "none"],
         "aug: digits there, none here"),
        (["-o", "RUN", "--data", "images.npz", "--store", "store", "--on-bad", "recompute"],
         "nobody is there to recompute"),
        (["-o", "RUN", "--data", "images.npz", "--store", "store", "--loss", "cross_entropy"],
         "no loss is soft_labels"),
    ],
)  # fmt: skip
def test_wrong_words(
    words: list[str], says: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    target = tmp_path / "run"
    told = refused("distill", "digits.space", *[str(target) if w == "RUN" else w for w in words])
    assert says in told
    assert not target.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["write", "NEW"], "--teacher WHO is missing"),
        (["write", "NEW", "--teacher", "teacher"], "--data DATA is missing"),
        (["write", "NEW", "--teacher", "teacher", "--data", "images.npz"], "--epochs N is missing"),
        (["write", "store", "--seed", "5"], "seed: 0 there, 5 here"),
        (["write", "teacher", "--teacher", "teacher", "--data", "images.npz", "--epochs", "1"],
         "holds something else"),
        (["write", "NEW", "--teacher", "teacher", "--data", "images.npz", "--epochs", "1",
          "--temperature", "-1"], "above 0"),
        (["write", "NEW", "--teacher", "teacher", "--data", "images.npz", "--epochs", "1",
          "--backend", "triton"], "SP604"),
        (["info", "store", "--backend", "triton"], "SP604"),
        (["info", "teacher"], "store.json is missing"),
        (["verify", "nothing"], "store.json is missing"),
    ],
)  # fmt: skip
def test_wrong_words_of_store(
    words: list[str], says: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    target = tmp_path / "new"
    assert says in refused("store", *[str(target) if w == "NEW" else w for w in words])
    assert not target.exists()


@pytest.mark.parametrize(
    ("name", "value"), [("store", 7), ("teacher", 5), ("epochs", "many"), ("data", ["x"])]
)
def test_kept_settings_that_are_none(name: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({name: value}))
    for words in (
        ("store", "write", tmp_path, *QUIET),
        ("distill", "deit.space", "-o", tmp_path, "--data", "digits"),
    ):
        told = refused(*words)
        assert "SP702" in told
        assert f"{name} is {json.dumps(value)}" in told


def test_a_kept_teacher_whose_source_runs_is_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "manifest.json").write_text("{}")
    kept = {"teacher": str(tmp_path / "net"), "data": "digits", "epochs": 1}
    (tmp_path / "settings.json").write_text(json.dumps(kept))
    for words in (
        ("store", "write", tmp_path, *QUIET),
        ("distill", "deit.space", "-o", tmp_path, "--data", "digits"),
    ):
        assert "its source runs, so say it again" in refused(*words)


def test_stdin_is_not_kept() -> None:
    assert settings_for("torch", "digits", teacher="x", teacher_arch="-") == {
        "data": "digits",
        "teacher": "x",
    }


def test_words_stay_words_beside_folders_of_their_names(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is a path is known by the setting, not by what happens to stand in the folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "data", "error", "timm:torch"):
        (tmp_path / name).mkdir()
    kept = {"teacher": "data", "teacher_norm": "data", "on_bad": "error"}
    assert settings_for("torch", "digits", **kept) == {
        "data": "digits", "teacher": str(tmp_path / "data"), "teacher_norm": "data",
        "on_bad": "error",
    }  # fmt: skip
    assert settings_for("torch", "data") == {"data": str(tmp_path / "data")}
    spec = "timm: root={}/digits val=root=digits"
    assert settings_for("torch", spec.format("."))["data"] == spec.format(tmp_path)
    whole = ("--teacher", place / "teacher", "--data", place / "images.npz", "--epochs", 1)
    assert data("store", "write", "store", *whole, "--aug", "digits", *QUIET)["written"] == 36
    assert data("store", "write", "store", *QUIET)["written"] == 0


def test_a_name_of_images_comes_before_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits.space").write_text(SPACE)
    data("train", "digits.space", "--data", "digits", "-o", "run", *QUICK[2:], "--epochs", 1)
    assert data("search", "run", "--engine", "extreme", *QUIET)["evaluated"] >= 1


def test_published_files(tmp_path: Path) -> None:
    folder = tmp_path / "logits_top10_epoch7"
    published(folder, 0, [str(n) for n in range(20)], some(20))
    found = data("store", "info", folder, "--classes", 30)
    assert (found["records"], found["epoch"], found["k"]) == (20, 7, 10)
    assert data("store", "verify", folder, "--classes", 30)["ok"]
    assert "--classes 21841" in refused("store", "info", folder)
    values = folder / "rank0-values.bin"
    content = bytearray(values.read_bytes())
    content[44 * 3 + 4] = 200  # a class that there is not
    values.write_bytes(content)
    result = run("store", "verify", folder, "--classes", 30)
    assert result.exit_code == 5
    assert "the record of '3'" in result.stdout
    folder.rename(tmp_path / "logits")
    assert "logits_topK_epochE" in refused("store", "info", tmp_path / "logits")
