"""Params are exact: the closed form against what networks read and what extracted ones hold.

The long runs are marked `soak`: 10,000 AutoFormer-T by views and 200 by extraction, and 1,000 of
each of S and B by views.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest

from spacelang.backends.torch.extract import Chosen
from spacelang.backends.torch.supernet import Supernet
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.loader import load


def by_views(graph: Graph, assignment: Assignment) -> int:
    """Elements of the weights that an architecture reads, each storage once."""
    chosen = Chosen(graph, graph.decisions.check(assignment))
    return sum(
        prod(len(entries) for axis in axes for entries in axis)
        for path, axes in chosen.kept().items()
        if graph.storages[path].param.role == "weight"
    )


def check_views(root: Path, space: str, count: int, seed: int) -> None:
    graph = load(root / "spaces" / f"autoformer.space:{space}")
    ends = [graph.decisions.extreme("largest"), graph.decisions.extreme("smallest")]
    drawn = [*ends, *graph.sample(count, seed=seed)]
    assert len({tuple(sorted(a.items())) for a in drawn}) > 0.9 * count
    for assignment in drawn:
        assert by_views(graph, assignment) == graph.cost(assignment).params, assignment


def check_extracted(root: Path, count: int, seed: int) -> None:
    graph = load(root / "spaces" / "autoformer.space:autoformer_t")
    model = Supernet(graph)
    for assignment in graph.sample(count, seed=seed):
        network = model.extract(assignment)
        found = sum(parameter.numel() for parameter in network.parameters())
        assert found == graph.cost(assignment).params, assignment


@pytest.mark.parametrize("space", ["autoformer_t", "autoformer_s", "autoformer_b"])
def test_params_by_views(space: str, root: Path) -> None:
    check_views(root, space, 60, seed=0)


def test_params_by_extraction(root: Path) -> None:
    check_extracted(root, 4, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("space", "count"), [("autoformer_t", 10_000), ("autoformer_s", 1_000), ("autoformer_b", 1_000)]
)
def test_params_of_many_by_views(space: str, count: int, root: Path) -> None:
    check_views(root, space, count, seed=2)


@pytest.mark.soak
def test_params_of_many_by_extraction(root: Path) -> None:
    check_extracted(root, 200, seed=3)
