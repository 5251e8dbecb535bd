"""Attention with relative positions: fused against the published forms, N x N x d and all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from spacelang.backends.torch.lowering.tables import (
    bucket_index,
    clipped_index,
    offset_index,
    shift_mask,
)
from spacelang.backends.triton import launch
from spacelang.backends.triton.attention import Operands, _op, attention, reference, unable
from spacelang.backends.triton.launch import NotFused, require_fused
from spacelang.diagnostics import SpaceError

# Of the largest magnitude of what is compared, with operands that both sides hold exactly.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
SIDES = ("offsets", "on_keys", "on_queries", "on_values")


@dataclass(frozen=True)
class Case:
    """Operands of one attention; a term is tables [H or 1, R, C, ...] and an index [R, N, N]."""

    q: Tensor
    k: Tensor
    v: Tensor
    terms: dict[str, tuple[Tensor, Tensor]]
    regions: Tensor | None = None

    def leaves(self) -> list[Tensor]:
        return [self.q, self.k, self.v, *(table for table, _ in self.terms.values())]

    def of(self, leaves: list[Tensor]) -> Case:
        indexes = [index for _, index in self.terms.values()]
        terms = dict(zip(self.terms, zip(leaves[3:], indexes, strict=True), strict=True))
        return Case(*leaves[:3], terms, self.regions)


def case(
    shape: tuple[int, int, int, int],
    terms: dict[str, tuple[int, int, Tensor]],
    *,
    value: int | None = None,
    regions: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """Random operands [B, H, N, D]; a term is heads of its table, its C, and its index."""
    generator = torch.Generator().manual_seed(sum(shape))

    def random(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator).to(dtype)

    width = value or shape[3]
    last = {"offsets": (), "on_values": (width,)}
    made = {
        side: (random(heads, len(index), count, *last.get(side, (shape[3],))), index)
        for side, (heads, count, index) in terms.items()
    }
    return Case(random(*shape), random(*shape), random(*shape[:3], width), made, regions)


def fused(x: Case) -> Tensor:
    return attention(x.q, x.k, x.v, x.q.shape[3] ** -0.5, **x.terms, regions=x.regions)


def plain(x: Case) -> Tensor:
    """What stands in for the kernels where they cannot run."""
    scale = x.q.shape[3] ** -0.5
    return reference(replace(operands(x), scale=scale))[0]


def published(x: Case) -> Tensor:
    """Tables gathered to N x N x d, as the papers' code has it."""
    scale, heads = x.q.shape[3] ** -0.5, x.q.shape[1]
    gathered = {
        side: sum(table[:, r][:, index[r].long()] for r in range(len(index))).expand(
            heads, *index.shape[1:], *table.shape[3:]
        )
        for side, (table, index) in x.terms.items()
    }
    s = scale * x.q @ x.k.transpose(2, 3)
    if "offsets" in gathered:
        s = s + gathered["offsets"]
    if "on_keys" in gathered:
        s = s + scale * torch.einsum("bhid,hijd->bhij", x.q, gathered["on_keys"])
    if "on_queries" in gathered:
        s = s + scale * torch.einsum("bhjd,hijd->bhij", x.k, gathered["on_queries"])
    if x.regions is not None:
        apart = x.regions[:, None, :, None] != x.regions[:, None, None, :]
        s = s - 100.0 * apart.repeat(len(s) // len(apart), 1, 1, 1)
    p = s.softmax(3)
    if "on_values" in gathered:
        return p @ x.v + torch.einsum("bhij,hijd->bhid", p, gathered["on_values"])
    return p @ x.v


def results(function: Callable[[Case], Tensor], x: Case) -> list[Tensor]:
    """Output, then the gradient of each operand and table."""
    leaves = [part.detach().requires_grad_() for part in x.leaves()]
    out = function(x.of(leaves))
    weights = torch.linspace(-1, 2, out.numel()).reshape(out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, weights)]


def agree(x: Case) -> None:
    """Fused results are the published ones, which are computed in float64."""
    kind = x.q.dtype
    exact = results(published, x.of([part.double() for part in x.leaves()]))
    names = ("out", "q", "k", "v", *x.terms)
    with require_fused():
        for name, found, wanted in zip(names, results(fused, x), exact, strict=True):
            assert found.dtype == kind, name
            worst, largest = (found.double() - wanted).abs().max(), wanted.abs().max()
            # of one token, which has nothing to choose from, the gradients of logits are 0
            assert worst <= TOLERANCE[kind] * (largest if largest > 1e-9 else 1), name


def regions(side: int, window: int, shift: int) -> Tensor:
    """For every token of every window, the first that no shift parts it from."""
    return (shift_mask(side, side, window, shift)[:, 0] == 0).int().argmax(2)


