"""One fold of the spots: the training patients' panel, target, prototypes and shares, and every method on them.

A method takes a `SpotFold` and answers with predictions (n, g) for its held-out spots. Everything is learned relative
to the section: features are centred and scaled in their section (an image's own stain and sharpness, no expression),
targets are centred, because correlations are taken within sections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from stpath_core import expression as ex
from stpath_core import keys
from stpath_core.expression_folds import Fold, take_apart
from stpath_core.fit import one_torch_thread, pick_device
from stpath_core.models import expression_baselines as baselines
from stpath_core.models import expression_networks as networks
from stpath_core.models import residual
from stpath_core.models.cpnn import CPNN, PER, Regularisers, answer, spot_loss
from stpath_core.parallel import each
from stpath_core.spots import SpotTable, centred, neighbour_mean, smoothed

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

WEIGHTS = "cell_type_weights"  # obsm
FREE = Regularisers(weights=0.0, prototypes=0.0)
FAR = 5.0  # SD, where a feature is cut: a fold of tissue is not a hundred times a feature


SpotFold = Fold[SpotTable]


def make_fold(adata: AnnData, profiles: pd.DataFrame, test: np.ndarray, *, n_genes: int = ex.PANEL) -> SpotFold:
    """adata : of `spot_cohorts`. profiles (C, G of the reference) expected counts; test (n,) bool, held-out spots."""
    patient, section = (adata.obs[c].astype(str).to_numpy() for c in (keys.PATIENT, keys.SECTION))
    ex.audit_patients(patient[~test], patient[test])
    counts = adata.layers[keys.COUNTS].tocsr()
    columns = ex.panel(counts, ~test, n_genes)
    level = np.asarray(counts[~test].sum(0)).ravel()[columns] / counts[~test].sum() * PER
    apart = take_apart(counts[~test], adata.var_names, profiles)
    caught, absent = apart.at_level(adata.var_names[columns], level)
    shares = np.zeros((adata.n_obs, len(caught)), np.float32)
    shares[~test] = apart.found.shares
    of_image = (np.asarray(adata.obsm[name]) for name in ("features", "density", keys.SPATIAL))
    whole = SpotTable(**described(*of_image, patient, section), target=ex.target(counts, columns), shares=shares)
    return Fold(whole.rows(~test), whole.rows(test), columns, caught, list(profiles.index), absent, apart)


def described(
    features: np.ndarray, density: np.ndarray, xy_um: np.ndarray, patient: np.ndarray, section: np.ndarray
) -> dict[str, np.ndarray]:
    """What a SpotTable holds beside target and shares; features and density relative to their section."""
    relative = {name: centred(v, section, scaled=True) for name, v in (("features", features), ("density", density))}
    relative["features"] = relative["features"].clip(-FAR, FAR)
    return relative | {"xy_um": xy_um, "patient": patient, "section": section}


def mean(fold: SpotFold) -> np.ndarray:
    """The training mean: a constant, which has no score."""
    return np.repeat(fold.train.target.mean(0)[None], len(fold.test), axis=0)


def ridge(fold: SpotFold, *, inputs: str = "features", ranks: tuple = (None,)) -> np.ndarray:
    """Ridge on "features" or on "density"; with ranks, low-rank ridge as MoSPR's last step."""
    train, y = fold.train, centred(fold.train.target, fold.train.section)
    model = baselines.fit_ridge(getattr(train, inputs), y, train.section, train.inner_folds(), ranks=ranks)
    return model(getattr(fold.test, inputs))


def composition_ridge(fold: SpotFold, shares: np.ndarray, of_test: np.ndarray) -> np.ndarray:
    """The oracle: ridge on true shares, (n_train, C) and (n_test, C), of what no image can tell better."""
    train, y = fold.train, centred(fold.train.target, fold.train.section)
    unit = shares.std(0) + 1e-3
    x, z = centred(shares / unit, train.section), centred(of_test / unit, fold.test.section)
    return baselines.fit_ridge(x, y, train.section, train.inner_folds())(z)


