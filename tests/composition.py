"""The composition matrix: hosts, techniques, and what a cell must do to count as working.

A host is a system's searchable instance where it has one, made narrow: fewer channels, layers and
pixels, the same blocks. A technique is a pass with options for each host. A pair is two of them,
in the order of `TECHNIQUES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import torch
from torch import Tensor

from spacelang.backends.torch.storage import tensor_names
from spacelang.backends.torch.subnets.proof import example
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Report, Source, SpaceError
from spacelang.ir.canonical import canonical
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.ir.node import Value
from spacelang.ir.param import Gather, Slice
from spacelang.ir.pattern import Pattern, parse_pattern, split
from spacelang.ir.verify import verify
from spacelang.loader import load
from spacelang.passes.flow import Flow
from spacelang.passes.pipeline import run
from spacelang.passes.places import Spot, find, spots
from spacelang.passes.specialize import specialize

HOSTS: Mapping[str, str] = {
    "deit": """use deit
space host = deit(24, heads: 3, depth: 4, drop: 0, patch: 8, image: 32, classes: 5)""",
    "autoformer": """use autoformer
space host = autoformer({8, 12}, 2..4, {1, 2}, {1, 1.5, 2}, stored: 16, image: 32, classes: 5)""",
    "s3": """use s3
space host = s3([{32, 64}, {32, 64}, {32, 64}, {64, 96}], depths: [1..2, 1..2, 1..2, 1..2],
                head_counts: [{1, 3}, {1, 3}, {2, 4}, {2, 4}], budget: [0, 5G], drop: 0, classes: 5)""",
    "swin": """use swin
space host = swin(64, [2, 2, 2, 2], heads: [2, 4, 8, 16], windows: [4, 4, 4, 2], drop: 0, image: 64,
                  classes: 5)""",
    "tinyvit": """use tinyvit
space host
    from tinyvit([choose {32, 64}, choose {64, 96}, choose {64, 96, 128}, choose {96, 128}],
                 windows: [choose {2, 4}, choose {2, 4}, 2],
                 depths: [2, choose {1..3}, choose {2..4}, choose {1..3}],
                 expand: choose {1, 2}, ratio: choose {1, 2}, image: 64, classes: 5) {
  weights { _: separate }
}""",
    "efficientvit": """use efficientvit
space host
    from efficientvit([choose {32, 64}, choose {48, 96}, choose {96, 144}],
                      heads: [choose {2, 4}, choose {3, 4}, choose {3, 4}],
                      kernels: [choose {5, 7}, choose {3, 5}, choose {3, 5}, choose {3, 5}],
                      depths: [1, choose {2, 3}, choose {3, 4}], window: 4, image: 128,
                      classes: 5) {
  weights { _: entangle }
}""",
    "cream": """use cream
space host = cream([3, 2, 1, 1, 1], image: 64, classes: 5)""",
    "cdarts": """use cdarts
