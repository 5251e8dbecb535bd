"""One network of a supernet made fast for inference, for inputs of one shape.

    network = deploy(model, assignment, batch=16)  # on the processor, in float32
    logits = network(images)                       # [16, 3, 224, 224], as the model gives them

The graph is rewritten (`passes/deploy.py`), its new weights are computed from the model's, and what
is lowered is rewritten for the sizes that are now known (`peephole.py`) and packed for the
processor (`packed.py`). Values differ from the model's in the last bits: an example goes through
both, and a network that differs by more is not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

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
    """A network in evaluation for inputs of one shape, on the processor in float32.

    It has no parameters to train. Its weights are in an order that only this processor's library
    knows, so it is not copied, saved, moved or converted (SP605): keep the model, and deploy that.
    """

    def __init__(self, graph: Graph, network: fx.GraphModule, example: Tensor) -> None:
        super().__init__()
        self.graph, self.shape = graph, tuple(example.shape)
        self._constants, self._network = _with_constants(network)
        self._last = torch.channels_last if example.dim() == 4 else torch.preserve_format
        x = example.contiguous(memory_format=self._last)
        held = {_memory(tensor) for tensor in (*self._constants, x) if not tensor.is_mkldnn}
        self._borrowed = _memory(self._network(*self._constants, x)) in held
        self.eval()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """The output for one input of the network's shape (SP301 for another), no gradients."""
        if x.shape != self.shape or x.dtype != torch.float32 or x.device.type != "cpu":
            check(self.graph, (x,))
            found = f"{list(x.shape)} of {str(x.dtype).removeprefix('torch.')} on {x.device.type}"
            wanted = f"it is deployed for {list(self.shape)} of float32 on cpu, not {found}"
            raise SpaceError(error("SP301", f"{self.graph.name}: {wanted}"))
        found = self._network(*self._constants, x.contiguous(memory_format=self._last))
        if self._borrowed:  # a constant, or the input: neither is the caller's to write into
            return found.clone(memory_format=torch.contiguous_format)
        return found.contiguous()

    def _apply(self, fn: object, recurse: bool = True) -> NoReturn:
        raise _bound(self.graph, "moved or converted")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise _bound(self.graph, "copied")

    def __reduce__(self) -> NoReturn:
        raise _bound(self.graph, "copied or saved")


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bound(graph: Graph, how: str) -> SpaceError:
    found = error("SP605", f"{graph.name} is deployed for this processor; it cannot be {how}")
    return SpaceError(found.hint("keep the model, and deploy that where it is to run"))


def deploy(model: Supernet, assignment: Assignment | None = None, batch: int = 1) -> Deployed:
    """A network of a model (the active one by default) for so many inputs at a time.

    SP209 for a batch that is no number from 1, or not that of the network's input. SP605 for other
    than one input, of float32 and settled sizes, and one output; and for a network whose output for
    an example is not the model's. Weights are those of the moment.
    """
    taken = model.assignment if assignment is None else assignment
    graph = specialize(model.graph, taken)
    if len(graph.root.inputs) != 1 or sum(not o.training for o in graph.outputs) != 1:
        raise SpaceError(error("SP605", f"{graph.name} is no network of one input and one output"))
    main, recipes = deployed(graph, batch)
    shape = _shape(graph, batch)
    reference = model.extract(taken).eval().to("cpu", torch.float32)
    values: dict[str, Tensor] = dict(reference.state_dict())
    with torch.inference_mode(False), torch.no_grad():
        for recipe in recipes:
            found = _filled(recipe, values)()
            names = [output.name for output in recipe.outputs]
            several = {names[0]: found} if isinstance(found, Tensor) else found
            values |= {dotted(name): tensor for name, tensor in several.items()}
        network = _filled(main, values).extract()
        example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        last = torch.channels_last if len(shape) == 4 else torch.preserve_format
        example = example.contiguous(memory_format=last)
        made = Deployed(graph, packed(lean(folded(network), example)), example)
        _compared(graph.name, made(example.clone()), reference(example))
        return made


def _shape(graph: Graph, batch: object) -> list[int]:
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
