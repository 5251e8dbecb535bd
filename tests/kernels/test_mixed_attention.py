"""Attention whose heads are mixed: fused against the published form in float64, N x N and all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from triton._C.libtriton.ir import INPUT_PRECISION
from triton.runtime import interpreter

from spacelang.backends.triton import launch
from spacelang.backends.triton.launch import NotFused, require_fused
from spacelang.backends.triton.mixed_attention import (
    Operands,
    _op,
    mixed_attention,
    reference,
    unable,
)
from spacelang.diagnostics import SpaceError

# Of the largest magnitude of what is compared, with operands that both sides hold exactly.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
MARGIN = 64  # elements on each side of an operand
LEARNT = ("q", "k", "v", "before", "before_bias", "after", "after_bias", "table", "on_keys")


@dataclass(frozen=True)
class Case:
    """Operands of one attention; `table` and `on_keys` are [H or 1, R, C, ..], or none."""

    q: Tensor
    k: Tensor
    v: Tensor
    before: Tensor
    before_bias: Tensor
    after: Tensor
    after_bias: Tensor
    table: Tensor | None
    table_index: Tensor
    on_keys: Tensor | None
    key_index: Tensor
    regions: Tensor | None

    def leaves(self) -> dict[str, Tensor]:
        return {name: x for name in LEARNT if (x := getattr(self, name)) is not None}


def case(
    shape: tuple[int, int, int, int],
    *,
    value: int | None = None,
    table: tuple[int, int] | None = (1, 1),
    on_keys: tuple[int, int] | None = (1, 1),
    windows: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """Random operands [B, H, N, D]; a term is the heads of its table and how many there are."""
    generator = torch.Generator().manual_seed(sum(shape))
    heads, n = shape[1:3]

    def random(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator).to(dtype)

    def index(term: tuple[int, int] | None, columns: int) -> Tensor:
        count = 0 if term is None else term[1]
        return torch.randint(0, columns, (count, n, n), generator=generator)

    return Case(
        random(*shape), random(*shape), random(*shape[:3], value or shape[3]),
        random(heads, heads) / heads**0.5, random(heads),
        random(heads, heads) / heads**0.5, random(heads),
        None if table is None else random(*table, 5), index(table, 5).int(),
        None if on_keys is None else random(*on_keys, 7, shape[3]), index(on_keys, 7).short(),
        torch.randint(0, 2, (windows, n), generator=generator) if windows else None,
    )  # fmt: skip


def fused(x: Case) -> Tensor:
    return mixed_attention(
        x.q, x.k, x.v, x.q.shape[3] ** -0.5, (x.before, x.before_bias), (x.after, x.after_bias),
        offsets=None if x.table is None else (x.table, x.table_index),
        on_keys=None if x.on_keys is None else (x.on_keys, x.key_index),
        regions=x.regions,
    )  # fmt: skip


def published(x: Case) -> Tensor:
    """As MiniViT's code has it: maps of all heads, mixed by products over their axis."""
    scale, heads = x.q.shape[3] ** -0.5, x.q.shape[1]
    s = scale * x.q @ x.k.transpose(2, 3)
    if x.table is not None:
        s = s + sum(x.table[:, r][:, at.long()] for r, at in enumerate(x.table_index))
    if x.on_keys is not None:
        gathered = sum(x.on_keys[:, r][:, at.long()] for r, at in enumerate(x.key_index))
        gathered = gathered.expand(heads, *gathered.shape[1:])
        s = s + scale * torch.einsum("bhid,hijd->bhij", x.q, gathered)
    m = torch.nn.functional.linear(s.permute(0, 2, 3, 1), x.before, x.before_bias)
    m = m.permute(0, 3, 1, 2)
    if x.regions is not None:
        apart = x.regions[:, None, :, None] != x.regions[:, None, None, :]
        m = m - 100.0 * apart.repeat(len(m) // len(apart), 1, 1, 1)
    p = torch.nn.functional.linear(m.softmax(3).permute(0, 2, 3, 1), x.after, x.after_bias)
    return p.permute(0, 3, 1, 2) @ x.v


def results(function: Callable[[Case], Tensor], x: Case) -> list[Tensor]:
    """Output, then the gradient of each operand, mix and table."""
    leaves = {name: part.detach().requires_grad_() for name, part in x.leaves().items()}
    out = function(replace(x, **leaves))
    weights = torch.linspace(-1, 2, out.numel()).reshape(out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), weights)]


