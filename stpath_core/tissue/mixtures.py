"""Who holds how much of what: the regions of every patient of a cohort, by area.

Shares, spread and absences follow HER2ST's eight annotated sections (Andersson et al. 2021), one per patient.
"""

from __future__ import annotations

import numpy as np

from stpath_core.errors import InputError
from stpath_core.tissue.assay_effects import AssayEffects
from stpath_core.tissue.cell_types import ORGANS
from stpath_core.tissue.organs import ORGAN_PLANS

# the names that HER2ST's pathologist gave, and the region of the virtual tissue that each stands for
LABELS = {
    "invasive": "invasive cancer", "in_situ": "cancer in situ", "connective": "connective tissue",
    "adipose": "adipose tissue", "immune": "immune infiltrate", "gland": "breast glands",
}  # fmt: skip
# mean share of the labelled spots, over patients; share of patients in whom the class is absent
_SHARE = {"invasive": 0.55, "connective": 0.22, "adipose": 0.10, "immune": 0.06, "in_situ": 0.04, "gland": 0.03}
_ABSENT = {"in_situ": 5 / 8, "gland": 5 / 8, "adipose": 3 / 8, "immune": 2 / 8}
_CONCENTRATION = 5.0  # of the Dirichlet: invasive cancer takes 17 to 88 % of a section
_LEAST = 0.04  # share of a class that is there at all: a dozen spots, enough to be annotated


def label_of(region: str, organ: str) -> str:
    """The pathologist's word for a region; glands are those of the organ."""
    return f"{organ} glands" if region == "gland" else LABELS[region]


def region_shares(organ: str, n: int, *, seed: int, effects: AssayEffects, balanced: bool = False) -> list[dict]:
    """Region -> share of the area, one dict per patient, each sums to 1; an absent class has 0.

    balanced : start from the organ's own plan instead of HER2ST's shares, in which cancer takes half.
    """
    if organ not in ORGANS:
        message = f"organ={organ!r}; expected one of {', '.join(ORGANS)}"
        raise InputError(message)
    rng = np.random.default_rng([seed, ORGANS.index(organ), 501])
    plan = ORGAN_PLANS[organ].compartments
    names = list(plan)
    mean = np.array([plan[name].share if balanced else _SHARE[name] for name in names])
    mean = mean / mean.sum()
    there = np.ones((n, len(names)), bool)
    for column, name in enumerate(names):
        without = round(_ABSENT.get(name, 0) * effects.absent * n)
        there[rng.permutation(n)[: min(without, max(n - 2, 0))], column] = False  # two patients keep every class
    shares = np.empty((n, len(names)))
    for row in range(n):
        own = np.where(there[row], mean, 0)
        if effects.composition:
            own[there[row]] = rng.dirichlet(_CONCENTRATION / effects.composition**2 * own[there[row]] / own.sum())
            own[there[row]] = own[there[row]].clip(_LEAST)
        shares[row] = own / own.sum()
    sole = np.eye(len(names))[rng.permutation(len(names))][np.arange(n) % len(names)]
    shares = (1 - effects.confounding) * shares + effects.confounding * sole
    return [dict(zip(names, row.tolist(), strict=True)) for row in shares]
