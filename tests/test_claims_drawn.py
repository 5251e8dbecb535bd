"""What a space requires, tried at drawn architectures: they are architectures, with their figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from spacelang.analysis.budget import Budget
from spacelang.analysis.claims import FEW, Drawn
from spacelang.analysis.queries import counter
from spacelang.ir.condition import Condition
from spacelang.ir.figures import FIGURES
from spacelang.loader import load

SPACES = Path(__file__).parent.parent / "spaces"


@dataclass
class Seen:
    """A condition that holds everywhere, and keeps what it is asked about."""

    asked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def at(self, values: dict[str, Any]) -> bool:
        self.asked.append(dict(values))
        return True


@pytest.mark.parametrize("name", ["s3", "cream", "small_paths", "small_cells", "small_ranges"])
def test_figures_of_drawn_architectures_are_their_costs(name: str) -> None:
    graph, seen = load(str(SPACES / f"{name}.space")), Seen()
    found: list[dict[str, int]] = []
    bands = dict.fromkeys(FIGURES, (None, None))
    drawn = Drawn(graph, Budget(bands, (cast(Condition, seen),)))
    assert not drawn.show(lambda figures: bool(found.append(dict(figures))))
    assert 0 < len(found) == len(seen.asked) <= FEW
    choices = graph.decisions
    rows = [[c.values.index(values[p]) for p, c in choices.items()] for values in seen.asked]
    counted = counter(graph).costs(np.array(rows, np.int64))
    assert found == [{f: int(counted[f][row]) for f in FIGURES} for row in range(len(rows))]
    for values, figures in list(zip(seen.asked, found, strict=True))[:3]:
        taken = choices.assignment(values)
        assert set(taken) == {p for p, c in choices.items() if c.live.at(values)}
        cost = graph.cost(taken)
        assert figures == {f: getattr(cost, f) for f in FIGURES}
    # They are looked at once: what shows something later is among them.
    last = found[-1]
    assert drawn.show(lambda figures: figures == last)
    assert len(seen.asked) == len(found)
