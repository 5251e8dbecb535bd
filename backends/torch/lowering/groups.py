"""Rows of fused groups: the call of a kernel in the place of the nodes of its block.

A row reads from the group what a kernel takes and arranges operands by views. The functions that it
calls stand under `spacelang.kernels`, so this backend does not import the kernels' library: those
of Triton by their names, those of `fused/` as `fused.NAME`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from spacelang import plugins
from spacelang.backends.torch.lowering.emit import Emit, lower_node
from spacelang.backends.torch.lowering.frame import Frame, Size
from spacelang.backends.torch.lowering.ports import table_of
from spacelang.backends.torch.lowering.tables import table
from spacelang.ir.block import Block
from spacelang.ir.dim import ONE, Dim
from spacelang.ir.node import Attribute, Node, Value
from spacelang.passes.attention_parts import Attention, Operand, Table, Term
from spacelang.passes.fuse_cascade import Cascade
from spacelang.passes.fuse_chains import Mixture, Mlp
from spacelang.passes.fuse_depthwise import Depthwise, Gate
from spacelang.passes.fusion import Group, making

Row = Callable[["Work", Any], fx.Node]
ROWS: dict[str, Row] = {}


def lower_group(frame: Frame, block: Block, group: Group, library: str) -> None:
    """Lower a group by its kernel's row; the result is bound in the frame."""
    work = Work(frame, block, library)
    frame.bind(block.by_id[group.root], (ROWS[group.kernel](work, group),))


def takes(library: str, block: Block, group: Group) -> bool:
    """Whether a library has a kernel for a group.

    `fused.attention` has none for terms but lookups by the query and sums of the weights, by
    indices of which few columns differ.
    """
    if library == "triton":
        return True
    if f"{library}.{group.kernel}" not in plugins.table("spacelang.kernels"):
        return False
    if not isinstance(group, Attention):
        return True
    kinds = (group.terms_of("query"), group.terms_of("values"))
    return sum(map(len, kinds)) == len(group.terms) and all(_few(block, terms) for terms in kinds)


def _few(block: Block, terms: Sequence[Term]) -> bool:
    """Whether the index tables of a term are known, and have less columns than half the tokens."""
    if not terms:
        return True
    key = table_of(_pairs(block, terms, "index_columns")).known()
    if key is None:
        return False
    tokens, columns = table(key).shape
    return columns <= tokens // 2


def row(kernel: str) -> Callable[[Row], Row]:
    """Register the row of a kernel."""

    def add(found: Row) -> Row:
        ROWS[kernel] = found
        return found

    return add


class Work:
    """A block in the making: what rows ask for."""

    def __init__(self, frame: Frame, block: Block, library: str) -> None:
        self.frame, self.block, self.library = frame, block, library

    def kernel(self, name: str) -> Callable[..., Any]:
        full = name if self.library == "triton" else f"{self.library}.{name}"
        return plugins.load("spacelang.kernels", full)

    def emit(self, node: Node) -> Emit:
        return Emit(self.frame, node)

    def value(self, value: Value) -> fx.Node:
        return self.emit(Node(-1, "", (value,))).x

    def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> fx.Node:
        return self.frame.graph.call_function(function, arguments, named)

    def method(self, name: str, x: fx.Node, *arguments: Any) -> fx.Node:
        return self.frame.graph.call_method(name, (x, *arguments))

    def permuted(self, x: fx.Node, axes: Sequence[int]) -> fx.Node:
        return x if tuple(axes) == tuple(range(len(axes))) else self.method("permute", x, *axes)

    def sizes(self, dims: Sequence[Dim]) -> tuple[Size, ...]:
        return self.emit(Node(-1, "")).sizes(dims)

    def number(self, dim: Dim) -> Any:
        return self.frame.number(dim)

    def constant(self, value: Value) -> fx.Node:
        """A value that is made of parameters alone."""
        inside = making(self.block, value)
        for node in self.block.nodes:
            if node.id in inside and node.values[0] not in self.frame.values:
                lower_node(self.frame, node)
        return self.value(value)


