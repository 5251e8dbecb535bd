"""The training of a network that is under way in a search: what a later process goes on from.

    UnderWay(run.path, interrupt).train(trainer, network, assignment)

A network has a folder in `under-way` until it is scored, whichever engine trains others in between.
An epoch exists once its checkpoint does, and a signal ends a training after its step with
everything saved; so of a network too nothing that was finished is lost.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from spacelang.backends.torch.runs.interrupt import Interrupt
from spacelang.backends.torch.training.checkpoint import (
    MANIFEST,
    CheckpointError,
    Checkpoints,
    CheckpointWarning,
)
from spacelang.backends.torch.training.trainer import TorchTrainer
from spacelang.backends.torch.training.training import room_for
from spacelang.engines.pool import encoding
from spacelang.engines.protocol import EpochEnded, Stepped
from spacelang.files import remove_folder, sweep, sync_folder
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.journal import read_journal

FOLDER = "under-way"
SCORES = "scores.jsonl"


def under_way(run: Path) -> bool:
    """Whether a run keeps anything of the training of a network that is not scored yet."""
    return any((run / FOLDER).glob(f"*/{MANIFEST}"))


@dataclass(frozen=True)
class UnderWay:
    """Where a run keeps the networks that it trains, and what may stop it."""

    run: Path
    interrupt: Interrupt

    def train(self, trainer: TorchTrainer, network: Graph, assignment: Assignment) -> None:
        """Train a network to the end of its recipe, from where it was left if it was."""
        place = self.place(assignment)
        trainer.ranks.lead(lambda: self._enter(place))
        store = Checkpoints(place, graph=network.hash, keep=1)
        self._resume(trainer, store)
        room_for(store.folder, trainer.model, keep=1)
        last = trainer.steps("train") - 1
        for event in trainer.recipe.engine.run(network, trainer, trainer.seed):
            match event:
                # After the last step of an epoch its end is waited for.
                case Stepped(plan) if plan.batch < last and self.interrupt.asked():
                    trainer.save(store, {}, epoch=plan.epoch)
                    self.interrupt.check()
                case EpochEnded(epoch):
                    trainer.save(store, {}, epoch=epoch + 1)
                    self.interrupt.check()
                case _:
                    pass

    def place(self, assignment: Assignment) -> Path:
        """The folder of a network."""
        name = hashlib.sha256(encoding(assignment).encode()).hexdigest()[:16]
        return self.run / FOLDER / name

    def clear(self) -> None:
        """Keep nothing of networks that are scored."""
        places = self.run / FOLDER
        if places.is_dir():
            self._forget(set(places.iterdir()))
            if not any(places.iterdir()):
                remove_folder(places)

    def _forget(self, places: set[Path]) -> None:
        """Remove of some folders those of networks that have a score."""
        sweep(self.run / FOLDER)
        for place in sorted(places.intersection(self._scored())):
            remove_folder(place)

    def _scored(self) -> Iterator[Path]:
        for entry in read_journal(self.run / SCORES, salvage=True).entries:
            if isinstance(entry.get("assignment"), dict):
                yield self.place(cast(Assignment, entry["assignment"]))

    def _enter(self, place: Path) -> None:
        """The folder for a network. It may have a score already, by other images; those of others
        go that have one."""
        for folder in (place.parent, place):
            if not folder.is_dir():
                folder.mkdir()
                sync_folder(folder.parent)
        self._forget({*place.parent.iterdir()} - {place})
        sweep(place)

    def _resume(self, trainer: TorchTrainer, store: Checkpoints) -> None:
        try:
            found = store.load()
        except CheckpointError as damaged:
            told = f"{damaged.diagnostics[0].headline}: the network is trained from its start"
            warnings.warn(told, CheckpointWarning, stacklevel=2)
            found = None
        if found is not None:
            trainer.restore(found)
        trainer.ranks.same(
            str(trainer.taken), "the checkpoint that they see: is the folder shared?"
        )
