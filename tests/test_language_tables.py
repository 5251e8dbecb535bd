"""`table(shape) |i, j| { number }`: values in every backend, proofs of entries, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from counting import calls_at_most
from torch import Tensor

import spacelang
from spacelang.backends.torch.printing.source import print_network
from spacelang.backends.torch.reference.interpret import interpret
from spacelang.backends.torch.subnets.subnet import module_of
from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.graph import Graph
from spacelang.ir.text import write
from spacelang.loader import load
from spacelang.ops.formula import WORDS, entry_at, entry_of, formula, mistake
from spacelang.passes.specialize import specialize
from spacelang.syntax.ir_text import read

SHAPES = """
block causal(n) { return table([n, n]) |i, j| { return 0 if j <= i else -10000 } }

block sinusoidal(T, D) {
  return table([T, D]) |t, c| {
    let turns = t / power(10000, c // 2 * 2 / D)
    return sin(turns) if c % 2 == 0 else cos(turns)
  }
}

block rotary(x: [B, T, H, D]) -> [B, T, H, D] {
  let half = D / 2
  c = table([T, 1, half]) |t, k, i| { return cos(t / power(10000, i / half)) }
  s = table([T, 1, half]) |t, k, i| { return sin(t / power(10000, i / half)) }
  a = x[.., 0..<half]
  b = x[.., half..]
  return concat([a * c - b * s, a * s + b * c], axis: -1)
}

block alibi(heads, n) {
  return table([heads, n, n]) |h, i, j| { return -abs(i - j) * power(2, -8 * (h + 1) / heads) }
}

block offsets(h, w) {
  return table([h * w, h * w], index: true) |i, j| {
    return (i // w - j // w + h - 1) * (2 * w - 1) + i % w - j % w + w - 1
  }
}

block clipped(h, w, reach) {
  return table([h * w, h * w], index: true) |i, j| {
    return max(-reach, min(reach, j // w - i // w)) + reach + 1
  }
}

block seams(H, W, w, shift) {
  return table([H * W / (w * w), 1, w * w, w * w]) |g, u, a, b| {
    let rows = H - w
    let y = g // (W / w) * w
    let x = g % (W / w) * w
    let p = [y + a // w, x + a % w, y + b // w, x + b % w]
    let parts = [(1 if n >= size - w else 0) + (1 if n >= size - shift else 0)
                 for n, size in zip(p, [H, W, H, W])]
    return 0 if parts[0] == parts[2] and parts[1] == parts[3] else -100
  }
}
"""


def text(output: str, before: str = "") -> str:
    return f"{SHAPES}\nspace s {{\n  input x: [B, 12, 8]\n{before}\n  output {output}\n}}\n"


def graph(output: str, before: str = "") -> Graph:
    return load(Source("<tables>", text(output, before)))


def shown(name: str, call: str) -> Tensor:
    """The values of a table alone."""
    found = graph(f"{call} + mean(x, axes: [0, 1, 2]) * 0")
    image = torch.zeros(1, 12, 8)
    module = spacelang.compile(found)(image)
    oracle = interpret(found, {}, [image])["output"]
    assert module.shape == oracle.shape, name
    assert torch.allclose(module, oracle, rtol=0, atol=1e-6), name
    return module


def test_causal_mask() -> None:
    wanted = torch.full((5, 5), -10000.0).triu(1)
    assert torch.equal(shown("causal", "causal(5)"), wanted)


def test_sinusoidal_positions() -> None:
    wanted = torch.tensor(
        [
            [
                (math.sin if c % 2 == 0 else math.cos)(t / 10000 ** (c // 2 * 2 / 6))
                for c in range(6)
            ]
            for t in range(9)
        ]
    )
    assert torch.allclose(shown("sinusoidal", "sinusoidal(9, 6)"), wanted, rtol=0, atol=1e-6)


def test_alibi() -> None:
    made = shown("alibi", "alibi(4, 6)")
    for h, i, j in ((0, 0, 5), (3, 4, 1), (2, 2, 2)):
        assert made[h, i, j].item() == pytest.approx(-abs(i - j) * 2 ** (-2 * (h + 1)))


def test_rotary_turns_pairs_of_channels() -> None:
    found = graph('rotary(rearrange(x, "b t (h d) -> b t h d", h: 2))')
    x = torch.randn(2, 12, 8)
    made = spacelang.compile(found)(x)
    assert torch.allclose(interpret(found, {}, [x])["output"], made, atol=1e-6)
    pairs = x.reshape(2, 12, 2, 4)
    angle = torch.arange(12.0).reshape(12, 1, 1) / 10000 ** (torch.arange(2.0) / 2)
    turned = torch.view_as_complex(torch.stack(pairs.chunk(2, -1), -1)) * torch.polar(
        torch.ones_like(angle), angle
    )
    assert torch.allclose(torch.view_as_real(turned).transpose(-1, -2).flatten(-2), made, atol=1e-5)


@pytest.mark.parametrize(
    ("ours", "op"),
    [
        ("offsets(3, 4)", "offset_index(3, 4)"),
        ("clipped(3, 4, 2)", "clipped_index(3, 4, axis: 0, reach: 2)"),
    ],
)
def test_index_tables_are_expressible(ours: str, op: str) -> None:
    """The index ops as blocks of a few lines: equal tables, read by `take`."""
    entries = "parameter([64, 1], init: 0) as rows"
    tables: list[Tensor] = []
    for call in (ours, op):
        found = graph(f"take({entries}, {call})")
        module = spacelang.compile(found)
        with torch.no_grad():
            module.stored_tensor("rows").copy_(torch.arange(64.0).unsqueeze(1))
        tables.append(module(torch.zeros(1, 12, 8)))
    assert torch.equal(*tables)


def test_the_mask_of_a_shift_is_expressible() -> None:
    ours = shown("seams", "seams(8, 12, 4, 2)")
    assert torch.equal(ours, shown("shift", "shift_mask(8, 12, 4, 2)"))
    assert 0 < (ours == 0).float().mean() < 1


ELASTIC = text(
    "linear(y, 8, axes: 2) as proj",
    """
  choose heads in {2, 4}
  choose reach in {1, 3}
  q, k, v = linear(x, [3, heads, 8]) as qkv |> unstack(axis: 2)
  far = table([12, 12]) |i, j| { return -10000 if abs(i - j) > reach else 0 } as window
  a = softmax(einsum("bihd,bjhd->bhij", q, k) + alibi(heads, 12) as slopes + far)
  y = einsum("bhij,bjhd->bihd", a, v)
  weights { _: entangle }
""",
)


def imported(source: str, path: Path) -> torch.nn.Module:
    """The network of a printed source, in a file of its own."""
    path.write_text(source, "utf-8")
    return module_of(path).Network()


def test_sizes_by_decision_everywhere(tmp_path: Path) -> None:
    """Supernet, interpreter, extracted, specialised and printed network agree at every subnet."""
    space = load(Source("<elastic>", ELASTIC))
    assert read(Source("<ir>", write(space))) == space
    model = spacelang.compile(space, seed=1)
    x = torch.randn(2, 12, 8)
    weights = {path: model.stored_tensor(path).detach() for path in space.storages}
    results: set[float] = set()
    for heads in (2, 4):
        for reach in (1, 3):
            chosen = {"heads": heads, "reach": reach}
            model.activate(chosen)
            made = model(x)
            results.add(round(made.sum().item(), 4))
            assert torch.allclose(interpret(space, weights, [x], chosen)["output"], made, atol=1e-5)
            assert torch.allclose(model.extract(chosen)(x), made, atol=1e-6)
            network = imported(print_network(model, chosen), tmp_path / f"n{heads}{reach}.py")
            network.load_state_dict(model.extract(chosen).state_dict(), strict=False)
            assert torch.allclose(network(x), made, atol=1e-6)
            fixed = specialize(space, chosen)
            assert not fixed.decisions
            assert read(Source("<ir>", write(fixed))).hash == fixed.hash
    assert len(results) == 4


def test_a_labelled_table_is_a_buffer() -> None:
    model = spacelang.compile(graph("x + table([12, 8]) |t, c| { return t * 8 + c } as places"))
    assert torch.equal(model.state_dict()["places"], torch.arange(96.0).reshape(12, 8))


def test_names_of_indices_mean_nothing() -> None:
    one = graph("x + table([12, 8]) |t, c| { return t * c - max(t, c) }")
    two = graph("x + table([12, 8]) |z, a| { return z * a - max(z, a) }")
    assert one.hash == two.hash


def test_a_table_costs_nothing() -> None:
    assert graph("x + alibi(12, 12)[0..11, 0, 0..7]").cost().macs == 0


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("table([12, 8]) |i, j| { return 1 / (i - j) }", "SP210", "divides by zero"),
        ("table([12, 8]) |i, j| { return log(i) }", "SP210", "has no value"),
        ("table([5000, 8]) |i, j| { return 1 / i }", "SP210", "divides by zero"),
        (
            "table([5000, 3000]) |i, j| { return 1 / (i*i - 2*j*j - 3) }",
            "SP308",
            "a divisor is never zero",
        ),
        ("table([12, 8]) |i| { return i }", "SP306", "2 axes, 1 names"),
        ("table([12, 8])", "SP204", "needs a region"),
        ("table([12, 8], 3) |i, j| { return i }", "SP204", "has a shape"),
        ("table([]) |i| { return i }", "SP204", "an axis at least"),
        ("table([12, 8]) |i, j| { return x }", "SP209", "an entry is a number, not a tensor"),
        ("table([12, 8]) |i, j| { y = relu(x) return i }", "SP209", "computation on tensors"),
        ("table([12, 8]) |i, j| { return [1, 2][i] }", "SP308", "no one number"),
        ("table([12, 8], index: true) |i, j| { return i / 2 }", "SP302", "must be whole"),
        ("table([12, 8], index: true) |i, j| { return i - j }", "SP307", "at least 0"),
        ("table([70000, 8]) |i, j| { return i }", "SP507", "at most"),
        ("table([60000, 60000]) |i, j| { return i }", "SP507", "at most"),
        ("table([12, 8]) |i, j| { return i } as _", "SP207", "no scope"),
        ("take(x, table([12]) |i| { return i })", "SP209", "must be whole numbers"),
    ],
)
def test_what_is_refused(body: str, code: str, says: str) -> None:
    with pytest.raises(SpaceError) as failed:
        graph(f"x + {body}" if not body.startswith("take") else body)
    (found,) = failed.value.diagnostics
    assert found.code == code
    assert says in found.headline
    assert found.primary.span.source.name == "<tables>"


def test_an_entry_that_breaks_for_a_place_names_it() -> None:
    with pytest.raises(SpaceError) as failed:
        graph("x + table([12, 8]) |row, j| { return 1 / (row - 3) }")
    assert "first disagreement: row = 3" in str(failed.value)


@pytest.mark.parametrize("places", [4, 6000])
def test_only_the_side_that_is_taken_needs_a_value(places: int) -> None:
    """Where places are tried one by one, and where there are too many."""
    entry = "(8 / i if i > 0 else 0) + (1 if i > 1 and 8 / (i - 1) > 6 else 0)"
    made = shown("sides", f"table([{places}]) |i| {{ return {entry} }}")
    assert torch.allclose(made[:4], torch.tensor([0, 8, 5, 8 / 3]), rtol=0, atol=1e-6)


def test_a_chain_of_conditions_looks_at_each_place_a_few_times() -> None:
    """Nested `if`s over an index: each condition is tried at each place, and not all before it."""
    entry = "40"
    for n in reversed(range(40)):
        entry = f"({n} if i < {n + 1} else {entry})"
    index = f"table([500], index: true) |i| {{ return {entry} }}"
    with calls_at_most(4_000_000):  # it takes 2.4 million; with all before each, 18
        graph(f"take(parameter([41, 8]) as rows, {index})")


# Formulas.


def test_formulas_are_exact() -> None:
    i, j = Symbol("%0i", tuple(range(100))), Symbol("%1j", tuple(range(100)))
    n = Symbol("n", (3, 5))
    a, b = Dim.of(i), Dim.of(j)
    cases: list[tuple[Dim, Callable[[int, int, int], object]]] = [
        (a * 29 / 100, lambda x, y, m: x * 29 / 100),
        ((a * 29) // 100, lambda x, y, m: x * 29 // 100),
        (a * b / 7 + n, lambda x, y, m: x * y / 7 + m),
        ((a + b) % n, lambda x, y, m: (x + y) % m),
        (a / (b + 1) / n, lambda x, y, m: x / (y + 1) / m),
    ]
    for dim, python in cases:
        words, sizes = formula(dim, (i, j))
        assert mistake(words, 2, len(sizes)) == ""
        for x, y, m in ((0, 0, 3), (99, 7, 5), (50, 98, 3)):
            known = [size.at({"n": m}) for size in sizes]
            assert float(entry_at(words, (x, y), known)) == pytest.approx(python(x, y, m))


@pytest.mark.parametrize("word", WORDS)
def test_a_word_means_the_same_as_a_number_and_as_a_size(word: str) -> None:
    symbols = [Symbol(f"%{n}", (1, 2, 3)) for n in range(WORDS[word].takes)]
    words = " ".join([*(f"i{n}" for n in range(len(symbols))), word])
    size = entry_of(words, [Dim.of(symbol) for symbol in symbols], [])
    for place in product((1, 2, 3), repeat=len(symbols)):
        known = {symbol.name: value for symbol, value in zip(symbols, place, strict=True)}
        assert float(entry_at(words, place, [])) == float(size.at(known))


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("", "it leaves no values"),
        ("1 2", "it leaves 2 values"),
        ("1 +", "+ lacks an operand"),
        ("i2", "it has no i2"),
        ("n0", "it has no n0"),
        ("__import__", "__import__ is no word"),
        ("1/0", "1/0 is no word"),
        ("1 " * 3000, "it has more than 2,000 words"),
    ],
)
def test_words_of_strangers_are_checked(words: str, wrong: str) -> None:
    assert mistake(words, 2, 0) == wrong


def test_ir_text_with_a_wrong_formula_is_refused() -> None:
    found = write(graph("x + table([12, 8]) |i, j| { return i - j }"))
    with pytest.raises(SpaceError, match="no value"):
        read(Source("<ir>", found.replace('formula="', 'formula="+ ')))
