"""One network of a supernet made fast for inference, for inputs of one shape.

    network = deploy(model, assignment, batch=16)  # on the processor, in float32
    logits = network(images)                       # [16, 3, 224, 224], as the model gives them

The graph is rewritten (`passes/deploy.py`), its new weights are computed from the model's, and what
is lowered is rewritten for the sizes that are now known (`peephole.py`) and packed for the
processor (`packed.py`). Values differ from the model's in the last bits: an example goes through
both, and a network that differs by more is not given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from spacelang.backends.torch.functions import ByMode
from spacelang.backends.torch.inputs import check
from spacelang.backends.torch.packed import packed
from spacelang.backends.torch.peephole import attribute, lean
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.decision import Assignment
from spacelang.ir.dialect import dotted
from spacelang.ir.graph import Graph
from spacelang.passes.deploy import deployed
from spacelang.passes.specialize import specialize

MOST = 1e-4  # difference from the model's output, as a part of its largest value


class Deployed(nn.Module):
    """A network in evaluation for inputs of one shape; it has no parameters to train."""

    def __init__(self, graph: Graph, network: fx.GraphModule, shape: Sequence[int]) -> None:
        super().__init__()
        self.graph, self.shape = graph, tuple(shape)
        self._constants, self._network = _with_constants(network)
        self._last = torch.channels_last if len(self.shape) == 4 else torch.preserve_format
        self.eval()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """The output for one input of the network's shape (SP301 for another), no gradients."""
        if x.shape != self.shape or x.dtype != torch.float32 or x.device.type != "cpu":
            check(self.graph, (x,))
            found = f"{list(x.shape)} of {str(x.dtype).removeprefix('torch.')} on {x.device.type}"
            wanted = f"it is deployed for {list(self.shape)} of float32 on cpu, not {found}"
            raise SpaceError(error("SP301", f"{self.graph.name}: {wanted}"))
        return self._network(*self._constants, x.contiguous(memory_format=self._last))


def deploy(model: Supernet, assignment: Assignment | None = None, batch: int = 1) -> Deployed:
    """A network of a model (the active one by default) for so many inputs at a time.

    SP605 for one of several inputs or outputs, and for one whose outputs for an example are not the
    model's. Weights are those of the moment.
    """
    taken = model.assignment if assignment is None else assignment
    graph = specialize(model.graph, taken)
    if len(graph.root.inputs) != 1 or sum(not o.training for o in graph.outputs) != 1:
        raise SpaceError(error("SP605", f"{graph.name} is no network of one input and one output"))
    main, recipes = deployed(graph, batch)
    reference = model.extract(taken).eval().to("cpu", torch.float32)
    values: dict[str, Tensor] = dict(reference.state_dict())
    with torch.inference_mode(False), torch.no_grad():
        for recipe in recipes:
            found = _filled(recipe, values)()
            names = [output.name for output in recipe.outputs]
            several = {names[0]: found} if isinstance(found, Tensor) else found
            values |= {dotted(name): tensor for name, tensor in several.items()}
        network = _filled(main, values).extract()
        sizes = [int(size.at({})) for size in graph.root.inputs[0].types[0].shape[1:]]
        example = torch.randn(batch, *sizes, generator=torch.Generator().manual_seed(0))
        last = torch.channels_last if len(sizes) == 3 else torch.preserve_format
        example = example.contiguous(memory_format=last)
        made = Deployed(graph, packed(lean(folded(network), example)), example.shape)
        _compared(graph.name, made(example.clone()), reference(example))
        return made


def _compared(name: str, found: Tensor, wanted: Tensor) -> None:
    """SP605 where a deployed network's output is not the model's."""
    if found.shape != wanted.shape:
        text = f"{name}, deployed, gives {list(found.shape)}, not {list(wanted.shape)}"
        raise SpaceError(error("SP605", text))
    found, wanted = found.double(), wanted.double()
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    apart = torch.where(same, 0.0, (found - wanted).abs())
    largest = torch.where(wanted.isfinite(), wanted.abs(), 0.0)
    if not wanted.numel() or float(apart.max()) <= MOST * float(largest.max()):
        return
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


def _with_constants(network: fx.GraphModule) -> tuple[list[Tensor], fx.GraphModule]:
    """A function of constants and the input: reading attributes of modules takes longer."""
    constants: list[Tensor] = []
    graph = network.graph
    places: dict[str, fx.Node] = {}
    first = next(iter(graph.nodes))
    for node in list(graph.nodes):
        if node.op != "get_attr":
            continue
        path = str(node.target)
        if path not in places:
            with graph.inserting_before(first):
                places[path] = graph.placeholder(f"w{len(places)}")
            constants.append(attribute(network, path).detach())
        node.replace_all_uses_with(places[path])
        graph.erase_node(node)
    graph.lint()
    return constants, fx.GraphModule({}, graph)
