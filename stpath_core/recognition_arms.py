"""The arms of Part 3's comparison: what each way to train an image encoder is, and all of them on every fold.

An arm names the side its pictures stand beside and the target; the controls differ from an arm in one thing alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from stpath_core.errors import InputError
from stpath_core.fit import Progress
from stpath_core.leakage import hidden_labels
from stpath_core.models.contrastive import ContrastiveModel, Target, both_sides, gene_side, identity, inter_modal
from stpath_core.recognition import (
    Pairs,
    Settings,
    embed,
    mutual_partners,
    shuffled_pairs,
    supervised,
    train,
    untrained,
)
from stpath_core.spots import neighbour_mean

Sides = Mapping[str, np.ndarray]  # of one fold: name of the side -> z (n, k)
TARGETS: Mapping[str, Target] = MappingProxyType(
    {"identity": identity, "both_sides": both_sides, "gene_side": gene_side, "inter_modal": inter_modal}
)


@dataclass(frozen=True)
class Arm:
    """side : which expression stands beside a picture. shuffled : the control. mined : partners across patients, found
    in that side; balanced : patient-balanced batches. around : the pictures of the neighbouring spots are seen too."""

    side: str
    target: str = "identity"
    shuffled: bool = False
    mined: str = ""
    balanced: bool = False
    around: bool = False


ARMS: Mapping[str, Arm] = MappingProxyType({
    "raw_clip": Arm("raw"),
    "bleep": Arm("raw", "both_sides"),
    "scvi": Arm("scvi"),
    "scanvi_inter": Arm("scanvi", "inter_modal"),
    "shuffled": Arm("scanvi", "inter_modal", shuffled=True),
    "beyond": Arm("section_z", mined="section_z", balanced=True, around=True),
})  # fmt: skip
CONTROLS = ("random", "supervised")
AGNOSTIC = ("scvi", "scanvi_inter")  # the paper's; the best of them is compared with the better of RIVALS
RIVALS = ("raw_clip", "bleep")


def with_surroundings(pairs: Pairs) -> Pairs:
    """Features of each spot beside the mean of its neighbours' in the section: (n, 2 d). Pictures only, no label."""
    if pairs.image.ndim != 2:
        message = "surroundings are averaged as features; compute features of the patches first"
        raise InputError(message)
    around = neighbour_mean(pairs.image, pairs.xy_um, pairs.section)
    return replace(pairs, image=np.concatenate([pairs.image, around], axis=1).astype(np.float32))


def train_arm(
    pairs: Pairs, sides: Sides, arm: Arm, held_out: str, *, settings: Settings, seed: int = 0
) -> ContrastiveModel:
    """One arm trained without one patient."""
    rows = np.flatnonzero(pairs.patient != held_out)
    z = sides[arm.side]
    z = shuffled_pairs(z, pairs.patient, seed=seed) if arm.shuffled else z
    partner = mutual_partners(sides[arm.mined], pairs.patient, rows) if arm.mined else None
    how = replace(settings, balanced=arm.balanced)
    return train(pairs, z, rows, target=TARGETS[arm.target], settings=how, partner=partner, seed=seed)[0]


def control(
    pairs: Pairs, label: np.ndarray, name: str, held_out: str, *, settings: Settings, seed: int = 0
) -> ContrastiveModel:
    """`random`: as it starts. `supervised`: from scratch by the labels of the others; the held-out one's are hidden."""
    rows = np.flatnonzero(pairs.patient != held_out)
    if name == "random":
        return untrained(pairs, rows, settings=settings, seed=seed)
    shown = hidden_labels(label, pairs.patient == held_out)
    return supervised(pairs, shown, rows, settings=settings, seed=seed)


def embed_arms(
    pairs: Pairs,
    sides: Mapping[str, Sides],
    label: np.ndarray,
    *,
    arms: Mapping[str, Arm] = ARMS,
    controls: tuple[str, ...] = CONTROLS,
    settings: Settings | None = None,
    seed: int = 0,
    folds: tuple[str, ...] | None = None,
    progress: Callable[[list[str]], Progress] | Progress = iter,
) -> dict[str, dict[str, np.ndarray]]:
    """Every arm and control, on every fold: arm -> held-out patient -> u (n, D) of all spots.

    sides : held-out patient -> side -> z. folds : patients to hold out; None: each in turn.
    """
    s = settings or Settings()
    wide = with_surroundings(pairs) if any(arm.around for arm in arms.values()) else pairs
    out: dict[str, dict[str, np.ndarray]] = {name: {} for name in (*controls, *arms)}
    for held_out in progress(list(folds or pairs.patients)):
        for name in controls:
            model = control(pairs, label, name, held_out, settings=s, seed=seed)
            out[name][held_out] = embed(model, pairs.image)
        for name, arm in arms.items():
            seen = wide if arm.around else pairs
            model = train_arm(seen, sides[held_out], arm, held_out, settings=s, seed=seed)
            out[name][held_out] = embed(model, seen.image)
    return out
