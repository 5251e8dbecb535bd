"""MobileNetV3, the system that was added from the documents alone, against timm's networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_spaces import architectures, close, inputs, reference, trained

from spacelang.backends.torch import weights
from spacelang.backends.torch.supernet import Supernet
from spacelang.loader import load

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = {
    "mobilenetv3_large": ("mobilenetv3_large_100", 5_483_032, 216_589_760),
    "mobilenetv3_small": ("mobilenetv3_small_100", 2_542_856, 56_510_400),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_computes_what_timm_does(name: str) -> None:
    timm = pytest.importorskip("timm")
    other_name, params, macs = NETWORKS[name]
    torch.manual_seed(0)
    other = timm.create_model(other_name, pretrained=False).double().eval()
    for key, values in other.state_dict().items():  # statistics that a fresh network would not have
        if key.endswith("running_mean"):
            values.normal_(0, 0.1)
        elif key.endswith("running_var"):
            values.uniform_(0.5, 1.5)
    graph = load(f"mobilenetv3.space:{name}")
    model = Supernet(graph).double().eval()
    weights.load(model, other.state_dict(), "timm")
    image = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        assert float((model(image) - other(image)).abs().max()) < 1e-10
    cost = graph.cost()
    assert (cost.params, cost.macs) == (params, macs)
    assert params == sum(p.numel() for p in other.parameters())
    kept = weights.save(model, "timm")
    assert kept.keys() == other.state_dict().keys()
    assert all(torch.equal(kept[key], value) for key, value in other.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_starts_as_timm_does(name: str) -> None:
    """Constants are equal; what is drawn differs in its spread by less than six deviations of it."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    other = timm.create_model(NETWORKS[name][0], pretrained=False)
    own = weights.save(Supernet(load(f"mobilenetv3.space:{name}")), "timm")
    for key, theirs in other.state_dict().items():
        if theirs.unique().numel() < 2:
            assert torch.equal(own[key], theirs), key
        else:
            spread = pytest.approx(float(theirs.std()), rel=6 / theirs.numel() ** 0.5)
            assert float(own[key].std()) == spread, key


def test_once_for_all_space() -> None:
    graph = load("mobilenetv3.space:mobilenetv3_search", image=64, classes=10)
    assert graph.size() == (9**2 + 9**3 + 9**4) ** 5
    model = trained(graph).eval()
    assignment = architectures(graph, 1, seed=2)[-1]
    images = inputs(graph, batch=1)
    with torch.no_grad():
        found = model.activate(assignment)(*images)
        wanted, _, _ = reference(model, images, assignment)
        assert close(found, wanted["output"])
        assert torch.equal(model.extract(assignment)(*images), found)


def test_the_file_is_short() -> None:
    lines = (ROOT / "spaces" / "mobilenetv3.space").read_text().splitlines()
    assert len(lines) < 80