space host = darts(2, stem: 4, cells: [1, 1, 2], image: 32, classes: 5)""",
}

FULL: Mapping[str, str] = {
    "deit": "deit.space:deit_ti",
    "autoformer": "autoformer.space:autoformer_t",
    "s3": "s3.space:s3_start",
    "swin": "swin.space:swin_t",
    "tinyvit": "tinyvit.space:tinyvit_contraction",
    "efficientvit": "efficientvit.space:efficientvit_search",
    "cream": "cream.space:cream",
    "cdarts": "cdarts.space:cifar10",
}
"""The hosts as they ship."""
OPEN: Mapping[str, Mapping[str, object]] = {"cdarts": {"empty": True}}
"""With what a mixture weighs: edges without operation too, as while searching."""

STEPS: Mapping[str, Mapping[str, str]] = {
    "entangle": {
        "deit": "entangle",
        "autoformer": "entangle{path=encoder[_].attn.qkv.bias}",
        "s3": "entangle{path=layers[_].blocks[_].heads,form=centre}",
        "swin": "entangle",
        "tinyvit": "entangle",
        "efficientvit": "entangle{path=kernels[_],form=centre}",
        "cream": "entangle{path=_.op,form=centre}",
        "cdarts": "entangle{path=_.op,form=centre}",
    },
    "cascade": {
        "deit": "cascade{path=blocks[_].attn}",
        "autoformer": "cascade{path=encoder[_].attn}",
        "s3": "cascade{path=_.attn}",
        "swin": "cascade{path=layers[_].blocks[_].attn}",
        "tinyvit": "cascade{path=layers[_].blocks[_].attn}",
        "efficientvit": "cascade{path=_.attn}",
        "cream": "cascade{path=blocks[_][_]}",
        "cdarts": "cascade{path=nas_layers[_][_]}",
    },
    "irpe": {name: "irpe{on=[k,v]}" for name in HOSTS},
    "multiplex": {
        "deit": "multiplex{path=blocks,every=2,own=[norm1,norm2]}",
        "autoformer": "multiplex{path=encoder,every=2,own=[attn_layer_norm]}",
        "s3": "multiplex{path=layers[_].blocks,every=2}",
        "swin": "multiplex{path=layers[_].blocks,every=2,own=[norm1,norm2]}",
        "tinyvit": "multiplex{path=layers[_].blocks,every=2}",
        "efficientvit": "multiplex{path=stages[_].blocks,every=2}",
        "cream": "multiplex{path=blocks[1..5][1..9],every=2}",
        "cdarts": "multiplex{path=nas_layers[2][0..1],every=2,own=[preproc0,preproc1]}",
    },
    "bucketise": dict.fromkeys(HOSTS, "bucketise"),
    "relax": {
        "deit": "relax{depth=softmax}",
        "autoformer": "relax{depth=softmax}",
        "s3": "relax{depth=softmax}",
        "swin": "relax{depth=softmax}",
        "tinyvit": "relax{depths=softmax}",
        "efficientvit": "relax{depths=softmax}",
        "cream": "relax{op=softmax}",
        "cdarts": "relax{op=softmax,inputs=softmax}",
    },
    "sample": dict.fromkeys(HOSTS, "sample{seed=1}"),
}
"""The pipeline of a technique on a host; pairs have them in this order."""

TECHNIQUES = tuple(STEPS)
PAIRS = tuple(combinations([t for t in TECHNIQUES if t != "sample"], 2))


@cache
def host(name: str) -> Graph:
    """A narrow host."""
    return load(Source(f"{name}.space", HOSTS[name]))


@cache
def shipped(name: str) -> Graph:
    """A host as it ships."""
    return load(f"spaces/{FULL[name]}", **OPEN.get(name, {}))


# How many places a technique's documented pattern matches, and how many the pass rewrote. Both are
# counted here on the graphs, not taken from the pass.

Count = Callable[[Graph, Graph, str], tuple[int, int]]


def _option(step: str, name: str) -> str:
    """The path of a step; empty if it has none."""
    _, _, rest = step.partition(f"{name}=")
    return rest.partition(",")[0].rstrip("}")


def _layout(graph: Graph) -> dict[str, tuple[object, ...]]:
    """How each stored tensor is kept and read."""
    found: dict[str, set[str]] = {}
    for spot in spots(graph):
        for view in spot.node.params.values():
            read = [[_begins(spot, part) for part in axis] for axis in view.index]
            found.setdefault(spot.instance.param(view.param), set()).add(str(read))
    stored = graph.storages
    return {
        p: (stored[p].shape, tuple(s.name for s in stored[p].bank), sorted(read))
        for p, read in found.items()
    }


def _begins(spot: Spot, part: Slice | Gather) -> str:
    """Where a read of a factor starts, or the table that it goes through."""
    return part.table if isinstance(part, Gather) else str(spot.instance.absolute(part.start))


def _entangled(before: Graph, after: Graph, step: str) -> tuple[int, int]:
    """Parameters that a named decision sizes (or that are named), or that alternatives share."""
    text = _option(step, "path")
    named = parse_pattern(text) if text else None
    then, now = _layout(before), _layout(after)
    kinds = {c.kind for p, c in before.decisions.items() if named and named.match(p) is not None}
    if kinds == {"path"}:
        matched = _alternatives(before)
        rewritten = {p for p, first in matched.items() if p not in now or p == first}
        return len(matched), len(rewritten)
    matched = set[str]()
    for spot in spots(before):
        for view in spot.node.params.values():
            path = spot.instance.param(view.param)
            sizes = [
                s for axis in view.lengths for n in axis for s in spot.instance.absolute(n).symbols
            ]
            names = {s.name for s in sizes if len(s.points) > 1}
            if names and (
                named is None
                or named.match(path) is not None
                or any(named.match(n) is not None for n in names)
            ):
                matched.add(path)
    return len(matched), sum(then[p] != now[p] for p in matched)


def _alternatives(graph: Graph) -> dict[str, str]:
    """Parameters of alternatives that have the same ones -> those of the first of them."""
    found: dict[str, str] = {}
    last = _last_cells(graph)
    for path, choice in graph.decisions.items():
        if choice.kind != "path":
            continue
        # A cell's decision is taken once for all of its instances.
        tail = path.split(".", 1)[1] if path.startswith(("normal.", "reduction.")) else path
        starts = {
            p[: p.index(f"{tail}.{value}.") + len(tail) + 1]
            for value in choice.values
            for p in graph.storages
            if f"{tail}.{value}." in p and _belongs(path, p, last)
        }
        for start in starts:
            groups: dict[tuple[str, ...], list[str]] = {}
            for value in choice.values:
                own = f"{start}{value}."
                inner = tuple(p[len(own) :] for p in graph.storages if p.startswith(own))
                if inner:
                    groups.setdefault(inner, []).append(own)
            for inner, owners in groups.items():
                if len(owners) > 1:
                    found |= {own + p: owners[0] + p for own in owners for p in inner}
    return found


def _belongs(decision: str, path: str, last: Mapping[int, int]) -> bool:
    """Whether a parameter hangs on a decision; in a cell's instance by which cell it is of."""
    if not path.startswith("nas_layers"):
        return path.startswith(decision)
    layer, cell = split(path)[0].indices
    # The last cell of each of the first two layers reduces.
    return decision.startswith("reduction.") == (layer < 2 and cell == last[layer])


