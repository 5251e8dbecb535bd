"""Drafts: what they change, what they share, what a path picks out, and what a failure leaves."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from small_spaces import THIRDS

from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.block import Block
from spacelang.ir.block_edits import BlockEdits
from spacelang.ir.condition import compare, conjunction, is_value
from spacelang.ir.decision import Choice, Decisions
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.edit import edit
from spacelang.ir.graph import Graph
from spacelang.ir.node import Node, TensorType, Value
from spacelang.ir.param import Init, Param
from spacelang.ir.text import write
from spacelang.ir.verify import verified
from spacelang.loader import load
from spacelang.syntax.ir_text import read

TEXT = """
spaceir 1
graph base
block mlp {
  size %B
  size %width in {8, 12}
  decide dim ratio in {2, 3}
  param fc1.weight: [%width*ratio, %width] = linear
  param fc2.weight: [%width, %width*ratio] = linear
  %0: [%B, %width] = input() as x
  %1: [%B, %width*ratio] = linear(%0, out=%width*ratio, bias=false) {weight=fc1.weight[0:%width*ratio][0:%width]} as fc1
  %2: [%B, %width*ratio] = gelu(%1)
  %3: [%B, %width] = linear(%2, out=%width, bias=false) {weight=fc2.weight[0:%width][0:%width*ratio]} as fc2
  yield %3
}
block layer {
  size %B
  size %width in {8, 12}
  size %drop in {*}
  %0: [%B, %width] = input() as x
  %1: [%B, %width] = call mlp(%0) [%B=%B, %width=%width] as mlp
  %2: [%B, %width] = drop_path(%1, rate=%drop)
  %3: [%B, %width] = add(%0, %2)
  yield %3
}
root base {
  decide dim width in {8, 12}
  decide presence depth in {2, 3}
  param stem.weight: [width, 3] = linear
  param head.weight: [5, width] = linear
  %0: [B, 3] = input() as pixels
  %1: [B, width] = linear(%0, out=width, bias=false) {weight=stem.weight[0:width][0:3]} as stem
  %2: [B, width] = call layer(%1) [%B=B, %drop=0, %width=width] as layers[0]
  %3: [B, width] = call layer(%2) [%B=B, %drop=1/10, %width=width] as layers[1]
  %4: [B, width] = guard(%3)
    when depth > 2 {
      %5: [B, width] = input()
      %6: [B, width] = call layer(%5) [%B=B, %drop=1/5, %width=width] as layers[2]
      yield %6
    }
  %7: [B, 5] = linear(%4, out=5, bias=false) {weight=head.weight[0:5][0:width]} as head
  yield %7
}
output %7 as output
rule "_" entangle
"""


@pytest.fixture(scope="module")
def base() -> Graph:
    return read(Source("base.spaceir", TEXT))


def only(sites):
    (site,) = sites
    return site


def test_nothing_changed_is_the_graph_itself(base):
    with base.edit() as draft:
        assert len(draft.nodes(op="gelu")) == 1
    assert draft.result is base
    with edit(base) as draft:
        draft.nodes(op="gelu", path="layers[_].mlp.gelu")
    assert draft.result is base


def test_replace_changes_every_use_and_shares_the_rest(base):
    with base.edit() as draft:
        site = only(draft.nodes(op="gelu"))
        assert site.paths == tuple(f"layers[{i}].mlp.gelu" for i in range(3))
        draft.replace(site, op="relu")
    made = draft.result
    assert [n.op for n in made.blocks["mlp"].nodes] == ["input", "linear", "relu", "linear"]
    assert made.blocks["layer"] is base.blocks["layer"]
    assert made.root is base.root
    assert base.blocks["mlp"].by_id[2].op == "gelu"
    assert made.hash != base.hash


def test_a_path_parts_the_blocks_on_the_way(base):
    with base.edit() as draft:
        for site in draft.nodes(op="gelu", path="layers[0..1].mlp.gelu"):
            draft.replace(site, op="relu")
    made = draft.result
    found = {p.path: p.node.op for p in made.places() if p.node.op in ("relu", "gelu")}
    assert found == {"layers[0].mlp": "relu", "layers[1].mlp": "relu", "layers[2].mlp": "gelu"}
    assert list(made.blocks) == ["mlp", "mlp.2", "layer", "layer.2"]
    assert made.blocks["mlp"] is base.blocks["mlp"]
    assert made.decisions.keys() == base.decisions.keys()
    assert {k: s.shape for k, s in made.storages.items()} == {
        k: s.shape for k, s in base.storages.items()
    }


def test_a_path_of_all_uses_parts_nothing(base):
    with base.edit() as draft:
        site = only(draft.nodes(path="_.gelu"))
        draft.replace(site, op="relu")
    assert list(draft.result.blocks) == ["mlp", "layer"]


def test_split_alone_changes_no_network(base):
    with base.edit() as draft:
        assert draft.split("layers[1].mlp") == ["mlp.2"]
    assert list(draft.result.blocks) == ["mlp", "mlp.2", "layer", "layer.2"]
    assert draft.result.hash == base.hash
    assert draft.result != base


def test_a_variant_that_is_split_again_is_numbered_on(base):
    with base.edit() as draft:
        assert draft.split("layers[1..2].mlp") == ["mlp.2"]
    with draft.result.edit() as again:
        assert again.split("layers[1].mlp") == ["mlp.3"]
    assert list(again.result.blocks) == ["mlp", "mlp.2", "mlp.3", "layer", "layer.2", "layer.3"]


def test_a_path_that_matches_nothing(base):
    for look in ("nodes", "calls", "split"):
        with pytest.raises(SpaceError, match="SP504"), base.edit() as draft:
            getattr(draft, look)(**{"what" if look == "calls" else "path": "layers[7].mlp"})


def test_calls_by_block_and_by_path(base):
    with base.edit() as draft:
        assert len(draft.calls("layer")) == 3
        assert len(draft.calls("mlp")) == 1
        assert only(draft.calls("layers[2]")).node.call.path == "layers[2]"


def test_ties(base):
    with base.edit() as draft:
        leader, *others = draft.calls("layer")
        for site in others:
            draft.tie(site, leader, own=["mlp.fc2"])
    made = draft.result
    assert set(made.storages) == {
        "stem.weight", "head.weight", "layers[0].mlp.fc1.weight",
        *(f"layers[{i}].mlp.fc2.weight" for i in range(3)),
    }  # fmt: skip
    assert made.decisions.keys() == base.decisions.keys()


def test_wrap_a_value(base):
    with base.edit() as draft:
        for site in draft.nodes(op="gelu"):
            draft.wrap(
                site, lambda at, x: at.one("add", [x, at.one("layer_norm", [x], label="norm")])
            )
    nodes = draft.result.blocks["mlp"].nodes
    assert [n.op for n in nodes] == ["input", "linear", "gelu", "layer_norm", "add", "linear"]
    assert nodes[4].operands == (Value(2), nodes[3].values[0])
    assert nodes[5].operands == nodes[4].values
    assert "layers[2].mlp.norm.weight" in draft.result.storages


def test_wrap_an_operand(base):
    with base.edit() as draft:
        site = only(draft.nodes(path="head"))
        draft.wrap_operand(site, 0, lambda at, x: at.one("relu", [x]))
    assert draft.result.root.nodes[-2].op == "relu"
    assert draft.result.root.nodes[-1].operands == draft.result.root.nodes[-2].values


def test_inside_a_region(base):
    with base.edit() as draft:
        site = only(draft.calls("layers[2]"))
        assert draft.level(site).name == "base.guard"
        with draft.after(site) as at:
            assert at.guards == (compare("<", 2, base.decisions["depth"].symbol),)
            new = at.one("relu", [at.value(Value(6))])
            with pytest.raises(KeyError):
                at.value(Value(1))
        draft.replace_uses(site, Value(6), new.value, but=[new.value.node])
    region = draft.result.root.by_id[4].regions[0]
    assert [n.op for n in region.nodes] == ["input", "call", "relu"]
    assert region.outputs == region.nodes[-1].values


def test_types_are_found_anew(base):
    """A wider hidden layer: the node after it reads more, and so do the callers' storages."""
    with base.edit() as draft:
        site = only(draft.nodes(path="_.fc1"))
        hidden = site.node.attributes["out"]
        draft.configure(site, out=hidden * 2)
    made = draft.result
    assert made.storages["layers[0].mlp.fc1.weight"].shape == ((72,), (12,))
    assert made.storages["layers[0].mlp.fc2.weight"].shape == ((12,), (72,))
    assert str(made.blocks["mlp"].type_of(Value(2))) == "[%B, 2*%width*ratio]"


