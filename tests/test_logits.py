"""Stored teacher outputs: exact round trips, every corruption seen, crashes, TinyViT's own files."""

from __future__ import annotations

import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spacelang.backends.torch.distillation.logits import reader
from spacelang.backends.torch.distillation.logits.manifest import Contents, epoch_folder
from spacelang.backends.torch.distillation.logits.published import PublishedLogits
from spacelang.backends.torch.distillation.logits.reader import LogitStore
from spacelang.backends.torch.distillation.logits.record import EXCESS, Records, dense, faults, top
from spacelang.backends.torch.distillation.logits.writer import StoreWriter, finish
from spacelang.diagnostics import SpaceError

CLASSES, K = 30, 10
CONTENTS = Contents("teacher", "data", "augmentation", CLASSES, K)


def ids_of(count: int, seed: int = 0) -> NDArray[np.int64]:
    """Different ids, as hashes of images are: anywhere in 0..2^63-1, in no order."""
    return np.random.default_rng(seed).permutation(count).astype(np.int64) * 7_919_000_003


def some(count: int, seed: int = 0, k: int = K, classes: int = CLASSES) -> Records:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, classes, generator=generator)
    ids = ids_of(count, seed)
    return top(logits, k, ids=ids, seeds=ids % 1000)


def write(folder: Path, records: Records, size: int = 300, epoch: int = 0) -> None:
    contents = replace(CONTENTS, k=records.probabilities.shape[1])
    with StoreWriter(folder, epoch=epoch, contents=contents, size=size) as writer:
        for at in range(0, len(records), 128):
            writer.add(records.take(slice(at, at + 128)))
    finish(folder, epoch=epoch, expected=len(records))


def same(left: Records, right: Records) -> bool:
    return all(
        np.array_equal(getattr(left, name), getattr(right, name))
        for name in ("ids", "seeds", "classes", "probabilities")
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Records]:
    folder = tmp_path_factory.mktemp("store")
    records = some(1000)
    write(folder, records)
    return folder, records


# Records.


def test_a_record_is_the_head_of_a_softmax() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    record = top(logits, 2, ids=np.array([7]), seeds=np.array([9]))
    assert record.classes.tolist() == [[1, 3]]
    wanted = logits.softmax(1)[0, [1, 3]].numpy().astype(np.float16)
    assert np.array_equal(record.probabilities[0], wanted)
    full = dense(record, 4)
    assert full.sum().item() == pytest.approx(1)
    assert full[0, 0] == full[0, 2] == (1 - full[0, 1] - full[0, 3]) / 2


def test_softer_records() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    record = top(logits, 4, ids=np.array([7]), seeds=np.array([9]), temperature=2.0)
    assert np.allclose(record.probabilities[0], np.sort((logits / 2).softmax(1)[0])[::-1], 1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"probabilities": [[0.5, np.nan]]}, "no finite number"),
        ({"probabilities": [[0.5, -0.1]]}, "negative"),
        ({"probabilities": [[0.3, 0.5]]}, "do not fall"),
        ({"probabilities": [[0.7, 0.5]]}, "more than 1"),
        ({"classes": [[1, 40]]}, "not below 30"),
        ({"classes": [[3, 3]]}, "twice"),
        ({"seeds": [-1]}, "seed"),
    ],
)
def test_records_nobody_could_train_on(
    change: dict[str, object], words: str, tmp_path: Path
) -> None:
    good = Records(
        np.array([5]),
        np.array([1]),
        np.array([[1, 3]], np.uint16),
        np.array([[0.5, 0.3]], np.float16),
    )
    assert faults(good, 30) == {}
    types = {"probabilities": np.float16, "classes": np.uint16, "seeds": np.int64}
    bad = replace(good, **{n: np.array(v, types[n]) for n, v in change.items()})
    assert words in faults(bad, 30)[0]
    contents = replace(CONTENTS, k=2)
    with (
        StoreWriter(tmp_path, epoch=0, contents=contents) as writer,
        pytest.raises(SpaceError, match="sample 5"),
    ):
        writer.add(bad)


def test_rounding_adds_no_fault() -> None:
    """Sums that are 1 before they are rounded stay within what is allowed."""
    worst = max(
        float(top(torch.randn(200, k) * spread, k, ids=ids_of(200), seeds=ids_of(200))
              .probabilities.astype(np.float32).sum(1).max())
        for k in (2, 10, 100)
        for spread in (0.01, 1.0, 10.0)
    )  # fmt: skip
    assert 1 < worst <= 1 + EXCESS


