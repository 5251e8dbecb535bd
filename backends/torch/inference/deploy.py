"""One network of a supernet made fast for inference, for inputs of one shape.

    network = deploy(model, assignment, batch=16)  # on the processor, in float32
    logits = network(images)                       # [16, 3, 224, 224], as the model gives them

The graph is rewritten (`passes/deploy.py`) and its new weights are computed from the model's. For
PyTorch what is lowered is rewritten for the sizes that are now known (`peephole.py`), packed for
the processor (`packed.py`), and its views are made few (`views.py`); for ONNX Runtime a file is
written (`backends/onnx`). Values differ from the model's in the last bits: an example goes through
both, and a network that differs by more is not given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from spacelang.backends.torch.inference import onnx
from spacelang.backends.torch.inference.deployed import Deployed, Packed
from spacelang.backends.torch.inference.packed import packed
from spacelang.backends.torch.inference.peephole import lean
from spacelang.backends.torch.lowering.functions import ByMode
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.decision import Assignment
from spacelang.ir.dialect import dotted
from spacelang.ir.graph import Graph
from spacelang.passes.deploy import deployed
from spacelang.passes.specialize import specialize

TORCH, ONNX = RUNTIMES = ("torch", "onnxruntime")
MOST = 1e-4  # difference from the model's output, as a part of its largest value


def deploy(
    model: Supernet,
    assignment: Assignment | None = None,
    batch: int = 1,
    runtime: str = TORCH,
) -> Deployed:
    """A network of a model (the active one by default) for so many inputs at a time.

    `runtime` says what runs it: `torch`, or `onnxruntime` where that is installed (SP604). SP209
    for a batch that is no number from 1, or not that of the network's input. SP605 for other than
    one input, of float32 and settled sizes, and one output; for what the runtime has no operator
    for; and for a network whose output for an example is not the model's. Weights are those of the
    moment. With `torch` the process keeps freed memory from then on, under glibc (`heap.py`).
    """
    return deployment(model, assignment, batch, runtime).network


@dataclass(frozen=True)
class Deployment:
    """A network that runs, and what it is made from: enough to make it again without the model.

    graph       the network as it runs, no decisions left
    weights     its weights by their paths there
    content     for ONNX Runtime: the file
    difference  from the model, as a part of the largest output, for an example
    """

    network: Deployed
    graph: Graph
    weights: Mapping[str, Tensor]
    content: bytes
    difference: float


def deployment(
    model: Supernet, assignment: Assignment | None, batch: int, runtime: str
) -> Deployment:
    """The same as `deploy`, with what the network is made from."""
    check_runtime(runtime)
    taken = model.assignment if assignment is None else assignment
    graph = specialize(model.graph, taken)
    if len(graph.root.inputs) != 1 or sum(not o.training for o in graph.outputs) != 1:
        raise SpaceError(error("SP605", f"{graph.name} is no network of one input and one output"))
    shape = shape_for(graph, batch)
    main, recipes = deployed(graph, batch, maps=runtime == ONNX)
    with _undisturbed():
        reference = model.extract(taken).eval().to("cpu", torch.float32)
        values: dict[str, Tensor] = dict(reference.state_dict())
        with _one_thread():
            for recipe in recipes:
                found = _filled(recipe, values)()
                names = [output.name for output in recipe.outputs]
                several = {names[0]: found} if isinstance(found, Tensor) else found
                values |= {dotted(name): tensor for name, tensor in several.items()}
        weights = {path: values[dotted(path)] for path in main.storages}
        content = onnx.file_of(main, weights, batch) if runtime == ONNX else b""
        network = running(main, weights, content, shape)
        example = example_of(shape)
        apart = _compared(graph.name, network(example.clone()), reference(example))
        return Deployment(network, main, weights, content, apart)


def check_runtime(runtime: str) -> None:
    """SP604 for a runtime that is none, or is not installed."""
    if runtime not in RUNTIMES:
        found = error("SP604", f"there is no runtime {runtime!r}")
        raise SpaceError(found.note(f"there are {' and '.join(RUNTIMES)}"))
    if runtime == ONNX:
        onnx.check_installed()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No gradients, and none of the modes that the caller may be in."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
        torch.device("cpu"),
    ):
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    """Work that gives the same bits whatever number of threads is set."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def running(
    main: Graph, weights: Mapping[str, Tensor], content: bytes, shape: Sequence[int]
) -> Deployed:
    """The network of a deployed graph with its weights, or of a file for ONNX Runtime."""
    if content:
        return onnx.OnnxNetwork(main, content, shape)
    example = example_of(shape)
    with _undisturbed():
        return Packed(main, packed(lean(flat(main, weights), example)), example)


