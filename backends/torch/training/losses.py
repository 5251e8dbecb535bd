"""Losses of training and distillation, each a function of tensors, in float32.

    LABELLED      logits [B, classes] against labels [B]
    COMPARING     logits against those of a teacher, or of another pass of the step
    INTROSPECTING outputs of one network against those of another, both of which may learn
    REGULAR       what architecture parameters cost
    RELATING      queries, keys and values, or hidden states, of two networks' layers
    soft_labels, introspection    what stored outputs of a teacher, or a second network, say

Where publications count differently (sums, means, temperatures), the difference is in the text.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

Options = Mapping[str, float]
Loss = Callable[[Tensor, Tensor, Options], Tensor]
Relating = Callable[[Sequence[Tensor], Sequence[Tensor], Options], Tensor]
Introspection = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor, Options], Tensor]
Alphas = Sequence[tuple[Tensor, Sequence[str]]]


def cross_entropy(logits: Tensor, labels: Tensor, options: Options) -> Tensor:
    """Against labels [B]; `smoothing` of them (0)."""
    smoothing = options.get("smoothing", 0.0)
    return functional.cross_entropy(logits, labels, label_smoothing=smoothing)


def soft_cross_entropy(logits: Tensor, teacher: Tensor, options: Options) -> Tensor:
    """Against softmax(teacher / T), times T^2 (Hinton, 2015); `temperature` T (1)."""
    temperature = options.get("temperature", 1.0)
    wanted = (teacher / temperature).softmax(1)
    return functional.cross_entropy(logits / temperature, wanted) * temperature**2


def hard_cross_entropy(logits: Tensor, teacher: Tensor, options: Options) -> Tensor:
    """Against the teacher's answers (DeiT's hard distillation)."""
    return functional.cross_entropy(logits, teacher.argmax(1))


def divergence(logits: Tensor, teacher: Tensor, options: Options) -> Tensor:
    """T^2 KL(teacher || student), the mean over samples *and classes* (DeiT, MiniViT).

    With `classes` = 0 the mean over samples alone, which is as many times larger.
    """
    temperature = options.get("temperature", 1.0)
    found = _kl(logits, teacher, temperature) * temperature**2
    return found if options.get("classes", 1.0) else found * logits.shape[1]


LABELLED: Mapping[str, Loss] = MappingProxyType({"cross_entropy": cross_entropy})
COMPARING: Mapping[str, Loss] = MappingProxyType(
    {
        "soft_cross_entropy": soft_cross_entropy,
        "hard_cross_entropy": hard_cross_entropy,
        "divergence": divergence,
    }
)
LOSSES: Mapping[str, Loss] = MappingProxyType({**LABELLED, **COMPARING})


def soft_labels(logits: Tensor, classes: Tensor, probabilities: Tensor) -> Tensor:
    """Each sample's loss [B] against K kept probabilities [B, K] of its classes (TinyViT).

    What they lack to 1 is spread evenly over the other classes, nothing where rounding has made
    them more; the dense labels are never made.
    """
    kept = probabilities.float()
    count = logits.shape[1]
    others = count - kept.shape[1]
    chosen = logits.gather(1, classes.long())
    residual = (1 - kept.sum(1)).clamp(min=0) / max(1, others)
    mass = residual * others + kept.sum(1)
    rest = logits.sum(1) - chosen.sum(1)
    return mass * logits.logsumexp(1) - residual * rest - (kept * chosen).sum(1)


def relations(student: Sequence[Tensor], teacher: Sequence[Tensor], heads: int = 1) -> Tensor:
    """How tokens relate in queries, keys and values (as MiniViT's code), of one pair of layers.

    Three tensors each, [N, tokens, channels], as the layer's `qkv` gives them: unscaled, without
    bias or mask; channels may differ. Of all nine ordered pairs (a, b) the rows of softmax(a b^T /
    sqrt(d)) are compared by cross entropy, in `heads` slices of the channels; their mean. Its
    floor is the teacher's entropy, not 0.
    """
    own, given = ([_split(part, heads) for part in parts] for parts in (student, teacher))
    found = [
        -(_relation(c, d).softmax(-1) * _relation(a, b).log_softmax(-1)).sum(-1).mean()
        for (a, b), (c, d) in zip(
            itertools.product(own, repeat=2), itertools.product(given, repeat=2), strict=True
        )
    ]
    return sum(found[1:], found[0]) / len(found)


def hidden_relations(student: Tensor, teacher: Tensor, factor: float = 49.0) -> Tensor:
    """Gram matrices of normalised tokens [B, tokens, channels], their mean squared difference.

    Times 49, as published, whatever the window (as MiniViT's code).
    """
    own, given = (functional.normalize(hidden, dim=-1) for hidden in (student, teacher))
    difference = own @ own.transpose(1, 2) - given @ given.transpose(1, 2)
    return factor * difference.square().mean()


def hidden_states(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of hidden states of one shape (map the student's first)."""
    return functional.mse_loss(student, teacher)


def relating(relate: Callable[..., Tensor] = relations) -> Mapping[str, Relating]:
    """Losses of a pair of layers, three tensors of each or one, with `relate` for `relations`."""
    return MappingProxyType(
        {
            "relations": lambda own, given, o: relate(own, given, int(o.get("heads", 1.0))),
            "hidden_relations": lambda own, given, _: hidden_relations(own[0], given[0]),
            "hidden_states": lambda own, given, _: hidden_states(own[0], given[0]),
        }
    )


RELATING = relating()


def introspection(search: Tensor, evaluation: Tensor, kind: str, temperature: float) -> Tensor:
    """CDARTS's distance of two networks' logits [N, classes], times T^2; both may learn.

    kl: KL(softmax(evaluation / T) || softmax(search / T)), the mean over samples and classes;
    cosine: minus the similarity; mse and smooth_l1: of the raw logits.
    """
    return INTROSPECTION[kind](search, evaluation, temperature) * temperature**2


def _kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(teacher / T) || softmax(student / T)), the mean over samples and classes."""
    own = (student / temperature).log_softmax(1)
    given = (teacher / temperature).log_softmax(1)
    return functional.kl_div(own, given, reduction="sum", log_target=True) / own.numel()


INTROSPECTION: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = MappingProxyType(
    {
        "kl": _kl,
        "cosine": lambda a, b, _: -functional.cosine_similarity(a, b).mean(),
        "mse": lambda a, b, _: functional.mse_loss(a, b),
        "smooth_l1": lambda a, b, _: functional.smooth_l1_loss(a, b),
    }
)


def ensemble(outputs: Sequence[Tensor], weights: Tensor, summed: bool) -> Tensor:
    """What a network says at all its depths: outputs [B, classes] by softmax(weights), in order.

    One below the other, [outputs * B, classes], or added up.
    """
    shares = weights.softmax(0)
    weighed = [share * output for share, output in zip(shares, outputs, strict=True)]
    return torch.stack(weighed).sum(0) if summed else torch.cat(weighed)


def introspect(
    kind: str,
    search: Sequence[Tensor],
    evaluation: Sequence[Tensor],
    weights: Tensor,
    options: Options,
) -> Tensor:
    """The distance of two networks' ensembles.

    `temperature` (1); `summed` (0) ensembles; with `detach` (0) the first network alone learns.
    """
    summed = bool(options.get("summed", 0.0))
    own, other = ensemble(search, weights, summed), ensemble(evaluation, weights, summed)
    given = other.detach() if options.get("detach", 0.0) else other
    return introspection(own, given, kind, options.get("temperature", 1.0))


def alpha_norm(alphas: Alphas, options: Options) -> Tensor:
    """The sum of |alpha| over the alternatives that are named in the options, times their number.

    `alphas` are pairs of the parameters of a decision and the names of its alternatives.
    """
    found = [
        value.abs() * options[name]
        for values, names in alphas
        for value, name in zip(values, names, strict=True)
        if name in options
    ]
    return torch.stack(found).sum()


INTROSPECTING: Mapping[str, Introspection] = MappingProxyType(
    {f"introspection_{kind}": partial(introspect, kind) for kind in INTROSPECTION}
)
REGULAR: Mapping[str, Callable[[Alphas, Options], Tensor]] = MappingProxyType(
    {"alpha_norm": alpha_norm}
)


def _split(part: Tensor, heads: int) -> Tensor:
    """[N, tokens, channels] -> [N, heads, tokens, channels / heads]."""
    return part.unflatten(-1, (heads, -1)).transpose(1, 2)


def _relation(a: Tensor, b: Tensor) -> Tensor:
    return a @ b.transpose(-1, -2) / a.shape[-1] ** 0.5
