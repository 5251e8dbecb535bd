"""spacelang bench kernels: contenders compared, what fails left out, shares of the device's limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from command import data, refused, run

from spacelang.analysis.traffic import Traffic
from spacelang.backends.torch.bench import kernel_records
from spacelang.backends.torch.bench.kernel_records import limits, measured, records
from spacelang.backends.torch.bench.kernels import CASES, TRAINED, Setting, Work, group, learnt
from spacelang.bench import kernels
from spacelang.bench.kernels import COLOURS
from spacelang.bench.process import Contender
from spacelang.diagnostics import SpaceError
from spacelang.passes.fuse import GROUPS
from spacelang.plugins import BUILTIN

HERE = Setting("interpret")
ONE = torch.ones(2)
LIMITS = {"bytes": 1e9, "flops": 1e9}


def work(name: str = "w", **others: float) -> Work:
    """Ours give ones, others such numbers."""
    calls = {who: partial(torch.mul, ONE, by) for who, by in others.items()}
    both = {"kernel": lambda: ONE, "eager": lambda: ONE}
    return Work(name, name, Traffic(8, 1, 2), {**both, **calls}, {})


def test_what_cannot_run_is_left_out() -> None:
    """A contender that fails is named with the reason; ours and eager PyTorch have to run."""

    def fails() -> torch.Tensor:
        raise NotImplementedError("no such head\nand more")

    one = work()
    calls = {**one.contenders, "flex_attention": fails}
    found = measured(replace(one, contenders=calls), HERE, 1, LIMITS)
    assert found["left_out"] == {"flex_attention": "it failed: no such head"}
    assert found["seconds"].keys() == {"kernel", "eager"}
    with pytest.raises(SpaceError, match="w: kernel: it failed: no such head"):
        measured(replace(one, contenders={**calls, "kernel": fails}), HERE, 1, LIMITS)


def test_who_gives_other_results_is_left_out() -> None:
    """A rival, by name; of ours it is an error."""
    found = measured(work(flex_attention=1.001), HERE, 1, LIMITS)
    assert found["left_out"] == {
        "flex_attention": "it gives other results (1.0e-03 of the largest)"
    }
    assert found["errors"].keys() == found["seconds"].keys() == {"kernel", "eager"}
    with pytest.raises(SpaceError, match="w: kernel: it gives other results"):
        measured(work(kernel=1.001), HERE, 1, LIMITS)
    half = Setting("interpret", torch.float16)
    assert measured(work(kernel=1.001), half, 1, LIMITS)["left_out"] == {}
    with pytest.raises(SpaceError, match="SP703"):
        measured(work(kernel=1.004), half, 1, LIMITS)
    rough = replace(work(kernel=1.004, eager=1.005), exact=lambda: ONE)  # eager is further off
    assert list(measured(rough, half, 1, LIMITS)["errors"]) == ["kernel", "eager"]


def test_the_other_kernels_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """After one that fails; records are written, and its error is the command's."""

    def makes(*works: Work) -> Iterator[Work]:
        yield from works

    cases = {"a": (work("a", kernel=2.0), work("a, too")), "b": (work("b"),)}
    made = {name: partial(makes, *works) for name, works in cases.items()}
    monkeypatch.setattr(kernel_records, "works", lambda setting: made)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    found = list(records(HERE, 1))
    assert not torch.backends.cudnn.allow_tf32, "kernels are exact: rivals have to be"
    assert [one.get("name", one.get("code")) for one in found] == ["SP703", "b"]
    printed = "".join(f"print({json.dumps(json.dumps(one))})\n" for one in found)
    (tmp_path / "worker.py").write_text(printed)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(kernels, "WORKER", "worker")
    path = tmp_path / "kernels.json"
    assert "a: kernel: it gives other results" in refused("bench", "kernels", "-o", path)
    assert [one["name"] for one in json.loads(path.read_text())["records"]] == ["b"]
    assert path.with_suffix(".svg").exists()
    share = found[1]["share"]
    assert f"GB/s, {share['bytes']:.0%} " in run("bench", "kernels").stdout


