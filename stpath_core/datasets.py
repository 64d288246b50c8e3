"""`stpath data`: what data sets there are, and how to get one, check it and find it.

A data set lies in <folder>/NAME, where <folder> is `--to DIR`, else STPATH_DATA, else data/cache/datasets.
`downloaded.json` in it records what came from where, with sizes and sha256; `stpath data verify` compares with it.
"""

from __future__ import annotations

import functools
import json
import os
import re
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpath_core.errors import DownloadError, InputError

if TYPE_CHECKING:
    from stpath_core.io.registry import Dataset, RemoteFile

ACTIONS = ("list", "get", "verify", "path")
RECORD = "downloaded.json"
SCHEMA = "stpath.download/1"
FOLDER_VARIABLE = "STPATH_DATA"
HELP = """\
  list [NAME]     every data set with its licence and state, or all that is known about one
  get NAME        show its licence, download what is not here yet, check and unpack it; run again after an interruption
  verify [NAME]   compare what is here with the sha256 recorded at the first download
  path NAME       print its folder, for scripts: stpath run 10 -p dataset=xenium -p data_dir="$(stpath data path NAME)"

Data sets lie in data/cache/datasets/NAME, or DIR/NAME with --to DIR or STPATH_DATA=DIR.

"""


def command(action: str, name: str | None, to: str | Path = "", *, say: Callable[[str], None] = print) -> bool:
    """Do what `stpath data` was asked; returns whether all is well. InputError for what cannot be asked."""
    from stpath_core.io.registry import dataset, registry

    if name is None and action in ("get", "path"):
        message = f"stpath data {action} needs the NAME of a data set; `stpath data list` shows them"
        raise InputError(message)
    entry = dataset(name) if name else None
    if action == "list":
        for line in describe(entry, folder_of(entry, to)) if entry else table(list(registry().values()), to):
            say(line)
        return True
    if action == "path":
        say(str(find(entry, to)))
        return True
    if action == "get":
        get(entry, to, say=say)
        return True
    here = [e for e in ([entry] if entry else registry().values()) if (folder_of(e, to) / RECORD).is_file()]
    if not here:
        message = f"nothing that stpath downloaded is in {folder_of(entry, to) if entry else datasets_folder(to)}"
        raise DownloadError(message)
    return all([verify(e, to, say=say) for e in here])  # a list: every data set is told about


def datasets_folder(to: str | Path = "") -> Path:
    """Where data sets lie: `to`, else STPATH_DATA, else data/cache/datasets."""
    from stpath_core import stages

    given = str(to) or os.environ.get(FOLDER_VARIABLE, "")
    return stages.absolute(given) if given else stages.cache_folder() / "datasets"


def folder_of(entry: Dataset, to: str | Path = "") -> Path:
    """The folder of one data set, whether it is there or not."""
    return datasets_folder(to) / entry.name


def state(entry: Dataset, to: str | Path = "") -> str:
    """One of: generated, yours, here, partly here, not here, gated, by hand (gated and by hand: and not here)."""
    if entry.access in ("generated", "yours"):
        return entry.access
    folder = folder_of(entry, to)
    if not entry.files:
        return "here" if folder.is_dir() and any(folder.iterdir()) else entry.access
    record = _read(folder)
    done = [file for file in entry.files if _is_whole(folder, file, record)]
    if len(done) == len(entry.files):
        return "here"
    return "partly here" if done or any(folder.rglob("*.part")) else "not here"


def find(entry: Dataset, to: str | Path = "") -> Path:
    """The folder of a data set that is here, or DownloadError saying how to get it."""
    now = state(entry, to)
    if now == "here":
        return folder_of(entry, to)
    fix = {
        "generated": "it is made by the notebooks that need it",
        "yours": "it is a folder of your own: pass data_dir=FOLDER",
    }.get(now, f"`stpath data get {entry.name}` says how, or puts it in {folder_of(entry, to)}")
    message = f"{entry.name} is {now}: {fix}"
    raise DownloadError(message)


