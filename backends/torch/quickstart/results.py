"""What a run of the main job found: as JSON, as a table, as report.html, and how to repeat it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

from spacelang import __version__
from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.reports.search_report import (
    budget,
    data_of,
    decisions_of,
    epochs_of,
    sizes,
    surroundings,
    value_of,
)
from spacelang.backends.torch.runs.run import Json, environment
from spacelang.backends.torch.runs.searched import Searched
from spacelang.backends.torch.subnets.export import Export
from spacelang.backends.torch.subnets.subnet import Subnet
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.training import Trained
from spacelang.engines.evolution import Evolution
from spacelang.engines.protocol import Score
from spacelang.engines.settings import settings_of
from spacelang.files import atomic_write
from spacelang.ir.decision import Assignment
from spacelang.ir.figures import Cost
from spacelang.ir.graph import Graph
from spacelang.report import Candidate as ReportCandidate
from spacelang.report import Command, Network, Report, write_report
from spacelang.report import Score as ReportScore
from spacelang.statistics import wilson

RESULTS = "results.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table: a network with its scores on the validation and the test part."""

    name: str
    role: Literal["winner", "random", "largest"]
    assignment: Assignment
    cost: Cost
    validation: Score
    test: Score

    def as_json(self) -> Json:
        low, high = wilson(self.test.correct, self.test.total)
        return {
            "name": self.name,
            "role": self.role,
            **asdict(self.cost),
            "validation": {**asdict(self.validation), "accuracy": self.validation.accuracy},
            "test": {**asdict(self.test), "accuracy": self.test.accuracy, "interval": [low, high]},
            "assignment": dict(self.assignment),
        }