# Stores.


def test_what_is_written_is_read_in_any_order(written: tuple[Path, Records]) -> None:
    folder, records = written
    store = LogitStore(folder, epoch=0, contents=CONTENTS)
    assert len(store) == 1000
    assert np.array_equal(store.ids, np.sort(records.ids))
    for seed in range(5):
        rows = np.random.default_rng(seed).permutation(1000)[:257]
        found, good = store.read(records.ids[rows])
        assert good.all()
        assert same(found, records.take(rows))
    assert store.verify() == []


def test_classes_beyond_sixteen_bits(tmp_path: Path) -> None:
    records = some(20, k=5, classes=70_000)
    assert records.classes.dtype == np.int32
    contents = Contents("t", "d", "a", 70_000, 5)
    with StoreWriter(tmp_path, epoch=0, contents=contents) as writer:
        writer.add(records)
    finish(tmp_path, epoch=0)
    found, _ = LogitStore(tmp_path, epoch=0).read(records.ids)
    assert same(found, records)


def test_a_store_costs_little_more_than_its_records(tmp_path: Path) -> None:
    """At most 2 % over 4 K + 16 bytes a record, for K = 10 and 100,000 records."""
    write(tmp_path, some(100_000), size=1 << 16)
    size = sum(f.stat().st_size for f in epoch_folder(tmp_path, 0).iterdir())
    assert size <= 1.02 * 100_000 * (4 * K + 16)


def test_the_same_records_make_the_same_bytes(tmp_path: Path) -> None:
    records = some(700)
    for name in ("first", "second"):
        write(tmp_path / name, records)
    first, second = (sorted((tmp_path / n / "epoch-00000").iterdir()) for n in ("first", "second"))
    assert [f.name for f in first] == [f.name for f in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))


def test_several_processes_write_one_epoch(tmp_path: Path) -> None:
    records = some(900)
    for rank, size in enumerate((100, 64, 1000)):
        with StoreWriter(tmp_path, epoch=2, contents=CONTENTS, rank=rank, size=size) as writer:
            writer.add(records.take(slice(rank * 300, rank * 300 + 300)))
    manifest = finish(tmp_path, epoch=2, expected=900)
    assert manifest.records == 900
    found, good = LogitStore(tmp_path, epoch=2).read(records.ids)
    assert good.all()
    assert same(found, records)


def test_a_sample_is_written_once(tmp_path: Path) -> None:
    records = some(50)
    with (
        StoreWriter(tmp_path, epoch=0, contents=CONTENTS) as writer,
        pytest.raises(SpaceError, match="has a record already"),
    ):
        writer.add(records)
        writer.add(records.take(slice(7, 8)))
    for rank in (0, 1):
        with StoreWriter(tmp_path, epoch=1, contents=CONTENTS, rank=rank) as writer:
            writer.add(records)
    with pytest.raises(SpaceError, match="twice, by two processes"):
        finish(tmp_path, epoch=1)


def test_writing_goes_on_after_a_crash(tmp_path: Path) -> None:
    """Whole shards are kept, what was in memory is asked again, and the store is the same."""
    records = some(1000)

    class Dies(Exception):
        pass

    def interrupted(start: NDArray[np.int64]) -> None:
        with StoreWriter(tmp_path, epoch=0, contents=CONTENTS, size=300) as writer:
            left = writer.missing(records.ids)
            assert np.array_equal(left, start)
            rows = np.flatnonzero(np.isin(records.ids, left))[:450]
            writer.add(records.take(rows))
            raise Dies

    for start in (records.ids, records.ids[300:]):
        with pytest.raises(Dies):
            interrupted(start)
    with pytest.raises(SpaceError, match="no finished store"):
        LogitStore(tmp_path, epoch=0)
    with pytest.raises(SpaceError, match="600 of 1,000"):
        finish(tmp_path, epoch=0, expected=1000)
    with StoreWriter(tmp_path, epoch=0, contents=CONTENTS, size=300) as writer:
        left = writer.missing(records.ids)
        writer.add(records.take(np.flatnonzero(np.isin(records.ids, left))))
    finish(tmp_path, epoch=0, expected=1000)
    found, good = LogitStore(tmp_path, epoch=0).read(records.ids)
    assert good.all()
    assert same(found, records)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"teacher": "other"}, "teacher: teacher there, other here"),
        ({"data": "other"}, "data"),
        ({"augmentation": "other"}, "augmentation"),
        ({"classes": 31}, "classes: 30 there, 31 here"),
        ({"k": 9}, "k: 10 there, 9 here"),
        ({"temperature": 2.0}, "temperature"),
    ],
)
def test_a_store_of_other_contents_is_refused(
    change: dict[str, object], words: str, written: tuple[Path, Records]
) -> None:
    with pytest.raises(SpaceError, match="other contents") as failed:
        LogitStore(written[0], epoch=0, contents=replace(CONTENTS, **change))
    assert any(words in note for note in failed.value.diagnostics[0].notes)
    with pytest.raises(SpaceError, match="other contents"):
        StoreWriter(written[0], epoch=0, contents=replace(CONTENTS, **change))


