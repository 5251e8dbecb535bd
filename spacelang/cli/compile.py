"""`compile`: a space becomes an artifact folder, from which everything after needs no source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from spacelang import plugins
from spacelang.cli import options, runs
from spacelang.cli.errors import nearest
from spacelang.cli.output import emit, many, say, working
from spacelang.diagnostics import SpaceError
from spacelang.manifest import check_free
from spacelang.render import visible

if TYPE_CHECKING:
    from spacelang.ir.decision import Assignment
    from spacelang.ir.graph import Graph

SOURCE = "model.py"
RUNTIME, UNTRAINED = "torch", "untrained"


@click.command(short_help="An artifact folder: all that training needs.")
@options.space
@click.option("-o", "--output", required=True, metavar="DIR", help="The folder to write.")
@options.arch
@click.option("--passes", default="", metavar="PASSES",
              help="Passes to run first: 'multiplex{path=encoder,every=2}, simplify'.")  # fmt: skip
@click.option("--for", "purpose", type=click.Choice(["training", "inference"]), default="training",
              show_default=True, help="inference: one network ready to run; of a space with open "
              "decisions the space, norms folded.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1, 1 << 20), metavar="N",
              help="For inference: inputs at a time.  [1]")  # fmt: skip
@click.option("--runtime", metavar="NAME",
              help="For inference: who runs it, torch or onnxruntime.  [torch]")  # fmt: skip
@click.option("--weights", metavar="FILE",
              help="For inference: a .safetensors file.  [of the run, else untrained]")  # fmt: skip
@click.option("--names", metavar="NAME",
              help="Whose names the weights have: own, timm, published, ..  [own]")  # fmt: skip
@click.option("--head-map", metavar="FILE",
              help="Of weights of other classes: a line a class, its row or -1.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=0, show_default=True,
              help="Of weights that were never trained.")  # fmt: skip
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
    batch: int | None,
    runtime: str | None,
    weights: str | None,
    names: str | None,
    head_map: str | None,
    seed: int,
    backend: str,
    require_fused: bool,
    as_json: bool,
) -> None:
    """Write the compiled graph, its source for PyTorch, and a manifest with the hash of each file.

    The same input gives the same bytes, where weights are computed on the same machine. model.py is
    the whole space as a module that needs PyTorch alone. An artifact that stands in the place is
    replaced at once; any other folder with something in it is refused. --arch fixes one
    architecture. --for inference drops outputs for training and folds norms; of one network it
    makes one that is fast for --batch inputs on this processor, with its weights:
    spacelang.load_deployed opens it.
    """
    from spacelang.cli.artifact import KIND, write_artifact

    runs.alone("compile")
    known = plugins.table("spacelang.backends")
    if backend not in known:
        hint = nearest(backend, list(known)) or f"there are {', '.join(sorted(known))}"
        raise click.UsageError(f"there is no backend {backend!r}; {hint}")
    of_network = (batch, runtime, weights, names, head_map) != (None,) * 5
    if purpose == "training" and of_network:
        flags = "--batch, --runtime, --weights, --names and --head-map"
        raise click.UsageError(f"{flags} go with --for inference")
    if require_fused and runtime not in (None, RUNTIME):
        raise click.UsageError(f"--require-fused is of {SOURCE}, which --runtime {runtime} has not")
    if names is not None and weights is None:
        raise click.UsageError("--names says how --weights calls them: give both")
    if head_map is not None and weights is None:
        raise click.UsageError("--head-map picks rows of --weights: give both")
    check_free(Path(output), KIND)
    if of_network:
        runs.work(backend, "check_runtime")(runtime or RUNTIME)
    graph = options.load(space, settings, passes)
    assignment = _assignment(space, arch, purpose)
    if of_network:
        options.decided(graph, assignment or {}, arch)
    record: dict[str, object] = {
        "parameters": options.spelled_all(settings),
        "passes": passes,
        "for": purpose,
        "backend": backend,
        "assignment": None if assignment is None else dict(assignment),
    }
    files: dict[str, str | bytes] = {}
    if assignment is not None:
        from spacelang.passes.specialize import specialize

        fixed = specialize(graph, assignment)
    else:
        fixed = graph
    able = f"{backend}.deploy" in plugins.table("spacelang.commands")
    if purpose == "inference" and not fixed.decisions and (able or of_network):
        given = Network(
            space,
            settings,
            passes,
            graph,
            assignment or {},
            seed,
            weights,
            names or "own",
            head_map,
        )
        record |= {"batch": batch or 1, "runtime": runtime or RUNTIME} | given.origin
        record |= runs.images_of(Path(space)) if given.of_run else {}
        with working("deploying"):
            graph, difference = _deployed(given, backend, record, files)
    else:
        graph, difference = fixed, None
        if purpose == "inference":
            from spacelang.passes.inference import for_inference

            graph = for_inference(graph)
    if record.get("runtime", RUNTIME) == RUNTIME:
        _printed(graph, backend, require_fused, record, files)
    manifest = write_artifact(Path(output), graph, record, files)
    if as_json:
        more = {} if difference is None else {"difference": difference}
        emit({"folder": output, **manifest, **more})
        return
    told = " (its weights are untrained)" if record.get("weights") == UNTRAINED else ""
    say(f"wrote {visible(output)}: {graph.name}, {many(len(graph.decisions), 'decision')}{told}")
    say(f"  graph {manifest['graph']}")
    if difference is not None:
        inputs = many(cast(int, record["batch"]), "input")
        say(f"  for {inputs} by {record['runtime']}, {difference:.1e} from the model")
    if "source" in record:
        say(f"  no {SOURCE}: {visible(str(record['source']))}")


@dataclass(frozen=True)
class Network:
    """One network of a space, and where its weights come from."""

    space: str
    settings: Mapping[str, object]
    passes: str
    graph: Graph
    assignment: Assignment
    seed: int
    weights: str | None
    names: str
    head_map: str | None = None

    @property
    def of_run(self) -> bool:
        """Whether its weights are those of a run."""
        return self.weights is None and runs.is_run(Path(self.space))

    @property
    def origin(self) -> dict[str, object]:
        """Where its weights come from, as the manifest says it."""
        if self.weights is not None:
            return {"weights": "file"}
        return {"weights": "run"} if self.of_run else {"weights": UNTRAINED, "seed": self.seed}


def _assignment(space: str, arch: str | None, purpose: str) -> Assignment | None:
    """The architecture of --arch; for inference of a run else what evolution found."""
    if arch is None and purpose == "inference":
        from spacelang.cli.takeaway import assignment_of

        return assignment_of(space, None) or None
    return None if arch is None else options.read_assignment(arch)


def _deployed(
    given: Network, backend: str, record: Mapping[str, object], files: dict[str, str | bytes]
) -> tuple[Graph, float]:
    """The graph of a network ready to run, and how far it is from the model; its files join the
    artifact's.
    """
    from spacelang.cli.takeaway import model_of, settle

    if given.of_run and given.passes.strip():
        reason = "the weights of a run are those of its network before --passes"
        raise click.UsageError(f"{reason}: give --weights FILE, or leave out --passes")
    if given.of_run:
        model, own = model_of(given.space, given.settings, backend, given.seed)
        settle(given.space, model, own, given.assignment, None, backend)
    else:
        model = plugins.load("spacelang.backends", backend)().lower(given.graph, given.seed)
        if given.weights is not None:
            runs.work(backend, "weights")(model, given.weights, given.names, given.head_map)
    deploy = runs.work(backend, "deploy")
    graph, made, difference = deploy(model, given.assignment, record["batch"], record["runtime"])
    files.update(made)
    return graph, float(f"{difference:.1e}")


def _printed(
    graph: Graph,
    backend: str,
    require_fused: bool,
    record: dict[str, object],
    files: dict[str, str | bytes],
) -> None:
    """The source of the graph for PyTorch, or why there is none, joins the artifact's files."""
    with runs.using(backend, require_fused) as worker:
        if worker != backend:
            record["kernels"] = runs.work(backend, "fits")(graph)
        try:
            files[SOURCE] = runs.work(worker, "print_supernet")(graph)
        except SpaceError as failed:
            # What cannot be printed can be compiled all the same; the manifest says why.
            record["source"] = failed.diagnostics[0].headline
