"""Each claim fails where what it is about is broken, and only then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import differential.case as case
import differential.figures as figures
import differential.networks as networks
import differential.rewritten as rewritten
import differential.texts as texts
import pytest
import torch
from differential.checks import CHECKS, failure
from differential.program import NAME

from spacelang.backends.torch.reference import ROWS
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Source
from spacelang.ir.decision import Decisions
from spacelang.ir.graph import Graph
from spacelang.loader import load

TEXT = """
block layer(x: [B, C], rate) -> [B, C] {
  choose hidden in {4, 8}
  return x + (linear(x, hidden) as up |> tanh |> batch_norm as norm |> linear(C) as down |> drop_path(rate))
}
space main() {
  input x: [B, 8]
  choose width in {4, 8}
  x = (linear(x, width) as stem |> relu) as first
  for i in 0..1 { x = layer(x, 0.1 * i) as layers[i] }
  x = choose op { a: linear(x, 8) as fc  b: linear(relu(x), 8) as fc }
  output side: linear(x, 2) as aux
  output linear(x, 3) as head
  weights { _: entangle }
}
subnet small of main {
  width = 4  layers[0].hidden = 4  layers[1].hidden = 8  op = "a"
}
program both { network one = main()  network two = main()  share stem }
"""

Patch = pytest.MonkeyPatch


def changed(patch: Patch, owner: Any, name: str, change: Callable[[Any], Any]) -> None:
    """A function whose result is another."""
    before = getattr(owner, name)
    patch.setattr(owner, name, lambda *given, **named: change(before(*given, **named)))


def _row(patch: Patch, op: str, row: Callable[..., Any]) -> None:
    patch.setitem(ROWS, op, row)


def still(x: torch.Tensor) -> torch.Tensor:
    """The same number without its gradient."""
    return torch.tanh(x).detach() + 0 * x


def _hooked(network: Any) -> Any:
    for weight in network.parameters():
        weight.register_hook(lambda gradient: gradient * 1.0001)
    return network


def _no_numbers(found: Any) -> Any:
    """The same outputs, with gradients that are NaN."""
    for y in found.values():
        y.register_hook(lambda gradient: gradient * torch.nan)
    return found


def _shifted(network: Any) -> Any:
    with torch.no_grad():
        next(network.parameters()).add_(1e-9)
    return network


def _rewritten_as(old: str, new: str) -> Callable[[Patch], None]:
    """A pass that makes another network of it."""
    made = load(Source(NAME, TEXT.replace(old, new)))
    return lambda patch: patch.setattr(rewritten, "run", lambda graph, text: made)


def _lenient(patch: Patch) -> None:
    before = Decisions.check

    def check(self: Decisions, assignment: Any, *rest: Any) -> Any:
        full = {c.path: c.values[0] for c in self.live(self.complete({}))}
        return before(self, {**full, **assignment}, *rest)

    patch.setattr(Decisions, "check", check)


def _text(owner: Any, name: str, old: str, new: str) -> Callable[[Patch], None]:
    return lambda patch: changed(patch, owner, name, lambda text: text.replace(old, new))


BROKEN: list[tuple[str, str, Callable[[Patch], None]]] = [
    ("outputs", "the interpreter", lambda p: _row(p, "relu", lambda at, x: x.abs())),
    ("outputs", "the supernet", lambda p: changed(p, Supernet, "forward", lambda found: {n: y + 1e-6 for n, y in found.items()})),
    ("outputs", "the subnet", lambda p: changed(p, Supernet, "extract", _shifted)),
    ("gradients", "the interpreter", lambda p: _row(p, "tanh", lambda at, x: still(x))),
    ("gradients", "the subnet", lambda p: changed(p, Supernet, "extract", _hooked)),
    ("gradients", "no numbers", lambda p: changed(p, Supernet, "forward", _no_numbers)),
    ("sources", "outputs", _text(case, "print_network", "torch.relu(", "torch.abs(")),
    ("sources", "gradients", _text(case, "print_network", "torch.tanh(",
                                   "(lambda x: torch.tanh(x).detach() + 0 * x)(")),
    ("training", "rates", lambda p: _row(p, "drop_path", lambda at, x: x)),
    ("tapped", "values", lambda p: changed(p, networks, "taps", lambda found: {n: y + 1e-6 for n, y in found.items()})),
    ("specialised", "another function", lambda p: changed(p, case, "specialize", lambda g: load(
        Source(NAME, TEXT.replace("tanh", "gelu") + "subnet s of main {}")))),
    ("numels", "costs", lambda p: changed(p, Graph, "cost", lambda c: replace(c, params=c.params + 1))),
    ("costs", "costs", lambda p: changed(p, figures, "model", lambda m: _Doubled(m))),
    ("counts", "sizes", lambda p: changed(p, Graph, "size", lambda n: n + 1)),
    ("partial", "assignments", _lenient),
    ("formats", "the text changes", lambda p: changed(p, texts, "format", lambda text: text + "# again\n")),
    ("formats", "another network", _text(texts, "format", "relu", "gelu")),
    ("ir_text", "another op", _text(texts, "write", "relu", "gelu")),
    ("ir_text", "a lost label", _text(texts, "write", "first", "second")),
    ("space_text", "another network", _text(texts, "write_space", "relu", "gelu")),
    ("derived_subnet", "another value", _text(texts, "spelled", "8", "4")),
    ("passes", "the function", _rewritten_as("tanh", "gelu")),
    ("passes", "the parameters", _rewritten_as("as fc  b", "as fc |> linear(8) as fc2  b")),
    ("passes", "the size of the space", _rewritten_as("hidden in {4, 8}", "hidden in {4, 6, 8}")),
]  # fmt: skip


class _Doubled:
    """A model of costs whose rows count twice."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def per_op(self, values: Any) -> Any:
        rows = self.model.per_op(values)
        return [*rows, *rows]


