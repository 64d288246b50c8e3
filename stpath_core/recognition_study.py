"""Whole experiments of Part 3 in one call: a tissue grown, both stages, every fold, every arm, scored by patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stpath_core import expression, keys, probes, tissue
from stpath_core import recognition_scores as scores
from stpath_core.errors import InputError
from stpath_core.features import tile_features
from stpath_core.gene_embeddings import METHODS, GeneSpots, embed_folds
from stpath_core.models.expression_baselines import fit_ridge
from stpath_core.recognition import Pairs, Settings
from stpath_core.recognition_arms import (
    AGNOSTIC,
    ARMS,
    AS_SCANNED,
    COMMON_STAIN,
    MINED,
    RIVALS,
    TARGETS,
    Arm,
    Control,
    embed_arms,
    needed_sides,
)
from stpath_core.recognition_cohorts import words
from stpath_core.recognition_files import read_sides
from stpath_core.spot_pictures import PATCH_MPP, cohort_patches, common_stain
from stpath_core.spots import centred
from stpath_core.tissue import AssayEffects

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame, Index

BATCH = ("expression_batch", "batch_additive", "section_batch", "class_batch")  # what a batch does to expression
DEPTH = "section_depth"  # and to how much of it is caught: in log expression that is a batch effect, too
GENE_STEPS = 150  # of stage 1 in the studies, as at the cpu profile
ENCODERS = {  # likewise, as notebook 30 trains them
    "scvi": {"batch_size": 256, "latent": 64, "kl_weight": 0.3, "input_dropout": 0.6},
    "scanvi": {"batch_size": 256, "latent": 64, "kl_weight": 0.1},
}
PENALTIES = (10.0, 100.0, 1e3, 1e4)
GRID = ("raw", "pca", "scvi", "scanvi")


def with_batch(strength: float, effects: AssayEffects | None = None) -> AssayEffects:
    """The effects with every batch effect on expression multiplied by `strength`: 0 none, 1 as calibrated. The stain of
    patients, and all that is not a batch effect of expression, stays.

    Sections differ in depth by a factor of twenty. Log expression of a shallow section is mostly zeros, so depth alone
    keeps patients apart there, and goes with the rest; but above 1 it stays as calibrated, because a section with fewer
    molecules says less, whoever reads it.
    """
    base = effects or AssayEffects()
    scaled = {f.name: strength * getattr(base, f.name) for f in fields(base) if f.name in BATCH}
    return replace(base, **scaled, **{DEPTH: min(strength, 1.0) * getattr(base, DEPTH)})


@lru_cache(maxsize=2)
def pictures(seed: int, array: int, patients: int, confounding: float) -> tuple[Index, dict[str, np.ndarray]]:
    """Names of a virtual cohort's spots, and their features (n, 96), as scanned and in the common stain. They do not
    depend on the batch effect of expression."""
    cohort = grown(seed, array, patients, AssayEffects(confounding=confounding))
    return cohort.obs_names, both_features(cohort_patches(cohort), cohort.obs[keys.SECTION].astype(str).to_numpy())


def matched(cohort: AnnData, names: Index, images: Mapping[str, np.ndarray]) -> tuple[AnnData, dict[str, Pairs]]:
    """The spots of a cohort that have a picture, and their pairs; names : of the pictures' rows. Which spots catch
    nothing, and are left out, hangs on the effects."""
    rows = names.get_indexer(cohort.obs_names)
    there = cohort[rows >= 0].copy()
    return there, pairs_of(there, {name: image[rows[rows >= 0]] for name, image in images.items()})


def both_features(patches: np.ndarray, section: np.ndarray, *, mpp: float = PATCH_MPP) -> dict[str, np.ndarray]:
    """Features (n, 96) of patches as they were scanned and of the same in the common stain."""
    shown = {AS_SCANNED: patches, COMMON_STAIN: common_stain(patches, section)}
    return {name: tile_features(some, mpp=mpp) for name, some in shown.items()}


@lru_cache(maxsize=2)
def grown(seed: int, array: int, patients: int, effects: AssayEffects, workers: int = 1) -> AnnData:
    """The cohort of notebook 30."""
    return tissue.spot_cohort(patients, rows=array, columns=array, seed=seed, effects=effects, workers=workers)


def sides_of(
    cohort: AnnData,
    names: Sequence[str],
    *,
    folds: Sequence[str] | None = None,
    seed: int = 0,
    workers: int = 1,
    **options: float,
) -> dict[str, dict[str, np.ndarray]]:
    """Stage 1 on every fold: held-out patient -> side -> z (n, k), fitted without that patient.

    options : of the two encoders, such as steps; see `gene_encoding.fit_gene_encoder`. workers : processes that share
    the folds.
    """
    spots = GeneSpots.of(cohort)
    held = list(folds or spots.patients)
    methods = {n: partial(METHODS[n], **(ENCODERS[n] | options)) if n in ENCODERS else n for n in names}
    made = embed_folds(spots, methods, folds=held, seed=seed, workers=workers)
    return {who: {name: made[name][who] for name in names} for who in held}


def open_stage(
    stage: Path, names: np.ndarray, *, transfer_by: str = "section_z"
) -> tuple[AnnData, dict[str, dict[str, np.ndarray]], np.ndarray, tuple[str, ...]]:
    """What notebook 30 left, for the spots of `names` (those with a picture): spots, sides by fold, labels, and folds.

    folds : the patients that annotators have labelled, each to be held out. Where that is one patient alone (HER2ST has
    one picture with labels), the spots of the others get the class that expression names, by the side `transfer_by` of
    that fold and the labels of patients that are not held out: marked in the notebook, because it is no annotation.
    """
    import anndata

    whole = anndata.read_h5ad(stage / "spots.h5ad")
    rows = whole.obs_names.get_indexer(names)
    if (rows < 0).any():
        message = f"{int((rows < 0).sum())} of {len(rows)} pictures belong to no spot of {stage}: run 31 again after 30"
        raise InputError(message)
    sides = read_sides(stage / "embeddings.h5")
    label, patient = (words(whole.obs, name) for name in (keys.LABEL, keys.PATIENT))
    folds = tuple(np.unique(patient[rows][~np.isin(label[rows], probes.NOT_A_CLASS)]))
    if len(folds) == 1:
        label = scores.transferred(sides[folds[0]][transfer_by], label, patient, folds[0])
    sides = {who: {name: z[rows] for name, z in fold.items()} for who, fold in sides.items()}
    return whole[rows].copy(), sides, label[rows], folds


def pairs_of(cohort: AnnData, images: Mapping[str, np.ndarray]) -> dict[str, Pairs]:
    """A cohort and its pictures as stage 2 sees them, without labels. images : name -> (n, d) or patches."""
    patient, section = (words(cohort.obs, name) for name in (keys.PATIENT, keys.SECTION))
    xy_um = np.asarray(cohort.obsm[keys.SPATIAL])
    return {name: Pairs(image, xy_um, patient, section) for name, image in images.items()}


def run_tissue(
    seed: int,
    arms: Mapping[str, Arm | Control] = ARMS,
    *,
    strength: float = 1.0,
    confounding: float = 0.0,
    array: int = 12,
    patients: int = 8,
    training_seed: int = 0,
    gene_steps: int = GENE_STEPS,
    settings: Settings | None = None,
) -> dict[str, float]:
    """One tissue from its seed to the scores: "<arm>.pooled", "<arm>.mean" and "<arm>.<patient>" (macro-F1)."""
    effects = with_batch(strength, AssayEffects(confounding=confounding))
    shown = pictures(seed, array, patients, confounding)
    cohort, seen = matched(grown(seed, array, patients, effects), *shown)
    label = cohort.obs[keys.LABEL].astype(str).to_numpy()
    sides = sides_of(cohort, needed_sides(arms), seed=training_seed, steps=gene_steps)
    embedded = embed_arms(seen, sides, label, arms=arms, settings=settings, seed=training_seed)
    out = {}
    for name, folds in embedded.items():
        found = probes.judge(folds, label, seen[AS_SCANNED].patient)
        out |= {f"{name}.pooled": found.pooled, f"{name}.mean": found.mean}
        out |= {f"{name}.{who}": value for who, value in found.patient.items()}
    return out


def grid_arms(sides: Sequence[str] = GRID) -> dict[str, Arm]:
    """All sides with all targets, "<side>.<target>"."""
    return {f"{side}.{target}": Arm(side, target) for side in sides for target in TARGETS}


def predict_expression(
    cohort: AnnData, inputs: Mapping[str, np.ndarray], *, genes: int = 50
) -> tuple[np.ndarray, np.ndarray]:
    """Ridge from frozen embeddings to `genes` abundant genes; returns predicted and measured, (n, genes) float32 each.

    inputs : held-out patient -> (n, D) of all spots. The genes of a fold are those of highest total in its training
    patients, highest first: the rows of a held-out patient, of both tables, hold the genes of its own fold, and a
    column is a rank, not one gene throughout. Score within patients or sections, as `expression.score_spots` does. Both
    sides are taken relative to the section's mean, as they are scored; the penalty is chosen on inner folds of the
    training patients. Rows of patients never held out are nan.
    """
    patient, section = (words(cohort.obs, name) for name in (keys.PATIENT, keys.SECTION))
    counts = cohort.layers[keys.COUNTS]
    predicted = np.full((cohort.n_obs, genes), np.nan, np.float32)
    measured = predicted.copy()
    for who, x in inputs.items():
        rows = patient != who
        columns = expression.panel(counts, np.flatnonzero(rows), genes)
        wanted = centred(expression.target(counts, columns), section)
        x = centred(x, section)
        x = x / (x[rows].std(0) + 1e-6)
        inner = [patient[rows] == name for name in np.unique(patient[rows])]
        ridge = fit_ridge(x[rows], wanted[rows], section[rows], inner, alphas=PENALTIES)
        predicted[~rows], measured[~rows] = ridge(x[~rows]), wanted[~rows]
    return predicted, measured


GRID_STUDY = {"tissue": [0, 1, 2, 3, 4]}
STRENGTH_STUDY = {"tissue": [0, 1, 2], "strength": [0.0, 0.5, 1.0, 2.0], "confounding": [0.0, 0.5, 1.0]}
STRENGTH_ARMS = ("raw_clip", "bleep", "scvi", "scanvi_inter")


def run_grid(tissue: int) -> dict[str, float]:
    """A cell of the study of all sides with all targets, controls and our idea beside them."""
    return run_tissue(tissue, {**grid_arms(), **ARMS, "mined": MINED})


def run_strength(tissue: int, strength: float, confounding: float) -> dict[str, float | None]:
    """A cell of the study of batch strength and confounding. Nothing where both differ from their defaults."""
    if strength != 1.0 and confounding != 0.0:
        return {f"{arm}.mean": None for arm in STRENGTH_ARMS}
    return run_tissue(tissue, {a: ARMS[a] for a in STRENGTH_ARMS}, strength=strength, confounding=confounding)


def leads(grid: DataFrame) -> DataFrame:
    """Of the table of GRID_STUDY, a row per tissue and patient: how far the better batch-agnostic arm of the paper is
    above the better of its rivals ("gain"), our idea above that arm ("beyond"), and the untrained network in the common
    stain above our idea ("stain"). Which arm is better is one answer for all tissues."""
    wide = _by_patient(grid, ["tissue"])
    agnostic, rival = _better(wide)
    return pd.DataFrame({
        "gain": wide[agnostic] - wide[rival],
        "beyond": wide["beyond"] - wide[agnostic],
        "stain": wide["random_common_stain"] - wide["beyond"],
    })  # fmt: skip


def gains(strength: DataFrame) -> DataFrame:
    """Of the table of STRENGTH_STUDY, a row per tissue and patient, a column per cell, "strength 0.5" or "confounding
    0.5": how far the better batch-agnostic arm of the paper is above the better of its rivals. Which arms these are is
    one answer for the whole table."""
    wide = _by_patient(strength, ["tissue", "strength", "confounding"])
    agnostic, rival = _better(wide)
    ahead = (wide[agnostic] - wide[rival]).unstack(["strength", "confounding"])
    ahead.columns = [f"confounding {c:g}" if c else f"strength {s:g}" for s, c in ahead.columns]
    return ahead.sort_index(axis=1, key=lambda names: names.str.replace("strength", "a"))


def _by_patient(table: DataFrame, cell: list[str]) -> DataFrame:
    """macro-F1 of each arm (columns), a row per cell and patient."""
    named = table["key"].str.extract(r"^(?P<arm>\w+)\.(?P<patient>p\d+)$").join(table[[*cell, "value"]]).dropna()
    return named.pivot_table(index=["tissue", "patient", *cell[1:]], columns="arm", values="value")


def _better(wide: DataFrame) -> tuple[str, str]:
    """The better of the paper's arms and the better of its rivals."""
    agnostic, rival = (str(wide[list(arms)].mean().idxmax()) for arms in (AGNOSTIC, RIVALS))
    return agnostic, rival
