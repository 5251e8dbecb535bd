"""What builds each contender: a table by name. All of a row have equal weights and equal inputs.

    work = build({"contender": "timm.folded", "space": .., "network": .., "batch": 16})
    work.call()           # one call, what is timed
    work.results()        # what it computes, to be compared with the others

Weights are drawn from one seed and moved off their first values (norms that are the identity, zero
tables and statistics would hide what is wrong); networks of timm get them by the space's own
`names timm`, the published form of a supernet by `names published`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle, pairwise
from typing import Any

import torch
from torch import Tensor

from spacelang.backends.torch import weights
from spacelang.backends.torch.bench.published import HEAD, REACH, AutoFormer, explicit
from spacelang.backends.torch.deploy import deploy
from spacelang.backends.torch.deployment import load_deployed
from spacelang.backends.torch.fused.attention import attention
from spacelang.backends.torch.kernels import with_fused
from spacelang.backends.torch.onnx import OnnxNetwork
from spacelang.backends.torch.packed import product
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.tables import clipped_index, index_classes, index_columns
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.loader import load

Request = Mapping[str, Any]
PATHS = 2  # random paths that a repeat of a supernet step goes through
GRID = (14, 14)  # patches of AutoFormer's images
GAIN = 0.75  # of matrices: with larger ones attention saturates, and rounding decides


class Missing(Exception):
    """A contender that cannot be there, as a library is not installed; the reason."""


@dataclass(frozen=True)
class Work:
    """A contender ready to be called; `cycle` calls make a whole repeat.

    `call` may return what it did and in how many seconds, to be told with the time.
    """

    call: Callable[[], Mapping[str, float] | None]
    results: Callable[[], Mapping[str, Tensor]]
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    cycle: int = 1


def build(request: Request) -> Work:
    """The contender of a request (Missing where it cannot be built)."""
    return BUILDERS[request["contender"]](request)


# Weights and inputs.


def model_of(graph: Graph) -> Supernet:
    """The space with weights that all matter, always the same, in evaluation.

    Matrices keep the size of what they are given, so that results depend on the images; all else is
    moved off what it starts from.
    """
    return filled(Supernet(graph, seed=0))


def filled(model: Supernet) -> Supernet:
    """A model in evaluation with such weights."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=random)
            if name.endswith("running_var"):
                tensor.mul_(1 + 0.1 * noise.abs())
            elif name.endswith("weight") and tensor.dim() > 1:
                tensor.copy_(GAIN * noise / (tensor.numel() / tensor.shape[0]) ** 0.5)
            elif name.endswith("weight"):
                tensor.copy_(1 + 0.1 * noise)
            else:  # tables, tokens, shifts, means
                tensor.add_(0.2 * noise)
    return model.eval()


def images(graph: Graph, batch: int) -> Tensor:
    """Normal noise of the size that a network takes."""
    shape = graph.root.inputs[0].types[0].shape
    sizes = [batch, *(int(size.at({})) for size in shape[1:])]
    return torch.randn(sizes, generator=torch.Generator().manual_seed(1))


