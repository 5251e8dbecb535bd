"""`show`: a graph as text for people, exact IR text, DOT, SVG, or a page that stands alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import click

from spacelang.cli import options
from spacelang.cli.output import both, emit, exact, say

if TYPE_CHECKING:
    from spacelang.ir.graph import Graph


def _text(graph: Graph) -> str:
    from spacelang.cli.listing import listing

    return listing(graph)


def _ir(graph: Graph) -> str:
    from spacelang.ir.text import write

    return write(graph)


def _space(graph: Graph) -> str:
    from spacelang.syntax.write import write_space

    return write_space(graph)


def _dot(graph: Graph, block: str = "") -> str:
    from spacelang.cli.drawing import dot, sketch

    return dot(sketch(graph, block))


def _svg(graph: Graph, block: str = "") -> str:
    from spacelang.cli.drawing import sketch, svg

    return svg(sketch(graph, block))


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>{name}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; }}
body {{ padding: 0 1rem; }} svg {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .2rem 1rem .2rem 0; text-align: left; }}
pre {{ overflow-x: auto; font-size: 12.5px; line-height: 1.45; }}
summary {{ cursor: pointer; font-family: ui-monospace, monospace; }}
</style>
</head>
<body>
<h1>{name}</h1>
<table>{facts}</table>
<h2>Decisions</h2>
{decisions}
<h2>The network</h2>
{drawing}
<h2>In full</h2>
{blocks}
</body>
</html>
"""


def _html(graph: Graph) -> str:
    from spacelang.analysis.extent import extent
    from spacelang.cli.drawing import sketch, svg
    from spacelang.cli.info import grouped_decisions, size_text, stored
    from spacelang.cli.listing import listing
    from spacelang.report.text import html

    reach = extent(graph)
    facts = [
        ("architectures", size_text(reach.size)),
        ("decisions", exact(len(graph.decisions))),
        ("parameters kept", both(stored(graph, "params"))),
        ("params", f"{both(reach.params[0])} to {both(reach.params[1])}"),
        ("macs", f"{both(reach.macs[0])} to {both(reach.macs[1])}"),
        *(("requires", str(limit)) for limit in graph.require),
    ]
    rows = "".join(f"<tr><th>{html(name)}</th><td>{html(text)}</td></tr>" for name, text in facts)
    decisions = "".join(
        f"<tr>{''.join(f'<td>{html(cell)}</td>' for cell in row)}</tr>"
        for row in grouped_decisions(graph)
    )
    heads = "".join(f"<th>{h}</th>" for h in ("decision", "kind", "candidates", "places"))
    blocks = ""
    for index, part in enumerate(listing(graph).rstrip("\n").split("\n\n")):
        heading, _, body = part.partition("\n")
        lines = "\n".join(map(html, body.split("\n")))
        state = ' open="open"' if index == 0 else ""
        blocks += (
            f"<details{state}><summary>{html(heading)}</summary><pre>{lines}</pre></details>\n"
        )
    return PAGE.format(
        name=html(graph.name),
        facts=rows,
        decisions=f"<table><tr>{heads}</tr>{decisions}</table>" if decisions else "<p>None.</p>",
        drawing=svg(sketch(graph)),
        blocks=blocks,
    )


FORMS: Mapping[str, Callable[[Graph], str]] = {
    "text": _text,
    "ir": _ir,
    "space": _space,
    "dot": _dot,
    "svg": _svg,
    "html": _html,
}
DRAWN = {"svg": _svg, "dot": _dot}


@click.command(short_help="The graph as text, IR, a .space file, DOT, SVG or HTML.")
@options.space
@click.option("--as", "form", type=click.Choice(list(FORMS)), help="The form.  [text]")
@click.option("--block", metavar="NAME", default="",
              help="Draw this block of the network in place of the whole (svg, dot).")  # fmt: skip
@options.after
@click.option("-o", "--output", metavar="FILE", help="Write to a file instead of stdout.")
@options.as_json
def show(
    space: str,
    settings: Mapping[str, object],
    form: str | None,
    block: str,
    after: str,
    output: str | None,
    as_json: bool,
) -> None:
    """The graph of a space, or what passes leave of it.

    `text` lists the network and then every block once; `ir` is exact and can be read back,
    `space` loads to the same network; `svg`
    and `html` need no other program, and a page loads nothing.
    """
    from spacelang.cli.program import listing, program_at, record
    from spacelang.files import atomic_write

    if block and form not in DRAWN:
        raise click.UsageError(f"--block is of a drawing: --as {' or '.join(DRAWN)}")
    program = program_at(space, settings)
    if program is not None:
        if form not in (None, "text") or output is not None:
            raise click.UsageError("a program is shown as text; show its networks one by one")
        if form is not None and as_json:
            raise click.UsageError("--json says what a program is: leave --as out")
        if after:
            raise click.UsageError("--after is of one network of a program")
        emit(record(program)) if as_json else listing(program)
        return
    form = form or "text"
    graph = options.load(space, settings, after)
    made = DRAWN[form](graph, block) if block else FORMS[form](graph)
    if output is not None:
        atomic_write(output, made)
    if as_json:
        record = {"name": graph.name, "form": form}
        emit({**record, "file": output} if output is not None else {**record, "text": made})
    elif output is None:
        sys.stdout.write(made)
    else:
        say(f"wrote {output}")
