"""Plug-ins: names of installed packages' ops, passes, backends, engines and sharing rules.

Every kind is an entry-point group whose values load only when asked for. Built-ins stand in the
same tables as `module:object`: there is no privileged path. A name with two owners is an error
naming both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from spacelang.diagnostics import SpaceError, error

BUILTIN: Mapping[str, Mapping[str, str]] = {
    "spacelang.ops": {"core": "spacelang.ops.core"},
    "spacelang.passes": {
        "bucketise": "spacelang.passes.bucketise:Bucketise",
        "cascade": "spacelang.passes.cascade:Cascade",
        "entangle": "spacelang.passes.entangle:Entangle",
        "fuse": "spacelang.passes.fuse:Fuse",
        "inline": "spacelang.passes.inline:Inline",
        "relax": "spacelang.passes.relax:Relax",
        "simplify": "spacelang.passes.simplify:Simplify",
        "insert": "spacelang.passes.insert:Insert",
        "irpe": "spacelang.passes.irpe:Irpe",
        "multiplex": "spacelang.passes.multiplex:Multiplex",
        "sample": "spacelang.passes.sample:Sample",
    },
    # Pure functions of numbers, for the number language.
    "spacelang.functions": {
        "cream_depths": "spacelang.syntax.cream:cream_depths",
        "cream_resolution": "spacelang.syntax.cream:cream_resolution",
    },
    "spacelang.backends": {
        "torch": "spacelang.backends.torch.backend:TorchBackend",
        "fused": "spacelang.backends.torch.backend:FusedBackend",
        "triton": "spacelang.backends.torch.backend:TritonBackend",
    },
    # What a fused group is computed by, a function of tensors.
    "spacelang.kernels": {
        "attention": "spacelang.backends.triton.attention:attention",
        "cascade": "spacelang.backends.triton.normed:cascade",
        "fused.attention": "spacelang.backends.torch.lowering.fused.attention:attention",
        "fused.mlp": "spacelang.backends.torch.lowering.fused.mlp:mlp",
        "depthwise": "spacelang.backends.triton.normed:depthwise",
        "excited": "spacelang.backends.triton.normed:excited",
        "mixed_attention": "spacelang.backends.triton.mixed_attention:mixed_attention",
        "mixture": "spacelang.backends.triton.mixture:mixture",
        "mlp": "spacelang.backends.triton.mlp:mlp",
        "relations": "spacelang.backends.triton.relations:relations",
        "required": "spacelang.backends.triton.launch:require_fused",
        "soft_labels": "spacelang.backends.triton.soft_labels:soft_labels",
        "squeezed": "spacelang.backends.triton.normed:squeezed",
    },
    "spacelang.lowerings": {},
    "spacelang.engines": {
        "contraction": "spacelang.engines.contraction:Contraction",
        "cyclic_differentiable": "spacelang.engines.cyclic_differentiable:CyclicDifferentiable",
        "evolution": "spacelang.engines.evolution:Evolution",
        "extreme": "spacelang.engines.baselines:Extreme",
        "prioritized_path": "spacelang.engines.prioritized_path:PrioritizedPath",
        "random": "spacelang.engines.baselines:RandomSearch",
        "random_cells": "spacelang.engines.random_cells:RandomCells",
        "space_evolution": "spacelang.engines.space_evolution:SpaceEvolution",
    },
    "spacelang.sharing": {},
    # Who is told the log of a run: a function of its folder that gives one of a line.
    "spacelang.trackers": {
        "mlflow": "spacelang.backends.torch.runs.trackers:mlflow",
        "tensorboard": "spacelang.backends.torch.runs.trackers:tensorboard",
        "trackio": "spacelang.backends.torch.runs.trackers:trackio",
        "wandb": "spacelang.backends.torch.runs.trackers:wandb",
    },
    "spacelang.tables": {
        "band": "spacelang.ir.gather:band",
        "corner": "spacelang.ir.gather:corner",
        "parts": "spacelang.ir.gather:parts",
        "square": "spacelang.ir.gather:square",
    },
    "spacelang.analyses": {
        "cost": "spacelang.analysis.queries:cost",
        "size": "spacelang.analysis.queries:size",
        "sample": "spacelang.analysis.queries:sample",
        "where": "spacelang.syntax.budget:parse_where",
        "copies": "spacelang.backends.torch.lowering.views:copies",
    },
    # What a backend does for a command, as BACKEND.WORK.
    "spacelang.commands": {
        "torch.together": "spacelang.backends.torch.runs.ranks:together",
        "torch.named": "spacelang.backends.torch.data.images:named",
        "torch.scales": "spacelang.backends.torch.data.images:scales",
        "fused.within": "spacelang.backends.torch.lowering.kernels:with_fused",
        "triton.fits": "spacelang.backends.torch.lowering.kernels:fits",
        "triton.needs": "spacelang.backends.triton.resources:needs",
        "triton.within": "spacelang.backends.torch.lowering.kernels:with_kernels",
        "torch.data": "spacelang.backends.torch.data.datasets:open_data",
        "torch.device": "spacelang.backends.torch.runs.device:device",
        "torch.facts": "spacelang.backends.torch.profiling.profile:facts_of",
        "torch.profile": "spacelang.backends.torch.profiling.profile:profile",
        "torch.progress": "spacelang.backends.torch.runs.progress:progress",
        "torch.recalibrate": "spacelang.backends.torch.training.recalibrate:calibrate",
        "torch.recipe": "spacelang.backends.torch.training.recipe:recipe_from",
        "torch.train": "spacelang.backends.torch.reports.training_report:train_and_report",
        "torch.left_out": "spacelang.backends.torch.searching.baselines:left_out",
        "torch.lesson": "spacelang.backends.torch.distillation.distill:lesson",
        "torch.distill": "spacelang.backends.torch.distillation.distill:distill",
        "torch.student": "spacelang.backends.torch.distillation.foreign:student_of",
        "torch.teacher": "spacelang.backends.torch.distillation.teacher:open_teacher",
        "torch.store_aug": "spacelang.backends.torch.distillation.logits.commands:aug_of",
        "torch.store_info": "spacelang.backends.torch.distillation.logits.commands:info",
        "torch.store_verify": "spacelang.backends.torch.distillation.logits.commands:verify",
        "torch.store_write": "spacelang.backends.torch.distillation.logits.commands:write",
        "torch.trained": "spacelang.backends.torch.training.training:load_trained",
        "torch.search": "spacelang.backends.torch.searching.search:search",
        "torch.open_program": "spacelang.backends.torch.searching.cycles:open_program",
        "torch.search_own": "spacelang.backends.torch.searching.train_and_search:search_own",
        "torch.search_program": "spacelang.backends.torch.searching.cycles:search_program",
        "torch.search_scratch": "spacelang.backends.torch.searching.search:search_scratch",
        "torch.print_supernet": "spacelang.backends.torch.printing.supernet_source:print_supernet",
        "torch.write_subnet": "spacelang.backends.torch.subnets.subnet:write_subnet",
        "torch.check_runtime": "spacelang.backends.torch.inference.deploy:check_runtime",
        "torch.deploy": "spacelang.backends.torch.inference.deploy_folder:files_of",
        "torch.weights": "spacelang.backends.torch.weights:load_file_into",
        "torch.open_subnet": "spacelang.backends.torch.subnets.subnet_folder:open_subnet",
        "torch.example": "spacelang.backends.torch.inputs:example",
        "torch.exportable": "spacelang.backends.torch.subnets.export:exportable",
        "torch.export": "spacelang.backends.torch.subnets.export:export",
        "torch.quickstart": "spacelang.backends.torch.quickstart.quickstart:main",
        "torch.quickstart_options": "spacelang.backends.torch.quickstart.quickstart:Options",
    },
}


@cache
def _installed() -> Any:
    """The entry points of all packages, whose files are read once."""
    return entry_points()


@cache
def table(group: str) -> Mapping[str, str]:
    """Name -> `module:object` of a group, built-ins and plug-ins."""
    found = dict(BUILTIN.get(group, {}))
    owner = dict.fromkeys(found, "spacelang")
    given: Iterable[EntryPoint] = _installed().select(group=group)
    for entry in sorted(given, key=lambda e: e.name):
        package = entry.dist.name if entry.dist else entry.value
        if entry.name in found:
            if found[entry.name] == entry.value:
                continue
            raise SpaceError(
                error(
                    "SP202",
                    f"{entry.name} of {group} is given by {owner[entry.name]} and by {package}",
                )
            )
        found[entry.name], owner[entry.name] = entry.value, package
    return MappingProxyType(found)


@cache
def load(group: str, name: str) -> Any:
    """The object behind a name; an unknown name lists what is installed."""
    known = table(group)
    if name not in known:
        near = get_close_matches(name, known, 1)
        kind = group.rpartition(".")[2]
        word = {"passes": "pass", "analyses": "analysis"}.get(kind, kind.removesuffix("s"))
        found = error("SP604", f"no {word} is called {name}")
        found = found.note(f"installed: {', '.join(sorted(known)) or 'none'}")
        raise SpaceError(found.hint(f"did you mean {near[0]}?") if near else found)
    module, _, attribute = known[name].partition(":")
    loaded = import_module(module)
    return getattr(loaded, attribute) if attribute else loaded


@cache
def load_all(group: str) -> tuple[Any, ...]:
    """Everything of a group, loaded."""
    return tuple(load(group, name) for name in table(group))
