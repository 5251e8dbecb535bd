"""A Graph as text (`.spaceir`): exact, one line a node; `spacelang.syntax.ir_text` reads it.

    spaceir 1
    graph tiny
    block mlp {
      size %width in {32, 48}
      param fc1.weight: [4*%width, %width] = linear
      %0: [%B, %width] = input() as x
      %1: [%B, 4*%width] = linear(%0, out=4*%width) {weight=fc1.weight[0:4*%width][0:%width]} as fc1
      yield %1
    }

`%3` is a value, `%width` a size that the caller binds. A name that is no plain path stands in
quotes: `@"/normal.op"`. Attributes that have the op's default are left out unless the text is made
in full.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256

from spacelang.collector import collector_paused
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.condition import TRUE, Condition
from spacelang.ir.decision import Choice
from spacelang.ir.dialect import Dialect, Layout
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.graph import Graph
from spacelang.ir.known import Known, Symbols
from spacelang.ir.node import Attribute, Call, Node, TensorType
from spacelang.ir.op import Option, ops
from spacelang.ir.options import attribute
from spacelang.ir.param import Gather, Init, Param, Slice, View
from spacelang.ir.words import (
    bare,
    base_name,
    given_names,
    name,
    region_conditions,
    same,
    setting,
    value_set,
    values_of,
)
from spacelang.manifest import MAX_GRAPH

VERSION = 1


def write(graph: Graph, *, full: bool = False) -> str:
    """The text of a graph; `full` writes the attributes that have the op's default too."""
    return "\n".join(_Writer(graph, full).graph()) + "\n"


def stored(graph: Graph) -> str:
    """The text of a graph for a file (SP507 for one that would be too large to be read again)."""
    text = write(graph)
    if len(text) > MAX_GRAPH:
        raise SpaceError(
            error("SP507", f"the graph takes {len(text) / (1 << 20):.1f} MiB of IR text")
            .note(f"a file of it holds at most {MAX_GRAPH >> 20} MiB")
            .hint("use blocks: one that is called many times is written once")
        )  # fmt: skip
    return text


def block_text(block: Block) -> str:
    """The full text of a block by itself."""
    return "\n".join(_BlockWriter(True, {}).block(block, "block"))


@collector_paused()
def digest(graph: Graph) -> str:
    """The sha256 of the full text of the canonical form: what is computed, decided and stored."""
    from spacelang.ir.canonical import canonical

    return sha256(write(canonical(graph), full=True).encode()).hexdigest()


