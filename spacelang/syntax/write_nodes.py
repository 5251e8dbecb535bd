"""Nodes of a graph as statements and expressions of the language: one line a node.

A region of a guard is a `when`; a choice between two conditions `when .. else`; a choice by a path
is `choose op { .. }`, whose alternatives are expressions: a value that one of them reads twice is
bound by `[.. for v in [value]][0]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from spacelang.ir.block import Block
from spacelang.ir.condition import Condition, Is, conjunction, negate
from spacelang.ir.decision import Choice
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.graph import conditions
from spacelang.ir.node import Attribute, Call, Node, TensorType, Value, join
from spacelang.ir.op import OpDef, ops
from spacelang.ir.options import attribute
from spacelang.ir.param import Init
from spacelang.ir.text import given_names, same
from spacelang.syntax.operations import LISTS
from spacelang.syntax.write_split import Split, alternatives
from spacelang.syntax.write_values import Names, Speller, candidate, cannot, label, reserved, text

ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
INDENT = "  "


@dataclass
class Callee:
    """How a block is called: its name in the text, and the sizes that it takes as arguments."""

    name: str
    cell: bool
    sizes: Mapping[str, str] = field(default_factory=dict[str, str])
    rates: frozenset[str] = frozenset()


class Body:
    """Writes the body of one block.

    `names` are free names, `speller` writes sizes in the names of the block, `rate` those that
    only scale, `callee` says how a call's block is called, `split` how several by a decision.
    """

    def __init__(
        self,
        block: Block,
        names: Names,
        speller: Speller,
        rate: Speller,
        callee: Callable[[Call], Callee],
        split: Callable[[Split], tuple[Callee, Call]],
        variables: dict[str, str],
    ) -> None:
        self.block, self.names, self.speller, self.rate = block, names, speller, rate
        self.callee, self.split, self.variables = callee, split, variables
        self.values: dict[Value, str] = {}
        self.waiting = list(block.decisions)

    # Levels.

    def lines(self, level: Block, guards: tuple[Condition, ...], prefix: str) -> Iterator[str]:
        """The statements of a block or of a `when`; its inputs have their names already."""
        live = conjunction(*guards)
        for node in level.nodes:
            if node.op == "input":
                continue
            yield from self._decisions(live, node)
            yield from self._statement(node, guards, prefix)
        yield from self._decisions(live, None)

    def _decisions(self, live: Condition, before: Node | None) -> Iterator[str]:
        """The decisions that come next in the order of the block and are taken here.

        A path is decided where its alternatives stand; `before` is the node that comes next.
        """
        while self.waiting:
            choice = self.waiting[0]
            if choice.live != live or choice.kind == "path":
                return
            self.waiting.pop(0)
            yield from self.decide(choice)

    def decide(self, choice: Choice) -> Iterator[str]:
        """`choose width in {..}`; an index makes it a loop of one turn, that binds another name."""
        name, bracket, _ = choice.path.partition("[")
        if not name.isidentifier() or name in reserved():
            raise cannot(f"the decision {choice.path}", "it is the argument of a call", choice.span)
        if choice.kind == "pick":
            candidate(choice.values[0])
        domain = f"{{{', '.join(map(candidate, choice.values))}}}"
        hull = f" within {{{', '.join(map(candidate, choice.hull))}}}" if choice.hull else ""
        variable = self.variables[choice.path]
        statement = f"choose {choice.path} in {domain}{hull}"
        if variable == name and not bracket:
            yield statement
        else:
            turn = self.names.free("turn")
            yield f"for {turn} in 0..<1 {{ {statement}  let {variable} = {name} }}"
        if choice.kind == "presence":
            yield f"for {self.names.free('turn')} in 0..<{variable} {{ }}"

    # Statements.

    def _statement(self, node: Node, guards: tuple[Condition, ...], prefix: str) -> Iterator[str]:
        split = alternatives(node)
        if split is not None:
            callee, call = self.split(split)
            made = replace(split.node, op="call", call=call, label=call.path)
            expression = self._called(
                made, call, callee, [self.values[v] for v in split.operands], prefix
            )
            names = self._name(replace(made, id=node.id, types=node.types))
            yield f"{', '.join(names)} = {expression}"
            return
        if node.op == "guard" or (node.op == "choose" and not self._by_path(node)):
            yield from self._when(node, guards, prefix)
            return
        expression = self.expression(node, prefix)
        names = self._name(node)
        if len(names) == 1 and node.op in LISTS:
            expression += "[0]"
        yield f"{', '.join(names)} = {expression}"

    def _name(self, node: Node) -> list[str]:
        """Names for the values of a node, after its label if it has one."""
        wish = node.label.rpartition(".")[2].partition("[")[0] if node.label else ""
        names: list[str] = []
        for value in node.values:
            names.append(self.names.free(wish or f"v{node.id}"))
            self.values[value] = names[-1]
        return names

    def _when(self, node: Node, guards: tuple[Condition, ...], prefix: str) -> Iterator[str]:
        if node.label:
            raise cannot(f"the label {node.label}", "a `when` has no label", node.span)
        truths = conditions(node)
        if node.op == "choose" and (len(truths) != 2 or truths[1] != negate(truths[0])):
            raise cannot(
                f"a choice by {truths[0]}", "its conditions are no `when .. else`", node.span
            )
        names = self._name(node)
        if node.op == "guard":
            for name, value in zip(names, node.operands, strict=False):
                yield f"{name} = {self.values[value]}"
        for position, (region, truth) in enumerate(zip(node.regions, truths, strict=True)):
            for value, inner in zip(node.operands, region.inputs, strict=True):
                self.values[Value(inner.id)] = self.values[value]
            yield "} else {" if position else f"when {self.speller.condition(truth, node.span)} {{"
            for line in self.lines(region, (*guards, truth), prefix):
                yield INDENT + line
            for name, value in zip(names, region.outputs, strict=True):
                yield f"{INDENT}{name} = {self.values[value]}"
        yield "}"

    def _by_path(self, node: Node) -> bool:
        """Whether a choice is one by a path that this block decides, under the path's label."""
        wanted = [choice for choice in self.block.decisions if choice.path == node.label]
        if not wanted or wanted[0].kind != "path":
            return False
        truths = tuple(Is(wanted[0].symbol, value) for value in wanted[0].values)
        return conditions(node) == truths

    # Expressions.

    def expression(self, node: Node, prefix: str) -> str:
        """A node applied to the names of its operands."""
        return self._expression(node, [self.values[v] for v in node.operands], prefix)

    def _expression(self, node: Node, operands: Sequence[str], prefix: str) -> str:
        if node.call is not None:
            return self._call(node, node.call, operands, prefix)
        if node.op == "choose":
            return self._choose(node, operands, prefix)
        if node.op == "identity":
            return self._tagged(operands[0], node, prefix)
        if node.op == "guard":
            raise cannot("a part that may be absent", "an alternative is an expression", node.span)
        if node.op in ARITHMETIC:
            return self._tagged(self._arithmetic(node, operands), node, prefix)
        if node.op == "slice":
            return self._tagged(self._slice(node, operands[0]), node, prefix)
        return self._op(node, ops()[node.op], operands, prefix)

    def _tagged(self, written: str, node: Node, prefix: str) -> str:
        return f"({written}) as {self._label(node, prefix)}" if node.label else written

    def _label(self, node: Node, prefix: str) -> str:
        """The label of a node below the prefix of the alternative that it stands in."""
        path = node.label
        if prefix and path == prefix:
            return "_"
        if prefix:
            if not path.startswith(prefix + "."):
                raise cannot(f"the label {path}", f"it stands inside of {prefix}", node.span)
            path = path[len(prefix) + 1 :]
        return label(path, node.span)

    def _arithmetic(self, node: Node, operands: Sequence[str]) -> str:
        sign, number = ARITHMETIC[node.op], node.attributes["number"]
        flipped = node.attributes["flipped"] is True
        if not isinstance(number, Dim):
            if len(operands) != 2 or flipped:
                raise cannot(f"this {node.op}", "it has no second operand", node.span)
            return f"{_part(operands[0])} {sign} {_part(operands[1])}"
        other = self.speller.operand(number, node.span)
        if flipped:
            return f"{other} {sign} {_part(operands[0])}"
        return f"{_part(operands[0])} {sign} {other}"

    def _slice(self, node: Node, operand: str) -> str:
        index = node.attributes["index"]
        entries = index if isinstance(index, tuple) else (index,)
        shape = self._read(node).shape
        parts = (self._entry(e, shape[a], node) for a, e in enumerate(entries))
        return f"{_part(operand)}[{', '.join(parts)}]"

    def _read(self, node: Node) -> TensorType:
        """The type of a node's first operand."""
        waiting = [self.block]
        for level in waiting:
            if node.id in level.by_id:
                return level.type_of(node.operands[0])
            waiting += [region for inner in level.nodes for region in inner.regions]
        raise KeyError(node.id)

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

    def _op(self, node: Node, definition: OpDef, operands: Sequence[str], prefix: str) -> str:
        if "written" in definition.traits:
            raise cannot(f"the op {node.op}", "the language has no word for it", node.span)
        if any(v.param != join(node.label, role) for role, v in node.params.items()):
            raise cannot(f"%{node.id}", "its parameters are kept in another place", node.span)
        given = given_names(node)
        plain = list(operands[: len(operands) - len(given)])
        many = any(name.endswith("*") for name in definition.operands)
        arguments = [f"[{', '.join(plain)}]"] if many else plain
        named = [f"{n}: {v}" for n, v in zip(given, operands[len(plain) :], strict=True)]
        options = self._options(node, definition)
        written = [name for name in definition.options if name in options]
        # An option that is called by a reserved word is told by its place.
        last = max((i for i, n in enumerate(definition.options) if n in reserved()), default=-1)
        for name in list(definition.options)[: last + 1]:
            value = node.attributes[name]
            arguments.append(options.get(name) or self._value(value, node, name))
            written = [n for n in written if n != name]
        arguments += [*(f"{name}: {options[name]}" for name in written), *named]
        if "open" in definition.traits:
            arguments += self._sizes(node)
        call = f"{node.op}({', '.join(arguments)})"
        if node.label or node.params:
            call += f" as {self._label(node, prefix)}"
        return call

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
            found[name] = self._value(value, node, name, speller)
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

    def _value(
        self, value: Attribute, node: Node, name: str, speller: Speller | None = None
    ) -> str:
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
                return f"[{', '.join(self._value(v, node, name, speller) for v in value)}]"
            case _:
                raise cannot(f"{name} of {node.op}", "its value has no word", node.span)

    # Calls.

    def _call(self, node: Node, call: Call, operands: Sequence[str], prefix: str) -> str:
        return self._called(node, call, self.callee(call), operands, prefix)

    def _called(
        self, node: Node, call: Call, callee: Callee, operands: Sequence[str], prefix: str
    ) -> str:
        if call.path != node.label:
            raise cannot(f"the label {node.label}", f"its call stands at {call.path}", node.span)
        if call.own:
            raise cannot(f"the call {call.path}", "it owns a part of tied parameters", node.span)
        if call.decide != (f"/{callee.name}" if callee.cell else call.path):
            raise cannot(
                f"the call {call.path}", f"its decisions are kept at {call.decide}", node.span
            )
        arguments = list(operands)
        for size, name in callee.sizes.items():
            value = call.sizes[size]
            speller = self.rate if size in callee.rates else self.speller
            if isinstance(value, Dim):
                written = speller.dim(value, node.span)
            else:
                written = speller.name(value)
            arguments.append(f"{name}: {written}")
        return f"{callee.name}({', '.join(arguments)}) as {self._label(node, prefix)}"

    # Alternatives.

    def _choose(self, node: Node, operands: Sequence[str], prefix: str) -> str:
        """`choose op { k3: .. k5: .. }`, which declares its decision."""
        if not self._by_path(node):
            raise cannot("a choice", "an alternative is an expression", node.span)
        choice = next(c for c in self.block.decisions if c.path == node.label)
        if self.waiting[:1] != [choice]:
            raise cannot(f"the decision {choice.path}", "it is taken in another order", node.span)
        self.waiting.pop(0)
        options: list[str] = []
        for region, value in zip(node.regions, choice.values, strict=True):
            if not isinstance(value, str) or not value.isidentifier() or value in reserved():
                raise cannot(f"the alternative {value}", "it is no name", node.span)
            for outer, inner in zip(operands, region.inputs, strict=True):
                self.values[Value(inner.id)] = outer
            options.append(f"{value}: {self._alternative(region, f'{choice.path}.{value}')}")
        name = choice.path
        if prefix:
            name = name[len(prefix) + 1 :]
        return f"choose {name} {{ {'  '.join(options)} }}"

    def _alternative(self, region: Block, prefix: str) -> str:
        """A region as one expression."""
        if len(region.outputs) != 1:
            raise cannot("an alternative", "it yields several values")
        uses: dict[Value, int] = {}
        for values in (*(n.operands for n in region.nodes), region.outputs):
            for value in values:
                uses[value] = uses.get(value, 0) + 1
        bound: list[tuple[str, str]] = []
        for node in region.nodes:
            if node.op == "input":
                continue
            written = self.expression(node, prefix)
            if len(node.values) == 1 and uses.get(node.values[0], 0) == 1 and node.op not in LISTS:
                self.values[node.values[0]] = written
            else:
                names = self._name(node)
                ending = "[0]" if len(names) == 1 and node.op in LISTS else ""
                bound.append((", ".join(names), written + ending))
        found = self.values[region.outputs[0]]
        for names, written in reversed(bound):
            found = f"[{found} for {names} in [{written}]][0]"
        return found


def _part(written: str) -> str:
    """An expression beside an operator or before a bracket."""
    simple = written.isidentifier() or (written.endswith(")") and written.count("(") == 1)
    return written if simple else f"({written})"


def by_name(symbol: Symbol, variables: Mapping[str, str]) -> str:
    """What a decision is called in the text, if it has a name there."""
    found = variables.get(symbol.name)
    if found is None:
        raise cannot(f"the decision {symbol.name}", "an expression cannot name it from here")
    return found
