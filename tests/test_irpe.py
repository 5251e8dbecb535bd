"""iRPE: its terms and their places, held against the published figures."""

from __future__ import annotations

import math

import pytest

from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.graph import Graph
from spacelang.ir.pattern import parse_pattern
from spacelang.ir.verify import verified
from spacelang.loader import load
from spacelang.ops.buckets import METHODS
from spacelang.passes.irpe import Irpe
from spacelang.passes.pipeline import run

# Figures of whole networks: parameters added, and multiply-accumulates of S.

COUNTS = {
    ("euclidean", True): (8, 1),
    ("quantised", True): (8, 1),
    ("cross", True): (8, 2),
    ("product", True): (50, 1),
}
MACS = {  # k, qk, qkv of DeiT-S with contextual terms
    "euclidean": (4606144512, 4613406720, 4792238592),
    "quantised": (4606144512, 4613406720, 4792238592),
    "cross": (4613406720, 4627931136, 4985594880),
    "product": (4644271104, 4689659904, 4868491776),
}
BASE = {"deit_ti": (5717416, 3), "deit_s": (22050664, 6), "deit_b": (86567656, 12)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", ["bias", "contextual"])
@pytest.mark.parametrize("shared", [True, False])
def test_figures_of_every_kind(method: str, mode: str, shared: bool) -> None:
    buckets, tables = COUNTS[method, True]
    for name, (params, heads) in BASE.items():
        graph = load(f"spaces/deit.space:{name}")
        for i, on in enumerate((("k",), ("q", "k"), ("q", "k", "v"))):
            if mode == "bias" and "v" in on:
                continue
            made = run(graph, Irpe(method, on=on, mode=mode, shared=shared)).cost()
            width = 64 if mode == "contextual" else 1
            added = 12 * len(on) * tables * (1 if shared else heads) * buckets * width
            assert made.params - params == added
            if name == "deit_s":
                assert made.macs == (4598882304 if mode == "bias" else MACS[method][i])


@pytest.mark.parametrize(
    ("name", "on", "method", "macs"),
    [
        ("deit_s", "q", "product", 4644271104),
        ("deit_s", "v", "product", 4777714176),
        ("deit_s", "qv", "product", 4823102976),
        ("deit_ti", "qk", "product", 1299072000),
        ("deit_ti", "qkv", "product", 1388487936),
        ("deit_ti", "k", "cross", 1260945408),
        ("deit_b", "qk", "product", 17745383424),
        ("deit_b", "k", "cross", 17592877056),
    ],
)
def test_other_figures(name: str, on: str, method: str, macs: int) -> None:
    made = run(load(f"spaces/deit.space:{name}"), Irpe(method, on=tuple(on)))
    assert made.cost().macs == macs


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("deit_s_euc_k", ((1,), (64,), (82,))),
        ("deit_s_quant_k", ((1,), (64,), (134,))),
        ("deit_s_product_k", ((1,), (64,), (50,))),
    ],
)
def test_published_names_and_shapes(name: str, shape: object) -> None:
    graph = load(f"spaces/irpe.space:{name}")
    tables = {p: s for p, s in graph.storages.items() if ".rpe_" in p}
    assert list(tables) == [f"blocks[{i}].attn.rpe_k.lookup_table_weight" for i in range(12)]
    assert {s.shape for s in tables.values()} == {shape}
    assert all(s.param.init.rule == "constant" and s.param.decay for s in tables.values())
    assert len(graph.storages) == 164


def test_cross_has_two_tables_and_values_are_transposed() -> None:
    graph = run(load("spaces/deit.space:deit_s"), Irpe("cross", on=("q", "v"), shared=False))
    tables = {p: s.sizes for p, s in graph.storages.items() if p.startswith("blocks[0].attn.rpe")}
    assert tables == {
        "blocks[0].attn.rpe_q.rp_rows.lookup_table_weight": (6, 64, 8),
        "blocks[0].attn.rpe_q.rp_cols.lookup_table_weight": (6, 64, 8),
        "blocks[0].attn.rpe_v.rp_rows.lookup_table_weight": (6, 8, 64),
        "blocks[0].attn.rpe_v.rp_cols.lookup_table_weight": (6, 8, 64),
    }


# Published outputs of one attention module in float64 (section 6.1).

