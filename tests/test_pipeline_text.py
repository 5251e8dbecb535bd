"""Pipelines as text, and rewritings before and after as text."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewriting import multiplex, paths, text_graph

from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.graph import Graph
from spacelang.ir.pattern import parse_pattern
from spacelang.ir.text import write
from spacelang.loader import blocks, load
from spacelang.passes.insert import Insert
from spacelang.passes.irpe import Irpe
from spacelang.passes.multiplex import Multiplex
from spacelang.passes.pipeline import run
from spacelang.passes.text import parse_pipeline
from spacelang.plugins import BUILTIN

# Pipelines as text.


def test_pipeline_text() -> None:
    steps = parse_pipeline(
        "multiplex{path=layers[_].blocks, every=[2,[1,1],6,2], own=[norm1, attn.rpe_k]},\n"
        'irpe{method="cross",on=k,ratio=2.5,shared=false,path=blocks[0..2],skip=none}, irpe{}, irpe'
    )
    assert steps == (
        Multiplex(
            parse_pattern("layers[_].blocks"), (2, (1, 1), 6, 2), paths("norm1", "attn.rpe_k")
        ),
        Irpe("cross", 2.5, "k", shared=False, path=paths("blocks[0..2]")),
        Irpe(),
        Irpe(),
    )
    assert parse_pipeline("  ") == ()


def test_pipeline_text_runs() -> None:
    base = load("spaces/deit.space:deit_ti")
    made = run(base, "irpe{on=[k]}, multiplex{path=blocks,every=2,own=[attn.rpe_k]}")
    steps = [Irpe(), multiplex("blocks", 2, ("attn.rpe_k",))]
    assert made == run(base, steps)


@pytest.mark.parametrize(
    ("text", "code", "column"),
    [
        ("irp{}", "SP604", 1),
        ("irpe{metod=a}", "SP204", 6),
        ("irpe{on=k, on=v}", "SP204", 12),
        ("multiplex{every=2}", "SP204", 1),
        ("irpe{on}", "SP101", 8),
        ("irpe{on=}", "SP101", 9),
        ("irpe{on=k", "SP101", 10),
        ("irpe{on=k} irpe", "SP101", 12),
        ("irpe,", "SP101", 6),
        ("irpe{on=k.v}", "SP101", 9),
        ("irpe{on=[k}", "SP101", 11),
        ("irpe{on=[[[[[k", "SP102", 13),
        ("irpe{ratio=1e999}", "SP103", 12),
        ("multiplex{path=3}", "SP101", 16),
        ("multiplex{path=a[}", "SP101", 17),
        ('irpe{method="a\\q"}', "SP101", 13),
        ("insert{block=mix}", "SP209", 14),
        ("é", "SP101", 1),
    ],
)
def test_wrong_pipelines(text: str, code: str, column: int) -> None:
    with pytest.raises(SpaceError) as failed:
        parse_pipeline(text)
    (found,) = failed.value.diagnostics
    assert (found.code, found.primary.span.position) == (code, (1, column))


@given(st.text('irpemultx{}[]=,._ "\\019-k\n', max_size=40))
def test_any_text_is_a_pipeline_or_a_diagnostic(text: str) -> None:
    for start in ("", "irpe{on=", "multiplex{path=", "insert{block="):
        with suppress(SpaceError):
            assert isinstance(parse_pipeline(start + text, blocks=blocks(BLOCKS)), tuple)


BLOCKS = Source("blocks.space", "use vit\nlet two = 2\nblock twice(x) { return x * two }\n")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("twice", "twice"),
        ('"twice"', "twice"),
        ("mlp", "mlp"),
        ("vit.mlp", "mlp"),
        ("efficientvit.space:ffn", "ffn"),
        ('"efficientvit.space:conv.conv_bn"', "conv_bn"),
    ],
)
def test_a_block_of_the_scope_or_of_a_file(name: str, found: str) -> None:
    (step,) = parse_pipeline(f"insert{{block={name},after=fc}}", blocks=blocks(BLOCKS))
    assert isinstance(step, Insert)
    assert step.block.name == found


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("twise", "SP201", "did you mean twice?"),
        ("two", "SP209", "a block is wanted here, not a number"),
        ("gelu", "SP209", "a block is wanted here, not an op"),
        ("vit.none", "SP201", "nothing is called none here"),
        ("2", "SP209", "2 is no name of a block"),
        ("vit.space", "SP209", "vit.space is no name of a block"),
        ("deit.space:", "SP209", "FILE.space:mix"),
        ("minivit.space:mix_heads", "SP201", "it stands in mini_deit,"),
        ("none.space:twice", "SP104", "none.space is no file"),
        ("[twice]", "SP101", "the name of a block"),
        (",after=fc", "SP101", "the name of a block"),
    ],
)
def test_what_is_no_block(name: str, code: str, says: str) -> None:
    with pytest.raises(SpaceError) as failed:
        parse_pipeline(f"insert{{block={name}}}", blocks=blocks(BLOCKS))
    (found,) = failed.value.diagnostics
    assert (found.code, found.primary.span.position) == (code, (1, 14))
    assert says in str(failed.value)


# Before and after, as text.

GOLDEN = Path(__file__).parent / "golden" / "passes"
FENCE = re.compile(r"^```(\w+)(?:: ([^\n]*))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def rewritten(space: str, pipeline: str | None) -> Graph:
    named = blocks(Source("test.space", space))
    return run(text_graph(space), parse_pipeline(pipeline or "", blocks=named))


@pytest.mark.parametrize("name", sorted(BUILTIN["spacelang.passes"]))
def test_golden_rewritings(name: str, update_golden: bool) -> None:
    """`space` is loaded; `ir` is its graph, `after` that of a pipeline, `error` what is refused."""
    file = GOLDEN / f"{name}.md"
    space = ""

    def shown(found: re.Match[str]) -> str:
        nonlocal space
        kind, pipeline, body = found.groups()
        if kind == "space":
            space = body
            return found[0]
        head = kind if pipeline is None else f"{kind}: {pipeline}"
        if kind == "error":
            with pytest.raises(SpaceError) as failed:
                rewritten(space, pipeline)
            made = str(failed.value)
        else:
            made = write(rewritten(space, pipeline))
        return f"```{head}\n{made.strip()}\n```"

    text = file.read_text(encoding="utf-8")
    made = FENCE.sub(shown, text)
    if update_golden:
        file.write_text(made, encoding="utf-8")
    assert made == text or update_golden
