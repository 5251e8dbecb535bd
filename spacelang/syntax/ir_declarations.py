"""Declarations of `.spaceir` text: sizes, decisions and parameters, and how nodes read these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeGuard, get_args

from spacelang.ir.decision import Choice, Kind
from spacelang.ir.dim import ZERO, Dim, Symbol
from spacelang.ir.param import Gather, Init, Param, Slice, View
from spacelang.syntax.ir_sizes import Part, Piece, Values

KINDS: Mapping[str, Kind] = {kind: kind for kind in get_args(Kind)}
DTYPES = ("f32", "f64", "f16", "bf16", "i64", "i32", "bool")


def is_rule(child: Part | None, *rules: str) -> TypeGuard[Piece]:
    return isinstance(child, Piece) and child.rule in rules


class Declarations(Values):
    """Reads what a block declares before its nodes."""

    def size_of(self, piece: Piece) -> Symbol:
        token, values = piece.children
        if values is not None and values.rule == "anything":
            return Symbol(self.word(token), rate=True)
        return Symbol(self.word(token), () if values is None else self.candidates(values))

    def choice_of(self, piece: Piece) -> Choice:
        kind, path, values, hull, _ = piece.children
        word = self.word(kind)
        if word not in KINDS:
            self.fail(f"no decision is of the kind {word}", kind, f"one of {', '.join(KINDS)}")
        return Choice(
            self.word(path),
            KINDS[word],
            self.candidates(values),
            None if hull is None else self.candidates(hull),
            span=self.span(path),
        )

    def param_of(self, piece: Piece) -> Param:
        token, *rest = piece.children
        start = next(i for i, child in enumerate(rest) if is_rule(child, "init"))
        shape = tuple(
            tuple(self.dims(axis)) if axis.rule == "dims" else (self.dim(axis),)
            for axis in rest[:start]
            if axis is not None
        )
        param = Param(self.word(token), shape, self.init_of(rest[start]), span=self.span(token))
        seen: set[str] = set()
        for flag in rest[start + 1 :]:
            word, *names = (self.word(t) for t in flag.children if t is not None)
            field = "dtype" if word in DTYPES else word
            if field in seen or (field == "bank") != bool(names):
                self.fail(f"{word} means nothing here", flag)
            seen.add(field)
            match field:
                case "dtype":
                    param = replace(param, dtype=word)
                case "buffer":
                    param = replace(param, role="buffer")
                case "transient":
                    param = replace(param, persistent=False)
                case "undecayed":
                    param = replace(param, decay=False)
                case "reserved":
                    param = replace(param, reserved=True)
                case "bank":
                    param = replace(param, bank=tuple(names))
                case _:
                    self.fail(f"a parameter cannot be {word}", flag)
        return param

    def init_of(self, piece: Piece) -> Init:
        rule, *arguments = piece.children
        return Init(self.word(rule), tuple(self.dim(a) for a in arguments if a is not None))

    def dims(self, piece: Piece) -> list[Dim]:
        return [self.dim(child) for child in piece.children if child is not None]

    def views_of(self, piece: Piece | None) -> dict[str, View]:
        found: dict[str, View] = {}
        for view in [] if piece is None else piece.children:
            role, param, *axes = view.children
            key = "" if role is None else self.word(role)
            if key in found:
                self.fail("a second parameter of this role", view)
            index = tuple(
                tuple(self._part(part) for part in axis.children if part is not None)
                for axis in axes
            )
            found[key] = View(self.word(param), index)
        return found

    def _part(self, piece: Piece) -> Slice | Gather:
        match piece.rule:
            case "prefix":
                start, length = (self.dim(child) for child in piece.children)
                if start != ZERO:
                    self.fail("a slice that does not start at 0 is written start +: length", piece)
                return Slice(start, length)
            case "slice":
                start, length, step = piece.children
                return Slice(
                    self.dim(start), self.dim(length), 1 if step is None else self.whole(step)
                )
            case _:
                table, *arguments, length = piece.children
                return Gather(
                    self.word(table),
                    tuple(self.dim(a) for a in arguments if a is not None),
                    self.dim(length),
                )
