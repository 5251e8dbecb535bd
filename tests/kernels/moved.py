"""What fused groups launch and move as they run: the one yardstick that models are held to.

moved = Moved(monkeypatch)
with moved:
    network(images)
moved.launches, moved.bytes, moved.kernels, moved.others
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor


class Moved(TorchDispatchMode):
    """Kernels, operations of PyTorch that are no views, and the bytes that they read and make.

    An operator of a kernel is taken apart: what it does besides its launch is seen, too. `passes`
    are how often kernels go over what they write. Without `runs` no kernel is run: its result is 0.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, passes: int = 1, runs: bool = True) -> None:
        super().__init__()
        self.kernels: list[str] = []
        self.others: list[str] = []
        self.weights: set[int] = set()  # storages; set by who asks for copies of them
        self.copies: list[str] = []  # operations that read nothing but weights
        self.bytes = 0
        self.depth = 0  # of what is watched
        self.inside = False  # a launch: the interpreter moves operands by operations of its own
        run = GridExecutor.__call__

        def launched(grid: Any, *given: Any, **named: Any) -> None:
            operands = {**dict(zip(grid.arg_names, given, strict=False)), **named}
            if self.depth:
                self.kernels.append(grid.fn.__name__)
                self.bytes += (passes - 1) * size_of(operands.get("out")) + size_of(operands)
            self.inside = True
            if runs:
                run(grid, *given, **named)
            else:
                operands["out"].zero_()
            self.inside = False

        monkeypatch.setattr(GridExecutor, "__call__", launched)

    @property
    def launches(self) -> int:
        return len(self.kernels) + len(self.others)

    def __enter__(self) -> Moved:
        self.depth += 1
        super().__enter__()
        return self

    def __exit__(self, *failed: Any) -> None:
        self.depth -= 1
        super().__exit__(*failed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "spacelang":
            with self:
                return OPDEFS[func.name()]._init_fn(*args, **(kwargs or {}))
        made = func(*args, **(kwargs or {}))
        view = storages(made) <= storages((args, kwargs)) and not func._schema.is_mutable
        if not self.inside and not view and "empty" not in func.name():
            self.others.append(func.name())
            read = storages((args, kwargs))
            if read and read <= self.weights:
                self.copies.append(func.name())
            self.bytes += size_of((args, kwargs)) + size_of(made)
        return made


def storages(operands: Any) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in tree_leaves(operands) if isinstance(t, Tensor)}


def size_of(operands: Any) -> int:
    """Bytes of tensors, of what is spread along an axis once, and each tensor once.

    A kernel is given one again in the place of an operand that there is not. But an index that two
    terms share is read for each.
    """
    tensors = [t for t in tree_leaves(operands) if isinstance(t, Tensor) and t.numel()]
    once = {t.data_ptr(): t for t in tensors if t.is_floating_point()}
    return sum(map(_bytes, [*once.values(), *(t for t in tensors if not t.is_floating_point())]))


def _bytes(x: Tensor) -> int:
    spread = [size for size, step in zip(x.shape, x.stride(), strict=True) if step]
    return torch.Size(spread).numel() * x.element_size()
