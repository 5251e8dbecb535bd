"""Whole programs through `load`: a graph or a SpaceError, never another exception, never a wait.

Half of the texts are small programs with tokens exchanged for others of their kind, so that nearly all
of them parse; half are grown from the grammar of statements and expressions.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from spacelang.analysis.space import lints
from spacelang.diagnostics import CODES, Report, Source, SpaceError
from spacelang.explain import examples
from spacelang.grammars.loader import tables
from spacelang.ir.verify import verify
from spacelang.loader import from_scope
from spacelang.syntax.parse import parse
from spacelang.syntax.scope import Library
from spacelang.syntax.tokens import scan
from spacelang.syntax.values import SpaceValue

RUNS, TEXTS = 6, 900
TABLES = tables("space")

SEEDS = [
    """
    use vit
    block attention(x: [B, N, C], heads, dim = 8) -> [B, N, C] {
      q, k, v = linear(x, [3, heads, dim]) as qkv |> unstack(axis: 2)
      return linear(weigh(softmax(scores(q, k) * rsqrt(dim)), v), C, axes: 2) as proj
    }
    space s(image = 16, classes = 4) {
      input pixels: [B, 3, image, image]
      choose width in {16, 24} within {8, 16, 24}
      choose depth in 1..3
      block encoder(x: [B, N, width], drop) -> [B, N, width] {
        choose heads in {1, 2}
        choose ratio in {1, 1.5}
        x = x + (layer_norm(x) as n1 |> attention(heads) as attn |> drop_path(drop))
        return x + (layer_norm(x) as n2 |> mlp(width * ratio) as mlp)
      }
      x = patch_embed(pixels, width, patch: 4) as embed |> tokens |> prepend_token as _
      for i in 0..<depth { x = encoder(x, drop: 0.1 * i / 2) }
      output mean(x[:, 1..], axes: [1]) |> linear(classes) as head
      weights { _: entangle  width: store(32)  encoder[_].attn.qkv.bias: entangle(flat) }
      names published { encoder[i]: blocks[i] }
      require sum(encoder[_].heads) <= 5 and depth >= 1
    }
    """,
    """
    block unit(x: [B, C, H, W], kernel, stride) -> [B, C, H / stride, W / stride] {
      return relu(x) |> conv(C, kernel, stride: stride, groups: C) as a |> batch_norm as b
    }
    block edge(x: [B, C, H, W], stride) -> [B, C, H / stride, W / stride] {
      return choose op {
        pool: max_pool(x, 3, stride: stride)
        skip: skip(x, stride) as _
        k3: unit(x, 3, stride) as _
        none: zero(x, stride: stride)
      }
    }
    block skip(x: [B, C, H, W], stride) {
      when stride == 1 { return x } else { return conv(x, C, stride: stride) as c }
    }
    cell normal(a, b) {
      states = [a, b]
      for n in 0..1 {
        choose inputs[n] in 2 of states
        y = total(inputs) |s, source, e| { return edge(s, 1) as dag[n][e] }
        states = states + [y]
      }
      return concat(states[2..3], axis: 1) |> conv(4) as join
    }
    space s {
      input x: [B, 4, 8, 8]
      a, b = normal(x, x) as c[0], x
      a = normal(a, b) as c[1]
      require c[0].none == 1 or normal.dag[0][0].op != none
      output mean(a, axes: [2, 3])
    }
    """,
    """
    block branch(x: [B, H, W, C], window, shifted) -> [B, H, W, C] {
      let w = min(window, H)
      mask = none
      when shifted and H > window { mask = shift_mask(H, W, w, w // 2) as mask }
      y = rearrange(x, "b (y p) (x q) c -> b (y x) (p q) c", p: w, q: w)
      s = einsum("bgic,bgjc->bgij", y, y)
      when mask != none { s = s + mask[:, 0] }
      o = einsum("bgij,bgjc->bgic", softmax(s), y)
      return rearrange(o, "b (y x) (p q) c -> b (y p) (x q) c", y: H / w, p: w, q: w)
    }
    space s(widths = [8, 16]) {
      input x: [B, 8, 8, 8]
      for s, width in enumerate(widths) {
        choose window[s] in {2, 4}
        x = branch(x, window, s % 2 == 1) as layers[s] |> linear(width) as up[s]
        when s == 0 { let k = 1 } else when s == 1 { let k = 2 } else { let k = 3 }
      }
      parts = split(x, 2, axis: 3)
      y = cascade(parts, axis: 3) |i, part| { return linear(part, 8) as head[i] }
      t = total([relu(p) for p in parts]) + parts[0]
      output concat([y, t], axis: 3) |> mean(axes: [1, 2])
      output extra: y
      weights { _: separate  layers[_]: tie }
      search evolution { population = 8  rates = [0.1, 0.2]  where = "params <= 1M" }
    }
    """,
    """
    let base = 4
    default linear(bias: false)
    space a(width, expand = 2, act = true) {
      input ids: [B, 8] in 0..<32
      table1 = parameter([32, width]) as table
      x = take(table1, ids)
      for i in reversed(0..2) {
        x = x + linear(x, width * expand) as up[i] |> linear(width) as down[i]
      }
      when act { x = gelu(x) } else { x = relu(x) }
      choose tail in {true, false}
      when tail { x = x * 2 - 1 }
      output linear(x, 32, weight: table1) |> mean(axes: [1])
      weights { _: entangle }
    }
    space b = a(choose {base, 2 * base}, expand: choose {1, 2})
    space c from b {
      require params in 0..1M  require width * 2 <= 16
      weights { up[_]: tie(every: 2) }
    }
    subnet d of b { width = 8  expand = 2  tail = true }
    """,
]
CORPUS = [*SEEDS, *(e.text for c in CODES for e in examples(c) if not e.code.startswith("SP1"))]


def listed(text: str) -> list[str]:
    return text.split()


NAMES = listed("""
x y s a b width depth heads i k none true false B C H W N linear conv einsum relu softmax layer_norm
batch_norm concat split unstack rearrange mean max_pool take parameter expand zero drop_path len sum
min max floor power sqrt log largest zip enumerate reversed total cascade table exp entangle separate
tie store mlp params macs
""")
OPS = NAMES[18:33]
NUMBERS = listed("0 1 2 3 4 7 8 16 64 0.5 1.5 1K 5M 100000 9223372036854775807")
STRINGS = ['"bij,bjk->bik"', '"b c h w -> b (h w) c"', '"b (h p) -> b h p"', '"..."', '""']
OPERATORS = listed("+ - * / // % == != < <= > >= in and or |>")


def words_of(text: str) -> list[tuple[str, str]]:
    tokens = scan(Source("corpus", text), TABLES, Report()).tokens[:-1]
    return [(token.kind, token.text) for token in tokens]


WORDS = [words_of(text) for text in CORPUS]
BY_KIND: dict[str, list[str]] = {"NAME": list(NAMES), "NUMBER": NUMBERS, "STRING": STRINGS}
for _kind, _text in {pair for words in WORDS for pair in words}:
    BY_KIND.setdefault(_kind, []).append(_text)


def mutant(source: random.Random) -> str:
    words = list(source.choice(WORDS))
    for _ in range(source.choice([1, 1, 2, 2, 3, 6])):
        at = source.randrange(len(words))
        kind, text = words[at]
        roll = source.random()
        if text in OPERATORS and roll < 0.8:
            words[at] = (kind, source.choice(OPERATORS))
        elif roll < 0.6:  # a word of the same text: most are known where it stands
            words[at] = (kind, source.choice([t for k, t in words if k == kind]))
        elif roll < 0.8:
            words[at] = (kind, source.choice(BY_KIND[kind]))
        elif roll < 0.9:
            other = source.choice(WORDS)
            start = source.randrange(len(other))
            words[at:at] = other[start : start + source.choice([1, 2, 4])]
        else:
            del words[at]
        if not words:
            return ""
    return " ".join(text for _, text in words)


class Grower:
    """Texts of the grammar, names drawn from what may be bound."""

    def __init__(self, source: random.Random) -> None:
        self.source, self.depth = source, 0

    def pick(self, *options: Callable[[], str]) -> str:
        """One of some forms; deep inside the first, which is short."""
        self.depth += 1
        made = (options[0] if self.depth > 5 else self.source.choice(options))()
        self.depth -= 1
        return made

    def name(self) -> str:
        return self.source.choice(NAMES)

    def number(self) -> str:
        return self.source.choice(NUMBERS)

    def many(self, make: Callable[[], str], between: str = ", ", most: int = 3) -> str:
        return between.join(make() for _ in range(self.source.randrange(1, most + 1)))

    def path(self) -> str:
        hop = self.source.choice(["", f"[{self.name()}]", "[_]", "[0]", f"[{self.expr()}]"])
        return self.source.choice(["", "_.", "x."]) + self.name() + hop

    def expr(self) -> str:
        e, n = self.expr, self.name
        return self.pick(
            n, self.number, n,
            lambda: self.source.choice(STRINGS),
            lambda: f"({e()} {self.source.choice(OPERATORS[:-1])} {e()})",
            lambda: f"(-{e()})",
            lambda: f"(not {e()})",
            lambda: f"({e()} if {e()} else {e()})",
            lambda: f"({e()}..{e()})", lambda: f"({e()}..<{e()} by {self.number()})",
            lambda: f"[{self.many(e)}]", lambda: f"{{{self.many(e)}}}",
            lambda: f"[{e()} for {n()} in {e()}]",
            lambda: f"{n()}({self.many(e)})", lambda: f"{n()}({self.many(e)}, {n()}: {e()})",
            lambda: f"{n()}({e()}) as {self.path()}",
            lambda: f"{e()} |> {n()}({e()})",
            lambda: f"{n()}[{self.many(self.index)}]",
            lambda: f"choose {n()} {{ a: {e()} b: {e()} }}", lambda: f"choose {{{self.many(e)}}}",
            lambda: f"total({e()}) |x, s, e| {{ return {e()} }}",
        )  # fmt: skip

    def index(self) -> str:
        return self.pick(self.number, lambda: ":", lambda: f"{self.number()}..", self.expr)

    def body(self) -> str:
        return "{ " + self.many(self.statement, " ", 4) + " }"

    def statement(self) -> str:
        e, n = self.expr, self.name
        return self.pick(
            lambda: f"x = {e()}",
            lambda: f"let {n()} = {e()}",
            lambda: f"{n()}, {n()} = {e()}",
            lambda: f"choose {n()} in {e()}", lambda: f"choose {n()}[{e()}] in {e()} within {e()}",
            lambda: f"choose {n()} in {self.number()} of {e()}",
            lambda: f"for {n()} in {e()} {self.body()}",
            lambda: f"when {e()} {self.body()} else {self.body()}",
            lambda: f"return {e()}",
            lambda: f"require {e()}",
            lambda: f"block {n()}(x: [B, C], {n()}) -> [B, {e()}] {self.body()}",
            lambda: f"cell {n()}(x) {{ return {e()} }}",
            lambda: f"weights {{ {self.path()}: {e()} }}",
            lambda: f"rewrite {{ {self.source.choice(['multiplex', 'irpe', 'relax'])}({e()}) }}",
            lambda: f"names p {{ {self.path()}: {self.path()} }}",
            lambda: f"search evolution {{ {n()} = {e()} }}",
            lambda: f"default {self.source.choice(OPS)}({n()}: {e()})",
            lambda: f"output {n()}: {e()}",
            lambda: f"input {n()}: [B, {e()}]",
        )  # fmt: skip

    def program(self) -> str:
        statements = self.many(self.statement, "\n  ", 6)
        return (
            "block f(x: [B, C], k) -> [B, C] { return linear(x, C) as fc }\n"
            f"space s(width = 8, n = {self.number()}) {{\n  input x: [B, 8]\n"
            f"  choose heads in {{2, 4}}\n  choose depth in 1..3\n  {statements}\n"
            f"  output {self.expr()}\n}}"
        )


def outcome(text: str) -> set[str]:
    """The codes that the spaces and subnets of a text are refused with.

    A graph that loads keeps every invariant and can be linted.
    """
    source = Source("<fuzz>", text)
    library = Library(None)
    try:
        scope = library.scope(parse(source), None)
    except SpaceError as refused:
        return codes_of(refused)
    found: set[str] = set()
    for name in [n for n, value in scope.names.items() if isinstance(value, SpaceValue)] or [""]:
        try:
            graph = from_scope(scope, name, source, library, {})
        except SpaceError as refused:
            found |= codes_of(refused)
            continue
        report = Report()
        verify(graph, report)
        found |= {f"verifier: {broken.headline}" for broken in report.errors}
        lints(graph)
    return found


def codes_of(refused: SpaceError) -> set[str]:
    drawn = str(refused)
    codes = {diagnostic.code for diagnostic in refused.diagnostics}
    return codes if drawn else {"a refusal without a word"}


@pytest.mark.parametrize("run", range(RUNS))
def test_programs(run: int) -> None:
    source = random.Random(run)
    codes: set[str] = set()
    loaded = 0
    for number in range(TEXTS):
        text = mutant(source) if number % 2 else Grower(source).program()
        found = outcome(text)
        assert found <= CODES.keys(), (text, found)
        codes |= found
        loaded += not found
    # The texts reach far into the elaborator, and some are right.
    assert len(codes) > 20
    assert loaded > TEXTS // 20
