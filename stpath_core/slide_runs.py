"""All slides held out once, by every method, and what they were told kept as one AnnData."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from stpath_core import expression as ex
from stpath_core import keys, slide_methods
from stpath_core.fit import one_torch_thread
from stpath_core.models import stacking
from stpath_core.models.cpnn import CPNN, random_profiles
from stpath_core.parallel import each
from stpath_core.spot_methods import FREE, WEIGHTS, Training

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def run_fold(
    fold: slide_methods.SlideFold, training: Training, *, truth: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[dict[str, np.ndarray], CPNN, stacking.Stacked]:
    """Predictions (S, g) of every method on the held-out slides, CPNN, and the shares of `beyond`.

    truth : true shares of the training and of the held-out slides, for the oracle. Without it there is no "oracle", and
    without optical density no "density".
    """
    one = {"steps": training.steps, "seed": training.seed, "device": training.device}
    wide = one | {"widths": training.widths}
    simple = {n: of for n, of in slide_methods.METHODS.items() if n != "density" or fold.train.density.shape[1]}
    found = {name: method(fold) for name, method in simple.items()}
    found["abmil"] = slide_methods.attention(fold, **one)
    found["no_prototype"] = slide_methods.no_prototypes(fold, **wide)
    model = slide_methods.train_cpnn(fold, **wide)
    found["cpnn"] = slide_methods.cpnn_answer(model, fold.test)[1]
    found["beyond"], stacked = slide_methods.beyond(fold, model, **wide)
    for draw in range(training.draws):
        found[f"shuffled_{draw}"] = slide_methods.shuffled_cpnn(fold, draw=draw, **wide)
    if truth is not None:
        found["oracle"] = slide_methods.composition_ridge(fold, *truth)
    return found, model, stacked


def ablations(fold: slide_methods.SlideFold, training: Training) -> dict[str, np.ndarray]:
    """CPNN less one thing at a time: random profiles, profiles that may not move, no correction, no regulariser."""
    like = torch.as_tensor(fold.profiles, dtype=torch.float32)
    less = {
        "cpnn_scratch": {"profiles": random_profiles(like, seed=training.seed).numpy()},
        "cpnn_frozen": {"trainable": False},
        "cpnn_no_correction": {"correction": False},
        "cpnn_no_regulariser": {"regularisers": FREE},
    }
    wide = {"steps": training.steps, "seed": training.seed, "device": training.device, "widths": training.widths}
    return {
        name: slide_methods.cpnn_answer(slide_methods.train_cpnn(fold, **wide, **how), fold.test)[1]
        for name, how in less.items()
    }


def workers_for(bags: Sequence[np.ndarray]) -> int:
    """Two processes where each can well hold bags (N_i, d) of its own; one for large archives and for few slides."""
    return 2 if len(bags) > 8 and sum(bag.nbytes for bag in bags) < 2**30 else 1


def _hold_out(bags, bulk, reference, known, training, n_genes, with_ablations, test):
    """One fold, its predictions, its CPNN and the shares of `beyond`. On one thread: the matrices are small."""
    with one_torch_thread():
        fold = slide_methods.make_fold(bags, bulk, reference, test, n_genes=n_genes)
        found, model, stacked = run_fold(fold, training, truth=None if known is None else (known[~test], known[test]))
        found |= ablations(fold, training) if with_ablations else {}
        return fold, found, model.cpu(), stacked  # a GPU's memory ends with its process


def hold_out(
    bags: Sequence[np.ndarray],
    bulk: AnnData,
    reference: pd.DataFrame,
    splits: Sequence[np.ndarray],
    training: Training,
    *,
    n_genes: int = ex.PANEL,
    with_ablations: bool = False,
    workers: int = 1,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[AnnData, list[CPNN]]:
    """Every slide predicted by models that have not seen its patient; also CPNN of each fold. workers : processes that
    share the folds; the result does not depend on them.

    bags, bulk : as of `slide_methods.make_fold`; obsm["composition"] true shares by the types of `reference`, if known.
    Returns obs patient and fold; layers target, counts (panel), nb_mean and, in var, what follows; one layer per
    method, nan for genes outside a fold's panel; obsm cell_type_weights, deconvolved (of the held-out slides, by
    prototypes: an estimate from their own expression) and composition; uns["folds"] what each fold chose.
    """
    import pandas as pd
    from anndata import AnnData

    types = list(reference.index)
    known = (
        bulk.obsm["composition"].reindex(columns=types, fill_value=0).to_numpy() if "composition" in bulk.obsm else None
    )
    layers: dict[str, np.ndarray] = {}
    shares = {WEIGHTS: np.zeros((bulk.n_obs, len(types)), np.float32)}
    shares["deconvolved"] = shares[WEIGHTS].copy()
    fold_of, chosen, models = np.full(bulk.n_obs, -1), [], []
    each_fold = partial(_hold_out, bags, bulk, reference, known, training, n_genes, with_ablations)
    answers = each(each_fold, splits, workers=workers)
    for number, (test, (fold, found, model, stacked)) in enumerate(zip(progress(splits), answers, strict=True)):
        weights, profile = slide_methods.mixtures(model, fold.test)
        theta = model.log_theta.detach().exp().cpu().numpy()
        kept = {"target": fold.test.target, "counts": fold.test.counts, "nb_mean": profile * fold.test.library[:, None]}
        kept |= {"nb_theta": np.broadcast_to(theta, profile.shape), **found}
        for name, values in kept.items():
            layers.setdefault(name, np.full(bulk.shape, np.nan, np.float32))[np.ix_(test, fold.columns)] = values
        shares[WEIGHTS][test] = weights
        shares["deconvolved"][test] = fold.apart.shares_of(bulk.layers[keys.COUNTS][test], bulk.var_names)
        fold_of[test] = number
        models.append(model)
        inner = dict(zip(("inner_cpnn", "inner_mospr", "inner_beyond"), stacked.inner, strict=True))
        chosen.append({"share_cpnn": stacked.shares[0], "share_mospr": stacked.shares[1], **inner})
    panel = np.flatnonzero(~np.isnan(layers["target"]).all(0))
    out = AnnData(
        layers["target"][:, panel], obs=bulk.obs.assign(fold=fold_of), var=pd.DataFrame(index=bulk.var_names[panel])
    )
    for name, values in layers.items():
        out.layers[name] = values[:, panel]
    if "expected" in bulk.layers:
        out.layers["expected"] = np.where(
            np.isnan(out.X), np.nan, np.log1p(np.asarray(bulk.layers["expected"])[:, panel])
        )
    if known is not None:
        shares["composition"] = known
    for key, values in shares.items():
        out.obsm[key] = pd.DataFrame(np.asarray(values, np.float32), index=out.obs_names, columns=types)
    out.uns["folds"] = pd.DataFrame(chosen)
    return out, models
