"""Sizes: the normal form against a plain evaluator, substitution, text, simplification."""

from __future__ import annotations

import ast
import math
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from spacelang.ir.condition import FALSE, TRUE, compare, is_value, negate
from spacelang.ir.dim import (
    Dim,
    Symbol,
    Unbound,
    conditional,
    floor,
    function,
    maximum,
    minimum,
    power,
    rsqrt,
    sqrt,
)


def size(name, *values):
    return Dim.of(Symbol(name, values))


A, B, C = Symbol("a", (1, 2, 3)), Symbol("b", (2, 4)), Symbol("c", (0, 3, Fraction(7, 2)))
SYMBOLS = {"a": A, "b": B, "c": C}
POINTS = [
    dict(zip(SYMBOLS, values, strict=True))
    for values in product(*(symbol.values for symbol in SYMBOLS.values()))
]
width = size("width", 192, 216, 240)
ratio = size("ratio", 3.5, 4)
window = size("window", 7, 14)
k = size("k", 3, 5, 7)
H, W = size("H"), size("W")

# Expressions as trees, evaluated plainly and through sizes.

leaves = st.one_of(
    st.sampled_from(sorted(SYMBOLS)),
    st.sampled_from([Fraction(n) for n in (-2, -1, 0, 1, 2, 3, 7)] + [Fraction(1, 2)]),
)
relations = st.sampled_from(["<", "<=", "==", "!=", ">", ">="])


def grow(inner):
    binary = st.tuples(st.sampled_from(["+", "-", "*", "/", "//", "%", "min", "max"]), inner, inner)
    return st.one_of(
        binary,
        binary,
        st.tuples(st.just("**"), inner, st.integers(-2, 2)),
        st.tuples(st.just("if"), relations, inner, inner, inner, inner),
    )


trees = st.recursive(leaves, grow, max_leaves=7)

PLAIN = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": min,
    "max": max,
    "**": lambda a, b: a**b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
SIZES = PLAIN | {"min": minimum, "max": maximum}


def plainly(tree, point):
    match tree:
        case str():
            return Fraction(point[tree])
        case Fraction():
            return tree
        case ("**", base, exponent):
            return plainly(base, point) ** exponent
        case ("if", relation, left, right, then, otherwise):
            true = PLAIN[relation](plainly(left, point), plainly(right, point))
            return plainly(then if true else otherwise, point)
        case (op, left, right):
            return Fraction(PLAIN[op](plainly(left, point), plainly(right, point)))


def sized(tree):
    match tree:
        case str():
            return Dim.of(SYMBOLS[tree])
        case Fraction():
            return Dim.of(tree)
        case ("**", base, exponent):
            return sized(base) ** exponent
        case ("if", relation, left, right, then, otherwise):
            return conditional(
                compare(relation, sized(left), sized(right)), sized(then), sized(otherwise)
            )
        case (op, left, right):
            return SIZES[op](sized(left), sized(right))


def built(tree):
    try:
        return sized(tree)
    except ZeroDivisionError:
        assume(False)


def values(tree):
    """The defined points with their plain values."""
    for point in POINTS:
        try:
            yield point, plainly(tree, point)
        except ZeroDivisionError:
            continue


def read(text):
    """A size from its text, through Python's own parser."""
    return walk(ast.parse(text, mode="eval").body)


OPERATORS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.Lt: "<", ast.LtE: "<=", ast.Eq: "==", ast.NotEq: "!=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip


def walk(node):
    match node:
        case ast.Constant():
            return Dim.of(node.value)
        case ast.Name():
            return Dim.of(SYMBOLS[node.id])
        case ast.UnaryOp(op=ast.USub()):
            return -walk(node.operand)
        case ast.BinOp():
            return SIZES[OPERATORS[type(node.op)]](walk(node.left), walk(node.right))
        case ast.IfExp(test=ast.Compare(left=left, ops=[op], comparators=[right])):
            condition = compare(OPERATORS[type(op)], walk(left), walk(right))
            return conditional(condition, walk(node.body), walk(node.orelse))
        case ast.Call(func=ast.Name(id=name)):
            first, *rest = map(walk, node.args)
            if name == "floor":
                return floor(first)
            for other in rest:
                first = SIZES[name](first, other)
            return first
    raise AssertionError(ast.dump(node))


many = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.filter_too_much]
)


