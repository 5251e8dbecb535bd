"""Weights by other names and in other layouts, strictly, in both directions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_spaces import VIT, graph
from torch import Tensor

from spacelang.backends.torch import weights
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import SpaceError
from spacelang.loader import load

LAYOUTS = """
block attention(x: [B, N, C], heads, dim = 4) -> [B, N, C] {
  q, k, v = linear(x, [3, heads, dim], bias: false) as qkv |> unstack(axis: 2)
  return linear(einsum("bihd,bjhd,bjhe->bihe", q, k, v), C, axes: 2) as proj
}
space net {
  input x: [B, 5, 6]
  choose heads in {1, 2}
  output attention(x, heads) as attn
  weights { _: entangle }
  names published {
    attn: layers[0].mix
    attn.qkv.weight: layers[0].mix.in_proj in order(heads, dim, 3)
    attn.proj.weight: layers[0].mix.proj.kernel in shape(6, 2, 4)
  }
  names twice { attn.qkv: attn.proj }
  names wrong { attn.qkv.weight: q in order(heads, dim, 5) }
}
"""


def test_layouts_permute_and_reshape() -> None:
    model = Supernet(graph(LAYOUTS))
    found = weights.save(model, "published")
    assert set(found) == {f"layers.0.mix.{n}" for n in ("in_proj", "proj.kernel", "proj.bias")}
    rows = model.attn.qkv.weight.detach().reshape(3, 2, 4, 6)  # q, k, v; head; dim
    published = found["layers.0.mix.in_proj"]
    for part in range(3):
        for head in range(2):
            for dim in range(4):
                row = published[(head * 4 + dim) * 3 + part]
                assert torch.equal(row, rows[part, head, dim])
    assert torch.equal(
        found["layers.0.mix.proj.kernel"], model.attn.proj.weight.detach().reshape(6, 2, 4)
    )


@pytest.mark.parametrize("names", ["own", "published"])
@pytest.mark.parametrize("text", [LAYOUTS, VIT], ids=["layouts", "vit"])
def test_load_undoes_save(text: str, names: str) -> None:
    one, other = Supernet(graph(text), seed=1), Supernet(graph(text), seed=2)
    weights.load(other, weights.save(one, names), names)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_published_names_of_autoformer() -> None:
    found = weights.save(Supernet(graph(VIT)), "published")
    layer = {name.removeprefix("blocks.2.") for name in found if name.startswith("blocks.2.")}
    relative = {f"attn.rel_pos_embed_{x}.embeddings_table_{y}" for x in "kv" for y in "vh"}
    assert layer == relative | {
        f"{label}.{role}"
        for label in ("attn.qkv", "attn.proj", "attn_layer_norm", "ffn_layer_norm", "fc1", "fc2")
        for role in ("weight", "bias")
    }
    outside = {name for name in found if not name.startswith("blocks.")}
    assert outside == {
        *("cls_token", "pos_embed", "norm.weight", "norm.bias", "head.weight", "head.bias"),
        *("patch_embed_super.proj.weight", "patch_embed_super.proj.bias"),
    }
    assert set(weights.save(Supernet(graph(VIT)))) == set(Supernet(graph(VIT)).state_dict())


def test_what_does_not_fit_is_listed_and_nothing_is_loaded() -> None:
    model = Supernet(graph(VIT))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wrong = {name: tensor + 1 for name, tensor in weights.save(model, "published").items()}
    del wrong["pos_embed"]
    wrong["head.weight"] = torch.zeros(4, 16)
    wrong["fc.weight"] = torch.zeros(2)
    with pytest.raises(SpaceError) as failed:
        weights.load(model, wrong, "published")
    (found,) = failed.value.diagnostics
    assert found.code == "SP606"
    assert found.notes == (
        "1 missing: pos_embed [1, 5, 16]",
        "1 unexpected: fc.weight [2]",
        "1 of another shape: head.weight is [4, 16], not [5, 16]",
    )
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("timm", "there are own, published, twice, wrong"),
        ("twice", "twice calls both attn.qkv.weight and attn.proj.weight attn.proj.weight"),
        ("wrong", "its first axis is 3 * %heads * 4"),
    ],
)
def test_names_that_do_not_fit_a_space(names: str, says: str) -> None:
    with pytest.raises(SpaceError, match="SP606") as failed:
        weights.entries(graph(LAYOUTS), names)
    (found,) = failed.value.diagnostics
    assert says in (found.headline, *found.notes)


# Index tables with labels are in the state dict.

LABELLED = """
space net {
  input x: [B, 9, 9]
  table = parameter([25, 2]) as table
  bias = take(table, offset_index(3, 3) as relative_position_index)
  output x + mean(bias, axes: [2])
}
"""


def test_labelled_tables_are_buffers_that_weights_may_lack_but_not_contradict() -> None:
    model = Supernet(graph(LABELLED))
    found = weights.save(model)
    assert set(found) == {"table", "relative_position_index"} == set(model.state_dict())
    assert found["relative_position_index"][0].tolist() == [12, 11, 10, 7, 6, 5, 2, 1, 0]
    assert set(model.extract().state_dict()) == set(found)
    weights.load(model, {"table": found["table"]})
    weights.load(model, found)
    with pytest.raises(SpaceError) as failed:
        weights.load(model, {**found, "relative_position_index": torch.zeros(9, 9).long()})
    note = "1 index tables with other entries: relative_position_index"
    assert failed.value.diagnostics[0].notes == (note,)


# Files.


def test_files_come_back(tmp_path: Path) -> None:
    found = weights.save(Supernet(graph(VIT)), "published")
    weights.write_file(tmp_path / "a.safetensors", found)
    read = weights.read_file(tmp_path / "a.safetensors")
    assert read.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in read.items())


def test_pickled_files_only_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"model": {"w": torch.ones(2)}}, path)
    with pytest.raises(SpaceError, match="SP702"):
        weights.read_file(path)
    assert weights.read_file(path, unsafe=True)["w"].tolist() == [1, 1]


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("run",))


@pytest.mark.parametrize("content", [Evil(), {"w": 3}, [torch.ones(1)]])
def test_pickled_files_with_more_than_tensors(tmp_path: Path, content: object) -> None:
    path = tmp_path / "a.pth"
    torch.save(content, path)
    with pytest.raises(SpaceError, match="SP702"):
        weights.read_file(path, unsafe=True)


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}", b"\xff" * 40, None])
def test_damaged_files(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpaceError, match="SP702"):
        weights.read_file(path)


# Published models of others.


def test_swin_computes_what_timm_does() -> None:
    timm = pytest.importorskip("timm")
    other = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False).eval()
    model = Supernet(load("swin.space:swin_t")).eval()
    tables = ("relative_position_index", "attn_mask")
    found = {n: t for n, t in other.state_dict().items() if not n.endswith(tables)}
    weights.load(model, found, "timm")
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert relative(model(image), other(image)) < 1e-5


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(
    ("state_dict", "says"),
    [
        (5, r"SP606.*not int"),
        ({"f.weight": None}, r"SP606.*f\.weight is no tensor"),
        (
            {"f.weight": torch.full((3, 2), float("nan")), "f.bias": torch.zeros(3)},
            r"SP702.*finite",
        ),
        ({"f.weight": torch.zeros(3, 2, dtype=torch.int64), "f.bias": torch.zeros(3)}, "SP606"),
    ],
)
def test_what_is_no_weight_is_refused(state_dict: object, says: str) -> None:
    model = Supernet(graph("space s { input x: [B, 2] output linear(x, 3) as f }"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SpaceError, match=says):
        weights.load(model, state_dict)  # type: ignore[arg-type]
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_what_a_dialect_ignores_may_hold_anything() -> None:
    text = """space s {
      input x: [B, 2]
      output linear(x, 3) as f
      names other { extra: none }
    }"""
    model = Supernet(graph(text))
    given = {**model.state_dict(), "extra.weight": torch.full((2,), float("nan"))}
    weights.load(model, given, names="other")
    with pytest.raises(SpaceError, match=r"SP702.*f\.bias holds"):
        weights.load(model, {**given, "f.bias": torch.full((3,), float("inf"))}, names="other")
    with pytest.raises(SpaceError, match=r"SP702.*extra"):
        weights.load(model, given)
