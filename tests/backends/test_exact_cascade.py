"""EfficientViT twice: its heads chained in the file, and chained by the `cascade` pass.

The second is the shipped file with `chained` false: plain heads side by side, each on its slice of
the channels, and the pass run on it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path

import pytest
import torch
from operator_counter import count, lowered, used_numel

from spacelang.backends.torch import weights
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.graph import Graph
from spacelang.loader import load
from spacelang.passes.pipeline import run
from spacelang.passes.specialize import specialize

SPACES = Path(__file__).parents[2] / "spaces"
CHAINED = "chained = true"
PASS = "cascade{path=stages[_].blocks[_].mixer.m.attn}"
NETWORKS = [f"efficientvit_m{i}" for i in range(6)]


@cache
def side_by_side(name: str) -> Graph:
    """A network of the shipped file whose heads do not know of each other."""
    text = (SPACES / "efficientvit.space").read_text()
    assert text.count(CHAINED) == 1
    plain = text.replace(CHAINED, "chained = false")
    start = plain.index(f"space {name} = ")
    definition = plain[start : plain.index("\n", start) + 1]
    return load(Source("<plain>", plain.replace(definition, "") + definition))  # the last one


@pytest.mark.parametrize("name", [*NETWORKS, "the file's own"])
def test_both_ways_are_one_network(name: str) -> None:
    """Parameters, multiply-accumulates, names and logits, the last to the bit."""
    own = name not in NETWORKS
    written = load("efficientvit.space:" + ("efficientvit_m0" if own else name))
    if own:
        passed = load("efficientvit.space:efficientvit_m0_passed")
    else:
        passed = run(side_by_side(name), PASS)
    assert {p: s.sizes for p, s in written.storages.items()} == {
        p: s.sizes for p, s in passed.storages.items()
    }
    assert written.cost() == passed.cost()
    model = lowered(passed)
    assert (used_numel(model), count(model, passed).macs) == (
        written.cost().params,
        written.cost().macs,
    )
    one = perturbed(written)
    other = Supernet(passed, seed=1).eval()
    weights.load(other, weights.save(one, "published"), "published")
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, wanted = other(images), one(images)
        assert isinstance(found, torch.Tensor)
        assert isinstance(wanted, torch.Tensor)
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", ["efficientvit_m0", "efficientvit_m2"])
def test_without_the_pass_it_is_another_network(name: str) -> None:
    plain = side_by_side(name)
    one = perturbed(load(f"efficientvit.space:{name}"))
    other = Supernet(plain).eval()
    weights.load(other, weights.save(one, "published"), "published")
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, wanted = other(images), one(images)
        assert isinstance(found, torch.Tensor)
        assert isinstance(wanted, torch.Tensor)
        assert float((found - wanted).abs().max()) > 1e-3 * float(wanted.abs().max())


def test_the_pass_refuses_what_is_chained_already() -> None:
    with pytest.raises(SpaceError, match="SP601"):
        run(load("efficientvit.space:efficientvit_m0"), PASS)


def perturbed(graph: Graph) -> Supernet:
    """Zero-gamma norms and zero tables would hide the attention."""
    model = Supernet(graph).eval()
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.5 * torch.rand(tensor.shape, generator=random))
                if tensor.dim() > 1:
                    tensor.sub_(0.25)
    return model


# The search space around them.


def test_the_natural_search_space() -> None:
    graph = searched()
    pairs = [
        sum(w % h == 0 for w in widths for h in (2, 3, 4))
        for widths in ((64, 128, 192), (128, 144, 192, 240, 256, 288), (192, 224, 320, 384))
    ]
    assert graph.size() == prod(pairs) * 3**4 * 2 * 2 == 362_880
    assert set(graph.decisions) == {
        *(f"widths[{s}]" for s in range(3)),
        *(f"heads[{s}]" for s in range(3)),
        *(f"kernels[{i}]" for i in range(4)),
        *("depths[1]", "depths[2]"),
    }


PUBLISHED = {  # widths, heads, kernels, depths
    "m0": ((64, 128, 192), (4, 4, 4), (5, 5, 5, 5), (2, 3)),
    "m1": ((128, 144, 192), (2, 3, 3), (7, 5, 3, 3), (2, 3)),
    "m2": ((128, 192, 224), (4, 3, 2), (7, 5, 3, 3), (2, 3)),
    "m3": ((128, 240, 320), (4, 3, 4), (5, 5, 5, 5), (2, 3)),
    "m4": ((128, 256, 384), (4, 4, 4), (7, 5, 3, 3), (2, 3)),
    "m5": ((192, 288, 384), (3, 3, 4), (7, 5, 3, 3), (3, 4)),
}


@cache
def searched() -> Graph:
    return load("efficientvit.space:efficientvit_search")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks_belong_to_the_space(name: str) -> None:
    """Each is an architecture of it: the same graph, to the hash, once its decisions are taken."""
    graph = searched()
    widths, heads, kernels, depths = PUBLISHED[name]
    values = {
        **{f"widths[{s}]": w for s, w in enumerate(widths)},
        **{f"heads[{s}]": h for s, h in enumerate(heads)},
        **{f"kernels[{i}]": k for i, k in enumerate(kernels)},
        **{f"depths[{s}]": d for s, d in enumerate(depths, 1)},
    }
    where = " and ".join(f"{path} == {value}" for path, value in values.items())
    assert graph.size(where) == 1
    alone = load(f"efficientvit.space:efficientvit_{name}")
    assert graph.cost(values) == alone.cost()
    found = specialize(graph, values).restated(rules=(), search={}, require=())
    assert found.hash == replace(alone, name=found.name).hash
