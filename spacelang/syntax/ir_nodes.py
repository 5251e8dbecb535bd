"""Blocks and nodes of `.spaceir` text: from pieces of the parse to the classes of the IR."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from spacelang.ir.block import Block
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.node import STRUCTURAL, Attribute, Call, Node, TensorType
from spacelang.ir.node import Value as NodeValue
from spacelang.ir.op import REQUIRED, Option, ops
from spacelang.ir.options import attribute
from spacelang.ir.words import base_name
from spacelang.syntax.ir_declarations import Declarations, is_rule
from spacelang.syntax.ir_sizes import Part, Piece
from spacelang.syntax.tokens import Token


class Parts(NamedTuple):
    """The parts of a node: `value: types = made as label regions`."""

    value: Token
    types: list[Piece]
    made: Piece
    label: Token | None
    regions: list[Piece]


def parts(piece: Piece) -> Parts:
    value, *rest = piece.children
    middle = next(i for i, child in enumerate(rest) if is_rule(child, "applied", "called"))
    types = [child for child in rest[:middle] if child is not None]
    return Parts(value, types, rest[middle], rest[middle + 1], rest[middle + 2 :])


def nodes(piece: Piece) -> Iterator[Piece]:
    """The nodes of a block or region, those of inner regions too."""
    for child in piece.children:
        if is_rule(child, "node"):
            yield child
            for region in parts(child).regions:
                yield from nodes(region)


def _all(piece: Piece, rule: str) -> list[Piece]:
    return [child for child in piece.children if is_rule(child, rule)]


class Blocks(Declarations):
    """Reads blocks whose names are known."""

    def outline(self, piece: Piece) -> Block:
        """A block with what others must know of it: its sizes, decisions and calls."""
        calls: list[Node] = []
        for number, node in enumerate(nodes(piece)):
            found = parts(node)
            if found.made.rule == "called":
                calls.append(Node(number, "call", call=self._call(found)))
        return Block(
            self.word(piece.children[0]),
            tuple(calls),
            (),
            tuple(self.size_of(child) for child in _all(piece, "size")),
            tuple(self.choice_of(child) for child in _all(piece, "decision")),
            span=self.span(piece.children[0]),
        )

    def block(self, piece: Piece, outline: Block) -> Block:
        """The block itself; `outline` is what `outline` made of it."""
        lives = [child.children[4] for child in _all(piece, "decision")]
        return replace(
            outline,
            nodes=self._level(piece, base_name(outline.name)),
            outputs=self._results(piece),
            decisions=tuple(
                choice if live is None else replace(choice, live=self.condition(live))
                for choice, live in zip(outline.decisions, lives, strict=True)
            ),
            params=tuple(self.param_of(child) for child in _all(piece, "param")),
        )

    def free(self, piece: Piece) -> Iterator[str]:
        """The names in the types of a block's inputs."""
        for child in _all(piece, "node"):
            found = parts(child)
            if found.made.rule == "applied" and self.word(found.made.children[0]) == "input":
                waiting: list[Part | None] = list(found.types)
                for part in waiting:
                    if is_rule(part, "size_of"):
                        yield self.word(part.children[0])
                    elif isinstance(part, Piece):
                        waiting += part.children

    # Nodes.

    def _level(self, piece: Piece, owner: str) -> tuple[Node, ...]:
        return tuple(self._node(child, owner) for child in _all(piece, "node"))

    def _results(self, piece: Piece) -> tuple[NodeValue, ...]:
        return tuple(self.value(t) for t in piece.children[-1].children if t is not None)

    def value(self, token: Token) -> NodeValue:
        node, _, index = token.text[1:].partition(".")
        if len(token.text) > 18:
            self.fail("a value of too many digits", token)
        return NodeValue(int(node), int(index or 0))

    def _node(self, piece: Piece, owner: str) -> Node:
        found = parts(piece)
        value = self.value(found.value)
        if value.index:
            self.fail("a node is written under its first value", found.value)
        called = found.made.rule == "called"
        op = "call" if called else self.word(found.made.children[0])
        operands, attributes = self._entries(found.made, op)
        regions = tuple(self._region(region, f"{owner}.{op}", owner) for region in found.regions)
        conditions = tuple(
            self.condition(region.children[0])
            for region in found.regions
            if not _unconditional(region)
        )
        if conditions:
            if len(conditions) < len(regions) or "conditions" in attributes:
                self.fail("either each region has a condition, or none", found.made)
            attributes["conditions"] = conditions
        return Node(
            value.node,
            op,
            operands,
            attributes,
            {} if called else self.views_of(found.made.children[-1]),
            regions,
            self._bound(found) if called else None,
            tuple(self._type(t) for t in found.types),
            "" if found.label is None else self.word(found.label),
            self.span(piece),
        )

    def _type(self, piece: Piece) -> TensorType:
        dtype, shape = piece.children
        return TensorType(tuple(self.dims(shape)), "f32" if dtype is None else self.word(dtype))

    def _region(self, piece: Piece, name: str, owner: str) -> Block:
        named = piece.children[0 if _unconditional(piece) else 1]
        return Block(
            name if named is None else self.word(named),
            self._level(piece, owner),
            self._results(piece),
            span=self.span(piece),
        )

    def _entries(self, made: Piece, op: str) -> tuple[tuple[NodeValue, ...], dict[str, Attribute]]:
        """The operands and attributes of a node; those left out have the op's defaults."""
        definition = ops().get(op)
        if definition is None and op not in STRUCTURAL:
            self.fail(f"no op is called {op}", made.children[0])
        operands: list[NodeValue] = []
        given: list[str] = []
        attributes: dict[str, Attribute] = {}
        options: Mapping[str, Option] = {} if definition is None else definition.options
        for name, option in options.items():
            if option.default is not REQUIRED:
                attributes[name] = attribute(option.default)
        written: set[tuple[str, str]] = set()  # an op may have an operand and an option of one name
        for entry in made.children[1:]:
            if isinstance(entry, Token):
                if given:
                    self.fail("an operand without a name after named ones", entry)
                operands.append(self.value(entry))
            elif is_rule(entry, "operand", "attribute"):
                key, value = entry.children
                name = self.word(key)
                if (entry.rule, name) in written:
                    self.fail(f"{name} is given twice", key)
                written.add((entry.rule, name))
                if entry.rule == "operand":
                    given.append(name)
                    operands.append(self.value(value))
                else:
                    attributes[name] = self._attribute(value)
        if given:
            attributes["given"] = tuple(given)
        return tuple(operands), attributes

    def _attribute(self, part: Part) -> Attribute:
        if isinstance(part, Token):
            self.fail("a value is wanted here", part)
        match part.rule:
            case "string":
                return self.string(part)
            case "true" | "false":
                return part.rule == "true"
            case "none":
                return None
            case "list":
                return tuple(self._attribute(child) for child in part.children if child is not None)
            case "start_of":
                return self.init_of(part.children[0])
            case "condition":
                return self.condition(part.children[0])
            case "symbol":
                return self._narrowed(*part.children)
            case _:
                return self.dim(part)

    def _narrowed(self, token: Token, values: Piece | None) -> Symbol:
        if values is None:
            return self.symbol(token)
        return Symbol(self.word(token), self.candidates(values))

    # Calls.

    def _call(self, found: Parts) -> Call:
        """A call without its sizes, which mean something only in a known scope."""
        path = "" if found.label is None else self.word(found.label)
        written: dict[str, list[str]] = {}
        for piece in found.made.children:
            if is_rule(piece, "path", "decides", "stores", "owns"):
                if piece.rule in written:
                    self.fail("this is said twice", piece)
                written[piece.rule] = [self.word(token) for token in piece.children]
        (path,) = written.get("path", [path])
        (decide,) = written.get("decides", [path])
        (store,) = written.get("stores", [path])
        return Call(
            self.word(found.made.children[0]), path, decide, store, tuple(written.get("owns", ()))
        )

    def _bound(self, found: Parts) -> Call:
        sizes: dict[str, Dim | Symbol] = {}
        for piece in found.made.children:
            for binding in piece.children if is_rule(piece, "bindings") else ():
                key, value = binding.children
                name = self.word(key)
                if name in sizes:
                    self.fail(f"{name} is bound twice", key)
                sizes[name] = self._binding(value)
        return replace(self._call(found), sizes=sizes)

    def _binding(self, piece: Piece) -> Dim | Symbol:
        match piece.rule:
            case "size_of":
                return self.symbol(piece.children[0])
            case "narrowed":
                return self._narrowed(*piece.children)
            case _:
                return self.dim(piece)


def _unconditional(region: Piece) -> bool:
    """Whether a region is written with `do`: then its name, or its absence, stands first."""
    return not isinstance(region.children[0], Piece)
