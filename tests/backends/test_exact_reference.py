"""Systems that no installed package holds, against their descriptions written out in plain PyTorch.

Each function below follows a specification line by line on a state dict of published names. Weights
are random, so that nothing hides: norms, biases, tables, statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

import published
import pytest
import torch
import torch.nn.functional as F
from published import CHOICES, SINGLE, STAGES, Genotype
from published_networks import CELLS, CREAM, HEADS, genotype
from torch import Tensor, nn

from spacelang.backends.torch import weights
from spacelang.backends.torch.supernet import Supernet
from spacelang.ir.graph import Graph
from spacelang.loader import load

Weights = Mapping[str, Tensor]


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def layer_norm(x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def batch_norm(x: Tensor, w: Weights, name: str) -> Tensor:
    mean, variance, scale, shift = (
        w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(x, mean, variance, scale, shift, eps=1e-5)


def conv(
    x: Tensor, w: Weights, name: str, stride: int = 1, pad: int = 0, dilation: int = 1
) -> Tensor:
    """With as many groups as the weight says."""
    weight = w[f"{name}.weight"]
    groups = x.shape[1] // weight.shape[1]
    bias = w.get(f"{name}.bias")
    return F.conv2d(x, weight, bias, stride, pad, dilation, groups)


# Mini-DeiT: section 2.1.


def bucket_ids(side: int) -> Tensor:
    near = {0: 0, 1: 1, 2: 2, 3: 2}

    def g(d: int) -> int:
        return (1 if d > 0 else -1) * near.get(abs(d), 3)

    cells = [(y, x) for y in range(side) for x in range(side)]
    return torch.tensor([[(g(y - v) + 3) * 7 + g(x - u) + 3 for v, u in cells] for y, x in cells])


def mini_deit(w: Weights, image: Tensor, heads: int, repeats: int = 2) -> Tensor:
    x = conv(image, w, "patch_embed.proj", stride=16).flatten(2).transpose(1, 2) + w["pos_embed"]
    b, n, c = x.shape
    ids = bucket_ids(int(n**0.5)).expand(b, heads, n, n)
    for layer in range(12):
        g, r = f"blocks.{layer // repeats}.block", layer % repeats
        u = layer_norm(x, w, f"{g}.norm1.instances.{r}", 1e-6)
        q, k, v = linear(u, w, f"{g}.attn.qkv").reshape(b, n, 3, heads, 64).permute(2, 0, 3, 1, 4)
        q = q * 64**-0.5
        a = q @ k.transpose(-1, -2)
        a = a + (q @ w[f"{g}.attn.rpe_k.instances.{r}.lookup_table_weight"]).gather(-1, ids)
        a = conv(a, w, f"{g}.attn.conv_l.instances.{r}").softmax(-1)
        a = conv(a, w, f"{g}.attn.conv_w.instances.{r}")
        x = x + linear((a @ v).transpose(1, 2).reshape(b, n, c), w, f"{g}.attn.proj")
        u = layer_norm(x, w, f"{g}.norm2.instances.{r}", 1e-6)
        x = x + linear(F.gelu(linear(u, w, f"{g}.mlp.fc1")), w, f"{g}.mlp.fc2")
    return linear(layer_norm(x, w, "norm", 1e-6).mean(1), w, "head")


def mini_deit_ti(seed: int) -> dict[str, Tensor]:
    """Mini-DeiT-Ti as its code draws it: modules in their order, all linear layers once more, then
    the head mixing of each group, those before the softmax first."""
    width, heads, groups = 192, 3, range(6)
    torch.manual_seed(seed)
    patch = nn.Conv2d(3, width, 16)
    shapes = ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width))
    layers: list[list[nn.Linear]] = []
    for _ in groups:
        layers.append([nn.Linear(*shape) for shape in shapes])
        for _ in range(4):  # its head mixing, drawn again below
            nn.Conv2d(heads, heads, 1, bias=False)
    head = nn.Linear(width, 1000)

    def drawn(*shape: int) -> Tensor:
        """By the inverse error function, cut at two units."""
        uniform = torch.empty(shape).uniform_(-1, 1)
        return uniform.erfinv_().mul_(0.02 * 2**0.5).clamp_(-2, 2)

    found = {"pos_embed": drawn(1, 196, width)}
    labels = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    for g in groups:
        for label, layer in zip(labels, layers[g], strict=True):
            name = f"blocks.{g}.block.{label}"
            found[f"{name}.weight"] = drawn(*layer.weight.shape)
            found[f"{name}.bias"] = torch.zeros_like(layer.bias)
    found["head.weight"], found["head.bias"] = drawn(*head.weight.shape), torch.zeros(1000)
    for g in groups:
        for label in ("conv_l", "conv_w"):
            for r in range(2):
                name = f"blocks.{g}.block.attn.{label}.instances.{r}.weight"
                found[name] = drawn(heads, heads, 1, 1)
    found["patch_embed.proj.weight"] = patch.weight.detach()
    assert patch.bias is not None
    found["patch_embed.proj.bias"] = patch.bias.detach()
    for name, shape in published.mini_deit(width, heads).items():
        scale = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        found.setdefault(name, torch.full(shape, scale))
    return found


# Mini-Swin: section 2.2, with the mask of a shared block also where the layer does not shift.


def mini_swin(
    w: Weights, image: Tensor, heads: Sequence[int], window: int, every: Sequence[int]
) -> Tensor:
    x = conv(image, w, "patch_embed.proj", stride=4).permute(0, 2, 3, 1)
    x = layer_norm(x, w, "patch_embed.norm", 1e-5)
    for s in range(4):
        for i in count():
            name = f"layers.{s}.blocks.{i}"
            if f"{name}.attn.qkv.weight" not in w:
                break
            for t in range(every[s]):
                shifted = (i * every[s] + t) % 2 == 1
                x = _mini_swin_layer(x, w, name, t, heads[s], window, shifted)
        if s < 3:
            corners = [x[:, r::2, c::2] for r, c in ((0, 0), (1, 0), (0, 1), (1, 1))]
            x = layer_norm(torch.cat(corners, -1), w, f"layers.{s}.downsample.norm", 1e-5)
            x = linear(x, w, f"layers.{s}.downsample.reduction")
    return linear(layer_norm(x, w, "norm", 1e-5).mean((1, 2)), w, "head")


def _mini_swin_layer(
    x: Tensor, w: Weights, name: str, t: int, heads: int, window: int, shifted: bool
) -> Tensor:
    b, side, _, c = x.shape
    m = min(window, side)
    shift = m // 2 if shifted and side > window else 0
    u = layer_norm(x, w, f"{name}.norm1_list.{t}", 1e-5).roll((-shift, -shift), (1, 2))
    u = u.reshape(b, side // m, m, side // m, m, c).transpose(2, 3).reshape(-1, m * m, c)
    parts = linear(u, w, f"{name}.attn.qkv").reshape(len(u), m * m, 3, heads, c // heads)
    q, k, v = parts.permute(2, 0, 3, 1, 4)
    a = (q * (c // heads) ** -0.5) @ k.transpose(-1, -2)
    table = w[f"{name}.attn.relative_position_bias_table"]
    a = a + table[w[f"{name}.attn.relative_position_index"].long()].permute(2, 0, 1)
    a = linear(a.movedim(1, -1), w, f"{name}.proj_l.{t}").movedim(-1, 1)
    if f"{name}.attn_mask" in w:
        mask = w[f"{name}.attn_mask"]
        a = (a.reshape(b, len(mask), heads, m * m, m * m) + mask[:, None]).reshape(a.shape)
    a = linear(a.softmax(-1).movedim(1, -1), w, f"{name}.proj_w.{t}").movedim(-1, 1)
    o = linear((a @ v).transpose(1, 2).reshape(len(u), m * m, c), w, f"{name}.attn.proj")
    o = o.reshape(b, side // m, side // m, m, m, c).transpose(2, 3).reshape(b, side, side, c)
    x = x + o.roll((shift, shift), (1, 2))
    x = layer_norm(x, w, f"{name}.local_norm_list.{t}", 1e-5).movedim(-1, 1)
    x = (x + conv(x, w, f"{name}.local_conv_list.{t}", pad=3)).movedim(1, -1)
    u = layer_norm(x, w, f"{name}.norm2_list.{t}", 1e-5)
    return x + linear(F.gelu(linear(u, w, f"{name}.mlp.fc1")), w, f"{name}.mlp.fc2")


# Cream: section 2.


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def squeeze_excite(x: Tensor, w: Weights, name: str) -> Tensor:
    z = x.mean((2, 3), keepdim=True)
    z = conv(F.relu(conv(z, w, f"{name}.conv_reduce")), w, f"{name}.conv_expand")
    return x * F.relu6(z + 3) / 6


def cream(w: Weights, image: Tensor, path: Sequence[Sequence[int]], supernet: bool) -> Tensor:
    x = swish(batch_norm(conv(image, w, "conv_stem", 2, 1), w, "bn1"))
    name = "blocks.0.0"
    y = swish(batch_norm(conv(x, w, f"{name}.conv_dw", 1, 1), w, f"{name}.bn1"))
    y = squeeze_excite(y, w, f"{name}.se")
    x = x + batch_norm(conv(y, w, f"{name}.conv_pw"), w, f"{name}.bn2")
    for s, stage in enumerate(path):
        for b, drawn in enumerate(stage):
            choice = SINGLE[s] if len(stage) == 1 and not supernet else drawn
            kernel, stride = CHOICES[choice][0], (2, 2, 2, 1, 2)[s] if b == 0 else 1
            name = f"blocks.{s + 1}.{b}" + (f".{choice}" if supernet else "")
            y = swish(batch_norm(conv(x, w, f"{name}.conv_pw"), w, f"{name}.bn1"))
            pad = ((stride - 1) + (kernel - 1)) // 2
            y = swish(batch_norm(conv(y, w, f"{name}.conv_dw", stride, pad), w, f"{name}.bn2"))
            y = conv(squeeze_excite(y, w, f"{name}.se"), w, f"{name}.conv_pwl")
            y = batch_norm(y, w, f"{name}.bn3")
            assert y.shape[1] == STAGES[s]
            x = x + y if y.shape == x.shape else y
    x = swish(batch_norm(conv(x, w, "blocks.6.0.conv"), w, "blocks.6.0.bn1"))
    x = swish(conv(x.mean((2, 3), keepdim=True), w, "conv_head"))
    return linear(x.flatten(1), w, "classifier")


# CDARTS: evaluation networks, section 2.


def cdarts(w: Weights, image: Tensor, normal: Genotype, reduce: Genotype, large: bool) -> Tensor:
    stem = "feature_extractor"
    x = conv(image, w, f"{stem}.0.0", 2 if large else 1, 1)
    x = batch_norm(x, w, f"{stem}.0.1")
    before, last = x, x
    if large:
        before = batch_norm(conv(F.relu(x), w, f"{stem}.0.3", 2, 1), w, f"{stem}.0.4")
        last = batch_norm(conv(F.relu(before), w, f"{stem}.1.1", 2, 1), w, f"{stem}.1.2")
    halved = large  # whether the cell before was a reduction
    for layer, cells in enumerate((5, 5, 4) if large else (7, 7, 6)):
        for i in range(cells):
            name, halves = f"nas_layers.{layer}.{i}", i == cells - 1 and layer < 2
            first = (factorized if halved else projected)(before, w, f"{name}.preproc0")
            states = [first, projected(last, w, f"{name}.preproc1")]
            for n, node in enumerate(reduce if halves else normal):
                edges = [
                    operation(op, states[source], w, f"{name}.dag.{n}.{e}.0", 2 if halves and source < 2 else 1)
                    for e, (op, source) in enumerate(node)
                ]  # fmt: skip
                states.append(edges[0] + edges[1])
            before, last, halved = last, torch.cat(states[2:], 1), halves
    return linear(last.mean((2, 3)), w, "fc")


def projected(x: Tensor, w: Weights, name: str) -> Tensor:
    return batch_norm(conv(F.relu(x), w, f"{name}.net.1"), w, f"{name}.net.2")


def factorized(x: Tensor, w: Weights, name: str) -> Tensor:
    x = F.relu(x)
    halves = conv(x, w, f"{name}.conv1", 2), conv(x[:, :, 1:, 1:], w, f"{name}.conv2", 2)
    return batch_norm(torch.cat(halves, 1), w, f"{name}.bn")


def unit(x: Tensor, w: Weights, name: str, kernel: int, stride: int, dilation: int) -> Tensor:
    pad = (kernel - 1) // 2 * dilation
    x = conv(F.relu(x), w, f"{name}.net.1", stride, pad, dilation)
    return batch_norm(conv(x, w, f"{name}.net.2"), w, f"{name}.net.3")


def operation(op: str, x: Tensor, w: Weights, name: str, stride: int) -> Tensor:
    if op == "mp":
        return F.max_pool2d(x, 3, stride, 1)
    if op == "ap":
        return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
    if op == "sk":
        return x if stride == 1 else factorized(x, w, name)
    kernel = int(op[1])
    if op[0] == "d":
        return unit(x, w, name, kernel, stride, 2)
    x = unit(x, w, f"{name}.net.0", kernel, stride, 1)
    return unit(x, w, f"{name}.net.1", kernel, 1, 1)


# The tests.


def random_model(graph: Graph, dialect: str = "published") -> tuple[Supernet, dict[str, Tensor]]:
    """A model in double precision, nothing in it at its first value, and its published weights."""
    model = Supernet(graph).double().eval()
    random = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if not tensor.is_floating_point() or name.endswith("attn_mask"):
                continue
            if name.endswith("running_var"):
                tensor.mul_(1 + 0.5 * torch.rand(tensor.shape, generator=random))
            else:
                spread = 0.3 if tensor.dim() < 2 or tensor.std() < 0.05 else 0.1
                tensor.add_(spread * torch.randn(tensor.shape, generator=random))
                if "mlp" in name or "proj.weight" in name:
                    tensor.mul_(0.3)
                elif (
                    tensor.dim() == 4
                ):  # deep chains of maps would grow to 1e8, and rounding with them
                    tensor.mul_(0.6)
    return model, weights.save(model, dialect)


def agree(model: Supernet, images: Tensor, wanted: Tensor) -> None:
    with torch.no_grad():
        found = model(images)
    assert isinstance(found, Tensor)
    assert float(found.std()) > 1e-3
    assert float((found - wanted).abs().max()) < 1e-10 * float(wanted.abs().max())


def images_of(graph: Graph, batch: int = 1) -> Tensor:
    side = int(graph.root.inputs[0].types[0].shape[-1].at({}))
    random = torch.Generator().manual_seed(7)
    return torch.randn(batch, 3, side, side, dtype=torch.float64, generator=random)


@pytest.mark.parametrize(("size", "heads"), [("ti", 3), ("s", 6)])
def test_mini_deit(size: str, heads: int) -> None:
    graph = load(f"minivit.space:mini_deit_{size}")
    model, w = random_model(graph)
    images = images_of(graph)
    with torch.no_grad():
        agree(model, images, mini_deit(w, images, heads))


def test_mini_deit_as_its_code_draws_it() -> None:
    """The specification's logits of a new network from seed 0."""
    model = Supernet(load("minivit.space:mini_deit_ti")).eval()
    with torch.random.fork_rng():
        weights.load(model, mini_deit_ti(seed=0), "published")
    images = torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224)
    with torch.no_grad():
        found = model(images)
    assert isinstance(found, Tensor)
    wanted = [0.302986, 0.227955, 0.295639, 0.034270]
    assert found[0, :4].tolist() == pytest.approx(wanted, abs=2e-6)
    assert float(found.sum()) == pytest.approx(10.663812, abs=2e-5)