def _last_cells(graph: Graph) -> dict[int, int]:
    """The last cell of each layer of CDARTS."""
    found: dict[int, int] = {}
    for path in graph.storages:
        if path.startswith("nas_layers"):
            layer, cell = split(path)[0].indices
            found[layer] = max(cell, found.get(layer, 0))
    return found


def _cascaded(before: Graph, after: Graph, step: str) -> tuple[int, int]:
    """Attention blocks with several heads; each becomes a projection for each head."""
    named = parse_pattern(_option(step, "path"))
    blocks = {s.path for s in find(before, named)}
    heads = {p: _heads(before, p) for p in blocks}
    matched = {p for p, n in heads.items() if n > 1}
    done = {
        p for p in matched
        if f"{p}.qkv.weight" not in after.storages
        and all(f"{p}.qkv[{i}].weight" in after.storages for i in range(heads[p]))
    }  # fmt: skip
    return len(matched), len(done)


def _heads(graph: Graph, path: str) -> int:
    """The most heads of an attention, by the factors of its one projection."""
    (factors,) = (s.shape[0] for p, s in graph.storages.items() if p == f"{path}.qkv.weight")
    dim = factors[-1]
    width = next(s.sizes[0] for p, s in graph.storages.items() if p == f"{path}.proj.weight")
    return width // dim


