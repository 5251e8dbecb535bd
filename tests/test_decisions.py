"""What is an architecture and what is none, and what is said of each."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from spacelang.diagnostics import SpaceError
from spacelang.ir.decision import Choice, Decisions
from spacelang.ir.dim import Dim

TABLE = Decisions(
    (
        Choice("ratio", "dim", (Fraction(3), Fraction(7, 2))),
        Choice("inputs", "pick", ((0, 1), (0, 2), (1, 2))),
        Choice("op", "path", ("skip", "conv")),
        Choice("bias", "presence", (True, False)),
    )
)
GOOD: dict[str, object] = {"ratio": 3.5, "inputs": [0, 1], "op": "skip", "bias": True}


def codes(assignment: dict[object, object]) -> list[str]:
    with pytest.raises(SpaceError) as failed:
        TABLE.check(assignment)  # type: ignore[arg-type]
    assert all(found.headline for found in failed.value.diagnostics)
    return [found.code for found in failed.value.diagnostics]


def deep() -> list[object]:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        *([0.9, 1.2], [0.0, 1.0], ["0", "1"], ["0", True], [False, True], [math.inf, 1]),
        *([math.nan, 1], [[0], 1], [None, 1], [0], [0, 0], "01", 0, 1.5, None, {0: 1}, {0, 1}),
        *(np.array([0, 1]), [10**5000, 1], deep()),
    ],
    ids=range(20),
)
def test_a_pick_takes_a_list_of_whole_numbers(value: object) -> None:
    assert codes({**GOOD, "inputs": value}) == ["SP501"]


@pytest.mark.parametrize(
    "value",
    [3.25, math.inf, math.nan, "3.5", True, None, [3], 10**5000, 2 + 0j, b"3"],
    ids=range(10),
)
def test_a_number_takes_a_number(value: object) -> None:
    assert codes({**GOOD, "ratio": value}) == ["SP501"]


@pytest.mark.parametrize("value", [3.5, Fraction(7, 2), np.float64(3.5)])
def test_a_number_may_be_any_float(value: float) -> None:
    assert TABLE.check({**GOOD, "ratio": value})["ratio"] == Fraction(7, 2)  # type: ignore[dict-item]
    assert Dim.of(value) == Fraction(7, 2)


@pytest.mark.parametrize(
    "key", [1, 1.5, None, True, (1, 2), b"op", 10**5000, "depth", ""], ids=range(9)
)
def test_a_path_is_one_of_the_table(key: object) -> None:
    assert codes({**GOOD, key: 1}) == ["SP504"]


def test_nothing_to_decide() -> None:
    with pytest.raises(SpaceError, match="SP504"):
        Decisions(()).check({10**5000: 1})  # type: ignore[dict-item]
    assert Decisions(()).check({}) == {}
