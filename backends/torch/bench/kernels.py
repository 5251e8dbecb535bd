"""What `spacelang bench kernels` times: each Triton kernel beside PyTorch, on groups of spaces.

A kernel's group is the heaviest of its kind in a published network, cut out of it by the compiler:
its body is the eager contender, under `torch.compile` the second; `scaled_dot_product_attention`
and `flex_attention` are others where they can express it. Then the same in training: forward and
backward, to the gradients of all inputs and weights. In the interpreter sizes are tiny. In a half
type results are held against the same network in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spacelang import plugins
from spacelang.analysis.traffic import Traffic
from spacelang.backends.torch.bench import flex
from spacelang.backends.torch.bench.work import filled
from spacelang.backends.torch.inference.deploy import folded
from spacelang.backends.torch.inference.peephole import lean
from spacelang.backends.torch.lowering.lower import Lowering
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training import losses
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.dim import Symbol
from spacelang.ir.graph import Graph, Output
from spacelang.ir.node import Call, Node, TensorType, Value
from spacelang.loader import load
from spacelang.passes.fuse import for_kernels
from spacelang.passes.fused_cost import Row, compare

GPU = "only measured on a GPU"
FOR_INFERENCE = "it is put into networks for inference alone"
TRAINED = ", in training"
FREE = Symbol("B", (), False)


@dataclass(frozen=True)
class Setting:
    """Where it runs, "cuda" or "interpret", and of which type everything is."""

    device: str
    dtype: torch.dtype = torch.float32

    @property
    def tiny(self) -> bool:
        return self.device == "interpret"

    @property
    def place(self) -> str:
        return "cpu" if self.tiny else self.device

    @property
    def width(self) -> int:
        return self.dtype.itemsize

    def moved(self, x: Any) -> Any:
        """A tensor or a model there, in that type."""
        return x.to(self.place, self.dtype)


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


NARROW = {"image": 16, "mid": [[8, 8], [8, 8, 8], [8] * 4, [8, 8], [8, 8, 8]]}
CASES: Mapping[str, Case] = {
    "attention, relative": Case(
        "attention", "autoformer.space:autoformer_t_subnet", 64, {"image": 32}
    ),
    "attention, plain": Case("attention", "deit.space:deit_ti", 64, {"image": 16}),
    "attention, on keys": Case("attention", "irpe.space:deit_s_product_k", 64, {"image": 32}),
    "attention, windows": Case(
        "attention",
        "swin.space:swin_t",
        64,
        {"image": 32, "windows": [4, 2, 2, 1], "heads": [1, 2, 4, 8]},
    ),
    "mixed attention": Case("mixed_attention", "minivit.space:mini_deit_ti", 64, {"image": 32}),
    "mlp": Case("mlp", "deit.space:deit_ti", 64, {"image": 16}),
    "cascade": Case(
        "cascade",
        "efficientvit.space:efficientvit_m0",
        256,
        {"image": 64, "heads": [2, 2, 2], "kernels": [3, 5, 3, 3], "larger_windows": True},
    ),
    "depthwise": Case("depthwise", "mobilenetv3.space:mobilenetv3_large", 64, NARROW),
    "depthwise, gated": Case(
        "depthwise", "mobilenetv3.space:mobilenetv3_large", 64, NARROW, holds="mean"
    ),
    "mixture": Case("mixture", "cdarts.space:cifar10_search", 64, {"cells": (1, 1, 1)}),
}


@dataclass(frozen=True)
class Work:
    """One kernel's contenders; all take nothing and give one tensor.

    `exact` gives what is wanted of them; None where that is what eager PyTorch gives.
    """

    name: str
    what: str
    traffic: Traffic | None  # of what is modelled
    contenders: Mapping[str, Callable[[], Tensor]]
    left_out: Mapping[str, str]
    exact: Callable[[], Tensor] | None = None


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


def works(setting: Setting) -> Mapping[str, Callable[[], Iterator[Work]]]:
    """What is timed, by the names of cases and losses."""
    losses_ = {"soft_labels": _soft_labels, "relations": _relations}
    return {
        **{name: partial(group, name, case, setting) for name, case in CASES.items()},
        **{name: partial(make, setting) for name, make in losses_.items()},
    }


def group(name: str, case: Case, setting: Setting) -> Iterator[Work]:
    """The heaviest group of a kernel in a network, in evaluation, and then in training."""
    graph = load(case.space, **(case.tiny if setting.tiny else {}))
    batch = 2 if setting.tiny else case.batch
    fused = for_kernels(graph).graph
    rows = [
        row
        for row in compare(graph, fused, batch=batch, width=setting.width)
        if row.kernel == case.kernel
        and (not case.holds or case.holds in {n.op for n in fused.blocks[row.block].nodes})
    ]
    if not rows:
        raise SpaceError(error("SP605", f"{case.space} has no group for {case.kernel}"))
    heaviest = max(rows, key=lambda r: r.before.bytes / r.places)
    yield from _group(name, fused, heaviest, batch, case.space, setting)


def _group(
    name: str, fused: Graph, row: Row, batch: int, space: str, setting: Setting
) -> Iterator[Work]:
    graph = cut(fused, fused.blocks[row.block])
    cuda = setting.device == "cuda"
    plain = setting.moved(filled(Supernet(graph, lowering=Lowering(graph))))
    quick = setting.moved(Supernet(graph, lowering=Lowering(graph, kernels="triton")).eval())
    quick.load_state_dict(plain.state_dict())
    inputs = [setting.moved(_random(node.types[0], batch)) for node in graph.root.inputs]
    contenders: dict[str, Callable[[], Tensor]] = {
        "kernel": lambda: quick(*inputs),
        "eager": lambda: plain(*inputs),
    }
    trained = {
        "kernel": learnt(quick, inputs, list(quick.parameters())),
        "eager": learnt(plain, inputs, list(plain.parameters())),
    }
    left_out: dict[str, str] = {}
    left_trained: dict[str, str] = {}
    models = [plain, quick]
    made = lean(folded(plain.extract()), *inputs)
    if any(n.target is F.scaled_dot_product_attention for n in made.graph.nodes):
        contenders["scaled_dot_product_attention"] = lambda: made(*inputs)
        left_trained["scaled_dot_product_attention"] = FOR_INFERENCE
    elif row.kernel in flex.LACKS:
        why = flex.LACKS[row.kernel]
        left_out["scaled_dot_product_attention"] = why
        left_trained["scaled_dot_product_attention"] = why
    if row.kernel in flex.LACKS:
        why = flex.lacks(graph, row.block) or ("" if cuda else GPU)
        if why:
            left_out["flex_attention"] = left_trained["flex_attention"] = why
        else:
            moved = setting.moved(flex.flexible(graph, row.block, compiled=True))
            moved.load_state_dict(plain.state_dict())
            contenders["flex_attention"] = lambda: moved(*inputs)
            trained["flex_attention"] = learnt(moved, inputs, list(moved.parameters()))
            models.append(moved)
    if cuda:
        compiled: Any = torch.compile(plain.extract())
        contenders["torch.compile"] = lambda: compiled(*inputs)
        again: Any = torch.compile(plain)
        trained["torch.compile"] = learnt(again, inputs, list(plain.parameters()))
    else:
        left_out["torch.compile"] = left_trained["torch.compile"] = GPU
    after = Traffic(*(figure // row.places for figure in row.after))
    shapes = ", ".join(str(list(x.shape)) for x in inputs)
    what = f"{space}: {shapes}"
    exact = trained_exact = None
    if setting.dtype != torch.float32:
        wide = deepcopy(plain).float()
        widened = [x.float() for x in inputs]
        models.append(wide)
        exact = partial(wide, *widened)
        trained_exact = learnt(wide, widened, list(wide.parameters()), setting.dtype)
    yield Work(name, what, after, contenders, left_out, exact)
    for model in models:
        model.train()
    yield Work(f"{name}{TRAINED}", what, None, trained, left_trained, trained_exact)


def learnt(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor] = (),
    dtype: torch.dtype | None = None,
) -> Callable[[], Tensor]:
    """Forward and backward: the gradients of inputs and weights, one after the other.

    Slopes are random, the same for all contenders: equal ones cannot tell a place from another.
    `dtype` is the type that they are rounded to, where that is not the result's.
    """
    made: list[Tensor] = []

    def slopes(out: Tensor) -> Tensor:
        if not made:
            random = torch.Generator().manual_seed(1)
            drawn = torch.randn(out.shape, generator=random)
            made.append(drawn.to(dtype or out.dtype).to(out))
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


def _soft_labels(setting: Setting) -> Iterator[Work]:
    """Labels of which few are kept."""
    random = torch.Generator().manual_seed(0)
    rows, classes, kept = (4, 50, 5) if setting.tiny else (1024, 21_841, 100)
    logits = setting.moved(torch.randn(rows, classes, generator=random))
    order = torch.rand(rows, classes, generator=random).argsort(1)[:, :kept].int()
    order = order.to(setting.place)
    shares = torch.rand(rows, kept, generator=random).softmax(1).mul(0.9).to(setting.place)
    quick = plugins.load("spacelang.kernels", "soft_labels")
    read = setting.width * rows * classes + 8 * rows * kept + 4 * rows
    yield from _loss(
        "soft_labels", f"{rows} x {classes}, {kept} kept", Traffic(read, 1, 5 * rows * classes),
        lambda z: quick(z, order, shares), lambda z: losses.soft_labels(z, order, shares),
        [logits], setting,
    )  # fmt: skip


def _relations(setting: Setting) -> Iterator[Work]:
    """Relations of two networks."""
    random = torch.Generator().manual_seed(0)
    batch, tokens, width, heads = (1, 9, 16, 2) if setting.tiny else (64, 197, 768, 12)
    own, given = (
        [setting.moved(torch.randn(batch, tokens, width, generator=random)) for _ in range(3)]
        for _ in range(2)
    )
    relate = plugins.load("spacelang.kernels", "relations")
    flops = 9 * 2 * 2 * batch * tokens * tokens * width
    yield from _loss(
        "relations", f"6 x {[batch, tokens, width]}, {heads} heads",
        Traffic(6 * setting.width * batch * tokens * width, 1, flops),
        lambda *own: relate(own, given, heads),
        lambda *own: losses.relations(own, [x.to(own[0].dtype) for x in given], heads),
        own, setting,
    )  # fmt: skip


def _loss(
    name: str,
    what: str,
    traffic: Traffic,
    quick: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    setting: Setting,
) -> Iterator[Work]:
    """A loss, and its gradients."""
    left_out = {"torch.compile": "the loss is no graph of a space"}
    both = {"kernel": quick, "eager": plain}
    exact = trained_exact = None
    if setting.dtype != torch.float32:
        wide = [x.float() for x in inputs]
        exact, trained_exact = partial(plain, *wide), learnt(plain, wide)
    once = {who: partial(loss, *inputs) for who, loss in both.items()}
    yield Work(name, what, traffic, once, left_out, exact)
    trained = {who: learnt(loss, inputs) for who, loss in both.items()}
    yield Work(f"{name}{TRAINED}", what, None, trained, left_out, trained_exact)
