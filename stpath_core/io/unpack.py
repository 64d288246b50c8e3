"""Unpack a zip or tar that someone else made: nothing outside the folder, no links, no bombs, all of it or nothing."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from stpath_core.errors import DownloadError
from stpath_core.io.files import atomic_folder

MAX_RATIO = 100  # bytes out per byte in; PanNuke's sparse masks, stored as float64, come near 20
FREE_BYTES = 50 * 2**20  # what any archive may unpack to, however small it is
MAX_FILES = 200_000
BLOCK = 2**20
OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
BROKEN = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, ValueError)


def unpack(
    archive: str | Path,
    folder: str | Path,
    *,
    max_ratio: float = MAX_RATIO,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> dict[str, dict[str, Any]]:
    """Unpack `archive` (zip, tar, tar.gz, tar.bz2, tar.xz) to `folder`, replacing it as a whole.

    A single folder that holds everything in the archive is left out of the paths. Files lose their modes and owners:
    nothing unpacked can be run. Refused, with nothing written: absolute paths, `..`, links and devices, names that
    collide, encryption, and more than `max_ratio` bytes out for each byte in.

    Returns, for each file by its path in `folder`, its `bytes` and `sha256`.
    """
    archive, folder = Path(archive), Path(folder)
    limit = int(max(FREE_BYTES, max_ratio * archive.stat().st_size))
    members = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    written: dict[str, dict[str, Any]] = {}
    try:
        with atomic_folder(folder) as aside:
            names: set[str] = set()

            def each() -> Iterator[str]:
                for name, source in members(archive, limit, folder):
                    path = _safe(name, archive, names)
                    written[str(path)] = _write(source, aside / path)
                    yield str(path)

            for _ in progress(each()):
                pass
            if not written:
                message = f"{archive.name} holds no files"
                raise DownloadError(message)
            top = _lift(aside, written)
    except BROKEN as error:
        message = f"{archive.name} cannot be unpacked ({error}): it is no zip or tar, or is damaged"
        raise DownloadError(message) from error
    except (FileExistsError, NotADirectoryError) as error:
        message = f"{archive.name} has a file where it also has a folder; nothing was unpacked"
        raise DownloadError(message) from error
    return {name.removeprefix(top): entry for name, entry in written.items()}


def _zip_members(archive: Path, limit: int, folder: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Name and open file of each member. The declared sizes are looked at first; zipfile reads no more than those."""
    with zipfile.ZipFile(archive) as bundle:
        infos = [info for info in bundle.infolist() if not info.is_dir()]
        _refuse_amount(archive, len(infos), sum(info.file_size for info in infos), limit, folder)
        for info in infos:
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                _refuse(archive, info.filename, "is a link or a device")
            if info.flag_bits & 1:
                _refuse(archive, info.filename, "is encrypted; unpack it by hand with the password of its authors")
            try:
                source = bundle.open(info)
            except NotImplementedError:
                _refuse(archive, info.filename, f"uses compression method {info.compress_type}, unknown to Python")
            with source:
                yield info.filename, source


def _tar_members(archive: Path, limit: int, folder: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Name and open file of each member, in one pass over a stream that ends the reading when `limit` bytes are out."""
    with archive.open("rb") as raw:
        head = raw.read(6)
        raw.seek(0)
        opener = next((o for magic, o in OPENERS.items() if head.startswith(magic)), None)
        plain = opener(raw) if opener else raw
        bounded = _Bounded(plain, limit + 2**20 * (opener is not None), archive.name)
        with tarfile.open(fileobj=bounded, mode="r|") as bundle:  # type: ignore[call-overload]
            count = total = 0
            for member in bundle:
                if member.isdir():
                    _safe(member.name, archive, set())
                    continue
                if not member.isreg() or member.issparse():
                    _refuse(archive, member.name, "is a link, a device or a sparse file")
                count, total = count + 1, total + member.size
                _refuse_amount(archive, count, total, limit, folder, left=member.size)
                yield member.name, bundle.extractfile(member)  # type: ignore[misc]


class _Bounded:
    """A stream that refuses to give more than `limit` bytes, headers and padding included."""

    def __init__(self, source: Any, limit: int, name: str) -> None:
        self.source, self.limit, self.name, self.given = source, limit, name, 0

    def read(self, size: int) -> bytes:
        block = self.source.read(size)
        self.given += len(block)
        if self.given > self.limit:
            message = f"{self.name} unpacks to more than {self.limit / 1e6:.0f} MB: refused as a decompression bomb"
            raise DownloadError(message)
        return block


def _refuse_amount(archive: Path, count: int, total: int, limit: int, folder: Path, left: int | None = None) -> None:
    if count > MAX_FILES:
        message = f"{archive.name} holds more than {MAX_FILES} files; nothing was unpacked"
        raise DownloadError(message)
    if total > limit:
        times = total / max(1, archive.stat().st_size)
        message = f"{archive.name} says it unpacks to {times:.0f} times its size: refused as a decompression bomb"
        raise DownloadError(message)
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if (total if left is None else left) > free:
        message = f"{archive.name} needs {total / 1e9:.1f} GB, {free / 1e9:.1f} are free in {there}: pass --to DIR"
        raise DownloadError(message)


def _safe(name: str, archive: Path, names: set[str]) -> PurePosixPath:
    """The path of a member inside the folder. Adds it to `names`, in which it must be new whatever its case."""
    path = PurePosixPath(name)
    if not name.strip() or "\0" in name or "\\" in name or path.is_absolute() or re.match(r"[A-Za-z]:", name):
        _refuse(archive, name, "has a path that is absolute or of another system")
    if ".." in path.parts:
        _refuse(archive, name, "points out of the folder")
    if str(path).casefold() in names:
        _refuse(archive, name, "is there twice")
    names.add(str(path).casefold())
    return path


def _refuse(archive: Path, name: str, why: str) -> None:
    message = f"{archive.name}: {name!r} {why}; nothing was unpacked"
    raise DownloadError(message)


def _write(source: BinaryIO, path: Path) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as out:
        while block := source.read(BLOCK):
            out.write(block)
            digest.update(block)
            size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _lift(aside: Path, written: Iterable[str]) -> str:
    """Move the content of a single top folder one level up; returns what to cut off the paths, or nothing."""
    tops = {PurePosixPath(name).parts[0] for name in written}
    top = tops.pop()
    if tops or not (aside / top).is_dir():
        return ""
    holder = aside / top
    lifted = holder.rename(aside / f".{top}.lifted")
    for child in list(lifted.iterdir()):
        child.rename(aside / child.name)
    lifted.rmdir()
    return f"{top}/"
