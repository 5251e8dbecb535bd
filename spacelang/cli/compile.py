"""`compile`: a space becomes an artifact folder, from which everything after needs no source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from spacelang import plugins
from spacelang.cli import options
from spacelang.cli.errors import nearest
from spacelang.cli.output import emit, many, say
from spacelang.render import visible


@click.command(short_help="An artifact folder: all that training needs.")
@options.space
@click.option("-o", "--output", required=True, metavar="DIR", help="The folder to write.")
@options.arch
@click.option("--passes", default="", metavar="PASSES",
              help="Passes to run first: 'multiplex{path=encoder,every=2}, simplify'.")  # fmt: skip
@click.option("--backend", default="torch", show_default=True, help="Who it is compiled for.")
@options.as_json
def compile(
    space: str,
    settings: Mapping[str, object],
    output: str,
    arch: str | None,
    passes: str,
    backend: str,
    as_json: bool,
) -> None:
    """Write the compiled graph and a manifest with the hash of every file.

    The same input gives the same bytes. An artifact that stands in the place is replaced at once;
    any other folder with something in it is refused. --arch fixes one architecture.
    """
    from spacelang.cli.artifact import write_artifact

    known = plugins.table("spacelang.backends")
    if backend not in known:
        raise click.UsageError(f"there is no backend {backend!r}; {nearest(backend, list(known))}")
    graph = options.load(space, settings, passes)
    assignment = None
    if arch is not None:
        from spacelang.passes.specialize import specialize

        assignment = options.read_assignment(arch)
        graph = specialize(graph, assignment)
    record = {
        "parameters": options.spelled_all(settings),
        "passes": passes,
        "backend": backend,
        "assignment": None if assignment is None else dict(assignment),
    }
    manifest = write_artifact(Path(output), graph, record, {})
    if as_json:
        emit({"folder": output, **manifest})
        return
    say(f"wrote {visible(output)}: {graph.name}, {many(len(graph.decisions), 'decision')}")
    say(f"  graph {manifest['graph']}")
