"""The fused backend: attention and MLPs as one function each, against the same node by node."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from composition import HOSTS, host
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spacelang import compile as build
from spacelang import load
from spacelang.backends.torch.lowering import tables
from spacelang.backends.torch.lowering.fused import heads as by_head
from spacelang.backends.torch.lowering.fused.attention import Term, attention
from spacelang.backends.torch.lowering.fused.mlp import mlp
from spacelang.backends.torch.lowering.fused.products import linear
from spacelang.backends.torch.lowering.kernels import with_fused
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import SpaceError
from spacelang.ir.graph import Graph

DOUBLE = 1e-11  # of the largest value: what sums in another order differ by
SINGLE = 2e-6
GRID = {"h": 6, "w": 6, "reach": 3, "skip": 1}


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def near(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    return bool((found - wanted).abs().max() <= tolerance * wanted.abs().max())


def both(graph: Graph) -> tuple[Supernet, Supernet]:
    """A supernet in float64 and the same fused, with weights that tell everything apart."""
    plain, fused = (build(graph, name).double() for name in ("torch", "fused"))
    for number, tensor in enumerate((*plain.parameters(), *plain.buffers())):
        if tensor.is_floating_point():
            moved = 0.1 * noise(*tensor.shape, seed=number)
            tensor.data.add_(moved if tensor.dim() else moved.abs())
    for name, tensor in plain.named_buffers():
        if name.endswith("running_var"):
            tensor.abs_().add_(0.5)
    fused.load_state_dict(plain.state_dict())
    return plain.eval(), fused.eval()


def learnt(model: Supernet, x: Tensor) -> dict[str, Tensor]:
    """The output and the gradient of every parameter that the active network reads."""
    model.zero_grad(set_to_none=True)
    y = model(x)
    y = y if isinstance(y, Tensor) else next(iter(y.values()))
    (y * noise(*y.shape, seed=5)).sum().backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"output": y.detach(), **found}


def inputs(graph: Graph) -> Tensor:
    shape = graph.root.inputs[0].types[0].shape
    return noise(2, *(int(size.at({})) for size in shape[1:]), seed=9)


@pytest.mark.parametrize("name", [*HOSTS, "autoformer at 96"])
def test_random_architectures(name: str) -> None:
    """Outputs and gradients are those of the network as it is written."""
    graph = load("autoformer.space:autoformer_t", image=96) if " at " in name else host(name)
    plain, fused = both(graph)
    x = inputs(graph)
    for assignment in graph.sample(2, seed=4):
        wanted, found = (learnt(m.activate(assignment), x) for m in (plain, fused))
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert near(found[key], value, 1e-9), key  # small gradients of deep networks


def called(model: Supernet) -> set[str]:
    """The names of functions that the active network calls, in blocks that are called too."""
    waiting = [run.step.function.module for run in model._plan.runs]
    found: set[str] = set()
    while waiting:
        module = waiting.pop()
        waiting += module.children()
        nodes = [n for n in module.graph.nodes if n.op == "call_function"]
        found |= {getattr(n.target, "__name__", "") for n in nodes}
    return found


def test_what_is_fused() -> None:
    assert {"attention", "mlp", "linear"} <= called(
        build(load("autoformer.space:autoformer_t"), "fused")
    )
    assert {"attention", "mlp"} <= called(build(load("deit.space:deit_ti"), "fused"))
    swin = called(build(load("swin.space:swin_t"), "fused"))
    assert "mlp" in swin
    assert "attention" not in swin, "offsets have gradients that PyTorch's attention has not"
    assert "attention" in called(build(load("irpe.space:deit_s_cross_k"), "fused"))
    product = called(build(load("irpe.space:deit_ti_product_k"), "fused"))
    assert "attention" not in product, "no two columns of a product's index are equal"


def test_less_is_kept() -> None:
    """What an encoder keeps for the backward pass, beside weights: a third at most."""
    graph = load("autoformer.space:autoformer_t")
    x = inputs(graph).float()

    def kept(model: Supernet) -> int:
        own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
        found: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in own:
                found[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = model(x)
        size = sum(tensor.untyped_storage().nbytes() for tensor in found.values())
        del output
        return size

    plain, fused = kept(build(graph, "torch")), kept(build(graph, "fused"))
    assert fused * 3 < plain


class Living(TorchDispatchMode):
    """Counts the bytes of tensors that operations made and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, list | tuple) else (made,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.sizes:
                    self.sizes[key] = storage.nbytes()
                    weakref.finalize(storage, self.sizes.pop, key, None)
        return made


def test_recomputed_blocks_leave_nothing() -> None:
    """Nothing that a backward pass works out again is there after it, whatever the collector does."""
    graph = load("autoformer.space:autoformer_t", image=96)
    model = build(graph, "fused").train()
    model.checkpointing = True
    x = inputs(graph).float()
    left: list[int] = []
    gc.disable()
    try:
        with Living() as living:
            for _ in range(3):
                model.zero_grad(set_to_none=True)
                output = model(x)
                assert isinstance(output, Tensor)
                output.sum().backward()
                del output
                left.append(sum(living.sizes.values()))
    finally:
        gc.enable()
    assert left[1] == left[2]


def pairs(heads: int, width: int, seed: int) -> Term:
    """Tables of rows and of columns of a grid of 6 x 6, and a token without a place."""
    options: dict[str, float | str] = {}
    for axis in (0, 1):
        options |= {f"t{axis}_{name}": value for name, value in (GRID | {"axis": axis}).items()}
        options |= {f"t{axis}_op": "clipped_index", f"t{axis}_turned": "False"}
    columns, classes = (f(8, **options) for f in (tables.index_columns, tables.index_classes))
    assert classes.shape == (37, 14)
    return noise(heads, 2, 8, width, seed=seed), columns, classes


def written_out(
    q: Tensor, k: Tensor, v: Tensor, scale: float, on_keys: Term | None, on_values: Term | None
) -> Tensor:
    """The same by tables of N x N x D."""
    indices = [tables.clipped_index(**GRID, axis=axis) for axis in (0, 1)]

    def rows(term: Term) -> Tensor:
        return sum((term[0][:, r][:, index] for r, index in enumerate(indices)), torch.zeros(()))

    s = q @ k.transpose(2, 3)
    if on_keys is not None:
        s = s + torch.einsum("bhid,hijd->bhij", q, rows(on_keys).expand(q.shape[1], -1, -1, -1))
    p = (scale * s).softmax(-1)
    y = p @ v
    if on_values is None:
        return y
    return y + torch.einsum("bhij,hijd->bhid", p, rows(on_values).expand(q.shape[1], -1, -1, -1))


@pytest.fixture(params=["by rows", "by head"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's attention on wider operands, and ours head by head, whatever is faster."""
    monkeypatch.setattr(by_head, "LEAST", 0)
    monkeypatch.setattr(by_head, "MOST", 1000 * (request.param == "by head"))
    monkeypatch.setattr(by_head, "THREADS", (1000, 1000))


Operands = tuple[list[Tensor], Term | None, Term | None]


def operands(batch: int, heads: int, which: str) -> Operands:
    """Queries, keys and values, then tables, all of which want gradients; and the terms."""
    q, k, v = (noise(batch, 3, 37, width, seed=i) for i, width in enumerate((5, 5, 8)))
    on_keys = pairs(heads, 5, 3) if which != "values" else None
    on_values = pairs(heads, 8, 4) if which != "keys" else None
    leaves = [q, k, v, *(term[0] for term in (on_keys, on_values) if term is not None)]
    for leaf in leaves:
        leaf.requires_grad_()
    return leaves, on_keys, on_values


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("which", ["both", "keys", "values"])
def test_attention(heads: int, which: str) -> None:
    """Tables of all heads or one each, queries and values of different widths."""
    leaves, on_keys, on_values = operands(2, heads, which)
    q, k, v = leaves[:3]
    found = attention(q, k, v, 0.3, on_keys=on_keys, on_values=on_values)
    wanted = written_out(q, k, v, 0.3, on_keys, on_values)
    assert near(found, wanted, DOUBLE)
    slopes = noise(*found.shape, seed=7)
    for a, b in zip(
        torch.autograd.grad(found, leaves, slopes), torch.autograd.grad(wanted, leaves, slopes),
        strict=True,
    ):  # fmt: skip
        assert near(a, b, DOUBLE)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, SINGLE), (torch.bfloat16, 2e-2)])