@dataclass(frozen=True, slots=True)
class Takeaway:
    """The winner as it is taken home: its folder, and files of exchange; some were skipped."""

    subnet: Subnet
    exports: tuple[Export, ...]
    skipped: tuple[str, ...]

    @property
    def checks(self) -> dict[str, str]:
        """What was proved, and how it came out."""
        rows: dict[str, str] = {}
        for proof in self.subnet.proof:
            worst = max(proof.outputs, proof.gradients)
            outcome = "equal, bit for bit" if worst == 0 else f"differs by at most {worst:.1e}"
            rows[f"subnet and supernet, {proof.dtype}, outputs and gradients"] = outcome
        for made in self.exports:
            outcome = "not run: onnxruntime is missing"
            if made.difference is not None:
                outcome = f"differs from eager by at most {made.difference:.1e}"
            rows[made.path.name] = outcome
        for ending in self.skipped:
            rows[f"subnet.{ending}"] = "skipped: its exporter is not installed"
        return rows

    def as_json(self) -> Json:
        return {
            "folder": str(self.subnet.folder),
            "params": self.subnet.params,
            "proof": [asdict(proof) for proof in self.subnet.proof],
            "exports": {made.path.name: made.difference for made in self.exports},
            "skipped": list(self.skipped),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """Everything that a run of the main job found."""

    options: Json
    graph: Graph
    data: Dataset
    recipe: Recipe
    evolution: Evolution
    trained: Trained
    searches: Mapping[str, Searched]
    networks: tuple[Entry, ...]
    takeaway: Takeaway
    seconds: Mapping[str, float]
    folder: Path

    @property
    def sizes(self) -> tuple[int, int | None]:
        """Architectures of the space, and within the budget; None where only bounds are known."""
        return sizes(self.graph, self.evolution.where)

    def as_json(self) -> Json:
        """The content of results.json."""
        size, within = self.sizes
        return {
            "options": self.options,
            "space": {"name": self.graph.name, "size": str(size), "size_within": str(within)},
            "where": self.evolution.where,
            "data": {
                "name": self.data.name,
                "split": self.data.split_digest,
                "counts": self.data.counts,
                "classes": list(self.data.classes),
            },
            "training": {"recipe": self.recipe.as_json(), "log": list(self.trained.log)},
            "search": {name: found.as_json() for name, found in self.searches.items()},
            "networks": [entry.as_json() for entry in self.networks],
            "takeaway": self.takeaway.as_json(),
            "seconds": dict(self.seconds),
            "environment": environment(),
            "commands": [asdict(command) for command in commands(self)],
        }


def write_results(results: Results) -> None:
    """results.json and report.html in the run folder."""
    text = json.dumps(results.as_json(), indent=1, allow_nan=False) + "\n"
    atomic_write(results.folder / RESULTS, text)
    write_report(results.folder, report_of(results))


def report_of(results: Results) -> Report:
    """The report of a run."""
    size, within = results.sizes
    data, where = results.data, results.evolution.where
    axis, limit = budget(results.graph, where)
    winner = results.networks[0]
    return Report(
        space=cast(str, results.options["space"]),
        size=size,
        decisions=decisions_of(results.graph),
        data=data_of(data),
        training=epochs_of(results.trained.log),
        candidates=tuple(
            ReportCandidate(method, getattr(c.cost, axis), c.score.accuracy)
            for method in ("evolution", "random")
            for c in results.searches[method].candidates
            if not c.score.failure
        ),
        networks=tuple(
            Network(
                entry.name,
                entry.role,
                entry.cost.params,
                entry.cost.macs,
                ReportScore(entry.validation.correct, entry.validation.total),
                ReportScore(entry.test.correct, entry.test.total),
            )
            for entry in results.networks
        ),
        chosen={path: value_of(value) for path, value in winner.assignment.items()},
        commands=commands(results),
        environment=surroundings()
        | {f"seconds: {stage}": f"{seconds:g}" for stage, seconds in results.seconds.items()},
        summary=summary(results),
        where=where,
        size_within=within,
        cost=axis,
        limit=limit,
        checks=dict(results.takeaway.checks),
        version=__version__,
    )


def summary(results: Results) -> str:
    """A sentence or two."""
    entry = results.networks[0]
    low, high = wilson(entry.test.correct, entry.test.total)
    return (
        f"{len(results.searches['evolution'].candidates)} of {results.sizes[0]:,} architectures "
        f"were scored with the weights of one supernet; the best has {entry.cost.params:,} "
        f"parameters and reads {entry.test.accuracy:.1%} of {entry.test.total:,} held-out images "
        f"right (95 % interval {100 * low:.1f} to {100 * high:.1f}), without being trained again."
    )


def commands(results: Results) -> tuple[Command, ...]:
    """Every command that repeats a step of the run, from the whole down to its parts."""
    options, folder = results.options, results.folder
    given = cast(dict[str, str], options["settings"])
    space = words(options["space"], *(f"--set={name}={text}" for name, text in given.items()))
    images = words(f"--data={options['data']}", f"--seed={options['seed']}")
    tuned = settings_of(results.evolution)
    usual = settings_of(Evolution())
    tuning = [f"--setting={n}={spelled(v)}" for n, v in tuned.items() if v != usual[n]]
    count = results.searches["evolution"].found.evaluated
    budget = [f"--where={results.evolution.where}"] if results.evolution.where else []
    place = {name: words(folder / name) for name in ("artifact", "train", "search", "subnet")}
    arch = words(folder / "architecture.json")
    asked = flags(cast(Json, options["recipe"])) + [
        f"--setting={name}={spelled(value)}"
        for name, value in cast(Json, options["search"]).items()
    ]
    asked.append(f"--format={','.join(cast(list[str], options['formats']))}")
    where = [f"--device={options['device']}"] if options["device"] != "cpu" else []
    backend = [f"--backend={options['backend']}"] if options["backend"] != "torch" else []
    backend += ["--require-fused"] if options["require_fused"] else []
    asked += [*where, *backend]
    plain = Recipe().as_json()  # without the settings that are recorded only where they are set
    recipe = flags({n: v for n, v in results.recipe.as_json().items() if v != plain.get(n)})
    images_of = results.recipe.recalibrate
    settled = f"--recalibrate={images_of} " if images_of else ""
    search = f"spacelang search {place['train']} {images} {words(*where, *backend)}"
    search += f" -o {place['search']}"
    formats = ",".join(made.path.suffix[1:] for made in results.takeaway.exports)
    rows = (
        (
            f"spacelang quickstart {space} {images} {words(*asked, '-o', folder)}",
            "everything, in one",
        ),
        (f"spacelang check {words(options['space'])}", "prove the space right"),
        (f"spacelang count {space} {words(*budget)}", "how many architectures there are"),
        (f"spacelang compile {space} -o {place['artifact']}", "compile it"),
        (
            f"spacelang train {place['artifact']} {images} {words(*recipe, *where, *backend)}"
            f" -o {place['train']}",
            "train the supernet",
        ),
        (f"{search} --engine evolution --no-baselines {words(*tuning)}", "search it"),
        (
            f"{search} --engine random {words(f'--setting=evaluations={count}', *budget)}",
            "random search, with as many evaluations",
        ),
        (
            f"spacelang extract {place['train']} --arch {arch} {settled}{words(*backend)}"
            f" -o {place['subnet']}",
            "take the winner out, and prove it equal",
        ),
        (f"spacelang export {place['subnet']} --format {formats}", "export it"),
    )
    # Without any format there is no export.
    rows = rows if formats else rows[:-1]
    return tuple(Command(" ".join(text.split()), comment) for text, comment in rows)


def words(*parts: object) -> str:
    """Words of a command line, quoted where they have to be."""
    return " ".join(shlex.quote(str(part)) for part in parts)


def spelled(value: object) -> str:
    """A setting as a command line takes it."""
    if isinstance(value, list | tuple):
        return ",".join(map(spelled, cast(list[object], value)))
    return "none" if value is None else str(value)


def flags(settings: Mapping[str, object]) -> list[str]:
    """Settings of training as flags."""
    found: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            found.append(f"--{flag}={spelled(value)}")
    return found


def show(results: Results) -> None:
    """The table of results on standard output."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    tty = sys.stdout.isatty()
    console = Console(width=None if tty else 110, markup=False, emoji=False, highlight=False)
    test = results.networks[0].test.total
    table = Table(box=SIMPLE, pad_edge=False)
    for column in ("network", "params", "MACs", "validation", f"test ({test:,})", "95 % interval"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for entry in results.networks:
        low, high = wilson(entry.test.correct, entry.test.total)
        table.add_row(
            entry.name,
            f"{entry.cost.params:,}",
            f"{entry.cost.macs:,}",
            f"{100 * entry.validation.accuracy:.1f} %",
            f"{100 * entry.test.accuracy:.1f} %",
            f"{100 * low:.1f} to {100 * high:.1f}",
        )
    size, within = results.sizes
    console.print()
    console.print(f"{results.graph.name}: {size:,} architectures", soft_wrap=True)
    if results.evolution.where:
        inside = f"{within:,}" if within is not None else "an unknown number"
        console.print(f"{inside} within {results.evolution.where}", soft_wrap=True)
    console.print(table)
    for name, outcome in results.takeaway.checks.items():
        console.print(f"{name}: {outcome}", soft_wrap=True)
    console.print(f"report: {results.folder / 'report.html'}", soft_wrap=True)


__all__ = ["Entry", "Results", "commands", "report_of", "show", "write_results"]
