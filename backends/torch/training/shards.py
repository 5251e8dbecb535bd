"""The shards of a step's batch, which processes share: what each gives, added in one order.

    shards = Shards(ranks, recipe.shards, model)
    correct, terms = shards.learn(samples, names, parameters, one)
    with seeded(masks_seed(seed, step, shard), device): ..

A shard is a forward and backward pass of its own. Whoever computed what, the sum over the shards of
gradients, statistics and losses follows one tree (`ranks.py`), so it has the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spacelang.backends.torch.data.datasets import shard_sizes
from spacelang.backends.torch.runs.ranks import Branch, Ranks
from spacelang.engines.stream import seed_of

# A pass through a shard, by its number and its share of the batch: right answers, loss terms.
Pass = Callable[[int, float], tuple[int, Mapping[str, float]]]


class Shards:
    """How every batch is cut (SP708 where the processes cannot share it so).

    own    the numbers of the shards of this process
    given  PyTorch itself adds the gradients of so many of the first parameters
    """

    def __init__(self, ranks: Ranks, count: int, model: nn.Module, given: int = 0) -> None:
        self.ranks, self.count, self.model, self.given = ranks, count, model, given
        self.own = ranks.shards(count)

    def learn(
        self, samples: int, names: Sequence[str], parameters: Sequence[nn.Parameter], one: Pass
    ) -> tuple[int, dict[str, float]]:
        """Right answers and loss terms of a batch, by a pass through each shard that is ours.

        Afterwards `parameters`, in one order everywhere, have the gradients of the whole batch, and
        running statistics are the mean over the shards; not where a term is not finite.
        """
        if self.count == 1:
            correct, terms = one(0, 1.0)
            return correct, dict(terms)
        sizes = shard_sizes(samples, self.count)
        buffers = [(b, b.clone()) for b in self.model.buffers()]
        statistics = [(b, kept) for b, kept in buffers if b.is_floating_point()]
        sums, rows = Branch(), list[list[float]]()
        for number in self.own:
            for buffer, kept in buffers:
                buffer.copy_(kept)
            share = sizes[number] / samples
            correct, terms = one(number, share)
            # An empty shard is the pass of a sample that counts nothing.
            right = correct if sizes[number] else 0
            rows.append([right, *(share * terms[name] for name in names)])
            moved = [share * (b - kept) for b, kept in statistics]
            sums.push(self._taken(parameters) | dict(enumerate(moved, -len(moved))))
        found = self.ranks.gather(rows)
        whole = {name: sum(row[i] for row in found) for i, name in enumerate(names, 1)}
        if all(map(math.isfinite, whole.values())):
            added = self.ranks.add(sums.total())
            for number, parameter in enumerate(parameters[self.given :], self.given):
                parameter.grad = added.get(number)
            for number, (buffer, kept) in enumerate(statistics, -len(statistics)):
                buffer.copy_(kept + added[number])
        return int(sum(row[0] for row in found)), whole

    def _taken(self, parameters: Sequence[nn.Parameter]) -> dict[int, Tensor]:
        """The gradients there are, by the number of their parameter, which has none afterwards."""
        found: dict[int, Tensor] = {}
        for number, parameter in enumerate(parameters[self.given :], self.given):
            if parameter.grad is not None:
                found[number], parameter.grad = parameter.grad, None
        return found


def masks_seed(seed: int, step: int, shard: int = 0) -> int:
    """The seed of what a shard of a step drops."""
    return seed_of(seed, "masks", step, *([shard] if shard else []))


@contextmanager
def seeded(seed: int, device: torch.device) -> Generator[None]:
    """torch's own generators from a seed on; as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
