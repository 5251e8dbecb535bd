"""DeiT with iRPE, and Mini-DeiT, in their published form.

    network = DeiT(weights.save(model, names="published"), graph, {})
    logits = network(images)

Lookups by the query or the key are a product with the table, of which entries are taken by one
flat index; the table of values is gathered to N x N x d in every call, and multiplied query by
query. Mini-DeiT mixes heads by convolutions of one pixel before and after the softmax. Attention
is explicit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph

HEAD = 64
EPS = 1e-6
RATIO = 1.9
BUCKETS = int(2 * RATIO)  # on either side of none


class DeiT:
    """One network of weights by their published names."""

    def __init__(self, state: Mapping[str, Tensor], graph: Graph, assignment: Assignment) -> None:
        self.state = state
        self.heads = state["norm.weight"].shape[0] // HEAD
        groups = {int(name.split(".")[1]) for name in state if name.startswith("blocks.")}
        found = [name for name in state if name.startswith("blocks.0.block.norm1.instances.")]
        self.repeats = len(found) // 2  # none: every layer has its own weights
        self.depth = len(groups) * max(1, self.repeats)
        side = math.isqrt(state["pos_embed"].shape[1])
        self.skip = state["pos_embed"].shape[1] - side * side
        self.index = bucket_ids(side, self.skip)
        count = int(self.index.max()) + 1
        tokens = len(self.index)
        self.flat = (self.index + torch.arange(tokens)[:, None] * count).flatten()

    def __call__(self, x: Tensor) -> Tensor:
        state = self.state
        weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
        x = F.conv2d(x, weight, bias, stride=weight.shape[-1]).flatten(2).transpose(1, 2)
        if self.skip:
            x = torch.cat((state["cls_token"].expand(x.shape[0], -1, -1), x), dim=1)
        x = x + state["pos_embed"]
        for layer in range(self.depth):
            x = x + self._attention(self._norm(x, layer, "norm1"), layer)
            x = x + self._mlp(self._norm(x, layer, "norm2"), layer)
        x = F.layer_norm(x, x.shape[-1:], state["norm.weight"], state["norm.bias"], EPS)
        x = x[:, 0] if self.skip else x.mean(dim=1)
        return F.linear(x, state["head.weight"], state["head.bias"])

    def _shared(self, layer: int, name: str) -> str:
        """Where a layer keeps what layers share."""
        if not self.repeats:
            return f"blocks.{layer}.{name}"
        return f"blocks.{layer // self.repeats}.block.{name}"

    def _own(self, layer: int, name: str) -> str:
        """Where a layer keeps what is its own."""
        found = self._shared(layer, name)
        return f"{found}.instances.{layer % self.repeats}" if self.repeats else found

    def _linear(self, x: Tensor, layer: int, name: str) -> Tensor:
        at = self._shared(layer, name)
        return F.linear(x, self.state[f"{at}.weight"], self.state[f"{at}.bias"])

    def _norm(self, x: Tensor, layer: int, name: str) -> Tensor:
        at = self._own(layer, name)
        return F.layer_norm(
            x, x.shape[-1:], self.state[f"{at}.weight"], self.state[f"{at}.bias"], EPS
        )

    def _mlp(self, x: Tensor, layer: int) -> Tensor:
        return self._linear(F.gelu(self._linear(x, layer, "mlp.fc1")), layer, "mlp.fc2")

    def _attention(self, x: Tensor, layer: int) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self._linear(x, layer, "attn.qkv").reshape(batch, tokens, 3, self.heads, HEAD)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q = q * HEAD**-0.5
        scores = q @ k.transpose(-2, -1)
        on_keys = self._table(layer, "rpe_k")
        if on_keys is not None:
            scores = scores + self._looked_up(q, on_keys)
        on_queries = self._table(layer, "rpe_q")
        if on_queries is not None:
            scores = scores + self._looked_up(k * HEAD**-0.5, on_queries).transpose(-2, -1)
        p = self._mixed(self._mixed(scores, layer, "conv_l").softmax(dim=-1), layer, "conv_w")
        y = p @ v
        on_values = self._table(layer, "rpe_v")
        if on_values is not None:
            rows = on_values[0][self.index.flatten()].view(tokens, tokens, HEAD)
            y = y + (p.permute(1, 2, 0, 3) @ rows).permute(2, 0, 1, 3)
        return self._linear(y.transpose(1, 2).reshape(batch, tokens, width), layer, "attn.proj")

    def _table(self, layer: int, name: str) -> Tensor | None:
        return self.state.get(f"{self._own(layer, f'attn.{name}')}.lookup_table_weight")

    def _looked_up(self, x: Tensor, table: Tensor) -> Tensor:
        """x_i . table[index[i, j]], through the products with every entry."""
        batch, heads, tokens, _ = x.shape
        found = (x @ table[None]).flatten(2)
        return found[:, :, self.flat].view(batch, heads, tokens, tokens)

    def _mixed(self, scores: Tensor, layer: int, name: str) -> Tensor:
        weight = self.state.get(f"{self._own(layer, f'attn.{name}')}.weight")
        return scores if weight is None else F.conv2d(scores, weight)


def bucket_ids(side: int, skip: int) -> Tensor:
    """The bucket of each pair of tokens of a square grid, `skip` tokens without a place first."""
    rows = torch.arange(side * side) // side
    columns = torch.arange(side * side) % side
    across = 2 * BUCKETS + 1
    down, right = (x[:, None] - x[None] for x in (rows, columns))
    ids = (_bucket(down) + BUCKETS) * across + _bucket(right) + BUCKETS
    return F.pad(ids, (skip, 0, skip, 0), value=across**2) if skip else ids


def _bucket(offset: Tensor) -> Tensor:
    """Near offsets as they are, far ones by their logarithm."""
    size = offset.abs().float()
    far = RATIO + torch.log((size / RATIO).clamp(min=1.0)) / math.log(8) * RATIO
    index = torch.where(size <= RATIO, size.round(), far.round().clamp(max=2 * RATIO))
    return (offset.sign() * index).long()
