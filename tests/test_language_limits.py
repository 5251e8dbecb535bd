"""Texts that would grow without end are refused soon, in little memory, with what is too much."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from spacelang.diagnostics import NOWHERE, Source, SpaceError
from spacelang.ir.decision import Choice
from spacelang.ir.graph import Graph
from spacelang.loader import load
from spacelang.syntax.budget import budget
from spacelang.syntax.matches import fold
from spacelang.syntax.session import MAX_MATCHES, MAX_OPEN, MAX_WAYS

SECONDS, MEGABYTES = 20, 120  # of a slow, busy machine; each takes a thirtieth on an idle one


def chain(depth: int, body: str, first: str = "relu(x)") -> str:
    """Blocks that each use the one before; `{}` in a body is that one's name."""
    blocks = [f"block b0(x) {{ {'' if 'return' in first else 'return '}{first} }}"]
    blocks += [f"block b{i}(x) {{ return {body.format(f'b{i - 1}')} }}" for i in range(1, depth)]
    end = f"input x: [B, 8] output b{depth - 1}(x) weights {{ _: entangle }}"
    return "\n".join((*blocks, f"space s {{ {end} }}"))


def space(body: str, before: str = "") -> str:
    return f"{before}\nspace s {{ input x: [B, 16]\n{body}\n}}"


def doubled(name: str, first: str, step: str, steps: int) -> str:
    """`let` after `let`, each made of the one before."""
    lines = [f"let {name}0 = {first}"]
    lines += [f"let {name}{i} = {step.format(f'{name}{i - 1}')}" for i in range(1, steps)]
    return "\n".join(lines)


FEW = ", ".join(f"a{i}" for i in range(20))
WAYS = " + ".join(f"[0, 1][a{i}]" for i in range(20))
OPEN = "\n".join(f"choose n{i} in 0..1" for i in range(20))
DEEP = "choose r in {1, 2} return linear(x, 8 * r) as up |> linear(8) as down"
NESTED = doubled("a", "[1]", "[{0}, {0}]", 60)
SUM = " ".join(f"choose s{i} in 1..9" for i in range(20))
ALL = " + ".join(f"s{i}" for i in range(20))
SQUARES = " ".join(f"let a{k} = a{k - 1} * a{k - 1}" for k in range(1, 8))
DECIDED = "for i in 0..24 { choose a[i] in 1..2 }"

