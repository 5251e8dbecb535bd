"""Networks that memory does not hold are refused before a tensor is made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from spacelang.analysis import memory
from spacelang.diagnostics import Source, SpaceError
from spacelang.loader import compile, load


def made(body: str):
    return load(Source("<memory>", f"space s {{ input x: [B, 16] {body} }}"))


@pytest.fixture(autouse=True)
def _unlimited() -> Iterator[None]:
    yield
    memory.allow_memory(None)


def test_bytes_are_those_of_the_tensors() -> None:
    graph = made("output linear(x, 8) as f |> batch_norm as n")
    model = compile(graph)
    tensors = (*model.parameters(), *model.buffers())
    assert memory.weight_bytes(graph) == sum(t.numel() * t.element_size() for t in tensors)
    assert memory.held_bytes(graph) == memory.weight_bytes(graph) + 16 * 4


def test_the_largest_candidate_counts() -> None:
    graph = made("choose w in {8, 32} output linear(x, w) as f weights { _: entangle }")
    assert memory.weight_bytes(graph) == (32 * 16 + 32) * 4


@pytest.mark.parametrize(
    "body",
    [
        "output linear(x, 4000000000000) as f",
        "output take(parameter([99]) as t, clipped_index(9999999, 9, axis: 0, reach: 3))",
    ],
    ids=["weights", "a table"],
)
def test_what_does_not_fit_is_refused_before_it_is_made(
    body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = made(body)

    def allocated(*_: object, **__: object) -> None:
        raise AssertionError("a tensor was made")

    monkeypatch.setattr(torch, "empty", allocated)
    monkeypatch.setattr(torch, "arange", allocated)
    with pytest.raises(SpaceError) as failed:
        compile(graph)
    (found,) = failed.value.diagnostics
    assert found.code == "SP507"
    assert f"{memory.held_bytes(graph):,}" in found.headline
    assert f"{memory.machine_memory():,}" in found.notes[0]


def test_a_table_counts_once_for_equal_options() -> None:
    """The shape of two tables may be one: each counts that is made."""

    def held(*axes: int) -> int:
        of = "take(parameter([9]) as t{}, clipped_index(4, 4, axis: {}, reach: 3))"
        graph = made("output " + " + ".join(of.format(i, axis) for i, axis in enumerate(axes)))
        model = compile(graph)
        model(torch.zeros(1, 16))
        found = memory.held_bytes(graph) - memory.weight_bytes(graph) - 16 * 4
        assert found == sum(t.numel() * t.element_size() for t in model.buffers())
        return found

    assert held(0) == held(0, 0) == 16 * 16 * 8
    assert held(0, 1) == held(1, 0, 1) == 2 * held(0)


def test_a_table_with_a_label_counts_wherever_it_stands() -> None:
    """Each is a buffer, and what is read is one more."""
    of = "take(parameter([9]) as t{}, clipped_index(4, 4, axis: 0, reach: 3) as index{})"
    graph = made("output " + " + ".join(of.format(i, i) for i in range(3)))
    model = compile(graph)
    model(torch.zeros(1, 16))
    found = memory.held_bytes(graph) - memory.weight_bytes(graph) - 16 * 4
    assert found == sum(t.numel() * t.element_size() for t in model.buffers()) == 4 * 16 * 16 * 8


def test_the_limit_can_be_set() -> None:
    graph = made("output linear(x, 8) as f")
    needed = memory.held_bytes(graph)
    memory.allow_memory(needed - 1)
    with pytest.raises(SpaceError):
        compile(graph)
    memory.allow_memory(needed)
    compile(graph)


def test_a_parameter_has_at_most_63_bits_of_elements() -> None:
    made(f"output linear(x, {(1 << 59) - 1}) as f")
    with pytest.raises(SpaceError) as failed:
        made(f"output linear(x, {1 << 59}) as f")
    (found,) = failed.value.diagnostics
    assert found.code == "SP103"
    assert found.primary.span.text
