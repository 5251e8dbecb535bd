"""What is true of every legal program: one function a claim, in the order of their cost.

A claim is given the text's graph and fails with `AssertionError` or any other exception; the table
`CHECKS` says how often each is tried in a normal run (a replay tries them all).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import isfinite, prod
from types import ModuleType
from typing import Any, cast

import torch
from differential.program import NAME, loaded
from small_spaces import reference, tensors
from torch import Tensor, nn

from spacelang.analysis.cost import Cost
from spacelang.analysis.queries import counter, model
from spacelang.analysis.space import lints
from spacelang.backends.torch.extract import Chosen, dense
from spacelang.backends.torch.proof import relative
from spacelang.backends.torch.reference import ROWS
from spacelang.backends.torch.source import print_network
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Report, Source, SpaceError
from spacelang.ir.decision import Assignment
from spacelang.ir.dialect import dotted
from spacelang.ir.graph import Graph
from spacelang.ir.text import write
from spacelang.ir.verify import verify
from spacelang.loader import from_scope, load
from spacelang.passes import run
from spacelang.passes.specialize import specialize
from spacelang.plugins import load as plugin
from spacelang.syntax.format import format
from spacelang.syntax.ir_text import read
from spacelang.syntax.parse import parse
from spacelang.syntax.scope import Library
from spacelang.syntax.values import SpaceValue
from spacelang.syntax.write import write_space

SUBNETS = 0.0
"""A subnet's gradients are the supernet's, bit for bit."""
POINTS = 400
"""Assignments that are still tried one by one."""


class Skipped(Exception):
    """A claim that says nothing about this program, and why."""


@dataclass
class Case:
    """A program with what several claims ask of it."""

    text: str

    @cached_property
    def graph(self) -> Graph:
        return loaded(self.text)

    @cached_property
    def rng(self) -> random.Random:
        return random.Random(self.text)

    @cached_property
    def all(self) -> list[Assignment]:
        """Every architecture, where they are few."""
        choices = self.graph.decisions
        if prod(len(c.values) for c in choices.values()) > POINTS:
            raise Skipped("too many assignments to try each")
        found: dict[tuple[object, ...], Assignment] = {}
        for values in product(*(c.values for c in choices.values())):
            complete = dict(zip(choices, values, strict=True))
            assignment = choices.assignment(complete)
            if meets(self.graph, assignment, self.graph):
                found[tuple(sorted((p, str(v)) for p, v in assignment.items()))] = assignment
        return list(found.values())

    @cached_property
    def some(self) -> list[Assignment]:
        """The largest, the smallest and drawn ones, whatever the space requires."""
        choices = self.graph.decisions
        found = [choices.extreme("largest"), choices.extreme("smallest")]
        for _ in range(3):
            drawn = {p: self.rng.choice(c.values) for p, c in choices.items()}
            found.append(choices.assignment(drawn))
        return found

    @cached_property
    def supernet(self) -> Supernet:
        return moved(self.graph)

    @cached_property
    def images(self) -> list[Tensor]:
        return inputs(self.graph)


def meets(graph: Graph, assignment: Assignment, costed: Graph | None = None) -> bool:
    """Whether an architecture is within what its space requires, by evaluating it.

    Its figures are those of its own graph, unless another is given.
    """
    values = graph.decisions.check(assignment)
    wanted = counter(graph).required
    if not all(c.at(values) for c in wanted.conditions):
        return False
    if not wanted.bands:
        return True
    cost = costed.cost(assignment) if costed else specialize(graph, assignment).cost()
    return all(
        (low is None or low <= getattr(cost, f)) and (high is None or getattr(cost, f) <= high)
        for f, (low, high) in wanted.bands.items()
    )


def moved(graph: Graph) -> Supernet:
    """A supernet in float64 whose every weight matters."""
    made = Supernet(graph, seed=0)
    generator = torch.Generator().manual_seed(100)
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return made.double().eval()


def inputs(graph: Graph, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    found: list[Tensor] = []
    for node in graph.root.inputs:
        shape = [batch if n.symbols else int(n.at({})) for n in node.types[0].shape]
        if node.types[0].dtype == "i64":
            found.append(torch.randint(0, 7, shape, generator=generator))
        else:
            found.append(torch.randn(shape, generator=generator, dtype=torch.float64))
    return found


# Texts.


def loads(case: Case) -> None:
    """The program loads, keeps every invariant, and its lints are warnings."""
    report = Report()
    verify(case.graph, report)
    assert not report.errors, [str(e) for e in report.errors]
    for found in lints(case.graph):
        assert found.severity == "warning" or found.code == "SP502", found


def subnets_load(case: Case) -> None:
    """Every other space and subnet of the file loads, too."""
    source = Source(NAME, case.text)
    library = Library(None)
    scope = library.scope(parse(source), None)
    for name, value in scope.names.items():
        if isinstance(value, SpaceValue) and value.definition.span.source is source:
            from_scope(scope, name, source, library, {})


def formats(case: Case) -> None:
    """Formatting is idempotent, keeps the tree and the network."""
    file = parse(Source(NAME, case.text))
    once = format(file)
    again = parse(Source(NAME, once))
    assert again == file
    assert format(again) == once
    assert load(Source(NAME, once)).hash == case.graph.hash


def ir_text(case: Case) -> None:
    """The IR as text reads back as the same graph."""
    text = write(case.graph)
    again = read(Source("program.spaceir", text))
    assert again == case.graph
    assert again.hash == case.graph.hash
    assert write(again) == text


def space_text(case: Case) -> None:
    """The graph as a `.space` loads as the same network."""
    try:
        text = write_space(case.graph)
    except SpaceError as refused:
        headlines = [d.headline for d in refused.diagnostics]
        if any("load" in h or "another network" in h for h in headlines):
            raise AssertionError("\n".join(headlines)) from refused
        raise Skipped("cannot be written") from refused
    assert load(Source("again.space", text)).hash == case.graph.hash


# Counting.


def counts(case: Case) -> None:
    """The size is the number of architectures that one finds by trying."""
    assert case.graph.size() == len(case.all), (case.graph.size(), len(case.all))


def extremes(case: Case) -> None:
    """The least and the largest figure are those that one finds by trying."""
    if not case.all or counter(case.graph).required.bands:
        raise Skipped("no architecture, or limits on figures")
    for figure in ("params", "macs", "activations"):
        found = [getattr(case.graph.cost(a), figure) for a in case.all]
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


def costs(case: Case) -> None:
    """Costs are those of the specialised graph, of its ops, of its views and of the module."""
    graph = case.graph
    for assignment in case.some[:3]:
        whole, values = graph.cost(assignment), graph.decisions.check(assignment)
        small = specialize(graph, assignment)
        report = Report()
        verify(small, report)
        assert not report.errors, [str(e) for e in report.errors]
        assert small.cost() == whole, (small.cost(), whole, dict(assignment))
        rows = model(graph).per_op(values)
        for figure in ("params", "macs", "activations"):
            assert sum(getattr(r, figure) for r in rows) == getattr(whole, figure), figure
        by_op = model(small).per_op({})
        assert sum(r.macs for r in by_op) == whole.macs
        weights = [s.numel for s in small.storages.values() if s.param.role == "weight"]
        assert sum(weights) >= whole.params
        extracted = case.supernet.extract(assignment)
        owned = sum(p.numel() for p in extracted.parameters())
        assert owned == whole.params, (owned, whole, dict(assignment))


# Networks.


def outputs(case: Case) -> None:
    """Interpreter, supernet and subnet compute the same."""
    for assignment in case.some[1:4]:
        found = by_name(case.graph, case.supernet.activate(assignment)(*case.images))
        wanted, _, _ = reference(case.supernet, case.images, assignment)
        for name, y in found.items():
            assert relative(y.detach(), wanted[name].detach()) <= 1e-10, name
        small = by_name(case.graph, case.supernet.extract(assignment)(*case.images))
        for name, y in small.items():
            assert torch.equal(y, found[name]), name


def by_name(graph: Graph, found: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(found, Tensor):
        return dict(found)
    (name,) = (o.name for o in graph.outputs if not o.training)
    return {name: found}


def scored(found: Mapping[str, Tensor]) -> Tensor:
    """A number whose gradient differs from output to output."""
    parts = [
        (y * torch.linspace(-1, 1, y.numel()).to(y.dtype).reshape(y.shape)).sum()
        for y in found.values()
    ]
    return cast(Tensor, sum(parts))


def gradients(case: Case) -> None:
    """So do their gradients, those of the interpreter to the rounding of float64."""
    super_, graph = case.supernet, case.graph
    for assignment in case.some[1:3]:
        super_.zero_grad()
        one = by_name(graph, super_.activate(assignment)(*case.images))
        if not scored(one).requires_grad:
            raise Skipped("nothing to learn")
        scored(one).backward()
        with hard_sigmoid_of_single_precision():
            wanted, weights, _ = reference(super_, case.images, assignment)
            score = scored({n: wanted[n] for n in one})
            score.backward()
        learnt = [w.grad for w in weights.values() if w.grad is not None]
        largest = float(torch.stack([g.abs().max() for g in learnt]).max())  # NaN if any is
        if not isfinite(largest):
            raise Skipped("gradients that are no numbers")
        allowed = largest * roundings(graph.cost(assignment), len(case.images[0]))
        for name, tensor in tensors(super_).items():
            other = weights[name].grad
            assert (tensor.grad is None) == (other is None), name
            far = 0.0 if other is None else float((tensor.grad - other).abs().max())
            assert far <= allowed, (name, far, allowed, dict(assignment))
        small = super_.extract(assignment)
        scored(by_name(graph, small(*case.images))).backward()
        chosen = Chosen(graph, graph.decisions.check(assignment))
        mine = {n: p.grad for n, p in small.named_parameters() if p.grad is not None}
        for path, kept in chosen.kept().items():
            storage, position = chosen.tensors[path]
            stored = super_.stored_tensor(storage, position)
            if stored.grad is not None:
                other = dense(stored.grad, graph.storages[storage].tensors[position], kept)
                far = relative(mine.pop(dotted(path)), other)
                assert far <= SUBNETS, (path, far, dict(assignment))
        assert not mine, list(mine)


def roundings(cost: Cost, batch: int) -> float:
    """How far a gradient may be off, of the largest one: a rounding for each operation.

    Every entry is a sum of products of at most all numbers that are multiplied on the way, forward
    and twice backward, and each step rounds by half an epsilon of what is there.
    """
    operations = 3 * batch * (cost.macs + cost.activations)
    return operations * torch.finfo(torch.float64).eps / 2


class _HardSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return (x + 3).clamp(0, 6) / 6

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad_outputs[0] * (x.abs() < 3) * float(torch.tensor(1 / 6, dtype=torch.float32))


@contextmanager
def hard_sigmoid_of_single_precision() -> Iterator[None]:
    """The interpreter with PyTorch's backward of hard_sigmoid: its 1/6 is in single precision,
    also for float64."""
    before = ROWS["hard_sigmoid"]
    ROWS["hard_sigmoid"] = lambda at, x: _HardSigmoid.apply(x)
    try:
        yield
    finally:
        ROWS["hard_sigmoid"] = before


def training(case: Case) -> None:
    """In training from one seed: every output, statistics, dropped paths."""
    super_ = moved(case.graph).train()
    images = inputs(case.graph, batch=5)
    for assignment in case.some[2:4]:
        wanted, _, after = reference(super_, images, assignment, seed=11)
        torch.manual_seed(11)
        found = super_.activate(assignment).all_outputs(*images)
        assert found.keys() == wanted.keys()
        for name, y in found.items():
            assert relative(y.detach(), wanted[name].detach()) <= 1e-8, name
        for name, tensor in tensors(super_).items():
            assert relative(tensor.detach(), after[name].detach()) <= 1e-8, name


def sources(case: Case) -> None:
    """The emitted source is a network of its own, equal bit by bit."""
    for assignment in case.some[2:4]:
        text = print_network(case.supernet, assignment)
        made = ModuleType("emitted")
        exec(compile(text, "emitted.py", "exec"), made.__dict__)
        network = cast(nn.Module, made.Network()).double().eval()
        small = case.supernet.extract(assignment)
        network.load_state_dict(small.state_dict())
        found = by_name(case.graph, network(*case.images))
        for name, y in by_name(case.graph, small(*case.images)).items():
            assert torch.equal(found[name], y), name


def specialised(case: Case) -> None:
    """The graph of an architecture is a network of its own: it holds the subnet's weights under
    their names (and those that no output of inference needs), and computes what the subnet does."""
    for assignment in case.some[2:4]:
        small = case.supernet.extract(assignment)
        own = Supernet(specialize(case.graph, assignment)).double().eval()
        names = own.load_state_dict(small.state_dict(), strict=False)
        assert not names.unexpected_keys, names
        found = by_name(case.graph, own(*case.images))
        for name, y in by_name(case.graph, small(*case.images)).items():
            assert relative(found[name].detach(), y.detach()) <= 1e-10, name


def derived_subnet(case: Case) -> None:
    """A subnet of the text is the architecture that it names."""
    graph = case.graph
    if not graph.decisions:
        raise Skipped("nothing to decide")
    assignment = case.some[-1]
    lines = "  ".join(f"{path} = {shown(value)}" for path, value in assignment.items())
    text = f"{case.text}\nsubnet taken of {graph.name} {{ {lines} }}\n"
    source = Source(NAME, text)
    library = Library(None)
    found = from_scope(library.scope(parse(source), None), "taken", source, library, {})
    assert not found.decisions
    assert found.cost() == graph.cost(assignment)


def shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value if value.isidentifier() else f'"{value}"'
    return str(value)


# Passes.

PLAIN_PASSES = ["inline", "simplify", "simplify{fold_norm=true}", "bucketise", "entangle"]


def passes(case: Case) -> None:
    """What a pass declares to keep is kept, and what it makes is a network like any other."""
    graph = case.graph
    for text in passes_for(case):
        try:
            made = run(graph, text)
        except SpaceError as refused:
            if not all(d.code in REFUSALS for d in refused.diagnostics):
                raise
            continue
        report = Report()
        verify(made, report)
        assert not report.errors, (text, [str(e) for e in report.errors])
        kept = plugin("spacelang.passes", text.partition("{")[0]).preserves
        if "space" in kept and not counter(graph).required.bands:
            assert made.size() == graph.size(), text
        try:
            compare(case, made, kept, text)
        except (AssertionError, SpaceError) as failed:
            raise AssertionError(f"{text}: {failed}") from failed


REFUSALS = {"SP601", "SP402", "SP403", "SP404", "SP504", "SP203", "SP401", "SP302"}


def passes_for(case: Case) -> list[str]:
    graph = case.graph
    labels = {p.rpartition(".")[2].split("[")[0]: c for p, c in graph.decisions.items()}
    open_ = [n for n, c in labels.items() if c.kind in ("path", "pick")]
    found = [*PLAIN_PASSES]
    found += [f"relax{{{name}=softmax}}" for name in open_[:1]]
    if any(p.node.op == "softmax" for p in graph.places()):
        found.append("irpe{method=product,ratio=1,on=[q,k,v]}")
    calls = [p.path for p in graph.places() if p.node.call is not None and p.path.endswith("]")]
    found += [f"multiplex{{path={c.rpartition('[')[0]},every=2}}" for c in calls[:1]]
    return found


def compare(case: Case, made: Graph, kept: frozenset[str], text: str) -> None:
    """The rewritten network at a few architectures."""
    own = moved(made)
    function = "function" in kept
    if function:
        copy(case.supernet, own)
    for assignment in case.some[1:3]:
        if "space" not in kept or made.decisions.keys() != case.graph.decisions.keys():
            live = made.decisions
            values = case.graph.decisions.check(assignment)
            assignment = live.assignment(live.complete({p: values[p] for p in live if p in values}))
        if "parameters" in kept and "fold" not in text:
            assert made.cost(assignment).params == case.graph.cost(assignment).params
        wanted, _, _ = reference(own, case.images, assignment)
        found = by_name(made, own.activate(assignment)(*case.images))
        small = own.extract(assignment)
        assert sum(p.numel() for p in small.parameters()) == made.cost(assignment).params
        for name, y in by_name(made, small(*case.images)).items():
            assert relative(found[name].detach(), wanted[name].detach()) <= 1e-9, name
            assert torch.equal(y, found[name]), name
        if function:
            before = by_name(case.graph, case.supernet.activate(assignment)(*case.images))
            for name, y in before.items():
                assert relative(found[name].detach(), y.detach()) <= 1e-8, f"function: {name}"


def copy(one: Supernet, other: Supernet) -> None:
    """Give a supernet the weights of another by path."""
    before, own = tensors(one), tensors(other)
    with torch.no_grad():
        for path, tensor in own.items():
            tensor.copy_(before[path])


CHECKS: Mapping[Callable[[Case], None], int] = {
    loads: 1,
    counts: 1,
    samples: 3,
    outputs: 3,
    formats: 4,
    costs: 4,
    subnets_load: 4,
    ir_text: 4,
    extremes: 4,
    space_text: 5,
    derived_subnet: 6,
    gradients: 6,
    training: 6,
    sources: 8,
    specialised: 8,
    passes: 40,
}
"""A claim, and that it is tried on every n-th program of a normal run."""


@dataclass(frozen=True)
class Failure:
    """A claim that did not hold."""

    check: str
    kind: str
    detail: str

    @property
    def signature(self) -> tuple[str, str]:
        return self.check, self.kind


def failure(
    text: str, number: int | None = None, only: str = "", tally: Counter[str] | None = None
) -> Failure | None:
    """The first claim that a program breaks; with a number only those that are its turn.

    A `tally` counts how often each claim was tried, and why it said nothing: `NAME: WHY`.
    """
    case = Case(text)
    for place, (check, every) in enumerate(CHECKS.items()):
        turn = number is None or (number + place) % every == 0
        if not turn or (only and check.__name__ not in (only, "loads")):
            continue
        if tally is not None:
            tally[check.__name__] += 1
        try:
            check(case)
        except Skipped as why:
            if tally is not None:
                tally[f"{check.__name__}: {why}"] += 1
        except SpaceError as refused:
            codes = ",".join(sorted({d.code for d in refused.diagnostics}))
            return Failure(check.__name__, codes, str(refused)[:3000])
        except Exception as problem:  # whatever it is: the text is what is wanted
            kind = f"{type(problem).__name__} {key(problem)}"
            return Failure(check.__name__, kind, str(problem)[:3000])
    return None


def key(problem: Exception) -> str:
    """Where an exception comes from: the function that raised it, and its line of thought."""
    back = problem.__traceback__
    name = ""
    while back is not None:
        name, line = back.tb_frame.f_code.co_name, back.tb_lineno
        back = back.tb_next
        if back is None:
            return f"in {name}:{line}"
    return name
