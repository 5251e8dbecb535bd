"""Quirks of the published codes: `docs/quirks.md` lists them, each with its option and a test.

Here are the tests of those that no other file sees; the first checks the list itself.
"""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

import fills
import pytest
import torch
from published_networks import LISTS
from test_autoformer_forward import T_HEADS, T_RATIOS, architecture
from torch import Tensor

from spacelang.backends.torch import weights
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.dim import Dim
from spacelang.ir.graph import Graph
from spacelang.loader import load
from spacelang.ops.buckets import bucket_count, bucket_table
from spacelang.passes.irpe import Irpe
from spacelang.passes.pipeline import run

ROOT = Path(__file__).parents[2]


def test_every_quirk_has_a_test() -> None:
    """The last column of each row names a test that exists; every system has rows."""
    page = (ROOT / "docs" / "quirks.md").read_text()
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")]
    named = [row[-1].strip().strip("`") for row in rows if "test_" in row[-1]]
    text = "".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 40
    assert [name for name in named if f"def {name}(" not in text] == []
    heads = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert heads == [
        *("AutoFormer", "S3", "Cream", "CDARTS", "MiniViT", "TinyViT", "EfficientViT", "iRPE"),
    ]


def logits(model: Supernet, images: Tensor) -> Tensor:
    with torch.no_grad():
        found = model.eval()(images)
    assert isinstance(found, Tensor)
    return found


def randomised(graph: Graph, seed: int = 0) -> Supernet:
    model = Supernet(graph).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=random))
    return model


def images_of(graph: Graph) -> Tensor:
    h, w = (int(size.at({})) for size in graph.root.inputs[0].types[0].shape[-2:])
    return torch.randn(1, 3, h, w, generator=torch.Generator().manual_seed(1))


# AutoFormer.

INTERLEAVED = """
use autoformer
space interleaved from autoformer_t {
  weights { encoder[_].attn.qkv.bias: entangle }
  names published {
    encoder[i]: blocks[i]
    encoder[i].attn.qkv.weight: blocks[i].attn.qkv.weight in order(heads, dim, 3)
    encoder[i].attn.qkv.bias: blocks[i].attn.qkv.bias in order(heads, dim, 3)
  }
}
"""


def test_flat_biases_of_autoformer() -> None:
    """With biases laid out as their weights are, a published checkpoint gives other logits."""
    given = fills.portable(LISTS["autoformer.space:autoformer_t"]())
    found: list[Tensor] = []
    for address in ("autoformer.space:autoformer_t", Source("<test>", INTERLEAVED)):
        model = Supernet(load(address))
        weights.load(model, given, "published")
        model.activate(architecture(192, T_RATIOS, T_HEADS))
        found.append(logits(model, fills.portable_image()))
    assert float((found[0] - found[1]).abs().max()) == pytest.approx(0.32, abs=0.01)


def test_drop_paths_go_by_the_layers_of_the_supernet() -> None:
    def rates(address: str) -> list[float]:
        found: set[float] = set()
        for place in load(address).places():
            if place.node.op == "drop_path":
                rate = place.node.attributes["rate"]
                assert isinstance(rate, Dim)
                found.add(float(place.instance.absolute(rate).at({})))
        return sorted(found)

    wanted = [0.1 * i / 13 for i in range(13)]  # of 14 layers, 13 of them there
    assert rates("autoformer.space:autoformer_t_subnet") == pytest.approx(wanted)
    assert rates("s3.space:s3_t") == pytest.approx([0.1 * i / 11 for i in range(12)])
    assert rates("tinyvit.space:tinyvit_21m") == pytest.approx([0.2 * i / 11 for i in range(12)])
    assert rates("minivit.space:mini_swin_b") == pytest.approx([0.2 * i / 23 for i in range(24)])
    assert rates("minivit.space:mini_deit_b") == pytest.approx([0.1 * i / 11 for i in range(12)])


