"""Students and teachers that no space describes, named on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import data, refused, run
from lessons import SPACE, digits
from torch import nn

from spacelang.backends.torch.distillation.foreign import open_foreign, student_of
from spacelang.backends.torch.distillation.teacher import open_teacher
from spacelang.diagnostics import SpaceError
from spacelang.files import function_of, sha256

NETS = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class Sizes:
    width: int = 6

class Small(nn.Module):
    def __init__(self, classes: int, channels: int, sizes: Sizes = Sizes()) -> None:
        super().__init__()
        self.body = nn.Conv2d(channels, sizes.width, 3, stride=2)
        self.head = nn.LazyLinear(classes)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))

def small(classes, shape, width=6):
    made = Small(classes, shape[0], Sizes(width))
    made(torch.zeros(2, *shape))
    return made

def large(shape, classes):
    return small(classes, shape, 12)

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))

def asks(classes, depth):
    return fixed()

def breaks():
    raise RuntimeError("no such luck")

def number():
    return 7

constant = 3
"""
QUICK = ("--epochs", "2", "-b", "16", "--lr", "0.01", "--warmup-epochs", "0", "--progress", "quiet")
QUIET = ("--progress", "quiet")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of networks, and images of two classes."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "nets.py").write_text(NETS)
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = rng.integers(0, 100, (60, 8, 8)) + labels[:, None, None] * 120
    np.savez(folder / "images.npz", images=images.astype(np.uint8), labels=labels)
    return folder


def test_functions_teach_and_learn_and_are_named_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    student, teacher = ("--student", "nets.py:small"), ("--teacher", "nets.py:large")
    words = ("distill", *student, *teacher, "--data", "images.npz", "-o", "own", *QUICK)
    found = data(*words, "--epochs", 1)
    assert (found["space"], found["epochs"]) == ("nets.py:small", 1)
    record = json.loads((place / "own" / "run.json").read_text())
    assert record["student"] == {"function": "small", "source": sha256(place / "nets.py")}
    report = (place / "own" / "report.html").read_text()
    assert "nets.py:small, distilled" in report
    assert "Learned from nets.py:large" in report
    assert data("doctor", "own")["ok"]
    assert "--student nets.py:small is missing: its source runs" in refused("distill", "own")
    assert "--teacher nets.py:large is missing: its source runs" in refused(
        "distill", "own", *student
    )
    again = data("distill", "own", *student, *teacher, *QUIET)
    assert again["weights"] == found["weights"]
    assert data(*words, "--epochs", 1)["weights"] == found["weights"]
    other = refused("distill", "own", "--student", "nets.py:fixed", *teacher)
    assert "student.function: small there, fixed here" in other
    (place / "nets.py").write_text(NETS + "\n# changed\n")
    told = refused("distill", "own", *student, *teacher)
    assert "student.source" in told
    assert "distillation.teacher" in told
    (place / "nets.py").write_text(NETS)


