"""`bench kernels`: the process that measures, its records, and their picture.

records, failed = measured("cuda", repeats=20)
svg = picture(records)
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from spacelang.bench.process import answer_of
from spacelang.diagnostics import SpaceError, error

WORKER = "spacelang.backends.torch.bench.kernel_records"
COLOURS = {
    "kernel": "#0a7d5c", "eager": "#97a3b1", "scaled_dot_product_attention": "#2563d9",
    "flex_attention": "#7c3aed", "torch.compile": "#c2620a",
}  # fmt: skip
BAR, LEFT, RIGHT = 16, 190, 660


def measured(
    device: str, repeats: int, dtype: str = "float32"
) -> tuple[list[dict[str, Any]], list[SpaceError]]:
    """A record for each kernel, and why others have none: they compute something else, or fail."""
    request = json.dumps({"device": device, "repeats": repeats, "dtype": dtype})
    flag = {"TRITON_INTERPRET": "1" if device == "interpret" else "0"}
    done = subprocess.run(
        [sys.executable, "-m", WORKER, request], capture_output=True, text=True, check=False,
        env={**os.environ, **flag},
    )  # fmt: skip
    said = [a for a in map(answer_of, done.stdout.splitlines()) if a is not None]
    failed = [_failure(answer) for answer in said if "failed" in answer]
    if done.returncode:
        told = done.stderr.strip().splitlines()
        found = error("SP703", f"the process that measures ended with {done.returncode}")
        failed.append(SpaceError(found.note(told[-1] if told else "it said nothing")))
    return [answer for answer in said if "failed" not in answer], failed


def _failure(answer: Mapping[str, Any]) -> SpaceError:
    found = error(answer["code"], answer["failed"])
    return SpaceError(found.hint(answer["help"]) if answer["help"] else found)


def median(record: Mapping[str, Any], name: str) -> float:
    """Seconds a call of a contender."""
    return statistics.median(record["seconds"][name])


def picture(records: Sequence[Mapping[str, Any]]) -> str:
    """Bars of the time of each contender of each kernel, on a logarithmic scale, as an SVG."""
    times = [median(r, name) for r in records for name in r["seconds"]]
    low = math.floor(math.log10(min(times)))
    high = max(low + 1, math.ceil(math.log10(max(times))))

    def at(seconds: float) -> float:
        return LEFT + (math.log10(seconds) - low) / (high - low) * (RIGHT - LEFT)

    parts: list[str] = []
    y = 24.0
    for record in records:
        parts.append(_text(8, y + 12, str(record["name"])))
        for name in record["seconds"]:
            seconds = median(record, name)
            width = max(1.0, at(seconds) - LEFT)
            title = f"<title>{escape(record['what'])}</title>"
            parts.append(
                f'<rect x="{LEFT}" y="{y:.0f}" width="{width:.1f}" height="{BAR - 4}"'
                f' fill="{COLOURS[name]}">{title}</rect>'
            )
            parts.append(_text(LEFT + width + 6, y + 10, f"{name} {seconds * 1e6:,.0f} us"))
            y += BAR
        y += 10
    for power in range(low, high + 1):
        x = at(10.0**power)
        parts.append(f'<path d="M{x:.1f} 18V{y:.0f}" stroke="#97a3b1" stroke-opacity="0.4"/>')
        parts.append(_text(x, 12, f"1e{power} s"))
    device = records[0]["device"]
    note = "times of Triton's interpreter say nothing of a GPU" if device == "interpret" else device
    parts.append(_text(8, y + 14, note))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 {y + 24:.0f}" role="img"'
        f' aria-label="seconds of each kernel" font-family="sans-serif" font-size="11"'
        f' fill="#5a6573">{"".join(parts)}</svg>\n'
    )


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


__all__ = ["measured", "median", "picture"]