def crossed(grid: int, reach: int, skip: int) -> Tensor:
    return torch.stack([clipped_index(grid, grid, axis, reach, skip) for axis in (0, 1)])


def product(grid: int, skip: int) -> Tensor:
    return bucket_index(grid, grid, "product", 1.9, skip)[None]


def swin(dtype: torch.dtype = torch.float32, heads: int = 1) -> Case:
    terms = {"offsets": (heads, 169, offset_index(7, 7, "signed")[None])}
    windows = regions(14, 7, 3)
    return case((4, heads, 49, 32), terms, regions=windows, dtype=dtype)


def autoformer(grid: int, dtype: torch.dtype = torch.float32, batch: int = 1) -> Case:
    index = crossed(grid, 14, 1)
    terms = {"on_keys": (1, 30, index), "on_values": (1, 30, index)}
    return case((batch, 1, grid * grid + 1, 64), terms, dtype=dtype)


def irpe(grid: int, shape: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> Case:
    """Product buckets on queries, keys and values; a table for each head on keys."""
    batch, heads, width = shape
    index = product(grid, 1).to(torch.int16)
    terms = {
        "on_keys": (heads, 50, index),
        "on_queries": (1, 50, index.transpose(1, 2)),
        "on_values": (1, 50, index),
    }
    return case((batch, heads, grid * grid + 1, width), terms, dtype=dtype)


def everything(batch: int, n: int, dtype: torch.dtype = torch.float32) -> Case:
    """All terms at once, of random indexes; heads of odd widths."""
    generator = torch.Generator().manual_seed(n)

    def index(count: int, columns: int) -> Tensor:
        return torch.randint(0, columns, (count, n, n), generator=generator)

    terms = {
        "offsets": (1, 5, index(2, 5).int()),
        "on_keys": (3, 4, index(1, 4)),
        "on_queries": (3, 3, index(2, 3)),
        "on_values": (3, 6, index(1, 6)),
    }
    parted = torch.randint(0, 2, (2, n), generator=generator)
    return case((batch, 3, n, 12), terms, value=20, regions=parted, dtype=dtype)


def many(count: int, columns: int, sides: tuple[str, ...]) -> Case:
    """Tables that a program may not be able to hold, some a table a head, laid channels first."""
    generator = torch.Generator().manual_seed(columns)
    index = torch.randint(0, columns, (count, 9, 9), generator=generator)
    x = case((2, 2, 9, 16), {side: (2, columns, index) for side in sides})
    turned = {
        side: table.transpose(2, 3).contiguous().transpose(2, 3)
        for side, (table, _) in x.terms.items()
    }
    return Case(x.q, x.k, x.v, {side: (table, index) for side, table in turned.items()})


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(lambda: swin(), id="swin-49"),
        pytest.param(lambda: autoformer(4, batch=2), id="autoformer-17"),
        pytest.param(lambda: irpe(7, (1, 1, 64)), id="irpe-50"),
        pytest.param(lambda: irpe(3, (1, 12, 48)), id="irpe-10-heads-12"),
        pytest.param(lambda: everything(2, 19), id="everything-19"),
        pytest.param(lambda: everything(2, 1), id="everything-1"),
        pytest.param(lambda: many(2, 82, ("on_keys", "on_queries")), id="both-of-two-82"),
        pytest.param(lambda: many(1, 134, ("on_queries",)), id="queries-of-134"),
        pytest.param(lambda: many(1, 82, SIDES[1:]), id="all-of-82"),
        pytest.param(lambda: case((2, 4, 16, 16), {}, value=64), id="plain-16"),
        pytest.param(
            lambda: case(
                (1, 4, 16, 16), {"offsets": (4, 16, offset_index(4, 4, "absolute")[None])}
            ),
            id="efficientvit-16",
        ),
    ],
)
def test_it_is_the_published_attention(x: Callable[[], Case]) -> None:
    agree(x())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "x", [swin, lambda d: irpe(6, (1, 2, 64), d), lambda d: everything(2, 35, d)]
)
def test_half_types_agree(x: Callable[[torch.dtype], Case], dtype: torch.dtype) -> None:
    agree(x(dtype))


def test_images_of_197_tokens() -> None:
    agree(autoformer(14, torch.float16))


def test_images_of_197_tokens_in_float32() -> None:
    """DeiT at 224 with iRPE's bias of 8 buckets."""
    index = bucket_index(14, 14, "euclidean", 1.9, 1)[None]
    agree(case((1, 1, 197, 48), {"offsets": (1, 8, index)}))


def test_images_of_577_tokens() -> None:
    """DeiT at 384 with iRPE's bias of 8 buckets, and every gradient."""
    index = bucket_index(24, 24, "euclidean", 1.9, 1)[None]
    agree(case((1, 1, 577, 16), {"offsets": (1, 8, index)}, dtype=torch.float16))


