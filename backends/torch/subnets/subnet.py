"""Subnets to take home: a folder with a network's source, its weights, and what it is.

    model.py              class Network, in plain PyTorch
    weights.safetensors   network.load_state_dict(load_file("weights.safetensors"))
    manifest.json         {"kind": "subnet", "assignment", "params", "proof", "files": {..}, ..}

It is written at once, and only after the network that was read back from it was proved equal.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import cast

import torch
from safetensors.torch import save as to_bytes
from torch import nn

from spacelang.backends.torch.inputs import input_of
from spacelang.backends.torch.printing.source import NETWORK, print_network
from spacelang.backends.torch.subnets.proof import Proof, prove
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.weights import read_file
from spacelang.files import PathLike, atomic_folder
from spacelang.ir.decision import Assignment
from spacelang.manifest import MANIFEST, hashes, read_manifest, unusable, verify

KIND, FORMAT = "subnet", 1
SOURCE, WEIGHTS, WRITER = "model.py", "weights.safetensors", "extract RUN"


@dataclass(frozen=True)
class Subnet:
    """A written subnet."""

    folder: Path
    assignment: Assignment
    params: int
    proof: tuple[Proof, ...]


def write_subnet(
    model: Supernet,
    assignment: Assignment,
    folder: PathLike,
    *,
    seed: int = 0,
    images: Mapping[str, object] | None = None,
) -> Subnet:
    """Write one network of a supernet and prove it equal on inputs drawn from a seed; `images` says
    how its images are to be given, for the manifest (`data/preprocessing.py`).

    A printed network has float32 weights: a model of another type is rounded first, and it is the
    rounded one that it is equal to.

    Nothing is left of a folder that could not be finished: ProofError where the network differs,
    SP605 where it cannot be printed, OSError where it cannot be written.
    """
    if any(p.dtype != torch.float32 for p in model.parameters()):
        model = copy.deepcopy(model).float()
    graph = model.graph
    taken = graph.decisions.assignment(graph.decisions.check(assignment))
    network = model.extract(taken)
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    params = sum(parameter.numel() for parameter in network.parameters())
    with atomic_folder(folder) as made:
        (made / SOURCE).write_text(print_network(model, taken), "utf-8", newline="\n")
        (made / WEIGHTS).write_bytes(to_bytes(state))
        proof = prove(model, taken, _network(made), seed)
        manifest = {
            "kind": KIND,
            "format": FORMAT,
            "space": graph.name,
            "graph": graph.hash,
            "assignment": dict(taken),
            "params": params,
            "inputs": {node.label or "x": str(input_of(node)) for node in graph.root.inputs},
            **({"images": dict(images)} if images else {}),
            "proof": [asdict(part) for part in proof],
            "files": hashes(made),
        }
        (made / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    return Subnet(Path(folder), taken, params, proof)


def load_subnet(folder: PathLike) -> nn.Module:
    """The network of a folder, in evaluation; its source runs, so only of a folder that you trust.

    SP702 where it is no subnet, VerificationError where a file is not the one that was written.
    """
    return read_subnet(folder)[0]


def read_subnet(folder: PathLike) -> tuple[nn.Module, Mapping[str, object]]:
    """As `load_subnet`, and what the subnet says of itself."""
    place = Path(folder)
    manifest = read_manifest(place, WRITER)
    if manifest.get("kind") != KIND:
        raise unusable(place, f"its {MANIFEST} is not that of a subnet", WRITER)
    verify(place, manifest, SOURCE, WEIGHTS)
    return _network(place), manifest


def _network(folder: Path) -> nn.Module:
    """The network of a folder whose files are known to be ours."""
    network = cast(nn.Module, vars(module_of(folder / SOURCE))[NETWORK]())
    network.load_state_dict(read_file(folder / WEIGHTS))
    return network.eval()


class _AsWritten(SourceFileLoader):
    """Reads the source alone. A compiled copy beside it may be of other text: it is told apart by
    its size and a time in whole seconds, and no hash of ours covers it."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def module_of(path: Path, name: str = "") -> ModuleType:
    """A source as a module that nothing else sees, or by this name alone. It runs."""
    loader = _AsWritten(name or path.stem, str(path))
    module = ModuleType(loader.name)
    module.__file__ = str(path)
    if name:
        sys.modules[name] = module  # where dataclasses look their own up
    loader.exec_module(module)
    return module
