"""Checkpoints: exact resumption, and every kind of damage is seen."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from unreliable import Unreliable, calls_of, full, install, killed_at

from spacelang import files, journal
from spacelang.backends.torch.training.checkpoint import (
    MANIFEST,
    SAVES,
    CheckpointError,
    Checkpoints,
    CheckpointWarning,
    compare,
    pack,
    unpack,
)
from spacelang.backends.torch.training.optimizer import optimizer_tensors, restore_optimizer
from spacelang.files import sweep
from spacelang.journal import read_journal

Optimizers = Callable[[list[dict[str, object]]], torch.optim.Optimizer]


class Network(nn.Module):
    """Two layers, a tied pair, a buffer, a scalar, and a layer that not every step uses."""

    def __init__(self, seed: int = 0, width: int = 5) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)
        self.unused = nn.Linear(width, width)
        self.last = nn.Linear(width, 4)
        self.tied = nn.Linear(4, width)
        self.tied.weight = self.first.weight
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor, deep: bool) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = self.unused(x) if deep else x
        return self.last(x) * self.temperature + self.tied(x[:, :4]).sum()


def groups(model: nn.Module) -> list[dict[str, object]]:
    plain = [p for n, p in model.named_parameters() if "weight" not in n]
    decayed = [p for n, p in model.named_parameters() if "weight" in n]
    return [{"params": plain, "lr": 0.1, "weight_decay": 0.0}, {"params": decayed}]


OPTIMIZERS: dict[str, Optimizers] = {
    "adamw": lambda g: torch.optim.AdamW(g, lr=1e-3, betas=(0.9, 0.95)),
    "amsgrad": lambda g: torch.optim.AdamW(g, lr=torch.tensor(0.01), amsgrad=True, foreach=False),
    "sgd": lambda g: torch.optim.SGD(g, lr=0.1),
    "momentum": lambda g: torch.optim.SGD(g, lr=0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda g: torch.optim.RMSprop(g, lr=0.01, centered=True, momentum=0.1),
}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    batch = torch.randn(6, 4, generator=generator)
    optimizer.zero_grad()
    model(batch, deep=number >= 4).square().mean().backward()
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * 0.97


def equal_bits(a: Tensor, b: Tensor) -> bool:
    whole = (a.dtype, a.shape) == (b.dtype, b.shape)
    return whole and a.detach().numpy().tobytes() == b.detach().numpy().tobytes()


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, object]:
    tensors, settings = pack(model, optimizer)
    flat = {
        f"{g}/{n}": t.detach().numpy().tobytes() for g, m in tensors.items() for n, t in m.items()
    }
    return flat | {"settings": json.dumps(settings)}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("split", [0, 1, 3, 5])
def test_resumed_training_is_the_same_to_the_bit(tmp_path: Path, kind: str, split: int) -> None:
    model = Network()
    optimizer = OPTIMIZERS[kind](groups(model))
    average = {name: value.detach().clone() for name, value in model.named_parameters()}
    store = Checkpoints(tmp_path, graph="g")
    for number in range(8):
        if number == split:
            tensors, settings = pack(model, optimizer, average)
            store.save(tensors, step=number, epoch=0, state={"optimizer": settings, "lr": 0.1})
        step(model, optimizer, number)

    other = Network(seed=9)
    second = OPTIMIZERS[kind](groups(other))
    step(other, second, 100)  # a state that has to vanish
    blank = {name: torch.zeros_like(value) for name, value in average.items()}
    found = store.load()
    assert found is not None
    assert found.record.step == split
    unpack(found.tensors, found.state["optimizer"], other, second, blank)
    assert all(equal_bits(blank[name], average[name]) for name in average)
    assert other.tied.weight is other.first.weight
    for number in range(split, 8):
        step(other, second, number)
    assert everything(model, optimizer) == everything(other, second)


def test_odd_values_and_types_survive(tmp_path: Path) -> None:
    odd = torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45, 3.0000001])
    tensors = {
        f"{dtype}".removeprefix("torch."): odd.nan_to_num(0, 0, 0).to(dtype)
        for dtype in (torch.bool, torch.uint8, torch.int32, torch.int64)
    }
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    tensors |= {str(dtype): odd.to(dtype) for dtype in kinds}
    tensors |= {"a/b/ü[0]": torch.tensor(7), "empty": torch.empty(0, 3)}
    tensors |= {"view": torch.arange(12.0).reshape(3, 4).T[1:], "same": tensors["int64"]}
    store = Checkpoints(tmp_path, graph="g")
    store.save({"model": tensors}, step=0, epoch=0, state={})
    found = store.load()
    assert found is not None
    assert found.tensors["model"].keys() == tensors.keys()
    for name, value in tensors.items():
        got = found.tensors["model"][name]
        assert (got.dtype, got.shape) == (value.dtype, value.shape)
        assert got.contiguous().view(-1).view(torch.uint8).tolist() == (
            value.contiguous().view(-1).view(torch.uint8).tolist()
        )


def test_states_wider_than_their_parameter_are_not_cast() -> None:
    model = nn.Linear(3, 2, bias=False).to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    exact = torch.full((2, 3), 1 + 2**-20)
    optimizer.state[model.weight]["momentum_buffer"] = exact
    tensors, settings = optimizer_tensors(optimizer, model)
    fresh = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    restore_optimizer(fresh, model, tensors, settings)
    assert equal_bits(fresh.state[model.weight]["momentum_buffer"], exact)


def test_what_no_checkpoint_holds_is_refused() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = float("inf")
    with pytest.raises(ValueError, match="lr is a float"):
        optimizer_tensors(optimizer, model)
    optimizer.param_groups[0]["lr"] = object()
    with pytest.raises(ValueError, match="lr is a object"):
        optimizer_tensors(optimizer, model)
    with pytest.raises(ValueError, match="not the model's"):
        optimizer_tensors(torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1), model)


# --- what does not fit


def saved(folder: Path, model: nn.Module, graph: str = "g", count: int = 1) -> Checkpoints:
    store = Checkpoints(folder, graph=graph)
    optimizer = torch.optim.AdamW(model.parameters())
    for number in range(count):
        with torch.no_grad():
            next(model.parameters()).fill_(number)
        tensors, settings = pack(model, optimizer)
        store.save(tensors, step=number, epoch=number, state={"optimizer": settings})
    return store


def test_checkpoint_of_another_space_is_refused_with_a_table(tmp_path: Path) -> None:
    saved(tmp_path, nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 7)), graph="another")
    expected = {"0.weight": (2, 3), "0.bias": (5,), "2.weight": (1,)}
    store = Checkpoints(tmp_path, graph="mine")
    with pytest.raises(CheckpointError) as caught:
        store.load(expected)
    text = str(caught.value)
    assert "SP606" in text
    assert "another" in text
    for line in (
        "missing     2.weight",
        "unexpected  1.bias",
        "unexpected  1.weight",
        "mis-shaped  0.bias: expected [5], found [2]",
    ):
        assert line in text
    assert "0.weight" not in text
    with pytest.raises(CheckpointError, match="all names and shapes agree"):
        store.load({"0.weight": (2, 3), "0.bias": (2,), "1.weight": (7, 2), "1.bias": (7,)})
    with pytest.raises(CheckpointError, match="another space"):
        store.load()


def test_long_tables_are_cut() -> None:
    rows = compare({f"{i:03}": (1,) for i in range(50)}, {"000": (2,)}).rows()
    assert len(rows) == 22
    assert "... and 29 more" in rows[-2]
    assert not compare({"a": (1,)}, {"a": (1,)})


def test_unpack_refuses_before_it_changes(tmp_path: Path) -> None:
    model = Network()
    optimizer = OPTIMIZERS["adamw"](groups(model))
    step(model, optimizer, 0)
    tensors, settings = pack(model, optimizer)
    other = Network(seed=3)
    second = OPTIMIZERS["adamw"](groups(other))
    step(other, second, 1)
    before = everything(other, second)
    broken = dict(tensors["optimizer"])
    broken["exp_avg/last.bias"] = torch.zeros(1)
    stray = tensors["optimizer"] | {"exp_avg/none": torch.zeros(1)}
    short = {"last.weight": torch.zeros(4, 6)} | {
        k: v for k, v in tensors["model"].items() if k not in ("last.weight", "last.bias")
    }
    wide = {k: v.double() if k == "last.bias" else v for k, v in tensors["model"].items()}
    one_group = {"groups": settings["groups"][:1], "numbers": {}}
    sgd = pack(other, OPTIMIZERS["sgd"](groups(other)))[1]
    for change, config, message in (
        ({"optimizer": broken}, settings, "exp_avg/last.bias is"),
        ({"optimizer": stray}, settings, "belongs to no parameter"),
        ({"model": short}, settings, "missing     last.bias"),
        ({"model": wide}, settings, "expected torch.float32, found torch.float64"),
        ({}, one_group, "hold other parameters"),
        ({}, sgd, "another kind of optimiser"),
        ({}, {}, "numbers are missing"),
        ({}, {"numbers": {}, "groups": [3, {}]}, "hold other parameters"),
    ):
        with pytest.raises(CheckpointError) as caught:
            unpack(tensors | change, config, other, second)
        assert message in str(caught.value)
        assert everything(other, second) == before


# --- keeping and falling back


def test_nothing_saved_is_no_error(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, graph="g").load() is None
    assert Checkpoints(tmp_path / "none", graph="g").load() is None
    with pytest.raises(ValueError, match="at least one"):
        Checkpoints(tmp_path, graph="g", keep=0)


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    store = Checkpoints(tmp_path, graph="g", keep=keep)
    for number in range(1, 7):
        store.save({"model": {"w": torch.tensor(number)}}, step=number, epoch=0, state={})
        expected = [
            f"checkpoint-{i:06}.safetensors" for i in range(max(1, number - keep + 1), number + 1)
        ]
        assert sorted(os.listdir(tmp_path)) == [*expected, MANIFEST, SAVES]
        found = store.load()
        assert found is not None
        assert found.record.sequence == int(found.tensors["model"]["w"]) == number
    assert len(read_journal(tmp_path / MANIFEST).entries) == 6


def test_fall_back_and_go_on(tmp_path: Path) -> None:
    store = saved(tmp_path, nn.Linear(2, 2), count=3)
    newest = tmp_path / "checkpoint-000003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(CheckpointWarning, match="checkpoint-000003.*bytes instead.*using .*000002"):
        found = store.load()
    assert found is not None
    assert found.record.epoch == 1
    store.save({"model": {}}, step=9, epoch=9, state={})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.load().record.sequence == 4
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint can be read") as caught:
        store.load()
    assert "SP702" in str(caught.value)


def test_state_that_json_cannot_hold_changes_nothing(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, graph="g")
    for value in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            store.save({"model": {}}, step=0, epoch=0, state={"best": value})
    assert os.listdir(tmp_path) == []


# --- damage


def outcome(store: Checkpoints) -> int:
    """The sequence of a load that said nothing; 0 for an error, -n for a warning."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = store.load()
        except CheckpointError:
            return 0
    number = found.record.sequence if found else 0
    return -number if said else number


