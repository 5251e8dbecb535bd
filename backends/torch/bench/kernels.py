"""`spacelang bench kernels`: each Triton kernel beside PyTorch, on groups that spaces have.

    python -m spacelang.backends.torch.bench.kernels '{"device": "interpret", "repeats": 7}'

A kernel's group is the heaviest of its kind in a published network, cut out of it by the compiler:
its body is the eager contender, under `torch.compile` the second; `scaled_dot_product_attention`
and `flex_attention` are others where they can express it. Then the same in training: forward and
backward, to the gradients of all inputs and weights. Results are compared first. Bytes and FLOPs
are those of the traffic model, which has forward passes alone. In the interpreter sizes are tiny
and times say nothing of a GPU: it shows that the command works. It runs in a process of its own,
as Triton reads at its import where it runs.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spacelang import plugins
from spacelang.analysis.traffic import Traffic
from spacelang.backends.torch import losses
from spacelang.backends.torch.bench import flex
from spacelang.backends.torch.bench.work import filled
from spacelang.backends.torch.deploy import folded
from spacelang.backends.torch.lower import Lowering
from spacelang.backends.torch.peephole import lean
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.dim import Symbol
from spacelang.ir.graph import Graph, Output
from spacelang.ir.node import Call, Node, TensorType, Value
from spacelang.loader import load
from spacelang.passes.fuse import for_kernels
from spacelang.passes.fused_cost import Row, compare

TOLERANCE = 1e-5  # of the largest magnitude, in float32
SUMMED = 1e-4  # of gradients, which are sums over all tokens of a batch, each in its own order
WARM_UP = 3
OURS = ("kernel", "eager")  # have to run; what fails of the others is left out
GPU = "only measured on a GPU"
TRAINED = ", in training"
CALLS = 10  # in a row between two events of a GPU
FREE = Symbol("B", (), False)


@dataclass(frozen=True)
class Case:
    """A kernel's group: the network that has it, and how small it is for the interpreter.

    `holds` is an op that the group has to have, if any.
    """

    kernel: str
    space: str
    batch: int
    tiny: Mapping[str, object]
    holds: str = ""


NARROW = {"image": 32, "mid": [[8, 8], [8, 8, 8], [8] * 4, [8, 8], [8, 8, 8]]}
CASES: Mapping[str, Case] = {
    "attention, relative": Case(
        "attention", "autoformer.space:autoformer_t_subnet", 64, {"image": 32}
    ),
    "attention, plain": Case("attention", "deit.space:deit_ti", 64, {"image": 16}),
    "attention, on keys": Case("attention", "irpe.space:deit_s_product_k", 64, {"image": 32}),
    "attention, windows": Case(
        "attention", "swin.space:swin_t", 64, {"image": 32, "windows": [4, 2, 2, 1]}
    ),
    "mixed attention": Case("mixed_attention", "minivit.space:mini_deit_ti", 64, {"image": 32}),
    "mlp": Case("mlp", "deit.space:deit_ti", 64, {"image": 16}),
    "cascade": Case("cascade", "efficientvit.space:efficientvit_m0", 256, {"image": 64}),
    "depthwise": Case("depthwise", "mobilenetv3.space:mobilenetv3_large", 64, NARROW),
    "depthwise, gated": Case(
        "depthwise", "mobilenetv3.space:mobilenetv3_large", 64, NARROW, holds="mean"
    ),
    "mixture": Case("mixture", "cdarts.space:cifar10_search", 64, {"cells": (1, 1, 1)}),
}


@dataclass(frozen=True)
class Work:
    """One kernel's contenders; all take nothing and give one tensor."""

    name: str
    what: str
    traffic: Traffic | None  # of what is modelled
    contenders: Mapping[str, Callable[[], Tensor]]
    left_out: Mapping[str, str]


# Groups of networks.


def cut(graph: Graph, block: Block) -> Graph:
    """A network that is one use of a block of a fixed network."""
    own = {s.name: FREE for s in block.sizes}
    inputs = tuple(
        Node(i, "input", types=(node.types[0].substitute(own),), label=f"x{i}")
        for i, node in enumerate(block.inputs)
    )
    call = Call(block.name, "", "", "", sizes=own)
    types = tuple(block.type_of(v).substitute(own) for v in block.outputs)
    operands = tuple(Value(node.id) for node in inputs)
    node = Node(len(inputs), "call", operands, call=call, types=types)
    root = Block(block.name, nodes=(*inputs, node), outputs=(Value(node.id),))
    outputs = (Output("y", Value(node.id)),)
    return Graph(block.name, root, {block.name: block}, outputs)


