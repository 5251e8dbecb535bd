"""Shipped spaces of other systems: the supernet against the interpreter and a network of it."""

from __future__ import annotations

import pytest
import torch
from small_spaces import architectures, close, inputs, reference, trained

from spacelang.loader import load

NETWORKS = [
    "cream.space:cream_14m",
    "efficientvit.space:efficientvit_search",
    "minivit.space:mini_deit_ti",
    "s3.space:s3_start",
]


@pytest.mark.parametrize("address", NETWORKS)
def test_shipped_networks(address: str) -> None:
    model = trained(load(address)).eval()
    assignment = architectures(model.graph, 1, seed=2)[-1]
    images = inputs(model.graph, batch=1)
    with torch.no_grad():
        found = model.activate(assignment)(*images)
        wanted, _, _ = reference(model, images, assignment)
        assert close(found, wanted["output"])
        assert torch.equal(model.extract(assignment)(*images), found)
