"""The scores on the test part that a run has taken: of any network only the first look counts.

ledger = Ledger(folder / "test.json", weights, split)
score = ledger.known(assignment) or ledger.add(assignment, evaluate_test(subnet, data))
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from spacelang.backends.torch.runs.run import Json
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.pool import encoding
from spacelang.engines.protocol import Score
from spacelang.files import atomic_write
from spacelang.ir.decision import Assignment


class Ledger:
    """Kept in a file; scores of other weights or another split are forgotten (SP702 if damaged)."""

    def __init__(self, path: Path, weights: str, split: str) -> None:
        self._path = path
        self._basis = {"weights": weights, "split": split}
        self._scores: dict[str, Score] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            found = cast(Json, json.loads(self._path.read_text("utf-8")))
            if found["basis"] != self._basis:
                return
            for name, score in cast(dict[str, Json], found["scores"]).items():
                correct, total = cast(int, score["correct"]), cast(int, score["total"])
                self._scores[name] = Score(correct, total)
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            headline = f"{self._path}: cannot be read: {problem}"
            raise SpaceError(error("SP702", headline).hint("remove it, or restore it")) from problem

    def known(self, assignment: Assignment) -> Score | None:
        """The score of an architecture, if it was tested before."""
        return self._scores.get(encoding(assignment))

    def add(self, assignment: Assignment, score: Score) -> Score:
        """Note the score of an architecture."""
        self._scores[encoding(assignment)] = score
        scores = {
            name: {"correct": kept.correct, "total": kept.total}
            for name, kept in self._scores.items()
        }
        text = json.dumps({"basis": self._basis, "scores": scores}, indent=1) + "\n"
        atomic_write(self._path, text)
        return score