def test_a_model_of_timm_learns_and_goes_on_by_its_folder(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    words = (
        "distill", "--student", "timm:test_resnet", "--teacher", f"{place / 'nets.py'}:small",
        "--data", place / "images.npz", "--image", 32, "-o", tmp_path / "run", *QUICK,
    )  # fmt: skip
    found = data(*words, "--epochs", 1)
    assert found["space"] == "timm:test_resnet"
    kept = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert (kept["student"], kept["image"]) == ("timm:test_resnet", 32)
    teacher = ("--teacher", f"{place / 'nets.py'}:small")
    assert data("distill", tmp_path / "run", *teacher, *QUIET)["weights"] == found["weights"]


def test_a_store_of_a_function(place: Path, tmp_path: Path) -> None:
    words = ("--teacher", f"{place / 'nets.py'}:fixed", "--data", place / "images.npz", *QUIET)
    store = tmp_path / "store"
    assert data("store", "write", store, *words, "--epochs", 1)["written"] == 36
    assert "its source runs, so say it again" in refused("store", "write", store, *QUIET)
    told = refused("store", "write", store, "--teacher", f"{place / 'nets.py'}:small", *QUIET)
    assert "teacher" in told
    found = data("distill", "--student", f"{place / 'nets.py'}:small", "--store", store,
                 "--data", place / "images.npz", "-o", tmp_path / "run", *QUICK)  # fmt: skip
    assert found["losses"] == ["soft_labels"]


def test_weights_of_a_file(place: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    images = digits()
    (tmp_path / "nets.py").write_text(NETS.replace("Linear(64, 2)", "Linear(64, 10)"))
    spec = f"{tmp_path / 'nets.py'}:fixed"
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    weights = tmp_path / "w.safetensors"
    save_file(network.state_dict(), weights)
    made = student_of(spec, images, seed=1, weights=str(weights))
    assert torch.equal(made.network.state_dict()["1.weight"], network[1].weight)
    assert made.about["weights"] == sha256(weights)
    drawn = [student_of(spec, images, seed=n).network.state_dict()["1.weight"] for n in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    who = open_teacher(spec, images, weights=str(weights))
    assert who.digest != open_teacher(spec, images).digest
    save_file({"1.weight": torch.zeros(7, 64)}, weights)
    with pytest.raises(SpaceError, match=r"are not those of nets\.py:fixed") as failed:
        student_of(spec, images, seed=0, weights=str(weights))
    assert "missing     1.bias" in failed.value.diagnostics[0].notes
    whole = {"1.weight": torch.zeros(10, 64), "1.bias": torch.zeros(10)}
    save_file(whole | {"1.bias": torch.zeros(10, dtype=torch.int64)}, weights)
    with pytest.raises(SpaceError, match=r"(?s)SP705.*no floats   1\.bias: int64"):
        open_teacher(spec, images, weights=str(weights))
    save_file(whole | {"1.bias": torch.full((10,), float("nan"))}, weights)
    with pytest.raises(SpaceError, match=r"SP702.*1\.bias holds numbers that are not finite"):
        open_teacher(spec, images, weights=str(weights))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nothing.py:small", "cannot be read"),
        ("nets.py:smaller", r"has no function smaller(.|\n)*it has Sizes, Small, small, large"),
        ("nets.py:constant", "has no function constant"),
        ("nets.py:asks", r"fails(.|\n)*depth(.|\n)*may take classes and shape"),
        ("nets.py:breaks", r"fails(.|\n)*RuntimeError: no such luck"),
        ("nets.py:number", "gives int, no nn.Module"),
        ("broken.py:small", r"broken.py fails(.|\n)*SyntaxError"),
        ("nets.py:fixed", r"by \[2, 2\], not \[2, 10\]"),
        ("timm:nothing", "no model nothing"),
    ],
)
def test_students_that_cannot_be_made(
    spec: str, says: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "broken.py").write_text("def small(:\n")
    with pytest.raises(SpaceError, match=rf"SP704(.|\n)*{says}"):
        student_of(spec, digits(), seed=0)
    if "fixed" not in spec:
        with pytest.raises(SpaceError, match=rf"SP705(.|\n)*{says}"):
            open_foreign(spec, digits(), "SP705")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "SPACE or --student WHO is missing"),
        (["-o", "NEW"], "SPACE or --student WHO is missing"),
        (["--student", "nets.py:small"], "SPACE or --student WHO is missing"),
        (["deit.space", "--student", "nets.py:small", "-o", "NEW"], "leave SPACE"),
        (["--student", "nets.py:small", "-o", "NEW", "--set", "a=1"], "leave SPACE"),
        (["deit.space", "--image", "32", "-o", "NEW"], "are of a --student"),
        (["--student", "nets.py", "-o", "NEW"], "no student"),
        (["--student", "nets.py:small", "-o", "NEW", "--law", "sandwich"], "SP701"),
    ],
)
def test_wrong_words(
    words: list[str], says: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    new = tmp_path / "new"
    more = ("--data", "images.npz", "--teacher", "nets.py:large")
    assert says in refused("distill", *[str(new) if w == "NEW" else w for w in words], *more)
    assert not new.exists()
    assert "is for timm:NAME" in refused(
        "distill", "--student", "nets.py:small", "-o", new, *more, "--teacher-untrained"
    )


def test_what_is_a_function_of_a_file() -> None:
    assert function_of("a b/nets.py:make_1") == ("a b/nets.py", "make_1")
    for text in ("nets.py", "nets.py:", "nets.py:a.b", "timm:vit", ".py:a", "nets.pyc:a"):
        assert function_of(text) is None
    assert run("distill", "--help").exit_code == 0


def test_several_teachers_make_a_board(place: Path, tmp_path: Path) -> None:
    nets = place / "nets.py"
    (tmp_path / "digits.space").write_text(SPACE.replace("classes = 10", "classes = 2"))
    space, spec = tmp_path / "digits.space", ("--data", place / "images.npz")
    teacher = tmp_path / "teacher"
    trained = run("train", space, *spec, "-o", teacher, *QUICK, "--epochs", 1)
    assert trained.exit_code == 0, trained.output
    both = ("--teacher", teacher, "--teacher", f"{nets}:large")
    words = ("distill", space, *spec, *both, "-o", tmp_path / "run", *QUICK)
    found = data(*words, "--match-every", 1, "--match-lr", 0.01)
    assert found["losses"] == ["matched"]
    record = json.loads((tmp_path / "run" / "run.json").read_text())["distillation"]
    assert (record["update_every"], record["match_lr"], len(record["board"])) == (1, 0.01, 2)
    told = " ".join(refused("distill", tmp_path / "run").split())
    assert f"the source of {nets}:large runs, so say them all again" in told
    assert f"again: --teacher {teacher} --teacher {nets}:large" in told
    assert data("distill", tmp_path / "run", *both, *QUIET)["weights"] == found["weights"]
    assert data("doctor", tmp_path / "run")["ok"]

    drawn = data("sample", space, "-n", 2, "--seed", 0)["assignments"]
    archs: list[object] = []
    for number, one in enumerate(drawn):
        (tmp_path / f"{number}.json").write_text(json.dumps(one))
        archs += ["--teacher-arch", tmp_path / f"{number}.json"]
    paths = ("--teacher", teacher, *archs)
    one = data("distill", space, *spec, *paths, "-o", tmp_path / "paths", *QUICK, "--epochs", 1)
    assert data("distill", tmp_path / "paths", *QUIET)["weights"] == one["weights"]

    new = tmp_path / "new"
    for more, says in (
        ((*both, *archs), "--teacher-arch is of one run"),
        ((*both, "--teacher-weights", "a", "--teacher-weights", "b"), "for 1 teachers that take"),
        ((*both, "--loss", "divergence"), "labels are in it"),
        ((*both, "--hidden", "stem=body"), "no setting hidden"),
        ((*both, "--temperature", 2), "no setting temperature"),
        ((*both, "--law", "sandwich"), "a match is of one"),
        ((*both, "--store", tmp_path / "s"), "store.json is missing"),
        ((*paths, "--teacher-weights", "a"), "--teacher-arch is of a run"),
        (("--teacher", f"{nets}:large", *archs[:2], "--teacher-weights", "a"), "is of a run"),
        (("--teacher", f"{nets}:large", *archs[:2]), "nets.py:large is one network"),
        (("--teacher", f"{nets}:large", *archs), "nets.py:large is one network"),
        (("--teacher", teacher, "--match-lr", 1), "no setting match_lr"),
        (("--teacher", teacher, "--loss", "matched"), "no loss 'matched'"),
    ):
        assert says in refused("distill", space, *spec, "-o", new, *more)
        assert not new.exists()
    told = refused("store", "write", new, *both, *spec, "--epochs", 1)
    assert "a store keeps the answers of one teacher" in told
