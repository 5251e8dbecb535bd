"""`trials`: what searches tried, for other tools."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from spacelang.cli import options
from spacelang.cli.output import emit, say
from spacelang.files import atomic_write


@click.command(short_help="What searches tried, as CSV or as an Optuna study.")
@click.argument("folder", metavar="RUN")
@click.option("--engine", metavar="NAME", help="Of this engine alone.")
@click.option("-o", "--output", metavar="FILE", help="Write the CSV to a file.  [stdout]")
@click.option("--optuna", "storage", metavar="STORAGE",
              help="Write an Optuna study: a new journal file, or a database's URL.")  # fmt: skip
@click.option("--study", "name", metavar="NAME", help="The study's name.  [that of the folder]")
@options.as_json
def trials(
    folder: str,
    engine: str | None,
    output: str | None,
    storage: str | None,
    name: str | None,
    as_json: bool,
) -> None:
    """List every candidate of the finished searches of a folder, one line each.

    Columns are engine, number, generation, origin, accuracy, failure, the costs, and the decisions
    by path. In a study accuracy is maximised, params and macs are minimised.
    """
    from spacelang.engines.trials import as_csv, read_trials

    if name is not None and storage is None:
        raise click.UsageError("--study names what --optuna writes")
    found = read_trials(folder, engine)
    if storage is not None:
        from spacelang.engines.optuna_study import write_study

        study = name or Path(folder).resolve().name
        count = write_study(found, study, storage)
        if not as_json:
            say(f"wrote {count:,} trials to the study {study} in {storage}")
    if output is not None:
        atomic_write(output, as_csv(found))
        if not as_json:
            say(f"wrote {len(found):,} trials to {output}")
    if as_json:
        emit({"trials": [asdict(trial) for trial in found]})
    elif output is None and storage is None:
        sys.stdout.write(as_csv(found))
