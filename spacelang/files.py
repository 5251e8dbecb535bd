"""Files that survive a crash: written aside, synced, then renamed.

    atomic_write(path, text)                      # the old content or the new, never a mixture
    with atomic_folder(path) as folder: ...       # a whole folder appears at once
    with Lock(run_folder): sweep(run_folder)      # one writer a run folder

Temporary names are `.<name>.tmp-<pid>` beside their target, so that a rename never crosses a
file system and `sweep` can tell which process left one behind. Every failure is an OSError that
names the path. Append-only logs are in `spacelang.journal`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, cast

PathLike = str | os.PathLike[str]

MARKER = ".spacelang-files"  # in a folder we wrote: the list of what we wrote there
LOCK_NAME = ".lock"
_LEFT_BEHIND = re.compile(r"\.(?P<name>.+)\.(?P<kind>tmp|old)-(?P<pid>[0-9]{1,10})")
_COMPILED = "__pycache__"  # Python adds it to a folder of sources that somebody imported
_FUNCTION = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_][A-Za-z0-9_]*)")


class Locked(OSError):
    """Another process writes to this folder; `pid` and `host` name it (0 and "" where unknown)."""

    def __init__(self, path: Path, pid: int, host: str) -> None:
        who = f"process {pid} on {host}" if pid else "another process"
        super().__init__(errno.EWOULDBLOCK, f"in use by {who}", str(path))
        self.path, self.pid, self.host = path, pid, host


def sha256(path: PathLike) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def function_of(text: str) -> tuple[str, str] | None:
    """The file and the function of `FILE.py:FUNCTION`; None for any other text."""
    found = _FUNCTION.fullmatch(text)
    return None if found is None else (found["path"], found["name"])


def atomic_write(path: PathLike, data: bytes | str) -> None:
    """Make `path` hold exactly `data` (text as UTF-8); on any failure it keeps what it held.

    When this returns, the content and its name are on disk. A symbolic link is followed, the mode
    of an existing file is kept, and what is not a regular file is refused with an OSError.
    """
    target = Path(os.path.realpath(path))
    content = data.encode() if isinstance(data, str) else data
    mode = _mode_to_keep(target)
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    try:
        _write_new(temporary, content, mode)
        os.replace(temporary, target)
    except OSError as error:
        _discard(temporary)
        raise explained(error, f"cannot write {len(content):,} bytes", target) from error
    except BaseException:
        _discard(temporary)
        raise
    sync_folder(target.parent)


@contextmanager
def atomic_folder(path: PathLike) -> Generator[Path]:
    """Yield an empty folder to fill; when the block ends well it becomes `path`, synced to disk.

    If the block raises, `path` stays as it was. A folder already at `path` is replaced only when
    it is empty or was written by this function and holds nothing else since; otherwise
    FileExistsError names the first foreign file. A process killed between the two renames of a
    replacement leaves the old folder aside; the next `sweep` or `atomic_folder` restores it.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent, target.name)
    check_replaceable(target)
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    _discard(temporary)
    temporary.mkdir()
    try:
        yield temporary
        _write_new(temporary / MARKER, _listing(temporary).encode(), None)
        _sync_tree(temporary)
        check_replaceable(target)  # the block may have taken hours
        _swap(temporary, target)
    except BaseException:
        _discard(temporary)
        raise
    sync_folder(target.parent)


def check_replaceable(path: PathLike) -> None:
    """FileExistsError unless `path` is free, an empty folder, or as `atomic_folder` left it."""
    target = Path(os.path.realpath(path))
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise FileExistsError(errno.EEXIST, "exists and is not a folder", str(target))
    present = set(_files(target))
    foreign = sorted(present - _ours(target))
    if foreign:
        message = f"the folder holds something else ({foreign[0]!r}), not replaced"
        raise FileExistsError(errno.EEXIST, message, str(target))


def sweep(folder: PathLike, name: str | None = None) -> tuple[Path, ...]:
    """Remove what dead processes left in `folder` (only for target `name`, if given); say what.

    A folder moved aside by an unfinished replacement is moved back when its place is empty. Call
    it where no other machine writes to the folder: a process is looked for on this one.
    """
    swept: list[Path] = []
    for entry in sorted(Path(folder).iterdir()):
        match = _LEFT_BEHIND.fullmatch(entry.name)
        if match is None or (name is not None and match["name"] != name):
            continue
        if _alive(int(match["pid"])):
            continue
        place = entry.with_name(match["name"])
        if match["kind"] == "old" and not os.path.lexists(place):
            os.rename(entry, place)
            sync_folder(place.parent)
        else:
            _discard(entry)
        swept.append(entry)
    return tuple(swept)


