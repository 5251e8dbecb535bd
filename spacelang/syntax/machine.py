"""The LALR machine: tokens in, whatever the caller builds of them out.

It runs the tables that lark makes of a grammar and treats symbols as lark's tree builder does
(`loader.Rule`), with three things lark has not: values are made while parsing, so that no tree is
ever walked down; every value has a height, and the height is bounded; and after an error the stack
is in the hands of the caller, who may take states off it and go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from spacelang.grammars.loader import END, Tables
from spacelang.syntax.tokens import Token

# How high a tree may be. Walks of four calls a level stay far from Python's limit of 1,000.
HEIGHT = 128

# (name of the rule, children, start, end) -> value
Build = Callable[[str, list[Any], int, int], Any]


class TooHigh(Exception):
    """A tree beyond `HEIGHT`; its arguments are where its text starts and ends."""


@dataclass(slots=True)
class Machine:
    """A parse under way. `states` is one longer than the other stacks."""

    tables: Tables
    build: Build
    start: str = "start"
    states: list[int] = field(init=False)
    values: list[Any] = field(default_factory=list[Any])
    starts: list[int] = field(default_factory=list[int])
    ends: list[int] = field(default_factory=list[int])
    heights: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        self.states = [self.tables.starts[self.start][0]]

    def run(self, tokens: Sequence[Token], position: int = 0) -> int:
        """Take tokens from a position on, the last of them the end of the text.

        Returns the position of the first token that does not fit, or the number of tokens where
        all did: then `values[0]` is the result.
        """
        states, actions = self.states, self.tables.actions
        while position < len(tokens):
            token = tokens[position]
            action = actions[states[-1]].get(token.kind)
            if action is None:
                return position
            if action >= 0:
                states.append(action)
                self.values.append(token)
                self.starts.append(token.start)
                self.ends.append(token.end)
                self.heights.append(0)
                position += 1
                continue
            self._reduce(~action, token.start)
            if token.kind == END and states[-1] == self.tables.starts[self.start][1]:
                return position + 1
        return position

    def expected(self) -> set[str]:
        """The terminals that could come next: those that some reductions lead to a shift of."""
        return {kind for kind in self.tables.actions[self.states[-1]] if self.would_take(kind)}

    def would_take(self, kind: str) -> bool:
        """Whether a terminal could come next."""
        tables = self.tables
        states = self.states[:]
        while (action := tables.actions[states[-1]].get(kind)) is not None:
            if action >= 0:
                return True
            rule = tables.rules[~action]
            if rule.length:
                del states[-rule.length :]
            states.append(tables.gotos[states[-1]][rule.origin])
            if kind == END and states[-1] == tables.starts[self.start][1]:
                return True
        return False

    def begins_statement(self, state: int) -> bool:
        """Whether a state is one in which a statement or declaration may begin."""
        return self.tables.actions[state].get("LET", -1) >= 0

    def unwind(self, length: int) -> None:
        """Take values off until `length` of them are left."""
        del self.states[length + 1 :]
        for stack in (self.values, self.starts, self.ends, self.heights):
            del stack[length:]

    def _reduce(self, number: int, here: int) -> None:
        rule = self.tables.rules[number]
        if rule.passes:  # most of them: the levels of operators above a name or number
            self.states[-1] = self.tables.gotos[self.states[-2]][rule.origin]
            return
        length = rule.length
        values, heights = self.values, self.heights
        base = len(values) - length
        start = self.starts[base] if length else here
        end = self.ends[-1] if length else here
        children: list[Any] = []
        height = 0
        for position in rule.keep:
            if position is None:
                children.append(None)
                continue
            place = base + (position if position >= 0 else ~position)
            if position >= 0:
                children.append(values[place])
            elif children:
                children += values[place]
            else:
                # The list is used once: growing it in place keeps long lists linear.
                children = values[place]
            height = max(height, heights[place])
        if rule.splice:
            value: Any = children
        elif rule.lift and len(children) == 1:
            value = children[0]
        else:
            height += 1
            if height > HEIGHT:
                raise TooHigh(start, end)
            value = self.build(rule.name, children, start, end)
        self.unwind(base)
        self.states.append(self.tables.gotos[self.states[-1]][rule.origin])
        values.append(value)
        self.starts.append(start)
        self.ends.append(end)
        heights.append(height)
