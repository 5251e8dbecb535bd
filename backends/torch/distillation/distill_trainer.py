"""The trainer of students: all that `TorchTrainer` does, and losses that a teacher has part in.

    trainer = DistillTrainer(model, graph, data, recipe, seed, lesson)

What learns beside the student (maps of hidden states, heads, weights of outputs) is in `bridges`,
part of a checkpoint and no part of the student.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from spacelang.backends.torch.data.datasets import Batch, Dataset, first_samples, ordered_batches
from spacelang.backends.torch.distillation.introspection import Depths
from spacelang.backends.torch.distillation.relating import Values, answer, parts, related
from spacelang.backends.torch.distillation.taps import Tapped
from spacelang.backends.torch.distillation.teacher import Teacher, takes
from spacelang.backends.torch.lowering.kernels import loss_of
from spacelang.backends.torch.training.checkpoint import Checkpoint, Tensors, unpack
from spacelang.backends.torch.training.evaluate import mode
from spacelang.backends.torch.training.fixed import TRIED
from spacelang.backends.torch.training.losses import (
    INTROSPECTING,
    LABELLED,
    LOSSES,
    RELATING,
    relating,
    relations,
    soft_labels,
)
from spacelang.backends.torch.training.nonfinite import NotFinite
from spacelang.backends.torch.training.optimizer import optimizer_tensors
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.trainer import TorchTrainer
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.distillation import TEACHER
from spacelang.engines.protocol import Forward, LossTerm, Metrics, StepPlan
from spacelang.engines.stream import seed_of
from spacelang.ir.graph import Graph

if TYPE_CHECKING:
    from spacelang.backends.torch.distillation.lesson import Lesson

STORED = "soft_labels"


class DistillTrainer(TorchTrainer):
    """Trains a supernet by what a lesson asks of it.

    bridges   maps from the student's hidden states to the teacher's width, by pair, for
              `hidden_states`; with `depths` they learn with the student, and are no part of it
    depths    heads and shares of the outputs that are compared, for `introspection_*`
    """

    kinds = (*LOSSES, STORED, *RELATING, *INTROSPECTING)
    alone = (*LABELLED, STORED)
    mixable = (*LOSSES, *RELATING, *INTROSPECTING)
    networks = ("supernet", TEACHER)

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        data: Dataset,
        recipe: Recipe,
        seed: int,
        lesson: Lesson,
    ) -> None:
        super().__init__(model, graph, data, recipe, seed)
        self.lesson = lesson
        self._soft_labels = loss_of("soft_labels", soft_labels)
        self._relating = relating(loss_of("relations", relations))
        if (stored := lesson.stored) is not None:
            self.feed.recipe = stored.views(recipe.augmentation)
            self.feed.replay = stored.seeded
        terms = lesson.engine.terms
        self.every = any(t.kind in INTROSPECTING and not t.taps for t in terms)
        inner = [p for t in terms for tap, _ in t.taps for p in tap.paths]
        own = [*inner, *(t.at for t in terms if t.at)]
        given = [p for t in terms for _, tap in t.taps for p in tap.paths]
        self.tapped: Tapped | None = None
        if own or self.every:
            self.tapped = Tapped(model, own, self.every, self._network)
        self.teacher: Teacher | None = None
        self.asked: Tapped | None = None
        if lesson.teacher is not None and lesson.engine.asks:
            self.teacher = lesson.teacher.to(str(self.device))
            self.asked = self.teacher.tapped(given, self.every)
        self.values: dict[int, Values] = {}  # of the passes of the step, by path
        self.kept: tuple[Tensor, Tensor] | None = None  # stored classes and probabilities
        self.bridges = nn.ModuleDict()
        self.depths: Depths | None = None
        self.builder: torch.optim.AdamW | None = None
        self._try()

    # Before anything is trained.

    def _try(self) -> None:
        """One pass of the largest and of the smallest network through every loss (SP705).

        Makes the bridges, whose widths are then known.
        """
        (batch,) = ordered_batches(first_samples(self.data.train, TRIED), TRIED)
        images = batch.images.to(self.device)
        with self._unchanged(), torch.no_grad():
            answers = self._answers(images)
            for which in ("largest", "smallest"):
                self.activate(self.graph.decisions.extreme(which))
                logits, own = self._student(images)
                if answers is not None and answers[0].shape != logits.shape:
                    counts = answers[0].shape[-1], logits.shape[-1]
                    told = "the teacher tells {} classes apart, the student {}".format(*counts)
                    raise SpaceError(error("SP705", told))
                for term in self.lesson.engine.terms:
                    answer(term, own, logits)
                    if answers is not None:
                        self._compare(term, logits, own, *answers)
        if len(self.bridges):
            decay = self.recipe.weight_decay
            self.builder = torch.optim.AdamW(self.bridges.parameters(), lr=0.0, weight_decay=decay)

    @contextmanager
    def _unchanged(self) -> Generator[None]:
        """The model for passes that leave nothing behind; in training where every output is asked
        for, since some modules have some in training alone."""
        kept = [(b, b.clone()) for b in self.model.buffers()] if self.every else []
        try:
            with mode(self.model, training=self.every), self._randomness(0):
                yield
        finally:
            for buffer, before in kept:
                buffer.copy_(before)

    def _compare(
        self, term: LossTerm, logits: Tensor, own: Values, answers: Tensor, given: Values
    ) -> None:
        """Once what a loss compares, and what learns beside the student for it."""
        if term.kind in RELATING:
            self._build(term, own, given)
            related(term, own, given, self._bridge, self._relating)
        elif term.kind in INTROSPECTING:
            if self.depths is None:
                self.depths = Depths(
                    term.taps, own, given, classes=logits.shape[1], seed=self.seed,
                    learned=self.lesson.engine.ensemble == "learned",
                )  # fmt: skip
                self.bridges["depths"] = self.depths.to(self.device)
            self.depths.apart(term.kind, own, logits, given, answers, term.options)

    def _answers(self, images: Tensor) -> tuple[Tensor, Values] | None:
        """What the teacher says (SP705 where it cannot take the images)."""
        if self.asked is None or self.teacher is None:
            return None
        with takes(self.teacher, images.shape[1:]):
            return self._ask(images)

    def _build(self, term: LossTerm, own: Values, given: Values) -> None:
        """A bridge for each pair of hidden states, from the width of the largest network."""
        if term.kind != "hidden_states":
            return
        for number, (left, right) in enumerate(term.taps):
            if str(number) in self.bridges:
                continue
            if left.paths[0] not in own:
                raise SpaceError(error("SP705", f"the largest network has no {left}"))
            width = parts(left, own, term.kind)[0].shape[-1]
            wanted = parts(right, given, term.kind)[0].shape[-1]
            bridge = cast(nn.Linear, nn.utils.skip_init(nn.Linear, width, wanted))
            generator = torch.Generator().manual_seed(seed_of(self.seed, "bridge", number))
            nn.init.trunc_normal_(bridge.weight, std=0.02, generator=generator)
            nn.init.zeros_(bridge.bias)
            self.bridges[str(number)] = bridge.to(self.device)

    def _bridge(self, number: int, hidden: Tensor) -> Tensor:
        """A hidden state in the teacher's width; of a narrower network the first columns map it."""
        bridge = cast(nn.Linear, self.bridges[str(number)])
        return nn.functional.linear(hidden, bridge.weight[:, : hidden.shape[-1]], bridge.bias)

    # Steps.

    def step(self, plan: StepPlan) -> Metrics:
        if self.builder is not None:
            self.builder.zero_grad(set_to_none=True)
        return super().step(plan)

    def _pass(self, number: int, forward: Forward, images: Tensor) -> Tensor:
        if forward.network == TEACHER:
            logits, self.values[number] = self._ask(images)
            return logits
        self.activate(forward.assignment)
        logits, self.values[number] = self._student(images)
        return logits

    def _ask(self, images: Tensor) -> tuple[Tensor, Values]:
        assert self.teacher is not None
        assert self.asked is not None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.amp):
            logits, values = self.asked(self.teacher.see(images))
        return logits.float(), values

    def _student(self, images: Tensor) -> tuple[Tensor, Values]:
        if self.tapped is None:
            return self._logits(images), {}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.amp):
            logits, values = self.tapped(images)
        return logits.float(), values

    def _value(
        self, term: LossTerm, logits: Tensor, labels: Tensor, outputs: Mapping[int, Tensor]
    ) -> Tensor:
        read = answer(term, self.values[term.of], logits)
        if read is None:
            return logits.sum() * 0
        logits = read
        if term.kind == STORED:
            assert self.kept is not None
            assert self.lesson.stored is not None
            temperature = self.lesson.stored.temperature
            return self._soft_labels(logits / temperature, *self.kept).mean() * temperature**2
        if term.kind in RELATING:
            given = self.values[term.against or 0]
            found = related(term, self.values[term.of], given, self._bridge, self._relating)
            return logits.sum() * 0 if found is None else found
        if term.kind in INTROSPECTING:
            assert self.depths is not None
            against = term.against or 0
            own, given = self.values[term.of], self.values[against]
            return self.depths.apart(term.kind, own, logits, given, outputs[against], term.options)
        return super()._value(term, logits, labels, outputs)

    def _update(self, plan: StepPlan, loss: float) -> None:
        slopes = [p.grad for p in self.bridges.parameters() if p.grad is not None]
        if not all(bool(torch.isfinite(slope).all()) for slope in slopes):
            self.optimizer.zero_grad()
            raise NotFinite("gradient", plan, self.feed.ids(plan), self._masks(plan.step))
        super()._update(plan, loss)
        if self.builder is not None:
            for group in self.builder.param_groups:
                group["lr"] = self._rate(plan)
            self.builder.step()

    # Images and what is stored of them.

    def _learning(self) -> list[nn.Parameter]:
        return [*super()._learning(), *self.bridges.parameters()]

    def images_of(self, plan: StepPlan, shard: int = 0) -> Batch:
        """The batch of a step and its records; images whose record is not good are left out."""
        batch = super().images_of(plan, shard)
        if self.lesson.stored is None:
            return batch
        records, good = self.lesson.stored.read(plan.epoch, batch.ids.numpy())
        if not good.any():
            told = error("SP702", f"no image of step {plan.step} has a record that can be used")
            raise SpaceError(told.hint("write the store again, or --on-bad recompute"))
        chosen = torch.from_numpy(good)
        classes = torch.from_numpy(records.classes.astype("int64"))
        kept = classes[chosen], torch.from_numpy(records.probabilities)[chosen]
        self.kept = kept[0].to(self.device), kept[1].to(self.device)
        return Batch(batch.images[chosen], batch.labels[chosen], batch.ids[chosen])

    # Checkpoints.

    def _pack(self) -> tuple[Tensors, dict[str, object]]:
        tensors, settings = super()._pack()
        if self.builder is None:
            return tensors, settings
        state, numbers = optimizer_tensors(self.builder, self.bridges)
        more = {"bridges": dict(self.bridges.state_dict()), "builder": state}
        return {**tensors, **more}, {**settings, "builder": numbers}

    def restore(self, checkpoint: Checkpoint) -> None:
        super().restore(checkpoint)
        if self.builder is not None:
            found = checkpoint.tensors
            kept = {"model": found.get("bridges", {}), "optimizer": found.get("builder", {})}
            settings = cast(Mapping[str, object], checkpoint.state.get("builder", {}))
            unpack(kept, settings, self.bridges, self.builder)
