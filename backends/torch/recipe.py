"""How a supernet is trained: settings by timm's names, and the learning rate they make.

    recipe = Recipe(epochs=70, batch_size=64, lr=2e-3, aug="digits")
    recipe.rate(step, steps_per_epoch)

A recipe is part of a run's identity: a run goes on only with the recipe it began with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from torch import nn

from spacelang.backends.torch.augment import RECIPES, Augmentation
from spacelang.backends.torch.storage import tensor_names
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.paths import Law, SinglePath
from spacelang.engines.settings import read_fields
from spacelang.ir.graph import Graph


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of training. The optimiser is AdamW; the defaults are timm's and AutoFormer's.

    warmup_epochs   linear from `warmup_lr` to `lr`; the cosine counts from epoch 0 all the same
    sched_on_updates   a new rate every step; else every epoch
    clip_grad       the largest norm of all gradients together, none where None
    model_ema       keep a moving average of the weights, and search and extract from it
    amp             compute in bfloat16 where that is safe
    unsampled       blocks that a step does not use: "freeze" them, or "decay" them as torch 1 did
    aug             a recipe of augmentation by name: none, digits, photos
    law             what a step draws: choices (as published), architectures or sandwich
    no_decay        labels of parameters without weight decay, besides vectors and norms
    val_interval    epochs between two measurements on the validation part; 0 for none
    """

    epochs: int = 300
    batch_size: int = 128
    lr: float = 5e-4
    min_lr: float = 1e-5
    warmup_lr: float = 1e-6
    warmup_epochs: float = 5.0
    sched: Literal["cosine", "constant"] = "cosine"
    sched_on_updates: bool = True
    weight_decay: float = 0.05
    opt_eps: float = 1e-8
    opt_betas: tuple[float, ...] = (0.9, 0.999)
    clip_grad: float | None = None
    smoothing: float = 0.1
    model_ema: bool = False
    model_ema_decay: float = 0.9998
    amp: bool = False
    unsampled: Literal["freeze", "decay"] = "freeze"
    aug: str = "none"
    law: Law = "choices"
    no_decay: tuple[str, ...] = ("pos_embed", "cls_token")
    val_interval: int = 1

    def __post_init__(self) -> None:
        wrong = [message for message, holds in self._limits() if not holds]
        if wrong:
            raise SpaceError([error("SP103", f"training: {message}") for message in wrong])

    def _limits(self) -> tuple[tuple[str, bool], ...]:
        betas = self.opt_betas
        return (
            ("epochs are at least 1", self.epochs >= 1),
            ("the batch size is at least 1", self.batch_size >= 1),
            ("learning rates are not negative", min(self.lr, self.min_lr, self.warmup_lr) >= 0),
            ("warmup_epochs are not negative", self.warmup_epochs >= 0),
            ("opt_betas are two numbers", len(betas) == 2),
            ("opt_betas are in 0..1", all(0 <= b < 1 for b in betas)),
            ("opt_eps is above 0", self.opt_eps > 0),
            ("weight_decay is not negative", self.weight_decay >= 0),
            ("smoothing is in 0..1", 0 <= self.smoothing < 1),
            ("clip_grad is above 0", self.clip_grad is None or self.clip_grad > 0),
            ("model_ema_decay is in 0..1", 0 <= self.model_ema_decay < 1),
            (f"aug is one of {', '.join(RECIPES)}", self.aug in RECIPES),
            ("val_interval is not negative", self.val_interval >= 0),
        )

    @property
    def augmentation(self) -> Augmentation:
        """How images vary in training."""
        return RECIPES[self.aug]

    @property
    def engine(self) -> SinglePath:
        """The engine that plans the steps."""
        return SinglePath(self.epochs, self.law, self.smoothing)

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step."""
        epochs = step / steps_per_epoch if self.sched_on_updates else step // steps_per_epoch
        return self.rate_at(epochs)

    def rate_at(self, epochs: float) -> float:
        """The learning rate after so many epochs."""
        if epochs < self.warmup_epochs:
            return self.warmup_lr + epochs * (self.lr - self.warmup_lr) / self.warmup_epochs
        if self.sched == "constant":
            return self.lr
        share = min(1.0, epochs / self.epochs)
        return self.min_lr + 0.5 * (self.lr - self.min_lr) * (1 + math.cos(math.pi * share))

    def average_decay(self, step: int) -> float:
        """How much of the moving average stays at a step: less at first, when all is new."""
        return min(self.model_ema_decay, (1 + step) / (10 + step))

    def as_json(self) -> dict[str, object]:
        """The settings as a record of a run holds them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def recipe_from(settings: Mapping[str, object]) -> Recipe:
    """A recipe from settings by name, texts read as the types of their fields (SP204, SP209)."""
    return Recipe(**read_fields(Recipe, "training", settings))


def parameter_groups(model: nn.Module, graph: Graph, recipe: Recipe) -> list[dict[str, object]]:
    """AdamW's two groups: with weight decay, and without (vectors, norms, and `no_decay`)."""
    bare = {
        name
        for storage in graph.storages.values()
        if not storage.param.decay
        for name in tensor_names(storage)
    }
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        label = name.rpartition(".")[2]
        spare = parameter.ndim <= 1 or label in recipe.no_decay or name in bare
        (spared if spare else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
