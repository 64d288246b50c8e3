"""Ways to damage a file: cuts and flipped bits for any, and for each format what someone who means harm would write."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile
from numpy.random import Generator

Damage = Callable[[Path, Generator], None]
DEEP = "[" * 100_000
LONG = "x" * 100_000
WORDS = ["", "nan", "inf", "-1", "1e999", "1.5", "9" * 400, '"', "\0", "\x1b[2J", "<script>alert(1)</script>",
         "../../x", "a\nb", "=1+1", "ä", LONG]  # fmt: skip
VALUES = [None, [], {}, "", -1, 0, 1e308, 10**30, True, [[]], "x", LONG, float("nan"), float("inf"), {"a": {"b": []}}]
YAMLS = [
    "!!python/object/apply:os.system ['touch HACKED']", "!!python/name:os.system", "a: !!python/tuple [1]",
    "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{c}: &{c} [{', '.join(['*' + p] * 9)}]\n" for p, c in
                                           zip("abcdefgh", "bcdefghi", strict=True)) + "steps: *i\n",
    "steps: &x [*x]", "a: &x {b: *x}\nsteps: *x", "{{}}: 1", "? [a]\n: 1", "steps: 2026-01-01", "steps: !!binary aGk=",
    "steps: 1__0", "[" * 5_000, "steps: " + "9" * 10_000, "\ufeffsteps: 1", "steps: 1\n---\nsteps: 2", "steps: .inf",
    "sizes: !!set {1}",
    "<<: *missing", "<<: [1]", "steps: 0o777", "sizes: [" + "1," * 20_000 + "]", "=: 1", "steps: !!float 'x'",
    "steps: !!int 'x'", "steps: !!timestamp 'x'", "steps: !!bool 'x'", "steps: 2026-99-99", "11_nuclei_train: [1]",
]  # fmt: skip


def _bytes(change: Callable[[bytearray, Generator], bytearray | bytes]) -> Damage:
    def damage(path: Path, rng: Generator) -> None:
        path.write_bytes(change(bytearray(path.read_bytes()), rng))

    return damage


def _cut(content: bytearray, rng: Generator) -> bytearray:
    return content[: rng.integers(0, len(content) + 1)]


def _flip(content: bytearray, rng: Generator) -> bytearray:
    for place in rng.integers(0, max(len(content), 1), 2 ** rng.integers(0, 7)) if content else ():
        content[place] ^= 1 << rng.integers(0, 8)
    return content


def _flip_head(content: bytearray, rng: Generator) -> bytearray:
    """In the first and last kilobyte, where formats keep their sizes and offsets."""
    ends = [i for i in range(len(content)) if i < 1024 or i >= len(content) - 1024]
    for _ in range(int(rng.integers(1, 5)) if ends else 0):
        content[rng.choice(ends)] = rng.choice([0, 1, 127, 128, 255, rng.integers(0, 256)])
    return content


def _block(content: bytearray, rng: Generator) -> bytearray:
    start, size = rng.integers(0, len(content) + 1), int(rng.integers(1, 512))
    kind = rng.integers(0, 4)
    put = [bytes(size), b"\xff" * size, rng.bytes(size), bytes(content[:size])][kind]
    return content[:start] + put + content[start + (size if rng.integers(0, 2) else 0) :]


def _number(content: bytearray, rng: Generator) -> bytearray:
    """A number of 4 or 8 bytes somewhere becomes extreme."""
    code = str(rng.choice(["<I", ">I", "<Q", "<i", "<d"]))
    width = struct.calcsize(code)
    if len(content) > width:
        start = int(rng.integers(0, len(content) - width))
        value = {"I": 2**32 - 1, "Q": 2**62, "i": -1, "d": float("nan")}[code[1]]
        content[start : start + width] = struct.pack(code, value)
    return content


def _foreign(content: bytearray, rng: Generator) -> bytes:
    heads = [b"", b"\x89PNG\r\n\x1a\n", b"\x89HDF\r\n\x1a\n", b"PAR1", b"II*\0", b"PK\x03\x04", b"\x1f\x8b\x08",
             b"\x80\x04.", b"{}", b"[]", b"null", b"\xff\xfe", b"<html>", b"\0" * 64]  # fmt: skip
    return heads[rng.integers(0, len(heads))] + rng.bytes(int(rng.integers(0, 200)))


def _json(path: Path, rng: Generator) -> None:
    if rng.random() < 0.1:
        path.write_text(str(rng.choice(["[]", "3", "null", '"x"', DEEP, '{"a":' * 50_000, "NaN", "", "{", "\ufeff{}"])))
        return
    content = json.loads(path.read_text())
    path.write_text(json.dumps(spoil(content, rng)))


def spoil(content: Any, rng: Generator) -> Any:
    """The same structure with a value somewhere replaced, or a key or an item gone."""
    places = [((), content)]
    for at, value in places:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        places.extend((((*at, key), inner)) for key, inner in items)
    at, _ = places[rng.integers(0, len(places))]
    new = VALUES[rng.integers(0, len(VALUES))]
    if not at:
        return new
    holder = content
    for key in at[:-1]:
        holder = holder[key]
    if rng.random() < 0.25:
        del holder[at[-1]]
    else:
        holder[at[-1]] = new
    return content


def _table(path: Path, rng: Generator) -> None:
    """Cells, columns and rows of a text table, packed or not."""
    import gzip

    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    mark = "\t" if "\t" in lines[0] else ","
    rows = [line.split(mark) for line in lines]
    kind = rng.integers(0, 6)
    row = int(rng.integers(0, len(rows)))
    column = int(rng.integers(0, len(rows[0])))
    if kind <= 2:
        for line in range(row, row + 1 if kind else len(rows)):
            rows[line][min(column, len(rows[line]) - 1)] = WORDS[rng.integers(0, len(WORDS))]
    elif kind == 3:
        rows = [r[:column] + r[column + 1 :] for r in rows]
    elif kind == 4:
        rows.insert(row, rows[row] if rng.integers(0, 2) else [*rows[row], "1"])
    else:
        rows = rows[row:] if rng.integers(0, 2) else rows[:1]
    with opener(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(mark.join(r) for r in rows))


def _hdf5(path: Path, rng: Generator) -> None:
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = names[rng.integers(0, len(names))]
        holder = file[name]
        kind = int(rng.integers(0, 8))
        if kind == 0:
            del file[name]
        elif kind == 1 and holder.attrs:
            key = list(holder.attrs)[rng.integers(0, len(holder.attrs))]
            holder.attrs[key] = [b"\xff", -1, 1e9, "csc_matrix", [1, 2], "x" * 9_000, "0.0.0"][rng.integers(0, 7)]
        elif kind <= 3 and isinstance(holder, h5py.Dataset) and holder.shape and holder.dtype.kind in "iuf":
            values = holder[...]
            bad = [-1, 2**31 - 1, np.nan, np.inf, 0.5, 10**6][rng.integers(0, 6)]
            values = values.astype(np.float64) if isinstance(bad, float) else values.astype(np.int64)
            values[tuple(rng.integers(0, n) for n in values.shape)] = bad
            _replace(file, name, values)
        else:
            _replace(file, name, _hostile_values(rng), rng)


def _hostile_values(rng: Generator) -> Any:
    return [
        "huge", "loop", "outside", np.array(["a", "b"], "S"), np.zeros((0,)), np.zeros(3, complex), np.float64(1),
        np.zeros(4, [("a", "i4"), ("b", "f8")]), np.zeros((2, 2, 2)), np.array([True, False]), "text", h5py.Empty("f4"),
        np.array([b"\xff\xfe"]), np.arange(7), np.full(40, 2**62),
    ][rng.integers(0, 15)]  # fmt: skip


def _replace(file: h5py.File, name: str, value: Any, _: Generator | None = None) -> None:
    attrs = dict(file[name].attrs)
    del file[name]
    if isinstance(value, str) and value == "huge":
        file.create_dataset(name, (10**6, 10**6), "f4", chunks=(1000, 1000))
    elif isinstance(value, str) and value == "loop":
        file[name] = h5py.SoftLink("/" + name)
        return
    elif isinstance(value, str) and value == "outside":
        file[name] = h5py.ExternalLink("/etc/passwd", "/")
        return
    else:
        file[name] = value
    if isinstance(file[name], h5py.Dataset):
        file[name].attrs.update(attrs)


def _parquet(path: Path, rng: Generator) -> None:
    whole = pq.read_table(path)
    names = whole.column_names
    name = names[rng.integers(0, len(names))]
    i, n = whole.schema.get_field_index(name), len(whole)
    kind = int(rng.integers(0, 12))
    made = [
        lambda: pa.nulls(n), lambda: pa.array(["x"] * n), lambda: pa.array([LONG[:1000]] * n),
        lambda: pa.array([[1]] * n),
        lambda: pa.array([{"a": 1}] * n), lambda: pa.array([float("nan")] * n), lambda: pa.array([-(2**40)] * n),
        lambda: pa.array([b"\xff"] * n), lambda: pa.array([None, *([1.0] * (n - 1))]),
    ]  # fmt: skip
    if kind < len(made):
        changed = whole.set_column(i, name, made[kind]())
    elif kind == 9:
        changed = whole.remove_column(i)
    elif kind == 10:
        changed = whole.slice(0, int(rng.integers(0, 2)))
    else:
        keys = list(whole.schema.metadata or {b"pandas": b""})
        bad = [b"", b"{}", b"[]", b"\xff", b'{"index_columns": [{"kind": "x"}]}', DEEP.encode()[:20_000]]
        told = dict(whole.schema.metadata or {}) | {keys[rng.integers(0, len(keys))]: bad[rng.integers(0, len(bad))]}
        changed = whole.replace_schema_metadata(told)
    pq.write_table(changed, path)


def _tiff(path: Path, rng: Generator) -> None:
    """A tag of the first page gets another number, or the description another text."""
    with tifffile.TiffFile(path) as file:
        order, tags = file.byteorder, [t for t in file.pages[0].tags if t.valueoffset]
        tag = tags[rng.integers(0, len(tags))]
        width = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 12: 8, 16: 8}.get(int(tag.dtype), 1)
        start, size = tag.valueoffset, tag.count * width
    content = bytearray(path.read_bytes())
    if int(tag.dtype) == 2 and rng.integers(0, 2):
        texts = [b"MPP = 1.2.3", b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><OME>&b;</OME>", b"<OME",
                 b"\xff" * 20,
                 b'<OME xmlns="o"><Image><Pixels PhysicalSizeX="x"/></Image></OME>']  # fmt: skip
        put = texts[rng.integers(0, len(texts))][: tag.count].ljust(tag.count, b" ")
        content[start : start + len(put)] = put
    else:
        value = int(rng.choice([0, 1, 2, 3, 7, 65535, 2**31 - 1, 2**32 - 1]))
        code = order + {1: "B", 2: "H", 4: "I", 8: "Q"}[width]
        put = struct.pack(code, value % 2 ** (8 * width))
        at = start + width * int(rng.integers(0, max(1, size // width)))
        content[at : at + width] = put
    path.write_bytes(content)


def _png(path: Path, rng: Generator) -> None:
    """The header says another size, depth or colour, with its checksum in order."""
    import zlib

    content = bytearray(path.read_bytes())
    if content[12:16] == b"IHDR":
        where = int(rng.choice([16, 20, 24, 25, 28]))
        put = (
            struct.pack(">I", int(rng.choice([0, 1, 2**31 - 1, 100_000])))
            if where < 24
            else bytes([rng.integers(0, 20)])
        )
        content[where : where + len(put)] = put
        content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    path.write_bytes(content)


def _safetensors(path: Path, rng: Generator) -> None:
    """The header, or the configuration inside it, with a value replaced."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    told = header.get("__metadata__", {})
    if rng.random() < 0.7 and "stpath" in told:
        told["stpath"] = json.dumps(spoil(json.loads(told["stpath"]), rng))
    else:
        header = spoil(header, rng)
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + content[8 + size :])


