"""Statements as documents of the formatter: one row a construct.

The formatter (`format.py`) lays out bodies and braces; here stands what is before and between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from spacelang.syntax import tree
from spacelang.syntax.layout import Doc, Fill, Indent, concat
from spacelang.syntax.phrase import SUM

if TYPE_CHECKING:
    from spacelang.syntax.format import Statements


def _space(p: Statements, n: tree.SpaceOf, level: int) -> Doc:
    head = concat(f"space {n.name}", *([p.params(n.params, level)] if n.params else []))
    if n.base is not None:
        head = Indent(Fill((head, concat("from ", p.source(n.base, level)))))
    return concat(head, " ", p.body(n.body, level))


def _instance(p: Statements, n: tree.Instance, level: int) -> Doc:
    params = [p.params(n.params, level)] if n.params else []
    return concat(f"space {n.name}", *params, " = ", p.source(n.base, level))


def _subnet(p: Statements, n: tree.Subnet, level: int) -> Doc:
    like = f" like {n.like}" if n.like else ""
    head = concat(f"subnet {n.name} of ", p.source(n.base, level), like)
    if not n.decisions:
        return head
    entries = p.entries(
        n.decisions, lambda e: _pair(p, e.path, " = ", e.value, level), level, n, n.base
    )
    return concat(head, " ", entries)


def _program(p: Statements, n: tree.Program, level: int) -> Doc:
    def member(member: tree.Network | tree.Share) -> Doc:
        paths = p.commas(p.path(path, level) for path in member.paths)
        if isinstance(member, tree.Share):
            return concat(f"{member.word} ", paths)
        head = concat(f"{member.word} {member.name} = ", p.source(member.base, level))
        return concat(head, f" of {member.of}: ", paths) if member.of else head

    return concat(f"program {n.name} ", p.entries(n.members, member, level, n))


def _block(p: Statements, n: tree.BlockOf, level: int) -> Doc:
    head = concat(f"{n.kind} {n.name}", p.params(n.params, level))
    if n.result is not None:
        head = Indent(Fill((head, concat("-> ", p.type(n.result, level)))))
    return concat(head, " ", p.body(n.body, level))


def _input(p: Statements, n: tree.Input, level: int) -> Doc:
    domain = [" in ", p.expr(n.domain, level)] if n.domain is not None else []
    return concat(f"input {n.name}: ", p.type(n.type, level), *domain)


def _assign(p: Statements, n: tree.Assign, level: int) -> Doc:
    head = f"{', '.join(n.names)} = "
    if len(n.values) == 1:
        return concat(head, p.expr(n.values[0], level, hang=True))
    return concat(head, p.commas(p.expr(value, level) for value in n.values))


def _choose(p: Statements, n: tree.Choose, level: int) -> Doc:
    if isinstance(n.domain, tree.Draw):
        domain = concat(p.expr(n.domain.count, level, SUM), " of ", p.expr(n.domain.source, level))
    else:
        domain = p.expr(n.domain, level)
    head = f"let {', '.join(n.given)} = choose " if n.given else "choose "
    parts = [concat(head, p.path(n.target, level), " in ", domain)]
    if n.hull is not None:
        parts.append(concat("within ", p.expr(n.hull, level)))
    return Indent(Fill(tuple(parts)))


def _for(p: Statements, n: tree.For, level: int) -> Doc:
    head = concat(f"for {', '.join(n.names)} in ", p.expr(n.source, level))
    return concat(head, " ", p.body(n.body, level))


def _pair(p: Statements, path: tree.Path, sign: str, value: tree.Expr, level: int) -> Doc:
    return concat(p.path(path, level), sign, p.expr(value, level + 1))


def _weights(p: Statements, n: tree.Weights, level: int) -> Doc:
    return concat(
        "weights ", p.entries(n.rules, lambda e: _pair(p, e.path, ": ", e.rule, level), level, n)
    )


def _rewrite(p: Statements, n: tree.Rewrite, level: int) -> Doc:
    def step(step: tree.Step) -> Doc:
        return concat(f"{step.name}(", p.arguments(step.arguments, level + 1), ")")

    return concat("rewrite ", p.entries(n.steps, step, level, n))


def _names(p: Statements, n: tree.Names, level: int) -> Doc:
    def rename(rename: tree.Rename) -> Doc:
        both = concat(p.path(rename.own, level), ": ", p.path(rename.foreign, level))
        if rename.layout is None:
            return both
        return Indent(Fill((both, concat("in ", p.expr(rename.layout, level)))))

    return concat(f"names {n.dialect} ", p.entries(n.renames, rename, level, n))


def _search(p: Statements, n: tree.Search, level: int) -> Doc:
    def setting(setting: tree.Setting) -> Doc:
        return concat(f"{setting.name} = ", p.expr(setting.value, level + 1))

    return concat(f"search {n.engine} ", p.entries(n.settings, setting, level, n))


def _keyword(word: str, node: tree.Expr, p: Statements, level: int) -> Doc:
    return concat(f"{word} ", p.expr(node, level, hang=True))


CLAUSES: Mapping[type, Callable[[Statements, Any, int], Doc]] = {
    tree.Use: lambda p, n, level: f"use {'.'.join(n.names)}",
    tree.Default: lambda p, n, level: concat(
        f"default {n.op}(", p.arguments(n.arguments, level), ")"
    ),
    tree.SpaceOf: _space,
    tree.Instance: _instance,
    tree.Subnet: _subnet,
    tree.Program: _program,
    tree.BlockOf: _block,
    tree.Input: _input,
    tree.Output: lambda p, n, level: _keyword(
        f"output {n.name}:" if n.name else "output", n.value, p, level
    ),
    tree.Let: lambda p, n, level: _keyword(f"let {', '.join(n.names)} =", n.value, p, level),
    tree.Assign: _assign,
    tree.Choose: _choose,
    tree.For: _for,
    tree.When: lambda p, n, level: p.when(n, level),
    tree.Return: lambda p, n, level: _keyword("return", n.value, p, level),
    tree.Require: lambda p, n, level: _keyword("require", n.condition, p, level),
    tree.Weights: _weights,
    tree.Rewrite: _rewrite,
    tree.Names: _names,
    tree.Search: _search,
}
