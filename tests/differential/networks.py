"""Claims about networks: interpreter, supernet, subnet, specialised graph and printed source."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from differential.case import Case, Skipped, Trial, by_name, furthest, inputs
from small_spaces import reference, tensors

from spacelang.backends.torch.distillation.taps import taps
from spacelang.backends.torch.extract import Chosen, dense
from spacelang.backends.torch.reference.interpret import interpret
from spacelang.backends.torch.subnets.proof import relative
from spacelang.backends.torch.supernet import Supernet
from spacelang.ir.dialect import dotted

SPREAD = 4
"""How many times as far as it was seen to move a gradient may be off: other roundings, in another
order of the same sums."""
SHARE = 2.0**-16
"""Of the size of a gradient: what moves it further is a jump, and no rounding."""


def outputs(case: Case) -> None:
    """Interpreter, supernet and subnet compute the same."""
    for trial in case.trials:
        for name, y in trial.supernet.outputs.items():
            assert relative(y, trial.interpreter.outputs[name]) <= 1e-10, name
            assert torch.equal(trial.subnet.outputs[name], y), name


def gradients(case: Case) -> None:
    """So do their gradients: a subnet's are the supernet's bit for bit, those of the interpreter
    equal to the rounding of float64."""
    graph, said = case.graph, False
    for trial in case.trials:
        mine, theirs = dict(trial.supernet.gradients), trial.interpreter.gradients
        largest = max((float(g.abs().max()) for g in theirs.values() if g.numel()), default=0.0)
        if not all(bool(torch.isfinite(g).all()) for g in theirs.values()):
            continue
        said = said or bool(theirs)
        unit = roundings(trial)
        assert mine.keys() == theirs.keys(), mine.keys() ^ theirs.keys()
        for name, found in mine.items():
            far = furthest(found, theirs[name])
            if not far <= largest * unit:  # nor is it where it is no number
                allowed = max(largest * unit, loosened(trial, name))
                assert far <= allowed, (name, far, allowed, dict(trial.assignment))
        chosen = Chosen(graph, graph.decisions.check(trial.assignment))
        small = dict(trial.subnet.gradients)
        for path, kept in chosen.kept().items():
            storage, position = chosen.tensors[path]
            store = graph.storages[storage]
            stored = mine.get(f"{storage}.{position}" if store.bank else storage)
            if stored is not None:
                found, here = small.pop(dotted(path)), dense(stored, store.tensors[position], kept)
                far = relative(found, here)
                assert far == 0, (path, far, dict(trial.assignment))
        assert not small, list(small)
    if not said:
        raise Skipped("nothing to learn, or gradients that are no numbers")


def roundings(trial: Trial) -> float:
    """How far a gradient may be off, of the largest one: a rounding for each operation.

    Every entry is a sum of products of at most all numbers that are multiplied or made on the way,
    forward and twice backward, and each step rounds by half an epsilon of what is there.
    """
    operations = 3 * len(trial.case.images[0]) * (trial.cost.macs + trial.elements)
    return operations * torch.finfo(torch.float64).eps / 2


def loosened(trial: Trial, name: str) -> float:
    """How far a gradient may be off where roundings have large effects: `SPREAD` times what they
    move it by; 0 where that is more than `SHARE` of it, as at a tie, so that nothing is loosened.
    """
    allowed = SPREAD * trial.noise[name]
    here = trial.interpreter.gradients[name]
    return allowed if allowed <= SHARE * float(here.abs().max()) else 0.0


def training(case: Case) -> None:
    """In training from one seed: every output, statistics, dropped paths."""
    model, images = case.supernet, inputs(case.graph, batch=5)
    state = {name: tensor.detach().clone() for name, tensor in tensors(model).items()}
    assignment = case.trials[-1].assignment
    wanted, _, after = reference(model, images, assignment, seed=11)
    torch.manual_seed(11)
    try:
        found = model.train().activate(assignment).all_outputs(*images)
        assert found.keys() == wanted.keys()
        for name, y in found.items():
            assert relative(y.detach(), wanted[name].detach()) <= 1e-8, name
        for name, tensor in tensors(model).items():
            assert relative(tensor.detach(), after[name].detach()) <= 1e-8, name
    finally:
        model.eval()
        with torch.no_grad():
            for name, tensor in tensors(model).items():
                tensor.copy_(state[name])


def sources(case: Case) -> None:
    """The printed source is a network of its own, equal to the subnet bit by bit."""
    made, small = case.first.emitted, case.first.subnet
    for name, y in small.outputs.items():
        assert torch.equal(made.outputs[name], y), name
    assert made.gradients.keys() == small.gradients.keys()
    if all(bool(torch.isfinite(g).all()) for g in small.gradients.values()):
        for name, found in small.gradients.items():
            assert torch.equal(made.gradients[name], found), name


def tapped(case: Case) -> None:
    """What has a label is read alike in interpreter, supernet and subnet."""
    model, trial = case.supernet, case.first
    named = (p for p in case.graph.places() if p.node.label and p.node.types)
    paths = list(dict.fromkeys(place.path for place in named))
    wanted: dict[str, torch.Tensor] = {}
    weights = {name: tensor.detach() for name, tensor in tensors(model).items()}
    interpret(case.graph, weights, case.images, trial.assignment, taps=wanted)
    found = taps(model.activate(trial.assignment), paths, *case.images)
    assert found.keys() <= wanted.keys(), found.keys() - wanted.keys()
    for path, value in found.items():
        assert relative(value.detach(), wanted[path]) <= 1e-10, path
    inside = [path for path in trial.small.meta["taps"] if path in found]
    for path, value in taps(trial.small, inside, *case.images).items():
        assert torch.equal(value, found[path]), path


def given(own: Supernet, weights: Mapping[str, torch.Tensor]) -> None:
    """Give a network without decisions the weights of its subnet, where its outputs read them."""
    chosen = Chosen(own.graph, {})
    with torch.no_grad():
        for path, kept in chosen.kept().items():
            storage, position = chosen.tensors[path]
            shape = own.graph.storages[storage].tensors[position]
            lists = [torch.tensor(tuple(read)) for axis in kept for read in axis]
            stored = own.stored_tensor(storage, position)
            factored = stored.view([n for axis in shape for n in axis])
            part = weights[dotted(path)].reshape([len(entries) for entries in lists])
            factored[torch.meshgrid(*lists, indexing="ij") if lists else ...] = part


def specialised(case: Case) -> None:
    """The graph of an architecture is a network of its own: it holds the subnet's weights under
    their names, and computes what the subnet does.

    Nothing else is missing there but what no output of inference needs.
    """
    trial = case.first
    own = Supernet(trial.special).double().eval()
    weights = trial.small.state_dict()
    needed = own.extract().state_dict().keys()
    assert needed == weights.keys(), needed ^ weights.keys()
    given(own, weights)
    found = by_name(case.graph, own(*case.images))
    for name, y in trial.subnet.outputs.items():
        assert relative(found[name].detach(), y) <= 1e-10, name
