"""The supernet against the interpreter, its subnets against it, and what activating costs."""

from __future__ import annotations

import copy
import pickle
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_spaces import (
    CONDITIONED,
    CONVOLUTIONS,
    GATHERED,
    SEPARATE,
    SHARED,
    VIT,
    architectures,
    close,
    graph,
    inputs,
    reference,
    supernet,
    tensors,
)
from torch import Tensor

from spacelang.analysis.traffic import traffic
from spacelang.backends.torch import supernet as supernet_module
from spacelang.backends.torch.extract import Chosen, dense
from spacelang.backends.torch.lowering.functions import sliced_linear
from spacelang.backends.torch.lowering.tables import listed_key
from spacelang.backends.torch.lowering.views import copies
from spacelang.backends.torch.printing.source import print_network
from spacelang.backends.torch.printing.supernet_source import print_supernet
from spacelang.backends.torch.subnets.proof import relative
from spacelang.backends.torch.subnets.subnet import module_of
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import SpaceError
from spacelang.ir.decision import Assignment
from spacelang.ir.dialect import dotted
from spacelang.passes.pipeline import run
from spacelang.passes.specialize import specialize

SPACES = {
    "vit": VIT,
    "convolutions": CONVOLUTIONS,
    "shared": SHARED,
    "separate": SEPARATE,
    "gathered": GATHERED,
}
spaces = pytest.mark.parametrize("text", SPACES.values(), ids=SPACES)


def scored(y: Tensor) -> Tensor:
    """A number whose gradient differs from output to output."""
    return (y * torch.linspace(-1, 1, y.numel()).to(y.dtype).reshape(y.shape)).sum()


@spaces
def test_supernet_equals_the_interpreter(text: str) -> None:
    model = supernet(text).eval()
    images = inputs(model.graph)
    for assignment in architectures(model.graph, 6):
        model.zero_grad()
        found = model.activate(assignment)(*images)
        wanted, weights, _ = reference(model, images, assignment)
        assert close(found, wanted["output"])
        scored(found).backward()
        scored(wanted["output"]).backward()
        for name, tensor in tensors(model).items():
            other = weights[name].grad
            assert (tensor.grad is None) == (other is None), name
            assert other is None or close(tensor.grad, other, 1e-9), name


@spaces
def test_training_equals_the_interpreter_from_the_same_seed(text: str) -> None:
    model = supernet(text).train()
    images = inputs(model.graph, batch=5)
    for assignment in architectures(model.graph, 4):
        wanted, _, after = reference(model, images, assignment, seed=11)
        torch.manual_seed(11)
        found = model.activate(assignment).all_outputs(*images)
        assert found.keys() == wanted.keys()
        assert all(close(y, wanted[name], 1e-9) for name, y in found.items())
        assert all(close(tensor, after[name], 1e-9) for name, tensor in tensors(model).items())


def slices(model: Supernet, assignment: Assignment) -> dict[str, Tensor]:
    """The supernet's gradients of what an architecture reads, by name."""
    chosen = Chosen(model.graph, model.graph.decisions.check(assignment))
    found: dict[str, Tensor] = {}
    for path, kept in chosen.kept().items():
        storage, position = chosen.tensors[path]
        gradient = model.stored_tensor(storage, position).grad
        if gradient is not None:
            shape = model.graph.storages[storage].tensors[position]
            found[dotted(path)] = dense(gradient, shape, kept)
    return found


