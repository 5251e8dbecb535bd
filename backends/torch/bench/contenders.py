"""What builds each contender: a table by name. All of a row have equal weights and equal inputs.

work = build({"contender": "timm.folded", "space": .., "network": .., "batch": 16})
"""

from __future__ import annotations

from collections.abc import Callable

from spacelang.backends.torch.bench import attention, cycles, inference, limits, steps
from spacelang.backends.torch.bench.work import Request, Work

BUILDERS: dict[str, Callable[[Request], Work]] = {
    **inference.BUILDERS, **steps.BUILDERS, **cycles.BUILDERS, **attention.BUILDERS,
    **limits.BUILDERS,
}  # fmt: skip


def build(request: Request) -> Work:
    """The contender of a request (Missing where it cannot be built)."""
    return BUILDERS[request["contender"]](request)


__all__ = ["BUILDERS", "build"]
