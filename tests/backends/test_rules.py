"""Every op: the lowering rule against the interpreter's row, forward and gradients."""

from __future__ import annotations

import pytest
import torch
from small_spaces import close, graph, inputs, reference, supernet, tensors

from spacelang.backends.torch.backend import TorchBackend
from spacelang.backends.torch.lowering.emit import RULES
from spacelang.backends.torch.reference import ROWS
from spacelang.diagnostics import SpaceError
from spacelang.ir.op import ops

# What is done to x: [B, 4, 6, 6] (or, after `tokens`, t: [B, 36, 4]).
SNIPPETS = {
    "linear": "linear(t, 3) as a",
    "linear without bias": "linear(t, 3, bias: false) as a",
    "linear with factors": "linear(t, [2, 3, 5]) as a",
    "linear over factors": "linear(linear(t, [2, 3]) as a, 4, axes: 2) as b",
    "linear with given weights": """
      linear(t, 5, weight: parameter([5, 4]) as w, bias: parameter([5]) as b)""",
    "conv": "conv(x, 6, 3, stride: 2, bias: true) as a",
    "conv dilated": "conv(x, 4, 3, groups: 2, dilation: 2) as a",
    "conv with padding": "conv(x, 4, 5, pad: 1) as a",
    "conv with given weights": "conv(x, 4, 3, weight: parameter([4, 4, 3, 3]) as w)",
    "conv_transpose": "conv_transpose(x, 6, bias: true) as a",
    "conv_transpose with groups": "conv_transpose(x, 4, 5, stride: 3, groups: 2) as a",
    "conv_transpose with padding": "conv_transpose(x, 4, 3, pad: 0, extra: 1) as a",
    "einsum": 'einsum("bnc,bmc->bnm", t, linear(t, 4) as a)',
    "einsum with leading axes": 'einsum("...nc,...mc->...nm", x, x)',
    "parameter": "t + parameter([1, 36, 4]) as p",
    "layer_norm": "layer_norm(t) as a",
    "layer_norm over two": "layer_norm(x, axes: 2, eps: 1e-3) as a",
    "rms_norm": "rms_norm(t) as a",
    "group_norm": "group_norm(x, 2) as a",
    "batch_norm": "batch_norm(x, gamma: 0.5, eps: 1e-3, momentum: 0.2) as a",
    "batch_norm of tokens": 'batch_norm(rearrange(t, "b n c -> b c n"), affine: false) as a',
    "add sub": "x + x - relu(x)",
    "mul div": "x * x / exp(x)",
    "numbers": "3 - 2 * x + 1 / (abs(x) + 0.5) - 7 / 2",
    "activations": """
      relu(x) + gelu(x) + swish(x) + sigmoid(x) + hard_sigmoid(x) + hard_swish(x) + tanh(x)""",
    "softmax": "softmax(x)",
    "sqrt": "sqrt(abs(x) + 1)",
    "dropout": "dropout(x, 0.4)",
    "drop_path": "drop_path(x, 0.4)",
    "merge": 'rearrange(x, "b c h w -> b (h w) c")',
    "split axes": 'rearrange(x, "b c (h p) (w q) -> (b h w) (p q c)", p: 2, q: 3)',
    "batch in an axis": """
      rearrange(rearrange(x, "b c h w -> (b h) c w"), "(b h) c w -> b c h w", h: 6)""",
    "ones": 'rearrange(mean(x, axes: [2], keep: true), "b c 1 w -> b 1 w c")',
    "any axes": 'rearrange(x, "... h w -> ... (w h)")',
    "concat": "concat([x, relu(x), x], axis: 1)",
    "expand": "concat([parameter([1, 1, 4]) as p |> expand([B, 2, 4]), t], axis: 1)",
    "slices": "x[:, 0, 1.., 0..<3] * x[:, -1, 0..4, 2..4]",
    "pad": "pad(x, [2, 1], axes: [1, 3])",
    "roll": "roll(x, [1, -2], axes: [2, 3])",
    "roll by nothing": "roll(x, [0, 0], axes: [2, 3])",
    "mean": "mean(x, axes: [1, 3])",
    "max_pool": "max_pool(x, 3, stride: 2)",
    "max_pool even": "max_pool(x, 2)",
    "avg_pool": "avg_pool(x, 3, stride: 2)",
    "avg_pool counting": "avg_pool(x, 3, count_pad: true)",
    "resize": "resize(x, [9, 4])",
    "resize smaller": "resize(x, 4)",
    "resize to the nearest": 'resize(x, [13, 4], mode: "nearest")',
    "zero": "x + zero(x)",
    "zero strided": "avg_pool(x, 3, stride: 2) + zero(x, stride: 2)",
    "offsets": "take(parameter([121, 3]) as p, offset_index(6, 6))",
    "distances": 'take(parameter([3, 36]) as p, offset_index(6, 6, kind: "absolute"), axis: 1)',
    "clipped": "take(parameter([8, 3]) as p, clipped_index(6, 6, axis: 0, reach: 3, skip: 1))",
    "gather": 'gather(linear(t, 25) as a, bucket_index(6, 6, method: "product", ratio: 1.0))',
    "bucket_sum": """
      bucket_sum(einsum("bnc,bmc->bnm", t, t), bucket_index(6, 6, method: "euclidean", ratio: 2.0),
                 buckets: 9)""",
    "table": "table([6, 6]) |i, j| { return i - j / 2 } * x",
    "shifted windows": "shift_mask(6, 6, 3, 1) + mean(x, axes: [0, 1, 2, 3])",
}  # fmt: skip


