"""Options of ops keep to what their op declares: intervals of numbers, words; at every use."""

from __future__ import annotations

import pytest
import torch

from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.dim import Dim
from spacelang.ir.op import Interval, ops
from spacelang.ir.ranges import outside
from spacelang.loader import compile, load
from spacelang.syntax.names import INITS

DROP = "block f(x: [B, C], drop) { return drop_path(linear(x, C) as fc, 2 * drop) }"
DEEP = f"{DROP} block g(x: [B, C], drop) {{ return f(x, drop) as inner }}"
MAPS = "input m: [B, 3, 8, 8] "

REFUSED = {
    "dropout(x, 2)": "SP103",
    "dropout(x, 0 - 1)": "SP103",
    "dropout(x, 1)": "SP103",
    "drop_path(x, 1.5)": "SP103",
    "layer_norm(x, eps: 0 - 1) as n": "SP103",
    "rms_norm(x, eps: 0) as n": "SP103",
    "batch_norm(x, momentum: 7) as n": "SP103",
    "linear(x, 4, init: trunc_normal(0 - 1)) as n": "SP103",
    "linear(x, 4, bias_init: normal(0 - 1)) as n": "SP103",
    "take(parameter([99]) as t, offset_index(2, 2, kind: \"absolut\"))": "SP204",
    "take(parameter([99]) as t, bucket_index(2, 2, method: \"nope\"))": "SP204",
    "take(parameter([99]) as t, bucket_index(2, 2, method: \"cross\"))": "SP204",
    "take(parameter([99]) as t, bucket_index(2, 2, method: \"product\", ratio: 0))": "SP103",
    "take(parameter([99]) as t, clipped_index(2, 2, axis: 2, reach: 3))": "SP103",
    "take(parameter([99]) as t, clipped_index(2, 2, axis: 0, reach: 0 - 3))": "SP103",
    "take(parameter([99]) as t, offset_index(0, 2))": "SP103",
    "x * shift_mask(2, 8, window: 4, shift: 1)": "SP302",
}  # fmt: skip
MAPPED = {
    "resize(m, 4, mode: \"nearst\")": "SP204",
    "max_pool(m, 3, pad: 2)": "SP307",
    "avg_pool(m, 0)": "SP103",
    "zero(m, stride: 0)": "SP103",
    "conv(m, 4, 3, stride: 0) as c": "SP103",
    "conv(m, 4, 0) as c": "SP103",
    "conv(m, 4, groups: 0) as c": "SP103",
    "conv(m, 4, 3, pad: 0 - 1) as c": "SP103",
    "conv(m, 4, 3, dilation: 0) as c": "SP103",
    "conv_transpose(m, 4, stride: 0) as c": "SP103",
    "group_norm(m, 0) as n": "SP103",
}  # fmt: skip


def made(body: str):
    return load(
        Source("<ranges>", f"space s {{ input x: [B, 16] {body} weights {{ _: entangle }} }}")
    )


def refusal(body: str) -> SpaceError:
    with pytest.raises(SpaceError) as failed:
        made(body)
    (found,) = failed.value.diagnostics
    assert found.primary.span.text, "without a place"
    return failed.value


@pytest.mark.parametrize("call", [*REFUSED, *MAPPED])
def test_an_option_outside_of_its_range_is_refused(call: str) -> None:
    before = MAPS if call in MAPPED else ""
    found = refusal(f"{before}output {call}").diagnostics[0]
    assert found.code == {**REFUSED, **MAPPED}[call]


@pytest.mark.parametrize("blocks", [DROP, DEEP], ids=["one deep", "two deep"])
def test_a_rate_that_a_call_gives_is_told_at_its_use(blocks: str) -> None:
    name = "g" if blocks is DEEP else "f"
    made(f"{blocks} output {name}(x, 0.4) as a")
    found = refusal(f"{blocks} output {name}({name}(x, 0.4) as b, 0.6) as a").diagnostics[0]
    assert found.code == "SP103"
    assert any(note.startswith("at a") for note in found.notes)


def test_a_rate_of_decisions_is_proved_for_all_of_them() -> None:
    made("choose r in {0, 0.5} output drop_path(x, r)")
    made("choose d in 1..3 when d > 1 { x = drop_path(x, 0.9 / (d - 1)) } output x")
    found = refusal("choose r in {0, 0.5, 1} output drop_path(x, r)").diagnostics[0]
    assert "first disagreement: r = 1" in found.notes
    wide = "choose d in 1..3 x = drop_path(x, 0.5 * d) output x"
    assert refusal(wide).diagnostics[0].code == "SP103"


def test_how_a_weight_starts_hangs_on_no_decision() -> None:
    assert (
        refusal("choose w in {1, 2} output linear(x, 4, init: normal(w)) as f").diagnostics[0].code
        == "SP308"
    )
    inner = "block f(x: [B, C]) { return linear(x, C, init: normal(rsqrt(C))) as fc }"
    made(f"{inner} output f(x) as f")
    by_width = f"choose w in {{4, 8}} {inner} output f(linear(x, w) as a) as f"
    assert refusal(by_width).diagnostics[0].code == "SP308"


@pytest.mark.parametrize("rule", ["fan_out", "uniform_out", "linear", "conv", "ones"])
def test_a_number_starts_by_every_rule(rule: str) -> None:
    model = compile(made(f"output x * parameter([], init: {rule}) as scale"))
    assert torch.isfinite(model(torch.ones(2, 16))).all()


def test_words_have_a_default_among_them_and_numbers_too() -> None:
    for name, definition in ops().items():
        for option_name, option in definition.options.items():
            if option.words and option.default in option.words:
                assert option.kind == "string"
            elif option.words:
                assert option.default == "required", (name, option_name)
            if option.within is not None and isinstance(option.default, int | Dim):
                default = Dim.of(option.default)
                assert outside(option.within, default, (), name) is None, (name, option_name)


def test_every_word_of_the_ops_is_lowered() -> None:
    """Each word that an op declares gives a network that runs."""
    for kind in ops()["offset_index"].options["kind"].words:
        compile(made(f'output take(parameter([99]) as t, offset_index(2, 2, kind: "{kind}"))'))
    for method in ops()["bucket_index"].options["method"].words:
        call = f'bucket_index(2, 2, method: "{method}", skip: 1)'
        model = compile(made(f"output take(parameter([99]) as t, {call})"))
        assert torch.isfinite(model(torch.ones(2, 16))).all()
    for mode in ops()["resize"].options["mode"].words:
        model = compile(made(f'{MAPS}output resize(m, 4, mode: "{mode}")'))
        assert model(torch.ones(2, 16), torch.ones(2, 3, 8, 8)).shape == (2, 3, 4, 4)


def test_intervals_say_what_they_are() -> None:
    assert str(Interval(0, 1, below=True)) == "at least 0 and below 1"
    assert str(Interval(0, above=True)) == "above 0"
    assert str(Interval(high=3)) == "at most 3"
    assert set(INITS) >= {"normal", "trunc_normal"}
