"""The trainer of engines that train while they search: all that `TorchTrainer` does, and a board.

    trainer = EngineTrainer(model, graph, data, recipe, seed)
    trainer.remember(slot, plan, of=0, images=4)
    scores = trainer.match(plan, slots)

Implements the engines' `Matcher`. The matching network is there from the first path that is
remembered on, and is part of a checkpoint together with what is remembered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import AdamW

from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.searching.matching import (
    Memory,
    match,
    matched,
    matching_network,
    second_order,
)
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.checkpoint import Checkpoint, Tensors, unpack
from spacelang.backends.torch.training.evaluate import main_output
from spacelang.backends.torch.training.losses import LOSSES
from spacelang.backends.torch.training.nonfinite import NotFinite
from spacelang.backends.torch.training.optimizer import optimizer_tensors
from spacelang.backends.torch.training.plans import check_plan
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.trainer import TorchTrainer
from spacelang.engines.board import MATCHED, MATCHING
from spacelang.engines.protocol import Forward, LossTerm, Metrics, StepPlan
from spacelang.engines.stream import seed_of
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph

NORM = 1.0  # the largest norm of the matching network's second-order gradient, as published


class EngineTrainer(TorchTrainer):
    """Trains, scores, remembers and matches."""

    kinds = (*LOSSES, MATCHED, MATCHING)
    groups = (("weights",), ("match",), ("weights", "match"))

    def __init__(
        self, model: nn.Module, graph: Graph, data: Dataset, recipe: Recipe, seed: int
    ) -> None:
        super().__init__(model, graph, data, recipe, seed)
        self.memory = Memory()
        self.network: nn.Linear | None = None
        self.matcher: AdamW | None = None
        self._buffers = {n: b for n, b in model.named_buffers() if n in self._own}

    # The board.

    def remember(self, slot: int, plan: StepPlan, of: int, images: int) -> None:
        """Keep the first images of the step just taken, and the softmax of a pass on them.

        A batch with fewer images is gone through again from its start.
        """
        if self.last is None or plan.step != self.taken - 1:
            raise ValueError(f"step {plan.step} is not the step just taken")
        seen, outputs = self.last
        features = self.ranks.from_first(_some(outputs[of], 0, images).softmax(1))
        self.memory.keep(slot, self.ranks.from_first(_some(seen, 0, images)), features)
        if self.network is None:
            self._begin(features.numel())

    def match(self, plan: StepPlan, slots: Sequence[int]) -> Sequence[float]:
        """How well each remembered path would teach the first pass of a plan. Changes nothing."""
        self.activate(plan.assignment)
        self.model.train()
        with torch.no_grad(), self._randomness(plan.step):
            return [self._score(slot).item() for slot in slots]

    def _score(self, slot: int) -> Tensor:
        assert self.network is not None
        images, features = self.memory.images[slot], self.memory.features[slot]
        return match(lambda x: self._still(self.model, x, {}), self.network, images, features)

    def _still(self, model: nn.Module, images: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Logits of the active network that leave its statistics as they are.

        Nothing is worked out again: that would be with the own weights and statistics, which are
        back by then.
        """
        kept = {name: buffer.clone() for name, buffer in self._buffers.items()}
        again = isinstance(model, Supernet) and model.checkpointing
        if isinstance(model, Supernet):
            model.checkpointing = False
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.amp):
                found = functional_call(model, {**kept, **weights}, (images,))
                return main_output(found).float()
        finally:
            if isinstance(model, Supernet):
                model.checkpointing = again

    def _begin(self, inputs: int) -> None:
        """A matching network and its optimiser."""
        self.network = matching_network(inputs, seed_of(self.seed, "matching")).to(self.device)
        self.matcher = AdamW(self.network.parameters(), lr=0.0, weight_decay=0.0)

    # Steps.

    def _learning(self) -> list[nn.Parameter]:
        more = [] if self.network is None else list(self.network.parameters())
        return [*super()._learning(), *more]

    def step(self, plan: StepPlan) -> Metrics:
        """One update, of the weights or of the matching network alone."""
        if self.matcher is not None:
            self.matcher.zero_grad(set_to_none=True)
        return self._learn_to_match(plan) if plan.groups == ("match",) else super().step(plan)

    def _value(
        self, term: LossTerm, logits: Tensor, labels: Tensor, outputs: Mapping[int, Tensor]
    ) -> Tensor:
        if term.kind != MATCHED:
            return super()._value(term, logits, labels, outputs)
        score = self._score(int(term.options["slot"]))
        return matched(logits, outputs[term.against or 0], labels, score, term.options)

    def _update(self, plan: StepPlan, loss: float) -> None:
        if "match" in plan.groups:
            self._check_slopes(plan)
        super()._update(plan, loss)
        if "match" in plan.groups:
            self._move_matching(plan)

    def _learn_to_match(self, plan: StepPlan) -> Metrics:
        """The second-order step: the weights, the statistics and the average stay as they are.

        It learns through the weights of every layer at once, so pieces are gathered for it.
        """
        check_plan(self, plan, mixed=self.recipe.mixing(plan.epoch) is not None)
        (term,) = plan.losses
        network, options = self.network, term.options
        assert network is not None
        # A whole batch at every process: what is made ahead are the shards that steps take.
        batch = self.feed.batch(plan, ahead=self.recipe.shards == 1)
        rate = self._rate(plan)
        images, labels = batch.images.to(self.device), batch.labels.to(self.device)
        slot = int(options["slot"])
        remembered = self.memory.images[slot], self.memory.features[slot]
        count = len(remembered[0])
        samples = _some(images, 0, count), _some(images, count, count), _some(labels, count, count)
        model = self.whole().to(self.device).train()
        weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        # Attention has second derivatives in its plain form alone.
        with self._randomness(plan.step), sdpa_kernel(SDPBackend.MATH):
            with torch.no_grad():
                teacher = self._taught(model, plan.forwards[term.against or 0], samples[0])
            _be(model, plan.assignment)
            loss, slopes = second_order(
                lambda moved, seen: self._still(model, seen, moved),
                weights, network, samples, remembered, teacher, rate, options,
            )  # fmt: skip
        for parameter, slope in zip(network.parameters(), slopes, strict=True):
            parameter.grad = slope
        try:
            self._check_slopes(plan)
        except NotFinite as failed:
            nothing = self.guard.leave_out(failed, rate)
            self.taken = plan.step + 1
            return nothing
        nn.utils.clip_grad_norm_(network.parameters(), NORM)
        self._move_matching(plan)
        self.taken = plan.step + 1
        return Metrics(loss.item(), {term.name: loss.item()}, 0, 0, rate)

    def _taught(self, model: nn.Module, forward: Forward, images: Tensor) -> Tensor:
        """What a pass that does not learn says of images."""
        _be(model, forward.assignment)
        return self._still(model, images, {})

    def _check_slopes(self, plan: StepPlan) -> None:
        """NotFinite, and nothing changed, for a gradient of the matching network that is not."""
        assert self.network is not None
        slopes = [p.grad for p in self.network.parameters() if p.grad is not None]
        if not all(bool(torch.isfinite(slope).all()) for slope in slopes):
            self.optimizer.zero_grad()
            raise NotFinite("gradient", plan, self.feed.ids(plan), self._masks(plan.step))

    def _move_matching(self, plan: StepPlan) -> None:
        assert self.matcher is not None
        for group in self.matcher.param_groups:
            group["lr"] = plan.losses[0].options["rate"]
        self.matcher.step()

    # Checkpoints.

    def _pack(self) -> tuple[Tensors, dict[str, object]]:
        tensors, settings = super()._pack()
        if self.network is None or self.matcher is None:
            return tensors, settings
        state, numbers = optimizer_tensors(self.matcher, self.network)
        board = {
            "memory": self.memory.tensors(),
            "matching": dict(self.network.state_dict()),
            "matcher": state,
        }
        return {**tensors, **board}, {**settings, "matcher": numbers}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become the trainer that saved a checkpoint, board and all."""
        super().restore(checkpoint)
        found = checkpoint.tensors
        self.memory.restore(found.get("memory", {}), self.device)
        self.network = self.matcher = self.last = None
        if "matching" in found:
            self._begin(found["matching"]["weight"].shape[1])
            assert self.network is not None
            kept = {"model": found["matching"], "optimizer": found.get("matcher", {})}
            settings = cast(Mapping[str, object], checkpoint.state.get("matcher", {}))
            unpack(kept, settings, self.network, self.matcher)


def _be(model: nn.Module, assignment: Assignment) -> None:
    """Make a supernet the network of an architecture; any other module is one."""
    if isinstance(model, Supernet):
        model.activate(assignment)


def _some(values: Tensor, start: int, count: int) -> Tensor:
    """So many of the first axis from a place on, again from the start where it ends."""
    places = torch.arange(start, start + count, device=values.device) % len(values)
    return values[places]
