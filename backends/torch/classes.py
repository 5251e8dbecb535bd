"""Printed classes: a use of a block as an fx graph that is printed, and what it is made with.

    class Attention(nn.Module):        # from ClassWork(source, instance, block)
        def __init__(self, heads, width): ...
        def forward(self, x): ...

The graph never runs: sizes, weights and the mode are placeholders that `printer.py` writes out.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from spacelang.backends.torch.emit import lower_node
from spacelang.backends.torch.extract import part_of
from spacelang.backends.torch.frame import Frame, Number, Size, one_or_all
from spacelang.backends.torch.functions import drop_path
from spacelang.backends.torch.layers import Weight
from spacelang.backends.torch.ports import known, table_of, terms_of
from spacelang.backends.torch.printer import Constant, Made, Printer, name_values
from spacelang.backends.torch.program import main_nodes
from spacelang.backends.torch.spell import free_name, indented
from spacelang.backends.torch.storage import DTYPES
from spacelang.backends.torch.tables import TABLES, listed_index, listed_key
from spacelang.backends.torch.views import Axes, Part, block_key
from spacelang.ir.block import Block
from spacelang.ir.dialect import dotted
from spacelang.ir.dim import Dim
from spacelang.ir.graph import Instance
from spacelang.ir.node import Call, Node, join
from spacelang.ir.param import Gather

if TYPE_CHECKING:
    from spacelang.backends.torch.source import Source


@dataclass(frozen=True)
class ClassText:
    """A printed class. `arguments` are sizes in the terms of its block.

    `reads` says of each of the block's inputs whether this use of it reads that at all.
    """

    name: str
    arguments: tuple[Dim, ...]
    reads: tuple[bool, ...]


class ClassWork:
    """A class in the making: a use of a block, and the transparent calls in it."""

    def __init__(self, source: Source, instance: Instance, block: Block) -> None:
        self.source, self.block = source, block
        self.graph = fx.Graph()
        self.weights: dict[str, Weight] = {}
        self.modules: dict[str, Made] = {}
        self.constants: dict[str, Constant] = {}
        self.leaves: dict[object, fx.Node] = {}
        root = block is source.graph.root
        self._lower(PrintFrame(self, instance, terms_of(block), root))

    def leaf(self, key: object, **meta: object) -> fx.Node:
        """A placeholder that says what it stands for; one for equal keys."""
        if key not in self.leaves:
            first = next((n for n in self.graph.nodes if n.op != "placeholder"), None)
            with self.graph.inserting_before(first):
                node = self.leaves[key] = self.graph.placeholder("leaf")
            node.meta.update(meta)
        return self.leaves[key]

    def _lower(self, frame: PrintFrame) -> None:
        """Fill the graph; what nothing reads goes."""
        for node in self.block.inputs:
            placeholder = self.graph.placeholder("input")
            placeholder.meta["input"] = node.label.rpartition(".")[2] or "x"
            frame.bind(node, (placeholder,))
        self.level(frame, self.block, main_nodes(self.source.graph, self.block))
        if self.block is self.source.graph.root:
            self.graph.output(self.source.chosen.outputs(frame.values))
        else:
            results = tuple(frame.values[v] for v in self.block.outputs)
            self.graph.output(one_or_all(results))
        # The inputs of a network stay; those of a block that this use does not read go too.
        kept = self.block is self.source.graph.root
        inputs = [node for node in self.graph.nodes if "input" in node.meta]
        for node in reversed(self.graph.nodes):
            if not node.users and node.op != "output" and not (kept and "input" in node.meta):
                self.graph.erase_node(node)
        left = set(self.graph.nodes)
        self.reads = tuple(node in left for node in inputs)
        self.untap()

    def level(self, frame: PrintFrame, level: Block, there: frozenset[int] | None = None) -> None:
        """Lower the nodes of a block or region that run."""
        chosen = self.source.chosen
        for node in level.nodes:
            if node.op == "input" or (there is not None and node.id not in there):
                continue
            if node.call is not None:
                self.call(frame, node, node.call)
            elif node.regions:
                region = chosen.region(frame.instance, node)
                if region is None:
                    frame.bind(node, [frame.values[v] for v in node.operands[: len(node.types)]])
                else:
                    inside = PrintFrame(self, frame.instance, frame.terms, frame.literal)
                    self.inline(frame, node, inside, region)
            else:
                lower_node(frame, node)
                if node.values:
                    name_values(node, frame.values[node.values[0]])
                    self.tap(frame, node)

    def tap(self, frame: PrintFrame, node: Node) -> None:
        """A labelled value that no layer computes is passed through a module of that name."""
        made = frame.values[node.values[0]]
        if not node.label or node.params or not isinstance(made, fx.Node):
            return
        prefix = frame.instance.path if self.source.flat else frame.terms.path
        path = dotted(join(prefix, node.label))
        if "table" in made.meta:  # which is a buffer of that name
            return
        self.modules[path] = Made(path, "nn.Identity", ())
        frame.values[node.values[0]] = self.graph.call_module(path, (made,))

    def untap(self) -> None:
        """Take those modules out again whose name others need."""
        owned = {*self.weights, *self.constants, *self.modules}
        for node in list(self.graph.nodes):
            path = str(node.target)
            if node.op != "call_module" or self.modules[path].kind != "nn.Identity":
                continue
            near = (o for o in owned if o.startswith(path + ".") or path.startswith(o + "."))
            if path in self.weights or next(near, None) is not None:
                node.replace_all_uses_with(node.args[0])
                self.graph.erase_node(node)
                del self.modules[path]

    def inline(self, frame: PrintFrame, node: Node, inside: PrintFrame, level: Block) -> None:
        for owner, value in zip(level.inputs, node.operands, strict=True):
            inside.bind(owner, (frame.values[value],))
        self.level(inside, level)
        frame.bind(node, tuple(inside.values[v] for v in level.outputs))

    def call(self, frame: PrintFrame, node: Node, call: Call) -> None:
        """A call: the module of its class, or written out."""
        source = self.source
        block = source.graph.blocks[call.block]
        callee, terms = frame.instance.enter(call, block), frame.terms.enter(call, block)
        literal = frame.literal or call.decide.startswith("/")
        inside = PrintFrame(self, callee, terms, literal)
        if source.flat or not call.path:
            self.inline(frame, node, inside, block)
            return
        made = source.of(callee, block)
        path = dotted(terms.path)
        self.modules[path] = Made(path, made.name, tuple(inside.dim(d) for d in made.arguments))
        given = zip(node.operands, made.reads, strict=True)
        operands: tuple[Any, ...] = tuple(frame.values[v] for v, reads in given if reads)
        result = self.graph.call_module(path, operands)
        if len(node.types) == 1:
            frame.bind(node, (result,))
            return
        result.meta["several"] = len(node.types)
        items = (
            self.graph.call_function(operator.getitem, (result, i)) for i in range(len(node.types))
        )
        frame.bind(node, tuple(items))

    def text(self) -> tuple[tuple[Dim, ...], str]:
        """The arguments of the class and its body."""
        read = {n.meta[k] for n in self.graph.nodes for k in ("weight", "table") if k in n.meta}
        called = {str(n.target) for n in self.graph.nodes if n.op == "call_module"}
        printer = Printer(
            self.graph,
            {p: w for p, w in self.weights.items() if p in read},
            {p: m for p, m in self.modules.items() if p in called},
            {p: c for p, c in self.constants.items() if p in read},
        )
        forward = "\n".join(printer.forward())
        made = printer.init()
        self.source.helpers |= printer.helpers
        given = printer.sizes.arguments
        kept = [f"self.{n} = {n}" for n in given.values() if re.search(rf"self\.{n}\b", forward)]
        inputs = [printer.texts[n][0] for n in self.graph.nodes if "input" in n.meta]
        read_inputs = (n for n, reads in zip(self.block.inputs, self.reads, strict=True) if reads)
        types = ", ".join(str(n.types[0]) for n in read_inputs).replace("%", "")
        results = ", ".join(str(self.block.type_of(v)) for v in self.block.outputs).replace("%", "")
        init = "\n".join(["super().__init__()", *kept, *made])
        lines = [
            f'"""{types or "Nothing"} -> {results}"""',
            "",
            f"def __init__({', '.join(['self', *given.values()])}):",
            indented(init),
            "",
            f"def forward({', '.join(['self', *inputs])}):",
            indented(forward),
        ]
        return tuple(given), indented("\n".join(lines)) + "\n"


class PrintFrame(Frame):
    """A level of the class: its weights are attributes, its sizes are written by the arguments.

    `terms` is the level in terms of the class; in a `literal` one all sizes are numbers.
    """

    def __init__(self, work: ClassWork, instance: Instance, terms: Instance, literal: bool) -> None:
        super().__init__(work.graph)
        self.work, self.instance, self.terms, self.literal = work, instance, terms, literal
        self.chosen = work.source.chosen
        self.key = block_key(instance, work.source.graph)

    def dim(self, dim: Dim) -> Dim:
        """A size in terms of the class."""
        found = dim if self.literal else self.terms.absolute(dim)
        if found.symbols and not self.literal:
            return found
        return Dim.of(self.instance.absolute(dim).at(self.chosen.values))

    def known(self, dim: Dim) -> Size:
        found = self.dim(dim)
        if found.constant is not None:
            return int(found.constant)
        return self.work.leaf(found, size=found)

    def number(self, dim: Dim) -> Number:
        found = self.dim(dim)
        return known(found, {}) if found.constant is not None else self.work.leaf(found, size=found)

    def stored(self, node: Node, role: str) -> tuple[fx.Node, Axes]:
        view, source = node.params[role], self.work.source
        owner = self.chosen.owner(self.instance, view)
        path = dotted(owner if source.flat else join(self.terms.path, view.param))
        reads, kept = self.chosen.ranges(self.instance, view), source.kept[owner]
        axes: list[tuple[Part, ...]] = []
        sizes: list[Dim] = []
        for parts, rs, ks in zip(view.index, reads, kept, strict=True):
            axis = [part_of(r, k, f) for f, (r, k) in enumerate(zip(rs, ks, strict=True))]
            if rs == ks:  # written by the arguments, where all that is kept is read
                axis = [
                    replace(part, length=given.length, extent=given.length)
                    for part, given in zip(axis, parts, strict=True)
                ]
            axes.append(tuple(axis))
            extents = (self.dim(p.extent) for p in axis if p.extent is not None)
            sizes.append(prod(extents, start=Dim.of(1)))
        param = source.graph.storages[self.instance.param(view.param)].param
        buffer, dtype = param.role == "buffer", DTYPES[param.dtype]
        self.work.weights.setdefault(path, Weight(path, tuple(sizes), buffer, dtype))
        return self.work.leaf(path, weight=path), tuple(axes)

    def extent(self, node: Node, role: str, axis: int, factor: int) -> Size:
        owner = self.chosen.owner(self.instance, node.params[role])
        return len(self.work.source.kept[owner][axis][factor])

    def entries(self, node: Node) -> int | None:
        return self.work.source.splits.get((self.key, node.id))

    def table(self, node: Node) -> fx.Node:
        spec = table_of(node)
        options = tuple((n, self.dim(v) if isinstance(v, Dim) else v) for n, v in spec.options)
        if node.label:
            prefix = self.instance.path if self.work.source.flat else self.terms.path
            path = dotted(join(prefix, node.label))
        else:
            path = self._unlabelled(node.op, TABLES[node.op], options)
        self.work.constants[path] = Constant(path, TABLES[node.op], options, bool(node.label))
        return self.work.leaf(path, table=path)

    def _unlabelled(
        self,
        name: str,
        function: Callable[..., Tensor],
        options: tuple[tuple[str, Dim | float | str], ...],
    ) -> str:
        """A free name for a table, the same for equal ones."""
        for path, constant in self.work.constants.items():
            same = constant.function is function and constant.options == options
            if same and not constant.persistent:
                return path
        return free_name(name, {*self.work.constants, *self.work.weights, *self.work.modules})

    def entry_table(self, node: Node, gather: Gather | tuple[int, ...]) -> fx.Node:
        assert isinstance(gather, tuple)
        options = listed_key(gather).options
        path = self._unlabelled("entries", listed_index, options)
        self.work.constants[path] = Constant(path, listed_index, options, False)
        return self.work.leaf(path, table=path)

    def by_mode(self, function: Callable[..., Tensor], arguments: tuple[Any, ...]) -> fx.Node:
        mode = self.work.leaf("mode", mode=True)
        found = self.graph.call_function(function, (*arguments, mode))
        x = arguments[0]
        found.meta["rank"] = next((t.rank for v, t in self.types.items() if self.values[v] is x), 0)
        return found

    def drop_path(self, node: Node, x: fx.Node, rate: Dim) -> fx.Node:
        value = self.number(rate)
        return x if value == 0 else self.by_mode(drop_path, (x, value))
