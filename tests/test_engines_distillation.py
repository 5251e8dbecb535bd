"""Plans of distillation, the texts of pairs and losses; and pairs of values, without a run."""

from __future__ import annotations

import re

import pytest
import torch
from lessons import ATTENTION, HIDDEN, MINIVIT, student
from torch import Tensor

from spacelang.backends.torch.distillation.distill import DistillTrainer
from spacelang.backends.torch.distillation.relating import answer, parts, related
from spacelang.backends.torch.training import losses
from spacelang.diagnostics import SpaceError
from spacelang.engines.distillation import SOURCES, TEACHER, Distillation, usual
from spacelang.engines.paths import Plans, SinglePath
from spacelang.engines.protocol import LossTerm
from spacelang.engines.settings import made
from spacelang.engines.taps import Tap, pairs, tap


def test_every_loss_is_a_row_of_a_table() -> None:
    by_source = {
        "labels": set(losses.LABELLED),
        "store": {"soft_labels"},
        "teacher": set(losses.COMPARING),
        "attention": {"relations"},
        "hidden": {"hidden_relations", "hidden_states"},
        "outputs": set(losses.INTROSPECTING),
    }
    for source, kinds in by_source.items():
        assert {kind for kind, read in SOURCES.items() if read == source} == kinds
    assert set(SOURCES) == set(DistillTrainer.kinds)
    assert set(losses.RELATING) == by_source["attention"] | by_source["hidden"]


def test_pairs_take_turns_in_their_order() -> None:
    found = pairs("blocks[{1, 3}].qkv = s.{0,1}.b.{9,4}.qkv:from=1")
    assert [(str(a), str(b)) for a, b in found] == [
        ("blocks[1].qkv", "s.0.b.9.qkv:from=1"),
        ("blocks[3].qkv", "s.1.b.4.qkv:from=1"),
    ]
    assert pairs("a:from=2=b") == ((Tap(("a",), first=2), Tap(("b",))),)
    assert tap("q + k + v:map") == Tap(("q", "k", "v"), map=True)
    assert tap("x:per_head=3,from=1") == Tap(("x",), 1, 3)
    assert str(tap("x:per_head=3,from=1")) == "x:from=1,per_head=3"


@pytest.mark.parametrize(
    "text",
    ["a", "a = b = c", "a{1,2} = b", "a{1,2} = b{1,2,3}", "{1,2}{1} = b", " = b", "a + b = c",
     "a:first=1 = b", "a:from = b", "a:map=2 = b", "a: = b"],
)  # fmt: skip
def test_pairs_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        pairs(text)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"losses": ("kl",)}, "no loss 'kl'"),
        ({"losses": ("divergence=0",)}, "no weight above 0"),
        ({"losses": ("divergence=nan",)}, "no weight above 0"),
        ({"losses": ("divergence=x",)}, "no weight above 0"),
        ({"losses": ()}, "at least one"),
        ({"losses": ("divergence", "divergence=2")}, "stands once"),
        ({"losses": ("divergence@ =2",)}, "names no answer of the student"),
        ({"losses": ("relations@head",), "attention": ATTENTION}, "names no answer"),
        ({"losses": ("relations",)}, "relations needs pairs of attention"),
        ({"attention": ATTENTION}, "no loss reads pairs of attention"),
        ({"losses": ("hidden_states",), "hidden": ("a",)}, "is not STUDENT = TEACHER"),
        ({"ensemble": "even"}, "ensemble and joined are of what introspection_* compares"),
        ({"losses": ("divergence",), "joined": "summed"}, "ensemble and joined are of"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"heads": 0}, "heads >= 1"),
    ],
)
def test_lessons_that_are_none(settings: dict[str, object], says: str) -> None:
    with pytest.raises(SpaceError, match="SP103") as failed:
        made(Distillation, settings)
    assert says in failed.value.diagnostics[0].headline


def test_usual_losses() -> None:
    def of(*losses: str, stored: bool = False, attention: bool = False, hidden: bool = False):
        return usual(
            losses, stored=stored, attention=("a=b",) * attention, hidden=("a=b",) * hidden
        )

    assert of() == ("soft_cross_entropy",)
    assert of(stored=True) == ("soft_labels",)
    assert of(attention=True, hidden=True) == (
        "soft_cross_entropy",
        "relations",
        "hidden_relations=0.1",
    )
    assert of("divergence", "hidden_states=3", hidden=True) == ("divergence", "hidden_states=3")
    assert of("divergence@head=2") == ("divergence@head=2",)


