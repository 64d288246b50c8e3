"""Atomic writes: a path holds the old content or the new one, never half of either; and folders for one process."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from stpath_core.errors import InputError

LOCK = ".in-use"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # of disks that know none


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
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=path.parent))
    try:
        aside = folder / path.name
        yield aside
        _sync(aside)
        aside.replace(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Fill a folder aside and move it to `path` only when the block ends without an error.

    An existing folder is replaced as a whole; it is put back if the last step fails. Of processes that do so at once
    the last one wins.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=".writing-", dir=path.parent))
    aside = holder / path.name
    try:
        aside.mkdir()
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                _sync(file)
        while not _take_the_place(path, aside, Path(tempfile.mkdtemp(dir=holder)) / "old"):
            pass
        _sync(path.parent)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


@contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """A block in which no other call that asks for this folder works in it: InputError, at once, where one does.

    The folder is made. What says that it is in use goes at the end; a process that is killed leaves an empty hidden
    file that stops nobody.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    with path.open("ab") as handle:
        if not held(handle, path):
            message = f"another process is writing into {folder}: wait until it ends, or give another folder"
            raise InputError(message)
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


def held(handle: IO, path: Path) -> bool:
    """Lock an open file until it is closed or the process ends; False where another holds it, or has moved it away.

    True, too, where the platform or the disk knows no locks.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())  # not moved away while we waited
    except OSError as error:
        return error.errno in NO_LOCKS


def _take_the_place(path: Path, aside: Path, old: Path) -> bool:
    """Move `path` away to `old`, and `aside` to `path`; False where another process has put its own there meanwhile."""
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
