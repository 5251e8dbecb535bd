"""The device of a command: `cpu`, `cuda`, `cuda:1`, `mps`; of processes together each its own."""

from __future__ import annotations

import errno
import re

import torch

from spacelang.backends.torch.runs.ranks import local
from spacelang.diagnostics import SpaceError, error

_NAME = re.compile(r"cpu|mps|cuda(:[0-9]{1,3})?")


def device(name: str) -> str:
    """The name, of a device that is there (SP209 for another word, OSError where it is absent)."""
    if not _NAME.fullmatch(name):
        raise SpaceError(error("SP209", f"{name} is no device").hint("cpu, cuda, cuda:1 or mps"))
    name = local(name)
    kind, _, number = name.partition(":")
    count = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }[kind]
    if int(number or 0) >= count:
        raise OSError(errno.ENODEV, "this machine has no such device", name)
    return name
