"""The data sets that stpath knows by name (data/registry.yaml)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stpath_core.errors import InputError

DATA_FOLDER = Path(__file__).resolve().parents[2] / "data"
LAYOUTS = ("generated", "xenium", "masks", "cells", "slides", "other")
ACCESS = ("generated", "yours", "open", "gated", "by hand")


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of a data set on its publisher's server.

    sha256, size (bytes) : null unless they were computed here or are printed by the publisher
    verified : whether this very address was ever downloaded by us; false is shown as "unverified"
    to : where the file goes in the data set's folder; unpack: the folder that its content goes to, "" for none
    """

    url: str
    to: str = ""
    unpack: str = ""
    sha256: str | None = None
    size: int | None = None
    verified: bool = False

    @property
    def path(self) -> str:
        """Where the file goes, relative to the data set's folder: `to`, or the last part of its address."""
        return self.to or Path(urlsplit(self.url).path).name


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One entry of the registry: provenance, licence, and how its files lie (see the comments in the file).

    `patient` is a pattern that finds the patient in an image's name; `patients` says in words where patients are named.
    """

    name: str
    title: str
    layout: str
    licence: str
    source: str
    citation: str = ""
    images: str = ""
    mask: str = ""
    mpp: float | None = None
    organ: str = "unknown"
    organ_key: str = ""
    organ_of: dict[str, str] = field(default_factory=dict)
    patient: str = ""
    holdout: tuple[str, ...] = ()
    organs: tuple[str, ...] = ()
    types: dict[str, Any] | None = None
    access: str = "yours"
    files: tuple[RemoteFile, ...] = ()
    how: str = ""
    note: str = ""
    size: str = ""
    patients: str = ""
    non_commercial: bool = False

    def organ_of_case(self, stem: str) -> str:
        """The organ of an image, from its name where the entry says how."""
        found = re.search(self.organ_key, stem) if self.organ_key else None
        return self.organ_of.get(found.group(1), self.organ) if found else self.organ

    def patient_of_case(self, stem: str) -> str:
        """The patient of an image; the image itself where names do not tell."""
        found = re.search(self.patient, stem) if self.patient else None
        return found.group(1) if found else stem


@cache
def registry() -> dict[str, Dataset]:
    """All entries by name.

    Examples
    --------
    >>> registry()["monuseg"].mpp
    0.25
    """
    import yaml

    raw = yaml.safe_load((DATA_FOLDER / "registry.yaml").read_text(encoding="utf-8"))
    known = {f.name for f in fields(Dataset)}
    out = {}
    for name, entry in raw.items():
        extra = set(entry) - known
        if extra or entry.get("layout") not in LAYOUTS or entry.get("access", "yours") not in ACCESS:
            message = (
                f"data/registry.yaml, {name}: unknown fields {sorted(extra)}, layout not one of {LAYOUTS}, "
                f"or access not one of {ACCESS}"
            )
            raise InputError(message)
        lists = {key: tuple(entry[key]) for key in ("holdout", "organs") if key in entry}
        files = tuple(_remote(name, file) for file in entry.get("files", ()))
        out[name] = Dataset(name=name, **{**entry, **lists, "files": files})
    return out


def _remote(name: str, entry: dict[str, Any]) -> RemoteFile:
    """One file of an entry; its places must lie inside the data set's folder."""
    extra = set(entry) - {f.name for f in fields(RemoteFile)}
    if extra or "url" not in entry:
        message = f"data/registry.yaml, {name}: a file has the unknown fields {sorted(extra)}, or no url"
        raise InputError(message)
    file = RemoteFile(**entry)
    for place in (file.path, file.unpack):
        if Path(place).is_absolute() or ".." in Path(place).parts:
            message = f"data/registry.yaml, {name}: {place} lies outside the data set's folder"
            raise InputError(message)
    return file


def dataset(name: str) -> Dataset:
    """One entry, or an error that lists the names."""
    if name not in registry():
        message = f"dataset={name!r} is not in data/registry.yaml; expected one of {', '.join(registry())}"
        raise InputError(message)
    return registry()[name]
