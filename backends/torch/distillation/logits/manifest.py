"""What a store of one epoch says of itself: whose outputs, of what data, in which files.

    epoch-00003/manifest.json       written last, with its own digest: before it there is no store
    epoch-00003/shard-0-00000.safetensors

A store belongs to one teacher, data set and augmentation; one of others is refused (SP702) with
what differs.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

from spacelang.diagnostics import SpaceError, error
from spacelang.files import PathLike, atomic_write

FORMAT = 1
NAME = "manifest.json"
_FILE = re.compile(r"shard-[0-9]+-[0-9]{5}\.safetensors")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a store holds: equal contents are interchangeable.

    teacher, data and augmentation are digests (SHA-256) of the weights, the split of the images
    and the recipe with its version; `k` of `classes` probabilities are kept of a sample.
    """

    teacher: str
    data: str
    augmentation: str
    classes: int
    k: int
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.classes:
            raise SpaceError(error("SP702", f"{self.k} of {self.classes} classes cannot be kept"))
        if self.temperature <= 0:
            raise SpaceError(error("SP702", "the temperature is above 0"))


@dataclass(frozen=True, slots=True)
class Shard:
    """One file: how many records and bytes, and the digest of its header and block sums."""

    file: str
    records: int
    bytes: int
    head: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole of an epoch."""

    epoch: int
    contents: Contents
    shards: tuple[Shard, ...]

    @property
    def records(self) -> int:
        return sum(shard.records for shard in self.shards)


def epoch_folder(store: PathLike, epoch: int) -> Path:
    """Where an epoch of a store lies."""
    return Path(store) / f"epoch-{epoch:05d}"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    atomic_write(folder / NAME, _text(manifest))


def read_manifest(folder: Path, wanted: Contents | None = None) -> Manifest:
    """The manifest of an epoch (SP702: there is none, it is damaged, or of other contents)."""
    place = folder / NAME
    try:
        text = place.read_text("utf-8")
        found = _parse(cast(dict[str, object], json.loads(text)))
    except FileNotFoundError as missing:
        raise SpaceError(
            error("SP702", f"{folder}: no finished store ({NAME} is missing)").hint(
                "`spacelang store write` goes on where it stopped"
            )
        ) from missing
    except (OSError, ValueError, TypeError, KeyError, RecursionError, AttributeError) as problem:
        raise SpaceError(error("SP702", f"{place}: cannot be read: {problem}")) from problem
    if _text(found) != text:
        raise SpaceError(error("SP702", f"{place}: is damaged: its digest differs"))
    if wanted is not None and wanted != found.contents:
        raise SpaceError(
            error("SP702", f"{folder}: a store of other contents").note(
                *differences(found.contents, wanted)
            )
        )
    return found


def differences(found: Contents, wanted: Contents) -> list[str]:
    """What differs, a line each."""
    before, now = asdict(found), asdict(wanted)
    return [f"{n}: {before[n]} there, {now[n]} here" for n in before if before[n] != now[n]]


def _text(manifest: Manifest) -> str:
    return sealed({"format": FORMAT, **asdict(manifest)})


def sealed(body: dict[str, Any]) -> str:
    """A record as text, with its own digest."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "digest": digest}, sort_keys=True, indent=1) + "\n"


def _parse(record: dict[str, object]) -> Manifest:
    if record["format"] != FORMAT:
        raise ValueError(f"format {record['format']}, not {FORMAT}")
    epoch = record["epoch"]
    if type(epoch) is not int:
        raise ValueError(f"epoch {epoch!r}")
    shards = cast(list[object], record["shards"])
    return Manifest(epoch, read_contents(record["contents"]), tuple(map(read_shard, shards)))


def read_contents(record: object) -> Contents:
    """Contents as JSON holds them (ValueError if it does not)."""
    return Contents(**_fields(Contents, record))


def read_shard(record: object) -> Shard:
    """What is known of a shard, as JSON holds it (ValueError if it does not)."""
    shard = Shard(**_fields(Shard, record))
    if not _FILE.fullmatch(shard.file):
        raise ValueError(f"{shard.file!r} is no name of a shard")
    return shard


def _fields(kind: type[Contents] | type[Shard], record: object) -> dict[str, Any]:
    """The fields of a record, each of its type."""
    hints = get_type_hints(kind)
    if not isinstance(record, dict) or cast(dict[str, object], record).keys() != hints.keys():
        raise ValueError(f"{record!r} is no {kind.__name__}")
    found = cast(dict[str, Any], record)
    wrong = [name for name, hint in hints.items() if type(found[name]) is not hint]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} of {record!r}")
    return found