def test_storage_wider_than_any_choice() -> None:
    """Super widths of 256 and 640 are no candidates; their last columns are never read."""
    assert load("autoformer.space:autoformer_t").stored == {"width": 256}
    assert load("autoformer.space:autoformer_b").stored == {"width": 640}
    narrow = load("autoformer.space:autoformer_t", stored=240)
    assert narrow.storages["norm.weight"].sizes == (240,)


# S3, Swin and Mini-Swin.


def test_windows_larger_than_the_map() -> None:
    """S3-S asks for 14 x 14 windows in a stage of 7 x 7: one window, a table of its size, no shift."""
    graph = load("s3.space:s3_s")
    table = "attn.relative_position_bias_table"
    assert graph.storages[f"layers[3].blocks[1].{table}"].sizes == (13 * 13, 24)
    assert graph.storages[f"layers[2].blocks[1].{table}"].sizes == (27 * 27, 12)
    masks = [p.path for p in graph.places() if p.node.op == "shift_mask"]
    assert masks == ["layers[0].blocks[1].attn_mask", "layers[1].blocks[1].attn_mask"]


def test_heads_of_s3_are_free_of_the_width() -> None:
    """In the search space; the published code needs 32 channels a head to be the width."""
    graph = load("s3.space:s3_start")
    values = graph.decisions.check(graph.decisions.extreme("largest"))
    assert (values["width[0]"], values["layers[0].blocks[0].heads"]) == (128, 5)
    assert graph.storages["layers[0].blocks[0].attn.qkv.weight"].sizes == (3 * 5 * 32, 128)
    assert graph.storages["layers[0].blocks[0].attn.proj.weight"].sizes == (128, 5 * 32)


def test_seams_in_layers_that_do_not_shift() -> None:
    """Mini-Swin masks them as published; `seam: "shifted"` is what Swin does."""

    def masked(graph: Graph) -> set[str]:
        return {p.path.rsplit(".", 1)[0] for p in graph.places() if p.node.op == "shift_mask"}

    always = load("minivit.space:mini_swin_t")
    shifted = load("minivit.space:mini_swin_t", seam="shifted")
    assert masked(always) == {f"layers[{s}].blocks[{i}]" for s, n in ((0, 2), (1, 2), (2, 6)) for i in range(n)}  # fmt: skip
    assert masked(shifted) == {path for path in masked(always) if path[-2] in "135"}
    assert masked(load("swin.space:swin_t")) == masked(shifted)
    assert always.cost() == shifted.cost()
    one, other = randomised(always), Supernet(shifted)
    given = weights.save(one)
    weights.load(other, {n: t for n, t in given.items() if n in other.state_dict()})
    difference = logits(one, images_of(always)) - logits(other, images_of(always))
    assert float(difference.abs().max()) > 1e-3


def test_biases_of_head_mixing() -> None:
    """The one before the softmax does nothing but count; the one after it gives seams weight."""
    graph = load("minivit.space:mini_swin_t")
    model = randomised(graph)
    images = images_of(graph)
    before = logits(model, images)
    changed: dict[str, float] = {}
    for label in ("proj_l", "proj_w"):
        names = [n for n, _ in model.named_parameters() if n.endswith(f"{label}.bias")]
        assert len(names) == 12
        with torch.no_grad():
            for name in names:
                model.get_parameter(name).add_(0.1)
            changed[label] = float((logits(model, images) - before).abs().max())
            for name in names:
                model.get_parameter(name).sub_(0.1)
    scale = float(before.abs().max())
    assert changed["proj_l"] < 1e-5 * scale
    assert changed["proj_w"] > 1e-2 * scale


def test_mixing_without_biases() -> None:
    published, plain = (load("minivit.space:mini_swin_t", mix_bias=b) for b in (True, False))
    added = {p for p in published.storages if p not in plain.storages}
    assert len(added) == 24
    assert all(p.endswith(("proj_l.bias", "proj_w.bias")) for p in added)
    assert published.cost().params - plain.cost().params == 2 * (2 * 3 + 2 * 6 + 6 * 12 + 2 * 24)


