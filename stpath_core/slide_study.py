"""When do prototypes pay? Slides of the virtual tissue over niche, number of slides, batch, and faults of a reference.

Every cell of a study holds out the same slides of a seed and trains on the first so many of the others, so that cells
are compared on one test set. Studies turn the patients' own factors off (`batch=0`) unless the batch is the question:
with them nothing can be predicted by anyone. `benchmarks/study_part2.py` computes the tables that are committed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from stpath_core import deconvolution, prototypes, slide_methods, slide_runs, tissue
from stpath_core import expression as ex
from stpath_core.fit import one_torch_thread
from stpath_core.spot_cohorts import true_shares
from stpath_core.spot_methods import Training
from stpath_core.tissue.cell_types import SUPER_OF
from stpath_core.tissue.dissociated import MAJOR_TYPES

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpath_core.tissue.assay_effects import AssayEffects

TEST, MOST = 64, 256  # slides held out, and the most to train on
SLIDES, NICHE = 64, 0.3  # of the studies that vary something else; the niche is the tissue's default
WIDTHS, STEPS, WORKERS = (128, 64), 150, 2


@dataclass(frozen=True)
class Level:
    """How finely a reference is annotated. types : cells -> the type of each (n,), nan: not used. parent : fine type of
    the tissue -> its type here; None: types are found, and the tissue has none of that name."""

    types: Callable[[AnnData], pd.Series]
    parent: Callable[[str], str] | None


def named(column: str, parent: Callable[[str], str]) -> Level:
    """Types as a column of the reference names them."""
    return Level(lambda cells: prototypes.usable_types(cells, column), parent)


def clustered(resolution: float) -> Level:
    """Types as Leiden finds them."""
    return Level(lambda cells: prototypes.clusters(cells, (resolution,)).iloc[:, 0], None)


LEVELS = {
    "coarse": named("super_class", SUPER_OF.get),
    "medium": named("cell_type_major", MAJOR_TYPES.get),
    "fine": named("cell_type", str),
    "leiden 0.5": clustered(0.5),
    "leiden 2.0": clustered(2.0),
}
REFERENCES = {  # donors, organ, types that are missing on purpose
    "whole": (6, "breast", 0),
    "as it comes": (6, "breast", 1),
    "three types missing": (6, "breast", 3),
    "two donors": (2, "breast", 1),
    "of another organ": (6, "colon", 1),
}
GRIDS = {
    "part2_slides": {"seed": (0, 1, 2), "niche": (0.0, 0.15, 0.3, 0.6), "slides": (16, 32, 64, 128, 256)},
    "part2_batch": {"seed": (0, 1, 2), "batch": (0.0, 0.2, 0.5, 1.0)},
    "part2_reference": {"seed": (0, 1, 2), "reference": tuple(REFERENCES)},
    "part2_types": {"seed": (0, 1, 2), "types": tuple(LEVELS)},
}


def effects_of(niche: float, batch: float) -> AssayEffects:
    """The tissue's defaults, but for the niche that the image shows (SD, natural log) and the patients' own factors, as
    a multiple of their default."""
    usual = tissue.AssayEffects()
    names = ("expression_batch", "section_batch", "class_batch", "batch_additive")
    return replace(usual, niche_visible=niche, **{name: batch * getattr(usual, name) for name in names})


def slides_cell(*, seed: int, niche: float, slides: int) -> dict[str, float]:
    """Niche x slides, without the patients' own factors."""
    return scores(seed, slides, effects_of(niche, 0))


def batch_cell(*, seed: int, batch: float) -> dict[str, float]:
    """Strength of the patients' own factors, a multiple of the default."""
    return scores(seed, SLIDES, effects_of(NICHE, batch))


def reference_cell(*, seed: int, reference: str) -> dict[str, float]:
    """How far the reference is from the tissue of the slides."""
    return scores(seed, SLIDES, effects_of(NICHE, 0), reference=reference)


def types_cell(*, seed: int, types: str) -> dict[str, float]:
    """How finely the reference is annotated, by name or by clusters."""
    return scores(seed, SLIDES, effects_of(NICHE, 0), types=types)


CELLS = {
    "part2_slides": slides_cell,
    "part2_batch": batch_cell,
    "part2_reference": reference_cell,
    "part2_types": types_cell,
}


