"""What printed supernets are made of: classes that need torch alone and are printed word for word.

network = Network()                      # a SharedNetwork with tables of its own
network.load_state_dict(state)           # names as in the supernet
y = network.activate({"width": 192, ..})(image)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn


def below(prefix: str, path: str) -> str:
    """A path below a prefix; one that starts with `/` counts from the root."""
    if path.startswith("/"):
        return path[1:]
    return f"{prefix}.{path}" if prefix and path else prefix or path


class Weights:
    """The weights of one use of a block, by their names there.

    A use that shares weights reads those of another place, `store`, but for its `own`.
    """

    def __init__(
        self, network: SharedNetwork, path: str = "", store: str = "", own: Sequence[str] = ()
    ) -> None:
        self.network, self.path, self.store, self.own = network, path, store, tuple(own)

    def at(self, path: str, store: str | None = None, own: Sequence[str] = ()) -> Weights:
        """The weights of a use of another block inside this one."""
        inner = tuple(o[len(path) + 1 :] for o in self.own if o.startswith(path + "."))
        here = below(self.path, path)
        there = here if self.keeps(path) else below(self.store, path if store is None else store)
        return Weights(self.network, here, there, (*own, *(inner if path else self.own)))

    def keeps(self, name: str) -> bool:
        """Whether a name is one that this use shares with no other."""
        return any(name == o or name.startswith(o + ".") for o in self.own)

    def name(self, name: str) -> str:
        """A name as the whole network has it."""
        return below(self.path if self.keeps(name) else self.store, name)

    def __getitem__(self, name: str) -> Tensor:
        """A tensor as it is stored."""
        return self.network._tensor(self.name(name))

    def pick(self, name: str, index: int) -> Tensor:
        """The tensor of a candidate that has one of its own."""
        return self.network._tensor(f"{self.name(name)}.{index}")

    def extent(self, name: str, axis: int, factor: int) -> int:
        """How much is stored of a factor of an axis."""
        return self.network._factors[self.name(name)][axis][factor]

    def table(self, function: Callable[..., Tensor], **options: float | str) -> Tensor:
        """An index table, computed once."""
        return self.network._table(function, options)


class SharedNetwork(nn.Module):
    """All networks of a space: the weights that they share, and the architecture that is active."""

    _shapes: Mapping[str, tuple[int, ...]] = {}
    _buffer_shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    _index_tables: Mapping[str, tuple[Callable[..., Tensor], Mapping[str, float | str]]] = {}
    _factors: Mapping[str, tuple[tuple[int, ...], ...]] = {}
    _choices: Mapping[str, tuple[object, ...]] = {}

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[str, tuple[nn.Module, str]] = {}
        self._computed: dict[str, str] = {}
        for name, shape in self._shapes.items():
            owner, label = self._place(name)
            owner.register_parameter(label, nn.Parameter(torch.zeros(shape)))
        for name, (dtype, shape) in self._buffer_shapes.items():
            owner, label = self._place(name)
            owner.register_buffer(label, torch.zeros(shape, dtype=dtype))
        for name, (function, options) in self._index_tables.items():
            owner, label = self._place(name)
            owner.register_buffer(label, function(**options))
        self.activate({})

    def activate(self, assignment: Mapping[str, object]) -> SharedNetwork:
        """Be another network of the space; what is not said is at the first of its choices."""
        decided = {name: values[0] for name, values in self._choices.items()}
        for name, value in assignment.items():
            if name not in self._choices:
                raise KeyError(f"no decision has the path {name}")
            decided[name] = value = exact(value)
            wanted = tuple(sorted(value)) if isinstance(value, tuple) else value
            if not any(type(v) is type(wanted) and v == wanted for v in self._choices[name]):
                raise ValueError(f"{value!r} is no candidate of {name}: {self._choices[name]}")
        self._decided = decided
        return self

    def _place(self, name: str) -> tuple[nn.Module, str]:
        """The module that a tensor is in, made where it is missing, and its label there."""
        *above, label = name.split(".")
        owner: nn.Module = self
        for word in above:
            if word not in owner._modules:
                owner.add_module(word, nn.Module())
            owner = owner.get_submodule(word)
        self._places[name] = (owner, label)
        return owner, label

    def _tensor(self, name: str) -> Tensor:
        owner, label = self._places[name]
        return getattr(owner, label)

    def _table(self, function: Callable[..., Tensor], options: Mapping[str, float | str]) -> Tensor:
        key = f"{function.__name__}{sorted(options.items())}"
        if key not in self._computed:
            self._computed[key] = f"_computed_{len(self._computed)}"
            like = next(self.parameters(), torch.empty(0))
            with torch.inference_mode(False):  # it is kept, and training reads it too
                entries = function(**options).to(like.device)
                floating = entries.is_floating_point()
                entries = entries.to(like.dtype) if floating else entries
            self.register_buffer(self._computed[key], entries, persistent=False)
        return getattr(self, self._computed[key])


def exact(value: object) -> object:
    """A value of a decision as it is computed with: a number that is not whole as a Fraction."""
    if isinstance(value, float):
        value = Fraction(repr(value))
    if isinstance(value, Fraction) and value.denominator == 1:
        return value.numerator
    return tuple(value) if isinstance(value, list) else value
