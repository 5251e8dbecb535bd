"""First weights: what each rule draws, with the fans of the layer that reads them."""

from __future__ import annotations

import math

import pytest
import torch
from small_spaces import graph
from torch import nn

from spacelang.backends.torch.initialize import RULES
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import SpaceError


def made(snippet: str) -> Supernet:
    return Supernet(graph(f"space one {{ input x: [B, 40, 6, 6]  output {snippet} }}"))


@pytest.mark.parametrize(
    ("snippet", "name", "bound"),
    [
        ("linear(x, 500) as a", "a.weight", 1 / math.sqrt(6)),
        ("linear(x, 500) as a", "a.bias", 1 / math.sqrt(6)),
        ("linear(x, 90, axes: 2) as a", "a.bias", 1 / 6),
        ("conv(x, 80, 3, bias: true) as a", "a.weight", 1 / math.sqrt(40 * 9)),
        ("conv(x, 800, 3, groups: 8, bias: true) as a", "a.bias", 1 / math.sqrt(5 * 9)),
        ("conv_transpose(x, 80, 2, bias: true) as a", "a.weight", 1 / math.sqrt(80 * 4)),
        ("conv_transpose(x, 800, 2, groups: 8, bias: true) as a", "a.bias", 1 / math.sqrt(100 * 4)),
        ("linear(x, 500, init: uniform_out) as a", "a.weight", 1 / math.sqrt(500)),
    ],
)
def test_uniform_rules(snippet: str, name: str, bound: float) -> None:
    tensor = made(snippet).get_parameter(name).detach()
    assert 0.97 * bound < float(tensor.abs().max()) <= bound
    assert float(tensor.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_layers_start_as_those_of_pytorch() -> None:
    torch.manual_seed(0)
    for snippet, layer in (
        ("linear(x, 400) as a", nn.Linear(6, 400)),
        ("conv(x, 80, 3, groups: 4, bias: true) as a", nn.Conv2d(40, 80, 3, groups=4)),
        (
            "conv_transpose(x, 80, 3, groups: 4, bias: true) as a",
            nn.ConvTranspose2d(40, 80, 3, groups=4),
        ),
    ):
        model = made(snippet)
        for name, tensor in layer.named_parameters():
            own = model.get_parameter(f"a.{name}")
            assert own.shape == tensor.shape
            assert float(own.std()) == pytest.approx(float(tensor.std()), rel=0.2)


def test_normal_rules() -> None:
    cut = made("linear(x, 20000, init: trunc_normal(1)) as a").a.weight.detach()
    assert float(cut.abs().max()) <= 2
    assert float(cut.std()) == pytest.approx(0.8796, rel=0.02)  # of a normal cut at 2 deviations
    fine = made("linear(x, 20000, init: trunc_normal(0.02)) as a").a.weight.detach()
    assert float(fine.std()) == pytest.approx(0.02, rel=0.02)
    assert float(fine.abs().max()) > 0.06  # which a cut at two deviations would not let pass
    plain = made("parameter([1, 40, 60, 60], init: normal(0.5)) as a").a.detach()
    assert float(plain.std()) == pytest.approx(0.5, rel=0.02)
    out = made("conv(x, 80, 3, groups: 2, init: fan_out) as a").a.weight.detach()
    assert float(out.std()) == pytest.approx(math.sqrt(2 / (9 * 80 / 2)), rel=0.03)


def test_constant_rules() -> None:
    model = made("linear(batch_norm(x, gamma: 0.5) as n, 5, bias_init: 3) as a")
    assert model.n.weight.tolist() == [0.5] * 40
    assert model.n.running_var.tolist() == [1] * 40
    assert model.n.num_batches_tracked.dtype == torch.int64
    assert model.a.bias.tolist() == [3] * 5
    norm = made("layer_norm(x) as n").n
    assert norm.weight.tolist() == [1] * 6
    assert norm.bias.tolist() == [0] * 6


def test_an_unknown_rule_names_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, "uniform_out")
    with pytest.raises(SpaceError, match="SP605") as failed:
        made("linear(x, 5, init: uniform_out) as a")
    assert "trunc_normal" in failed.value.diagnostics[0].notes[0]


@pytest.mark.parametrize("label", ["forward", "training", "lambda", "a.children"])
def test_labels_that_modules_cannot_have(label: str) -> None:
    with pytest.raises(SpaceError, match="SP605"):
        made(f"linear(x, 5) as {label}")
