"""How many variants of each attention kernel AutoFormer's spaces launch; JSON on stdout.

    python tests/kernels/count_variants.py

Runs without a device and without the interpreter: instead of a launch, the key under which Triton
keeps what it compiled for sm_90 is made of the operands of the launch.
"""

from __future__ import annotations

import json
import random
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from spacelang.backends.triton import attention, launch
from spacelang.backends.triton.attention_kernels import KERNELS

HEADS = {"autoformer_t": (3, 4), "autoformer_s": (5, 6, 7), "autoformer_b": (8, 9, 10)}
COUNT = 500  # random architectures of each space
BACKEND = make_backend(GPUTarget("cuda", 90, 32))


class Recorder:
    """Stands for a kernel and keeps the keys of its launches."""

    def __init__(self, kernel: Any) -> None:
        self.binder = create_function_from_signature(kernel.signature, kernel.params, BACKEND)
        self.keys: set[str] = set()

    def __getitem__(self, grid: tuple[int, ...]) -> Recorder:
        return self

    def __call__(self, **operands: Any) -> None:
        _, specialization, options = self.binder(**operands)
        self.keys.add(f"{specialization} {options}")


def launched(recorders: dict[str, Recorder], heads: tuple[int, ...]) -> dict[str, int]:
    """One attention of each architecture, forward and backward, with a batch and grid of its own."""
    choose = random.Random(0)
    tables = [torch.zeros(1, 2, 30, 64, requires_grad=True) for _ in "kv"]
    for _ in range(COUNT):
        chosen, batch, grid = choose.choice(heads), choose.randint(1, 9), choose.randint(1, 7)
        n = grid * grid + 1
        index = torch.zeros(2, n, n, dtype=torch.int16)
        widest = torch.zeros(batch, n, 3, 64 * heads[-1], dtype=torch.float16)
        sliced = widest[..., : 64 * chosen].requires_grad_()
        q, k, v = sliced.unflatten(3, (chosen, 64)).permute(2, 0, 3, 1, 4)
        on_keys, on_values = ((table, index) for table in tables)
        out = attention.attention(q, k, v, 0.125, on_keys=on_keys, on_values=on_values)
        out.sum().backward()
    return {name: len(recorder.keys) for name, recorder in recorders.items()}


def main() -> None:
    """Keys are kept from one space to the next: the last line is of all three."""
    recorders = {name: Recorder(kernel) for name, kernel in KERNELS.items()}
    KERNELS.update(recorders)
    launch.INTERPRETED = True  # kernels on the CPU: the recorders
    print(json.dumps({space: launched(recorders, heads) for space, heads in HEADS.items()}))


if __name__ == "__main__":
    main()
