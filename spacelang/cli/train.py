"""`train` and `search`: the engines, on a folder alone or on a space."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import click

from spacelang.cli import options, runs
from spacelang.cli.output import both, count_of, emit, exact, pairs, say, table
from spacelang.diagnostics import SpaceError, error
from spacelang.files import atomic_write

# The settings of training, by timm's names: what each is. A switch is named with its two faces.
RECIPE: dict[str, str] = {
    "epochs": "Epochs.",
    "batch_size": "Images a step.",
    "lr": "The peak learning rate.",
    "min_lr": "The learning rate at the end.",
    "warmup_lr": "The learning rate at the start.",
    "warmup_epochs": "Epochs from there to the peak.",
    "sched": "cosine or constant.",
    "weight_decay": "Of AdamW; vectors and norms have none.",
    "opt_eps": "Of AdamW.",
    "opt_betas": "Of AdamW, with a comma between.",
    "clip_grad": "The largest norm of all gradients.",
    "smoothing": "Of labels.",
    "model_ema_decay": "Of the moving average.",
    "aug": "A recipe of augmentation: none, digits, photos.",
    "law": "How a step draws its architectures: choices, architectures, sandwich.",
    "no_decay": "Labels of parameters without weight decay, with commas between.",
    "unsampled": "Blocks that a step does not use: freeze, decay.",
    "val_interval": "Epochs between two validations; 0 for none.",
}
SWITCHES: dict[str, str] = {
    "sched_on_updates": "A new learning rate every step, or every epoch.",
    "model_ema": "Keep a moving average of the weights, and search in it.",
    "amp": "Compute in bfloat16 where that is safe.",
}
MAX_RECIPE = 1 << 20


def recipe(function: Callable[..., Any]) -> Callable[..., Any]:
    """A flag for each setting of training; those that were given come as one mapping."""
    for name, text in reversed(RECIPE.items()):
        flag = "--" + name.replace("_", "-")
        short = ("-b",) if name == "batch_size" else ()
        function = click.option(*short, flag, name, metavar="VALUE", help=text)(function)
    for name, text in reversed(SWITCHES.items()):
        flag = name.replace("_", "-")
        function = click.option(f"--{flag}/--no-{flag}", name, default=None, help=text)(function)
    return function


@click.command(short_help="Train the supernet of a space, or go on with it.")
@options.space
@click.option("-o", "--output", metavar="RUN", help="The run folder; not needed to go on in one.")
@click.option("--data", metavar="DATA", help="A data set by name, a folder of class folders, .npz.")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), help="Of everything drawn.  [42]")
@click.option("--checkpoint-hist", type=click.IntRange(1, 100), default=2, show_default=True,
              help="How many checkpoints are kept.")  # fmt: skip
@click.option("--recipe", "file", metavar="FILE", help="Settings from a TOML file; flags win.")
@recipe
@runs.device
@runs.backend
@runs.progress
@options.as_json
def train(
    space: str,
    settings: Mapping[str, object],
    output: str | None,
    data: str | None,
    seed: int | None,
    checkpoint_hist: int,
    file: str | None,
    device: str,
    backend: str,
    progress: str,
    as_json: bool,
    **flags: object,
) -> None:
    """Train the supernet of SPACE: every step one random architecture.

    SPACE is a space, an artifact, or a run that goes on where it stopped. The same command again
    goes on too, to the bit. A signal ends it after the step, with everything saved.
    """
    graph = options.load(space, settings)
    run = Path(output if output is not None else space)
    if output is None and not runs.is_run(run):
        raise click.UsageError("-o RUN is missing: where the run is kept")
    before = runs.record_of(run) if runs.is_run(run) else {}
    given = {name: value for name, value in flags.items() if value is not None}
    kept = before.get("recipe")
    known = cast("dict[str, object]", kept) if isinstance(kept, dict) else {}
    used = runs.work(backend, "recipe")({**known, **_recipe_file(file), **given})
    spec = data if data is not None else runs.data_of(run)
    images = runs.data_for(backend, spec, graph)
    number = seed if seed is not None else before.get("seed", 42)
    place = runs.work(backend, "device")(device)
    with runs.work(backend, "progress")(progress) as told:
        try:
            made = runs.work(backend, "train")(
                graph, images, used, run,
                seed=number, keep=checkpoint_hist, device=place, reporter=told,
            )  # fmt: skip
        finally:
            runs.keep_data(run, spec)
    last: Mapping[str, Any] = made.log[-1]
    if as_json:
        found = {"run": str(run), "space": graph.name, "epochs": last["epoch"], "steps": made.steps}
        emit({**found, "weights": made.weights, "last": dict(last), "log": list(made.log)})
        return
    say(f"{run}: {graph.name} trained for {last['epoch']} epochs, {exact(made.steps)} steps")
    pairs([(f"  {name}", f"{value:.4g}") for name, value in last.items() if _shown(name, value)])


def _shown(name: str, value: object) -> bool:
    return isinstance(value, float) and name != "rate"


def _recipe_file(name: str | None) -> dict[str, object]:
    """Settings from a TOML file (SP104)."""
    if name is None:
        return {}
    try:
        content = options.content(name, MAX_RECIPE)
        if len(content) > MAX_RECIPE:
            raise ValueError("it is larger than 1 MiB")
        return tomllib.loads(content.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as failed:
        reason = failed.strerror if isinstance(failed, OSError) else str(failed)
        raise SpaceError(error("SP104", f"the recipe {name} cannot be read: {reason}")) from failed


@click.command(short_help="Search a trained supernet.")
@click.argument("run", metavar="RUN")
@click.option("--engine", default="evolution", show_default=True, help="Who searches.")
@click.option("-s", "--setting", "texts", multiple=True, metavar="NAME=VALUE",
              help="A setting of the engine: population=50. May be repeated.")  # fmt: skip
@options.where
@click.option("--data", metavar="DATA", help="The data set, if not the one it was trained on.")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=0, show_default=True,
              help="Of everything drawn.")  # fmt: skip
@click.option("-o", "--output", metavar="DIR", help="Where the results go.  [RUN/search]")
@runs.device
@runs.backend
@runs.progress
@options.as_json
def search(
    run: str,
    engine: str,
    texts: tuple[str, ...],
    where: str,
    data: str | None,
    seed: int,
    output: str | None,
    device: str,
    backend: str,
    progress: str,
    as_json: bool,
) -> None:
    """Search the trained supernet of RUN on its validation images.

    Settings come from the space's `search { }`, then from here. What was scored before is not
    scored again. The best architecture is written to ENGINE-best.json.
    """
    from spacelang.engines.settings import configure

    graph = runs.run_graph(Path(run))
    given = {**engine_settings(texts), **({"where": where} if where else {})}
    chosen = configure(engine, graph.search.get(engine, {}), given)
    images = runs.data_for(backend, data or runs.data_of(Path(run)), graph)
    place = runs.work(backend, "device")(device)
    trained = runs.work(backend, "trained")(graph, images, run, device=place)
    folder = Path(output) if output is not None else Path(run) / runs.SEARCH
    with runs.work(backend, "progress")(progress) as told:
        made = runs.work(backend, "search")(
            chosen, graph, trained, images, folder, seed=seed, reporter=told
        )
    best = made.found.best
    file = folder / f"{engine}-best.json"
    atomic_write(file, json.dumps(dict(best.assignment), indent=2) + "\n")
    front = [_candidate(candidate) for candidate in made.found.front]
    if as_json:
        found = {"run": run, "engine": engine, "evaluated": made.found.evaluated}
        emit({**found, "best": _candidate(best), "front": front, "file": str(file)})
        return
    say(f"{engine}: {count_of(made.found.evaluated)} architectures evaluated")
    pairs([
        ("  best", f"{best.score.correct} of {best.score.total} right ({_percent(best)})"),
        ("  params", both(best.cost.params)),
        ("  macs", both(best.cost.macs)),
        ("  kept in", str(file)),
    ])  # fmt: skip
    rows = [(_percent(c), exact(c.cost.params), exact(c.cost.macs)) for c in made.found.front]
    table(("accuracy", "params", "macs"), rows, title="the front", right="rrr")


def engine_settings(texts: tuple[str, ...]) -> dict[str, object]:
    """NAME=VALUE, each once; what the values mean is the engine's to say."""
    found: dict[str, object] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.strip() or name.strip() in found:
            raise click.UsageError(f"{text!r} is not NAME=VALUE, or is set twice")
        found[name.strip()] = value.strip()
    return found


def _percent(candidate: Any) -> str:
    return f"{100 * candidate.score.accuracy:.2f} %"


def _candidate(candidate: Any) -> dict[str, object]:
    return {
        "accuracy": candidate.score.accuracy,
        "params": candidate.cost.params,
        "macs": candidate.cost.macs,
        "assignment": dict(candidate.assignment),
    }
