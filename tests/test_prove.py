"""Proofs: claims against brute force, guards, counter-examples, conditions."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
from counting import calls_at_most
from hypothesis import given, settings
from hypothesis import strategies as st

from spacelang.ir.condition import (
    FALSE,
    TRUE,
    All,
    Compare,
    chosen,
    compare,
    conjunction,
    disjunction,
    is_value,
    negate,
)
from spacelang.ir.dim import Dim, Symbol, Unbound, conditional, maximum, minimum, rsqrt, sqrt
from spacelang.ir.prove import Proved, Refuted, Unsettled, at_most, equal, feasible, holds, whole


def size(name, *values):
    return Dim.of(Symbol(name, values))


width, heads = size("width", 192, 256), size("heads", 3, 4)
depth = size("depth", 12, 13, 14)
window = size("window", 7, 14)
B, T = size("B"), size("T")
op = Symbol("op", ("skip", "k3", "k5"))
pick = Symbol("pick", ((0, 1), (0, 2), (1, 2)))
flag = Symbol("flag", (True, False))

# Claims against brute force.

SYMBOLS = [
    Symbol("x", (1, 2, 3)),
    Symbol("y", (2, 4)),
    Symbol("z", (0, 1, Fraction(1, 2))),
    Symbol("op", ("a", "b", "c")),
]
X, Y, Z = (Dim.of(symbol) for symbol in SYMBOLS[:3])
POINTS = [
    dict(zip((symbol.name for symbol in SYMBOLS), values, strict=True))
    for values in product(*(symbol.values for symbol in SYMBOLS))
]
parts = st.sampled_from(
    [X, Y, Z, X * Y, X // 2, Y / X, minimum(X, Y), X * Z, Dim.of(2), (X + 1) / (Y + X), Dim.of(0)]
)
sums = st.tuples(parts, parts, st.integers(-2, 2)).map(lambda p: p[0] + p[1] * p[2])
comparisons = st.builds(compare, st.sampled_from(["<", "<=", "==", "!=", ">"]), sums, sums)
atoms = st.one_of(
    comparisons,
    st.sampled_from([is_value(SYMBOLS[3], value) for value in "abc"]),
)
conditions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        inner.map(negate),
        st.builds(conjunction, inner, inner),
        st.builds(disjunction, inner, inner),
    ),
    max_leaves=4,
)
guard_lists = st.lists(conditions, max_size=3).map(tuple)


def off_default(example):
    defaults = {"x": 3, "y": 4, "z": 1, "op": "a"}
    return sum(value != defaults[name] for name, value in example.items())


def check(answer, true_at, guards, asked):
    """The answer against every point."""
    reached = [point for point in POINTS if all(guard.at(point) for guard in guards)]
    broken = [point for point in reached if not true_at(point)]
    if not broken:
        assert isinstance(answer, Proved), answer
        return
    assert isinstance(answer, Refuted), answer
    example = dict(answer.example)
    kept = conjunction(*guards)  # without guards that others decide
    names = {symbol.name for symbol in asked | kept.symbols}
    assert set(example) == names
    assert not true_at(example)
    assert kept.at(example)
    cut = [{name: point[name] for name in names} for point in broken]
    assert off_default(example) == min(map(off_default, cut))


@settings(max_examples=300, deadline=None)
@given(sums, sums, guard_lists)
def test_claims_agree_with_brute_force(a, b, guards):
    both = a.symbols | b.symbols
    check(equal(a, b, guards), lambda p: a.at(p) == b.at(p), guards, both)
    check(at_most(a, b, guards), lambda p: a.at(p) <= b.at(p), guards, both)
    check(whole(a, guards), lambda p: Fraction(a.at(p)).denominator == 1, guards, a.symbols)


@settings(max_examples=300, deadline=None)
@given(conditions, guard_lists)
def test_conditions_agree_with_brute_force(condition, guards):
    check(holds(condition, guards), condition.at, guards, condition.symbols)
    reached = any(all(guard.at(point) for guard in guards) for point in POINTS)
    assert feasible(guards) is reached
    for point in POINTS:
        assert negate(condition).at(point) is not condition.at(point)


@settings(max_examples=200, deadline=None)
@given(conditions, st.sampled_from(POINTS), st.sets(st.sampled_from(["x", "y", "z", "op"])))
def test_substituted_conditions(condition, point, fixed):
    partial = condition.substitute({name: point[name] for name in fixed})
    assert partial.at(point) is condition.at(point)
    assert not {symbol.name for symbol in partial.symbols} & fixed
    assert condition.substitute(point) in (TRUE, FALSE)


# Cases of the design.


def test_by_normal_form():
    ratio = size("ratio", 3.5, 4)
    assert equal(width * (ratio + 1), width * ratio + width) == Proved(0)
    assert equal(B * T / (window * window) * window, B * T / window) == Proved(0)
    assert whole(width * ratio) == Proved(0)
    assert whole(56 / window) == Proved(0)
    assert at_most(T, 2 * T) == Proved(0)


def test_by_enumeration():
    assert equal(maximum(window, 10) + minimum(window, 10), window + 10) == Proved(2)


def test_attention_without_projection():
    answer = equal(64 * heads, width)
    assert answer == Refuted({"heads": 3, "width": 256})


def test_sizes_that_are_not_whole():
    assert whole(width * 3.3) == Refuted({"width": 256})
    assert whole(width / 64) == Proved(0)
    assert whole(56 / size("window", 7, 10)) == Refuted({"window": 10})


def test_the_fewest_decisions_off_their_default():
    a, b, c = (size(name, 1, 2) for name in "abc")
    assert at_most(2, a + b + c - 3) == Refuted({"a": 1, "b": 1, "c": 2})
    assert equal(a + b + c, 6).example == {"a": 1, "b": 2, "c": 2}


def test_guards_settle_a_question():
    three = compare("==", heads, 3)
    narrow = compare("==", width, 192)
    assert isinstance(equal(64 * heads, width, (three, narrow)), Proved)
    joint = compare("==", 64 * heads, width)
    assert equal(64 * heads, width, (joint,)) == Proved(2 * 2)
    assert equal(64 * heads, width, (three,)) == Refuted({"heads": 3, "width": 256})


def test_guards_complete_the_example():
    deep = compare(">", depth, 12)
    path = negate(is_value(op, "skip"))
    answer = equal(56, 28, (deep, path))
    assert answer == Refuted({"depth": 14, "op": "k3"})


def test_what_is_not_reached_holds():
    assert isinstance(equal(56, 28, (compare(">", depth, 14),)), Proved)
    apart = (compare("<", heads, depth - 9), compare(">", heads, depth - 9))
    assert isinstance(equal(56, 28, apart), Proved)


def test_free_sizes():
    assert equal(B, T) == Refuted({"B": 2, "T": 1})
    assert equal(B * B, B) == Refuted({"B": 2})
    assert whole(B / 2) == Refuted({"B": 1})
    assert whole(B * width / 64) == Proved(0)
    assert equal(B * (window + 1), B * maximum(window, 10)).example == {"B": 1, "window": 14}


def test_refusal_past_the_limit():
    a, b, c, d = (size(name, *range(1, 10)) for name in "abcd")
    answer = equal(maximum(a * b, c * d) + minimum(a * b, c * d), a * b + c * d)
    assert answer == Unsettled(("a", "b", "c", "d"), 9**4)
    # One that fails is still found.
    assert equal(a * b, c * d).example == {"a": 8, "b": 9, "c": 9, "d": 9}


def test_only_opaque_decisions_are_split():
    many = [size(name, *range(1, 18)) for name in "pqr"]
    rest = many[0] * many[1] * many[2]
    turned = maximum(window, 10) + minimum(window, 10)
    assert equal(rest * turned, rest * (window + 10)) == Proved(2)


def test_guards_that_do_not_fit():
    a, b, c, d = (size(name, *range(1, 18)) for name in "abcd")
    heavy = compare("<=", a * b * c * d, 1)
    assert equal(a, 17, (heavy,)) == Unsettled(("a",), 17)
    light = compare(">=", a * b * c * d, 17)
    assert equal(a, 17, (light,)).example == {"a": 16, "b": 17, "c": 17, "d": 17}


def test_feasible():
    assert feasible(()) is True
    assert feasible((compare(">", depth, 12), compare("<", depth, 13))) is False
    assert feasible((compare(">", depth, 12), is_value(op, "k3"))) is True
    assert feasible((compare(">", heads, depth), compare(">", depth, 12))) is False
    assert feasible((is_value(op, "k3"), is_value(op, "k5"))) is False
    assert feasible((chosen(pick, 0, 1), chosen(pick, 1, 1))) is False
    assert feasible((compare("==", B * B, 2 * T * T),)) is None


def test_irrational_sizes_are_not_decided_by_rounding():
    x = size("x", 2, 3)
    assert isinstance(equal(sqrt(x) * sqrt(x), x), Unsettled)
    assert isinstance(equal(sqrt(x), 1), Refuted)
    assert equal(rsqrt(x) * 2, 2 * rsqrt(x)) == Proved(0)


def test_undefined_is_refuted():
    zero = size("zero", 0, 2)
    assert whole(8 / zero) == Refuted({"zero": 0})
    assert isinstance(whole(8 / zero, (compare(">", zero, 0),)), Proved)


def test_two_decisions_of_one_name():
    with pytest.raises(ValueError, match="heads"):
        equal(heads, width, (compare(">", size("heads", 1, 2), 1),))


# Conditions.


def test_condition_texts():
    assert str(compare(">", depth, 12)) == "depth > 12"
    assert str(compare("<=", 13, depth)) == "depth >= 13"
    assert str(is_value(op, "k3")) == "op is k3"
    assert str(negate(is_value(op, "k3"))) == "not op is k3"
    assert str(is_value(flag, True)) == "flag is true"
    assert str(negate(is_value(flag, True))) == "flag is false"
    assert str(chosen(pick, 0, 1)) == "pick[0] is 1"
    both = conjunction(compare(">", depth, 12), is_value(op, "k3"))
    assert str(both) == "depth > 12 and op is k3"
    assert str(negate(both)) == "depth <= 12 or not op is k3"
    assert str(conjunction(negate(both), compare("<", heads, 4))) == (
        "(depth <= 12 or not op is k3) and heads < 4"
    )


def test_conditions_are_decided_at_once():
    assert compare(">", depth, 11) == TRUE
    assert compare("==", B, B) == TRUE
    assert compare("<", B, 1) == FALSE
    assert compare("==", 2 * width, width) == FALSE
    assert is_value(op, "k7") == FALSE
    assert is_value(Symbol("one", ("a",)), "a") == TRUE
    assert is_value(heads_symbol(), 3) == compare("==", heads, 3)
    assert chosen(pick, 1, 0) == FALSE
    same = compare("<", depth, 13)
    assert conjunction(same, negate(same)) == FALSE
    assert disjunction(same, negate(same)) == TRUE
    assert conjunction(same, TRUE, same) == same
    assert conjunction() == TRUE == All(())
    assert disjunction() == FALSE


def heads_symbol():
    return next(iter(heads.symbols))


def test_conditions_evaluate_and_rename():
    third = compare("==", heads, 3)
    assert isinstance(third, Compare)
    assert third.at({"heads": 3.0}) is True
    renamed = third.substitute({"heads": Symbol("encoder[3].heads", (3, 4))})
    assert str(renamed) == "encoder[3].heads == 3"
    assert str(is_value(op, "k3").substitute({"op": Symbol("other", ("k3", "skip"))})) == (
        "other is k3"
    )
    assert chosen(pick, 0, 1).at({"pick": (1, 2)}) is True
    assert chosen(pick, 0, 1).substitute({"pick": (0, 2)}) == FALSE
    with pytest.raises(Unbound):
        is_value(op, "k3").at({})
    with pytest.raises(ValueError, match="never k9"):
        is_value(op, "k3").substitute({"op": "k9"})
    with pytest.raises(ValueError, match="never 1"):
        is_value(flag, True).substitute({"flag": 1})


def test_a_whole_space_takes_a_bounded_number_of_calls():
    with calls_at_most(6_000_000):
        prove_a_space()


def prove_a_space():
    for layer in range(300):
        count = size(f"encoder[{layer}].heads", 3, 4)
        ratio = size(f"encoder[{layer}].ratio", 3, 3.5, 4)
        guards = (compare(">", size("depth", *range(200, 301)), layer),)
        assert whole(width * ratio, guards) == Proved(0)
        assert equal(width * (ratio + 1) - width, width * ratio, guards) == Proved(0)
        assert isinstance(at_most(minimum(64 * count, 200), 64 * count, guards), Proved)
        side = conditional(compare("<", count, 4), 7, window)
        assert isinstance(at_most(side, 14, guards), Proved)