def test_every_flipped_bit_and_truncation_of_a_file_is_seen(tmp_path: Path) -> None:
    store = saved(tmp_path, nn.Linear(30, 20), count=2)
    file = tmp_path / "checkpoint-000002.safetensors"
    whole = file.read_bytes()
    chance = random.Random(0)
    assert outcome(store) == 2
    for _ in range(1000):
        bit = chance.randrange(len(whole) * 8)
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        assert outcome(store) == -1
    for _ in range(1000):
        file.write_bytes(whole[: chance.randrange(len(whole))])
        assert outcome(store) == -1
    file.write_bytes(whole + b"\0")
    assert outcome(store) == -1
    file.unlink()
    assert outcome(store) == -1
    file.mkdir()
    assert outcome(store) == -1


def test_swapped_files_are_seen(tmp_path: Path) -> None:
    store = saved(tmp_path, nn.Linear(3, 2), count=2)
    first, second = sorted(tmp_path.glob("*.safetensors"))
    shutil.move(first, tmp_path / "x")
    shutil.move(second, first)
    assert outcome(store) == 0
    shutil.move(tmp_path / "x", second)
    assert outcome(store) == 0


def test_every_flipped_bit_of_the_manifest_is_seen(tmp_path: Path) -> None:
    store = saved(tmp_path, nn.Linear(2, 2), count=3)
    path = tmp_path / MANIFEST
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    chance = random.Random(1)
    places = {chance.randrange(len(whole) * 8) for _ in range(600)}
    places |= {8 * (end - 1) + bit for end in ends for bit in range(8)}
    for place in places:
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        # The end of the file without its newline is what a killed process leaves, so the line
        # before it counts, without a word.
        assert outcome(store) == (2 if place // 8 == len(whole) - 1 else outcome_of(place, ends))
    path.unlink()
    assert outcome(store) == 0  # two files and no manifest


def outcome_of(place: int, ends: list[int]) -> int:
    """What a flipped bit of the manifest of three checkpoints must lead to; two files are there."""
    line = next(number for number, end in enumerate(ends, 1) if place // 8 < end)
    if place // 8 == ends[1] - 1:  # lines 2 and 3 have become one
        return 0
    return -2 if line == 3 else -3


def test_a_damaged_manifest_is_mended_at_the_next_save(tmp_path: Path) -> None:
    store = saved(tmp_path, nn.Linear(2, 2), count=3)
    path = tmp_path / MANIFEST
    broken = path.read_bytes().replace(b'"step":1', b'"step":7')
    path.write_bytes(broken)
    assert outcome(store) == -3
    store.save({"model": {}}, step=3, epoch=3, state={})
    assert outcome(store) == 4
    assert [entry["sequence"] for entry in read_journal(path).entries] == [1, 3, 4]
    assert (tmp_path / "manifest.damaged").read_bytes() == broken


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../checkpoint-000001.safetensors"},
        {"file": "/etc/passwd"},
        {"file": 3},
        {"sequence": True},
        {"size": -1},
        {"state": []},
        {"extra": 1},
        {"sha256": None},
    ],
)
def test_wrong_entries_with_right_checks(tmp_path: Path, change: dict[str, object]) -> None:
    store = saved(tmp_path, nn.Linear(2, 2))
    (entry,) = read_journal(tmp_path / MANIFEST).entries
    (tmp_path / MANIFEST).write_bytes(journal.format_journal((entry | change,)))
    assert outcome(store) == 0