def test_what_is_missing_is_refused_or_left_out(written: tuple[Path, Records]) -> None:
    folder, records = written
    ids = np.array([records.ids[3], 12345, records.ids[5]])
    with pytest.raises(SpaceError, match="sample 12345: has no record"):
        LogitStore(folder, epoch=0).read(ids)
    found, good = LogitStore(folder, epoch=0, on_bad="skip").read(ids)
    assert good.tolist() == [True, False, True]
    assert found.ids.tolist() == [ids[0], -1, ids[2]]
    with pytest.raises(SpaceError, match="no finished store"):
        LogitStore(folder, epoch=1)


def corrupt(place: Path, offset: int, bit: int) -> None:
    content = bytearray(place.read_bytes())
    content[offset] ^= 1 << bit
    place.write_bytes(content)


def detected(folder: Path) -> bool:
    """Whether opening or reading everything notices."""
    try:
        return bool(LogitStore(folder, epoch=0, on_bad="skip").verify())
    except SpaceError:
        return True


def _flips(folder: Path, tmp_path: Path, count: int, seed: int) -> int:
    """How many of so many flipped bits, anywhere in the files of a store, are noticed."""
    source = epoch_folder(folder, 0)
    files = [f for f in sorted(source.iterdir()) if f.suffix in (".json", ".safetensors")]
    drawn = np.random.default_rng(seed)
    noticed = 0
    copy = tmp_path / "copy"
    shutil.copytree(source, epoch_folder(copy, 0))
    for _ in range(count):
        file = files[drawn.integers(len(files))]
        target = epoch_folder(copy, 0) / file.name
        corrupt(target, int(drawn.integers(file.stat().st_size)), int(drawn.integers(8)))
        noticed += detected(copy)
        shutil.copyfile(file, target)
    assert not detected(copy)
    return noticed


def test_every_flipped_bit_is_noticed(written: tuple[Path, Records], tmp_path: Path) -> None:
    assert _flips(written[0], tmp_path, 500, seed=1) == 500


@pytest.mark.soak
def test_ten_thousand_flipped_bits_are_noticed(
    written: tuple[Path, Records], tmp_path: Path
) -> None:
    assert _flips(written[0], tmp_path, 10_000, seed=2) == 10_000


