"""The division of a data set into train, validation and test by the bytes of its images.

    part(image) = its rank, by digest, among the images of its class:
                  the first fifth is test, the next fifth validation, the rest train

The digest of an image is SHA-256 of `spacelang split 1`, its shape and its pixels, so the parts
depend on neither order nor names, and equal images lie in one part. The published splits are in
`spaces/splits/*.json`; a data set that no longer gives its published split is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

SALT = b"spacelang split 1"
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.2
PARTS = ("train", "validation", "test")
RULE = (
    "digest = SHA-256(b'spacelang split 1' + b' HxWxC ' + pixels as uint8 rows); within each "
    "class, by ascending digest, the first 20 % are test, the next 20 % validation, the rest train"
)


@dataclass(frozen=True, slots=True)
class Split:
    """Source positions of the images of each part, ascending, and the digest of the whole."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    digest: str  # SHA-256 over the sorted lines "<image digest> <part>"


def image_digest(pixels: NDArray[np.uint8]) -> bytes:
    """The 32 bytes that stand for an image [H, W, C]."""
    shape = "x".join(map(str, pixels.shape))
    return hashlib.sha256(SALT + f" {shape} ".encode() + pixels.tobytes()).digest()


def divide(
    digests: Sequence[bytes],
    labels: Sequence[int],
    fixed: Mapping[int, str] | None = None,
    cut: Sequence[str] = ("test", "validation"),
) -> Split:
    """Split images by their digests, class by class.

    `fixed` gives parts that the source decides (position -> part); the other images are divided
    into the parts of `cut`, a fifth each, and train. Equal images with different labels count
    under the smallest.
    """
    fixed = fixed or {}
    shares = {"test": TEST_SHARE, "validation": VALIDATION_SHARE}
    owner: dict[bytes, int] = {}
    groups: dict[bytes, list[int]] = defaultdict(list)
    for position, (digest, label) in enumerate(zip(digests, labels, strict=True)):
        if position not in fixed:
            owner[digest] = min(label, owner.get(digest, label))
            groups[digest].append(position)
    classes: dict[int, list[bytes]] = defaultdict(list)
    for digest in sorted(groups):
        classes[owner[digest]].append(digest)
    part_of = dict(fixed)
    for members in classes.values():
        total = sum(len(groups[digest]) for digest in members)
        wanted = {part: int(total * shares[part] + 0.5) for part in cut}
        for digest in members:
            part = next((part for part in cut if wanted[part] > 0), "train")
            if part != "train":
                wanted[part] -= len(groups[digest])
            part_of.update(dict.fromkeys(groups[digest], part))
    return _split(digests, part_of)


def published_split(name: str) -> dict[str, object]:
    """The committed record of a data set's split."""
    text = files("spacelang.spaces").joinpath("splits", f"{name}.json").read_text("utf-8")
    return json.loads(text)


def split_record(name: str, split: Split) -> dict[str, object]:
    """What is committed of a split: the positions of validation and test, and the digest."""
    return {
        "data": name,
        "format": 1,
        "rule": RULE,
        "counts": {part: len(getattr(split, part)) for part in PARTS},
        "digest": split.digest,
        "validation": list(split.validation),
        "test": list(split.test),
    }


def format_record(record: Mapping[str, object]) -> str:
    """The text of a split file: one key a line, positions in rows of at most 100 characters."""
    lines: list[str] = []
    for key, value in record.items():
        text = json.dumps(value)
        if isinstance(value, list):
            text = "[\n" + ",\n".join(_rows(value)) + "\n  ]"
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _rows(positions: Sequence[int]) -> list[str]:
    per_row = 16
    rows = (positions[start : start + per_row] for start in range(0, len(positions), per_row))
    return ["    " + ", ".join(map(str, row)) for row in rows]


def _split(digests: Sequence[bytes], part_of: Mapping[int, str]) -> Split:
    positions = {
        part: tuple(i for i in range(len(digests)) if part_of[i] == part) for part in PARTS
    }
    lines = sorted(f"{digest.hex()} {part_of[i]}\n" for i, digest in enumerate(digests))
    summary = hashlib.sha256("".join(lines).encode()).hexdigest()
    return Split(positions["train"], positions["validation"], positions["test"], summary)
