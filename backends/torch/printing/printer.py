"""Printing one class: an fx graph whose leaves are sizes, weights and modules, as Python text.

    x = x + drop_path(self.attn(self.attn_layer_norm(x)), self.drop, self.training)

Leaves are placeholders that say in `meta` what they are: `size` a Dim of the class, `weight` and
`table` a path, `mode` whether it trains, `input` an argument. A value that is read once is written
where it is read, if the line stays short.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType

import torch
import torch.nn.functional as F
from torch import fx

from spacelang.backends.torch.lowering.frame import Entries
from spacelang.backends.torch.lowering.layers import Weight, layer
from spacelang.backends.torch.printing.spell import Attributes, Sizes, called, free_name, quoted
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.dim import Dim
from spacelang.ir.node import Node

INFIX = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
}
LIMIT = 44  # characters of what is written where it is read


def _qualified() -> dict[object, str]:
    """How sources name the functions of PyTorch."""
    found: dict[object, str] = {}
    for module, name in ((torch, "torch"), (F, "F")):
        for label, value in vars(module).items():
            if isinstance(value, FunctionType | BuiltinFunctionType) and not label.startswith("_"):
                found[value] = f"{name}.{label}"
    return found


QUALIFIED = _qualified()


@dataclass(frozen=True)
class Made:
    """A module that a class has at a path: its class, and what it is given."""

    path: str
    kind: str
    arguments: tuple[Dim, ...]


@dataclass(frozen=True)
class Constant:
    """An index table that a class computes: a buffer at a path, in the state dict or not."""

    path: str
    function: Callable[..., object]
    options: tuple[tuple[str, Dim | float | str], ...]
    persistent: bool


class Printer:
    """The text of one class. `helpers` collects the functions it calls that are not PyTorch's."""

    def __init__(
        self,
        graph: fx.Graph,
        weights: Mapping[str, Weight],
        modules: Mapping[str, Made],
        constants: Mapping[str, Constant],
    ) -> None:
        self.graph = graph
        owned = (*weights, *modules, *constants)
        tops = frozenset(path.split(".", 1)[0] for path in owned)
        self.sizes = Sizes(tops)
        self.helpers: dict[str, Callable[..., object]] = {}
        self.layers: dict[fx.Node, str] = {}
        self.texts: dict[fx.Node, tuple[str, bool]] = {}
        self.waiting: list[fx.Node] = []
        functions = (n.target for n in graph.nodes if callable(n.target))
        self.names = {f.__name__ for f in functions if f not in QUALIFIED and f not in INFIX}
        self.attributes = Attributes(self._made(weights, modules, constants))

    def _made(
        self,
        weights: Mapping[str, Weight],
        modules: Mapping[str, Made],
        constants: Mapping[str, Constant],
    ) -> dict[str, str]:
        """How `__init__` makes everything that the class owns, in the order in which it is read."""
        made: dict[str, str] = {}
        for node in self.graph.nodes:
            found = layer(node, weights, self.size)
            if found is not None:
                self.layers[node], made[found[0]] = found
        for path, module in modules.items():
            made[path] = called(module.kind, [self.size(d) for d in module.arguments])
        for path, weight in weights.items():
            if weight.prefix not in self.layers.values():
                made[path] = self._tensor(weight)
        for path, constant in constants.items():
            options = [f"{n}={self.size(v)}" for n, v in constant.options]
            mark = "" if constant.persistent else ", persistent=False"
            made[path] = f"nn.Buffer({called(self.function(constant.function), options)}{mark})"
        order = list(_reads(self.graph))
        return dict(sorted(made.items(), key=lambda item: _first(order, item[0])))

    def _tensor(self, weight: Weight) -> str:
        sizes = [self.size(d) for d in weight.sizes]
        if weight.buffer:
            shape = f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"
            return f"nn.Buffer(torch.zeros({shape}, dtype={weight.dtype}))"
        return f"nn.Parameter(torch.empty({', '.join(sizes) or '()'}))"

    def size(self, value: object, owner: str = "") -> str:
        """A size, number or word, in `__init__`, or with an owner ("self.") in `forward`."""
        dim = value.meta["size"] if isinstance(value, fx.Node) else value
        return self.sizes.text(dim, owner) if isinstance(dim, Dim) else _literal(dim)

    def function(self, function: Callable[..., object]) -> str:
        """The name of a function; one that is not PyTorch's is printed too."""
        found = QUALIFIED.get(function)
        if found is None:
            found = function.__name__
            self.helpers[found] = function
        return found

    # forward

    def forward(self) -> list[str]:
        """Its statements, the last of which returns."""
        lines: list[str] = []
        for node in self.graph.nodes:
            if "input" in node.meta:
                self.texts[node] = (self.name(node.meta["input"]), True)
            if node.op != "placeholder" and node not in self.texts:
                lines += self.statements(node)
        return lines

    def statements(self, node: fx.Node) -> list[str]:
        """The statements that compute a node; none where it is written where it is read."""
        lines = self.before(node)
        if node.op == "output":
            return [*lines, f"return {self.text(node.args[0])}"]
        chain = self._chain(node)
        if chain:
            source = self.text(node.args[0])
            dies = source.isidentifier() and len(node.all_input_nodes[0].users) == 1
            name = source if dies else self.name("x")
            layers = self.attributes.access(str(node.target).rpartition(".")[0])
            self.texts |= dict.fromkeys(chain, (name, True))
            loop = f"for layer in {layers}:\n    {name} = layer({name})"
            return [*lines, *[f"{name} = {source}"] * (name != source), loop]
        parts = _taken_apart(node)
        text, closed = self.expression(node)
        if parts:
            names = [self.name(_hint(part)) for part in parts]
            self.texts |= {p: (n, True) for p, n in zip(parts, names, strict=True)}
            return [*lines, f"{', '.join(names)}{',' * (len(names) == 1)} = {text}"]
        if self._written_there(node, text):
            self.texts[node] = (text, closed)
            if not _number(node):
                self.waiting.append(node)
            return lines
        return [*lines, self._statement(node, text)]

    def before(self, node: fx.Node) -> list[str]:
        """What must be computed before a node, and was to be written where it is read.

        The order of the graph is kept, so that gradients of a value are added up in one order.
        """
        waiting = self.waiting
        read = [n for n in node.all_input_nodes if n in waiting]
        kept = [_without(read, waiting[:i]) == waiting[i:] for i in range(len(waiting) + 1)]
        first = kept.index(True)
        self.waiting = []
        return [self._statement(early, self.texts[early][0]) for early in waiting[:first]]

    def _statement(self, node: fx.Node, text: str) -> str:
        name = self.named(node)
        self.texts[node] = (name, True)
        return f"{name} = {text}"

    def named(self, node: fx.Node) -> str:
        """The name of a value that gets one."""
        return self.name(_hint(node))

    def _written_there(self, node: fx.Node, text: str) -> bool:
        """Whether a value is written where it is read: by one reader, in a short line."""
        reads = [a for user in node.users for a in _operands(user) if a is node]
        if len(reads) != 1:
            return False
        return len(text) <= (LIMIT if next(iter(node.users)).op != "output" else 2 * LIMIT)

    def _chain(self, node: fx.Node) -> list[fx.Node]:
        """Calls of all modules of a list, each on the result of the one before."""
        prefix, _, last = str(node.target).rpartition(".")
        count = self.attributes.length(prefix)
        found: list[fx.Node] = []
        if node.op != "call_module" or last != "0" or count < 2:
            return found
        following: fx.Node | None = node
        while following is not None and len(found) < count:
            apart = bool(found) and following.prev is not found[-1]
            if apart or following.target != f"{prefix}.{len(found)}" or len(following.args) != 1:
                return []
            found.append(following)
            reader = next(iter(following.users))
            following = reader if len(following.users) == 1 else None
        return found if len(found) == count else []

    def name(self, hint: str) -> str:
        name = free_name(hint, self.names)
        self.names.add(name)
        return name

    def expression(self, node: fx.Node) -> tuple[str, bool]:
        """What computes a node, and whether it binds as tightly as a name."""
        target = node.target
        if node in self.layers:
            return f"{self.attributes.access(self.layers[node])}({self.text(node.args[0])})", True
        if node.op == "call_module":
            return f"{self.attributes.access(str(target))}({self._arguments(node)})", True
        if node.op == "call_method":
            rest = ", ".join([*map(self.text, node.args[1:]), *self._options(node)])
            return f"{self.text(node.args[0], True)}.{target}({rest})", True
        if target is operator.getitem:
            return f"{self.text(node.args[0], True)}[{self._index(node.args[1])}]", True
        if target in INFIX:
            left, right = (self.text(a, True) for a in node.args)
            return f"{left} {INFIX[target]} {right}", False
        assert callable(target)
        return self.call(self.function(target), node), True

    def call(self, function: str, node: fx.Node) -> str:
        return f"{function}({self._arguments(node)})"

    def _arguments(self, node: fx.Node) -> str:
        return ", ".join([*map(self.text, node.args), *self._options(node)])

    def _options(self, node: fx.Node) -> list[str]:
        return [f"{name}={self.text(value)}" for name, value in node.kwargs.items()]

    def _index(self, index: object) -> str:
        return (
            ", ".join(map(self._entry, index)) if isinstance(index, tuple) else self._entry(index)
        )

    def _entry(self, entry: object) -> str:
        if not isinstance(entry, slice):
            return self.text(entry)
        start, stop = ("" if e is None else self.text(e) for e in (entry.start, entry.stop))
        return f"{start}:{stop}" + ("" if entry.step is None else f":{self.text(entry.step)}")

    def text(self, value: object, tight: bool = False) -> str:
        """An argument; `tight`: in brackets unless it binds as a name does."""
        match value:
            case fx.Node():
                text, closed = self._node(value)
                return text if closed or not tight else f"({text})"
            case tuple() | list():
                inner = ", ".join(map(self.text, value))
                return f"({inner},)" if len(value) == 1 else f"({inner})"
            case dict():
                return "{" + ", ".join(f"{k!r}: {self.text(v)}" for k, v in value.items()) + "}"
            case _:
                return _literal(value)

    def _node(self, node: fx.Node) -> tuple[str, bool]:
        if node in self.texts:
            return self.texts[node]
        if "size" in node.meta:
            text = self.size(node, "self.")
            return text, " " not in text
        if "mode" in node.meta:
            return "self.training", True
        return self.attributes.access(node.meta.get("weight") or node.meta["table"]), True

    def init(self) -> list[str]:
        """The statements of `__init__`, after `forward` has been printed."""
        return self.attributes.statements()