@row("mlp")
def _mlp(work: Work, group: Mlp) -> fx.Node:
    first, second = work.emit(group.first), work.emit(group.second)
    norm, x = None, first
    if group.norm is not None:
        x = work.emit(group.norm)
        norm = (x.param("weight"), x.param("bias"), x.number("eps"))
    layers = [layer.param(role) for layer in (first, second) for role in ("weight", "bias")]
    return work.call(work.kernel("mlp"), x.x, norm, *layers, activation=group.activation.op)


@row("depthwise")
def _depthwise(work: Work, group: Depthwise) -> fx.Node:
    conv = work.emit(group.conv)
    activation = "none" if group.activation is None else group.activation.op
    arguments = (
        conv.x,
        conv.param("weight"),
        _norm(work, group.norm),
        conv.whole("stride"),
        activation,
    )
    if group.gate is None:
        return work.frame.by_mode(work.kernel("depthwise"), arguments)
    both = work.frame.by_mode(work.kernel("squeezed"), arguments)
    planes, means = (work.call(operator.getitem, both, part) for part in range(2))
    factors = work.method("flatten", _factors(work, group.gate, means), 1)
    return work.frame.by_mode(work.kernel("excited"), (planes, *arguments[1:], factors))


def _factors(work: Work, gate: Gate, means: fx.Node) -> fx.Node:
    """What a gate's layers make of means [B, C]."""
    work.frame.bind(gate.mean, (work.method("unflatten", means, 1, (-1, 1, 1)),))
    for node in gate.layers:
        lower_node(work.frame, node)
    return work.value(Value((gate.layers or (gate.mean,))[-1].id))


def _norm(work: Work, node: Node) -> tuple[Any, ...]:
    """What `normed.Norm` holds."""
    emit = work.emit(node)
    roles = ("running_mean", "running_var", "num_batches_tracked", "weight", "bias")
    numbers = (emit.number("momentum"), emit.number("eps"))
    return (*(emit.param(role) for role in roles), *numbers)


@row("cascade")
def _cascade(work: Work, group: Cascade) -> fx.Node:
    heads: list[Any] = []
    for head in group.heads:
        weights = [work.emit(node).param("weight") for node in (head.qkv, head.conv)]
        norms = [_norm(work, node) for node in (head.qkv_norm, head.conv_norm)]
        heads.append((weights[0], norms[0], weights[1], norms[1]))
    table = work.constant(group.table)
    return work.frame.by_mode(work.kernel("cascade"), (work.value(group.x), tuple(heads), table))


@row("mixture")
def _mixture(work: Work, group: Mixture) -> fx.Node:
    weights, *candidates = work.emit(group.node).operands
    return work.call(work.kernel("mixture"), tuple(candidates), weights)


@row("attention")
def _attention(work: Work, group: Attention) -> fx.Node:
    return _attended(work, group, ())


@row("mixed_attention")
def _mixed_attention(work: Work, group: Attention) -> fx.Node:
    return _attended(work, group, (_mix(work, group.before), _mix(work, group.after)))


def _mix(work: Work, linear: Node | None) -> tuple[Any, Any] | None:
    """Weights and bias of a mix of heads."""
    if linear is None:
        return None
    emit = work.emit(linear)
    return emit.param("weight"), emit.param("bias")