@pytest.mark.parametrize("name", ["mlp", "depthwise, gated"])
def test_half_types(name: str) -> None:
    """Both ways, against the same network in float32; half the bytes are moved."""
    half = Setting("interpret", torch.float16)
    single = next(group(name, CASES[name], HERE))
    found = [measured(one, half, 1, limits(half)) for one in group(name, CASES[name], half)]
    assert {one["dtype"] for one in found} == {"float16"}
    assert max(one["errors"]["kernel"] for one in found) > 1e-6, "which is no float32"
    assert single.traffic is not None
    assert found[0]["modelled"]["bytes"] == single.traffic.bytes // 2
    assert found[0]["modelled"]["flops"] == single.traffic.flops


def test_what_a_library_prints_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a worker has moved its output, its libraries may print to it."""
    (tmp_path / "noisy.py").write_text(
        "print('welcome')\nprint('[1]')\nprint('{\"name\": \"mlp\"}')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("spacelang.bench.kernels.WORKER", "noisy")
    assert kernels.measured("cuda", 1) == ([{"name": "mlp"}], [])
    monkeypatch.setattr("spacelang.bench.process.WORKER", "noisy")
    with Contender({"contender": "timm", "threads": 1}) as process:
        assert process.started() == {"name": "mlp"}


def test_kernels_in_the_interpreter(tmp_path: Path) -> None:
    """Every kernel runs fused and agrees with PyTorch; the records and the picture are written."""
    path = tmp_path / "kernels.json"
    found = data("bench", "kernels", "--device", "interpret", "-o", path)["records"]
    losses = ["soft_labels", "relations"]
    assert [r["name"] for r in found] == [
        name + more for name in (*CASES, *losses) for more in ("", TRAINED)
    ]
    tested = {case.kernel for case in CASES.values()}
    assert tested == GROUPS.keys(), "every kernel that `fuse` looks for"
    triton = {name for name in BUILTIN["spacelang.kernels"] if not name.startswith("fused.")}
    rest = {"squeezed", "excited", "required"}  # of `depthwise`, and no kernel
    assert {*tested, *losses, *rest} == triton
    for one in found:
        assert {"kernel", "eager"} <= one["seconds"].keys()
        assert max(one["errors"].values()) <= 1e-5
        if one["name"].endswith(TRAINED):
            assert one["modelled"] is one["bytes_a_second"] is one["flops_a_second"] is None
            assert one["share"] is None
        else:
            assert min(one["modelled"].values()) > 0
            rates = {"bytes": one["bytes_a_second"], "flops": one["flops_a_second"]}
            assert one["share"] == {of: rates[of] / most for of, most in one["limits"].items()}
        assert "torch.compile" in one["left_out"]
    by_name = {one["name"]: one for one in found}
    assert "scaled_dot_product_attention" in by_name["attention, plain"]["seconds"]
    flex = {name: one["left_out"].get("flex_attention") for name, one in by_name.items()}
    assert flex["attention, relative"] == "it has no relative term of the values"
    assert flex["attention, windows"] == flex["attention, on keys"] == "only measured on a GPU"
    trained = by_name[f"attention, plain{TRAINED}"]
    assert {*trained["seconds"], *trained["left_out"]} == {*COLOURS}, "each is timed, or named"
    assert by_name["mixed attention"]["left_out"]["flex_attention"] == "it mixes no heads"
    assert json.loads(path.read_text())["records"] == found
    drawn = path.with_suffix(".svg").read_text()
    assert drawn.startswith("<svg")
    assert drawn.count("<rect") == sum(len(one["seconds"]) for one in found)
    assert "say nothing of a GPU" in drawn


def test_gradients_of_kernels_tell_places_apart() -> None:
    """Of a sum of equal slopes those of a layer and of its mirror image are the same."""
    x, weight = torch.randn(1, 2, 6, requires_grad=True), torch.randn(2, 2, 3)
    one, other = (
        learnt(lambda x, w=w: torch.conv1d(x, w, padding=1), [x]) for w in (weight, weight.flip(2))
    )
    assert torch.equal(one(), one())
    assert (one() - other())[..., 1:-1].abs().max() > 1e-3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_kernels_without_a_gpu() -> None:
    assert "there is no CUDA device here" in refused("bench", "kernels", "--device", "cuda")
