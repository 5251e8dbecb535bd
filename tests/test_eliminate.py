"""Exact counting and exactly uniform sampling, against brute force and closed forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product
from math import comb, prod, sqrt
from types import ModuleType

import numpy as np
import pytest

from spacelang.analysis import distribution, draw, eliminate, halves, plane, tree
from spacelang.analysis.distribution import fold, single, sum_out
from spacelang.analysis.draw import below
from spacelang.analysis.eliminate import (
    BandTooNarrow,
    Between,
    CountingError,
    Elimination,
    EmptyBand,
    Exact,
    Mask,
    Problem,
    Table,
    TooEntangled,
)
from spacelang.analysis.factor import simplify
from spacelang.analysis.limit import Limit, TooLarge
from spacelang.analysis.plane import Plane
from spacelang.analysis.scale import join, scale

Bound = list[int | None]


def random_problem(rng: np.random.Generator, figures: int) -> Problem:
    """A few variables, tables and masks over scopes that overlap at random."""
    names = [f"v{index}" for index in range(int(rng.integers(1, 7)))]
    domains = {name: int(rng.integers(1, 5)) for name in names}

    def scope(least: int) -> tuple[str, ...]:
        number = int(rng.integers(least, min(3, len(names)) + 1))
        return tuple(str(name) for name in rng.permutation(names)[:number])

    tables: list[Table] = []
    for _ in range(int(rng.integers(0, 7))):
        chosen = scope(0)
        shape = tuple(domains[name] for name in chosen)
        reach, factor = int(rng.choice([2, 10, 1000])), int(rng.choice([1, 1, 6]))
        values = tuple(
            np.asarray(rng.integers(-reach, reach, shape) * factor) for _ in range(figures)
        )
        tables.append(Table(chosen, values))
    masks = [
        Mask(chosen, rng.random(tuple(domains[name] for name in chosen)) < 0.75)
        for chosen in (scope(1) for _ in range(int(rng.integers(0, 3))))
    ]
    return Problem(domains, tuple(tables), tuple(masks), figures)


def enumerate_all(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """All admissible assignments [n, variables] and their figures [n, figures], one by one."""
    names = list(problem.domains)
    found: list[tuple[int, ...]] = []
    costs: list[list[int]] = []
    for point in product(*(range(size) for size in problem.domains.values())):
        at = dict(zip(names, point, strict=True))
        if all(mask.allowed[tuple(at[name] for name in mask.scope)] for mask in problem.masks):
            found.append(point)
            costs.append(
                [
                    sum(
                        int(table.figures[figure][tuple(at[name] for name in table.scope)])
                        for table in problem.tables
                    )
                    for figure in range(problem.figures)
                ]
            )
    return (
        np.array(found, np.int64).reshape(-1, len(names)),
        np.array(costs, object).reshape(-1, problem.figures),
    )


def random_band(rng: np.random.Generator, costs: np.ndarray) -> tuple[Bound, Bound]:
    """Bounds at values that occur, one before or without bound."""
    lower: Bound = []
    upper: Bound = []
    for figure in range(costs.shape[1]):
        if not len(costs) or rng.random() < 0.2:
            lower.append(None)
            upper.append(None)
            continue
        low, high = sorted(int(costs[row, figure]) for row in rng.integers(0, len(costs), 2))
        lower.append(None if rng.random() < 0.2 else low - int(rng.integers(0, 2)))
        upper.append(None if rng.random() < 0.2 else high)
    return lower, upper


def within(costs: np.ndarray, lower: Sequence[int | None], upper: Sequence[int | None]):
    held = np.ones(len(costs), bool)
    for figure, (low, high) in enumerate(zip(lower, upper, strict=True)):
        if low is not None:
            held &= (costs[:, figure] >= low).astype(bool)
        if high is not None:
            held &= (costs[:, figure] <= high).astype(bool)
    return held


def check_against_brute_force(seed: int, number: int, entries: int = eliminate.ENTRIES) -> int:
    """Compare everything on random problems; returns how many counts were only bounds."""
    rng = np.random.default_rng(seed)
    bounded = 0
    for _ in range(number):
        problem = random_problem(rng, int(rng.integers(1, 4)))
        points, costs = enumerate_all(problem)
        space = Elimination(problem, entries)
        try:
            assert space.size == len(points)
        except TooEntangled:
            assert entries < 1000
            continue
        for figure in range(problem.figures):
            if len(points):
                column = costs[:, figure]
                assert space.bounds(figure) == (column.min(), column.max())
            else:
                with pytest.raises(EmptyBand):
                    space.bounds(figure)
        for _ in range(2):
            lower, upper = random_band(rng, costs)
            held = within(costs, lower, upper)
            counted = space.count(lower, upper)
            if isinstance(counted, Between):
                assert entries < 1000
                assert counted.lower <= held.sum() <= counted.upper
                assert counted.lower < counted.upper
                bounded += 1
            else:
                assert counted == Exact(int(held.sum()))
            if not held.any():
                # Bins alone may not tell an empty band from a narrow one.
                reason = EmptyBand if isinstance(counted, Exact) else (EmptyBand, BandTooNarrow)
                with pytest.raises(reason):
                    space.sample(3, rng, lower, upper)
                continue
            drawn = space.sample(20, rng, lower, upper)
            assert drawn.shape == (20, len(problem.domains))
            assert set(map(tuple, drawn.tolist())) <= set(map(tuple, points[held].tolist()))
    return bounded


def surprise(counts: Sequence[int], cells: int, number: int) -> float:
    """Chi-square of equal cells, in standard deviations above its mean."""
    expected = number / cells
    square = sum((count - expected) ** 2 for count in counts) / expected
    square += (cells - len(counts)) * expected
    return (square - (cells - 1)) / sqrt(2 * (cells - 1))


def assert_uniform(
    space: Elimination, lower: Bound, upper: Bound, *, number: int = 40_000, most: int = 4000
) -> int:
    """Every assignment of the band is drawn, and equally often; returns how many there are."""
    points, costs = enumerate_all(space.problem)
    held = {tuple(point) for point in points[within(costs, lower, upper)].tolist()}
    assert 1 < len(held) <= most
    drawn = space.sample(number, np.random.default_rng(11), lower, upper)
    seen = Counter(map(tuple, drawn.tolist()))
    assert set(seen) <= held
    assert abs(surprise(list(seen.values()), len(held), number)) < 4
    return len(held)


def layered(depths: Sequence[int] = (1, 2, 3), seed: int = 5) -> Problem:
    """A width, a depth and two decisions a layer; those of an absent layer are pinned at 0."""
    rng = np.random.default_rng(seed)
    domains = {"width": 3, "depth": len(depths)}
    tables = [Table(("width",), (rng.integers(0, 50, 3), rng.integers(0, 50, 3)))]
    masks: list[Mask] = []
    for layer in range(depths[-1]):
        live = np.array([depth > layer for depth in depths])
        for name, size in (("heads", 2), ("ratio", 3)):
            domains[f"{name}{layer}"] = size
            values = rng.integers(1, 40, (2, 3, 1, size)) * live[None, None, :, None]
            tables.append(Table(("width", "depth", f"{name}{layer}"), (values[0], values[1])))
            first = np.arange(size) == 0
            masks.append(Mask(("depth", f"{name}{layer}"), live[:, None] | first[None, :]))
    return Problem(domains, tuple(tables), tuple(masks), 2)


def independent(variables: int, values: int, figures: int, reach: int, seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    names = [f"block{index}" for index in range(variables)]
    tables = tuple(
        Table((name,), tuple(rng.integers(0, reach, values) for _ in range(figures)))
        for name in names
    )
    return Problem(dict.fromkeys(names, values), tables, (), figures)


# Against brute force.


def test_random_problems_agree_with_enumeration() -> None:
    assert check_against_brute_force(seed=1, number=250) == 0


def test_small_limits_give_bounds_that_hold_the_count() -> None:
    assert check_against_brute_force(seed=2, number=120, entries=8) > 5


@pytest.mark.parametrize(
    "settings",
    [
        {(distribution, "BLOCK"): 5, (distribution, "DENSE"): 0, (distribution, "SORTED"): 2},
        {(distribution, "BLOCK"): 1 << 21, (distribution, "LONGEST"): 0},
        {(tree, "ROOT"): 1, (tree, "PLAIN"): 0, (tree, "TRIED"): 1, (tree, "COMPARED"): 0},
        {(draw, "MATRIX"): 3, (plane, "QUERIES"): 2, (halves, "GROUP"): 2},
        {(distribution, "NARROW"): 4, (halves, "NARROW"): 4},
        {(eliminate, "QUICK"): 2, (eliminate, "BATCH"): 7},
    ],
    ids=["sorted", "never-dense", "root", "pieces", "python-integers", "one-figure-first"],
)
def test_every_way_through_agrees_with_enumeration(
    settings: dict[tuple[ModuleType, str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for (module, name), value in settings.items():
        monkeypatch.setattr(module, name, value)
    check_against_brute_force(seed=3, number=60)


def test_layers_with_pinned_decisions() -> None:
    problem = layered()
    points, costs = enumerate_all(problem)
    space = Elimination(problem)
    assert space.size == len(points) == 3 * (6 + 36 + 216)
    rng = np.random.default_rng(0)
    for _ in range(20):
        lower, upper = random_band(rng, costs)
        assert space.count(lower, upper) == Exact(int(within(costs, lower, upper).sum()))


def test_published_size_of_autoformer_t() -> None:
    depths, domains, masks = (12, 13, 14), {"width": 3, "depth": 3}, list[Mask]()
    for layer in range(14):
        for name, size in (("heads", 2), ("ratio", 3)):
            domains[f"{name}{layer}"] = size
            live = np.array([depth > layer for depth in depths])
            if not live.all():
                allowed = live[:, None] | (np.arange(size) == 0)
                masks.append(Mask(("depth", f"{name}{layer}"), allowed))
    assert Elimination(Problem(domains, (), tuple(masks), 0)).size == 280_804_921_344


def test_variables_that_cost_nothing_do_not_enter() -> None:
    values = np.broadcast_to(np.array([3, 5]), (4, 2))
    problem = Problem(
        {"idle": 4, "used": 2, "loose": 7}, (Table(("idle", "used"), (values,)),), (), 1
    )
    (factor,) = simplify(problem, (0,))
    assert factor.scope == ("used",)
    space = Elimination(problem)
    assert (space.size, space.count([4], [None])) == (56, Exact(28))
    assert_uniform(space, [4], [None])


def test_one_figure_does_not_carry_the_other() -> None:
    values = np.arange(6)
    problem = Problem(
        {"a": 6, "b": 6},
        (Table(("a",), (values, 0 * values)), Table(("b",), (0 * values, values))),
        (),
        2,
    )
    assert [factor.scope for factor in simplify(problem, (1,))] == [("b",)]
    assert simplify(problem, ()) == ()


# Uniformity.


def test_draws_are_uniform() -> None:
    space = Elimination(layered())
    points, costs = enumerate_all(space.problem)
    quarter = [sorted(costs[:, figure])[len(points) // 4] for figure in (0, 1)]
    half = [sorted(costs[:, figure])[3 * len(points) // 4] for figure in (0, 1)]
    assert_uniform(space, [None, None], [None, None])
    assert_uniform(space, [quarter[0], None], [half[0], None])
    assert_uniform(space, [None, None], [None, half[1]])
    assert_uniform(space, quarter, half)


def test_draws_are_uniform_with_three_figures() -> None:
    space = Elimination(independent(5, 4, 3, 60, seed=8))
    _, costs = enumerate_all(space.problem)
    middle: list[int | None] = [int(np.median(costs[:, figure].astype(int))) for figure in range(3)]
    assert isinstance(space.count(middle, [None] * 3), Exact)
    assert_uniform(space, middle, [None] * 3)


def test_draws_from_bins_are_uniform() -> None:
    problem = independent(5, 4, 2, 1 << 30, seed=9)
    space = Elimination(problem, entries=24)
    _, costs = enumerate_all(problem)
    low = [sorted(costs[:, figure])[200] for figure in (0, 1)]
    high = [sorted(costs[:, figure])[800] for figure in (0, 1)]
    for lower, upper in ((low, high), ([low[0], None], [high[0], None])):
        counted = space.count(lower, upper)
        assert isinstance(counted, Between)
        assert counted.lower <= assert_uniform(space, lower, upper) <= counted.upper
        assert 0 < counted.upper < space.size


def test_draws_of_one_figure_kept_by_the_other_are_uniform(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eliminate, "QUICK", 2)
    problem = independent(5, 4, 2, 50, seed=10)
    _, costs = enumerate_all(problem)
    middle: list[int | None] = [sorted(costs[:, figure])[400] for figure in (0, 1)]
    assert_uniform(Elimination(problem), middle, [None, None])


@pytest.mark.parametrize("quick", [2, 80, 1 << 20])
def test_the_same_seed_draws_the_same_whatever_was_asked_before(
    quick: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eliminate, "QUICK", quick)
    problem = layered()
    lower, upper = [60, None], [None, 160]
    fresh = Elimination(problem).sample(50, np.random.default_rng(3), lower, upper)
    used = Elimination(problem)
    used.count(lower, upper)
    used.sample(7, np.random.default_rng(1))
    assert (used.sample(50, np.random.default_rng(3), lower, upper) == fresh).all()


def test_whole_numbers_below_large_bounds() -> None:
    rng = np.random.default_rng(4)
    scale_by = 1 << 100
    drawn = below(rng, np.full(30_000, 3 * scale_by, object))
    assert all(0 <= number < 3 * scale_by for number in drawn)
    assert (
        surprise([int(n) for n in np.bincount([int(n // scale_by) for n in drawn])], 3, 30_000) < 4
    )
    low_bits = np.bincount([int(number % 8) for number in drawn])
    assert surprise([int(n) for n in low_bits], 8, 30_000) < 4
    mixed = below(rng, np.array([1, 1 << 64, 5], object))
    assert mixed[0] == 0
    assert mixed[2] < 5


# Beyond int64.


@pytest.mark.parametrize("variables", [70, 160])
def test_counts_beyond_int64_follow_the_product_formula(variables: int) -> None:
    # Variables of 3 values, cost 0, 1, 2: coefficients of (1 + x + x^2)^n. With 160 of them one
    # half alone has more ways than int64 holds.
    names = [f"v{index}" for index in range(variables)]
    table = np.arange(3)
    problem = Problem(
        dict.fromkeys(names, 3), tuple(Table((n,), (table, table == 2)) for n in names), (), 2
    )
    space = Elimination(problem)
    assert space.size == 3**variables > 1 << 70

    def ways(total: int, twos: int) -> int:
        ones = total - 2 * twos
        held = 0 <= ones <= variables - twos
        return comb(variables, twos) * comb(variables - twos, ones) if held else 0

    low, high, few, many = variables - 10, variables + 5, variables // 3 - 4, variables // 3 + 3
    totals, numbers = range(low, high + 1), range(few, many + 1)
    one = sum(ways(total, twos) for total in totals for twos in range(variables + 1))
    assert space.count([low, None], [high, None]) == Exact(one)
    both = sum(ways(total, twos) for total in totals for twos in numbers)
    assert space.count([low, few], [high, many]) == Exact(both)
    draws = 8000
    drawn = space.sample(draws, np.random.default_rng(2), [low, few], [high, many])
    assert (drawn.sum(axis=1) >= low).all()
    assert (drawn.sum(axis=1) <= high).all()
    seen = np.bincount((drawn == 2).sum(axis=1), minlength=many + 1)
    assert seen[:few].sum() == 0
    square = 0.0
    for twos in numbers:
        expected = draws * sum(ways(total, twos) for total in totals) / both
        square += (int(seen[twos]) - expected) ** 2 / expected
    assert square < 7 + 4 * sqrt(14)
    # Every variable plays the same part.
    twos_of_each = [int(n) for n in (drawn == 2).sum(axis=0)]
    assert surprise(twos_of_each, variables, sum(twos_of_each)) < 4


def test_products_of_two_large_counts_are_exact() -> None:
    # Halves of some 2^61 ways each: their products need limbs.
    names = [f"v{index}" for index in range(61)]
    problem = Problem(
        dict.fromkeys(names, 4), tuple(Table((n,), (np.arange(4) == 1,)) for n in names), (), 1
    )
    expected = sum(comb(61, ones) * 3 ** (61 - ones) for ones in range(10, 21))
    assert Elimination(problem).count([10], [20]) == Exact(expected)


def test_costs_beyond_int64_are_exact() -> None:
    rng = np.random.default_rng(6)
    unit = 1 << 80
    values = rng.integers(0, 9, (4, 5)).astype(object) * unit + 7
    names = [f"v{index}" for index in range(4)]
    problem = Problem(
        dict.fromkeys(names, 5),
        tuple(Table((name,), (column,)) for name, column in zip(names, values, strict=True)),
        (),
        1,
    )
    _, costs = enumerate_all(problem)
    space = Elimination(problem)
    assert space.bounds(0) == (costs.min(), costs.max())
    expected = int(within(costs, [15 * unit], [20 * unit]).sum())
    assert space.count([15 * unit], [20 * unit]) == Exact(expected)
    drawn = space.sample(50, rng, [15 * unit], [20 * unit])
    assert (problem.total(0, drawn) >= 15 * unit).all()


def test_costs_with_no_common_divisor_beyond_int64_give_bounds() -> None:
    rng = np.random.default_rng(7)
    names = [f"v{index}" for index in range(5)]
    values = [
        np.array([int(n) << 60 | int(m) for n, m in rng.integers(0, 1 << 50, (4, 2))], object)
        for _ in names
    ]
    problem = Problem(
        dict.fromkeys(names, 4),
        tuple(Table((name,), (column,)) for name, column in zip(names, values, strict=True)),
        (),
        1,
    )
    _, costs = enumerate_all(problem)
    low, high = sorted(costs[:, 0])[300], sorted(costs[:, 0])[700]
    space = Elimination(problem)
    counted = space.count([low], [high])
    least, most = (
        (counted.value, counted.value)
        if isinstance(counted, Exact)
        else (counted.lower, counted.upper)
    )
    assert least <= 401 <= most < 1024
    assert_uniform(space, [low], [high])


# What cannot be answered.


def test_an_empty_band() -> None:
    space = Elimination(layered())
    least, most = space.bounds(0)
    for lower, upper in (([most + 1, None], [None, None]), ([least + 5, None], [least + 4, None])):
        assert space.count(lower, upper) == Exact(0)
        with pytest.raises(EmptyBand, match="band"):
            space.sample(1, np.random.default_rng(0), lower, upper)
    assert issubclass(EmptyBand, CountingError)
    assert issubclass(CountingError, ValueError)


def test_a_gap_between_two_values_is_empty() -> None:
    problem = Problem({"a": 2}, (Table(("a",), (np.array([0, 10]),)),), (), 1)
    space = Elimination(problem)
    assert space.count([3], [7]) == Exact(0)
    with pytest.raises(EmptyBand):
        space.sample(1, np.random.default_rng(0), [3], [7])


def test_contradicting_masks() -> None:
    never = (Mask(("a",), np.array([True, False])), Mask(("a",), np.array([False, True])))
    space = Elimination(Problem({"a": 2}, (Table(("a",), (np.array([1, 2]),)),), never, 1))
    assert space.size == 0
    assert space.count([1], [None]) == Exact(0)
    with pytest.raises(EmptyBand):
        space.bounds(0)
    with pytest.raises(EmptyBand):
        space.sample(1, np.random.default_rng(0))


def test_a_space_without_decisions() -> None:
    space = Elimination(Problem({}, (Table((), (np.array(41),)),), (), 1))
    assert (space.size, space.bounds(0)) == (1, (41, 41))
    assert space.sample(3, np.random.default_rng(0)).shape == (3, 0)
    assert space.sample(0, np.random.default_rng(0), [41], [41]).shape == (0, 0)


def test_variables_too_entangled_to_count() -> None:
    rng = np.random.default_rng(0)
    names = [f"v{index}" for index in range(8)]
    masks = tuple(Mask((a, b), rng.random((6, 6)) < 0.9) for a, b in product(names, names) if a < b)
    space = Elimination(Problem(dict.fromkeys(names, 6), (), masks, 0), entries=1000)
    with pytest.raises(TooEntangled):
        space.size  # noqa: B018
    with pytest.raises(TooEntangled):
        space.sample(1, rng)


def test_a_band_too_narrow_for_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eliminate, "PATIENCE", 1 << 12)
    problem = independent(12, 4, 1, 1 << 40, seed=12)
    target = int(problem.total(0, np.full((1, 12), 2))[0])
    space = Elimination(problem, entries=64)
    counted = space.count([target], [target])
    assert isinstance(counted, Between)
    assert counted.lower == 0
    with pytest.raises(BandTooNarrow):
        space.sample(1, np.random.default_rng(0), [target], [target])
    # With room for exact tables the one assignment is found.
    exact = Elimination(problem)
    assert exact.count([target], [target]) == Exact(1)
    drawn = exact.sample(2, np.random.default_rng(0), [target], [target])
    assert (drawn == 2).all()


def test_malformed_problems_are_refused() -> None:
    table = Table(("a",), (np.array([1, 2]),))
    for domains, tables, masks, figures in (
        ({"a": 3}, (table,), (), 1),
        ({"b": 2}, (table,), (), 1),
        ({"a": 2}, (table,), (), 2),
        ({"a": 0}, (), (), 1),
        ({"a": 2}, (), (Mask(("a", "a"), np.ones((2, 2), bool)),), 0),
    ):
        with pytest.raises(ValueError, match=r"shape|domain|figures|no value|twice"):
            Problem(domains, tables, masks, figures)
    with pytest.raises(ValueError, match="figures"):
        Elimination(Problem({"a": 2}, (table,), (), 1)).count([1, 2], [3, 4])


# Parts.


def test_fold_and_sum_out_against_dictionaries() -> None:
    rng = np.random.default_rng(1)
    limit = Limit(1 << 20)
    a = single(("x", "y"), rng.integers(0, 9, (3, 4)), rng.random((3, 4)) < 0.8)
    b = sum_out(single(("y", "z"), rng.integers(0, 9, (4, 5)), np.ones((4, 5), bool)), "z", limit)
    both = fold(a, b, limit)
    assert both.scope == ("x", "y")
    summed = sum_out(both, "y", limit)
    for x in range(3):
        expected: Counter[int] = Counter()
        for y in range(4):
            row = x * 4 + y
            for key in a.keys[a.start[row] : a.start[row + 1]]:
                for other in range(b.start[y], b.start[y + 1]):
                    expected[int(key + b.keys[other])] += int(b.counts[other])
        held = slice(summed.start[x], summed.start[x + 1])
        found = zip(summed.keys[held].tolist(), summed.counts[held].tolist(), strict=True)
        assert dict(found) == dict(expected)
        assert (np.diff(summed.keys[held]) > 0).all()
    assert summed.mass == int(summed.counts.sum())


def test_a_fold_stops_at_its_limit() -> None:
    limit = Limit(1 << 20)
    row = sum_out(single(("x",), np.arange(100) ** 2, np.ones(100, bool)), "x", limit)
    assert len(fold(row, row, Limit(5000)).keys) > 1000
    with pytest.raises(TooLarge):
        fold(row, row, Limit(1000))
    with pytest.raises(TooLarge):
        single(("x",), np.array([0, 1 << 61]), np.ones(2, bool))


def test_rectangles_of_weighted_points() -> None:
    rng = np.random.default_rng(2)
    for wide in (False, True):
        for _ in range(20):
            number, queries = int(rng.integers(1, 60)), 30
            heights, weights = rng.integers(-5, 15, number), rng.integers(1, 9, number)
            begin = rng.integers(0, number + 1, queries)
            end = np.minimum(number, begin + rng.integers(0, number + 1, queries))
            bottom = rng.integers(-8, 18, queries)
            top = bottom + rng.integers(0, 12, queries)
            points = Plane(heights, weights.astype(object) << 70 if wide else weights)
            unit = 1 << 70 if wide else 1
            sums = points.sums(begin, end, bottom, top)
            inside = [
                sorted(
                    (int(heights[i]), i)
                    for i in range(begin[q], end[q])
                    if bottom[q] <= heights[i] < top[q]
                )
                for q in range(queries)
            ]
            assert [int(s) for s in sums] == [
                unit * sum(int(weights[i]) for _, i in held) for held in inside
            ]
            asked = np.array([q for q in range(queries) if inside[q]], int)
            skip = sums[asked] * 2 // 3
            found = points.select(begin[asked], end[asked], bottom[asked], skip)
            for q, passed, index in zip(asked, skip, found, strict=True):
                reached = 0
                for _, i in inside[q]:
                    reached += unit * int(weights[i])
                    if reached > passed:
                        assert index == i
                        break


def test_joining_makes_no_new_neighbours() -> None:
    rng = np.random.default_rng(3)
    domains = {"a": 2, "b": 2, "c": 2, "d": 2, "x": 50}
    scopes = (("a", "b"), ("c", "d"), ("b", "x", "c"))
    tables = tuple(
        Table(scope, (rng.integers(0, 99, tuple(domains[name] for name in scope)),))
        for scope in scopes
    )
    factors = simplify(Problem(domains, tables, (), 1), (0,))
    assert len(join(factors, domains, 16)) == 3
    assert len(join(factors, domains, 400)) == 2
    assert len(join(factors, domains, 800)) == 1


def test_rounded_costs_stay_within_their_slack() -> None:
    problem = independent(4, 5, 2, 100_000, seed=13)
    factors = join(simplify(problem, (0, 1)), problem.domains)
    assert prod(len(factor.scope) for factor in factors) == 4
    for bins in (None, 50, 7):
        scaled = scale(factors, 2, bins)
        assert scaled.exact == (bins is None)
        for figure, reading in enumerate(scaled.figures):
            keys = sum(
                rows.keys.reshape(rows.shape)
                // (scaled.figures[1].peak + 1 if figure == 0 else 1)
                % (scaled.figures[figure].peak + 1)
                for rows in scaled.rows
            )
            (table,) = (factor.values[figure] for factor in factors)
            rest = table - (reading.offset + reading.step * keys)
            assert rest.min() >= 0
            assert rest.max() <= reading.slack < (reading.step if bins else 1)
