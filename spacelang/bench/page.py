"""The table of a page, made from records: what was reached, beside what was wanted and the limit.

    text = with_table(page, data)       # between the two marks, the rest as it was

A test makes it again and compares, so that the page says what the file does.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from spacelang.bench.machine import short
from spacelang.bench.measure import best, ratio, seconds, share_of_limit
from spacelang.bench.rows import BY_NAME, EXPECTED, ONNX, TORCH, Row
from spacelang.bench.store import missing
from spacelang.bench.verdict import added, memory, verdict

BEGIN = "<!-- networks: made by benchmarks/networks.py --page -->"
END = "<!-- end of networks -->"
WANTED_OF_RUNTIME = 0.7  # times as fast as ONNX Runtime, of ours by PyTorch
HEAD = (
    "| work | threads | machine | ours | best {} rival | ratio | of CPU time | wanted |"
    " of the limit | peak | added | also |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def with_table(page: str, data: Mapping[str, Any]) -> str:
    """The page with the table of some records between its marks; ValueError where it has none."""
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    return f"{page[:start]}\n{rendered(data)}\n{page[end:]}"


def rendered(data: Mapping[str, Any]) -> str:
    """The table, in the order of the rows, and the facts of the machine."""
    records = data["records"].values()
    order = list(BY_NAME)
    known = [r for r in records if r["row"] in BY_NAME]
    known.sort(key=lambda r: (order.index(r["row"]), r["threads"]))
    parts: list[str] = []
    for runtime in dict.fromkeys(BY_NAME[record["row"]].runtime for record in known):
        here = [r for r in known if BY_NAME[r["row"]].runtime == runtime]
        parts += [] if runtime == TORCH else [f"Ours and theirs run by {runtime}:", ""]
        head = HEAD.format("PyTorch" if runtime == TORCH else runtime)
        parts += [head, *(_line(BY_NAME[record["row"]], record) for record in here), ""]
    told = (f"* {line}" for line in (*_facts(known), *_without(data)))
    return "\n".join([*(parts or [HEAD.format("PyTorch"), ""]), *told])


def _line(row: Row, record: Mapping[str, Any]) -> str:
    rival = best(record, row.ours, row.against)
    own = _time(record, row.ours)
    cells = [row.name, str(record["threads"]), short(record["machine"]["processor"]), own]
    share = share_of_limit(record, row.ours)
    if rival is None:
        cells += ["none is installed", "", ""]
    else:
        compared = ratio(record, row.ours, rival)
        processor = ratio(record, row.ours, rival, "cpu")
        assert compared is not None
        assert processor is not None
        middle, low, high = compared
        cells += [f"{rival} {_time(record, rival)}", f"{middle:.2f} ({low:.2f}..{high:.2f})"]
        cells.append(f"{processor[0]:.2f}")
    cells += [verdict(row, record).text, "" if share is None else f"{share:.0%}"]
    cells += [_memory(record, row.ours, rival, of) for of in (memory, added)]
    return f"| {' | '.join([*cells, ', '.join(_others(row, record))])} |"


def _memory(
    record: Mapping[str, Any],
    ours: str,
    rival: str | None,
    of: Callable[[Mapping[str, Any], str], float],
) -> str:
    other = "" if rival is None else f" against {round(of(record, rival))}"
    return f"{round(of(record, ours))}{other} MiB"


def _others(row: Row, record: Mapping[str, Any]) -> Iterator[str]:
    """What else was measured, as a ratio to ours; what was missing, by name."""
    rival = best(record, row.ours, row.against)
    for name in (*row.against, *row.also, *row.beside):
        found = record["contenders"].get(name)
        compared = ratio(record, row.ours, name)
        if found is None:
            continue  # the record is older than this contender
        if compared is None:
            yield f"{name}: {found['missing']}"
        elif name != rival:
            yield f"{name} {compared[0]:.2f}"


def _time(record: Mapping[str, Any], name: str) -> str:
    """Milliseconds a call, and how long it took to make."""
    times, found = seconds(record, name), record["contenders"][name]
    if times is None:
        return ""
    made, setting = found["compile_seconds"], found["setting"]
    more = [f"made in {made:.1f} s" if made else "", setting]
    return ", ".join([f"{statistics.median(times) * 1e3:.2f} ms", *filter(None, more)])


def _facts(records: list[Any]) -> Iterator[str]:
    """Machines, what else ran there, limits and versions of the records."""
    if not records:
        return
    machines = {(r["machine"]["processor"], r["machine"]["cores"]) for r in records}
    told = "; ".join(f"{short(name)}, {cores} cores" for name, cores in sorted(machines))
    days = sorted({r["date"] for r in records})
    several = "s, each row on one of them" * (len(machines) > 1)
    yield f"Machine{several}: {told}. Measured {' to '.join(dict.fromkeys((days[0], days[-1])))}."
    commits = sorted({f"`{r['code']}`" for r in records if "code" in r})
    without = sum("code" not in r for r in records)
    earlier = [f"what {without} rows were measured with does not say"] * bool(without)
    yield f"Code: {'; '.join([', '.join(commits), *earlier])}."
    others = [r["machine"]["others"] for r in records if r["machine"]["others"] is not None]
    if others:
        yield (
            f"While a row was timed, other processes took {statistics.median(others):.2f} cores"
            f" (the median of the rows; at most {max(others):.2f})."
        )
    for where in sorted({_where(r) for r in records}):
        yield _limits(*where, [r["limits"] for r in records if _where(r) == where])
    yield from _runtime(records)
    versions = {f"{n} {v}" for r in records for n, v in r["versions"].items()}
    yield f"Versions: {', '.join(sorted(versions))}."


def _where(record: Mapping[str, Any]) -> tuple[str, int]:
    """What the limits hang on: the machine and the number of threads."""
    return short(record["machine"]["processor"]), record["threads"]


def _limits(name: str, threads: int, limits: list[Mapping[str, list[float]]]) -> str:
    """What a machine does at most, by all rounds of the rows that were measured there."""

    def middle(what: str) -> str:
        return f"{statistics.median(x for one in limits for x in one[what]) / 1e9:.0f}"

    most = max(x for one in limits for x in one["flops"]) / 1e9
    return (
        f"Limit of {name} with {_threads(threads)}, measured in the same rounds:"
        f" {middle('flops')} GFLOP/s of float32 matrix product by oneDNN (best {most:.0f}),"
        f" {middle('plain')} by `torch.mm`, {middle('narrow')} in bfloat16,"
        f" {middle('bandwidth')} GB/s copied."
    )


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _without(data: Mapping[str, Any]) -> Iterator[str]:
    """The rows that nothing is said of yet."""
    lacking: dict[int, list[str]] = {}
    for name, threads in missing(data, EXPECTED):
        lacking.setdefault(threads, []).append(name)
    for threads, names in sorted(lacking.items()):
        yield f"Not measured yet with {_threads(threads)}: {', '.join(names)}."


def _runtime(records: list[Any]) -> Iterator[str]:
    """How ours stands beside ONNX Runtime, which is no rival of the ratios above."""
    found = [
        (one[0], f"{r['row']} x{r['threads']} {one[0]:.2f}")
        for r in records
        if BY_NAME[r["row"]].runtime == TORCH
        and (one := ratio(r, BY_NAME[r["row"]].ours, ONNX)) is not None
    ]
    if not found:
        return
    times = [one for one, _ in found]
    faster = sum(one < 1 for one in times)
    where = "every row" if faster == len(found) else f"{faster} of the {len(found)} rows"
    short_of = [told for one, told in found if one < WANTED_OF_RUNTIME]
    below = f" Less: {', '.join(short_of)}." if short_of else ""
    yield (
        f"**ONNX Runtime is faster than ours by PyTorch in {where} where it was measured**:"
        f" it takes {min(times):.2f} to {max(times):.2f} times as long as ours, in"
        f" {len(found) - len(short_of)} of {len(found)} at least"
        f" {WANTED_OF_RUNTIME}, which is wanted.{below}"
    )


__all__ = ["BEGIN", "END", "rendered", "with_table"]
