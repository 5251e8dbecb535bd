"""The table of a page, made from records: what was reached, beside what was wanted and the limit.

    text = with_table(page, data)       # between the two marks, the rest as it was

A test makes it again and compares, so that the page says what the file does.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from spacelang.bench.measure import best, ratio, seconds, share_of_limit
from spacelang.bench.rows import BY_NAME, ONNX, TORCH, Row
from spacelang.bench.verdict import memory, verdict

BEGIN = "<!-- networks: made by benchmarks/networks.py --page -->"
END = "<!-- end of networks -->"
WANTED_OF_RUNTIME = 0.7  # times as fast as ONNX Runtime, of ours by PyTorch
HEAD = (
    "| work | threads | ours | best {} rival | ratio | of CPU time | wanted | of the limit |"
    " peak | also |\n|---|---|---|---|---|---|---|---|---|---|"
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
    return "\n".join([*(parts or [HEAD.format("PyTorch"), ""]), *_facts(known)])


def _line(row: Row, record: Mapping[str, Any]) -> str:
    rival = best(record, row.ours, row.against)
    own = _time(record, row.ours)
    cells = [row.name, str(record["threads"]), own]
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
    cells += [_memory(record, row.ours, rival), ", ".join(_others(row, record))]
    return f"| {' | '.join(cells)} |"


def _memory(record: Mapping[str, Any], ours: str, rival: str | None) -> str:
    own = memory(record, ours)
    return f"{own:.0f}{'' if rival is None else f' against {memory(record, rival):.0f}'} MiB"


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
    told = "; ".join(f"{name}, {cores} cores" for name, cores in sorted(machines))
    days = sorted({r["date"] for r in records})
    yield f"Machine: {told}. Measured {' to '.join(dict.fromkeys((days[0], days[-1])))}."
    others = [r["machine"]["others"] for r in records if r["machine"]["others"] is not None]
    if others:
        yield (
            f"While a row was timed, other processes took {statistics.median(others):.2f} cores"
            f" (the median of the rows; at most {max(others):.2f})."
        )
    for threads in sorted({r["threads"] for r in records}):
        rates = [x for r in records if r["threads"] == threads for x in r["limits"]["flops"]]
        plain = [x for r in records if r["threads"] == threads for x in r["limits"]["plain"]]
        narrow = [x for r in records if r["threads"] == threads for x in r["limits"]["narrow"]]
        moved = [x for r in records if r["threads"] == threads for x in r["limits"]["bandwidth"]]
        yield (
            f"Limit with {threads} thread{'s' * (threads > 1)}, measured in the same rounds:"
            f" {statistics.median(rates) / 1e9:.0f} GFLOP/s of float32 matrix product by oneDNN"
            f" (best {max(rates) / 1e9:.0f}), {statistics.median(plain) / 1e9:.0f} by `torch.mm`,"
            f" {statistics.median(narrow) / 1e9:.0f} in bfloat16,"
            f" {statistics.median(moved) / 1e9:.0f} GB/s copied."
        )
    yield from _runtime(records)
    versions = {f"{n} {v}" for r in records for n, v in r["versions"].items()}
    yield f"Versions: {', '.join(sorted(versions))}."


def _runtime(records: list[Any]) -> Iterator[str]:
    """How ours stands beside ONNX Runtime, which is no rival of the ratios above."""
    rows = [(r, BY_NAME[r["row"]]) for r in records]
    compared = [ratio(r, row.ours, ONNX) for r, row in rows if row.runtime == TORCH]
    found = [one[0] for one in compared if one is not None]
    if not found:
        return
    faster = sum(one < 1 for one in found)
    where = "every row" if faster == len(found) else f"{faster} of the {len(found)} rows"
    yield (
        f"**ONNX Runtime is faster than ours by PyTorch in {where} where it was measured**:"
        f" it takes {min(found):.2f} to {max(found):.2f} times as long as ours, in"
        f" {sum(one >= WANTED_OF_RUNTIME for one in found)} of {len(found)} at least"
        f" {WANTED_OF_RUNTIME}, which is wanted."
    )


__all__ = ["BEGIN", "END", "rendered", "with_table"]
