"""Names of a stranger's graph: what is no name is refused, and whatever is printed stays text."""

from __future__ import annotations

import ast
import json
import re

import pytest
from command import run
from hypothesis import given, settings
from hypothesis import strategies as st

from spacelang.backends.torch.printing.spell import Attributes, quoted
from spacelang.backends.torch.printing.supernet_source import print_supernet
from spacelang.backends.torch.storage import check_labels
from spacelang.backends.torch.subnets.subnet import write_subnet
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.graph import Graph
from spacelang.ir.text import write
from spacelang.ir.words import PLAIN
from spacelang.loader import load
from spacelang.syntax import ir_text

SPACE = """
cell box(x) { choose zzz_k in {4, 8}  return linear(linear(x, zzz_k) as zzz_in, 4) as out }
block zzz_layer(x) { choose op in {"one", "zzz"}
  when op == "zzz" { x = relu(x) as zzz_tap }
  return linear(box(x) as zzz_box, 4) as zzz_out
}
space zzz {
  input zzz_x: [B, 4]
  choose zzz_wide in {4, 8}
  x = zzz_layer(zzz_x) as zzz_first
  x = linear(x, zzz_wide) as zzz_mid
  output linear(x, 3) as zzz_head
  weights { _: entangle }
}
"""
STRANGE = 'a", 0) or getattr(__import__("os"), "system")("touch HERE") or getattr(self, "b'
ODD = st.one_of(
    st.text(), st.text("\"'\\\n){}#ab \u2028\u200b\u0661ﬁ"), st.sampled_from([STRANGE, '"""', "\\"])
)
_NAME = re.compile(rf"@?\"[^\"]*\"|{PLAIN.pattern}", re.ASCII)


@pytest.fixture(scope="module")
def text() -> str:
    return write(load(Source("t.space", SPACE)))


def named(text: str, name: str) -> str:
    """The text with `zzz` as another name wherever it stands, in quotes."""

    def other(found: re.Match[str]) -> str:
        word = found[0]
        if "zzz" not in word:
            return word
        if word.startswith('"'):
            return json.dumps(json.loads(word).replace("zzz", name))
        plain = json.loads(word[1:]) if word.startswith("@") else word
        return "@" + json.dumps(plain.replace("zzz", name))

    return _NAME.sub(other, text)


def unverified(text: str) -> Graph:
    """The graph of a text that nothing was asked of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ir_text, "verify", lambda *_: None)
        return ir_text.read(Source("t.spaceir", text))


def test_the_names_stand_everywhere(text):
    for line in ("graph @", "block @", "param @", "decide dim @", "as @"):
        assert line in named(text, "-")
    assert ir_text.read(Source("t.spaceir", named(text, "plain"))) is not None


@pytest.mark.parametrize("command", ["check", "compile", "extract", "export", "info", "show"])
def test_every_command_refuses_it(text, command, tmp_path):
    file, out, touched = (tmp_path / name for name in ("t.spaceir", "out", "touched"))
    file.write_text(named(text, STRANGE.replace("HERE", str(touched))))
    options = [] if command in ("check", "info", "show") else ["-o", str(out)]
    done = run(command, file, *options)
    assert done.exit_code == 2
    assert "SP602" in done.output
    assert "is no name" in done.output
    assert not out.exists()
    assert not touched.exists()


@pytest.mark.parametrize("name", [STRANGE, "a b", "", "a-b", "ﬁ", "a\n", "\x1b[2J", "..", "__a[x]"])
def test_reading_refuses_what_is_no_name(text, name):
    with pytest.raises(SpaceError) as caught:
        ir_text.read(Source("t.spaceir", named(text.replace("_", ""), name + "/")))
    assert {d.code for d in caught.value.diagnostics} == {"SP602"}


@settings(deadline=None, max_examples=60)
@given(name=ODD)
def test_a_name_is_plain_or_refused(text, name):
    try:
        graph = ir_text.read(Source("t.spaceir", named(text, name)))
    except SpaceError:
        return
    assert PLAIN.fullmatch(graph.name)


def spoken(source: str) -> tuple[set[str], set[str]]:
    """What a source speaks of that it does not name itself, and all attributes that it reads."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {(node.id, type(node.ctx)) for node in nodes if isinstance(node, ast.Name)}
    made = {name for name, context in names if context is ast.Store}
    made |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    made |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return {name for name, _ in names} - made, attributes


def strings(source: str) -> set[str]:
    nodes = ast.walk(ast.parse(source))
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


@settings(deadline=None, max_examples=40)
@given(name=ODD)
def test_a_printed_space_says_a_name_as_it_is(text, name):
    """Even of a graph that was not verified: the text of a name is one string, and no code."""
    name = "-" + re.sub(r"[.\[\]/%]", "", name)  # signs that take a path apart
    printed = print_supernet(unverified(named(text, name)))
    assert spoken(printed) == spoken(print_supernet(unverified(named(text, "-"))))
    wanted = {f"{name}_wide", f"{name}_mid.weight", name, f"{name}_first"}
    assert wanted <= strings(printed)


@settings(deadline=None)
@given(st.text(), st.text())
def test_a_printed_class_says_a_label_as_it_is(one, other):
    a, b = ("-" + label.replace(".", "") for label in (one, other))
    made = Attributes({f"{a}.weight": "nn.Parameter(1)", f"x.{b}": "nn.Linear(3, 4)"})
    source = "\n".join((*made.statements(), made.access(f"{a}.weight"), made.access(f"x.{b}")))
    assert strings(source) == {a, b}
    assert ast.literal_eval(quoted(one)) == one


@given(st.text())
def test_a_path_of_modules_is_made_of_labels(label):
    """torch.fx writes the names of modules and tensors into source as they are."""
    if re.fullmatch(r"[A-Za-z0-9_]+", label):
        check_labels(f"a.{label}.weight")
    elif "." not in label:
        with pytest.raises(SpaceError, match="SP605"):
            check_labels(f"a.{label}.weight")


def test_no_module_is_made_of_a_graph_that_was_not_verified(text):
    with pytest.raises(SpaceError, match="SP605"):
        Supernet(unverified(named(text, STRANGE)))


def test_labels_that_modules_have_themselves(tmp_path):
    """`forward` and `self` are no names of the modules that a printed class is made of."""
    graph = load(Source("t.space", """
        block act(x) { return relu(x) as self }
        block deep(x) { return linear(relu(x) as forward, 4) as self }
        space t {
          input x: [B, 4]
          x = relu(x) as __class__
          x = act(x) as train
          output linear(deep(x) as inner, 3) as head
          weights { _: entangle }
        }
    """))  # fmt: skip
    made = write_subnet(Supernet(graph), {}, tmp_path / "net")
    assert all(part.outputs == 0 for part in made.proof if part.dtype == "float64")
