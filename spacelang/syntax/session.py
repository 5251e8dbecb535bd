"""What all blocks of one elaboration share: the blocks made so far, and what may still be spent."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spacelang.diagnostics import Diagnostic, SpaceError, Span, error
from spacelang.ir.block import Block
from spacelang.ir.condition import Condition
from spacelang.ir.dim import Symbol
from spacelang.ir.owned import Owned
from spacelang.syntax import tree
from spacelang.syntax.values import Broken, Thing

if TYPE_CHECKING:
    from spacelang.syntax.frame import Frame
    from spacelang.syntax.precount import Inside
    from spacelang.syntax.scope import Library

MAX_NODES = 100_000
MAX_TURNS = 100_000
MAX_FAILURES = 1_000
MAX_OPEN = 100_000
"""How many nodes a network may have with every use of every block counted."""
MAX_WAYS, MAX_SPLITS = 128, 4_096
"""Alternatives of one call, and of all calls together."""
MAX_WALKED = 1_000_000
"""Entries of all lists that are made or compared."""
MAX_MATCHES = 10_000
"""Readings of limits, once for each match of a path or binding of an index."""
MAX_TOGETHER = 100_000
"""Candidates of all decisions of a text together."""
MAX_CALLS = 32
"""How deep calls of blocks may stand in each other."""

BUDGETS: Mapping[str, Callable[[], tuple[int, str]]] = {
    "nodes": lambda: (MAX_NODES, "the graph has more than {:,} nodes"),
    "turns": lambda: (MAX_TURNS, "loops take more than {:,} turns"),
    "walked": lambda: (MAX_WALKED, "lists of more than {:,} entries together"),
    "matches": lambda: (MAX_MATCHES, "limits that are read more than {:,} times together"),
    "candidates": lambda: (MAX_TOGETHER, "decisions of more than {:,} candidates together"),
    "splits": lambda: (MAX_SPLITS, "calls that are more than {:,} alternatives together"),
}
"""What all blocks of an elaboration together may take, and what is said past that."""


Decided = tuple[object, str]
"""A decision: the block that takes it, whatever is fixed there, and its path in it."""

Until = Callable[[Sequence[str]], int]
"""How many of the steps of `rewrite { }`, by their names, are to be run."""


class Exhausted(SpaceError):
    """A budget of the whole elaboration is spent: nothing goes on after it."""


@dataclass(frozen=True)
class Import:
    """A size of a block: where its symbol comes from. `frame` None is the immediate caller."""

    size: Symbol
    frame: Frame | None
    symbol: Symbol


@dataclass
class Usage:
    """What a block took of the budgets by itself, and the blocks that it uses, by their ids.

    Candidates are kept by decision: alternatives of a block that take one of a path take one.
    """

    amounts: dict[str, int] = field(default_factory=dict[str, int])
    uses: dict[int, Compiled] = field(default_factory=dict[int, "Compiled"])
    decided: dict[Decided, int] = field(default_factory=dict["Decided", int])

    def take(self, budget: str, amount: int) -> None:
        self.amounts[budget] = self.amounts.get(budget, 0) + amount

    def decide(self, decided: Decided, candidates: int) -> int:
        """Count a decision, of which alternatives may have other candidates: how many are new."""
        before = self.decided.get(decided, 0)
        self.decided[decided] = max(before, candidates)
        return self.decided[decided] - before


@dataclass(frozen=True)
class Compiled:
    """A block that was elaborated, with what a call of it needs.

    `named` says whether it opens a scope; `require` holds what it requires of each of its uses, in
    its own sizes, `owned` the paths that each use takes; one with `errors` is in no graph, and one
    with limits that are `unmet` is in an alternative that is left out. Every space that uses it has
    its `remarks`, and counts its `usage`.
    """

    block: Block
    imports: tuple[Import, ...]
    late: tuple[str, ...]
    result: Thing | Broken
    named: bool
    require: tuple[Condition, ...] = ()
    owned: tuple[Owned, ...] = ()
    errors: tuple[Diagnostic, ...] = ()
    unmet: tuple[Diagnostic, ...] = ()
    remarks: tuple[Diagnostic, ...] = ()
    usage: Usage = field(default_factory=Usage, compare=False, repr=False)


@dataclass
class BlockCache:
    """Compiled blocks by name, and those that see no frame by what they were made for.

    Spaces of one library share the latter: they are the same for all of them. Alternatives of a
    block, made for the same but for what is fixed, are `alike`: one thing stands for all.
    """

    compiled: dict[object, Compiled] = field(default_factory=dict[object, Compiled])
    blocks: dict[str, Block] = field(default_factory=dict[str, Block])
    kept: list[object] = field(default_factory=list[object])
    alike: dict[object, object] = field(default_factory=dict[object, object])
    named: dict[str, bool] = field(default_factory=dict[str, bool])
    owned: dict[str, tuple[Owned, ...]] = field(default_factory=dict[str, tuple[Owned, ...]])
    opened: dict[str, int] = field(default_factory=dict[str, int])
    numbers: dict[str, int] = field(default_factory=dict[str, int])


@dataclass
class Session:
    """One elaboration. With `hulls` every decision ranges over its hull (`within`); `until` leaves
    out the later steps of `rewrite { }`. `anchored` are the blocks that see its own frames."""

    library: Library
    hulls: bool = False
    cache: BlockCache = field(default_factory=BlockCache)
    anchored: dict[object, Compiled] = field(default_factory=dict[object, Compiled])
    late: dict[int, tuple[str, ...]] = field(default_factory=dict[int, tuple[str, ...]])
    lets: list[tree.Let] = field(default_factory=list[tree.Let])
    remarks: list[Diagnostic] = field(default_factory=list[Diagnostic])
    failed: Frame | None = None
    failures: int = 0
    total: Usage = field(default_factory=Usage)
    blocks: list[Usage] = field(default_factory=list[Usage])
    alike: dict[object, object] = field(default_factory=dict[object, object])
    inside: dict[tuple[int, ...], Inside] = field(default_factory=dict[tuple[int, ...], "Inside"])
    reserved: set[str] = field(default_factory=set[str])
    until: Until | None = None

    def unique(self, name: str) -> str:
        """A block name that is not taken: `encoder`, `encoder.2`."""
        found, count = name, self.cache.numbers.get(name, 2)
        while found in self.cache.blocks or found in self.reserved:
            found, count = f"{name}.{count}", count + 1
        self.cache.numbers[name] = count
        return found

    def take(self, budget: str, amount: int, span: Span) -> None:
        """Count what is taken of a budget, before it is made (SP507)."""
        for usage in (self.total, *self.blocks[-1:]):
            usage.take(budget, amount)
        self._check(budget, span)

    def taken(self, budget: str) -> int:
        """How much of a budget is taken."""
        return self.total.amounts.get(budget, 0)

    def _check(self, budget: str, span: Span) -> None:
        most, says = BUDGETS[budget]()
        if self.taken(budget) > most:
            raise Exhausted(error("SP507", says.format(most), span))

    @contextmanager
    def block(self) -> Generator[Usage]:
        """What is taken inside is a block's; where it is not made, that of the one around it."""
        usage = Usage()
        self.blocks.append(usage)
        try:
            yield usage
        except BaseException:
            for outer in self.blocks[-2:-1]:
                outer.uses |= usage.uses
                for decided, candidates in usage.decided.items():
                    outer.decide(decided, candidates)
                for budget, amount in usage.amounts.items():
                    outer.take(budget, amount)
            raise
        finally:
            self.blocks.pop()

    def use(self, made: Compiled, span: Span) -> None:
        """Count a block that is used, and what it uses, once: whoever made it (SP507)."""
        for usage in self.blocks[-1:]:
            usage.uses[id(made)] = made
        waiting = [made]
        while waiting:
            one = waiting.pop()
            if id(one) not in self.total.uses:
                self.total.uses[id(one)] = one
                waiting += one.usage.uses.values()
                for budget, amount in one.usage.amounts.items():
                    self.total.take(budget, amount)
                    self._check(budget, span)
                for decided, candidates in one.usage.decided.items():
                    self.take_candidates(self.total.decide(decided, candidates), span)

    def spend(self, nodes: int, span: Span) -> None:
        """Count nodes made against the limit (SP507)."""
        self.take("nodes", nodes, span)

    def open(self, block: Block) -> int:
        """The nodes of a block with all its calls open, counted before anything walks them (SP507).

        Blocks that use others twice each double them: thirty short lines would be 2^30 nodes.
        """
        total = 0
        for node in block.everywhere():
            total += 1 if node.call is None else self.cache.opened[node.call.block]
            if total > MAX_OPEN:
                wide = f"a network of more than {MAX_OPEN:,} nodes, each use of a block counted"
                found = error("SP507", wide, node.span)
                called = "" if node.call is None else f"{node.call.block} is one of "
                nodes = 1 if node.call is None else self.cache.opened[node.call.block]
                raise Exhausted(found.note(f"{called}{block.name} uses: {nodes:,} nodes"))
        return total

    def fail(self) -> None:
        """Count statements that failed: after very many nothing new is found."""
        self.failures += 1
        if self.failures > MAX_FAILURES:
            raise Exhausted(())

    def split(self, name: str, values: int, ways: int, span: Span) -> None:
        """Count alternatives of a call, one for each value, before they are made (SP507).

        A body that must know many decisions at once has one for each combination of them.
        """
        for usage in (self.total, *self.blocks[-1:]):
            usage.take("splits", values)
        if ways > MAX_WAYS or self.taken("splits") > MAX_SPLITS:
            many = f"{MAX_WAYS:,} alternatives" if ways > MAX_WAYS else f"{MAX_SPLITS:,} together"
            found = error("SP507", f"calls of {name} that are more than {many}", span)
            hint = "let fewer decisions meet where a value must be known"
            raise Exhausted(found.hint(hint))

    def walk(self, entries: int, span: Span) -> None:
        """Count entries of lists (SP507)."""
        self.take("walked", entries, span)

    def decide(self, decided: Decided, candidates: int, span: Span) -> None:
        """Count candidates of a decision (SP507): for each alternative they are listed again."""
        self.walk(candidates, span)
        for usage in self.blocks[-1:]:
            usage.decide(decided, candidates)
        self.take_candidates(self.total.decide(decided, candidates), span)

    def take_candidates(self, candidates: int, span: Span) -> None:
        """Count candidates that no decision counted before, or surely will (SP507)."""
        self.total.take("candidates", candidates)
        self._check("candidates", span)

    def match(self, matches: int, span: Span) -> None:
        """Count readings of a limit, before the first (SP507)."""
        self.take("matches", matches, span)

    def turn(self, turns: int, span: Span) -> None:
        """Count turns of loops against the limit, before they are taken (SP507)."""
        self.take("turns", turns, span)