def test_every_truncation_is_noticed(written: tuple[Path, Records], tmp_path: Path) -> None:
    shutil.copytree(written[0], tmp_path / "copy")
    for place in sorted(epoch_folder(tmp_path / "copy", 0).iterdir()):
        content = place.read_bytes()
        if place.suffix == ".jsonl":
            continue  # of the writers; a store is read without it
        for keep in {0, 1, 7, 8, len(content) // 2, len(content) - 1}:
            place.write_bytes(content[:keep])
            assert detected(tmp_path / "copy")
        place.write_bytes(content + b"\0")
        assert detected(tmp_path / "copy")
        place.unlink()
        assert detected(tmp_path / "copy")
        place.write_bytes(content)
    assert not detected(tmp_path / "copy")


def test_swapped_shards_and_mixed_epochs_are_noticed(tmp_path: Path) -> None:
    for epoch in (0, 1):
        write(tmp_path, some(600, seed=epoch), epoch=epoch)
    first = epoch_folder(tmp_path, 0)
    names = [first / f"shard-0-0000{n}.safetensors" for n in (0, 1)]
    one, two = (n.read_bytes() for n in names)
    assert len(one) == len(two)
    names[0].write_bytes(two)
    names[1].write_bytes(one)
    assert detected(tmp_path)
    names[0].write_bytes(one)
    names[1].write_bytes((epoch_folder(tmp_path, 1) / names[1].name).read_bytes())
    assert detected(tmp_path)


def test_a_damaged_block_costs_its_own_samples_alone(
    written: tuple[Path, Records], tmp_path: Path
) -> None:
    shutil.copytree(written[0], tmp_path / "copy")
    _, records = written
    place = epoch_folder(tmp_path / "copy", 0) / "shard-0-00001.safetensors"
    content = place.read_bytes()
    value = records.probabilities[300].tobytes()  # of the first block of the second file
    corrupt(place, content.index(value), 0)
    store = LogitStore(tmp_path / "copy", epoch=0, on_bad="recompute")
    found, good = store.read(records.ids)
    assert np.array_equal(good, (np.arange(1000) < 300) | (np.arange(1000) >= 556))
    assert same(found.take(np.flatnonzero(good)), records.take(np.flatnonzero(good)))
    with pytest.raises(SpaceError, match="its block is damaged"):
        LogitStore(tmp_path / "copy", epoch=0).read(records.ids[300:301])


def test_every_block_is_verified_once(
    written: tuple[Path, Records], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    original = reader.block_is_whole

    def counted(records: Records, sums: NDArray[np.uint64], number: int) -> bool:
        asked.append((id(sums), number))
        return original(records, sums, number)

    monkeypatch.setattr(reader, "block_is_whole", counted)
    store = LogitStore(written[0], epoch=0)
    for seed in range(20):
        store.read(np.random.default_rng(seed).permutation(written[1].ids)[:200])
    assert len(asked) == len(set(asked)) == 7  # files of 300, 300, 300 and 100 records


# TinyViT's own files.


def published(folder: Path, rank: int, names: list[str], records: Records) -> None:
    """As its writer packs them, record by record."""
    folder.mkdir(exist_ok=True)
    k = records.probabilities.shape[1]
    rows = zip(records.seeds, records.classes, records.probabilities, strict=True)
    packed = [struct.pack(f"<i{k}h{k}e", s, *map(int, c), *map(float, p)) for s, c, p in rows]
    (folder / f"rank{rank}-values.bin").write_bytes(b"".join(packed))
    (folder / f"rank{rank}-keys.txt").write_text("".join(f"{n}\n" for n in names))


def test_published_files_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "logits_top10_epoch0"
    records = some(40)
    names = [f"n0144_{n}" for n in range(40)]
    published(folder, 0, names[:25], records.take(slice(25)))
    published(folder, 1, names[25:], records.take(slice(25, 40)))
    assert (folder / "rank0-values.bin").stat().st_size == 25 * 44
    store = PublishedLogits(folder, k=10, classes=CLASSES)
    assert store.keys == tuple(names)
    rows = np.array([30, 2, 39, 0])
    found = store.read([names[row] for row in rows])
    wanted = records.take(rows)
    assert np.array_equal(found.seeds, wanted.seeds)
    assert np.array_equal(found.classes, wanted.classes)
    assert np.array_equal(found.probabilities, wanted.probabilities)


def test_published_files_that_make_no_sense(tmp_path: Path) -> None:
    folder = tmp_path / "logits_top10_epoch0"
    names = [str(n) for n in range(20)]
    published(folder, 0, names, some(20))
    with pytest.raises(SpaceError, match="the record of 'cat': there is none"):
        PublishedLogits(folder, k=10, classes=CLASSES).read(["cat"])
    with pytest.raises(SpaceError, match="not of 100 classes"):
        PublishedLogits(folder, k=100, classes=CLASSES)
    values = folder / "rank0-values.bin"
    content = values.read_bytes()
    values.write_bytes(content[:-10])
    with pytest.raises(SpaceError, match="is cut off"):
        PublishedLogits(folder, k=10, classes=CLASSES)
    values.write_bytes(content)
    with pytest.raises(SpaceError, match="not below 5"):
        PublishedLogits(folder, k=10, classes=5).read(names)
    with pytest.raises(SpaceError, match=r"no rank\*-values"):
        PublishedLogits(tmp_path, k=10, classes=5)