PROBE = """use deit
space probe { input x: [B, 10, 12]  output attention(x, 3) as attn }
"""
ORDER = ("qkv.weight", "qkv.bias", "proj.weight", "proj.bias", "rpe_q", "rpe_k", "rpe_v")
OUTPUTS = [
    ("", "contextual", True, "k", -1.9954756559, 58.3515111457, 0.0961608840),
    ("euclidean", "bias", True, "k", -1.9859303922, 58.4490079057, 0.0959798140),
    ("euclidean", "bias", True, "q", -1.9859303922, 58.4490079057, 0.0959798140),
    ("euclidean", "bias", False, "k", -1.9746450840, 58.4346777878, 0.0939136262),
    ("euclidean", "bias", False, "q", -1.9746450840, 58.4346777878, 0.0939136262),
    ("euclidean", "contextual", True, "k", -1.9530577532, 58.0522010776, 0.0977673558),
    ("euclidean", "contextual", True, "q", -1.7683506274, 57.2657229609, 0.1081078389),
    ("euclidean", "contextual", True, "v", 3.5156033603, 62.6824861498, 0.2963869874),
    ("euclidean", "contextual", True, "qkv", 4.1748441705, 59.3993740886, 0.2965877365),
    ("euclidean", "contextual", False, "k", -1.9884140630, 58.1581117201, 0.0999672314),
    ("euclidean", "contextual", False, "q", -1.6851405315, 56.5374481862, 0.1165578991),
    ("euclidean", "contextual", False, "v", 2.2994177170, 63.3033214392, 0.2608015567),
    ("euclidean", "contextual", False, "qkv", 3.1218386487, 61.3681515729, 0.2146072602),
    ("cross", "bias", True, "k", -1.9472435620, 58.6241141122, 0.0966143212),
    ("cross", "bias", True, "q", -1.9929339066, 58.6934193882, 0.0952851636),
    ("cross", "bias", False, "k", -1.9120947219, 58.5380511357, 0.0966314909),
    ("cross", "bias", False, "q", -1.9448470621, 58.5737747866, 0.0953481546),
    ("cross", "contextual", True, "k", -1.8590886317, 57.6964887357, 0.0975976547),
    ("cross", "contextual", True, "q", -1.5323658821, 55.7875862576, 0.1164516509),
    ("cross", "contextual", True, "v", -5.2664014804, 69.0942679080, 0.0921266653),
    ("cross", "contextual", True, "qkv", -2.5343285872, 56.3719753770, 0.0181532309),
    ("cross", "contextual", False, "k", -2.0074255158, 58.1552418529, 0.0938645414),
    ("cross", "contextual", False, "q", -1.8996043843, 57.0166761435, 0.1271680772),
    ("cross", "contextual", False, "v", -5.0801634749, 78.0619805468, -0.1301392183),
    ("cross", "contextual", False, "qkv", -3.6710339156, 79.6312709575, -0.1752763233),
    ("product", "bias", True, "k", -1.9867256367, 58.3308392437, 0.0951561787),
    ("product", "bias", True, "q", -2.0072599592, 58.3012216819, 0.0961129994),
    ("product", "bias", False, "k", -2.0163207917, 58.4607199007, 0.0945905285),
    ("product", "bias", False, "q", -2.0330203789, 58.4183645515, 0.0957950853),
    ("product", "contextual", True, "k", -1.9816212156, 58.2391015034, 0.0935724464),
    ("product", "contextual", True, "q", -2.0087190883, 58.4230690608, 0.0963266050),
    ("product", "contextual", True, "v", -1.1779041357, 61.1719498592, 0.1659481355),
    ("product", "contextual", True, "qkv", -1.5231240100, 61.6955106105, 0.1771572076),
    ("product", "contextual", False, "k", -1.9855659226, 58.4492683576, 0.0886642424),
    ("product", "contextual", False, "q", -1.9084372763, 58.1384758065, 0.0909731252),
    ("product", "contextual", False, "v", -0.9146901014, 58.4716634997, 0.2536675673),
    ("product", "contextual", False, "qkv", -0.9743468515, 59.5645116100, 0.2418695241),
]


