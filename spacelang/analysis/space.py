"""Lints of a space: what is legal and yet hardly meant.

    lints(graph)    decisions that nothing reads, candidates that give the same network,
    requirements
                    that exclude nothing (or everything: an error), elastic parts in front of others

Sizes and conditions are asked as they stand in the graph: a decision that the algebra drops, such
as the window in `min(window, 7)` of {7, 14}, changes no network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from spacelang.analysis.claims import claims
from spacelang.analysis.dialects import dialects
from spacelang.analysis.parts import Parts
from spacelang.diagnostics import Diagnostic, Report, Span, warning
from spacelang.ir.block import Block
from spacelang.ir.condition import Condition, Is
from spacelang.ir.decision import Choice, plain
from spacelang.ir.dim import Dim, Symbol, Value
from spacelang.ir.gather import PARTS
from spacelang.ir.graph import Graph, Instance, conditions
from spacelang.ir.node import Attribute, Node
from spacelang.ir.param import Gather, Init, Slice

Mention = Dim | Condition
Groups = tuple[tuple[int, ...], ...]


def lints(graph: Graph) -> list[Diagnostic]:
    """Warnings, and SP502 for a space that requires what no architecture meets."""
    report = Report()
    report.extend(graph.remarks)
    report.extend(_unread(graph))
    report.extend(_shifted(graph))
    report.extend(claims(graph))
    report.extend(dialects(graph))
    return list(report)


# Decisions and candidates.


def _unread(graph: Graph) -> Iterator[Diagnostic]:
    """SP510 for decisions that nothing reads, SP503 for candidates that give the same network."""
    readers = _readers(graph)
    alike = _alternatives(graph)
    groups: dict[tuple[str, str], tuple[Choice, list[str]]] = {}
    for path, choice in graph.decisions.items():
        if len(choice.values) < 2:
            continue
        if path not in readers:
            kind, text = "SP510", "nothing reads {}"
        else:
            same = _same_values(choice, readers[path]) or alike.get(path, ())
            if not same:
                continue
            words = " and ".join(str(plain(v)) for v in same)
            kind, text = "SP503", f"{words} of {{}} give the same network"
        groups.setdefault((kind + text, repr(choice.span)), (choice, []))[1].append(path)
    for (key, _), (choice, paths) in groups.items():
        code, text = key[:5], key[5:]
        shown = ", ".join(paths[:4]) + (", .." if len(paths) > 4 else "")
        found = warning(code, text.format(paths[0]), choice.span)
        if len(paths) > 1:
            found = found.note(f"so it is for {len(paths)} decisions: {shown}")
        yield found.note("it counts in the size of the space all the same")


def _readers(graph: Graph) -> Mapping[str, list[Mention]]:
    """The sizes and conditions in which each decision stands, each once."""
    found: dict[str, dict[Mention, None]] = {}
    for instance, _, mentions in graph.nodes_of(_mentions, once=True):
        for mention in mentions:
            absolute = (
                instance.absolute(mention)
                if isinstance(mention, Dim)
                else instance.condition(mention)
            )
            for symbol in absolute.symbols:
                found.setdefault(symbol.name, {})[absolute] = None
    return {path: list(mentions) for path, mentions in found.items()}


def _mentions(_: Block, node: Node) -> Iterator[tuple[Mention, ...]]:
    """The sizes and conditions of a node in which decisions may stand, if there are any."""
    found = tuple(m for m in dict.fromkeys(_deciding(node)) if m.symbols)
    if found:
        yield found


def _deciding(node: Node) -> Iterator[Mention]:
    """Everything of a node that decides what it computes."""
    for value in node.attributes.values():
        yield from _sizes(value)
    for view in node.params.values():
        for axis in view.index:
            for part in axis:
                yield part.length
                yield from (part.start,) if isinstance(part, Slice) else part.arguments
    for type in node.types:
        yield from type.shape


def _sizes(value: Attribute) -> Iterator[Mention]:
    match value:
        case None | str() | bool() | Symbol():
            return
        case tuple():
            for item in value:
                yield from _sizes(item)
        case Init():
            yield from value.arguments
        case _:
            yield value


def _same_values(choice: Choice, readers: list[Mention]) -> tuple[Value, ...]:
    """Candidates between which no reader tells a difference; empty if there are none."""
    classes = [list(choice.values)]
    for mention in readers:
        if not classes:
            return ()
        classes = [part for group in classes for part in _parted(mention, choice.path, group)]
    return tuple(classes[0]) if classes else ()


def _parted(mention: Mention, path: str, values: list[Value]) -> list[list[Value]]:
    """The values in groups that make the same of a size or condition, single ones left out."""
    groups: dict[object, list[Value]] = {}
    for value in values:
        try:
            made: object = mention.substitute({path: value})
        except ArithmeticError:
            made = value
        groups.setdefault(made, []).append(value)
    return [group for group in groups.values() if len(group) > 1]


def _alternatives(graph: Graph) -> Mapping[str, tuple[Value, ...]]:
    """Alternatives of a path that compute the same, by the path of the decision."""
    alike: dict[str, set[frozenset[Value]]] = {}
    blocks = (graph.root, *graph.blocks.values())
    forms = {id(node): _of_one_form(node) for b in blocks for node in b.everywhere()}

    def of_one_form(_: Block, node: Node) -> Iterator[Groups]:
        found = forms[id(node)]
        return iter(() if found is None else (found,))

    for instance, node, groups in graph.nodes_of(of_one_form) if any(forms.values()) else ():
        found = [_key(instance, condition) for condition in conditions(node)]
        keys = [key for key in found if key is not None]
        if len(keys) < len(found):
            continue
        name = keys[0][0]
        here = {frozenset(keys[region][1] for region in group) for group in groups}
        alike[name] = alike[name] & here if name in alike else here
    return {
        path: tuple(v for v in graph.decisions[path].values if v in next(iter(groups)))
        for path, groups in alike.items()
        if groups
    }


def _of_one_form(node: Node) -> Groups | None:
    """The regions of a choice that compute the same, by number; None of another op."""
    if node.op != "choose":
        return None
    forms: dict[object, list[int]] = {}
    for number, region in enumerate(node.regions):
        forms.setdefault(_form(region), []).append(number)
    return tuple(tuple(group) for group in forms.values() if len(group) > 1)


def _key(instance: Instance, condition: Condition) -> tuple[str, Value] | None:
    """The decision and the candidate of an alternative of a path."""
    here = instance.condition(condition)
    return (here.symbol.name, here.value) if isinstance(here, Is) else None


def _form(region: Block) -> object:
    """What a region computes, its labels and the paths of its parameters aside."""
    order = {node.id: i for i, node in enumerate(region.nodes)}
    read = {v for node in region.nodes for v in node.operands} | set(region.outputs)
    return (
        tuple(
            (
                node.op,
                tuple((order[v.node], v.index) for v in node.operands),
                tuple(node.attributes.items()),
                tuple((role, view.lengths) for role, view in node.params.items()),
                None if node.call is None else (node.call.block, tuple(node.call.sizes.items())),
                tuple(_form(inner) for inner in node.regions),
                node.types,
            )
            for node in region.nodes
            if node.op != "input" or any(v.node == node.id for v in read)
        ),
        tuple((order[v.node], v.index) for v in region.outputs),
    )


# Elastic parts.


def _shifted(graph: Graph) -> Iterator[Diagnostic]:
    """SP405: a layer reads a prefix of parts of which one that is not the last is elastic."""
    told: set[Span] = set()
    for read, joined in Parts(graph).joined():
        view = read.node.params[read.role]
        param, part = read.instance.block.param[view.param], view.index[read.axis][read.factor]
        apart = isinstance(part, Gather) and part.table == PARTS
        if apart or param.bank or param.role == "buffer" or joined.span in told:
            continue
        told.add(joined.span)
        yield (
            warning("SP405", f"a part of {joined.part} stands in front of others", joined.span)
            .also(read.node.span, "reads one prefix of all parts")
            .note("a smaller part moves those after it to other weights")
            .hint("join fixed parts, give each part a layer of its own, or say `separate`")
        )
