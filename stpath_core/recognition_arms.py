"""The arms of Part 3's comparison: what each way to train an image encoder is, and all of them on every fold.

An arm names the side its pictures stand beside and the target; the controls differ from an arm in one thing alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from stpath_core.errors import InputError
from stpath_core.fit import one_torch_thread
from stpath_core.leakage import hidden_labels
from stpath_core.models.contrastive import ContrastiveModel, Target, both_sides, gene_side, identity, inter_modal
from stpath_core.parallel import each
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

Sides = Mapping[str, np.ndarray]  # of one fold: name of the side -> z (n, k)
AS_SCANNED, COMMON_STAIN = "as scanned", "common stain"
TARGETS: Mapping[str, Target] = MappingProxyType(
    {"identity": identity, "both_sides": both_sides, "gene_side": gene_side, "inter_modal": inter_modal}
)


@dataclass(frozen=True)
class Arm:
    """side : which expression stands beside a picture. shuffled : the control. mined : partners across patients, found
    in that side; balanced : patient-balanced batches. picture : which of the cohort's pictures are seen."""

    side: str
    target: str = "identity"
    shuffled: bool = False
    mined: str = ""
    balanced: bool = False
    picture: str = AS_SCANNED


@dataclass(frozen=True)
class Control:
    """The network as it starts, or (labels) trained from scratch by the labels of the others; no expression."""

    labels: bool = False
    picture: str = AS_SCANNED


ARMS: Mapping[str, Arm | Control] = MappingProxyType({
    "random": Control(),
    "supervised": Control(labels=True),
    "shuffled": Arm("scanvi", "inter_modal", shuffled=True),
    "raw_clip": Arm("raw"),
    "bleep": Arm("raw", "both_sides"),
    "scvi": Arm("scvi"),
    "scanvi_inter": Arm("scanvi", "inter_modal"),
    "beyond": Arm("scanvi", "inter_modal", balanced=True, picture=COMMON_STAIN),
    "random_common_stain": Control(picture=COMMON_STAIN),
})  # fmt: skip
# the same with partners across patients, the nearest in section-standardised space: as good, no better
MINED = Arm("scanvi", "inter_modal", mined="section_z", balanced=True, picture=COMMON_STAIN)
AGNOSTIC = ("scvi", "scanvi_inter")  # the paper's; the best of them is compared with the better of RIVALS
RIVALS = ("raw_clip", "bleep")


def needed_sides(arms: Mapping[str, Arm | Control]) -> list[str]:
    """Names of the sides that the arms ask stage 1 for."""
    return sorted({name for arm in arms.values() if isinstance(arm, Arm) for name in (arm.side, arm.mined) if name})


def train_arm(
    pairs: Pairs,
    sides: Sides,
    label: np.ndarray,
    arm: Arm | Control,
    held_out: str,
    *,
    settings: Settings,
    seed: int = 0,
) -> ContrastiveModel:
    """One arm trained without one patient, whose labels are hidden from whoever may see labels."""
    rows = np.flatnonzero(pairs.patient != held_out)
    if isinstance(arm, Control):
        shown = hidden_labels(label, pairs.patient == held_out)
        how = {"settings": settings, "seed": seed}
        return supervised(pairs, shown, rows, **how) if arm.labels else untrained(pairs, rows, **how)
    z = sides[arm.side]
    z = shuffled_pairs(z, pairs.patient, seed=seed) if arm.shuffled else z
    partner = mutual_partners(sides[arm.mined], pairs.patient, rows) if arm.mined else None
    how = replace(settings, balanced=arm.balanced)
    return train(pairs, z, rows, target=TARGETS[arm.target], settings=how, partner=partner, seed=seed)[0]


def frozen_arm(
    encoder: nn.Module, patches: np.ndarray, patient: np.ndarray, folds: Sequence[str], *, dim: int = 64
) -> dict[str, np.ndarray]:
    """A network that others have trained, as it is: held-out patient -> (n, dim), its outputs cut to as many principal
    components as the other arms have, fitted on the training patients.

    encoder : PatchEncoder or any module on (B, 3, S, S) uint8; patches : (n, S, S, 3) uint8.
    """
    from sklearn.decomposition import PCA

    shown = torch.from_numpy(np.ascontiguousarray(patches.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        out = torch.cat([encoder.eval()(part) for part in shown.split(128)]).float().numpy()  # (n, d)
    cut = min(dim, out.shape[1], len(out) // 2)
    return {who: PCA(cut, random_state=0).fit(out[patient != who]).transform(out) for who in folds}


def embed_arms(
    pictures: Mapping[str, Pairs],
    sides: Mapping[str, Sides],
    label: np.ndarray,
    *,
    arms: Mapping[str, Arm | Control] = ARMS,
    settings: Settings | None = None,
    seed: int = 0,
    folds: Sequence[str] | None = None,
    workers: int = 1,
    progress: Callable[[list[str]], Iterable[str]] = iter,
) -> dict[str, dict[str, np.ndarray]]:
    """Every arm on every fold: arm -> held-out patient -> u (n, D) of all spots.

    pictures : AS_SCANNED and, where an arm asks for it, COMMON_STAIN -> the same spots. sides : held-out patient ->
    side -> z. folds : patients to hold out; None: each in turn. workers : processes that share them.
    """
    lacking = {arm.picture for arm in arms.values()} - set(pictures)
    if lacking:
        message = f"no pictures {', '.join(lacking)}; given are {', '.join(pictures)}: see spot_pictures.common_stain"
        raise InputError(message)
    held = list(folds or pictures[AS_SCANNED].patients)
    one = partial(_embed_fold, pictures, label, dict(arms), settings or Settings(), seed)
    made = each(one, [(who, sides.get(who, {})) for who in held], workers=workers)
    parts = dict(zip(progress(held), made, strict=True))
    return {name: {who: parts[who][name] for who in held} for name in arms}


def embed_taught(
    pairs: Pairs,
    label: np.ndarray,
    told: Sequence[np.ndarray],
    *,
    settings: Settings | None = None,
    seed: int = 0,
    workers: int = 1,
) -> list[np.ndarray]:
    """The supervised control taught by some labels alone, once for each `told` (n,) bool: u (n, D) of all spots.

    workers : processes that share them; the result does not depend on it.
    """
    return list(each(partial(_embed_taught, pairs, label, settings or Settings(), seed), told, workers=workers))


def _embed_taught(pairs: Pairs, label: np.ndarray, settings: Settings, seed: int, told: np.ndarray) -> np.ndarray:
    with one_torch_thread():
        return embed(supervised(pairs, label, np.flatnonzero(told), settings=settings, seed=seed), pairs.image)


def _embed_fold(pictures, label, arms, settings: Settings, seed: int, job: tuple[str, Sides]) -> dict[str, np.ndarray]:
    held_out, sides = job
    out = {}
    with one_torch_thread():
        for name, arm in arms.items():
            seen = pictures[arm.picture]
            model = train_arm(seen, sides, label, arm, held_out, settings=settings, seed=seed)
            out[name] = embed(model, seen.image)
    return out
