"""What users of PyTorch and timm write out of habit, and how it is said here."""

from __future__ import annotations

AXES = 'rearrange(x, "b n c -> b c n")'
SIZES = 'rearrange(x, "b (h d) -> b h d", h: 4)'
MLP = "linear(x, 8) as fc1 |> gelu |> linear(4) as fc2"

SAID: dict[str, str] = {
    "transpose": AXES,
    "permute": AXES,
    "reshape": SIZES,
    "view": SIZES,
    "flatten": 'rearrange(x, "b c h w -> b (c h w)")',
    "squeeze": 'rearrange(x, "b 1 c -> b c")',
    "unsqueeze": 'rearrange(x, "b c -> b 1 c")',
    "cat": "concat([x, y], axis: 1)",
    "chunk": "split(x, 2, axis: 1)",
    "stack": 'concat([rearrange(x, "b c -> b 1 c"), rearrange(y, "b c -> b 1 c")], axis: 1)',
    "unbind": "unstack(x, axis: 1)",
    "matmul": 'einsum("bnc,bcm->bnm", x, y)',
    "bmm": 'einsum("bnc,bcm->bnm", x, y)',
    "interpolate": "resize(x, [14, 14])",
    "upsample": "resize(x, [14, 14])",
    "silu": "swish(x)",
    "identity": "x",
    "sequential": MLP,
    "add": "x + y",
    "mul": "x * y",
    "attention": "weigh(softmax(scores(q, k) / 8), v), with `use vit`",
    "batchnorm1d": "batch_norm(x)",
    "batchnorm2d": "batch_norm(x)",
    "layernorm": "layer_norm(x)",
    "rmsnorm": "rms_norm(x)",
    "groupnorm": "group_norm(x, 4)",
    "conv1d": "conv(x, 8, 3)",
    "conv2d": "conv(x, 8, 3)",
    "convtranspose2d": "conv_transpose(x, 8)",
    "maxpool2d": "max_pool(x, 3)",
    "avgpool2d": "avg_pool(x, 3)",
    "adaptiveavgpool2d": "mean(x, axes: [2, 3])",
    "global_avg_pool": "mean(x, axes: [2, 3])",
    "hardswish": "hard_swish(x)",
    "hardsigmoid": "hard_sigmoid(x)",
    "droppath": "drop_path(x, 0.1)",
    "embedding": "take(parameter([50, 8]) as table, ids)",
}


def said_here(name: str) -> str | None:
    """How this name of PyTorch (a function, or a module in any case) is written here."""
    return SAID.get(name.lower())
