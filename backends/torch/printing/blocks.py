"""Printed blocks: a block of a space as a Python function of tensors, weights, sizes and decisions.

    def encoder(w, x, width, heads, ratio, training):      # from BlockWork(source, block)
        x = x + attention(w.at("attn"), F.layer_norm(..), width=width, heads=heads)

A block is lowered by the rules that lower it everywhere, into one fx graph that is printed and
never runs: weights, sizes and decisions are placeholders with a text, and markers tell where a
guard or choice begins and ends.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from spacelang.backends.torch.lowering.emit import lower_node
from spacelang.backends.torch.lowering.frame import Frame, Size
from spacelang.backends.torch.lowering.functions import drop_path
from spacelang.backends.torch.lowering.ports import known, table_of
from spacelang.backends.torch.lowering.tables import TABLES, parts_index
from spacelang.backends.torch.lowering.views import Axes
from spacelang.backends.torch.printing.block_printer import (
    MODE,
    Begin,
    BlockPrinter,
    Called,
    Case,
    End,
    Joined,
    Mark,
    mark_of,
    marked,
)
from spacelang.backends.torch.printing.expressions import Expressions, literal
from spacelang.backends.torch.printing.printer import name_values
from spacelang.backends.torch.printing.spell import called, escaped, free_name, indented, quoted
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.dialect import dotted
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.gather import PARTS, sizes_of
from spacelang.ir.graph import conditions
from spacelang.ir.node import Call, Node
from spacelang.ir.param import Gather

if TYPE_CHECKING:
    from spacelang.backends.torch.printing.supernet_source import SupernetSource

Need = Symbol | tuple[Symbol, ...] | str
"""What a function takes beside tensors: a size or decision, a place in a bank, or the mode."""


class BlockWork:
    """The function of a block in the making."""

    def __init__(self, source: SupernetSource, block: Block, name: str, every: bool) -> None:
        self.source, self.block, self.name = source, block, name
        self.root = block is source.graph.root
        self.key = "" if self.root else block.name
        self.graph = fx.Graph()
        self.leaves: dict[str, fx.Node] = {}
        self.needs: dict[Need, str] = {}
        self.callees: set[str] = set()
        self.expressions = Expressions(self.symbol)
        self.inputs = [n.label.rpartition(".")[2] or "x" for n in block.inputs]
        frame = BlockFrame(self)
        for node, label in zip(block.inputs, self.inputs, strict=True):
            placeholder = self.graph.placeholder("input")
            placeholder.meta["input"] = label
            frame.bind(node, (placeholder,))
        self.level(frame, block, source.main if self.root and not every else None)
        self.graph.output(source.results(self.block, frame.values, every))
        for node in reversed(self.graph.nodes):
            marker = isinstance(mark_of(node), Begin | Case | End)
            kept = marker or node.op == "output" or "input" in node.meta
            if not node.users and not kept:
                self.graph.erase_node(node)

    # What the function takes.

    def symbol(self, symbol: Symbol) -> str:
        """A size or decision, by the name that it has in the function."""
        if self.root:
            return f"d[{quoted(symbol.name.removeprefix('/'))}]"
        return self.need(symbol, symbol.name.removeprefix("/"))

    def need(self, need: Need, name: str) -> str:
        if need not in self.needs:
            taken = {"w", "d", MODE, *self.inputs, *self.needs.values()}
            self.needs[need] = MODE if need == MODE else free_name(name, taken)
        return self.needs[need]

    def position(self, symbols: Sequence[Symbol], name: str) -> str:
        """Which tensor of a bank is read, by the decisions that it is picked by."""
        kept = tuple(dict.fromkeys(s for s in symbols if len(s.values) > 1))
        sizes = {s.name for s in self.block.sizes}
        if any(s.name in sizes for s in kept):
            return self.need(kept, f"{name}_index")
        text = "0"
        for symbol in kept:
            values = ", ".join(literal(v) for v in symbol.values)
            index = f"[{values}].index({self.symbol(symbol)})"
            text = index if text == "0" else f"({text}) * {len(symbol.values)} + {index}"
        return text

    def given(self, call: Call, symbol: Symbol) -> Dim | Symbol:
        """What a symbol of a called block is here."""
        if symbol.name in call.sizes:
            return call.sizes[symbol.name]
        absolute = symbol.name.startswith("/")
        path = symbol.name if absolute or not call.decide else f"{call.decide}.{symbol.name}"
        return Symbol(path, symbol.values)

    def supply(self, call: Call, need: Need) -> str:
        """The text of what a called function needs."""
        if isinstance(need, str):
            return self.mode()
        if isinstance(need, Symbol):
            found = self.given(call, need)
            if isinstance(found, Symbol):
                return self.symbol(found)
            return self.expressions.sum(found)
        symbols: list[Symbol] = []
        for symbol in need:
            found = self.given(call, symbol)
            several = [found] if isinstance(found, Symbol) else sorted(found.symbols, key=str)
            if len(several) > 1:
                text = f"{call.block} picks weights by {found}, of which no source is printed"
                raise SpaceError(error("SP605", text))
            symbols += several
        return self.position(symbols, call.block)

    @property
    def arguments(self) -> dict[Need, str]:
        """What it needs, by the names of the arguments, the mode last."""
        return dict(sorted(self.needs.items(), key=lambda item: item[0] == MODE))

    def mode(self) -> str:
        return MODE if self.root else self.need(MODE, MODE)

    def leaf(self, text: str) -> fx.Node:
        """A placeholder with a text; one for equal texts."""
        if text not in self.leaves:
            first = next((n for n in self.graph.nodes if n.op != "placeholder"), None)
            with self.graph.inserting_before(first):
                node = self.leaves[text] = self.graph.placeholder("leaf")
            node.meta["text"] = text
        return self.leaves[text]

    # What it does.

    def level(self, frame: BlockFrame, level: Block, there: frozenset[int] | None = None) -> None:
        for node in level.nodes:
            if node.op == "input" or (there is not None and node.id not in there):
                continue
            if node.call is not None:
                self.call(frame, node, node.call)
            elif node.regions:
                self.fork(frame, node)
            else:
                lower_node(frame, node)
                if node.values:
                    name_values(node, frame.values[node.values[0]])

    def call(self, frame: BlockFrame, node: Node, call: Call) -> None:
        function = self.source.function(self.source.graph.blocks[call.block])
        self.callees.add(function.name)
        numbers = tuple(
            f"{name}={self.supply(call, need)}" for need, name in function.needs.items()
        )
        operands: tuple[Any, ...] = tuple(frame.values[v] for v in node.operands)
        result = self.mark(Called(function.name, _weights(call), numbers), operands)
        result.meta["label"] = _word(call.path or call.block)
        if len(node.types) == 1:
            frame.bind(node, (result,))
            return
        result.meta["several"] = len(node.types)
        items = (
            self.graph.call_function(operator.getitem, (result, i)) for i in range(len(node.types))
        )
        frame.bind(node, tuple(items))

    def fork(self, frame: BlockFrame, node: Node) -> None:
        """A guard or a choice: every case stands in the graph, one after the other."""
        tests = tuple(self.expressions.condition(c) for c in conditions(node))
        count = len(node.types)
        falls: tuple[Any, ...] = ()
        if node.op == "guard":
            falls = tuple(frame.values[v] for v in node.operands[:count])
        begin = self.mark(Begin(tests, count), falls)
        ends: list[fx.Node] = []
        for number, region in enumerate(node.regions):
            self.mark(Case(number), (begin,))
            inside = BlockFrame(self, frame)
            for owner, value in zip(region.inputs, node.operands, strict=True):
                inside.bind(owner, (frame.values[value],))
            self.level(inside, region)
            results: tuple[Any, ...] = tuple(inside.values[v] for v in region.outputs)
            ends.append(self.mark(End(number == len(node.regions) - 1), (begin, *results)))
        joined = [self.mark(Joined(i), (begin, *ends)) for i in range(count)]
        if joined:
            name_values(node, joined[0])
        frame.bind(node, joined)

    def mark(self, mark: Mark, arguments: tuple[Any, ...]) -> fx.Node:
        node = self.graph.call_function(marked, arguments)
        node.meta["mark"] = mark
        return node

    def text(self) -> str:
        """The function as source."""
        printer = BlockPrinter(self)
        body = printer.forward()
        self.source.helpers |= printer.helpers | self.expressions.helpers
        names = [printer.texts[n][0] for n in self.graph.nodes if "input" in n.meta]
        given = ["d", MODE] if self.root else list(self.arguments.values())
        types = ", ".join(str(n.types[0]) for n in self.block.inputs).replace("%", "")
        results = ", ".join(str(self.block.type_of(v)) for v in self.block.outputs).replace("%", "")
        says = f'"""{escaped(types or "Nothing")} -> {escaped(results)}"""\n'
        head = "" if self.root else says
        signature = called(f"def {self.name}", ["w", *names, *given])
        return f"{signature}:\n{indented(head + chr(10).join(body))}\n"


def _weights(call: Call) -> str:
    """The weights of a call, as those of the caller lead to them."""
    path, store = dotted(call.path), dotted(call.store)
    given = [quoted(path)]
    if store != path:
        given.append(quoted(store))
    if call.own:
        own = ", ".join(quoted(dotted(o)) for o in call.own)
        given.append(f"own=({own},)")
    return "w" if given == ['""'] else f"w.at({', '.join(given)})"


def _word(path: str) -> str:
    """The last label of a path that is a name."""
    words = dotted(path).split(".")
    return next((word for word in reversed(words) if word.isidentifier()), "x")


class BlockFrame(Frame):
    """A block or one of its regions; what a region finds at hand is that of the levels above."""

    def __init__(self, work: BlockWork, above: BlockFrame | None = None) -> None:
        super().__init__(work.graph)
        self.work = work
        if above is not None:
            self.values |= above.values
            self.types |= above.types
            self._free |= above._free
            self._unflattened |= above._unflattened

    def known(self, dim: Dim) -> Size:
        if not dim.symbols:
            return int(dim.at({}))
        return self.work.leaf(self.work.expressions.size(dim))

    def number(self, dim: Dim) -> int | float | fx.Node:
        if not dim.symbols:
            return known(dim, {})
        return self.work.leaf(self.work.expressions.number(dim))

    def stored(self, node: Node, role: str) -> tuple[fx.Node, Axes]:
        path, work = node.params[role].param, self.work
        block = work.block
        axes = work.source.lowering.layouts[work.key, node.id, role]
        bank = block.param[path].bank
        if not bank:
            return work.leaf(f"w[{quoted(dotted(path))}]"), axes
        symbols = {s.name: s for s in (*block.sizes, *(c.symbol for c in block.decisions))}
        position = work.position([symbols[name] for name in bank], path)
        return work.leaf(f"w.pick({quoted(dotted(path))}, {position})"), axes

    def extent(self, node: Node, role: str, axis: int, factor: int) -> Size:
        path = node.params[role].param
        self.work.source.extents = True
        return self.work.leaf(f"w.extent({quoted(dotted(path))}, {axis}, {factor})")

    def entries(self, node: Node) -> int | None:
        return self.work.source.lowering.splits.get((self.work.key, node.id))

    def table(self, node: Node) -> fx.Node:
        function = TABLES[node.op]
        self.work.expressions.helpers[function.__name__] = function
        options = [
            f"{n}={self.work.expressions.number(v) if isinstance(v, Dim) else literal(v)}"
            for n, v in table_of(node).options
        ]
        return self.work.leaf(f"w.table({', '.join([function.__name__, *options])})")

    def entry_table(self, node: Node, gather: Gather | tuple[int, ...]) -> fx.Node:
        if not isinstance(gather, Gather) or gather.table != PARTS:
            return super().entry_table(node, gather)
        self.work.expressions.helpers[parts_index.__name__] = parts_index
        names = ["length"]
        names += [f"{n}{k}" for k in range(len(gather.arguments) // 2) for n in ("size", "largest")]
        sizes = map(self.work.expressions.size, sizes_of(gather))
        options = [f"{name}={size}" for name, size in zip(names, sizes, strict=True)]
        return self.work.leaf(f"w.table({', '.join([parts_index.__name__, *options])})")

    def by_mode(self, function: Callable[..., Tensor], arguments: tuple[Any, ...]) -> fx.Node:
        mode = self.work.leaf(self.work.mode())
        return self.graph.call_function(function, (*arguments, mode))

    def drop_path(self, node: Node, x: fx.Node, rate: Dim) -> fx.Node:
        return x if rate == 0 else self.by_mode(drop_path, (x, self.number(rate)))
