"""What can be asked of a graph: cost, size, samples. Models are made once for each graph."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, cast

from spacelang import plugins
from spacelang.analysis.budget import Budget
from spacelang.analysis.cost import CostModel
from spacelang.collector import collector_paused
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.figures import TIMED, Between, Cost

if TYPE_CHECKING:
    from spacelang.analysis.count import Counter, Law
    from spacelang.ir.decision import Assignment
    from spacelang.ir.graph import Graph

LAWS = ("architectures", "choices")


def model(graph: Graph) -> CostModel:
    """The closed forms of a graph."""
    return graph.memo("cost model", CostModel)


def counter(graph: Graph) -> Counter:
    """The counting tables of a graph."""
    from spacelang.analysis.count import Counter

    return graph.memo("counter", lambda g: Counter(g, model(g)))


def cost(graph: Graph, assignment: Assignment | None = None) -> Cost:
    """The figures of an architecture (SP506 if decisions are open)."""
    values = graph.decisions.check(assignment or {})
    return model(graph).at(values)


@collector_paused()
def size(graph: Graph, where: str = "") -> int | Between:
    """The number of architectures within a budget and the space's own requirements.

    Errors of it and of `sample` are those of `Graph`, where users meet them.
    """
    return counter(graph).size(countable(parsed(graph, where)))


def why_empty(graph: Graph, where: str) -> SpaceError:
    """SP502 with what each figure of a budget that nothing meets could reach."""
    found = counter(graph)
    return found.empty(found.required.meet(countable(parsed(graph, where)) or Budget()))


def sample(
    graph: Graph, n: int = 1, seed: int = 0, where: str = "", law: str = "architectures"
) -> Sequence[Assignment]:
    """Independent draws; `law` is "architectures" (uniform over them) or "choices"."""
    asked: dict[str, object] = {"n": n, "seed": seed}
    for name, value in asked.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise SpaceError(error("SP209", f"{name} is a whole number, not {value!r}"))
        if value < 0:
            raise SpaceError(error("SP103", f"{name} is at least 0, not {value}"))
    if law not in LAWS:
        raise SpaceError(
            error("SP604", f"no law is called {law}").note(f"there are {', '.join(LAWS)}")
        )
    chosen: Law = "choices" if law == "choices" else "architectures"
    return counter(graph).draw(n, seed, countable(parsed(graph, where)), chosen)


def countable(where: Budget | None) -> Budget | None:
    """A budget that exact counting can answer (SP508 for one on latency or throughput)."""
    if where is None or not where.timed:
        return where
    name = next(figure for figure in TIMED if figure in where.bands)
    found = error("SP508", f"{name} is measured, not counted: no exact count or draw knows it")
    raise SpaceError(
        found.note("counting is by elimination over whole numbers that the graph gives").hint(
            "leave it out here; `search --latency TABLE` draws within it and rejects by the table"
        )
    )


def parsed(graph: Graph, where: str) -> Budget | None:
    """A budget from its text; the front end reads it (SP209 for what is no text)."""
    if not isinstance(cast(object, where), str):
        raise SpaceError(error("SP209", f"a budget is a text, not {type(where).__name__}"))
    return plugins.load("spacelang.analyses", "where")(graph, where) if where.strip() else None
