"""What the sections of one patient share: how much there is of what, nuclear grade, and the look of the stroma."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stpath_core.errors import InputError
from stpath_core.tissue.cell_types import ORGANS
from stpath_core.tissue.organs import ORGAN_PLANS, Compartment, Mix, Organ, Structure


@dataclass(frozen=True, kw_only=True)
class Patient:
    """One patient's traits; factors are 1 for the average patient."""

    plan: Organ  # the organ's plan with this patient's shares and mixtures
    nuclear_size: float  # factor on all nuclear areas
    grade: float  # factor on neoplastic nuclear areas
    pleomorphism: float  # factor on the spread of neoplastic nuclei
    open_chromatin: float  # added to how vesicular nuclei are
    basophilia: float  # factor on the hematoxylin of the cytoplasm
    collagen: float  # factor on the density of fibres
    clefts: float  # 0 to 1: how far tumour cells shrink from each other and from their stroma
    vacuoles: float  # 0 to 1.5: how often the cytoplasm is punched by small vacuoles


def patient_traits(organ: str, patient: int, *, mixture: Mix | None = None, composition: float = 1.0) -> Patient:
    """The traits of patient number `patient` (0, 1, 2, ...), the same for every section and every tissue seed.

    mixture : region -> share of the section's area; replaces the patient's own for the regions named.
    composition : spread of the Dirichlet draws of regions and of the cells in them, as a multiple (0: the plan's own).
    """
    plan = ORGAN_PLANS[organ]
    if unknown := set(mixture or {}) - set(plan.compartments):
        msg = f"mixture names {sorted(unknown)}; {organ} has {', '.join(plan.compartments)}"
        raise InputError(msg)
    rng = np.random.default_rng([ORGANS.index(organ), patient, 11])
    shares = np.array([c.share for c in plan.compartments.values()])
    shares = _dirichlet(rng, shares, concentration=30, spread=composition).clip(0.04)
    own = {"spread": composition}
    compartments = {region: _own_compartment(rng, c, share=(mixture or {}).get(region, float(share)), **own)
                    for share, (region, c) in zip(shares, plan.compartments.items(), strict=True)}  # fmt: skip
    size, grade, wild, blue, fibre = np.exp(rng.normal([0, 0, 0, 0.2, 0], [0.10, 0.14, 0.25, 0.45, 0.25])).tolist()
    return Patient(
        plan=replace(plan, compartments=compartments), nuclear_size=size, grade=grade, pleomorphism=wild,
        open_chromatin=float(rng.normal(0, 0.15)), basophilia=min(max(blue, 0.5), 2.2), collagen=fibre,
        clefts=float(rng.beta(0.7, 1.2)), vacuoles=float(rng.uniform(0, 1.5)),
    )  # fmt: skip


def _own_compartment(rng: np.random.Generator, compartment: Compartment, *, share: float, spread: float) -> Compartment:
    stroma = _own_mix(rng, compartment.stroma, concentration=60, spread=spread)
    scale = float(np.exp(rng.normal(0, 0.1)))
    structures = tuple(_own_structure(rng, s, scale=scale, spread=spread) for s in compartment.structures)
    return replace(compartment, share=share, stroma=stroma, structures=structures)


def _own_structure(rng: np.random.Generator, s: Structure, *, scale: float, spread: float) -> Structure:
    return replace(
        s, cells=_own_mix(rng, s.cells, concentration=80, spread=spread),
        radius_um=s.radius_um * scale, spacing_um=s.spacing_um * scale,
        stretch=float(s.stretch ** rng.uniform(0.5, 1.8)), gap_um=float(s.gap_um * np.exp(rng.normal(0, 0.25))),
    )  # fmt: skip


def _own_mix(rng: np.random.Generator, mix: Mix, *, concentration: float, spread: float) -> Mix:
    own = _dirichlet(rng, np.array(list(mix.values()), float), concentration=concentration, spread=spread)
    return dict(zip(mix, own, strict=True))


def _dirichlet(rng: np.random.Generator, weights: np.ndarray, *, concentration: float, spread: float) -> np.ndarray:
    """Shares around `weights`; their standard deviation goes with `spread`, 0 gives the weights themselves."""
    if not spread:
        return weights / weights.sum()
    return rng.dirichlet(concentration / spread**2 * weights / weights.sum())
