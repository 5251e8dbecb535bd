"""Entangling: candidates read slices of one storage (AutoFormer).

The pass adds a rule; `storage_layout.py` lays out storage by it, as after every pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from spacelang.diagnostics import Report, error
from spacelang.ir.gather import forms
from spacelang.ir.graph import Graph
from spacelang.ir.pattern import Pattern
from spacelang.ir.rule import StorageRule
from spacelang.passes.base import Pass
from spacelang.passes.sharing import EVERYTHING


@dataclass(frozen=True)
class Entangle(Pass):
    """What `path` names reads slices of one storage.

    path    decisions or parameters; every decision of a size if not given. Of a path decision the
            alternatives share what is called alike in them (`alternatives.py`)
    form    leading entries (""), entries around the middle ("centre"), one flat prefix ("flat"),
            or the name of an index table ("corner")
    """

    name: ClassVar[str] = "entangle"
    preserves: ClassVar[frozenset[str]] = frozenset({"space"})

    path: Pattern = EVERYTHING
    form: str = ""

    def run(self, graph: Graph, report: Report) -> Graph:
        """The graph with a storage rule, by which storage is laid out anew after every pass.

        SP504 for a path of nothing, SP601 where it names nothing that could be shared.
        """
        from spacelang.passes.alternatives import entangled
        from spacelang.passes.release import released

        known = ("centre", "flat", *forms())
        if self.form not in ("", *known):
            note = f"there are {', '.join(known)}, or none for leading entries"
            report.add(error("SP204", f"entangle has no form {self.form}").note(note))
            return graph
        named = [p for p in (*graph.decisions, *graph.storages) if self.path.match(p) is not None]
        if not named and self.path != EVERYTHING:
            report.add(error("SP504", f"nothing has the path {self.path}"))
            return graph
        sized = _sized(graph)
        found = {
            path for path, names in sized.items() if path in named or not names.isdisjoint(named)
        }
        paths = [] if self.path == EVERYTHING else [
            p for p in named if p in graph.decisions and graph.decisions[p].kind == "path"
        ]  # fmt: skip
        if paths and self.form not in ("", "centre"):
            why = f"entangle({self.form}) does not fit {paths[0]}, which is a path"
            report.add(error("SP601", why).note("alternatives share leading or centred entries"))
        elif paths:
            graph = entangled(graph, paths, self.form == "centre")
        if not found and not paths:
            which = "no decision" if self.path == EVERYTHING else f"nothing that {self.path} names"
            report.add(
                error("SP601", f"entangle finds nothing to share in {graph.name}")
                .note(f"{which} sizes a parameter, or is a parameter that a decision sizes")
            )  # fmt: skip
        if not found:
            return graph
        rule = StorageRule(self.path, "entangle", self.form)
        return replace(released(graph, found), rules=(*graph.rules, rule))


def _sized(graph: Graph) -> dict[str, set[str]]:
    """Every parameter that decisions size, and which they are."""
    found: dict[str, set[str]] = {}
    for place in graph.places():
        for view in place.node.params.values():
            symbols = {
                s.name
                for axis in view.lengths
                for length in axis
                for s in place.instance.absolute(length).symbols
                if len(s.points) > 1
            }
            if symbols:
                found.setdefault(place.instance.param(view.param), set()).update(symbols)
    return found