def _encoded(before: Graph, after: Graph, step: str) -> tuple[int, int]:
    """Softmaxes over as many keys as queries; each gets a term beside its scores and its values."""
    there = [s for s in spots(before) if s.node.op == "softmax" and s.node.types[0].rank > 2]
    called = (s.name.rpartition(".")[2] for s in spots(after) if s.node.call is not None)
    terms = [name.partition("[")[0] for name in called]
    return 2 * len(there), terms.count("rpe_k") + terms.count("rpe_v")


def _tied(before: Graph, after: Graph, step: str) -> tuple[int, int]:
    """Instances but for the first of each run; what they do not own is stored no more."""
    pattern = parse_pattern(_option(step, "path"))
    groups: dict[str, dict[str, None]] = {}
    for spot in spots(before):
        if spot.node.call is not None and spot.node.call.path and _instance(spot, pattern):
            groups.setdefault(spot.path.rpartition("[")[0], {})[spot.path] = None
    followers = [p for g in groups.values() for i, p in enumerate(g) if i % 2]
    owned = _option(step, "own").strip("[]")
    own = step.partition("own=[")[2].partition("]")[0].split(",") if owned else []
    kept = {
        p.removeprefix(f + ".") for f in followers for p in after.storages if p.startswith(f + ".")
    }
    assert all(any(p.startswith(o + ".") for o in own) for p in kept), kept
    done = [f for f in followers if not any(p.startswith(f + ".") for p in after.storages) or own]
    return len(followers), len(done)


def _instance(spot: Spot, pattern: Pattern) -> bool:
    path = spot.path
    if split(path)[-1].indices and not str(pattern).endswith("]"):
        path = spot.path.rpartition("[")[0]
    return pattern.match(path) is not None


def _bucketed(before: Graph, after: Graph, step: str) -> tuple[int, int]:
    """Gathers of a vector for every pair of tokens: none is left."""
    return _gathers(before), _gathers(before) - _gathers(after)


def _gathers(graph: Graph) -> int:
    """Uses of products that read rows which `take` finds for every pair."""
    flow = Flow(graph)

    def taken(at: tuple[str, Value]) -> bool:
        node = flow.node(at)
        if node.op == "take":
            return True
        inner = flow.sources(at)
        if inner is None and node.op not in ("add", "sub", "mul", "div", "identity", "sum_of"):
            return False
        return any(taken(s) for s in inner or ((at[0], v) for v in node.operands))

    def reads(spot: Spot) -> bool:
        known = ((spot.block, v) for v in spot.node.operands)
        types = ((at, flow.type(at)) for at in known)
        return any(
            taken(at) for at, t in types if not any(s.free for d in t.shape for s in d.symbols)
        )

    return sum(reads(spot) for spot in spots(graph) if spot.node.op == "einsum")


def _relaxed(before: Graph, after: Graph, step: str) -> tuple[int, int]:
    """Decisions of the named labels; none is left, and each has weights."""
    labels = [part.partition("=")[0] for part in step[len("relax{") : -1].split(",")]
    named = [p for p in before.decisions if split(p)[-1].name in labels]
    return len(named), sum(p not in after.decisions for p in named)


def _sampled(before: Graph, after: Graph, step: str) -> tuple[int, int]:
    """Decisions; none is left."""
    return len(before.decisions), sum(p not in after.decisions for p in before.decisions)


COUNTS: Mapping[str, Count] = {
    "entangle": _entangled, "cascade": _cascaded, "irpe": _encoded, "multiplex": _tied,
    "bucketise": _bucketed, "relax": _relaxed, "sample": _sampled,
}  # fmt: skip


# A cell.


@dataclass(frozen=True)
class Cell:
    """What came of a technique or a pair on a host: places rewritten, or why it was refused."""

    rewritten: tuple[int, ...] = ()
    code: str = ""
    message: str = ""

    @property
    def works(self) -> bool:
        return not self.code


