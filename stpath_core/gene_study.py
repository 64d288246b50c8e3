"""The study of stage 1: how mixing and recognition change with the strength of the batch effect and its confounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stpath_core import gene_scores, probes, tissue
from stpath_core.gene_embeddings import METHODS, GeneSpots, embed_folds
from stpath_core.spot_cohorts import without_empty

NAME = "part3_gene_batch"
GRID = {"batch": [0.0, 1.0, 2.0], "confounding": [0.0, 0.7], "seed": [0]}
_SCALED = ("expression_batch", "batch_additive", "section_batch", "class_batch")
PATIENTS, ACROSS = 6, 8  # small, because every cell grows a cohort of its own and trains six encoders on it
TRAINING = {"steps": 300, "batch_size": 256, "latent": 20, "kl_weight": 0.3, "genes": 500}


def effects_of(*, batch: float, confounding: float) -> tissue.AssayEffects:
    """The default effects with every strength of the expression batch times `batch`, and patient confounded with
    class by `confounding` (0 to 1)."""
    usual = tissue.AssayEffects()
    scaled = {name: batch * getattr(usual, name) for name in _SCALED}
    return replace(usual, confounding=confounding, **scaled)


def batch_cell(*, batch: float, confounding: float, seed: int) -> dict[str, float]:
    """Pooled F1, smoothed F1, mixing and iLISI of PCA, section_z and the unguided encoder on a cohort of its own."""
    effects = effects_of(batch=batch, confounding=confounding)
    cohort = tissue.spot_cohort(PATIENTS, rows=ACROSS, columns=ACROSS, seed=seed, effects=effects)
    spots = GeneSpots.of(without_empty(cohort))
    chosen = {"genes": TRAINING["genes"], "seed": seed}
    options = {name: value for name, value in TRAINING.items() if name != "genes"}
    embeddings = embed_folds(spots, {name: METHODS[name] for name in ("pca", "section_z")}, **chosen)
    embeddings |= embed_folds(spots, {"scvi": METHODS["scvi"]}, **chosen, **options)
    smooth, out = probes.neighbourhood(spots.xy_um, spots.section), {}
    for name, folds in embeddings.items():
        out[f"{name}.f1"] = probes.judge(folds, spots.label, spots.patient).pooled
        out[f"{name}.smoothed"] = probes.judge(folds, spots.label, spots.patient, smooth=smooth).pooled
        measured = gene_scores.mixing_measures(folds, spots)
        out |= {f"{name}.{key}": measured[key] for key in ("mixing", "ilisi")}
    return {key: float(value) if np.isfinite(value) else None for key, value in out.items()}
