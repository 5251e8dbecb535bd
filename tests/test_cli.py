"""The command line as a whole: help, manual, files before anything runs, and the process."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import click
import pytest
from command import SPACE, TINY, data, good, run

import spacelang
from spacelang.cli.main import COMMANDS, SECTIONS, commands
from spacelang.cli.output import working
from spacelang.diagnostics import CODES


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.space"
    file.write_text(SPACE)
    return file


# The group.


def test_help_names_every_command_once() -> None:
    text = good("--help")
    for name, (_, line) in COMMANDS.items():
        assert len(re.findall(rf"^  {name} +{re.escape(line)}$", text, re.MULTILINE)) == 1
    assert all(f"{section}:" in text for section in SECTIONS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_json(name: str) -> None:
    text = good(name, "--help")
    assert "--help" in text
    command = commands.get_command(click.Context(commands), name)
    assert command is not None
    inner = list(command.commands) if isinstance(command, click.Group) else []
    texts = [good(name, word, "--help") for word in inner] or [text]
    assert all(("--json" in t) == (name != "lsp") for t in texts)  # that one speaks with editors
    assert command.name == name
    assert command.get_short_help_str(200) == COMMANDS[name][1]
    assert COMMANDS[name][1].endswith(".")


def test_version_is_printed() -> None:
    assert good("--version") == f"spacelang {spacelang.__version__}\n"


def test_help_loads_no_command(fresh_python: Callable[..., str]) -> None:
    program = """
import sys
from spacelang.cli.main import commands
try:
    commands(["--help"])
except SystemExit:
    pass
