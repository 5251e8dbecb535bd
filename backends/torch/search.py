"""Search runs: an engine over a trained supernet, every score in a journal.

    result = search(Evolution(where="params <= 150K"), graph, trained, data, "a/search", seed=0)

The folder holds `scores.jsonl`, a line for every architecture that was scored, shared by all
engines that search the same weights on the same images, and `<engine>.json` for each that came to
its end.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import cast

from spacelang.backends.torch.data import Dataset
from spacelang.backends.torch.interrupt import Interrupt
from spacelang.backends.torch.progress import Reporter, progress
from spacelang.backends.torch.run import Json, RunFolder
from spacelang.backends.torch.train import TorchTrainer
from spacelang.backends.torch.training import Trained
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.protocol import Candidate, Engine, Evaluated, Found, GenerationEnded
from spacelang.engines.record import Recorded
from spacelang.files import PathLike, atomic_write
from spacelang.ir.graph import Graph
from spacelang.journal import Journal, JournalError

SCORES = "scores.jsonl"


@dataclass(frozen=True, slots=True)
class Searched:
    """What an engine found, with all candidates in the order of their evaluation."""

    engine: Engine
    found: Found
    candidates: tuple[Candidate, ...]

    def as_json(self) -> Json:
        """The record `<engine>.json`."""
        return {
            "engine": self.engine.name,
            "settings": settings_of(self.engine),
            "evaluated": self.found.evaluated,
            "exhausted": self.found.exhausted,
            "best": candidate_json(self.found.best),
            "front": [c.number for c in self.found.front],
            "candidates": [candidate_json(c) for c in self.candidates],
        }


def search(
    engine: Engine,
    graph: Graph,
    trained: Trained,
    data: Dataset,
    folder: PathLike,
    *,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Searched:
    """Run an engine to its end; what an earlier call scored is not scored again.

    Raises Interrupted after a signal, SP701 where engine and space do not fit, SP702 for a folder
    of other weights or images.
    """
    told = reporter or progress("quiet")
    basis = {"graph": graph.hash, "weights": trained.weights, "split": data.split_digest}
    # The model holds the moving average already, where there is one.
    recipe = replace(trained.recipe, model_ema=False)
    trainer = TorchTrainer(trained.model, graph, data, recipe, seed)
    candidates: list[Candidate] = []
    found: Found | None = None
    with RunFolder(folder, "search", basis) as run, Interrupt() as interrupt:
        with _journal(run.path / SCORES) as journal:
            recorded = Recorded(trainer, journal, basis)
            began = False
            for event in engine.run(graph, recorded, seed):
                match event:
                    case Evaluated(candidate, planned):
                        if not began:
                            told.begin(f"search: {engine.name}", planned, "architectures")
                            began = True
                        candidates.append(candidate)
                        told.advance(1)
                    case GenerationEnded(_, best):
                        told.advance(0, best=best.score.accuracy)
                    case Found():
                        found = event
                        told.done(best=event.best.score.accuracy)
                    case _:
                        pass
                if found is None:
                    interrupt.check()
        if found is None:
            raise SpaceError(error("SP701", f"{engine.name} ended without a result"))
        result = Searched(engine, found, tuple(candidates))
        text = json.dumps(result.as_json(), indent=1, allow_nan=False) + "\n"
        atomic_write(run.path / f"{engine.name}.json", text)
    return result


def settings_of(engine: Engine) -> Json:
    """The settings of an engine as JSON."""
    named = ((field.name, getattr(engine, field.name)) for field in fields(cast(type, engine)))
    return {name: list(value) if isinstance(value, tuple) else value for name, value in named}


def candidate_json(candidate: Candidate) -> Json:
    """A candidate as JSON."""
    return {
        "number": candidate.number,
        "generation": candidate.generation,
        "origin": candidate.origin,
        "accuracy": candidate.score.accuracy,
        "score": asdict(candidate.score),
        **asdict(candidate.cost),
        "assignment": dict(candidate.assignment),
    }


def _journal(path: Path) -> Journal:
    try:
        return Journal(path)
    except JournalError as damaged:
        raise SpaceError(
            error("SP702", str(damaged)).hint("restore the file, or remove it to search anew")
        ) from damaged
