"""What two networks say at several depths: CDARTS's introspection, of a student and its teacher.

    depths = Depths(pairs, own, given, classes=10, seed=0)       # values of one pass of each
    depths.apart("introspection_kl", own, logits, given, answers, {"temperature": 2.0})

A depth is a pair of values, the student's and the teacher's. One of the shape [B, classes] speaks
for itself; of any other the tokens are averaged, and a head maps them to the classes: the student's
learns with it, the teacher's is drawn and stays, or both could agree on saying nothing. The logits
come last, and what the depths count for are shares that learn too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from spacelang.backends.torch.distillation.relating import Values, parts
from spacelang.backends.torch.distillation.taps import OUTPUT
from spacelang.backends.torch.training.losses import INTROSPECTING
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.stream import seed_of
from spacelang.engines.taps import Tap

Pairs = Sequence[tuple[Tap, Tap]]


class Depths(nn.Module):
    """Pairs of values, the heads of those that are no logits, and the shares of all.

    Without `pairs` they are the outputs that both networks have beside their logits, in order. Made
    from the values of the largest network: a narrower one uses the first columns of its heads.
    """

    def __init__(
        self,
        pairs: Pairs,
        own: Values,
        given: Values,
        *,
        classes: int,
        seed: int,
        learned: bool = True,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.pairs = tuple(pairs) or _outputs(own, given)
        self.heads = nn.ModuleDict()  # of the student
        self.fixed = nn.ModuleDict()  # of the teacher
        for number, (left, right) in enumerate(self.pairs):
            for tap, values, kept in ((left, own, self.heads), (right, given, self.fixed)):
                who = "student" if values is own else "teacher"
                if tap.paths[0] not in values:
                    raise SpaceError(error("SP705", f"the {who}'s network has no {tap}"))
                if values[tap.paths[0]].shape[1:] != (classes,):
                    width = self._value(tap, values).shape[-1]
                    generator = torch.Generator().manual_seed(seed_of(seed, "depth", number, who))
                    head = _head(width, classes, generator)
                    kept[str(number)] = head if kept is self.heads else _still(head)
        even = torch.zeros(len(self.pairs) + 1)
        self.shares = nn.Parameter(even, requires_grad=learned)

    def apart(
        self,
        kind: str,
        own: Values,
        logits: Tensor,
        given: Values,
        answers: Tensor,
        options: Mapping[str, float],
    ) -> Tensor:
        """How far apart they are; a depth that this architecture has not is left out."""
        there = [n for n, (left, _) in enumerate(self.pairs) if left.paths[0] in own]
        mine = [self._says(n, self.pairs[n][0], own, self.heads) for n in there]
        theirs = [self._says(n, self.pairs[n][1], given, self.fixed) for n in there]
        chosen = self.shares[[*there, len(self.pairs)]]
        return INTROSPECTING[kind]([*mine, logits], [*theirs, answers], chosen, options)

    def _says(self, number: int, tap: Tap, values: Values, heads: nn.ModuleDict) -> Tensor:
        """The logits [B, classes] of a depth."""
        value = self._value(tap, values)
        if str(number) not in heads:
            if value.shape[1] != self.classes:
                found = f"{tap} is {list(value.shape)}, in the largest network [B, {self.classes}]"
                raise SpaceError(error("SP705", found))
            return value
        head = cast(nn.Linear, heads[str(number)])
        return functional.linear(value, head.weight[:, : value.shape[-1]], head.bias)

    def _value(self, tap: Tap, values: Values) -> Tensor:
        """A value as [B, classes], or [B, channels] averaged over its tokens, in float32."""
        if len(tap.paths) == 1 and (value := values[tap.paths[0]]).dim() == 2:
            return value.float()
        return parts(tap, values, "hidden_states")[0].mean(1)


def _outputs(own: Values, given: Values) -> Pairs:
    """The outputs beside the logits of both networks (SP705 where they do not pair)."""
    names = [[n for n in values if n.startswith(OUTPUT)] for values in (own, given)]
    if not names[0] or len(names[0]) != len(names[1]):
        own_count, given_count = map(len, names)
        told = error("SP705", "the networks do not speak at as many depths, two or more")
        told = told.note(
            f"beside its logits the student has {own_count} outputs, the teacher {given_count}"
        )
        raise SpaceError(told.hint("--outputs 'STUDENT = TEACHER' pairs values of the two"))
    return tuple((Tap((a,)), Tap((b,))) for a, b in zip(*names, strict=True))


def _head(width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """A linear map to the classes, as PyTorch draws one."""
    head = cast(nn.Linear, nn.utils.skip_init(nn.Linear, width, classes))
    bound = width**-0.5
    with torch.no_grad():
        head.weight.uniform_(-bound, bound, generator=generator)
        head.bias.uniform_(-bound, bound, generator=generator)
    return head


def _still(head: nn.Linear) -> nn.Module:
    """A head that neither learns nor is kept: it is drawn again as it was."""
    made = nn.Module()
    made.register_buffer("weight", head.weight.detach(), persistent=False)
    made.register_buffer("bias", head.bias.detach(), persistent=False)
    return made
