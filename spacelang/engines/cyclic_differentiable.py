"""CDARTS (TPAMI 2022): a mixed network and one derived from it learn from each other, in cycles.

    search cyclic_differentiable { epochs = 32  warm = 2  never = "none" }

The space is a `program`: a shallow search network of mixtures, a deep evaluation network that has
the decisions, and a pool that keeps the weights of the deep one between its cells. A cycle derives
an architecture, warms its network up, and then moves both networks and the architecture parameters
by the labels and by what the networks say of each other (introspective distillation).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, Literal

from spacelang.diagnostics import SpaceError, error
from spacelang.engines.derive import Derivation, roles
from spacelang.engines.evolution import found
from spacelang.engines.protocol import (
    Candidate,
    Cycler,
    Derived,
    EpochEnded,
    Evaluated,
    Event,
    Forward,
    Group,
    LossTerm,
    Origin,
    Samples,
    Slots,
    Stepped,
    StepPlan,
    Weights,
)
from spacelang.engines.settings import check
from spacelang.ir.decision import Assignment, Kind
from spacelang.ir.program import Program

# Where the defaults depart from microsoft/Cream's code, and what gives the published behaviour.
# The settings themselves are recalled from launch scripts that the code is without.
DEVIATIONS: Mapping[str, str] = MappingProxyType(
    {
        "scripts": "the defaults are those of the CIFAR-10 launch script, which is not in the "
        "published repository: recalled from public files whose flags match the code; the paper's "
        "body was not at hand",
        "images": "a batch has 128 images, which do not vary; published: 64, cropped and flipped, "
        "which is -b 64 --aug photos (there the edge is filled with zeros, here mirrored)",
        "halves": "a half is every second image in the order of digests; published: the first and "
        "the last images, which of a folder of classes are other classes",
        "identity": "every selected edge is copied from the pool; published: an identity ends the "
        "copying of its node",
        "slots": "weights go back to the slots they came from; published: with several joint "
        "epochs a cycle, to those of the architecture that was derived in between",
        "clip": "the norm is that of the step's own gradients, also of what the step does not "
        "move; published: with what earlier steps left behind",
        "ensemble": "the weights of the ensemble are moved with the evaluation network alone; "
        "published: also decayed by the optimiser of the search network",
        "heads": "heads inside a network run where they are compared; published: in every pass, "
        "the search network's last one twice",
        "regular": "its decay counts joint epochs from 0; published: the epoch's number, which is "
        "the same for one joint epoch a cycle",
        "pool": "the pool is never trained before the search; published: an option",
        "derivation": "the best edges are taken; published: also by two Gumbel draws, as an option",
        "stages": "the whole network is searched at once; published: also layer by layer, "
        "unfinished",
        "end": "the last architecture is built, warmed up as in a cycle, and scored on the "
        "validation part; published: its genotype is written, nothing is scored",
    }
)
SEARCH, EVALUATION, ALPHAS = "search", "evaluation", "alphas"
FIRST, SECOND = "train/first", "train/second"
START = 0.1  # of parameters that do not learn: all sources of a node count alike


@dataclass(frozen=True)
class CyclicDifferentiable:
    """CDARTS's search; the defaults are the published ones for CIFAR-10 but for DEVIATIONS.

    mode             cyclic; or plain, DARTS of first order: no evaluation network, no regulariser
    epochs, warm     iterations, and how many at first train the search network alone
    evaluation_warm  epochs that a new evaluation network is trained before it takes part
    inner            joint epochs a cycle
    share            of each half of the training part that an epoch sees
    never            alternatives that are weighted, but never derived
    sources          whether the weights of sources learn, or are even
    distance         of what the networks say: kl, cosine, mse or smooth_l1, times `temperature`^2
    balance          lambda: the labels count 1 / lambda, the distance lambda
    detach           the search network learns from the evaluation network, not the other way
    ensemble, joined the weights of a network's outputs, and how they are put together
    regular          the first coefficient of the L1 norm of the parameters of `regular_on`, each
                     counted `regular_times`; it is 0 after `regular_share` of the joint epochs
    lr, weight_decay, momentum, evaluation_lr      of the two networks' SGD, constant
    alpha_lr, alpha_decay, alpha_betas             of the architecture parameters' Adam, constant
    clip_grad        the largest norm of all gradients of a step together
    frozen           weights of the evaluation network that its optimiser leaves as they are
    """

    name: ClassVar[str] = "cyclic_differentiable"
    kinds: ClassVar[frozenset[Kind]] = frozenset(("path", "pick"))
    weights: ClassVar[Weights] = "program"

    epochs: int = 32
    warm: int = 2
    evaluation_warm: int = 1
    inner: int = 1
    share: float = 1.0
    mode: Literal["cyclic", "plain"] = "cyclic"
    never: tuple[str, ...] = ()
    sources: Literal["even", "learned"] = "even"
    distance: Literal["kl", "cosine", "mse", "smooth_l1"] = "smooth_l1"
    temperature: float = 2.0
    balance: float = 1.0
    detach: bool = False
    ensemble: Literal["learned", "even"] = "learned"
    joined: Literal["concatenated", "summed"] = "concatenated"
    regular: float = 5.0
    regular_share: float = 0.667
    regular_times: int = 3
    regular_on: tuple[str, ...] = ("max_pool", "avg_pool", "skip")
    lr: float = 0.08
    evaluation_lr: float = 0.08
    momentum: float = 0.9
    weight_decay: float = 3e-4
    alpha_lr: float = 3e-4
    alpha_decay: float = 0.0
    alpha_betas: tuple[float, ...] = (0.5, 0.999)
    clip_grad: float | None = 5.0
    frozen: tuple[str, ...] = ()
    smoothing: float = 0.0
    part: str = "validation"
    samples: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.warm < self.epochs or min(self.evaluation_warm, self.inner) < 1:
            raise ValueError(
                "0 <= warm < epochs is needed; evaluation_warm and inner are 1 or more"
            )
        if not 0 < self.share <= 1 or not 0 < self.regular_share <= 1:
            raise ValueError("share and regular_share are above 0, and at most 1")
        if self.balance <= 0 or self.temperature <= 0 or not 0 <= self.smoothing < 1:
            raise ValueError("balance and temperature are above 0, smoothing is in 0..1")
        if min(self.regular, self.regular_times, self.weight_decay, self.alpha_decay) < 0:
            raise ValueError("regular, regular_times and decays are not negative")
        if min(self.lr, self.evaluation_lr, self.alpha_lr) < 0 or not 0 <= self.momentum < 1:
            raise ValueError("rates are not negative, momentum is in 0..1")
        if len(self.alpha_betas) != 2 or not all(0 <= b < 1 for b in self.alpha_betas):
            raise ValueError("alpha_betas are two numbers in 0..1")
        if self.clip_grad is not None and self.clip_grad <= 0:
            raise ValueError("clip_grad is above 0, or none")

    @property
    def cycles(self) -> int:
        """Iterations that move architecture parameters."""
        return self.epochs - self.warm

    @property
    def passes(self) -> int:
        """Epochs of all kinds, each over half of the training part."""
        warm = self.evaluation_warm if self.mode == "cyclic" else 0
        return self.warm + self.cycles * (warm + self.inner) + self.evaluation_warm

    @property
    def planned(self) -> int:
        """The most evaluations that a run makes."""
        return (self.cycles if self.mode == "cyclic" else 0) + 1

    def length(self, whole: int) -> int:
        """The batches of an epoch; as published, one more than the share comes to."""
        return min(whole, math.floor(whole * self.share) + 1)

    def planned_steps(self, first: int, second: int) -> int:
        """The steps of a run, where the halves have so many batches."""
        first, second = self.length(first), self.length(second)
        warm = self.evaluation_warm * second
        cycle = self.inner * 2 * min(first, second) + (warm if self.mode == "cyclic" else 0)
        return self.warm * first + self.cycles * cycle + warm

    def derivation(self, program: Program) -> Derivation:
        """How a program decides; SP701 where the engine cannot take it."""
        check(self, program.networks[roles(program)[1]])
        derivation = Derivation(program, self.never)
        space = derivation.space
        names = [[o.name for o in g.outputs] for g in (program.networks[derivation.search], space)]
        if self.mode == "cyclic" and names[0] != names[1]:
            found = error("SP701", "the networks have other outputs, they cannot be compared")
            raise SpaceError(found.note(*(", ".join(listed) for listed in names)))
        known = {str(v) for choice in derivation.operations.values() for v in choice.values}
        absent = [name for name in self.regular_on if name not in known]
        if self.mode == "cyclic" and self.regular > 0 and absent:
            found = error("SP701", f"no decision has an alternative {absent[0]} to be regular on")
            raise SpaceError(found.hint("set regular_on, or regular = 0"))
        return derivation

    def run(self, space: Program, trainer: Cycler, seed: int) -> Iterator[Event]:
        """Stepped and EpochEnded; Derived and Evaluated for each cycle; Found.

        SP701 for a program whose networks do not fit together, or decide something else than
        paths and picks.
        """
        yield from Cycles(self, space, trainer).run()

    def groups(self, derivation: Derivation) -> tuple[Group, ...]:
        """The three optimisers."""
        search, evaluation = derivation.search, derivation.evaluation
        still = derivation.sources if self.sources == "even" else ()
        decay, momentum = self.weight_decay, self.momentum
        first, second = self.alpha_betas
        return (
            Group(SEARCH, search, "weights", "sgd", self.lr, decay, momentum),
            Group(
                EVALUATION, evaluation, "weights", "sgd", self.evaluation_lr, decay, momentum,
                omitted=self.frozen, ensemble=self.ensemble == "learned",
            ),
            Group(
                ALPHAS, search, "alphas", "adam", self.alpha_lr, self.alpha_decay,
                betas=(first, second), omitted=still,
            ),
        )  # fmt: skip

    def coefficient(self, joint: int) -> float:
        """Of the regulariser in a joint epoch, counted from 0."""
        return max(
            0.0, self.regular * (1 - joint / (self.cycles * self.inner * self.regular_share))
        )

    def losses(self, joint: int) -> tuple[LossTerm, ...]:
        """What moves the architecture parameters in a joint epoch."""
        labels = {"smoothing": self.smoothing}
        if self.mode == "plain":
            return (LossTerm("cross_entropy", 1.0, labels),)
        said = {
            "temperature": self.temperature,
            "detach": float(self.detach),
            "summed": float(self.joined == "summed"),
        }
        terms = (
            LossTerm("cross_entropy", 1 / self.balance, labels, of=0),
            LossTerm("cross_entropy", 1 / self.balance, labels, of=1),
            LossTerm(f"introspection_{self.distance}", self.balance, said, of=0, against=1),
        )
        weight = self.coefficient(joint)
        counted = dict.fromkeys(self.regular_on, float(self.regular_times))
        return (*terms, LossTerm("alpha_norm", weight, counted)) if weight > 0 else terms


class Cycles:
    """A search under way."""

    origin: Origin = "derived"

    def __init__(self, engine: CyclicDifferentiable, program: Program, trainer: Cycler) -> None:
        self.engine, self.program, self.trainer = engine, program, trainer
        self.derivation = engine.derivation(program)
        self.search, self.evaluation = self.derivation.search, self.derivation.evaluation
        self.cyclic = engine.mode == "cyclic"
        self.alphas: Mapping[str, Sequence[float]] = {}
        self.step = self.epoch = 0
        self.scored: list[Candidate] = []

    def run(self) -> Iterator[Event]:
        """The events of the search, from its first step to what it found."""
        engine = self.engine
        if engine.sources == "even":
            sizes = self.derivation.sizes
            even = {path: (START,) * sizes[path] for path in self.derivation.sources}
            self.trainer.weigh(self.search, even)
        self._reset()
        for _ in range(engine.warm):
            yield from self._teach(Forward({}, self.search), FIRST, SEARCH)
        derived = self._derive()
        for cycle in range(engine.cycles):
            if self.cyclic:
                yield from self._build(derived)
            for inner in range(engine.inner):
                yield from self._join(derived, cycle * engine.inner + inner)
                if self.cyclic:
                    self._copy(derived, back=True)
            if self.cyclic:
                yield self._evaluated(cycle, derived)
            derived = self._derive()
            yield Derived(cycle, derived, self.alphas)
        yield from self._build(derived)
        yield self._evaluated(engine.cycles, derived)
        yield replace(found(self.scored, ("accuracy",), exhausted=False), best=self.scored[-1])

    # Architectures and weights.

    def _derive(self) -> Assignment:
        self.alphas = self.trainer.alphas(self.search)
        return self.derivation.assignment(self.alphas)

    def _build(self, derived: Assignment) -> Iterator[Event]:
        """The evaluation network of an architecture, warmed up; all optimisers begin anew."""
        if self.program.pool is not None:
            self.trainer.renew(Slots(self.evaluation, self.program.pool.paths), self.epoch)
        self._copy(derived)
        self._reset()
        for _ in range(self.engine.evaluation_warm):
            yield from self._teach(Forward(derived, self.evaluation), SECOND, EVALUATION)

    def _copy(self, derived: Assignment, back: bool = False) -> None:
        """The weights of an architecture out of the pool, or back into it."""
        pool = self.program.pool
        if pool is not None:
            slots = pool.slots(derived)
            own = Slots(self.evaluation, tuple(slots))
            kept = Slots(pool.name, tuple(slots.values()))
            self.trainer.copy(*((own, kept) if back else (kept, own)))

    def _reset(self) -> None:
        self.trainer.reset(self.engine.groups(self.derivation))

    def _evaluated(self, cycle: int, derived: Assignment) -> Evaluated:
        """The score of the evaluation network as it is."""
        samples = Samples(self.engine.part, self.engine.samples)
        (score,) = self.trainer.probe((derived,), samples)
        cost = self.derivation.space.cost(derived)
        self.scored.append(Candidate(len(self.scored), cycle, self.origin, derived, cost, score))
        return Evaluated(self.scored[-1], self.engine.planned)

    # Epochs.

    def _teach(self, forward: Forward, data: str, group: str) -> Iterator[Event]:
        """An epoch that teaches one network the labels."""
        for batch in range(self._length(data)):
            yield self._step(batch, data, (forward,), self._labels, (group,))
        yield self._ended()

    def _join(self, derived: Assignment, joint: int) -> Iterator[Event]:
        """A joint epoch: architecture parameters on the second half, mixed weights on the first."""
        alone = (Forward({}, self.search),)
        both = (*alone, Forward(derived, self.evaluation)) if self.cyclic else alone
        losses = self.engine.losses(joint)
        groups = (EVALUATION, ALPHAS) if self.cyclic else (ALPHAS,)
        for batch in range(min(self._length(FIRST), self._length(SECOND))):
            yield self._step(batch, SECOND, both, losses, groups)
            yield self._step(batch, FIRST, alone, self._labels, (SEARCH,))
        yield self._ended()

    @property
    def _labels(self) -> tuple[LossTerm, ...]:
        return (LossTerm("cross_entropy", 1.0, {"smoothing": self.engine.smoothing}),)

    def _length(self, data: str) -> int:
        return self.engine.length(self.trainer.steps(data))

    def _step(
        self,
        batch: int,
        data: str,
        forwards: tuple[Forward, ...],
        losses: tuple[LossTerm, ...],
        groups: tuple[str, ...],
    ) -> Stepped:
        plan = StepPlan(self.step, self.epoch, batch, forwards, losses, data, groups)
        self.step += 1
        return Stepped(plan, self.trainer.step(plan))

    def _ended(self) -> EpochEnded:
        self.epoch += 1
        return EpochEnded(self.epoch - 1, self.engine.passes)