def test_types_are_found_anew_where_they_are_whole_under_a_condition_alone():
    """Which the verifier proves at the uses of the block; what is whole nowhere is refused."""
    graph = load(Source("s.space", THIRDS.replace("separate", "entangle")))
    with graph.edit() as draft:
        site = only(draft.nodes(path="_.down"))
        third = site.node.attributes["out"]
        draft.configure(site, out=2 * third)
    assert draft.result.storages["three.down.weight"].shape == ((6,), (9,))
    assert draft.result.storages["three.up.weight"].shape == ((9,), (6,))
    with pytest.raises(SpaceError, match="SP602"), graph.edit() as draft:
        draft.configure(only(draft.nodes(path="_.down")), out=third / 2)


def test_types_are_found_anew_in_callers(base):
    """Another number of classes at the end of a block changes the types of its calls."""
    with base.edit() as draft:
        name = draft.add_block(_head())
        site = only(draft.nodes(path="head"))
        with draft.before(site) as at:
            (logits,) = at.invoke(name, [at.value(Value(4))], "classifier")
        draft.replace_uses(site, Value(7), logits.value)
        draft.remove(site)
    made = draft.result
    assert str(made.root.type_of(made.outputs[0].value)) == "[B, 5]"
    assert "classifier.fc.weight" in made.storages
    assert "head.weight" not in made.storages
    with made.edit() as draft:
        draft.configure(only(draft.nodes(path="classifier.fc")), out=7)
    assert str(draft.result.root.type_of(draft.result.outputs[0].value)) == "[B, 7]"
    assert draft.result.storages["classifier.fc.weight"].shape == ((7,), (12,))


