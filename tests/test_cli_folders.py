"""`compile`, `doctor` and `new`: what the command line writes, and how it is proved."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import SHIPPED, SPACE, data, good, refused, run

from spacelang.diagnostics import VerificationError


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.space"
    file.write_text(SPACE)
    return file


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
    assert manifest["files"].keys() == {"graph.spaceir", "model.py"}
    good(*words, tmp_path / "one")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two"), "an artifact is replaced"


def test_compile_gives_the_same_bytes_whatever_the_seed_of_hashing(
    tmp_path: Path, fresh_python: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    words = ("compile", "quickstart.space", "-o")
    good(*words, tmp_path / "here")
    fresh_python("-m", "spacelang", *words, str(tmp_path / "apart"))
    assert files_of(tmp_path / "here") == files_of(tmp_path / "apart")


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


def test_compile_for_inference(small: Path, tmp_path: Path) -> None:
    good("compile", f"{small}:small", "--for", "inference", "-o", tmp_path / "art")
    assert json.loads((tmp_path / "art" / "manifest.json").read_text())["for"] == "inference"
    assert data("count", tmp_path / "art")["size"] == data("count", f"{small}:small")["size"]
    wrong = run("compile", f"{small}:small", "--for", "phones", "-o", tmp_path / "no")
    assert wrong.exit_code == 2
    assert "training" in wrong.stderr
    assert not (tmp_path / "no").exists()


NETWORK = """
  use conv
  space net() {
    input x: [B, 3, 16, 16]
    output mean(conv_bn(x, 8, 3) as one |> relu, axes: [2, 3]) |> linear(4) as head
  }"""


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_compile_one_network_for_inference(runtime: str, tmp_path: Path) -> None:
    """A folder that runs: with weights of a file, the same bytes each time, its hashes checked."""
    if runtime == "onnxruntime":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    import torch

    import spacelang
    from spacelang.backends.torch.weights import write_file

    space = tmp_path / "net.space"
    space.write_text(NETWORK)
    model = spacelang.compile(spacelang.load(f"{space}:net"), seed=3).eval()
    write_file(tmp_path / "own.safetensors", model.state_dict())
    command = ("compile", f"{space}:net", "--for", "inference", "--batch", "2")
    command = (*command, "--runtime", runtime, "--weights", tmp_path / "own.safetensors")
    told = good(*command, "-o", tmp_path / "one")
    assert f"for 2 inputs by {runtime}" in told
    assert "untrained" not in told
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert manifest["weights"] == "file"
    assert "seed" not in manifest
    made = files_of(tmp_path / "one")
    assert ("network.onnx" in made) == (runtime == "onnxruntime")
    good(*command, "-o", tmp_path / "two")
    assert files_of(tmp_path / "two") == made
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    network = spacelang.load_deployed(tmp_path / "one")
    with torch.inference_mode():
        assert torch.allclose(network(x), model(x), rtol=0, atol=1e-5 * float(model(x).abs().max()))
    assert data("cost", tmp_path / "one")["macs"] > 0
    name = "network.onnx" if runtime == "onnxruntime" else "weights.safetensors"
    _flip(tmp_path / "one" / name)
    with pytest.raises(VerificationError, match=f"SP702.*{name} was changed"):
        spacelang.load_deployed(tmp_path / "one")
    with pytest.raises(spacelang.SpaceError, match=r"SP702.*no manifest\.json"):
        spacelang.load_deployed(tmp_path)


def test_threads_leave_the_bytes_as_they_are(tmp_path: Path) -> None:
    """What is written says nothing of the threads; how far it is from the model is told alone."""
    import torch

    before = torch.get_num_threads()
    told: list[dict[str, Any]] = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            settings = ("--set", "image=64", "--set", "larger_windows=true")
            words = ("--for", "inference", *settings, "-o", tmp_path / str(threads))
            told.append(data("compile", "efficientvit.space:efficientvit_m0", *words))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")
    assert "difference" not in json.loads((tmp_path / "1" / "manifest.json").read_text())
    assert all(0 <= one["difference"] < 1e-4 for one in told)
    assert (told[0]["weights"], told[0]["seed"]) == ("untrained", 0)


def test_what_is_refused_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spacelang.cli import options

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(options, "load", lambda *_: pytest.fail("the space was read"))
    for words, code, message in (
        (("-o", tmp_path / "mine"), 3, "not empty"),
        (("-o", tmp_path / "file"), 3, "not a folder"),
        (("--for", "inference", "--runtime", "tvm", "-o", tmp_path / "no"), 2, "no runtime 'tvm'"),
    ):
        wrong = run("compile", "deit.space:deit_ti", *words)
        assert wrong.exit_code == code
        assert message in wrong.stderr


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployed")
    (folder / "net.space").write_text(NETWORK)
    good("compile", f"{folder}/net.space:net", "--for", "inference", "-o", folder / "net")
    return folder / "net"


def _tensors(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """A change of the weights of a folder."""

    def changed(place: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(place / "weights.safetensors")
        change(tensors)
        save_file(tensors, place / "weights.safetensors")

    return changed


def _manifest(**entries: object) -> Callable[[Path], object]:
    """A change of the manifest of a folder."""

    def changed(place: Path) -> None:
        found = json.loads((place / "manifest.json").read_text())
        (place / "manifest.json").write_text(json.dumps({**found, **entries}))

    return changed


def _linked(place: Path) -> None:
    (place / "graph.spaceir").rename(place.parent / "elsewhere")
    (place / "graph.spaceir").symlink_to(place.parent / "elsewhere")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda place: os.truncate(place / "weights.safetensors", 100), "cannot be read"),
        (_tensors(lambda t: t.pop("head.bias")), r"has no head\.bias"),
        (
            _tensors(lambda t: t.update({"head.bias": t["head.bias"][1:]})),
            r"\[3\] of torch.float32",
        ),
        (_tensors(lambda t: t.update({"head.bias": t["head.bias"].int()})), "of torch.int32"),
        (_tensors(lambda t: t.update(more=t["head.bias"].clone())), "has more, which"),
        (lambda place: (place / "graph.spaceir").write_bytes(b"\xff"), "is no text"),
        (lambda place: (place / "weights.safetensors").unlink(), "lists no weights"),
        (_linked, "graph.spaceir is missing"),
        (_manifest(batch=0), "whole number from 1"),
        (_manifest(graph="0"), "another hash"),
        (_manifest(runtime=["torch"]), "no network that is compiled for inference"),
    ],
)
def test_a_damaged_network_is_told(
    harm: Callable[[Path], object], message: str, deployed: Path, tmp_path: Path
) -> None:
    """Even where the hashes of the manifest were made to fit."""
    import spacelang
    from spacelang.manifest import hashes

    place = tmp_path / "net"
    shutil.copytree(deployed, place)
    harm(place)
    (place / ".spacelang-files").unlink()
    found = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").unlink()
    found["files"] = hashes(place)
    (place / "manifest.json").write_text(json.dumps(found))
    with pytest.raises(spacelang.SpaceError, match=f"SP702.*{message}"):
        spacelang.load_deployed(place)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--batch", "2"), "go with --for inference"),
        (("--for", "inference", "--runtime", "tvm"), "no runtime 'tvm'"),
        (("--for", "inference", "--weights", "none.safetensors"), "cannot be read"),
        (("--for", "inference", "--names", "timm"), "no names are called timm"),
        (("--for", "inference", "--head-map", "map.txt"), "--weights: give both"),
    ],
)
def test_compile_for_inference_refuses(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    space = tmp_path / "net.space"
    space.write_text(NETWORK)
    if "--names" in words:
        import spacelang
        from spacelang.backends.torch.weights import write_file

        model = spacelang.compile(spacelang.load(f"{space}:net"))
        write_file(tmp_path / "own.safetensors", model.state_dict())
        words = (*words, "--weights", str(tmp_path / "own.safetensors"))
    wrong = run("compile", f"{space}:net", *words, "-o", tmp_path / "no")
    assert wrong.exit_code == 2
    assert message in wrong.stderr
    assert not (tmp_path / "no").exists()


def test_compile_picks_the_rows_of_another_classifier(tmp_path: Path) -> None:
    import torch

    import spacelang
    from spacelang.backends.torch.weights import write_file

    space = tmp_path / "net.space"
    space.write_text(NETWORK)
    given = spacelang.compile(spacelang.load(f"{space}:net"), seed=3).state_dict()
    write_file(tmp_path / "own.safetensors", given)
    rows = torch.tensor([2, 0, 3, 1])
    wide = {n: t[rows] if n.startswith("head.") else t for n, t in given.items()}
    write_file(tmp_path / "other.safetensors", wide)
    (tmp_path / "map.txt").write_text("1\n3\n0\n2\n")
    command = ("compile", f"{space}:net", "--for", "inference", "--weights")
    good(*command, tmp_path / "own.safetensors", "-o", tmp_path / "one")
    good(
        *command,
        tmp_path / "other.safetensors",
        "--head-map",
        tmp_path / "map.txt",
        "-o",
        tmp_path / "two",
    )
    name = "weights.safetensors"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_compile_for_inference_asks_which_network(small: Path, tmp_path: Path) -> None:
    words = ("--for", "inference", "--batch", "2", "-o", tmp_path / "no")
    wrong = run("compile", f"{small}:small", *words)
    assert wrong.exit_code == 2
    assert "--arch FILE" in wrong.stderr
    assert not (tmp_path / "no").exists()


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
    training = ("--data", "digits")
    for words in (
        ("info",), ("show",), ("count",), ("compile", "-o", "OUT"), ("train", *training, "-o", "OUT"),
        ("search", "--scratch", *training, "-o", "OUT"), ("extract", "-o", "OUT"), ("export", "-o", "OUT"),
    ):  # fmt: skip
        result = run(words[0], place, *(tmp_path / "b" if w == "OUT" else w for w in words[1:]))
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


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "circle", "a" * 300, "inner/graph.spaceir"])
def test_a_manifest_that_names_no_file(name: str, small: Path, tmp_path: Path) -> None:
    """Whatever a manifest lists, nothing but a file of its own folder is looked at."""
    place = tmp_path / "art"
    good("compile", f"{small}:small", "-o", place)
    (place / "circle").symlink_to("circle")
    (place / "inner").mkdir()
    shutil.copy(place / "graph.spaceir", place / "inner")
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"]["graph.spaceir"]
    (place / "manifest.json").write_text(json.dumps(manifest))
    assert "is missing" in refused("info", place, code=5)
    result = run("doctor", place)
    assert result.exit_code == 5
    assert "damaged" in result.stdout


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
    assert run("check", addresses[0]).exit_code == 0
    assert run("check", "mine.space").exit_code == 0


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
