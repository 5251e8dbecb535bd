"""The training of a network that is under way in a search: what a later process goes on from.

    UnderWay(run.path, interrupt).train(trainer, network)

Networks that are trained one after the other have one folder, `under-way`, for the one that is not
scored yet. An epoch exists once its checkpoint does, and a signal ends a training after its step
with everything saved; so of a network too nothing that was finished is lost.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from spacelang.backends.torch.checkpoint import (
    MANIFEST,
    CheckpointError,
    Checkpoints,
    CheckpointWarning,
)
from spacelang.backends.torch.interrupt import Interrupt
from spacelang.backends.torch.train import TorchTrainer
from spacelang.backends.torch.training import room_for
from spacelang.engines.protocol import EpochEnded, Stepped
from spacelang.files import remove_folder, sweep, sync_folder
from spacelang.ir.graph import Graph
from spacelang.journal import read_journal

FOLDER = "under-way"


def under_way(run: Path) -> bool:
    """Whether a run keeps anything of the training of a network that is not scored yet."""
    return (run / FOLDER / MANIFEST).exists()


@dataclass(frozen=True)
class UnderWay:
    """Where a run keeps the network that it trains, and what may stop it."""

    run: Path
    interrupt: Interrupt

    def train(self, trainer: TorchTrainer, network: Graph) -> None:
        """Train a network to the end of its recipe, from where it was left if it was."""
        trainer.ranks.lead(lambda: self._enter(network))
        store = Checkpoints(self.run / FOLDER, graph=network.hash, keep=1)
        self._resume(trainer, store)
        room_for(store.folder, trainer.model, keep=1)
        last = trainer.steps("train") - 1
        for event in trainer.recipe.engine.run(network, trainer, trainer.seed):
            match event:
                # After the last step of an epoch its end is waited for.
                case Stepped(plan) if plan.batch < last and self.interrupt.asked():
                    trainer.save(store, {})
                    self.interrupt.check()
                case EpochEnded():
                    trainer.save(store, {})
                    self.interrupt.check()
                case _:
                    pass

    def clear(self) -> None:
        """Keep nothing: all networks are scored."""
        remove_folder(self.run / FOLDER)

    def _enter(self, network: Graph) -> None:
        """The folder for this network; what it holds of another, which is scored, goes."""
        place = self.run / FOLDER
        entries = read_journal(place / MANIFEST, salvage=True).entries
        if entries and entries[-1].get("graph") != network.hash:
            remove_folder(place)
        if not place.is_dir():
            place.mkdir()
            sync_folder(self.run)
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
