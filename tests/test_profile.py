"""Profiles by PyTorch: operations alone, tables that survive a kill, and the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from command import SPACE, data, good, refused
from small_spaces import CONVOLUTIONS, VIT

from spacelang.analysis.latency import every_operation
from spacelang.analysis.latency_table import DEPLOYED, LatencyTable, read_table
from spacelang.backends.torch.inference.deployed import Deployed
from spacelang.backends.torch.inputs import example
from spacelang.backends.torch.profiling.profile import Clock, Job, facts_of, profile
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Source
from spacelang.ir.graph import Graph
from spacelang.loader import load

QUICK = ("--threads", 1, "--repeats", 2, "--networks", 2, "--progress", "quiet")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "small.space"
    path.write_text(SPACE)
    return path


@pytest.fixture(scope="module")
def table(space: Path) -> Path:
    """The table of a real, short profile."""
    path = space.with_name("table.json")
    good("profile", space, *QUICK, "-o", path)
    return path


@pytest.mark.parametrize("text", [VIT, CONVOLUTIONS, "small_cells.space", "swin.space"])
def test_every_operation_is_a_network_that_gives_its_types(text: str) -> None:
    """Alone, an operation gives what the graph says it does, of any architecture."""
    graph = load(Source("small", text)) if "{" in text else load(text)
    every = list(every_operation(graph, 2).values())
    clock = Clock(facts_of("cpu", 1, 2, "float32", DEPLOYED))
    for number, made in enumerate(every[:: 1 + len(every) // 60]):
        alone = made.graph()
        with torch.no_grad():
            found = Supernet(alone).eval().extract()(*example(alone))
        results = [found] if isinstance(found, torch.Tensor) else list(found.values())
        shapes = [[int(n.at({})) for n in type.shape] for type in made.nodes[-1].types]
        assert [list(result.shape) for result in results] == shapes, made.signature
        if number % 8 == 0 and made.operands:
            job = clock.job(alone, part=True)
            with torch.no_grad():
                again = job.module(*job.inputs)
            results = [again] if isinstance(again, torch.Tensor) else list(again.values())
            assert [list(result.shape) for result in results] == shapes, made.signature


def test_a_table_may_be_of_deployed_networks(
    space: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole networks are those of `deploy`; what it folds away is no operation."""
    graph = load(Source("small", CONVOLUTIONS))
    plain, deployed = every_operation(graph, 1), every_operation(graph, 1, DEPLOYED)
    away = plain.keys() - deployed.keys()
    assert deployed.keys() < plain.keys()
    assert away == {s for s, one in plain.items() if s.startswith("batch_norm") or not one.operands}
    path = tmp_path / "deployed.json"
    seen: list[object] = []
    turns = Clock.turns

    def watched(self: Clock, jobs: Sequence[Job]) -> list[float]:
        seen.extend(job.module for job in jobs)
        return turns(self, jobs)

    monkeypatch.setattr(Clock, "turns", watched)
    made = data("profile", space, *QUICK, "--for", "inference", "-o", path)
    found = read_table(path)
    assert made["facts"]["form"] == found.facts.form == DEPLOYED
    assert found.entries.keys() == every_operation(load(str(space)), 1, DEPLOYED).keys()
    assert sum(isinstance(module, Deployed) for module in seen) == len(found.networks)
    assert "form: deployed, not extracted" in refused("profile", space, *QUICK, "-o", path)
    assert "form: extracted, not deployed" in refused(
        "profile", space, *QUICK, "--for", "inference", "-o", table
    )
    assert "SP605" in refused("profile", space, "--for", "inference", "--dtype", "bfloat16")


def test_a_table_holds_every_operation_and_whole_networks(space: Path, table: Path) -> None:
    graph, found = load(str(space)), read_table(table)
    assert found.entries.keys() == every_operation(graph, 1).keys()
    assert all(ns > 0 for text, ns in found.entries.items() if text.startswith("linear"))
    assert [n.fitted for n in found.networks].count(True) >= 2, "the smallest and the largest"
    assert found.error is not None
    for network in found.networks:
        assert network.measured > 0
        graph.decisions.check(network.assignment)
    assert sorted(p.name for p in table.parent.iterdir()) == ["small.space", "table.json"]


def test_two_spaces_share_operations_and_no_networks(space: Path, tmp_path: Path) -> None:
    """The decisions of both are called the same; each is measured, fitted and told by itself."""
    wider = tmp_path / "wider.space"
    wider.write_text(SPACE.replace("classes = 10", "classes = 4000"))
    words = (*QUICK, "-o", tmp_path / "t.json")
    first, second = data("profile", space, *words), data("profile", wider, *words)
    assert first["assignment"] == second["assignment"]
    found = read_table(tmp_path / "t.json").networks
    hashes = [load(str(path)).hash for path in (space, wider)]
    assert hashes[0] != hashes[1]
    assert {n.graph for n in found} == {*hashes}
    assert [n.graph for n in found].count(hashes[1]) == second["networks"]
    assert second["measured"] != first["measured"]
    assert second["sum"] != first["sum"], "by the head alone"
    again = data("profile", space, *words)
    assert again.pop("operations") == first.pop("operations") + 2, "of either head"
    assert again == first


