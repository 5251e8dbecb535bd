"""Cream's matching network: how well a path of the board would teach another (NeurIPS 2020).

    w_i = Linear(softmax(student(images_i)) - features_i)       one number for each path i
    loss = (m KD + (2 - m) CE) / 2,  m = sigmoid(w_i)

`images_i` are the few images that path i is remembered by, `features_i` its softmax on them. The
network also learns through the student's next loss: `second_order`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from spacelang.backends.torch.training.losses import cross_entropy, soft_cross_entropy

Run = Callable[[Tensor], Tensor]  # images -> logits
Options = Mapping[str, float]
Weights = Mapping[str, Tensor]


@dataclass
class Memory:
    """What paths are remembered by: slot -> images [n, C, H, W] and features [n, classes]."""

    images: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    features: dict[int, Tensor] = field(default_factory=dict[int, Tensor])

    def keep(self, slot: int, images: Tensor, features: Tensor) -> None:
        """Remember a path. Strides are those that a file gives back: convolutions go by them, and
        images of one channel may come with others."""
        form = torch.contiguous_format
        self.images[slot] = images.clone(memory_format=form)
        self.features[slot] = features.clone(memory_format=form)

    def tensors(self) -> dict[str, Tensor]:
        """As a checkpoint holds it."""
        kinds = (("images", self.images), ("features", self.features))
        return {f"{kind}/{slot}": t for kind, kept in kinds for slot, t in kept.items()}

    def restore(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Become the memory of a checkpoint."""
        self.images.clear()
        self.features.clear()
        kinds = {"images": self.images, "features": self.features}
        for name, tensor in tensors.items():
            kind, _, slot = name.partition("/")
            kinds[kind][int(slot)] = tensor.to(device)


def matching_network(inputs: int, seed: int) -> nn.Linear:
    """Linear(images * classes -> 1), begun as published: weights uniform in -1..1, bias 0."""
    network = nn.Linear(inputs, 1, device="meta").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        network.weight.uniform_(-1, 1, generator=generator)
        network.bias.zero_()
    return network


def match(student: Run, network: nn.Linear, images: Tensor, features: Tensor) -> Tensor:
    """The match of a student and a remembered path, a scalar."""
    seen = student(images).softmax(1) - features
    return network(seen.flatten()).squeeze(0)


def matched(
    logits: Tensor, teacher: Tensor, labels: Tensor, score: Tensor, options: Options
) -> Tensor:
    """(m KD + (2 - m) CE) / 2 with m = sigmoid(sign * score), whose gradient is not cut."""
    share = torch.sigmoid(options["sign"] * score)
    taught = soft_cross_entropy(logits, teacher, {})
    told = cross_entropy(logits, labels, options)
    return (share * taught + (2 - share) * told) / 2


def second_order(
    run: Callable[[Weights, Tensor], Tensor],
    weights: Weights,
    network: nn.Linear,
    samples: tuple[Tensor, Tensor, Tensor],
    remembered: tuple[Tensor, Tensor],
    teacher: Tensor,
    rate: float,
    options: Options,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The student's loss after a step of distillation, and the matching network's gradients of it.

    run          logits of the student with some weights on images
    samples      images to distil on, images to be judged on, and the labels of the second
    remembered   images and features of the path that judges
    teacher      logits of the teacher on the first images

    w' = w - rate * d(m KD)/dw, exactly and without moving w; then CE(student(w')).
    """
    shown, judged, labels = samples

    def student(images: Tensor) -> Tensor:
        return run(weights, images)

    share = torch.sigmoid(options["sign"] * match(student, network, *remembered))
    taught = share * soft_cross_entropy(student(shown), teacher, {})
    slopes = torch.autograd.grad(
        taught, list(weights.values()), create_graph=True, allow_unused=True
    )
    moved = {
        name: weight if slope is None else weight - rate * slope
        for (name, weight), slope in zip(weights.items(), slopes, strict=True)
    }
    loss = cross_entropy(run(moved, judged), labels, options)
    return loss.detach(), torch.autograd.grad(loss, tuple(network.parameters()))
