"""The canonical form of a graph: what a hash is taken of.

Two graphs have one form where they compute, decide and store the same in the same way. Names of
blocks, of their sizes and inputs, ids, the order of independent nodes, and which of two equal
blocks is called are not part of it; paths, labels and the order of decisions are.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from spacelang.ir.block import Block
from spacelang.ir.condition import Compare, Condition
from spacelang.ir.declared_sizes import plain_needs
from spacelang.ir.definedness import conjuncts
from spacelang.ir.dim import Dim, Symbol, symbol_of
from spacelang.ir.graph import Graph
from spacelang.ir.mentions import mentions
from spacelang.ir.names import Names, renamed
from spacelang.ir.node import Call, Node, Value
from spacelang.ir.op import ops
from spacelang.ir.sizes import plain_sizes
from spacelang.ir.text import block_text
from spacelang.ir.tidy import fixed, plain_regions, tidy


def canonical(graph: Graph) -> Graph:
    """The canonical form; blocks that nobody calls are not in it."""
    graph = plain_sizes(plain_needs(fixed(plain_regions(graph))))
    work = _Canonical(graph)
    root = work.form(graph.root, graph.name, labels=True)[0]
    outputs = (replace(o, value=v) for o, v in zip(graph.outputs, root.outputs, strict=True))
    # A conjunction is the same limits as its parts.
    require = tuple(dict.fromkeys(part for found in graph.require for part in conjuncts(found)))
    return replace(graph, root=root, blocks=work.blocks, outputs=tuple(outputs), require=require)


def merged(graph: Graph) -> Graph:
    """The graph in which blocks of one form are one, under the name of the first of them.

    Sizes that nothing reads are gone; the rest of each block is as it was.
    """
    graph = plain_sizes(plain_regions(graph))
    work = _Canonical(graph)
    work.form(graph.root, graph.name, labels=True)
    first: dict[str, str] = {}
    for name in graph.blocks:
        if name in work.forms:
            first.setdefault(work.forms[name].name, name)

    def call(old: Call) -> Call:
        form = work.forms[old.block]
        name = first[form.name]
        named = {new: size for size, new in work.forms[name].sizes.items()}
        sizes = {named[new]: old.sizes[size] for size, new in form.sizes.items()}
        return replace(old, block=name, sizes=sizes)

    def level(old: Block) -> Block:
        nodes = (
            replace(
                node,
                call=None if node.call is None else call(node.call),
                regions=tuple(map(level, node.regions)),
            )
            for node in old.nodes
        )
        return replace(old, nodes=tuple(nodes))

    blocks: dict[str, Block] = {}
    for name in first.values():
        sizes = work.forms[name].sizes
        block = level(graph.blocks[name])
        blocks[name] = replace(block, sizes=tuple(s for s in block.sizes if s.name in sizes))
    return replace(graph, root=level(graph.root), blocks=blocks)


@dataclass(frozen=True)
class _Form:
    """What became of a block: its new name, and of its sizes, in order, their new names."""

    name: str
    sizes: Mapping[str, str]


@dataclass
class _Canonical:
    """Forms of blocks, callees first; blocks of one text are one."""

    graph: Graph
    blocks: dict[str, Block] = field(default_factory=dict[str, Block])
    forms: dict[str, _Form] = field(default_factory=dict[str, _Form])
    texts: dict[str, str] = field(default_factory=dict[str, str])

    def callee(self, name: str) -> _Form:
        if name not in self.forms:
            block, sizes = self.form(self.graph.blocks[name], "b", labels=False)
            text = block_text(block)
            if text not in self.texts:
                new = self.texts[text] = f"b{len(self.blocks)}"
                self.blocks[new] = _named(block, new)
            self.forms[name] = _Form(self.texts[text], sizes)
        return self.forms[name]

    def form(self, block: Block, name: str, labels: bool) -> tuple[Block, Mapping[str, str]]:
        """The form of a block whose callees have theirs, and the new names of its sizes."""
        ordered = tidy(_named_once(block))
        calling = replace(ordered, nodes=tuple(self._calling(n, labels) for n in ordered.nodes))
        ids = count()
        made = _numbered(calling, ids)
        known = {param.path: param for param in block.params}
        read = [view.param for node in made.everywhere() for view in node.params.values()]
        made = replace(made, params=tuple(known[p] for p in dict.fromkeys([*read, *sorted(known)])))
        sizes = {size.name: size for size in block.sizes}
        found: dict[str, str] = {}
        for symbol in _in_order([what for what, _, _ in mentions(made)], sizes):
            found.setdefault(symbol.name, f"%s{len(found)}")
        names = Names(lambda s: replace(s, name=found[s.name]) if s.name in found else s)
        kept = tuple(replace(sizes[old], name=new) for old, new in found.items())
        return _named(renamed(replace(made, sizes=kept), names), name), found

    def _calling(self, node: Node, labels: bool) -> Node:
        """A node that calls forms, its tables in order; inputs but the root's lose their labels."""
        call = None if node.call is None else self._call(node.call)
        return replace(
            node,
            attributes=dict(sorted(node.attributes.items())),
            params=dict(sorted(node.params.items())),
            call=call,
            regions=tuple(
                replace(r, nodes=tuple(self._calling(inner, labels=False) for inner in r.nodes))
                for r in node.regions
            ),
            label="" if node.op == "input" and not labels else node.label,
        )

    def _call(self, call: Call) -> Call:
        form = self.callee(call.block)
        sizes = {new: call.sizes[old] for old, new in form.sizes.items()}
        return replace(
            call, block=form.name, sizes={n: symbol_of(s) or s for n, s in sizes.items()}
        )


