"""Published spaces with most decisions taken: every architecture is tried, and counts, ends of
figures and draws of the whole space under those conditions have to say the same."""

from __future__ import annotations

import re
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

import numpy as np
import pytest
from test_eliminate import surprise

from spacelang.analysis.budget import Band, Budget
from spacelang.analysis.queries import counter
from spacelang.ir.condition import Condition, chosen, conjunction, is_value
from spacelang.ir.decision import Choice, exact
from spacelang.ir.dim import Value
from spacelang.ir.figures import FIGURES, Between
from spacelang.loader import load
from spacelang.passes.specialize import specialize

BANDS = 50  # random ones of each figure, and of two at once
JOINT = ("params", "macs")
CELLS, DRAWS = 800, 8_000  # of a chi-square: at most so many architectures in so many draws


@dataclass(frozen=True)
class Cut:
    """A space in which decisions are free whose path is like `free`; the others take what is in
    `taken`, or their first candidate."""

    address: str
    size: int
    free: str = ""
    taken: Mapping[str, object] = field(default_factory=dict[str, object])
    options: Mapping[str, object] = field(default_factory=dict[str, object])

    @cached_property
    def graph(self):
        return load(f"spaces/{self.address}", **self.options)

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """What takes the decisions that are not free."""
        choices = self.graph.decisions.items()
        return tuple(takes(c, self._taken(p)) for p, c in choices if not self._free(p))

    def _free(self, path: str) -> bool:
        return re.fullmatch(self.free or ".*", path) is not None

    def _taken(self, path: str) -> Value:
        first = self.graph.decisions[path].values[0]
        return exact(self.taken[path]) if path in self.taken else first

    @cached_property
    def rows(self) -> np.ndarray:
        """Candidate numbers of every architecture that the space's conditions on decisions allow,
        whatever its figures; 0 of what is not live."""
        choices = self.graph.decisions
        wanted = counter(self.graph).required.conditions
        free = [path for path in choices if self._free(path)]
        values = {path: self._taken(path) for path in choices}
        numbers = {path: choices[path].values.index(value) for path, value in values.items()}
        found: list[list[int]] = []
        for point in product(*(range(len(choices[path].values)) for path in free)):
            numbers.update(zip(free, point, strict=True))
            values.update((path, choices[path].values[numbers[path]]) for path in free)
            live = all(not number or choices[p].live.at(values) for p, number in numbers.items())
            if live and all(condition.at(values) for condition in wanted):
                found.append(list(numbers.values()))
        return np.array(found)

    @cached_property
    def figures(self) -> np.ndarray:
        """Params, MACs and activations of each [n, 3]; those of some are the network's own."""
        found = counter(self.graph).costs(self.rows)
        columns = np.stack([found[figure] for figure in FIGURES], axis=1)
        choices = self.graph.decisions
        for number in np.random.default_rng(1).integers(0, len(self.rows), 3).tolist():
            row = zip(choices.items(), self.rows[number].tolist(), strict=True)
            assignment = choices.assignment({path: c.values[i] for (path, c), i in row})
            cost = specialize(self.graph, assignment).cost()
            assert [getattr(cost, figure) for figure in FIGURES] == columns[number].tolist()
        return columns

    def within(self, bands: Mapping[str, Band]) -> np.ndarray:
        """Which architectures are within bands, and those that the space requires."""
        held = np.ones(len(self.rows), bool)
        wanted = counter(self.graph).required.meet(Budget(bands)).bands
        for figure, (low, high) in wanted.items():
            column = self.figures[:, FIGURES.index(figure)]
            held &= (column >= (column.min() if low is None else low)) & (
                column <= (column.max() if high is None else high)
            )
        return held

    def where(self, bands: Mapping[str, Band]) -> Budget:
        return Budget(bands, self.conditions)


def takes(choice: Choice, value: Value) -> Condition:
    if isinstance(value, tuple):
        return conjunction(*(chosen(choice.symbol, i, source) for i, source in enumerate(value)))
    return is_value(choice.symbol, value)


