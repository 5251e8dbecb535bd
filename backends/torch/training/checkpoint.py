"""Checkpoints of a run: tensors in safetensors files, everything else in a checksummed manifest.

    store = Checkpoints(run_folder, graph=graph_hash, keep=2)
    tensors, recipe = pack(model, optimizer, average)
    store.save(tensors, step=900, epoch=3, state={"optimizer": recipe, "lr": 1e-3})
    found = store.load()                               # the newest that is whole, or None
    unpack(found.tensors, found.state["optimizer"], model, optimizer, average)

A file is written aside, synced and renamed; then its size and SHA-256 go into `manifest.jsonl`, and
only then does the checkpoint exist. Loading proves the hash before it looks at the content, and
falls back to the checkpoint before, with a warning. Hold the folder's Lock while saving. What each
save took is noted in `saves.tsv`, which nobody reads but people.
"""

from __future__ import annotations

import hashlib
import re
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

import safetensors
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.optim import Optimizer

from spacelang.backends.torch.training.optimizer import optimizer_tensors, restore_optimizer
from spacelang.diagnostics import SpaceError, error
from spacelang.files import PathLike, atomic_write, sha256
from spacelang.journal import Journal, JournalContent, format_journal, read_journal

MANIFEST, RUN, SAVES = "manifest.jsonl", "run.json", "saves.tsv"
Tensors = Mapping[
    str, Mapping[str, Tensor]
]  # group ("model", "average", "optimizer") -> name -> tensor
Shapes = Mapping[str, tuple[int, ...]]
_FILE = re.compile(r"checkpoint-[0-9]{6,12}\.safetensors")
_ROWS = 20  # of a table of differences; the rest is counted


class CheckpointError(SpaceError):
    """A checkpoint cannot be used: damaged (SP702) or of another network (SP606, with a table)."""

    def __init__(
        self, headline: str, notes: tuple[str, ...] = (), help: str = "", code: str = "SP606"
    ) -> None:
        super().__init__(error(code, headline).note(*notes).hint(help))


class CheckpointWarning(UserWarning):
    """A checkpoint was damaged and an older one is used."""


@dataclass(frozen=True, slots=True)
class Record:
    """A line of the manifest."""

    sequence: int
    file: str
    size: int
    sha256: str
    graph: str  # hash of the graph that was trained
    step: int
    epoch: int  # epochs that are finished, as the log counts them
    state: dict[str, object]  # whatever else a run needs to go on: JSON; `run` is run.json's hash


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A checkpoint as read: its record and its tensors by group, on the CPU."""

    record: Record
    tensors: dict[str, dict[str, Tensor]]

    @property
    def state(self) -> dict[str, object]:
        return self.record.state


@dataclass(frozen=True, slots=True)
class Differences:
    """How the tensors found differ from those expected; (name, expected, found) where in shape."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)

    def rows(self) -> tuple[str, ...]:
        """The table, a line a tensor; long kinds are cut and counted."""
        shapes = [f"{name}: expected {list(a)}, found {list(b)}" for name, a, b in self.misshaped]
        table = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("mis-shaped", tuple(shapes)),
        )
        lines: list[str] = []
        for kind, names in table:
            lines += [f"{kind:<10}  {name}" for name in names[:_ROWS]]
            if len(names) > _ROWS:
                lines.append(f"{kind:<10}  ... and {len(names) - _ROWS} more")
        return tuple(lines)


def compare(expected: Shapes, found: Shapes) -> Differences:
    """Compare two tables of tensors by name and shape."""
    both = sorted(expected.keys() & found.keys())
    return Differences(
        tuple(sorted(expected.keys() - found.keys())),
        tuple(sorted(found.keys() - expected.keys())),
        tuple((n, expected[n], found[n]) for n in both if expected[n] != found[n]),
    )


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name -> shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


