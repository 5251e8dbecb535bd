"""A graph as a `.space` text that loads to the same network (the same `graph.hash`).

    text = write_space(graph)

Each block becomes a block of the text, its sizes named by the axes of what it reads (`x: [B, C]`)
or handed over as arguments; labels and storage rules are all written out. Where the language has no
form for a part of the graph, and where the text would be another network, the error is SP605.
"""

from __future__ import annotations

from collections.abc import Iterator

from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.canonical import merged
from spacelang.ir.dim import Dim
from spacelang.ir.graph import Graph, Output
from spacelang.ir.node import Node, Value
from spacelang.syntax.format import format
from spacelang.syntax.parse import parse
from spacelang.syntax.scope import Library
from spacelang.syntax.session import Session
from spacelang.syntax.spaces import elaborate
from spacelang.syntax.values import SpaceValue
from spacelang.syntax.write_blocks import Blocks, stated
from spacelang.syntax.write_nodes import Body
from spacelang.syntax.write_rest import sections
from spacelang.syntax.write_sizes import Sizes
from spacelang.syntax.write_values import INDENT, NAME, Names, cannot, reserved


def write_space(graph: Graph) -> str:
    """The text of a graph. Raises SpaceError (SP605) that names what has no text."""
    name = f"{graph.name}.space"
    lines = "\n".join(_lines(merged(graph)))
    try:
        written = format(parse(Source(name, lines)))
        again = _loaded(Source(name, written), graph.name)
    except SpaceError as failed:
        found = cannot(graph.name, "its text does not load", graph.root.span)
        raise SpaceError((*found.diagnostics, *failed.diagnostics)) from failed
    if again.hash != graph.hash:
        raise cannot(graph.name, "its text would be another network", graph.root.span)
    return written


def _loaded(source: Source, name: str) -> Graph:
    library = Library(None)
    space = library.scope(parse(source), None).names[name]
    assert isinstance(space, SpaceValue)
    return elaborate(space, name, Session(library), {})


def _lines(graph: Graph) -> Iterator[str]:
    if not NAME.fullmatch(graph.name) or graph.name in reserved():
        raise cannot(f"the space {graph.name}", "its name is none")
    blocks = Blocks(graph)
    body = list(_root(graph, blocks))
    for text in blocks.texts:
        yield text
        yield ""
    yield f"space {graph.name} {{"
    yield from (INDENT + line for line in (*body, *sections(graph)))
    yield "}"


def _root(graph: Graph, blocks: Blocks) -> Iterator[str]:
    """The inputs, statements and outputs of the network's own block."""
    block = graph.root
    inputs: list[str] = []

    def start() -> tuple[Sizes, Body]:
        sizes = Sizes(block, Names(blocks.names.taken))
        body = blocks.body(block, sizes)
        inputs[:] = [_input(node, body) for node in block.inputs]
        return sizes, body

    _, body, lines = stated(block, start, set())
    yield from (*inputs, *lines)
    for output, text in zip(graph.outputs, body.result(block), strict=True):
        yield _output(output, text)


def _input(node: Node, body: Body) -> str:
    if not NAME.fullmatch(node.label) or node.label in reserved():
        raise cannot(f"the input {node.label}", "its name is none", node.span)
    body.names.taken.add(node.label)
    body.name(Value(node.id), node.label)
    shape = ", ".join(body.speller.dim(size, node.span) for size in node.types[0].shape)
    written = f"input {node.label}: [{shape}]"
    match node.attributes.get("within"):
        case (Dim() as first, Dim() as last):
            return f"{written} in {first}..{last}"
        case _:
            return written


def _output(output: Output, text: str) -> str:
    if not output.training and output.name == "output":
        return f"output {text}"
    if not output.training or not NAME.fullmatch(output.name) or output.name in reserved():
        raise cannot(f"the output {output.name}", "one that has a name is for training")
    return f"output {output.name}: {text}"