def table(entries: list[Dataset], to: str | Path = "") -> list[str]:
    """One line per data set: name, what, licence, size, state."""
    rows = [("name", "what", "licence", "size", "state")]
    for e in entries:
        short = [re.split(r" \(|[;,]", text)[0] for text in (e.licence, e.size)]
        rows.append((e.name, e.title, short[0], short[1] or "?" if e.files or e.how else "", state(e, to)))
    limits = (16, 54, 20, 20, 12)
    rows = [tuple(_cut(cell, limit) for cell, limit in zip(row, limits, strict=True)) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, "", "stpath data list NAME tells all about one: terms, addresses, patients, how to get and use it."]


def describe(entry: Dataset, folder: Path) -> list[str]:
    """All that is known about one data set."""
    lines = [f"{entry.name}: {entry.title}", *terms(entry), f"source    {entry.source}"]
    told = {"size": entry.size, "mpp": entry.mpp, "patients": entry.patients, "how": entry.how, "use": entry.note}
    for label, value in told.items():
        if value:
            lines += textwrap.wrap(f"{label:<9} {value}", 110, subsequent_indent=" " * 10, break_on_hyphens=False)
    for file in entry.files:
        lines.append(f"file      {file.url}")
        known = f"sha256 {file.sha256}" if file.sha256 else "sha256 not known, recorded at first download"
        lines.append(f"          {'verified' if file.verified else 'unverified'} address; {known}")
    return [*lines, f"state     {state(entry, folder.parent)}, in {folder}"]


def terms(entry: Dataset) -> list[str]:
    """What may be done with a data set, and whom to cite."""
    lines = [f"licence   {entry.licence}"]
    lines += ["          NOT FOR COMMERCIAL USE"] if entry.non_commercial else []
    return lines + ([f"cite      {entry.citation}"] if entry.citation else [])


def get(entry: Dataset, to: str | Path = "", *, say: Callable[[str], None] = print) -> Path:
    """Download, check and unpack what is not here yet; what is here is checked again. Returns the folder."""
    folder = folder_of(entry, to)
    if not entry.files:
        how = {
            "generated": "it is made from a seed by the notebooks that need it; there is nothing to get",
            "yours": "it is a folder of your own; there is nothing to get: pass data_dir=FOLDER to the notebook",
        }.get(entry.access, f"{entry.how}. Then put it in {folder}. Licence: {entry.licence}")
        message = f"{entry.name} is {entry.access}: {how}"
        raise InputError(message)
    for line in (entry.title, *terms(entry)):
        say(line)
    try:
        for file in entry.files:
            _get_file(entry, file, folder, say=say)
    finally:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    say(f"{entry.name} is in {folder}")
    if entry.note:
        say(entry.note)
    return folder


