"""Teachers: what a student learns from, and a name that no other teacher has.

    teacher = open_teacher("runs/large", data)                          # of train or extract
    teacher = open_teacher("timm:vit_tiny_patch16_224", data, weights="vit.safetensors")
    teacher = Teacher.of(module, "mine")                                # any nn.Module

A teacher is in evaluation and never learns. Its digest is of its weights, of what it is and of how
it sees images; equal digests give equal outputs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from spacelang.backends.torch.data import Dataset
from spacelang.backends.torch.evaluate import main_output
from spacelang.backends.torch.fixed import unfit
from spacelang.backends.torch.recalibrate import calibrate
from spacelang.backends.torch.run import RECORD, part, read_graph, read_record
from spacelang.backends.torch.subnet import read_subnet
from spacelang.backends.torch.taps import Tapped
from spacelang.backends.torch.training import load_trained
from spacelang.backends.torch.weights import read_file
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.decision import Assignment
from spacelang.manifest import MANIFEST

TIMM = "timm:"
Pixels = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation a channel, of 0..1


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """A network that teaches. `change` brings images of the student to those it was trained on."""

    network: nn.Module
    name: str
    digest: str
    change: tuple[Tensor, Tensor] | None = None  # a factor and a summand a channel

    @classmethod
    def of(
        cls,
        network: nn.Module,
        name: str,
        *,
        seen: Pixels | None = None,
        data: Dataset | None = None,
        about: Mapping[str, object] | None = None,
    ) -> Teacher:
        """A network as a teacher. `seen` is what it normalises by, if not by the `data` it teaches.

        `about` is part of its digest: what the outputs depend on besides the weights.
        """
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        digest = hashlib.sha256(
            json.dumps({**(about or {}), "seen": seen}, sort_keys=True).encode()
        )
        for key, tensor in sorted(network.state_dict().items()):
            flat = tensor.detach().cpu().contiguous()
            digest.update(f"{key} {flat.dtype} {list(flat.shape)}\n".encode())
            digest.update(flat.flatten().view(torch.uint8).numpy().data)
        change = None
        if seen is not None and data is not None:
            (mean, deviation), own = map(torch.tensor, seen), data.train
            factor = torch.tensor(own.deviation) / deviation
            change = (
                factor[:, None, None],
                ((torch.tensor(own.mean) - mean) / deviation)[:, None, None],
            )
        return cls(network.eval(), name, digest.hexdigest(), change)

    def to(self, device: str) -> Teacher:
        """The same teacher on a device."""
        change = self.change
        if change is not None:
            change = change[0].to(device), change[1].to(device)
        return Teacher(self.network.to(device), self.name, self.digest, change)

    def see(self, images: Tensor) -> Tensor:
        """Images as the student sees them, as the teacher does."""
        return images if self.change is None else images * self.change[0] + self.change[1]

    def logits(self, images: Tensor) -> Tensor:
        """Its answers to images of the student [B, classes], float32."""
        with torch.no_grad():
            return main_output(self.network(self.see(images))).float()

    def as_module(self) -> nn.Module:
        """It as a module that takes the student's images."""
        return Seeing(self)

    def tapped(self, paths: Sequence[str], every: bool = False) -> Tapped:
        """Its network, whose passes also give some values (SP504), or `every` output."""
        return Tapped(self.network, paths, every)


def takes(teacher: Teacher, shape: Sequence[int]) -> AbstractContextManager[None]:
    """SP705 where a teacher fails there at images of a shape."""
    return unfit("SP705", teacher.name, shape)


