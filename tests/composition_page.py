"""`docs/composition.md` out of the cells of the matrix, and the cells out of the page again."""

from __future__ import annotations

from collections.abc import Mapping

from composition import HOSTS, PAIRS, STEPS, TECHNIQUES, Cell

Key = tuple[str, tuple[str, ...]]

INSTANCES: Mapping[str, str] = {
    "deit": "`deit`, a fixed network",
    "autoformer": "`autoformer`: width, depth, heads and ratios",
    "s3": "`s3`, under a budget that narrow networks keep: width and depth of each stage, window, heads and ratio of each layer",
    "swin": "`swin`, a fixed network",
    "tinyvit": "`tinyvit` with the decisions of `tinyvit_contraction`",
    "efficientvit": "`efficientvit` with the decisions of `efficientvit_search`",
    "cream": "`cream`: one of six operations in every layer",
    "cdarts": "`darts`: sources and operations of both cells",
}

PARAGRAPHS: Mapping[str, str] = {
    "entangle": """Matches every parameter with a factor that a named decision sizes (or that is named itself): each becomes a
slice of one storage, from the start, around the middle (`form=centre`) or as one prefix (`form=flat`). Where a path decision is named, it
matches the parameters of those alternatives that have the same ones: they become slices of the first one's, stored as large as the largest
needs (a 3 x 3 kernel is the middle of a 7 x 7 one). Preserves the size of the space; parameters and function change.""",
    "cascade": """Matches attention with its heads out of one projection (`linear(x, [3, heads, dim])`, the heads joined again by one
`linear`), or on slices side by side: each head, or each of `parts` groups of heads, gets a projection of its slice of the channels plus what
the one before it gave. A block of one head is left as it is. What a head gives must have as many channels as a slice. Preserves the size of
the space; one group is the graph before.""",
    "irpe": """Matches every product of queries and keys (for `k` and `q`) and of weights and values (for `v`) in self-attention over
a grid: an einsum, or a call of a block that is nothing else, on the way to or from a softmax, with as many queries as keys, in windows or not,
with or without an axis of heads. Each gets a term by relative position beside it. Preserves the size of the space; with tables of zeros, with
which they start, the function is the one before to the bit.""",
    "multiplex": """Matches the instances of a block that `path` names; of each run of `every` consecutive ones, all but the first read the
first one's weights, except for what `own` names. What is shared must be stored in one shape. Preserves the size of the space and the shape of
every network; equal weights give the same function.""",
    "bucketise": """Matches every product that reads a vector for each pair of tokens, `take(table, index)`, or sums and multiples of such,
made in the same block or in one that it calls: the product is made once for each row of the table, then gathered (keys, queries) or the weights
are summed in buckets first (values). Preserves function, parameters and the size of the space.""",
    "relax": """Matches the decisions of a label: a path becomes the mixture of all its alternatives, a pick that of all sources, a presence
(a depth) that of what a layer gives and what it was given, each with weights made of architecture parameters. The decision is gone. With
one-hot weights the function is that of the choice.""",
    "sample": """Matches every decision: one architecture is taken, nothing is left to decide. The function is that of the architecture.
It is not counted above.""",
}

REASONS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("entangle", "deit"): ("SP601", "Nothing is decided in a fixed network: no parameter has candidates of several sizes."),
    ("entangle", "swin"): ("SP601", "Nothing is decided in a fixed network: no parameter has candidates of several sizes."),
    ("cascade", "autoformer"): ("SP601", "The number of heads is decided in every layer, and a head gives 64 channels whatever the width: it cannot be added to a slice of it."),
    ("cascade", "s3"): ("SP601", "The number of heads is decided in every layer, 32 channels each, free of the width of the map: what a head gives cannot be added to a slice of it."),
    ("cascade", "tinyvit"): ("SP601", "The number of heads follows from a decided width (3 to 6 heads in a stage), so no number of groups divides it for every architecture; a cascade has a fixed number of projections."),
    ("cascade", "efficientvit"): ("SP601", "It is the network the technique comes from: its heads are cascaded already."),
    ("cascade", "cream"): ("SP601", "A convolutional network: there is no attention and there are no heads."),
    ("cascade", "cdarts"): ("SP601", "A convolutional network: there is no attention and there are no heads."),
    ("irpe", "cream"): ("SP601", "A convolutional network: there is no product of queries and keys to put a term beside."),
    ("irpe", "cdarts"): ("SP601", "A convolutional network: there is no product of queries and keys to put a term beside."),
    ("bucketise", "deit"): ("SP601", "It has no relative positions. After `irpe` it has, and the pair works."),
    ("bucketise", "s3"): ("SP601", "Its relative positions are one number a head and pair, added to the scores: there is no product with a vector for each pair to save. After `irpe` there is, and the pair works."),
    ("bucketise", "swin"): ("SP601", "Its relative positions are one number a head and pair, added to the scores: there is no product with a vector for each pair to save. After `irpe` there is, and the pair works."),
    ("bucketise", "tinyvit"): ("SP601", "Its relative positions are one number a head and pair, added to the scores: there is no product with a vector for each pair to save. After `irpe` there is, and the pair works."),
    ("bucketise", "efficientvit"): ("SP601", "Its relative positions are one number a head and pair, added to the scores: there is no product with a vector for each pair to save. After `irpe` there is, and the pair works."),
    ("bucketise", "cream"): ("SP601", "A convolutional network: it has no relative positions."),
    ("bucketise", "cdarts"): ("SP601", "A convolutional network: it has no relative positions."),
    ("relax", "deit"): ("SP504", "Nothing is decided in a fixed network: there is no choice to mix."),
    ("relax", "swin"): ("SP504", "Nothing is decided in a fixed network: there is no choice to mix."),
    ("sample", "deit"): ("SP601", "Nothing is decided in a fixed network."),
    ("sample", "swin"): ("SP601", "Nothing is decided in a fixed network."),
}  # fmt: skip
"""Why a technique cannot fit a host, as reviewed; a pair with it is refused for the same reason."""