print("MODULES", *sorted(m for m in sys.modules if m.startswith("spacelang.")))
"""
    loaded = fresh_python("-c", program).splitlines()[-1].split()[1:]
    allowed = {"cli", "cli.main", "cli.errors", "cli.output", "diagnostics", "files", "journal"}
    assert {name.removeprefix("spacelang.") for name in loaded} <= {*allowed, "render"}


# check, fmt, explain.


def test_check_proves_every_space_of_a_file(small: Path) -> None:
    text = good("check", small, "autoformer.space")
    assert f"{small}: ok" in text
    assert re.search(r"autoformer_t +30 decisions", text)
    assert re.search(r"autoformer +open: widths, depths, head_counts, ratios, stored", text)
    found = data("check", small)
    assert found["errors"] == found["warnings"] == 0
    assert found["files"] == [
        {
            "file": str(small),
            "spaces": [{"name": "small", "decisions": 4}, {"name": "least", "decisions": 0}],
            "open": [],
            "diagnostics": [],
        }
    ]


def test_check_of_an_address_looks_at_one_space() -> None:
    (file,) = data("check", TINY)["files"]
    assert file["spaces"] == [{"name": "autoformer_t", "decisions": 30}]


def test_check_takes_settings(small: Path) -> None:
    assert run("check", f"{small}:small", "--set", "classes=2.5").exit_code == 2
    assert good("check", f"{small}:small", "--set", "classes=3")


def test_check_reports_all_errors_of_all_files(tmp_path: Path) -> None:
    first, second = tmp_path / "a.space", tmp_path / "b.space"
    first.write_text(SPACE.replace("linear(width) as down", "linear(width + 1) as down"))
    second.write_text(SPACE.replace("layers[0].ratio = 1", "layers[0].ratio = 7"))
    result = run("check", first, second)
    assert result.exit_code == 2
    assert "error[SP304]" in result.stderr
    assert "error[SP501]" in result.stderr
    assert "width + 1" in result.stderr
    result = run("check", first, second, "--json")
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert found["errors"] == 2
    codes = [[d["code"] for d in file["diagnostics"]] for file in found["files"]]
    assert codes == [["SP304"], ["SP501"]]
    place = found["files"][1]["diagnostics"][0]
    assert (place["file"], place["severity"]) == (str(second), "error")
    assert second.read_text().splitlines()[place["line"] - 1].startswith("subnet least")


def test_a_subnet_is_checked_against_its_space_whichever_way(small: Path) -> None:
    """Beside its space only its decisions are read, alone all of it: the verdict is the same."""
    small.write_text(SPACE.replace("depth = 1", "depth = 3"))
    for address in (f"{small}", f"{small}:least"):
        result = run("check", address, "--json")
        assert result.exit_code == 2
        (file,) = json.loads(result.stdout)["files"]
        assert [d["code"] for d in file["diagnostics"]] == ["SP501"]


def test_fmt_writes_the_canonical_form_once(small: Path) -> None:
    ugly = SPACE.replace("  choose width in widths", "choose   width in widths # kept")
    small.write_text(ugly)
    small.chmod(0o640)
    assert run("fmt", "--check", small).exit_code == 5
    assert small.read_text() == ugly, "--check changes nothing"
    assert good("fmt", small) == f"changed {small}\n"
    once = small.read_text()
    assert "  choose width in widths  # kept\n" in once
    assert small.stat().st_mode & 0o777 == 0o640
    assert data("fmt", small) == {
        "files": [{"file": str(small), "changed": False}],
        "diagnostics": [],
    }
    assert small.read_text() == once
    assert good("fmt", "--check", small) == ""


def test_fmt_of_stdin_goes_to_stdout(small: Path) -> None:
    assert good("fmt", "-", stdin="let   a=1") == "let a = 1\n"
    assert run("fmt", "--check", "-", stdin="let   a=1").exit_code == 5
    (row,) = data("fmt", "-", stdin="let   a=1")["files"]
    assert row == {"file": "-", "changed": True, "text": "let a = 1\n"}


def test_fmt_leaves_a_broken_file_alone_and_does_the_others(small: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.space"
    broken.write_text("space {")
    before = small.read_text()
    result = run("fmt", broken, small)
    assert result.exit_code == 2
    assert "error[SP101]" in result.stderr
    assert broken.read_text() == "space {"
    assert small.read_text() != before


def test_fmt_rewrites_line_ends(small: Path) -> None:
    good("fmt", small)
    plain = small.read_bytes()
    small.write_bytes(plain.replace(b"\n", b"\r\n"))
    assert run("fmt", "--check", small).exit_code == 5
    good("fmt", small)
    assert small.read_bytes() == plain


@pytest.mark.parametrize("code", CODES)
def test_explain_has_a_page_for_every_code(code: str) -> None:
    assert good("explain", code).startswith(f"# {code}")
    assert data("explain", code.lower())["headline"] == CODES[code]


def test_explain_lists_the_codes() -> None:
    assert [row["code"] for row in data("explain")["codes"]] == list(CODES)
    assert all(code in good("explain") for code in CODES)


# selftest.


def test_selftest_computes_the_published_figures() -> None:
    found = data("selftest")
    assert found["ok"]
    assert len(found["checks"]) >= 8
    assert all(check["found"] == check["wanted"] for check in found["checks"])
    assert found["versions"]["spacelang"] == spacelang.__version__
    assert "all as published" in good("selftest")


def test_selftest_fails_where_a_figure_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from spacelang.cli import selftest

    monkeypatch.setattr(selftest, "GOLDEN", {"two": (lambda: 2, 2), "three": (lambda: 2, 3)})
    result = run("selftest")
    assert result.exit_code == 5
    assert "WRONG" in result.stdout
    assert "NOT as published" in result.stdout
    assert [c["ok"] for c in json.loads(run("selftest", "--json").stdout)["checks"]] == [
        True,
        False,
    ]


# The manual.


MANUAL = Path(__file__).parents[1] / "docs" / "cli.md"
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_examples_of_the_manual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `$ spacelang ..` prints what stands below it; `..` is anything, `# exit N` the code."""
    monkeypatch.chdir(tmp_path)
    steps = re.split(
        r"^\$ spacelang ", "".join(CONSOLE.findall(MANUAL.read_text())), flags=re.MULTILINE
    )
    assert len(steps) > 12
    for step in steps[1:]:
        line, _, wanted = step.partition("\n")
        code = re.search(r"# exit (\d+)$", line)
        result = run(*shlex.split(line, comments=True))
        assert result.exit_code == int(code[1] if code else 0), (line, result.output)
        told = result.stdout + result.stderr
        parts = [re.escape(part) for part in re.split(r"^\.\.\n", wanted, flags=re.MULTILINE)]
        assert re.fullmatch("(?s:.*)".join(parts), told), (line, told)


def test_the_manual_names_every_command_and_code() -> None:
    text = MANUAL.read_text()
    assert re.findall(r"^### (\w+)", text, re.MULTILINE) == list(COMMANDS)
    assert re.findall(r"^## (.*)", text, re.MULTILINE)[1:] == list(SECTIONS)
    for name in COMMANDS:
        options = re.findall(r"^  (?:-\w, )?(--[a-z-]+)", good(name, "--help"), re.MULTILINE)
        section = re.search(rf"^### {name}\b(.*?)(?=^##)", text + "\n##", re.MULTILINE | re.DOTALL)
        assert section, name
        assert name in ("train", "distill", "search", "extract", "export", "quickstart") or all(
            option in text for option in options if option not in ("--help", "--output")
        ), f"an option of {name} is not described"


