"""Atomic writes: a path holds the old content or the new one, never half of either."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