def _yaml(path: Path, rng: Generator) -> None:
    text = YAMLS[rng.integers(0, len(YAMLS))]
    if "grid" in path.name and rng.integers(0, 2):
        value = WORDS[rng.integers(0, len(WORDS))]
        text = re.sub(r"\[[^]]*\]", lambda m: json.dumps([value]) if rng.random() < 0.5 else m[0], path.read_text())
    path.write_text(text)


ANY: tuple[Damage, ...] = (*map(_bytes, (_cut, _flip, _flip_head, _block, _number, _foreign)), Path.unlink)
OWN: dict[str, Damage] = {
    ".json": _json, ".xenium": _json, ".csv": _table, ".tsv": _table, ".gz": _table, ".h5": _hdf5, ".h5ad": _hdf5,
    ".parquet": _parquet, ".tif": _tiff, ".svs": _tiff, ".png": _png, ".safetensors": _safetensors, ".yaml": _yaml,
}  # fmt: skip


def damage(path: Path, rng: Generator) -> str:
    """Damage a file; half of the time in the way of its format. Returns what was done."""
    own = OWN.get(path.suffix)
    if own is not None and rng.random() < 0.55:
        own(path, rng)
        return own.__name__.strip("_")
    number = int(rng.integers(0, len(ANY))) if rng.random() < 0.97 else len(ANY) - 1
    if ANY[number] is Path.unlink:
        path.unlink()
        return "unlink"
    ANY[number](path, rng)
    return ("cut", "flip", "flip ends", "block", "number", "foreign")[number]
