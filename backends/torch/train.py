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
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from spacelang.backends.torch.checkpoint import (
    Checkpoint,
    Checkpoints,
    Tensors,
    pack,
    unpack,
)
from spacelang.backends.torch.clip import MODES, last_layer
from spacelang.backends.torch.data import (
    Batch,
    Dataset,
    Epochs,
    Part,
    batch_count,
    first_samples,
    ordered_batches,
    shard_sizes,
)
from spacelang.backends.torch.evaluate import BATCH, main_output, ran_out_of_memory, score
from spacelang.backends.torch.losses import LABELLED, LOSSES
from spacelang.backends.torch.optimizers import optimizer_of
from spacelang.backends.torch.ranks import Branch, current
from spacelang.backends.torch.recalibrate import recalibrated
from spacelang.backends.torch.recipe import Recipe
from spacelang.backends.torch.steady import Steady
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.touched import Regions
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.protocol import (
    Forward,
    LossTerm,
    Metrics,
    Samples,
    Score,
    StepPlan,
)
from spacelang.engines.stream import seed_of
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph

HELD = 256 << 20  # bytes of normalised images that are kept between two scores


class NotFinite(SpaceError):
    """A loss or gradient is not finite; `record` says where. Nothing was updated.

    `masks` in it is the seed of torch's generators in that step.
    """

    def __init__(self, what: str, plan: StepPlan, ids: list[int], masks: int) -> None:
        super().__init__(
            error("SP703", f"the {what} of step {plan.step} is not finite")
            .note(f"architecture {dict(plan.assignment)}")
            .hint("lower the learning rate, clip gradients with --clip-grad 1, or --on-nan skip")
        )
        self.record: dict[str, object] = {
            "what": what,
            "step": plan.step,
            "epoch": plan.epoch,
            "batch": plan.batch,
            "assignment": dict(plan.assignment),
            "samples": ids,
            "masks": masks,
        }


class Activates(Protocol):
    """What is asked of a supernet beside being an nn.Module."""

    def activate(self, assignment: Assignment) -> object: ...