def linear_head(fold: SpotFold, *, steps: int, seed: int = 0, device: str = "cpu") -> np.ndarray:
    """ST-Net-like: a linear head by gradient descent."""
    torch.manual_seed(seed)
    model = networks.LinearHead(fold.train.features.shape[1], fold.train.target.shape[1])
    of_a_layer = {"lr": 1e-2, "seed": seed, "device": device}  # one layer takes ten times the pace of a network
    networks.train_by_section(model, fold.train, networks.squared_step, steps=steps, **of_a_layer)
    return networks.predicted(model, fold.test.features)


def no_prototypes(
    fold: SpotFold, *, steps: int, widths: tuple[int, int], seed: int = 0, device: str = "cpu"
) -> np.ndarray:
    """CPNN's trunk without its prototypes."""
    torch.manual_seed(seed)
    model = networks.NoPrototypes(fold.train.features.shape[1], fold.train.target.shape[1], widths=widths)
    networks.train_by_section(model, fold.train, networks.pearson_step, steps=steps, seed=seed, device=device)
    return networks.predicted(model, fold.test.features)


def retrieval(fold: SpotFold, *, steps: int, width: int = 64, seed: int = 0, device: str = "cpu") -> np.ndarray:
    """BLEEP-like."""
    torch.manual_seed(seed)
    model = networks.TwoHeads(fold.train.features.shape[1], fold.train.target.shape[1], width=width)
    networks.train_by_section(model, fold.train, networks.retrieval_step, steps=steps, seed=seed, device=device)
    return networks.retrieved(model, fold.test.features, centred(fold.train.target, fold.train.section))