def _about(graph: Graph, assignment: Assignment | None, batch: int) -> dict[str, Any]:
    """FLOPs of a call, two for each multiply-add of the graph as written; and what is installed."""
    macs = graph.cost(assignment).macs
    names = ("torch", "timm", "onnxruntime")
    return {"flops": 2 * batch * macs, "versions": {n: _version(n) for n in names}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


# Inference.


def _forward(network: Callable[[Tensor], Tensor], x: Tensor, about: Mapping[str, Any]) -> Work:
    def call() -> None:
        with torch.inference_mode():
            network(x)

    def results() -> dict[str, Tensor]:
        with torch.inference_mode():
            return {"logits": network(x)}

    return Work(call, results, about)


def _inference(request: Request) -> Work:
    """The network as it is deployed for this batch."""
    graph, batch = load(request["space"]), request["batch"]
    model = model_of(graph)
    start = time.perf_counter()
    network = deploy(model, batch=batch)
    about = {**_about(graph, None, batch), "compile_seconds": time.perf_counter() - start}
    x = images(graph, batch)
    if x.dim() == 4:  # given as the rival in this format is; else it would be copied in each call
        x = x.contiguous(memory_format=torch.channels_last)
    return _forward(network, x, about)


def _on_runtime(request: Request) -> Work:
    """The same for ONNX Runtime, arrays in and out as of the rival."""
    for name in ("onnxruntime", "onnx"):
        _library(name)
    graph, batch = load(request["space"]), request["batch"]
    model = model_of(graph)
    start = time.perf_counter()
    network = deploy(model, batch=batch, runtime="onnxruntime")
    about = {**_about(graph, None, batch), "compile_seconds": time.perf_counter() - start}
    assert isinstance(network, OnnxNetwork)
    run, x = network.runner, images(graph, batch).numpy()

    def call() -> None:
        run(x)

    return Work(call, lambda: {"logits": torch.from_numpy(run(x))}, about)


def _deployed(request: Request) -> Work:
    """A network in a folder."""
    start = time.perf_counter()
    network = load_deployed(request["space"])
    seconds = time.perf_counter() - start
    about = {**_about(network.graph, None, request["batch"]), "compile_seconds": seconds}
    x = images(network.graph, request["batch"])
    return _forward(network, x, about)


def _extracted(request: Request) -> Work:
    """The network as `extract` gives it."""
    graph = load(request["space"])
    network = model_of(graph).extract()
    return _forward(network, images(graph, request["batch"]), _about(graph, None, request["batch"]))


def _timm(request: Request, folded: bool = False, last: bool = False) -> Work:
    """The network of timm, its batch norms folded by its own function, or channels last too."""
    timm = _library("timm")
    graph = load(request["space"])
    network = timm.create_model(request["network"], pretrained=False, num_classes=1000).eval()
    network.load_state_dict(weights.save(model_of(graph), names="timm"))
    x = images(graph, request["batch"])
    if folded:
        network = import_module("timm.models").reparameterize_model(network)
    if last:
        network = network.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    return _forward(network, x, {})


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise Missing(f"{name} is not installed") from None


def _onnxruntime(request: Request) -> Work:
    """ONNX Runtime on the export of timm's folded network, for this batch, all optimisations on."""
    runtime, timm = _library("onnxruntime"), _library("timm")
    _library("onnxscript")
    graph = load(request["space"])
    network = timm.create_model(request["network"], pretrained=False, num_classes=1000).eval()
    network.load_state_dict(weights.save(model_of(graph), names="timm"))
    network = import_module("timm.models").reparameterize_model(network)
    x = images(graph, request["batch"])
    program = torch.onnx.export(network, (x,), dynamo=True, verbose=False)
    assert program is not None
    options = runtime.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    model = program.model_proto.SerializeToString()
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: x.numpy()}

    def call() -> None:
        session.run(None, given)

    return Work(call, lambda: {"logits": torch.from_numpy(session.run(None, given)[0])})


def _published(request: Request) -> Work:
    """A subnet of AutoFormer in the published form."""
    graph = load(request["space"])
    model = model_of(graph)
    network = AutoFormer(weights.save(model, names="published"), graph, {})
    return _forward(network, images(graph, request["batch"]), {})


# A training step of a supernet.


def _paths(graph: Graph) -> list[Assignment]:
    return list(graph.sample(PATHS, seed=0))


def _in_turn(
    step: Callable[[Assignment], Tensor], paths: Sequence[Assignment]
) -> Callable[[], None]:
    """A call that takes a step on the next path, and on the first one after the last."""
    turns = cycle(paths)

    def call() -> None:
        step(next(turns))

    return call


def _step(request: Request, again: bool = False) -> Work:
    """Forward and backward of random paths, attention and MLPs as one function each; `again`: with
    blocks that are worked out again."""
    graph = load(request["space"])
    with with_fused():
        model = model_of(graph).train()
    model.checkpointing = again
    model.dropping = False  # drop path is random: its masks would differ
    x, paths = images(graph, request["batch"]), _paths(graph)
    target = torch.arange(request["batch"])

    def step(assignment: Assignment) -> Tensor:
        model.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model.activate(assignment)(x), target)
        loss.backward()
        return loss.detach()

    def results() -> dict[str, Tensor]:
        found = {"loss": step(paths[0])}
        own = dict(model.named_parameters())
        for entry in weights.entries(graph, "published"):
            gradient = own[entry.own].grad if entry.own in own else None
            if gradient is not None:
                found[entry.foreign] = entry.to_foreign(gradient)
        return found

    costs = [graph.cost(path).macs for path in paths]
    about = _about(graph, paths[0], request["batch"])
    flops = 3 * 2 * request["batch"] * sum(costs) // PATHS
    return Work(_in_turn(step, paths), results, {**about, "flops": flops}, PATHS)


