"""Proofs that a network computes what the supernet does: outputs and gradients, on random inputs.

float64   equal, bit for bit
float32   within 1e-6 of the largest magnitude of the tensor compared
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from spacelang.backends.torch.extract import Chosen, dense
from spacelang.backends.torch.inputs import example
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import VerificationError, error
from spacelang.ir.decision import Assignment
from spacelang.ir.dialect import dotted

TOLERANCE = {torch.float64: 0.0, torch.float32: 1e-6}


class ProofError(VerificationError):
    """A network that was taken out of a supernet computes something else."""


@dataclass(frozen=True)
class Proof:
    """The largest differences, each as a part of the largest magnitude of its tensor."""

    dtype: str
    outputs: float
    gradients: float


def prove(
    model: Supernet, assignment: Assignment, network: nn.Module, seed: int = 0
) -> tuple[Proof, ...]:
    """That a network equals the supernet at an architecture, in evaluation (ProofError).

    Gradients are compared whatever mode the caller is in.
    """
    with torch.inference_mode(False), torch.enable_grad():
        return _proved(model, assignment, network, seed)


def _proved(
    model: Supernet, assignment: Assignment, network: nn.Module, seed: int
) -> tuple[Proof, ...]:
    proofs: list[Proof] = []
    for dtype, tolerance in TOLERANCE.items():
        one = model.without_kernels().cpu().to(dtype).activate(assignment).eval()
        other = copy.deepcopy(network).cpu().to(dtype).eval()
        inputs = [
            x.to(dtype) if x.is_floating_point() else x for x in example(model.graph, seed=seed)
        ]
        outputs = worst(_forward(one, inputs, seed), _forward(other, inputs, seed))
        slopes = _gradients(other)
        if not slopes and next(other.parameters(), None) is not None:
            raise ProofError(error("SP605", "the extracted network gives its weights no gradient"))
        gradients = worst(_slices(one, assignment), slopes)
        found = Proof(str(dtype).removeprefix("torch."), outputs, gradients)
        if not max(outputs, gradients) <= tolerance:
            raise ProofError(
                error("SP605", f"the extracted network differs in {found.dtype}").note(
                    f"outputs by {outputs:.3g} of their magnitude, gradients by {gradients:.3g}",
                    f"{tolerance:g} is allowed",
                )
            )
        proofs.append(found)
    return tuple(proofs)


def _forward(network: nn.Module, inputs: list[Tensor], seed: int) -> dict[str, Tensor]:
    """Outputs by name; gradients of a random combination of them are left on the weights, as far as
    the outputs hang on any."""
    for parameter in network.parameters():
        parameter.requires_grad_()
        parameter.grad = None
    found = network(*inputs)
    outputs = found if isinstance(found, dict) else {"output": found}
    generator = torch.Generator().manual_seed(seed + 1)
    total = sum(
        (y * torch.randn(y.shape, generator=generator).to(y.dtype)).sum() for y in outputs.values()
    )
    if cast(Tensor, total).requires_grad:
        cast(Tensor, total).backward()
    return {name: y.detach() for name, y in outputs.items()}


def _gradients(network: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


def _slices(model: Supernet, assignment: Assignment) -> dict[str, Tensor]:
    """The gradients of the supernet, of what the architecture reads."""
    chosen = Chosen(model.graph, model.graph.decisions.check(assignment))
    found: dict[str, Tensor] = {}
    for path, kept in chosen.kept().items():
        storage, position = chosen.tensors[path]
        stored = model.stored_tensor(storage, position)
        if stored.grad is not None:
            shape = model.graph.storages[storage].tensors[position]
            found[dotted(path)] = dense(stored.grad, shape, kept)
    return found


def worst(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """The largest difference of two sets of tensors, each as a part of the largest magnitude.

    Infinite for other names or shapes, and for what is no number.
    """
    if expected.keys() != found.keys():
        return float("inf")
    return max((relative(found[name], wanted) for name, wanted in expected.items()), default=0.0)


def relative(found: Tensor, wanted: Tensor) -> float:
    """The largest difference of two tensors as a part of the largest magnitude.

    Infinite for another shape, for what is no number, and for what should be nothing but zeros.
    """
    if found.shape != wanted.shape or not bool((found.isfinite() & wanted.isfinite()).all()):
        return float("inf")
    difference = (found - wanted).abs().max().item() if found.numel() else 0.0
    largest = wanted.abs().max().item() if difference else 1.0
    return difference / largest if largest else float("inf")