ENABLED = {("irpe", "bucketise")}
"""Pairs whose first technique makes what the second one needs."""


def refused(name: str, techniques: tuple[str, ...]) -> tuple[str, str, str] | None:
    """The technique, code and reason for which a cell is refused; None if it is to work."""
    for place, technique in enumerate(techniques):
        if (technique, name) not in REASONS:
            continue
        if any((first, technique) in ENABLED for first in techniques[:place]):
            continue
        return (technique, *REASONS[technique, name])
    return None


def entry(cell: Cell) -> str:
    """A cell as the page shows it: the places that each technique rewrote, or the code."""
    return " + ".join(map(str, cell.rewritten)) if cell.works else cell.code


def keys() -> list[Key]:
    columns = [*((t,) for t in TECHNIQUES), *PAIRS]
    return [(name, techniques) for name in HOSTS for techniques in columns]


def page(entries: Mapping[Key, str]) -> str:
    """The whole page."""
    counted = [k for k in keys() if len(k[1]) == 1 and k[1] != ("sample",)]
    singles = sum(not entries[k].startswith("SP") for k in counted)
    pairs = [k for k in keys() if len(k[1]) == 2 and not entries[k].startswith("SP")]
    lines = [
        "# Composition",
        "",
        "<!-- Made by `pytest tests/test_composition.py --update-golden`. -->",
        "",
        "Every technique on every system. A number says that it works and how many places it rewrote: all that its pattern matches, counted by",
        "the test on its own. The network then has another hash, passes the verifier, compiles, trains a step with finite gradients that are not",
        "zero for any active parameter that the technique added, costs what `numel()` counts, and a subnet taken out of it gives the same",
        "outputs to the last bit in float64. A code is a refusal with a diagnostic; the reasons are below. It names",
        "the node that does not fit, and the network where the technique finds none.",
        "",
        f"{singles} of {len(counted)} single cells work (sampling not counted), and {len(pairs)} cells of {len({k[1] for k in pairs})} pairs.",
        "",
        "Hosts are searchable instances where there is one, made narrow: fewer channels, layers and pixels, the same blocks. The shipped ones",
        "are rewritten by the same passes in full size, every place that matches, but not trained. Both keep what they `require`. Of CDARTS it is",
        "`cifar10` with `empty: true`, as its search has it: the published network requires an operation on every edge, and `relax` refuses to mix",
        "a decision of which `require` speaks.",
        "",
        *_table(["host", *TECHNIQUES], [[n, *(entries[n, (t,)] for t in TECHNIQUES)] for n in HOSTS]),
        "",
        "| host | instance |",
        "|---|---|",
        *(f"| {name} | {INSTANCES[name]} |" for name in HOSTS),
        "",
        "## Pairs",
        "",
        "The first technique, then the second on what it made. A pair is refused where one of the two is refused alone, but for `irpe` and",
        "`bucketise`: the first makes what the second needs.",
        "",
        *_table(
            ["pair", *HOSTS],
            [[f"{a} + {b}", *(entries[n, (a, b)] for n in HOSTS)] for a, b in PAIRS],
        ),
        "",
        "## The techniques",
        "",
    ]  # fmt: skip
    for technique in TECHNIQUES:
        lines += [f"### {technique}", "", PARAGRAPHS[technique], ""]
        lines += ["| host | pass |", "|---|---|"]
        lines += [f"| {name} | `{step}` |" for name, step in STEPS[technique].items()]
        lines.append("")
    lines += ["## Refusals", ""]
    for (technique, name), (code, why) in REASONS.items():
        lines.append(f"- **{technique} on {name}** ({code}). {why}")
    return "\n".join(lines) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def entries_of(text: str) -> dict[Key, str]:
    """The cells of a page, by host and techniques."""
    found: dict[Key, str] = {}
    head: list[str] = []
    for line in text.splitlines():
        row = [part.strip() for part in line.strip("|").split("|")] if line[:1] == "|" else []
        if row[:1] in (["host"], ["pair"]) and len(row) > 2:
            head = row
        elif not row:
            head = []
        elif head and not row[0].startswith("---"):
            for column, value in zip(head[1:], row[1:], strict=True):
                if head[0] == "host":
                    found[row[0], (column,)] = value
                else:
                    first, _, second = row[0].partition(" + ")
                    found[column, (first, second)] = value
    return found
