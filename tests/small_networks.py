"""A small network of each system, whose every weight and statistic matters, and images for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spacelang.backends.torch.bench.work import filled
from spacelang.backends.torch.supernet import Supernet
from spacelang.loader import load

# A small network of each system: its address, its settings.
SMALL = {
    "autoformer": ("autoformer.space:autoformer_t", {"image": 48, "classes": 7}),
    "efficientvit": (
        "efficientvit.space:efficientvit_search",
        {"image": 64, "larger_windows": True, "classes": 7},
    ),
    "efficientvit, padded": ("efficientvit.space:efficientvit_m0", {"image": 160, "classes": 7}),
    "tinyvit": ("tinyvit.space:tinyvit_5m", {"image": 64, "larger_windows": True, "classes": 7}),
    "swin": ("swin.space:swin_t", {"classes": 7}),
    "deit": ("deit.space:deit_ti", {"image": 32, "classes": 7}),
    "irpe": ("irpe.space:deit_s_product_qkv", {"image": 48, "classes": 7}),
    "s3": ("s3.space:s3_t", {"classes": 7}),
    "minivit": ("minivit.space:mini_deit_ti", {"image": 32, "classes": 7}),
    "cream": ("cream.space:cream", {"image": 64, "classes": 7}),
    "cdarts": ("cdarts.space:cifar10_cdarts_cifar", {"cells": [1, 1, 1]}),
    "mobilenetv3": ("mobilenetv3.space:mobilenetv3_large", {"image": 64, "classes": 7}),
}


def model_of(address: str, **settings: Any) -> Supernet:
    """A model in evaluation whose every weight and statistic matters."""
    return filled(Supernet(load(address, **settings), seed=1))


def images(model: Supernet, batch: int) -> Tensor:
    sizes = [int(size.at({})) for size in model.graph.root.inputs[0].types[0].shape[1:]]
    return torch.randn(batch, *sizes, generator=torch.Generator().manual_seed(3))