class Checkpoints:
    """The checkpoints of one run folder, the newest `keep` of them on disk."""

    def __init__(self, folder: PathLike, *, graph: str, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep = {keep}: at least one checkpoint is kept")
        self.folder, self.graph, self.keep = Path(folder), graph, keep

    def save(
        self, tensors: Tensors, *, step: int, epoch: int, state: Mapping[str, object]
    ) -> Record:
        """Write a checkpoint; when this returns, a crash of the machine cannot take it away.

        `state` is JSON without infinities. On an OSError (a full disk) those before are intact.
        """
        began = time.monotonic()
        manifest = self._repaired()
        last = manifest.entries[-1].get("sequence") if manifest.entries else 0
        sequence = (last if isinstance(last, int) else len(manifest.entries)) + 1
        flat = {
            f"{group}/{name}": tensor.detach().to(
                "cpu", copy=True, memory_format=torch.contiguous_format
            )
            for group, members in tensors.items()
            for name, tensor in members.items()
        }
        content, run = save_tensors(flat), self.folder / RUN
        of = {"run": sha256(run)} if run.is_file() else {}  # for `doctor`
        record = Record(
            sequence,
            _name(sequence),
            len(content),
            hashlib.sha256(content).hexdigest(),
            self.graph,
            step,
            epoch,
            {**state, **of},
        )
        entry = {field.name: getattr(record, field.name) for field in fields(record)}
        format_journal((entry,))  # refuse what JSON cannot hold before anything is written
        ready = time.monotonic()
        atomic_write(self.folder / record.file, content)
        with Journal(self.folder / MANIFEST) as journal:
            journal.append(entry)
        self._note(record, began, ready)
        self._prune({record.file, *(str(old.get("file")) for old in self._newest(manifest))})
        return record

    def _note(self, record: Record, began: float, ready: float) -> None:
        """Add what a save took, in all and on the disk; where that fails the save is good."""
        now = time.monotonic()
        row = f"{record.step}\t{record.size}\t{now - began:.4f}\t{now - ready:.4f}\n"
        with suppress(OSError), (self.folder / SAVES).open("a", encoding="utf-8") as file:
            file.write(row if file.tell() else f"step\tbytes\tseconds\tdisk_seconds\n{row}")

    def load(self, expected: Shapes | None = None) -> Checkpoint | None:
        """The newest checkpoint that is whole; None where none was ever finished.

        CheckpointError where all that are kept are damaged, or where the newest whole one belongs
        to another graph; with `expected` (shapes of the model's tensors) it tells what differs.
        """
        content = read_journal(self.folder / MANIFEST, salvage=True)
        problems = self._complaints(content)
        for position, entry in enumerate(reversed(content.entries)):
            if position >= self.keep and not (self.folder / str(entry.get("file"))).is_file():
                continue  # removed as planned
            try:
                checkpoint = self._read(entry)
            except (OSError, ValueError) as problem:
                problems.append(str(problem))
                continue
            self._refuse_other(checkpoint, expected)
            if problems:
                message = f"{'; '.join(problems)}: using {checkpoint.record.file}"
                warnings.warn(message, CheckpointWarning, stacklevel=2)
            return checkpoint
        if problems:
            raise CheckpointError(
                f"{self.folder}: no checkpoint can be read",
                tuple(problems),
                "restore the files from a copy, or start the run in another folder",
                code="SP702",
            )
        return None

    def _complaints(self, content: JournalContent) -> list[str]:
        """What is wrong with the manifest, apart from what it says of the files."""
        path = self.folder / MANIFEST
        found: list[str] = []
        if content.damaged:
            found.append(f"{MANIFEST}: damaged at line {', '.join(map(str, content.damaged))}")
        # A process that dies leaves the beginning of a line; a whole line that is wrong is damage.
        if content.torn and path.read_bytes().endswith(b"\n"):
            found.append(f"{MANIFEST}: its last line is damaged")
        # One file without a line is a first save that was killed; more were finished once.
        files = [path.name for path in self._files()]
        if not content.entries and files not in ([], [_name(1)]):
            found.append(f"{MANIFEST}: lists none of the {len(files)} checkpoints beside it")
        return found

    def _read(self, entry: Mapping[str, object]) -> Checkpoint:
        """A checkpoint whose every byte is as it was written; ValueError or OSError if not."""
        record = _record(entry)
        content = (self.folder / record.file).read_bytes()
        if len(content) != record.size:
            raise ValueError(f"{record.file}: {len(content):,} bytes instead of {record.size:,}")
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise ValueError(f"{record.file}: its content is not what was written")
        try:
            flat = load_tensors(content)
        except safetensors.SafetensorError as problem:
            raise ValueError(f"{record.file}: {problem}") from problem
        groups: dict[str, dict[str, Tensor]] = {}
        for name in sorted(flat):
            group, _, rest = name.partition("/")
            groups.setdefault(group, {})[rest] = flat[name]
        return Checkpoint(record, groups)

    def _refuse_other(self, checkpoint: Checkpoint, expected: Shapes | None) -> None:
        record = checkpoint.record
        if record.graph == self.graph:
            return
        rows: tuple[str, ...] = ()
        if expected is not None:
            found = shapes_of(checkpoint.tensors.get("model", {}))
            rows = compare(expected, found).rows() or ("all names and shapes agree",)
        raise CheckpointError(
            f"{self.folder / record.file}: belongs to another space "
            f"(graph {record.graph[:12]}, not {self.graph[:12]})",
            rows,
            "continue with the space it was made for, or choose another run folder",
        )

    def _repaired(self) -> JournalContent:
        """The manifest, fit to append to; a damaged one is set aside and its good lines kept."""
        path = self.folder / MANIFEST
        content = read_journal(path, salvage=True)
        if not content.damaged:
            return content
        atomic_write(path.with_suffix(".damaged"), path.read_bytes())
        atomic_write(path, format_journal(content.entries))
        return read_journal(path)

    def _newest(self, manifest: JournalContent) -> tuple[Mapping[str, object], ...]:
        """The entries whose files stay beside one more."""
        return manifest.entries[max(0, len(manifest.entries) - self.keep + 1) :]

    def _prune(self, kept: set[str]) -> None:
        """Remove the files of older checkpoints; what cannot be removed stays, with a warning."""
        for path in self._files():
            if path.name not in kept:
                try:
                    path.unlink()
                except OSError as problem:
                    warnings.warn(str(problem), CheckpointWarning, stacklevel=3)

    def _files(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if _FILE.fullmatch(p.name))


def pack(
    model: nn.Module,
    optimizer: Optimizer | None = None,
    average: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, dict[str, Tensor]], dict[str, object]]:
    """Everything a run's tensors are, in groups, and the optimiser's settings as JSON."""
    groups: dict[str, dict[str, Tensor]] = {"model": dict(model.state_dict())}
    settings: dict[str, object] = {}
    if average is not None:
        groups["average"] = dict(average)
    if optimizer is not None:
        groups["optimizer"], settings = optimizer_tensors(optimizer, model)
    return groups, settings


