"""What is searched beside a search, by the same scores: luck, the ends of a space.

    result = found_by(engine, graph, prober, interrupt, seed, told)
    others = search_beside(due(engine, 70), graph, prober, folder, interrupt, seed, told)

What each found is in the folder as `<engine>.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from spacelang.backends.torch.runs.interrupt import Interrupt
from spacelang.backends.torch.runs.progress import Reporter
from spacelang.backends.torch.runs.ranks import current
from spacelang.backends.torch.runs.run import write_json
from spacelang.backends.torch.runs.searched import Searched
from spacelang.backends.torch.training.nonfinite import NotFinite
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.baselines import Extreme
from spacelang.engines.evolution import Unscored
from spacelang.engines.protocol import (
    Candidate,
    Engine,
    Evaluated,
    Found,
    GenerationEnded,
    Prober,
    Trainer,
)
from spacelang.ir.graph import Graph

CANNOT = frozenset(("SP502", "SP507", "SP508", "SP701"))  # a space or budget has none


def left_out(failed: SpaceError) -> bool:
    """Whether a baseline that failed is left out, and the search stands.

    That is for what all processes meet alike. Memory is short in one of them, and the others wait
    for it: what ends that one (SP703) has to end the run.
    """
    if isinstance(failed, NotFinite | Unscored):
        return True
    alone = {"SP703"} if current().size == 1 else set[str]()
    return {found.code for found in failed.diagnostics} <= CANNOT | alone


def found_by(
    engine: Engine,
    graph: Graph,
    prober: Prober,
    interrupt: Interrupt,
    seed: int,
    told: Reporter,
) -> Searched:
    """What an engine finds by scores, told as it goes on."""
    candidates: list[Candidate] = []
    found: Found | None = None
    for event in engine.run(graph, cast(Trainer, prober), seed):
        match event:
            case Evaluated(candidate, planned):
                if not candidates:
                    told.begin(f"search: {engine.name}", planned, "architectures")
                candidates.append(candidate)
                told.advance(1)
            case GenerationEnded(_, best):
                told.advance(0, best=best.score.accuracy)
            case Found():
                found = event
                told.done(best=event.best.score.accuracy)
                there = {candidate.origin for candidate in candidates}
                for end in engine.ends if isinstance(engine, Extreme) else ():
                    if end not in there:
                        told.say(f"no {end} network: no exact count finds it within the budget")
            case _:
                pass
        if found is None:
            interrupt.check()
    if found is None:
        raise SpaceError(error("SP701", f"{engine.name} ended without a result"))
    return Searched(engine, found, tuple(candidates))


def search_beside(
    engines: Sequence[Engine],
    graph: Graph,
    prober: Prober,
    folder: Path,
    interrupt: Interrupt,
    seed: int,
    told: Reporter,
) -> tuple[Searched, ...]:
    """What baselines find, those that the space or the budget has."""
    others: list[Searched] = []
    for engine in engines:
        interrupt.check()
        try:
            made = found_by(engine, graph, prober, interrupt, seed, told)
        except SpaceError as failed:
            if not left_out(failed):
                raise
            told.say(f"no baseline {engine.name}: {failed.diagnostics[0].headline}")
        else:
            write_json(folder / f"{engine.name}.json", made.as_json())
            others.append(made)
    return tuple(others)