class TorchTrainer:
    """Trains and scores a supernet on a data set. Implements the engines' `Trainer`.

    model   a module with `activate(assignment)`; its parameters are named by storage
    taken   steps taken, also those before a checkpoint it was restored from
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
        self.steady = Steady()
        self.ranks = current()
        self.shards = self.ranks.shards(recipe.shards)  # of a batch, those that are ours
        like = next(model.parameters())
        self.device, self.dtype = like.device, like.dtype
        self.optimizer = optimizer_of(model, graph, recipe)
        self._network = self._distributed()
        if isinstance(model, Supernet):
            model.checkpointing = recipe.grad_checkpointing
        self._own_parameters = list(model.parameters())
        self._own = dict(model.state_dict())  # the very tensors, as long as the module lives
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self.average: dict[str, Tensor] | None = None
        if recipe.model_ema:
            self.average = {n: t.detach().clone() for n, t in model.state_dict().items()}
            self._pairs = [(t, self._own[n]) for n, t in self.average.items()]
        self._epochs: dict[str, Epochs] = {}
        self._regions = Regions(graph)
        self._last_layer = last_layer(graph) if recipe.clip_mode == "agc" else frozenset[str]()
        self._held: dict[Samples, list[Batch]] = {}
        # Images and logits of the last step, by pass.
        self.last: tuple[Tensor, Mapping[int, Tensor]] | None = None

    # Training.

    def steps(self, data: str) -> int:
        """How many batches an epoch of a part has."""
        return batch_count(self._part(data), self.recipe.batch_size)

    def step(self, plan: StepPlan) -> Metrics:
        """One update. NotFinite, and no weight changed, if a loss or gradient is not finite.

        A step that the policy leaves out has seen no image.
        """
        self._refuse(plan)
        rate = self._rate(plan)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        skips = self.steady.policy == "skip"
        kept = [(b, b.clone()) for b in self.model.buffers()] if skips else []
        self.optimizer.zero_grad(set_to_none=self.recipe.unsampled != "decay")
        try:
            batch, correct, total, terms = self._learn(plan)
        except RuntimeError as failed:
            if not ran_out_of_memory(failed):
                raise
            raise SpaceError(
                error("SP703", f"out of memory in step {plan.step}")
                .note(f"architecture {dict(plan.assignment)}")
                .hint(f"try --batch-size {max(1, self.recipe.batch_size // 2)}")
            ) from failed
        loss = sum(term.weight * terms[term.name] for term in plan.losses)
        try:
            self._update(plan, batch, loss)
        except NotFinite as failed:
            self.steady.note(failed.record)
            if not self.steady.skips(plan.step):
                raise
            for buffer, before in kept:  # statistics of the forward pass
                buffer.copy_(before)
            self.taken = plan.step + 1
            return Metrics(0.0, {}, 0, 0, rate)
        return Metrics(loss, terms, correct, total, rate)

    def _rate(self, plan: StepPlan) -> float:
        """The learning rate of a step, by its place in the run."""
        length = self.steps(plan.data)
        step = plan.epoch * length + plan.batch
        return self.recipe.rate(step, length) * self.steady.scale

    def _learn(self, plan: StepPlan) -> tuple[Batch, int, int, dict[str, float]]:
        """The gradients of a batch, in parts that processes share; right answers and loss terms.

        Each part is a forward and backward pass of its own. What they give is added in one order,
        whoever computed it. The batch is the first part of this process.
        """
        count, shards = len(self._positions(plan)), self.recipe.shards
        sizes = shard_sizes(count, shards)
        names = [term.name for term in plan.losses]
        buffers = [(b, b.clone()) for b in self.model.buffers()] if shards > 1 else []
        statistics = [(b, kept) for b, kept in buffers if b.is_floating_point()]
        sums, rows, batch = Branch(), list[list[float]](), None
        for number in self.shards:
            for buffer, kept in buffers:
                buffer.copy_(kept)
            shard = self._batch(plan, number)
            logits, terms = self._backward(plan, shard, sizes[number] / count, number)
            right = int((logits.argmax(1).cpu() == _chief(shard)).sum()) if sizes[number] else 0
            share = sizes[number] / count
            rows.append([right, *(share * terms[name] for name in names)])
            batch = batch or shard
            if shards > 1:
                moved = [share * (b - kept) for b, kept in statistics]
                sums.push(self._taken_gradients() | dict(enumerate(moved, -len(moved))))
        assert batch is not None
        found = self.ranks.gather(rows)
        terms = {name: sum(row[i] for row in found) for i, name in enumerate(names, 1)}
        if shards > 1 and all(map(math.isfinite, terms.values())):
            done = range(0 if self._network is self.model else len(self._own_parameters))
            ours = sums.total()
            added = self.ranks.add({n: t for n, t in ours.items() if n not in done})
            for number, parameter in enumerate(self._learning()):
                parameter.grad = (ours if number in done else added).get(number)
            for number, (buffer, kept) in enumerate(statistics, -len(statistics)):
                buffer.copy_(kept + added[number])
        return batch, int(sum(row[0] for row in found)), count, terms

    def _distributed(self) -> nn.Module:
        """The model, in PyTorch's wrapper where the recipe leaves adding gradients to it."""
        if self.recipe.reduce != "ddp" or self.ranks.size == 1:
            return self.model
        if len(self.shards) > 1:
            found = error("SP708", f"ddp has one shard a process, not {len(self.shards)}")
            raise SpaceError(found.hint(f"--shards {self.ranks.size}, or --reduce explicit"))
        known = signature(DistributedDataParallel).parameters  # it was renamed
        buffers = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in known)
        options: dict[str, Any] = {buffers: False}
        return DistributedDataParallel(self.model, find_unused_parameters=True, **options)

    def _learning(self) -> list[nn.Parameter]:
        """The parameters that a step may have gradients of, in one order everywhere."""
        return self._own_parameters

    def _taken_gradients(self) -> dict[int, Tensor]:
        """The gradients there are, by the number of their parameter, which has none afterwards."""
        found: dict[int, Tensor] = {}
        for number, parameter in enumerate(self._learning()):
            if parameter.grad is not None:
                found[number], parameter.grad = parameter.grad, None
        return found

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
        wrapped = self._network if self._network is not self.model else None
        scale = share if wrapped is None else share * self.ranks.size  # it takes the mean
        with self._randomness(plan.step, shard):
            for number in sorted(range(len(plan.forwards)), key=lambda n: plan.forwards[n].learns):
                forward = plan.forwards[number]
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
                if wrapped is None and not all(map(math.isfinite, found.values())):
                    break
                total = [t.weight * value for t, value in zip(asked, values, strict=True)]
                loss = torch.stack(total).sum()
                (loss if scale == 1 else loss * scale).backward()
        if shard == self.shards[0]:
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

    def _update(self, plan: StepPlan, batch: Batch, loss: float) -> None:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if not math.isfinite(loss):
            self.optimizer.zero_grad()
            raise NotFinite("loss", plan, self._ids(plan), self._masks(plan.step))
        norm = nn.utils.get_total_norm(gradients)
        if not math.isfinite(norm.item()):
            self.optimizer.zero_grad()
            raise NotFinite("gradient", plan, self._ids(plan), self._masks(plan.step))
        if self.recipe.clip_grad is not None:
            named = dict(self.model.named_parameters())
            MODES[self.recipe.clip_mode](named, self.recipe.clip_grad, norm, self._last_layer)
        with self._frozen(plan):
            self.optimizer.step()
        self.taken = plan.step + 1
        if self.average is not None:
            _move(self._pairs, self.recipe.average_decay(plan.step))

    @contextmanager
    def _frozen(self, plan: StepPlan) -> Generator[None]:
        """Entries that no pass of a step reads stay as they are, and so do their moments."""
        if self.recipe.unsampled != "freeze":
            yield
            return
        regions = self._regions.of(f.assignment for f in plan.forwards if f.learns)
        kept: list[tuple[Tensor, Tensor, dict[str, Tensor], Tensor]] = []
        for name, parameter in self.model.named_parameters():
            mask = regions.get(name)
            if parameter.grad is not None and mask is not None:
                state = {
                    quantity: value.clone()
                    for quantity, value in self.optimizer.state[parameter].items()
                    if isinstance(value, Tensor) and value.shape == parameter.shape
                }
                kept.append((parameter, parameter.detach().clone(), state, mask.to(self.device)))
        yield
        for parameter, before, state, mask in kept:
            now = self.optimizer.state[parameter]
            parameter.detach().copy_(torch.where(mask, parameter.detach(), before))
            for quantity, value in state.items():
                now[quantity].copy_(torch.where(mask, now[quantity], value))

    @contextmanager
    def _randomness(self, step: int, shard: int = 0) -> Generator[None]:
        """torch's own generators as a function of the step, for masks; as before afterwards."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self._masks(step, shard))
            yield

    def _masks(self, step: int, shard: int = 0) -> int:
        """The seed of what a shard of a step drops."""
        return seed_of(self.seed, "masks", step, *([shard] if shard else []))

    def _positions(self, plan: StepPlan) -> NDArray[np.int64]:
        """Where the samples of a step's batch are in their part."""
        return self._epochs_of(plan.data).positions(plan.epoch, plan.batch)

    def _ids(self, plan: StepPlan) -> list[int]:
        """The ids of the samples of a step's batch."""
        return self._part(plan.data).ids[torch.from_numpy(self._positions(plan))].tolist()

    def _epochs_of(self, data: str) -> Epochs:
        if data not in self._epochs:
            recipe = self.recipe
            part = self._part(data)
            self._epochs[data] = Epochs(part, recipe.batch_size, self.seed, recipe.augmentation)
        return self._epochs[data]

    def _batch(self, plan: StepPlan, shard: int | None = None) -> Batch:
        """The batch of a step, or a shard of it."""
        parts = (0, 1) if shard is None else (shard, self.recipe.shards)
        mixing = self.recipe.mixing(plan.epoch)
        return self._epochs_of(plan.data).load(plan.epoch, plan.batch, mixing, *parts)

    def _refuse(self, plan: StepPlan) -> None:
        """SP701 for a step that this trainer cannot take."""
        passes, losses = plan.forwards, plan.losses
        teachers = {number for number, forward in enumerate(passes) if not forward.learns}
        unknown = [term.kind for term in losses if term.kind not in self.kinds]
        networks = {forward.network for forward in passes} - {*self.networks}
        astray = [
            term.name
            for term in losses
            if not 0 <= term.of < len(passes)
            or term.of in teachers
            or (term.against is None) != (term.kind in self.alone)
            or (term.against is not None and term.against not in teachers)
        ]
        names = [term.name for term in losses]
        known = ", ".join(self.kinds)
        mixes = self.recipe.mixing(plan.epoch) is not None
        unmixed = [term.kind for term in losses if term.kind not in self.mixable] if mixes else []
        reasons = (
            (bool(networks), f"there is no network {', '.join(sorted(networks))}"),
            (len(teachers) == len(passes), "no pass learns"),
            (plan.groups not in self.groups, f"there are no parameter groups {plan.groups!r}"),
            (not losses, "it has no loss"),
            (len(set(names)) < len(names), "it has a loss twice"),
            (
                bool(unknown),
                f"there is no loss {', '.join(unknown)}; known: {known}",
            ),
            (bool(astray), f"{', '.join(astray)} reads no pass that it can"),
            (bool(unmixed), f"mixed labels are nothing for {', '.join(unmixed)}"),
        )
        for holds, reason in reasons:
            if holds:
                raise SpaceError(error("SP701", f"step {plan.step} cannot be taken: {reason}"))

    # Scores.

    def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
        """A score for each architecture, of the moving average where there is one."""
        with self.averaged():
            for assignment in assignments:
                self.activate(assignment)
                yield score(self.model, self._samples(samples), self.calibrated)

    @contextmanager
    def calibrated(self) -> Generator[None]:
        """The active network with statistics of its own, where the recipe asks for that."""
        count = self.recipe.recalibrate
        if not count or not isinstance(self.model, Supernet):
            yield
            return
        part = first_samples(self.data.train, count)
        with recalibrated(self.model, self._regions, ordered_batches(part, BATCH)):
            yield

    @contextmanager
    def averaged(self) -> Generator[None]:
        """The model with its moving average for weights; nothing changes where there is none."""
        if self.average is None:
            yield
            return
        kept = [own.clone() for _, own in self._pairs]
        for average, own in self._pairs:
            own.copy_(average)
        try:
            yield
        finally:
            for before, (_, own) in zip(kept, self._pairs, strict=True):
                own.copy_(before)

    def _samples(self, samples: Samples) -> Iterable[Batch]:
        """The batches to score on; kept, if they are not too many."""
        if samples not in self._held:
            part = self._part(samples.part)
            part = part if samples.count is None else first_samples(part, samples.count)
            if part.images.numel() * 4 > HELD:
                return ordered_batches(part, BATCH)
            self._held[samples] = [
                b._replace(images=b.images.to(self.device)) for b in ordered_batches(part, BATCH)
            ]
        return self._held[samples]

    def _part(self, name: str) -> Part:
        parts = {"train": self.data.train, "validation": self.data.validation}
        if name not in parts:
            raise SpaceError(
                error("SP701", f"no part of the data is called {name}").note(
                    f"there are {', '.join(parts)}"
                )
            )
        return parts[name]

    def activate(self, assignment: Assignment) -> None:
        """Make the model the network of an architecture."""
        cast(Activates, self.model).activate(assignment)

    # Checkpoints.

    def save(self, store: Checkpoints, state: Mapping[str, object]) -> None:
        """Everything that a later process needs to go on, and `state` besides."""
        if not self.ranks.first:
            return
        tensors, settings = self._pack()
        epoch = self.taken // self.steps("train")
        known = {**state, **settings, "steady": self.steady.state()}
        store.save(tensors, step=self.taken, epoch=epoch, state=known)

    def _pack(self) -> tuple[Tensors, dict[str, object]]:
        """The tensors of a checkpoint in groups, and what else is part of it as JSON."""
        tensors, settings = pack(self.model, self.optimizer, self.average)
        return tensors, {"optimizer": settings}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become the trainer that saved a checkpoint."""
        settings = cast(Mapping[str, object], checkpoint.state.get("optimizer", {}))
        unpack(checkpoint.tensors, settings, self.model, self.optimizer, self.average)
        self.steady.restore(cast(Mapping[str, object], checkpoint.state.get("steady", {})))
        self.taken = checkpoint.record.step
        if self.recipe.unsampled == "decay":  # what was touched has a gradient, zero where unused
            for parameter in self.optimizer.state:
                parameter.grad = torch.zeros_like(parameter)


def _chief(batch: Batch) -> Tensor:
    """The labels of the images that make up most of each mixture."""
    return batch.labels if batch.others is None or batch.share >= 0.5 else batch.others


def _move(pairs: Sequence[tuple[Tensor, Tensor]], decay: float) -> None:
    """average = decay * average + (1 - decay) * own; whole numbers (counters) are copied."""
    smooth = [pair for pair in pairs if pair[0].is_floating_point()]
    averages, own = [list(column) for column in zip(*smooth, strict=True)]
    get_ema_multi_avg_fn(decay)(averages, own, 0)
    for average, value in pairs:
        if not average.is_floating_point():
            average.copy_(value)