@spaces
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 0.0), (torch.float32, 1e-6)])
def test_subnets_equal_the_supernet(text: str, dtype: torch.dtype, tolerance: float) -> None:
    model = supernet(text, dtype).eval()
    images = inputs(model.graph, 3, dtype)
    for assignment in architectures(model.graph, 6, seed=3):
        model.zero_grad()
        subnet = model.extract(assignment)
        one, other = model.activate(assignment)(*images), subnet(*images)
        assert relative(other, one) <= tolerance
        scored(one).backward()
        scored(other).backward()
        wanted = slices(model, assignment)
        found = {n: p.grad for n, p in subnet.named_parameters() if p.grad is not None}
        assert found.keys() == wanted.keys()
        for name, gradient in found.items():
            assert relative(gradient, wanted[name]) <= tolerance, name


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("shape", [(2, 192), (1, 50, 192), (2, 50, 192), (2, 3, 7, 192)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_do_not_depend_on_slicing(
    shape: tuple[int, ...], columns: bool, dtype: torch.dtype
) -> None:
    """`columns`: what is given was made with its last axis outside of the one before."""
    stored = torch.randn(1000, 256, dtype=dtype, requires_grad=True)
    dense = stored.detach()[:, :192].clone().requires_grad_()
    x = torch.randn(shape, dtype=dtype)
    bias = torch.randn(1000, dtype=dtype)
    found: list[list[Tensor]] = []
    for weight, own, function in (
        (stored[:, :192], stored, sliced_linear),
        (dense, dense, F.linear),
    ):
        leaves = [x.clone().requires_grad_(), bias.clone().requires_grad_()]
        given = leaves[0].mT.contiguous().mT if columns else leaves[0]
        y = function(given, weight, leaves[1])
        scored(y).backward()
        assert own.grad is not None
        found.append(
            [y, own.grad[:, :192], *(leaf.grad for leaf in leaves if leaf.grad is not None)]
        )
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("grad", [False, True])
def test_products_do_not_depend_on_strides(grad: bool) -> None:
    """A slice of an inner factor of one entry is a view in which nothing lies side by side."""
    stored = torch.randn(8, 3, 2, dtype=torch.float64, requires_grad=grad)
    x, bias = torch.randn(2, 3, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    weight = stored[..., :1].flatten(1)
    assert 1 not in weight.stride()
    y = sliced_linear(x, weight, bias)
    assert torch.equal(y, F.linear(x, weight.detach().contiguous(), bias))
    if grad:
        dense = weight.detach().clone().requires_grad_()
        for found in (y, F.linear(x, dense, bias)):
            scored(found).backward()
        assert stored.grad is not None
        assert dense.grad is not None
        assert torch.equal(stored.grad[..., 0], dense.grad)


ODD = """
space odd {
  input x: [B, 7]
  choose width in {5, 7, 9}
  choose inner in {3, 11, 12}
  x = linear(x, width) as one |> gelu |> linear(inner) as two |> gelu |> linear(width) as three
  output x
  weights { _: entangle  inner: SHARING }
}
"""


@pytest.mark.parametrize("sharing", ["entangle", "entangle(centre)"])
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_rows_of_doubles_that_lie_otherwise_than_in_a_copy(rows: int, sharing: str) -> None:
    """Products read two doubles at once, from where a row begins at a multiple of 16 bytes."""
    values = "{1, 3, 11, 13}" if "centre" in sharing else "{1, 3, 11, 12}"
    model = supernet(ODD.replace("{3, 11, 12}", values).replace("SHARING", sharing)).eval()
    images = inputs(model.graph, rows)
    for choice in product((5, 7, 9), (1, 3, 11)):
        model.zero_grad()
        assignment = model.graph.decisions.assignment(
            dict(zip(("width", "inner"), choice, strict=True))
        )
        subnet = model.extract(assignment)
        one, other = model.activate(assignment)(*images), subnet(*images)
        assert torch.equal(one, other)
        scored(one).backward()
        scored(other).backward()
        wanted = slices(model, assignment)
        for name, weight in subnet.named_parameters():
            assert weight.grad is not None
            assert torch.equal(weight.grad, wanted[name]), name


# Parts of a product that begin at an odd element of a network's own weights; layers that read
# different rows of one weight.
ODD_PARTS = {
    "heads": """
  choose heads in {3, 4}
  q, k, v = linear(x, [3, heads, 5]) as qkv |> unstack(axis: 1)
  output linear(q * k + v, 4, axes: 2) as last
  weights { _: entangle }
""",
    "heads of few columns": """
  choose heads in {3, 4}
  choose width in {5, 7}
  q, k, v = linear(linear(x, width) as first, [3, heads, 5]) as qkv |> unstack(axis: 1)
  output linear(q * k + v, 4, axes: 2) as last
  weights { _: entangle }
""",
    "rows": """
  for i in 0..1 { x = layer(x) as layers[i] }
  output linear(x, 4) as last
  weights { _: entangle  layers[_].inner: entangle(centre)  layers[_]: tie }
""",
    "a weight that is computed": """
  choose wide in {4, 5}
  w = parameter([wide + 1, 7], init: normal(0.1)) as rows
  output linear(linear(x, wide, weight: w[1..]) as one, 4) as last
  weights { _: entangle }
""",
}
ODD_SPACE = """
block layer(x: [B, C]) -> [B, C] {
  choose inner in {1, 3, 5}
  return linear(x, inner) as up |> gelu |> linear(C) as down
}
space parts {
  input pixels: [B, 7]
  x = linear(pixels, 7) as stem
  BODY
}
"""


@pytest.mark.parametrize("body", ODD_PARTS.values(), ids=ODD_PARTS)
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_parts_that_begin_at_an_odd_element(rows: int, body: str, tmp_path: Path) -> None:
    """Products with them are those with a copy, in supernets and in networks of their own, printed
    or not. Where MKL does not ask where a double lies this shows in what is read alone."""
    model = supernet(ODD_SPACE.replace("BODY", body)).eval()
    images = inputs(model.graph, rows)
    path = tmp_path / "printed.py"
    path.write_text(print_supernet(model.graph), "utf-8")
    whole = module_of(path).Network().double().eval()
    whole.load_state_dict(model.state_dict())
    choices = model.graph.decisions
    for values in product(*(choice.values for choice in choices.values())):
        assignment = choices.assignment(dict(zip(choices, values, strict=True)))
        subnet = model.extract(assignment)
        path.write_text(print_network(model, assignment), "utf-8")
        printed = module_of(path).Network().double().eval()
        printed.load_state_dict(subnet.state_dict())
        one, slopes = computed(model.activate(assignment), images)
        own = slices(model, assignment)
        for other, wanted in ((whole.activate(assignment), slopes), (subnet, own), (printed, own)):
            y, found = computed(other, images)
            assert torch.equal(y, one)
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[name], wanted[name]) for name in found)


def computed(network: torch.nn.Module, images: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Its output and gradients; no product reads a weight of it from an odd element on."""
    network.zero_grad()
    with Watched() as watched:
        y = network(*images)
        scored(y).backward()
    assert watched.odd.isdisjoint(p.untyped_storage().data_ptr() for p in network.parameters())
    return y, {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


def test_sliced_products_have_second_derivatives() -> None:
    stored = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, stored: Tensor, bias: Tensor) -> Tensor:
        return sliced_linear(x, stored[:, :4], bias).tanh()

    assert torch.autograd.gradcheck(run, (x, stored, bias))
    assert torch.autograd.gradgradcheck(run, (x, stored, bias))


@spaces
def test_subnets_stand_alone(text: str) -> None:
    model = supernet(text).eval()
    images = inputs(model.graph)
    assignment = architectures(model.graph, 1)[-1]
    subnet = model.extract(assignment)
    before = subnet(*images)
    held = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    owned = {t.untyped_storage().data_ptr() for t in (*subnet.parameters(), *subnet.buffers())}
    assert held.isdisjoint(owned)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(subnet(*images), before)
    assert torch.equal(pickle.loads(pickle.dumps(subnet))(*images), before)


def test_names_and_sizes_of_a_subnet() -> None:
    model = supernet(VIT)
    smallest = model.graph.decisions.extreme("smallest")
    subnet = model.extract(smallest)
    assert set(subnet.state_dict()) < set(model.state_dict())
    sizes = {name: tuple(tensor.shape) for name, tensor in subnet.named_parameters()}
    assert sizes["encoder.0.attn.qkv.weight"] == (192, 8)
    assert sizes["encoder.0.fc1.weight"] == (8, 8)
    assert sizes["cls_token"] == (1, 1, 8)
    assert not any(name.startswith("encoder.1") for name in sizes)


def test_a_subnet_drops_paths_as_the_supernet_does() -> None:
    model = supernet(VIT).train()
    images = inputs(model.graph, batch=16)
    assignment = model.graph.decisions.extreme("largest")
    subnet = model.extract(assignment)
    torch.manual_seed(5)
    one = model.activate(assignment)(*images)
    torch.manual_seed(5)
    assert torch.equal(subnet(*images), one)
    assert not torch.equal(subnet(*images), one)
    assert torch.equal(subnet.eval()(*images), model.eval()(*images))


# Slices are views.


class Watched(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the storages that products read, and those of matrices that begin at an odd element."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()
        self.odd: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.addmm.default, torch.ops.aten.mm.default):
            for a in args:
                if isinstance(a, Tensor):
                    self.read.add(a.untyped_storage().data_ptr())
                    if a.dim() == 2 and a.storage_offset() % 2:  # a bias is copied first
                        self.odd.add(a.untyped_storage().data_ptr())
        return func(*args, **(kwargs or {}))


def test_products_read_the_stored_weights_themselves() -> None:
    model = supernet(VIT).eval().activate(graph(VIT).decisions.extreme("smallest"))
    with torch.no_grad(), Watched() as watched:
        model(*inputs(model.graph))
    for label in ("attn.qkv", "attn.proj", "fc1", "fc2"):
        weight = model.get_parameter(f"encoder.0.{label}.weight")
        assert weight.untyped_storage().data_ptr() in watched.read, label


def test_copies_are_listed_with_their_bytes() -> None:
    assert copies(graph(VIT)) == ()
    found = {(copy.param, copy.bytes) for copy in copies(graph(CONVOLUTIONS))}
    assert found == {
        ("norm.weight", 4 * 4 * 8),
        ("norm.bias", 4 * 4 * 8),
        ("merge.weight", 4 * 10 * 4 * 8),
    }


def test_the_supernet_holds_its_parameters_and_little_more() -> None:
    model = Supernet(graph(VIT))
    model(*inputs(model.graph, dtype=torch.float32))
    held = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in (*model.parameters(), *model.buffers())
    }
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    assert parameters <= sum(held.values()) <= 1.05 * parameters
    assert sum(s.numel for s in model.graph.storages.values()) * 4 == parameters


# Activating.


def test_it_starts_as_the_largest_and_says_what_is_active() -> None:
    model = Supernet(graph(VIT))
    assert model.assignment == model.graph.decisions.extreme("largest")
    smallest = model.graph.decisions.extreme("smallest")
    assert model.activate(smallest).assignment == smallest


@pytest.mark.parametrize(
    ("change", "code"),
    [({"width": 9}, "SP501"), ({"depths": 1}, "SP504"), ({"encoder[0].heads": None}, "SP501")],
)
def test_a_wrong_architecture_leaves_the_active_one(change: dict[str, object], code: str) -> None:
    model = Supernet(graph(VIT))
    before = model.assignment
    with pytest.raises(SpaceError) as failed:
        model.activate({**before, **change})
    assert failed.value.diagnostics[0].code == code
    assert model.assignment == before


def test_an_incomplete_architecture_is_refused() -> None:
    with pytest.raises(SpaceError, match="SP506"):
        Supernet(graph(VIT)).activate({"width": 8, "depth": 2})


@pytest.mark.parametrize("shape", [(2, 3, 32, 31), (2, 1, 32, 32), (3, 32, 32)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SpaceError, match="SP303"):
        Supernet(graph(VIT))(torch.zeros(shape))


def test_absent_layers_get_no_gradient() -> None:
    model = Supernet(graph(VIT)).activate(graph(VIT).decisions.extreme("smallest"))
    scored(model(*inputs(model.graph, dtype=torch.float32))).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {n for n in model.state_dict() if n.startswith(("encoder.1", "encoder.2"))}


# The module.


def test_first_weights_come_from_the_seed() -> None:
    one, same, other = (Supernet(graph(VIT), seed=seed) for seed in (1, 1, 2))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name])
    assert not torch.equal(one.head.weight, other.head.weight)


@spaces
def test_a_deep_copy_shares_no_weights(text: str) -> None:
    model = supernet(text).eval().activate(graph(text).decisions.extreme("smallest"))
    images = inputs(model.graph)
    model(*images)
    twin = copy.deepcopy(model)
    assert twin.assignment == model.assignment
    assert not twin.training
    assert torch.equal(twin(*images), model(*images))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert not torch.equal(twin(*images), model(*images))


def test_hooks_on_a_layer_see_its_calls() -> None:
    model = Supernet(graph(VIT))
    seen: list[int] = []
    for index, layer in enumerate(model.encoder.children()):
        layer.register_forward_hook(lambda *_, index=index: seen.append(index))
    model.activate({**graph(VIT).decisions.extreme("largest"), "depth": 2})
    model(*inputs(model.graph, dtype=torch.float32))
    assert seen == [0, 1]


def test_weights_may_be_swapped_by_functional_call() -> None:
    model = supernet(VIT).eval()
    images = inputs(model.graph)
    doubled = {name: 2 * p.detach() for name, p in model.named_parameters()}
    found = torch.func.functional_call(model, doubled, tuple(images))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert torch.equal(found, model(*images))


def test_outputs_for_training_are_not_computed_otherwise() -> None:
    model = supernet(CONVOLUTIONS).eval()
    images = inputs(model.graph)
    both = model.all_outputs(*images)
    assert set(both) == {"auxiliary", "output"}
    assert torch.equal(model(*images), both["output"])
    scored(model(*images)).backward()
    assert model.side.weight.grad is None
    assert "side.weight" not in model.extract().state_dict()


TABLED = """space tabled {
  input x: [B, 4]
  choose wide in {4, 8}
  x = linear(x, wide) as stem
  x = x * table([wide]) |i| { return i / 2 }
  output linear(x, 3) as head
  weights { _: entangle }
}"""


def test_a_pass_in_inference_mode_leaves_a_model_that_trains(tmp_path: Path) -> None:
    """Tables are made at their first use and kept; those of a printed network too."""
    path = tmp_path / "printed.py"
    path.write_text(print_supernet(graph(TABLED)), "utf-8")
    for model in (Supernet(graph(TABLED)), module_of(path).Network()):
        x = torch.randn(2, 4)
        with torch.inference_mode():
            model.eval()(x)
        model.train()(x.requires_grad_()).sum().backward()
        assert x.grad is not None


def test_a_copy_keeps_its_ties() -> None:
    """An optimiser copied with a model moves the copy's weights; an added module comes along."""
    model = Supernet(graph(TABLED))
    model(torch.randn(2, 4))
    model.extra = torch.nn.Linear(3, 3)
    model.extra.weight = model.head.bias  # type: ignore[attr-defined]
    model.dropping, model.checkpointing = False, True
    seen: list[int] = []
    model.register_forward_hook(lambda *_: seen.append(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    twin, moved = copy.deepcopy((model, optimizer))
    assert twin.extra.weight is twin.head.bias
    assert twin.head.bias is not model.head.bias  # type: ignore[attr-defined]
    assert (twin.dropping, twin.checkpointing) == (False, True)
    assert twin.graph is model.graph
    before = {name: p.clone() for name, p in model.named_parameters()}
    twin(torch.randn(2, 4)).sum().backward()
    moved.step()
    assert seen == [1]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert "extra" in name or not torch.equal(twin.get_parameter(name), before[name])


def test_networks_of_a_program_stay_tied_in_a_copy() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = Supernet(graph(TABLED)), Supernet(graph(TABLED))
            self.other.head.bias = self.one.head.bias  # type: ignore[attr-defined]

    twin = copy.deepcopy(Two())
    assert twin.one.head.bias is twin.other.head.bias


@pytest.mark.parametrize("length", [4, 8])
def test_a_product_of_a_strided_vector(length: int) -> None:
    stored = torch.randn(3, length, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(8, dtype=torch.float64)[::2].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *given: sliced_linear(given[0], given[1][:, :4], given[2]), (x, stored, bias)
    )


def test_data_parallel_is_refused() -> None:
    """Its replicas would read the weights of the first device; this is how it makes them."""
    with pytest.raises(SpaceError, match=r"SP605.*DataParallel(.|\n)*DistributedDataParallel"):
        Supernet(graph(TABLED))._replicate_for_data_parallel()


def test_the_tables_that_are_kept_are_those_read_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supernet_module, "KEPT", 2)
    model = Supernet(graph(TABLED)).eval()
    keys = [listed_key([n]) for n in range(3)]
    for key in (keys[0], keys[1], keys[0], keys[2], keys[0]):
        assert model.index_table(key).tolist() == [int(str(key.options[0][1]))]
    held = [t.item() for name, t in model.named_buffers() if name.startswith("_table_")]
    assert sorted(held) == [0, 2]
    x = torch.randn(2, 4)
    assert torch.equal(model(x), copy.deepcopy(model)(x))


def test_sizes_that_are_whole_under_a_condition_alone() -> None:
    """What was proved where a block is called is not asked of the block by itself."""
    model = supernet(CONDITIONED).eval()
    images = inputs(model.graph)
    simple = run(model.graph, "simplify")
    assert "class" in print_supernet(model.graph)
    for width in (4, 6, 9):
        assignment = {"width": width}
        found = model.activate(assignment)(*images)
        wanted, _, _ = reference(model, images, assignment)
        assert close(found, wanted["output"])
        assert torch.equal(model.extract(assignment)(*images), found)
        cost = model.graph.cost(assignment)
        assert cost.params == sum(p.numel() for p in model.extract(assignment).parameters())
        assert simple.cost(assignment) == cost
        network = specialize(model.graph, assignment)
        assert traffic(model.graph, assignment) == traffic(network)