class Seeing(nn.Module):
    """A teacher that takes the student's images."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.network, self.teacher = teacher.network, teacher
        self.eval()  # which who evaluates it comes back to

    def forward(self, images: Tensor) -> Tensor:
        return main_output(self.network(self.teacher.see(images)))


def open_teacher(
    spec: str,
    data: Dataset,
    *,
    arch: Assignment | None = None,
    weights: str | None = None,
    untrained: bool = False,
    norm: str = "own",
) -> Teacher:
    """A teacher by what a command line can say.

    spec       a folder of `train` (there the largest network, or `arch`, with batch statistics of
               its own where the run recalibrates) or of `extract`, whose source runs, or timm:NAME
    weights    of a timm model: all of its tensors, as .safetensors or .pt
    untrained  take a timm model with the weights it is drawn with
    norm       "own": a timm model sees images as timm says; "data": as the student does
    """
    if spec.startswith(TIMM):
        return _of_timm(spec.removeprefix(TIMM), data, weights, untrained, norm)
    if weights is not None or untrained:
        found = error("SP705", f"{spec} has weights of its own")
        raise SpaceError(found.hint("--teacher-weights and --teacher-untrained are for timm:NAME"))
    folder = Path(spec)
    if (folder / RECORD).is_file():
        _refuse_other_images(folder, data)
        trained = load_trained(read_graph(folder), data, folder)
        model = trained.model
        taken = model.graph.decisions.extreme("largest") if arch is None else arch
        images = trained.recipe.recalibrate
        calibrate(model, taken, data if images else None, images)
        about = {"graph": model.graph.hash, "arch": dict(model.assignment)}
        about |= {"recalibrate": images} if images else {}
        return Teacher.of(model, spec, about=about)
    if (folder / MANIFEST).is_file():
        if arch is not None:
            raise SpaceError(error("SP705", f"{spec} is one network: there is nothing to choose"))
        network, manifest = read_subnet(folder)
        return Teacher.of(network, spec, about={"files": manifest["files"]})
    found = error("SP705", f"{spec} is no teacher")
    raise SpaceError(found.hint("a folder of `train` or `extract`, or timm:NAME"))


def _refuse_other_images(folder: Path, data: Dataset) -> None:
    """SP705 for a run on other images: it tells other classes apart, or has seen what is scored."""
    kept = part(read_record(folder), "data", dict)
    if kept.get("split") != data.split_digest:
        told = error("SP705", f"{folder} was trained on {kept.get('name')}, not on {data.name}")
        told = told.note("or on another division of it") if kept.get("name") == data.name else told
        raise SpaceError(told.hint("train a teacher on the images of the student"))


def _of_timm(name: str, data: Dataset, weights: str | None, untrained: bool, norm: str) -> Teacher:
    """A model of timm for the classes, channels and size of the images."""
    if weights is None and not untrained:
        found = error("SP705", f"timm:{name} has no weights: it would teach noise")
        raise SpaceError(
            found.hint("--teacher-weights FILE, or --teacher-untrained if that is meant")
        )
    try:
        import timm
    except ImportError as missing:
        raise ImportError("a teacher of timm needs the extra `timm`", name="timm") from missing
    if name not in timm.list_models():
        raise SpaceError(error("SP705", f"timm has no model {name}"))
    channels, height, width = data.shape
    wanted = {"pretrained": False, "num_classes": len(data.classes), "in_chans": channels}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            try:
                network = timm.create_model(name, **wanted, img_size=(height, width))
            except TypeError:  # convolutions take any size
                network = timm.create_model(name, **wanted)
        except Exception as failed:  # what timm has no message for
            found = error("SP705", f"timm:{name} cannot be made for images {list(data.shape)}")
            raise SpaceError(found.note(f"{type(failed).__name__}: {failed}")) from failed
    if weights is not None:
        _load(network, name, read_file(weights, unsafe=True))
    seen = None if norm == "data" else _seen(name, network, channels)
    return Teacher.of(network, TIMM + name, seen=seen, data=data, about={"timm": name})


def _seen(name: str, network: nn.Module, channels: int) -> Pixels:
    """What a model of timm normalises by (SP705 where that is of other channels)."""
    known = getattr(network, "pretrained_cfg", {})
    found = tuple(known.get("mean", ())), tuple(known.get("std", ()))
    if any(len(part) != channels for part in found):
        told = error("SP705", f"timm:{name} was made for images of {len(found[0])} channels")
        raise SpaceError(told.hint("--teacher-norm data: it sees images as the student does"))
    return found


def _load(network: nn.Module, name: str, weights: Mapping[str, Tensor]) -> None:
    """All weights of a model and no others, with a table of what differs (SP705)."""
    own = network.state_dict()
    rows = [f"missing     {key}" for key in own if key not in weights]
    rows += [f"unexpected  {key}" for key in weights if key not in own]
    rows += [
        f"mis-shaped  {key}: {list(weights[key].shape)}, not {list(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    if rows:
        more = [f"and {len(rows) - 12} more"] if len(rows) > 12 else []
        told = error("SP705", f"the weights are not those of timm:{name}").note(*rows[:12], *more)
        raise SpaceError(told.hint("a head of other classes is a teacher of other classes"))
    network.load_state_dict(dict(weights))
