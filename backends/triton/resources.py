"""What a kernel needs of a device, read from its binary without one: registers, spills, memory.

    python -m spacelang.backends.triton.resources            # all kernels for all targets, as JSON

A kernel's module lists its builds: the types and sizes of the published networks. They are compiled
ahead of time; a cubin is read by the `cuobjdump` that comes with Triton, a code object of AMD by
the metadata in its text.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from spacelang.backends.triton.launch import INTERPRETED
from spacelang.diagnostics import SpaceError, error

KERNELS = (  # modules beside this one, each with BUILDS
    "soft_labels", "attention_builds", "mixture", "mlp", "depthwise", "relations", "cascade",
    "cascade_training", "mixed_attention_builds",
)  # fmt: skip
TARGETS: Mapping[str, GPUTarget] = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
_CUBIN = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")
_AMD = re.compile(r"\.(\w+): +(\d+)")


@dataclass(frozen=True, slots=True)
class Build:
    """A kernel as a network launches it: types of its arguments, and its constants."""

    name: str
    kernel: Any  # a triton.JITFunction, which is generic without need
    types: Mapping[str, Any]  # of a tuple of pointers, a tuple
    constants: Mapping[str, int | str]
    options: Mapping[str, int | str] = field(default_factory=dict[str, int | str])
    hip: Mapping[str, int | str] = field(default_factory=dict[str, int | str])  # on AMD, over them
    alignment: int = 1  # bytes that divide every pointer: 16 for what torch allocates
    told: Mapping[str, int] = field(default_factory=dict[str, int])
    """What else a variant is known by, as `fused_cost.py` names it."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Registers of a thread (vector ones on AMD), bytes that they spill, bytes shared by a block.

    `scalars` are the registers that a wavefront has once, on AMD alone.
    """

    registers: int
    spilled: int
    shared: int
    scalars: int = 0


def builds() -> tuple[Build, ...]:
    """Every kernel of this package in the shapes of the published networks."""
    return tuple(build for name in KERNELS for build in _module(name).BUILDS)


def _module(name: str) -> Any:
    return import_module(f"{__package__}.{name}")


def measure(build: Build, target: GPUTarget) -> Resources:
    """Compile a build for a target and read what it needs."""
    names = build.kernel.arg_names
    options = {**build.options, **(build.hip if target.backend == "hip" else {})}
    own = {name: options.pop(name) for name in names if name in options}  # constants of a target
    constants = {**build.constants, **own}
    types = {**build.types, **dict.fromkeys(constants, "constexpr")}
    attributes = {
        (names.index(name),): [["tt.divisibility", build.alignment]]
        for name, kind in build.types.items()
        if build.alignment > 1 and kind.startswith("*")
    }
    source = ASTSource(fn=build.kernel, signature=types, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=target, options=options)
    shared = compiled.metadata.shared
    if target.backend == "cuda":
        registers, stack, local = _read_cubin(compiled.asm["cubin"])
        return Resources(registers, stack + local, shared)
    found = {name: int(value) for name, value in _AMD.findall(compiled.asm["amdgcn"])}
    return Resources(
        found["vgpr_count"], found["private_segment_fixed_size"], shared, found["sgpr_count"]
    )


def _read_cubin(cubin: bytes) -> tuple[int, int, int]:
    """Registers, bytes of stack, bytes of local memory."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = _CUBIN.search(text)
    if found is None:
        raise ValueError(f"{tool} says nothing of registers: {text!r}")
    registers, stack, local = map(int, found.groups())
    return registers, stack, local


def column(target: str) -> dict[str, dict[str, int]]:
    """Build -> what it needs of a target."""
    return {build.name: asdict(measure(build, TARGETS[target])) for build in builds()}


FAMILIES: Mapping[str, tuple[str, ...]] = {
    "mlp": ("linear",),
    "cascade": ("cascade", "cascade_training"),
    "depthwise": ("depthwise.forward", "depthwise.backward", "depthwise.input"),
    "squeeze": ("depthwise.squeeze",),
}
"""Kernels of fused groups whose builds have other names than theirs."""


def builds_of(kernel: str, variant: Mapping[str, int | str] | None = None) -> list[Build]:
    """The builds of a fused group's kernel; of a variant those that have its constants.

    A kernel that has no constant of that name is the same in all variants. There are none unless
    one with all of them is.
    """
    names, wanted = FAMILIES.get(kernel, (kernel,)), variant or {}
    mine: list[tuple[Build, int, bool]] = []
    for module in map(_module, KERNELS):
        codes: Mapping[object, int] = getattr(module, "ACTIVATIONS", {})
        for build in module.BUILDS:
            if build.name.replace("[", ".").startswith(tuple(f"{name}." for name in names)):
                facts = {**build.constants, **build.told}
                shared = [name for name in wanted if name in facts]
                same = all(facts[name] == codes.get(wanted[name], wanted[name]) for name in shared)
                mine.append((build, len(shared), same))
    most = max((count for _, count, _ in mine), default=0)
    known = any(same and count == most for _, count, same in mine)
    return [build for build, _, same in mine if same and known]


class Needs(NamedTuple):
    """What the variants of a kernel need of a target, and those that are none of `builds()`."""

    binaries: dict[str, dict[str, int]]  # build -> its `Resources`
    unbuilt: list[dict[str, int | str]]


def needs(
    kernel: str, target: str, variants: Iterable[Mapping[str, int | str]] | None = None
) -> Needs:
    """What a fused group's kernel needs of a target, in all variants or those of a space.

    SP605 in the interpreter.
    """
    if INTERPRETED:
        found = error("SP605", "kernels are interpreted here, not compiled")
        raise SpaceError(found.hint("unset TRITON_INTERPRET"))
    wanted = [None] if variants is None else [dict(variant) for variant in variants]
    known = [builds_of(kernel, variant) for variant in wanted]
    chosen = {build.name for builds in known for build in builds}
    mine = (build for build in builds_of(kernel) if build.name in chosen)
    unbuilt = [v for v, builds in zip(wanted, known, strict=True) if v is not None and not builds]
    return Needs({b.name: asdict(measure(b, TARGETS[target])) for b in mine}, unbuilt)


def table() -> dict[str, dict[str, dict[str, int]]]:
    """Build -> target -> what it needs."""
    columns = {target: column(target) for target in TARGETS}
    return {b.name: {target: columns[target][b.name] for target in TARGETS} for b in builds()}


if __name__ == "__main__":
    print(json.dumps(table(), indent=1))
