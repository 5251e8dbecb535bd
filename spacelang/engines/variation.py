"""How a search makes a new architecture out of old ones: redraw some decisions, or mix two.

A decision with an index in its path (`encoder[3].heads`) is *local*, taken anew by each layer; one
without (`depth`, `width`) is *wide*. Both are redrawn uniformly over all candidates, so a redraw
may give what was there. Every draw has a name of its own, the decision's path: the order in which
decisions are looked at changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spacelang.engines.pool import assemble
from spacelang.engines.stream import Stream
from spacelang.ir.decision import Assignment, Choice, Decisions, exact
from spacelang.ir.dim import Value

Name = tuple[int | str, ...]
PAIRS = 50  # redrawn so often until both parents have the same decisions (AutoFormer's max_iters)


def local(path: str) -> bool:
    """Whether a decision is taken anew by each use of a block in a loop."""
    return "[" in path


def random(decisions: Decisions, name: Name) -> Assignment:
    """An architecture whose every live decision is drawn uniformly (the law "choices")."""
    return assemble(decisions, lambda choice: Stream(*name, choice.path).choice(choice.values))


def mutate(
    decisions: Decisions, parent: Assignment, name: Name, m_prob: float, s_prob: float
) -> Assignment:
    """Redraw local decisions with `m_prob` and wide ones with `s_prob`.

    Decisions that others hang on go first: where more become live (a greater depth), the new ones
    are drawn; where fewer do, the rest is dropped.
    """
    old = _exact(parent)

    def take(choice: Choice) -> Value:
        stream = Stream(*name, choice.path)
        kept = old.get(choice.path)
        if kept is None or stream.happens(m_prob if local(choice.path) else s_prob):
            return stream.choice(choice.values)
        return kept

    return assemble(decisions, take)


def cross(decisions: Decisions, first: Assignment, second: Assignment, name: Name) -> Assignment:
    """Take each decision from either parent, evenly; from the one that has it; or draw it."""
    parents = (_exact(first), _exact(second))

    def take(choice: Choice) -> Value:
        stream = Stream(*name, choice.path)
        given = [parent[choice.path] for parent in parents if choice.path in parent]
        return stream.choice(given or choice.values)

    return assemble(decisions, take)


def pair(parents: Sequence[Assignment], name: Name) -> tuple[Assignment, Assignment]:
    """Two parents, drawn up to 1 + PAIRS times until both have taken the same decisions."""
    stream = Stream(*name)
    first, second = stream.choice(parents), stream.choice(parents)
    for _ in range(PAIRS):
        if first.keys() == second.keys():
            break
        first, second = stream.choice(parents), stream.choice(parents)
    return first, second


def _exact(assignment: Assignment) -> Mapping[str, Value]:
    return {path: exact(value) for path, value in assignment.items()}
