"""What `spacelang store` asks of a backend: stores of ours, and TinyViT's files, in figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.distillation.logits.asked import Written, write_store
from spacelang.backends.torch.distillation.logits.manifest import epoch_folder, read_manifest
from spacelang.backends.torch.distillation.logits.published import (
    PublishedLogits,
    named,
    published_epochs,
)
from spacelang.backends.torch.distillation.logits.published_replay import AUG
from spacelang.backends.torch.distillation.logits.replay import verify as verify_store
from spacelang.backends.torch.distillation.logits.store import About, epochs_of, read_record
from spacelang.backends.torch.distillation.teacher import Teacher
from spacelang.backends.torch.runs.progress import Reporter
from spacelang.diagnostics import SpaceError, error

AT_ONCE = 4096  # published records that are looked at together


def aug_of(folder: str) -> str:
    """How the images of a store vary (SP702 where it is none)."""
    return AUG if published_epochs(folder) else read_record(folder)[0].aug


def write(
    folder: Path,
    teacher: Teacher,
    data: Dataset,
    *,
    aug: str,
    epochs: int,
    k: int,
    temperature: float,
    seed: int,
    shard: int,
    device: str,
    reporter: Reporter,
    begun: Callable[[], object],
) -> Written:
    """Write a store, of at most as many probabilities as there are classes."""
    least = min(k, len(data.classes))
    wanted = About.of(
        teacher.name, teacher.digest, data, aug, seed=seed, k=least, temperature=temperature
    )
    return write_store(
        folder, teacher, data, wanted,
        epochs=epochs, shard=shard, device=device, reporter=reporter, begun=begun,
    )  # fmt: skip


def info(folder: str, classes: int | None) -> dict[str, Any]:
    """A store in figures (SP702)."""
    found = _published(Path(folder), classes)
    if found is not None:
        logits, epoch = found
        size = sum(f.stat().st_size for f in Path(folder).glob("rank*-*"))
        return {"format": "TinyViT's", "classes": logits.classes, "k": logits.k, "epoch": epoch,
                "records": len(logits), "bytes": size}  # fmt: skip
    known, _ = read_record(folder)
    finished = epochs_of(folder)
    begun = sorted(p.name for p in Path(folder).glob("epoch-*") if p.is_dir())
    manifests = [read_manifest(epoch_folder(folder, e), known.contents) for e in finished]
    return {
        "teacher": known.teacher,
        "teacher_digest": known.teacher_digest,
        "data": known.data,
        "aug": known.aug,
        "seed": known.seed,
        "classes": known.classes,
        "k": known.k,
        "temperature": known.temperature,
        "epochs": len(finished),
        "unfinished": [n for n in begun if n not in {f"epoch-{e:05d}" for e in finished}],
        "records": sum(m.records for m in manifests),
        "bytes": sum(shard.bytes for m in manifests for shard in m.shards),
    }


def verify(folder: str, classes: int | None) -> dict[str, list[str]]:
    """What is wrong with which epoch (SP702 where it is no store)."""
    found = _published(Path(folder), classes)
    if found is None:
        return verify_store(folder)
    logits, epoch = found
    wrong: list[str] = []
    for at in range(0, len(logits), AT_ONCE):
        keys = logits.keys[at : at + AT_ONCE]
        _, found = logits.take(keys)
        wrong += [f"the record of {keys[row]!r}: {why}" for row, why in sorted(found.items())]
    return {f"epoch {epoch}": wrong}


def _published(folder: Path, classes: int | None) -> tuple[PublishedLogits, int] | None:
    """The files of TinyViT in a folder, None where it has none."""
    if not any(folder.glob("rank*-values.bin")):
        return None
    known = named(folder)
    if known is None:
        told = error("SP702", f"{folder}: is not called logits_topK_epochE, which says what K is")
        raise SpaceError(told.hint("give it the name it was published under"))
    if classes is None:
        told = error("SP702", f"{folder}: published files do not say how many classes there are")
        raise SpaceError(told.hint("--classes 21841 for ImageNet-22k"))
    return PublishedLogits(folder, k=known[0], classes=classes), known[1]
