"""Invariants, third stage: what holds for every architecture. One function a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from spacelang.diagnostics import Diagnostic, SpaceError
from spacelang.ir.block import Block
from spacelang.ir.condition import Condition
from spacelang.ir.definedness import Obligations, obligations
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.gather import refused
from spacelang.ir.graph import Instance
from spacelang.ir.mentions import of_node
from spacelang.ir.node import STRUCTURAL, Node
from spacelang.ir.owned import below_another
from spacelang.ir.param import Gather, Slice, View
from spacelang.ir.prove import Proved, at_most
from spacelang.ir.retype import (
    At,
    levels,
    wrong_call,
    wrong_choice,
    wrong_identity,
    wrong_region,
    wrong_types,
)
from spacelang.ir.storage import Extents, Storage, bank_of, picks
from spacelang.ir.subject import Subject, broken

Claim = Callable[[Block, Block, Node, At], str]


def _claimed(
    subject: Subject, claim: Claim, applies: Callable[[Node], bool]
) -> Iterator[Diagnostic]:
    """Nodes of which a claim holds neither in their block alone nor at every use of it."""
    for block in subject.blocks:
        failed = {
            node.id
            for level, at in levels(block, At())
            for node in level.nodes
            if applies(node) and claim(block, level, node, at)
        }
        if not failed:
            continue
        uses = [At(i.guards, i) for i in subject.uses.get(block.name, []) if i.block is block] or [
            At()
        ]
        for use in uses:
            for level, at in levels(block, use):
                for node in level.nodes:
                    if (
                        node.id in failed
                        and applies(node)
                        and (wrong := claim(block, level, node, at))
                    ):
                        place = (
                            "" if use.instance is None else f" at {use.instance.path or 'the root'}"
                        )
                        yield broken(f"%{node.id} of {block.name}{place}: {wrong}", node.span)


def types(subject: Subject) -> Iterator[Diagnostic]:
    """Types and parameters are what the op's shape row finds."""
    yield from _claimed(
        subject,
        lambda block, level, node, at: wrong_types(level, block, node, at),
        lambda node: node.op not in STRUCTURAL,
    )


def identities(subject: Subject) -> Iterator[Diagnostic]:
    """An identity has the type of what it names."""
    yield from _claimed(
        subject,
        lambda block, level, node, at: wrong_identity(level, node, at),
        lambda node: node.op == "identity",
    )


def borders(subject: Subject) -> Iterator[Diagnostic]:
    """Operands and results of a call have the callee's types, its sizes bound."""
    taken = {b.name: subject.known.decisions(b) for b in subject.graph.blocks.values()}

    def claim(block: Block, level: Block, node: Node, at: At) -> str:
        assert node.call is not None
        return wrong_call(subject.graph, level, node, taken[node.call.block], at)

    yield from _claimed(subject, claim, lambda node: node.call is not None)


def branches(subject: Subject) -> Iterator[Diagnostic]:
    """Regions take and yield the node's types where their condition holds, as do fallbacks."""
    yield from _claimed(
        subject,
        lambda block, level, node, at: wrong_region(level, node, at),
        lambda node: bool(node.regions),
    )


def choices(subject: Subject) -> Iterator[Diagnostic]:
    """Exactly one condition of a choice holds in every architecture."""
    yield from _claimed(
        subject,
        lambda block, level, node, at: wrong_choice(node, at),
        lambda node: node.op == "choose",
    )


def values(subject: Subject) -> Iterator[Diagnostic]:
    """Every number and condition has a value wherever it is read."""
    yield from _claimed(
        subject,
        lambda block, level, node, at: _undefined(node, at),
        lambda node: any(map(_obligations, of_node(node))),
    )
    for block in subject.blocks:
        for choice in block.decisions:
            for obligation in obligations(choice.live):
                if not obligation.discharged(()):
                    yield broken(
                        f"the decision {choice.path} of {block.name}: {obligation}", choice.span
                    )
    for condition in subject.graph.require:
        for obligation in obligations(condition):
            figures = any(s.rate for s in obligation.what.symbols)  # refused where counted
            if not figures and not obligation.discharged(()):
                yield broken(f"the requirement {condition}: {obligation}", subject.graph.root.span)


def _undefined(node: Node, at: At) -> str:
    """What of a node has no value at a place."""
    try:
        found = (
            at.dim(w) if isinstance(w, Dim) else at.condition(w)
            for w in of_node(node)
            if not isinstance(w, Symbol)
        )
        obligation = next(
            (d for what in found for d in obligations(what) if not d.discharged(at.guards)), None
        )
    except ArithmeticError as failed:
        return str(failed)
    return "" if obligation is None else str(obligation)


def _obligations(what: Dim | Condition | Symbol) -> Obligations:
    return () if isinstance(what, Symbol) else obligations(what)


def storage(subject: Subject) -> Iterator[Diagnostic]:
    """What a node reads of a parameter lies inside its storage; no storage is named like a layer
    that holds others."""
    try:
        kept = subject.graph.storages
    except SpaceError as failed:
        yield from failed.diagnostics
        return
    if found := below_another(kept):
        layer, path = found
        yield broken(f"{layer} is a parameter, and {path} stands below it", kept[path].param.span)
    for place in subject.graph.places():
        for view in place.node.params.values():
            use = Use(place.instance, view, kept[place.instance.param(view.param)])
            if not use.inside():
                where = f"%{place.node.id} at {place.path or 'the root'}"
                yield broken(f"{where} reads outside of {view.param}", place.node.span)


@dataclass(frozen=True)
class Use:
    """A view at one use of its block, and the storage that it reads."""

    instance: Instance
    view: View
    storage: Storage

    def inside(self) -> bool:
        """Whether what is read is stored, for every architecture."""
        return all(
            self._sliced(part, extents)
            if isinstance(part, Slice)
            else self._gathered(part, extents)
            for parts, axis in zip(self.view.index, self.storage.extents, strict=True)
            for part, extents in zip(parts, axis, strict=True)
        )

    def _sliced(self, part: Slice, extents: Extents) -> bool:
        if part.leading:  # there is room for the longest prefix
            return True
        absolute, guards = self.instance.absolute, self.instance.guards
        start = absolute(part.start)
        end = start + (absolute(part.length) - 1) * part.step + 1
        claims = [at_most(0, start, guards)]
        if len(set(extents)) == 1:
            claims.append(at_most(end, extents[0], guards))
        else:
            bank = bank_of(self.instance, self.instance.block.param[self.view.param])
            for position, extent in enumerate(extents):
                here = picks(bank, position)
                claims.append(at_most(end.substitute(here), extent, guards))
        return part.step >= 1 and all(isinstance(claim, Proved) for claim in claims)

    def _gathered(self, part: Gather, extents: Extents) -> bool:
        absolute = self.instance.absolute
        part = replace(
            part, length=absolute(part.length), arguments=tuple(map(absolute, part.arguments))
        )
        return not refused(part, self.instance.guards, min(extents))
