"""Scores of networks that share nothing: each is trained anew, alone, before it is scored.

    prober = Scratch(graph, data, Recipe(epochs=3), seed=0)
    scores = prober.probe(assignments, Samples("validation"))

What contraction searches by, and what a search over shared weights can be checked against. All
networks see the same images in the same order, so a score is a function of the seed, the recipe
and the architecture, not of what was scored before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.runs.ranks import current
from spacelang.backends.torch.searching.under_way import UnderWay
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.evaluate import ran_out_of_memory
from spacelang.backends.torch.training.nonfinite import NotFinite
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.trainer import TorchTrainer
from spacelang.diagnostics import Diagnostic, SpaceError, error
from spacelang.engines.protocol import Samples, Score
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.passes.specialize import specialize

CANNOT_GO_ON = "SP703"


class Scratch:
    """Trains each network by the recipe, then scores it. Implements the engines' `Prober`.

    A training that is under way is kept in `kept`, where that is given, and goes on from there. A
    training that cannot go on (its loss is not finite, memory is short) is a failed score; SP703
    where memory is short in one of several processes.
    """

    def __init__(
        self,
        graph: Graph,
        data: Dataset,
        recipe: Recipe,
        seed: int,
        device: str = "cpu",
        kept: UnderWay | None = None,
    ) -> None:
        self.graph, self.data, self.recipe = graph, data, recipe
        self.seed, self.device, self.kept = seed, device, kept

    def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
        """A score for each architecture, in their order, as soon as it is trained."""
        for assignment in assignments:
            try:
                yield self._score(assignment, samples)
            except (SpaceError, RuntimeError, MemoryError) as failed:
                told = _told(failed)
                if told.code != CANNOT_GO_ON:
                    raise
                # What is not finite is met by all processes; memory is short in one of them, and
                # the others wait for it in the training that it cannot go on with.
                if current().size > 1 and not isinstance(failed, NotFinite):
                    raise SpaceError(told) from failed
                yield Score(0, 0, told.headline)

    def _score(self, assignment: Assignment, samples: Samples) -> Score:
        network = specialize(self.graph, assignment)
        model = Supernet(network, seed=self.seed).to(self.device)
        trainer = TorchTrainer(model, network, self.data, self.recipe, self.seed)
        if self.kept is not None:
            self.kept.train(trainer, network, assignment)
        else:
            for _ in self.recipe.engine.run(network, trainer, self.seed):
                pass
        (score,) = trainer.probe(({},), samples)
        return score


def _told(failed: Exception) -> Diagnostic:
    """What a training says that failed; the error itself where that is no matter of ours."""
    if isinstance(failed, SpaceError):
        return failed.diagnostics[0]
    if not ran_out_of_memory(failed):
        raise failed
    return error(CANNOT_GO_ON, "out of memory").hint("try a smaller --batch-size")
