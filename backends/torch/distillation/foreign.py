"""Networks that no space describes, by what a command line can say.

    timm:NAME           a model of timm for the classes, channels and size of the images
    FILE.py:FUNCTION    what a function of a file of yours gives, any nn.Module

The file is run because it was named. Its function may take `classes` and `shape` (channels, height
and width), and its draws follow from a seed. What such a network is, is told by the hash of that
file: what the file imports is not in it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.subnets.subnet import module_of
from spacelang.backends.torch.training.fixed import Fixed
from spacelang.backends.torch.weights import check_kinds, read_file
from spacelang.diagnostics import SpaceError, error
from spacelang.files import function_of, sha256

TIMM = "timm:"


@dataclass(frozen=True)
class Foreign:
    """A network, what it is called, and what tells it from others besides its weights."""

    network: nn.Module
    name: str
    about: Mapping[str, object]


def is_foreign(spec: str) -> bool:
    """Whether a text names a network of one of the two kinds."""
    return spec.startswith(TIMM) or function_of(spec) is not None


def open_foreign(
    spec: str, data: Dataset, code: str, *, seed: int = 0, weights: str | None = None
) -> Foreign:
    """A network for a data set, drawn from a seed or with all of its weights from a file.

    An error with this code where it cannot be made, ImportError where timm is missing.
    """
    named = function_of(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if named is None:
            name = spec.removeprefix(TIMM)
            made = Foreign(_of_timm(name, data, code), spec, {"timm": name})
        else:
            path, function = named
            about = {"function": function, "source": _digest(path, code)}
            spec = f"{Path(path).name}:{function}"
            made = Foreign(_of_file(path, function, data, code), spec, about)
    if weights is not None:
        _load(made, read_file(weights, unsafe=True), code)
    return made


def student_of(spec: str, data: Dataset, *, seed: int, weights: str | None = None) -> Fixed:
    """Such a network as a student (SP704 where it cannot be one)."""
    if not is_foreign(spec):
        found = error("SP704", f"{spec} is no student")
        raise SpaceError(found.hint("timm:NAME, or FILE.py:FUNCTION; a space stands for itself"))
    made = open_foreign(spec, data, "SP704", seed=seed, weights=weights)
    about = dict(made.about) | ({} if weights is None else {"weights": sha256(weights)})
    return Fixed.of(made.network, data, made.name, about)


def _of_timm(name: str, data: Dataset, code: str) -> nn.Module:
    try:
        import timm
    except ImportError as missing:
        raise ImportError(f"timm:{name} needs the extra `timm`", name="timm") from missing
    if name not in timm.list_models():
        raise SpaceError(error(code, f"timm has no model {name}"))
    channels, height, width = data.shape
    wanted = {"pretrained": False, "num_classes": len(data.classes), "in_chans": channels}
    try:
        try:
            return timm.create_model(name, **wanted, img_size=(height, width))
        except TypeError:  # convolutions take any size
            return timm.create_model(name, **wanted)
    except Exception as failed:  # what timm has no message for
        found = error(code, f"timm:{name} cannot be made for images {list(data.shape)}")
        raise SpaceError(found.note(f"{type(failed).__name__}: {failed}")) from failed


def _digest(path: str, code: str) -> str:
    try:
        return sha256(path)
    except (OSError, ValueError) as failed:  # a name with a NUL is a ValueError
        reason = failed.strerror if isinstance(failed, OSError) else str(failed)
        raise SpaceError(error(code, f"{path} cannot be read: {reason}")) from failed


def _of_file(path: str, function: str, data: Dataset, code: str) -> nn.Module:
    """What a function of a file gives, whose source runs."""
    try:
        known = vars(module_of(Path(path), Path(path).name))
    except Exception as failed:  # whatever it raises
        raise _fails(code, path, failed) from failed
    make = known.get(function)
    if not callable(make):
        own = known["__name__"]
        there = [n for n, v in known.items() if callable(v) and getattr(v, "__module__", "") == own]
        found = error(code, f"{path} has no function {function}")
        raise SpaceError(found.note(f"it has {', '.join(there) or 'none'}"))
    try:
        network = make(**_asked(make, data))
    except Exception as failed:
        raise _fails(code, f"{path}:{function}", failed) from failed
    if not isinstance(network, nn.Module):
        found = error(code, f"{path}:{function} gives {type(network).__name__}, no nn.Module")
        raise SpaceError(found)
    return network


def _asked(make: Callable[..., Any], data: Dataset) -> dict[str, object]:
    """What a function wants to know of the images."""
    facts: dict[str, object] = {"classes": len(data.classes), "shape": data.shape}
    return {n: facts[n] for n in inspect.signature(make).parameters if n in facts}


def _fails(code: str, what: str, failed: Exception) -> SpaceError:
    found = error(code, f"{what} fails").note(f"{type(failed).__name__}: {failed}")
    told = "a function may take classes and shape; all else needs a default"
    return SpaceError(found.hint(told) if isinstance(failed, TypeError) else found)


def _load(made: Foreign, weights: Mapping[str, Tensor], code: str) -> None:
    """All weights of a network and no others, with a table of what differs (SP702 for numbers that
    are not finite)."""
    check_kinds(weights)
    own = made.network.state_dict()
    rows = [f"missing     {key}" for key in own if key not in weights]
    rows += [f"unexpected  {key}" for key in weights if key not in own]
    rows += [
        f"mis-shaped  {key}: {list(weights[key].shape)}, not {list(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    rows += [
        f"no floats   {key}: {str(weights[key].dtype).removeprefix('torch.')}"
        for key in own
        if key in weights and own[key].is_floating_point() > weights[key].is_floating_point()
    ]
    if rows:
        more = [f"and {len(rows) - 12} more"] if len(rows) > 12 else []
        told = error(code, f"the weights are not those of {made.name}").note(*rows[:12], *more)
        raise SpaceError(told.hint("a head of other classes tells other classes apart"))
    made.network.load_state_dict(dict(weights))
