"""What is measured against what: one row a piece of work, its contenders by name.

    select(["tiny_vit_5m_224"])      # its rows at every batch
    select(["efficientvit_m0@16"])   # one row
    select(["onnxruntime"])          # the rows in which ONNX Runtime runs ours and theirs
    select([], compiled=True)        # all rows, those of torch.compile too, which take minutes each

A contender is built by `backends/torch/bench` under its name. The ratio of a row is the time of the
best of `against`, its rivals by the same runtime, over that of `ours`; `also` (the network before
`deploy`, and of PyTorch's rows ONNX Runtime) are measured in the same run, but set no ratio;
`beside` likewise, and compute another function, so that their results are not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

TORCH, ONNX, COMPILED = "torch", "onnxruntime", "compiled"
# Networks that nobody has published.
OWN = Path(__file__).parent.parent / "backends" / "torch" / "bench" / "networks.space"
TOLERANCE = 1e-5  # of the largest magnitude of an output
# Of losses in float32 behind ReLUs and maxima, some inputs of which rounding puts on either side:
# that moves CDARTS' loss by 3e-5. The equality itself is shown in float64.
IN_SINGLE = 1e-4


class UnknownRow(LookupError):
    """There is no row of a name; the message says what is near."""


@dataclass(frozen=True)
class Row:
    """A piece of work and who does it.

    wanted     the ratio in time that is asked for; None: reported only
    memory     the share of the rival's peak memory that is asked for
    tolerance  by how much results may differ, as a part of their largest magnitude
    same       whether ours and the rivals compute the same; else nothing is compared
    double     whether gradients are compared in float64, as rounding decides them in float32; in
               float32 losses have to agree to the tolerance
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
    beside: tuple[str, ...] = ()
    tolerance: float = TOLERANCE
    same: bool = True
    double: bool = False

    @property
    def name(self) -> str:
        by = "" if self.runtime == TORCH else f"/{self.runtime}"
        return f"{self.network}@{self.batch}{by}"

    @property
    def contenders(self) -> tuple[str, ...]:
        return (self.ours, *self.against, *self.also, *self.beside)

    @property
    def compared(self) -> tuple[str, ...]:
        """Whose results have to be ours."""
        return (*(self.against if self.same else ()), *self.also)


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
# In their published form: network -> its space, and the ratio wanted at each batch.
PUBLISHED = {
    "deit_tiny_irpe_k": ("irpe.space:deit_ti_product_k", {1: 1.3, 16: 1.3}),
    "deit_tiny_irpe_qkv": (f"{OWN}:deit_tiny_irpe_qkv", {1: 3.0, 16: 3.0}),
    "mini_deit_tiny": ("minivit.space:mini_deit_ti", {1: 1.3, 16: 1.3}),
    "autoformer_t_subnet": ("autoformer.space:autoformer_t_subnet", {8: 1.8}),
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
    *(
        Row(network, space, batch, "inference", ("published",), ("extracted",), wanted)
        for network, (space, batches) in PUBLISHED.items()
        for batch, wanted in batches.items()
    ),
    Row("autoformer_t_step", AUTOFORMER, 8, "step", ("step.published",),
        (), 1.45, 0.53, beside=("step.plain",)),
    Row("autoformer_t_step_checkpointed", AUTOFORMER, 8, "step.checkpointed",
        ("step.published",), (), 1.0, 0.42),
    Row("autoformer_t_step_bfloat16", AUTOFORMER, 8, "step.bfloat16", ("step",), (), 1.5,
        tolerance=2e-2),
    Row("autoformer_t_attention", AUTOFORMER, 8, "attention", ("attention.published",), (), 2.5),
    Row("autoformer_t_attention_and_plain", AUTOFORMER, 8, "attention", ("attention.plain",), (),
        1 / 1.7, same=False),
    Row("cream_step", "cream.space:cream", 8, "step", ("step.published",), (), 1.25,
        tolerance=IN_SINGLE, double=True),
    Row("cdarts_search_step", "cdarts.space:cifar10_cycles", 8, "cycle", ("cycle.published",), (),
        1.25, tolerance=IN_SINGLE, double=True),
)  # fmt: skip
# With PyTorch's compiler on both sides, which takes minutes a row: only when it is asked for.
COMPILED_ROWS: tuple[Row, ...] = tuple(
    Row(network, space, batch, "inference.compiled", ("timm.compiled",), ("inference",), 1.15,
        runtime=COMPILED)
    for network, (space, batches) in INFERENCE.items()
    for batch in batches
    if batch == 1 or network.startswith("efficientvit")
)  # fmt: skip
BY_NAME = {row.name: row for row in (*ROWS, *COMPILED_ROWS)}
NAMES = frozenset((*BY_NAME, *(row.network for row in ROWS), ONNX))  # that `select` knows
THREADS = (1, 2)  # with which every row is to be measured; those of the compiler with one
EXPECTED: tuple[tuple[Row, int], ...] = (
    *((row, threads) for threads in THREADS for row in ROWS),
    *((row, 1) for row in COMPILED_ROWS),
)
"""The records that a whole page has."""


def select(names: Sequence[str], compiled: bool = False) -> tuple[Row, ...]:
    """The rows of some names, in the order of the table; all where none is given (UnknownRow).

    Those of the compiler are there where they are `compiled`, or named in full.
    """
    rows = (*ROWS, *(COMPILED_ROWS if compiled else ()))
    if not names:
        return rows
    for name in names:
        if name not in NAMES:
            near = get_close_matches(name, sorted(NAMES), 1)
            told = f"did you mean {near[0]}?" if near else "spacelang bench --list has them all"
            raise UnknownRow(f"there is no benchmark {name!r}; {told}")
    named = tuple(row for row in COMPILED_ROWS if row not in rows and row.name in names)
    return (*(r for r in rows if {r.name, r.network, r.runtime} & {*names}), *named)


__all__ = [
    "BY_NAME", "COMPILED", "EXPECTED", "NAMES", "ONNX", "ROWS", "THREADS", "TORCH", "Row",
    "UnknownRow", "select",
]  # fmt: skip
