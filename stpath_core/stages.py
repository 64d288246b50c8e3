"""Notebooks as the runner sees them: header, parameters, cells, and the content-addressed folder of their outputs.

A notebook's outputs lie in `data/cache/stages/<notebook>/<key>/`, where the key is a hash of everything that decides
them: the code cells, the library, the resolved parameters, the data and the keys of the notebooks that it needs.
`complete.json`, written last, says that the folder is whole.

Two environment variables move things, for tests and clusters: `STPATH_HOME` (the folder that holds `notebooks/`,
`runs/` and `data/`; the repository by default) and `STPATH_CACHE` (instead of `data/cache`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stpath_core.errors import InputError
from stpath_core.parameters import MANDATORY, Parameter, declared, refuse_unknown, resolved

MARKER = "complete.json"
FREE = frozenset(MANDATORY)  # names that may be given without leaving "default parameters"
NOT_IN_KEY = ("out", "device", "data_dir")  # data_dir enters as the fingerprint of what lies in it
# The modules that cannot change a result, so that mending one keeps the stages.
NOT_LIBRARY = (
    "__main__.py", "checks.py", "cli.py", "cli_help.py", "comparison.py", "doctor.py", "exercises.py", "kernel.py",
    "latest.py", "lock.py", "offline.py", "pack.py", "pairing.py", "progress.py", "run.py", "stage_fit.py",
    "sweep.py", "teach.py",
)  # fmt: skip


def home() -> Path:
    """The folder that holds notebooks/, runs/ and data/."""
    return Path(os.environ.get("STPATH_HOME") or Path(__file__).parents[1]).resolve()


def absolute(given: str | Path) -> Path:
    """A path as somebody gave it, ~ and all, in full. InputError for ~NAME where nobody has that name."""
    try:
        return Path(given).expanduser().resolve()
    except RuntimeError as error:
        msg = f"{given}: nobody here has that name, so there is no such home folder; write the path in full"
        raise InputError(msg) from error


def runs_folder(out: str | Path = "") -> Path:
    """Where run folders are made: `out`, or runs/."""
    return absolute(out) if str(out) else home() / "runs"


def cache_folder() -> Path:
    """data/cache, or STPATH_CACHE."""
    return Path(os.environ.get("STPATH_CACHE") or home() / "data" / "cache").resolve()


@dataclass(frozen=True)
class Cell:
    """One cell of a py:percent file."""

    kind: str  # "code", "markdown" or "raw"
    source: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Notebook:
    """A notebook's source of truth: `notebooks/<name>.py`."""

    name: str
    path: Path
    header: Mapping[str, Any]
    cells: tuple[Cell, ...]
    parameters: Mapping[str, Parameter]

    @property
    def code(self) -> tuple[str, ...]:
        return tuple(cell.source for cell in self.cells if cell.kind == "code")

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the notebooks whose outputs this one reads."""
        return tuple(self.header.get("needs") or ())

    def serves(self, dataset: str) -> bool:
        """Whether the notebook can run on this data set: no `datasets` in the header means any."""
        return "datasets" not in self.header or dataset in self.header["datasets"]

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameter values, the profile's included. InputError for unknown names, wrong types, no such profile."""
        refuse_unknown(given, self.parameters, where=self.name)
        profile = given.get("profile") or self.parameters["profile"].default
        return resolved(self.parameters, given, profile_values(self, str(profile)), where=self.name)


def read_notebook(path: Path) -> Notebook:
    """Read a py:percent notebook: header, cells and declared parameters."""
    header, cells = split_cells(path.read_text(encoding="utf-8"), where=path.name)
    sources = [cell.source for cell in cells if "parameters" in cell.tags]
    if len(sources) != 1:
        msg = f"{path.name} has {len(sources)} cells tagged parameters; it needs one"
        raise InputError(msg)
    parameters = declared(sources[0], where=f"the parameters cell of {path.name}")
    missing = [name for name in MANDATORY if name not in parameters]
    if missing:
        msg = f"the parameters cell of {path.name} does not declare {', '.join(missing)}; every notebook does"
        raise InputError(msg)
    return Notebook(path.stem, path, header, tuple(cells), parameters)


def split_cells(text: str, *, where: str) -> tuple[dict[str, Any], list[Cell]]:
    """Cut py:percent text into its YAML header and its cells."""
    head, *blocks = re.split(r"^# %%", text, flags=re.MULTILINE)
    match = re.search(r"^# ---\n(.*?)^# ---$", head, flags=re.MULTILINE | re.DOTALL)
    try:
        header = yaml.safe_load(re.sub(r"^# ?", "", match[1], flags=re.MULTILINE)) if match else {}
    except yaml.YAMLError as error:
        msg = f"the header of {where} is not YAML: {error}"
        raise InputError(msg) from error
    if not isinstance(header or {}, dict):
        msg = f"the header of {where} is {type(header).__name__}; expected lines of `name: value`"
        raise InputError(msg)
    cells = []
    for block in blocks:
        first, _, source = block.partition("\n")
        kind = next((k for k in ("markdown", "raw") if f"[{k}]" in first), "code")
        tags = re.search(r"tags=(\[.*?\])", first)
        try:
            cells.append(Cell(kind, source.strip("\n"), tuple(json.loads(tags[1])) if tags else ()))
        except ValueError as error:
            msg = f'{where} has a cell with {tags[0]}; expected words in double quotes, as tags=["parameters"]'
            raise InputError(msg) from error
    return header or {}, cells


def notebook_names() -> list[str]:
    """The names of all notebooks, in the order of their numbers."""
    return sorted(path.stem for path in (home() / "notebooks").glob("[0-9][0-9]_*.py"))


