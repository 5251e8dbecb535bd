"""A Graph: the largest network of a space, and the table of decisions that shrink it.

graph.root                the network's own block; calls lead to graph.blocks
graph.instances()         every use of every block, with its place, sizes and conditions
graph.decisions           what is open, by path
graph.storages            what the supernet keeps, by path
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from spacelang import plugins
from spacelang.diagnostics import Diagnostic, Span
from spacelang.ir.binding import Binding, Bindings
from spacelang.ir.block import Block
from spacelang.ir.condition import (
    CONDITIONS,
    FALSE,
    TRUE,
    Condition,
    conjunction,
    disjunction,
)
from spacelang.ir.decision import Assignment, Choice, Decisions
from spacelang.ir.dialect import Dialect
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.figures import Between, Cost
from spacelang.ir.liveness import needed
from spacelang.ir.node import Call, Node, Value, join
from spacelang.ir.prove import Proved, holds
from spacelang.ir.rule import StorageRule
from spacelang.ir.storage import Storage, storages

if TYPE_CHECKING:
    from networkx import MultiDiGraph

    from spacelang.ir.edit import Draft

Made = TypeVar("Made")

OF_BLOCKS = ("entered", "decisions", "storages")
"""What is found of a graph's blocks alone (and, of storages, by what it says is stored)."""


@dataclass(frozen=True)
class Output:
    """A result of the network; one that exists for training only counts for nothing else."""

    name: str
    value: Value
    training: bool = False


@dataclass(frozen=True, init=False)
class Instance:
    """One use of a block: its place and what its sizes and conditions are in the whole space."""

    block: Block
    path: str
    decide: str
    store: str
    own: tuple[str, ...]
    sizes: Mapping[str, Dim | Symbol] = field(repr=False)
    guards: tuple[Condition, ...] = field(repr=False)
    bindings: Bindings = field(repr=False, compare=False)

    def __init__(
        self,
        block: Block,
        path: str,
        decide: str,
        store: str,
        own: tuple[str, ...],
        sizes: Mapping[str, Dim | Symbol],
        guards: tuple[Condition, ...],
        bindings: Bindings | None = None,
    ) -> None:
        here = self.__dict__  # by the thousand: three times as fast as what dataclasses write
        here["block"], here["path"], here["decide"], here["store"] = block, path, decide, store
        here["own"], here["sizes"], here["guards"] = own, sizes, guards
        here["bindings"] = Bindings() if bindings is None else bindings

    @cached_property
    def binding(self) -> Binding:
        """What its symbols stand for, shared with the uses of which they stand for the same."""
        return self.bindings.of(self.decide, self.sizes)

    def absolute(self, dim: Dim) -> Dim:
        """A size of the block in the decisions of the whole space."""
        return self.binding.dim(dim) if dim.symbols else dim

    def condition(self, condition: Condition) -> Condition:
        """A condition of the block in the decisions of the whole space."""
        return self.binding.condition(condition)

    def symbol(self, symbol: Symbol) -> Dim | Symbol:
        """What a symbol of the block stands for: a size its caller gave, or a decision by path."""
        return self.binding.symbol(symbol)

    def param(self, path: str) -> str:
        """The path in the whole network of one of the block's parameters."""
        kept = self.own and any(path == o or path.startswith(o + ".") for o in self.own)
        return join(self.path if kept else self.store, path)

    def under(self, condition: Condition) -> Instance:
        """The same use inside of a region that is there where the condition holds too."""
        made = Instance(
            self.block, self.path, self.decide, self.store, self.own, self.sizes,
            (*self.guards, condition), self.bindings,
        )  # fmt: skip
        made.__dict__["binding"] = self.binding
        return made

    def enter(self, call: Call, block: Block) -> Instance:
        """The instance that a call of this one's makes."""
        path, own = join(self.path, call.path), call.own
        store = join(self.store, call.store)
        if self.own:
            if any(call.path == o or call.path.startswith(o + ".") for o in self.own):
                store = path
            start = f"{call.path}."
            inner = (o.removeprefix(start) for o in self.own if o.startswith(start))
            own = (*own, *(inner if call.path else self.own))
        sizes: dict[str, Dim | Symbol] = {
            name: self.absolute(size) if isinstance(size, Dim) else self.symbol(size)
            for name, size in call.sizes.items()
        }
        return Instance(
            block,
            path=path,
            decide=join(self.decide, call.decide),
            store=store,
            own=own,
            sizes=sizes,
            guards=self.guards,
            bindings=self.bindings,
        )