BOMBS = {
    # Rows 2 and 3 of the threats: depth and length of the text.
    "brackets": (space(f"output {'(' * 65}x{')' * 65}"), "SP102"),
    "many brackets": (space(f"output {'[' * 10**5}x"), "SP102"),
    "a long sum": (space(f"output x * ({'+'.join(['1'] * 10**5)})"), "SP102"),
    "a large file": ("#" * ((1 << 20) + 1), "SP102"),
    # Row 4: numbers.
    "digits": (space(f"output x * {'9' * 5000}"), "SP103"),
    "a power": (space("output x * power(9, power(9, 9))"), "SP103"),
    "squares": (space("output x * a59", doubled("a", "9", "{0} * {0}", 60)), "SP103"),
    "a small power": (space("output x * power(1 / 9, 9999)"), "SP103"),
    "powers with a decision": (
        space(f"choose w in {{2, 3}}\n{doubled('a', 'w', '{0} * {0}', 60)}\noutput x * a59"),
        "SP103",
    ),
    "powers of a free size": (
        space(f"{doubled('a', '1 / B', '{0} * {0}', 60)}\noutput x * a59"),
        "SP103",
    ),
    "powers that are rounded": (
        space(
            "choose w in {20, 30} let a0 = w "
            + " ".join(f"let a{k} = a{k - 1} * a{k - 1} // 7" for k in range(1, 40))
            + " output x * a39"
        ),
        "SP103",
    ),
    "a long sum to a power": (space(f"{SUM} output x * power({ALL}, 8)"), "SP507"),
    "a divisor to a power": (
        space(f"{SUM} let a0 = 1 / ({ALL}) {SQUARES} output x * floor(a7)"),
        "SP507",
    ),
    "by zero": (space("output x * (1 // (1 - 1))"), "SP210"),
    # Row 5: loops, lists, sets, blocks.
    "a loop": (space("for i in 0..1000000000000 { x = relu(x) } output x"), "SP507"),
    "loops in loops": (
        space("for i in 0..999 { for j in 0..999 { for k in 0..999 { y = 0 * x } } } output x"),
        "SP507",
    ),
    "a set": (space("choose a in 0..1000000000000 output x * a"), "SP507"),
    "many candidates": (space("choose a in 0..20000 output x * a"), "SP507"),
    "lists in lists": (space("output x * len(a59)", NESTED), "SP507"),
    "equal lists": (space("when a59 == a58 { y = x } output x", NESTED), "SP507"),
    "a list as an argument": (
        space("output f(x, a59)", f"block f(x, a) {{ return relu(x) }}\n{NESTED}"),
        "SP507",
    ),
    "lists compared": (
        space("let a = [i for i in 0..50000] for i in 0..9999 { when a == a { y = x } } output x"),
        "SP507",
    ),
    "computed lists": (
        space("let a = [[[1 for i in 0..999] for j in 0..999] for k in 0..999] output x"),
        "SP507",
    ),
    "uses that double": (chain(31, "{0}({0}(x))"), "SP507"),
    "labelled uses that double": (chain(31, "{0}({0}(x) as p) as q", "linear(x, 8) as fc"), "SP507"),
    "decisions that double": (chain(31, "{0}({0}(x) as p) as q", DEEP), "SP507"),
    "cells that double": (
        chain(31, "{0}({0}(x) as p) as q", DEEP).replace("block ", "cell "),
        "SP507",
    ),
    "uses in a loop": (
        chain(12, "[{0}(x) for i in 0..9][0]") + "\n",
        "SP507",
    ),
    "a deep chain": (chain(40, "{0}(x)"), "SP507"),
    "alternatives": (
        space(f"{OPEN}\noutput f(x, {FEW.replace('a', 'n')})", f"block f(x, {FEW}) {{ let n = {WAYS} return relu(x) }}"),
        "SP507",
    ),
    "sizes in sizes": (
        space(
            "\n".join(f"choose r{k} in 1..50" for k in range(40))
            + "\nlet a0 = max(r0, 3)\n"
            + "\n".join(f"let a{k} = max(a{k - 1} % 7, a{k - 1} // 2 + r{k})" for k in range(1, 40))
            + "\noutput x * a39"
        ),
        "SP507",
    ),
    "entries in entries": (
        space(
            "output x + table([16]) |i| { let a0 = sin(i) "
            + " ".join(f"let a{k} = sin(a{k - 1} * a{k - 1} + a{k - 1})" for k in range(1, 40))
            + " return a39 }"
        ),
        "SP507",
    ),
    "a large table": (space("output x + table([60000, 60000]) |i, j| { return i }"), "SP507"),
    "limits by four names": (space(f"{DECIDED}\nrequire a[i] + a[j] <= a[k] + a[l]\noutput x"), "SP507"),
    "one limit many times": (
        space(f"{DECIDED}\n" + "require a[i] <= 1 + a[j]\n" * 17 + "output x"),
        "SP507",
    ),
    "an extreme of what may be left out": (
        space(
            "choose d in 1..26 for i in 0..<d { choose a[i] in 1..3\nx = x * a }"
            "\nrequire max(a[_]) <= 2\noutput x"
        ),
        "SP507",
    ),
    # Row 7: files.
    "a file above": (f"use ..\n{space('output x')}", "SP101"),
    "a device": (f"use dev.zero\n{space('output x')}", "SP201"),
}  # fmt: skip


