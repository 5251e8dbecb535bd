"""Inner values of two networks, brought to the forms in which losses compare them.

    parts(tap, values, "relations")           # q, k, v, each [N, tokens, channels]
    parts(tap, values, "hidden_relations")    # [B, tokens, channels]
    related(term, own, given, options)        # the loss of all pairs that are there, or None
    answer(term, own, logits)                # what is compared of a student with several heads

Windows count as samples; rows, columns and tokens stay in their order. Widths and heads of the two
networks may differ, their tokens may not (SP705).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from spacelang.backends.torch.training.losses import RELATING, Relating
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.protocol import LossTerm
from spacelang.engines.taps import Tap

Values = Mapping[str, Tensor]
Bridge = Callable[[int, Tensor], Tensor]  # of a pair's number and the student's hidden state


def answer(term: LossTerm, own: Values, logits: Tensor) -> Tensor | None:
    """The student's answer, or the value that a loss reads instead; None where this architecture
    has no such value. SP705 for one of another shape."""
    if not term.at:
        return logits
    value = own.get(term.at)
    if value is not None and value.shape != logits.shape:
        told = f"{term.at} is {list(value.shape)}, and an answer {list(logits.shape)}"
        raise SpaceError(error("SP705", told))
    return None if value is None else value.float()


def related(
    term: LossTerm,
    own: Values,
    given: Values,
    bridge: Bridge,
    losses: Mapping[str, Relating] = RELATING,
) -> Tensor | None:
    """The mean loss over the pairs whose layers this architecture has; None where it has none."""
    found: list[Tensor] = []
    for number, (left, right) in enumerate(term.taps):
        if any(path not in own for path in left.paths):
            continue
        student, teacher = parts(left, own, term.kind), parts(right, given, term.kind)
        if term.kind == "hidden_states":
            student = [bridge(number, student[0])]
        _fits(term, left, right, student, teacher)
        found.append(losses[term.kind](student, teacher, term.options))
    return torch.stack(found).mean() if found else None


def parts(tap: Tap, values: Values, kind: str) -> list[Tensor]:
    """What a loss compares, of the values of a tap, in float32."""
    tensors = [values[path].float() for path in tap.paths]
    if tap.map:
        tensors = [_tokens_last(tap, tensor) for tensor in tensors]
    if kind == "relations":
        tensors = tensors if len(tensors) == 3 else _apart(tap, tensors[0])
        found = [tensor.flatten(0, -3) for tensor in tensors]
    else:
        if len(tensors) > 1:
            raise SpaceError(error("SP705", f"{tap}: a hidden state is one value"))
        if tensors[0].dim() < 3:
            raise _odd(tap, tensors[0], "[B, .., channels]")
        found = [tensors[0].flatten(1, -2)]
    if any(tensor.dim() != 3 for tensor in found):
        raise _odd(tap, tensors[0], "[.., tokens, channels]")
    return [tensor[:, tap.first :] for tensor in found]


def _apart(tap: Tap, value: Tensor) -> list[Tensor]:
    """q, k and v, [.., tokens, channels] each, of a fused projection.

    It is [.., tokens, 3, heads, channels], or with all of it in the last axis; with `per_head` the
    heads come before the three.
    """
    if value.dim() >= 5:
        axis = -2 if tap.per_head else -3
        if value.shape[axis] != 3:
            raise _odd(tap, value, "[.., tokens, 3, heads, channels]")
        return [part.flatten(-2) for part in value.unbind(axis)]
    heads = tap.per_head or 1
    if value.dim() < 3 or value.shape[-1] % (3 * heads):
        raise _odd(tap, value, f"[.., tokens, {3 * heads} * channels]")
    return [part.flatten(-2) for part in value.unflatten(-1, (heads, 3, -1)).unbind(-2)]


def _tokens_last(tap: Tap, value: Tensor) -> Tensor:
    """[B, channels, height, width] -> [B, tokens, channels]."""
    if value.dim() != 4:
        raise _odd(tap, value, "[B, channels, height, width]")
    return value.flatten(2).transpose(1, 2)


def _odd(tap: Tap, value: Tensor, wanted: str) -> SpaceError:
    return SpaceError(error("SP705", f"{tap} is {list(value.shape)}, not {wanted}"))


def _fits(
    term: LossTerm, left: Tap, right: Tap, own: Sequence[Tensor], given: Sequence[Tensor]
) -> None:
    """SP705 where the values of two layers cannot be compared."""
    if own[0].shape[:2] != given[0].shape[:2]:
        raise SpaceError(
            error("SP705", f"{left} and {right} have other tokens")
            .note(f"the student {list(own[0].shape)}, the teacher {list(given[0].shape)}")
            .hint("leave out class tokens with :from=1")
        )
    heads = int(term.options.get("heads", 1.0))
    for tap, tensor in ((left, own[0]), (right, given[0])):
        if tensor.shape[-1] % heads:
            found = f"{heads} relation heads do not divide the {tensor.shape[-1]} channels of {tap}"
            raise SpaceError(error("SP705", found))
