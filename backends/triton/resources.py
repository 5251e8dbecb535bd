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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

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
    options: Mapping[str, int] = field(default_factory=dict[str, int])
    hip: Mapping[str, int] = field(default_factory=dict[str, int])  # options on AMD beside them
    alignment: int = 1  # bytes that divide every pointer: 16 for what torch allocates


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
    return tuple(b for name in KERNELS for b in import_module(f"{__package__}.{name}").BUILDS)


def measure(build: Build, target: GPUTarget) -> Resources:
    """Compile a build for a target and read what it needs."""
    types = {**build.types, **dict.fromkeys(build.constants, "constexpr")}
    names = build.kernel.arg_names
    attributes = {
        (names.index(name),): [["tt.divisibility", build.alignment]]
        for name, kind in build.types.items()
        if build.alignment > 1 and kind.startswith("*")
    }
    source = ASTSource(
        fn=build.kernel, signature=types, constexprs=dict(build.constants), attrs=attributes
    )
    options = {**build.options, **(build.hip if target.backend == "hip" else {})}
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
}
"""Kernels of fused groups whose builds have other names than theirs."""


def needs(kernel: str, target: str) -> dict[str, dict[str, int]]:
    """Build -> what it needs of a target, of those of a fused group's kernel.

    SP605 in the interpreter.
    """
    if INTERPRETED:
        found = error("SP605", "kernels are interpreted here, not compiled")
        raise SpaceError(found.hint("unset TRITON_INTERPRET"))
    names = FAMILIES.get(kernel, (kernel,))
    mine = (build for build in builds() if re.split(r"[.\[]", build.name)[0] in names)
    return {build.name: asdict(measure(build, TARGETS[target])) for build in mine}


def table() -> dict[str, dict[str, dict[str, int]]]:
    """Build -> target -> what it needs."""
    columns = {target: column(target) for target in TARGETS}
    return {b.name: {target: columns[target][b.name] for target in TARGETS} for b in builds()}


if __name__ == "__main__":
    print(json.dumps(table(), indent=1))
