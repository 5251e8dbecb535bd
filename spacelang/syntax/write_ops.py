"""Ops as calls and operators of the language: their operands, options and sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from spacelang.ir.dim import Dim
from spacelang.ir.node import Attribute, Node, TensorType
from spacelang.ir.op import OpDef, ops
from spacelang.ir.options import attribute
from spacelang.ir.param import Init
from spacelang.ir.words import given_names, same
from spacelang.syntax.write_table import table_text
from spacelang.syntax.write_values import Speller, cannot, reserved, text

ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


class OpWriter:
    """Writes ops; `speller` writes sizes in the names of a block, `rate` those that only scale."""

    def __init__(self, speller: Speller, rate: Speller, free: Callable[[str], str]) -> None:
        self.speller, self.rate, self.free = speller, rate, free

    def op(self, node: Node, operands: Sequence[str], read: Callable[[], TensorType]) -> str:
        """An op applied to the texts of its operands; `read` is the type of the first of them."""
        if node.op in ARITHMETIC:
            return self._arithmetic(node, operands)
        if node.op == "slice":
            return self._slice(node, operands[0], read().shape)
        if node.op == "sum_of":
            return f"total([{', '.join(operands)}])"
        if node.op == "table":
            return table_text(node, self.speller, self.free)
        definition = ops()[node.op]
        if "written" in definition.traits:
            raise cannot(f"the op {node.op}", "the language has no word for it", node.span)
        return self._call(node, definition, operands)

    def _arithmetic(self, node: Node, operands: Sequence[str]) -> str:
        sign, number = ARITHMETIC[node.op], node.attributes["number"]
        flipped = node.attributes["flipped"] is True
        if not isinstance(number, Dim):
            if len(operands) != 2 or flipped:
                raise cannot(f"this {node.op}", "it has no second operand", node.span)
            return f"({operands[0]} {sign} {operands[1]})"
        other = self.speller.operand(number, node.span)
        return f"({other} {sign} {operands[0]})" if flipped else f"({operands[0]} {sign} {other})"

    def _slice(self, node: Node, operand: str, shape: Sequence[Dim]) -> str:
        index = node.attributes["index"]
        entries = index if isinstance(index, tuple) else (index,)
        parts = (self._entry(e, shape[a], node) for a, e in enumerate(entries))
        return f"{operand}[{', '.join(parts)}]"

    def _entry(self, entry: Attribute, size: Dim, node: Node) -> str:
        match entry:
            case None:
                return ":"
            case Dim():
                return self.speller.dim(entry, node.span)
            case (Dim() as start, Dim() as stop):
                if stop == size:
                    return f"{self.speller.dim(start, node.span)}.."
                if start.constant is None:
                    raise cannot("a slice", f"its start {start} hangs on a decision", node.span)
                return f"{self.speller.dim(start, node.span)}..<{self.speller.dim(stop, node.span)}"
            case _:
                raise cannot("a slice", "its index is none that the language has", node.span)

    def _call(self, node: Node, definition: OpDef, operands: Sequence[str]) -> str:
        given = given_names(node)
        plain = list(operands[: len(operands) - len(given)])
        fixed = sum(not name.endswith(("*", "?")) for name in definition.operands)
        many = any(name.endswith("*") for name in definition.operands)
        arguments = [*plain[:fixed], f"[{', '.join(plain[fixed:])}]"] if many else plain
        named = [f"{n}: {v}" for n, v in zip(given, operands[len(plain) :], strict=True)]
        options = self._options(node, definition)
        written = [name for name in definition.options if name in options]
        # An option that is called by a reserved word is told by its place.
        last = max((i for i, n in enumerate(definition.options) if n in reserved()), default=-1)
        for name in list(definition.options)[: last + 1]:
            value = node.attributes[name]
            arguments.append(options.get(name) or self.value(value, node, name))
            written = [n for n in written if n != name]
        first = definition.options[written[0]] if written and last < 0 else None
        if first is not None and written[0] == next(iter(definition.options)):
            # What an op always needs stands by its place: linear(x, 8).
            arguments.append(options[written.pop(0)])
        arguments += [*(f"{name}: {options[name]}" for name in written), *named]
        if "open" in definition.traits:
            arguments += self._sizes(node)
        return f"{node.op}({', '.join(arguments)})"

    def _options(self, node: Node, definition: OpDef) -> dict[str, str]:
        """The options that differ from their defaults."""
        found: dict[str, str] = {}
        for name, option in definition.options.items():
            value = node.attributes[name]
            if same(value, attribute(option.default)):
                continue
            if "open" in definition.traits and name == "sizes":
                continue
            if name == "bias" and "bias" in given_names(node):
                continue
            speller = self.rate if option.kind == "rate" else self.speller
            found[name] = self.value(value, node, name, speller)
        return found

    def _sizes(self, node: Node) -> Iterator[str]:
        """`p: 2, q: 3`: the sizes of an open op by their names."""
        given = node.attributes["sizes"]
        for entry in given if isinstance(given, tuple) else ():
            match entry:
                case (str() as name, Dim() as size):
                    yield f"{name}: {self.speller.dim(size, node.span)}"
                case _:
                    raise cannot(f"a size of {node.op}", "it has no name", node.span)

    def value(self, value: Attribute, node: Node, name: str, speller: Speller | None = None) -> str:
        """The text of an option."""
        speller = speller or self.speller
        match value:
            case None:
                return "none"
            case bool():
                return "true" if value else "false"
            case str():
                return text(value)
            case Dim():
                return speller.dim(value, node.span)
            case Init():
                return speller.init(value, node.span)
            case tuple():
                return f"[{', '.join(self.value(v, node, name, speller) for v in value)}]"
            case _:
                raise cannot(f"{name} of {node.op}", "its value has no word", node.span)
