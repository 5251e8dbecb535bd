"""A subnet's folder as the commands use it: its network, and inputs to try it with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from spacelang.backends.torch.subnet import MANIFEST, load_subnet
from spacelang.diagnostics import SpaceError, error
from spacelang.files import PathLike

BATCH = 2
_SHAPE = re.compile(r"(?P<dtype>[a-z]\w*)?\[(?P<sizes>[^\]]*)\]")
_FREE = re.compile(r"[A-Za-z_]\w*")


def open_subnet(folder: PathLike, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network of a folder, and random inputs of the shapes its manifest names.

    Its source runs, so only of a folder that you trust. SP702 where it is no subnet.
    """
    network = load_subnet(folder)
    manifest = json.loads((Path(folder) / MANIFEST).read_bytes())
    generator = torch.Generator().manual_seed(seed)
    listed = manifest.get("inputs")
    texts = list(listed.values()) if isinstance(listed, dict) else []
    inputs = tuple(torch.randn(_shape(folder, t), generator=generator) for t in texts)
    if not inputs:
        raise SpaceError(error("SP702", f"{folder}: its {MANIFEST} names no inputs"))
    return network, inputs


def _shape(folder: PathLike, text: object) -> tuple[int, ...]:
    """`[B, 3, 224, 224]` with BATCH for a free size."""
    found = _SHAPE.fullmatch(text) if isinstance(text, str) else None
    if found is None or found["dtype"]:
        raise SpaceError(error("SP702", f"{folder}: {text!r} is no shape of an input of numbers"))
    sizes = [word.strip() for word in found["sizes"].split(",")]
    if not all(_FREE.fullmatch(size) or (size.isdecimal() and len(size) < 7) for size in sizes):
        raise SpaceError(error("SP702", f"{folder}: {text!r} is no shape of an input"))
    return tuple(int(size) if size.isdecimal() else BATCH for size in sizes)