def train_cpnn(
    fold: SpotFold, *, steps: int, widths: tuple[int, int], seed: int = 0, device: str = "cpu",
    regularisers: Regularisers | None = None, profiles: np.ndarray | None = None, trainable: bool = True,
) -> CPNN:  # fmt: skip
    """CPNN's spot variant on the training side of a fold. profiles : others than the fold's, as for an ablation."""
    torch.manual_seed(seed)
    reg = Regularisers() if regularisers is None else regularisers
    start = torch.as_tensor(fold.profiles if profiles is None else profiles, dtype=torch.float32)
    of_spots = {"trainable": trainable, "correction": False, "level": True}
    model = CPNN(fold.train.features.shape[1], start, widths=widths, **of_spots)
    shares = None if fold.train.shares is None else torch.as_tensor(fold.train.shares)
    if shares is not None:
        model.begin_at(shares.mean(0))
        shares = shares.to(pick_device(device))

    def step(net: CPNN, x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return spot_loss(net, x, y, None if shares is None else shares[rows], reg)

    networks.train_by_section(model, fold.train, step, steps=steps, seed=seed, device=device)
    return model


def cpnn_answer(model: CPNN, table: SpotTable) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n, C) and predictions (n, g)."""
    device = model.log_profiles.device
    w, pred = answer(model, torch.as_tensor(table.features, device=device))
    return w.cpu().numpy(), pred.cpu().numpy()


def shuffled_cpnn(fold: SpotFold, *, draw: int, seed: int = 0, **options) -> np.ndarray:
    """CPNN, spots and their expression (and shares) paired at random within each patient before training.

    Every draw has its own network too: a control of one start would say what that start says.
    """
    train = fold.train
    order = baselines.shuffled(np.arange(len(train))[:, None], train.patient, seed=draw)[:, 0]
    pairs = replace(train, target=train.target[order], shares=train.shares[order])
    return cpnn_answer(train_cpnn(replace(fold, train=pairs), seed=seed + 1 + draw, **options), fold.test)[1]


def depth_only(fold: SpotFold, total: np.ndarray, of_test: np.ndarray) -> np.ndarray:
    """No method: the measured total count of each spot, (n,), as the only input. How much of a score is depth."""
    train, y = fold.train, centred(fold.train.target, fold.train.section)
    x = centred(np.log1p(total)[:, None], train.section)
    return centred(np.log1p(of_test)[:, None], fold.test.section) @ (x.T @ y)


def beyond(
    fold: SpotFold, model: CPNN, *, pitches: tuple[float, ...] = (0.0,), **training
) -> tuple[np.ndarray, residual.Plus]:
    """CPNN plus a low-rank residual of the spot and its neighbours: predictions (n, g), and what inner folds chose.

    model : CPNN on the whole training side, whose weights stay the composition. Inner folds train it again, so that the
    residual is fitted to what CPNN leaves on patients it has not seen. pitches : SDs of a smoothing of the predictions
    to choose from; none by default, since the neighbours' features already hold what it adds.
    """
    train = fold.train
    unseen = np.zeros_like(train.target)
    for held_out in train.inner_folds():
        part = fold.inner(held_out)
        unseen[held_out] = cpnn_answer(train_cpnn(part, **training), part.test)[1]
    x, of_test = (np.hstack([t.features, neighbour_mean(t.features, t.xy_um, t.section)]) for t in (train, fold.test))
    y, z = (centred(v, train.section) for v in (train.target, unseen))
    smoothing = {
        p: (lambda v, rows, p=p: smoothed(v, train.xy_um[rows], train.section[rows], pitches=p)) for p in pitches
    }
    plus = residual.fit_residual(z, x, y, train.section, train.inner_folds(), finishes=smoothing)
    raw = plus(centred(cpnn_answer(model, fold.test)[1], fold.test.section), of_test)
    return smoothed(raw, fold.test.xy_um, fold.test.section, pitches=plus.finish), plus


@dataclass(frozen=True)
class Training:
    """steps, widths : of the networks (widths of CPNN's trunk and of its analogue without prototypes). draws : of the
    shuffled control."""

    steps: int = 200
    widths: tuple[int, int] = (256, 128)
    seed: int = 0
    device: str = "cpu"
    draws: int = 2


METHODS = {
    "mean": mean,
    "density": partial(ridge, inputs="density"),
    "ridge": ridge,
    "mospr": partial(ridge, ranks=(*baselines.RANKS, None)),
}


def run_fold(
    fold: SpotFold, training: Training, *, truth: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[dict[str, np.ndarray], tuple[CPNN, CPNN], residual.Plus]:
    """Predictions (n, g) of every method on the held-out spots, the two networks, and what `beyond` chose.

    The networks are CPNN, and CPNN without regularisers ("cpnn_free"), whose weights nothing ties to a composition.

    truth : true shares of the training and of the held-out spots, for the oracle.
    """
    one = {"steps": training.steps, "seed": training.seed, "device": training.device}
    wide = one | {"widths": training.widths}
    found = {name: method(fold) for name, method in METHODS.items()}
    found |= {"stnet": linear_head(fold, **one), "bleep": retrieval(fold, **one)}
    found["no_prototype"] = no_prototypes(fold, **wide)
    model = train_cpnn(fold, **wide)
    found["cpnn"] = cpnn_answer(model, fold.test)[1]
    free = train_cpnn(fold, regularisers=FREE, **wide)
    found["cpnn_free"] = cpnn_answer(free, fold.test)[1]
    found["beyond"], plus = beyond(fold, model, **wide)
    for draw in range(training.draws):
        found[f"shuffled_{draw}"] = shuffled_cpnn(fold, draw=draw, **wide)
    if truth is not None:
        found["oracle"] = composition_ridge(fold, *truth)
    return found, (model, free), plus


def hold_out(
    adata: AnnData,
    profiles: pd.DataFrame,
    splits: Sequence[np.ndarray],
    training: Training,
    *,
    n_genes: int = ex.PANEL,
    workers: int = 1,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[AnnData, list[tuple[CPNN, list[str]]]]:
    """Every spot predicted by models that have not seen its patient: the table of `Collected`, and CPNN of each fold
    with the names of its genes. workers : processes that share the folds; the result does not depend on them.

    adata, profiles : as of `make_fold`; obsm["composition"] true shares by the types of `profiles`, if known.
    """
    kept, models = Collected(adata, list(profiles.index)), []
    answers = each(partial(_hold_out, adata, profiles, training, n_genes), splits, workers=workers)
    for test, (fold, found, pair, plus) in zip(progress(splits), answers, strict=True):
        kept.add(test, fold, found, pair, plus)
        models.append((pair[0], list(adata.var_names[fold.columns])))
    return kept.table(), models


def _hold_out(adata: AnnData, profiles: pd.DataFrame, training: Training, n_genes: int, test: np.ndarray):
    """One fold and what `run_fold` says of it. On one thread: the matrices are small."""
    with one_torch_thread():
        fold = make_fold(adata, profiles, test, n_genes=n_genes)
        known = adata.obsm["composition"].to_numpy() if "composition" in adata.obsm else None
        found, pair, plus = run_fold(fold, training, truth=None if known is None else (known[~test], known[test]))
        return fold, found, tuple(model.cpu() for model in pair), plus  # a GPU's memory ends with its process


class Collected:
    """Out-of-fold predictions of a cohort, fold by fold, as one AnnData at the end.

    obs patient, section, fold; layers target and one per method, nan for genes outside the fold's panel; obsm spatial,
    cell_type_weights and cell_type_weights_free (and composition, composition_cells where they are known); uns["folds"]
    what each fold chose.
    """

    def __init__(self, adata: AnnData, types: list[str]) -> None:
        self.adata, self.types = adata, types
        self.layers: dict[str, dict[str, np.ndarray]] = {}
        self.weights = [np.zeros((adata.n_obs, len(types)), np.float32) for _ in range(2)]
        self.fold = np.full(adata.n_obs, -1)
        self.chosen: list[dict[str, float]] = []

    def add(self, test: np.ndarray, fold: SpotFold, found: dict[str, np.ndarray], models, plus) -> None:
        """Keep what `run_fold` said of one fold; test (n,) bool, the rows of the cohort that it held out."""
        names = self.adata.var_names[fold.columns]
        for method, values in {"target": fold.test.target, **found}.items():
            table = self.layers.setdefault(method, {})
            for gene, column in zip(names, values.T, strict=True):
                table.setdefault(gene, np.full(self.adata.n_obs, np.nan, np.float32))[test] = column
        for kept, model in zip(self.weights, models, strict=True):
            kept[test] = cpnn_answer(model, fold.test)[0]
        self.fold[test] = len(self.chosen)
        self.chosen.append({"slope": plus.slope, "rank": plus.residual.rank, "alpha": plus.residual.alpha,
                            "inner_cpnn": plus.inner[0], "inner_beyond": plus.inner[1],
                            "absent_from_reference": len(fold.absent)})  # fmt: skip

    def table(self) -> AnnData:
        """The AnnData of the class's docstring."""
        import pandas as pd
        from anndata import AnnData

        genes = list(self.layers["target"])
        source = self.adata
        out = AnnData(np.column_stack([self.layers["target"][g] for g in genes]), obs=source.obs.copy(),
                      var=pd.DataFrame(index=genes))  # fmt: skip
        out.obs["fold"] = self.fold
        out.obs[keys.TOTAL_COUNTS] = np.asarray(source.layers[keys.COUNTS].sum(1)).ravel()
        for method, columns in self.layers.items():
            out.layers[method] = np.column_stack([columns[g] for g in genes])
        out.obsm[keys.SPATIAL] = np.asarray(source.obsm[keys.SPATIAL])
        for key, values in zip((WEIGHTS, f"{WEIGHTS}_free"), self.weights, strict=True):
            out.obsm[key] = pd.DataFrame(values, index=out.obs_names, columns=self.types)
        for key in ("composition", "composition_cells"):
            if key in source.obsm:
                out.obsm[key] = source.obsm[key]
        out.uns["folds"] = pd.DataFrame(self.chosen)
        return out
