"""The trainer of engines that train the networks of a program together, in PyTorch.

    trainer = CycleTrainer(program, data, recipe, seed=0)
    trainer.reset(groups); metrics = trainer.step(plan)
    trainer.alphas("shallow"); trainer.copy(Slots("memory", (..)), Slots("deep", (..)))

Implements the engines' `Cycler`. All passes of a step are run before its losses are, since two
networks may learn from each other; as with one network, a step is a function of the weights, the
optimisers and the plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor, nn

from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.networks import SPREAD, Networks
from spacelang.backends.torch.runs.ranks import current
from spacelang.backends.torch.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    Checkpoints,
    Tensors,
    compare,
    shapes_of,
    unpack,
)
from spacelang.backends.torch.training.ddp import wrapped
from spacelang.backends.torch.training.evaluate import main_output, ran_out_of_memory, score
from spacelang.backends.torch.training.feed import Feed
from spacelang.backends.torch.training.fsdp_check import pieces_of
from spacelang.backends.torch.training.losses import INTROSPECTING, LABELLED, REGULAR
from spacelang.backends.torch.training.nonfinite import NonFiniteGuard, NotFinite
from spacelang.backends.torch.training.optimizer import optimizer_tensors, restore_optimizer
from spacelang.backends.torch.training.plans import check_joint_plan
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.shards import Shards, masks_seed, seeded
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.derive import Derivation
from spacelang.engines.protocol import Group, LossTerm, Metrics, Samples, Score, Slots, StepPlan
from spacelang.ir.decision import Assignment
from spacelang.ir.program import Program

Outputs = Mapping[str, Tensor]


class CycleTrainer:
    """Trains the networks of a program and scores the one that has the decisions.

    taken   steps taken, also those before a checkpoint it was restored from
    joint   whether PyTorch adds gradients, so that all processes have to go backward
    guard   what is done about a step whose loss or gradient is not finite: nothing is rolled back
    """

    def __init__(
        self, program: Program, data: Dataset, recipe: Recipe, seed: int, device: str = "cpu"
    ) -> None:
        self.program, self.recipe, self.seed = program, recipe, seed
        self.derivation = Derivation(program)
        self.graph = self.derivation.space
        self.networks = Networks(program, seed, device)
        self.model = self.networks[self.derivation.evaluation]
        for name in program.networks:
            self.networks[name].checkpointing = recipe.grad_checkpointing
        self.ranks = current()
        self.pieces = pieces_of(self.networks, recipe, self.ranks)
        self._network = wrapped(self.networks, recipe, self.ranks)
        self.joint = self.pieces is not None or self._network is not self.networks
        few = [] if self.pieces is None else self.networks.few
        most = [p for p in self.networks.parameters() if p not in {*few}]
        self._parameters = [*most, *few]
        given = len(most) if self.joint else 0
        self.shards = Shards(self.ranks, recipe.shards, self.networks, given)
        self.feed = Feed(data, recipe.batch_size, seed, recipe.augmentation, device)
        self.device = torch.device(device)
        self.guard = NonFiniteGuard()
        self.taken = 0
        self.groups: tuple[Group, ...] = ()
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._logits = {
            name: next(o.name for o in graph.outputs if not o.training)
            for name, graph in program.networks.items()
        }
        self._active: dict[str, Assignment] = {}
        self._names = {
            path: [str(value) for value in choice.values]
            for path, choice in self.derivation.operations.items()
        }

    # Optimisers.

    def reset(self, groups: Sequence[Group]) -> None:
        """Begin the optimisers of these groups; what is in none of them needs no gradient, and an
        ensemble that is in none is even."""
        self.groups = tuple(groups)
        self.optimizers = {group.name: self._optimizer(group) for group in groups}
        moved = {p for o in self.optimizers.values() for g in o.param_groups for p in g["params"]}
        for parameter in self.networks.parameters():
            parameter.requires_grad_(parameter in moved)
        if not any(group.ensemble for group in groups):
            with torch.no_grad():
                self.networks.ensemble.fill_(SPREAD)

    def _optimizer(self, group: Group) -> torch.optim.Optimizer:
        members = self.networks.members(group)
        if group.rule == "adam":
            return torch.optim.Adam(
                members, lr=group.rate, betas=group.betas, weight_decay=group.decay
            )
        return torch.optim.SGD(
            members, lr=group.rate, momentum=group.momentum, weight_decay=group.decay
        )

    # Architecture parameters and weights.

    def alphas(self, network: str) -> Mapping[str, Sequence[float]]:
        """The architecture parameters of a network, by decision."""
        return {path: values.tolist() for path, values in self.networks.alphas(network).items()}

    def weigh(self, network: str, values: Mapping[str, Sequence[float]]) -> None:
        """Set architecture parameters."""
        own = self.networks.alphas(network)
        with torch.no_grad():
            for path, numbers in values.items():
                own[path].copy_(torch.tensor(numbers))

    def renew(self, slots: Slots, number: int) -> None:
        """Draw weights and statistics anew."""
        self.networks.renew(slots, number)

    def copy(self, source: Slots, target: Slots) -> None:
        """Copy weights between networks and the pool."""
        self.networks.copy(source, target)

    # Steps.

    def steps(self, data: str) -> int:
        """How many batches an epoch of a part has."""
        return self.feed.steps(data)

    def step(self, plan: StepPlan) -> Metrics:
        """One update of the groups of a plan, from the gradients of all its losses together.

        NotFinite, and no weight changed, if a loss or gradient is not finite; a step that the
        policy leaves out has seen no image.
        """
        check_joint_plan(plan, self.program.networks, self.optimizers)
        self.networks.train()
        self.networks.zero_grad(set_to_none=True)
        rate = self._set_rates(plan)
        kept = self.guard.before(self.networks)  # the forward passes move statistics
        count, names = len(self.feed.positions(plan)), [term.name for term in plan.losses]
        try:
            correct, terms = self.shards.learn(
                count, names, self._parameters, lambda *shard: self._backward(plan, *shard)
            )
            self._update(plan, terms)
        except NotFinite as failed:
            self.networks.zero_grad(set_to_none=True)
            nothing = self.guard.leave_out(failed, rate, kept)
            self.taken = plan.step + 1
            return nothing
        except (RuntimeError, MemoryError) as failed:
            if not ran_out_of_memory(failed):
                raise
            found = error("SP703", f"out of memory in step {plan.step}")
            less = max(1, self.recipe.batch_size // 2)
            raise SpaceError(found.hint(f"try --batch-size {less}")) from failed
        return Metrics(_total(plan, terms), terms, correct, count, rate)

    def _set_rates(self, plan: StepPlan) -> float:
        """The rates of a step's optimisers; that of the first of them."""
        rates = {group.name: group.rate for group in self.groups}
        for name in plan.groups:
            for part in self.optimizers[name].param_groups:
                part["lr"] = rates[name]
        return rates[plan.groups[0]]

    def _backward(self, plan: StepPlan, shard: int, share: float) -> tuple[int, dict[str, float]]:
        """Right answers of the first pass, and the loss terms, whose gradients are summed.

        `share` is what the samples of the shard are of their batch.
        """
        batch = self.feed.batch(plan, shard, self.recipe.shards)
        labels = batch.labels.to(self.device)
        compared = {n for t in plan.losses if t.kind in INTROSPECTING for n in (t.of, t.against)}
        images = batch.images
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        outputs: list[Outputs] = []
        terms: dict[str, float] = {}

        def work() -> Tensor:
            """The loss; what it reads of weights it reads in here."""
            for number, forward in enumerate(plan.forwards):
                self._activate(forward.network, forward.assignment)
                outputs.append(self._run(forward.network, images, number in compared))
            values = [self._value(term, plan, outputs, labels) for term in plan.losses]
            for term, value in zip(plan.losses, values, strict=True):
                terms[term.name] = value.item()
            weighed = [t.weight * value for t, value in zip(plan.losses, values, strict=True)]
            loss = torch.stack(weighed).sum()
            return loss if share == 1 else loss * share

        with seeded(masks_seed(self.seed, plan.step, shard), self.device):
            loss = self._network(work)
            if self.joint or all(map(math.isfinite, terms.values())):
                loss.backward()
        logits = outputs[0][self._logits[plan.forwards[0].network]].detach()
        return int((logits.argmax(1).cpu() == batch.labels).sum()), terms

    def _run(self, network: str, images: Tensor, every: bool) -> Outputs:
        """The logits of a network by name; with `every`, those inside of it too."""
        model = self.networks[network]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.amp):
            found = model.all_outputs(images) if every else main_output(model(images))
        named = {self._logits[network]: found} if isinstance(found, Tensor) else found
        return {name: output.float() for name, output in named.items()}

    def _activate(self, network: str, assignment: Assignment) -> None:
        """Make a network that of an architecture, if it is not."""
        if self._active.get(network) != assignment:
            self.networks[network].activate(assignment)
            self._active[network] = dict(assignment)

    def _value(
        self, term: LossTerm, plan: StepPlan, outputs: Sequence[Outputs], labels: Tensor
    ) -> Tensor:
        if term.kind in LABELLED:
            logits = outputs[term.of][self._logits[plan.forwards[term.of].network]]
            return LABELLED[term.kind](logits, labels, term.options)
        if term.kind in REGULAR:
            own = self.networks.alphas(plan.forwards[term.of].network)
            pairs = [(own[path], names) for path, names in self._names.items()]
            return REGULAR[term.kind](pairs, term.options)
        assert term.against is not None
        one, other = (tuple(outputs[number].values()) for number in (term.of, term.against))
        return INTROSPECTING[term.kind](one, other, self.networks.ensemble, term.options)

    def _update(self, plan: StepPlan, terms: Mapping[str, float]) -> None:
        ids, masks = self.feed.ids(plan), masks_seed(self.seed, plan.step)
        if not all(map(math.isfinite, terms.values())):
            raise NotFinite("loss", plan, ids, masks)
        gradients = [p.grad for p in self.networks.parameters() if p.grad is not None]
        norm = (self.pieces.norm if self.pieces else nn.utils.get_total_norm)(gradients)
        if not math.isfinite(norm.item()):
            raise NotFinite("gradient", plan, ids, masks)
        if self.recipe.clip_grad is not None:
            most, mixed = self.recipe.clip_grad, self.pieces is not None  # pieces and whole ones
            nn.utils.clip_grads_with_norm_(self._parameters, most, norm, False if mixed else None)
        for name in plan.groups:
            self.optimizers[name].step()
        self.taken = plan.step + 1

    # Scores.

    def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
        """A score for each architecture of the network that has the decisions."""
        for assignment in assignments:
            self._activate(self.derivation.evaluation, assignment)
            with torch.no_grad():
                yield self.networks(lambda: score(self.model, self.feed.batches(samples)))

    # Checkpoints.

    def save(self, store: Checkpoints, state: Mapping[str, object], *, epoch: int) -> None:
        """Everything that a later process needs to go on, and `state` besides, after so many
        finished epochs.

        The weights of the network that has the decisions stand where those of a training do.
        """
        if not self.ranks.first and self.pieces is None:
            return
        tensors, settings = self._pack()
        if not self.ranks.first:
            return
        store.save(tensors, step=self.taken, epoch=epoch, state={**state, **settings})

    def _pack(self) -> tuple[Tensors, dict[str, object]]:
        tensors: dict[str, Mapping[str, Tensor]] = {
            "model": self.model.state_dict(),
            "pool": self.networks.pool,
            "ensemble": {"weights": self.networks.ensemble},
        }
        for name in self._others:
            tensors[f"network {name}"] = self.networks[name].state_dict()
        settings: dict[str, object] = {}
        for name, optimizer in self.optimizers.items():
            moments, settings[name] = optimizer_tensors(optimizer, self.networks)
            tensors[f"optimizer {name}"] = moments
        groups = [asdict(group) for group in self.groups]
        guard = self.guard.state()
        if self.pieces is not None:
            tensors = dict(self.pieces.whole(tensors))
        return tensors, {"groups": groups, "optimizers": settings, "steady": guard}

    @property
    def _others(self) -> list[str]:
        return [name for name in self.program.networks if name != self.derivation.evaluation]

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become the trainer that saved a checkpoint (CheckpointError where it does not fit)."""
        found, state = self._cut(checkpoint.tensors), checkpoint.state
        kept = {"pool": self.networks.pool, "ensemble": {"weights": self.networks.ensemble}}
        for group, own in kept.items():
            rows = compare(shapes_of(own), shapes_of(found.get(group, {}))).rows()
            if rows:
                raise CheckpointError(f"the checkpoint's {group} does not fit", rows)
        optimizers = state.get("optimizers")
        try:
            self.reset(_groups(state.get("groups")))
            if not isinstance(optimizers, dict):
                raise TypeError("it has no optimizers")
        except (AttributeError, KeyError, TypeError, ValueError) as problem:
            headline = f"the checkpoint's state cannot be read: {problem}"
            raise CheckpointError(headline, code="SP702") from problem
        for name in self._others:
            unpack({"model": found.get(f"network {name}", {})}, {}, self.networks[name])
        unpack(found, {}, self.model)
        with torch.no_grad():
            for group, own in kept.items():
                for name, tensor in own.items():
                    tensor.copy_(found[group][name])
        for name, optimizer in self.optimizers.items():
            moments = found.get(f"optimizer {name}", {})
            settings = cast(Mapping[str, Any], optimizers).get(name, {})
            try:
                restore_optimizer(optimizer, self.networks, moments, settings)
            except ValueError as problem:
                headline = f"the checkpoint's optimizer {name} does not fit: {problem}"
                raise CheckpointError(headline) from problem
        self.guard.restore(cast(Mapping[str, object], state.get("steady", {})))
        self.taken = checkpoint.record.step

    def _cut(self, tensors: Tensors) -> Tensors:
        """The tensors of a checkpoint as this process keeps them."""
        if self.pieces is None:
            return tensors
        usual = dict(self.networks.named_parameters())  # that optimisers go by
        places = {"model": self.model.state_dict(), "pool": self.networks.pool}
        places |= {f"network {n}": self.networks[n].state_dict() for n in self._others}
        return {g: self.pieces.cut(own, places.get(g, usual)) for g, own in tensors.items()}


def _groups(state: object) -> list[Group]:
    """The groups of a state; KeyError, TypeError or ValueError where it is none."""
    if not isinstance(state, list):
        raise TypeError("it has no groups")
    return [
        Group(**{**group, "betas": tuple(group["betas"]), "omitted": tuple(group["omitted"])})
        for group in cast(list[dict[str, Any]], state)
    ]


def _total(plan: StepPlan, terms: Mapping[str, float]) -> float:
    return sum(term.weight * terms[term.name] for term in plan.losses)