def test_a_plan_is_one_of_training_and_a_teacher() -> None:
    graph = student()
    engine = Distillation(law="sandwich", temperature=2.0, heads=2, **MINIVIT)
    base = Plans(SinglePath(law="sandwich"), graph, 7, 10).at(23)
    plan = engine.plan(base)
    assert plan.forwards[:-1] == base.forwards
    assert (plan.step, plan.epoch, plan.batch) == (23, 2, 3)
    asked = plan.forwards[-1]
    assert (asked.network, asked.learns) == (TEACHER, False)
    assert len(plan.losses) == 4 * len(base.forwards)
    assert {term.against for term in plan.losses} == {len(base.forwards)}
    first = [term for term in plan.losses if term.of == 0]
    assert [(t.kind, t.weight) for t in first] == [
        ("soft_cross_entropy", 1.0),
        ("relations", 1.0),
        ("hidden_relations", 0.1),
        ("hidden_states", 0.1),
    ]
    assert first[0].options == {"temperature": 2.0}
    assert first[1].options == {"heads": 2.0}
    assert [len(t.taps) for t in first] == [0, 2, 2, 2]
    stored = Distillation(losses=("soft_labels", "cross_entropy=0.5")).plan(base)
    assert stored.forwards == base.forwards
    assert {term.against for term in stored.losses} == {None}
    assert stored.losses[1].options == {"smoothing": 0.1}


# Values of layers.


def value(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_fused_projections_are_taken_apart() -> None:
    q, k, v = (value(2, 5, 3, 4, seed=n) for n in range(3))  # [B, tokens, heads, channels]
    wanted = [part.flatten(2) for part in (q, k, v)]
    forms = {
        "x": torch.stack((q, k, v), 2),
        "y": torch.stack((q, k, v), 2).flatten(2),
        "x:per_head=3": torch.stack((q, k, v), 3),
        "y:per_head=3": torch.stack((q, k, v), 3).flatten(2),
    }
    for text, tensor in forms.items():
        one = tap(text)
        found = parts(one, {one.paths[0]: tensor}, "relations")
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True)), text
    apart = parts(tap("q + k + v:from=2"), dict(zip("qkv", wanted, strict=True)), "relations")
    assert torch.equal(apart[1], wanted[1][:, 2:])
    windows = torch.stack((q, k, v), 2)[:, None].expand(2, 3, 5, 3, 3, 4)
    assert parts(tap("w"), {"w": windows}, "relations")[0].shape == (6, 5, 12)


def test_hidden_states_in_their_forms() -> None:
    tokens = value(2, 6, 4)
    assert torch.equal(parts(tap("h"), {"h": tokens}, "hidden_states")[0], tokens)
    places = tokens.unflatten(1, (2, 3))
    assert torch.equal(parts(tap("h"), {"h": places}, "hidden_states")[0], tokens)
    channels = places.permute(0, 3, 1, 2)
    assert torch.equal(parts(tap("h:map"), {"h": channels}, "hidden_states")[0], tokens)


def same(number: int, hidden: Tensor) -> Tensor:
    return hidden


def test_absent_layers_teach_nothing() -> None:
    (first, second) = pairs(HIDDEN[0])
    term = LossTerm("hidden_relations", taps=(first, second))
    given = {"layers[0]": value(2, 5, 7), "layers[2]": value(2, 5, 7, seed=1)}
    own = {"layers[0]": value(2, 5, 4, seed=2), "layers[1]": value(2, 5, 4, seed=3)}
    each = [
        losses.hidden_relations(own["layers[0]"], given["layers[0]"]),
        losses.hidden_relations(own["layers[1]"], given["layers[2]"]),
    ]
    found = related(term, own, given, same)
    assert found is not None
    torch.testing.assert_close(found, (each[0] + each[1]) / 2)
    found = related(term, {"layers[0]": own["layers[0]"]}, given, same)
    assert found is not None
    torch.testing.assert_close(found, each[0])
    assert related(term, {}, given, same) is None


def test_the_answer_that_a_loss_reads() -> None:
    (term,) = Distillation(losses=(" divergence @ heads[1] = 0.5",)).terms
    assert (term.kind, term.at, term.weight) == ("divergence", "heads[1]", 0.5)
    logits, other = value(2, 7), value(2, 7, seed=1)
    assert answer(LossTerm("divergence"), {"heads[1]": other}, logits) is logits
    assert answer(term, {"heads[1]": other}, logits) is other
    assert answer(term, {}, logits) is None
    with pytest.raises(SpaceError, match=r"SP705.*heads\[1\] is \[2, 6\]"):
        answer(term, {"heads[1]": value(2, 6)}, logits)


@pytest.mark.parametrize(
    ("kind", "own", "given", "says"),
    [
        ("relations", (2, 5, 12), (2, 6, 12), "other tokens"),
        ("relations", (2, 5, 13), (2, 5, 12), r"not \[.., tokens, 3 \* channels\]"),
        ("relations", (2, 5, 2, 3, 4), (2, 5, 12), "tokens, 3, heads"),
        ("relations", (2, 5, 6), (2, 5, 15), "2 relation heads do not divide the 5 channels"),
        ("hidden_relations", (2, 5), (2, 5), "channels"),
    ],
)
def test_values_that_cannot_be_compared(
    kind: str, own: tuple[int, ...], given: tuple[int, ...], says: str
) -> None:
    term = LossTerm(kind, 1.0, {"heads": 2.0}, taps=pairs("a = b"))
    if "2 relation heads" in says:
        own = (2, 5, 12)
    with pytest.raises(SpaceError, match="SP705") as failed:
        related(term, {"a": value(*own)}, {"b": value(*given)}, same)

    assert re.search(says, str(failed.value))
