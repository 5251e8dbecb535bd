"""Numbers without a value for some architecture or batch are refused, and no others."""

from __future__ import annotations

import pytest

from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.canonical import canonical
from spacelang.ir.graph import Graph
from spacelang.ir.text import write
from spacelang.loader import load
from spacelang.syntax.ir_text import read
from spacelang.syntax.write import write_space

STEP = "block step(x: [B, C, H, W], rate) { return drop_path(x, rate) }\n"
TURNED = "block turned(x: [B, C, H, W]) { when B > 3 { x = relu(x) } return x }\n"
INVERSE = "block step(x: [B, C, H, W], n) { return drop_path(x, 0.1 / n) }\n"


def graph(body: str, before: str = "") -> Graph:
    text = (
        f"{before}space s {{\n input x: [B, 4, 8, 8]\n choose w in {{2, 4}}\n{body}\n output x\n}}"
    )
    return load(Source("s.space", text))


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        # Zero divides, or a function is outside of its domain, at w = 2.
        ("x = x * power(w - 2, -1)", "SP210", "w = 2"),
        ("x = x * power(w - 3, 0.5)", "SP210", "w = 2"),
        ("x = x * exp(400 * (5 - w))", "SP210", "w = 2"),
        ("x = x * rsqrt(w - 2)", "SP210", "w = 2"),
        ("x = x * log(w - 2)", "SP210", "w = 2"),
        ("when w > 2 { x = relu(x) } else { x = x * sqrt(w - 3) }", "SP210", "w = 2"),
        # Each function has a value, their product is no float.
        ("x = x * (exp(690) * exp(690))", "SP210", "larger than a float"),
        ("x = x * (exp(150 * w) * exp(150 * w))", "SP210", "w = 4"),
        # For one size of the batch.
        ("x = x / (B - 4)", "SP210", "B = 4"),
        ("x = x * (8 // (B // 2))", "SP210", "B = 1"),
        ("x = x * sqrt(B - 2)", "SP210", "B = 1"),
        ("x = x / (B - w)", "SP210", "B = 4, w = 4"),
        ("x = x / (B * B - B + 1)", "SP308", "a divisor is never zero"),
        ("x = x / exp(0 - 900)", "SP308", "too near to a bound for floats to tell"),
        ("x = x / exp(0 - 300 * w)", "SP308", "= it hangs on w\n"),
        # The batch is a size of shapes; a network is compiled once for all batches.
        ("x = x / (B + 4)", "SP308", "number of div must be known, not B + 4"),
        ("x = x * (w if w > 2 else B)", "SP308", "number of mul must be known"),
        ("x = drop_path(x, 0.5 / B)", "SP308", "rate of drop_path must be known"),
        ("x = layer_norm(x, eps: B) as norm", "SP308", "eps of layer_norm must be known"),
        ("x = conv(x, 4, 3, pad: B) as c", "SP308", "pad of conv must be known"),
        ("x = x * table([8]) |i| { return i + B }", "SP308", "a number in a table must be known"),
        ("when B > 3 { x = relu(x) }", "SP209", "B is any size, and decides nothing"),
        ("when w > 2 { x = relu(x) } else when B > w { x = gelu(x) }", "SP209", "decides nothing"),
        ("x = x if B > 3 else relu(x)", "SP209", "decides nothing"),
        ("x = turned(x)", "SP209", "]: B is any size, and decides nothing"),
        ("x = x * (2 if B > 3 else 1)", "SP209", "decides nothing"),
    ],
)
def test_what_has_no_value_somewhere(body: str, code: str, says: str) -> None:
    with pytest.raises(SpaceError) as failed:
        graph(body, TURNED)
    (found,) = failed.value.diagnostics
    assert found.code == code
    assert says in str(failed.value)
    assert found.primary.span.text in f"{body} {TURNED}"


LIVE = "when w == 2 { choose k in {3, 4} x = x * k }\n"
PART = "when w > 2 { choose k in {3, 6} require k / (w - 2) > 2 x = x * k }"
USED = f"block used(x: [B, C, H, W], w) {{ {PART} return x * w }}\n"


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ("require w > 2 and 8 / (w - 2) > 3", 1),
        ("require w > 2 and 8 / (w - 2) > 5", 0),
        ("require w == 2 or 8 / (w - 2) > 3", 2),
        ("require not (w == 2 or 8 / (w - 2) > 5)", 1),
        ("require (8 / (w - 2) > 3) if w > 2 else false", 1),
        ("let far = w > 2 and log(w - 2) > 0\n require far", 1),
        ("when w > 2 { require 8 / (w - 2) > 3 }", 2),
        (PART, 2),
        ("x = used(x, w)", 2),
        (f"{LIVE} require 1 / (k - w) < 1", 2),
        ("require params <= 0 and w > 2 and sqrt(w - 3) >= 1", 1),
    ],
)
def test_a_limit_is_read_where_what_stands_before_it_holds(body: str, size: int) -> None:
    """Counts equal those of the text read in Python's order; also of the IR, and of a budget."""
    made = graph(body, USED)
    assert made.size() == size
    assert read(Source("s.spaceir", write(made))).size() == size
    assert canonical(made).size() == size
    if size:
        assert load(Source("t.space", write_space(made))).size() == size
    if body.startswith("require"):
        assert graph("").size(body.removeprefix("require ").replace("params <= 0 and ", "")) == size


@pytest.mark.parametrize(
    "limit", ["8 / (w - 2) > 3", "8 / (w - 2) > 3 and w > 2", "w > 1 and sqrt(w - 3) > 0"]
)
def test_a_limit_without_a_value_somewhere(limit: str) -> None:
    with pytest.raises(SpaceError, match="SP210"):
        graph(f"require {limit}")
    with pytest.raises(SpaceError, match="SP210"):
        graph("").size(limit)


@pytest.mark.parametrize(
    ("calls", "before", "code", "says"),
    [
        ("for i in 0..1 { x = step(x, i) as step[i] }", INVERSE, "SP210", "at step[0]"),
        ("for i in 1..2 { x = step(x, i / (4 * B)) as step[i] }", STEP, "SP308", "1/(4*B)"),
    ],
)
def test_a_rate_is_told_where_a_call_gives_it(
    calls: str, before: str, code: str, says: str
) -> None:
    with pytest.raises(SpaceError) as failed:
        graph(calls, before)
    assert failed.value.diagnostics[0].code == code
    assert says in str(failed.value)


@pytest.mark.parametrize(
    "body",
    [
        "when w > 3 { x = x * sqrt(w - 3) * rsqrt(w - 3) * log(w - 3) * power(w - 2, -1) }",
        "x = x * (sqrt(w - 3) if w > 2 else 1)",
        "when w < 3 { x = x * (exp(150 * w) * exp(150 * w)) }",
        "when w > 2 and log(w - 2) > 0 { x = relu(x) }",
        "for i in 0..1 { x = step(x, i) as step[i] }",
        "x = rearrange(x, \"b c h w -> (b c) h w\") |> rearrange(\"(b c) h w -> b c h w\", b: B)",
        "x = x + expand(parameter([1, 4, 1, 1]) as bias, [B, 4, 8, 8])",
        "when B > 0 { x = relu(x) }",
    ],
)  # fmt: skip
def test_what_has_a_value_wherever_it_is_read(body: str) -> None:
    guarded = "block step(x: [B, C, H, W], n) { return drop_path(x, 0.1 / n if n > 0 else 0) }\n"
    made = graph(body, guarded)
    model = Supernet(made, seed=0)
    assert made.size() == 2
    for w in (2, 4):
        model.activate({"w": w})
        model.extract({"w": w})