def test_what_is_shown_adds_up(space: Path, table: Path, tmp_path: Path) -> None:
    found = data("profile", space, *QUICK, "-o", table, "--picture", tmp_path / "a.svg")
    cost = data("cost", space, "--arch", _arch(tmp_path, found["assignment"]))
    for rows in (found["blocks"], found["ops"]):
        assert sum(row["ns"] for row in rows) == pytest.approx(found["sum"], abs=0.1)
        assert sum(row["params"] for row in rows) == cost["params"]
        assert sum(row["macs"] for row in rows) == cost["macs"]
    assert [row["path"] for row in found["blocks"]] == ["stem", "layers[0]", "layers[1]", "head"]
    drawing = ElementTree.parse(tmp_path / "a.svg").getroot()
    texts = ["".join(text.itertext()) for text in drawing.iter(f"{SVG}text")]
    assert {"stem", "layers[0]", "layers[1]", "head", "linear"} <= set(texts)
    pieces = [rect for rect in drawing.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    assert len(pieces) == 1 + 3 + 3 + 1, "a block's ops: linear, gelu, add"


def _arch(folder: Path, assignment: object) -> Path:
    (folder / "arch.json").write_text(json.dumps(assignment))
    return folder / "arch.json"


class Killed(Exception):
    pass


def test_a_killed_profile_goes_on_where_it_stopped(
    space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph: Graph = load(str(space))
    facts = facts_of("cpu", 1, 1, "float32")
    given = graph.decisions.extreme("largest")
    turns, done = Clock.turns, list[int]()

    def measured(self: Clock, jobs: Sequence[Job]) -> list[float]:
        if len(done) == 2:
            raise Killed
        done.append(len(jobs))
        return turns(self, jobs)

    def made() -> LatencyTable:
        return profile(graph, given, facts, repeats=1, path=tmp_path / "t.json", networks=2)

    monkeypatch.setattr(Clock, "turns", measured)
    monkeypatch.setattr("spacelang.backends.torch.profiling.profile.TOGETHER", 6)
    with pytest.raises(Killed):
        made()
    assert not (tmp_path / "t.json").exists()
    kept = (tmp_path / "t.json.part" / "measured.jsonl").read_bytes()
    done.clear()
    monkeypatch.setattr(Clock, "turns", lambda *a: done.append(len(a[1])) or turns(*a))
    found = made()
    every = every_operation(graph, 1)
    assert found.entries.keys() == every.keys()
    # Twelve of the fifteen stood in the journal; three are called in turns with what idles.
    assert len(every) == 15
    assert done[0] == 3 + 1
    assert found == read_table(tmp_path / "t.json")
    known = [json.loads(line)["entry"]["ns"] for line in kept.splitlines()]
    assert all(found.entries[name] == ns for entry in known for name, ns in entry.items())
    done.clear()
    assert made() == found
    assert done == [], "nothing is measured twice"


def test_a_table_of_another_device_is_not_added_to(space: Path, table: Path) -> None:
    before = table.read_bytes()
    told = refused("profile", space, *QUICK, "--batch", 3, "-o", table)
    assert "SP702" in told
    assert "batch: 1, not 3" in told
    assert table.read_bytes() == before
    assert "SP702" in refused("profile", space, *QUICK, "-o", space)
    assert "-o TABLE.json is missing" in refused("profile", space, "--random", 3)


def test_a_table_may_hold_what_some_networks_compute(space: Path, tmp_path: Path) -> None:
    arch = _arch(tmp_path, {"width": 8, "depth": 1, "layers[0].ratio": 1})
    words = ("--threads", 1, "--repeats", 1, "--progress", "quiet", "--arch", arch)
    found = data(
        "profile", space, *words, "--networks", 0, "--random", 1, "-o", tmp_path / "t.json"
    )
    assert found["networks"] == 2, "the largest, and the smallest, which was given"
    assert found["operations"] < len(every_operation(load(str(space)), 1))
    alone = data("profile", space, *words, "--depth", 2)
    assert alone["operations"] == 5, "up and down are the same work, and so are no others"
    assert alone["networks"] == 1
    assert [row["path"] for row in alone["blocks"]][1:3] == ["layers[0].up", "layers[0]"]


def test_a_table_of_a_hull_is_larger(space: Path) -> None:
    wide = space.with_name("wide.space")
    wide.write_text(
        SPACE.replace("choose width in widths", "choose width in widths within {8, 16, 24}")
    )
    words = ("--threads", 1, "--repeats", 1, "--progress", "quiet", "--networks", 0)
    found = data("profile", wide, *words, "--hull", "-o", wide.with_name("wide.json"))
    assert found["operations"] > data("profile", wide, *words)["operations"]
    assert any("24" in text for text in read_table(wide.with_name("wide.json")).entries)
    assert found["assignment"]["width"] == 24
    assert "--hull is of a .space file" in refused("profile", wide.parent, "--hull")
