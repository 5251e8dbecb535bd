"""Networks in the form that their authors published: the rivals of our lowering, written anew.

    network = FORMS["cream_step"](state, graph, assignment)     # weights by their published names
    logits = network(images)

What is computed is the space's own function, in float32 and in the layout of memory that PyTorch
begins with, so that outputs and gradients can be compared. CDARTS, whose step is of two networks,
is in `cdarts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor

from spacelang.backends.torch.bench.published.autoformer import AutoFormer
from spacelang.backends.torch.bench.published.cream import Cream
from spacelang.backends.torch.bench.published.deit import DeiT
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph

Form = Callable[[Mapping[str, Tensor], Graph, Assignment], Callable[[Tensor], Tensor]]

# What is measured -> its published form.
FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "autoformer_t_step": AutoFormer,
        "autoformer_t_step_checkpointed": AutoFormer,
        "autoformer_t_subnet": AutoFormer,
        "cream_step": Cream,
        "deit_tiny_irpe_k": DeiT,
        "deit_tiny_irpe_qkv": DeiT,
        "mini_deit_tiny": DeiT,
    }
)

__all__ = ["FORMS", "Form"]
