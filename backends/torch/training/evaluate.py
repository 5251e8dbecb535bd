"""Right answers of networks, on a part or on the held-out test part.

    score = evaluate(model, data.validation)
    score = evaluate_test(subnet, data)            # the one place that reads the test part

Evaluation draws nothing and changes nothing: a network leaves it in the mode it came in.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain

import torch
from torch import Tensor, nn

from spacelang.backends.torch.data.datasets import Batch, Dataset, Part, ordered_batches, test_part
from spacelang.backends.torch.runs.ranks import current
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.protocol import Score

BATCH = 250
MEMORY = "out of memory"
FAILURES = ("", "its outputs are not finite", MEMORY)
_SAID = (MEMORY, "can't allocate memory", "not enough memory")


def evaluate(model: nn.Module, part: Part, batch_size: int = BATCH) -> Score:
    """The score of a network on a whole part."""
    return score(model, ordered_batches(part, batch_size))


def evaluate_test(model: nn.Module, data: Dataset, batch_size: int = BATCH) -> Score:
    """The score of a finished network on the held-out part. Decide nothing by it."""
    return score(model, ordered_batches(test_part(data), batch_size))


def score(
    model: nn.Module,
    batches: Sequence[Batch],
    within: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Score:
    """The score on batches; logits that are not finite, or too little memory, are a failure.

    `within` makes what the network is scored in, as statistics of its own. Processes that run
    together take turns with the batches, and all get the score of the whole. Weights that are cut
    among them are whole for the pass of all: who has no batch left goes along with the first, and
    too little memory in one is no score but ends them (SP703).
    """
    ranks, cut = current(), bool(getattr(model, "cut", False))
    mine = batches[ranks.rank :: ranks.size]
    idle = cut and len(mine) * ranks.size < len(batches)
    correct, total, failure = _counted(model, mine, batches[:1] if idle else (), within)
    if cut and ranks.size > 1 and FAILURES[failure] == MEMORY:
        raise SpaceError(error("SP703", "out of memory where a network is scored"))
    rows = ranks.gather([[correct, total, failure]])
    failed = max(int(row[2]) for row in rows)
    if failed:
        return Score(0, 0, FAILURES[failed])
    return Score(int(sum(row[0] for row in rows)), int(sum(row[1] for row in rows)))


def _counted(
    model: nn.Module,
    batches: Sequence[Batch],
    others: Sequence[Batch],
    within: Callable[[], AbstractContextManager[None]],
) -> tuple[int, int, int]:
    """Right answers, answers, and the number of a failure; those of `others` do not count."""
    tensors = [*model.parameters(), *model.buffers()]  # a rule that teaches may have none
    device = tensors[0].device if tensors else torch.device("cpu")
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
    correct = total = failure = 0
    try:
        with mode(model, training=False), within(), torch.no_grad():
            for number, batch in enumerate(chain(batches, others)):
                logits = main_output(model(batch.images.to(device, dtype)))
                if number >= len(batches):
                    continue
                failure = failure or int(not torch.isfinite(logits).all())
                correct += int((logits.argmax(1).cpu() == batch.labels).sum())
                total += len(batch.labels)
    except (RuntimeError, MemoryError) as failed:
        if not ran_out_of_memory(failed):
            raise
        failure = FAILURES.index(MEMORY)
    return correct, total, failure


@contextmanager
def mode(model: nn.Module, training: bool) -> Generator[None]:
    """A model in training or evaluation; each module goes back to the mode that it came in."""
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, before in modes.items():
            module.training = before


def main_output(result: object) -> Tensor:
    """The logits among what a network gives: its only result, or its first one."""
    if isinstance(result, Tensor):
        return result
    if isinstance(result, dict):
        result = tuple(result.values())
    if isinstance(result, tuple | list) and result and isinstance(result[0], Tensor):
        return result[0]
    raise TypeError(f"a network gave {type(result).__name__}, not logits")


def ran_out_of_memory(failed: Exception) -> bool:
    """Whether an error, of torch or of Python, means that memory is short, on any device."""
    if isinstance(failed, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(failed).lower() for words in _SAID)