@pytest.mark.parametrize(
    "words",
    [
        ("info", TINY, "--median"),
        ("info", "cdarts.space:cifar10_cycles"),
        ("count", TINY),
        ("sample", TINY),
        ("cost", "deit.space:deit_ti", "--per-op"),
        ("genotype", "-"),
        ("show", "small_cells.space:digits_cycles"),
        ("bench", "--list"),
        ("check", "deit.space"),
        ("explain", "SP304"),
    ],
)
def test_the_manual_names_every_key(words: tuple[str, ...]) -> None:
    """Of what a command prints with --json, and of the rows in it; paths are no keys."""
    text = MANUAL.read_text()
    section = re.search(rf"^### {words[0]}\b(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    if words[1:] == ("cdarts.space:cifar10_cycles",):  # with those of `show`
        section = re.search(r"^### show\b(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL)
        assert section is not None
    cells = good("sample", "cdarts.space:cifar10")
    stdin = cells if words[0] == "genotype" else None
    found = data(*words, stdin=stdin)
    rows = [row for rows in found.values() if isinstance(rows, list) for row in rows[:1]]
    keys = {key for part in (found, *rows) for key in (part if isinstance(part, dict) else ())}
    paths = {key for key in keys if key in found.get("assignments", [{}])[0]}
    assert {key for key in keys - paths if f"`{key}`" not in section[1]} == set()


# A process of its own.


def process(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command as a user starts it."""
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), **options.pop("env", {})}
    command = [sys.executable, "-m", "spacelang", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


def test_exit_codes_of_a_process(tmp_path: Path) -> None:
    done = process("check", "autoformer.space", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    done = process("check", "nothing.space", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error[SP104]")
    assert process("sampl").returncode == 2
    done = process("show", TINY, "-o", tmp_path / "no" / "folder" / "x.svg", cwd=tmp_path)
    assert done.returncode == 3
    assert "No such file or directory" in done.stderr


def test_colours_are_for_terminals_only(tmp_path: Path) -> None:
    broken = tmp_path / "broken.space"
    broken.write_text("space {")
    assert "\x1b" not in process("check", broken).stderr

    assert "\x1b[1;31merror" in on_terminal("check", broken)[1]
    assert "\x1b" not in on_terminal("check", broken, NO_COLOR="1")[1]


def on_terminal(*words: object, **environment: str) -> tuple[str, str]:
    """The stdout of a command, and what its stderr shows where that is a terminal."""
    import pty

    master, slave = pty.openpty()
    root = str(Path(__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": root, "TERM": "xterm", **environment}
    command = [sys.executable, "-m", "spacelang", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=slave, env=env, check=False)
    os.close(slave)
    found = b""
    try:
        while part := os.read(master, 4096):
            found += part
    except OSError:  # the other end is closed
        pass
    os.close(master)
    return done.stdout.decode(), found.decode()


def test_long_work_has_a_bar_on_terminals_only(tmp_path: Path) -> None:
    good("compile", TINY, "-o", tmp_path / "build")
    for what, *words in (("counting", "count", TINY), ("verifying", "doctor", tmp_path / "build")):
        answer, shown = on_terminal(*words)
        assert what in shown
        assert answer == good(*words), "the bar is on stderr alone"


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    root = Path(__file__).parents[1]
    command = (
        f"{sys.executable} -m spacelang sample {TINY} -n 2000 | head -n 1; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=root)
    assert done.returncode == 141
    assert done.stderr == ""
    assert json.loads(done.stdout)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_exit_3() -> None:
    root = Path(__file__).parents[1]
    command = f"{sys.executable} -m spacelang info {TINY} > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=root)
    assert done.returncode == 3
    assert done.stderr == "error: No space left on device\n"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
)
def test_signals_end_a_command_with_their_code(number: int, code: int) -> None:
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "spacelang", "fmt", "-"]  # waits for its input
    with subprocess.Popen(
        command,
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=_signals_as_in_a_terminal,
    ) as child:
        _wait_until_it_reads(child.pid)
        child.send_signal(number)
        _, stderr = child.communicate(timeout=20)
    assert child.returncode == code
    assert stderr == b""


def _signals_as_in_a_terminal() -> None:
    """A test run in the background of a shell ignores SIGINT, and its children would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait_until_it_reads(pid: int) -> None:
    """Until the process sleeps in a read of its standard input."""
    for _ in range(200):
        time.sleep(0.05)
        words = Path(f"/proc/{pid}/syscall").read_text().split()
        if words[:2] == ["0", "0x0"]:
            return
    pytest.fail("the command did not come to read its input")


def test_a_bar_counts_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    with working("computing") as done:
        done()
    assert capsys.readouterr() == ("", "")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with working("computing", 3) as done:
        for _ in range(3):
            done()
    assert "computing" in screen.getvalue()
    assert "3/3" in screen.getvalue()