def double(x: Case) -> Case:
    return replace(x, **{name: part.double() for name, part in x.leaves().items()})


def agree(x: Case) -> None:
    """Fused results are the published ones, which are computed in float64."""
    kind = x.q.dtype
    names = ("out", *x.leaves())
    with require_fused():
        found = results(fused, x)
    for name, mine, wanted in zip(names, found, results(published, double(x)), strict=True):
        assert mine.dtype == kind, name
        worst, largest = (mine.double() - wanted).abs().max(), wanted.abs().max()
        # The gradient of the bias before the softmax is 0, and that of all logits of one token.
        assert worst <= TOLERANCE[kind] * (largest if largest > 1e-9 else 1), name


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(lambda: case((2, 1, 1, 16), windows=2), id="1-head-1"),
        pytest.param(
            lambda: case((2, 3, 19, 12), value=20, table=(3, 2), on_keys=(1, 2), windows=2),
            id="all-terms-19-heads-3",
        ),
        pytest.param(lambda: case((1, 12, 50, 16), table=None), id="mini-deit-50-heads-12"),
        pytest.param(
            lambda: case((1, 6, 49, 16), table=(6, 1), on_keys=None, windows=1),
            id="mini-swin-49-heads-6",
        ),
        pytest.param(lambda: case((1, 32, 9, 32), table=None, on_keys=(32, 1)), id="9-heads-32"),
        pytest.param(lambda: case((1, 2, 5, 16), table=None, on_keys=(1, 10)), id="70-entries"),
        pytest.param(lambda: case((2, 2, 16, 48), table=None, on_keys=None), id="16-of-48"),
    ],
)
def test_it_is_the_published_attention(x: Callable[[], Case]) -> None:
    agree(x())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_agree(dtype: torch.dtype) -> None:
    agree(case((1, 3, 19, 32), table=(3, 1), windows=1, dtype=dtype))