CUTS = {
    "autoformer": Cut("autoformer.space:autoformer_t_yaml", 252, options={"depths": {1, 2, 3}}),
    "s3": Cut(
        "s3.space:s3_start",
        1764,
        r"(width|depth)\[[01]\]|layers\[[01]\]\.blocks\[\d\]\.window",
        {"width[2]": 384, "width[3]": 768, "depth[2]": 7, "depth[3]": 3},
    ),
    "cream": Cut("cream.space:cream", 7776, options={"depths": [1, 1, 1, 1, 1]}),
    "efficientvit": Cut(
        "efficientvit.space:efficientvit_search",
        7 * 16 * 10 * 3 * 2,  # widths that the heads share evenly, of three stages; kernel; depth
        r"(widths|heads)\[.\]|kernels\[0\]|depths\[1\]",
    ),
    "cdarts": Cut(
        "cdarts.space:cifar10",
        3 * 7 * 6 * 7,
        r"normal\.(inputs\[1\]|dag\[1\]\[0\]\.op)|reduction\.(inputs\[2\]|dag\[2\]\[0\]\.op)",
    ),
}
cuts = pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)


def random_band(rng: np.random.Generator, column: np.ndarray) -> Band:
    """Between two values that occur, or one before; sometimes without an end."""
    low, high = sorted(int(column[i]) for i in rng.integers(0, len(column), 2))
    return (
        None if rng.random() < 0.2 else low - int(rng.integers(0, 2)),
        None if rng.random() < 0.2 else high,
    )


def middle(cut: Cut, figures: Sequence[str]) -> dict[str, Band]:
    """The widest band around the middle of some figures that leaves no more than CELLS."""
    reached = cut.figures[cut.within({})]
    for part in (0.8, 0.4, 0.2, 0.1, 0.05, 0.02):
        ends = np.quantile(reached, [0.5 - part / 2, 0.5 + part / 2], axis=0).astype(int).tolist()
        numbers = {figure: FIGURES.index(figure) for figure in figures}
        bands = {figure: (ends[0][n], ends[1][n]) for figure, n in numbers.items()}
        if 1 < cut.within(bands).sum() <= CELLS:
            return bands
    raise AssertionError("no such band")


@cuts
def test_counts_are_those_of_every_architecture(cut: Cut) -> None:
    found = counter(cut.graph)
    assert len(cut.rows) == cut.size
    inside = cut.within({})
    assert found.size(cut.where({})) == inside.sum() > 0
    for figure, column in zip(FIGURES, cut.figures.T, strict=True):
        asked = Budget({figure: (None, -1)}, (*found.required.conditions, *cut.conditions))
        (told,) = (d.notes for d in found.empty(asked).diagnostics)
        assert f"{figure} reaches {column.min():,} to {column.max():,};" in told[0]


@cuts
def test_bands_count_what_is_within_them(cut: Cut) -> None:
    rng, found = np.random.default_rng(2), counter(cut.graph)
    reached = cut.figures[cut.within({})]
    numbers = dict(zip(FIGURES, range(len(FIGURES)), strict=True))
    asked = [(figure,) for figure in FIGURES for _ in range(BANDS)] + [JOINT] * BANDS
    for figures in asked:
        bands = {figure: random_band(rng, reached[:, numbers[figure]]) for figure in figures}
        assert found.size(cut.where(bands)) == cut.within(bands).sum(), bands


@cuts
def test_draws_within_both_bands_are_uniform(cut: Cut) -> None:
    check_uniform(cut, middle(cut, JOINT))


def check_uniform(cut: Cut, bands: Mapping[str, Band]) -> None:
    """Every architecture within the bands is drawn equally often, by a chi-square, and no other."""
    held = {tuple(row) for row in cut.rows[cut.within(bands)].tolist()}
    drawn = counter(cut.graph).draw_indices(DRAWS, np.random.default_rng(3), cut.where(bands))
    seen = Tally(map(tuple, drawn.tolist()))
    assert seen.keys() <= held
    assert abs(surprise(list(seen.values()), len(held), DRAWS)) < 4


def test_what_the_command_line_is_asked() -> None:
    """The number of tests/test_cli_space.py, by trying each."""
    bands: dict[str, Band] = {
        "params": (7_116_408, None),
        "macs": (133_862_512, 440_088_320),
        "activations": (1_465_207, 2_109_760),
    }
    assert CUTS["efficientvit"].within(bands).sum() == 1_227


def test_bounds_hold_the_count_where_no_exact_table_fits() -> None:
    """All three figures of S3 at once are no key of 64 bits; draws are as uniform as ever."""
    cut = CUTS["s3"]
    bands = middle(cut, FIGURES)
    size = counter(cut.graph).size(cut.where(bands))
    assert isinstance(size, Between)
    inside = cut.within(bands).sum()
    assert 0 < size.lower <= inside <= size.upper < cut.within({}).sum()
    check_uniform(cut, bands)