@many
@given(trees)
def test_normal_form_agrees_with_plain_evaluation(tree):
    dim = built(tree)
    for point, expected in values(tree):
        found = dim.at(point)
        assert found == expected, (str(dim), point)
        assert isinstance(found, int) == (expected.denominator == 1)


@many
@given(trees, st.sampled_from(POINTS), st.sets(st.sampled_from(sorted(SYMBOLS))))
def test_substitution_is_evaluation(tree, point, fixed):
    dim = built(tree)
    try:
        expected = plainly(tree, point)
        partial = dim.substitute({name: point[name] for name in fixed})
    except ZeroDivisionError:
        assume(False)
    assert partial.at(point) == expected
    assert not {symbol.name for symbol in partial.symbols} & fixed
    assert dim.substitute(point).constant == expected


@many
@given(trees)
def test_text_reads_back(tree):
    dim = built(tree)
    again = read(str(dim))
    assert again == dim, (str(dim), str(again))
    assert hash(again) == hash(dim)


@many
@given(trees, trees)
def test_equal_normal_forms_are_equal_everywhere(left, right):
    a, b = built(left), built(right)
    assert a + b == b + a
    assert a * b == b * a
    assert a - a == Dim.of(0)
    assert (a + b) * 2 - b == a * 2 + b
    if a == b:
        there = {str(point): value for point, value in values(right)}
        for point, value in values(left):
            assert there.get(str(point), value) == value


@many
@given(trees)
def test_bounds_and_candidates_are_those_of_the_values(tree):
    dim = built(tree)
    pairs = list(values(tree))
    assume(len(pairs) == len(POINTS))
    expected = tuple(sorted({value for _, value in pairs}))
    assert dim.candidates() == expected
    assert dim.bounds() == (expected[0], expected[-1])


@many
@given(trees)
def test_renaming_keeps_values(tree):
    dim = built(tree)
    renamed = dim.substitute({"a": Symbol("z", (1, 3)), "b": Dim.of(Symbol("y", (1, 2))) * 2})
    assert "a" not in {symbol.name for symbol in renamed.symbols}
    for point, expected in values(tree):
        if point["a"] != 2:
            moved = {"z": point["a"], "y": Fraction(point["b"]) / 2, "c": point["c"]}
            assert renamed.at(moved) == expected


# Cases of the design.


def test_windows_cancel_without_an_atom():
    dim = H * W / (window * window) * (window * window)
    assert dim == H * W
    assert str(H * W / (window * window)) == "H*W/(window*window)"


def test_minimum_of_what_is_always_smaller():
    assert minimum(window, 56) == window
    assert minimum(window, 7) == Dim.of(7)
    assert str(minimum(window, 10)) == "min(10, window)"
    assert minimum(minimum(window, H), 10) == minimum(window, minimum(10, H))
    assert maximum(H, 1) == H
    crossing = size("x", 3, 7)
    assert minimum(crossing, 10 - crossing) == Dim.of(3)


def test_floor_that_is_exact():
    assert (k - 1) // 2 == (k - 1) / 2
    assert k // 2 == (k - 1) / 2
    assert k % 2 == Dim.of(1)
    assert H // 1 == H


