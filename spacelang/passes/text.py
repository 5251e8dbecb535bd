"""Pipelines as text: passes with their options, in the order in which they run.

    multiplex{path=encoder,every=2}, irpe{method=product,on=[k,v]}
    insert{block=twice,after=layers[1].fc}, insert{block=mixes.space:mix,before=head}

The options are those of `rewrite { }`. A value is a number, a word, a string in quotes, true,
false, none, a path (`layers[_].blocks`) or a list of them; a pass without options needs no
brackets. Which block a name means, says who has the pipeline read (`loader.blocks`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import MISSING
from math import isfinite
from typing import Any, NoReturn, get_type_hints

from spacelang.diagnostics import Source, SpaceError, Span, error, placed
from spacelang.ir.pattern import parse_pattern
from spacelang.passes.base import BlockSource, Pass, options
from spacelang.plugins import load

NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
PATH = re.compile(r"[A-Za-z_]\w*(?:\[[^\[\],{}]*\]|\.\w+)*", re.ASCII)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.\[])", re.ASCII)
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
BLOCK = re.compile(r'[^\s,{}\[\]"]+')
SPACE = re.compile(r"\s*")
WORDS = {"true": True, "false": False, "none": None}
DEPTH = 4
"""Lists inside lists: more than any option takes."""
DIGITS = 40

Blocks = Callable[[str, Span], BlockSource]
"""The block of a name as a pipeline writes it, and where: `mix`, `vit.mlp`, `mixes.space:mix`."""


def parse_pipeline(
    text: str, name: str = "--passes", blocks: Blocks | None = None
) -> tuple[Pass, ...]:
    """The passes of a pipeline. Raises SpaceError: SP101 syntax, SP204 options, SP604 no pass.

    `name` is what the text is called in messages; without `blocks` no block can be named (SP209).
    The one word `none` is no pass at all.
    """
    return () if text.strip() == "none" else _Reader(Source(name, text), blocks).pipeline()


class _Reader:
    """A text and how far it has been read."""

    def __init__(self, source: Source, blocks: Blocks | None) -> None:
        self.source, self.text, self.position = source, source.text, 0
        self.blocks = blocks

    def pipeline(self) -> tuple[Pass, ...]:
        steps: list[Pass] = []
        if not self._at_end():
            steps.append(self._step())
            while self._take(","):
                steps.append(self._step())
        if not self._at_end():
            self._expected("a comma and the next pass")
        return tuple(steps)

    def _step(self) -> Pass:
        start = self._skip()
        name = self._match(NAME, "the name of a pass, as in irpe{on=[k]}")
        span = Span(self.source, start, self.position)
        cls: type[Pass] = self._loaded(name, span)
        known, hints = options(cls), get_type_hints(cls)
        given: dict[str, Any] = {}
        if self._take("{") and not self._take("}"):
            self._option(name, cls, hints, given)
            while self._take(","):
                self._option(name, cls, hints, given)
            if not self._take("}"):
                self._expected("a comma or } after an option")
        missing = [
            option
            for option, field in known.items()
            if field.name not in given
            and field.default is MISSING
            and field.default_factory is MISSING
        ]
        if missing:
            raise SpaceError(error("SP204", f"{name} needs {', '.join(missing)}", span))
        return cls(**given)

    def _loaded(self, name: str, span: Span) -> type[Pass]:
        try:
            return load("spacelang.passes", name)
        except SpaceError as failed:
            (found,) = failed.diagnostics
            placed = error(found.code, found.headline, span).note(*found.notes).hint(found.help)
            raise SpaceError(placed) from failed

    def _option(
        self, step: str, cls: type[Pass], hints: dict[str, Any], given: dict[str, Any]
    ) -> None:
        start = self._skip()
        name = self._match(NAME, "the name of an option")
        span = Span(self.source, start, self.position)
        if not self._take("="):
            self._expected(f"= and the value of {name}")
        known = options(cls)
        field = known.get(name)
        target = given if field is not None else given.setdefault("open", {})
        key = name if field is None else field.name
        if field is None and "open" not in hints:
            raise SpaceError(
                error("SP204", f"{step} has no option {name}", span).note(
                    f"its options: {', '.join(known) or 'none'}"
                )
            )
        if key in target:
            raise SpaceError(error("SP204", f"{name} is given twice", span))
        hint = "" if field is None else str(hints[field.name])
        if "BlockSource" in hint:
            target[key] = self._block()
            return
        value = self._value("Pattern" in hint, 0)
        if "Pattern" in hint and "tuple" in hint and not isinstance(value, tuple):
            value = (value,)
        target[key] = value

    def _block(self) -> BlockSource:
        start = self._skip()
        quoted = STRING.match(self.text, self.position)
        text = self._string(quoted) if quoted else self._match(BLOCK, "the name of a block")
        span = Span(self.source, start, self.position)
        if self.blocks is None:
            found = error("SP209", f"no block can be named here, as {text} is", span)
            raise SpaceError(found.hint("make the pass: Insert(loader.load_block(..), after=..)"))
        try:
            return self.blocks(text, span)
        except SpaceError as failed:
            raise SpaceError(placed(found, span) for found in failed.diagnostics) from failed

    def _value(self, path: bool, depth: int) -> Any:
        start = self._skip()
        if self._take("["):
            if depth == DEPTH:
                raise SpaceError(
                    error("SP102", "lists too deep", Span(self.source, start, start + 1))
                )
            items: list[Any] = []
            if not self._take("]"):
                items.append(self._value(path, depth + 1))
                while self._take(","):
                    items.append(self._value(path, depth + 1))
                if not self._take("]"):
                    self._expected("a comma or ] in a list")
            return tuple(items)
        if path:
            word = self._match(PATH, "a path, as in layers[_].blocks")
            try:
                return parse_pattern(word)
            except ValueError:
                self._wrong(start, "is no path, as in layers[_].blocks")
        if (found := NUMBER.match(self.text, self.position)) is not None:
            self.position = found.end()
            whole = found[0].lstrip("-").isdecimal()
            if len(found[0]) > DIGITS or not isfinite(float(found[0])):
                span = Span(self.source, start, self.position)
                raise SpaceError(error("SP103", "a number out of range", span))
            return int(found[0]) if whole else float(found[0])
        if (found := STRING.match(self.text, self.position)) is not None:
            return self._string(found)
        word = self._match(PATH, "a number, a word or a list")
        if not NAME.fullmatch(word):
            self._wrong(start, "is no value here")
        return WORDS.get(word, word)

    def _string(self, found: re.Match[str]) -> str:
        self.position = found.end()
        try:
            return json.loads(found[0])
        except ValueError:
            self._wrong(found.start(), "is no string")

    # The text.

    def _skip(self) -> int:
        found = SPACE.match(self.text, self.position)
        assert found is not None
        self.position = found.end()
        return self.position

    def _at_end(self) -> bool:
        return self._skip() == len(self.text)

    def _take(self, sign: str) -> bool:
        if not self.text.startswith(sign, self._skip()):
            return False
        self.position += len(sign)
        return True

    def _match(self, wanted: re.Pattern[str], what: str) -> str:
        found = wanted.match(self.text, self._skip())
        if found is None:
            self._expected(what)
        self.position = found.end()
        return found[0]

    def _expected(self, what: str) -> NoReturn:
        end = min(len(self.text), self.position + 1)
        found = error("SP101", f"expected {what}", Span(self.source, self.position, end))
        raise SpaceError(found)

    def _wrong(self, start: int, what: str) -> NoReturn:
        span = Span(self.source, start, self.position)
        raise SpaceError(error("SP101", f"{span.text} {what}", span))
