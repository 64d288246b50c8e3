"""What the lessons turn on: super-classes can be told apart by their nuclei, declared pairs cannot."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage as ndi
from skimage.measure import regionprops_table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stpath_core.tissue.architecture import grow
from stpath_core.tissue.calibration import stain_densities
from stpath_core.tissue.cell_types import CONTEXT_ONLY, INSEPARABLE, ORGANS
from stpath_core.tissue.histology import instance_mask, render

NUCLEAR = ["log_area", "log_aspect", "solidity", "hematoxylin", "mottling", "grain"]
COLOUR = ["relative", "eosin", "eosin_spread"]


def nuclear_table(organ: str, patient: int) -> pd.DataFrame:
    """One row per nucleus, measured on the picture through the true mask, as an outsider would."""
    arch = grow(organ, size_um=(500, 500), seed=20 + patient, patient=patient)
    image = render(arch, mpp=0.5, seed=patient)
    mask = instance_mask(arch.nuclei_um, mpp=0.5, shape=image.shape[:2])
    names = ("label", "area", "solidity", "major_axis_length", "minor_axis_length")
    table = pd.DataFrame(regionprops_table(mask, properties=names)).query("area > 12")
    ids = table.label.to_numpy()
    hematoxylin, eosin = stain_densities(image)
    table["log_area"] = np.log(table.area)
    table["log_aspect"] = np.log(table.major_axis_length / table.minor_axis_length.clip(1))
    table["hematoxylin"] = ndi.mean(hematoxylin, mask, ids)
    table["mottling"] = ndi.standard_deviation(hematoxylin, mask, ids)
    table["grain"] = ndi.standard_deviation(hematoxylin - ndi.gaussian_filter(hematoxylin, 1.5), mask, ids)
    table["eosin"], table["eosin_spread"] = ndi.mean(eosin, mask, ids), ndi.standard_deviation(eosin, mask, ids)
    table["relative"] = table.hematoxylin / table.hematoxylin.median()  # sections are stained to different depths
    cells = arch.cells.loc[ids]
    return table.assign(
        organ=organ, section=f"{organ}{patient}", fine=cells.cell_type.astype(str).to_numpy(),
        super_class=cells.super_class.astype(str).to_numpy(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def nuclei() -> pd.DataFrame:
    return pd.concat([nuclear_table(organ, patient) for organ in ORGANS for patient in (0, 1)], ignore_index=True)


def test_super_classes_are_told_apart_by_their_nuclei_also_in_unseen_organs(nuclei):
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, class_weight="balanced"))
    features = NUCLEAR + COLOUR
    unseen = nuclei.organ.isin(["kidney", "prostate"])
    model.fit(nuclei.loc[~unseen, features], nuclei.super_class[~unseen])
    assert f1_score(nuclei.super_class[unseen], model.predict(nuclei.loc[unseen, features]), average="macro") > 0.8
    seen = nuclei[~unseen]
    guess = np.empty(len(seen), object)
    for train, test in GroupKFold(3).split(seen, groups=seen.section):
        model.fit(seen[features].iloc[train], seen.super_class.iloc[train])
        guess[test] = model.predict(seen[features].iloc[test])
    assert 0.8 < f1_score(seen.super_class, guess.astype(str), average="macro") < 0.96  # learnable, not given away


@pytest.mark.parametrize("pair", INSEPARABLE + CONTEXT_ONLY, ids="-".join)
def test_declared_pairs_are_not_told_apart_by_their_nuclei(nuclei, pair):
    """Within each section, so that neither stain nor organ nor frequency can stand in for the nucleus."""
    two = nuclei[nuclei.fine.isin(pair)].copy()
    two[NUCLEAR] = two.groupby("section")[NUCLEAR].transform(lambda v: (v - v.mean()) / v.std())
    weight = 1 / two.groupby(["section", "fine"]).fine.transform("size")
    guess = np.empty(len(two), object)
    for train, test in GroupKFold(5).split(two, groups=two.section):
        model = LogisticRegression().fit(two[NUCLEAR].iloc[train], two.fine.iloc[train],
                                         sample_weight=weight.iloc[train] / weight.iloc[train].mean())  # fmt: skip
        guess[test] = model.predict(two[NUCLEAR].iloc[test])
    assert abs(balanced_accuracy_score(two.fine, guess.astype(str), sample_weight=weight) - 0.5) <= 0.05
