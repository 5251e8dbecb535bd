"""Norms folded into the products beside them, and weights that are computed from weights alone.

    conv -> batch_norm      conv with weight w * s, bias b * s + t      s = gamma / sqrt(var + eps)
    batch_norm -> linear    linear with weight w * s, bias b + w t      t = beta - mean * s

`norms_folded` writes these weights as operands: nodes that read the parameters that are there, so
nothing is stored anew. It holds for evaluation: statistics are read, not taken. The product's own
value has no name any more; the norm's stays. `materialised` goes on for a fixed network: weights
that depend on parameters alone become parameters themselves, and a second graph, without inputs,
has their values as its outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.dialect import dotted
from spacelang.ir.dim import ONE, product
from spacelang.ir.graph import Graph, Output
from spacelang.ir.levels import needed_nodes
from spacelang.ir.node import Node, TensorType, Value, join
from spacelang.ir.op import ops
from spacelang.ir.param import Init, Param, View, leading
from spacelang.passes.inline import inlined
from spacelang.passes.remake import Body, each_block, with_root

PRODUCTS = frozenset({"conv", "linear"})
STORED = frozenset({"parameter", "buffer"})


def norms_folded(graph: Graph) -> Graph:
    """The graph with every batch norm folded that has a product of its own beside it."""
    return each_block(graph, _folded)


def _folded(block: Block) -> Block:
    ids = count(block.next_id)
    made = _level(block, block, ids)
    if made is block:
        return block
    read = {view.param for node in made.everywhere() for view in node.params.values()}
    were = {view.param for node in block.everywhere() for view in node.params.values()}
    # What the folded norms alone read (how many batches they saw) goes with them.
    kept = tuple(p for p in block.params if p.path in read or p.path not in were)
    return replace(made, params=kept)


def _level(level: Block, owner: Block, ids: count[int]) -> Block:
    nodes = tuple(
        replace(n, regions=tuple(_level(r, owner, ids) for r in n.regions)) if n.regions else n
        for n in level.nodes
    )
    if any(a.regions != b.regions for a, b in zip(nodes, level.nodes, strict=True)):
        level = replace(level, nodes=nodes)
    pairs = _pairs(level)
    if not pairs:
        return level
    body, seen = Body(ids), dict[Value, Value]()
    gone = {a.id for a, _ in pairs.values()}
    for node in level.nodes:
        if node.id in gone:
            body.types.update(zip(node.values, node.types, strict=True))
            continue
        operands = tuple(seen.get(v, v) for v in node.operands)
        if node.id not in pairs:
            body.put(replace(node, operands=operands))
            continue
        first, second = pairs[node.id]
        x = seen.get(first.operands[0], first.operands[0])
        if second.op == "batch_norm":
            made = _after(body, owner, x, first, second)
        else:
            made = _before(body, owner, x, first, second)
        seen[Value(node.id)] = made
    outputs = tuple(seen.get(v, v) for v in level.outputs)
    return replace(level, nodes=tuple(body.nodes), outputs=outputs)


def _pairs(level: Block) -> dict[int, tuple[Node, Node]]:
    """Norms beside a product that nothing else reads, by the id of the second of the two."""
    found: dict[int, tuple[Node, Node]] = {}
    taken: set[int] = set()
    for node in level.nodes:
        if not node.operands:
            continue
        (value, *_), maker = node.operands, level.by_id[node.operands[0].node]
        alone = len(level.readers.get(value, ())) == 1 and value not in level.outputs
        if not alone or maker.id in taken:
            continue
        after = node.op == "batch_norm" and _owns(maker) and _channels_last(maker)
        before = maker.op == "batch_norm" and node.op == "linear" and _owns(node)
        if after or (before and maker.types[0].rank == 2):
            found[node.id] = maker, node
            taken |= {maker.id, node.id}
    return found


def _owns(node: Node) -> bool:
    return node.op in PRODUCTS and "weight" in node.params


def _channels_last(node: Node) -> bool:
    """Whether axis 1 of a product's result is its channels."""
    return node.op == "conv" or node.types[0].rank == 2


