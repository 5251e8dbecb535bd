"""How a supernet is trained: settings by timm's names, and the learning rate they make.

    recipe = Recipe(epochs=70, batch_size=64, lr=2e-3, aug="digits")
    recipe.rate(step, steps_per_epoch)

A recipe is part of a run's identity: a run goes on only with the recipe it began with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from spacelang.backends.torch.data.mixup import Mixing
from spacelang.backends.torch.data.variation import Variation, variation, with_aug
from spacelang.backends.torch.training.schedule import COOLED, NAMES, REFUSED, Schedule
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.laws import Law, check_weights
from spacelang.engines.paths import SinglePath
from spacelang.engines.settings import read_fields

# Settings that make a schedule.
_OF_SCHEDULE = tuple(name for name in Schedule.__dataclass_fields__ if name != "updates")
# Settings that are recorded only where they are set: runs without them are older, and go on.
LATER = ("cooldown_epochs", "layer_decay", "aug_repeats", "model_ema_warmup")
MOST_REPEATS = 100


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of training; the defaults are timm's and AutoFormer's.

    opt             adamw, sgd (Nesterov's), momentum (the heavy ball), or any of timm's
    layer_decay     the rate of each layer as a share of the next one's (`layer_decay.py`)
    opt_eps, opt_betas   the optimiser's own where None
    sched           cosine, step, multistep, constant; with timm poly, tanh, wsd, rsqrt
    warmup_epochs   linear from `warmup_lr` to `lr`; the schedule counts from epoch 0 all the same
    sched_on_updates   a new rate every step; else every epoch
    cooldown_epochs at `min_lr`, after the `epochs` of cosine, tanh and poly
    decay_epochs    between two decays of `step` (90), of the last phase of wsd and rsqrt
    clip_grad       none where None; what it limits is `clip_mode`: the norm of all gradients
                    together, each value, or the norm of each unit against its weights' (agc)
    mixup, cutmix   alpha of the share of two images in one; 0 for none
    model_ema       keep a moving average of the weights, and search and extract from it
    model_ema_warmup   how its decay begins: by timm's curve, or at once (timm's default); where
                    None, by (1 + step) / (10 + step)
    amp             compute in `amp_dtype` where that is safe
    channels_last   lay images out with their channels last, and with them all maps
    grad_checkpointing   work the inside of blocks out again in the backward pass, to save memory
    torchcompile    compile each function of the supernet once, for all its architectures
    unsampled       weights that a step does not use: "freeze" them; "decay" them, as old
                    publications ran under torch 1 (once touched they keep decaying); "mixed", as
                    these run today: whole tensors stay, the rest of a slice decays with it
    aug             how images vary: none, digits, photos, or by a library: "timm aa=rand-m9
                    reprob=0.25", "tinyvit aa=rand-m9-mstd0.5-inc1"
    aug_repeats     how often an image comes in a row, varied anew each time (`data.repeated`)
    law             what a step draws: choices (as published), architectures, sandwich or weighted
    law_weights     of the candidates of decisions, for the law weighted: "depth=1:1:2"
    no_decay        labels of parameters without weight decay, besides vectors and norms
    shards          parts of a batch whose gradients are added in a fixed order: so many processes
                    may share the work, and any number of them ends with the same bits
    reduce          how processes add gradients: "explicit", or by PyTorch's "ddp"; "fsdp" also
                    cuts weights and moments among them
    recalibrate     training images by which the statistics of batch norms are found anew before a
                    network is scored; 0 for none
    val_interval    epochs between two measurements on the validation part; 0 for none
    """

    epochs: int = 300
    batch_size: int = 128
    opt: str = "adamw"
    lr: float = 5e-4
    min_lr: float = 1e-5
    warmup_lr: float = 1e-6
    warmup_epochs: float = 5.0
    sched: str = "cosine"
    sched_on_updates: bool = True
    decay_epochs: float | None = None
    decay_milestones: tuple[int, ...] = (90, 180, 270)
    decay_rate: float = 0.1
    weight_decay: float = 0.05
    momentum: float = 0.9
    opt_eps: float | None = None
    opt_betas: tuple[float, ...] | None = None
    clip_grad: float | None = None
    clip_mode: Literal["norm", "value", "agc"] = "norm"
    smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_off_epoch: int = 0
    model_ema: bool = False
    model_ema_decay: float = 0.9998
    amp: bool = False
    amp_dtype: Literal["bfloat16"] = "bfloat16"
    channels_last: bool = False
    grad_checkpointing: bool = False
    torchcompile: bool = False
    unsampled: Literal["mixed", "freeze", "decay"] = "mixed"
    aug: str = "none"
    law: Law = "choices"
    law_weights: tuple[str, ...] = ()
    no_decay: tuple[str, ...] = ("pos_embed", "cls_token")
    shards: int = 1
    reduce: Literal["explicit", "ddp", "fsdp"] = "explicit"
    recalibrate: int = 0
    val_interval: int = 1
    cooldown_epochs: int = 0
    layer_decay: float | None = None
    aug_repeats: float = 0
    model_ema_warmup: bool | None = None

    def __post_init__(self) -> None:
        wrong = [message for message, holds in self._limits() if not holds]
        try:
            check_weights(self.law, self.law_weights)
        except ValueError as problem:
            wrong.append(str(problem))
        variation(self.aug)
        if wrong:
            raise SpaceError([error("SP103", f"training: {message}") for message in wrong])

    def _limits(self) -> tuple[tuple[str, bool], ...]:
        betas, eps = self.opt_betas, self.opt_eps
        milestones, layers = self.decay_milestones, self.layer_decay
        unlike = REFUSED.get(self.sched, "")
        return (
            ("epochs are at least 1", self.epochs >= 1),
            ("the batch size is at least 1", self.batch_size >= 1),
            ("learning rates are not negative", min(self.lr, self.min_lr, self.warmup_lr) >= 0),
            ("warmup_epochs are not negative", self.warmup_epochs >= 0),
            (f"sched is one of {', '.join(NAMES)}{unlike}", self.sched in NAMES),
            ("cooldown_epochs are not negative", self.cooldown_epochs >= 0),
            (
                f"cooldown_epochs follow {', '.join(COOLED)}; timm has none after {self.sched}",
                not self.cooldown_epochs or self.sched in COOLED,
            ),
            ("layer_decay is above 0, at most 1", layers is None or 0 < layers <= 1),
            (
                f"aug_repeats are 0, or in 1..{MOST_REPEATS}",
                not self.aug_repeats or 1 <= self.aug_repeats <= MOST_REPEATS,
            ),
            ("decay_epochs are above 0", self.decay_epochs is None or self.decay_epochs > 0),
            ("decay_rate is above 0", self.decay_rate > 0),
            ("decay_milestones rise", list(milestones) == sorted({*milestones})),
            ("momentum is in 0..1", 0 <= self.momentum < 1),
            ("opt_betas are at least two numbers", betas is None or len(betas) >= 2),
            ("opt_betas are in 0..1", betas is None or all(0 <= b < 1 for b in betas)),
            ("opt_eps is above 0", eps is None or eps > 0),
            ("weight_decay is not negative", self.weight_decay >= 0),
            ("smoothing is in 0..1", 0 <= self.smoothing < 1),
            ("clip_grad is above 0", self.clip_grad is None or self.clip_grad > 0),
            ("mixup and cutmix are not negative", min(self.mixup, self.cutmix) >= 0),
            ("mixup_prob is in 0..1", 0 <= self.mixup_prob <= 1),
            ("mixup_switch_prob is in 0..1", 0 <= self.mixup_switch_prob <= 1),
            ("mixup_off_epoch is not negative", self.mixup_off_epoch >= 0),
            ("model_ema_decay is in 0..1", 0 <= self.model_ema_decay < 1),
            ("shards are in 1..batch_size", 1 <= self.shards <= max(1, self.batch_size)),
            ("recalibrate is not negative", self.recalibrate >= 0),
            ("val_interval is not negative", self.val_interval >= 0),
        )

    @property
    def augmentation(self) -> Variation:
        """How images vary in training."""
        return variation(self.aug)

    def mixing(self, epoch: int) -> Mixing | None:
        """How images are mixed in an epoch; None where they are not."""
        over = 0 < self.mixup_off_epoch <= epoch
        if over or not (self.mixup or self.cutmix):
            return None
        return Mixing(self.mixup, self.cutmix, self.mixup_prob, self.mixup_switch_prob)

    @property
    def all_epochs(self) -> int:
        """The epochs of a run: those of the schedule, and its cooldown."""
        return self.epochs + self.cooldown_epochs

    @property
    def engine(self) -> SinglePath:
        """The engine that plans the steps."""
        return SinglePath(self.all_epochs, self.law, self.smoothing, law_weights=self.law_weights)

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step."""
        updates = steps_per_epoch if self.sched_on_updates else None
        named = {name: getattr(self, name) for name in _OF_SCHEDULE}
        tick = step if self.sched_on_updates else step // steps_per_epoch
        return Schedule(**named, updates=updates).at(tick)

    def average_decay(self, step: int) -> float:
        """How much of the moving average stays at a step: less at first, when all is new."""
        if self.model_ema_warmup is None:
            return min(self.model_ema_decay, (1 + step) / (10 + step))
        if step == 0 or not self.model_ema_warmup:  # timm's begins as the first step left them
            return self.model_ema_decay if step else 0.0
        return min(self.model_ema_decay, 1 - (1 + step) ** (-2 / 3))

    def as_json(self) -> dict[str, object]:
        """The settings as a record of a run holds them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in LATER or value != getattr(Recipe(), name)
        }


def recipe_from(settings: Mapping[str, object]) -> Recipe:
    """A recipe from settings by name, texts read as the types of their fields (SP204, SP209).

    Beside the fields of `Recipe`, those of timm's augmentation that are `IN_AUG` make or change
    the text of `aug` (SP103 where that is no library's).
    """
    return Recipe(**read_fields(Recipe, "training", with_aug(settings)))
