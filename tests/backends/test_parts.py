"""Axes that `concat` joins of elastic parts: every part reads its own weights.

The oracle: the largest network with all weights at zero that an architecture does not read is the
architecture itself, where a channel that is not there may as well be zero. So it is for networks of
products, sums and relu if, and only if, every layer reads the places of the channels that are there.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_spaces import architectures, close, graph, inputs, reference, supernet, tensors
from torch import Tensor

from spacelang.analysis.space import lints
from spacelang.backends.torch.extract import Chosen
from spacelang.backends.torch.lowering.views import copies
from spacelang.backends.torch.printing.supernet_source import print_supernet
from spacelang.backends.torch.subnets.subnet import module_of
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Report, Source, SpaceError
from spacelang.ir.decision import Assignment
from spacelang.ir.gather import entries
from spacelang.ir.text import write
from spacelang.ir.verify import verify
from spacelang.loader import load
from spacelang.passes.specialize import specialize
from spacelang.passes.storage_layout import lay_out
from spacelang.syntax.ir_text import read
from spacelang.syntax.write import write_space

HEAD = """
block twice(x: [B, C, H, W], out) {
  return conv(x, out, 3) as a |> relu |> conv(out, 3) as b
}
block wide(x: [B, C, H, W], c) {
  return conv(x, c, 3, groups: c) as a |> relu |> conv(4) as b
}
block inner(x: [B, N]) {
  return linear(x, 4, bias: false) as i
}
block outer(x: [B, N]) {
  return inner(relu(x)) as o
}
space t {
  input x: [B, 3, 4, 4]
  choose l in {2, 4}
  choose r in {1, 3}
  p = conv(x, l, 3) as p
  q = conv(x, r, 3) as q
"""
TAIL = "\n  weights { _: entangle }\n}\n"
BODIES = {
    "direct": "output concat([p, q], axis: 1) |> conv(4, 3) as c",
    "through ops": """
      y = concat([p, q], axis: 1) |> relu |> max_pool(2, stride: 2, pad: 0) |> resize(4)
      output mean(drop_path(y, 0), axes: [2, 3]) |> linear(4, bias: false) as c""",
    "a called block": "output twice(concat([p, q], axis: 1), 4) as t",
    "a block that is told the sum": "output wide(concat([p, q], axis: 1), l + r) as t",
    "a block in a block": "output outer(mean(concat([p, q], axis: 1), axes: [2, 3])) as t",
    "one block, joined and plain": """
      a = twice(concat([p, q], axis: 1), 4) as first
      output a + twice(p, 4) as second + twice(concat([q, p, q], axis: 1), 4) as third""",
    "three parts": "output concat([p, q, p], axis: 1) |> conv(4, 3) as c",
    "nested": """
      a = concat([p, q], axis: 1) |> relu
      output concat([a, concat([q, p], axis: 1)], axis: 1) |> conv(4, 3) as c""",
    "fixed parts": """
      output concat([x, p, x, q, x], axis: 1) |> conv(4, 3) as c""",
    "depthwise": """
      y = concat([p, q], axis: 1) |> conv(l + r, 3, groups: l + r) as d |> relu
      output conv(y, 2 * (l + r), 3, groups: l + r) as m |> conv(4) as c""",
    "added to": """
      y = concat([p, q], axis: 1) * parameter([l + r, 1, 1]) as scale
      output (y + conv(x, l + r, 3) as side) |> conv(4) as c""",
    "a part a group": """
      output conv(concat([p, p], axis: 1), 4, 3, groups: 2) as c + conv(q, 4) as d""",
    "transposed": "output concat([p, q], axis: 1) |> conv_transpose(l + r) as u |> conv(4) as c",
    "split back": """
      a = split(concat([p, q, p], axis: 1), [l, r, l], axis: 1)
      y = concat([a[2], a[1]], axis: 1) |> conv(4, 3) as c
      output y + conv(a[0], 4) as d""",
    "split in two": """
      a = split(concat([p, q, p], axis: 1), [l, r + l], axis: 1)
      output conv(a[0], 4) as c + conv(a[1], 4) as d""",
    "flattened": """
      output rearrange(concat([p, q], axis: 1), "b c h w -> b (c h w)") |> linear(4, bias: false) as c""",
    "turned": """
      y = rearrange(concat([p, q], axis: 1), "b c h w -> b (h w) c")
      output einsum(y, parameter([l + r, 4]) as m, "b n c, c o -> b n o")""",
    "a weight of its own": """
      y = mean(concat([p, q], axis: 1), axes: [2, 3])
      output linear(y, 4, weight: parameter([4, l + r]) as w, bias: false)""",
    "an optional turn": """
      choose deep in 0..2
      y = concat([p, q], axis: 1)
      for i in 0..<deep { y = y + relu(conv(y, l + r, 3) as c[i]) }
      output conv(y, 4) as c""",
    "dense": """
      choose grow in {1, 2}
      y = concat([p, q], axis: 1)
      for i in 0..<3 { y = concat([y, relu(conv(y, grow, 3) as c[i])], axis: 1) }
      output conv(y, 4) as last""",
    "alternatives": """
      y = concat([p, q], axis: 1)
      y = choose op { keep: y  pool: avg_pool(y, 3)  conv: conv(y, l + r, 3) as c }
      output conv(y, 4) as last""",
}  # fmt: skip
bodies = pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)


def masked(model: Supernet, assignment: Assignment) -> dict[str, Tensor]:
    """The stored weights, at zero where an architecture does not read them."""
    chosen = Chosen(model.graph, model.graph.decisions.check(assignment))
    found: dict[str, Tensor] = {}
    for path, ranges in chosen.kept().items():
        stored = model.graph.storages[path].shape
        tensor = model.stored_tensor(path).detach()
        mask = torch.zeros([n for axis in stored for n in axis], dtype=tensor.dtype)
        flat = [torch.tensor(list(part)) for axis in ranges for part in axis]
        mask[torch.meshgrid(*flat, indexing="ij")] = 1
        found[path] = tensor * mask.reshape(tensor.shape)
    return found


@bodies
def test_every_part_reads_its_own_weights(body: str) -> None:
    model = supernet(HEAD + body + TAIL).eval()
    images = inputs(model.graph)
    for assignment in architectures(model.graph, 8):
        wanted = model.activate(assignment)(*images)
        weights = masked(model, assignment)
        other = supernet(HEAD + body + TAIL).eval()
        with torch.no_grad():
            for path in other.graph.storages:
                tensor = other.stored_tensor(path)
                tensor.copy_(weights.get(path, torch.zeros_like(tensor)))
        widths = {k: v for k, v in assignment.items() if k not in ("l", "r", "grow")}
        found = other.activate({**other.graph.decisions.extreme("largest"), **widths})(*images)
        assert close(found, wanted), assignment


@bodies
def test_all_readers_agree(body: str, tmp_path: Path) -> None:
    """The interpreter, gradients included, the extracted network and the printed one."""
    model = supernet(HEAD + body + TAIL).eval()
    images = inputs(model.graph)
    path = tmp_path / "network.py"
    path.write_text(print_supernet(model.graph))
    printed = module_of(path).Network().double().eval()
    printed.load_state_dict(model.state_dict())
    for assignment in architectures(model.graph, 4):
        model.zero_grad()
        found = model.activate(assignment)(*images)
        wanted, weights, _ = reference(model, images, assignment)
        assert close(found, wanted["output"])
        found.square().sum().backward()
        wanted["output"].square().sum().backward()
        for name, tensor in tensors(model).items():
            other = weights[name].grad
            assert (tensor.grad is None) == (other is None), name
            assert other is None or close(tensor.grad, other, 1e-9), name
        assert torch.equal(model.extract(assignment)(*images), found)
        assert torch.equal(printed.activate(assignment)(*images), found)


@bodies
def test_the_graph_is_sound_and_stays_what_it_is(body: str) -> None:
    space = graph(HEAD + body + TAIL)
    report = Report()
    verify(space, report)
    assert not list(report)
    assert not [d for d in lints(space) if d.code == "SP405"]
    assert lay_out(space) == space
    assert read(Source("<ir>", write(space))) == space
    again = load(Source("<again>", write_space(space)))
    assert again.hash == space.hash


UNET = """
space unet {
  input x: [B, 3, 4, 4]
  choose up in {2, 4}
  choose skip in {2, 4}
  u = conv(x, up, 3) as u
  s = conv(x, skip, 3) as s
  y = concat([u, s], axis: 1) |> batch_norm as n |> relu
  output conv(y, 64, 3) as c
  weights { _: entangle }
}
"""
COLUMNS = {
    (2, 2): [0, 1, 4, 5],
    (2, 4): [0, 1, 4, 5, 6, 7],
    (4, 2): [0, 1, 2, 3, 4, 5],
    (4, 4): [0, 1, 2, 3, 4, 5, 6, 7],
}


@pytest.mark.parametrize("sizes", COLUMNS)
def test_columns_of_a_u_net(sizes: tuple[int, int]) -> None:
    """Of l0 l1 l2 l3 r0 r1 r2 r3; gradients land there and nowhere else."""
    up, skip = sizes
    model = supernet(UNET).train()
    assert model.graph.storages["c.weight"].sizes == (64, 8, 3, 3)
    assignment: Assignment = {"up": up, "skip": skip}
    chosen = Chosen(model.graph, model.graph.decisions.check(assignment))
    assert list(chosen.kept()["c.weight"][1][0]) == COLUMNS[sizes]
    before = {name: tensor.clone() for name, tensor in tensors(model).items()}
    subnet = model.extract(assignment)
    assert torch.equal(subnet.state_dict()["c.weight"], before["c.weight"][:, COLUMNS[sizes]])
    scored = model.activate(assignment)(*inputs(model.graph)).square().sum()
    scored.backward()
    for path, axis in {"c.weight": 1, "n.weight": 0, "n.bias": 0}.items():
        gradient = model.stored_tensor(path).grad
        assert gradient is not None
        others = [a for a in range(gradient.dim()) if a != axis]
        moved = gradient.abs().sum(others).nonzero().flatten() if others else gradient.nonzero()
        assert set(moved.flatten().tolist()) <= set(COLUMNS[sizes])
        assert moved.numel() >= 2
    for path in ("n.running_mean", "n.running_var"):
        moved = (model.stored_tensor(path) != before[path]).nonzero().flatten()
        assert moved.tolist() == COLUMNS[sizes]


def test_statistics_equal_the_interpreter_and_copies_are_listed() -> None:
    model = supernet(UNET).train()
    images = inputs(model.graph, batch=5)
    for assignment in architectures(model.graph, 3):
        _, _, after = reference(model, images, assignment, seed=1)
        model.activate(assignment).all_outputs(*images)
        assert all(close(tensor, after[name], 1e-9) for name, tensor in tensors(model).items())
    copied = {copy.param: copy.bytes for copy in copies(model.graph)}
    assert copied["c.weight"] == 4 * 64 * 8 * 9
    assert copied.keys() == {
        "c.weight", "n.weight", "n.bias", "n.running_mean", "n.running_var",
    }  # fmt: skip


def test_a_decided_graph_has_no_parts() -> None:
    network = specialize(graph(UNET), {"up": 2, "skip": 4})
    assert "parts(" not in write(network)


def test_a_block_gets_the_sizes_that_it_lacks() -> None:
    space = graph(HEAD + BODIES["a block that is told the sum"] + TAIL)
    text = write(space)
    assert "through parts(" in text.partition("root ")[0]


def test_known_and_last_parts_need_no_table() -> None:
    """What stands at the start, or after known parts alone, is a slice as ever."""
    text = HEAD + "output concat([x, p], axis: 1) |> conv(4) as c" + TAIL
    assert "parts(" not in write(graph(text))
    text = HEAD + "output concat([x, p, x, q], axis: 1) |> conv(4) as c" + TAIL
    assert "through parts(l + 3, 7)" in write(graph(text))


def test_stored_wider() -> None:
    text = HEAD + BODIES["direct"] + TAIL.replace("_: entangle", "l: store(6)  r: entangle")
    space = graph(text)
    assert space.storages["c.weight"].sizes == (4, 9, 3, 3)
    assert "through parts(l, 6)" in write(space)


LOST = {
    "groups that mix": "output conv(concat([p, p, p], axis: 1), 4, 3, groups: 2) as c",
    "another order": """
      output (concat([p, q], axis: 1) + concat([q, p], axis: 1)) |> conv(4) as c""",
    "parts that cannot all be large": """
      a = conv(x, 4 - r, 3) as a
      output concat([a, q], axis: 1) |> conv(4) as c""",
    "rolled along": "output roll(concat([p, q], axis: 1), 1, 1) |> conv(4) as c",
}  # fmt: skip


@pytest.mark.parametrize("body", LOST.values(), ids=LOST)
def test_what_cannot_be_followed_is_read_as_a_prefix_and_told(body: str) -> None:
    space = graph(HEAD + body + TAIL)
    (_, *view), *_ = space.root.nodes[-1].params["weight"].index[1:2]
    assert not view
    assert "parts(" not in write(space).partition(" as c")[0].splitlines()[-1]
    assert [d.code for d in lints(space)].count("SP405") == 1


@pytest.mark.parametrize("rule", ["c.weight: entangle(centre)  _: entangle", "_: separate"])
def test_other_rules_are_as_they_were(rule: str) -> None:
    body = "output concat([p, p], axis: 1) |> conv(4, 3) as c"
    space = graph(HEAD + body + TAIL.replace("_: entangle", rule))
    assert "parts(" not in write(space)
    told = [d.code for d in lints(space)].count("SP405")
    assert told == (0 if "separate" in rule else 1)


def test_the_table_of_parts() -> None:
    assert entries("parts", 6, (2, 4)) == (0, 1, 4, 5, 6, 7)
    assert entries("parts", 4, (1, 2, 0, 3)) == (0, 5, 6, 7)
    for length, sizes in ((3, (4, 2)), (1, (2, 2))):
        with pytest.raises(ValueError, match="part"):
            entries("parts", length, sizes)
    with pytest.raises(SpaceError) as failed:
        graph(HEAD + BODIES["direct"] + TAIL.replace("_: entangle", "_: entangle(parts)"))
    assert {d.code for d in failed.value.diagnostics} == {"SP204"}
