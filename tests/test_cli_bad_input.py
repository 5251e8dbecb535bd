"""Whatever is wrong with what a user gives, a command ends in a message and its exit code."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spacelang.cli import errors
from spacelang.cli.main import commands
from spacelang.diagnostics import SpaceError, error
from spacelang.files import Locked
from spacelang.journal import JournalError
from spacelang.manifest import unverified

TINY = "autoformer.space:autoformer_t"
SPACE = """
space small(classes = 10) {
  input x: [B, 12]
  choose width in {8, 16}
  y = choose op { a: linear(x, width) as one  b: linear(x, width) as two }
  output linear(y, classes) as head
  weights { _: entangle }
}
"""


def run(*words: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(commands, [str(word) for word in words], input=stdin)


def refused(*words: object, code: int = 2, stdin: str | bytes | None = None) -> str:
    """The stderr of a command that must fail with a code; also as JSON, where it says the same."""
    plain = run(*words, stdin=stdin)
    assert plain.exit_code == code, plain.output
    assert plain.stderr
    assert "Traceback" not in plain.output
    assert "a defect of spacelang" not in plain.stderr
    told = run(*words, "--json", stdin=stdin)
    assert told.exit_code == code
    if told.stderr:  # `check` and `fmt` put what they found into their document
        record = json.loads(told.stderr)
        assert record["exit"] == code
        assert record["error"]
        for found in record["diagnostics"]:
            assert {"code", "severity", "headline", "file", "line", "help"} <= found.keys()
    else:
        json.loads(told.stdout)
    return plain.stderr


@pytest.fixture
def small(tmp_path: Path) -> str:
    (tmp_path / "small.space").write_text(SPACE)
    return f"{tmp_path}/small.space"


# Words that are no command, option or argument.


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["chek"], "did you mean check?"),
        (["\x1b[31m"], "there is no command"),
        (["check"], "Missing argument"),
        (["info"], "Missing argument"),
        (["info", TINY, "extra"], "unexpected extra argument"),
        (["info", TINY, "--nothing"], "--nothing"),
        (["sample", TINY, "-n", "0"], "0 is not in the range"),
        (["sample", TINY, "-n", "1000001"], "not in the range"),
        (["sample", TINY, "-n", "two"], "'two' is not a valid integer"),
        (["sample", TINY, "--seed", "-1"], "-1 is not in the range"),
        (["sample", TINY, "--law", "uniform"], "'uniform' is not one of"),
        (["show", TINY, "--as", "png"], "'png' is not one of"),
        (["explain", "SP999"], "there is no code 'SP999'"),
        (["explain", "../SP101"], "there is no code"),
        (["explain", ""], "there is no code ''"),
        (["new", "for"], "'for' is no name"),
        (["new", "a b"], "'a b' is no name"),
        (["new", "1st"], "'1st' is no name"),
        (["new", "x" * 65], "is no name"),
        (["new", "attention"], "attention means something"),
        (["new", "mine", "--like", "autofromer"], "did you mean autoformer?"),
        (["new", "mine", "--like", "../spaces/deit"], "no shipped space"),
        (["new", ""], "is no name"),
        (["new", "vit"], "vit means something"),
        (["new", "linear", "--like", "swin"], "linear means something"),
        (["new", "mine", "--like", "swin.space:swin_t"], "--like swin"),
        (["check", ""], "the address of a space is empty"),
        (["fmt", "graph.spaceir"], "IR text"),
        (
            ["train", TINY, "-o", "out", "--data", "mnist5k", "--backend", "foo"],
            "installed: fused, torch",
        ),
        (["compile", TINY], "Missing option '-o'"),
        (["compile", TINY, "-o", "out", "--backend", "torhc"], "did you mean torch?"),
    ],
)
def test_wrong_words(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in refused(*words)
    assert list(tmp_path.iterdir()) == [], "nothing was written"


# Addresses and files.


@pytest.mark.parametrize(
    "address",
    [
        "",
        " ",
        "nothing.space",
        "nothing.space:name",
        ".",
        "/",
        "/dev/null",
        "/dev/zero",
        "autoformer.space:nobody",
        "autoformer.space:attention",
        "autoformer.space:autoformer",
        "autoformer.space:autoformer_t:autoformer_t",
        "autoformer.space:../autoformer_t",
        "../../etc/passwd",
        "a\x00b.space",
        "x" * 5000 + ".space",
        "x" * 300 + "/a.space",
        "\x1b[2J\x07.space",
        "new\nline.space",
        "\u202egnp.space",
        "\udc80.space",
    ],
)
@pytest.mark.parametrize(
    "command", ["info", "count", "show", "sample", "cost", "search", "extract"]
)
def test_hostile_addresses(command: str, address: str) -> None:
    told = refused(command, address)
    assert not any(sign in told for sign in ("\x1b", "\x07", "\x00", "\u202e"))


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    fifo, link = tmp_path / "fifo.space", tmp_path / "loop.space"
    os.mkfifo(fifo)
    link.symlink_to(link)
    assert "is a folder, no file" in refused("check", tmp_path)
    assert "is no regular file" in refused("check", fifo)
    assert "did you mean loop.space?" not in refused("check", link)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".y", "locked.y"])
def test_what_cannot_be_looked_for_is_not_there(name: str, tmp_path: Path) -> None:
    file, locked = tmp_path / "mine.space", tmp_path / "locked"
    file.write_text(f"use {name}\n")
    locked.mkdir(mode=0)
    assert "mine.space:1:1" in (told := refused("check", file))
    assert "error[SP201]: no file" in told


def test_shipped_combinations_have_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for address in ("combinations/cream_kernels.space", "spaces/combinations/cream_kernels.space"):
        assert run("count", address).exit_code == 0
    refused("count", "combinations/../../pyproject.space")
    assert run("new", "mine", "--like", "combinations/cream_kernels").exit_code == 0
    assert run("check", "mine.space").exit_code == 0


@pytest.mark.parametrize(
    "name", ["with space.space", "ümläut-字.space", "new\nline.space", "-x.space"]
)
def test_names_that_are_unusual_but_legal(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(SPACE)
    assert json.loads(run("info", "--json", tmp_path / name).stdout)["size"] == "4"
    assert run("check", tmp_path / name).exit_code == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"space",
        b"\x00" * 100,
        "\ufeffspace a { }".encode(),
        b"(" * 100_000,
        b"# " + b"x" * (1 << 20),
        b"use autoformer",
        b"space a = a()",
        b"subnet s of s { }",
        b"use small",
    ],
)
def test_files_that_are_no_spaces(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "small.space"
    file.write_bytes(content)
    refused("info", file)
    result = run("check", file)
    assert result.exit_code in (0, 2), "without a space there is nothing wrong"
    assert file.read_bytes() == content
    if b"\xff" in content or len(content) > 1 << 20:
        refused("fmt", file)


def test_folders_and_pipes_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.space")
    for command in (["check"], ["fmt"], ["info"]):
        assert "SP104" in refused(*command, tmp_path / "pipe.space")
    for command in (["check"], ["fmt"]):
        assert "SP104" in refused(*command, tmp_path)


def test_stdin_of_fmt_is_bounded() -> None:
    assert "SP102" in refused("fmt", "-", stdin="#" * ((1 << 20) + 1))
    assert "SP104" in refused("fmt", "-", stdin=b"\xff")


# --set.


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("classes", "is not NAME=VALUE"),
        ("=3", "is not NAME=VALUE"),
        ("1=3", "is not NAME=VALUE"),
        ("a.b=3", "is not NAME=VALUE"),
        ("clases=3", "has no parameter clases"),
        ("classes=", "SP101"),
        ("classes=three", "a word stands in quotes"),
        ("classes='3'", "SP101"),
        ("classes=1e400", "SP103"),
        ("classes=99999999999999999999", "SP103"),
        ("classes=2.5", "SP302"),
        ('classes="ten"', "SP209"),
        ("classes=true", "SP209"),
        ("classes=none", "SP209"),
        ("classes=min(1, 2)", "a setting is a literal"),
        ("classes=1 + 1", "a setting is a literal"),
        ("classes={1, 2..}", "SP101"),
        ("classes=1..3 by 0", "SP103"),
        ("classes={1..100000000}", "SP507"),
        ("classes=" + "(" * 500, "SP102"),
    ],
)
def test_wrong_settings(setting: str, says: str, small: str) -> None:
    assert says in refused("info", small, "--set", setting)


def test_a_parameter_is_set_once(small: str) -> None:
    told = refused("info", small, "--set", "classes=3", "--set", "classes=4")
    assert "classes is set twice" in told


# --arch.


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "SP509"),
        (b"null", "SP509"),
        (b"[]", "SP509"),
        (b"3", "SP509"),
        (b"{", "SP509"),
        (b"\xff", "SP509"),
        (b"[" * 100_000, "SP509"),
        (b'{"width": 8, "width": 16, "op": "a"}', "SP509"),
        (b'{"width": NaN}', "SP509"),
        (b'{"width": Infinity}', "SP509"),
        (b'{"width": ' + b"9" * 5000 + b"}", "SP509"),
        (b" " * ((1 << 20) + 1), "SP509"),
        (b"{}", "SP506"),
        (b'{"width": 8}', "SP506"),
        (b'{"width": 8, "op": "a", "deep": 3}', "SP504"),
        (b'{"widht": 8, "op": "a"}', "did you mean width?"),
        (b'{"width": 9, "op": "a"}', "SP501"),
        (b'{"width": "8", "op": "a"}', "SP501"),
        (b'{"width": true, "op": "a"}', "SP501"),
        (b'{"width": null, "op": "a"}', "SP501"),
        (b'{"width": [8], "op": "a"}', "SP501"),
        (b'{"width": {"a": 8}, "op": "a"}', "SP501"),
        (b'{"width": 1e999, "op": "a"}', "SP501"),
        (b'{"width": 8, "op": "c"}', "SP501"),
        (b'{"width": 8, "op": ""}', "SP501"),
        (b'{"width": 8, "op": 0}', "SP501"),
        (b'{"width": 8, "op": "\\u001b[2J"}', "SP501"),
    ],
)
def test_wrong_assignments(content: bytes, code: str, small: str, tmp_path: Path) -> None:
    file = tmp_path / "arch.json"
    file.write_bytes(content)
    told = refused("cost", small, "--arch", file)
    assert code in told
    assert "\x1b" not in told
    assert code in refused("cost", small, "--arch", "-", stdin=content)


@pytest.mark.parametrize("name", ["nothing.json", ".", "/dev/zero", "a\x00b", ""])
def test_assignments_that_are_no_files(name: str, small: str) -> None:
    assert "SP509" in refused("cost", small, "--arch", name)


# --where.


@pytest.mark.parametrize(
    ("budget", "code"),
    [
        ("params", "SP209"),
        ("params <", "SP101"),
        ("params in", "SP101"),
        ("parms <= 5", "SP201"),
        ("params <= 5 macs", "SP101"),
        ("params * width <= 5M", "SP508"),
        ("params <= 5 or macs <= 5", "SP508"),
        ("params != 5", "SP508"),
        ("params + macs <= 5", "SP508"),
        ("params <= 1/0", "SP"),
        ("params <= 1e999", "SP103"),
        ("width <= 'a'", "SP101"),
        ('width <= "a"', "SP209"),
        ("f(params)", "SP"),
        ("\x1b[2J", "SP101"),
        ("(" * 1000, "SP102"),
    ],
)
@pytest.mark.parametrize("command", ["count", "sample"])
def test_wrong_budgets(command: str, budget: str, code: str, small: str) -> None:
    told = refused(command, small, "--where", budget)
    assert code in told
    assert "\x1b" not in told


def test_an_empty_budget_says_what_can_be_reached(small: str) -> None:
    told = refused("sample", small, "--where", "params in 1..2")
    assert "SP502" in told
    assert "params reaches 194 to 378" in told
    assert run("count", small, "--where", "params in 1..2").stdout == "0\n"


# --after and --passes.


@pytest.mark.parametrize(
    "passes", ["nothing", "nothing{a=1}", "{", "}", "entangle{", "a,,b", "\x1b"]
)
def test_wrong_passes(passes: str, small: str, tmp_path: Path) -> None:
    for words in (["info", small, "--after", passes], ["compile", small, "--passes", passes]):
        end = ["-o", str(tmp_path / "out")] if words[0] == "compile" else []
        assert "\x1b" not in refused(*words, *end)
    assert not (tmp_path / "out").exists()


# Random texts.


TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('{}[]().,=<>"0 1a'))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["width", "op"]), inner),
)


@settings(max_examples=60)
@given(text=TEXTS)
@example(text="²")  # a digit that is no number
@pytest.mark.parametrize("option", ["--set", "--where", "--after"])
def test_any_text_is_an_answer_or_a_diagnostic(
    option: str, text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.space"
    file.write_text(SPACE)
    for words in ([option, text], [option, f"classes={text}"]):
        command = "count" if option != "--after" else "info"
        result = run(command, str(file), *words)
        assert result.exit_code in (0, 2), result.output
        assert not result.stderr or not set(result.stderr) & set("\x00\x07\x1b\u202e")


@settings(max_examples=60)
@given(content=st.binary() | TEXTS.map(str.encode) | VALUES.map(json.dumps).map(str.encode))
def test_any_assignment_is_an_answer_or_a_diagnostic(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.space"
    file.write_text(SPACE)
    result = run("cost", str(file), "--arch", "-", stdin=content)
    assert result.exit_code in (0, 2), result.output


# Failures of the surroundings, one row a kind.


def fails(monkeypatch: pytest.MonkeyPatch, failure: BaseException) -> Callable[..., Result]:
    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    def broken(as_json: bool) -> None:
        raise failure

    monkeypatch.setattr(type(commands), "get_command", lambda *_: broken)
    return run


@pytest.mark.parametrize(
    ("failure", "code", "says"),
    [
        (OSError(errno.ENOSPC, "No space left", "run/a"), 3, "No space left: 'run/a'"),
        (PermissionError(errno.EACCES, "Not allowed", "x\x1b"), 3, "Not allowed: 'x\\x1b'"),
        (OSError("odd"), 3, "odd"),
        (OSError(), 3, "OSError"),
        (MemoryError(), 3, "not enough memory"),
        (ModuleNotFoundError("No module named 'onnx'", name="onnx"), 3, "No module named 'onnx'"),
        (Locked(Path("run"), 42, "node7"), 4, "in use by process 42 on node7: 'run'"),
        (JournalError(Path("log.jsonl"), (3,)), 5, "damaged at line 3"),
        (unverified("the hash differs", "a note"), 5, "= a note"),
        (SpaceError(error("SP701", "no engine fits")), 2, "error[SP701]: no engine fits"),
        (ZeroDivisionError("by zero"), 1, "a defect of spacelang: ZeroDivisionError: by zero"),
        (RecursionError("deep"), 1, "a defect of spacelang"),
    ],
)  # fmt: skip
def test_each_failure_has_its_exit_code(
    failure: BaseException, code: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(errors.TRACEBACK, raising=False)
    result = fails(monkeypatch, failure)("info")
    assert result.exit_code == code
    assert says in result.stderr
    assert "\x1b" not in result.stderr
    record = json.loads(fails(monkeypatch, failure)("info", "--json").stderr.splitlines()[-1])
    assert record["exit"] == code


def test_a_defect_shows_where_it_is_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(errors.TRACEBACK, "1")
    result = fails(monkeypatch, ZeroDivisionError())("info")
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), errors.Terminated()])
def test_an_interrupt_says_nothing(failure: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    result = fails(monkeypatch, failure)("info")
    assert result.exit_code == (143 if isinstance(failure, errors.Terminated) else 130)
    assert result.output == ""


def test_a_folder_that_cannot_be_written_is_exit_3(small: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    refused("show", small, "-o", file / "x.svg", code=3)
    refused("show", small, "-o", tmp_path, code=3)
    refused("compile", small, "-o", file, code=3)
    refused("compile", small, "-o", file / "deep", code=3)
    refused("new", file / "mine", code=3)
    assert file.read_text() == "kept"


def test_odd_surroundings_change_nothing(tmp_path: Path) -> None:
    """Python -O, warnings as errors, no locale, a narrow terminal, no home."""
    (tmp_path / "small.space").write_text(SPACE)
    root = str(Path(__file__).parents[1])
    words = ["-m", "spacelang", "info", "small.space"]
    plain = {"PATH": os.environ["PATH"], "PYTHONPATH": root}

    def told(*flags: str, **environment: str) -> bytes:
        done = subprocess.run(
            [sys.executable, *flags, *words],
            cwd=tmp_path, env={**plain, **environment}, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == b""
        return done.stdout

    first = told()
    assert b"378" in first
    assert told("-O", "-W", "error") == first
    assert (
        told(LC_ALL="C", PYTHONHASHSEED="7", COLUMNS="20", NO_COLOR="1", HOME="/nowhere") == first
    )
    ascii_only = told(PYTHONIOENCODING="ascii")
    assert b"378" in ascii_only


# What is given on the command line is shown where it went.


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("cost", "deit.space:deit_ti", "--set", "classes=0"), "--set classes=0"),
        (("info", TINY, "--set", "classes=-3"), "--set classes=-3"),
        (("check", TINY, "--set", "classes=-3"), "--set classes=-3"),
        (("cost", "swin.space:swin_t", "--set", "image=100"), "--set image=100"),
        (("cost", "deit.space:deit_ti", "--set", "heads={1, 5}"), "--set heads={1, 5}"),
    ],
)
def test_an_error_shows_the_parameter_that_was_set(words: tuple[str, ...], told: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    shown = next(line for line in result.stderr.splitlines() if told in line)
    assert re.search(rf"-+ {re.escape(told)}$", shown)


@pytest.mark.parametrize("key", ["c", '"c"'])
def test_a_budget_on_an_unknown_path_lists_the_candidates(key: str) -> None:
    told = refused("count", "cream.space:cream", "--where", f"blocks[1][0].op == {key}")
    assert "c is no candidate of blocks[1][0].op" in told
    assert "k3e4, k3e6, k5e4, k5e6, k7e4, k7e6" in told
    told = refused("count", "cream.space:cream", "--where", f"blocks[1][0].op in {{k3e4, {key}}}")
    assert "SP501" in told


@pytest.mark.parametrize(
    ("where", "hint"),
    [
        ("parms in 1..2", "did you mean params?"),
        ("param <= 5M", "did you mean params?"),
        ("macz < 1G", "did you mean macs?"),
        ("dept >= 13", "did you mean depth?"),
        ("encoder[0].head == 3", "did you mean encoder[0].heads?"),
    ],
)
def test_a_misspelt_budget_is_told_the_name(where: str, hint: str) -> None:
    assert hint in refused("count", TINY, "--where", where)


@pytest.mark.parametrize(
    ("where", "asked"),
    [
        ("params in 1..2", "asked for 1 to 2"),
        ("params <= 2", "asked for at most 2"),
        ("params >= 1G", "asked for at least 1,000,000,000"),
        ("params in 10..20", "asked for 10 to 20"),
    ],
)
def test_an_empty_budget_says_what_was_asked_for(where: str, asked: str) -> None:
    told = refused("sample", TINY, "--where", where)
    assert f"params reaches 4,922,536 to 10,517,272; {asked}" in told


# Found by trying every command with odd input.


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("autofromer.space:autoformer_t", "did you mean autoformer.space?"),
        ("autoformer", "did you mean autoformer.space?"),
        ("./deit.spac", "did you mean deit.space?"),
    ],
)
def test_a_misspelt_file_is_told_the_name(address: str, hint: str) -> None:
    assert hint in refused("cost", address)


def test_one_decision_is_not_several(tmp_path: Path) -> None:
    file = tmp_path / "one.space"
    file.write_text(
        SPACE.replace(
            "y = choose op { a: linear(x, width) as one  b: linear(x, width) as two }",
            "y = linear(x, width) as one",
        )
    )
    assert "1 decision is not taken: width" in refused("cost", file)


@pytest.mark.parametrize("words", [("quickstart",), ("export", "deit.space:deit_ti")])
@pytest.mark.parametrize("formats", ["pdf", "pt2,onx", ",", ""])
def test_formats_are_read_before_any_work(
    words: tuple[str, ...], formats: str, tmp_path: Path
) -> None:
    assert "SP604" in refused(*words, "-o", tmp_path / "out", "--format", formats)
    assert not (tmp_path / "out").exists()


def test_quickstart_on_a_space_without_images(tmp_path: Path) -> None:
    file = tmp_path / "vector.space"
    file.write_text(SPACE)
    told = refused("quickstart", file, "-o", tmp_path / "run")
    assert "does not take images [B, C, H, W]" in told


def test_an_unknown_backend_lists_those_there_are(tmp_path: Path) -> None:
    assert "there are" in refused("compile", TINY, "-o", tmp_path / "a", "--backend", "xyz")


@pytest.mark.parametrize(
    "words", [("info", TINY), ("explain",), ("cost", "deit.space:deit_ti", "--per-op")]
)
def test_tables_into_a_pipe_that_closes(words: tuple[str, ...], root: Path) -> None:
    """Nobody reads the table: the end of the pipe, and no defect."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "spacelang", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        told = process.stderr.read()
    assert process.returncode == 141
    assert told == b""


