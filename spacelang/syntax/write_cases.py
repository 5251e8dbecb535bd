"""Several blocks that are called by the value of decisions, written as one block of the text.

    block apart(x) {
      choose heads in {1, 2}
      let known = "yes" if heads == 1 else "no"
      when heads == 1 { .. } else when heads == 2 { .. }
    }

The `let` asks for the value of the decision, so that the front end makes a block for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as Candidate
from spacelang.ir.node import Call, Value
from spacelang.ir.words import base_name
from spacelang.syntax.write_nodes import Body
from spacelang.syntax.write_sizes import Sizes
from spacelang.syntax.write_split import Case
from spacelang.syntax.write_values import INDENT, Names, candidate

if TYPE_CHECKING:
    from spacelang.syntax.write_blocks import Blocks


@dataclass
class Cases:
    """The block of one split.

    bound     what its arguments stand for at the call, with their names
    own       the decisions that its variants take themselves, by their paths there
    decided   the names of such as are taken before the cases
    """

    blocks: Blocks
    call: Call
    known: Sequence[Symbol]
    own: Mapping[Symbol, str]
    bound: dict[Dim | Symbol, str] = field(default_factory=dict[Dim | Symbol, str])
    decided: dict[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        self.name = self.blocks.names.free(base_name(self.call.block))
        self.names = Names(self.blocks.names.taken)
        inputs = self.blocks.graph.blocks[self.call.block].inputs
        self.params = [self.names.free(node.label or "x") for node in inputs]
        for symbol in sorted(self.known, key=str):
            self.bound[symbol] = self.names.free(symbol.name.lstrip("%"))

    def written(self, cases: tuple[Case, ...]) -> tuple[list[str], list[str]]:
        """The parameters and the statements of the block."""
        lines = list(self._cases(cases))
        return [*self.params, *self.bound.values()], lines

    def _cases(self, cases: tuple[Case, ...]) -> Iterator[str]:
        """The bodies, each where what is known of its decisions holds."""
        known, call = cases[0]
        if not known:
            yield from self._variant(call)
            return
        symbol, value = known[0]
        if symbol in self.own and self.own[symbol] not in self.decided:
            yield from self._declared(call, self.own[symbol])
        name = self.bound.get(symbol) or self.decided[self.own[symbol]]
        yield f'let {self.names.free("known")} = "yes" if {name} == {candidate(value)} else "no"'
        groups: dict[Candidate, list[Case]] = {}
        for (head, *rest), call in cases:
            groups.setdefault(head[1], []).append((tuple(rest), call))
        before = dict(self.decided)
        for position, (value, inner) in enumerate(groups.items()):
            yield ("} else " if position else "") + f"when {name} == {candidate(value)} {{"
            self.decided = dict(before)
            yield from (INDENT + line for line in self._cases(tuple(inner)))
        yield "}"

    def _declared(self, call: Call, path: str) -> Iterator[str]:
        """The decisions of a variant up to one of which the value must be known."""
        _, body = self._started(call)
        last = [choice.path for choice in body.waiting].index(path)
        taken = body.waiting[: last + 1]
        yield from body.before(last + 1)
        self.decided |= {choice.path: body.variables[choice.path] for choice in taken}

    def _started(self, call: Call) -> tuple[Sizes, Body]:
        """The writer of a variant; its sizes are arguments, by what they are bound to."""
        block = self.blocks.graph.blocks[call.block]
        sizes = Sizes(block, self.names, capitals_allowed=False)
        sizes.decisions |= self.decided
        sizes.taken = {s: self.bound[to] for s, to in call.sizes.items() if to in self.bound}
        body = self.blocks.body(block, sizes)
        body.skip(self.decided)
        for node, name in zip(block.inputs, self.params, strict=True):
            body.name(Value(node.id), name)
        return sizes, body

    def _variant(self, call: Call) -> Iterator[str]:
        from spacelang.syntax.write_blocks import returning

        block = self.blocks.graph.blocks[call.block]
        sizes, _, lines = returning(block, lambda: self._started(call), set(self.params))
        for size, name in sizes.taken.items():
            self.bound.setdefault(call.sizes[size], name)
        yield from lines
