"""Decisions of a block as statements: each in its turn, or where it is first read.

A path is decided where its alternatives stand, unless something else reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import groupby

from spacelang.ir.block import Block
from spacelang.ir.condition import TRUE, All, Condition, Is, conjunction
from spacelang.ir.decision import Choice
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.graph import conditions
from spacelang.ir.mentions import of_node
from spacelang.ir.node import Call, Node
from spacelang.syntax.write_calls import Callee, Expressions
from spacelang.syntax.write_values import (
    INDENT,
    Names,
    Speller,
    candidate,
    cannot,
    misplaced,
    reserved,
)


class Decided(Expressions):
    """Writes the decisions of one block; `waiting` are those that have not had their turn.

    `variables` are the names of decisions, by path; `by_path` the nodes that declare a path.
    """

    def __init__(
        self,
        block: Block,
        names: Names,
        speller: Speller,
        rate: Speller,
        callee: Callable[[Call], Callee],
        variables: dict[str, str],
    ) -> None:
        super().__init__(block, speller, rate, callee, names.free)
        self.names, self.variables = names, variables
        self.waiting = list(_inside(block))
        readers: dict[str, set[int]] = {}
        for node in block.everywhere():
            for name in {s.name for what in of_node(node) for s in _symbols(what)}:
                readers.setdefault(name, set()).add(node.id)
        paths = {c.path: c for c in block.decisions if c.kind == "path"}
        self.by_path = {
            node.id
            for node in block.everywhere()
            if _decides(node, paths.get(node.label)) and readers[node.label] == {node.id}
        }
        self.chosen = {n.label for n in block.everywhere() if n.id in self.by_path}

    def present(self) -> dict[str, tuple[Fraction, ...]]:
        """The values of the decisions that bound loops, by their names."""
        return {
            self.variables[choice.path]: tuple(v for v in choice.values if isinstance(v, Fraction))
            for choice in self.block.decisions
            if choice.kind == "presence"
        }

    def decisions_now(self, live: Condition, prefix: str) -> Iterator[str]:
        """The decisions that come next in the order of the block and are taken here.

        A path is decided where its alternatives stand.
        """
        while self.waiting:
            choice = self.waiting[0]
            if choice.live != live or choice.path in self.chosen:
                return
            self.waiting.pop(0)
            yield from self.decide(choice, prefix)

    def needed(self, node: Node, live: Condition, prefix: str) -> Iterator[str]:
        """Decisions that a node reads before their turn, and those whose turn is before them.

        What is taken under further conditions is taken there; its name is known where they hold.
        """
        levels = [node]
        for inner in levels:
            levels += (n for region in inner.regions for n in region.nodes)
        read = {s.name for inner in levels for what in of_node(inner) for s in _symbols(what)}
        count = max(
            (
                turn
                for turn, choice in enumerate(self.waiting, 1)
                if choice.live == live and choice.path in read and choice.path != node.label
            ),
            default=0,
        )
        early, self.waiting = self.waiting[:count], self.waiting[count:]
        yield from self._taken(early, live, prefix)

    def before(self, count: int) -> Iterator[str]:
        """So many of the decisions that have not had their turn, before anything else."""
        early, self.waiting = self.waiting[:count], self.waiting[count:]
        yield from self._taken(early, TRUE, "")

    def skip(self, taken: Container[str]) -> None:
        """Leave out decisions that have been taken before the block begins."""
        self._apart(choice.path for choice in self.waiting if choice.path in taken)
        self.waiting = [choice for choice in self.waiting if choice.path not in taken]

    def _apart(self, paths: Iterable[str]) -> None:
        """Paths that are decided apart from their alternatives."""
        gone = self.chosen & set(paths)
        if not gone:
            return
        self.chosen -= gone
        self.by_path -= {n.id for n in self.block.everywhere() if n.label in gone}

    def _taken(self, early: Iterable[Choice], live: Condition, prefix: str) -> Iterator[str]:
        """Decisions in their order, each under the conditions that hang on it beside `live`."""
        early = list(early)
        self._apart(choice.path for choice in early)
        known = set(_parts(live))
        turns = {choice.path: turn for turn, choice in enumerate(self.block.decisions)}
        for choice in early:
            if any(turns.get(s.name, -1) > turns[choice.path] for s in choice.live.symbols):
                why = "it hangs on one that is taken after it"
                raise cannot(f"the decision {choice.path}", why, choice.span)
        for deeper, group in groupby(early, key=lambda choice: choice.live):
            choices = list(group)
            if live != TRUE and not known <= set(_parts(deeper)):
                first = choices[0]
                raise misplaced(f"the decision {first.path}", "its turn is before", first.span)
            lines = [line for choice in choices for line in self.decide(choice, prefix)]
            # A condition is read inside of those that its own decisions hang on.
            further = (p for p in _parts(deeper) if p not in known and deeper != TRUE)
            for part in reversed(sorted(further, key=self._depth)):
                head = f"when {self.speller.condition(part)} {{"
                lines = [head, *(INDENT + line for line in lines), "}"]
            yield from lines

    def _depth(self, condition: Condition) -> int:
        """Under how many conditions what a condition reads is decided."""
        lives = {c.path: c.live for c in self.block.decisions}
        return max(
            (
                len(_parts(lives[s.name])) if s.name in lives and lives[s.name] != TRUE else 0
                for s in condition.symbols
            ),
            default=0,
        )

    def decide(self, choice: Choice, prefix: str = "") -> Iterator[str]:
        """`choose width in {..}`; one of several by an index binds another name, too."""
        path = self.target(choice, prefix)
        last = path.rpartition(".")[2].partition("[")[0]
        if choice.kind == "pick":
            size = 1 + max(i for v in choice.values if isinstance(v, tuple) for i in v)
            count = next(len(v) for v in choice.values if isinstance(v, tuple))
            domain = f"{count} of {size}"
        else:
            one_of = "1 of " if choice.kind == "path" else ""
            domain = f"{one_of}{{{', '.join(map(candidate, choice.values))}}}"
        hull = f" within {{{', '.join(map(candidate, choice.hull))}}}" if choice.hull else ""
        variable = self.variables[choice.path]
        named = "" if variable == last else f"let {variable} = "
        yield f"{named}choose {path} in {domain}{hull}"
        if choice.kind == "presence":
            yield f"for {self.names.free('turn')} in 0..<{variable} {{ }}"

    def target(self, choice: Choice, prefix: str) -> str:
        """The path of a decision below the prefix of the alternative that it stands in."""
        path = choice.path
        if prefix:
            if not path.startswith(prefix + "."):
                raise misplaced(
                    f"the decision {path}", f"it stands inside of {prefix}", choice.span
                )
            path = path[len(prefix) + 1 :]
        hops = [hop.partition("[")[0] for hop in path.split(".")]
        if not all(hop.isidentifier() for hop in hops) or {hops[0], hops[-1]} & reserved():
            raise cannot(f"the decision {choice.path}", "its path is no name", choice.span)
        return path


def _inside(block: Block) -> Iterator[Choice]:
    """The decisions of a block without the conditions of its callers under which all are taken."""
    sizes = {size.name for size in block.sizes}
    own = {truth for node in block.everywhere() for truth in conditions(node) if node.regions}
    lives = [_parts(choice.live) for choice in block.decisions]
    outer = {
        part
        for part in (lives[0] if lives else ())
        if part not in own
        and all(part in live for live in lives)
        and part.symbols
        and all(symbol.name in sizes for symbol in part.symbols)
    }
    for choice, live in zip(block.decisions, lives, strict=True):
        kept = (part for part in live if part not in outer)
        yield replace(choice, live=conjunction(*kept)) if outer else choice


def _symbols(what: Dim | Condition | Symbol) -> Iterable[Symbol]:
    return (what,) if isinstance(what, Symbol) else what.symbols


def _parts(condition: Condition) -> tuple[Condition, ...]:
    return condition.operands if isinstance(condition, All) else (condition,)


def _decides(node: Node, choice: Choice | None) -> bool:
    """Whether a node is the choice by a path that stands under the path's own label."""
    if node.op != "choose" or choice is None:
        return False
    return conditions(node) == tuple(Is(choice.symbol, value) for value in choice.values)
