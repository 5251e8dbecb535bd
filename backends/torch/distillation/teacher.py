"""Teachers: what a student learns from, and a name that no other teacher has.

    teacher = open_teacher("runs/large", data)                          # of train or extract
    teacher = open_teacher("timm:vit_tiny_patch16_224", data, weights="vit.safetensors")
    teacher = open_teacher("nets.py:large", data)                       # a function of a file
    teacher = Teacher.of(module, "mine")                                # any nn.Module

A teacher is in evaluation and never learns. Its digest is of its weights, of what it is and of how
it sees images; equal digests give equal outputs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.distillation.foreign import TIMM, is_foreign, open_foreign
from spacelang.backends.torch.distillation.taps import Tapped
from spacelang.backends.torch.runs.run import RECORD, part, read_graph, read_record
from spacelang.backends.torch.subnets.subnet import read_subnet
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.evaluate import main_output
from spacelang.backends.torch.training.fixed import unfit
from spacelang.backends.torch.training.recalibrate import calibrate
from spacelang.backends.torch.training.training import load_trained
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.decision import Assignment
from spacelang.manifest import MANIFEST

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
        """This teacher, its network moved to a device."""
        self.network.to(device)
        return self

    def see(self, images: Tensor) -> Tensor:
        """Images as the student sees them, as the teacher does, wherever they are."""
        if self.change is None:
            return images
        factor, summand = (part.to(images.device) for part in self.change)
        return images * factor + summand

    def logits(self, images: Tensor) -> Tensor:
        """Its answers to images of the student [B, classes], float32."""
        with torch.no_grad():
            return main_output(self.network(self.see(images))).float()

    def as_module(self) -> nn.Module:
        """It as a module that takes the student's images."""
        return PreprocessedTeacher(self)

    def tapped(self, paths: Sequence[str], every: bool = False) -> Tapped:
        """Its network, whose passes also give some values (SP504), or `every` output."""
        return Tapped(self.network, paths, every)


def slim(teacher: Teacher) -> Teacher:
    """The same teacher, without the rest of the supernet that it is a network of."""
    network = teacher.network
    if not isinstance(network, Supernet):
        return teacher
    return replace(teacher, network=network.extract().eval().requires_grad_(False))


def takes(teacher: Teacher, shape: Sequence[int]) -> AbstractContextManager[None]:
    """SP705 where a teacher fails there at images of a shape."""
    return unfit("SP705", teacher.name, shape)


class PreprocessedTeacher(nn.Module):
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
               its own where the run recalibrates) or of `extract`, whose source runs, timm:NAME, or
               FILE.py:FUNCTION, which runs too
    weights    of one of the last two: all of its tensors, as .safetensors or .pt
    untrained  take a timm model with the weights it is drawn with
    norm       "own": a timm model sees images as timm says; "data": as the student does
    """
    if is_foreign(spec):
        if arch is not None:
            raise _nothing_to_choose(spec)
        return _of_foreign(spec, data, weights, untrained, norm)
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
            raise _nothing_to_choose(spec)
        network, manifest = read_subnet(folder)
        return Teacher.of(network, spec, about={"files": manifest["files"]})
    found = error("SP705", f"{spec} is no teacher")
    raise SpaceError(found.hint("a folder of `train` or `extract`, timm:NAME, or FILE.py:FUNCTION"))


def _nothing_to_choose(spec: str) -> SpaceError:
    found = error("SP705", f"{spec} is one network: there is nothing to choose")
    return SpaceError(found.hint("--teacher-arch is of a run of `train` or `distill`"))


def _refuse_other_images(folder: Path, data: Dataset) -> None:
    """SP705 for a run on other images: it tells other classes apart, or has seen what is scored."""
    kept = part(read_record(folder), "data", dict)
    if kept.get("split") != data.split_digest:
        told = error("SP705", f"{folder} was trained on {kept.get('name')}, not on {data.name}")
        told = told.note("or on another division of it") if kept.get("name") == data.name else told
        raise SpaceError(told.hint("train a teacher on the images of the student"))


def _of_foreign(
    spec: str, data: Dataset, weights: str | None, untrained: bool, norm: str
) -> Teacher:
    """A network that no space describes. One of a file has what weights its function gives it, and
    sees images as the student does."""
    of_timm = spec.startswith(TIMM)
    if of_timm and weights is None and not untrained:
        found = error("SP705", f"{spec} has no weights: it would teach noise")
        raise SpaceError(
            found.hint("--teacher-weights FILE, or --teacher-untrained if that is meant")
        )
    if untrained and not of_timm:
        found = error("SP705", f"{spec} has the weights that its function gives it")
        raise SpaceError(found.hint("--teacher-untrained is for timm:NAME"))
    made = open_foreign(spec, data, "SP705", weights=weights)
    seen = _seen(spec, made.network, data.shape[0]) if of_timm and norm == "own" else None
    return Teacher.of(made.network, made.name, seen=seen, data=data, about=made.about)


def _seen(name: str, network: nn.Module, channels: int) -> Pixels:
    """What a model of timm normalises by (SP705 where that is of other channels)."""
    known = getattr(network, "pretrained_cfg", {})
    found = tuple(known.get("mean", ())), tuple(known.get("std", ()))
    if any(len(part) != channels for part in found):
        told = error("SP705", f"{name} was made for images of {len(found[0])} channels")
        raise SpaceError(told.hint("--teacher-norm data: it sees images as the student does"))
    return found