def unpack(
    tensors: Tensors,
    settings: Mapping[str, object],
    model: nn.Module,
    optimizer: Optimizer | None = None,
    average: Mapping[str, Tensor] | None = None,
) -> None:
    """Put back what `pack` took, bit for bit; CheckpointError with a table where it does not fit.

    Nothing is changed before all names and shapes have been compared.
    """
    wanted: dict[str, Mapping[str, Tensor]] = {"model": model.state_dict()}
    if average is not None:
        wanted["average"] = average
    for group, members in wanted.items():
        found = tensors.get(group, {})
        rows = compare(shapes_of(members), shapes_of(found)).rows() or tuple(
            f"mis-typed   {name}: expected {place.dtype}, found {found[name].dtype}"
            for name, place in members.items()
            if place.dtype != found[name].dtype
        )
        if rows:
            raise CheckpointError(f"the checkpoint's {group} does not fit", rows)
    if optimizer is not None:
        try:
            restore_optimizer(optimizer, model, tensors.get("optimizer", {}), settings)
        except ValueError as problem:
            raise CheckpointError(
                f"the checkpoint's optimizer does not fit: {problem}"
            ) from problem
    for group, members in wanted.items():
        for name, place in members.items():
            place.detach().copy_(tensors[group][name])


def _name(sequence: int) -> str:
    return f"checkpoint-{sequence:06}.safetensors"


def _record(entry: Mapping[str, object]) -> Record:
    """A manifest entry whose every field has been looked at; ValueError where one is wrong."""
    kinds = {"sequence": int, "file": str, "size": int, "sha256": str, "graph": str}
    kinds |= {"step": int, "epoch": int, "state": dict}
    if entry.keys() != kinds.keys():
        raise ValueError(f"{MANIFEST}: a line has the fields {sorted(entry)}")
    for name, kind in kinds.items():
        value = entry[name]
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            raise ValueError(f"{MANIFEST}: a line has {value!r} for {name}")
    record = Record(**cast(dict, entry))
    if not _FILE.fullmatch(record.file):  # a path would lead out of the folder
        raise ValueError(f"{MANIFEST}: a line has {record.file!r} for file")
    return record
