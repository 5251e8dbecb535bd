"""CDARTS' two networks in their published form: every operation of an edge, weighed and added up.

    search = Search(shallow.state_dict())            # our names: there is no other list
    evaluation = Evaluation(deep.state_dict(), genotype)
    near, far, logits = search(images)

Each operation is a chain of its own, with its own ReLU; an edge of the search network runs all
eight, also the one that gives zeros, and a node all of its edges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

OPS = ("max_pool", "avg_pool", "skip", "sep_3", "sep_5", "dil_3", "dil_5", "none")
LAYERS, NODES = 3, 4
HEAD_POOL = 6

State = Mapping[str, Tensor]
Genotype = Mapping[str, object]
"""`normal.inputs[0]`: two sources, `normal.dag[0][1].op`: an operation's name, and so on."""


class Network:
    """Stem, cells, heads inside the network, classifier; what a node is, a subclass says."""

    def __init__(self, state: State) -> None:
        self.state = state
        cells = {tuple(n.split(".")[1:3]) for n in state if n.startswith("nas_layers.")}
        self.cells = [sum(layer == str(which) for layer, _ in cells) for which in range(LAYERS)]

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logits of the two heads and of the classifier."""
        a = b = self._norm(self._conv(x, "feature_extractor.0.0"), "feature_extractor.0.1")
        heads: list[Tensor] = []
        for layer, count in enumerate(self.cells):
            for i in range(count):
                kind = "reduction" if i == count - 1 and layer < 2 else "normal"
                a, b = b, self._cell(a, b, f"nas_layers.{layer}.{i}", kind)
            if layer < 2:
                heads.append(self._head(b, f"distill_aux_head{layer + 1}"))
        x = F.adaptive_avg_pool2d(b, 1).flatten(1)
        near, far = heads
        return near, far, F.linear(x, self.state["fc.weight"], self.state["fc.bias"])

    def _cell(self, a: Tensor, b: Tensor, name: str, kind: str) -> Tensor:
        same = a.shape[-1] == b.shape[-1]
        first = (self._project if same else self._reduce)(a, f"{name}.preproc0")
        states = [first, self._project(b, f"{name}.preproc1")]
        for n in range(NODES):
            states.append(self._node(states, f"{name}.dag.{n}", kind, n))
        return torch.cat(states[2:], dim=1)

    def _node(self, states: Sequence[Tensor], name: str, kind: str, node: int) -> Tensor:
        raise NotImplementedError

    # Operations.

    def _operation(self, op: str, x: Tensor, name: str, stride: int) -> Tensor:
        at = f"{name}.op.{op}"
        match op:
            case "max_pool":
                return F.max_pool2d(x, 3, stride, 1)
            case "avg_pool":
                return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
            case "skip":
                return x if stride == 1 else self._reduce(x, at)
            case "sep_3" | "sep_5":
                return self._unit(self._unit(x, f"{at}.net.0", stride, 1), f"{at}.net.1", 1, 1)
            case "dil_3" | "dil_5":
                return self._unit(x, at, stride, 2)
            case _:
                return (x if stride == 1 else x[:, :, ::stride, ::stride]).mul(0.0)

    def _unit(self, x: Tensor, name: str, stride: int, dilation: int) -> Tensor:
        x = self._conv(F.relu(x), f"{name}.net.1", stride, dilation)
        return self._norm(self._conv(x, f"{name}.net.2"), f"{name}.net.3")

    def _project(self, x: Tensor, name: str) -> Tensor:
        return self._norm(self._conv(F.relu(x), f"{name}.net.1"), f"{name}.net.2")

    def _reduce(self, x: Tensor, name: str) -> Tensor:
        x = F.relu(x)
        one, other = x, x[:, :, 1:, 1:]
        halves = [self._conv(one, f"{name}.conv1", 2), self._conv(other, f"{name}.conv2", 2)]
        return self._norm(torch.cat(halves, dim=1), f"{name}.bn")

    def _head(self, x: Tensor, name: str) -> Tensor:
        x = F.avg_pool2d(F.relu(x), HEAD_POOL, 2, count_include_pad=False)
        x = F.relu(self._norm(self._conv(x, f"{name}.features.2"), f"{name}.features.3"))
        x = F.conv2d(x, self.state[f"{name}.features.5.weight"])
        x = F.adaptive_avg_pool2d(F.relu(self._norm(x, f"{name}.features.6")), 1).flatten(1)
        where = f"{name}.classifier"
        return F.linear(x, self.state[f"{where}.weight"], self.state[f"{where}.bias"])

    def _conv(self, x: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        groups, pad = x.shape[1] // weight.shape[1], dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, None, stride, pad, dilation, groups)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        state = self.state
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        state[f"{name}.num_batches_tracked"].add_(1)
        weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
        return F.batch_norm(x, mean, variance, weight, bias, training=True)


class Search(Network):
    """The shallow network: every operation of every edge."""

    def _node(self, states: Sequence[Tensor], name: str, kind: str, node: int) -> Tensor:
        sources = self.state[f"alphas.{kind}.inputs.{node}"].softmax(-1)
        edges: list[Tensor] = []
        for e, x in enumerate(states):
            weights = self.state[f"alphas.{kind}.dag.{node}.{e}.op"].softmax(-1)
            stride = 2 if kind == "reduction" and e < 2 else 1
            parts = (
                w * self._operation(op, x, f"{name}.{e}", stride)
                for w, op in zip(weights, OPS, strict=True)
            )
            edges.append(sources[e] * _total(parts))
        return _total(edges)


class Evaluation(Network):
    """The deep network of a genotype: two edges a node, one operation each. No path is dropped."""

    def __init__(self, state: State, genotype: Genotype) -> None:
        super().__init__(state)
        self.genotype = genotype

    def _node(self, states: Sequence[Tensor], name: str, kind: str, node: int) -> Tensor:
        sources = self.genotype[f"{kind}.inputs[{node}]"]
        assert isinstance(sources, Sequence)
        return _total(
            self._operation(
                str(self.genotype[f"{kind}.dag[{node}][{e}].op"]), states[source], f"{name}.{e}",
                2 if kind == "reduction" and source < 2 else 1,
            )
            for e, source in enumerate(sources)
        )  # fmt: skip


def _total(parts: Iterable[Tensor]) -> Tensor:
    """The sum, one after the other."""
    first, *others = parts
    for other in others:
        first = first + other
    return first