def remove_folder(path: PathLike) -> None:
    """Remove a folder, if it is there, at once: its name goes first, and with it all that it holds.

    What a process that is killed leaves aside is for `sweep`.
    """
    target = Path(path)
    aside = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    _discard(aside)
    try:
        os.rename(target, aside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise explained(error, "cannot remove", target) from error
    sync_folder(target.parent)
    _discard(aside)


class Lock:
    """The right to write to a folder, held until `release` or the end of the process.

    An advisory flock on `<folder>/.lock`: the kernel frees it however the process dies, so there
    are no stale locks. Readers need none. A second holder gets `Locked` at once.
    """

    def __init__(self, folder: PathLike) -> None:
        self.path = Path(folder) / LOCK_NAME
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock; `Locked` where another process, or another Lock of this one, holds it."""
        if self._descriptor is not None:
            raise RuntimeError(f"{self.path}: this Lock is already held")
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = json.dumps({"pid": os.getpid(), "host": os.uname().nodename})
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode(), 0)
        except BlockingIOError:
            pid, host = _holder(descriptor)
            os.close(descriptor)
            raise Locked(self.path.parent, pid, host) from None
        except OSError as error:
            os.close(descriptor)
            raise explained(error, "cannot lock", self.path) from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; nothing happens where it is not held. The file stays."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with suppress(OSError):  # the name in the file is only for messages
                os.ftruncate(descriptor, 0)
            os.close(descriptor)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte: the kernel may take fewer than asked."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk, so that a finished rename survives a power cut."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
            raise explained(error, "cannot sync the folder", folder) from error


def explained(error: OSError, action: str, path: Path) -> OSError:
    """The same error, telling what failed and where: descriptors have no name."""
    return OSError(error.errno, f"{action}: {error.strerror or error}", str(path))


def _mode_to_keep(target: Path) -> int | None:
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):  # a rename onto /dev/null would remove the device
        raise OSError(errno.EINVAL, "not a regular file", str(target))
    return stat.S_IMODE(mode)


def _write_new(path: Path, content: bytes, mode: int | None) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
        if mode is not None:
            os.fchmod(descriptor, mode)
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(path: Path) -> None:
    """Remove a temporary file or folder as far as possible; a later `sweep` gets the rest."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            os.unlink(path)


def _swap(temporary: Path, target: Path) -> None:
    """Put `temporary` in the place of `target`; a folder in the way is back there on failure."""
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    replaced = os.path.lexists(target)
    if replaced:
        os.rename(target, old)
    try:
        os.rename(temporary, target)
    except OSError:
        if replaced:
            os.rename(old, target)
        raise
    _discard(old)


def _files(folder: Path) -> list[str]:
    """What a folder holds below itself, as sorted relative paths; empty folders end in a slash."""
    found: list[str] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != _COMPILED]
        relative = Path(place).relative_to(folder)
        found += [(relative / name).as_posix() for name in names]
        if not folders and not names and place != str(folder):
            found.append(relative.as_posix() + "/")
    return sorted(found)


def _listing(folder: Path) -> str:
    return json.dumps([name for name in _files(folder) if name != MARKER], indent=0) + "\n"


def _ours(target: Path) -> set[str]:
    try:
        listed: object = json.loads((target / MARKER).read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return set()
    if not isinstance(listed, list):
        return set()
    return {MARKER, *(name for name in cast(list[object], listed) if isinstance(name, str))}


def _sync_tree(folder: Path) -> None:
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                _sync_file(path)
        sync_folder(Path(place))


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise explained(error, "cannot sync", path) from error
    finally:
        os.close(descriptor)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no such number, so not our file
        return True
    return True


def _holder(descriptor: int) -> tuple[int, str]:
    """Who wrote its name into a lock file; (0, "") in the instant before it has."""
    try:
        record: object = json.loads(os.pread(descriptor, 4096, 0))
    except (OSError, ValueError, RecursionError):
        return 0, ""
    if not isinstance(record, dict):
        return 0, ""
    fields = cast(dict[str, object], record)
    pid, host = fields.get("pid"), fields.get("host")
    return (pid if isinstance(pid, int) else 0), (host if isinstance(host, str) else "")