def applied(graph: Graph, name: str, technique: str) -> tuple[Graph, int]:
    """A graph of a host after a technique, and how many places that rewrote: all it matches."""
    step = STEPS[technique][name]
    made = run(graph, step)
    matched, done = COUNTS[technique](graph, made, step)
    assert matched == done > 0, f"{technique} rewrote {done} of {matched} places in {name}"
    return made, done


@cache
def rewritten(name: str, techniques: tuple[str, ...]) -> tuple[Graph, tuple[int, ...]]:
    """A host after some techniques, one after the other, and how many places each rewrote."""
    if not techniques:
        return host(name), ()
    graph, counts = rewritten(name, techniques[:-1])
    made, done = applied(graph, name, techniques[-1])
    return made, (*counts, done)


@cache
def form(name: str, techniques: tuple[str, ...]) -> Graph:
    """The canonical form, but for storage rules: only what they did to the storage counts."""
    made, _ = rewritten(name, techniques)
    return replace(canonical(made), rules=())


@cache
def cell(name: str, techniques: tuple[str, ...]) -> Cell:
    """What comes of it; a network that works is trained a step and taken out."""
    try:
        graph, counts = rewritten(name, techniques)
    except SpaceError as refused:
        first = refused.diagnostics[0]
        return Cell(code=first.code, message=first.headline)
    assert form(name, techniques) != form(name, techniques[:-1])
    report = Report()
    verify(graph, report)
    assert [d.headline for d in report] == []
    exercise(graph, host(name))
    return Cell(counts)


def exercise(graph: Graph, before: Graph) -> None:
    """A training step of the largest network, the cost and an extraction of a random one."""
    model = awake(graph)
    changed = [
        p for p, s in graph.storages.items()
        if s.param.role == "weight"
        and (p not in before.storages or before.storages[p].shape != s.shape)
    ]  # fmt: skip
    train_step(model, changed)
    assignments = graph.sample(1, seed=1) if graph.decisions else [{}]
    for assignment in assignments:
        taken_out(model, assignment)


def awake(graph: Graph) -> Supernet:
    """A supernet in which nothing that starts at zero (tables, last norms) shuts a branch off."""
    model = Supernet(graph, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.double()


def train_step(model: Supernet, paths: list[str]) -> None:
    """Gradients are finite, and not zero for those of these parameters that are active."""
    model.train()
    model.zero_grad()
    torch.manual_seed(0)
    images = [x.double() for x in example(model.graph, seed=2)]
    loss = torch.zeros((), dtype=torch.float64)
    for output in model.all_outputs(*images).values():
        labels = torch.arange(len(output)) % output.shape[-1]
        loss = loss + torch.nn.functional.cross_entropy(output, labels)
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(g.isfinite().all()) for g in gradients)
    active = specialize(model.graph, model.assignment).storages
    still = [p for p in paths if p in active and not _moved(model, p)]
    assert still == []
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad


def _moved(model: Supernet, path: str) -> bool:
    count = len(tensor_names(model.graph.storages[path]))
    tensors = (model.stored_tensor(path, i) for i in range(count))
    return any(t.grad is not None and bool(t.grad.any()) for t in tensors)


def taken_out(model: Supernet, assignment: Assignment) -> None:
    """A subnet of its own: as many parameters as the cost says, the same outputs to the bit."""
    network = model.activate(assignment).extract(assignment)
    numel = sum(p.numel() for p in network.parameters())
    assert numel == model.graph.cost(assignment).params
    images = [x.double() for x in example(model.graph, seed=5)]
    with torch.no_grad():
        wanted, found = model.eval()(*images), network.eval()(*images)
    assert _same(found, wanted)


def _same(found: Tensor | Mapping[str, Tensor], wanted: Tensor | Mapping[str, Tensor]) -> bool:
    if isinstance(found, Tensor) and isinstance(wanted, Tensor):
        return torch.equal(found, wanted)
    assert isinstance(found, Mapping)
    assert isinstance(wanted, Mapping)
    return found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in found)
