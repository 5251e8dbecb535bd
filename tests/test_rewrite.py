"""Pattern rules: what they match, what they leave, where they come to an end."""

from __future__ import annotations

import pytest

from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.graph import Graph
from spacelang.ir.rewrite import Shape, find, parse_shape, rewrite, rule, single_use
from spacelang.syntax.ir_text import read

TEXT = """
spaceir 1
graph base
block mlp {
  size %B
  param fc1.weight: [16, 8] = linear
  param fc1.bias: [16] = linear_bias undecayed
  param fc2.weight: [8, 16] = linear
  param fc2.bias: [8] = linear_bias undecayed
  %0: [%B, 8] = input() as x
  %1: [%B, 16] = linear(%0, out=16) {weight=fc1.weight[0:16][0:8], bias=fc1.bias[0:16]} as fc1
  %2: [%B, 16] = gelu(%1)
  %3: [%B, 8] = linear(%2, out=8) {weight=fc2.weight[0:8][0:16], bias=fc2.bias[0:8]} as fc2
  yield %3
}
root base {
  decide presence depth in {1, 2}
  %0: [B, 8] = input() as x
  %1: [B, 8] = call mlp(%0) [%B=B] as mlps[0]
  %2: [B, 8] = guard(%1)
    when depth > 1 {
      %3: [B, 8] = input()
      %4: [B, 8] = call mlp(%3) [%B=B] as mlps[1]
      %5: [B, 8] = relu(%4)
      %6: [B, 8] = relu(%5)
      yield %6
    }
  %7: [B, 8] = add(%2, %2)
  %8: [B, 8] = sub(%7, %0)
  yield %8
}
output %8 as output
rule "_" entangle
"""


@pytest.fixture(scope="module")
def base() -> Graph:
    return read(Source("base.spaceir", TEXT))


@rule("linear(x) as fc1 |> gelu |> linear as fc2", where=single_use)
def gated(at, x, fc1, fc2):
    """An MLP whose hidden layer is gated by a third matrix."""
    hidden = fc1.attributes["out"]
    gate = at.one("swish", [at.one("linear", [x], {"out": hidden}, label="gate")])
    value = at.one("linear", [x], {"out": hidden}, label="fc1")
    return at.one(
        "linear", [at.one("mul", [gate, value])], {"out": fc2.attributes["out"]}, label="fc2"
    )


@rule("relu(x) |> relu as second")
def once(at, x, second):
    return at.one("relu", [x])


@rule("add(x, x)")
def doubled(at, x):
    return at.one("mul", [x], {"number": 2})


def test_a_chain_is_replaced_everywhere(base):
    made = rewrite(base, gated)
    assert [s.rule for s in made.steps] == ["gated"]
    ops = [n.op for n in made.graph.blocks["mlp"].nodes]
    assert ops == ["input", "linear", "swish", "linear", "mul", "linear"]
    found = {p: s.shape for p, s in made.graph.storages.items()}
    assert found["mlps[1].gate.weight"] == ((16,), (8,))
    assert found["mlps[0].fc2.weight"] == ((8,), (16,))
    assert len(found) == 12
    assert base.blocks["mlp"].by_id[2].op == "gelu"


def test_provenance_and_spans(base):
    made = rewrite(base, gated)
    (step,) = made.steps
    nodes = {n.id: n for n in made.graph.blocks["mlp"].nodes}
    assert len(step.made) == 5
    for id, node in nodes.items():
        assert made.origin("mlp", id) == ("gated" if id in step.made else "")
        if id in step.made:
            assert node.span == step.span
            assert node.span.text.startswith("%3: [%B, 8] = linear(%2")


def test_inside_regions_and_the_same_value_twice(base):
    made = rewrite(base, once, doubled)
    region = made.graph.root.by_id[2].regions[0]
    assert [n.op for n in region.nodes] == ["input", "call", "relu"]
    assert [n.op for n in made.graph.root.nodes] == ["input", "call", "guard", "mul", "sub"]
    assert {s.rule for s in made.steps} == {"once", "doubled"}


def test_a_variable_twice_is_one_value(base):
    @rule("sub(x, x)")
    def nothing(at, x):
        return at.one("mul", [x], {"number": 0})

    assert rewrite(base, nothing).graph is base
    assert rewrite(base, nothing).steps == ()


def test_blocks_by_name(base):
    @rule("mlp(x)")
    def flat(at, x, mlp):
        assert mlp.call.block == "mlp"
        return at.one("linear", [x], {"out": x.shape[-1]}, label=mlp.label)

    made = rewrite(base, flat).graph
    assert made.blocks == {}
    assert sorted(made.storages) == [f"mlps[{i}].{r}" for i in range(2) for r in ("bias", "weight")]


