"""A search over time, as its report shows it: generations, moves of a space, cycles, boards.

stages_of(searched) -> (Stage("space 1", (0.61, ..), ("width: 8, 12 -> 12, 16",)), ..)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from spacelang.backends.torch.runs.searched import Searched
from spacelang.engines.protocol import Candidate, SpaceMoved
from spacelang.ir.decision import Assignment
from spacelang.ir.figures import Between
from spacelang.report import Stage
from spacelang.report.text import exact

MOST = 12  # decisions of a cell that are listed; the rest is counted


def stages_of(searched: Searched) -> tuple[Stage, ...]:
    """What a search tried and decided, in the order of time."""
    if searched.cycles:
        return tuple(_cycles(searched))
    if searched.boards:
        return (*_boards(searched), Stage("the board, scored", _accuracies(searched.candidates)))
    return (*_moves(searched), *_generations(searched.candidates[sum(searched.judged) :]))


def _moves(searched: Searched) -> Iterator[Stage]:
    """Each space whose ranges were judged, and how they moved then."""
    start = 0
    for move, count in zip(searched.moves, searched.judged, strict=True):
        judged = searched.candidates[start : start + count]
        start += count
        words = (*changes(move), *kept(move))
        yield Stage(f"space {move.iteration + 1}", _accuracies(judged), words)


def changes(move: SpaceMoved) -> Iterator[str]:
    """How the ranges of a space moved, and how many architectures it had and has."""
    for name, before in move.before.items():
        if list(before) != list(move.after[name]):
            yield f"{name}: {_values(before)} -> {_values(move.after[name])} {_why(move, name)}"
    had, has = map(_counted, move.sizes)
    if move.before == move.after:
        yield f"no range moved; {has} architectures"
        return
    both = "" if move.shared is None else f", {_counted(move.shared)} in both"
    yield f"{had} -> {has} architectures{both}"
    if move.inherited:
        yield f"{move.inherited:,} elements of weights inherited"


def kept(move: SpaceMoved) -> Iterator[str]:
    """The ranges that stay, and what was known of their candidates."""
    for name, before in move.before.items():
        if list(before) == list(move.after[name]) and name in move.networks:
            yield f"{name}: {_values(before)} stays {_why(move, name)}"


def _why(move: SpaceMoved, name: str) -> str:
    """The slope of a range, and of how many networks each of its candidates is known."""
    words = [f"{move.slopes[name]:+.2g} points a candidate"]
    if counts := move.networks.get(name):
        words.append(f"of {', '.join(f'{count:,}' for count in counts)} networks")
    return f"({' '.join(words)})"


def _generations(candidates: Sequence[Candidate]) -> Iterator[Stage]:
    for number, members in groupby(candidates, key=lambda c: c.generation):
        yield Stage(f"generation {number}", _accuracies(members))


def _boards(searched: Searched) -> Iterator[Stage]:
    """The board after each epoch: its range, who leads, and how many are new.

    Accuracies are those of training batches, so they are words here and no scores.
    """
    before: list[Assignment] = []
    for ended in searched.boards:
        paths = [path for _, path in ended.board]
        new = sum(path not in before for path in paths)
        (high, leader), (low, _) = ended.board[0], ended.board[-1]
        words = f"{len(paths)} paths, {new} new; {low:.1%} to {high:.1%} of their batches"
        yield Stage(f"epoch {ended.epoch + 1}", (), (words, *_listed(leader.items())))
        before = paths


def _cycles(searched: Searched) -> Iterator[Stage]:
    """Each cycle: the score of the network that it trained, and what was derived after it."""
    before: Mapping[str, object] = {}
    for cycle in searched.cycles:
        now = cycle.assignment
        changed = _listed((path, v) for path, v in now.items() if before.get(path) != v)
        scored = (c for c in searched.candidates if c.generation == cycle.cycle)
        words = tuple(changed) or ("the same cell",)
        yield Stage(f"cycle {cycle.cycle + 1}", _accuracies(scored), words)
        before = now
    last = [c for c in searched.candidates if c.generation > searched.cycles[-1].cycle]
    yield Stage("the last cell, trained", _accuracies(last))


def _listed(decisions: Iterable[tuple[str, object]]) -> list[str]:
    """Decisions in words, not too many."""
    told = [f"{path} = {value}" for path, value in decisions]
    return told if len(told) <= MOST else [*told[:MOST], f"and {len(told) - MOST} more"]


def _accuracies(candidates: Iterable[Candidate]) -> tuple[float, ...]:
    return tuple(c.score.accuracy for c in candidates if not c.score.failure)


def _counted(size: int | Between) -> str:
    if isinstance(size, int):
        return exact(size)
    return f"between {exact(size.lower)} and {exact(size.upper)}"


def _values(values: Sequence[float]) -> str:
    return ", ".join(f"{float(value):g}" for value in values)