@pytest.mark.parametrize(
    ("size", "every"),
    [("t", (2, 2, 6, 2)), pytest.param("s", (2, 2, 2, 2), marks=pytest.mark.soak)],
)
def test_mini_swin(size: str, every: tuple[int, ...]) -> None:
    graph = load(f"minivit.space:mini_swin_{size}")
    model, w = random_model(graph)
    images = images_of(graph)
    with torch.no_grad():
        agree(model, images, mini_swin(w, images, HEADS[96], 7, every))


@pytest.mark.parametrize("name", CREAM)
def test_cream_networks(name: str) -> None:
    graph = load(f"cream.space:cream_{name}")
    model, w = random_model(graph, "published_subnet")
    images = images_of(graph)
    with torch.no_grad():
        agree(model, images, cream(w, images, CREAM[name], supernet=False))


def test_paths_of_the_cream_supernet() -> None:
    graph = load("cream.space:cream", image=64)
    model, w = random_model(graph)
    images = images_of(graph)
    keys = ("k3e4", "k3e6", "k5e4", "k5e6", "k7e4", "k7e6")
    for assignment in graph.sample(2, seed=3):
        path = [
            [keys.index(str(assignment[f"blocks[{s + 1}][{b}].op"])) for b in range(depth)]
            for s, depth in enumerate((4, 4, 5, 4, 4))
        ]
        with torch.no_grad():
            agree(model.activate(assignment), images, cream(w, images, path, supernet=True))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("data", ["cifar10", pytest.param("imagenet", marks=pytest.mark.soak)])
def test_cdarts_networks(data: str, name: str) -> None:
    graph = load(f"cdarts.space:{data}_{name}")
    model, w = random_model(graph)
    images = images_of(graph)
    normal, reduce = map(genotype, CELLS[name])
    with torch.no_grad():
        agree(model, images, cdarts(w, images, normal, reduce, data == "imagenet"))
