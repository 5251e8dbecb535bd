"""What to say of a token that does not fit: by example, else by what could have come."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from spacelang.diagnostics import Diagnostic, Report, Source, Span, error
from spacelang.grammars.loader import END, tables
from spacelang.syntax.machine import Machine
from spacelang.syntax.mistakes import FORMS, MISTAKES, Mistake
from spacelang.syntax.tokens import Token, scan

# Of what could come, these are said; operators could come nearly always.
STRUCTURE = (
    "=",
    ":",
    ",",
    ")",
    "]",
    "}",
    "{",
    "(",
    "[",
    "|",
    "->",
    "in",
    "of",
    "else",
    "from",
    "like",
)
STARTS_VALUE = frozenset({"NAME", "NUMBER", "STRING", "CHOOSE", "LSQB"})


# Of the words that begin a statement, those that people take for names.
NOUNS = FORMS.keys() - {"LET", "CHOOSE", "FOR", "WHEN", "RETURN", "REQUIRE"}

CONDITION = (
    "`if` inside a value needs its `else`",
    "write: 2 if large else 3; over statements: when large { .. }",
)


def describe(source: Source, machine: Machine, tokens: list[Token], position: int) -> Diagnostic:
    """The finding for the token at a position, at which the machine stopped."""
    token = tokens[position]
    expected = machine.expected()
    span = Span(source, token.start, token.end)
    if token.kind == END and position:
        span = Span(source, tokens[position - 1].start, tokens[position - 1].end)
    if word := _reserved(tokens, position, expected):
        span = Span(source, word.start, word.end)
        found = error("SP101", f"`{word.text}` is a reserved word", span, "cannot be a name")
        return found.hint(f"take another name, such as {word.text}_1")
    stop = _stop(machine, token)
    known = _known().get(stop) or _known().get((*stop[:2], ANYWHERE))
    if known:
        return error("SP101", known.headline, span, f"{_shown(token)} here").hint(known.help)
    condition = _last(machine, "IF")
    if condition and "ELSE" in expected:
        found = error("SP101", CONDITION[0], span, "expected `else`").hint(CONDITION[1])
        return found.also(Span(source, condition.start, condition.end), "of this `if`")
    bracket = _last(machine, "LPAR", "LSQB", "LBRACE")
    if bracket and "COMMA" in expected and token.kind in STARTS_VALUE:
        found = error("SP101", "a comma is missing", span, "expected `,` before this")
        return found.also(Span(source, bracket.start, bracket.end), "between the parts of this")
    found = error("SP101", f"expected {_wanted(expected)}, found {_shown(token)}", span)
    if statement := _last(machine, *FORMS):
        form = FORMS[statement.kind]
        found = found.also(
            Span(source, statement.start, statement.end), f"in this `{statement.text}`"
        )
        found = found.hint(f"the statement reads: {form}")
    return found


def _shown(token: Token) -> str:
    return "the end of the text" if token.kind == END else f"`{token.text}`"


def _reserved(tokens: list[Token], position: int, expected: set[str]) -> Token | None:
    """The reserved word, here or before, that was meant as a name."""
    token = tokens[position]
    if token.kind == "EQUAL" and position and tokens[position - 1].kind in NOUNS:
        return tokens[position - 1]
    if not token.text.isalpha() or token.kind in ("NAME", "WORD", END):
        return None
    if "NAME" not in expected or expected & {"LET", "PLUS"}:
        return None
    is_name = "NUMBER" not in expected or tokens[position + 1].kind in ("COLON", "EQUAL")
    return token if is_name else None


def _last(machine: Machine, *kinds: str) -> Token | None:
    """The last token of some kinds that belongs to the statement under way."""
    for state, value in zip(reversed(machine.states[:-1]), reversed(machine.values), strict=True):
        if isinstance(value, Token) and value.kind in kinds:
            return value
        if machine.begins_statement(state):
            return None
    return None


def _wanted(expected: set[str]) -> str:
    """What could come, in words."""
    literals = tables("space").literals
    wanted = ["a statement"] * ("LET" in expected)
    if "NUMBER" in expected:
        wanted.append("a value")
    elif expected & {"NAME", "WORD"} and "LET" not in expected:
        wanted.append("a name")
    wanted += [f"`{text}`" for text in STRUCTURE if literals[text] in expected]
    if "NUMBER" in expected:
        wanted = [text for text in wanted if text not in ("`(`", "`[`", "`{`")]
    if "PLUS" in expected:
        wanted = [text for text in wanted if text not in ("`(`", "`[`", "`|`", "`in`")]
    if END in expected and "LET" not in expected:
        wanted.append("the end of the text")
    if not wanted:
        wanted = sorted(f"`{text}`" for text, kind in literals.items() if kind in expected)
    return " or ".join([", ".join(wanted[:-1]), wanted[-1]] if len(wanted) > 1 else wanted)


# The state of the machine, the kind of token, and the statement under way.
_Stop = tuple[int, str, str]
ANYWHERE = "*"


def _stop(machine: Machine, token: Token) -> _Stop:
    statement = _last(machine, *FORMS)
    return machine.states[-1], token.kind, statement.kind if statement else ""


@cache
def _known() -> Mapping[_Stop, Mistake]:
    """The rows by where their examples stop."""
    grammar = tables("space")
    rows: dict[_Stop, Mistake] = {}
    for mistake in MISTAKES:
        for example in mistake.examples:
            # An example may leave brackets open; only the parse is asked.
            tokens = scan(Source("", example), grammar, Report()).tokens
            machine = Machine(grammar, _nothing)
            position = machine.run(tokens)
            state, kind, statement = _stop(machine, tokens[position])
            rows.setdefault((state, kind, ANYWHERE if mistake.anywhere else statement), mistake)
    return rows


def _nothing(rule: str, children: list[Any], start: int, end: int) -> None:
    """Builds no tree."""