def _attended(work: Work, group: Attention, mixes: tuple[Any, ...]) -> fx.Node:
    """The call of a kernel of attention; `mixes` are before its terms."""
    q, k, v = (_arranged(work, operand) for operand in (group.q, group.k, group.v))
    named: dict[str, Any] = {}
    for kind, name in TERMS.items():
        terms = group.terms_of(kind)
        if terms and kind == "regions":
            named[name] = work.frame.table(_regions(terms[0]))
        elif terms:
            scale = group.scale if kind in ("query", "key") else ONE
            named[name] = (_tables(work, terms, scale), *_indices(work, terms))
    out = work.call(work.kernel(group.kernel), q, k, v, work.number(group.scale), *mixes, **named)
    operand = group.v
    if operand.head is None:
        out = work.method("squeeze", out, 1)
    if len(operand.batch) == 2:
        shape = work.block.type_of(operand.value).shape
        out = work.method("unflatten", out, 0, work.sizes([shape[axis] for axis in operand.batch]))
    order = sorted(range(len(group.result)), key=lambda axis: group.result[axis])
    return work.permuted(out, order)


TERMS: Mapping[str, str] = {
    "offsets": "offsets",
    "query": "on_keys",
    "key": "on_queries",
    "values": "on_values",
    "regions": "regions",
}
"""The kind of a term -> the kernel's word for it, which is that of iRPE."""


def _arranged(work: Work, operand: Operand) -> fx.Node:
    """[B, H, N, D] by views, as far as the operand's strides admit them."""
    heads = () if operand.head is None else (operand.head,)
    x = work.permuted(
        work.value(operand.value), (*operand.batch, *heads, *operand.tokens, operand.channel)
    )
    before = len(operand.batch) + len(heads)
    if len(operand.tokens) > 1:
        x = work.method("flatten", x, before, before + len(operand.tokens) - 1)
    if len(operand.batch) > 1:
        x = work.method("flatten", x, 0, len(operand.batch) - 1)
    return x if heads else work.method("unsqueeze", x, 1)


def _tables(work: Work, terms: Sequence[Term], scale: Dim) -> fx.Node:
    """[H or 1, R, C, ..]: the tables of a term, less the scale that the kernel multiplies by."""
    found: list[fx.Node] = []
    for term in terms:
        assert term.table is not None
        x = _table(work, term.table)
        factor = term.factor / scale
        found.append(x if factor == ONE else work.call(operator.mul, x, work.number(factor)))
    if len(found) == 1:
        return work.method("unsqueeze", found[0], 1)
    return work.call(torch.stack, tuple(found), 1)


def _table(work: Work, table: Table) -> fx.Node:
    """[H or 1, C, ..] of one table."""
    x = work.constant(table.value)
    rank = work.block.type_of(table.value).rank
    if table.picked is not None:
        x, rank = work.method("select", x, 0, table.picked), rank - 1
    wanted = [axis for axis in (table.head, table.entry, table.channel) if axis is not None]
    ones = [axis for axis in range(rank) if axis not in wanted]
    x = work.permuted(x, (*ones, *wanted))
    for _ in ones:
        x = work.method("squeeze", x, 0)
    return x if table.head is not None else work.method("unsqueeze", x, 0)


def _indices(work: Work, terms: Sequence[Term]) -> tuple[fx.Node, ...]:
    """What a kernel reads the tables of a term by."""
    triton = work.library == "triton"
    made = ("stacked_index",) if triton else ("index_columns", "index_classes")
    return tuple(work.frame.table(_pairs(work.block, terms, op)) for op in made)


def _pairs(block: Block, terms: Sequence[Term], op: str) -> Node:
    """A table that is made of the index tables of a term, and of how many entries it has."""
    first = terms[0].table
    assert first is not None
    axis = first.entry + (first.picked is not None)
    found: dict[str, Attribute] = {"entries": block.type_of(first.value).shape[axis]}
    for number, term in enumerate(terms):
        node = term.index.node
        found |= {f"t{number}_{name}": value for name, value in node.attributes.items()}
        found |= {f"t{number}_op": node.op, f"t{number}_turned": term.index.turned}
    return Node(-1, op, attributes=found)


def _regions(term: Term) -> Node:
    return Node(-1, "shift_regions", attributes=term.index.node.attributes)


__all__ = ["ROWS", "lower_group", "takes"]
