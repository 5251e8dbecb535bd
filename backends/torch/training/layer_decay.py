"""Learning rates that fall from the last layer to the first, as by timm's `--layer-decay`.

    scales = layer_scales(graph, 0.75)      # {"blocks.11.attn.qkv.weight": 0.75, "head.bias": 1}

A layer is a block of the network: `blocks[3]`, or `layers[1].blocks[0]`. What comes before the
first is a layer, and so is what gives the classes; what stands between blocks goes with the next,
and what follows the last with that. So timm counts the layers of DeiT and Swin; of families that
have rules of their own there (the norm before TinyViT's head) some tensors fall to a neighbour.
"""

from __future__ import annotations

import re

from spacelang.backends.torch.head_map import last_layer
from spacelang.backends.torch.storage import tensor_names
from spacelang.ir.graph import Graph

# The leading labels of a path that have a number: of `layers[1].blocks[0].mlp.fc1` the first two.
_NUMBERED = re.compile(r"\w+(?:\[\d+\])+(?:\.\w+(?:\[\d+\])+)*(?=\.)")


def layer_scales(graph: Graph, decay: float) -> dict[str, float]:
    """What the learning rate of each stored tensor is multiplied by, by its name in the state dict:
    1 in the layer that gives the classes, `decay` in the one before, and so on."""
    layers = layers_of(graph)
    last = max(layers.values())
    return {name: decay ** (last - layer) for name, layer in layers.items()}


def layers_of(graph: Graph) -> dict[str, int]:
    """The number of the layer of each stored tensor, by its name in the state dict."""
    heads = {name.partition(".")[0] for name in last_layer(graph)}
    numbers = {block: number for number, block in enumerate(_blocks(graph), 1)}
    found: dict[str, int] = {}
    seen = 0  # the last block so far
    for path, storage in graph.storages.items():
        block = _block(path)
        if path.partition(".")[0] in heads:
            layer = len(numbers) + 1
        elif block in numbers:
            layer = numbers[block]
            seen = max(seen, layer)
        else:
            layer = min(seen + 1, len(numbers)) if seen else 0
        found |= dict.fromkeys(tensor_names(storage), layer)
    return found


def _block(path: str) -> str:
    matched = _NUMBERED.match(path)
    return matched.group() if matched else ""


def _blocks(graph: Graph) -> list[str]:
    """The blocks in their order: numbered labels that hold no further ones."""
    found = list(dict.fromkeys(filter(None, map(_block, graph.storages))))
    return [block for block in found if not any(b.startswith(f"{block}.") for b in found)]
