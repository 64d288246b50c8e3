"""Sections and cohorts: grow, paint, express, measure, write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from stpath_core.errors import InputError
from stpath_core.parallel import each
from stpath_core.tissue.architecture import Architecture, grow
from stpath_core.tissue.cell_assay import Measurement, measure
from stpath_core.tissue.cell_types import ORGANS
from stpath_core.tissue.effects import Effects
from stpath_core.tissue.expression import cell_means, counts
from stpath_core.tissue.histology import render
from stpath_core.tissue.stains import patient_stain
from stpath_core.tissue.xenium import COMPLETE, write_bundle

PATIENTS_PER_SEED = 100  # a cohort of another seed holds other people


@dataclass(frozen=True)
class VirtualSection:
    """A section in memory.

    arch : cells, polygons, regions (the truth). image : (H, W, 3) uint8 at `mpp`. means : (N, G) float32 shares of
    the gene universe that each cell really expresses. counts : (N, panel) raw counts before the assay misplaces any.
    measurement : what the cell-level assay reports.
    """

    name: str
    arch: Architecture
    image: np.ndarray
    mpp: float
    means: np.ndarray
    counts: csr_matrix
    measurement: Measurement
    effects: Effects
    seed: int


def section_name(organ: str, patient: int) -> str:
    """Name of a patient's section, as in folders and plots."""
    return f"{organ}_p{patient}"


def make_section(
    organ: str,
    *,
    size_um: tuple[float, float] = (500.0, 500.0),
    patient: int = 0,
    seed: int = 0,
    mpp: float = 0.5,
    effects: Effects | None = None,
) -> VirtualSection:
    """One section, from (organ, patient, seed, size_um, mpp, effects) bit for bit.

    organ : breast, colon, lung, kidney or prostate. patient : who it is; their stain, grade and batch are their own.
    seed : which piece of them.
    """
    effects = Effects() if effects is None else effects
    _check(organ, size_um, patient, seed)
    own = int(np.random.SeedSequence([seed, ORGANS.index(organ), patient]).generate_state(1)[0])
    arch = grow(organ, size_um=size_um, seed=seed, patient=patient)
    image = render(arch, mpp=mpp, stain=patient_stain(organ, patient, variation=effects.stain_variation), seed=own)
    means = cell_means(arch, effects=effects, seed=own)
    raw = counts(arch, means, effects=effects, seed=own)
    return VirtualSection(
        name=section_name(organ, patient),
        arch=arch,
        image=image,
        mpp=mpp,
        means=means,
        counts=raw,
        measurement=measure(arch, raw, effects=effects, seed=own),
        effects=effects,
        seed=seed,
    )


def write_section(folder: str | Path, section: VirtualSection) -> Path:
    """Write a section as a Xenium bundle with its truth beside it."""
    return write_bundle(
        folder,
        section.arch,
        section.image,
        section.measurement,
        mpp=section.mpp,
        effects=section.effects,
        name=section.name,
        settings=_settings(section.arch.organ, section.arch.patient, section.arch.size_um, section.seed, section.mpp,
                           section.effects),
    )  # fmt: skip


def write_cohort(
    folder: str | Path,
    *,
    organs: Sequence[str] = ORGANS,
    patients: int = 3,
    size_um: tuple[float, float] = (500.0, 500.0),
    mpp: float = 0.5,
    seed: int = 0,
    effects: Effects | None = None,
    workers: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Path]:
    """Write one bundle per organ and patient; bundles that are already there, whole and alike, are kept.

    patients : per organ; a person belongs to one organ, and another seed brings other people.
    workers : processes; None: two, or one where the work is less than starting them.
    progress : called as progress(done, total, name) after each section.
    """
    folder, effects = Path(folder), Effects() if effects is None else effects
    if not 1 <= patients <= PATIENTS_PER_SEED:
        message = f"patients={patients}; expected 1 to {PATIENTS_PER_SEED} per organ"
        raise InputError(message)
    for organ in organs:
        _check(organ, size_um, 0, seed)
    who = list(product(organs, (PATIENTS_PER_SEED * seed + p for p in range(patients))))
    make = partial(_make_one, folder, size_um=size_um, seed=seed, mpp=mpp, effects=effects)
    wanted = [pair for pair in who if not _complete(folder, *pair, size_um, seed, mpp, effects)]
    if workers is None:
        workers = 2 if len(wanted) * np.prod(size_um) > 1e6 else 1
    for done, name in enumerate(each(make, wanted, workers=workers), len(who) - len(wanted) + 1):
        if progress:
            progress(done, len(who), name)
    return [folder / section_name(*pair) for pair in who]


def _make_one(folder: Path, who: tuple[str, int], *, size_um, seed: int, mpp: float, effects: Effects) -> str:
    organ, patient = who
    section = make_section(organ, size_um=size_um, patient=patient, seed=seed, mpp=mpp, effects=effects)
    write_section(folder / section.name, section)
    return section.name


def _settings(organ: str, patient: int, size_um, seed: int, mpp: float, effects: Effects) -> dict:
    """What decides a bundle, as JSON keeps it."""
    size = [float(v) for v in size_um]
    return {"code": _code_hash(), "organ": organ, "patient": patient, "size_um": size, "seed": seed, "mpp": mpp,
            "effects": effects.as_dict()}  # fmt: skip


@cache
def _code_hash() -> str:
    """Of this package's source: a bundle made by other code is made again."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _complete(folder: Path, organ: str, patient: int, size_um, seed: int, mpp: float, effects: Effects) -> bool:
    marker = folder / section_name(organ, patient) / COMPLETE
    try:
        return json.loads(marker.read_text()) == _settings(organ, patient, size_um, seed, mpp, effects)
    except (OSError, ValueError):
        return False


def _check(organ: str, size_um, patient: int, seed: int) -> None:
    if organ not in ORGANS:
        message = f"organ={organ!r}; expected one of {', '.join(ORGANS)}"
        raise InputError(message)
    if len(size_um) != 2 or min(size_um) < 50:
        message = f"size_um={size_um}; expected (width, height) of at least 50 um: a gland needs that much room"
        raise InputError(message)
    if patient < 0 or seed < 0:
        message = f"patient={patient}, seed={seed}; expected whole numbers >= 0"
        raise InputError(message)