def flat(main: Graph, weights: Mapping[str, Tensor]) -> fx.GraphModule:
    """A deployed graph lowered, its weights constants, none in an order of oneDNN's: what another
    compiler, as PyTorch's, starts from."""
    network = _filled(main, {dotted(path): x for path, x in weights.items()}).extract()
    return folded(network.requires_grad_(False))


def example_of(shape: Sequence[int]) -> Tensor:
    """Normal noise, maps with channels last."""
    drawn = torch.Generator().manual_seed(0)
    example = torch.randn(list(shape), generator=drawn, dtype=torch.float32, device="cpu")
    last = torch.channels_last if len(shape) == 4 else torch.preserve_format
    return example.contiguous(memory_format=last)


def shape_for(graph: Graph, batch: object) -> list[int]:
    """The shape of the network's input for so many at a time (SP209, SP605)."""
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise SpaceError(error("SP209", f"batch is a whole number from 1, not {batch!r}"))
    node = graph.root.inputs[0]
    (type,), name = node.types, node.label or "the input"
    if type.dtype != "f32":
        raise SpaceError(error("SP605", f"{graph.name} reads {name} of {type.dtype}, not f32"))
    lead, *_ = type.shape or (None,)
    if lead is None or any(not size.symbols <= lead.symbols for size in type.shape):
        text = f"{graph.name} reads {name}: {type}, of which more than the batch is open"
        raise SpaceError(error("SP605", text))
    if lead.constant is not None and lead.constant != batch:
        found = error("SP209", f"{graph.name} reads {name}: {type}, not {batch} at a time")
        raise SpaceError(found.hint(f"batch={lead}"))
    return [int(size.at({s.name: batch for s in lead.symbols})) for size in type.shape]


def _compared(name: str, found: Tensor, wanted: Tensor) -> float:
    """How far a deployed network's output is from the model's (SP605 where it is another)."""
    if found.shape != wanted.shape:
        text = f"{name}, deployed, gives {list(found.shape)}, not {list(wanted.shape)}"
        raise SpaceError(error("SP605", text))
    found, wanted = found.double(), wanted.double()
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    apart = torch.where(same, 0.0, (found - wanted).abs())
    largest = torch.where(wanted.isfinite(), wanted.abs(), 0.0)
    if not wanted.numel() or float(apart.max()) <= MOST * float(largest.max()):
        return float(apart.max()) / max(float(largest.max()), 1e-30) if wanted.numel() else 0.0
    text = f"{name}, deployed, differs from the model by {float(apart.max()):.3g}"
    found_here = error("SP605", f"{text} in an output of at most {float(largest.max()):.3g}")
    raise SpaceError(found_here.hint("run the model itself: model.eval()(x)"))


def _filled(graph: Graph, values: Mapping[str, Tensor]) -> Supernet:
    """The model of a fixed graph with given weights."""
    model = Supernet(graph).eval()
    for name, tensor in model.state_dict().items():
        tensor.copy_(values[name].reshape(tensor.shape))
    return model


def folded(network: fx.GraphModule) -> fx.GraphModule:
    """The network without modules: tables are constants, functions of the mode evaluate."""
    for node in list(network.graph.nodes):
        if node.op != "call_module":
            continue
        module = network.get_submodule(str(node.target))
        with network.graph.inserting_before(node):
            if isinstance(module, ByMode):
                made = network.graph.call_function(module.function, (*node.args, False))
            else:
                name = f"table_{node.name}"
                network.register_buffer(name, module())
                made = network.graph.get_attr(name)
        node.replace_all_uses_with(made)
        network.graph.erase_node(node)
    network.recompile()
    return network