def _number(node: fx.Node) -> bool:
    """Whether a value is a number: the size of an axis, or made of some."""
    if node.op == "call_method":
        return node.target == "size"
    inputs = node.all_input_nodes
    return node.target in INFIX and all("size" in n.meta or _number(n) for n in inputs)


def _operands(node: fx.Node) -> list[fx.Node]:
    """What a node reads, each as often as it does."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), lambda n: found.append(n) or n)
    return found


def _without(nodes: Sequence[fx.Node], others: Sequence[fx.Node]) -> list[fx.Node]:
    return [node for node in nodes if node not in others]


def _literal(value: object) -> str:
    if isinstance(value, str):
        return quoted(value)
    if value is None or isinstance(value, bool | int | float | torch.memory_format):
        return repr(value)
    raise SpaceError(error("SP605", f"{value!r} cannot be printed"))


def _first(order: Sequence[str], path: str) -> int:
    """Where a path, or one below it, is first read."""
    inside = (i for i, o in enumerate(order) if f"{o}.".startswith(f"{path}."))
    return next(inside, len(order))


def _reads(graph: fx.Graph) -> Iterator[str]:
    """The paths of weights, tables and modules in the order in which they are read."""
    for node in graph.nodes:
        for leaf in node.all_input_nodes:
            yield from (leaf.meta[kind] for kind in ("weight", "table") if kind in leaf.meta)
        if node.op == "call_module":
            yield str(node.target)


def name_values(node: Node, made: object) -> None:
    """Tell the printer what the file calls the value of a node of the IR."""
    label = re.split(r"[.\[]", node.label)
    word = next((part for part in reversed(label) if part.isidentifier()), "")
    for part in made.parts if isinstance(made, Entries) else (made,):
        if word and isinstance(part, fx.Node) and part.op.startswith("call"):
            part.meta.setdefault("label", word)


def _hint(node: fx.Node) -> str:
    """A name for a value: its label, else what computes it."""
    if "label" in node.meta:
        return node.meta["label"]
    if node.target in INFIX:
        return "x"
    if node.target is operator.getitem:
        return "part"
    if node.op == "call_module":
        labels = str(node.target).split(".")
        return next((label for label in reversed(labels) if not label.isdigit()), "x")
    return str(getattr(node.target, "__name__", node.target)).strip("_")


def _taken_apart(node: fx.Node) -> list[fx.Node]:
    """The entries of a list that nothing else reads, in order."""
    count = node.meta.get("several", 0)
    if not count:
        return []
    entries = {u.args[1]: u for u in node.users if u.target is operator.getitem}
    whole = count == len(node.users) and set(entries) == set(range(count))
    return [entries[i] for i in range(count)] if whole else []