def groups(cases: Mapping[str, Case], device: str) -> Iterator[Work]:
    """The heaviest group of each kernel, with all that can compute it."""
    for name, case in cases.items():
        tiny = device == "interpret"
        graph = load(case.space, **(case.tiny if tiny else {}))
        batch = 2 if tiny else case.batch
        fused = for_kernels(graph).graph
        rows = [
            row
            for row in compare(graph, fused, batch=batch)
            if row.kernel == case.kernel
            and (not case.holds or case.holds in {n.op for n in fused.blocks[row.block].nodes})
        ]
        if not rows:
            raise SpaceError(error("SP605", f"{case.space} has no group for {case.kernel}"))
        heaviest = max(rows, key=lambda r: r.before.bytes / r.places)
        yield from _group(name, fused, heaviest, batch, case.space, device)


def _group(
    name: str, fused: Graph, row: Row, batch: int, space: str, device: str
) -> Iterator[Work]:
    """A group in evaluation, and then in training."""
    graph = cut(fused, fused.blocks[row.block])
    where = "cpu" if device == "interpret" else device
    plain = filled(Supernet(graph, lowering=Lowering(graph))).to(where)
    quick = Supernet(graph, lowering=Lowering(graph, kernels="triton")).eval()
    quick.load_state_dict(plain.state_dict())
    quick = quick.to(where)
    inputs = [_random(node.types[0], batch).to(where) for node in graph.root.inputs]
    contenders: dict[str, Callable[[], Tensor]] = {
        "kernel": lambda: quick(*inputs),
        "eager": lambda: plain(*inputs),
    }
    left_out: dict[str, str] = {}
    made = lean(folded(plain.extract()), *inputs)
    if any(n.target is F.scaled_dot_product_attention for n in made.graph.nodes):
        contenders["scaled_dot_product_attention"] = lambda: made(*inputs)
    elif row.kernel in flex.LACKS:
        left_out["scaled_dot_product_attention"] = flex.LACKS[row.kernel]
    if row.kernel in flex.LACKS:
        why = flex.lacks(graph, row.block) or ("" if device == "cuda" else GPU)
        if why:
            left_out["flex_attention"] = why
        else:
            flexed = flex.flexible(graph, row.block, compiled=True)
            flexed.load_state_dict(plain.state_dict())
            moved = flexed.to(where)
            contenders["flex_attention"] = lambda: moved(*inputs)
    if device == "cuda":
        compiled: Any = torch.compile(plain.extract())
        contenders["torch.compile"] = lambda: compiled(*inputs)
    else:
        left_out["torch.compile"] = GPU
    after = Traffic(*(figure // row.places for figure in row.after))
    shapes = ", ".join(str(list(x.shape)) for x in inputs)
    what = f"{space}: {shapes}"
    yield Work(name, what, after, contenders, left_out)
    weights = list(plain.train().parameters())
    trained = {
        "kernel": learnt(quick.train(), inputs, list(quick.parameters())),
        "eager": learnt(plain, inputs, weights),
    }
    if device == "cuda":
        again: Any = torch.compile(plain)
        trained["torch.compile"] = learnt(again, inputs, weights)
    left_out = {} if device == "cuda" else {"torch.compile": GPU}
    yield Work(f"{name}{TRAINED}", what, None, trained, left_out)


def learnt(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], weights: Sequence[Tensor] = ()
) -> Callable[[], Tensor]:
    """Forward and backward: the gradients of inputs and weights, one after the other.

    Slopes are random, the same for all contenders: equal ones cannot tell a place from another.
    """
    made: list[Tensor] = []

    def slopes(out: Tensor) -> Tensor:
        if not made:
            random = torch.Generator().manual_seed(1)
            made.append(torch.randn(out.shape, generator=random).to(out))
        return made[0]

    def step() -> Tensor:
        with torch.enable_grad():
            free = [x.detach().requires_grad_() for x in inputs]
            out = function(*free)
            wanted = [*free, *(w for w in weights if w.requires_grad)]
            found = torch.autograd.grad(out, wanted, slopes(out), materialize_grads=True)
        return torch.cat([part.flatten() for part in found])

    return step


def _random(type: TensorType, batch: int) -> Tensor:
    sizes = [int(size.at({FREE.name: batch})) for size in type.shape]
    return torch.randn(sizes, generator=torch.Generator().manual_seed(len(sizes)))


# Losses.


def loss_kernels(device: str) -> Iterator[Work]:
    """Labels of which few are kept, and relations of two networks."""
    tiny, where = device == "interpret", "cpu" if device == "interpret" else device
    random = torch.Generator().manual_seed(0)
    rows, classes, kept = (4, 50, 5) if tiny else (1024, 21_841, 100)
    logits = torch.randn(rows, classes, generator=random).to(where)
    order = torch.rand(rows, classes, generator=random).argsort(1)[:, :kept].int().to(where)
    shares = torch.rand(rows, kept, generator=random).softmax(1).mul(0.9).to(where)
    quick = plugins.load("spacelang.kernels", "soft_labels")
    none = {"torch.compile": "the loss is no graph of a space"}
    read = 4 * (rows * classes + 2 * rows * kept + rows)
    yield Work(
        "soft_labels", f"{rows} x {classes}, {kept} kept", Traffic(read, 1, 5 * rows * classes),
        {
            "kernel": lambda: quick(logits, order, shares),
            "eager": lambda: losses.soft_labels(logits, order, shares),
        }, none,
    )  # fmt: skip
    yield Work(
        f"soft_labels{TRAINED}", f"{rows} x {classes}, {kept} kept", None,
        {
            "kernel": learnt(lambda z: quick(z, order, shares), [logits]),
            "eager": learnt(lambda z: losses.soft_labels(z, order, shares), [logits]),
        }, none,
    )  # fmt: skip
    batch, tokens, width, heads = (1, 9, 16, 2) if tiny else (64, 197, 768, 12)
    own = [torch.randn(batch, tokens, width, generator=random).to(where) for _ in range(3)]
    given = [torch.randn(batch, tokens, width, generator=random).to(where) for _ in range(3)]
    relate = plugins.load("spacelang.kernels", "relations")
    flops = 9 * 2 * 2 * batch * tokens * tokens * width
    yield Work(
        "relations", f"6 x {[batch, tokens, width]}, {heads} heads",
        Traffic(6 * 4 * batch * tokens * width, 1, flops),
        {
            "kernel": lambda: relate(own, given, heads),
            "eager": lambda: losses.relations(own, given, heads),
        }, none,
    )  # fmt: skip
    yield Work(
        f"relations{TRAINED}", f"6 x {[batch, tokens, width]}, {heads} heads", None,
        {
            "kernel": learnt(lambda *own: relate(own, given, heads), own),
            "eager": learnt(lambda *own: losses.relations(own, given, heads), own),
        }, none,
    )  # fmt: skip


# Measuring.


def measured(work: Work, device: str, repeats: int) -> dict[str, Any]:
    """The record of one kernel (SP703 where a contender computes something else)."""
    contenders, left_out = dict(work.contenders), dict(work.left_out)
    required = plugins.load("spacelang.kernels", "required")
    with torch.no_grad(), required():
        wanted = work.contenders["eager"]()
        errors: dict[str, float] = {}
        for name, call in work.contenders.items():
            try:
                found = call()
            except Exception as failed:  # of whatever kind a compiler of others raises
                if name in OURS:
                    raise
                told = str(failed).splitlines() or [type(failed).__name__]
                left_out[name] = f"it failed: {told[0]}"
                del contenders[name]
                continue
            errors[name] = float((found - wanted).abs().max() / wanted.abs().max())
            if not errors[name] <= (SUMMED if work.traffic is None else TOLERANCE):
                told = f"{work.name}: {name} gives other results than eager ({errors[name]:.1e})"
                raise SpaceError(error("SP703", told))
        times: dict[str, list[float]] = {name: [] for name in contenders}
        warm_up = 0 if device == "interpret" else WARM_UP
        for turn in range(warm_up + repeats):
            for name, call in contenders.items():
                seconds = _timed(call, device)
                if turn >= warm_up:
                    times[name].append(seconds)
    best, traffic = statistics.median(times["kernel"]), work.traffic
    return {
        "name": work.name, "what": work.what, "device": device,
        "seconds": times, "errors": errors, "left_out": left_out,
        "modelled": None if traffic is None else asdict(traffic),
        "bytes_a_second": None if traffic is None else traffic.bytes / best,
        "flops_a_second": None if traffic is None else traffic.flops / best,
    }  # fmt: skip


def _timed(call: Callable[[], Tensor], device: str) -> float:
    if device != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(CALLS):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / CALLS


def main() -> None:
    """Print a record a line."""
    request = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    device = request["device"]
    try:
        if device == "cuda" and not torch.cuda.is_available():
            found = error("SP605", "there is no CUDA device here")
            raise SpaceError(found.hint("--device interpret shows that the command works"))
        for works in (groups(CASES, device), loss_kernels(device)):
            for work in works:
                answers.write(json.dumps(measured(work, device, request["repeats"])) + "\n")
    except SpaceError as failed:
        found = failed.diagnostics[0]
        told = {"failed": found.headline, "code": found.code, "help": found.help}
        answers.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