@pytest.mark.soak
def test_images_of_577_tokens_in_float32() -> None:
    """The same with every gradient."""
    index = bucket_index(24, 24, "euclidean", 1.9, 1)[None]
    agree(case((1, 1, 577, 64), {"offsets": (1, 8, index)}))


def test_operands_may_lie_anywhere() -> None:
    """Heads of one projection, and images with others between them: the same bits, nothing read.

    Offsets of an entry side by side, as Swin has them.
    """
    x = everything(2, 9)
    batch, heads, n, width = x.q.shape
    together = torch.full((2 * batch, n, 3, heads + 1, width + 3), torch.nan)
    views = []
    for part, plain in enumerate((x.q, x.k)):
        view = together[::2, :, part, :heads, :width].transpose(1, 2)
        view.copy_(plain)
        views.append(view)
    reverse = torch.full((20, heads, batch, n), torch.nan)
    last = reverse.permute(2, 1, 3, 0).copy_(x.v)  # its channels lie apart
    assert last.stride(3) != 1
    offsets, *tables = x.leaves()[3:]
    around = torch.full((5, 4, 3), torch.nan)
    turned = around[:, 1:3, 1:2].permute(2, 1, 0).copy_(offsets)
    with require_fused():
        apart = results(fused, x.of([*views, last, turned, *tables]))
        for found, wanted in zip(apart, results(fused, x), strict=True):
            assert torch.equal(found, wanted)


def test_nothing_is_touched_beyond_its_buffers(guarded: Callable[[], int]) -> None:
    """Nor for an index that there is not, which stands for no term."""
    x = everything(2, 19)
    for side, (table, index) in x.terms.items():
        index[0, 3, 4], index[0, 18, 18] = table.shape[2], -7
        index[0, 0, 1] = 10**6
        padded = torch.full((table.numel() + 128,), torch.nan)
        inside = padded[64 : 64 + table.numel()].view(table.shape)
        x.terms[side] = (inside.copy_(table), index)
    found = results(fused, x)
    assert guarded() > 8
    wider = {
        side: (
            torch.cat([table, torch.zeros_like(table[:, :, :1])], 2),
            torch.where((index < 0) | (index >= table.shape[2]), table.shape[2], index),
        )
        for side, (table, index) in x.terms.items()
    }
    wanted = results(published, Case(x.q, x.k, x.v, wider, x.regions))
    wanted[4:] = [part[:, :, :-1] for part in wanted[4:]]
    for made in (found, results(plain, x)):
        for a, b in zip(made, wanted, strict=True):
            assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize("shape", [(0, 2), (2, 0)])
def test_an_empty_batch_is_empty(shape: tuple[int, int]) -> None:
    index = torch.zeros(1, 5, 5, dtype=torch.int32)
    x = case((*shape, 5, 16), {"offsets": (1, 3, index), "on_keys": (1, 3, index)})
    found = results(fused, x)
    assert [part.shape for part in found[1:]] == [part.shape for part in x.leaves()]
    assert not any(part.any() for part in found)


def operands(x: Case) -> Operands:
    """Of the operator."""
    n = x.q.shape[2]
    nothing = torch.zeros(0, n, n, dtype=torch.int32)
    none = {side: x.q.new_empty(1, 0, 0, x.q.shape[3]) for side in ("on_keys", "on_queries")}
    none |= {"offsets": x.q.new_empty(1, 0, 0), "on_values": x.v.new_empty(1, 0, 0, x.v.shape[3])}
    terms = [x.terms.get(side, (none[side], nothing)) for side in SIDES]
    regions = torch.zeros(0, n, dtype=torch.int32) if x.regions is None else x.regions
    return Operands(x.q, x.k, x.v, 0.25, *(part for term in terms for part in term), regions, True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"k": torch.zeros(2, 2, 9, 16)}, r"queries and keys \[B, H, N, D\]"),
        ({"v": torch.zeros(2, 2, 8, 16, dtype=torch.float16)}, "different types"),
        ({"v": torch.zeros(2, 2, 8, 129)}, "not 1 to 128 wide"),
        ({"table": torch.zeros(3, 1, 4)}, r"offsets \[H or 1, R, C\]"),
        ({"table": torch.zeros(1, 2, 4)}, r"an index \[R, N, N\]"),
        ({"table_index": torch.zeros(1, 8, 8)}, "no kernel takes an index"),
        ({"key_table": torch.zeros(1, 0, 4, 8)}, r"tables \[H or 1, R, C, D\]"),
        ({"value_table": torch.zeros(3, 0, 4, 16)}, r"\[H or 1, R, C, V\] on values"),
        ({"mass_index": torch.zeros(1, 8, 8).int()}, r"an index \[R, N, N\]"),
        (
            {
                "mass_index": torch.zeros(1, 8, 8).int(),
                "value_table": torch.zeros(1, 1, 513, 16),
            },
            "more than 512 columns",
        ),
        ({"regions": torch.zeros(3, 8).int()}, "W dividing the batch"),
        ({"regions": torch.zeros(2, 8)}, "no kernel takes regions"),
        ({"regions": torch.zeros(2, 8, device="meta").int()}, "different devices"),
    ],
)
def test_what_the_kernels_cannot_take_is_said(change: dict[str, Tensor], reason: str) -> None:
    index = torch.zeros(1, 8, 8, dtype=torch.int32)
    x = operands(case((2, 2, 8, 16), {"offsets": (2, 4, index)}))
    assert unable(x) == ""
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(unable(replaced(x, change)))


