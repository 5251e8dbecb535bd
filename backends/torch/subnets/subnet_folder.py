"""A subnet's folder as the commands use it: its network, and inputs to try it with."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from spacelang.backends.torch.inputs import parsed
from spacelang.backends.torch.subnets.subnet import read_subnet
from spacelang.diagnostics import SpaceError, error
from spacelang.files import PathLike
from spacelang.manifest import MANIFEST


def open_subnet(folder: PathLike, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network of a folder, and random inputs of the shapes its manifest names.

    Its source runs, so only of a folder that you trust. SP702 where it is no subnet.
    """
    network, manifest = read_subnet(folder)
    generator = torch.Generator().manual_seed(seed)
    listed = manifest.get("inputs")
    texts = list(cast("dict[str, object]", listed).values()) if isinstance(listed, dict) else []
    inputs: list[Tensor] = []
    for text in texts:
        found = parsed(text) if isinstance(text, str) else None
        if found is None:
            raise SpaceError(error("SP702", f"{folder}: {text!r} is no shape of an input"))
        inputs.append(found.draw(generator))
    if not inputs:
        raise SpaceError(error("SP702", f"{folder}: its {MANIFEST} names no inputs"))
    return network, tuple(inputs)
