"""State dicts of the published codes, name by name and with shapes, as the specifications list them.

    efficientvit((64, 128, 192), (1, 2, 3), (4, 4, 4), (5, 5, 5, 5))   # {name: shape}, in order

Written from the descriptions of the published modules, without a look at a space: what a space calls
`published` is held against these. Running statistics stand among the weights, as PyTorch has them;
an entry without axes is the counter of a batch norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

Shapes = dict[str, tuple[int, ...]]


def under(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def linear(inputs: int, outputs: int, bias: bool = True) -> Shapes:
    return {"weight": (outputs, inputs), **({"bias": (outputs,)} if bias else {})}


def norm(width: int) -> Shapes:
    return {"weight": (width,), "bias": (width,)}


def batch_norm(width: int, affine: bool = True) -> Shapes:
    own = norm(width) if affine else {}
    return {**own, "running_mean": (width,), "running_var": (width,), "num_batches_tracked": ()}


def conv(inputs: int, outputs: int, kernel: int = 1, groups: int = 1, bias: bool = False) -> Shapes:
    weight = (outputs, inputs // groups, kernel, kernel)
    return {"weight": weight, **({"bias": (outputs,)} if bias else {})}


def conv_bn(inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> Shapes:
    """LeViT's pair: `c` and `bn`."""
    return {
        **under("c", conv(inputs, outputs, kernel, groups)),
        **under("bn", batch_norm(outputs)),
    }


# DeiT with and without iRPE, and Mini-DeiT.


def deit(
    width: int,
    heads: int,
    tables: Mapping[str, tuple[int, ...]] | None = None,
    tokens: int = 197,
    classes: int = 1000,
) -> Shapes:
    """`tables` are those of iRPE in each layer, below `attn`."""
    found: Shapes = {"cls_token": (1, 1, width), "pos_embed": (1, tokens, width)}
    found |= under("patch_embed.proj", conv(3, width, 16, bias=True))
    for i in range(12):
        block = under("norm1", norm(width)) | under("attn.qkv", linear(width, 3 * width))
        block |= under("attn.proj", linear(width, width))
        block |= under("attn", dict(tables or {}))
        block |= under("norm2", norm(width))
        block |= under("mlp.fc1", linear(width, 4 * width))
        found |= under(f"blocks.{i}", block | under("mlp.fc2", linear(4 * width, width)))
    return found | under("norm", norm(width)) | under("head", linear(width, classes))