def _apart(choice: Choice) -> Choice:
    """A decision that is live for any of its own values, where each has a place of its own."""
    if not any(symbol.name == choice.path for symbol in choice.live.symbols):
        return choice
    there = (choice.live.substitute({choice.path: value}) for value in choice.symbol.values)
    return replace(choice, live=disjunction(*there))


class Place(NamedTuple):
    """A node of an instance, with the conditions under which it is there."""

    instance: Instance
    node: Node

    @property
    def guards(self) -> tuple[Condition, ...]:
        """The conditions in the decisions of the whole space under which the node is there."""
        return self.instance.guards

    @property
    def path(self) -> str:
        """The label of the node from the root; its block's place where it has no label."""
        return join(self.instance.path, self.node.label)


class Entered:
    """A block or region at one of its uses; `never` for a region whose guards contradict each
    other. What its nodes hold is entered when first asked for, and kept: all who go through the
    network share it."""

    __slots__ = ("_inside", "blocks", "instance", "level", "never")

    def __init__(
        self, blocks: Mapping[str, Block], instance: Instance, level: Block, never: bool = False
    ) -> None:
        self.blocks, self.instance, self.level, self.never = blocks, instance, level, never
        self._inside: dict[int, tuple[Entered, ...]] = {}

    def inside(self, node: Node) -> tuple[Entered, ...]:
        """What a node of the level holds: the block that it calls, or each of its regions."""
        found = self._inside.get(node.id)
        if found is None:
            found = self._inside[node.id] = tuple(self._enter(node))
        return found

    def _enter(self, node: Node) -> Iterator[Entered]:
        here = self.instance
        if node.call is not None:
            block = self.blocks[node.call.block]
            yield Entered(self.blocks, here.enter(node.call, block), block)
        for region, condition in zip(node.regions, conditions(node), strict=True):
            there = here.under(here.condition(condition))
            yield Entered(self.blocks, there, region, conjunction(*there.guards) == FALSE)


