"""How a block's names read elsewhere: in its caller, in the whole network, in a copy of it.

names = names_of(call)          # the callee's names as its caller reads them
names.dim(4 * width); names.type(type); names.node(node)
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace

from spacelang.ir.block import Block
from spacelang.ir.condition import Condition
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.node import Attribute, Call, Node, TensorType, join
from spacelang.ir.param import Init, Param, View, sized

Replacement = Dim | Symbol | DecisionValue


def fresh(name: str, taken: Container[str]) -> str:
    """A name of a block that is not taken: `encoder`, `encoder.2`."""
    found, count = name, 2
    while found in taken:
        found, count = f"{name}.{count}", count + 1
    return found


def under(prefix: str, path: str) -> str:
    """A place below another, inside one block; one that counts from the root stays."""
    return path if path.startswith("/") else join(prefix, path)


def _same(text: str) -> str:
    return text


def _itself(symbol: Symbol) -> Replacement:
    return symbol


def _picks(name: str, found: Replacement | None) -> tuple[str, ...]:
    """The decisions that pick from a bank, of what stands for one of them elsewhere."""
    if isinstance(found, Symbol):
        return (found.name,)
    if isinstance(found, Dim):
        return tuple(s.name for s in sorted(found.symbols, key=str) if len(s.values) > 1)
    return (name,)


@dataclass
class Names:
    """How a block's names read where its nodes are copied to.

    symbol   a size or decision       label   the name of a value, the place of a call
    decide   a prefix of decisions    store   a parameter, a prefix of parameters
    """

    symbol: Callable[[Symbol], Replacement] = _itself
    label: Callable[[str], str] = _same
    decide: Callable[[str], str] = _same
    store: Callable[[str], str] = _same
    _known: dict[Dim, Dim] = field(default_factory=dict[Dim, Dim])

    def dim(self, dim: Dim) -> Dim:
        """A size as it reads there."""
        if not dim.symbols:
            return dim
        found = self._known.get(dim)
        if found is None:
            found = dim.substitute({s.name: self.symbol(s) for s in dim.symbols})
            self._known[dim] = found
        return found

    def condition(self, condition: Condition) -> Condition:
        """A condition as it reads there."""
        if not condition.symbols:
            return condition
        return condition.substitute({s.name: self.symbol(s) for s in condition.symbols})

    def type(self, type: TensorType) -> TensorType:
        """A tensor type as it reads there."""
        return TensorType(tuple(self.dim(d) for d in type.shape), type.dtype)

    def attribute(self, value: Attribute) -> Attribute:
        """An option of a node as it reads there, with all sizes in it."""
        if isinstance(value, Dim):
            return self.dim(value)
        if isinstance(value, tuple):
            return tuple(self.attribute(v) for v in value)
        if isinstance(value, Init):
            return self.init(value)
        if isinstance(value, Symbol):
            found = self.symbol(value)
            return found if isinstance(found, Dim | Symbol | str | bool) else Dim.of(_number(found))
        return value if isinstance(value, str | bool | None) else self.condition(value)

    def init(self, init: Init) -> Init:
        """How a parameter starts, as it reads there."""
        return Init(init.rule, tuple(self.dim(d) for d in init.arguments))

    def view(self, view: View) -> View:
        """What is read of a parameter, as it reads there."""
        return View(
            self.store(view.param),
            tuple(tuple(sized(part, self.dim) for part in axis) for axis in view.index),
        )

    def param(self, param: Param) -> Param:
        """A parameter as it is declared there, its bank by the decisions that pick in it."""
        names = {s.name: self.symbol(s) for axis in param.shape for d in axis for s in d.symbols}
        bank = dict.fromkeys(n for name in param.bank for n in _picks(name, names.get(name)))
        return replace(
            param,
            path=self.store(param.path),
            shape=tuple(tuple(self.dim(d) for d in axis) for axis in param.shape),
            init=self.init(param.init),
            bank=tuple(bank),
        )

    def call(self, call: Call) -> Call:
        """A call as it stands there: its places, and what it binds."""
        sizes: dict[str, Dim | Symbol] = {}
        for name, value in call.sizes.items():
            found = self.dim(value) if isinstance(value, Dim) else self.symbol(value)
            sizes[name] = found if isinstance(found, Dim | Symbol) else Dim.of(_number(found))
        return replace(
            call,
            path=self.label(call.path),
            decide=self.decide(call.decide),
            store=self.store(call.store),
            sizes=sizes,
        )

    def node(self, node: Node) -> Node:
        """The node under these names; its id, operands and regions are not touched."""
        return replace(
            node,
            attributes={key: self.attribute(value) for key, value in node.attributes.items()},
            params={role: self.view(view) for role, view in node.params.items()},
            call=None if node.call is None else self.call(node.call),
            types=tuple(self.type(t) for t in node.types),
            label=self.label(node.label),
        )


KEEP = Names()
"""Every name as it is."""


def _number(value: DecisionValue) -> int | float:
    if isinstance(value, str | bool | tuple):
        raise TypeError(f"{value!r} is not a number")
    return int(value) if value == int(value) else float(value)


def names_of(call: Call) -> Names:
    """The names of a callee as its caller reads them; its weights must not be tied elsewhere."""

    def symbol(symbol: Symbol) -> Replacement:
        bound = call.sizes.get(symbol.name)
        return replace(symbol, name=under(call.decide, symbol.name)) if bound is None else bound

    return Names(
        symbol,
        lambda label: join(call.path, label) if label else "",
        lambda decide: under(call.decide, decide),
        lambda path: under(call.store, path),
    )


def renamed(block: Block, names: Names) -> Block:
    """A block under other names, its decisions and parameters too; sizes and ids stay."""
    return replace(
        block,
        nodes=_renamed(block, names),
        decisions=tuple(replace(c, live=names.condition(c.live)) for c in block.decisions),
        params=tuple(names.param(param) for param in block.params),
    )


def _renamed(level: Block, names: Names) -> tuple[Node, ...]:
    return tuple(
        replace(
            names.node(node),
            regions=tuple(replace(r, nodes=_renamed(r, names)) for r in node.regions),
        )
        for node in level.nodes
    )


__all__ = ["KEEP", "Names", "Replacement", "names_of", "renamed", "under"]