def _step_published(request: Request) -> Work:
    """The same of the published form."""
    graph = load(request["space"])
    state = weights.save(model_of(graph), names="published")
    leaves = {n: t.requires_grad_(t.is_floating_point()) for n, t in state.items()}
    x, paths = images(graph, request["batch"]), _paths(graph)
    target = torch.arange(request["batch"])

    def step(assignment: Assignment) -> Tensor:
        for leaf in leaves.values():
            leaf.grad = None
        network = AutoFormer(leaves, graph, assignment)
        loss = torch.nn.functional.cross_entropy(network(x), target)
        loss.backward()
        return loss.detach()

    def results() -> dict[str, Tensor]:
        loss = step(paths[0])
        return {"loss": loss} | {n: t.grad for n, t in leaves.items() if t.grad is not None}

    return Work(_in_turn(step, paths), results, cycle=PATHS)


# Attention alone.


def _attention(request: Request) -> Work:
    """Forward and backward of one relative attention as the fused backend has it."""
    tables = _index_tables()
    return _attended(
        lambda q, k, v, on_keys, on_values: attention(
            q, k, v, HEAD**-0.5, on_keys=(on_keys, *tables), on_values=(on_values, *tables)
        ),
        request,
    )


def _attention_published(request: Request) -> Work:
    """The same by tables of N x N x d and an explicit softmax."""
    indices = [clipped_index(*GRID, axis=axis, reach=REACH, skip=1) for axis in (0, 1)]

    def rows(table: Tensor) -> Tensor:
        return table[0, 0][indices[0]] + table[0, 1][indices[1]]

    def function(q: Tensor, k: Tensor, v: Tensor, on_keys: Tensor, on_values: Tensor) -> Tensor:
        return explicit(q, k, v, rows(on_keys), rows(on_values))

    return _attended(function, request)


def _attended(function: Callable[..., Tensor], request: Request) -> Work:
    random = torch.Generator().manual_seed(0)
    heads, tokens = 4, GRID[0] * GRID[1] + 1
    shapes = [(request["batch"], tokens, heads, HEAD)] * 3 + [(1, 2, 2 * REACH + 2, HEAD)] * 2
    leaves = [torch.randn(shape, generator=random).requires_grad_() for shape in shapes]
    slopes = torch.randn(shapes[0], generator=random)

    def step() -> dict[str, Tensor]:
        by_head = [x.transpose(1, 2) for x in leaves[:3]]
        y = function(*by_head, *leaves[3:]).transpose(1, 2)
        found = torch.autograd.grad(y, leaves, slopes)
        return {"y": y.detach(), **{f"gradient {n}": g for n, g in enumerate(found)}}

    def call() -> None:
        step()

    products = 2 * heads * tokens * tokens * HEAD  # of queries with keys, of weights with values
    versions = {n: _version(n) for n in ("torch",)}
    return Work(call, step, {"flops": 3 * 2 * request["batch"] * products, "versions": versions})


def _index_tables() -> tuple[Tensor, Tensor]:
    options: dict[str, float | str] = {}
    for axis in (0, 1):
        own = {"h": GRID[0], "w": GRID[1], "axis": axis, "reach": REACH, "skip": 1}
        options |= {f"t{axis}_{name}": value for name, value in own.items()}
        options |= {f"t{axis}_op": "clipped_index", f"t{axis}_turned": "False"}
    entries = 2 * REACH + 2
    return index_columns(entries, **options), index_classes(entries, **options)


# The limits.


def _limits(request: Request) -> Work:
    """Products of matrices of 768 x 768, by PyTorch and the faster way; a copy of 64 MiB."""
    size, count = 768, 1 << 24
    a, b = torch.randn(2, size, size)
    source, target = torch.randn(2, count)
    fast = product(b, size)

    def call() -> dict[str, float]:
        times = [time.perf_counter()]
        for function in (lambda: torch.mm(a, b), lambda: fast(a)):
            for _ in range(8):
                function()
            times.append(time.perf_counter())
        target.copy_(source)
        times.append(time.perf_counter())
        plain, packed, copied = (after - before for before, after in pairwise(times))
        return {
            "flops": 8 * 2 * size**3, "flops_seconds": packed,
            "plain": 8 * 2 * size**3, "plain_seconds": plain,
            "bytes": 2 * 4 * count, "bytes_seconds": copied,
        }  # fmt: skip

    return Work(call, dict)


BUILDERS: dict[str, Callable[[Request], Work]] = {
    "inference": _inference,
    "inference.onnxruntime": _on_runtime,
    "deployed": _deployed,
    "extracted": _extracted,
    "timm": _timm,
    "timm.folded": lambda request: _timm(request, folded=True),
    "timm.channels_last": lambda request: _timm(request, folded=True, last=True),
    "onnxruntime": _onnxruntime,
    "published": _published,
    "step": _step,
    "step.checkpointed": lambda request: _step(request, again=True),
    "step.published": _step_published,
    "attention": _attention,
    "attention.published": _attention_published,
    "limits": _limits,
}
