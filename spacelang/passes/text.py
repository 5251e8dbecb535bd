"""Pipelines as text: passes with their options, in the order in which they run.

    multiplex{path=encoder,every=2}, irpe{method=product,on=[k,v]}

The options are those of `rewrite { }`. A value is a number, a word, a string in quotes, true,
false, none, a path (`layers[_].blocks`) or a list of them; a pass without options needs no
brackets. A block cannot be named here: passes that take one are written in a file or in Python.
"""

from __future__ import annotations

import json
import re
from dataclasses import MISSING
from math import isfinite
from typing import Any, NoReturn, get_type_hints

from spacelang.diagnostics import Source, SpaceError, Span, error
from spacelang.ir.pattern import parse_pattern
from spacelang.passes.base import Pass, options
from spacelang.plugins import load

NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
PATH = re.compile(r"[A-Za-z_]\w*(?:\[[^\[\],{}]*\]|\.\w+)*", re.ASCII)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.\[])", re.ASCII)
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
SPACE = re.compile(r"\s*")
WORDS = {"true": True, "false": False, "none": None}
DEPTH = 4
"""Lists inside lists: more than any option takes."""
DIGITS = 40


def parse_pipeline(text: str, name: str = "--passes") -> tuple[Pass, ...]:
    """The passes of a pipeline. Raises SpaceError: SP101 syntax, SP204 options, SP604 no pass.

    `name` is what the text is called in messages. The one word `none` is no pass at all.
    """
    return () if text.strip() == "none" else _Reader(Source(name, text)).pipeline()


class _Reader:
    """A text and how far it has been read."""

    def __init__(self, source: Source) -> None:
        self.source, self.text, self.position = source, source.text, 0

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
            raise SpaceError(
                error("SP209", f"{step} takes a block as {name}, which no pipeline can name", span)
                .hint("write the step in rewrite { } of a file, or make the pass in Python")
            )  # fmt: skip
        value = self._value("Pattern" in hint, 0)
        if "Pattern" in hint and "tuple" in hint and not isinstance(value, tuple):
            value = (value,)
        target[key] = value

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
            self.position = found.end()
            try:
                return json.loads(found[0])
            except ValueError:
                self._wrong(start, "is no string")
        word = self._match(PATH, "a number, a word or a list")
        if not NAME.fullmatch(word):
            self._wrong(start, "is no value here")
        return WORDS.get(word, word)

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