@dataclass(frozen=True)
class Graph:
    """Frozen. Passes make new graphs out of it; see `edit.py`.

    rules     how weights are stored (`weights { }`)
    stored    decisions whose storage is wider than any candidate (`store(256)`)
    require   limits on architectures; `params`, `macs` and `activations` are symbols without values
    dialects  other names for the parameters
    search    engine -> settings
    remarks   warnings of the front end, of which the network says nothing
    stated    where the requirements are written
    """

    name: str
    root: Block
    blocks: Mapping[str, Block]
    outputs: tuple[Output, ...]
    rules: tuple[StorageRule, ...] = ()
    stored: Mapping[str, int] = field(default_factory=dict[str, int])
    require: tuple[Condition, ...] = ()
    dialects: Mapping[str, Dialect] = field(default_factory=dict[str, Dialect])
    search: Mapping[str, Mapping[str, object]] = field(
        default_factory=dict[str, Mapping[str, object]]
    )
    remarks: tuple[Diagnostic, ...] = field(default=(), compare=False, repr=False)
    stated: Mapping[Condition, Span] = field(
        default_factory=dict[Condition, Span], compare=False, repr=False
    )

    @cached_property
    def top(self) -> Instance:
        """The one use of the root block."""
        return Instance(self.root, "", "", "", (), {}, ())

    @cached_property
    def entered(self) -> Entered:
        """The network itself, from where every use of every block is entered."""
        return Entered(self.blocks, self.top, self.root)

    def instances(self) -> Iterator[Instance]:
        """Every use of every block, callers first."""
        waiting = [self.entered]
        while waiting:
            here = waiting.pop()
            if here.level is here.instance.block:  # it is no region
                yield here.instance
            inner = [x for node in here.level.holders for x in here.inside(node) if not x.never]
            waiting += reversed(inner)

    def places(self, inference: bool = False) -> Iterator[Place]:
        """Every node of every use of every block, those of regions too.

        With `inference` those that an output needs, training aside, and as far as it does.
        """
        if inference:
            yield from self._needed
            return
        for instance, node, _ in self.nodes_of(lambda _block, _node: (None,)):
            yield Place(instance, node)

    def nodes_of(
        self, find: Callable[[Block, Node], Iterable[Made]], once: bool = False
    ) -> Iterator[tuple[Instance, Node, Made]]:
        """(instance, node, item) for every item that `find(block, node)` yields, at each use.

        It is called once a node of each block; what holds no such node is not entered. `once`: of
        uses in which all symbols stand for the same, under the same conditions, the first alone.
        """
        items: dict[tuple[int, int], list[tuple[Node, tuple[Made, ...]]]] = {}

        def items_of(owner: Block, level: Block) -> list[tuple[Node, tuple[Made, ...]]]:
            """The nodes of a level with items, and those that hold some."""
            key = id(owner), id(level)
            if key not in items:
                every = ((node, tuple(find(owner, node))) for node in level.nodes)
                items[key] = [(n, found) for n, found in every if found or holding(owner, n)]
            return items[key]

        def holding(owner: Block, node: Node) -> bool:
            if node.call is not None:
                block = self.blocks[node.call.block]
                return bool(items_of(block, block))
            return any(items_of(owner, region) for region in node.regions)

        def inside(here: Entered) -> tuple[Entered, Iterator[tuple[Node, tuple[Made, ...]]]]:
            return here, iter(items_of(here.instance.block, here.level))

        entered: set[tuple[int, int, tuple[Condition, ...]]] = set()

        def new(here: Entered) -> bool:
            use = id(here.level), id(here.instance.binding), here.instance.guards
            return use not in entered and not entered.add(use)

        waiting = [inside(self.entered)]
        while waiting:
            here, nodes = waiting[-1]
            for node, found in nodes:
                for item in found:
                    yield here.instance, node, item
                if node.holds:
                    inner = [x for x in here.inside(node) if not x.never and (not once or new(x))]
                    waiting += map(inside, reversed(inner))
                    break
            else:
                waiting.pop()

    @cached_property
    def _needed(self) -> list[Place]:
        return needed(self)

    @cached_property
    def decisions(self) -> Decisions:
        """All decisions by path, in the order of the text."""
        found: dict[str, Choice] = {}
        for instance in self.instances():
            for choice in instance.block.decisions:
                path = join(instance.decide, choice.path)
                live = conjunction(*instance.guards, instance.condition(choice.live))
                if path in found:
                    live = disjunction(found[path].live, live)
                    if live != TRUE and isinstance(holds(live), Proved):
                        live = TRUE
                found[path] = replace(choice, path=path, live=live)
        return Decisions([_apart(choice) for choice in found.values()])

    @cached_property
    def storages(self) -> Mapping[str, Storage]:
        """What the supernet keeps, by path."""
        return storages(self)

    def memo(self, key: str, make: Callable[[Graph], Made]) -> Made:
        """What `make` finds for this graph, found once; the graph itself never changes."""
        if key not in self._memo:
            self._memo[key] = make(self)
        return self._memo[key]

    @cached_property
    def _memo(self) -> dict[str, Any]:
        return {}

    @cached_property
    def hash(self) -> str:
        """The sha256 of the canonical text: one for all graphs that are the same network."""
        from spacelang.ir.text import digest

        return digest(self)

    def edit(self) -> Draft:
        """A draft, for a `with`: `draft.result` is the edited graph."""
        from spacelang.ir.edit import edit

        return edit(self)

    @property
    def nx(self) -> MultiDiGraph[tuple[int, ...]]:
        """The whole network as a networkx graph; see `view.py`."""
        from spacelang.ir.view import network

        return self.memo("nx", network)

    # Questions that higher layers answer, found by name.

    def cost(self, assignment: Assignment | None = None) -> Cost:
        """The figures of an architecture; of a fixed network without one.

        SP504 for a path that is no decision's, SP501 for what is no candidate, SP506 for a decision
        that is open.
        """
        return plugins.load("spacelang.analyses", "cost")(self, assignment)

    def size(self, where: str = "") -> int | Between:
        """The exact number of architectures within a budget (`Between` where only bounds are
        exact).

        SP209 for a budget that cannot be read, SP508 for one that cannot be counted, SP507 where
        exact tables do not fit into memory.
        """
        return plugins.load("spacelang.analyses", "size")(self, where)

    def sample(
        self, n: int = 1, seed: int = 0, where: str = "", law: str = "architectures"
    ) -> Sequence[Assignment]:
        """Independent architectures within a budget, exactly uniform by the law.

        SP502 where the budget is empty, SP209, SP507 and SP508 as `size`; SP209 and SP103 for a
        number that is none or negative, SP604 for an unknown law.
        """
        return plugins.load("spacelang.analyses", "sample")(self, n, seed, where, law)

    def restated(self, keep: Collection[str] = OF_BLOCKS, **tables: Any) -> Graph:
        """The graph with other rules, requirements, .. and what `keep` names as it was found."""
        made = replace(self, **tables)
        made.__dict__.update((name, self.__dict__[name]) for name in keep if name in self.__dict__)
        return made


def conditions(node: Node) -> tuple[Condition, ...]:
    """The condition of each region of a node."""
    if not node.regions:
        return ()
    given = node.attributes.get("conditions")
    if not isinstance(given, tuple):
        return tuple(TRUE for _ in node.regions)
    return tuple(condition for condition in given if isinstance(condition, CONDITIONS))
