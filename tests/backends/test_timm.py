"""The same networks in timm: weights go both ways by the spaces' own `names timm`, logits agree.

All weights and running statistics of timm's network are moved off their first values: with tables
of zeros, norms of gamma zero or equal tokens a wrong network would pass. Logits are compared in
double precision, by their largest difference.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spacelang.backends.torch import weights
from spacelang.backends.torch.supernet import Supernet
from spacelang.loader import load

timm = pytest.importorskip("timm")

SMALL = {
    **{f"efficientvit_m{i}": f"efficientvit.space:efficientvit_m{i}" for i in range(6)},
    "tiny_vit_5m_224": "tinyvit.space:tinyvit_5m",
    "tiny_vit_11m_224": "tinyvit.space:tinyvit_11m",
    "swin_tiny_patch4_window7_224": "swin.space:swin_t",
    "swin_s3_tiny_224": "s3.space:s3_t",
    "deit_tiny_patch16_224": "deit.space:deit_ti",
    "deit_tiny_distilled_patch16_224": "deit.space:deit_ti_distilled",
    "deit_small_patch16_224": "deit.space:deit_s",
}
LARGE = {
    "tiny_vit_21m_224": "tinyvit.space:tinyvit_21m",
    "tiny_vit_21m_384": "tinyvit.space:tinyvit_21m_384",
    "tiny_vit_21m_512": "tinyvit.space:tinyvit_21m_512",
    "swin_small_patch4_window7_224": "swin.space:swin_s",
    "swin_base_patch4_window7_224": "swin.space:swin_b",
    "swin_base_patch4_window12_384": "swin.space:swin_b_384",
    "swin_large_patch4_window7_224": "swin.space:swin_l",
    "swin_large_patch4_window12_384": "swin.space:swin_l_384",
    "swin_s3_small_224": "s3.space:s3_s",
    "swin_s3_base_224": "s3.space:s3_b",
    "deit_small_distilled_patch16_224": "deit.space:deit_s_distilled",
    "deit_base_patch16_224": "deit.space:deit_b",
    "deit_base_patch16_384": "deit.space:deit_b_384",
    "deit_base_distilled_patch16_224": "deit.space:deit_b_distilled",
    "deit_base_distilled_patch16_384": "deit.space:deit_b_distilled_384",
}
FAMILIES = ("efficientvit_m[0-9]", "tiny_vit_*", "swin_*", "deit_*")
NETWORKS = [
    *(pytest.param(*pair, id=pair[0]) for pair in SMALL.items()),
    *(pytest.param(*pair, id=pair[0], marks=pytest.mark.soak) for pair in LARGE.items()),
]


def test_every_network_of_the_families_is_here() -> None:
    assert {*SMALL, *LARGE} == {name for f in FAMILIES for name in timm.list_models(f)}


@pytest.mark.parametrize(("name", "address"), NETWORKS)
def test_weights_go_both_ways_and_logits_agree(name: str, address: str) -> None:
    theirs = perturbed(timm.create_model(name, pretrained=False, num_classes=1000))
    model = Supernet(load(address)).double().eval()
    weights.load(model, theirs.state_dict(), names="timm")
    side = model.graph.root.inputs[0].types[0].shape[-1]
    images = drawn(int(side.at({})), 1)
    with torch.no_grad():
        wanted = theirs(images)
        assert difference(model(images), wanted) < 1e-10
        assert difference(model.extract()(images), wanted) < 1e-10
    saved = weights.save(model, names="timm")
    assert all(torch.equal(saved[n], tensor) for n, tensor in theirs.state_dict().items())
    other = timm.create_model(name, pretrained=False, num_classes=1000).double().eval()
    other.load_state_dict(saved, strict=True)
    with torch.no_grad():
        assert torch.equal(other(images), wanted)


def test_swin_of_other_sizes() -> None:
    """Heads of another width, and fewer stages: the last one has no merging."""
    sizes = {"embed_dim": 48, "depths": (2, 1, 2), "num_heads": (2, 4, 8)}
    theirs = perturbed(timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, **sizes))
    graph = load("swin.space:swin", width=48, depths=[2, 1, 2], heads=[2, 4, 8])
    model = Supernet(graph).double().eval()
    weights.load(model, theirs.state_dict(), names="timm")
    images = drawn(224, 3)
    with torch.no_grad():
        assert difference(model(images), theirs(images)) < 1e-10


def perturbed(model: nn.Module) -> nn.Module:
    """Every weight matters: biases, norms, statistics and tables too."""
    random = generator(0)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if not tensor.is_floating_point() or name.endswith("attn_mask"):
                continue
            spread = 0.5 if "bias_table" in name or "attention_biases" in name else 0.1
            if name.endswith("running_var"):
                tensor.mul_(1 + 0.5 * torch.rand(tensor.shape, generator=random))
            else:
                tensor.add_(spread * torch.randn(tensor.shape, generator=random) * scale(tensor))
            if name.endswith(("bn.weight", "norm.weight")):
                tensor.add_(0.5)  # zero-gamma norms would hide their branch
    return model.double().eval()


def scale(tensor: Tensor) -> float:
    """Matrices keep their spread, so that the depth of a network does not blow up its values."""
    return 1.0 if tensor.dim() < 2 else float(tensor.std().clamp(min=0.02)) * 5


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(side: int, seed: int) -> Tensor:
    return torch.randn(1, 3, side, side, generator=generator(seed)).double()


def difference(found: Tensor, wanted: Tensor) -> float:
    assert found.dtype == wanted.dtype == torch.float64
    return float((found - wanted).abs().max())


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("tiny_vit_5m_224", "tinyvit.space:tinyvit_5m"),
        ("efficientvit_m0", "efficientvit.space:efficientvit_m0"),
    ],
)
@pytest.mark.parametrize("side", [96, 256])
def test_padded_windows(name: str, address: str, side: int) -> None:
    """At 256 pixels windows do not fit: padding is attended to. At 96 the map is smaller."""
    # TinyViT takes its maps as they come.
    size = {"img_size": side} if name == "efficientvit_m0" else {}
    theirs = perturbed(timm.create_model(name, pretrained=False, num_classes=1000, **size))
    model = Supernet(load(address, image=side, larger_windows=side == 96)).double().eval()
    weights.load(model, theirs.state_dict(), names="timm")
    images = drawn(side, 2)
    with torch.no_grad():
        assert difference(model(images), theirs(images)) < 1e-10


def test_tinyvit_as_its_code_draws_it() -> None:
    """The specification's logits of the 5M network from seed 0, which timm draws in one order."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = timm.create_model("tiny_vit_5m_224", pretrained=False, num_classes=1000)
    model = Supernet(load("tinyvit.space:tinyvit_5m")).eval()
    weights.load(model, theirs.state_dict(), names="timm")
    images = torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224)
    with torch.no_grad():
        found = model(images)[0]
    assert found[:4].tolist() == pytest.approx([-0.067107, 0.376476, 0.005175, 0.091549], abs=1e-5)
    assert float(found.sum()) == pytest.approx(-2.566365, abs=1e-4)
