"""Its row in the torch backend."""

import torch.nn.functional as F
from torch import fx

from spacelang.backends.torch.lowering.emit import Emit


def leaky_relu(emit: Emit) -> fx.Node:
    return emit.call(F.leaky_relu, emit.x, emit.number("slope"))
