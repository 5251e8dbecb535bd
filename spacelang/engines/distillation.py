"""Distillation: the steps of training by paths, with a teacher beside the labels.

    engine = Distillation(epochs=90, losses=("soft_labels",))                  # TinyViT: a store
    engine = Distillation(losses=("cross_entropy@head=0.5", "divergence@head_dist=0.5"))   # DeiT
    engine = Distillation(losses=("cross_entropy", "introspection_kl"),
                          outputs=("aux = aux",))                             # CDARTS
    engine = Distillation(losses=("soft_cross_entropy", "relations", "hidden_relations=0.1"),
                          attention=("blocks[{1,3}].attn.qkv = blocks.{3,9}.attn.qkv",),
                          hidden=("blocks[{1,3}] = blocks.{3,9}",))            # MiniViT

A step is a plan like any other: passes of the student that learn and, where a loss asks for it, one
of the network `teacher` that does not. What a loss reads is a row of `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar, Literal

from spacelang.engines.laws import Law, check_weights
from spacelang.engines.paths import Plans, SinglePath
from spacelang.engines.protocol import (
    ALL_KINDS,
    EpochEnded,
    Event,
    Forward,
    LossTerm,
    Stepped,
    StepPlan,
    Trainer,
)
from spacelang.engines.settings import check
from spacelang.engines.taps import Tap, pairs
from spacelang.ir.decision import Kind
from spacelang.ir.graph import Graph

TEACHER = "teacher"  # the network of a teacher's pass
Source = Literal["labels", "store", "teacher", "attention", "hidden", "outputs"]
# What each loss compares the student with: labels, stored outputs, a teacher's, inner values, or
# what it says at several depths.
SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "cross_entropy": "labels",
        "soft_labels": "store",
        "soft_cross_entropy": "teacher",
        "hard_cross_entropy": "teacher",
        "divergence": "teacher",
        "relations": "attention",
        "hidden_relations": "hidden",
        "hidden_states": "hidden",
        "introspection_kl": "outputs",
        "introspection_cosine": "outputs",
        "introspection_mse": "outputs",
        "introspection_smooth_l1": "outputs",
    }
)
PAIRED = ("attention", "hidden")  # sources that there are none of unless pairs are named


@dataclass(frozen=True)
class Distillation:
    """What a student learns from.

    losses       NAME, NAME=WEIGHT or NAME@PATH=WEIGHT, each a row of `SOURCES`; at a path of the
                 student it reads that value instead of the answer, of several heads one
    attention    pairs of q, k, v (`taps.py`), for `relations`
    hidden       pairs of hidden states, for `hidden_relations` and `hidden_states`
    outputs      pairs of what the networks say before their logits, for `introspection_*`; none:
                 all outputs that both have
    ensemble     whether the weights of outputs learn, or are even
    joined       outputs one below the other, or added up
    temperature  of a teacher's logits and the student's beside them; a store has its own
    heads        relation heads, whatever the heads of the two networks
    """

    name: ClassVar[str] = "distillation"
    kinds: ClassVar[frozenset[Kind]] = ALL_KINDS

    epochs: int = 300
    law: Law = "choices"
    smoothing: float = 0.1  # of labels
    losses: tuple[str, ...] = ("soft_cross_entropy",)
    attention: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    ensemble: Literal["learned", "even"] = "learned"
    joined: Literal["concatenated", "summed"] = "concatenated"
    temperature: float = 1.0
    heads: int = 1
    law_weights: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_weights(self.law, self.law_weights)
        if self.temperature <= 0 or self.heads < 1:
            raise ValueError("temperature > 0 and heads >= 1 are needed")
        taps, used = self._taps, {SOURCES[term.kind] for term in self.terms}
        for source, found in taps.items():
            lacking = source in used and source in PAIRED and not found
            if lacking or (found and source not in used):
                kinds = " or ".join(kind for kind, read in SOURCES.items() if read == source)
                lacks = "no loss reads" if found else f"{kinds} needs"
                raise ValueError(f"{lacks} pairs of {source}: STUDENT = TEACHER")
        if (self.ensemble, self.joined) != ("learned", "concatenated") and not self.introspects:
            raise ValueError("ensemble and joined are of what introspection_* compares")

    @property
    def _taps(self) -> Mapping[str, tuple[tuple[Tap, Tap], ...]]:
        texts = {"attention": self.attention, "hidden": self.hidden, "outputs": self.outputs}
        return {
            n: tuple(pair for text in found for pair in pairs(text)) for n, found in texts.items()
        }

    @cached_property
    def terms(self) -> tuple[LossTerm, ...]:
        """The losses of one pass; what they compare it with has no number yet."""
        options: Mapping[str, Mapping[str, float]] = {
            "cross_entropy": {"smoothing": self.smoothing},
            "soft_cross_entropy": {"temperature": self.temperature},
            "divergence": {"temperature": self.temperature},
            "relations": {"heads": float(self.heads)},
        }
        said = {"temperature": self.temperature, "summed": float(self.joined == "summed")}
        found: list[LossTerm] = []
        for text in self.losses:
            kind, at, weight = _written(text)
            taps = self._taps.get(SOURCES[kind], ())
            asked = said if SOURCES[kind] == "outputs" else options.get(kind, {})
            found.append(LossTerm(kind, weight, asked, taps=taps, at=at))
        if len({term.kind for term in found}) < len(found) or not found:
            raise ValueError("each loss stands once, and there is at least one")
        return tuple(found)

    @property
    def asks(self) -> bool:
        """Whether a step asks a teacher."""
        return any(SOURCES[term.kind] not in ("labels", "store") for term in self.terms)

    @property
    def introspects(self) -> bool:
        """Whether a step compares what the networks say at several depths."""
        return any(SOURCES[term.kind] == "outputs" for term in self.terms)

    @property
    def reads(self) -> bool:
        """Whether a step reads stored outputs."""
        return any(SOURCES[term.kind] == "store" for term in self.terms)

    def run(self, space: Graph, trainer: Trainer, seed: int) -> Iterator[Event]:
        """Stepped for each step that is left, EpochEnded after the last of an epoch."""
        check(self, space, fixed=True)
        length = trainer.steps("train")
        paths = SinglePath(self.epochs, self.law, self.smoothing, law_weights=self.law_weights)
        plans = Plans(paths, space, seed, length)
        for step in range(trainer.taken, self.epochs * length):
            plan = self.plan(plans.at(step))
            yield Stepped(plan, trainer.step(plan))
            if plan.batch == length - 1:
                yield EpochEnded(plan.epoch, self.epochs)

    def plan(self, plan: StepPlan) -> StepPlan:
        """A step of training by paths, as one of distillation."""
        student = plan.forwards
        teacher = (Forward({}, TEACHER, learns=False),) if self.asks else ()
        losses = tuple(
            replace(term, of=number, against=len(student) if self._compares(term) else None)
            for number in range(len(student))
            for term in self.terms
        )
        return replace(plan, forwards=student + teacher, losses=losses)

    @staticmethod
    def _compares(term: LossTerm) -> bool:
        return SOURCES[term.kind] not in ("labels", "store")


def usual(
    losses: Sequence[str],
    *,
    stored: bool,
    attention: Sequence[str],
    hidden: Sequence[str],
    outputs: Sequence[str] = (),
    board: bool = False,
) -> tuple[str, ...]:
    """The losses where not all are named: soft labels, and pairs weighted as published; of several
    teachers a match."""
    if board:
        return tuple(losses) or ("matched",)
    kinds = {text.partition("=")[0].partition("@")[0].strip() for text in losses}
    named = tuple(losses) or (("soft_labels",) if stored else ("soft_cross_entropy",))
    if attention and "relations" not in kinds:
        named += ("relations",)
    if hidden and kinds.isdisjoint(("hidden_relations", "hidden_states")):
        named += ("hidden_relations=0.1",)
    if outputs and not any(SOURCES.get(kind) == "outputs" for kind in kinds):
        named += ("introspection_kl",)
    return named


def _written(text: str) -> tuple[str, str, float]:
    """What `losses` says of one: its name, the path that it reads or nothing, its weight
    (ValueError)."""
    name, sign, number = (part.strip() for part in text.partition("="))
    kind, mark, at = (part.strip() for part in name.partition("@"))
    if kind not in SOURCES:
        raise ValueError(f"there is no loss {kind!r}; known: {', '.join(SOURCES)}")
    if mark and (not at or SOURCES[kind] in (*PAIRED, "outputs")):
        raise ValueError(f"{text!r} names no answer of the student")
    try:
        weight = float(number) if sign else 1.0
    except ValueError:
        weight = -1.0
    if not 0 < weight < 1e6:
        raise ValueError(f"{text!r} has no weight above 0")
    return kind, at, weight
