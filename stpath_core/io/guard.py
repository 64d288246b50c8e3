"""What is looked at in a stranger's file before a library below opens it, and the one error that its failures become.

Compiled readers trust what a file says of itself: a few bytes can declare terabytes, indices that point outside a
matrix end the process, and a codec can be a pickle. These checks read the declarations alone, and are cheap beside the
reading; but the indices of sparse matrices are read twice, and an HDF5 file is searched for its heaps of strings.
"""

from __future__ import annotations

import errno
import functools
import gzip
import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar

import numpy as np

from stpath_core.errors import InputError, StpathError

FREE_BYTES = 256 * 2**20  # what any file may unpack to, however small it is
MAX_RATIO = 1000  # bytes out per byte in; deflate reaches 1032
BLOCK = 4_000_000  # indices, or bytes, at a time
_HEAP = b"GCOL\x01"  # how a heap of strings in an HDF5 file begins
_SMALLEST_HEAP = 4096  # bytes
_LENGTH = {2: "H", 4: "I", 8: "Q"}  # bytes of a length there
P, R = ParamSpec("P"), TypeVar("R")


def told(error: BaseException) -> str:
    """What another library's error says, on one line, without control characters, of at most 300 characters."""
    text = " ".join(str(error)[:2000].split()) or type(error).__name__
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 300 else f"{text[:297]}..."


