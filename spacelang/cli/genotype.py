"""`genotype`: cells as the DARTS family publishes them, from assignments and to them."""

from __future__ import annotations

import click

from spacelang.cli import options
from spacelang.cli.output import dumps, emit


@click.command(short_help="A published genotype as an assignment, or back.")
@click.argument("file", metavar="FILE")
@options.as_json
def genotype(file: str, as_json: bool) -> None:
    """Turn the JSON of a published DARTS genotype into an assignment, an assignment into JSON.

    --arch of every command takes either form. FILE - is stdin.
    """
    from spacelang.syntax.genotypes import write

    given, published = options.read_architecture(file)
    made = dict(given)
    if as_json:
        emit({"assignment": made, "genotype": write(given)})
    else:
        print(dumps(made) if published else write(given), end="\n" if published else "")