def test_mixes_beside_half_types_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of logits of ten and more; a product in TF32 is of ten bits, as on a device."""
    product = interpreter.InterpreterBuilder.create_dot

    def cut(x: interpreter.TensorHandle) -> interpreter.TensorHandle:
        bits = np.ascontiguousarray(x.data, np.float32).view(np.uint32) & np.uint32(0xFFFFE000)
        return interpreter.TensorHandle(bits.view(np.float32), x.dtype)

    def dot(self: Any, a: Any, b: Any, sums: Any, precision: Any, *rest: Any) -> Any:
        if precision == INPUT_PRECISION.TF32 and a.dtype.is_fp32():
            a, b = cut(a), cut(b)
        return product(self, a, b, sums, precision, *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
    x = case((1, 3, 19, 32), table=(3, 1), windows=1, dtype=torch.float16)
    agree(replace(x, q=6 * x.q))


def test_an_index_of_64_bits_is_not_cut() -> None:
    """What is out of range there stands for no term, as in the reference."""
    x = case((1, 2, 5, 16), table=(2, 1), on_keys=(1, 1))
    far = replace(
        x, table_index=x.table_index.long() + (1 << 32), key_index=x.key_index.long() - (1 << 32)
    )
    assert torch.equal(fused(far), fused(replace(x, table=None, on_keys=None)))


def test_mixed_precision_goes_no_further_than_operands() -> None:
    """Lookups before a kernel, of tables a head, stay in float32: as its backward makes them."""
    x = case((1, 3, 5, 16), table=None, on_keys=(3, 1), dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = fused(x)
    assert torch.equal(found, fused(x))


def test_images_of_197_tokens() -> None:
    """Thirteen blocks of queries and as many of keys, the last of five tokens."""
    agree(case((1, 2, 197, 16), table=None, dtype=torch.float16))


@pytest.mark.soak
@pytest.mark.parametrize("tokens", [197, 577])
def test_gradients_of_whole_images(tokens: int) -> None:
    agree(case((1, 2, tokens, 16), table=None))


def test_a_mix_may_be_missing() -> None:
    """Then heads stay by themselves on its side."""
    x = case((1, 3, 5, 16))
    alone = replace(x, before=torch.eye(3), before_bias=torch.zeros(3), after_bias=torch.zeros(3))
    offsets, on_keys = (x.table, x.table_index), (x.on_keys, x.key_index)
    assert offsets[0] is not None
    assert on_keys[0] is not None
    found = mixed_attention(
        x.q, x.k, x.v, 0.25, None, (x.after, None), offsets=offsets, on_keys=on_keys
    )
    assert torch.allclose(found, published(alone), atol=1e-5)


def test_operands_may_lie_anywhere() -> None:
    """Heads of one projection, and images with others between them: the same bits, nothing read."""
    x = case((2, 3, 9, 12), table=(3, 1), windows=2)
    batch, heads, n, width = x.q.shape
    together = torch.full((2 * batch, n, 3, heads + 1, width + 3), torch.nan)
    q, k = (
        together[::2, :, part, :heads, :width].transpose(1, 2).copy_(plain)
        for part, plain in enumerate((x.q, x.k))
    )
    last = torch.full((width, heads, batch, n), torch.nan).permute(2, 1, 3, 0).copy_(x.v)
    before, after = (mix.t().contiguous().t() for mix in (x.before, x.after))
    assert x.table is not None
    table = torch.full((9, 5, 3), torch.nan)[2:7, 1:2].permute(2, 1, 0).copy_(x.table)
    moved = replace(x, q=q, k=k, v=last, before=before, after=after, table=table)
    with require_fused():
        for found, wanted in zip(results(fused, moved), results(fused, x), strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.filterwarnings("ignore:mixed_attention does not run fused")
def test_nothing_is_touched_beyond_its_buffers(guarded: Callable[[], int]) -> None:
    """Nor for an index that there is not, which stands for no term."""
    x = case((2, 3, 19, 12), table=(3, 1), windows=2)
    assert x.table is not None
    assert x.on_keys is not None
    for index, columns in ((x.table_index, 5), (x.key_index, 7)):
        index[0, 3, 4], index[0, 18, 18], index[0, 0, 1] = columns, -7, 10**4
    inner = {name: _inside_of_nan(part) for name, part in x.leaves().items()}
    found = results(fused, replace(x, **inner))
    assert guarded() > 10
    wider = replace(
        x,
        table=torch.cat([x.table, torch.zeros(3, 1, 1)], 2),
        table_index=torch.where((x.table_index < 0) | (x.table_index > 5), 5, x.table_index),
        on_keys=torch.cat([x.on_keys, torch.zeros(1, 1, 1, 12)], 2),
        key_index=torch.where((x.key_index < 0) | (x.key_index > 7), 7, x.key_index),
    )
    *wanted, table, on_keys = results(published, double(wider))
    wanted += table[:, :, :-1], on_keys[:, :, :-1]
    for made in (found, results(fused, double(x))):  # by the kernels, and by their reference
        for name, a, b in zip(("out", *x.leaves()), made, wanted, strict=True):
            assert (a - b).abs().max() <= 1e-5 * max(float(b.abs().max()), 1e-1), name


def _inside_of_nan(x: Tensor) -> Tensor:
    """A copy between numbers that are none."""
    memory = torch.full((x.numel() + 2 * MARGIN,), torch.nan, dtype=x.dtype)
    return memory[MARGIN : MARGIN + x.numel()].view(x.shape).copy_(x)


@pytest.mark.parametrize("shape", [(0, 2), (2, 0)])
def test_an_empty_batch_is_empty(shape: tuple[int, int]) -> None:
    x = case((*shape, 5, 16), table=(1, 1))
    with require_fused():
        found = results(fused, x)
    assert [part.shape for part in found[1:]] == [part.shape for part in x.leaves().values()]
    assert not any(part.any() for part in found)


def operands(x: Case) -> Operands:
    """Of the operator, with offsets alone."""
    n = x.q.shape[2]
    assert x.table is not None
    regions = torch.empty(0, n, dtype=torch.int32) if x.regions is None else x.regions
    return Operands(
        x.q, x.k, x.v, 0.25, x.before, x.before_bias, x.after, x.after_bias, x.table,
        x.table_index, x.q.new_empty(1, 0, 0, x.q.shape[3]), torch.empty(0, n, n).int(), regions,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"k": torch.zeros(2, 2, 9, 16)}, r"queries and keys \[B, H, N, D\]"),
        ({name: torch.zeros(1, 33, 8, 16) for name in "qkv"}, "33 heads are more than the 32"),
        ({"v": torch.zeros(2, 2, 8, 129)}, "not 1 to 128 wide"),
        ({"after": torch.zeros(2, 3)}, r"mixes of heads \[H, H\]"),
        ({"before_bias": torch.zeros(3)}, r"biases of mixes \[H\]"),
        ({"after": torch.zeros(2, 2, dtype=torch.float64)}, "no kernel takes float64"),
        ({"table": torch.zeros(3, 1, 4)}, r"offsets \[H or 1, R, C\]"),
        ({"table_index": torch.zeros(1, 8, 8)}, "no kernel takes an index"),
        ({"key_table": torch.zeros(1, 0, 7, 8)}, r"queries \[H or 1, R, C, D\]"),
        ({"row_index": torch.zeros(1, 8, 8).int()}, r"an index \[R, N, N\]"),
        ({"regions": torch.zeros(3, 8).int()}, "W dividing the batch"),
        ({"v": torch.zeros(2, 2, 8, 16, dtype=torch.float16)}, "different types"),
        ({"regions": torch.zeros(2, 8, device="meta").int()}, "different devices"),
        ({"q": torch.empty_strided((2, 2, 8, 16), (0, 2**30, 16, 1), device="meta")}, "too far"),
    ],
)  # fmt: skip
def test_what_the_kernels_cannot_take_is_said(change: dict[str, Tensor], reason: str) -> None:
    x = operands(case((2, 2, 8, 16), table=(2, 1)))
    assert unable(x) == ""
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(unable(replace(x, **change)))


def test_what_the_kernels_cannot_take_goes_to_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "_told", set[tuple[str, str]]())  # each reason is told once
    x = double(case((2, 3, 7, 12), windows=2))
    with pytest.warns(NotFused, match="no kernel takes float64"):
        found = results(fused, x)
    for a, b in zip(found, results(published, x), strict=True):
        assert (a - b).abs().max() <= 1e-12 * max(float(b.abs().max()), 0.1)
    with require_fused(), pytest.raises(SpaceError, match="no kernel takes float64"):
        fused(x)


def arguments(x: Operands) -> Sequence[object]:
    return [getattr(x, field.name) for field in fields(x)]


def test_the_operator_keeps_its_promises() -> None:
    x = operands(case((2, 2, 5, 16), table=(2, 1), windows=2))
    free = {name: getattr(x, name).requires_grad_() for name in ("q", "before", "after", "table")}
    x = replace(x, **free)
    torch.library.opcheck(_op, tuple(arguments(x)))
    for found, wanted in zip(_op(*arguments(x)), reference(x), strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)


def test_it_passes_through_export() -> None:
    x = case((1, 3, 5, 16), windows=1)

    class Net(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return fused(replace(x, q=q, k=k, v=v)).sum(3)

    inputs = (x.q, x.k, x.v)
    exported = torch.export.export(Net(), inputs)
    assert any("spacelang.mixed_attention" in str(n.target) for n in exported.graph.nodes)
    assert torch.equal(exported.module()(*inputs), Net()(*inputs))
