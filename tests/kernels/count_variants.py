"""How many variants of kernels AutoFormer's spaces and Mini-Swin launch; JSON on stdout.

    python tests/kernels/count_variants.py

Runs without a device and without the interpreter: instead of a launch, the keys under which Triton
keeps what it compiled are made of the operands of the launch, NVIDIA's and AMD's. What is told is
of the one with more.
"""

from __future__ import annotations

import json
import random
from typing import Any

import torch
from triton.compiler.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from spacelang.backends.triton import (
    attention,
    attention_kernels,
    launch,
    mixed_attention,
    mixed_attention_kernels,
    mlp,
)
from spacelang.backends.triton.attention_kernels import KERNELS
from spacelang.backends.triton.resources import TARGETS

HEADS = {"autoformer_t": (3, 4), "autoformer_s": (5, 6, 7), "autoformer_b": (8, 9, 10)}
WIDTHS = {
    "autoformer_t": (192, 216, 240),
    "autoformer_s": (320, 384, 448),
    "autoformer_b": (528, 576, 624),
}
RATIOS = (3, 3.5, 4)
COUNT = 500  # random architectures of each space
# Of each kind of device one target: the keys of its others are the same.
BACKENDS = {name: make_backend(TARGETS[name]) for name in ("sm_90", "gfx942")}


class Recorder:
    """Stands for a kernel and keeps the keys of its launches."""

    def __init__(self, kernel: Any) -> None:
        self.binders = {
            name: create_function_from_signature(kernel.signature, kernel.params, backend)
            for name, backend in BACKENDS.items()
        }
        self.arg_names = kernel.arg_names
        self.keys: dict[str, set[str]] = {name: set() for name in BACKENDS}

    def __getitem__(self, grid: tuple[int, ...]) -> Recorder:
        return self

    def __call__(self, *given: Any, **operands: Any) -> None:
        for name, binder in self.binders.items():
            _, specialization, options = binder(*given, **operands)
            self.keys[name].add(f"{specialization} {options}")

    @property
    def variants(self) -> int:
        return max(map(len, self.keys.values()))


def launched(recorders: dict[str, Recorder], heads: tuple[int, ...]) -> dict[str, int]:
    """One attention of each architecture, forward and backward, with a batch and grid of its own."""
    choose = random.Random(0)
    tables = [torch.zeros(1, 2, 30, 64, requires_grad=True) for _ in "kv"]
    for _ in range(COUNT):
        chosen, batch, grid = choose.choice(heads), choose.randint(1, 9), choose.randint(1, 7)
        n = grid * grid + 1
        index = torch.zeros(2, n, n, dtype=torch.int8)
        widest = torch.zeros(batch, n, 3, 64 * heads[-1], dtype=torch.float16)
        sliced = widest[..., : 64 * chosen].requires_grad_()
        q, k, v = sliced.unflatten(3, (chosen, 64)).permute(2, 0, 3, 1, 4)
        on_keys, on_values = ((table, index) for table in tables)
        out = attention.attention(q, k, v, 0.125, on_keys=on_keys, on_values=on_values)
        out.sum().backward()
    return {name: recorder.variants for name, recorder in recorders.items()}


def mixed(recorders: dict[str, Recorder]) -> dict[str, int]:
    """Attention with mixed heads, of every number of heads, with a batch and windows of its own."""
    choose = random.Random(0)
    for heads in range(1, 33):
        batch, n = 2 * choose.randint(1, 5), choose.randint(1, 60)
        both = torch.zeros(batch, n, 3, heads, 32, dtype=torch.float16, requires_grad=True)
        weights = [torch.zeros(heads, heads, requires_grad=True) for _ in "ba"]
        before, after = ((w, choose.choice((None, torch.zeros(heads)))) for w in weights)
        table = torch.zeros(heads, 1, 9, requires_grad=True)
        index = torch.zeros(1, n, n, dtype=torch.int16)
        regions = torch.zeros(2, n, dtype=torch.int16)
        out = mixed_attention.mixed_attention(
            *both.permute(2, 0, 3, 1, 4), 0.125, before, after,
            offsets=(table, index), regions=regions,
        )  # fmt: skip
        out.sum().backward()
    return {name: recorder.variants for name, recorder in recorders.items()}


def layers(recorder: Recorder, widths: tuple[int, ...]) -> int:
    """One MLP of each architecture, on slices of the largest weights; its variants."""
    choose = random.Random(0)
    widest, norm = max(widths), torch.zeros(max(widths), dtype=torch.float16)
    first = torch.zeros(4 * widest, widest, dtype=torch.float16)
    second = torch.zeros(widest, 4 * widest, dtype=torch.float16)
    bias = torch.zeros(4 * widest, dtype=torch.float16)
    for _ in range(COUNT):
        width, hidden = choose.choice(widths), 0
        hidden = int(width * choose.choice(RATIOS))
        x = torch.zeros(choose.randint(1, 3), choose.randint(1, 9), width, dtype=torch.float16)
        scale = (norm[:width], norm[:width], 1e-5)
        w1, w2 = first[:hidden, :width], second[:width, :hidden]
        mlp.mlp(x, scale, w1, bias[:hidden], w2, bias[:width])
    return recorder.variants


def main() -> None:
    """Keys are kept from one space to the next: the last line is of all three."""
    recorders = {name: Recorder(kernel) for name, kernel in KERNELS.items()}
    KERNELS.update(recorders)
    launch.INTERPRETED = True  # kernels on the CPU: the recorders
    mixers = {name: Recorder(kernel) for name, kernel in mixed_attention_kernels.KERNELS.items()}
    mixed_attention_kernels.KERNELS.update(mixers)
    scatter = attention_kernels.scatter_kernel = Recorder(attention_kernels.scatter_kernel)
    linear = mlp._linear_kernel = Recorder(mlp._linear_kernel)
    print(
        json.dumps(
            {
                space: {**launched(recorders, heads), "linear": layers(linear, WIDTHS[space])}
                for space, heads in HEADS.items()
            }
            | {"mini_swin": {**mixed(mixers), "scatter": scatter.variants}}
        )
    )


if __name__ == "__main__":
    main()
