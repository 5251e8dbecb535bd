"""Outlining: some nodes of a level as a block of their own, called where they stood.

    outlined = outline(owner, level, chosen, root, "triton.mlp")
    outlined.block, outlined.call          # what the call reads is in the order in which it is read

The call is transparent (`as _`): labels, parameters and decisions keep their paths. What the nodes
read of the owner's sizes and decisions become sizes of the block. Constants (parameters, index
tables) that others read too are copied, all else of the chosen nodes must be theirs alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from spacelang.ir.block import Block
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.mentions import of_node
from spacelang.ir.names import Names
from spacelang.ir.node import Call, Node, Value
from spacelang.ir.param import Param


@dataclass(frozen=True)
class Outlined:
    """The new block, and the node that calls it, which has the id of the root."""

    block: Block
    call: Node


def outline(owner: Block, level: Block, chosen: Collection[int], root: int, name: str) -> Outlined:
    """The nodes `chosen` of a level of `owner` as a block whose results are those of `root`."""
    nodes = [node for node in level.nodes if node.id in chosen]
    read = dict.fromkeys(v for node in nodes for v in node.operands if v.node not in chosen)
    params = [
        owner.param[p] for p in dict.fromkeys(v.param for n in nodes for v in n.params.values())
    ]
    found = {s.name: s for s in _symbols(owner, level, nodes, params, read)}
    symbols = {name: found[name] for name in sorted(found)}
    inner = {name: replace(s, name=_size(name)) for name, s in symbols.items()}
    names = Names(symbol=lambda symbol: inner[symbol.name])
    ids: dict[int, int] = {}
    made: list[Node] = []
    for number, value in enumerate(read):
        made.append(Node(number, "input", types=(names.type(level.type_of(value)),)))
    inputs = {value: Value(number) for number, value in enumerate(read)}
    for number, node in enumerate(nodes, len(made)):
        ids[node.id] = number
        operands = tuple(inputs.get(v) or Value(ids[v.node], v.index) for v in node.operands)
        made.append(replace(names.node(node), id=number, operands=operands))
    last = level.by_id[root]
    block = Block(
        name,
        tuple(made),
        tuple(Value(ids[root], i) for i in range(len(last.types))),
        sizes=tuple(inner.values()),
        params=tuple(map(names.param, params)),
        span=last.span,
    )
    sizes: dict[str, Dim | Symbol] = {inner[n].name: s for n, s in symbols.items()}
    call = Call(name, "", "", "", (), sizes)
    return Outlined(
        block, Node(root, "call", tuple(read), call=call, types=last.types, span=last.span)
    )


def _size(name: str) -> str:
    """What a size or decision is called as a size of a block."""
    return name if name.startswith("%") else "%" + name


def _symbols(
    owner: Block,
    level: Block,
    nodes: Sequence[Node],
    params: Sequence[Param],
    read: Iterable[Value],
) -> Iterator[Symbol]:
    """The sizes and decisions that nodes, their parameters or what they read mention."""
    known = {s.name: s for s in (*owner.sizes, *(c.symbol for c in owner.decisions))}
    for node in nodes:
        for what in of_node(node):
            yield from what.symbols
    for value in read:
        for size in level.type_of(value).shape:
            yield from size.symbols
    for param in params:
        for size in (*(n for axis in param.shape for n in axis), *param.init.arguments):
            yield from size.symbols
        yield from (known[name] for name in param.bank)
