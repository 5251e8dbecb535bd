"""A graph as text for people: the network, then every block once.

    network autoformer_t
      choose width in {192, 216, 240}
      pixels                                                     [B, 3, 224, 224]
      patch_embed_super = patch_embed(pixels)                    [B, 14, 14, width]
      encoder[0..11] = encoder(%4)   x 12                        [B, 197, width]

It shows shapes, sizes and conditions; `--as ir` is the exact form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spacelang.diagnostics import counted
from spacelang.ir.decision import plain
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.graph import conditions
from spacelang.ir.node import Node, Value
from spacelang.ir.op import ops
from spacelang.ir.param import Init

if TYPE_CHECKING:
    from spacelang.ir.block import Block
    from spacelang.ir.condition import Condition
    from spacelang.ir.decision import Choice
    from spacelang.ir.graph import Graph
    from spacelang.ir.node import Attribute

Names = dict[Value, str]
WIDTH = 90  # of the column before the types
_INDEX = re.compile(r"\[(\d+)\](?!.*\[\d+\])")


def listing(graph: Graph) -> str:
    """The whole text."""
    parts = ["\n".join(_block(f"network {graph.name}", graph.root))]
    parts += ["\n".join(_block(f"block {unmarked(b.name)}", b)) for b in used(graph)]
    return "\n\n".join(parts) + "\n"


def used(graph: Graph) -> list[Block]:
    """The blocks that are called, in the order of their first call."""
    found: dict[str, Block] = {}
    waiting = [graph.root]
    while waiting:
        inner = [node.call.block for node in waiting.pop(0).everywhere() if node.call is not None]
        for name in dict.fromkeys(inner):
            if name not in found:
                found[name] = graph.blocks[name]
                waiting.append(graph.blocks[name])
    return list(found.values())


def _block(heading: str, block: Block) -> Iterator[str]:
    yield heading
    if block.sizes:
        yield f"  sizes {', '.join(map(size_text, block.sizes))}"
    for choice in block.decisions:
        yield f"  choose {choice_text(choice)}"
    names = values_of(block)
    yield from _aligned(_level(block, names, 1))
    if len(block.outputs) != 1 or block.outputs[0].node != block.nodes[-1].id:
        yield f"  return {', '.join(names[v] for v in block.outputs)}"


@dataclass(frozen=True)
class Line:
    """What a line says, and the types of the values that it makes."""

    text: str
    types: str = ""


def _aligned(lines: Iterator[Line]) -> Iterator[str]:
    kept = list(lines)
    width = max((len(line.text) for line in kept if len(line.text) <= WIDTH), default=0)
    for line in kept:
        yield f"{line.text:<{width}}   {line.types}" if line.types else line.text


def values_of(block: Block) -> Names:
    """A name for every value of a level: the label where it is the only one, else the number."""
    labels = [node.label for node in block.nodes]
    names: Names = {}
    for node in block.nodes:
        only = guarded(node)
        label = only.label if only is not None else node.label
        own = label if label and labels.count(label) <= 1 else f"%{node.id}"
        for value in node.values:
            names[value] = own if len(node.types) == 1 else f"{own}.{value.index}"
    return names


def guarded(node: Node) -> Node | None:
    """The node that a guard makes present or absent, where it is one alone with one result."""
    if node.op != "guard" or len(node.types) != 1:
        return None
    inside = [inner for inner in node.regions[0].nodes if inner.op != "input"]
    return inside[0] if len(inside) == 1 and not inside[0].regions else None


def inside(region: Block, node: Node, names: Names) -> Names:
    """The names within a region: what it reads is called as outside."""
    found = values_of(region)
    for given, operand in zip(region.inputs, node.operands, strict=False):
        found[Value(given.id)] = names[operand]
    return found


def _level(block: Block, names: Names, depth: int) -> Iterator[Line]:
    indent = "  " * depth
    nodes = [n for n in block.nodes if n.op != "input" or depth == 1]
    position = 0
    while position < len(nodes):
        run = run_of(nodes, position)
        node = nodes[position]
        position += len(run)
        types = unmarked(", ".join(map(str, run[-1].types)))
        only = guarded(node)
        if only is not None:
            text = _call(only, inside(node.regions[0], node, names))
            when = condition_text(conditions(node)[0])
            yield Line(f"{indent}{_name(node, names)} = {text}   when {when}{_shared(run)}", types)
        elif len(run) > 1:
            made = span_of(_name(node, names), _name(run[-1], names))
            text = f"{made} = {_call(node, names, run[-1])}   x {len(run)}"
            yield Line(f"{indent}{text}{_shared(run)}", types)
        elif node.op == "input":
            yield Line(f"{indent}{_name(node, names)}", types)
        elif node.regions:
            yield from _regions(node, names, depth, types)
        else:
            yield Line(f"{indent}{_name(node, names)} = {_call(node, names)}{_shared(run)}", types)


def _regions(node: Node, names: Names, depth: int, types: str) -> Iterator[Line]:
    """A guard or a choose: each region under its condition."""
    indent = "  " * depth
    word = "when" if node.op == "guard" else "choose"
    yield Line(f"{indent}{_name(node, names)} = {word}", types)
    for condition, region in zip(conditions(node), node.regions, strict=True):
        inner = inside(region, node, names)
        yield Line(f"{indent}  {condition_text(condition)}:")
        yield from _level(region, inner, depth + 2)
        if all(region.by_id[value.node].op == "input" for value in region.outputs):
            yield Line(f"{indent}    {', '.join(inner[v] for v in region.outputs)}")


def run_of(nodes: list[Node], start: int) -> list[Node]:
    """The calls of one block from `start` on that differ in a number of their path and in rates."""
    first = nodes[start]
    if first.call is None:
        return [first]
    found = [first]
    for node in nodes[start + 1 :]:
        if node.call is None or _kind(node) != _kind(first) or not node.label:
            break
        if node.operands[:1] != (Value(found[-1].id),):
            break
        found.append(node)
    return found


def _kind(node: Node) -> object:
    call = node.call
    assert call is not None
    fixed = {n: d for n, d in call.sizes.items() if not isinstance(d, Dim) or d.constant is None}
    return call.block, _INDEX.sub("[_]", node.label), tuple(fixed.items()), node.types


def sharing(step: Sequence[Node]) -> str:
    """Whose weights calls read that have none of their own: of one call the other's path, of
    several how many sets there are; nothing where each has its own."""
    inside = (guarded(node) if node.regions else node for node in step)
    calls = [node.call for node in inside if node is not None and node.call is not None]
    stores = dict.fromkeys(call.store for call in calls)
    if len(calls) == 1:
        (store,) = stores
        return f"weights of {store}" if store != calls[0].path else ""
    return counted(len(stores), "set") + " of weights" if len(stores) < len(calls) else ""


def span_of(first: str, last: str) -> str:
    """encoder[0] and encoder[11] -> encoder[0..11]."""
    low, high = _INDEX.search(first), _INDEX.search(last)
    if low is None or high is None:
        return f"{first} .. {last}"
    return f"{first[: low.start()]}[{low[1]}..{high[1]}]{first[low.end() :]}"


def _shared(run: Sequence[Node]) -> str:
    found = sharing(run)
    return f"   {found}" if found else ""


def _name(node: Node, names: Names) -> str:
    if len(node.types) == 1:
        return names[Value(node.id)]
    return ", ".join(names[value] for value in node.values)


def _call(node: Node, names: Names, last: Node | None = None) -> str:
    """What a node does; of a run up to `last` without the sizes that differ."""
    given = [names[value] for value in node.operands]
    if node.call is not None:
        other = node.call if last is None or last.call is None else last.call
        sizes = [
            (name, size) for name, size in node.call.sizes.items() if other.sizes[name] == size
        ]
        named = ((unmarked(name), unmarked(_size(size))) for name, size in sizes)
        given += [f"{name}: {size}" for name, size in named if name != size]
        return f"{unmarked(node.call.block)}({', '.join(given)})"
    given += [f"{name}: {text}" for name, text in options(node).items()]
    return f"{node.op}({', '.join(given)})"


def options(node: Node) -> Mapping[str, str]:
    """The options of an op that are not its defaults; how weights start is not among them."""
    definition = ops().get(node.op)
    found: dict[str, str] = {}
    for name, value in node.attributes.items():
        known = definition.options.get(name) if definition is not None else None
        default = known.default if known is not None else None
        if isinstance(default, int) and not isinstance(default, bool):
            default = Dim.of(default)
        if not isinstance(value, Init | None) and value != default and name != "conditions":
            found[name] = unmarked(attribute_text(value))
    return found


def attribute_text(value: Attribute) -> str:
    """An attribute as the language writes it."""
    match value:
        case tuple():
            return f"[{', '.join(map(attribute_text, value))}]"
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value}"'
        case None:
            return "none"
        case Symbol():
            return value.name
        case _:
            return str(value)


def choice_text(choice: Choice) -> str:
    """width in {192, 216, 240}, and when it is taken."""
    from spacelang.ir.condition import TRUE

    values = ", ".join(str(plain(value)) for value in choice.values)
    when = "" if choice.live == TRUE else f"   when {condition_text(choice.live)}"
    return unmarked(f"{choice.path} in {{{values}}}{when}")


def condition_text(condition: Condition) -> str:
    """A condition without the marks of sizes."""
    return unmarked(str(condition))


def size_text(symbol: Symbol) -> str:
    """A size of a block, and what it may be."""
    if not symbol.values:
        return unmarked(symbol.name)
    return unmarked(f"{symbol.name} in {{{', '.join(str(plain(v)) for v in symbol.values)}}}")


def _size(size: Dim | Symbol) -> str:
    return size.name if isinstance(size, Symbol) else str(size)


def unmarked(text: str) -> str:
    """`%width` -> `width`: what the caller binds needs no mark for a reader."""
    return re.sub(r"%(?=[A-Za-z_'])", "", text)