def _in_order(
    mentioned: Sequence[Dim | Condition | Symbol], sizes: Container[str]
) -> Iterator[Symbol]:
    """The sizes of a block as they are mentioned: of several at once by all places where each
    stands, whether it is alone there, and what it is there. Their names tell only those apart that
    nothing else does."""
    places: dict[str, list[_Place]] = {}
    for place, what in enumerate(mentioned):
        for symbol in what.symbols:
            if symbol.name in sizes:
                alone = len(what.symbols) == 1
                places.setdefault(symbol.name, []).append((alone, place, _role(symbol, what)))

    def order(symbol: Symbol) -> tuple[object, ...]:
        here = places[symbol.name]
        return sorted(here), str(symbol.rate), str(symbol.values), symbol.name

    for what in mentioned:
        yield from sorted((s for s in what.symbols if s.name in sizes), key=order)


_Place = tuple[bool, int, str]


def _role(symbol: Symbol, what: Dim | Condition | Symbol) -> str:
    """What a symbol is in a size or comparison, without a name: `a` of a*a/b is another than b."""
    match what:
        case Dim(terms):
            powers = ((m, number, dict(m).get(symbol, 0)) for m, number in terms)
            return str(sorted((power, str(number), len(m)) for m, number, power in powers))
        case Compare(op, left, right):
            return f"{op} {_role(symbol, left)} {_role(symbol, right)}"
        case _:
            return ""


def _named(block: Block, name: str) -> Block:
    """A block and its regions under names of their own."""

    def node(old: Node) -> Node:
        regions = (
            replace(r, name=f"{name}.{old.op}", nodes=tuple(map(node, r.nodes)))
            for r in old.regions
        )
        return replace(old, regions=tuple(regions)) if old.regions else old

    return replace(block, name=name, nodes=tuple(map(node, block.nodes)))


# Names of values.


def _named_once(level: Block) -> Block:
    """A level where the first name of a value is the label of the node that makes it.

    What keeps or calls by its label, or is kept under it, has the name of an `identity`.
    """
    nodes: dict[int, Node] = {}
    seen: dict[Value, Value] = {}
    for old in level.nodes:
        regions = tuple(map(_named_once, old.regions))
        operands = tuple(seen.get(v, v) for v in old.operands)
        node = replace(old, operands=operands, regions=regions)
        maker = nodes.get(operands[0].node) if node.op == "identity" else None
        if maker is None or (node.label and not _nameless(maker)):
            nodes[node.id] = node
            continue
        if node.label:
            nodes[maker.id] = replace(maker, label=node.label)
        seen[Value(node.id)] = operands[0]
    outputs = tuple(seen.get(v, v) for v in level.outputs)
    return replace(level, nodes=tuple(nodes.values()), outputs=outputs)


def _nameless(node: Node) -> bool:
    """Whether a node may be given a name that changes nothing else."""
    if node.label or node.params or len(node.types) > 1 or node.op in ("input", "call"):
        return False
    definition = ops().get(node.op)
    return definition is None or "table" not in definition.traits


def _numbered(level: Block, ids: Iterator[int]) -> Block:
    """A level whose ids count its nodes, each before those of its regions."""
    new: dict[int, int] = {}
    nodes: list[Node] = []
    for node in level.nodes:
        new[node.id] = next(ids)
        nodes.append(
            replace(
                node,
                id=new[node.id],
                operands=tuple(replace(v, node=new[v.node]) for v in node.operands),
                regions=tuple(_numbered(region, ids) for region in node.regions),
            )
        )
    outputs = tuple(replace(v, node=new[v.node]) for v in level.outputs)
    return replace(level, nodes=tuple(nodes), outputs=outputs)