def read(body: Body, owner: Block, node: Node, role: str) -> Value | None:
    """The value of a parameter of a node, its factors merged."""
    view = node.params.get(role)
    if view is None:
        return None
    param = owner.param[view.param]
    shape = tuple(axis[0] if len(axis) == 1 else axis for axis in view.lengths)
    merged = tuple(product(axis) for axis in view.lengths)
    op = "buffer" if param.role == "buffer" else "parameter"
    made = Node(
        next(body.ids), op, (), {"shape": shape, "init": param.init}, {"": view},
        types=(TensorType(merged),), label=view.param, span=node.span,
    )  # fmt: skip
    return body.put(made)[0]


def _norm(body: Body, owner: Block, norm: Node) -> tuple[Value, Value]:
    """Scale and shift of a batch norm in evaluation."""
    mean, var = read(body, owner, norm, "running_mean"), read(body, owner, norm, "running_var")
    gamma, beta = read(body, owner, norm, "weight"), read(body, owner, norm, "bias")
    assert mean is not None
    assert var is not None
    deviation = body.one("sqrt", [body.one("add", [var], {"number": norm.attributes["eps"]})])
    if gamma is None:
        scale = body.one("div", [deviation], {"number": ONE, "flipped": True})
    else:
        scale = body.one("div", [gamma, deviation])
    moved = body.one("mul", [mean, scale])
    if beta is None:
        return scale, body.one("mul", [moved], {"number": -ONE})
    return scale, body.one("sub", [beta, moved])


def _after(body: Body, owner: Block, x: Value, product: Node, norm: Node) -> Value:
    """A norm of what a product gives."""
    weight, bias = read(body, owner, product, "weight"), read(body, owner, product, "bias")
    scale, shift = _norm(body, owner, norm)
    assert weight is not None
    axes = body.types[weight].rank
    spread = body.one("rearrange", [scale], {"pattern": "o -> o" + " 1" * (axes - 1)})
    weight = body.one("mul", [weight, spread])
    if bias is not None:
        shift = body.one("add", [body.one("mul", [bias, scale]), shift])
    return _applied(body, x, product, weight, shift, norm.label, norm.types[0])


def _before(body: Body, owner: Block, x: Value, norm: Node, product: Node) -> Value:
    """A norm of what a linear layer reads."""
    weight, bias = read(body, owner, product, "weight"), read(body, owner, product, "bias")
    scale, shift = _norm(body, owner, norm)
    assert weight is not None
    moved = body.one("einsum", [weight, shift], {"pattern": "oi,i->o"})
    weight = body.one("mul", [weight, scale])
    shift = moved if bias is None else body.one("add", [bias, moved])
    return _applied(body, x, product, weight, shift, product.label, product.types[0])


def _applied(
    body: Body, x: Value, product: Node, weight: Value, bias: Value, label: str, type: TensorType
) -> Value:
    options = {**product.attributes, "bias": True}  # as the front end says of an operand
    options.pop("given", None)
    operands, given = [x, weight, bias], ("weight", "bias")
    made = body.one(product.op, operands, options, label, product.span, given)
    body.nodes[-1] = replace(body.nodes[-1], types=(type,))
    return made


# Weights computed from weights.


def materialised(graph: Graph) -> tuple[Graph, Graph | None]:
    """A fixed network whose weights are all stored, and the graph that computes the new ones.

    The second has no input; its outputs go by the paths of parameters of the first, none of which
    the network had. Products of the same values share them. Other parameters keep path and value.
    There is no second graph where nothing is computed. SP506 where decisions are open.
    """
    if graph.decisions:
        found = error("SP506", f"weights of {graph.name} hang on {next(iter(graph.decisions))}")
        raise SpaceError(found.hint("take one architecture first"))
    graph = inlined(graph)
    root = graph.root
    constant = constants(root)
    params, names = dict(root.param), Names(root.param)
    made: dict[tuple[Value, str], Param] = {}
    outputs: list[Output] = []
    nodes: list[Node] = []
    for node in root.nodes:
        given = node.attributes.get("given", ())
        assert isinstance(given, tuple)
        values = node.operands[len(node.operands) - len(given) :]
        if node.op in PRODUCTS and given and all(v.node in constant for v in values):
            place = _place(root, values[0])
            own: dict[str, Param] = {}
            for role, value in zip(map(str, given), values, strict=True):
                if (value, role) not in made:
                    path = names.free(join(place, role))
                    params[path] = _stored(node, role, path, root.type_of(value))
                    made[value, role] = params[path]
                    outputs.append(Output(path, value))
                own[role] = made[value, role]
            node = _owning(node, own)
        nodes.append(node)
    main = trimmed(replace(root, nodes=tuple(nodes), params=tuple(params.values())))
    recipe = derived(graph, root, constant, outputs, "weights") if outputs else None
    return with_root(graph, main, {}), recipe


