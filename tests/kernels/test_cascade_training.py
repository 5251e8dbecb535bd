"""The cascade in training: norms of the batch, fused against head by head, and every gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kernels.agreement import agree
from torch import Tensor, nn
from torch.nn import functional

from spacelang.backends.triton import cascade_training, normed
from spacelang.backends.triton.cascade_training import Operands, _op, reference, unable
from spacelang.backends.triton.launch import NotFused, require_fused
from spacelang.diagnostics import SpaceError

# Of the largest magnitude, with operands that both sides hold exactly; half types round z, c and u,
# the interpreter cuts bfloat16 off, and each head passes that on to the next.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 6e-2, torch.float16: 5e-3}


class Heads(nn.Module):
    """Heads as EfficientViT has them, in any type; what comes before its projection."""

    def __init__(
        self, window: tuple[int, int], kernels: tuple[int, ...], d: int, value: int
    ) -> None:
        super().__init__()
        torch.manual_seed(sum(window) + sum(kernels) + d + value)
        wide = 2 * d + value
        self.qkvs = nn.ModuleList(nn.Conv2d(value, wide, 1, bias=False) for _ in kernels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(wide) for _ in kernels)
        self.dws = nn.ModuleList(
            nn.Conv2d(d, d, k, padding=k // 2, groups=d, bias=False) for k in kernels
        )
        self.others = nn.ModuleList(nn.BatchNorm2d(d) for _ in kernels)
        self.offsets = nn.Parameter(torch.randn(len(kernels), window[0] * window[1]))
        for norm in (*self.norms, *self.others):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The published form: offsets looked up, a softmax a head, the heads' results rectified."""
        y, i = torch.arange(x.shape[2]), torch.arange(x.shape[3])
        down = (y[:, None] - y).abs().repeat_interleave(len(i), 0).repeat_interleave(len(i), 1)
        index = down * len(i) + (i[:, None] - i).abs().repeat(len(y), len(y))
        feature, found = torch.zeros((), dtype=x.dtype), list[Tensor]()
        parts = x.chunk(len(self.qkvs), 1)
        layers = zip(self.qkvs, self.norms, self.dws, self.others, self.offsets, parts, strict=True)
        for qkv, norm, conv, other, offsets, part in layers:
            z = norm(qkv(feature + part))
            d = conv.weight.shape[0]
            q, k, v = z.split([d, d, z.shape[1] - 2 * d], 1)
            q = other(conv(q)).flatten(2)
            shares = (q.transpose(1, 2) @ k.flatten(2) * d**-0.5 + offsets[index]).softmax(2)
            feature = (v.flatten(2) @ shares.transpose(1, 2)).view(len(x), -1, *x.shape[2:])
            found.append(feature.relu())
        return torch.cat(found, 1)

    def fused(self, x: Tensor) -> Tensor:
        def norm(layer: nn.Module) -> tuple[object, ...]:
            kept = (layer.running_mean, layer.running_var, layer.num_batches_tracked)
            return (*kept, layer.weight, layer.bias, layer.momentum, layer.eps)

        layers = zip(self.qkvs, self.norms, self.dws, self.others, strict=True)
        heads = [(a.weight, norm(b), c.weight, norm(d)) for a, b, c, d in layers]
        with require_fused():
            return normed.cascade(x, heads, self.offsets, self.training)

    def results(self, call: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
        """The output, the gradients of x and of every weight, and the running statistics."""
        x = x.detach().requires_grad_()
        out = call(x)
        slope = torch.linspace(-1, 1.5, out.numel()).reshape(out.shape).to(out.dtype)
        learnt = list(self.parameters())
        found = torch.autograd.grad(out, [x, *learnt], slope)
        return [out.detach(), *found, *(b for b in self.buffers() if b.is_floating_point())]


@pytest.mark.parametrize(
    ("batch", "window", "kernels", "d", "value", "dtype"),
    [
        (2, (7, 7), (5, 3), 16, 16, torch.float32),
        (3, (3, 5), (3, 7, 5), 5, 7, torch.float32),
        (3, (2, 3), (7,), 3, 33, torch.float32),
        (4, (1, 1), (3, 3), 1, 2, torch.float32),
        (3, (3, 4), (3, 5), 8, 18, torch.float16),
        (3, (3, 4), (3, 5), 8, 18, torch.bfloat16),
    ],
)
def test_it_is_the_cascade_in_training(
    batch: int,
    window: tuple[int, int],
    kernels: tuple[int, ...],
    d: int,
    value: int,
    dtype: torch.dtype,
) -> None:
    heads = Heads(window, kernels, d, value).to(dtype)
    for part in heads.buffers():
        part.data = part.float() if part.is_floating_point() else part
    double = Heads(window, kernels, d, value).double()
    double.load_state_dict(heads.state_dict())
    x = torch.randn(batch, len(kernels) * value, *window).to(dtype)
    found = heads.results(heads.fused, x)
    agree(found, double.results(double, x.double()), TOLERANCE[dtype], exact=True)
    for name, part in heads.named_buffers():
        if "num_batches" in name:
            assert part == 1


def test_mixed_precision() -> None:
    """Weights in float32 and windows in float16, as automatic mixed precision gives them."""
    heads = Heads((2, 3), (3, 3), 4, 6)
    double = Heads((2, 3), (3, 3), 4, 6).double()
    for layer in (*double.qkvs, *double.dws):  # as they are when they are cast
        layer.weight.data = layer.weight.data.half().double()
    x = torch.randn(3, 12, 2, 3).half()
    found = heads.results(heads.fused, x)
    assert {part.dtype for part in found[2:]} == {torch.float32}
    agree(found, double.results(double, x.double()), TOLERANCE[torch.float16], exact=True)


def operands(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """x, offsets, and the parts of two heads."""
    generator = torch.Generator().manual_seed(0)
    heads = (((10, 4), (10,), (10,), (3, k, k), (3,), (3,)) for k in (3, 5))
    shapes = ((3, 8, 3, 4), (2, 12), *(shape for head in heads for shape in head))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


EPS = 1e-5


def gradients(parts: list[Tensor], plain: bool = False) -> list[Tensor]:
    free = [part.detach().requires_grad_() for part in parts]
    whole = Operands(free[0], free[1], free[2:], EPS)
    x, offsets, heads = whole.x, whole.offsets, whole.heads
    found = reference(whole) if plain else cascade_training.cascade_training(x, offsets, heads, EPS)
    slope = torch.linspace(-1, 1.5, found[0].numel()).reshape(found[0].shape).to(found[0].dtype)
    return [*(part.detach() for part in found), *torch.autograd.grad(found[0], free, slope)]


def test_windows_may_lie_in_any_way(guarded: Callable[[], int]) -> None:
    """Channels last; not a number around each operand; guards around all that is made."""
    parts = operands()
    wanted = gradients(parts, plain=True)
    for place, part in enumerate(parts):
        margin = 4 if part.ndim == 3 else 10  # of windows that are read where they lie
        around = torch.full([size + 2 * margin for size in part.shape], torch.nan)
        view = around[tuple(slice(margin, margin + size) for size in part.shape)]
        parts[place] = view.copy_(part)
    found = gradients(parts)
    agree(found, wanted, 1e-5)
    parts[0] = parts[0].contiguous(memory_format=torch.channels_last)
    for part, again in zip(found, gradients(parts), strict=True):
        assert torch.equal(part, again)  # the same at every run, too
    assert guarded() >= 16


def test_five_launches_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []
    plain = cascade_training._Launcher.__call__
    monkeypatch.setattr(
        cascade_training._Launcher,
        "__call__",
        lambda self, name, programs, **own: (
            launched.append(name),
            plain(self, name, programs, **own),
        ),
    )
    x, offsets, *parts = operands()
    found = _op(x, offsets, parts, EPS)
    assert launched == 2 * ["project", "moments", "convolve", "moments", "attend"]
    assert len(found) == 6


def test_one_value_a_channel_has_no_variance() -> None:
    """As PyTorch's norm says it; and an empty batch moves nothing."""
    heads = Heads((1, 1), (3,), 2, 4)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        heads.fused(torch.randn(1, 4, 1, 1))
    found = heads.results(heads.fused, torch.randn(0, 4, 1, 1))
    assert not any(part.any() for part in found[:7])
    assert heads.norms[0].running_var.eq(1).all()


def test_what_the_kernels_cannot_take_goes_to_the_reference() -> None:
    parts = operands(torch.float64)
    with pytest.warns(NotFused, match="float64"):
        found = gradients(parts)
    agree(found, gradients(parts, plain=True), 1e-6)
    for change, why in (
        ({0: torch.zeros(3, 8, 9, 9), 1: torch.zeros(2, 81)}, "1 to 64 tokens"),
        ({2: torch.zeros(9, 4)}, "as wide as its group"),
        ({1: torch.zeros(3, 12)}, "not of its heads"),
        ({3: torch.zeros(9)}, "not of its projection"),
        ({6: torch.zeros(2)}, "not of its convolution"),
        ({5: torch.zeros(3, 4, 4)}, "K odd"),
        ({5: torch.zeros(3, 9, 9)}, "larger than 7"),
        ({0: torch.empty_strided((3, 8, 3, 4), (1, 2**29, 4, 1), device="meta")}, "too far apart"),
    ):
        x, offsets, *given = (change.get(at, part) for at, part in enumerate(operands()))
        assert why in unable(Operands(x, offsets, given, EPS))
        if x.device.type == "cpu":
            with require_fused(), pytest.raises(SpaceError, match=why):
                _op(x, offsets, given, EPS)


def test_the_operators_keep_their_promises() -> None:
    x, offsets, *parts = (part.requires_grad_() for part in operands())
    utilities = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(_op, (x, offsets, parts, EPS), test_utils=utilities)


def test_the_reference_is_published_code() -> None:
    """By PyTorch's own norm and its moments."""
    x, offsets, *parts = operands()
    z = functional.conv2d(x[:, :4], parts[0][:, :, None, None])
    _, moments, _ = reference(Operands(x, offsets, parts, EPS))
    variance, mean = torch.var_mean(z, (0, 2, 3), correction=0)
    agree(list(moments[0]), [mean, variance], 1e-6)
