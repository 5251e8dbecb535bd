"""Networks for inference: ours as they are deployed, those of timm, ONNX Runtime, published forms.

Networks of timm get their weights by the space's own `names timm`, published forms by `names
published`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from spacelang.backends.onnx.runner import OFF
from spacelang.backends.torch import weights
from spacelang.backends.torch.bench.published import FORMS
from spacelang.backends.torch.bench.work import (
    Request,
    Work,
    about,
    forward,
    images,
    library,
    model_of,
)
from spacelang.backends.torch.inference.deploy import TORCH, deploy, deployment, flat
from spacelang.backends.torch.inference.deploy_folder import load_deployed
from spacelang.backends.torch.inference.onnx import OnnxNetwork
from spacelang.loader import load

# How ONNX Runtime may be set for a rival: its level of optimisation, and what is switched off, as a
# user may do, too.
SETTINGS: Mapping[str, tuple[str, Sequence[str]]] = {
    "basic": ("ORT_ENABLE_BASIC", ()),
    "extended": ("ORT_ENABLE_EXTENDED", ()),
    "all": ("ORT_ENABLE_ALL", ()),
    "all but what ours switches off": ("ORT_ENABLE_ALL", OFF),
}
TRIALS = 5


def by_torch(request: Request, compiled: bool = False) -> Work:
    """The network as it is deployed for this batch; `compiled`: its graph by PyTorch's compiler,
    which packs weights by itself."""
    graph, batch = load(request["space"]), request["batch"]
    model = model_of(graph)
    start = time.perf_counter()
    made = deployment(model, None, batch, TORCH)
    x = images(graph, batch)
    if x.dim() == 4:  # given as the rival in this format is; else it would be copied in each call
        x = x.contiguous(memory_format=torch.channels_last)
    network = _compiled(flat(made.graph, made.weights), x) if compiled else made.network
    seconds = time.perf_counter() - start
    return forward(network, x, {**about(made.graph, None, batch), "compile_seconds": seconds})


def by_runtime(request: Request) -> Work:
    """The same for ONNX Runtime, arrays in and out as of the rival."""
    for name in ("onnxruntime", "onnx"):
        library(name)
    graph, batch = load(request["space"]), request["batch"]
    model = model_of(graph)
    start = time.perf_counter()
    network = deploy(model, batch=batch, runtime="onnxruntime")
    assert isinstance(network, OnnxNetwork)
    told = {**about(network.graph, None, batch), "compile_seconds": time.perf_counter() - start}
    run, x = network.runner, images(graph, batch).numpy()

    def call() -> None:
        run(x)

    return Work(call, lambda: {"logits": torch.from_numpy(run(x))}, told)


def in_folder(request: Request) -> Work:
    """A network in a folder."""
    start = time.perf_counter()
    network = load_deployed(request["space"])
    seconds = time.perf_counter() - start
    told = {**about(network.graph, None, request["batch"]), "compile_seconds": seconds}
    return forward(network, images(network.graph, request["batch"]), told)


def extracted(request: Request) -> Work:
    """The network as `extract` gives it."""
    graph = load(request["space"])
    network = model_of(graph).extract()
    return forward(network, images(graph, request["batch"]), about(graph, None, request["batch"]))


def published(request: Request) -> Work:
    """A network in its published form."""
    graph = load(request["space"])
    network = FORMS[request["network"]](weights.save(model_of(graph), names="published"), graph, {})
    return forward(network, images(graph, request["batch"]), {})


def of_timm(
    request: Request, folded: bool = False, last: bool = False, compiled: bool = False
) -> Work:
    """The network of timm, its batch norms folded by its own function, or channels last too."""
    graph = load(request["space"])
    network, x = _timm(request), images(graph, request["batch"])
    start = time.perf_counter()
    if folded:
        network = import_module("timm.models").reparameterize_model(network)
    if last:
        network = network.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    if compiled:
        network = _compiled(network, x)
    return forward(network, x, {"compile_seconds": time.perf_counter() - start} if compiled else {})


def _timm(request: Request) -> Any:
    network = library("timm").create_model(request["network"], pretrained=False, num_classes=1000)
    network.load_state_dict(weights.save(model_of(load(request["space"])), names="timm"))
    return network.eval()


def _compiled(network: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """By inductor for this shape, weights as constants; its own cache on the disk is kept."""
    config: Any = import_module("torch._inductor.config")
    config.freezing = True
    fast: Callable[[Tensor], Tensor] = torch.compile(network, dynamic=False)
    with torch.inference_mode():
        fast(x)
    return fast


def of_onnxruntime(request: Request) -> Work:
    """ONNX Runtime on the export of timm's folded network, for this batch, by the setting that is
    fastest here."""
    runtime = library("onnxruntime")
    library("onnxscript")
    graph = load(request["space"])
    network = import_module("timm.models").reparameterize_model(_timm(request))
    x = images(graph, request["batch"])
    program = torch.onnx.export(network, (x,), dynamo=True, verbose=False)
    assert program is not None
    model = program.model_proto.SerializeToString()
    given = {program.model_proto.graph.input[0].name: x.numpy()}

    def session(level: str, off: Sequence[str]) -> Any:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = request["threads"]
        options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, level)
        return runtime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(off)
        )

    sessions = {setting: session(*how) for setting, how in SETTINGS.items()}
    least = dict.fromkeys(SETTINGS, float("inf"))
    for _ in range(TRIALS):  # in turns, so that what else runs slows all alike
        for setting, tried in sessions.items():
            tried.run(None, given)  # threads of the session before may still be spinning
            start = time.perf_counter()
            tried.run(None, given)
            least[setting] = min(least[setting], time.perf_counter() - start)
    fastest = min(SETTINGS, key=lambda setting: least[setting])
    sessions.clear()
    used = session(*SETTINGS[fastest])  # anew, so that its memory is what it adds

    def call() -> None:
        used.run(None, given)

    def results() -> dict[str, Tensor]:
        return {"logits": torch.from_numpy(used.run(None, given)[0])}

    return Work(call, results, {"setting": fastest})


BUILDERS: dict[str, Callable[[Request], Work]] = {
    "inference": by_torch,
    "inference.compiled": partial(by_torch, compiled=True),
    "inference.onnxruntime": by_runtime,
    "deployed": in_folder,
    "extracted": extracted,
    "published": published,
    "timm": of_timm,
    "timm.folded": partial(of_timm, folded=True),
    "timm.channels_last": partial(of_timm, folded=True, last=True),
    "timm.compiled": partial(of_timm, folded=True, last=True, compiled=True),
    "onnxruntime": of_onnxruntime,
}