@pytest.mark.parametrize(
    ("claim", "what", "broken"), BROKEN, ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_claim_sees_what_is_broken(
    claim: str, what: str, broken: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    broken(monkeypatch)
    found = failure(TEXT, only=claim)
    assert found is not None
    assert found.check == claim, found


TIE = """
space main() {
  input x: [B, 4]
  y = linear(x, 4) as same
  output linear(relu(y - x) + y, 2) as head
}
"""


@pytest.mark.parametrize("factor", [1.0, 1.001, torch.nan])
def test_a_wrong_gradient_is_seen_at_a_tie(factor: float) -> None:
    """Where y is x, the gradient jumps by its own size: that loosens nothing."""
    tied = case.Case(TIE)
    weights = dict(tied.supernet.named_parameters())
    with torch.no_grad():
        weights["same.weight"].copy_(torch.eye(4))
        weights["same.bias"].zero_()
    trial = tied.first
    here = trial.interpreter.gradients["same.weight"]
    assert trial.noise["same.weight"] > 0.1 * float(here.abs().max())
    found = trial.supernet
    wrong = {**found.gradients, "same.weight": found.gradients["same.weight"] * factor}
    trial.__dict__["supernet"] = case.Found(found.outputs, wrong)
    if factor == 1:
        networks.gradients(tied)
        return
    with pytest.raises(AssertionError) as seen:
        networks.gradients(tied)
    name, *_ = seen.value.args[0]
    assert name == "same.weight"


NEAR = """
space main() {
  input x: [B, 4]
  y = linear(x, 4, bias: false) as same
  output linear(layer_norm(y - x, eps: 1e-18), 2) as head
}
"""


@pytest.mark.parametrize(("far", "allowed"), [(0.5, True), (2.0, False)])
def test_roundings_of_large_effects_loosen_a_little(far: float, allowed: bool) -> None:
    """Where y is x but for a millionth, roundings of y are a billion times as large in y - x: that
    far may supernet and interpreter be apart, and no further."""
    near = case.Case(NEAR)
    with torch.no_grad():
        dict(near.supernet.named_parameters())["same.weight"].copy_(torch.eye(4) * (1 + 2.0**-20))
    networks.gradients(near)
    trial = near.first
    wanted = trial.interpreter.gradients
    sizes = {name: float(gradient.abs().max()) for name, gradient in wanted.items()}
    loosened = networks.loosened(trial, "same.weight")
    strict = max(sizes.values()) * networks.roundings(trial)
    assert strict < loosened / 4 < 2.0**-16 * sizes["same.weight"]
    found = trial.supernet
    moved = {**found.gradients, "same.weight": wanted["same.weight"] + far * loosened}
    trial.__dict__["supernet"] = case.Found(found.outputs, moved)
    with pytest.raises(AssertionError) as seen:
        networks.gradients(near)
    # What is allowed here still differs from the subnet's, which has to be the same to the bit:
    # there three things are told, here four.
    assert len(seen.value.args[0]) == (3 if allowed else 4)


def test_all_claims_hold_where_nothing_is_broken() -> None:
    assert failure(TEXT) is None


def test_every_claim_is_broken_once() -> None:
    left = {check.__name__ for check in CHECKS} - {claim for claim, _, _ in BROKEN}
    assert left <= {"loads", "subnets_load", "programs", "samples", "extremes"}
