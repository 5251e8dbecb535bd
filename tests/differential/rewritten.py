"""Claims about passes: what one declares to keep is kept, and what it makes is a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import torch
from differential.case import Case, Skipped
from differential.figures import numels
from differential.networks import gradients, outputs
from differential.program import NAME
from small_spaces import tensors

from spacelang.analysis.queries import counter
from spacelang.backends.torch.subnets.proof import relative
from spacelang.diagnostics import Report, Source, SpaceError, error
from spacelang.ir.decision import Choice
from spacelang.ir.graph import Graph
from spacelang.ir.verify import verify
from spacelang.loader import load
from spacelang.passes import run
from spacelang.plugins import load as plugin

PLAIN = ["inline", "simplify", "simplify{fold_norm=true}", "bucketise", "entangle", "fuse",
         "sample{seed=1}", "insert"]  # fmt: skip
INSERTED = """
block inserted(a: [.., C]) -> [.., C] { return a + layer_norm(a) as inserted_norm }
space grown from BASE { rewrite { insert(inserted, after: PATH, name: "inserted") } }
"""
REFUSALS = {"SP601", "SP402", "SP403", "SP404", "SP504", "SP203", "SP401", "SP302"}


def passes(case: Case) -> None:
    """What a pass declares to keep is kept, and what it makes is a network like any other.

    With a number it is the turn of one pass: the first that the graph takes, from a place on.
    """
    tried = False
    for text in _turn(case):
        try:
            made = _inserted(case) if text == "insert" else run(case.graph, text)
        except SpaceError as refused:
            if not all(d.code in REFUSALS for d in refused.diagnostics):
                raise
            continue
        try:
            kept(case, made, text)
        except (AssertionError, SpaceError) as failed:
            raise AssertionError(f"{text}: {failed}") from failed
        tried = True
        if case.number is not None:
            break
    if not tried:
        raise Skipped("no pass fits")


def _turn(case: Case) -> list[str]:
    every = list(passes_for(case.graph))
    first = (case.number or 0) // 2 % len(every)  # each second program is tried
    return [*every[first:], *every[:first]]


def _inserted(case: Case) -> Graph:
    """The space with a block behind one of its labelled nodes, as a derived space asks for it."""
    paths = [p.path for p in case.graph.places() if p.node.label and p.node.op != "input"]
    if not paths:
        raise SpaceError(error("SP504", "nothing has a label"))
    path = paths[len(case.text) % len(paths)]
    more = INSERTED.replace("BASE", case.graph.name).replace("PATH", path)
    return load(Source(NAME, case.text + more))


def passes_for(graph: Graph) -> Iterator[str]:
    yield from PLAIN
    labels = {p.rpartition(".")[2].split("[")[0]: c for p, c in graph.decisions.items()}
    open_ = [n for n, c in labels.items() if c.kind in ("path", "pick") and not inside(graph, c)]
    yield from (f"relax{{{name}={law}}}" for name in open_[:1] for law in ("softmax", "sigmoid"))
    if any(p.node.op == "softmax" for p in graph.places()):
        yield "irpe{method=product,ratio=1,on=[q,k,v]}"
        yield "irpe{method=cross,ratio=1,on=[k]}"
    calls = [p.path for p in graph.places() if p.node.call is not None and p.path.endswith("]")]
    yield from (f"multiplex{{path={c.rpartition('[')[0]},every=2}}" for c in calls[:1])
    heads = {n for n, b in graph.blocks.items() if {"split", "softmax"} & {x.op for x in b.nodes}}
    places = (p for p in graph.places() if p.node.call is not None and p.path)
    parallel = dict.fromkeys(p.path for p in places if p.node.call.block in heads)
    yield from (f"cascade{{path={path}}}" for path in [*parallel][:2])


def inside(graph: Graph, choice: Choice) -> bool:
    """Whether a decision lies in a mixture, whose weights in PyTorch can hold none of its own."""
    hops = choice.path.split(".")
    above = (".".join(("alphas", *hops[:n])) for n in range(1, len(hops)))
    return any(path in graph.storages for path in above)


def kept(case: Case, made: Graph, text: str) -> None:
    """What a pass made of a graph, by all that it declares."""
    name = text.partition("{")[0]
    keeps = plugin("spacelang.passes", name).preserves
    report = Report()
    verify(made, report)
    assert not report.errors, [str(e) for e in report.errors]
    if "space" in keeps and not counter(case.graph).required.bands:
        assert made.size() == case.graph.size(), "the size of the space"
    before = case.first
    assignment = before.assignment
    if made.decisions.keys() != case.graph.decisions.keys():
        values = case.graph.decisions.check(assignment)
        live = made.decisions
        assignment = live.assignment(live.complete({p: values[p] for p in live if p in values}))
    twin = Case(case.text, case.number, made, (assignment,))
    if "parameters" in keeps and "fold" not in text:
        assert twin.first.cost.params == before.cost.params, "the parameters"
    if "function" in keeps:
        copy(case, twin)
    outputs(twin)
    numels(twin)
    with suppress(Skipped):
        gradients(twin)
    if "function" in keeps:
        found = twin.first.supernet
        for output, y in before.supernet.outputs.items():
            assert relative(found.outputs[output], y) <= 1e-8, f"function: {output}"


def copy(case: Case, twin: Case) -> None:
    """Give a rewritten network the weights of the one that it was made of, by path."""
    weights, own = tensors(case.supernet), tensors(twin.supernet)
    with torch.no_grad():
        for path, tensor in own.items():
            tensor.copy_(weights[path])
