"""Floats decide nothing that they cannot tell: ranges that hold the true values, what follows from
them in proofs, and what a text is told that hangs on them."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.bounds import multiplied, plus
from spacelang.ir.condition import FALSE, TRUE, Compare, compare, conjunction
from spacelang.ir.dim import Dim, Symbol, conditional, floor, function, maximum, power, sqrt
from spacelang.ir.enclosure import enclosed, told
from spacelang.ir.facts import exact_table, interval, never_zero, truths
from spacelang.ir.prove import Proved, Refuted, Unsettled, at_most, equal, feasible, holds, whole
from spacelang.loader import load

B = Symbol("B")
N = Symbol("n", (3, 6))
ROOT = sqrt(N) * sqrt(N)
"""Which is n, and 2.9999999999999996 and 5.999999999999999 to floats."""

# Ranges.

FUNCTIONS = {
    "sqrt": Decimal.sqrt,
    "rsqrt": lambda x: 1 / x.sqrt(),
    "exp": Decimal.exp,
    "log": Decimal.ln,
}
SMALL = st.fractions(Fraction(1, 1000), 300, max_denominator=10**6)


@given(st.sampled_from(sorted(FUNCTIONS)), SMALL)
def test_a_range_holds_the_true_value_and_is_narrow(name: str, x: Fraction) -> None:
    low, high = enclosed(function(name, x), {})
    with localcontext(prec=60):
        true = Fraction(FUNCTIONS[name](Decimal(x.numerator) / Decimal(x.denominator)))
    assert low <= true + Fraction(1, 10**50)
    assert true <= high + Fraction(1, 10**50)
    assert high - low <= abs(true) / 2**40 + Fraction(1, 2**40)


@given(SMALL, st.fractions(-20, 20, max_denominator=50))
def test_a_range_of_a_power_holds_it(x: Fraction, exponent: Fraction) -> None:
    low, high = enclosed(power(x, exponent), {})
    with localcontext(prec=60):
        base = Decimal(x.numerator) / Decimal(x.denominator)
        by = Decimal(exponent.numerator) / Decimal(exponent.denominator)
        true = Fraction(base**by)
    assert low <= true * (1 + Fraction(1, 10**40))
    assert true * (1 - Fraction(1, 10**40)) <= high


@given(st.fractions(-(10**6), 10**6, max_denominator=10**6))
def test_ranges_of_sine_and_cosine_meet_their_law(x: Fraction) -> None:
    squares = [multiplied(r, r) for r in (enclosed(function(f, x), {}) for f in ("sin", "cos"))]
    assert plus(squares[0][0], squares[1][0]) <= 1 <= plus(squares[0][1], squares[1][1])


def test_what_is_rational_is_a_point() -> None:
    assert enclosed(sqrt(4) / 3, {}) == (Fraction(2, 3), Fraction(2, 3))
    assert enclosed(sqrt(N) + 1, {"n": 9}) == (4, 4)
    assert exact_table(sqrt(Symbol("k", (16, 4)))) == (4, 2)
    assert exact_table(function("log", Symbol("k", (1,)))) == (0,)
    assert function("log", 1) == 0


def test_logarithms_of_what_is_no_float() -> None:
    tiny = Fraction(1, 10**400)
    low, high = enclosed(function("log", tiny), {})
    assert low <= -400 * Fraction(math.log(10)) <= high
    e = Fraction(1, 1_000_000)  # near 1, where the logarithm is e - e^2 / 2 + ..
    low, high = enclosed(function("log", 1 + e), {})
    assert low <= e - e**2 / 2 + e**3 / 3
    assert e - e**2 / 2 <= high
    assert high - low < e / 10**9


def test_ends_of_ranges_are_not_lost_beside_infinities() -> None:
    tiny, huge = Fraction(1, 10**400), Fraction(10**400)
    assert multiplied((tiny, tiny), (Fraction(1), math.inf)) == (tiny, math.inf)
    assert multiplied((-huge, -huge), (Fraction(1), math.inf)) == (-math.inf, -huge)
    assert interval(Dim.of(B) / 10**400)[1] == math.inf
    assert interval(Dim.of(B) * 10**400 + 10**500)[1] == math.inf
    small = compare("<", Dim.of(B) / 10**400, 1)
    assert small not in (TRUE, FALSE)
    assert floor(Dim.of(B) / 10**400).constant is None
    assert floor(Dim.of(Symbol("w", tuple(range(1, 9)))) * 10**400 / 3).constant is None


# Proofs.


def test_floats_decide_no_comparison_that_they_cannot_tell() -> None:
    same = compare("==", ROOT, N)
    assert same not in (TRUE, FALSE)
    assert truths(same) is None
    assert told(same, {"n": 3}) is None
    assert told(compare("<", ROOT, 1 + Dim.of(N)), {"n": 3}) is True
    assert told(conjunction(same, compare("==", N, 6)), {"n": 3}) is False
    # An error of 2**-51, which is no small number once it is multiplied.
    assert isinstance(equal(10**12 * ROOT, 10**12 * Dim.of(N)), Unsettled)


def test_floats_make_no_divisor_safe() -> None:
    assert not never_zero(ROOT - N)
    assert never_zero(ROOT - 1 + Dim.of(N))
    quotient = (ROOT - N) * (1 / (ROOT - N))  # does not cancel: it may be 0/0
    assert quotient.constant is None


def test_floats_simplify_nothing_that_they_cannot_tell() -> None:
    assert floor(sqrt(3) * sqrt(3)).constant is None
    assert floor(sqrt(2) * sqrt(3)) == 2
    assert not isinstance(equal(floor(ROOT), 2, (compare("==", N, 3),)), Proved | Refuted)
    assert conditional(compare("==", ROOT, N), 1, 2).constant is None
    assert maximum(ROOT, N).symbols == {N}


def test_what_floats_can_tell_is_proved() -> None:
    assert isinstance(at_most(sqrt(N), 3), Proved)
    assert isinstance(at_most(sqrt(N), 2), Refuted)
    assert isinstance(whole(sqrt(N)), Refuted)
    assert isinstance(whole(ROOT), Unsettled)
    many = [Symbol(f"m{i}", tuple(range(1, 10))) for i in range(6)]
    total = sum((Dim.of(m) for m in many), Dim.of(0))
    assert isinstance(at_most(-sqrt(N) - total, 0), Proved)
    assert isinstance(at_most(conditional(compare("==", ROOT, N), 1, 2), total), Proved)


def test_a_guard_that_floats_do_not_tell_hides_nothing() -> None:
    guard = Compare("==", ROOT, Dim.of(N))
    assert isinstance(equal(N, 100, (guard,)), Unsettled)
    assert isinstance(equal(N, 100, (guard, compare("!=", N, 3))), Unsettled)
    assert isinstance(holds(compare("<", N, 7), (guard,)), Proved)
    assert feasible((guard,)) is None
    beside = compare("<", ROOT + Dim.of(Symbol("k", (1, 2))), 1 + Dim.of(N))
    assert isinstance(equal(N, 100, (beside,)), Unsettled)


# Numbers that are no finite ones.


def test_a_float_beyond_the_largest_is_an_arithmetic_error() -> None:
    big = function("exp", 700)
    for size in (big * big, big * function("exp", 699) - function("exp", 698) * big):
        for asked in (size, floor(size), function("round", size)):
            with pytest.raises(ArithmeticError):
                asked.at({})
        assert compare("<", size, 1) == FALSE  # which needs no float


def test_numbers_smaller_than_any_float() -> None:
    tiny = Fraction(1, 10**400)
    assert math.isclose(float(function("log", tiny).at({})), -400 * math.log(10))
    with pytest.raises(ArithmeticError):
        power(tiny, Fraction(-1, 3)).at({})


# Texts.


def space(body: str) -> str:
    return f"space s {{ input x: [B, 4]\nchoose n in {{3, 6}}\n{body}\noutput x * n }}"


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("SP308", "let a = 8 / (sqrt(3)*sqrt(3) - 3)"),
        ("SP308", "when sqrt(n)*sqrt(n) == n { x = linear(x, 4) as fc }"),
        ("SP308", "when sqrt(n)*sqrt(n) in {3, 6} { x = linear(x, 4) as fc }"),
        ("SP308", "when sqrt(n)*sqrt(n) not in {3, 6} { x = linear(x, 4) as fc }"),
        ("SP308", "let a = 1 if sqrt(3)*sqrt(3) < 3 else 2"),
        ("SP308", "let a = floor(sqrt(n)*sqrt(n))"),
        ("SP308", "let a = (sqrt(n)*sqrt(n)) // 1"),
        ("SP308", "let a = (sqrt(n)*sqrt(n)) % n"),
        ("SP308", "let a = sign(sqrt(n)*sqrt(n) - n)"),
        ("SP308", "let a = round(sqrt(n)*sqrt(n) + 1/2)"),
        ("SP210", "let a = floor(exp(700) * exp(700))"),
        ("SP210", "let a = exp(700)*exp(699) - exp(698)*exp(697) when a < 1 { x = relu(x) }"),
        ("SP210", "let a = round(exp(700)*exp(699) - exp(698)*exp(697))"),
        ("SP210", "let a = exp(200*n) * exp(n)"),
    ],
)
def test_a_text_is_told_what_floats_do_not_tell(code: str, body: str) -> None:
    with pytest.raises(SpaceError) as failed:
        load(Source("<floats>", space(body)))
    assert {found.code for found in failed.value.diagnostics} == {code}


def test_what_floats_tell_is_legal() -> None:
    body = """
      let a = round(sqrt(n)*sqrt(n)) let b = floor(sqrt(n)) let c = 8 / (sqrt(n) - 1)
      when n > 3 { let d = floor(sqrt(n - 3) * sqrt(n + 1)) x = x * d }
      when sqrt(n) > 2 { x = linear(x, 4) as fc }
      x = x * (a + b + c)
    """
    assert load(Source("<floats>", space(body))).size() == 2
