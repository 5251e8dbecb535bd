"""The page: header, figures, and one section a step of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from spacelang.files import PathLike, atomic_write
from spacelang.report.chart import cloud, curve, forest, mark, role_mark
from spacelang.report.drawing import architecture, grouped
from spacelang.report.model import Network, Report, Score, Value
from spacelang.report.read import from_json
from spacelang.report.stages import over_time
from spacelang.report.style import STYLE
from spacelang.report.table import table
from spacelang.report.text import (
    compact,
    cost_name,
    exact,
    html,
    interval,
    percent,
    scored,
    value,
)
from spacelang.statistics import wilson

REPORT_NAME = "report.html"
# The file loads nothing and runs nothing, whatever a name in it may hold.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def write_report(folder: PathLike, report: Report | Mapping[str, object]) -> Path:
    """Write `report.html` into a folder and return its path; JSON data is checked first."""
    checked = report if isinstance(report, Report) else from_json(report)
    path = Path(folder) / REPORT_NAME
    atomic_write(path, page(checked))
    return path


def page(report: Report) -> str:
    """The whole document; it is well-formed XML too."""
    title = html(report.title or report.space)
    sections = (
        ("The space", _space(report)),
        ("Results", _results(report)),
        ("Search", _search(report)),
        ("Over time", over_time(report.stages)),
        ("The chosen architecture", _chosen(report)),
        ("Training", _training(report)),
        ("Proofs", _facts(report.checks)),
        ("Repeat it", _commands(report)),
        ("Environment", _facts(report.environment)),
    )
    body = "".join(
        f"<section><h2>{name}</h2>{content}</section>" for name, content in sections if content
    )
    version = f" {html(report.version)}" if report.version else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html(_POLICY)}"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{title}: search report</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{_header(report, title)}\n{body}\n"
        f"<footer>Written by spacelang{version}.</footer>\n</main>\n</body>\n</html>\n"
    )


def _header(report: Report, title: str) -> str:
    lead = f'<p class="lead">{html(report.summary)}</p>' if report.summary else ""
    return (
        f'<header><p class="kicker">Architecture search in <span class="path">'
        f"{html(report.space)}</span></p><h1>{title}</h1>{lead}</header>{_tiles(report)}"
    )


def _tiles(report: Report) -> str:
    """The figures of the run: how many architectures, how good, how large."""
    within = "" if report.size_within is None else f"{compact(report.size_within)} within limits"
    tiles = [("Architectures", compact(report.size), within, "")]
    winner, largest = report.network("winner"), report.network("largest")
    if winner:
        score, kind = (winner.test, "Test") if winner.test else (winner.validation, "Validation")
        if score:
            below = f"95 %: {interval(score)} (n = {exact(score.total)})"
            tiles.append((f"{kind} accuracy", scored(score), below, " good"))
        params = _against(winner.params, largest.params if largest else None)
        macs = _against(winner.macs, largest.macs if largest else None)
        tiles.append(("Parameters", compact(winner.params), params, ""))
        tiles.append(("Multiply-accumulates", compact(winner.macs), macs, ""))
    return '<dl class="tiles">' + "".join(_tile(*tile) for tile in tiles) + "</dl>"


def _tile(name: str, figure: str, below: str, css: str) -> str:
    return (
        f'<div class="tile{css}"><dt>{name}</dt><dd class="figure">{figure}</dd>'
        f'<dd class="below">{below}</dd></div>'
    )


def _against(own: int, largest: int | None) -> str:
    if not largest or own == largest:
        return "the largest in the space" if largest else exact(own)
    change = round(100 * (own - largest) / largest)
    sign = "&#8722;" if change < 0 else "+"
    return f"{sign}{abs(change)} % against the largest"


def _space(report: Report) -> str:
    data = report.data
    rows = [
        (
            f'<span class="path">{html(group.path)}</span>',
            html(group.kind),
            _chips(group.candidates),
            exact(group.count),
        )
        for group in grouped(report.decisions)
    ]
    size = f'<p class="exact">It holds exactly <b>{exact(report.size)}</b> architectures'
    if report.where:
        size += f'; <span class="path">{html(report.where)}</span>'
        if report.size_within is not None:
            size += f" leaves <b>{exact(report.size_within)}</b>"
        else:
            size += " limits the search"
    rows_of = table(("decision", "kind", "candidates", "places#"), rows)
    split = f", split {html(data.split[:12])}" if data.split else ""
    images = (
        f'<p class="note">Images: {html(data.name)}, {exact(data.classes)} classes; '
        f"{exact(data.train)} to train, {exact(data.validation)} to validate, "
        f"{exact(data.test)} to test{split}.</p>"
    )
    return f"{size}.</p>{images}{rows_of}"


def _chips(candidates: Sequence[Value]) -> str:
    shown = [f'<span class="chip">{html(value(candidate))}</span>' for candidate in candidates[:24]]
    if len(candidates) > 24:
        shown.append(f'<span class="chip">{len(candidates) - 24} more</span>')
    return f'<div class="chips">{"".join(shown)}</div>'


def _results(report: Report) -> str:
    if not report.networks:
        return ""
    scores = [network.test or network.validation for network in report.networks]
    intervals = [wilson(score.correct, score.total) for score in scores if score]
    bounds = (
        min((low for low, _ in intervals), default=0),
        max((h for _, h in intervals), default=1),
    )
    rows: list[tuple[str, ...]] = []
    for network in report.networks:
        rows.append(
            (
                f"{role_mark(network.role)} {html(network.name)}",
                _accuracy(network.validation, with_interval=False),
                _accuracy(network.test, with_interval=True),
                _forest(network, bounds),
                _count(network.params),
                _count(network.macs),
            )
        )
    heads = ("network", "validation#", "test, 95 % interval#", "", "parameters#", "MACs#")
    results = table(heads, rows, [network.role for network in report.networks])
    tested = any(network.test for network in report.networks)
    drawn, held = "validation", "the test images were not read"
    if tested:
        drawn, held = "test", "the test images were read once, at the end"
    note = (
        '<p class="note">Intervals are Wilson&#8217;s, at 95 %. The validation images chose the '
        f"networks, so their accuracy there flatters them; {held}. The bars show {drawn} "
        f"accuracy, {percent(bounds[0])} to {percent(bounds[1])}.</p>"
    )
    return results + note


def _accuracy(score: Score | None, *, with_interval: bool) -> str:
    if score is None:
        return '<span class="small">&#8211;</span>'
    detail = f"{interval(score)}" if with_interval else f"{score.correct:,} of {score.total:,}"
    return f'{scored(score)}<br/><span class="small">{detail}</span>'


def _forest(network: Network, bounds: tuple[float, float]) -> str:
    score = network.test or network.validation
    if score is None or bounds[0] == bounds[1]:
        return ""
    low, high = wilson(score.correct, score.total)
    return forest(network, low, high, bounds)


def _count(number: int) -> str:
    return f'{exact(number)}<br/><span class="small">{compact(number)}</span>'


def _search(report: Report) -> str:
    if not report.candidates and not report.networks:
        return ""
    methods = ("evolution", "random", "other")
    names = {"evolution": "evolution", "random": "random search", "other": "other"}
    entries = [
        (mark(method), f"{names[method]}: {found:,} candidates")
        for method in methods
        if (found := sum(c.method == method for c in report.candidates))
    ]
    if report.candidates:
        entries.append((mark("front"), "Pareto front of all candidates"))
    entries += [
        (role_mark(network.role), html(network.name))
        for role in ("winner", "random", "largest")
        if (network := report.network(role)) and network.validation
    ]
    legend = "".join(f"<li>{drawing} {text}</li>" for drawing, text in entries)
    cost = html(cost_name(report.cost))
    return (
        f'<p class="note">Every candidate that was evaluated: its {cost} against its accuracy on '
        f'the validation images.</p><ul class="legend">{legend}</ul>'
        f"<figure>{cloud(report)}</figure>"
    )


def _chosen(report: Report) -> str:
    if not report.chosen:
        return ""
    return (
        '<p class="note">From input to output. A gauge shows what a decision could have been, and '
        "the filled stop what was chosen; hollow boxes are layers that the architecture leaves "
        f"out.</p>{architecture(report.decisions, report.chosen, report.data)}"
    )


def _training(report: Report) -> str:
    if not report.training:
        return ""
    losses = [(float(epoch.number), epoch.loss) for epoch in report.training]
    accuracies = [
        (float(epoch.number), epoch.accuracy)
        for epoch in report.training
        if epoch.accuracy is not None
    ]
    loss = curve(losses, "training loss", "evolution", lambda number: f"{number:.3g}")
    accuracy = curve(accuracies, "validation accuracy", "winner", percent)
    return (
        f'<div class="pair"><figure><h3>Training loss</h3>{loss}</figure>'
        f"<figure><h3>Validation accuracy</h3>{accuracy}</figure></div>"
    )


def _commands(report: Report) -> str:
    items: list[str] = []
    for command in report.commands:
        comment = f'<span class="small">{html(command.comment)}</span>' if command.comment else ""
        items.append(f"<li>{comment}<pre>{html(command.text)}</pre></li>")
    return f'<ul class="commands">{"".join(items)}</ul>' if items else ""


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{html(name)}</dt><dd>{html(text)}</dd>" for name, text in facts.items())
    return f'<dl class="facts">{rows}</dl>' if rows else ""