@pytest.mark.parametrize(("method", "mode", "shared", "on", "total", "size", "one"), OUTPUTS)
def test_outputs_of_the_reference(
    method: str, mode: str, shared: bool, on: str, total: float, size: float, one: float
) -> None:
    import torch

    from spacelang.backends.torch.reference.interpret import interpret

    graph = load(Source("probe.space", PROBE))
    if method:
        graph = run(graph, Irpe(method, on=tuple(on), mode=mode, shared=shared))

    def place(path: str) -> tuple[int, bool]:
        start = next(i for i, o in enumerate(ORDER) if path.startswith(f"attn.{o}"))
        return start, "cols" in path

    weights = {}
    for k, path in enumerate(sorted(graph.storages, key=place)):
        sizes = graph.storages[path].sizes
        n = math.prod(sizes)
        wave = torch.sin(0.37 * torch.arange(1, n + 1, dtype=torch.float64) + 0.11 * k)
        scale = 0.1 if path.endswith("bias") else 1.5 / math.sqrt(n // sizes[0])
        weights[path] = scale * wave.reshape(sizes)
    x = torch.sin(0.1 * torch.arange(240, dtype=torch.float64)).reshape(2, 10, 12)
    y = interpret(graph, weights, [x])["output"]
    found = (y.sum().item(), y.abs().sum().item(), y[0, 1, 0].item())
    assert found == pytest.approx((total, size, one), abs=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_zero_tables_change_nothing(method: str) -> None:
    """Every table starts at zero, and terms only enter sums: the outputs are equal to the bit."""
    import torch

    from spacelang.backends.torch.reference.interpret import interpret

    base = load(Source("probe.space", PROBE))
    made = run(base, Irpe(method, on=("q", "k", "v"), shared=False))
    added = {p: s for p, s in made.storages.items() if p not in base.storages}
    assert all(int(s.param.init.arguments[0].at({})) == 0 for s in added.values())
    random = torch.Generator().manual_seed(3)
    weights = {
        p: torch.randn(s.sizes, dtype=torch.float64, generator=random)
        for p, s in base.storages.items()
    }
    zeros = {p: torch.zeros(s.sizes, dtype=torch.float64) for p, s in added.items()}
    x = torch.randn(2, 10, 12, dtype=torch.float64, generator=random)
    before = interpret(base, weights, [x])["output"]
    after = interpret(made, {**weights, **zeros}, [x])["output"]
    assert torch.equal(before, after)


def test_heads_that_are_whole_under_a_condition_alone() -> None:
    """A table row for each channel of a head, in the architectures that have one."""
    text = """
block attend(x: [B, N, C]) -> [B, N, C] {
  q = linear(x, C / 3) as q
  k = linear(x, C / 3) as k
  return einsum("bij,bjd->bid", softmax(einsum("bid,bjd->bij", q, k)), x)
}
space s {
  input x: [B, 16, 8]
  choose width in {4, 6, 9}
  x = linear(x, width) as up
  when width % 3 == 0 { x = x + attend(x) as a }
  output linear(x, 2) as head
  weights { _: entangle }
}"""
    graph = load(Source("s.space", text))
    made = verified(run(graph, Irpe(on=("k",))))
    (table,) = (s.sizes for p, s in made.storages.items() if p not in graph.storages)
    for width, channels in ((4, 0), (6, 2), (9, 3)):
        added = made.cost({"width": width}).params - graph.cost({"width": width}).params
        assert added == channels * table[-1]
    assert table[:-1] == (1, 3)


# Where terms go.


def added(text: str, **options: object) -> dict[str, tuple[int, ...]]:
    """The tables that irpe adds to the last space of a text, with their sizes."""
    graph = load(Source("test.space", text))
    made = run(graph, Irpe(**options))
    return {p: s.sizes for p, s in made.storages.items() if p not in graph.storages}


def buckets_of(graph: Graph) -> set[tuple[str, ...]]:
    """Height, width and skip of every bucket table."""
    return {
        tuple(str(place.instance.absolute(node.attributes[o])) for o in ("h", "w", "skip"))
        for place in graph.places()
        if (node := place.node).op == "bucket_index"
    }


def test_scaled_queries_give_their_scale_to_the_query_side() -> None:
    scaled = run(load("spaces/deit.space:deit_ti"), Irpe(on=("q", "k")))
    attention = scaled.blocks["attention"]
    (extra,) = [n for n in attention.nodes if n.op == "mul" and n.operands[0].index == 1]
    assert str(extra.attributes["number"]) == "1/8"
    plain = run(load("spaces/autoformer.space:autoformer_t"), Irpe(on=("q", "k")))
    assert [n.op for n in plain.blocks["attention"].nodes].count("mul") == 1


def test_keys_that_are_scaled_give_their_scale_to_the_key_side() -> None:
    text = """
block scores(q: [B, N, D], k: [B, M, D]) { return einsum("bid,bjd->bij", q, k) }
space s { input x: [B, 16, 8]
  k = linear(x, 8) as k * 0.25 |> rearrange("b n d -> b n d")
  q = linear(x, 8) as q
  output einsum("bij,bjd->bid", softmax(scores(q / 2, k)), x) }
"""
    graph = run(load(Source("s.space", text)), Irpe(on=("q", "k")))
    numbers = [str(n.attributes["number"]) for n in graph.root.nodes if n.op in ("mul", "div")]
    assert sorted(numbers) == ["1/2", "1/4", "1/4", "2"]


def test_a_scale_given_by_the_caller_is_found() -> None:
    text = """
block attend(q: [B, N, D], k: [B, M, D]) {
  return einsum("bij,bjd->bid", softmax(einsum("bid,bjd->bij", q, k)), k)
}
block both(x: [B, N, D], s) { return attend(linear(x, D) as q * s, x) }
space s { input x: [B, 16, 8]  output both(x, 0.5) as b }
"""
    made = run(load(Source("s.space", text)), Irpe(on=("q",)))
    numbers = [str(n.attributes["number"]) for n in made.blocks["attend"].nodes if n.op == "mul"]
    assert numbers == ["1/2"]
    text += "space t { input x: [B, 16, 8]  output both(x, 0.5) as b + both(x, 0.25) as c }"
    with pytest.raises(SpaceError, match="values of different scales"):
        run(load(Source("t.space", text)), Irpe(on=("q",)))


def test_every_product_of_a_block_has_its_own_table() -> None:
    graph = run(load("spaces/efficientvit.space:efficientvit_m0"), Irpe(on=("q", "v")))
    tables = [p for p in graph.storages if p.startswith("stages[0].blocks[0]") and ".rpe_" in p]
    start = "stages[0].blocks[0].mixer.m.attn."
    assert {p.removeprefix(start) for p in tables} == {
        f"heads[{i}].rpe_{side}.lookup_table_weight" for side in "qv" for i in range(4)
    }
    assert buckets_of(graph) == {("7", "7", "0"), ("4", "4", "0")}


def test_grid_is_that_of_the_map_not_a_square_of_its_size() -> None:
    text = """
use vit
use deit
space wide { input map: [B, 32, 8, 18]
  x = rearrange(map, "b c h w -> b h w c") |> tokens |> prepend_token as _
  output encoder(x, 4, 0) as only }
"""
    assert buckets_of(run(load(Source("wide.space", text)), Irpe())) == {("8", "18", "1")}
    with pytest.raises(SpaceError, match="told of 12 x 13"):
        run(load(Source("wide.space", text)), Irpe(height=12, width=13))
    told = run(load(Source("wide.space", text)), Irpe(height=12, width=12))
    assert buckets_of(told) == {("12", "12", "1")}


def test_tokens_taken_off_again_leave_the_grid() -> None:
    """The axis is followed through slices, splits, sums, calls and conditions."""
    text = """
use vit
use deit
space cut { input map: [B, 32, 4, 9]  choose deep in {0, 1}
  x = rearrange(map, "b c h w -> b h w c") |> tokens |> prepend_token as a
  when deep == 1 { x = x + encoder(x, 4, 0) as inner }
  y = split(x[:, 1..], 2, axis: 2)
  output attention(y[0] * 2, 4) as last }
"""
    graph = load(Source("cut.space", text))
    assert buckets_of(run(graph, Irpe())) == {("4", "9", "1"), ("4", "9", "0")}
    rows = {p: s.sizes[-1] for p, s in run(graph, Irpe()).storages.items() if "rpe_k" in p}
    assert rows == {
        "inner.attn.rpe_k.lookup_table_weight": 50,
        "last.rpe_k.lookup_table_weight": 49,
    }


def test_two_grids_of_one_size_must_be_told_apart() -> None:
    text = """
use vit
use deit
block flat(x: [B, C, H, W]) { return rearrange(x, "b c h w -> b (h w) c") }
space two { input a: [B, 32, 8, 18]  input b: [B, 32, 9, 16]
  output encoder(flat(a), 4, 0) as first + encoder(flat(b), 4, 0) as second }
"""
    graph = load(Source("two.space", text))
    with pytest.raises(SpaceError, match="more than one: 8 x 18 and 9 x 16"):
        run(graph, Irpe())
    first = Irpe(height=8, width=18, path=(parse_pattern("first"),))
    second = Irpe(height=9, width=16, path=(parse_pattern("second"),))
    made = run(graph, [first, second])
    assert buckets_of(made) == {("8", "18", "0"), ("9", "16", "0")}
    assert {p for p in made.storages if "rpe" in p} == {
        f"{name}.attn.rpe_k.lookup_table_weight" for name in ("first", "second")
    }


def test_two_tokens_before_the_grid() -> None:
    text = "use deit\nspace s { input x: [B, 27, 8]  output attention(x, 2) as attn }"
    with pytest.raises(SpaceError, match="no grid of 27 tokens"):
        added(text)
    assert added(text, skip=2) == {"attn.rpe_k.lookup_table_weight": (1, 4, 50)}
    assert added(text, skip=2, mode="bias", shared=False) == {
        "attn.rpe_k.lookup_table_bias": (2, 50)
    }
    assert added(text, height=9, width=3) == {"attn.rpe_k.lookup_table_weight": (1, 4, 49)}


def test_windows_by_decision_are_square() -> None:
    graph = run(load("spaces/s3.space:s3_start"), Irpe(on=("q",)))
    sides = buckets_of(graph)
    assert ("layers[0].blocks[0].window", "layers[0].blocks[0].window", "0") in sides
    values = graph.decisions.complete({})
    assert graph.cost(graph.decisions.assignment(values)).macs > 0


def test_path_restricts_and_leaves_the_rest_as_it_is() -> None:
    graph = load("spaces/deit.space:deit_ti")
    made = run(graph, Irpe(path=(parse_pattern("blocks[0..2]"), parse_pattern("blocks[5].attn"))))
    rows = [p.split(".")[0] for p in made.storages if ".rpe_k." in p]
    assert rows == ["blocks[0]", "blocks[1]", "blocks[2]", "blocks[5]"]
    assert made.blocks["encoder"] == graph.blocks["encoder"]
    assert set(made.blocks) - set(graph.blocks) == {"rpe_k", "attention.2", "encoder.2"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cosine"}, "method must be one of euclidean"),
        ({"ratio": 0}, "ratio must be a number above 0"),
        ({"ratio": True}, "ratio must be"),
        ({"on": ("k", "k")}, "each once"),
        ({"on": ("x",)}, "each once"),
        ({"on": ()}, "each once"),
        ({"mode": "other"}, "mode must be"),
        ({"mode": "bias", "on": ("v",)}, "values take no bias"),
        ({"shared": 1}, "shared must be"),
        ({"height": 4}, "height and width together"),
        ({"height": 2.5, "width": 4}, "a whole number of at least 1"),
        ({"skip": -1}, "a whole number of at least 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        run(load("spaces/deit.space:deit_ti"), Irpe(**options))


def test_no_attention_and_twice_are_refused() -> None:
    with pytest.raises(SpaceError, match=r"SP601.*no product of queries and keys"):
        run(load("spaces/cream.space:cream_14m"), Irpe())
    with pytest.raises(SpaceError, match="no product of queries and keys below norm"):
        run(load("spaces/deit.space:deit_ti"), Irpe(path=(parse_pattern("norm"),)))
    graph = load("spaces/irpe.space:deit_ti_product_k")
    with pytest.raises(SpaceError, match=r"SP601.*rpe_k.lookup_table_weight, which is there"):
        run(graph, Irpe())
    assert run(graph, Irpe(on=("q",))).cost().params == 5755816 + 38400


def test_cross_attention_is_left_alone() -> None:
    text = """
use vit
space s { input x: [B, 16, 2, 4]  input y: [B, 9, 2, 4]
  own = weigh(softmax(scores(x, x)), x)
  output weigh(softmax(scores(own, y)), y) }
"""
    assert added(text) == {"rpe_k.lookup_table_weight": (1, 4, 49)}