def test_a_file_that_is_no_safetensors_is_seen(tmp_path: Path) -> None:
    store = saved(tmp_path, nn.Linear(2, 2))
    (entry,) = read_journal(tmp_path / MANIFEST).entries
    (tmp_path / entry["file"]).write_bytes(b"not tensors")
    change = {"size": 11, "sha256": files.sha256(tmp_path / entry["file"])}
    (tmp_path / MANIFEST).write_bytes(journal.format_journal((entry | change,)))
    assert outcome(store) == 0


# --- crashes and full disks while saving


def put(folder: Path, number: int) -> None:
    tensors = {"model": {"w": torch.full((300,), number)}}
    Checkpoints(folder, graph="g").save(tensors, step=number, epoch=0, state={})


def start(folder: Path, base: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)


def calls_of_a_save(folder: Path, base: Path) -> int:
    start(folder, base)
    return calls_of(lambda: put(folder, 3))


@pytest.mark.parametrize("earlier", [0, 2])
def test_every_failing_call_of_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: int
) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    base.mkdir()
    for number in range(1, earlier + 1):
        put(base, number)
    calls = calls_of_a_save(run, base)
    assert calls >= 9
    for k in range(1, calls + 1):
        start(run, base)
        with monkeypatch.context() as patch:
            install(patch, Unreliable(k, full))
            with pytest.raises(OSError, match="No space"):
                put(run, 3)
        found = Checkpoints(run, graph="g").load()
        assert (found.record.step if found else 0) == earlier
        put(run, 3)  # room again
        assert Checkpoints(run, graph="g").load().record.step == 3
        assert not [name for name in os.listdir(run) if ".tmp-" in name]


