"""Export of a network by torch.export (.pt2) and to ONNX, checked against eager before it is kept.

    export(subnet, example(graph), "subnet.onnx")       # Export(path, difference)

The batch axis stays free: what is written is checked on another batch than it was traced with. ONNX
is run by onnxruntime where that is installed; else its difference is None.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from spacelang.backends.torch.subnets.proof import ProofError, relative
from spacelang.diagnostics import SpaceError, error
from spacelang.extras import install
from spacelang.files import PathLike, atomic_write

TOLERANCE = 1e-5
NEEDED: Mapping[str, tuple[str, ...]] = MappingProxyType({"onnx": ("onnx", "onnxscript")})
NOTE = 2_000  # characters of what an exporter says


@dataclass(frozen=True)
class Export:
    """A written file, and how far from eager it is as a part of the largest output."""

    path: Path
    difference: float | None


def missing(ending: str) -> str:
    """The first package that writes a format, by its ending, and is not installed; or nothing."""
    return next((name for name in NEEDED.get(ending, ()) if find_spec(name) is None), "")


def exportable(endings: Sequence[str]) -> None:
    """SP604 where what writes one of the formats is not installed."""
    for lacking in filter(None, map(missing, endings)):
        found = error("SP604", f"{lacking} is not installed")
        raise SpaceError(found.hint(install("export")))


def export(network: nn.Module, inputs: Sequence[Tensor], path: PathLike) -> Export:
    """Write a network in evaluation, by the ending of the name: `.pt2` or `.onnx`.

    `inputs` share a batch axis 0, which stays free. SP604 for another ending or a missing exporter,
    SP605 for a network that cannot be exported, ProofError where it differs from eager by more than
    1e-5; then nothing is written.
    """
    place = Path(path)
    formats = {".pt2": _pt2, ".onnx": _onnx}
    if place.suffix not in formats:
        known = " and ".join(formats)
        raise SpaceError(error("SP604", f"{place.name} has no ending of a format: {known}"))
    network = copy.deepcopy(network).cpu().eval()
    traced = tuple(x.cpu() for x in inputs)
    checked = tuple(torch.cat([x, x[:1].flip(-1)]) for x in traced)
    content, found = formats[place.suffix](network, traced, checked)
    difference = None
    if found is not None:
        with torch.no_grad():
            expected = _flat(network(*checked))
        pairs = zip(found, expected, strict=True)
        difference = max(relative(a, b) for a, b in pairs)
        if not difference <= TOLERANCE:
            headline = f"{place.name} differs from eager by {difference:.3g}"
            raise ProofError(error("SP605", headline).note(f"{TOLERANCE:g} is allowed"))
    atomic_write(place, content)
    return Export(place, difference)


def _flat(outputs: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


def _program(network: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} for _ in inputs)
    with _told("torch.export cannot trace this network"), torch.no_grad():
        return torch.export.export(network, inputs, dynamic_shapes=shapes)


@contextmanager
def _told(headline: str) -> Generator[None]:
    """SP605 for whatever an exporter raises, of which its documents say little."""
    try:
        yield
    except (SpaceError, MemoryError):
        raise
    except Exception as problem:
        text = f"{type(problem).__name__}: {problem}"[:NOTE]
        raise SpaceError(error("SP605", headline).note(text)) from problem


def _pt2(
    network: nn.Module, traced: tuple[Tensor, ...], checked: tuple[Tensor, ...]
) -> tuple[bytes, list[Tensor] | None]:
    file, program = io.BytesIO(), _program(network, traced)
    with _told("torch.export cannot write this network and read it back"), torch.no_grad():
        torch.export.save(program, file)
        read = torch.export.load(io.BytesIO(file.getvalue())).module()
        return file.getvalue(), _flat(read(*checked))


def _onnx(
    network: nn.Module, traced: tuple[Tensor, ...], checked: tuple[Tensor, ...]
) -> tuple[bytes, list[Tensor] | None]:
    exportable(("onnx",))
    traced_program = _program(network, traced)
    with _told("torch.onnx cannot write this network"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own deprecations
        program = torch.onnx.export(traced_program, dynamo=True, verbose=False)
        assert program is not None
        content = program.model_proto.SerializeToString()
    if find_spec("onnxruntime") is None:
        return content, None
    import onnxruntime

    with _told("onnxruntime cannot run what torch.onnx wrote"):
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        feed = {name: x.numpy() for name, x in zip(names, checked, strict=True)}
        return content, [torch.from_numpy(y) for y in session.run(None, feed)]