def peak() -> int:
    """The most memory that this process has had so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@pytest.mark.parametrize("name", BOMBS)
def test_refused_soon_and_in_little_memory(name: str) -> None:
    text, code = BOMBS[name]
    start, before = time.process_time(), peak()
    with pytest.raises(SpaceError) as failed:
        load(Source("<bomb>", text))
    assert time.process_time() - start < SECONDS
    assert peak() - before < MEGABYTES
    assert code in {found.code for found in failed.value.diagnostics}
    assert all(found.headline for found in failed.value.diagnostics)


def test_a_condition_on_more_matches_than_are_read_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None of them is left out without a word."""
    block = "block f(x) { choose w in {1, 2} return x * w }"
    body = "for i in 0..<20 { x = f(x) as a[i] } require a[i].w <= 1 output x"
    assert len(loads(space(body, block)).require) == 20
    monkeypatch.setattr("spacelang.syntax.session.MAX_MATCHES", 19)
    with pytest.raises(SpaceError) as failed:
        loads(space(body, block))
    assert [found.code for found in failed.value.diagnostics] == ["SP507"]


def loads(text: str) -> Graph:
    return load(Source("<legal>", text))


def test_blocks_may_stand_32_deep() -> None:
    text = "block b(x) { return relu(x) }\n" + space(f"output {'b(' * 32}x{')' * 32}")
    assert len(loads(text).root.nodes) == 33
    assert loads(chain(32, "{0}(x)")).size() == 1


def test_uses_that_double_up_to_the_limit() -> None:
    deepest = MAX_OPEN.bit_length() - 4
    graph = loads(chain(deepest, "{0}({0}(x) as p) as q", "linear(x, 8) as fc"))
    assert len(graph.storages) == 2 ** (deepest - 1) * 2
    assert sum(1 for _ in graph.places()) < MAX_OPEN


def test_alternatives_up_to_the_limit() -> None:
    many = MAX_WAYS.bit_length() - 1
    names = ", ".join(f"a{i}" for i in range(many))
    sums = " + ".join(f"[0, 1][a{i}]" for i in range(many))
    open_ = "\n".join(f"choose n{i} in 0..1" for i in range(many))
    text = space(
        f"{open_}\noutput f(x, {names.replace('a', 'n')})",
        f"block f(x, {names}) {{ let n = {sums} return linear(x, 8 + n - n) as fc }}",
    )
    assert loads(text).size() == 2**many


def test_a_number_of_parameters_is_counted_without_making_them() -> None:
    before = peak()
    graph = loads(space("output linear(x, 1000000000000) as fc"))
    assert graph.cost().params == 17 * 10**12
    assert peak() - before < MEGABYTES


# Row 7: files that are used. Row 8: nothing of a text is run.


def tree(folder: Path, files: dict[str, str]) -> Path:
    """Files below a folder; the first is the one that is loaded."""
    for name, body in files.items():
        path = folder / f"{name}.space"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body, "utf-8")
    return folder / f"{next(iter(files))}.space"


def codes(path: Path) -> set[str]:
    with pytest.raises(SpaceError) as failed:
        load(path)
    return {found.code for found in failed.value.diagnostics}


def test_files_lead_neither_out_nor_round_nor_too_deep(tmp_path: Path) -> None:
    home = tmp_path / "home"
    secret = tree(tmp_path, {"secret": "let password = 1"})
    first = tree(home, {"first": f"use linked\n{space('output x * password')}"})
    (home / "linked.space").symlink_to(secret)
    assert codes(first) == {"SP211"}
    round_ = tree(home, {"a": f"use b\n{space('output x')}", "b": "use c", "c": "use a"})
    assert codes(round_) == {"SP211"}
    deep = {f"d{i}": f"use d{i + 1}" for i in range(1, 30)}
    last = tree(home, {"d0": f"use d1\n{space('output x')}", **deep, "d30": ""})
    assert codes(last) == {"SP211"}


def test_files_are_regular_and_small_together(tmp_path: Path) -> None:
    first = tree(tmp_path, {"first": f"use pipe\n{space('output x')}"})
    os.mkfifo(tmp_path / "pipe.space")
    assert codes(first) == {"SP201"}  # no file of that name: a pipe is none
    large = {f"l{i}": "#" * (1 << 20) for i in range(5)}
    uses = "\n".join(f"use {name}" for name in large)
    assert codes(tree(tmp_path, {"all": f"{uses}\n{space('output x')}", **large})) == {"SP102"}


