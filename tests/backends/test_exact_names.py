"""Published checkpoints: state dicts as the specifications list them load strictly and come back.

`published.py` and `published_networks.py` make the lists: names, shapes, order, with the buffers that the published codes keep.
"""

from __future__ import annotations

from math import prod

import pytest
import torch
from published import Shapes
from published_networks import LISTS
from torch import Tensor

from spacelang.backends.torch import weights
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Source, SpaceError
from spacelang.loader import load

ENTRIES = {
    "autoformer.space:autoformer_t": 232,
    "autoformer.space:autoformer_b": 264,
    "irpe.space:deit_s_euc_k": 164,
    "irpe.space:deit_s_product_qkv": 188,
    "s3.space:s3_t": 187,
    "s3.space:s3_s": 355,
    "s3.space:s3_b": 523,
    "efficientvit.space:efficientvit_m0": 699,
    "efficientvit.space:efficientvit_m2": 603,
    "efficientvit.space:efficientvit_m3": 675,
    "efficientvit.space:efficientvit_m5": 835,
    "tinyvit.space:tinyvit_5m": 296,
    "cream.space:cream_14m": 186,
    "cream.space:cream": 2806,
    "cdarts.space:cifar10_cdarts_cifar": 1930,
}
ELEMENTS = {  # of index tables and masks
    "s3.space:s3_t": 436_982,
    "s3.space:s3_s": 1_618_274,
    "s3.space:s3_b": 1_358_966,
}


def dialect(address: str) -> str:
    return "published_subnet" if address.startswith("cream.space:cream_") else "published"


@pytest.mark.parametrize("address", LISTS)
def test_names_and_shapes(address: str) -> None:
    """Every entry of the published state dict, and no other."""
    graph, wanted = load(address), LISTS[address]()
    found = {e.foreign: e.shape for e in weights.entries(graph, dialect(address))}
    kept = {n: s for n, s in wanted.items() if not n.startswith("meta_layer.")}
    assert found == kept
    assert len(wanted) == ENTRIES.get(address, len(wanted))
    if address in ELEMENTS:
        constants = [s for n, s in wanted.items() if n.endswith(("position_index", "attn_mask"))]
        assert sum(map(prod, constants)) == ELEMENTS[address]


def checkpoint(shapes: Shapes, constants: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """A checkpoint of the published code: random weights, its index tables as they are there."""
    random = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name in constants:
            found[name] = constants[name].reshape(shape)
        elif shape == ():
            found[name] = torch.tensor(seed + 7)
        else:
            found[name] = torch.randn(shape, generator=random)
    return found


SMALLEST = [
    "autoformer.space:autoformer_t",
    "deit.space:deit_ti",
    "irpe.space:deit_ti_product_k",
    "minivit.space:mini_deit_ti",
    "minivit.space:mini_swin_t",
    "s3.space:s3_t",
    "efficientvit.space:efficientvit_m0",
    "tinyvit.space:tinyvit_5m",
    "cream.space:cream_14m",
    "cream.space:cream",
    "cdarts.space:cifar10_dartsv2",
]


@pytest.mark.parametrize("address", SMALLEST)
def test_a_published_checkpoint_loads_and_comes_back(address: str) -> None:
    model, names = Supernet(load(address)), dialect(address)
    wanted = LISTS[address]()
    # Of a table that many layers have, each has its copy in a checkpoint.
    tables = {e.foreign for e in weights.entries(model.graph, names) if e.table is not None}
    constants = {n: t for n, t in weights.save(model, names).items() if n in tables}
    given = checkpoint(wanted, constants)
    weights.load(model, given, names)
    saved = weights.save(model, names)
    assert saved.keys() == {n for n in given if not n.startswith("meta_layer.")}
    for name, tensor in saved.items():
        assert torch.equal(tensor, given[name]), name
    del given[next(iter(given))]
    with pytest.raises(SpaceError, match="1 missing"):
        weights.load(model, given, names)


def test_a_network_of_cdarts_without_its_auxiliary_head() -> None:
    """Published networks of evaluation have none: 1,916 of the 1,930 entries."""
    address = "cdarts.space:cifar10_cdarts_cifar"
    found = weights.entries(load(address, auxiliary=False), "published")
    kept = {n: s for n, s in LISTS[address]().items() if not n.startswith("aux_head.")}
    assert {e.foreign: e.shape for e in found} == kept
    assert len(kept) == 1916
    small, other = (Supernet(load(address, cells=[1, 1, 1], auxiliary=a)) for a in (False, True))
    every = weights.save(other, "published")
    given = {n: t for n, t in every.items() if not n.startswith("aux_head.")}
    weights.load(small, given, "published")
    saved = weights.save(small, "published")
    assert saved.keys() == given.keys()
    assert all(torch.equal(tensor, given[name]) for name, tensor in saved.items())
    with pytest.raises(SpaceError, match="14 unexpected: aux_head"):
        weights.load(small, every, "published")
    with pytest.raises(SpaceError, match="14 missing: aux_head"):
        weights.load(other, given, "published")


def test_matrices_are_convolutions_of_single_points() -> None:
    """As the published loader of EfficientViT takes old checkpoints; other shapes stay refused."""
    model = Supernet(load("efficientvit.space:efficientvit_m0"))
    names = dialect("efficientvit.space:efficientvit_m0")
    given = weights.save(Supernet(model.graph, seed=1), names)
    single = {n for n, t in given.items() if t.dim() == 4 and t.shape[2:] == (1, 1)}
    assert len(single) > 50
    weights.load(model, {n: t[..., 0, 0] if n in single else t for n, t in given.items()}, names)
    assert all(torch.equal(t, given[n]) for n, t in weights.save(model, names).items())
    name = "patch_embed.0.c.weight"  # 3 x 3
    for wrong in (given[name][..., 0, 0], given[name][..., 0]):
        with pytest.raises(SpaceError, match="1 of another shape"):
            weights.load(model, {**given, name: wrong}, names)


def test_what_one_side_keeps_alone() -> None:
    """Older checkpoints of TinyViT hold their index tables; timm's Swin holds none."""
    model = Supernet(load("tinyvit.space:tinyvit_5m"))
    given = weights.save(model, "published")
    old = {**given, "layers.1.blocks.0.attn.attention_bias_idxs": torch.zeros(49, 49).long()}
    weights.load(model, old, "published")
    with pytest.raises(SpaceError, match="SP606"):
        weights.load(model, old)
    assert not any("attn_mask" in n for n in weights.save(Supernet(load("s3.space:s3_t")), "timm"))


NONES = """
space net {
  input x: [B, 9, 9]
  table = parameter([25, 2]) as deep.table
  bias = take(table, offset_index(3, 3) as deep.index)
  output x + mean(bias, axes: [2])
  names constants { _.deep.index: none  meta: none }
  names wrong { _.table: none }
}
"""


def test_rules_of_none() -> None:
    """Constants of ours are not written, entries that we have none of are not read."""
    model = Supernet(load(Source("<test>", NONES)))
    given = weights.save(model, "constants")
    assert set(given) == {"deep.table"}
    assert set(weights.save(model)) == {"deep.table", "deep.index"}
    more = {"meta.weight": torch.zeros(1), "a.deep.index": torch.zeros(2)}
    weights.load(model, given | more, "constants")
    for name in ("metal", "index", "meta2.weight"):
        with pytest.raises(SpaceError, match="1 unexpected"):
            weights.load(model, given | {name: torch.zeros(1)}, "constants")
    with pytest.raises(SpaceError, match="wrong has none of deep"):
        weights.save(model, "wrong")
