"""Flags of timm's training script that training here has not, and what to do instead.

They are known so that a command line of timm's is answered by that, and not by a guess at what was
meant; `--help` does not list them, docs/cli.md does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import click

_IN_SPACE = "it is written in the space, layer by layer"
_IN_AUG = "it is a setting of timm's augmentation"

# Flag, with VALUE where it takes one: why there is none, and what to do.
INSTEAD: Mapping[str, str] = MappingProxyType(
    {
        "--drop-path VALUE": f"{_IN_SPACE}: drop_path(x, rate), and --set sets a rate that is a "
        "parameter of the space",
        "--drop VALUE": f"{_IN_SPACE}: dropout(x, rate), and --set sets a rate that is a parameter "
        "of the space",
        "--model VALUE": "SPACE is the model",
        "--num-classes VALUE": "it is a parameter of the space: --set classes=N",
        "--img-size VALUE": "it is a parameter of the space: --set image=N",
        "--scale VALUE": f"{_IN_AUG}: --aug 'timm scale=0.5:1'",
        "--ratio VALUE": f"{_IN_AUG}: --aug 'timm ratio=0.75:1.33'",
        "--train-interpolation VALUE": f"{_IN_AUG}: --aug 'timm interpolation=bicubic'",
        "--no-aug": "--aug none, which is the default",
        "--dist-bn VALUE": "statistics of batch norms are the same in all processes, the mean over "
        "the shards of each batch; --recalibrate finds them anew for each network",
        "--sync-bn": "each shard of a batch is normalised by itself: --shards 1 is all of it",
        "--grad-accum-steps VALUE": "--shards N learns a batch in N parts, one after the other",
        "--lr-base VALUE": "--lr is the rate itself, whatever the size of a batch",
        "--patience-epochs VALUE": "it is of plateau, which follows scores; here rates "
        "are functions of the step: --sched step or multistep",
        "--warmup-prefix": "warmup counts among --epochs: give as many more",
        "--resume VALUE": "the same command goes on by itself where its run stopped",
        "--no-resume-opt": "a run goes on with its optimiser, to the bit; begin another run",
        "--start-epoch VALUE": "the same command goes on by itself where its run stopped",
        "--experiment VALUE": "-o RUN names the folder",
        "--recovery-interval VALUE": "a checkpoint is kept after every epoch and at a signal: "
        "--checkpoint-hist says how many stay",
        "--workers VALUE": "a few threads make batches ahead by themselves, and results do not "
        "hang on them",
        "--log-wandb": "--log wandb",
    }
)


def answered(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command that says what to do instead of these flags."""
    for usage, text in INSTEAD.items():
        flag, _, value = usage.partition(" ")
        function = click.option(
            flag, hidden=True, expose_value=False, is_flag=not value, default=None,
            callback=_refuse(flag, text),
        )(function)  # fmt: skip
    return function


def _refuse(flag: str, text: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def refuse(context: click.Context, parameter: click.Parameter, value: object) -> None:
        if value:
            raise click.UsageError(f"{flag} is timm's and not an option here: {text}", context)

    return refuse
