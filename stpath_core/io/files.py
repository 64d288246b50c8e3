"""Atomic writes: a path holds the old content or the new one, never half of either; and folders for one process."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from stpath_core.errors import InputError

IN_USE = ".in-use"  # the file whose lock says that a process works in its folder
_ASIDE = ".writing-"  # how the folders begin in which something is written aside
_OLD = 3600  # seconds without a change, after which such a folder is looked at: may its process be gone?
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE, for renameat2
_swept: set[Path] = set()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Write a file aside, in the same folder, and move it to `path` only when the block ends without an error.

    The yielded name keeps the suffixes of `path`, because many writers choose the format by suffix.

    Examples
    --------
    >>> with atomic_path("table.csv") as aside:    # doctest: +SKIP
    ...     frame.to_csv(aside)
    """
    path = Path(path)
    with _written_aside(path) as folder:
        aside = folder / path.name
        yield aside
        _sync(aside)
        aside.replace(path)
        _sync(path.parent)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Fill a folder aside and move it to `path` only when the block ends without an error.

    An existing folder is replaced as a whole, on Linux in one step; elsewhere in two renames, and it is put back if the
    second fails. Of processes that do so at once the last one wins.
    """
    path = Path(path)
    with _written_aside(path) as holder:
        aside = holder / path.name
        aside.mkdir()
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                _sync(file)
        while not _take_the_place(path, aside, Path(tempfile.mkdtemp(dir=holder)) / "old"):
            pass
        _sync(path.parent)


@contextmanager
def _written_aside(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, locked while the block runs and gone after it. Those that killed processes have
    left there go, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    folder = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=path.parent))
    try:  # a full disk may not even hold the file that is locked (of a folder network disks know no locks)
        handle = os.open(folder / IN_USE, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle)
            yield folder
        finally:
            os.close(handle)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Once in a process and folder: remove what was written aside by processes that are gone. It has no lock, has not
    changed for an hour, and is not the only copy of something (two renames, in `_take_the_place`)."""
    if parent in _swept:
        return
    _swept.add(parent)
    for left in parent.glob(f"{_ASIDE}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime < _OLD or any(left.glob("tmp*/old")):
                continue
            handle = os.open(left / IN_USE, os.O_RDWR)
            try:
                if _lock(handle):
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(handle)


def _take_the_place(path: Path, aside: Path, old: Path) -> bool:
    """Swap the two, or move `path` away to `old`, and `aside` to `path`; False where another process has put its own
    there meanwhile."""
    if _swapped(aside, path):
        return True
    with suppress(FileNotFoundError):
        path.replace(old)
    try:
        aside.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        if old.exists():
            old.replace(path)
        raise
    with suppress(FileNotFoundError):
        old.replace(old.with_name("replaced"))  # no longer the only copy
    return True


def _swapped(one: Path, other: Path) -> bool:
    """Whether the two names have changed places in one step (renameat2 of Linux); nothing has happened where not."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    return rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


@contextmanager
def only_one(folder: str | Path) -> Iterator[int]:
    """A block in which no other process works in `folder`, where the disk has locks; the folder is made if need be.

    Raises InputError at once while another one does, and has then touched nothing. The system takes the lock of a
    process that ends, however it ends. A folder that was made for the block and is empty after it is removed. Yields
    the handle that is locked: a child that inherits it holds the folder, too, as long as it lives.
    """
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    handle = _locked(folder / IN_USE)
    try:
        os.truncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield handle
    finally:
        (folder / IN_USE).unlink(missing_ok=True)
        os.close(handle)
        with suppress(OSError):  # it holds what the block wrote
            for path in made:
                path.rmdir()


def _locked(path: Path) -> int:
    """A handle of the file, opened and locked; InputError where another process has it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # removed by one that ended just now
            continue
        try:
            _lock(handle)
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except FileNotFoundError:
            pass
        except BlockingIOError as error:
            who = os.pread(handle, 20, 0).decode(errors="replace")
            os.close(handle)
            msg = f"another process {f'({who}) ' if who.isdecimal() else ''}works in {path.parent}, and two would mix "
            raise InputError(msg + "what they write: wait until it ends, or give another folder") from error
        os.close(handle)


def held(handle: IO, path: Path) -> bool:
    """Lock an open file until it is closed or the process ends; False where another holds it, or has moved it away.

    True, too, where the platform or the disk knows no locks.
    """
    try:
        _lock(handle.fileno())
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _lock(handle: int) -> bool:
    """Lock an open file, or raise BlockingIOError; False where the platform or the disk has no such locks."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk (folders cannot be opened on every platform: skipped there)."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except (IsADirectoryError, PermissionError):
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