def test_floor_lets_whole_terms_out():
    assert (H * window + k) // window == H + k // window
    assert (H + 5) // 2 == (H + 1) // 2 + 2
    assert floor(width * H + Fraction(5, 2)) == width * H + 2
    assert ((H + 1) // 2 + 1) // 2 == (H + 3) // 4
    assert H % 4 + H // 4 * 4 == H


def test_products_of_sums():
    assert width * (ratio + 1) == width * ratio + width
    assert str(width * (ratio + 1)) == "ratio*width + width"


def test_division_by_a_sum():
    x = 27 // window
    assert (x + 1) * (x + 1) / (x + 1) == x + 1
    y = size("y", 1, 2, 3)
    assert y / (y + 1) * (y + 1) == y
    assert (y * y - 4) / (y + 2) == y - 2
    assert str((y * y + 3) / (y + 1)) == "y - 1 + 4/(y + 1)"
    assert 1 / (1 / (y + H)) == y + H


def test_what_may_be_zero_does_not_cancel():
    zero = size("zero", 0, 2)
    assert zero / zero != Dim.of(1)
    assert zero * (1 / zero) == (1 / zero) * zero
    with pytest.raises(ZeroDivisionError):
        (zero / zero).at({"zero": 0})
    assert (zero / zero).at({"zero": 2}) == 1


@pytest.mark.parametrize("zero", [0, Dim.of(0), H - H])
def test_division_by_zero(zero):
    for divide in (PLAIN["/"], PLAIN["//"], PLAIN["%"]):
        with pytest.raises(ZeroDivisionError, match="divided by 0"):
            divide(Dim.of(0), zero)


def test_one_value_is_a_number():
    assert 30 // size("x", 16, 20) == Dim.of(1)
    x = size("x", 1, 2)
    assert conditional(compare("<", x, 2), 3 * x, x + 1) == Dim.of(3)


def test_conditionals():
    op = Symbol("op", ("wide", "narrow"))
    wide = is_value(op, "wide")
    dim = conditional(wide, 2 * width, width)
    assert str(dim) == "(2*width if op is wide else width)"
    assert dim == conditional(negate(wide), width, 2 * width)
    assert dim.at({"op": "narrow", "width": 192}) == 192
    assert dim.substitute({"op": "wide"}) == 2 * width
    assert {symbol.name for symbol in dim.symbols} == {"op", "width"}
    assert conditional(TRUE, H, W) == H
    assert conditional(FALSE, H, W) == W
    zero = size("zero", 0, 2)
    guarded = conditional(compare("==", zero, 0), 1, 8 / zero)
    assert guarded.at({"zero": 0}) == 1
    assert guarded.substitute({"zero": 0}) == Dim.of(1)


def test_decimals_are_exact():
    assert Dim.of(3.3).constant == Fraction(33, 10)
    assert (width * 3.3).at({"width": 192}) == Fraction(3168, 5)
    assert (width * ratio).at({"width": 192, "ratio": 3.5}) == 672
    with pytest.raises(ValueError, match="not a size"):
        Dim.of(math.inf)


def test_functions():
    assert rsqrt(64) == Dim.of(Fraction(1, 8))
    assert sqrt(Fraction(9, 4)) == Dim.of(1.5)
    assert power(8, Fraction(2, 3)) == Dim.of(4)
    assert power(H, 2) == H * H
    assert str(rsqrt(window)) == "rsqrt(window)"
    assert rsqrt(window).at({"window": 7}) == pytest.approx(7**-0.5)
    assert sqrt(size("x", 4, 9)).candidates() == (2, 3)
    assert sqrt(H).substitute({"H": 49}) == Dim.of(7)
    assert sqrt(2).constant is None
    assert sqrt(2).at({}) == pytest.approx(1.414213562)
    assert function("cos", 0) == Dim.of(1)
    with pytest.raises(ArithmeticError):
        sqrt(-1)


def test_text():
    assert str(12 - k) == "12 - k"
    assert str(H / 2) == "H/2"
    assert str(-(H // 2)) == "-(H//2)"
    assert str(3 * (H // 2) + 1) == "3*(H//2) + 1"
    assert str(Dim.of(Fraction(-7, 2))) == "-7/2"
    assert str(Dim.of(0)) == "0"
    assert str(size("encoder[3].heads") * 192) == "192*encoder[3].heads"


def test_errors():
    with pytest.raises(Unbound, match="window"):
        (window * H).at({"H": 3})
    with pytest.raises(TypeError):
        bool(H)
    with pytest.raises(TypeError):
        Dim.of(Symbol("op", ("a", "b")))
    with pytest.raises(TypeError):
        Dim.of(True)
    with pytest.raises(ValueError, match="free"):
        (window * H).candidates()
    many = [size(name, *range(1, 18)) for name in "pqr"]
    with pytest.raises(ValueError, match="4,913 points"):
        (many[0] * many[1] * many[2]).candidates()
    assert (many[0] * many[1] - many[2]).bounds() == (1 - 17, 17 * 17 - 1)


def test_a_replacement_must_be_a_candidate():
    with pytest.raises(ValueError, match="never 21"):
        window.substitute({"window": 21})
    with pytest.raises(ValueError, match="never 28"):
        minimum(window, H).substitute({"window": Symbol("other", (7, 28))})
    with pytest.raises(ValueError, match="never 0"):
        H.substitute({"H": 0})


def test_substitution_is_simultaneous():
    assert (H + 2 * W).substitute({"H": W, "W": H}) == W + 2 * H


def test_equality_with_numbers():
    assert Dim.of(3) == 3
    assert hash(Dim.of(3)) == hash(3)
    assert H != 3