def _head() -> Block:
    width, batch = Symbol("%w", (8, 12)), Symbol("%n")
    from spacelang.ir.build import BlockBuilder

    builder = BlockBuilder("classifier")
    builder.size(width)
    builder.size(batch)
    x = builder.input(TensorType((Dim.of(batch), Dim.of(width))), "x")
    return builder.finish([builder.one("linear", [x], {"out": 5, "bias": False}, label="fc")])


def test_invoke_refuses_what_does_not_fit(base):
    with base.edit() as draft:
        site = only(draft.nodes(path="head"))
        with draft.before(site) as at:
            x, pixels = at.value(Value(4)), at.value(Value(0))
            for block, operands, sizes, code in [
                ("nowhere", [x], {}, "SP201"),
                ("mlp", [x, x], {}, "SP204"),
                ("layer", [x], {}, "SP204"),
                ("layer", [x], {"%drop": Dim.of(0), "%more": Dim.of(1)}, "SP204"),
                ("mlp", [pixels], {"%width": Symbol("width", (8, 12))}, "SP3|SP205"),
            ]:
                with pytest.raises(SpaceError, match=code):
                    at.invoke(block, operands, "extra", sizes)
            at.invoke("layer", [x], "extra", {"%drop": Dim.of(0)})
        assert draft.remove_dead() == 1
    assert draft.result.hash == base.hash


def test_substitute(base):
    with base.edit() as draft:
        site = only(draft.nodes(op="gelu"))
        made = draft.substitute(site, lambda at, x: at.one("mul", [x, at.one("sigmoid", [x])]))
        assert len(made) == 2
        assert draft.substitute(only(draft.nodes(op="sigmoid")), lambda at, x: None) == ()
        with pytest.raises(SpaceError, match="gone"):
            draft.node(site)
    assert [n.op for n in draft.result.blocks["mlp"].nodes] == [
        "input", "linear", "sigmoid", "mul", "linear",
    ]  # fmt: skip


def test_substitute_may_declare_the_parameters_anew(base):
    with base.edit() as draft:
        draft.substitute(
            only(draft.nodes(path="head")),
            lambda at, x: at.one("linear", [x], {"out": 7}, label="head"),
        )
    made = draft.result
    assert made.storages["head.weight"].shape == ((7,), (12,))
    assert made.storages["head.bias"].shape == ((7,),)
    assert str(made.root.type_of(made.outputs[0].value)) == "[B, 7]"


