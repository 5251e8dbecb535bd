"""A subnet's folder as the commands use it: its network, and inputs to try it with."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from spacelang.backends.torch.inputs import parsed
from spacelang.backends.torch.subnet import MANIFEST, load_subnet
from spacelang.diagnostics import SpaceError, error
from spacelang.files import PathLike


def open_subnet(folder: PathLike, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network of a folder, and random inputs of the shapes its manifest names.

    Its source runs, so only of a folder that you trust. SP702 where it is no subnet.
    """
    network = load_subnet(folder)
    manifest = json.loads((Path(folder) / MANIFEST).read_bytes())
    generator = torch.Generator().manual_seed(seed)
    listed = manifest.get("inputs")
    texts = list(listed.values()) if isinstance(listed, dict) else []
    inputs: list[Tensor] = []
    for text in texts:
        found = parsed(text) if isinstance(text, str) else None
        if found is None:
            raise SpaceError(error("SP702", f"{folder}: {text!r} is no shape of an input"))
        inputs.append(found.draw(generator))
    if not inputs:
        raise SpaceError(error("SP702", f"{folder}: its {MANIFEST} names no inputs"))
    return network, tuple(inputs)
