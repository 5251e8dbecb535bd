"""Losses against their definitions, written out sample by sample in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from spacelang.backends.torch.distillation.logits.record import dense, top
from spacelang.backends.torch.training import losses


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def entropy(wanted: Tensor, given: Tensor) -> float:
    """-sum p log q of two lists."""
    return -sum(float(p) * math.log(float(q)) for p, q in zip(wanted, given, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_soft_and_hard_answers_of_a_teacher(temperature: float) -> None:
    student, teacher = normal(3, 5), normal(3, 5, seed=1)
    soft = [
        entropy((t / temperature).softmax(0), (s / temperature).softmax(0))
        for s, t in zip(student, teacher, strict=True)
    ]
    options = {"temperature": temperature}
    found = losses.soft_cross_entropy(student, teacher, options)
    assert found.item() == pytest.approx(temperature**2 * sum(soft) / 3)
    own = [entropy((t / temperature).softmax(0), (t / temperature).softmax(0)) for t in teacher]
    wanted = temperature**2 * (sum(soft) - sum(own)) / 3
    found = losses.divergence(student, teacher, {**options, "classes": 0.0})
    assert found.item() == pytest.approx(wanted)
    assert losses.divergence(student, teacher, options).item() == pytest.approx(wanted / 5)
    hard = losses.hard_cross_entropy(student, teacher, {})
    wanted = -sum(math.log(s.softmax(0)[t.argmax()]) for s, t in zip(student, teacher, strict=True))
    assert hard.item() == pytest.approx(wanted / 3)


@pytest.mark.parametrize(("classes", "k"), [(12, 3), (12, 12), (1, 1)])
def test_sparse_labels_are_dense_ones(classes: int, k: int) -> None:
    student = normal(4, classes).requires_grad_()
    ids = torch.arange(4).numpy()
    records = top(3 * normal(4, classes, seed=1), k, ids=ids, seeds=ids)
    labels = dense(records, classes).double()
    wanted = -(labels * student.log_softmax(1)).sum(1)
    index, kept = torch.from_numpy(records.classes), torch.from_numpy(records.probabilities)
    found = losses.soft_labels(student, index, kept)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    slopes = [torch.autograd.grad(loss.sum(), student)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("heads", [1, 2])
def test_relations_by_hand(heads: int) -> None:
    """Student and teacher of other widths: nine pairs of q, k and v, row by row."""
    student = [normal(2, 4, 6, seed=n) for n in range(3)]
    teacher = [normal(2, 4, 10, seed=n + 9) for n in range(3)]
    total, count = 0.0, 0
    for a in range(3):
        for b in range(3):
            for n in range(2):
                for head in range(heads):
                    rows: list[Tensor] = []
                    for parts in (student, teacher):
                        wide = parts[0].shape[2] // heads
                        part = slice(head * wide, (head + 1) * wide)
                        left, right = parts[a][n, :, part], parts[b][n, :, part]
                        rows.append((left @ right.T / math.sqrt(wide)).softmax(1))
                    own, given = rows
                    total += sum(entropy(given[i], own[i]) for i in range(4))
                    count += 4
    found = losses.relations(student, teacher, heads)
    assert found.item() == pytest.approx(total / count)


def test_hidden_relations_by_hand() -> None:
    student, teacher = normal(2, 4, 6), normal(2, 4, 10, seed=1)
    total = 0.0
    for n in range(2):
        for i in range(4):
            for j in range(4):
                values = [
                    float(h[n, i] @ h[n, j] / (h[n, i].norm() * h[n, j].norm()))
                    for h in (student, teacher)
                ]
                total += (values[0] - values[1]) ** 2
    assert losses.hidden_relations(student, teacher).item() == pytest.approx(49 * total / 32)
    assert losses.hidden_relations(student, 3 * student).item() == pytest.approx(0, abs=1e-12)
    assert losses.hidden_states(student, student + 2).item() == pytest.approx(4)


@pytest.mark.parametrize("kind", losses.INTROSPECTION)
def test_introspection_by_hand(kind: str) -> None:
    search, evaluation = normal(3, 5).requires_grad_(), normal(3, 5, seed=1).requires_grad_()
    found = losses.introspection(search, evaluation, kind, 2.0)
    rows = list(zip(search.detach(), evaluation.detach(), strict=True))
    terms = {
        "kl": lambda s, e: (entropy((e / 2).softmax(0), (s / 2).softmax(0))
                            - entropy((e / 2).softmax(0), (e / 2).softmax(0))) / 5,
        "cosine": lambda s, e: -float(s @ e / (s.norm() * e.norm())),
        "mse": lambda s, e: float((s - e).square().mean()),
        "smooth_l1": lambda s, e: sum(
            d * d / 2 if d < 1 else d - 0.5 for d in (s - e).abs().tolist()) / 5,
    }  # fmt: skip
    wanted = 4 * sum(terms[kind](s, e) for s, e in rows) / 3
    assert found.item() == pytest.approx(wanted)
    slopes = torch.autograd.grad(found, (search, evaluation))
    assert all(bool(slope.any()) for slope in slopes)  # both networks are pulled together
