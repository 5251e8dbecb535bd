"""Scores kept in a journal, so that no architecture is evaluated twice, whatever happens between.

    with Journal(folder / "scores.jsonl") as journal:
        for event in engine.run(graph, Recorded(prober, journal, basis), seed): ...

An engine is a function of its seed and the scores: started again over its journal it makes the same
decisions without work until it reaches what was not evaluated yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import cast

from spacelang.diagnostics import SpaceError, error
from spacelang.engines.pool import encoding
from spacelang.engines.protocol import Prober, Samples, Score
from spacelang.ir.decision import Assignment
from spacelang.journal import Journal

Key = tuple[str, str, int | None]


class Recorded:
    """A prober whose scores are looked up in a journal first, and written there when they are new.

    `basis` says what scores depend on besides the architecture (hashes of the graph, the weights
    and the data): it is the first entry, and a journal of another basis is refused with SP702.
    """

    def __init__(self, prober: Prober, journal: Journal, basis: Mapping[str, object]) -> None:
        self._prober, self._journal = prober, journal
        self._known: dict[Key, Score] = {}
        self.evaluated = 0  # by this process
        if not journal.entries:
            journal.append({"basis": dict(basis)})
        for number, entry in enumerate(journal.entries):
            if number == 0:
                self._compare(entry.get("basis"), basis)
            else:
                self._learn(entry)

    def __len__(self) -> int:
        return len(self._known)

    def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
        """Scores in order, from the journal where they are known; new ones are on disk first."""
        for assignment in assignments:
            key = (encoding(assignment), samples.part, samples.count)
            if key not in self._known:
                (score,) = self._prober.probe([assignment], samples)
                self._journal.append(
                    {
                        "assignment": dict(assignment),
                        "part": samples.part,
                        "count": samples.count,
                        "score": asdict(score),
                    }
                )
                self._known[key] = score
                self.evaluated += 1
            yield self._known[key]

    def _compare(self, found: object, basis: Mapping[str, object]) -> None:
        if found == dict(basis):
            return
        before = cast(dict[str, object], found) if isinstance(found, dict) else {}
        names = [n for n in sorted({*before, *basis}) if before.get(n) != basis.get(n)]
        rows = [f"{n}: {before.get(n)} there, {basis.get(n)} here" for n in names]
        raise SpaceError(
            error("SP702", f"{self._journal.path}: holds the scores of another search")
            .note(*rows)
            .hint("choose another folder, or remove the file to search anew")
        )

    def _learn(self, entry: Mapping[str, object]) -> None:
        match entry:
            case {
                "assignment": dict(),
                "part": str(part),
                "count": int() | None as count,
                "score": {"correct": int(correct), "total": int(total), "failure": str(failure)},
            }:
                key = (encoding(cast(Assignment, entry["assignment"])), part, count)
                self._known[key] = Score(correct, total, failure)
            case _:
                raise SpaceError(
                    error("SP702", f"{self._journal.path}: a line is no score").note(str(entry))
                )