@pytest.mark.parametrize("earlier", [0, 2])
def test_every_kill_of_a_save(tmp_path: Path, earlier: int) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    base.mkdir()
    for number in range(1, earlier + 1):
        put(base, number)
    steps: list[int] = []
    for k in range(1, calls_of_a_save(run, base) + 1):
        start(run, base)
        killed_at(k, lambda: put(run, 3))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = Checkpoints(run, graph="g").load()
        steps.append(found.record.step if found else 0)
        sweep(run)
        put(run, 3)
        assert Checkpoints(run, graph="g").load().record.step == 3
        assert not [name for name in os.listdir(run) if ".tmp-" in name]
    assert set(steps) == {earlier, 3}  # before the last sync the line is whole already
    assert steps == sorted(steps)


def test_what_a_save_takes_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk whose fsync is slow; a note that cannot be written stops nothing."""

    class Slow:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def fsync(self, number: int) -> None:
            time.sleep(0.05)
            os.fsync(number)

    store = Checkpoints(tmp_path, graph="g")
    tensors = {"model": {"a": torch.zeros(1000)}}
    records = [store.save(tensors, step=3, epoch=1, state={})]
    for module in (files, journal):
        monkeypatch.setattr(module, "os", Slow())
    records.append(store.save(tensors, step=6, epoch=2, state={}))
    head, *rows = [line.split("\t") for line in (tmp_path / SAVES).read_text().splitlines()]
    assert head == ["step", "bytes", "seconds", "disk_seconds"]
    assert [(int(s), int(b)) for s, b, _, _ in rows] == [(r.step, r.size) for r in records]
    assert all(0 < float(disk) <= float(whole) for _, _, whole, disk in rows)
    assert float(rows[1][3]) >= 3 * 0.05  # of the file, of its folder and of the manifest
    (tmp_path / SAVES).unlink()
    (tmp_path / SAVES).mkdir()
    assert store.save(tensors, step=9, epoch=3, state={}).sequence == 3
    assert store.load() is not None