def test_add_a_decision_and_a_reserved_parameter(base):
    with base.edit() as draft:
        site = only(draft.nodes(path="head"))
        with draft.before(site) as at:
            choice = Choice("extra", "dim", (2, 4))
            at.decide(choice)
            at.one("linear", [at.value(Value(4))], {"out": Dim.of(choice.symbol)}, label="side")
        draft.add_param("", Param("unused", ((Dim.of(3),),), Init("ones"), reserved=True))
        draft.add_param("", Param("unread", ((Dim.of(3),),), Init("ones")))
    made = draft.result
    assert "extra" in made.decisions
    assert made.storages["side.weight"].shape == ((4,), (12,))
    assert {"unused"} == {p.path for p in made.root.params} & {"unused", "unread"}


def test_remove_refuses_what_is_read(base):
    with base.edit() as draft:
        with pytest.raises(SpaceError, match="still read"):
            draft.remove(only(draft.nodes(op="gelu")))
        with pytest.raises(SpaceError, match="still read"):
            draft.remove(only(draft.nodes(path="head")))


def test_dead_nodes_and_blocks_go(base):
    with base.edit() as draft:
        draft.replace_uses(only(draft.nodes(op="drop_path")), Value(2), Value(0))
        assert draft.remove_dead("layer") == 2
    made = draft.result
    assert list(made.blocks) == ["layer"]
    assert list(made.storages) == ["stem.weight", "head.weight"]
    assert verified(made)


def _interrupted(graph: Graph) -> None:
    with graph.edit() as draft:
        draft.replace(only(draft.nodes(op="gelu")), op="relu")
        raise KeyError


def test_a_failure_leaves_the_old_graph(base):
    text = write(base)
    with pytest.raises(SpaceError, match="SP602"), base.edit() as draft:
        draft.replace(only(draft.nodes(path="head")), operands=(Value(99),))
    assert write(base) == text
    with pytest.raises(SpaceError, match="no result"):
        draft.result  # noqa: B018
    with pytest.raises(KeyError):
        _interrupted(base)
    with pytest.raises(SpaceError, match="closed"):
        draft.replace(draft.nodes(op="gelu")[0], op="relu")
    assert write(base) == text


def test_a_result_only_after_the_draft(base):
    with base.edit() as draft, pytest.raises(SpaceError, match="no result"):
        draft.result  # noqa: B018


def test_an_open_region_is_refused(base):
    with (
        pytest.raises(SpaceError, match="still open"),
        base.edit() as draft,
        draft.before(draft.nodes(path="head")[0]) as at,
    ):
        at.open(compare("<", 2, base.decisions["depth"].symbol))


def test_an_id_stays(base):
    with base.edit() as draft, pytest.raises(SpaceError, match="keeps its id"):
        draft.replace(draft.nodes(op="gelu")[0], id=77)


def test_only_calls_are_tied(base):
    with base.edit() as draft, pytest.raises(SpaceError, match="only calls"):
        draft.tie(draft.nodes(op="gelu")[0], draft.calls("layer")[0])


def test_broken_edits_are_told_by_the_verifier(base):
    """An edit that the types cannot follow is refused as a whole."""
    with pytest.raises(SpaceError) as caught, base.edit() as draft:
        draft.configure(only(draft.nodes(path="stem")), out=7)
    assert {d.code for d in caught.value.diagnostics} == {"SP602"}
    assert "operand 0 of layer" in str(caught.value)


def test_a_node_can_be_added_by_hand(base):
    with base.edit() as draft:
        site = only(draft.nodes(path="head"))
        with draft.before(site) as at:
            made = at.one("relu", [at.value(Value(4))])
        draft.replace(site, operands=(made.value,))
        assert isinstance(draft.node(site), Node)
        assert draft.type_of(site, made.value) == made.type
    assert replace(draft.result, root=base.root) == base