def test_nothing_of_a_text_is_run_or_opened() -> None:
    """Names, strings and formulas that Python would run are names, strings and formulas."""
    texts = [
        space('output __import__("os").system("true")'),
        space('output x * eval("1")'),
        space("output x.__class__"),
        space('let a = "{0.__class__}" output x * len(a)'),
        space('output open("/etc/passwd")'),
        space("rewrite { __init__(a: 1) } output x"),
        space("search os { a = 1 } output x * getattr(x, 1)"),
    ]
    for text in texts:
        with pytest.raises(SpaceError):
            loads(text)  # once, so that what is imported when it is first needed is there
    seen: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event in (
            "exec",
            "compile",
            "import",
            "open",
            "os.system",
            "subprocess.Popen",
        ):
            seen.append(f"{event} {arguments[:1]}")

    sys.addaudithook(watch)
    for text in texts:
        with pytest.raises(SpaceError):
            loads(text)
    watching = False
    assert seen == []


AHEAD = {
    "loops in loops": "for i in 0..999 { for j in 0..999 { for k in 0..999 { x = relu(x) } } }",
    "by a name": "let n = 999 for i in 0..n { for j in 0..n { for k in 0..n { x = relu(x) } } }",
    "lists of lists": "let a = [i for i in 0..99999] let b = [a for i in 0..99999]",
    "computed lists": "let a = [[[0 for k in 0..99] for j in 0..999] for i in 0..999]",
    "candidates": "\n".join(f"choose k{i} in 1..9999" for i in range(50)),
    "limits by names": f"{DECIDED}\nrequire a[i] + a[j] <= a[k] + a[l]\n",
    "candidates in a loop": "for i in 0..99 { choose k[i] in 1..9999 }",
}


def called(made: Callable[[], object]) -> int:
    """How many functions are called while something is made."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        made()
    finally:
        sys.setprofile(None)
    return calls


def refused(made: Callable[[], object], code: str = "SP507") -> int:
    """How many functions are called until something is refused."""

    def refuse() -> None:
        with pytest.raises(SpaceError) as failed:
            made()
        assert [d.code for d in failed.value.diagnostics] == [code]

    return called(refuse)


@pytest.mark.parametrize("name", AHEAD)
def test_what_is_asked_for_together_is_counted_before_it_is_made(name: str) -> None:
    load(Source("<warm>", space("for i in 0..1 { x = relu(x) } output x")))
    calls = refused(lambda: load(Source("<ahead>", space(f"{AHEAD[name]} output x"))))
    assert calls < 100_000  # many millions where it is made first


def loading(body: str) -> Callable[[], Graph]:
    return lambda: loads(space(f"{body}\noutput x"))


def test_candidates_are_compared_by_sets() -> None:
    many = ", ".join(map(str, range(1, 2_001)))
    loading("choose a in {1, 2} within {1, 2, 3}")()
    assert called(loading("choose a in 1..2000 within 1..2000")) < 200_000  # else two millions
    assert refused(loading(f"choose a in {{{many}, 2000}}"), "SP503") < 200_000
    assert refused(loading("choose a in 1..2000 within 1..1999"), "SP501") < 200_000


def numbered(many: int) -> dict[str, Choice]:
    return {f"a[{i}]": Choice(f"a[{i}]", "dim", (Fraction(1), Fraction(2))) for i in range(many)}


def test_a_sum_of_many_matches_is_refused_while_it_is_short() -> None:
    calls = refused(lambda: fold("sum", [*numbered(2_000).values()], NOWHERE))
    assert calls < 3_000_000  # twenty millions where it is made first


def test_every_match_of_a_limit_is_limited_or_none() -> None:
    many = numbered(MAX_MATCHES + 1)
    refused(lambda: [*budget(Source("<where>", "a[i] <= 1"), many)])
    few = numbered(500)
    assert len([*budget(Source("<where>", "a[i] <= 1"), few)]) == len(few)


def test_what_is_perhaps_never_read_is_not_counted_ahead() -> None:
    text = "let ok = true or len([[[a for a in 0..400] for b in 0..400] for c in 0..400]) > 3"
    load(Source("<either>", space(f"{text} output x")))
