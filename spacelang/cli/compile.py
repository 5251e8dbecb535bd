"""`compile`: a space becomes an artifact folder, from which everything after needs no source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from spacelang import plugins
from spacelang.cli import options, runs
from spacelang.cli.errors import nearest
from spacelang.cli.output import emit, many, say
from spacelang.diagnostics import SpaceError
from spacelang.render import visible

SOURCE = "model.py"


@click.command(short_help="An artifact folder: all that training needs.")
@options.space
@click.option("-o", "--output", required=True, metavar="DIR", help="The folder to write.")
@options.arch
@click.option("--passes", default="", metavar="PASSES",
              help="Passes to run first: 'multiplex{path=encoder,every=2}, simplify'.")  # fmt: skip
@click.option("--for", "purpose", type=click.Choice(["training", "inference"]), default="training",
              show_default=True, help="inference: norms folded, decisions kept.")  # fmt: skip
@click.option("--backend", default="torch", show_default=True, help="Who it is compiled for.")
@click.option("--require-fused", is_flag=True,
              help="With --backend triton: what cannot be fused is an error.")  # fmt: skip
@options.as_json
def compile(
    space: str,
    settings: Mapping[str, object],
    output: str,
    arch: str | None,
    passes: str,
    purpose: str,
    backend: str,
    require_fused: bool,
    as_json: bool,
) -> None:
    """Write the compiled graph, its source for PyTorch, and a manifest with the hash of each file.

    The same input gives the same bytes. model.py is the whole space as a module that needs PyTorch
    alone. An artifact that stands in the place is replaced at once; any other folder with something
    in it is refused. --arch fixes one architecture; --for inference drops outputs for training and
    folds norms: such a space has other weights than one that trains.
    """
    from spacelang.cli.artifact import write_artifact

    runs.alone("compile")
    known = plugins.table("spacelang.backends")
    if backend not in known:
        hint = nearest(backend, list(known)) or f"there are {', '.join(sorted(known))}"
        raise click.UsageError(f"there is no backend {backend!r}; {hint}")
    graph = options.load(space, settings, passes)
    assignment = None
    if arch is not None:
        from spacelang.passes.specialize import specialize

        assignment = options.read_assignment(arch)
        graph = specialize(graph, assignment)
    if purpose == "inference":
        from spacelang.passes.inference import for_inference

        graph = for_inference(graph)
    record: dict[str, object] = {
        "parameters": options.spelled_all(settings),
        "passes": passes,
        "for": purpose,
        "backend": backend,
        "assignment": None if assignment is None else dict(assignment),
    }
    printed: dict[str, str] = {}
    with runs.using(backend, require_fused) as worker:
        if worker != backend:
            record["kernels"] = runs.work(backend, "fits")(graph)
        try:
            printed[SOURCE] = runs.work(worker, "print_supernet")(graph)
        except SpaceError as failed:
            # What cannot be printed can be compiled all the same; the manifest says why.
            record["source"] = failed.diagnostics[0].headline
    manifest = write_artifact(Path(output), graph, record, printed)
    if as_json:
        emit({"folder": output, **manifest})
        return
    say(f"wrote {visible(output)}: {graph.name}, {many(len(graph.decisions), 'decision')}")
    say(f"  graph {manifest['graph']}")
    if not printed:
        say(f"  no {SOURCE}: {visible(str(record['source']))}")
