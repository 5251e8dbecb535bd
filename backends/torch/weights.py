"""Weights in and out, under our own names or those of a publication: strict both ways.

    load(model, state_dict, names="published")    # SP606, with a table, for others that do not fit
    state_dict = save(model, names="published")   # what `load` takes, and the publication's code
    load(model, read_file("supernet-tiny.safetensors"), names="published")

A dialect of the space (`names NAME { .. }`) says what a parameter is called elsewhere and how it is
laid out there, and by `LABEL: none` what only one side keeps; `own` are the paths as PyTorch
spells them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from spacelang.backends.torch.head_map import last_layer, mapped, read_head_map
from spacelang.backends.torch.lowering.tables import TableKey, table
from spacelang.backends.torch.resize import grids, resized
from spacelang.backends.torch.storage import labelled_tables, tensor_names
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Diagnostic, SpaceError, error
from spacelang.files import atomic_write
from spacelang.ir.dialect import Dialect, dotted
from spacelang.ir.graph import Graph
from spacelang.ir.layout import order_of, shape_of
from spacelang.ir.storage import Storage, merged

ROWS = 20  # of each kind of difference in a table; the rest is counted


@dataclass(frozen=True)
class Entry:
    """A tensor of the model: our name and the foreign one, our sizes and the foreign ones.

    factors  our factors of the first axis, where the foreign one has them in another `order`
    table    what an index table with a label holds: weights may lack it, but not contradict it
    real     whether it holds floating-point numbers, of whatever width
    """

    own: str
    foreign: str
    sizes: tuple[int, ...]
    shape: tuple[int, ...]
    factors: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    table: TableKey | None = None
    real: bool = True

    def fits(self, tensor: Tensor) -> bool:
        """Whether a foreign tensor has the shape, or holds the entries of the table.

        A convolution of single points may come as a matrix, without its axes of 1: old checkpoints
        of EfficientViT do, and the published loader takes all that fit so.
        """
        if self.table is None:
            shape = tuple(tensor.shape)
            return shape == self.shape or (len(shape) == 2 and (*shape, 1, 1) == self.shape)
        expected = table(self.table).flatten()
        return tensor.numel() == len(expected) and bool((tensor.flatten().cpu() == expected).all())

    def to_foreign(self, tensor: Tensor) -> Tensor:
        """Our tensor in the foreign shape and order of factors."""
        if self.order:
            split = tensor.reshape(*self.factors, *tensor.shape[1:])
            rest = range(len(self.factors), split.dim())
            tensor = split.permute(*self.order, *rest)
        return tensor.reshape(self.shape)

    def to_own(self, tensor: Tensor) -> Tensor:
        """A foreign tensor in our shape and order of factors."""
        if self.order:
            split = tensor.reshape(*(self.factors[i] for i in self.order), *tensor.shape[1:])
            back = sorted(range(len(self.order)), key=self.order.__getitem__)
            tensor = split.permute(*back, *range(len(back), split.dim()))
        return tensor.reshape(self.sizes)


def load(
    model: Supernet,
    state_dict: Mapping[str, Tensor],
    names: str = "own",
    *,
    resize: bool = False,
    head_map: Sequence[int] | None = None,
) -> None:
    """Copy weights into a model. Nothing is copied unless every name, shape and kind of number
    fits (SP606) and all are finite (SP702).

    With `resize` tables over a grid may be of another size (`resize.py`), and index tables too.
    With a `head_map` the classifier is one of other classes, whose rows it picks (`head_map.py`).
    """
    _check_table(state_dict)
    found = entries(model.graph, names)
    dialect = model.graph.dialects.get(names)
    if dialect is not None:
        state_dict = {n: t for n, t in state_dict.items() if not dialect.ignores(str(n))}
    check_kinds(state_dict)
    if resize:
        state_dict = _resized(model.graph, found, state_dict)
    if head_map is not None:
        state_dict = _mapped(model.graph, found, state_dict, head_map)
    wrong = _differences(found, state_dict)
    if wrong is not None:
        raise SpaceError(wrong)
    own = model.state_dict()
    with torch.no_grad():
        for entry in found:
            if entry.table is None:
                own[entry.own].copy_(entry.to_own(state_dict[entry.foreign]))


def _check_table(state_dict: object) -> None:
    """SP606 for what is no table."""
    if not isinstance(state_dict, Mapping):
        found = f"weights are a table of tensors by name, not {type(state_dict).__name__}"
        raise SpaceError(error("SP606", found))


def check_kinds(state_dict: Mapping[str, Tensor]) -> None:
    """SP606 for what is no tensor; SP702 for floats of which one is not finite."""
    for name, tensor in state_dict.items():
        if not isinstance(tensor, Tensor):
            found = f"{name} is no tensor, but {type(tensor).__name__}"
            raise SpaceError(error("SP606", found))
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise SpaceError(error("SP702", f"{name} holds numbers that are not finite"))


def save(model: Supernet, names: str = "own") -> dict[str, Tensor]:
    """A copy of the model's weights under the names and in the layout of a dialect."""
    own = model.state_dict()
    return {
        entry.foreign: entry.to_foreign(own[entry.own].detach()).clone()
        for entry in entries(model.graph, names)
    }