def test_a_count_of_nothing_says_what_can_be_reached() -> None:
    words = ("count", "quickstart.space", "--where", "params < 5")
    told, found = run(*words), run(*words, "--json")
    assert told.exit_code == found.exit_code == 0
    assert "params reaches 21,180 to 331,342; asked for at most 4" in told.stderr
    assert found.stderr == ""
    document = json.loads(found.stdout)
    assert document["size"] == "0"
    assert "params reaches 21,180 to 331,342; asked for at most 4" in document["notes"]


@pytest.mark.parametrize("command", ["compile", "export", "extract", "quickstart"])
def test_what_one_process_does_is_refused_to_several(
    command: str, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert f"{command} runs in one process" in refused(command, small, "-o", tmp_path / "made")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["info", "PROGRAM", "--after", "simplify"], "of one network of a program"),
        (["info", "PROGRAM", "--median"], "of one network of a program"),
        (["show", "PROGRAM", "--after", "simplify"], "of one network of a program"),
        (["check", "PROGRAM", "--set", "classes=3"], "digits_cycles has no parameter classes"),
        (["compile", TINY, "-o", "OUT", "--for", "inference", "--runtime", "onnxruntime",
          "--require-fused"], "--runtime onnxruntime has not"),
    ],
)  # fmt: skip
def test_an_option_that_would_do_nothing_is_refused(
    words: list[str], says: str, tmp_path: Path
) -> None:
    names = {"PROGRAM": "small_cells.space:digits_cycles", "OUT": tmp_path / "out"}
    assert says in refused(*[names.get(word, word) for word in words])
    assert not (tmp_path / "out").exists()


def test_a_program_as_json_has_no_form() -> None:
    words = ("show", "small_cells.space:digits_cycles", "--json")
    assert run(*words).exit_code == 0
    result = run(*words, "--as", "text")
    assert result.exit_code == 2
    assert "leave --as out" in json.loads(result.stderr)["error"]