def find_notebook(name: str) -> Notebook:
    """Find a notebook by its number ("11"), by its name with or without the number, or by its file."""
    stem = Path(name).stem if name.endswith((".py", ".ipynb")) else name
    names = notebook_names()
    for known in names:
        if stem in (known, known[:2], known[3:]):
            return read_notebook(home() / "notebooks" / f"{known}.py")
    msg = f"no notebook {name!r} in {home() / 'notebooks'}; there are {', '.join(names) or 'none'}"
    raise InputError(msg)


def profile_values(notebook: Notebook, profile: str) -> dict[str, Any]:
    """What notebooks/params/<profile>.yaml says for this notebook.

    Its own section wins over the section `all`, whose entries reach each notebook that declares them. Only parameters
    declared with the default None may be decided by a profile.
    """
    folder = home() / "notebooks" / "params"
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if profile not in known:  # and no path to a file elsewhere
        msg = f"no profile {profile!r}; {folder} has {', '.join(known) or 'none'}"
        raise InputError(msg)
    path = folder / f"{profile}.yaml"
    sections = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    own = sections.get(notebook.name) or {}
    refuse_unknown(own, notebook.parameters, where=f"{notebook.name} (named in {path.name})")
    values = {k: v for k, v in (sections.get("all") or {}).items() if k in notebook.parameters} | own
    for name in values:
        if notebook.parameters[name].default is not None:
            msg = f"{path.name} sets {name} of {notebook.name}, which has a default; declare it as None for that"
            raise InputError(msg)
    return values


def shared(values: Mapping[str, Any], given: Mapping[str, Any], other: Notebook) -> dict[str, Any]:
    """What a notebook hands to one it needs: data set, seed, profile, device, given values that the other declares."""
    always = {name: values[name] for name in MANDATORY if name != "out"}
    return {k: v for k, v in given.items() if k in other.parameters and k not in FREE} | always


def stage_key(notebook: Notebook, given: Mapping[str, Any], *, seen: tuple[str, ...] = ()) -> str:
    """The key of a notebook's outputs, 16 hex digits. `given` may hold values for the notebooks it needs too."""
    if notebook.name in seen:
        msg = f"notebooks need each other in a circle: {' -> '.join((*seen, notebook.name))}"
        raise InputError(msg)
    values = notebook.resolve({k: v for k, v in given.items() if k in notebook.parameters})
    needed = {}
    for name in notebook.needs:
        other = find_notebook(name)
        if other.serves(values["dataset"]):
            handed = {**given, **shared(values, given, other)}
            needed[other.name] = stage_key(other, handed, seen=(*seen, notebook.name))
    content = {
        "notebook": notebook.name,
        "code": [cell.source for cell in notebook.cells if cell.kind == "code" and "parameters" not in cell.tags],
        "library": library_hash(),
        "values": {k: v for k, v in values.items() if k not in NOT_IN_KEY},
        "data": fingerprint(values["data_dir"])["sha256"] if values["data_dir"] else "",
        "needs": needed,
        "tables": [tables_hash(name) for name in notebook.header.get("tables") or ()],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def tables_hash(name: str) -> str:
    """Hash of a committed study, data/results/<name>.csv and .json: a notebook that shows one names it in `tables`."""
    paths = (home() / "data" / "results" / f"{name}{suffix}" for suffix in (".csv", ".json"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths if path.is_file())).hexdigest()


def stage_folder(notebook: Notebook, key: str) -> Path:
    return cache_folder() / "stages" / notebook.name / key


def read_marker(folder: Path) -> dict[str, Any] | None:
    """What complete.json of a stage folder says, or None when the folder is not whole."""
    try:
        return json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None


@functools.cache
def library_hash() -> str:
    """Hash of the library and of the tables in data/ that decide results."""
    package = Path(__file__).parent
    files = [
        p for p in package.rglob("*") if p.suffix in (".py", ".csv", ".yaml", ".json") and p.name not in NOT_LIBRARY
    ]
    files += [p for p in (home() / "data").glob("*") if p.suffix in (".csv", ".yaml", ".json")]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def fingerprint(folder: str | Path, *, whole_bytes: int = 2**30) -> dict[str, Any]:
    """Hash what lies in a folder (or one file): names, sizes and contents.

    Above `whole_bytes` in total, only the first and last MiB of each file are read, and `read` says "ends".

    Returns a dict with files, bytes, read ("whole" or "ends") and sha256. Raises InputError when the folder does not
    exist.
    """
    root = Path(folder)
    if not root.exists():
        msg = f"data_dir {str(folder)!r} does not exist; pass -p data_dir=FOLDER"
        raise InputError(msg)
    files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
    stats = [p.stat() for p in files]
    listing = tuple((p, s.st_size, s.st_mtime_ns) for p, s in zip(files, stats, strict=True))
    return dict(_fingerprint(root, listing, whole=sum(s.st_size for s in stats) <= whole_bytes))


@functools.lru_cache(maxsize=8)  # one run asks for the same data several times
def _fingerprint(root: Path, listing: tuple[tuple[Path, int, int], ...], *, whole: bool) -> dict[str, Any]:
    digest = hashlib.sha256()
    for path, size, _ in listing:
        digest.update(f"{path.relative_to(root)}\0{size}\0".encode())
        with path.open("rb") as handle:
            if whole:
                while block := handle.read(2**20):
                    digest.update(block)
            else:
                digest.update(handle.read(2**20))
                handle.seek(max(0, size - 2**20))
                digest.update(handle.read(2**20))
    total = sum(size for _, size, _ in listing)
    return {"files": len(listing), "bytes": total, "read": "whole" if whole else "ends", "sha256": digest.hexdigest()}
