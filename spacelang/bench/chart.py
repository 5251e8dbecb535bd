"""The ratios of a file of records as one picture: a bar a row, its quartiles, what was wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

from spacelang.bench.measure import best, ratio
from spacelang.bench.rows import BY_NAME
from spacelang.bench.verdict import verdict

LEFT, WIDTH, BAR = 270, 380, 20


def chart(data: Mapping[str, Any]) -> str:
    """An SVG; a bar that ends right of 1 is a row where ours is faster than the best rival
    that the same runtime runs."""
    order = list(BY_NAME)
    records = [r for r in data["records"].values() if r["row"] in BY_NAME]
    records.sort(key=lambda r: (order.index(r["row"]), r["threads"]))
    found: list[tuple[str, tuple[float, float, float], float | None, bool]] = []
    for record in records:
        row = BY_NAME[record["row"]]
        rival = best(record, row.ours, row.against)
        compared = None if rival is None else ratio(record, row.ours, rival)
        if compared is not None:
            met = verdict(row, record).met
            name = f"{row.name}, {record['threads']} thread{'s' * (record['threads'] > 1)}"
            found.append((name, compared, row.wanted, met))
    most = max([1.0, *(max(x[1][2], x[2] or 0) for x in found)]) * 1.05

    def at(value: float) -> float:
        return LEFT + value / most * WIDTH

    height = 30 + BAR * len(found)
    parts = [f'<path d="M{at(1):.1f} 16V{height}" stroke="#39424e"/>', _text(at(1), 12, "1")]
    for place, (name, (middle, low, high), wanted, met) in enumerate(found):
        y = 22 + BAR * place
        colour = "#0a7d5c" if met else "#c2620a"
        parts.append(_text(8, y + 11, name))
        parts.append(
            f'<rect x="{LEFT}" y="{y}" width="{at(middle) - LEFT:.1f}" height="13"'
            f' fill="{colour}"/>'
            f'<path d="M{at(low):.1f} {y + 6.5}H{at(high):.1f}" stroke="#1a1f26"/>'
        )
        if wanted is not None:
            parts.append(f'<path d="M{at(wanted):.1f} {y - 2}v17" stroke="#b3261e"/>')
        parts.append(_text(LEFT + WIDTH + 8, y + 11, f"{middle:.2f}"))
    parts.append(
        _text(
            8,
            height + 12,
            "times as fast as the best rival by the same runtime (PyTorch if unnamed); red: wanted",
        )
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 60} {height + 20}"'
        f' role="img" aria-label="ratio of each row" font-family="sans-serif" font-size="11"'
        f' fill="#5a6573">{"".join(parts)}</svg>\n'
    )


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


__all__ = ["chart"]
