"""The trainer that engines drive: steps and scores of a supernet, in PyTorch.

    trainer = TorchTrainer(model, graph, data, recipe, seed=0)
    metrics = trainer.step(plan)
    scores = trainer.probe(assignments, Samples("validation"))

A step is a function of the weights, the optimiser and the plan: data, augmentation and masks are
drawn from the seed and the step. So a run that stops and goes on ends, on one kind of machine, with
the very bits of a run that never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from spacelang.backends.torch.data.datasets import Batch, Dataset
from spacelang.backends.torch.head_map import last_layer
from spacelang.backends.torch.runs.ranks import current
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.average import Average
from spacelang.backends.torch.training.checkpoint import (
    Checkpoint,
    Checkpoints,
    Tensors,
    pack,
    unpack,
)
from spacelang.backends.torch.training.clip import MODES
from spacelang.backends.torch.training.ddp import reduce, wrapped
from spacelang.backends.torch.training.evaluate import main_output, ran_out_of_memory, score
from spacelang.backends.torch.training.feed import Feed
from spacelang.backends.torch.training.fixed import Fixed
from spacelang.backends.torch.training.fsdp_check import pieces_of
from spacelang.backends.torch.training.losses import LABELLED, LOSSES
from spacelang.backends.torch.training.nonfinite import NonFiniteGuard, NotFinite
from spacelang.backends.torch.training.optimizers import optimizer_of
from spacelang.backends.torch.training.plans import check_plan
from spacelang.backends.torch.training.read_regions import Regions, frozen
from spacelang.backends.torch.training.recalibrate import recalibrated
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.shards import Shards, masks_seed, seeded
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.protocol import (
    Forward,
    LossTerm,
    Metrics,
    Samples,
    Score,
    StepPlan,
)
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph


class Activates(Protocol):
    """What is asked of a supernet beside being an nn.Module."""

    def activate(self, assignment: Assignment) -> object: ...


class TorchTrainer:
    """Trains and scores a supernet on a data set. Implements the engines' `Trainer`.

    model     a module with `activate(assignment)`; its parameters are named by storage
    taken     steps taken, also those before a checkpoint it was restored from
    touched   parameters that a step has moved, in their order, where these keep decaying
    """

    kinds: Collection[str] = LOSSES  # of loss terms
    alone: Collection[str] = LABELLED  # of those, what compares a pass with no other
    mixable: Collection[str] = LOSSES  # those that mean something where images are mixed
    networks: Collection[str] = ("supernet",)
    groups: Collection[tuple[str, ...]] = (("weights",),)  # of parameters, updated together

    def __init__(
        self, model: nn.Module, graph: Graph, data: Dataset, recipe: Recipe, seed: int
    ) -> None:
        self.model, self.graph, self.data = model, graph, data
        self.recipe, self.seed = recipe, seed
        self.taken = 0
        self.guard = NonFiniteGuard()
        self.ranks = current()
        like = next(model.parameters())
        self.device, self.dtype = like.device, like.dtype
        self.pieces = pieces_of(model, recipe, self.ranks)
        self.optimizer = optimizer_of(model, graph, recipe)
        self.touched: dict[nn.Parameter, None] = {}
        self._network = wrapped(model, recipe, self.ranks)
        if isinstance(model, Supernet):
            model.checkpointing = recipe.grad_checkpointing
            if recipe.torchcompile:
                model.compile()
        self._own_parameters = list(model.parameters())
        apart = self.pieces is not None or self._network is not model  # PyTorch adds gradients
        given = len(self._own_parameters) if apart else 0
        self.shards = Shards(self.ranks, recipe.shards, model, given)
        self._own = dict(model.state_dict())  # the very tensors, as long as the module lives
        self.average = Average(self._own) if recipe.model_ema else None
        self.feed = Feed(
            data, recipe.batch_size, seed, recipe.augmentation, self.device, recipe.mixing,
            recipe.aug_repeats,
        )  # fmt: skip
        self._regions = Regions(graph)
        self._trained = Regions(graph, training=True)
        self._last_layer = last_layer(graph) if recipe.clip_mode == "agc" else frozenset[str]()
        # Images and logits of the last step, by pass.
        self.last: tuple[Tensor, Mapping[int, Tensor]] | None = None

    # Training.

    def steps(self, data: str) -> int:
        """How many batches an epoch of a part has."""
        return self.feed.steps(data)

    def step(self, plan: StepPlan) -> Metrics:
        """One update. NotFinite, and no weight changed, if a loss or gradient is not finite.

        A step that the policy leaves out has seen no image.
        """
        check_plan(self, plan, mixed=self.recipe.mixing(plan.epoch) is not None)
        rate = self._rate(plan)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        self.model.train()
        kept = self.guard.before(self.model)  # the forward pass moves statistics
        self._clear()
        try:
            correct, total, terms = self._learn(plan)
        except (RuntimeError, MemoryError) as failed:
            if not ran_out_of_memory(failed):
                raise
            raise SpaceError(
                error("SP703", f"out of memory in step {plan.step}")
                .note(f"architecture {dict(plan.assignment)}")
                .hint(f"try --batch-size {max(1, self.recipe.batch_size // 2)}")
            ) from failed
        loss = sum(term.weight * terms[term.name] for term in plan.losses)
        try:
            self._update(plan, loss)
        except NotFinite as failed:
            nothing = self.guard.leave_out(failed, rate, kept)
            self.taken = plan.step + 1
            return nothing
        return Metrics(loss, terms, correct, total, rate)

    def _clear(self) -> None:
        """No gradients, but zeros for what keeps decaying where no step uses it."""
        self.optimizer.zero_grad()
        for parameter in self.touched:
            parameter.grad = torch.zeros_like(parameter)

    def _rate(self, plan: StepPlan) -> float:
        """The learning rate of a step, by its place in the run."""
        length = self.steps(plan.data)
        step = plan.epoch * length + plan.batch
        return self.recipe.rate(step, length) * self.guard.scale

    def _learn(self, plan: StepPlan) -> tuple[int, int, dict[str, float]]:
        """The gradients of a batch, shard by shard; right answers of so many, and loss terms."""

        def one(number: int, share: float) -> tuple[int, dict[str, float]]:
            nonlocal seen
            shard = self.images_of(plan, number)
            if share == 1:  # a record may be left out, of a batch that is not cut
                seen = len(shard.labels)
            logits, terms = self._backward(plan, shard, share, number)
            return int((logits.argmax(1).cpu() == _chief(shard)).sum()), terms

        count, names = len(self.feed.positions(plan)), [term.name for term in plan.losses]
        seen = count
        correct, terms = self.shards.learn(count, names, self._learning(), one)
        return correct, seen, terms

    def images_of(self, plan: StepPlan, shard: int = 0) -> Batch:
        """The images of a shard of a step's batch, and what is known of them."""
        return self.feed.batch(plan, shard, self.recipe.shards)

    def _learning(self) -> list[nn.Parameter]:
        """The parameters that a step may have gradients of, in one order everywhere."""
        return self._own_parameters

    def _backward(
        self, plan: StepPlan, batch: Batch, share: float = 1.0, shard: int = 0
    ) -> tuple[Tensor, dict[str, float]]:
        """Logits of the first pass and the loss terms; the gradients of all passes are summed.

        One learning pass after the other, so several cost no more memory than the largest. `share`
        is what the samples are of their batch.
        """
        images, labels = batch.images.to(self.device, self.dtype), batch.labels.to(self.device)
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        others = None if batch.others is None else batch.others.to(self.device)
        outputs: dict[int, Tensor] = {}
        terms: dict[str, float] = {}
        # Where PyTorch adds gradients all have to go backward.
        joint = self._network is not self.model or self.pieces is not None
        last = max(term.of for term in plan.losses)
        quiet = nullcontext() if self.pieces is None else self.pieces.quiet()
        with self._randomness(plan.step, shard), quiet:
            for number in sorted(range(len(plan.forwards)), key=lambda n: plan.forwards[n].learns):
                forward = plan.forwards[number]
                reduce(self._network, number == last)
                with torch.set_grad_enabled(forward.learns):
                    logits = self._pass(number, forward, images)
                outputs[number] = logits.detach()
                asked = [term for term in plan.losses if term.of == number]
                if not asked:
                    continue
                values = [self._value(term, logits, labels, outputs) for term in asked]
                if others is not None:
                    values = [
                        batch.share * value
                        + (1 - batch.share) * self._value(term, logits, others, outputs)
                        if term.kind in LABELLED
                        else value
                        for term, value in zip(asked, values, strict=True)
                    ]
                found = {t.name: value.item() for t, value in zip(asked, values, strict=True)}
                terms |= found
                if not joint and not all(map(math.isfinite, found.values())):
                    break
                if self.pieces is not None:
                    self.pieces.reduce(shard == self.shards.own[-1] and number == last)
                total = [t.weight * value for t, value in zip(asked, values, strict=True)]
                loss = torch.stack(total).sum()
                (loss if share == 1 else loss * share).backward()
        if shard == self.shards.own[0]:
            self.last = images, outputs
        return outputs[0], {**dict.fromkeys((t.name for t in plan.losses), math.nan), **terms}

    def _value(
        self, term: LossTerm, logits: Tensor, labels: Tensor, outputs: Mapping[int, Tensor]
    ) -> Tensor:
        """A loss term of the pass that is active; `outputs` are the logits of those before."""
        against = labels if term.against is None else outputs[term.against]
        return LOSSES[term.kind](logits, against, term.options)

    def _pass(self, number: int, forward: Forward, images: Tensor) -> Tensor:
        """The logits of the `number`-th pass of a step, in float32."""
        self.activate(forward.assignment)
        return self._logits(images)

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.amp):
            found = main_output(self._network(images))
        return found.float() if found.dtype == torch.bfloat16 else found

    def _update(self, plan: StepPlan, loss: float) -> None:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if not math.isfinite(loss):
            self.optimizer.zero_grad()
            raise NotFinite("loss", plan, self.feed.ids(plan), self._masks(plan.step))
        norm = (self.pieces.norm if self.pieces else nn.utils.get_total_norm)(gradients)
        if not math.isfinite(norm.item()):
            self.optimizer.zero_grad()
            raise NotFinite("gradient", plan, self.feed.ids(plan), self._masks(plan.step))
        if self.recipe.clip_grad is not None:
            named = dict(self.model.named_parameters())
            MODES[self.recipe.clip_mode](named, self.recipe.clip_grad, norm, self._last_layer)
        with self._rest_frozen(plan):
            self.optimizer.step()
        if self.recipe.unsampled == "decay":
            learned = (p for p in self.model.parameters() if p.grad is not None)
            self.touched |= dict.fromkeys(learned)
        self.taken = plan.step + 1
        if self.average is not None:
            self.average.move(self.recipe.average_decay(plan.step))

    def _rest_frozen(self, plan: StepPlan) -> AbstractContextManager[None]:
        """What no pass of a step reads stays as it is, where the recipe says so."""
        if self.recipe.unsampled != "freeze":
            return nullcontext()
        read = [forward.assignment for forward in plan.forwards if forward.learns]
        return frozen(self.model, self.optimizer, self._trained, read)

    def _randomness(self, step: int, shard: int = 0) -> AbstractContextManager[None]:
        """torch's own generators as a function of the step, for masks; as before afterwards."""
        return seeded(self._masks(step, shard), self.device)

    def _masks(self, step: int, shard: int = 0) -> int:
        """The seed of what a shard of a step drops."""
        return masks_seed(self.seed, step, shard)

    # Scores.

    def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
        """A score for each architecture, of the moving average where there is one."""
        with self.averaged():
            for assignment in assignments:
                self.activate(assignment)
                yield score(self.model, self.feed.batches(samples), self.calibrated)

    @contextmanager
    def calibrated(self) -> Generator[None]:
        """The active network with statistics of its own, where the recipe asks for that."""
        count = self.recipe.recalibrate
        if not count or not isinstance(self.model, Supernet):
            yield
            return
        images = self.feed.batches(Samples("train", count))
        with recalibrated(self.model, self._regions, images):
            yield

    def averaged(self) -> AbstractContextManager[None]:
        """The model with its moving average for weights; nothing changes where there is none."""
        return nullcontext() if self.average is None else self.average.taken()

    def whole(self) -> Supernet:
        """The supernet with whole weights; where they are cut all processes have to ask."""
        return cast(Supernet, self.model) if self.pieces is None else self.pieces.network()

    def activate(self, assignment: Assignment) -> None:
        """Make the model the network of an architecture."""
        if not isinstance(self.graph, Fixed):
            cast(Activates, self.model).activate(assignment)

    # Checkpoints.

    def save(self, store: Checkpoints, state: Mapping[str, object], *, epoch: int) -> None:
        """Everything that a later process needs to go on, and `state` besides, after so many
        finished epochs."""
        if not self.ranks.first and self.pieces is None:
            return
        tensors, settings = self._pack()
        if not self.ranks.first:
            return
        known = {**state, **settings, "steady": self.guard.state()}  # the key in older checkpoints
        store.save(tensors, step=self.taken, epoch=epoch, state=known)

    def _pack(self) -> tuple[Tensors, dict[str, object]]:
        """The tensors of a checkpoint in groups, and what else is part of it as JSON."""
        tensors: Tensors
        tensors, settings = pack(self.model, self.optimizer, self._kept_average)
        if self.pieces is not None:
            tensors = self.pieces.whole(tensors)
        touched = [name for name, p in self.model.named_parameters() if p in self.touched]
        return tensors, {"optimizer": settings, **({"touched": touched} if touched else {})}

    @property
    def _kept_average(self) -> dict[str, Tensor] | None:
        return None if self.average is None else self.average.tensors

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become the trainer that saved a checkpoint."""
        settings = cast(Mapping[str, object], checkpoint.state.get("optimizer", {}))
        tensors: Tensors = checkpoint.tensors
        if self.pieces is not None:
            places = self.model.state_dict()
            tensors = {group: self.pieces.cut(own, places) for group, own in tensors.items()}
        unpack(tensors, settings, self.model, self.optimizer, self._kept_average)
        self.guard.restore(cast(Mapping[str, object], checkpoint.state.get("steady", {})))
        self.taken = checkpoint.record.step
        self.touched = {}
        if self.recipe.unsampled == "decay":
            held = {name for name, p in self.model.named_parameters() if p in self.optimizer.state}
            names = set(cast(Iterable[str], checkpoint.state.get("touched", held)))
            named = self.model.named_parameters()
            self.touched = {p: None for name, p in named if name in names}


def _chief(batch: Batch) -> Tensor:
    """The labels of the images that make up most of each mixture."""
    return batch.labels if batch.others is None or batch.share >= 0.5 else batch.others
