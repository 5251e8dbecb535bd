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
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from spacelang.backends.torch.checkpoint import (
    Checkpoint,
    Checkpoints,
    Tensors,
    pack,
    unpack,
)
from spacelang.backends.torch.data import (
    Batch,
    Dataset,
    Part,
    batch_count,
    batches,
    first_samples,
    ordered_batches,
)
from spacelang.backends.torch.evaluate import BATCH, main_output, ran_out_of_memory, score
from spacelang.backends.torch.losses import LABELLED, LOSSES
from spacelang.backends.torch.recipe import Recipe, parameter_groups
from spacelang.backends.torch.steady import Steady
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.protocol import LossTerm, Metrics, Samples, Score, StepPlan
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


class Supernet(Protocol):
    """What is asked of a supernet beside being an nn.Module."""

    def activate(self, assignment: Assignment) -> object: ...


class TorchTrainer:
    """Trains and scores a supernet on a data set. Implements the engines' `Trainer`.

    model   a module with `activate(assignment)`; its parameters are named by storage
    taken   steps taken, also those before a checkpoint it was restored from
    """

    kinds: Collection[str] = LOSSES  # of loss terms
    groups: Collection[tuple[str, ...]] = (("weights",),)  # of parameters, updated together

    def __init__(
        self, model: nn.Module, graph: Graph, data: Dataset, recipe: Recipe, seed: int
    ) -> None:
        self.model, self.graph, self.data = model, graph, data
        self.recipe, self.seed = recipe, seed
        self.taken = 0
        self.steady = Steady()
        self.device = next(model.parameters()).device
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, graph, recipe),
            lr=recipe.lr,
            betas=cast(tuple[float, float], recipe.opt_betas),
            eps=recipe.opt_eps,
            fused=True,
        )
        self._own = dict(model.state_dict())  # the very tensors, as long as the module lives
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self.average: dict[str, Tensor] | None = None
        if recipe.model_ema:
            self.average = {n: t.detach().clone() for n, t in model.state_dict().items()}
            self._pairs = [(t, self._own[n]) for n, t in self.average.items()]
        self._coming: tuple[str, int, int, Iterator[Batch]] | None = None
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
        batch = self._batch(plan)
        rate = self._rate(plan)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        skips = self.steady.policy == "skip"
        kept = [(b, b.clone()) for b in self.model.buffers()] if skips else []
        self.optimizer.zero_grad(set_to_none=self.recipe.unsampled == "freeze")
        try:
            logits, terms = self._backward(plan, batch)
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
        correct = int((logits.argmax(1).cpu() == batch.labels).sum())
        return Metrics(loss, terms, correct, len(batch.labels), rate)

    def _rate(self, plan: StepPlan) -> float:
        """The learning rate of a step, by its place in the run."""
        length = self.steps(plan.data)
        step = plan.epoch * length + plan.batch
        return self.recipe.rate(step, length) * self.steady.scale

    def _backward(self, plan: StepPlan, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Logits of the first pass and the loss terms; the gradients of all passes are summed.

        One learning pass after the other, so several cost no more memory than the largest.
        """
        images, labels = batch.images.to(self.device), batch.labels.to(self.device)
        outputs: dict[int, Tensor] = {}
        terms: dict[str, float] = {}
        with self._randomness(plan.step):
            for number in sorted(range(len(plan.forwards)), key=lambda n: plan.forwards[n].learns):
                forward = plan.forwards[number]
                self.activate(forward.assignment)
                with torch.set_grad_enabled(forward.learns):
                    logits = self._logits(images)
                outputs[number] = logits.detach()
                asked = [term for term in plan.losses if term.of == number]
                if not asked:
                    continue
                values = [self._value(term, logits, labels, outputs) for term in asked]
                found = {t.name: value.item() for t, value in zip(asked, values, strict=True)}
                terms |= found
                if not all(map(math.isfinite, found.values())):
                    break
                total = [t.weight * value for t, value in zip(asked, values, strict=True)]
                torch.stack(total).sum().backward()
        self.last = images, outputs
        return outputs[0], {**dict.fromkeys((t.name for t in plan.losses), math.nan), **terms}

    def _value(
        self, term: LossTerm, logits: Tensor, labels: Tensor, outputs: Mapping[int, Tensor]
    ) -> Tensor:
        """A loss term of the pass that is active; `outputs` are the logits of those before."""
        against = labels if term.against is None else outputs[term.against]
        return LOSSES[term.kind](logits, against, term.options)

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.amp):
            return main_output(self.model(images)).float()

    def _update(self, plan: StepPlan, batch: Batch, loss: float) -> None:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if not math.isfinite(loss):
            self.optimizer.zero_grad()
            raise NotFinite("loss", plan, batch.ids.tolist(), self._masks(plan.step))
        norm = nn.utils.get_total_norm(gradients)
        if not math.isfinite(norm.item()):
            self.optimizer.zero_grad()
            raise NotFinite("gradient", plan, batch.ids.tolist(), self._masks(plan.step))
        if self.recipe.clip_grad is not None:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), self.recipe.clip_grad, norm)
        self.optimizer.step()
        self.taken = plan.step + 1
        if self.average is not None:
            _move(self._pairs, self.recipe.average_decay(plan.step))

    @contextmanager
    def _randomness(self, step: int) -> Generator[None]:
        """torch's own generators as a function of the step, for masks; as before afterwards."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self._masks(step))
            yield

    def _masks(self, step: int) -> int:
        """The seed of what a step drops."""
        return seed_of(self.seed, "masks", step)

    def _batch(self, plan: StepPlan) -> Batch:
        *next_up, coming = self._coming or ("", -1, -1, iter(()))
        if next_up != [plan.data, plan.epoch, plan.batch]:
            coming = batches(
                self._part(plan.data),
                self.recipe.batch_size,
                seed=self.seed,
                epoch=plan.epoch,
                recipe=self.recipe.augmentation,
                start=plan.batch,
            )
        self._coming = (plan.data, plan.epoch, plan.batch + 1, coming)
        return next(coming)

    def _refuse(self, plan: StepPlan) -> None:
        """SP701 for a step that this trainer cannot take."""
        passes, losses = plan.forwards, plan.losses
        teachers = {number for number, forward in enumerate(passes) if not forward.learns}
        unknown = [term.kind for term in losses if term.kind not in self.kinds]
        networks = {forward.network for forward in passes} - {"supernet"}
        astray = [
            term.name
            for term in losses
            if not 0 <= term.of < len(passes)
            or term.of in teachers
            or (term.against is None) != (term.kind in LABELLED)
            or (term.against is not None and term.against not in teachers)
        ]
        names = [term.name for term in losses]
        known = ", ".join(self.kinds)
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
                yield score(self.model, self._samples(samples))

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
        cast(Supernet, self.model).activate(assignment)

    # Checkpoints.

    def save(self, store: Checkpoints, state: Mapping[str, object]) -> None:
        """Everything that a later process needs to go on, and `state` besides."""
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
        self._coming = None


def _move(pairs: Sequence[tuple[Tensor, Tensor]], decay: float) -> None:
    """average = decay * average + (1 - decay) * own; whole numbers (counters) are copied."""
    smooth = [pair for pair in pairs if pair[0].is_floating_point()]
    averages, own = [list(column) for column in zip(*smooth, strict=True)]
    get_ema_multi_avg_fn(decay)(averages, own, 0)
    for average, value in pairs:
        if not average.is_floating_point():
            average.copy_(value)
