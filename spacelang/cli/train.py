"""`train`: the supernet of a space, in a run folder; and the settings of training as flags."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import click

from spacelang.cli import options, runs, timm_flags
from spacelang.cli.output import emit, exact, pairs, say
from spacelang.diagnostics import SpaceError, error

# The settings of training, by timm's names: what each is. A switch is named with its two faces.
RECIPE: dict[str, str] = {
    "epochs": "Epochs.",
    "batch_size": "Images a step.",
    "opt": "The optimiser: adamw, sgd (Nesterov's), momentum, or one of timm's.",
    "lr": "The peak learning rate.",
    "min_lr": "The learning rate at the end.",
    "warmup_lr": "The learning rate at the start.",
    "warmup_epochs": "Epochs from there to the peak.",
    "sched": "cosine, step, multistep, constant; with timm poly, tanh, wsd, rsqrt.",
    "cooldown_epochs": "Epochs at the least rate after cosine, tanh and poly.",
    "decay_epochs": "Epochs between two decays of step, or of the last phase of wsd and rsqrt.",
    "decay_milestones": "Epochs of the decays of multistep, with commas between.",
    "decay_rate": "The factor of a decay; the power of poly.",
    "weight_decay": "Of the optimiser; vectors and norms have none.",
    "layer_decay": "The rate of each layer as a share of the next one's.",
    "momentum": "Of sgd, momentum, and those of timm's that have one.",
    "opt_eps": "Of the optimiser; its own without.",
    "opt_betas": "Of the optimiser, with a comma between; its own without.",
    "clip_grad": "The limit of gradients.",
    "clip_mode": "What it limits: norm (of all together), value, agc (adaptive).",
    "smoothing": "Of labels.",
    "mixup": "Alpha of mixup.",
    "cutmix": "Alpha of cutmix.",
    "mixup_prob": "How often a batch is mixed.",
    "mixup_switch_prob": "How often it is by cutmix, where there are both.",
    "mixup_off_epoch": "The epoch from which nothing is mixed; 0 for never.",
    "model_ema_decay": "Of the moving average.",
    "amp_dtype": "The type of --amp: bfloat16.",
    "aug": "How images vary: none, digits, photos, 'timm aa=rand-m9-mstd0.5 ..', 'tinyvit ..'.",
    "aug_repeats": "How often an image comes in a row, varied anew each time; 0 for once an epoch.",
    "law": "How a step draws its architectures: choices, architectures, sandwich, weighted.",
    "law_weights": "For weighted: PATH=W:W.., a weight a candidate; with commas between.",
    "no_decay": "Labels of parameters without weight decay, with commas between.",
    "unsampled": "Weights that a step does not use: mixed, freeze, decay.",
    "shards": "Parts of a batch that processes may share.",
    "reduce": "How processes add gradients: explicit, ddp, or fsdp, which cuts the weights too.",
    "recalibrate": "Training images for the statistics of batch norms before a network is scored.",
    "val_interval": "Epochs between two validations; 0 for none.",
}
# Settings of timm's augmentation that have flags beside --aug.
AUGMENTATION: dict[str, str] = {
    "aa": "Short for --aug 'timm aa=..', as the six below are for theirs: a policy by its name.",
    "color_jitter": "How much colours vary by timm.",
    "hflip": "How often timm mirrors an image.",
    "vflip": "How often timm turns it upside down.",
    "reprob": "How often timm erases a part of it.",
    "remode": "By what: const, rand, pixel.",
    "recount": "In how many pieces.",
}
SWITCHES: dict[str, str] = {
    "sched_on_updates": "A new learning rate every step, or every epoch.",
    "model_ema": "Keep a moving average of the weights, and search in it.",
    "model_ema_warmup": "Begin its decay by timm's curve, or at once; without, faster than both.",
    "amp": "Compute in bfloat16 where that is safe.",
    "channels_last": "Lay images and maps out with their channels last.",
    "grad_checkpointing": "Work the inside of blocks out again in the backward pass.",
    "torchcompile": "Compile each block once, for all architectures.",
}
MAX_RECIPE = 1 << 20


def recipe(function: Callable[..., Any]) -> Callable[..., Any]:
    """A flag for each setting of training; those that were given come as one mapping."""
    for name, text in reversed((RECIPE | AUGMENTATION).items()):
        flag = "--" + name.replace("_", "-")
        short = ("-b",) if name == "batch_size" else ()
        function = click.option(*short, flag, name, metavar="VALUE", help=text)(function)
    for name, text in reversed(SWITCHES.items()):
        flag = name.replace("_", "-")
        function = click.option(f"--{flag}/--no-{flag}", name, default=None, help=text)(function)
    return timm_flags.answered(function)


RUN_OPTIONS = (
    click.option(
        "--seed", type=click.IntRange(0, (1 << 63) - 1), help="Of everything drawn.  [42]"
    ),
    click.option(
        "--checkpoint-hist", type=click.IntRange(1, 100), default=2, show_default=True,
        help="How many checkpoints are kept.",
    ),
    click.option(
        "--recipe", "file", metavar="FILE", help="Settings from a TOML file; flags win."
    ),
    click.option(
        "--on-nan", type=click.Choice(["error", "skip", "rollback"]), default="error",
        show_default=True, help="What a step does whose loss is not finite.",
    ),
    click.option(
        "--log", "log_to", multiple=True, metavar="NAME",
        help="Tell the log to tensorboard, wandb, mlflow or trackio too. May be repeated.",
    ),
    recipe,
    runs.device,
    runs.backend,
    runs.progress,
    options.as_json,
)  # fmt: skip


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What commands that train in a run folder have in common."""
    for option in reversed(RUN_OPTIONS):
        function = option(function)
    return function


