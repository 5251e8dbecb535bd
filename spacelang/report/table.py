"""Tables of a report."""

from __future__ import annotations

from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """A table of ready HTML; a head that ends in # has numbers below it."""
    css = [' class="number"' if head.endswith("#") else "" for head in heads]
    top = "".join(f"<th{c}>{head.rstrip('#')}</th>" for c, head in zip(css, heads, strict=True))
    lines: list[str] = []
    for position, row in enumerate(rows):
        cells = "".join(f"<td{c}>{cell}</td>" for c, cell in zip(css, row, strict=True))
        kind = f' class="{classes[position]}"' if classes else ""
        lines.append(f"<tr{kind}>{cells}</tr>")
    head, body = f"<thead><tr>{top}</tr></thead>", f"<tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll"><table>{head}{body}</table></div>'