def reads(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator of a reader whose first argument is the path: whatever a damaged file makes the libraries below raise
    becomes one InputError that names the path. The first error stays its cause."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except StpathError:
            raise
        except Exception as error:  # there is no end to what a damaged file can raise
            path = next(iter((*args, *kwargs.values())), "it")
            message = f"{path} cannot be read ({type(error).__name__}: {told(error)}): is it whole, and of this format?"
            raise InputError(message) from error

    return guarded


def refuse_amount(path: Path, declared: int, *, size: int | None = None) -> None:
    """Refuse a file that says it unpacks to `declared` bytes, if that is large and far beyond what it holds."""
    size = path.stat().st_size if size is None else size
    if declared > FREE_BYTES and declared > MAX_RATIO * size:
        message = f"{path} has {size:,} bytes and says that it unpacks to {declared:,}: it is damaged, or a trap"
        raise InputError(message)


def read_text(path: Path) -> str:
    """A text file in UTF-8, packed with gzip or not; one that unpacks far beyond its size is refused half-way."""
    limit = max(FREE_BYTES, MAX_RATIO // 5 * path.stat().st_size)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read(limit + 1)
    refuse_amount(path, len(content) if len(content) <= limit else MAX_RATIO * limit)
    return content.decode("utf-8")


def check_hdf5(path: Path) -> None:
    """Refuse an HDF5 file that leads out of itself, declares what it cannot hold, or has a broken sparse matrix.

    Raises OSError where it is no HDF5 file, as h5py does.
    """
    import h5py

    size = path.stat().st_size

    def look(group: Any, depth: int = 0) -> None:
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink) or depth > 20:
                message = f"{path} links to another file, or to itself, in {group.name}/{name}: damaged, or a trap"
                raise InputError(message)
            if isinstance(link, h5py.SoftLink):
                continue
            item = group[name]
            if isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    message = f"{path} takes {group.name}/{name} from another file: give one that holds its own data"
                    raise InputError(message)
                chunk = int(np.prod(item.chunks, dtype=float)) if item.chunks else 0
                refuse_amount(path, max(int(item.size or 0), chunk) * item.dtype.itemsize, size=size)
            else:
                look(item, depth + 1)
        if {"data", "indices", "indptr"} <= set(group):
            _check_sparse(path, group)

    _check_heaps(path)
    with h5py.File(path, "r") as file:
        look(file)


def _check_heaps(path: Path) -> None:
    """Refuse a heap of strings in which an object has no length, not even that of its header.

    HDF5 keeps strings of any length in global heaps (HDF5 File Format Specification, III.E), object after object.
    libhdf5 goes on to the next by the length that an object declares, and where that is nothing goes on for ever.
    """
    size, walked = path.stat().st_size, 0
    with path.open("rb", buffering=0) as file:
        wide = _size_of_lengths(file, size)
        for start in _heaps(file) if wide in _LENGTH else ():  # libhdf5 knows no other
            file.seek(start + 8)
            length = int.from_bytes(file.read(wide), "little")
            walked += max(length, _SMALLEST_HEAP)  # what was deleted may still lie there, under what came after
            if length > size - start:
                continue  # libhdf5 says so
            if length > FREE_BYTES:
                message = f"{path} holds strings of {length:,} bytes together; more than {FREE_BYTES:,} are not read"
                raise InputError(message)
            file.seek(start)
            if walked > 4 * size or not _ends(file.read(length), wide):
                message = f"{path} is damaged: a heap of its strings does not come to an end; copy it again"
                raise InputError(message)


def _heaps(file: IO[bytes]) -> Iterator[int]:
    """Where in a file heaps of strings begin; what a sparse file has not stored is passed over."""
    start = 0
    while (start := _stored(file, start)) >= 0:
        file.seek(start)
        block = file.read(BLOCK + len(_HEAP) - 1)  # one that begins in this block may end in the next
        at = block.find(_HEAP)
        while at >= 0:
            yield start + at
            at = block.find(_HEAP, at + 1)
        start += BLOCK


def _stored(file: IO[bytes], start: int) -> int:
    """The first byte from `start` on that the disk holds; -1 behind the last one."""
    if start >= file.seek(0, os.SEEK_END):
        return -1
    try:
        return file.seek(start, os.SEEK_DATA)
    except (AttributeError, OSError) as error:  # a system or disk that knows no holes; ENXIO: only a hole follows
        return -1 if getattr(error, "errno", None) == errno.ENXIO else start


def _size_of_lengths(file: IO[bytes], size: int) -> int:
    """Bytes of a length in this HDF5 file, as its superblock says; a block of the user's may lie before that."""
    for start in (0, *(512 * 2**k for k in range(max(1, size // 512).bit_length()))):
        file.seek(start)
        head = file.read(16)
        if len(head) == 16 and head.startswith(b"\x89HDF\r\n\x1a\n"):
            return head[14] if head[8] < 2 else head[10]
    return 0


def _ends(heap: bytes, wide: int) -> bool:
    """Whether a walk from object to object leaves the heap; its own header is as long as one of an object."""
    if bytes(wide) not in heap and b"\xff" * (wide - 1) not in heap:
        return True  # no length is zero, or so large that the next object is the same one
    head = struct.Struct(f"<H6x{_LENGTH[wide]}")  # number, references, reserved bytes, length
    header = at = head.size + -head.size % 8
    while at + header <= len(heap):
        number, length = head.unpack_from(heap, at)
        step = (header + length + -length % 8 if number else length) % 256**wide  # number 0: what is free, with header
        if step < header:
            return False
        at += step
    return True


def _check_sparse(path: Path, group: Any) -> None:
    """The indices of a compressed matrix must lie inside it: compiled code does not look."""
    kind = _word(group.attrs.get("encoding-type", group.attrs.get("h5sparse_format", "csc")))
    shape = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
    shape = np.ravel(group["shape"][...] if shape is None and "shape" in group else shape)
    indptr, indices, n = group["indptr"][...], group["indices"], len(group["data"])
    sound = shape.dtype.kind in "iu" and len(shape) == 2 and indptr.dtype.kind in "iu" and indices.dtype.kind in "iu"
    if sound:
        major, minor = shape if kind.startswith("csr") else shape[::-1]
        sound = len(indptr) == major + 1 and indptr[0] == 0 and indptr[-1] <= n == len(indices)
        sound = sound and bool((np.diff(indptr.astype(np.int64)) >= 0).all())
        for start in range(0, n if sound else 0, BLOCK):
            part = indices[start : start + BLOCK]
            sound = sound and part.min() >= 0 and part.max() < minor
    if not sound:
        message = f"{path} is damaged: the indices of its matrix {group.name} point outside of it; copy it again"
        raise InputError(message)


def _word(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def check_zarr(folder: Path) -> None:
    """Refuse a zarr store that needs a pickle to be read, or declares arrays that it cannot hold."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files)
    for path in files:
        if path.name in ("zarr.json", ".zarray", ".zmetadata"):
            _check_zarr_metadata(path, json.loads(path.read_text(encoding="utf-8")), size)
        elif path.suffix == ".parquet":
            check_parquet(path)


def _check_zarr_metadata(path: Path, told_of: Any, size: int) -> None:
    if isinstance(told_of, dict):
        if "pickle" in (told_of.get("id"), told_of.get("name")):
            message = f"{path} names the codec pickle, which runs code when it is read: refused; write the store anew"
            raise InputError(message)
        for key in ("shape", "chunks", "chunk_shape"):
            numbers = told_of.get(key)
            if isinstance(numbers, list) and all(isinstance(n, int | float) for n in numbers):
                refuse_amount(path, int(min(np.prod(numbers, dtype=float), 2.0**62)), size=size)
    values = told_of.values() if isinstance(told_of, dict) else told_of if isinstance(told_of, list) else ()
    for value in values:
        _check_zarr_metadata(path, value, size)


def check_parquet(path: Path) -> None:
    """Refuse a parquet file whose rows, packed, are far beyond its size."""
    import pyarrow.parquet as pq

    about = pq.read_metadata(path)
    refuse_amount(path, about.num_rows * max(about.num_columns, 1) * 8)


def check_tiff(path: Path, file: Any) -> None:
    """Refuse a TIFF (an open tifffile.TiffFile) whose pages or tiles are far beyond its size."""
    for series in file.series:
        refuse_amount(path, int(np.prod(series.shape, dtype=float)) * max(1, series.dtype.itemsize))
    size = path.stat().st_size
    for page in file.pages[:1]:
        if max(page.databytecounts, default=0) > size:
            message = f"{path} cannot be read: one piece of it is longer than the file; is it complete?"
            raise InputError(message)
        refuse_amount(path, int(np.prod(page.chunks, dtype=float)) * max(1, page.dtype.itemsize if page.dtype else 1))


def check_picture(path: Path, image: Any) -> None:
    """Refuse an opened PIL image that says it has far more pixels than its file can hold."""
    refuse_amount(path, image.width * image.height * 4)
