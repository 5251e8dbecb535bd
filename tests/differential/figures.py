"""Claims about numbers: how many networks there are, what is drawn, and what each costs."""

from __future__ import annotations

from differential.case import Case, Skipped, meets

from spacelang.analysis.queries import counter, model
from spacelang.diagnostics import Report, SpaceError
from spacelang.ir.verify import verify

FIGURES = ("params", "macs", "activations")


def counts(case: Case) -> None:
    """The size is the number of architectures that one finds by trying."""
    assert case.graph.size() == len(case.all), (case.graph.size(), len(case.all))


def extremes(case: Case) -> None:
    """The least and the largest figure are those that one finds by trying."""
    if not case.all or counter(case.graph).required.bands:
        raise Skipped("no architecture, or limits on figures")
    costs = [case.graph.cost(a) for a in case.all]
    for figure in FIGURES:
        found = [getattr(cost, figure) for cost in costs]
        assert counter(case.graph).extremes(figure) == (min(found), max(found)), figure


def samples(case: Case) -> None:
    """Draws are architectures of the space, of both laws."""
    if case.graph.size() == 0:
        raise Skipped("no architecture")
    for law in ("architectures", "choices"):
        for drawn in case.graph.sample(4, seed=1, law=law):
            values = case.graph.decisions.check(drawn)
            assert case.graph.decisions.assignment(values) == drawn
            assert meets(case.graph, drawn), (law, dict(drawn))


def numels(case: Case) -> None:
    """The parameters that a cost counts are the entries of the network's tensors."""
    for trial in case.trials:
        owned = sum(p.numel() for p in trial.small.parameters())
        assert owned == trial.cost.params, (owned, trial.cost, dict(trial.assignment))


def costs(case: Case) -> None:
    """Costs are those of the specialised graph, of its ops and of its storages."""
    trial = case.first
    whole, values = trial.cost, case.graph.decisions.check(trial.assignment)
    report = Report()
    verify(trial.special, report)
    assert not report.errors, [str(e) for e in report.errors]
    assert trial.special.cost() == whole, (trial.special.cost(), whole, dict(trial.assignment))
    rows = model(case.graph).per_op(values)
    for figure in FIGURES:
        assert sum(getattr(r, figure) for r in rows) == getattr(whole, figure), figure
    by_op = model(trial.special).per_op({})
    assert sum(r.macs for r in by_op) == whole.macs
    weights = [s.numel for s in trial.special.storages.values() if s.param.role == "weight"]
    assert sum(weights) >= whole.params


def partial(case: Case) -> None:
    """An assignment without one of its decisions is none (SP506)."""
    for path in [*case.first.assignment][:1]:
        rest = {p: v for p, v in case.first.assignment.items() if p != path}
        codes: set[str] = set()
        try:
            case.graph.cost(rest)
        except SpaceError as refused:
            codes = {d.code for d in refused.diagnostics}
        assert codes == {"SP506"}, f"an architecture without {path}"