def derived(
    graph: Graph, root: Block, constant: Collection[int], outputs: Sequence[Output], name: str
) -> Graph:
    """The graph without inputs that computes some constant values of a flat network."""
    recipe = replace(root, outputs=tuple(o.value for o in outputs))
    recipe = replace(recipe, nodes=tuple(n for n in recipe.nodes if n.id in constant))
    made = replace(graph, name=f"{graph.name}.{name}", outputs=tuple(outputs), dialects={})
    return replace(made, root=trimmed(recipe))


def constants(root: Block) -> set[int]:
    """The nodes that depend on parameters and tables alone."""
    found: set[int] = set()
    for node in root.nodes:
        definition = ops().get(node.op)
        traits = definition.traits if definition is not None else frozenset[str]()
        if (
            node.op in STORED
            or "table" in traits
            or (
                node.operands
                and not (node.params or node.regions or "random" in traits)
                and all(v.node in found for v in node.operands)
            )
        ):
            found.add(node.id)
    return found


def _place(root: Block, weight: Value) -> str:
    """Where a computed weight is stored: with the largest parameter that it is made of."""
    waiting, best = [weight], ("", -1)
    while waiting:
        node = root.by_id[waiting.pop().node]
        waiting += node.operands
        if node.op in STORED:
            size = int(node.params[""].numel().at({}))
            if size > best[1]:
                best = node.params[""].param, size
    return best[0].rpartition(".")[0]


class Names:
    """Paths that no parameter has, as backends write them too (`a[0]` is `a.0` there)."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._taken: set[str] = set()
        for path in paths:
            self._take(path)

    def free(self, path: str) -> str:
        """The path, or else it with the first number behind it that makes it free; now taken."""
        tries = (path if n == 1 else f"{path}_{n}" for n in count(1))
        found = next(name for name in tries if dotted(name) not in self._taken)
        self._take(found)
        return found

    def _take(self, path: str) -> None:
        parts = dotted(path).split(".")  # what a parameter lies in has a name as well
        self._taken.update(".".join(parts[: n + 1]) for n in range(len(parts)))


def _stored(node: Node, role: str, path: str, type: TensorType) -> Param:
    """The parameter for a computed weight or bias; it starts as one of its kind does."""
    shape = tuple((size,) for size in type.shape)
    start = Init(node.op) if role == "weight" else Init("zeros")
    return Param(path, shape, start, decay=role == "weight", span=node.span)


def _owning(node: Node, own: Mapping[str, Param]) -> Node:
    """A product that reads parameters instead of its last operands, by their roles."""
    views: dict[str, View] = {role: leading(param) for role, param in own.items()}
    rest = node.operands[: len(node.operands) - len(own)]
    attributes = {k: v for k, v in node.attributes.items() if k != "given"}
    attributes["bias"] = "bias" in own or "bias" in node.params
    return replace(node, operands=rest, attributes=attributes, params={**node.params, **views})


def trimmed(block: Block) -> Block:
    """A block without nodes that nothing reads and without parameters that no node reads."""
    made = replace(block, nodes=tuple(needed_nodes(block.nodes, block.outputs)))
    used = {view.param for node in made.everywhere() for view in node.params.values()}
    return replace(made, params=tuple(p for p in block.params if p.path in used))
