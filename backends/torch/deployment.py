"""A deployed network in a folder: written by `compile --for inference`, and opened again.

network = load_deployed("build")        # for inputs of the shape that it was compiled for
logits = network(images)

graph.spaceir          the network as it runs
weights.safetensors    for PyTorch: its weights
network.onnx           for ONNX Runtime: operators and weights
manifest.json          {"runtime": "torch", "batch": 16, "files": {..}, ..}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from spacelang.backends.torch import deploy
from spacelang.backends.torch.deployed import Deployed
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Source, SpaceError, error
from spacelang.files import PathLike, sha256
from spacelang.ir.decision import Assignment
from spacelang.syntax.ir_text import read

GRAPH, WEIGHTS, FILE, MANIFEST = (
    "graph.spaceir", "weights.safetensors", "network.onnx", "manifest.json",
)  # fmt: skip
MAX_MANIFEST = 1 << 20


def files_of(
    model: Supernet, assignment: Assignment, batch: int, runtime: str
) -> tuple[Any, Mapping[str, bytes], float]:
    """The deployed graph of one network, the files beside it, and how far it is from the model.

    Errors are those of `deploy`.
    """
    made = deploy.deployment(model, assignment, batch, runtime)
    if made.content:
        return made.graph, {FILE: made.content}, made.difference
    weights = {path: x.detach().contiguous() for path, x in made.weights.items()}
    return made.graph, {WEIGHTS: to_bytes(weights)}, made.difference


def load_deployed(folder: PathLike) -> Deployed:
    """The network of a folder that `compile --for inference` wrote, its hashes checked.

    SP702 where the folder is none such, or is not as it was written; SP604 where its runtime is not
    installed.
    """
    place = Path(folder)
    manifest = _checked(place)
    graph = read(Source(str(place / GRAPH), (place / GRAPH).read_text("utf-8")))
    shape = deploy.shape_for(graph, manifest.get("batch"))
    if manifest["runtime"] == deploy.ONNX:
        return deploy.running(graph, {}, (place / FILE).read_bytes(), shape)
    return deploy.running(graph, from_bytes((place / WEIGHTS).read_bytes()), b"", shape)


def _checked(folder: Path) -> Mapping[str, Any]:
    """The manifest of a folder, after every hash was checked (SP702)."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST:
            raise ValueError("it is larger than 1 MiB")
        found: object = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as failed:
        raise _unusable(folder, f"its {MANIFEST} cannot be read: {failed}") from failed
    files = found.get("files") if isinstance(found, dict) else None
    if not isinstance(found, dict) or found.get("runtime") not in deploy.RUNTIMES:
        raise _unusable(folder, "it holds no network that is compiled for inference")
    needed = {GRAPH, FILE if found["runtime"] == deploy.ONNX else WEIGHTS}
    if not isinstance(files, dict) or not needed <= files.keys():
        raise _unusable(folder, f"its {MANIFEST} does not list {', '.join(sorted(needed))}")
    for name in sorted(needed):
        entry, file = files[name], folder / name
        wanted = entry.get("sha256") if isinstance(entry, dict) else None
        if not file.is_file() or sha256(file) != wanted:
            raise _unusable(folder, f"{name} is not as it was written")
    return found


def _unusable(folder: Path, reason: str) -> SpaceError:
    found = error("SP702", f"{folder} cannot be used: {reason}")
    return SpaceError(found.hint("`spacelang compile SPACE --for inference -o DIR` writes one"))