def mini_deit(width: int, heads: int, tokens: int = 196, repeats: int = 2) -> Shapes:
    found: Shapes = {"pos_embed": (1, tokens, width)}
    found |= under("patch_embed.proj", conv(3, width, 16, bias=True))
    for group in range(12 // repeats):
        block: Shapes = {}
        for r in range(repeats):
            block |= under(f"norm1.instances.{r}", norm(width))
            block |= under(f"norm2.instances.{r}", norm(width))
            block[f"attn.rpe_k.instances.{r}.lookup_table_weight"] = (1, 64, 49)
            for mix in ("conv_l", "conv_w"):
                block[f"attn.{mix}.instances.{r}.weight"] = (heads, heads, 1, 1)
        block |= under("attn.qkv", linear(width, 3 * width))
        block |= under("attn.proj", linear(width, width))
        block |= under("mlp.fc1", linear(width, 4 * width))
        block |= under("mlp.fc2", linear(4 * width, width))
        found |= under(f"blocks.{group}.block", block)
    return found | under("norm", norm(width)) | under("head", linear(width, 1000))


# AutoFormer.


def autoformer(width: int, heads: int, depth: int) -> Shapes:
    """The supernet: every tensor at its largest."""
    inner = 64 * heads
    found: Shapes = {"pos_embed": (1, 197, width), "cls_token": (1, 1, width)}
    found |= under("patch_embed_super.proj", conv(3, width, 16, bias=True))
    for i in range(depth):
        block = under("attn.qkv", linear(width, 3 * inner)) | under(
            "attn.proj", linear(inner, width)
        )
        for side in "kv":
            for axis in "vh":
                block[f"attn.rel_pos_embed_{side}.embeddings_table_{axis}"] = (30, 64)
        for label in ("attn_layer_norm", "ffn_layer_norm"):
            block |= under(label, norm(width))
        block |= under("fc1", linear(width, 4 * width)) | under("fc2", linear(4 * width, width))
        found |= under(f"blocks.{i}", block)
    return found | under("norm", norm(width)) | under("head", linear(width, 1000))


# Swin, S3 and Mini-Swin.


def swin(
    width: int,
    depths: Sequence[int],
    heads: Sequence[int],
    windows: Sequence[int],
    every: Sequence[int] | None = None,
    image: int = 224,
) -> Shapes:
    """With index tables and masks; `every` says how many layers of a stage share one set of weights
    (Mini-Swin, with its transforms and a mask in each block)."""
    found: Shapes = {}
    found |= under("patch_embed.proj", conv(3, width, 4, bias=True))
    found |= under("patch_embed.norm", norm(width))
    for s, depth in enumerate(depths):
        side, c, h = image // 4 >> s, width << s, heads[s]
        w = min(windows[s], side)
        for i in range(depth if every is None else depth // every[s]):
            block = _swin_block(c, h, w)
            masked = side > w and (i % 2 == 1 or every is not None)
            if masked:
                block["attn_mask"] = ((side // w) ** 2, w * w, w * w)
            if every is None:
                block |= under("norm1", norm(c)) | under("norm2", norm(c))
            for t in range(0 if every is None else every[s]):
                block |= under(f"norm1_list.{t}", norm(c)) | under(f"norm2_list.{t}", norm(c))
                block |= under(f"proj_l.{t}", linear(h, h)) | under(f"proj_w.{t}", linear(h, h))
                block |= under(f"local_norm_list.{t}", norm(c))
                block |= under(f"local_conv_list.{t}", conv(c, c, 7, c, bias=True))
            found |= under(f"layers.{s}.blocks.{i}", block)
        if s < len(depths) - 1:
            found |= under(f"layers.{s}.downsample.norm", norm(4 * c))
            found |= under(f"layers.{s}.downsample.reduction", linear(4 * c, 2 * c, bias=False))
    last = width << (len(depths) - 1)
    return found | under("norm", norm(last)) | under("head", linear(last, 1000))


def _swin_block(c: int, h: int, w: int) -> Shapes:
    block: Shapes = {
        "attn.relative_position_bias_table": ((2 * w - 1) ** 2, h),
        "attn.relative_position_index": (w * w, w * w),
    }
    block |= under("attn.qkv", linear(c, 3 * c)) | under("attn.proj", linear(c, c))
    return block | under("mlp.fc1", linear(c, 4 * c)) | under("mlp.fc2", linear(4 * c, c))


# TinyViT.


def tinyvit(widths: Sequence[int], windows: Sequence[int]) -> Shapes:
    found: Shapes = {}
    found |= under("patch_embed.seq.0", conv_bn(3, widths[0] // 2, 3))
    found |= under("patch_embed.seq.2", conv_bn(widths[0] // 2, widths[0], 3))
    for s, (c, depth) in enumerate(zip(widths, (2, 2, 6, 2), strict=True)):
        for i in range(depth):
            if s == 0:
                block = under("conv1", conv_bn(c, 4 * c)) | under(
                    "conv2", conv_bn(4 * c, 4 * c, 3, 4 * c)
                )
                block |= under("conv3", conv_bn(4 * c, c))
            else:
                block = {"attn.attention_biases": (c // 32, windows[s - 1] ** 2)}
                block |= under("attn.norm", norm(c)) | under("attn.qkv", linear(c, 3 * c))
                block |= under("attn.proj", linear(c, c)) | under("mlp.norm", norm(c))
                block |= under("mlp.fc1", linear(c, 4 * c)) | under("mlp.fc2", linear(4 * c, c))
                block |= under("local_conv", conv_bn(c, c, 3, c))
            found |= under(f"layers.{s}.blocks.{i}", block)
        if s < 3:
            to, where = widths[s + 1], f"layers.{s}.downsample"
            found |= under(f"{where}.conv1", conv_bn(c, to))
            found |= under(f"{where}.conv2", conv_bn(to, to, 3, to))
            found |= under(f"{where}.conv3", conv_bn(to, to))
    return found | under("norm_head", norm(widths[3])) | under("head", linear(widths[3], 1000))


# EfficientViT.


def efficientvit(
    widths: Sequence[int],
    depths: Sequence[int],
    heads: Sequence[int],
    kernels: Sequence[int],
    image: int = 224,
    distilled: bool = False,
) -> Shapes:
    """In the order of the published modules, which the deterministic fill follows."""
    found: Shapes = {}
    channels = (3, *(widths[0] // n for n in (8, 4, 2, 1)))
    for i, (a, b) in enumerate(pairwise(channels)):
        found |= under(f"patch_embed.{2 * i}", conv_bn(a, b, 3))
    side = image // 16
    for s, c in enumerate(widths):
        blocks: list[Shapes] = []
        if s:
            before, side = widths[s - 1], (side - 1) // 2 + 1
            blocks = [
                under("0", _dw(before)) | under("1", _ffn(before)),
                _efficientvit_merging(before, c),
                under("0", _dw(c)) | under("1", _ffn(c)),
            ]
        for _ in range(depths[s]):
            block = under("dw0", _dw(c)) | under("ffn0", _ffn(c))
            block |= under("mixer.m.attn", _cascaded(c, heads[s], kernels, min(7, side)))
            blocks.append(block | under("dw1", _dw(c)) | under("ffn1", _ffn(c)))
        for i, block in enumerate(blocks):
            found |= under(f"blocks{s + 1}.{i}", block)
    for head in ("head", "head_dist")[: 1 + distilled]:
        found |= under(f"{head}.bn", batch_norm(widths[2]))
        found |= under(f"{head}.l", linear(widths[2], 1000))
    return found


def _dw(c: int) -> Shapes:
    return under("m", conv_bn(c, c, 3, c))


def _ffn(c: int) -> Shapes:
    return under("m.pw1", conv_bn(c, 2 * c)) | under("m.pw2", conv_bn(2 * c, c))


def _cascaded(c: int, heads: int, kernels: Sequence[int], side: int) -> Shapes:
    part, cells = c // heads, side * side
    found: Shapes = {"attention_biases": (heads, cells), "attention_bias_idxs": (cells, cells)}
    for i in range(heads):
        found |= under(f"qkvs.{i}", conv_bn(part, 32 + part))
    for i in range(heads):
        found |= under(f"dws.{i}", conv_bn(16, 16, kernels[i], 16))
    return found | under("proj.1", conv_bn(c, c))


def _efficientvit_merging(c: int, to: int) -> Shapes:
    found = under("conv1", conv_bn(c, 4 * c)) | under("conv2", conv_bn(4 * c, 4 * c, 3, 4 * c))
    reduced = max(8, (c + 4) // 8 * 8)
    found |= under("se.fc1", conv(4 * c, reduced, bias=True))
    found |= under("se.fc2", conv(reduced, 4 * c, bias=True))
    return found | under("conv3", conv_bn(4 * c, to))


# Cream.

CHOICES = ((3, 4), (3, 6), (5, 4), (5, 6), (7, 4), (7, 6))
STAGES = (24, 40, 80, 96, 192)
SINGLE = (0, 2, 1, 1, 3)  # what a stage of one block is, whatever was found


def round8(value: float) -> int:
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def cream_subnet(path: Sequence[Sequence[int]]) -> Shapes:
    """A network: choices of each searchable stage."""
    chosen = [[[c] for c in stage] for stage in path]
    for s, stage in enumerate(chosen):
        if len(stage) == 1:
            chosen[s] = [[SINGLE[s]]]
    return _cream(chosen, supernet=False)


def cream_supernet(depths: Sequence[int]) -> Shapes:
    """All choices of every block, and the meta network of the search."""
    found = _cream([[list(range(6))] * d for d in depths], supernet=True)
    return found | under("meta_layer", linear(4000, 1))


def _cream(chosen: Sequence[Sequence[Sequence[int]]], supernet: bool) -> Shapes:
    found = under("conv_stem", conv(3, 16, 3)) | under("bn1", batch_norm(16))
    first = under("conv_dw", conv(16, 16, 3, 16)) | under("bn1", batch_norm(16))
    first |= under("se", _cream_se(16)) | under("conv_pw", conv(16, 16))
    found |= under("blocks.0.0", first | under("bn2", batch_norm(16)))
    width = 16
    for s, stage in enumerate(chosen):
        for b, choices in enumerate(stage):
            for c in choices:
                where = f"blocks.{s + 1}.{b}" + (f".{c}" if supernet else "")
                found |= under(where, _mbconv(width, STAGES[s], *CHOICES[c]))
            width = STAGES[s]
    found |= under("blocks.6.0.conv", conv(192, 320)) | under("blocks.6.0.bn1", batch_norm(320))
    found |= under("conv_head", conv(320, 1280, bias=True))
    return found | under("classifier", linear(1280, 1000))


def _mbconv(inputs: int, outputs: int, kernel: int, expand: int) -> Shapes:
    mid = round8(inputs * expand)
    found = under("conv_pw", conv(inputs, mid)) | under("bn1", batch_norm(mid))
    found |= under("conv_dw", conv(mid, mid, kernel, mid)) | under("bn2", batch_norm(mid))
    found |= under("se", _cream_se(mid)) | under("conv_pwl", conv(mid, outputs))
    return found | under("bn3", batch_norm(outputs))


def _cream_se(c: int) -> Shapes:
    r = round8(c * 0.25)
    reduce = under("conv_reduce", conv(c, r, bias=True))
    return reduce | under("conv_expand", conv(r, c, bias=True))


# CDARTS: networks of a genotype, edges as (operation, source).

Genotype = Sequence[Sequence[tuple[str, int]]]


def cdarts(normal: Genotype, reduce: Genotype, large: bool, auxiliary: bool = True) -> Shapes:
    width, cells = (48, (5, 5, 4)) if large else (36, (7, 7, 6))
    found: Shapes = {}
    if large:
        stem0 = under("0", conv(3, 24, 3)) | under("1", batch_norm(24))
        stem0 |= under("3", conv(24, 48, 3)) | under("4", batch_norm(48))
        found |= under("feature_extractor.0", stem0)
        found |= under("feature_extractor.1.1", conv(48, 48, 3))
        found |= under("feature_extractor.1.2", batch_norm(48))
        before, last, reduced = 48, 48, True
    else:
        found |= under("feature_extractor.0.0", conv(3, 108, 3))
        found |= under("feature_extractor.0.1", batch_norm(108))
        before, last, reduced = 108, 108, False
    for layer, count in enumerate(cells):
        c = width << layer
        for i in range(count):
            halves = i == count - 1 and layer < 2
            c *= 2 if halves else 1
            cell = under("preproc0", _reduce(before, c) if reduced else _project(before, c))
            cell |= under("preproc1", _project(last, c))
            for n, node in enumerate(reduce if halves else normal):
                for e, (op, source) in enumerate(node):
                    stride = 2 if halves and source < 2 else 1
                    cell |= under(f"dag.{n}.{e}.0", _operation(op, c, stride))
            found |= under(f"nas_layers.{layer}.{i}", cell)
            before, last, reduced = last, 4 * c, halves
    if auxiliary:
        found |= under("aux_head", _side_head(32 * width // 2, large))
    return found | under("fc", linear(16 * width, 1000 if large else 10))


def _side_head(inputs: int, large: bool) -> Shapes:
    found = under("features.2", conv(inputs, 128)) | under("features.3", batch_norm(128))
    found |= under("features.5", conv(128, 768, 2))
    if not large:
        found |= under("features.6", batch_norm(768))
    return found | under("classifier", linear(768, 1000 if large else 10))


def _project(inputs: int, c: int) -> Shapes:
    return under("net.1", conv(inputs, c)) | under("net.2", batch_norm(c))


def _reduce(inputs: int, c: int) -> Shapes:
    halves = under("conv1", conv(inputs, c // 2)) | under("conv2", conv(inputs, c // 2))
    return halves | under("bn", batch_norm(c))


def _unit(c: int, kernel: int) -> Shapes:
    found = under("net.1", conv(c, c, kernel, c)) | under("net.2", conv(c, c))
    return found | under("net.3", batch_norm(c))


def _operation(op: str, c: int, stride: int) -> Shapes:
    match op[:1], op[1:]:
        case "s", "k":
            return _reduce(c, c) if stride == 2 else {}
        case "s", kernel:
            unit = _unit(c, int(kernel))
            return under("net.0", unit) | under("net.1", unit)
        case "d", kernel:
            return _unit(c, int(kernel))
        case _:
            return {}
