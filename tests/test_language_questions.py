"""Every question about the language has its answer in docs/language.md: a sentence and an example.

A row says where: the heading of the section, words of the sentence, and words of an example of the
same section, which `test_docs_language.py` runs. Rows C are what the language does, D what people
asked of it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "language.md"
HEADING = re.compile(r"^#{2,3} (.+)$", re.MULTILINE)
FENCE = re.compile(r"^```space[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)

ANSWERS: dict[str, tuple[str, str, str]] = {
    "C1 the author writes a decision's index": (
        "Decisions", "nothing is numbered, so a line added above changes no path",
        "choose width[s] in {8, 16}",
    ),
    "C2 a storage rule belongs to a decision, a tensor's is the exception": (
        "Weights", "slices the factors whose size that decision sets, and no others",
        "kernel: entangle(centre)",
    ),
    "C3 weights may be operands": (
        "Weights as operands", "then they own none", "weight: table, bias: false",
    ),
    "C4 require speaks of decisions by path": (
        "Limits", "any other path names a decision", "require width[s] <= width[s + 1]",
    ),
    "C4 a subnet decides everything": (
        "Instances and subnets", "takes every decision that is live",
        "subnet small of s { depth = 2",
    ),
    "C5 a table is a constant from its indices": (
        "Tables", "a number for every place, computed from its indices",
        "return 0 if j <= i else -10000",
    ),
    "C6 concat and elastic parts": (
        "Joining parts", "puts parts side by side and keeps them apart", "concat([a, x], axis: 1)",
    ),
    "C7 inputs of whole numbers": (
        "input and output", "makes the input whole numbers of a range",
        "input ids: [B, 12] in 0..<vocabulary",
    ),
    "C8 computed lists": (
        "Lists and sets", "it unrolls like a loop, so calls are allowed in it",
        "[linear(x, n) as part[i] for i, n in enumerate(widths)]",
    ),
    "C8 reversed": ("Ranges", "To count down, `reversed(0..3)`", "for i in reversed(0..<2)"),
    "C9 else when": (
        "for and when", "They open no scope", "else when n > 10",
    ),
    "C9 a trailing comma": ("Lists and sets", "A trailing comma is allowed", "[24,]"),
    "C9 an open range with a step": ("Ranges", "`by` gives a step above zero", "0..<6 by 2"),
    "C9 leading axes in an index": ("Axes", "`..` all axes that are not written", "y[.., 0..1]"),
    "C10 tie says to whom": (
        "tie", "it may cross stages, blocks and alternatives",
        "mix[i].both.local: tie(mix[i].conv.local)",
    ),
    "C11 true, false and none keep their values": (
        "Conditions", "cannot be bound to anything else", "let true = 3",
    ),
    "C11 return ends the block": (
        "return", "nothing after one that is always reached", "when skip { return x }",
    ),
    "C12 total adds a list": ("Regions", "the sum of a list of tensors", "total([x, relu(x)])"),
    "D1 the number of a decision in a loop": (
        "Decisions", "The author writes its index in a loop",
        "choose extra[s] in {1, 2}",
    ),
    "D2 a transparent call with decisions": (
        "Labels", "its parameters and decisions belong to the caller, and must not meet others",
        "grow(x) as _",
    ),
    "D2 a cell without a scope": (
        "cell", "That is so for `as _` as well", "x = normal(x) as _",
    ),
    "D3 return in a loop, and on every way": (
        "return", "There is no `return` in a `for`", "for i in 0..1 { return x }",
    ),
    "D3 return after a decision": (
        "return", "the rest of the body is the other side", "choose skip in {true, false}",
    ),
    "D4 which factors entangle(centre) takes": (
        "Weights", "the heads of a table stay leading when its window is centred",
        "kernel: entangle(centre)",
    ),
    "D5 which rule wins": (
        "Weights", "then more named labels win, then more fixed indices, then the later line",
        "width[_]: entangle  width[1]: store(24)",
    ),
    "D5 rules of a derived space": (
        "Instances and subnets", "stand after those of the base", "space narrow from searched",
    ),
    "D6 what _ means in a path": (
        "Weights", "alone everything, in front of others any depth", "weights { _.width: entangle }",
    ),
    "D7 concat of elastic widths": (
        "Joining parts", "from where that part starts in the largest network", "choose left in {4, 8}",
    ),
    "D8 draws have no order": (
        "Picks", "The draw has no order", "choose inputs in 2 of states",
    ),
    "D8 how many are drawn": (
        "Picks", "The number is known, not a decision", "choose inputs in k of",
    ),
    "D9 names in a limit": (
        "Limits", "A name in scope is what it is", "require params <= 300",
    ),
    "D9 limits and storage": (
        "Limits", "A limit never shrinks storage", "require params <= 1M",
    ),
    "D9 limits in a block": (
        "Limits", "In a block a limit holds for each instance", "require a + b <= 4",
    ),
    "D10 choose where an argument stands": (
        "choose where an argument stands", "named after the parameter, also where it is given by "
        "position", "f(x, choose {8, 16}) as a",
    ),
    "D10 choose inside an expression": (
        "choose where an argument stands", "it is an error that shows the other form",
        "2 * choose {8, 16}",
    ),
    "D11 subnets are no bases, and take no sets": (
        "Instances and subnets", "its values are values, not sets", "subnet several of s",
    ),
    "D11 lists and absent layers": (
        "Instances and subnets", "a list is dealt out to what is there once the other decisions",
        "width[_] = [8, 16]",
    ),
    "D12 what is tied, and to whom": (
        "tie", "Decisions are not tied: tied layers may read different slices",
        "f[_]: tie(every: 2)",
    ),
    "D13 alternatives of a path are apart": (
        "Paths", "parameters and decisions of two alternatives are apart, also under one label",
        "both: local(x) as local",
    ),
    "D14 kinds of candidates": (
        "Sizes and words", "ops and blocks are no candidates", "choose op in {f, gelu}",
    ),
    "D14 the largest of words": (
        "Sizes and words", "of others the first", 'choose act in {"relu", "gelu"}',
    ),
    "D14 blocks and ops as arguments": (
        "Blocks", "lists, sets, blocks and ops, with defaults", "residual(dense, act: relu) as b",
    ),
    "D15 true, false and none": (
        "Conditions", "a candidate may still be called `none`", "none: zero(x)",
    ),
    "D16 a decision in the shape of an input": (
        "input and output", "A decision in the shape of an input is refused",
        "input pixels: [B, 3, image, image]",
    ),
    "D17 free sizes": (
        "input and output", "It is the one free size there is", "input tokens: [B, T, 8]",
    ),
    "D17 capitals in types": (
        "Types", "A capital that is a parameter or a size already is compared",
        "block grid(x: [B, N, C], H, W)",
    ),
    "D18 inputs of whole numbers": (
        "input and output", "Equality proofs and exporters draw from it", "in 0..<vocabulary",
    ),
    "D19 lists of numbers": ("let and =", "a list of tensors (also an empty one to", "sizes = [8, 16]"),
    "D19 appending and repeating": (
        "Lists and sets", "`[1, 2] * 2` is not written", "let sizes = [1, 2] * 2",
    ),
    "D19 a decision as an index": (
        "Lists and sets", "asks for its value, which exists inside of a block only",
        "linear(x, sizes[i])",
    ),
    "D19 lists of ranges": (
        "Lists and sets", "Ranges and lists of ranges may be walked with `enumerate`",
        "for s, turns in enumerate(depths)",
    ),
    "D20 empty and exact ranges": (
        "Ranges", "A range that ends before it starts is empty", "for r in 0..0.5 by 0.1",
    ),
    "D20 steps": ("Ranges", "`by` gives a step above zero", "3..0 by -1"),
    "D21 negative indices and axes": (
        "Axes", "negative ones from the end, as do axes of ops", "axes: [-2]",
    ),
    "D22 what a label names": (
        "Labels", "`x + y as sum` is refused, because it would name `y`", "x = x + y as sum",
    ),
    "D22 a second label": (
        "Labels", "A value that has a label already gets a second one", "x = (h) as again",
    ),
    "D23 rearrange": (
        "Patterns", "Names are not repeated and nothing is summed", '"b (h d) -> b h 1 d"',
    ),
    "D23 einsum": (
        "Patterns", "an axis of one entry is not spread", 'einsum("bii,bij->bj", y, y)',
    ),
    "D24 optional layers of another type": (
        "for and when", "a layer that is optional cannot widen what it is given",
        "linear(x, 16 + 8 * i) as layers[i]",
    ),
    "D24 lists in optional turns": (
        "for and when", "one that grows in an optional turn has two lengths",
        "xs = xs + [linear(x, 16) as layers[i]]",
    ),
    "D25 let over a decision": (
        "Numbers", "is known while the graph is built as an expression, not as one number",
        "let hidden = max(40, 3 * width // 2)",
    ),
    "D26 zero over zero": (
        "Numbers", "has no value where the depth is 1", "drop_path(0.1 * i / (depth - 1))",
    ),
    "D27 words of search": (
        "search", "Words are strings; a name is the value that is in scope, and paths are strings",
        "population = people",
    ),
    "D28 outputs": ("input and output", "`output` is the result, exactly once", "output gelu(x)"),
    "D28 inputs and outputs in blocks": (
        "input and output", "stand in spaces alone", "block f(x) {\n  output x",
    ),
    "D28 spaces in spaces": ("input and output", "stand in spaces alone", "space inner = outer"),
    "D29 factors and what they share": (
        "Factored axes", "Merging factors changes what is shared", "[3 * heads, 8]",
    ),
    "D30 batch norm of a shared prefix": (
        "tie", "To recalibrate them is the work of an engine", "batch_norm as norm",
    ),
    "D31 names that hide ops": (
        "Names", "A name may hide what stands farther out, also an op or a function",
        "block f(x: [B, C], expand)",
    ),
}  # fmt: skip


def sections() -> dict[str, str]:
    """The text below each heading, up to the next one."""
    text = PAGE.read_text("utf-8")
    found = list(HEADING.finditer(text))
    ends = [heading.start() for heading in found[1:]] + [len(text)]
    return {h[1]: text[h.end() : end] for h, end in zip(found, ends, strict=True)}


SECTIONS = sections()


@pytest.mark.parametrize("question", ANSWERS)
def test_the_page_answers(question: str) -> None:
    heading, sentence, example = ANSWERS[question]
    section = SECTIONS[heading]
    prose = " ".join(FENCE.sub("", section).split())
    assert " ".join(sentence.split()) in prose
    examples = FENCE.findall(section)
    assert any(example in text for text in examples), examples


def test_no_question_is_left_out() -> None:
    asked = {question.split()[0] for question in ANSWERS}
    assert asked == {*(f"C{n}" for n in range(1, 13)), *(f"D{n}" for n in range(1, 32))}
