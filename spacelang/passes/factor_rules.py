"""Which storage rule each factor of a parameter has, and what the uses of a parameter agree on.

The rule of a tensor beats those of the decisions that size a factor (`sharing.py`). Reported are a
decision without a rule (SP401), a rule without effect (SP403), two that differ (SP404).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from spacelang.diagnostics import Report, error
from spacelang.ir.condition import Condition
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.graph import Graph, Instance
from spacelang.ir.param import Param, View
from spacelang.ir.rule import StorageRule
from spacelang.passes.sharing import Rules, placed

ByFactor = tuple[tuple[StorageRule | None, ...], ...]
"""The rule of each factor of each axis; None where no decision sizes it."""
Use = tuple[tuple[Condition, ...], tuple[tuple[Dim, ...], ...]]  # guards, and what is read


@dataclass
class FactorRules:
    """The rules of a graph, factor by factor; `report` takes what is wrong with them."""

    graph: Graph
    rules: Rules
    report: Report
    uses: dict[str, list[Use]] = field(default_factory=dict[str, list[Use]])
    shared: set[str] = field(default_factory=set[str])

    def __post_init__(self) -> None:
        if any(rule.kind == "separate" for rule in self.graph.rules):
            for place in self.graph.places():
                for view in place.node.params.values():
                    path = place.instance.param(view.param)
                    absolute = place.instance.absolute
                    lengths = tuple(tuple(map(absolute, axis)) for axis in view.lengths)
                    self.uses.setdefault(path, []).append((place.guards, lengths))

    def of(self, instance: Instance, param: Param, view: View) -> ByFactor:
        """The rule of each factor of a parameter, None where no decision sizes it."""
        path = instance.param(param.path)
        own = self.rules.of_tensor(path)
        stored = self.graph.storages[path].shape
        touched = False
        axes: list[tuple[StorageRule | None, ...]] = []
        for a, axis in enumerate(view.lengths):
            factors: list[StorageRule | None] = []
            for f, length in enumerate(axis):
                symbols = [s for s in instance.absolute(length).symbols if len(s.points) > 1]
                if symbols:
                    rule = self._of_sized(own, symbols, param, path)
                else:
                    rule = self._of_case(own, instance, length, stored[a][f])
                    self._check_case(own, path, (a, f), param)
                touched = touched or bool(symbols) or rule is not None
                factors.append(rule)
            axes.append(tuple(factors))
        if own is not None and not touched:
            self.report.add(error("SP403", f"no decision sizes {path}", own.span))
        flat = next((r for a in axes for r in a if r is not None and r.argument == "flat"), None)
        if flat is not None and len(axes) > 1:
            headline = f"{path} has {len(axes)} axes; only a tensor of one axis is stored flat"
            self.report.add(error("SP403", headline, flat.span))
        return tuple(axes)

    def _of_case(
        self, own: StorageRule | None, instance: Instance, length: Dim, stored: int
    ) -> StorageRule | None:
        """The rule of a factor that is a number here because its decision is taken.

        Where a number had to be known, every value has an alternative under its condition.
        """
        if length == stored:
            return None
        taken = {s.name for guard in instance.guards for s in guard.symbols}
        rules = (own,) if own is not None else map(self.rules.of_decision, sorted(taken))
        return next((r for r in rules if placed(r)), None) if taken else None

    def _check_case(
        self, own: StorageRule | None, path: str, factor: tuple[int, int], param: Param
    ) -> None:
        """SP403 where `separate` would have to give the alternatives for the values of a decision
        tensors of their own: they read one, by its label."""
        uses = self.uses.get(path, [])
        if len(uses) < 2 or path in self.shared:
            return
        taken = [_taken(guards) for guards, _ in uses]
        lengths = [lengths[factor[0]][factor[1]] for _, lengths in uses]
        for name in sorted(frozenset(taken[0]).intersection(*taken)):
            rule = own or self.rules.of_decision(name)
            by_value: dict[DecisionValue, set[Dim]] = {}
            for values, length in zip(taken, lengths, strict=True):
                by_value.setdefault(values[name], set()).add(length)
            sizes = not all(each == next(iter(by_value.values())) for each in by_value.values())
            if rule is not None and rule.kind == "separate" and sizes:
                self.shared.add(path)
                headline = f"{path} cannot be separate for the values of {name}"
                self.report.add(
                    error("SP403", headline, rule.span)
                    .also(param.span, "this parameter")
                    .note(f"there are alternatives for the values of {name}, which share {path}")
                    .hint(f"weights {{ {name}: entangle }}, or a label for each alternative")
                )  # fmt: skip

    def _of_sized(
        self, own: StorageRule | None, symbols: list[Symbol], param: Param, path: str
    ) -> StorageRule | None:
        """The rule of a factor that decisions size."""
        if own is not None:
            return own
        found = {s.name: self.rules.of_decision(s.name) for s in symbols}
        missing = sorted(name for name, rule in found.items() if rule is None)
        if missing:
            hint = f"weights {{ {missing[0]}: entangle }} shares leading slices"
            self.report.add(
                error(
                    "SP401", f"no storage rule for {missing[0]}", param.span, f"it sizes {path}"
                ).hint(f"{hint}, `separate` shares nothing")
            )
            return None
        rules = [r for r in found.values() if r is not None]
        if _differ(rules):
            headline = f"{' and '.join(sorted(found))} size one factor of {path} by different rules"
            self.report.add(error("SP404", headline, rules[-1].span).also(rules[0].span))
        return next((rule for rule in rules if rule.kind != "store"), rules[0])

    def agreed(self, instance: Instance, name: str, before: ByFactor, after: ByFactor) -> ByFactor:
        """What two uses of a parameter ask for together (SP404 where they differ on a factor)."""
        pairs = [
            pair for axes in zip(before, after, strict=True) for pair in zip(*axes, strict=True)
        ]
        for a, b in pairs:
            if a is not None and b is not None and _differ((a, b)):
                headline = f"uses of {instance.param(name)} ask for different rules of one factor"
                found = error("SP404", headline, b.span).also(a.span)
                param = instance.block.param[name]
                self.report.add(found.also(param.span, "this parameter"))
        return merged(before, after)


def merged(before: ByFactor, after: ByFactor) -> ByFactor:
    """The rules that two uses of a parameter ask for, which agree on every factor: where one has
    none, or says how much is stored and not where, that of the other."""
    return tuple(tuple(map(_of_two, *axes)) for axes in zip(before, after, strict=True))


def _of_two(a: StorageRule | None, b: StorageRule | None) -> StorageRule | None:
    return a if b is None or (a is not None and b.kind == "store") else b


def _differ(rules: Sequence[StorageRule]) -> bool:
    """Whether rules of one factor read it differently."""
    slicing = [rule for rule in rules if rule.kind != "store"]
    kinds = {(rule.kind, rule.argument) for rule in slicing}
    return len(kinds) > 1 or (("separate", "") in kinds and len(slicing) < len(rules))


def _taken(guards: tuple[Condition, ...]) -> dict[str, DecisionValue]:
    """The decisions of which guards leave one value."""
    found: dict[str, tuple[DecisionValue, ...]] = {}
    for guard in guards:
        if len(guard.symbols) == 1:
            (symbol,) = guard.symbols
            left = found.get(symbol.name, symbol.values)
            found[symbol.name] = tuple(v for v in left if guard.at({symbol.name: v}))
    return {name: left[0] for name, left in found.items() if len(left) == 1}
