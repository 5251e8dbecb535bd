"""A deployed network in a folder: written by `compile --for inference`, and opened again.

network = load_deployed("build")        # for inputs of the shape that it was compiled for
logits = network(images)

graph.spaceir          the network as it runs
weights.safetensors    for PyTorch: its weights
network.onnx           for ONNX Runtime: operators and weights
manifest.json          {"runtime": "torch", "batch": 16, "files": {..}, ..}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from spacelang.backends.torch.inference import deploy
from spacelang.backends.torch.inference.deployed import Deployed
from spacelang.backends.torch.storage import DTYPES
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Source, SpaceError
from spacelang.files import PathLike
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.ir.storage import Storage, merged
from spacelang.manifest import GRAPH, MANIFEST, read_manifest, read_text, unusable, verify
from spacelang.syntax.ir_text import read

WEIGHTS, FILE = "weights.safetensors", "network.onnx"
WRITER = "compile SPACE --for inference"
FILES = {deploy.TORCH: WEIGHTS, deploy.ONNX: FILE}


def files_of(
    model: Supernet, assignment: Assignment, batch: int, runtime: str
) -> tuple[Any, Mapping[str, bytes], float]:
    """The deployed graph of one network, the files beside it, and how far it is from the model.

    Errors are those of `deploy`.
    """
    made = deploy.deployment(model, assignment, batch, runtime)
    if made.content:
        return made.graph, {FILE: made.content}, made.difference
    weights = {
        path: x.detach().reshape(_sizes(made.graph.storages[path])).contiguous()
        for path, x in made.weights.items()
    }
    return made.graph, {WEIGHTS: to_bytes(weights)}, made.difference


def load_deployed(folder: PathLike) -> Deployed:
    """The network of a folder that `compile --for inference` wrote, its hashes checked.

    SP702 where the folder is none such, VerificationError where it is not as it was written; SP603
    where its graph is none; SP604 where its runtime is not installed.
    """
    place = Path(folder)
    manifest = _checked(place)
    graph = read(Source(str(place / GRAPH), read_text(place / GRAPH)))
    if graph.hash != manifest.get("graph"):
        raise _unusable(place, f"{GRAPH} has another hash than its {MANIFEST} says")
    one = len(graph.root.inputs) == 1 == sum(not output.training for output in graph.outputs)
    if graph.decisions or not one:
        raise _unusable(place, f"{GRAPH} is no network of one input and one output")
    try:
        shape = deploy.shape_for(graph, manifest.get("batch"))
    except SpaceError as failed:
        raise _unusable(place, failed.diagnostics[0].headline) from failed
    if manifest["runtime"] == deploy.ONNX:
        return deploy.running(graph, {}, (place / FILE).read_bytes(), shape)
    return deploy.running(graph, _weights(place, graph), b"", shape)


def _checked(folder: Path) -> Mapping[str, object]:
    """The manifest of a folder, after every hash was checked."""
    manifest = read_manifest(folder, WRITER)
    if manifest.get("runtime") not in deploy.RUNTIMES:
        raise _unusable(folder, "it holds no network that is compiled for inference")
    verify(folder, manifest, GRAPH, FILES[str(manifest["runtime"])])
    return manifest


def _weights(folder: Path, graph: Graph) -> Mapping[str, Tensor]:
    """The weights of a graph, each there and of its shape (SP702)."""
    try:
        found = from_bytes((folder / WEIGHTS).read_bytes())
    except SafetensorError as failed:
        raise _unusable(folder, f"{WEIGHTS} cannot be read: {failed}") from failed
    for path, storage in graph.storages.items():
        sizes, dtype, tensor = _sizes(storage), DTYPES[storage.param.dtype], found.get(path)
        if tensor is None:
            raise _unusable(folder, f"{WEIGHTS} has no {path}")
        if tuple(tensor.shape) != sizes or tensor.dtype != dtype:
            given = f"{path} is {list(tensor.shape)} of {tensor.dtype}"
            raise _unusable(folder, f"{given}, not {list(sizes)} of {dtype}")
    extra = sorted(found.keys() - graph.storages.keys())
    if extra:
        raise _unusable(folder, f"{WEIGHTS} has {extra[0]}, which its network has not")
    return found


def _sizes(storage: Storage) -> tuple[int, ...]:
    """The sizes of the one tensor that a network without decisions stores."""
    (sizes,) = map(merged, storage.tensors)
    return sizes


def _unusable(folder: Path, reason: str) -> SpaceError:
    return unusable(folder, reason, WRITER)