def test_a_norm_that_replaces_the_stream() -> None:
    """With convolutions of zero the usual branch gives nothing, whatever its norm; the published
    one gives the norm."""
    sizes = {"image": 64, "windows": [4, 4, 4, 2], "depths": [1, 1, 1, 1], "every": [1, 1, 1, 1]}
    for keeps in (False, True):
        graph = load("minivit.space:mini_swin_t", keep_stream=keeps, **sizes)
        model = randomised(graph)
        images = images_of(graph)
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                tensor.mul_(0 if "local_conv" in name else 1)
            before = logits(model, images)
            for name, tensor in model.named_parameters():
                tensor.mul_(2 if "local_norm" in name else 1)
        assert torch.equal(logits(model, images), before) is keeps


def test_a_remainder_of_layers() -> None:
    """The published codes drop it or refuse; here the last run is shorter: 11 layers make 6 sets."""
    base = load("deit.space:deit_ti", token=False, depth=11)
    made = run(base, "multiplex{path=blocks,every=2}")
    sets = {path.split(".")[0] for path in made.storages if path.startswith("blocks[")}
    assert len(sets) == 6
    with pytest.raises(SpaceError):
        run(base, "multiplex{path=blocks,every=0}")


# TinyViT and EfficientViT.


def test_a_new_block_is_the_identity() -> None:
    """Every residual branch ends in a norm of gamma 0: what is inside does not matter yet."""
    for address, gammas in (
        ("efficientvit.space:efficientvit_m0", 38),
        ("tinyvit.space:tinyvit_5m", 2),
    ):
        graph = load(address)
        model = Supernet(graph).eval()
        zero = [n for n, p in model.named_parameters() if n.endswith("bn.weight") and not p.any()]
        assert len(zero) == gammas
        images = images_of(graph)
        before = logits(model, images)
        with torch.no_grad():
            for name in zero:
                branch = name.removesuffix("bn.weight") + "c.weight"
                model.get_parameter(branch).mul_(3)
        assert torch.equal(logits(model, images), before)


def test_deit_with_two_heads() -> None:
    """Both are outputs of training, their mean is the output; what is taken out has that alone."""
    model = randomised(load("deit.space:deit_ti_distilled", image=32, depth=1))
    images = images_of(model.graph)
    with torch.no_grad():
        every = model.all_outputs(images)
    assert list(every) == ["head", "head_dist", "output"]
    assert torch.equal(every["output"], (every["head"] + every["head_dist"]) / 2)
    assert float((every["head"] - every["head_dist"]).abs().max()) > 1e-3
    with torch.no_grad():
        assert torch.equal(model.extract()(images), every["output"])


def test_reduced_channels_are_multiples_of_eight() -> None:
    graph = load("efficientvit.space:efficientvit_m0", widths=[64, 100, 196], heads=[4, 4, 4])
    sizes = {p: s.sizes for p, s in graph.storages.items() if p.endswith("se.fc1.weight")}
    assert list(sizes.values()) == [(64, 256, 1, 1), (104, 400, 1, 1)]


def test_kernels_of_the_detection_copy() -> None:
    """Its M0 has other kernels: weights of ImageNet do not fit, and are refused."""
    given = weights.save(Supernet(load("efficientvit.space:efficientvit_m0")), "published")
    other = Supernet(load("efficientvit.space:efficientvit_m0", kernels=[7, 5, 3, 3]))
    with pytest.raises(SpaceError, match="of another shape"):
        weights.load(other, given, "published")


def test_heads_that_do_not_divide_a_width() -> None:
    """Published code floors, and its chunks stop fitting later."""
    with pytest.raises(SpaceError, match="C % heads == 0 does not hold"):
        load("efficientvit.space:efficientvit_m0", widths=[64, 100, 192], heads=[4, 3, 4])


# iRPE.


