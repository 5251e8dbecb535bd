"""One function of tensors twice: for eager use, and as an operator that compilers take as it is.

    _linear = fused("linear", forward, backward, fake, backward_fake, setup, spread)
    y = _linear(x, weight, bias)
    register()                          # before something that calls it is compiled

Eagerly it is an `autograd.Function`: operators load PyTorch's compiler at their first call, which
takes seconds and 100 MiB.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

NAMESPACE = "spacelang_fused"  # not that of the operators of Triton, which have names like these
_waiting: list[Callable[[], Any]] = []


def fused(
    name: str,
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    fake: Callable[..., Any],
    backward_fake: Callable[..., Any],
    setup: Callable[..., None],
    spread: Callable[..., Any],
) -> Callable[..., Any]:
    """A function with a derivative.

    `forward` and `backward` compute, their fakes make empty results of the same shapes, `setup`
    keeps what is needed, and `spread(backward, ctx, *slopes)` gives a gradient for each input.

    Gradients are derived in turn (`create_graph=True`): what `spread` computes while gradients are
    on has to be of operations that have derivatives. An operator refuses that with a RuntimeError.
    """

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(*inputs: Any) -> Any:
            return forward(*inputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            setup(ctx, inputs, output)

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Any) -> Any:
            return spread(backward, ctx, *grad_outputs)

    def registered() -> None:
        make = torch.library.custom_op
        one = make(f"{NAMESPACE}::{name}", forward, mutates_args=())
        two = make(f"{NAMESPACE}::{name}_backward", backward, mutates_args=())
        one.register_fake(fake)
        two.register_fake(backward_fake)
        one.register_autograd(partial(spread, two), setup_context=setup)

    def call(*inputs: Any) -> Any:
        if torch.compiler.is_compiling():
            return getattr(getattr(torch.ops, NAMESPACE), name)(*inputs)
        return Eager.apply(*inputs)

    _waiting.append(registered)
    return call


def constant(function: Callable[[], int]) -> Callable[[], int]:
    """A function that compilers call while they trace, and take its result as a constant."""
    _waiting.append(partial(torch.compiler.assume_constant_result, function))
    return function


def register() -> None:
    """Make operators of all functions that are none yet, before something is compiled."""
    while _waiting:
        _waiting.pop()()