def read_file(path: str | Path, *, unsafe: bool = False) -> dict[str, Tensor]:
    """The tensors of a .safetensors file; with `unsafe` also of a .pt file of nothing but tensors.

    SP702 where there is none, or where it is damaged or of another kind.
    """
    path = Path(path)
    if path.suffix != ".safetensors" and not unsafe:
        raise SpaceError(
            error("SP702", f"{path} is no .safetensors file").hint(
                "convert it, or say that you trust it: read_file(path, unsafe=True)"
            )
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # whatever a damaged file makes of its reader
        raise SpaceError(error("SP702", f"{path} cannot be read").note(str(problem))) from problem
    tensors = found.get("model", found) if isinstance(found, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise SpaceError(error("SP702", f"{path} holds no table of tensors"))
    return tensors


def load_file_into(
    model: Supernet, path: str | Path, names: str = "own", head_map: str | Path | None = None
) -> None:
    """The weights of a .safetensors file, under the names of a dialect, into a model; by the file
    of a head map where its classifier is one of other classes."""
    rows = None if head_map is None else read_head_map(head_map)
    load(model, read_file(path), names, head_map=rows)


def write_file(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """The tensors as a .safetensors file, which is there whole or not at all."""
    atomic_write(path, to_bytes({name: t.contiguous() for name, t in tensors.items()}))


def entries(graph: Graph, names: str = "own") -> tuple[Entry, ...]:
    """What each tensor of a supernet is called in a dialect, and how it is laid out there.

    SP606 for a dialect that the space has not, or that gives one name twice.
    """
    if names != "own" and names not in graph.dialects:
        known = ", ".join(("own", *graph.dialects))
        raise SpaceError(error("SP606", f"no names are called {names}").note(f"there are {known}"))
    dialect = graph.dialects.get(names)
    for path, storage in graph.storages.items():
        if dialect is not None and dialect.omits(path):
            found = f"{names} has none of {path}, which is a weight and no constant"
            raise SpaceError(error("SP606", found, storage.param.span))
    stored = [storage for storage in graph.storages.values() if storage.param.persistent]
    found = [entry for storage in stored for entry in _entries(storage, dialect)]
    for path, key in labelled_tables(graph).items():
        if dialect is not None and dialect.omits(path):
            continue
        foreign = dotted(path) if dialect is None else dialect.foreign(path)[0]
        sizes = shape = tuple(table(key).shape)
        if dialect is not None and key.op == "shift_mask":
            shape = (sizes[0], *sizes[2:])  # published masks have no axis of heads
        found.append(Entry(dotted(path), foreign, sizes, shape, table=key))
    seen: dict[str, Entry] = {}
    for entry in found:
        other = seen.setdefault(entry.foreign, entry)
        # Tied layers may have one name for equal tables, which are constants.
        if other is not entry and (entry.table is None or entry.table != other.table):
            both = f"{other.own} and {entry.own}"
            raise SpaceError(error("SP606", f"{names} calls both {both} {entry.foreign}"))
    return tuple(seen.values())


def _resized(
    graph: Graph, found: Sequence[Entry], state_dict: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Weights with their tables over a grid as large as ours, and without index tables."""
    grid_of = {dotted(path): grid for path, grid in grids(graph).items()}
    constants = {e.foreign.rsplit(".", 1)[-1] for e in found if e.table is not None}
    given = {n: t for n, t in state_dict.items() if n.rsplit(".", 1)[-1] not in constants}
    for entry in found:
        tensor, grid = given.get(entry.foreign), grid_of.get(entry.own)
        if tensor is not None and grid is not None and not entry.fits(tensor):
            fitted = resized(tensor, entry.shape, grid) if entry.shape == entry.sizes else None
            given[entry.foreign] = tensor if fitted is None else fitted
    return given


def _mapped(
    graph: Graph, found: Sequence[Entry], state_dict: Mapping[str, Tensor], rows: Sequence[int]
) -> dict[str, Tensor]:
    """Weights with a classifier of our classes (SP606 where there is no one classifier, or for a
    map of other classes, before any row is copied)."""
    last = last_layer(graph)
    if not last:
        told = f"{graph.name} has no one classifier whose rows a head map could pick"
        raise SpaceError(error("SP606", told))
    picked = [entry for entry in found if entry.own in last and entry.foreign in state_dict]
    for entry in picked:
        if entry.shape[:1] not in ((), (len(rows),)):
            told = f"the head map has {len(rows):,} rows, {entry.foreign} here {entry.shape[0]:,}"
            raise SpaceError(error("SP606", told).hint("a line a class of the space"))
    names = {entry.foreign for entry in picked}
    return {n: mapped(n, t, rows) if n in names else t for n, t in state_dict.items()}


def _entries(storage: Storage, dialect: Dialect | None) -> tuple[Entry, ...]:
    own, real = tensor_names(storage), storage.param.dtype.startswith("f")
    stored = [merged(shape) for shape in storage.tensors]
    if dialect is None:
        return tuple(
            Entry(n, n, sizes, sizes, real=real) for n, sizes in zip(own, stored, strict=True)
        )
    foreign, layout = dialect.foreign(storage.path)
    ends = [f".{i}" if storage.bank else "" for i in range(len(own))]
    if layout is not None and layout.kind == "order":
        order = order_of(storage, layout)
        return tuple(
            Entry(name, foreign + end, sizes, sizes, shape[0], order, real=real)
            for name, end, sizes, shape in zip(own, ends, stored, storage.tensors, strict=True)
        )
    wanted = None if layout is None else shape_of(storage, layout)
    return tuple(
        Entry(name, foreign + end, sizes, sizes if wanted is None else wanted, real=real)
        for name, end, sizes in zip(own, ends, stored, strict=True)
    )


def _differences(found: Sequence[Entry], state_dict: Mapping[str, Tensor]) -> Diagnostic | None:
    """The table of what is missing, unexpected and of another shape."""
    expected = {entry.foreign: entry for entry in found}
    given = {name: list(tensor.shape) for name, tensor in state_dict.items()}
    rows = {
        "missing": [
            f"{n} {list(e.shape)}" for n, e in expected.items() if n not in given and not e.table
        ],
        "unexpected": [f"{n} {shape}" for n, shape in given.items() if n not in expected],
        "of another shape": [
            f"{n} is {given[n]}, not {list(e.shape)}"
            for n, e in expected.items()
            if n in given and not e.table and not e.fits(state_dict[n])
        ],
        "no floating-point numbers": [
            f"{n} is {str(state_dict[n].dtype).removeprefix('torch.')}"
            for n, e in expected.items()
            if n in given and e.real and not e.table and not state_dict[n].is_floating_point()
        ],
        "index tables with other entries": [
            n for n, e in expected.items() if n in given and e.table and not e.fits(state_dict[n])
        ],
    }
    if not any(rows.values()):
        return None
    notes = [
        f"{len(names)} {kind}: " + "; ".join(names[:ROWS]) + ("; .." if len(names) > ROWS else "")
        for kind, names in rows.items()
        if names
    ]
    return error("SP606", "these weights are of another network").note(*notes)
