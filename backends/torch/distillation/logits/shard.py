"""One file of a store: a safetensors file of records, and the checksums that cover every byte.

Records go in blocks of 256, each with the BLAKE2b of its records; the header and those sums have a
digest of their own, which the manifest holds. So no byte of a shard can change unseen.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from spacelang.backends.torch.distillation.logits.manifest import Shard
from spacelang.backends.torch.distillation.logits.record import BLOCK, Records
from spacelang.diagnostics import SpaceError, error
from spacelang.files import atomic_write

_SUMS = "block_sums"
_TENSORS = ("sample_ids", "seeds", "classes", "probabilities", _SUMS)


def write_shard(folder: Path, name: str, records: Records) -> Shard:
    """Write records to a file of their own, and say what the manifest must know of it."""
    sums = np.array([_sum(block) for block in _blocks(records)], np.uint64)
    content = save(
        {
            "sample_ids": np.ascontiguousarray(records.ids),
            "seeds": np.ascontiguousarray(records.seeds),
            "classes": np.ascontiguousarray(records.classes),
            "probabilities": np.ascontiguousarray(records.probabilities),
            _SUMS: sums,
        }
    )
    atomic_write(folder / name, content)
    return Shard(name, len(records), len(content), _head(content, sums))


def open_shard(folder: Path, shard: Shard, k: int) -> tuple[Records, NDArray[np.uint64]]:
    """The records of a file, mapped and not yet verified, and its block sums, verified.

    SP702 for a file that is missing, of another size, or whose header or sums changed.
    """
    place = folder / shard.file
    try:
        size = place.stat().st_size
        if size != shard.bytes:
            raise _damaged(place, f"it has {size:,} bytes, not {shard.bytes:,}")
        with open(place, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = length.to_bytes(8, "little") + file.read(min(length, size))
        with safe_open(place, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name).numpy() for name in _TENSORS}
    except (OSError, SafetensorError, TypeError, ValueError) as problem:
        raise _damaged(place, str(problem)) from problem
    sums = tensors[_SUMS]
    if _head(header, sums) != shard.head:
        raise _damaged(place, "its header or checksums changed")
    records = Records(
        tensors["sample_ids"], tensors["seeds"], tensors["classes"], tensors["probabilities"]
    )
    if records.probabilities.shape != (shard.records, k) or len(records) != shard.records:
        raise _damaged(place, f"it does not hold {shard.records:,} records of {k}")
    return records, sums


def block_is_whole(records: Records, sums: NDArray[np.uint64], number: int) -> bool:
    """Whether a block of a shard is what was written."""
    return _sum(records.take(slice(number * BLOCK, (number + 1) * BLOCK))) == int(sums[number])


def _blocks(records: Records) -> list[Records]:
    return [records.take(slice(at, at + BLOCK)) for at in range(0, len(records), BLOCK)]


def _sum(block: Records) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for column in (block.ids, block.seeds, block.classes, block.probabilities):
        digest.update(np.ascontiguousarray(column).data)
    return int.from_bytes(digest.digest(), "little")


def _head(content: bytes, sums: NDArray[np.uint64]) -> str:
    """The digest of a file's header, length included, and of its block sums."""
    length = 8 + int.from_bytes(content[:8], "little")
    return hashlib.sha256(content[:length] + sums.tobytes()).hexdigest()


def _damaged(place: Path, why: str) -> SpaceError:
    return SpaceError(error("SP702", f"{place}: is damaged: {why}"))
