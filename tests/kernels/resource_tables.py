"""`docs/kernels.md`'s tables of what binaries need, out of the golden table.

    <!-- attention: by pytest tests/kernels/test_resources.py --update-golden -->
    ...
    <!-- end -->

A family has a table of its own, in which rows go without its name; "others" has all the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

TABLE = Path(__file__).resolve().parent.parent / "golden" / "kernels.json"
Needs = Mapping[str, Mapping[str, Mapping[str, int]]]  # build -> target -> what it needs
OWN = ("attention", "mixed_attention", "cascade_training")
OTHERS = "others"
BEGIN = "<!-- {}: by pytest tests/kernels/test_resources.py --update-golden -->\n"
PART = re.compile(BEGIN.format(r"(\w+)") + "(?s:.*?)(?=<!-- end -->)")
ALL_HEADS = "all heads of a tile and of a sum, and the three parts of a mix, fill the registers"
AT_128 = "ptxas keeps to 128 registers by itself"
AT_255 = "it has all 255 registers that a thread can have"
SPILLS: Mapping[str, str] = {  # build and target -> why it may spill
    "attention.keys[irpe_k, fp16] sm_90": AT_128,
    "attention.keys[irpe_euc_k, fp16] sm_90": AT_128,
    "attention.keys[irpe_qk, fp16] sm_100": AT_128,
    "attention.keys[irpe_qkv, fp16] sm_90": AT_128,
    "attention.keys[irpe_quant_k, fp16] sm_90": AT_128,
    "cascade_training.attend_back[49 fp32] sm_90": AT_128,
    "linear.plain[fp32] sm_80": AT_255,
    "mixed_attention.rows[mini_deit_b, fp16] sm_100": ALL_HEADS,
    **{
        f"mixed_attention.{kernel}[mini_swin_24, fp16] sm_{number}": ALL_HEADS
        for number, kernels in (
            (80, ("shares", "queries", "values", "keys", "sums")),
            (90, ("queries", "values", "keys", "sums")),
            (100, ("forward", "shares", "queries", "values", "keys", "sums")),
        )
        for kernel in kernels
    },
}


def golden() -> Needs:
    return json.loads(TABLE.read_text("utf-8"))


def page(text: str, table: Needs) -> str:
    """A page with its marked parts made anew."""
    return PART.sub(lambda part: BEGIN.format(part[1]) + "".join(_part(part[1], table)), text)


def families(text: str) -> list[str]:
    """The tables that a page has."""
    return [part[1] for part in PART.finditer(text)]


def _part(family: str, table: Needs) -> Iterator[str]:
    mine = {build: needs for build, needs in table.items() if _family(build) == family}
    targets = list(next(iter(mine.values())))
    yield f"| kernel | {' | '.join(targets)} |\n|---{'|---' * len(targets)}|\n"
    for build, needs in mine.items():
        cells = (_cell(needs[target]) for target in targets)
        yield f"| {_short(build)} | {' | '.join(cells)} |\n"
    yield "\n"
    for build, needs in mine.items():
        for target in targets:
            if spilled := needs[target]["spilled"]:
                why = SPILLS.get(f"{build} {target}", "nobody knows why")
                yield f"* `{_short(build)}` spills {spilled} bytes on {target}: {why}.\n"


def _family(build: str) -> str:
    name = build.partition(".")[0]
    return name if name in OWN else OTHERS


def _short(build: str) -> str:
    return build if _family(build) == OTHERS else build.partition(".")[2]


def _cell(needs: Mapping[str, int]) -> str:
    scalars = f" + {needs['scalars']}" if needs["scalars"] else ""
    return f"{needs['registers']}{scalars}, {needs['spilled']}, {needs['shared'] / 1024:g}"
