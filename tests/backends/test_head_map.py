"""Head maps: a classifier of other classes, whose rows a file picks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from spacelang.backends.torch import weights
from spacelang.backends.torch.head_map import read_head_map
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import SpaceError
from spacelang.loader import load

SMALL = {"image": 32, "widths": [32, 32, 64, 64], "depths": [1, 1, 1, 1], "windows": [2, 2, 1]}


def tiny(classes: int, seed: int = 0) -> Supernet:
    return Supernet(load("tinyvit.space:tinyvit_5m", classes=classes, **SMALL), seed=seed).eval()


def test_a_classifier_of_more_classes_becomes_one_of_ours(tmp_path: Path) -> None:
    """Rows by the file, a missing class the mean of those that are picked; all else as it is."""
    one, other = tiny(7, seed=1), tiny(4)
    (tmp_path / "map.txt").write_text("6\n-1\n0\n6\n")
    rows = read_head_map(tmp_path / "map.txt")
    given = weights.save(one, "published")
    before = {name: tensor.clone() for name, tensor in given.items()}
    weights.load(other, given, "published", head_map=rows)
    found = weights.save(other, "published")
    for name in ("head.weight", "head.bias"):
        table = given[name]
        mean = (2 * table[6] + table[0]) / 3
        torch.testing.assert_close(found[name], torch.stack([table[6], mean, table[0], table[6]]))
    rest = found.keys() - {"head.weight", "head.bias"}
    assert all(torch.equal(found[name], given[name]) for name in rest)
    assert all(torch.equal(given[name], tensor) for name, tensor in before.items())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wide, narrow = one(images), other(images)
    assert isinstance(wide, Tensor)
    assert isinstance(narrow, Tensor)
    torch.testing.assert_close(narrow[:, [0, 2, 3]], wide[:, [6, 0, 6]])


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ((6, 7, 0, 1), "has rows 0 to 7, head.weight has 7"),
        ((6, -2, 0, 1), "has rows -2 to 6"),
        ((-1, -1, -1, -1), "has rows -1 to -1"),
        ((), "has 0 rows, head.weight here 4"),
        ((0, 1, 2), "has 3 rows, head.weight here 4"),
    ],
)
def test_maps_that_do_not_fit(rows: tuple[int, ...], says: str) -> None:
    given = weights.save(tiny(7), "published")
    with pytest.raises(SpaceError, match="SP606") as failed:
        weights.load(tiny(4), given, "published", head_map=rows)
    (found,) = failed.value.diagnostics
    assert any(says in text for text in (found.headline, *found.notes))


def test_a_map_of_other_classes_copies_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen MiB of a map would be gigabytes of rows."""
    given = weights.save(tiny(7), "published")
    monkeypatch.setattr(weights, "mapped", None)
    with pytest.raises(SpaceError, match=r"SP606.*has 8,000,000 rows, head.weight here 4"):
        weights.load(tiny(4), given, "published", head_map=[0] * 8_000_000)


def test_a_network_of_two_heads_has_no_one_classifier() -> None:
    graph = load("deit.space:deit_ti_distilled", image=32, depth=1)
    model = Supernet(graph)
    with pytest.raises(SpaceError, match=r"SP606.*no one classifier"):
        weights.load(model, weights.save(model), head_map=range(1000))


@pytest.mark.parametrize("content", [b"1\nx\n", b"\xff\n", b"1.5\n", None])
def test_files_that_are_no_head_map(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "map.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpaceError, match="SP702"):
        read_head_map(path)
