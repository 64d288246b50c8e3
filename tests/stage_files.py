"""Small packed stage files of each part, made by the library's own writers, for tests of `stpath fit`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from stpath_core.data import NucleiSection, write_nuclei_stage
from stpath_core.expression import patient_folds
from stpath_core.recognition_files import write_stage
from stpath_core.spot_files import write_spot_stage

CLASSES = ("round", "long")


def sections(side=96, patients=3):
    """Dark discs on a bright ground, two types, two sections a patient, each organ a patient."""
    rng, out = np.random.default_rng(0), []
    y, x = np.mgrid[:side, :side]
    for k in range(patients):
        image = rng.integers(200, 240, (side, side, 3)).astype(np.uint8)
        ids, labels = np.zeros((side, side), np.int32), [-1]
        for cy in range(14, side - 10, 24):
            for cx in range(14, side - 10, 24):
                inside = (y - cy) ** 2 + (x - cx) ** 2 < rng.uniform(40, 80)
                labels.append(len(labels) % 2)
                ids[inside] = len(labels) - 1
                image[inside] = image[inside] // (2 + labels[-1])
        out.append(
            NucleiSection(
                f"s{k}", f"organ{k}", f"p{k}", image, 0.5, ids, labels=np.array(labels, np.int8), truth_instances=ids
            )
        )
    return out


def cohort(patients=4, spots=30, genes=130):
    """Counts whose profiles depend on one number per spot, which the features hold as well."""
    rng = np.random.default_rng(1)
    n = patients * spots
    level, loading = rng.normal(size=n), rng.normal(size=genes)
    counts = rng.poisson(3 * np.exp(0.5 * level[:, None] * loading))
    who = np.repeat([f"p{k}" for k in range(patients)], spots)
    obs = pd.DataFrame({"patient": who, "section": who}, index=[f"spot{i}" for i in range(n)])
    table = AnnData(obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(genes)]))
    table.layers["counts"] = sp.csr_matrix(counts.astype(np.int32))
    table.obsm["features"] = (level[:, None] * rng.normal(size=6) + 0.1 * rng.normal(size=(n, 6))).astype(np.float32)
    table.obsm["density"] = table.obsm["features"][:, :3]
    table.obsm["spatial"] = 112.0 * np.stack([np.arange(n) % 6, np.arange(n) // 6 % 5], 1)
    profiles = pd.DataFrame(rng.gamma(2, 1, (3, genes)), ["a", "b", "c"], table.var_names)
    return table, profiles


def write_spots(path):
    """The cohort in two folds of patients."""
    table, profiles = cohort()
    write_spot_stage(path, table, profiles, patient_folds(table.obs["patient"], 2), dataset="virtual", n_genes=40)


def write_recognition(path, *, side=32):
    """The counts of the cohort beside noise as pictures and labels."""
    rng, table = np.random.default_rng(2), cohort()[0]
    patient = table.obs["patient"].to_numpy(str)
    write_stage(
        path, table.layers["counts"], {p: np.arange(100) for p in np.unique(patient)},
        rng.integers(0, 255, (len(patient), side, side, 3)).astype(np.uint8), table.obsm["spatial"], patient, patient,
        np.where(rng.random(len(patient)) < 0.5, "gland", "fat"), dataset="virtual",
    )  # fmt: skip


def write_all(folder):
    """nuclei.h5, spots.h5 and recognition.h5 in a folder."""
    picture = {"dataset": "virtual", "classes": CLASSES, "holdout": ["s2"]}
    write_nuclei_stage(folder / "nuclei.h5", sections(), **picture)
    write_spots(folder / "spots.h5")
    write_recognition(folder / "recognition.h5")
    return folder