def test_many_nodes_of_a_block_are_replaced_in_one_go(base, monkeypatch):
    """What is put waits: looking at a node sees it, looking at a block puts all in at once."""
    calls: list[int] = []
    real = BlockEdits.block
    monkeypatch.setattr(BlockEdits, "block", lambda w: (calls.append(len(w.nodes)), real(w))[1])
    with base.edit() as draft:
        found = [s for s in draft.nodes() if not s.node.regions and s.block == ""]
        for site in found:
            draft.replace(site, label=site.node.label)
        assert not calls
        linear = next(s for s in found if s.node.op == "linear")
        draft.replace(linear, label="one")
        assert linear.node.label == "one"
        draft.replace(linear, label="stem")
        guard = next(s for s in draft.nodes(op="guard"))
        inner = next(s for s in found if s.id == 6)
        draft.replace(inner, label="late")
        draft.replace(guard, label="here")
        assert inner.node.label == "late"
        assert guard.node.regions[0].by_id[6].label == "late"
        draft.replace(inner, label="layers[2]")
        draft.replace(guard, label="")
    assert draft.result.hash == base.hash
    assert max(calls) == len(found)


def test_many_nodes_are_added_in_one_go(base, monkeypatch):
    """They stand where they were put: right before or after a node, the latest the closest."""
    calls: list[int] = []
    real = BlockEdits.block
    monkeypatch.setattr(BlockEdits, "block", lambda w: (calls.append(len(w.nodes)), real(w))[1])
    with base.edit() as draft:
        stem = only(draft.nodes(path="stem"))
        late = next(s for s in draft.nodes() if s.id == 6)  # in a region
        calls.clear()
        for name in ("a", "b"):
            with draft.before(stem) as at:
                first = at.one("relu", [at.value(Value(0))], label=name)
            with draft.after(stem) as at:
                at.one("relu", [at.value(stem.values[0])], label=f"{name}2")
            with draft.after(late) as at:
                at.one("relu", [at.value(late.values[0])], label=f"{name}3")
        with draft.before(stem) as at:
            assert at.value(first.value).type == first.type
            with pytest.raises(KeyError):
                at.value(stem.values[0])
        draft.replace_uses(stem, Value(0), first.value, [first.value.node])
        assert not calls
        root = draft.blocks[""]
        assert [n.label for n in root.nodes][:6] == ["pixels", "a", "b", "stem", "b2", "a2"]
        assert stem.operands == (first.value,)
        assert [n.label for n in root.by_id[4].regions[0].nodes] == ["", "layers[2]", "b3", "a3"]
        assert len(calls) == 1
        for site in [s for s in draft.nodes(op="relu") if s.id != first.value.node]:
            draft.remove(site)
    (relu,) = [node for node in draft.result.root.nodes if node.op == "relu"]
    assert draft.result.root.by_id[1].operands == relu.values


def test_cursors_of_one_block_are_open_one_after_another(base):
    """Two at once would give their nodes the same ids."""
    with pytest.raises(SpaceError) as failed, base.edit() as draft:
        stem, head = only(draft.nodes(path="stem")), only(draft.nodes(path="head"))
        with draft.before(stem) as first:
            first.one("relu", [first.value(Value(0))], label="a")
            with draft.before(head) as second:
                second.one("relu", [second.value(Value(4))], label="b")
    (found,) = failed.value.diagnostics
    assert (found.code, "another cursor" in found.headline) == ("SP602", True)
    with base.edit() as draft:
        stem, head = only(draft.nodes(path="stem")), only(draft.nodes(path="head"))
        with draft.before(stem), draft.before(head) as at:  # the first adds nothing
            at.one("relu", [at.value(Value(4))], label="b")


def test_decisions_in_the_order_of_what_they_hang_on():
    """As in the text, but each after what it hangs on; what hangs on itself in a ring comes last."""

    def choice(path: str, *on: str) -> Choice:
        live = conjunction(*(is_value(Symbol(name, (1, 2)), 1) for name in on))
        return Choice(path, "dim", (Fraction(1), Fraction(2)), live=live)

    found = Decisions(
        [choice("c", "b"), choice("x", "y"), choice("b", "a"), choice("y", "x"), choice("a")]
    )
    assert [c.path for c in found.order] == ["a", "b", "c", "x", "y"]
    long = [choice("d0"), *(choice(f"d{i}", f"d{i - 1}") for i in range(1, 3000))]
    assert [c.path for c in Decisions(long[::-1]).order] == [c.path for c in long]
