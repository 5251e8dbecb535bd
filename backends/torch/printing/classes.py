"""Printed classes: a use of a block as an fx graph that is printed, and what it is made with.

    class Attention(nn.Module):        # from ClassWork(source, level)
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

from torch import Tensor, fx, nn

from spacelang.backends.torch.extract import part_of
from spacelang.backends.torch.lowering.emit import lower_node
from spacelang.backends.torch.lowering.frame import Frame, Number, Size, one_or_all
from spacelang.backends.torch.lowering.functions import drop_path
from spacelang.backends.torch.lowering.layers import Weight
from spacelang.backends.torch.lowering.ports import known, table_of, terms_of
from spacelang.backends.torch.lowering.tables import TABLES, listed_index, listed_key
from spacelang.backends.torch.lowering.views import Axes, Part, block_key
from spacelang.backends.torch.printing.printer import Constant, Made, Printer, name_values
from spacelang.backends.torch.printing.spell import escaped, free_name, indented
from spacelang.backends.torch.storage import dtype_of
from spacelang.ir.dialect import dotted
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.graph import Instance
from spacelang.ir.liveness import Computed
from spacelang.ir.node import Call, Node, join
from spacelang.ir.param import Gather

if TYPE_CHECKING:
    from spacelang.backends.torch.printing.source import Source


@dataclass(frozen=True)
class ClassText:
    """A printed class. `arguments` are sizes in the terms of its block.

    `reads` says of each of the block's inputs whether this use of it reads that at all.
    """

    name: str
    arguments: tuple[Dim, ...]
    reads: tuple[bool, ...]


@dataclass(frozen=True)
class Unlabelled:
    """A table without a label, equal to all that give the same: what it is called if it can be."""

    name: str
    function: Callable[..., Tensor]
    options: tuple[tuple[str, Dim | float | str], ...]


class Outside(Exception):
    """A class would have to read a batch axis off a tensor that its use does not make."""


class ClassWork:
    """A class in the making: a use of a block, and the transparent calls in it."""

    def __init__(self, source: Source, level: Computed) -> None:
        self.source, self.block = source, level.level
        self.graph = fx.Graph()
        self.weights: dict[str, Weight] = {}
        self.modules: dict[str, Made] = {}
        self.constants: dict[str, Constant] = {}
        self.leaves: dict[object, fx.Node] = {}
        self.root = self.block is source.graph.root
        pairs = zip(self.block.outputs, level.wanted, strict=True)
        self.results = [value for value, wanted in pairs if wanted]
        self.frame = PrintFrame(self, level.instance, terms_of(self.block), self.root)
        self._lower(self.frame, level)

    def leaf(self, key: object, **meta: object) -> fx.Node:
        """A placeholder that says what it stands for; one for equal keys."""
        if key not in self.leaves:
            first = next((n for n in self.graph.nodes if n.op != "placeholder"), None)
            with self.graph.inserting_before(first):
                node = self.leaves[key] = self.graph.placeholder("leaf")
            node.meta.update(meta)
        return self.leaves[key]

    def _lower(self, frame: PrintFrame, level: Computed) -> None:
        """Fill the graph; what nothing reads goes.

        The inputs of a network stay; those of a block that this use does not read go too.
        """
        for node, read in zip(self.block.inputs, level.reads, strict=True):
            placeholder = self.graph.placeholder("input")
            placeholder.meta["input"] = node.label.rpartition(".")[2] or "x"
            if read or self.root:
                frame.bind(node, (placeholder,))
        self.level(frame, level)
        if self.root:
            self.graph.output(self.source.chosen.outputs(frame.values))
        else:
            self.graph.output(one_or_all(tuple(frame.values[v] for v in self.results)))
        inputs = [node for node in self.graph.nodes if "input" in node.meta]
        for node in reversed(self.graph.nodes):
            if not node.users and node.op != "output" and not (self.root and "input" in node.meta):
                self.graph.erase_node(node)
        left = set(self.graph.nodes)
        self.reads = tuple(node in left for node in inputs)
        self.untap()
        self.name_tables()

    def level(self, frame: PrintFrame, level: Computed) -> None:
        """Lower what runs of a block or region."""
        for node, inside in level.nodes:
            if node.call is not None and inside is not None:
                self.call(frame, node, node.call, inside)
            elif inside is not None:
                own = PrintFrame(self, frame.instance, frame.terms, frame.literal)
                self.inline(frame, node, own, inside)
            elif node.regions:
                frame.pass_on(node)
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
        if "table" in made.meta or _own(path):  # the first is a buffer of that name
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

    def name_tables(self) -> None:
        """Give tables without a label names that nothing else has."""
        for node in self.graph.nodes:
            key = node.meta.get("table")
            if isinstance(key, Unlabelled):
                owned = (*self.weights, *self.modules, *self.constants)
                hops = [path.split(".") for path in owned]
                taken = {".".join(h[: n + 1]) for h in hops for n in range(len(h))}
                path = node.meta["table"] = free_name(key.name, taken)
                self.constants[path] = Constant(path, key.function, key.options, False)

    def inline(self, frame: PrintFrame, node: Node, inside: PrintFrame, level: Computed) -> None:
        inside.enter(frame, node, level)
        self.level(inside, level)
        frame.leave(inside, node, level)

    def call(self, frame: PrintFrame, node: Node, call: Call, level: Computed) -> None:
        """A call: the module of its class, or written out."""
        source, block = self.source, level.level
        terms = frame.terms.enter(call, block)
        literal = frame.literal or call.decide.startswith("/")
        inside = PrintFrame(self, level.instance, terms, literal)
        apart = bool(call.path) and not source.flat and not _own(call.path)
        made = source.of(level) if apart else None
        if made is None:
            self.inline(frame, node, inside, level)
            return
        path = dotted(terms.path)
        self.modules[path] = Made(path, made.name, tuple(inside.dim(d) for d in made.arguments))
        given = zip(node.operands, made.reads, strict=True)
        operands: tuple[Any, ...] = tuple(frame.values[v] for v, reads in given if reads)
        result = self.graph.call_module(path, operands)
        count = sum(level.wanted)
        if count == 1:
            frame.stand(node, [result if wanted else None for wanted in level.wanted])
            return
        result.meta["several"] = count
        items = (self.graph.call_function(operator.getitem, (result, i)) for i in range(count))
        frame.stand(node, [next(items) if wanted else None for wanted in level.wanted])

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
        results = ", ".join(str(self.block.type_of(v)) for v in self.results).replace("%", "")
        init = "\n".join(["super().__init__()", *kept, *made])
        lines = [
            f'"""{escaped(types or "Nothing")} -> {escaped(results)}"""',
            "",
            f"def __init__({', '.join(['self', *given.values()])}):",
            indented(init),
            "",
            f"def forward({', '.join(['self', *inputs])}):",
            indented(forward),
        ]
        return tuple(given), indented("\n".join(lines)) + "\n"


def _own(path: str) -> bool:
    """Whether a label on a path is what modules have themselves, `forward`."""
    return any(hasattr(BARE, label) for label in dotted(path).split("."))


BARE = nn.Module()


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

    def outside(self, symbol: Symbol) -> Size:
        if self.work.root and self is self.work.frame:
            return super().outside(symbol)
        if self is self.work.frame:
            raise Outside
        return self.work.frame.size(self.terms.absolute(Dim.of(symbol)))

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
        buffer, dtype = param.role == "buffer", dtype_of(param)
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
            self.work.constants[path] = Constant(path, TABLES[node.op], options, True)
            return self.work.leaf(path, table=path)
        key = Unlabelled(node.op, TABLES[node.op], options)
        return self.work.leaf(key, table=key)

    def entry_table(self, node: Node, gather: Gather | tuple[int, ...]) -> fx.Node:
        assert isinstance(gather, tuple)
        key = Unlabelled("entries", listed_index, listed_key(gather).options)
        return self.work.leaf(key, table=key)

    def by_mode(self, function: Callable[..., Tensor], arguments: tuple[Any, ...]) -> fx.Node:
        mode = self.work.leaf("mode", mode=True)
        found = self.graph.call_function(function, (*arguments, mode))
        x = arguments[0]
        found.meta["rank"] = next((t.rank for v, t in self.types.items() if self.values[v] is x), 0)
        return found

    def drop_path(self, node: Node, x: fx.Node, rate: Dim) -> fx.Node:
        value = self.number(rate)
        return x if value == 0 else self.by_mode(drop_path, (x, value))
