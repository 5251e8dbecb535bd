"""The limits of the machine, measured in the rounds of a row: products of matrices, and a copy.

flops    float32 products by the fastest way that is known here
plain    the same by `torch.mm`
narrow   bfloat16 products
bytes    read and written by a copy
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import torch

from spacelang.backends.torch.bench.work import Request, Work
from spacelang.backends.torch.inference.packed import product

SIZE, COUNT, TIMES = 768, 1 << 24, 8


def limits(request: Request) -> Work:
    """Products of matrices of 768 x 768; a copy of 64 MiB."""
    a, b = torch.randn(2, SIZE, SIZE)
    c, d = a.bfloat16(), b.bfloat16()
    source, target = torch.randn(2, COUNT)
    fast = product(b, SIZE)

    def call() -> dict[str, float]:
        times = [time.perf_counter()]
        for function in (lambda: torch.mm(a, b), lambda: fast(a), lambda: torch.mm(c, d)):
            for _ in range(TIMES):
                function()
            times.append(time.perf_counter())
        target.copy_(source)
        times.append(time.perf_counter())
        plain, packed, narrow, copied = (after - before for before, after in pairwise(times))
        return {
            "flops": TIMES * 2 * SIZE**3, "flops_seconds": packed,
            "plain": TIMES * 2 * SIZE**3, "plain_seconds": plain,
            "narrow": TIMES * 2 * SIZE**3, "narrow_seconds": narrow,
            "bytes": 2 * 4 * COUNT, "bytes_seconds": copied,
        }  # fmt: skip

    return Work(call, dict)


BUILDERS: dict[str, Callable[[Request], Work]] = {"limits": limits}
