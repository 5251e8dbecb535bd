"""The moving average of weights and statistics that a training keeps beside them.

average = Average(model.state_dict())
average.move(decay=0.9998)               # after each step
with average.taken(): score(model, ..)   # the model is the average, as long as the block lasts
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """Averages of the tensors of a module, which stay the very tensors as long as it lives.

    tensors   name -> average, of the shape of its tensor; whole numbers (counters) are copied
    """

    def __init__(self, own: Mapping[str, Tensor]) -> None:
        self.tensors = {name: tensor.detach().clone() for name, tensor in own.items()}
        self._pairs = [(_here(average), _here(own[name])) for name, average in self.tensors.items()]

    def move(self, decay: float) -> None:
        """average = decay * average + (1 - decay) * own."""
        smooth = [pair for pair in self._pairs if pair[0].is_floating_point()]
        averages, own = [list(column) for column in zip(*smooth, strict=True)]
        get_ema_multi_avg_fn(decay)(averages, own, 0)
        for average, value in self._pairs:
            if not average.is_floating_point():
                average.copy_(value)

    @contextmanager
    def taken(self) -> Generator[None]:
        """The module with the averages for its tensors, as long as the block lasts."""
        kept = [own.clone() for _, own in self._pairs]
        for average, own in self._pairs:
            own.copy_(average)
        try:
            yield
        finally:
            for before, (_, own) in zip(kept, self._pairs, strict=True):
                own.copy_(before)


def _here(tensor: Tensor) -> Tensor:
    """Of a tensor that is cut among processes the piece of this one, in place."""
    local: Callable[[], Tensor] | None = getattr(tensor, "to_local", None)
    return tensor if local is None else local()
