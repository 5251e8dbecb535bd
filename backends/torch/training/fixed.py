"""Any nn.Module as the network of a run: a graph of which nothing is known but its images.

    graph = Fixed.of(timm.create_model("vit_tiny_patch16_224", num_classes=10), data)
    model = module_of(graph, seed=0)          # a copy of the module; of other graphs a supernet

A run trains a copy, from the weights that the module has. Its hash is of what it is made of, not of
these weights: the same call goes on with a run, whatever the module was drawn with this time.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from spacelang.backends.torch.data.datasets import Dataset, first_samples, ordered_batches
from spacelang.backends.torch.runs.ranks import current
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.evaluate import main_output, mode
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.decision import Assignment
from spacelang.ir.figures import Cost
from spacelang.ir.graph import Graph

TRIED = 2  # images of the pass that is tried before a run
# What modules raise for images of a size or number of channels that is not theirs.
UNFIT = (RuntimeError, AssertionError, ValueError, TypeError, ArithmeticError, LookupError)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True)
class Fixed(Graph):
    """A module as a graph that leaves nothing to decide and shows none of its nodes.

    network  the module, which is copied and stays as it is
    shape    of an image: channels, height, width
    about    what tells it from other modules besides what its hash is of, as the hash of a file
    """

    network: nn.Module = field(kw_only=True, compare=False, repr=False)
    shape: tuple[int, ...] = field(kw_only=True)
    about: Mapping[str, object] = field(kw_only=True, default_factory=dict, compare=False)

    @classmethod
    def of(
        cls,
        network: nn.Module,
        data: Dataset,
        name: str = "",
        about: Mapping[str, object] = MappingProxyType({}),
    ) -> Fixed:
        """A module for the images of a data set (SP704 where it cannot be trained on them)."""
        name = name or type(network).__name__
        given = {"network": network, "shape": data.shape, "about": dict(about)}
        made = cls(name, Block(name, (), ()), {}, (), **given)
        made.check(data)
        return made

    @cached_property
    def hash(self) -> str:
        """The sha256 of its modules and their settings, and of the names, types and shapes of its
        tensors."""
        modules = [
            [
                name,
                f"{type(m).__module__}.{type(m).__qualname__}",
                _ADDRESS.sub("", m.extra_repr()),
                _settings(m),
            ]
            for name, m in self.network.named_modules()
        ]
        tensors = [[n, str(t.dtype), list(t.shape)] for n, t in self.network.state_dict().items()]
        return hashlib.sha256(json.dumps([modules, tensors, self.shape]).encode()).hexdigest()

    def cost(self, assignment: Assignment | None = None) -> Cost:
        """Parameters, and multiply-accumulates of an image as PyTorch counts them; of activations
        nothing is known."""
        from torch.utils.flop_counter import FlopCounterMode

        image = torch.zeros(1, *self.shape)
        # Of attention it counts the plain form alone on a CPU.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            self._answers(image)
        params = sum(parameter.numel() for parameter in self.network.parameters())
        return Cost(params, counter.get_total_flops() // 2, 0)

    def check(self, data: Dataset) -> None:
        """SP704 where it takes no such images, tells other classes apart, or cannot be kept."""
        kept: dict[str, Any] = self.network.state_dict()
        if next(self.network.parameters(), None) is None:
            raise SpaceError(error("SP704", f"{self.name} has no parameters: nothing can learn"))
        strange = [name for name, value in kept.items() if not isinstance(value, Tensor)]
        if strange:
            told = f"{self.name} keeps more than tensors, which no checkpoint holds"
            raise SpaceError(error("SP704", told).note(", ".join(strange)))
        (batch,) = ordered_batches(first_samples(data.train, TRIED), TRIED)
        with unfit("SP704", self.name, data.shape):
            logits = self._answers(batch.images)
        wanted = [len(batch.images), len(data.classes)]
        if list(logits.shape) != wanted:
            told = f"{self.name} answers {len(batch.images)} images by {list(logits.shape)}"
            raise SpaceError(error("SP704", f"{told}, not {wanted}: {data.name} has these classes"))

    def check_recipe(self, recipe: Recipe) -> None:
        """SP701 for settings that need to know what a network is made of, or have several."""
        plain = Recipe()
        for name, instead in OF_SPACES.items():
            if getattr(recipe, name) not in (getattr(plain, name), *OTHERS.get(name, ())):
                told = f"{self.name} is a module, and {name} is for networks of a space"
                raise SpaceError(error("SP701", told).hint(instead))

    def same_everywhere(self) -> None:
        """SP708 where processes that run together start from other weights."""
        if current().size == 1:
            return
        digest = hashlib.sha256()
        for tensor in self.network.state_dict().values():
            digest.update(
                tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
            )
        current().same(digest.hexdigest(), "the weights that the module starts with")

    def _answers(self, images: Tensor) -> Tensor:
        """Its logits in evaluation; it is left in the mode that it came in."""
        like = next(self.network.parameters())
        with mode(self.network, training=False), torch.no_grad():
            return main_output(self.network(images.to(like.device, like.dtype)))


def _settings(module: nn.Module) -> list[tuple[str, object]]:
    """The attributes of a module that are plain values; its mode is none of them."""
    own = vars(module).items()
    return sorted((name, value) for name, value in own if name != "training" and _plain(value))


def _plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_plain, cast("tuple[object, ...]", value)))
    return isinstance(value, bool | int | float | str)


LEFT_OUT = "leave it out"
# Settings of training that are for spaces, and what to do for a module.
OF_SPACES = {
    "law": "it has one path: leave --law out",
    "law_weights": LEFT_OUT,
    "layer_decay": LEFT_OUT,
    "clip_mode": "clip_mode norm or value: of agc the last layer has to be known",
    "unsampled": LEFT_OUT,
    "recalibrate": LEFT_OUT,
    "reduce": "reduce explicit or ddp",
    "grad_checkpointing": "call what the module has for it: set_grad_checkpointing() of timm's",
    "torchcompile": LEFT_OUT,
}
OTHERS = {"clip_mode": ("value",), "reduce": ("ddp",)}  # that do as well


def graph_of(student: Graph | nn.Module, data: Dataset, recipe: Recipe, name: str = "") -> Graph:
    """A student as a graph: itself, or a module (SP704, SP701 and SP708 where it cannot be one)."""
    if isinstance(student, Graph) and not isinstance(student, Fixed):
        return student
    if isinstance(student, Supernet):
        told = error("SP701", "a supernet is no network of its own: its graph is the student")
        raise SpaceError(told.hint("distill(model.graph, ..)"))
    made = student if isinstance(student, Fixed) else Fixed.of(student, data, name)
    made.check_recipe(recipe)
    made.same_everywhere()
    return made


def module_of(graph: Graph, seed: int) -> nn.Module:
    """What is trained of a graph: a supernet drawn from a seed, or a copy of a module."""
    return copy.deepcopy(graph.network) if isinstance(graph, Fixed) else Supernet(graph, seed=seed)


@contextmanager
def unfit(code: str, name: str, shape: Sequence[int]) -> Generator[None]:
    """An error with this code where a network fails here at images of a shape."""
    try:
        yield
    except UNFIT as failed:
        told = error(code, f"{name} cannot take images {list(shape)}")
        raise SpaceError(told.note(str(failed).partition("\n")[0])) from failed
