"""The data sets that stpath knows by name (data/registry.yaml)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from stpath_core.errors import InputError

DATA_FOLDER = Path(__file__).resolve().parents[2] / "data"
LAYOUTS = ("generated", "xenium", "masks")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One entry of the registry: provenance, licence, and how its files lie (see the comments in the file)."""

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
        if extra or entry.get("layout") not in LAYOUTS:
            message = f"data/registry.yaml, {name}: unknown fields {sorted(extra)} or layout not one of {LAYOUTS}"
            raise InputError(message)
        lists = {key: tuple(entry[key]) for key in ("holdout", "organs") if key in entry}
        out[name] = Dataset(name=name, **{**entry, **lists})
    return out


def dataset(name: str) -> Dataset:
    """One entry, or an error that lists the names."""
    if name not in registry():
        message = f"dataset={name!r} is not in data/registry.yaml; expected one of {', '.join(registry())}"
        raise InputError(message)
    return registry()[name]
