"""Stores written by asking a teacher: the same whoever asks, crashes, and every corruption seen."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lessons import a_teacher, digits

from spacelang.backends.torch.data.augment import RECIPES, words_of
from spacelang.backends.torch.data.datasets import Dataset, batches, views
from spacelang.backends.torch.distillation.logits import asked as module
from spacelang.backends.torch.distillation.logits.asked import CHUNK, Asked, write_store
from spacelang.backends.torch.distillation.logits.manifest import epoch_folder
from spacelang.backends.torch.distillation.logits.reader import LogitStore
from spacelang.backends.torch.distillation.logits.record import Records
from spacelang.backends.torch.distillation.logits.replay import Replay, verify
from spacelang.backends.torch.distillation.logits.store import About, begin, epochs_of, read_record
from spacelang.backends.torch.distillation.logits.writer import StoreWriter, finish
from spacelang.backends.torch.distillation.teacher import Teacher
from spacelang.backends.torch.runs.interrupt import Interrupted
from spacelang.diagnostics import SpaceError
from spacelang.files import Lock, Locked


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits()


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return a_teacher()


@pytest.fixture(scope="module")
def about(data: Dataset, teacher: Teacher) -> About:
    return About.of(teacher.name, teacher.digest, data, "digits", seed=4, k=5)


@pytest.fixture(scope="module")
def whole(
    data: Dataset, teacher: Teacher, about: About, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "store"
    made = write_store(folder, teacher, data, about, epochs=2, shard=30)
    assert (made.records, made.busy) == (200, ())
    return folder


def records(folder: Path, epoch: int) -> Records:
    store = LogitStore(folder, epoch=epoch)
    found, good = store.read(store.ids)
    assert good.all()
    return found


def same(left: Records, right: Records) -> bool:
    names = ("ids", "seeds", "classes", "probabilities")
    return all(np.array_equal(getattr(left, n), getattr(right, n)) for n in names)


def contents(folder: Path) -> dict[str, bytes]:
    files = (f for f in sorted(folder.rglob("*")) if f.is_file() and f.name != ".lock")
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


# Whoever asks.


def test_the_same_command_gives_the_same_bytes(
    data: Dataset, teacher: Teacher, about: About, whole: Path, tmp_path: Path
) -> None:
    write_store(tmp_path / "again", teacher, data, about, epochs=2, shard=30)
    assert contents(tmp_path / "again") == contents(whole)
    made = write_store(tmp_path / "again", teacher, data, about, epochs=2)
    assert made.records == 0
    assert contents(tmp_path / "again") == contents(whole)


def test_records_depend_on_neither_files_nor_order_nor_ranks(
    data: Dataset, teacher: Teacher, about: About, whole: Path, tmp_path: Path
) -> None:
    write_store(tmp_path / "large", teacher, data, about, epochs=1)
    assert same(records(tmp_path / "large", 0), records(whole, 0))
    asked = Asked(teacher, data.train, about)
    for rank in (1, 0):  # two processes, chunks in falling order
        with StoreWriter(
            tmp_path / "ranks", epoch=1, contents=about.contents, rank=rank, size=7
        ) as writer:
            for number in reversed(asked.chunks[rank::2]):
                writer.add(asked.chunk(1, number))
    finish(tmp_path / "ranks", epoch=1, expected=100)
    assert same(records(tmp_path / "ranks", 1), records(whole, 1))


def test_a_record_is_what_the_teacher_says_of_the_image_that_is_trained_on(
    data: Dataset, teacher: Teacher, about: About, whole: Path
) -> None:
    """In the batches of a training, whose order and size are its own."""
    recipe = RECIPES["digits"]
    store = LogitStore(whole, epoch=1)
    for batch in batches(data.train, 17, seed=99, epoch=6, recipe=recipe, replay=(4, 1)):
        found, good = store.read(batch.ids.numpy())
        assert good.all()
        wanted = teacher.logits(batch.images).softmax(1).topk(5, 1)
        kept = torch.from_numpy(found.probabilities).float()
        torch.testing.assert_close(kept, wanted.values, atol=1e-3, rtol=1e-3)
        assert (kept[:, 0] > 0).all()
    assert not same(records(whole, 0), records(whole, 1))


def test_an_image_varies_alike_in_any_company(data: Dataset) -> None:
    recipe, part = RECIPES["digits"], data.train
    (all_of_them,) = batches(part, len(part), seed=1, epoch=0, recipe=recipe, replay=(4, 3))
    alone = views(part, np.array([17]), recipe, seed=4, epoch=3)
    row = all_of_them.ids.tolist().index(int(alone.ids[0]))
    assert torch.equal(all_of_them.images[row], alone.images[0])


def test_equal_images_are_one_sample(
    data: Dataset, teacher: Teacher, about: About, tmp_path: Path
) -> None:
    part = data.train
    twice = replace(
        part,
        images=torch.cat([part.images, part.images[:3]]),
        labels=torch.cat([part.labels, part.labels[:3]]),
        ids=torch.cat([part.ids, part.ids[:3]]),
    )
    made = write_store(tmp_path / "s", teacher, replace(data, train=twice), about, epochs=1)
    assert made.records == 100


def test_words_are_of_a_samples_own_stream(whole: Path) -> None:
    found = records(whole, 1)
    assert np.array_equal(found.seeds, words_of(4, 1, found.ids))
    assert ((found.seeds >= 0) & (found.seeds < 1 << 31)).all()
    assert len(np.unique(found.seeds)) == 100
    assert not np.array_equal(found.seeds, words_of(4, 0, found.ids))


def test_an_epoch_under_another_name_is_told(whole: Path, tmp_path: Path) -> None:
    """Records of epoch 0 in the place of epoch 1, with a manifest that says so: other views."""
    shutil.copytree(whole, tmp_path / "s")
    about, _ = read_record(whole)
    folder = epoch_folder(tmp_path / "s", 1)
    shutil.rmtree(folder)
    with StoreWriter(tmp_path / "s", epoch=1, contents=about.contents) as writer:
        writer.add(records(whole, 0))
    finish(tmp_path / "s", epoch=1)
    wrong = verify(tmp_path / "s")
    assert wrong["epoch-00000"] == []
    assert len(wrong["epoch-00001"]) == 100
    ids = records(whole, 0).ids
    with pytest.raises(SpaceError, match="another view"):
        Replay(tmp_path / "s").read(1, ids)
    assert not Replay(tmp_path / "s", on_bad="skip").read(1, ids)[1].any()


# Crashes.


def killed_while_writing(
    folder: Path, teacher: Teacher, data: Dataset, about: About, point: int
) -> bool:
    """Write a store in a child that SIGKILL ends at its `point`-th touch of the disk."""
    child = os.fork()
    if child == 0:
        left = [point]

        def counted(original: Any) -> Any:
            def call(*words: Any, **more: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*words, **more)

            return call

        try:
            torch.set_num_threads(1)
            for name in ("write", "fsync", "replace", "open", "ftruncate"):
                setattr(os, name, counted(getattr(os, name)))
            write_store(folder, teacher, data, about, epochs=2, shard=30)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _crashes(
    folder: Path, whole: Path, teacher: Teacher, data: Dataset, about: About, points: list[int]
) -> int:
    """Kill writers of one store, one after the other; how many were."""
    killed = 0
    for point in points:
        killed += killed_while_writing(folder, teacher, data, about, point)
        if not (folder / "store.json").exists():
            continue
        read_record(folder)
        for epoch in epochs_of(folder):  # what is finished is whole, at any moment
            assert same(records(folder, epoch), records(whole, epoch))
    assert killed, "at least the first of them"
    write_store(folder, teacher, data, about, epochs=2, shard=30)
    found, wanted = contents(folder), contents(whole)
    assert {n: c for n, c in found.items() if ".tmp-" not in n} == wanted
    return killed


def test_a_killed_writer_goes_on(
    data: Dataset, teacher: Teacher, about: About, whole: Path, tmp_path: Path
) -> None:
    points = [3, 9, 14, 18, 23, 8, 13, 2]
    _crashes(tmp_path / "s", whole, teacher, data, about, points)


@pytest.mark.soak
def test_two_hundred_kills_leave_a_readable_store(
    data: Dataset, teacher: Teacher, about: About, whole: Path, tmp_path: Path
) -> None:
    draw, killed, stores = random.Random(1), 0, 0
    while killed < 200:
        points = [draw.randrange(2, 30) for _ in range(10)]
        killed += _crashes(tmp_path / str(stores), whole, teacher, data, about, points)
        stores += 1
    print(f"{killed} writers of {stores} stores killed")


def test_a_signal_keeps_what_was_asked(
    data: Dataset,
    teacher: Teacher,
    about: About,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = Asked.chunk
    seen: list[tuple[int, int]] = []

    def chunk(self: Asked, epoch: int, number: int) -> Records:
        seen.append((epoch, number))
        if len(seen) == 4:  # after the one that is tried, and a whole epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, epoch, number)

    monkeypatch.setattr(Asked, "chunk", chunk)
    with pytest.raises(Interrupted):
        write_store(tmp_path / "s", teacher, data, about, epochs=2)
    assert seen == [(0, 0), (0, 0), (0, 1), (1, 0)]
    assert epochs_of(tmp_path / "s") == [0]
    assert write_store(tmp_path / "s", teacher, data, about, epochs=2).records == 100 - CHUNK
    assert same(records(tmp_path / "s", 1), records(whole, 1))


def test_writers_share_the_epochs(
    data: Dataset, teacher: Teacher, about: About, tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    write_store(folder, teacher, data, about, epochs=1)
    epoch_folder(folder, 1).mkdir()
    with Lock(epoch_folder(folder, 1)):
        made = write_store(folder, teacher, data, about, epochs=3)
        assert (made.records, made.busy) == (100, (1,))
        with pytest.raises(Locked, match=str(os.getpid())):
            write_store(folder, teacher, data, about, epochs=3)
    assert Replay(folder).epochs == 1, "those before the first gap"
    assert write_store(folder, teacher, data, about, epochs=3).records == 100
    assert Replay(folder).epochs == 3
    assert [Replay(folder).of(epoch) for epoch in range(5)] == [0, 1, 2, 0, 1]


# What is refused.


def test_a_store_is_of_one_thing(
    data: Dataset, teacher: Teacher, about: About, whole: Path, tmp_path: Path
) -> None:
    other = a_teacher(2)
    for wanted, words in (
        (About.of(other.name, other.digest, data, "digits", seed=4, k=5), "the teacher there is"),
        (replace(about, seed=5), "seed: 4 there, 5 here"),
        (replace(about, k=4), "k: 5 there, 4 here"),
    ):
        with pytest.raises(SpaceError, match="SP702") as failed:
            write_store(whole, other, data, wanted, epochs=3)
        assert words in "\n".join(failed.value.diagnostics[0].notes)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(SpaceError, match="holds something else"):
        write_store(tmp_path, teacher, data, about, epochs=1)
    for call in (read_record, verify, Replay):
        with pytest.raises(SpaceError, match="no store"):
            call(tmp_path)
    with pytest.raises(SpaceError, match="11 of 10 classes"):
        About.of("t", "d", data, "digits", seed=0, k=11)
    with pytest.raises(SpaceError, match="aug is one of none, digits"):
        About.of("t", "d", data, "wild", seed=0, k=1)


def test_teachers_that_say_nothing(data: Dataset, about: About, tmp_path: Path) -> None:
    class Says(torch.nn.Module):
        def __init__(self, answer: torch.Tensor) -> None:
            super().__init__()
            self.answer = torch.nn.Parameter(answer)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.answer.expand(len(x), -1)

    for answer, words in (
        (torch.full((10,), torch.nan), "is not finite"),
        (torch.zeros(9), "gives \\[9\\], not 10 classes"),
    ):
        with pytest.raises(SpaceError, match=words):
            write_store(tmp_path / "s", Teacher.of(Says(answer), "x"), data, about, epochs=1)
    assert not (tmp_path / "s").exists()


def test_an_unfinished_store_teaches_nobody(
    data: Dataset, teacher: Teacher, about: About, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "finish", lambda *words, **more: None)
    write_store(tmp_path / "s", teacher, data, about, epochs=1)
    with pytest.raises(SpaceError, match="no epoch of the store is finished"):
        Replay(tmp_path / "s")


# Corruption.


def noticed(folder: Path) -> bool:
    try:
        return any(verify(folder).values())
    except SpaceError:
        return True


def _flips(whole: Path, tmp_path: Path, count: int, seed: int) -> int:
    """How many of so many flipped bits, anywhere in a store, are noticed; weighted by bytes."""
    files = [f for f in sorted(whole.rglob("*")) if f.suffix in (".json", ".safetensors")]
    sizes = np.array([f.stat().st_size for f in files])
    drawn = np.random.default_rng(seed)
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    found = 0
    for _ in range(count):
        file = files[drawn.choice(len(files), p=sizes / sizes.sum())]
        target = copy / file.relative_to(whole)
        content = bytearray(file.read_bytes())
        content[drawn.integers(len(content))] ^= 1 << int(drawn.integers(8))
        target.write_bytes(content)
        found += noticed(copy)
        shutil.copyfile(file, target)
    assert not noticed(copy)
    return found


def test_flipped_bits_are_noticed(whole: Path, tmp_path: Path) -> None:
    assert _flips(whole, tmp_path, 300, seed=1) == 300


@pytest.mark.soak
def test_ten_thousand_flipped_bits_are_noticed(whole: Path, tmp_path: Path) -> None:
    assert _flips(whole, tmp_path, 10_000, seed=2) == 10_000


def test_a_record_of_a_store_that_makes_no_sense(whole: Path, tmp_path: Path) -> None:
    for text in (
        "",
        "[]",
        "{}",
        "null",
        "[" * 100_000,
        '{"format": 2}',
        "\x00",
        " " * (1 << 20) + "{}",
    ):
        shutil.copytree(whole, tmp_path / "s", dirs_exist_ok=True)
        (tmp_path / "s" / "store.json").write_text(text)
        large = len(text) > 1 << 20
        with pytest.raises(SpaceError, match="larger than 1 MiB" if large else "cannot be read"):
            read_record(tmp_path / "s")


def test_two_first_writers_begin_one_store(data: Dataset, about: About, tmp_path: Path) -> None:
    """Of two that begin at once with different contents one waits, and is refused."""

    def begun(wanted: About) -> str:
        try:
            begin(tmp_path, wanted, data.train)
        except SpaceError as failed:
            return failed.diagnostics[0].code
        return ""

    with ThreadPoolExecutor(2) as pool, Lock(tmp_path):
        first = [pool.submit(begun, replace(about, k=k)) for k in (3, 4)]
        time.sleep(0.2)
        assert not any(future.done() for future in first)
    assert sorted(future.result() for future in first) == ["", "SP702"]
