"""What an engine found, as records hold it.

Searched(engine, found, candidates).keep(folder)    # `<engine>.json`, `<engine>-best.json`
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from spacelang.backends.torch.runs.run import Json, write_json
from spacelang.engines.protocol import Able, Candidate, Derived, EpochEnded, Found, SpaceMoved
from spacelang.engines.settings import settings_of
from spacelang.engines.trials import best_file
from spacelang.ir.figures import Between


@dataclass(frozen=True, slots=True)
class Searched:
    """What an engine found, with all candidates in the order of their evaluation.

    `moves` are those of a search of spaces, and `judged` says how many candidates led to each;
    `cycles` are those of a differentiable search, `boards` the epochs that ended with paths on one.
    `baselines` were searched beside it.
    """

    engine: Able
    found: Found
    candidates: tuple[Candidate, ...]
    moves: tuple[SpaceMoved, ...] = ()
    cycles: tuple[Derived, ...] = ()
    judged: tuple[int, ...] = ()
    boards: tuple[EpochEnded, ...] = ()
    baselines: tuple[Searched, ...] = ()

    def keep(self, folder: Path, **more: object) -> None:
        """Write the record, with what `more` is known, and the best architecture by itself."""
        name = self.engine.name
        write_json(folder / f"{name}.json", {**self.as_json(), **more})
        write_json(best_file(folder, name), self.found.best.assignment, indent=2)

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
            **({"moves": [move_json(move) for move in self.moves]} if self.moves else {}),
            **({"cycles": [cycle_json(cycle) for cycle in self.cycles]} if self.cycles else {}),
        }


def move_json(move: SpaceMoved) -> Json:
    """A move of the ranges as JSON; numbers of architectures, which may be very large, as text."""

    def counted(size: int | Between | None) -> object:
        if size is None:
            return None
        if isinstance(size, int):
            return str(size)
        return {"at_least": str(size.lower), "at_most": str(size.upper)}

    sizes = [counted(size) for size in move.sizes]
    return {**asdict(move), "sizes": sizes, "shared": counted(move.shared)}


def cycle_json(cycle: Derived) -> Json:
    """What was derived after a cycle, as JSON."""
    alphas = {path: list(values) for path, values in cycle.alphas.items()}
    return {"cycle": cycle.cycle, "assignment": dict(cycle.assignment), "alphas": alphas}


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
