"""AutoFormer in the form that its authors published: the rival of our lowering, written anew.

    network = AutoFormer(weights.save(model, names="published"), graph, assignment)
    logits = network(images)

Rows of q, k and v are gathered with a stride of three from one matrix in every call; the relative
tables are gathered to N x N x d for queries and for values; attention is explicit. What is computed
is the space's own function, so that outputs and gradients can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph

HEAD = 64
REACH = 14


class AutoFormer:
    """One network of a supernet's weights by their published names; a fixed one is given none."""

    def __init__(self, state: Mapping[str, Tensor], graph: Graph, assignment: Assignment) -> None:
        values = dict(assignment)
        self.state = state
        layers = {int(n.split(".")[1]) for n in state if n.startswith("blocks.")}
        self.depth = int(str(values.get("depth", len(layers))))
        self.width = int(str(values.get("width", state["norm.weight"].shape[0])))
        self.heads = [self._heads(values, i) for i in range(self.depth)]
        self.hidden = [self._hidden(values, i) for i in range(self.depth)]

    def _heads(self, values: Mapping[str, object], layer: int) -> int:
        found = values.get(f"encoder[{layer}].heads")
        stored = self.state[f"blocks.{layer}.attn.proj.weight"].shape[1] // HEAD
        return stored if found is None else int(str(found))

    def _hidden(self, values: Mapping[str, object], layer: int) -> int:
        found = values.get(f"encoder[{layer}].ratio")
        stored = self.state[f"blocks.{layer}.fc1.weight"].shape[0]
        return stored if found is None else int(self.width * float(str(found)))

    def parameters(self) -> int:
        """How many there are, counted as published: every weight is cut out anew, then measured."""
        state, width = self.state, self.width
        found = [state["cls_token"][..., :width], state["pos_embed"][..., :width]]
        found += [state[f"patch_embed_super.proj.{role}"][:width] for role in ("weight", "bias")]
        for layer in range(self.depth):
            name, hidden, inner = f"blocks.{layer}", self.hidden[layer], self.heads[layer] * HEAD
            for norm in ("attn_layer_norm", "ffn_layer_norm"):
                found += [state[f"{name}.{norm}.{role}"][:width] for role in ("weight", "bias")]
            found += [self._qkv(layer), state[f"{name}.attn.qkv.bias"][: 3 * inner]]
            found += [state[f"{name}.attn.proj.weight"][:width, :inner]]
            found += [state[f"{name}.attn.proj.bias"][:width]]
            found += [t for n, t in state.items() if n.startswith(f"{name}.attn.rel_pos_embed")]
            found += [state[f"{name}.fc1.weight"][:hidden, :width]]
            found += [state[f"{name}.fc1.bias"][:hidden]]
            found += [state[f"{name}.fc2.weight"][:width, :hidden]]
            found += [state[f"{name}.fc2.bias"][:width]]
        found += [state[f"norm.{role}"][:width] for role in ("weight", "bias")]
        found += [state["head.weight"][:, :width], state["head.bias"]]
        return sum(tensor.numel() for tensor in found)

    def _qkv(self, layer: int) -> Tensor:
        """Rows of q, k and v, each gathered with a stride of three."""
        rows = self.heads[layer] * HEAD * 3
        stored = self.state[f"blocks.{layer}.attn.qkv.weight"][:, : self.width]
        return torch.cat([stored[i:rows:3] for i in range(3)], dim=0)

    def __call__(self, x: Tensor) -> Tensor:
        state, width = self.state, self.width
        weight, bias = (state[f"patch_embed_super.proj.{role}"] for role in ("weight", "bias"))
        x = F.conv2d(x, weight[:width], bias[:width], stride=weight.shape[-1])
        x = x.flatten(2).transpose(1, 2)
        token = state["cls_token"][..., :width].expand(x.shape[0], -1, -1)
        x = torch.cat((token, x), dim=1) + state["pos_embed"][..., :width]
        for layer in range(self.depth):
            x = self._encoder(x, layer)
        x = self._norm(x, "norm")[:, 1:].mean(dim=1)
        return F.linear(x, state["head.weight"][:, :width], state["head.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        width = self.width
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.layer_norm(x, (width,), weight[:width], bias[:width])

    def _encoder(self, x: Tensor, layer: int) -> Tensor:
        state, width, hidden = self.state, self.width, self.hidden[layer]
        name = f"blocks.{layer}"
        x = x + self._attention(self._norm(x, f"{name}.attn_layer_norm"), layer)
        h = self._norm(x, f"{name}.ffn_layer_norm")
        weight, bias = state[f"{name}.fc1.weight"], state[f"{name}.fc1.bias"]
        h = F.gelu(F.linear(h, weight[:hidden, :width], bias[:hidden]))
        weight, bias = state[f"{name}.fc2.weight"], state[f"{name}.fc2.bias"]
        return x + F.linear(h, weight[:width, :hidden], bias[:width])

    def _attention(self, x: Tensor, layer: int) -> Tensor:
        state, heads, name = self.state, self.heads[layer], f"blocks.{layer}.attn"
        batch, tokens, width = x.shape
        qkv = F.linear(x, self._qkv(layer), state[f"{name}.qkv.bias"][: heads * HEAD * 3])
        q, k, v = qkv.reshape(batch, tokens, 3, heads, HEAD).permute(2, 0, 3, 1, 4)
        tables = [self._relative(f"{name}.rel_pos_embed_{side}", tokens) for side in "kv"]
        y = explicit(q, k, v, *tables).transpose(1, 2).reshape(batch, tokens, -1)
        weight = state[f"{name}.proj.weight"][:width, : heads * HEAD]
        return F.linear(y, weight, state[f"{name}.proj.bias"][:width])

    def _relative(self, name: str, tokens: int) -> Tensor:
        """N x N x d: a row of each table for each pair of tokens, row 0 for the class token's."""
        patches = torch.arange(tokens - 1)
        side = int((tokens - 1) ** 0.5)
        total: Tensor | None = None
        for table, places in (("v", patches // side), ("h", patches % side)):
            offsets = (places[None] - places[:, None]).clamp(-REACH, REACH) + REACH + 1
            index = F.pad(offsets, (1, 0, 1, 0))
            part = self.state[f"{name}.embeddings_table_{table}"][index]
            total = part if total is None else total + part
        assert total is not None
        return total


def explicit(q: Tensor, k: Tensor, v: Tensor, on_keys: Tensor, on_values: Tensor) -> Tensor:
    """q, k, v [B, H, N, d] and tables [N, N, d] of queries and of weights -> [B, H, N, d]."""
    batch, heads, tokens, _ = q.shape
    scale = HEAD**-0.5
    scores = (q @ k.transpose(-2, -1)) * scale
    by_token = q.permute(2, 0, 1, 3).reshape(tokens, batch * heads, HEAD)
    moved = (by_token @ on_keys.transpose(2, 1)).transpose(1, 0)
    scores = scores + moved.reshape(batch, heads, tokens, tokens) * scale
    p = scores.softmax(dim=-1)
    by_token = p.permute(2, 0, 1, 3).reshape(tokens, batch * heads, tokens)
    moved = (by_token @ on_values).transpose(1, 0).reshape(batch, heads, tokens, HEAD)
    return p @ v + moved
