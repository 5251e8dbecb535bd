"""Files under kill -9, failing disks and rival writers."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from unreliable import Unreliable, calls_of, full, install, killed_at

from spacelang import files
from spacelang.files import Lock, Locked, atomic_folder, atomic_write, sha256, sweep
from spacelang.journal import Journal, JournalError, format_journal, read_journal

ROOT = Path(__file__).resolve().parent.parent


def leftovers(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if ".tmp-" in name or ".old-" in name)


# --- atomic_write


def test_write_text_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    atomic_write(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n"
    atomic_write(str(path), b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert sha256(path) == hashlib.sha256(b"\x00\xff").hexdigest()
    assert os.listdir(tmp_path) == ["a"]


def test_write_keeps_mode_and_follows_links(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    atomic_write(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_new_file_obeys_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            atomic_write(path, "x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no/where"):
        atomic_write(tmp_path / "no/where", "x")


def test_every_failing_call_of_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    calls = calls_of(lambda: atomic_write(path, "old"))
    assert calls >= 6  # open, fchmod, write, fsync, replace, open and fsync of the folder
    for k in range(1, calls + 1):
        atomic_write(path, "old")
        with monkeypatch.context() as patch:
            install(patch, Unreliable(k, full))
            with pytest.raises(OSError, match="No space") as caught:
                atomic_write(path, "new")
        assert caught.value.errno == errno.ENOSPC
        assert str(tmp_path) in str(caught.value)
        # After the rename only the sync of the folder can fail: the new content is then in place.
        assert path.read_text() == ("old" if k <= calls - 2 else "new")
        assert leftovers(tmp_path) == []


def test_every_kill_of_a_write(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    calls = calls_of(lambda: atomic_write(path, "old"))
    for k in range(1, calls + 1):
        killed_at(k, lambda: atomic_write(path, "new"))
        assert path.read_text() in ("old", "new")
        sweep(tmp_path)
        assert os.listdir(tmp_path) == ["a"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    atomic_write(tmp_path / "a", "0123456789" * 10)
    assert (tmp_path / "a").read_text() == "0123456789" * 10


def test_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    install(monkeypatch, Unreliable(3, interrupt))
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "a", "x")
    assert os.listdir(tmp_path) == []


# --- atomic_folder


def fill(path: Path, text: str) -> None:
    with atomic_folder(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "b").write_text(text)
        (folder / "a").write_text(text)


def test_folder_appears_whole_and_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out"
    fill(path, "1")
    assert (path / "sub" / "b").read_text() == "1"
    marker = (path / files.MARKER).read_bytes()
    assert json.loads(marker) == ["a", "sub/b"]
    (path / "sub" / "__pycache__").mkdir()
    (path / "sub" / "__pycache__" / "b.pyc").write_text("")
    fill(path, "2")
    assert (path / "a").read_text() == "2"
    assert (path / files.MARKER).read_bytes() == marker
    assert os.listdir(path.parent) == ["out"]


def test_folder_stays_when_the_block_raises(tmp_path: Path) -> None:
    def half() -> None:
        with atomic_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("half")
            raise ZeroDivisionError

    fill(tmp_path / "out", "1")
    with pytest.raises(ZeroDivisionError):
        half()
    assert (tmp_path / "out" / "a").read_text() == "1"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("foreign", ["notes.txt", "sub/notes.txt", "empty/"])
def test_folder_with_foreign_content_is_refused(tmp_path: Path, foreign: str) -> None:
    fill(tmp_path / "out", "1")
    path = tmp_path / "out" / foreign
    path.mkdir() if foreign.endswith("/") else path.write_text("mine")
    with pytest.raises(FileExistsError, match=foreign.rstrip("/")):
        fill(tmp_path / "out", "2")
    assert path.exists()
    assert (tmp_path / "out" / "a").read_text() == "1"


def test_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fill(out, "1")  # an empty one is taken
    for marker in ("", "[", "{}", "[" * 100_000, '["a"]'):
        (out / files.MARKER).write_text(marker)
        with pytest.raises(FileExistsError):
            fill(out, "2")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="not a folder"):
        fill(tmp_path / "file", "2")


def test_foreign_content_that_comes_late_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def overtaken() -> None:
        with atomic_folder(out) as folder:
            (folder / "a").write_text("new")
            out.mkdir()
            (out / "late").write_text("mine")

    with pytest.raises(FileExistsError, match="late"):
        overtaken()
    assert os.listdir(out) == ["late"]
    assert os.listdir(tmp_path) == ["out"]


def test_every_failing_call_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    fill(out, "old")
    calls = calls_of(lambda: fill(out, "old"))
    assert calls >= 14
    for k in range(1, calls + 1):
        fill(out, "old")
        with monkeypatch.context() as patch:
            install(patch, Unreliable(k, full))
            with pytest.raises(OSError, match="No space"):
                fill(out, "new")
        found = {(out / "a").read_text(), (out / "sub" / "b").read_text()}
        assert found == ({"old"} if k <= calls - 2 else {"new"})
        assert os.listdir(tmp_path) == ["out"]


def test_every_kill_of_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, "old")
    calls = calls_of(lambda: fill(out, "old"))
    absent = 0
    for k in range(1, calls + 1):
        fill(out, "old")
        killed_at(k, lambda: fill(out, "new"))
        absent += not out.exists()
        sweep(tmp_path)
        found = {(out / "a").read_text(), (out / "sub" / "b").read_text()}
        assert found in ({"old"}, {"new"})
        assert os.listdir(tmp_path) == ["out"]
    assert absent == 1  # between the two renames; restored by the sweep


# --- sweep


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_sweep_takes_only_what_dead_processes_left(tmp_path: Path) -> None:
    dead, alive = dead_pid(), os.getpid()
    for name in (f".a.tmp-{dead}", f".a.b.tmp-{dead}", f".a.tmp-{alive}", ".a.tmp-", "a.tmp-1"):
        (tmp_path / name).write_text("")
    (tmp_path / f".d.tmp-{dead}").mkdir()
    (tmp_path / f".d.tmp-{dead}" / "x").write_text("")
    swept = sweep(tmp_path)
    assert sorted(path.name for path in swept) == sorted(
        [f".a.tmp-{dead}", f".a.b.tmp-{dead}", f".d.tmp-{dead}"]
    )
    assert sorted(os.listdir(tmp_path)) == sorted([f".a.tmp-{alive}", ".a.tmp-", "a.tmp-1"])


def test_sweep_of_an_old_folder_whose_place_is_taken(tmp_path: Path) -> None:
    fill(tmp_path / "out", "new")
    (tmp_path / f".out.old-{dead_pid()}").mkdir()
    assert len(sweep(tmp_path, "other")) == 0
    assert len(sweep(tmp_path, "out")) == 1
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out" / "a").read_text() == "new"


# --- journal


def test_journal_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    entries = [{"n": i, "text": "é\n\u2028", "value": 0.1 * i, "none": None} for i in range(5)]
    with Journal(path) as log:
        assert log.entries == ()
        for entry in entries[:3]:
            log.append(entry)
    with Journal(path) as log:
        assert log.entries == tuple(entries[:3])
        for entry in entries[3:]:
            log.append(entry)
    content = read_journal(path)
    assert content.entries == tuple(entries)
    assert (content.torn, content.damaged) == (False, ())
    assert path.read_bytes() == format_journal(tuple(entries))
    for line in path.read_text("utf-8").split("\n")[:-1]:
        assert set(json.loads(line)) == {"check", "previous", "entry"}


def test_missing_journal_is_empty(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "none").entries == ()
    assert not (tmp_path / "none").exists()


def test_journal_cut_anywhere_loses_only_the_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    entries = tuple({"n": i} for i in range(3))
    whole = format_journal(entries)
    ends = [len(format_journal(entries[:i])) for i in range(4)]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        complete = sum(end <= length for end in ends) - 1
        with Journal(path) as log:
            assert log.entries == entries[:complete]
            assert log.torn == (length not in ends)
            log.append({"n": "after"})
        assert read_journal(path).entries == (*entries[:complete], {"n": "after"})


def test_journal_sees_every_flipped_bit(tmp_path: Path) -> None:
    path = tmp_path / "log"
    entries = tuple({"n": i, "loss": 0.25} for i in range(4))
    whole = format_journal(entries)
    third = len(format_journal(entries[:3]))
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        if bit // 8 < third - 1:
            with pytest.raises(JournalError, match="damaged at line"):
                read_journal(path)
            with pytest.raises(JournalError):
                Journal(path)
            assert path.read_bytes() == flipped
        else:  # in the last line, or the newline before it, which then runs into it
            content = read_journal(path)
            assert content.torn
            assert content.entries in (entries[:3], entries[:2])
        saved = read_journal(path, salvage=True)
        assert set(map(str, saved.entries)) < set(map(str, entries))
        assert len(saved.entries) >= 2


def test_journal_sees_lost_and_swapped_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = format_journal(tuple({"n": i} for i in range(4))).splitlines(keepends=True)
    for order in ((0, 2, 3), (1, 0, 2, 3), (0, 1, 1, 2, 3), (1, 2, 3)):
        path.write_bytes(b"".join(lines[i] for i in order))
        with pytest.raises(JournalError):
            read_journal(path)
        assert len(read_journal(path, salvage=True).entries) == len(order)


def test_valid_checks_around_what_is_no_object(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for payload in (b"[]", b"3", b"{", b"[" * 100_000, b"\xff"):
        check = hashlib.blake2b(b"0" * 32 + payload, digest_size=16).hexdigest().encode()
        line = b'{"check":"%s","previous":"%s","entry":%s}\n' % (check, b"0" * 32, payload)
        path.write_bytes(line + format_journal(({"n": 0},)))
        with pytest.raises(JournalError):
            read_journal(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}])
def test_what_json_cannot_hold_changes_nothing(tmp_path: Path, value: object) -> None:
    with Journal(tmp_path / "log") as log:
        with pytest.raises((ValueError, TypeError)):
            log.append({"n": value})
        log.append({"n": 1})
    assert read_journal(tmp_path / "log").entries == ({"n": 1},)


def test_every_failing_call_of_an_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    kept = 0
    with Journal(path) as log:
        calls = calls_of(lambda: log.append({"n": "first"}))
        for sticky in (False, True):
            for k in range(1, calls + 1):
                with monkeypatch.context() as patch:
                    install(patch, Unreliable(k, full, sticky))
                    with pytest.raises(OSError, match="cannot append"):
                        log.append({"n": "lost"})
                log.append({"n": kept})
                kept += 1
    assert calls == 2
    assert read_journal(path).entries == ({"n": "first"}, *({"n": i} for i in range(kept)))


def test_partial_write_then_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    real = os.write
    with Journal(path) as log:
        log.append({"n": 0})
        with monkeypatch.context() as patch:

            def write(descriptor: int, data: memoryview) -> int:
                if len(data) > 50:
                    return real(descriptor, data[:50])
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(os, "write", write)
            with pytest.raises(OSError, match="No space"):
                log.append({"n": 1, "text": "long" * 30})
        assert read_journal(path) == read_journal(path, salvage=True)
        log.append({"n": 2})
    assert read_journal(path).entries == ({"n": 0}, {"n": 2})


# --- lock


def test_lock_excludes_and_frees(tmp_path: Path) -> None:
    with Lock(tmp_path) as held, pytest.raises(Locked) as caught:
        Lock(tmp_path).acquire()
    assert (caught.value.pid, caught.value.host) == (os.getpid(), socket.gethostname())
    assert str(os.getpid()) in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    with held, pytest.raises(RuntimeError, match="already held"):
        held.acquire()
    held.release()
    Lock(tmp_path).acquire()


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"pid": "x"}', "\xff"])
def test_locked_by_somebody_unknown(tmp_path: Path, text: str) -> None:
    with Lock(tmp_path) as held:
        held.path.write_text(text, "latin-1")
        with pytest.raises(Locked, match="another process"):
            Lock(tmp_path).acquire()


def test_lock_in_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Lock(tmp_path / "none").acquire()


def test_one_winner_of_a_race_and_free_after_kill(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom spacelang.files import Lock, Locked\n"
        "sys.stdin.readline()\n"
        "try:\n    Lock(sys.argv[1]).acquire(); print('won', flush=True); time.sleep(60)\n"
        "except Locked as error:\n    print('lost to', error.pid, flush=True)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(4)]
    try:
        for racer in racers:
            racer.stdin.write("go\n")
            racer.stdin.flush()
        answers = [racer.stdout.readline().split() for racer in racers]
        (winner,) = [
            racer for racer, answer in zip(racers, answers, strict=True) if "won" in answer
        ]
        with pytest.raises(Locked) as caught:
            Lock(tmp_path).acquire()
        assert caught.value.pid == winner.pid
        winner.kill()
        winner.wait()
        Lock(tmp_path).acquire()
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


# --- kill -9 at random times, of a process that really works

WORKER = """
import sys
from pathlib import Path
from spacelang.files import Lock, atomic_folder, atomic_write, sweep
from spacelang.journal import Journal
run = Path(sys.argv[1])
with Lock(run), Journal(run / "log") as log:
    sweep(run)
    step = log.entries[-1]["step"] + 1 if log.entries else 0
    while True:
        atomic_write(run / "state", f"{step}\\n" * 20_000)
        with atomic_folder(run / "out") as out:
            (out / "a").write_text(str(step))
            (out / "b").write_text(str(step))
        log.append({"step": step})
        print(step, flush=True)
        step += 1
"""


def test_kill_loop(tmp_path: Path) -> None:
    chance = random.Random(0)
    finished = -1
    for _ in range(20):
        command = [sys.executable, "-c", WORKER, str(tmp_path)]
        worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert worker.stdout is not None
        said = [worker.stdout.readline()]  # it works now
        time.sleep(chance.uniform(0, 0.02))
        worker.kill()
        said += worker.communicate()[0].splitlines()
        finished = max(finished, *(int(line) for line in said if line.strip()))
        logged = [entry["step"] for entry in read_journal(tmp_path / "log").entries]
        assert logged == list(range(len(logged)))  # nothing twice, nothing lost
        assert len(logged) >= finished + 1
        state = set((tmp_path / "state").read_text().split())
        assert len(state) == 1
        assert int(state.pop()) in (logged[-1], logged[-1] + 1)
        sweep(tmp_path)
        out = {(tmp_path / "out" / name).read_text() for name in "ab"}
        assert len(out) == 1
        assert sorted(os.listdir(tmp_path)) == [".lock", "log", "out", "state"]
    assert finished >= 19  # each has ended a step before it was killed