def replaced(x: Operands, change: dict[str, Tensor]) -> Operands:
    return replace(x, **change)


def test_what_the_kernels_cannot_take_goes_to_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "_told", set[tuple[str, str]]())  # each reason is told once
    x = everything(2, 7)
    double = x.of([part.double() for part in x.leaves()])
    with pytest.warns(NotFused, match="no kernel takes float64"):
        found = results(fused, double)
    for a, b in zip(found, results(published, double), strict=True):
        assert (a - b).abs().max() <= 1e-12 * b.abs().max()
    with require_fused(), pytest.raises(SpaceError, match="no kernel takes float64"):
        fused(double)


def test_the_operator_keeps_its_promises() -> None:
    x = everything(2, 3)
    terms = {side: (table[:1], index) for side, (table, index) in x.terms.items()}
    part = operands(Case(x.q[:, :1], x.k[:, :1], x.v[:, :1], terms, x.regions))
    for name in ("q", "key_table", "value_table"):
        getattr(part, name).requires_grad_()
    torch.library.opcheck(_op, tuple(getattr(part, name) for name in part.__slots__))
    for kept in (True, False):
        x = replaced(part, {"kept": kept})
        found = _op(*(getattr(x, name) for name in x.__slots__))
        for a, b in zip(found, reference(x), strict=True):
            assert a.shape == b.shape
            assert torch.allclose(a, b, atol=1e-6)


def test_masses_are_kept_for_the_gradient_of_their_tables_alone() -> None:
    """The others' gradients are the same without; that of tables cannot be asked for."""
    x = everything(2, 3)
    table, index = x.terms["on_values"]
    q = x.q.clone().requires_grad_()
    with_masses, without = (
        fused(Case(q, x.k, x.v, {**x.terms, "on_values": (one, index)}, x.regions))
        for one in (table.clone().requires_grad_(), table)
    )
    assert torch.equal(with_masses, without)
    assert [
        part.shape[2]
        for part in (with_masses.grad_fn.saved_tensors[2], without.grad_fn.saved_tensors[2])
    ] == [3, 0]
    found, wanted = (torch.autograd.grad(out.sum(), q)[0] for out in (without, with_masses))
    assert torch.equal(found, wanted)
    part = replaced(operands(x), {"kept": False, "value_table": table.clone().requires_grad_()})
    with pytest.raises(AssertionError, match="needs the masses"):
        _op(*(getattr(part, name) for name in part.__slots__))[0].sum().backward()


def test_it_passes_through_export() -> None:
    x = everything(2, 9)

    class Net(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return fused(Case(q, k, v, x.terms, x.regions)).sum(3)

    inputs = (x.q, x.k, x.v)
    exported = torch.export.export(Net(), inputs)
    assert any("spacelang.attention" in str(node.target) for node in exported.graph.nodes)
    assert torch.equal(exported.module()(*inputs), Net()(*inputs))


def test_all_of_autoformer_runs_on_one_variant(
    fresh_python: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 random architectures of each space, of every batch and grid: none has one of its own."""
    monkeypatch.delenv("TRITON_INTERPRET")
    found = json.loads(fresh_python("tests/kernels/count_variants.py"))
    mixed = found.pop("mini_swin")
    kernels = ("forward", "shares", "queries", "values", "keys", "sums")
    assert mixed == {**dict.fromkeys(kernels, 3), "rows": 0, "scatter": 1}  # 8, 16 and 32 heads
    assert list(found) == ["autoformer_t", "autoformer_s", "autoformer_b"]
    attention = {"forward": 1, "queries": 1, "keys": 1, "offsets": 0}
    # The linear kernel with a norm, and without, its channels a multiple of 8 or not.
    assert found["autoformer_b"] == {**attention, "linear": 3}