def text(snippet: str) -> str:
    return f"""
space one {{
  input x: [B, 4, 6, 6]
  t = rearrange(x, "b c h w -> b (h w) c")
  output {snippet}
}}
"""


LISTS = {
    "split": "split(x, [1, 3], axis: 1)",
    "split evenly": "split(x, 2, axis: 3)",
    "unstack": "unstack(x, axis: 1)",
}
for _name, _list in LISTS.items():
    SNIPPETS[_name] = f"total([mean(part, axes: [1, 2]) for part in {_list}])"


@pytest.mark.parametrize("snippet", SNIPPETS.values(), ids=SNIPPETS)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_rule_equals_row(snippet: str, training: bool) -> None:
    model = supernet(text(snippet)).train(training)
    images = inputs(model.graph, batch=3)
    wanted, weights, after = reference(model, images, {}, seed=4 if training else None)
    torch.manual_seed(4)
    found = model(*images)
    assert close(found, wanted["output"])
    if not found.requires_grad:
        return
    found.square().sum().backward()
    wanted["output"].square().sum().backward()
    for name, tensor in tensors(model).items():
        assert close(tensor, after[name])
        if tensor.requires_grad:
            assert tensor.grad is not None
            assert weights[name].grad is not None
            assert close(tensor.grad, weights[name].grad, 1e-9), name


@pytest.mark.parametrize("snippet", SNIPPETS.values(), ids=SNIPPETS)
def test_rule_in_a_subnet(snippet: str) -> None:
    model = supernet(text(snippet)).eval()
    images = inputs(model.graph, batch=3)
    assert torch.equal(model.extract()(*images), model(*images))


def test_every_op_has_a_rule_and_a_row() -> None:
    assert TorchBackend().supports(graph(text(SNIPPETS["conv"])).root.nodes[-1])
    assert set(RULES) >= set(ops())
    assert set(ROWS) >= set(ops())


def test_every_op_is_tried() -> None:
    tried = {node.op for snippet in SNIPPETS.values() for node in graph(text(snippet)).root.nodes}
    assert tried >= set(ops()) - {"mixture", "buffer"}


def test_an_op_without_a_rule_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    space = graph(text("roll(x, [1], axes: [2]) |> max_pool(3)"))
    for op in ("roll", "max_pool"):
        monkeypatch.delitem(RULES, op)
    with pytest.raises(SpaceError) as failed:
        TorchBackend().lower(space)
    headlines = [found.headline for found in failed.value.diagnostics]
    assert headlines == [f"the torch backend has no rule for {op}" for op in ("roll", "max_pool")]