def scores(
    seed: int, slides: int, effects: AssayEffects, *, reference: str = "as it comes", types: str = "medium"
) -> dict[str, float]:
    """scc.<method> and pcc.<method> of the held-out slides, composition_pearson of CPNN's weights and of deconvolved
    shares (train side; neither for types that were found), rank that `beyond` chose. nan where a method has no score.
    """
    bags, bulk = bags_of(seed, TEST + MOST), bulk_of(seed, TEST + MOST, effects)
    profiles = profiles_of(seed, reference, types)
    number = np.arange(TEST + MOST)
    fold = slide_methods.make_fold(bags, bulk, profiles, number < TEST, train=number < TEST + slides)
    truth = true_shares(bulk, "mrna_share", LEVELS[types].parent or MAJOR_TYPES.get)
    sides = truth.to_numpy()[TEST : TEST + slides], truth.to_numpy()[:TEST]
    training = Training(steps=STEPS, widths=WIDTHS, seed=seed, draws=1)
    with one_torch_thread():  # as in a notebook: the matrices are small, and threads that wait cost ten times the work
        pred, model, stacked = slide_runs.run_fold(fold, training, truth=sides)
    pred["expected"] = np.log1p(np.asarray(bulk.layers["expected"])[:TEST][:, fold.columns])
    told = ex.score_slides(fold.test.target, pred, n=2)
    out = {f"{measure}.{name}": told.mean(name, measure) for name in pred for measure in ("scc", "pcc")}
    weights = slide_methods.cpnn_answer(model, fold.test)[0]
    said = (("cpnn", weights, sides[1]), ("deconvolved_train", fold.train.shares, sides[0]))
    for name, guess, true in said if LEVELS[types].parent else ():
        out[f"composition_pearson.{name}"] = composition_score(guess, fold.types, true, list(truth.columns))
    return out | {"share_cpnn": stacked.shares[0], "share_mospr": stacked.shares[1], "types": float(len(fold.types))}


def composition_score(guess: np.ndarray, types: list[str], true: np.ndarray, names: list[str]) -> float:
    """Median over the types of the tissue of Pearson across slides; a type that the reference lacks scores 0."""
    place = {t: k for k, t in enumerate(types)}
    mine = np.stack([guess[:, place[t]] if t in place else np.zeros(len(guess)) for t in names], axis=1)
    held = true.mean(0) > 0.005  # a type of which the tissue holds next to nothing is not asked for
    return float(np.median(deconvolution.type_correlations(true[:, held], mine[:, held])))


@lru_cache(maxsize=3)
def bags_of(seed: int, n: int) -> tuple[np.ndarray, ...]:
    """Features of the slides of a seed: half a second a slide, and the same whatever the effects on expression."""
    cohort = tissue.slide_cohort(n, seed=seed, common_stain=True, workers=WORKERS)
    return tuple(bag.features for bag in cohort.bags.values())


@lru_cache(maxsize=2)
def bulk_of(seed: int, n: int, effects: AssayEffects) -> AnnData:
    return tissue.slide_cohort(n, seed=seed, effects=effects, images=False, workers=WORKERS).bulk


@lru_cache(maxsize=2)
def profiles_of(seed: int, reference: str, types: str) -> pd.DataFrame:
    """Prototypes (C, G), as notebook 20 makes them, from one of REFERENCES."""
    donors, organ, missing = REFERENCES[reference]
    effects = replace(tissue.AssayEffects(), missing_types=missing)
    cells, _ = prototypes.quality(tissue.reference(donors, organ=organ, seed=seed, effects=effects))
    return prototypes.fit_prototypes(cells, LEVELS[types].types(cells)).profiles


def lead(found: pd.DataFrame, a: str, b: str, *, by: tuple[str, ...]) -> pd.DataFrame:
    """By how much method a exceeds b (SCC) per cell: mean over seeds, the least, and on how many of them a is ahead."""
    wide = found.pivot_table(index=[*by, "seed"], columns="key", values="value")
    gap = (wide[f"scc.{a}"] - wide[f"scc.{b}"]).groupby(list(by))
    return gap.agg(mean="mean", least="min", ahead=lambda v: int((v > 0).sum()), seeds="size")


def crossing(found: pd.DataFrame, a: str, b: str, *, factor: str = "slides", by: str = "niche") -> pd.Series:
    """Per level of `by`: the level of `factor` from which on b is no longer behind a, mean over seeds; nan: never."""
    import pandas as pd

    gap = lead(found, a, b, by=(by, factor))["mean"].unstack(factor)
    behind = gap.to_numpy() > 0  # (levels of by, levels of factor, ascending)
    last = [int(np.flatnonzero(row)[-1]) + 1 if row.any() else 0 for row in behind]
    levels = gap.columns.to_numpy(float)
    return pd.Series([levels[k] if k < len(levels) else np.nan for k in last], index=gap.index, name=f"{b} catches {a}")