def test_attention_of_whole_heads(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many tokens as networks have, by products of the processor: what float64 gives by rows."""
    grid = {f"t0_{n}": x for n, x in {"h": 14, "w": 14, "axis": 0, "reach": 14, "skip": 1}.items()}
    index = {**grid, "t0_op": "clipped_index", "t0_turned": "False"}
    columns, classes = (f(30, **index) for f in (tables.index_columns, tables.index_classes))
    stored = [noise(2, 197, 3, 2, 64, seed=1), noise(1, 1, 30, 64, seed=2)]
    slopes = noise(2, 2, 197, 64, seed=3)

    def results(dtype: torch.dtype) -> list[Tensor]:
        qkv, table = leaves = [x.to(dtype).requires_grad_() for x in stored]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        term = (table, columns, classes)
        found = attention(q, k, v, 0.1, on_keys=term, on_values=term)
        return [found, *torch.autograd.grad(found, leaves, slopes.to(dtype))]

    monkeypatch.setattr(by_head, "THREADS", (1000, 1000))
    assert by_head.fits(slopes.to(dtype))
    found = results(dtype)
    monkeypatch.setattr(by_head, "MOST", 0)
    wanted = results(torch.float64)
    for a, b in zip(found, wanted, strict=True):
        assert near(a.double(), b, tolerance)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("which", ["both", "keys", "values"])
def test_attention_of_an_empty_batch(heads: int, which: str) -> None:
    """No images: no results, and gradients that are 0."""
    leaves, on_keys, on_values = operands(0, heads, which)
    found = attention(*leaves[:3], 0.3, on_keys=on_keys, on_values=on_values)
    assert found.shape == (0, 3, 37, 8)
    for leaf, slope in zip(leaves, torch.autograd.grad(found.sum(), leaves), strict=True):
        assert slope.shape == leaf.shape
        assert not slope.any()


def test_a_network_of_an_empty_batch() -> None:
    graph = load("autoformer.space:autoformer_t", image=32)
    model = build(graph, "fused").train()
    found = model(inputs(graph).float()[:0])
    assert isinstance(found, Tensor)
    found.sum().backward()
    assert found.shape == (0, 1000)
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def twice(y: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Derivatives of a sum of squares of the gradients: of all of them, in all of them."""
    slopes = torch.autograd.grad((y * y).sum(), leaves, create_graph=True)
    return list(torch.autograd.grad(torch.stack([(s * s).sum() for s in slopes]).sum(), leaves))


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("which", ["both", "keys", "values"])
def test_second_derivatives_of_attention(heads: int, which: str) -> None:
    """Also where keys are computed from the queries."""
    leaves, on_keys, on_values = operands(2, heads, which)
    q, k, v = leaves[:3]
    found = attention(q, k * q, v, 0.3, on_keys=on_keys, on_values=on_values)
    wanted = written_out(q, k * q, v, 0.3, on_keys, on_values)
    for a, b in zip(twice(found, leaves), twice(wanted, leaves), strict=True):
        assert near(a, b, DOUBLE)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_second_derivatives_of_products(biased: bool, activation: str) -> None:
    """Large ones in float32, which oneDNN computes: what PyTorch derives in float64."""
    stored = [noise(2, 150, 72), noise(210, 72, seed=1), noise(66, 210, seed=2)]
    stored += [noise(80, 66, seed=3), noise(2, 72, seed=4)]
    stored += [noise(n, seed=n) for n in (210, 66)] if biased else []

    def results(dtype: torch.dtype, fused: bool) -> list[Tensor]:
        leaves = [(0.3 * t).to(dtype).requires_grad_() for t in stored]
        x, w1, w2, w3, (scale, shift), *biases = leaves
        b1, b2 = biases or (None, None)
        if fused:
            y = mlp(x, (scale, shift, 1e-5), w1, b1, w2, b2, activation=activation)
            return twice(linear(y, w3, None), leaves)
        rows = F.linear(F.layer_norm(x, (72,), weight=scale, bias=shift), w1, b1)
        y = F.linear(getattr(F, activation)(rows), w2, b2)
        return twice(F.linear(y, w3), leaves)

    found, wanted = results(torch.float32, True), results(torch.float64, False)
    for a, b in zip(found, wanted, strict=True):
        assert near(a.double(), b, SINGLE)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_products_by_onednn(biased: bool, activation: str) -> None:
    """Large products in float32, of slices: what PyTorch computes in float64."""
    x = noise(2, 150, 72, dtype=torch.float32)
    stored = [noise(220, 90, seed=1), noise(80, 230, seed=2), noise(220, seed=3), noise(80, seed=4)]
    norm = noise(2, 72, seed=5)

    def results(dtype: torch.dtype, fused: bool) -> list[Tensor]:
        w1, w2, b1, b2 = leaves = [nn.Parameter((0.1 * t).to(dtype)) for t in stored]
        y, scale = (t.detach().to(dtype, copy=True).requires_grad_() for t in (x, norm))
        first, second = b1[:210] if biased else None, b2[:66] if biased else None
        if fused:
            found = mlp(
                y, (scale[0], scale[1], 1e-5), w1[:210, :72], first, w2[:66, :210], second,
                activation=activation,
            )  # fmt: skip
            found = linear(found, w1[:200, :66], first if first is None else first[:200])
        else:
            rows = F.linear(F.layer_norm(y, (72,), *scale), w1[:210, :72], first)
            found = F.linear(getattr(F, activation)(rows), w2[:66, :210], second)
            found = F.linear(found, w1[:200, :66], first if first is None else first[:200])
        (found * noise(*found.shape, seed=8).to(dtype)).sum().backward()
        asked = [y, scale, *(leaves if biased else leaves[:2])]
        return [found.detach(), *(t.grad for t in asked if t.grad is not None)]

    found, wanted = results(torch.float32, True), results(torch.float64, False)
    assert len(found) == len(wanted) == (7 if biased else 5)
    for a, b in zip(found, wanted, strict=True):
        assert near(a.double(), b, SINGLE)


class Products(TorchDispatchMode):
    """Counts products of matrices."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("learnt", "products"),
    [("x scale shift w1 b1 w2 b2", 5), ("x", 3), ("scale", 3), ("w1 b1", 3), ("b1", 2), ("w2 b2", 2), ("b2", 1)],
)  # fmt: skip
def test_nothing_is_computed_for_what_is_frozen(learnt: str, products: int) -> None:
    """Of the backward pass of an MLP, the first of them that of its hidden channels."""
    shapes = {"x": (2, 5, 4), "scale": (4,), "shift": (4,), "w1": (7, 4), "b1": (7,), "w2": (3, 7), "b2": (3,)}  # fmt: skip
    drawn = {name: noise(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    parts = {name: t.requires_grad_(name in learnt.split()) for name, t in drawn.items()}
    x, scale, shift, *layers = parts.values()
    free = [parts[name] for name in learnt.split()]
    found = mlp(x, (scale, shift, 1e-5), *layers, activation="gelu")
    with Products() as counted:
        slopes = torch.autograd.grad(found.square().sum(), free)
    assert counted.count == products
    w1, b1, w2, b2 = layers
    plain = F.linear(F.gelu(F.linear(F.layer_norm(x, (4,), scale, shift), w1, b1)), w2, b2)
    wanted = torch.autograd.grad(plain.square().sum(), free)
    assert all(near(a, b, DOUBLE) for a, b in zip(slopes, wanted, strict=True))


def test_extracted_networks_are_plain() -> None:
    """A subnet of a fused supernet needs nothing of it, and computes the same."""
    graph = load("autoformer.space:autoformer_t", image=96)
    _, model = both(graph)
    (assignment,) = graph.sample(1, seed=3)
    x = inputs(graph)
    subnet = model.extract(assignment)
    assert near(subnet(x), model.activate(assignment)(x), DOUBLE)
    targets = {getattr(n.target, "__module__", "") for n in subnet.graph.nodes}
    assert not any("fused" in str(target) for target in targets)


def test_cannot_be_required() -> None:
    with pytest.raises(SpaceError, match="cannot be required"), with_fused(required=True):
        pass
