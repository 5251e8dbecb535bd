"""From a rule of the grammar and its children to a class of the tree: one row a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from spacelang.diagnostics import Report, Source, Span, error
from spacelang.syntax import tree

# Numerators and denominators stay inside what a signed word of 64 bits holds.
LARGEST = (1 << 63) - 1
DIGITS = 40
SUFFIXES = {"K": 10**3, "M": 10**6, "G": 10**9}

Children = list[Any]


class Builder:
    """Makes the nodes of one source; called by the machine."""

    def __init__(self, source: Source, report: Report) -> None:
        self.source = source
        self.report = report

    def __call__(self, rule: str, children: Children, start: int, end: int) -> Any:
        span = Span(self.source, start, end)
        if rule == "number":
            return self._number(children[0].text, span)
        return ROWS[rule](children, span)

    def _number(self, text: str, span: Span) -> tree.Number:
        value = number(text)
        if value is None:
            found = error("SP103", "this number is out of range", span, "beyond 63 bits")
            self.report.add(
                found.note("numerator and denominator of a number have at most 63 bits")
            )
        return tree.Number(value or Fraction(0), text, span=span)


def number(text: str) -> Fraction | None:
    """The exact value of a number as written, or None if it is beyond 63 bits."""
    if len(text) > DIGITS:
        return None
    factor = Fraction(1)
    if text[-1] in SUFFIXES:
        factor = Fraction(SUFFIXES[text[-1]])
        text = text[:-1]
    mantissa, _, exponent = text.lower().partition("e")
    power = int(exponent or 0)
    value = Fraction(mantissa) * factor
    if abs(power) > DIGITS and value:
        return None
    value *= Fraction(10) ** power if value else 1
    return value if max(value.numerator, value.denominator) <= LARGEST else None


def _given(children: Children) -> tuple[Any, ...]:
    """Children without the optional ones that are absent."""
    return tuple(child for child in children if child is not None)


def _let(names: tuple[str, ...], value: Any, span: Span) -> Any:
    """`let n = 4`, or a decision under a name: `let first = choose a.width in {8, 16}`."""
    if isinstance(value, tree.Choose):
        return tree.Choose(value.target, value.domain, value.hull, names, span=span)
    return tree.Let(names, value, span=span)


def _text(token: Any) -> str | None:
    return None if token is None else token.text


def _operator(sign: str) -> Callable[[Children, Span], Any]:
    return lambda c, span: tree.Binary(sign, c[0], c[1], span=span)


def _arguments(children: Children, span: Span) -> tuple[tree.Argument, ...]:
    return tuple(
        child if isinstance(child, tree.Argument) else tree.Argument(None, child, span=child.span)
        for child in children
    )


def _pairs(make: Callable[..., Any], children: Children) -> tuple[Any, ...]:
    return tuple(make(*pair) for pair in zip(children[::2], children[1::2], strict=True))


def _rule(path: tree.Path, rule: Any) -> tree.Rule:
    return tree.Rule(path, rule, span=path.span.to(rule.span))


def _weights(c: Children, span: Span) -> tree.Weights:
    return tree.Weights(_pairs(_rule, c), span=span)


def _search(c: Children, span: Span) -> tree.Search:
    def setting(name: Any, value: Any) -> tree.Setting:
        start = Span(span.source, name.start, name.end)
        return tree.Setting(name.text, value, span=start.to(value.span))

    return tree.Search(c[0].text, _pairs(setting, c[1:]), span=span)


ROWS: Mapping[str, Callable[[Children, Span], Any]] = {
    # Declarations.
    "use": lambda c, s: tree.Use(tuple(t.text for t in c), span=s),
    "default": lambda c, s: tree.Default(c[0].text, c[1], span=s),
    "space": lambda c, s: tree.SpaceOf(c[0].text, c[1] or (), c[2], c[3], span=s),
    "instance": lambda c, s: tree.Instance(c[0].text, c[1] or (), c[2], span=s),
    "subnet": lambda c, s: tree.Subnet(c[0].text, c[1], _text(c[2]), _given(c[3:]), span=s),
    "program": lambda c, s: tree.Program(c[0].text, tuple(c[1:]), span=s),
    "network": lambda c, s: tree.Network(
        c[0].text, c[1].text, c[2], _text(c[3]), _given(c[4:]), span=s
    ),
    "share": lambda c, s: tree.Share(c[0].text, tuple(c[1:]), span=s),
    "block": lambda c, s: tree.BlockOf(c[0].text, c[1].text, c[2], c[3], c[4], span=s),
    "source": lambda c, s: tree.SourceOf(c[0].text, c[1], span=s),
    "given": lambda c, s: c[0] or (),
    "decision": lambda c, s: tree.DecisionOf(c[0], c[1], span=s),
    "params": lambda c, s: _given(c),
    "param": lambda c, s: tree.Param(c[0].text, c[1], c[2], span=s),
    "type": lambda c, s: tree.TypeOf(_given(c), span=s),
    "start": lambda c, s: c,
    # Statements.
    "body": lambda c, s: tree.Body(tuple(c), span=s),
    "input": lambda c, s: tree.Input(c[0].text, c[1], c[2], span=s),
    "output": lambda c, s: tree.Output(_text(c[0]), c[1], span=s),
    "let": lambda c, s: _let(c[0], c[1], s),
    "assign": lambda c, s: tree.Assign(c[0], tuple(c[1:]), span=s),
    "choose": lambda c, s: tree.Choose(c[0], c[1], c[2], span=s),
    "draw": lambda c, s: tree.Draw(c[0], c[1], span=s),
    "loop": lambda c, s: tree.For(c[0], c[1], c[2], span=s),
    "when": lambda c, s: tree.When(c[0], c[1], c[2], span=s),
    "ret": lambda c, s: tree.Return(c[0], span=s),
    "targets": lambda c, s: tuple(t.text for t in c),
    # Limits, storage, passes, foreign names, engines.
    "require": lambda c, s: tree.Require(c[0], span=s),
    "weights": _weights,
    "rewrite": lambda c, s: tree.Rewrite(tuple(c), span=s),
    "step": lambda c, s: tree.Step(c[0].text, c[1] or (), span=s),
    "names": lambda c, s: tree.Names(c[0].text, tuple(c[1:]), span=s),
    "rename": lambda c, s: tree.Rename(c[0], c[1], c[2], span=s),
    "search": _search,
    "path": lambda c, s: tree.Path(tuple(c), span=s),
    "hop": lambda c, s: tree.Hop(c[0].text, tuple(c[1:]), span=s),
    # Expressions.
    "either": lambda c, s: tree.Either(c[0], c[1], c[2], span=s),
    "or_": _operator("or"),
    "and_": _operator("and"),
    "not_": lambda c, s: tree.Unary("not", c[0], span=s),
    "compare": lambda c, s: tree.Binary(c[1].text, c[0], c[2], span=s),
    "member": _operator("in"),
    "not_member": _operator("not in"),
    "pipe": lambda c, s: tree.Pipe(c[0], c[1], span=s),
    "range": lambda c, s: tree.Range(c[0], c[1], c[2], span=s),
    "range_open": lambda c, s: tree.Range(c[0], c[1], c[2], open=True, span=s),
    "add": _operator("+"),
    "sub": _operator("-"),
    "mul": _operator("*"),
    "div": _operator("/"),
    "floordiv": _operator("//"),
    "mod": _operator("%"),
    "neg": lambda c, s: tree.Unary("-", c[0], span=s),
    "label": lambda c, s: tree.Labelled(c[0], c[1], span=s),
    "item_at": lambda c, s: tree.Item(c[0], tuple(c[1:]), span=s),
    "field": lambda c, s: tree.Field(c[0], c[1].text, span=s),
    "call": lambda c, s: tree.CallOf(c[0], c[1] or (), c[2], span=s),
    "region": lambda c, s: tree.Region(c[0], c[1], span=s),
    "args": _arguments,
    "kwarg": lambda c, s: tree.Argument(c[0].text, c[1], span=s),
    "full": lambda c, s: tree.Full(span=s),
    "rest": lambda c, s: tree.Rest(c[0], span=s),
    "leading": lambda c, s: tree.Leading(span=s),
    "name": lambda c, s: tree.Name(c[0].text, span=s),
    "string": lambda c, s: tree.String(c[0].text[1:-1], span=s),
    "list": lambda c, s: tree.List(_given(c), span=s),
    "each": lambda c, s: tree.Each(c[0], c[1], c[2], span=s),
    "set": lambda c, s: tree.Set(_given(c), span=s),
    "choose_path": lambda c, s: tree.ChoosePath(c[0], tuple(c[1:]), span=s),
    "option": lambda c, s: tree.Option(c[0].text, c[1], span=s),
    "choose_here": lambda c, s: tree.ChooseHere(tuple(c), span=s),
}