class _BlockWriter:
    """Lines of blocks; `scope` holds the symbols that the present one knows."""

    def __init__(self, full: bool, scope: Symbols) -> None:
        self.full, self.scope = full, scope
        self.owner = ""

    def block(self, block: Block, word: str) -> Iterator[str]:
        self.owner = base_name(block.name)
        yield f"{word} {name(block.name)} {{"
        for size in block.sizes:
            yield f"  size {name(size.name)}{values_of(size)}"
        for choice in block.decisions:
            yield "  " + self._choice(choice)
        for param in block.params:
            yield "  " + self._param(param)
        yield from self._level(block, "  ")
        yield "}"

    def _level(self, level: Block, indent: str) -> Iterator[str]:
        for node in level.nodes:
            yield indent + self._node(node)
            guards = region_conditions(node)
            for position, region in enumerate(node.regions):
                head = "do" if guards is None else f"when {self._condition(guards[position])}"
                if region.name != f"{self.owner}.{node.op}":
                    head += f" as {name(region.name, free=True)}"
                yield f"{indent}  {head} {{"
                yield from self._level(region, indent + "    ")
                yield f"{indent}  }}"
        yield f"{indent}yield {', '.join(map(str, level.outputs))}".rstrip()

    def _choice(self, choice: Choice) -> str:
        text = f"decide {choice.kind} {name(choice.path)} in {value_set(choice.values)}"
        if choice.hull is not None:
            text += f" within {value_set(choice.hull)}"
        return text if choice.live == TRUE else f"{text} when {self._condition(choice.live)}"

    def _param(self, param: Param) -> str:
        axes = ", ".join(
            self._dim(axis[0]) if len(axis) == 1 else self._dims(axis) for axis in param.shape
        )
        words = [
            "" if param.role == "weight" else param.role,
            "" if param.dtype == "f32" else name(param.dtype),
            "" if param.persistent else "transient",
            "" if param.decay else "undecayed",
            "reserved" if param.reserved else "",
            f"bank({', '.join(map(name, param.bank))})" if param.bank else "",
        ]
        text = f"param {name(param.path)}: [{axes}] = {self._init(param.init)}"
        return " ".join([text, *filter(None, words)])

    # Nodes.

    def _node(self, node: Node) -> str:
        types = ", ".join(self._type(t) for t in node.types)
        left = f"%{node.id}: {types}" if types else f"%{node.id}"
        arguments = [*self._operands(node), *self._attributes(node)]
        what = name(node.op) if node.call is None else f"call {name(node.call.block)}"
        text = f"{left} = {what}({', '.join(arguments)})"
        if node.params:
            views = (
                (f"{name(role, free=True)}=" if role else "") + self._view(view)
                for role, view in node.params.items()
            )
            text += f" {{{', '.join(views)}}}"
        if node.call is not None:
            text += self._call(node.call, node.label)
        return f"{text} as {name(node.label, free=True)}" if node.label else text

    def _operands(self, node: Node) -> Iterator[str]:
        given = given_names(node)
        plain = len(node.operands) - len(given)
        yield from map(str, node.operands[:plain])
        for role, value in zip(given, node.operands[plain:], strict=True):
            yield f"{name(role, free=True)}={value}"

    def _attributes(self, node: Node) -> Iterator[str]:
        definition = ops().get(node.op)
        options: Mapping[str, Option] = {} if definition is None else definition.options
        left_out: set[str] = set()
        if given_names(node):
            left_out.add("given")
        if region_conditions(node) is not None:
            left_out.add("conditions")
        for key in (*options, *sorted(set(node.attributes) - set(options))):
            if key not in node.attributes or key in left_out:
                continue
            value = node.attributes[key]
            if self.full or key not in options or not same(value, attribute(options[key].default)):
                yield f"{name(key, free=True)}={self._attribute(value)}"

    def _call(self, call: Call, label: str) -> str:
        text = ""
        if call.sizes:
            bound = (
                f"{name(s, free=True)}={self._bound(v)}" for s, v in sorted(call.sizes.items())
            )
            text += f" [{', '.join(bound)}]"
        if call.path != label:
            text += f" at {name(call.path)}"
        if call.decide != call.path:
            text += f" decides {name(call.decide)}"
        if call.store != call.path:
            text += f" stores {name(call.store)}"
        if call.own:
            text += f" owns [{', '.join(map(name, call.own))}]"
        return text

    def _bound(self, value: Dim | Symbol) -> str:
        """A bare name is the symbol itself; a size that is one symbol is written `1*width`."""
        if isinstance(value, Symbol):
            return self._symbol(value)
        text = self._dim(value)
        return f"1*{text}" if bare(value) else text

    def _symbol(self, symbol: Symbol) -> str:
        text = name(symbol.name)
        same = self.scope.get(symbol.name) == symbol
        return text if same else f"{text} in {value_set(symbol.values)}"

    def _view(self, view: View) -> str:
        text = name(view.param)
        for axis in view.index:
            text += f"[{', '.join(map(self._part, axis))}]"
        return text

    def _part(self, part: Slice | Gather) -> str:
        length = self._dim(part.length)
        if isinstance(part, Gather):
            arguments = ", ".join(map(self._dim, part.arguments))
            return f"through {name(part.table)}({arguments}):{length}"
        if part.step == 1 and part.start.constant == 0:
            return f"0:{length}"
        step = f" by {part.step}" if part.step != 1 else ""
        return f"{self._dim(part.start)} +: {length}{step}"

    # Values.

    def _dim(self, dim: Dim) -> str:
        names = {
            s.name: Symbol(name(s.name), s.values) for s in dim.symbols if name(s.name) != s.name
        }
        return str(dim.substitute(names) if names else dim)

    def _dims(self, dims: Sequence[Dim]) -> str:
        return f"[{', '.join(map(self._dim, dims))}]"

    def _condition(self, condition: Condition) -> str:
        found = condition.symbols
        names = {s.name: Symbol(name(s.name), s.values) for s in found if name(s.name) != s.name}
        return str(condition.substitute(names) if names else condition)

    def _type(self, type: TensorType) -> str:
        dtype = "" if type.dtype == "f32" else name(type.dtype) + " "
        return dtype + self._dims(type.shape)

    def _init(self, init: Init) -> str:
        arguments = f"({', '.join(map(self._dim, init.arguments))})" if init.arguments else ""
        return name(init.rule) + arguments

    def _attribute(self, value: Attribute) -> str:
        match value:
            case None:
                return "none"
            case bool():
                return "true" if value else "false"
            case str():
                return json.dumps(value)
            case Dim():
                return self._dim(value)
            case Symbol():
                return f"symbol {self._symbol(value)}"
            case Init():
                return f"init {self._init(value)}"
            case tuple():
                return f"[{', '.join(map(self._attribute, value))}]"
            case _:
                return f"condition {self._condition(value)}"


class _Writer(_BlockWriter):
    """Lines of a whole graph."""

    def __init__(self, graph: Graph, full: bool) -> None:
        super().__init__(full, {})
        self.source, self.known = graph, Known(graph)

    def graph(self) -> Iterator[str]:
        graph = self.source
        yield f"spaceir {VERSION}"
        yield f"graph {name(graph.name)}"
        for block in graph.blocks.values():
            self.scope = self.known.block(block)
            yield from self.block(block, "block")
        self.scope = self.known.root()
        yield from self.block(graph.root, "root")
        for output in graph.outputs:
            label = name(output.name, free=True)
            yield f"output {output.value} as {label}" + " training" * output.training
        for rule in graph.rules:
            argument = f"({rule.argument})" if rule.argument != "" else ""
            yield f"rule {json.dumps(str(rule.pattern))} {rule.kind}{argument}"
        for path, number in sorted(graph.stored.items()):
            yield f"stored {name(path)} = {number}"
        for condition in graph.require:
            yield f"require {self._condition(condition)}"
        for _, dialect in sorted(graph.dialects.items()):
            yield from self._dialect(dialect)
        for engine, settings in sorted(graph.search.items()):
            inner = ", ".join(f"{name(key, free=True)}={setting(v)}" for key, v in settings.items())
            yield f"search {name(engine)} {{{inner}}}"

    def _dialect(self, dialect: Dialect) -> Iterator[str]:
        yield f"names {name(dialect.name)} {{"
        for rename in dialect.renames:
            hops = ".".join(
                json.dumps(hop.name) + "".join(f"[{self._dim(index)}]" for index in hop.indices)
                for hop in rename.foreign
            )
            text = f"  rename {json.dumps(str(rename.own))} to {hops}".rstrip()
            yield text if rename.layout is None else f"{text} in {self._layout(rename.layout)}"
        yield "}"

    def _layout(self, layout: Layout) -> str:
        arguments = [*map(json.dumps, layout.order), *map(self._dim, layout.shape)]
        return f"{name(layout.kind)}({', '.join(arguments)})"