def _get_file(entry: Dataset, file: RemoteFile, folder: Path, *, say: Callable[[str], None]) -> None:
    """One file of a data set, with its line in the record. A sha256 once recorded has to come again."""
    from stpath_core.io.download import fetch, sha256_of
    from stpath_core.io.unpack import unpack
    from stpath_core.progress import track

    path, record = folder / file.path, _read(folder)
    known = file.sha256 or record["files"].get(file.path, {}).get("sha256")
    if path.is_file() and file.path in record["files"]:
        if sha256_of(path) != known:
            message = f"{path} is not what was downloaded (sha256 differs); remove it and run the command again"
            raise DownloadError(message)
        say(f"{file.path}: here, unchanged")
    else:
        if not file.verified:
            say(f"{file.path}: unverified address {file.url}")
        label = functools.partial(track, label=f"{path.name}, MB")
        came = fetch(file.url, path, sha256=known, size=file.size, progress=label)
        if came.resumed_from:
            say(f"{file.path}: went on from {came.resumed_from} bytes")
        if not known:
            say(f"{file.path}: no sha256 was known before; recorded now in {RECORD}: {came.sha256}")
        record["files"][file.path] = {
            "url": file.url, "answered": came.url, "bytes": came.bytes, "sha256": came.sha256,
            "checked": bool(known), "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        _write(entry, folder, record)
    if file.unpack and not (_is_whole(folder, file, record) and _is_as_unpacked(folder / file.unpack, record, file)):
        say(f"{file.path}: unpacking to {file.unpack}/")
        files = unpack(path, folder / file.unpack, progress=functools.partial(track, label="files"))
        record["unpacked"][file.unpack] = {"from": file.path, "files": files}
        _write(entry, folder, record)


def verify(entry: Dataset, to: str | Path = "", *, say: Callable[[str], None] = print) -> bool:
    """Whether every recorded file is there with its recorded sha256 (and the registry's, where it has one)."""
    from stpath_core.io.download import sha256_of

    folder = folder_of(entry, to)
    record = _read(folder)
    wanted = {name: told["sha256"] for name, told in record["files"].items()}
    for place, told in record["unpacked"].items():
        wanted |= {f"{place}/{name}": one["sha256"] for name, one in told["files"].items()}
    listed = {file.path: file.sha256 for file in entry.files if file.sha256}
    bad = 0
    for name, sha256 in wanted.items():
        path = folder / name
        wrong = "missing" if not path.is_file() else "changed" if sha256_of(path) != sha256 else ""
        if not wrong and sha256 != listed.get(name, sha256):
            wrong = "not what data/registry.yaml lists"
        if wrong:
            say(f"{entry.name}/{name}: {wrong}")
        bad += bool(wrong)
    absent = [file.path for file in entry.files if file.path not in wanted]
    for name in absent:
        say(f"{entry.name}/{name}: not downloaded yet")
    say(f"{entry.name}: {len(wanted) - bad} of {len(wanted) + len(absent)} files as recorded")
    return not bad and not absent


def _is_whole(folder: Path, file: RemoteFile, record: dict[str, Any]) -> bool:
    """Whether a file, and what was unpacked from it, lies there in its recorded size (sha256: see verify)."""
    told = record["files"].get(file.path)
    unpacked = record["unpacked"].get(file.unpack, {}).get("files") if file.unpack else {}
    if told is None or unpacked is None:
        return False
    sizes = {file.path: told["bytes"]} | {f"{file.unpack}/{name}": one["bytes"] for name, one in unpacked.items()}
    return all(_size(folder / name) == size for name, size in sizes.items())


def _is_as_unpacked(unpacked: Path, record: dict[str, Any], file: RemoteFile) -> bool:
    """Whether every unpacked file has its recorded content."""
    from stpath_core.io.download import sha256_of

    files = record["unpacked"][file.unpack]["files"]
    return all(sha256_of(unpacked / name) == told["sha256"] for name, told in files.items())


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _read(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.is_file():
        return {"schema": SCHEMA, "files": {}, "unpacked": {}}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        wrong = record["schema"] != SCHEMA or not isinstance(record["files"] | record["unpacked"], dict)
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path} is no record of downloads ({error}); remove it, then `stpath data get {folder.name}`"
        raise DownloadError(message) from error
    if wrong:
        message = f"{path} has the schema {record['schema']!r}; this version reads {SCHEMA}"
        raise DownloadError(message)
    return record


def _write(entry: Dataset, folder: Path, record: dict[str, Any]) -> None:
    from stpath_core.io.files import atomic_path

    whole = {**record, "dataset": entry.name, "licence": entry.licence, "citation": entry.citation}
    with atomic_path(folder / RECORD) as aside:
        aside.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3].rstrip() + "..."


def how_to_use(name: str) -> str:
    """What to do with a data set that no notebook serves by its name; "" where the registry says nothing."""
    from stpath_core.io.registry import registry

    return registry()[name].note if name in registry() else ""
