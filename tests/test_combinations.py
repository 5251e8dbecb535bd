"""Combinations that no paper has tried: each is a short file, trains, is searched and taken out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from composition import awake, taken_out
from rewriting import sound
from torch import Tensor
from torch.nn.functional import cross_entropy

from spacelang.backends.torch.supernet import Supernet
from spacelang.engines.evolution import Evolution
from spacelang.engines.protocol import Found, Samples, Score
from spacelang.ir.decision import Assignment
from spacelang.loader import load

FOLDER = Path(__file__).parent.parent / "spaces" / "combinations"
NARROW: Mapping[str, Mapping[str, object]] = {
    "autoformer_pairs": {"image": 32, "classes": 4},
    "cream_kernels": {"depths": [2, 3, 1, 1, 1], "image": 64, "classes": 4},
    "efficientvit_positions": {"image": 64, "larger_windows": True, "classes": 4},
}


@dataclass
class Prober:
    """Scores architectures of one supernet on a few images."""

    model: Supernet
    images: Tensor
    labels: Tensor

    def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
        self.model.eval()
        for assignment in assignments:
            with torch.no_grad():
                found = self.model.activate(assignment)(self.images)
            assert isinstance(found, Tensor)
            right = (found.argmax(dim=1) == self.labels).sum()
            yield Score(int(right), len(self.labels))


def test_there_are_three_of_at_most_twelve_lines() -> None:
    files = sorted(FOLDER.glob("*.space"))
    assert [f.stem for f in files] == sorted(NARROW)
    assert all(len(f.read_text(encoding="utf-8").splitlines()) <= 12 for f in files)


@pytest.mark.parametrize("name", NARROW)
def test_a_combination_is_a_sound_space(name: str) -> None:
    graph = sound(load(FOLDER / f"{name}.space"))
    assert graph.size() > 1000


@pytest.mark.parametrize("name", NARROW)
def test_a_combination_trains_and_is_searched(name: str) -> None:
    space = load(FOLDER / f"{name}.space", **NARROW[name])
    model = awake(space).float()
    generator = torch.Generator().manual_seed(0)
    (node,) = space.root.inputs
    shape = [int(size.at({})) for size in node.types[0].shape[1:]]
    images = torch.randn([8, *shape], generator=generator)
    labels = torch.arange(8) % 4

    model.activate(space.sample(1, seed=3)[0]).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = cross_entropy(model(images), labels)
    before.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(g.isfinite().all()) for g in gradients)
    optimizer.step()
    with torch.no_grad():
        assert cross_entropy(model(images), labels) != before

    engine = Evolution(generations=1, population=6, parents=2, mutants=3, crossovers=1)
    *_, found = engine.run(space, Prober(model, images, labels), 0)
    assert isinstance(found, Found)
    assert found.evaluated > 6
    assert found.best.cost == space.cost(found.best.assignment)
    taken_out(model.double(), found.best.assignment)
