"""What is measured against what: one row a piece of work, its contenders by name.

    select(["tiny_vit_5m_224"])      # its rows at every batch
    select(["efficientvit_m0@16"])   # one row
    select(["onnxruntime"])          # the rows in which ONNX Runtime runs ours and theirs

A contender is built by `backends/torch/bench` under its name. The ratio of a row is the time of the
best of `against`, its rivals by the same runtime, over that of `ours`; `also` (the network before
`deploy`, and of PyTorch's rows ONNX Runtime) are measured in the same run, but set no ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

TORCH, ONNX = "torch", "onnxruntime"


class UnknownRow(LookupError):
    """There is no row of a name; the message says what is near."""


@dataclass(frozen=True)
class Row:
    """A piece of work and who does it.

    wanted    the ratio in time that is asked for (issue of the CPU path); None: reported only
    memory    the share of the rival's peak memory that is asked for
    """

    network: str
    space: str
    batch: int
    ours: str
    against: tuple[str, ...]
    also: tuple[str, ...] = ()
    wanted: float | None = None
    memory: float | None = None
    runtime: str = TORCH

    @property
    def name(self) -> str:
        by = "" if self.runtime == TORCH else f"/{self.runtime}"
        return f"{self.network}@{self.batch}{by}"

    @property
    def contenders(self) -> tuple[str, ...]:
        return (self.ours, *self.against, *self.also)


TIMM = ("timm", "timm.folded", "timm.channels_last")
BEFORE = ("extracted", "onnxruntime")
# Network -> its space, and the ratio wanted at each batch.
INFERENCE = {
    "efficientvit_m0": ("efficientvit.space:efficientvit_m0", {1: 2.5, 16: 1.15, 64: 1.15}),
    "efficientvit_m3": ("efficientvit.space:efficientvit_m3", {1: 1.8, 16: 1.05, 64: 1.05}),
    "efficientvit_m5": ("efficientvit.space:efficientvit_m5", {1: 1.4, 16: 1.0, 64: 1.0}),
    "tiny_vit_5m_224": ("tinyvit.space:tinyvit_5m", {1: 1.3, 16: 1.3}),
    "deit_tiny_patch16_224": ("deit.space:deit_ti", {1: 1.3, 16: 1.3}),
    "swin_tiny_patch4_window7_224": ("swin.space:swin_t", {1: 1.3, 16: 1.3}),
}
# By ONNX Runtime: network -> its space, and the ratio wanted at each batch.
BY_RUNTIME = {
    **{
        f"efficientvit_m{n}": (f"efficientvit.space:efficientvit_m{n}", {1: 1.0, 16: 1.0})
        for n in range(1, 6)
    },
    "efficientvit_m0": ("efficientvit.space:efficientvit_m0", {1: 1.1, 16: 1.0}),
    "tiny_vit_5m_224": ("tinyvit.space:tinyvit_5m", {1: 1.1, 16: 1.0}),
    "tiny_vit_11m_224": ("tinyvit.space:tinyvit_11m", {1: 1.1, 16: 1.0}),
    "deit_tiny_patch16_224": ("deit.space:deit_ti", {1: 1.0, 16: 1.0}),
    "swin_tiny_patch4_window7_224": ("swin.space:swin_t", {1: 1.0, 16: 1.0}),
}
AUTOFORMER = "autoformer.space:autoformer_t"

ROWS: tuple[Row, ...] = (
    *(
        Row(network, space, batch, "inference", TIMM, BEFORE, wanted)
        for network, (space, batches) in INFERENCE.items()
        for batch, wanted in batches.items()
    ),
    *(
        Row(network, space, batch, "inference.onnxruntime", (ONNX,), (), wanted, runtime=ONNX)
        for network, (space, batches) in sorted(BY_RUNTIME.items())
        for batch, wanted in batches.items()
    ),
    Row("autoformer_t_subnet", f"{AUTOFORMER}_subnet", 8, "inference", ("published",),
        ("extracted",), 1.8),
    Row("autoformer_t_step", AUTOFORMER, 8, "step", ("step.published",),
        ("step.checkpointed",), 1.45, 0.53),
    Row("autoformer_t_attention", AUTOFORMER, 8, "attention", ("attention.published",), (), 2.5),
)  # fmt: skip
BY_NAME = {row.name: row for row in ROWS}


def select(names: Sequence[str]) -> tuple[Row, ...]:
    """The rows of some names, in the order of the table; all where none is given (UnknownRow)."""
    if not names:
        return ROWS
    known = {*BY_NAME, *(row.network for row in ROWS), ONNX}
    for name in names:
        if name not in known:
            near = get_close_matches(name, sorted(known), 1)
            told = f"did you mean {near[0]}?" if near else "spacelang bench --list has them all"
            raise UnknownRow(f"there is no benchmark {name!r}; {told}")
    return tuple(row for row in ROWS if {row.name, row.network, row.runtime} & {*names})


__all__ = ["BY_NAME", "ONNX", "ROWS", "TORCH", "Row", "UnknownRow", "select"]