def test_where_and_none_leave_the_graph(base):
    @rule("linear(x) |> gelu", where=lambda match: match.root.label == "nowhere")
    def never(at, x):
        raise AssertionError

    @rule("gelu(x)")
    def refused(at, x):
        at.one("relu", [x])

    assert rewrite(base, never, refused).graph is base


def test_single_use(base):
    text = TEXT.replace("yield %3\n}", "%9: [%B, 16] = relu(%2)\n yield %3\n}", 1)
    shared = read(Source("t", text))
    assert rewrite(shared, gated).steps == ()
    assert len(rewrite(base, gated).steps) == 1


def test_what_is_still_read_stays():
    """Without `single_use` the inner nodes that others read are kept, and their parameters."""

    @rule("linear(x) as fc1 |> gelu")
    def activated(at, x, fc1):
        y = at.one("linear", [x], {"out": fc1.attributes["out"]}, label="new")
        return at.one("relu", [y])

    @rule("linear(x) as fc1 |> gelu")
    def again(at, x, fc1):
        return at.one("relu", [at.one("linear", [x], {"out": 16}, label="fc1")])

    text = TEXT.replace("yield %3\n}", "%9: [%B, 16] = relu(%1)\n yield %3\n}", 1)
    shared = read(Source("t", text))
    made = rewrite(shared, activated).graph
    assert {"mlps[0].fc1.weight", "mlps[0].new.weight"} <= set(made.storages)
    with pytest.raises(SpaceError, match=r"two parameters called fc1\.(bias|weight)"):
        rewrite(shared, again)


def test_no_end(base):
    @rule("add(x, y)")
    def swapped(at, x, y):
        return at.one("add", [y, x])

    with pytest.raises(SpaceError, match="SP601"):
        rewrite(base, swapped, limit=20)


def chained(*ops: str) -> Graph:
    """Ops in a row."""
    names = ["input", *ops]
    lines = [f"%{i}: [B, 8] = {names[i]}(%{i - 1})" for i in range(1, len(names))]
    body = "\n  ".join(lines)
    text = f"""
spaceir 1
graph chain
root chain {{
  %0: [B, 8] = input() as x
  {body}
  yield %{len(ops)}
}}
output %{len(ops)} as output
rule "_" entangle
"""
    return read(Source("chain.spaceir", text))


def test_what_a_rule_declines_is_not_built_anew_after_each_replacement():
    tried = 0

    @rule("gelu(x)")
    def declined(at, x):
        nonlocal tried
        tried += 1

    made = rewrite(chained(*(["gelu"] * 20 + ["relu", "relu", "swish"] * 20)), declined, once)
    assert len(made.steps) == 20
    assert tried <= 45  # each once, those beside a change again, and all at the end; else 420


def test_a_rule_may_look_further_than_its_match():
    """What it declined is tried again when nothing else is left to do."""

    @rule("gelu(x)", where=lambda match: len(match.level.nodes) < 7)
    def late(at, x):
        return at.one("swish", [x])

    made = rewrite(chained("gelu", "swish", "relu", "relu", "tanh", "sigmoid"), late, once)
    assert [step.rule for step in made.steps] == ["once", "late"]


def test_another_type_is_refused(base):
    @rule("add(x, y)")
    def wider(at, x, y):
        return at.one("concat", [x, y], {"axis": 1})

    with pytest.raises(SpaceError, match="SP602"):
        rewrite(base, wider)


def test_reading_patterns():
    assert parse_shape("conv(x) |> batch_norm") == Shape(
        "batch_norm", (Shape("conv", ("x",), "conv"),), "batch_norm"
    )
    assert parse_shape("x |> relu as r") == Shape("relu", ("x",), "r")
    assert parse_shape("add(x, mul(_, y) as m)") == Shape(
        "add", ("x", Shape("mul", ("_", "y"), "m")), "add"
    )
    assert parse_shape("scores.2(q, k)").name == "scores_2"
    assert parse_shape("concat(..)") == Shape("concat", None, "concat")
    assert parse_shape("f()") == Shape("f", (), "f")


@pytest.mark.parametrize(
    "text",
    ["", "x", "conv(", "conv(x", "conv(x))", "|> relu", "conv(x) |>", "conv(x) as", "a b",
     "relu(x) |> relu", "conv(x) as x |> f as x", "conv(..,)", "$"],
)  # fmt: skip
def test_what_is_no_pattern(text):
    with pytest.raises(ValueError, match=r"pattern|two nodes"):
        parse_shape(text)


def test_any_operands(base):
    mlp = base.blocks["mlp"]
    assert find(mlp, mlp.nodes[1], parse_shape("linear(..)")) is not None
    assert find(mlp, mlp.nodes[1], parse_shape("linear(x, y)")) is None


def test_a_function_takes_only_names_of_its_pattern():
    with pytest.raises(ValueError, match="takes z"):

        @rule("relu(x)")
        def odd(at, z):
            return z