@click.command(short_help="Train the supernet of a space, or go on with it.")
@options.space
@click.option("-o", "--output", metavar="RUN", help="The run folder; not needed to go on in one.")
@runs.data
@run_options
def train(
    space: str,
    settings: Mapping[str, object],
    output: str | None,
    data: str | None,
    seed: int | None,
    checkpoint_hist: int,
    file: str | None,
    on_nan: str,
    log_to: tuple[str, ...],
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
    used = recipe_of(backend, before, file, flags)
    spec = data if data is not None else runs.data_of(run)
    images = runs.data_for(backend, spec, graph)
    number = seed if seed is not None else runs.number_in({"seed": 42, **before}, "seed")
    place = runs.work(backend, "device")(device)
    with runs.together(backend, place, progress) as (told, first):
        made = runs.work(backend, "train")(
            graph, images, used, run,
            seed=number, keep=checkpoint_hist, device=place, reporter=told,
            on_nan=on_nan, settings=runs.settings_for(backend, spec), log_to=log_to,
        )  # fmt: skip
    if not first:
        return
    last: Mapping[str, Any] = made.log[-1]
    report = str(run / "report.html")
    if as_json:
        found = {"run": str(run), "space": graph.name, "epochs": last["epoch"], "steps": made.steps}
        found |= {"weights": made.weights, "last": dict(last), "log": list(made.log)}
        emit({**found, "report": report})
        return
    say(f"{run}: {graph.name} trained for {last['epoch']} epochs, {exact(made.steps)} steps")
    rows = [(f"  {name}", f"{value:.4g}") for name, value in last.items() if shown(name, value)]
    pairs([*rows, ("  report", report)])


def recipe_of(
    backend: str,
    record: Mapping[str, object],
    file: str | None,
    flags: Mapping[str, object],
    usual: Mapping[str, object] = MappingProxyType({}),
) -> Any:
    """The recipe of a run: what is usual, what its record says, then a file, then flags."""
    given = {name: value for name, value in flags.items() if value is not None}
    kept = record.get("recipe")
    known = cast("dict[str, object]", kept) if isinstance(kept, dict) else {}
    return runs.work(backend, "recipe")({**usual, **known, **recipe_file(file), **given})


def shown(name: str, value: object) -> bool:
    return isinstance(value, float) and name != "rate"


def recipe_file(name: str | None) -> dict[str, object]:
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