def test_one_bucket_for_all_leading_tokens() -> None:
    base = load("deit.space:deit_ti_distilled")
    made = run(base, Irpe("product", on=("k",)))
    assert made.cost().params - base.cost().params == 12 * 64 * 50
    rows = bucket_table("product", 14, 14, 1.9, 2)
    assert {*rows[0], *rows[1], *(row[0] for row in rows), *(row[1] for row in rows)} == {49}
    assert list(rows[2][2:4]) == [24, 23]


def test_bounds_of_buckets_are_cut_not_rounded() -> None:
    """beta of 3.8 leaves 3 buckets a side, and a ratio of 2 leaves 4."""
    assert [bucket_count("product", r, 0) for r in (1.9, 2.0)] == [7 * 7, 9 * 9]


def test_undirected_methods_leave_rows_unread() -> None:
    for method in ("euclidean", "quantised"):
        ids = {i for row in bucket_table(method, 14, 14, 1.9, 0) for i in row}
        assert ids == {3, 4, 5, 6}
        assert bucket_count(method, 1.9, 0) == 7


# Cream and CDARTS.


def test_stages_of_one_block_keep_their_default() -> None:
    """Published networks ignore the choice found for such a stage; their figures need it."""
    published = load("cream.space:cream_14m").cost().params
    space = load("cream.space:cream", depths=[1, 2, 2, 1, 1], image=64)
    found = space.cost(dict.fromkeys(space.decisions, "k5e6")).params
    assert published == 2_673_096
    assert found - published == 11_400 - 5_568 + 214_392 - 206_712  # stages 1 and 4


def test_a_block_of_cream_that_nothing_runs() -> None:
    """The published supernet of 20 layers stores a 21st: its checkpoint loads, and what stands there
    changes nothing."""
    sizes, meta = {"depths": [4, 4, 4, 4, 4], "image": 32}, 4_001
    plain = load("cream.space:cream", **sizes)
    graph = load("cream.space:cream", **sizes, unused_block=True)
    path = dict.fromkeys(plain.decisions, "k5e6")
    assert graph.decisions.keys() == path.keys()
    assert graph.cost(path) == plain.cost(path)
    listed, random = LISTS["cream.space:cream"](), torch.Generator().manual_seed(0)
    assert len(listed) == 2806
    unread = {name for name in listed if name.startswith("blocks.3.4.")}
    found = {entry.foreign for entry in weights.entries(graph, "published")}
    assert found - {entry.foreign for entry in weights.entries(plain, "published")} == unread
    model = Supernet(graph)
    assert sum(p.numel() for p in model.parameters()) + meta == 29_809_073
    given = {n: torch.rand(s, generator=random) / prod(s[1:]) for n, s in listed.items()}
    weights.load(model, given, "published")
    before = logits(model, images_of(graph))
    assert before.isfinite().all()
    idle = [p for name, p in model.named_parameters() if name in unread]
    assert sum(p.numel() for p in idle) == 963_160
    with torch.no_grad():
        for parameter in idle:
            parameter.fill_(float("nan"))
    assert torch.equal(logits(model, images_of(graph)), before)


def test_only_convolutions_drop_paths() -> None:
    """In CDARTS the identity is never dropped; pools are."""
    graph = load("cdarts.space:cifar10_dartsv1")
    (normal,) = {
        len([p for p in graph.places() if p.node.op == "drop_path" and p.path.startswith(f"nas_layers[0][{i}]")])
        for i in range(2)
    }  # fmt: skip
    assert normal == 5  # three of eight edges are identities


def test_norms_without_weights_while_searching() -> None:
    search, network = load("cdarts.space:cifar10_search"), load("cdarts.space:cifar10_dartsv1")

    def scales(graph: Graph) -> list[str]:
        """Weights of one axis in the cells: all that is no convolution."""
        cells = {p: s for p, s in graph.storages.items() if p.startswith("nas_layers")}
        return [p for p, s in cells.items() if s.param.role == "weight" and len(s.sizes) == 1]

    assert scales(search) == []
    assert len(scales(network)) > 100
