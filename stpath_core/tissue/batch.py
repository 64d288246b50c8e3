"""Batch effects of spots and bulk: what a patient, a section and a class of tissue do to every gene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stpath_core.tissue.assay_effects import AssayEffects
from stpath_core.tissue.broad import N_GENES
from stpath_core.tissue.cell_types import ORGANS, REGIONS
from stpath_core.tissue.stains import stain_draw

_WORLD = 20_260_103
_COLOURS = 4  # draws of the stain that an expression batch can share


@dataclass(frozen=True)
class Batch:
    """factor (G,): of every gene, patient and section together. by_region (7, G): further factor in each region.
    added (G,): the profile, sums to 1, of which every spot holds a share."""

    factor: np.ndarray
    by_region: np.ndarray
    added: np.ndarray


def gene_batch(organ: str, patient: int, *, section: int = 0, effects: AssayEffects) -> Batch:
    """The batch of one section of one patient, the same in every run.

    With `stain_shared` 1 the patient's part is a linear function of the four draws that colour their stain.
    """
    who = [ORGANS.index(organ), patient]
    rng = np.random.default_rng([*who, 302])
    own, added = rng.normal(size=(2, N_GENES))
    by_region = rng.normal(size=(len(REGIONS), N_GENES))
    weights = np.random.default_rng([_WORLD, 1]).normal(size=(_COLOURS, N_GENES)) / np.sqrt(_COLOURS)
    told = stain_draw(organ, patient)[:_COLOURS] @ weights
    own = np.sqrt(1 - effects.stain_shared**2) * own + effects.stain_shared * told
    in_section = np.random.default_rng([*who, section, 303]).normal(size=N_GENES)
    added = np.exp(1.5 * added)
    return Batch(
        factor=np.exp(effects.expression_batch * own + effects.section_batch * in_section),
        by_region=np.exp(effects.class_batch * by_region),
        added=added / added.sum(),
    )
