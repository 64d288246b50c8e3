"""One fold of the slides: the training slides' panel, target, prototypes and shares, and every method on them.

A method takes a `SlideFold` and answers with predictions (S, g) for its held-out slides. Features are standardised by
the training slides' patches; nothing is taken relative to a slide, since what differs between slides is the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from stpath_core import expression as ex
from stpath_core import keys
from stpath_core.bulk_deconvolution import deconvolve_bulk
from stpath_core.errors import InputError
from stpath_core.expression_folds import Fold, take_apart
from stpath_core.features import feature_names
from stpath_core.fit import pick_device
from stpath_core.io.counts import whole_numbers
from stpath_core.models import expression_baselines as baselines
from stpath_core.models import slide_networks as networks
from stpath_core.models import stacking
from stpath_core.models.cpnn import CPNN, PER, Regularisers, nb_loss, slide_loss

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

FAR = 5.0  # SD, where a feature is cut
DENSITY = ("hematoxylin mean", "eosin mean", "density mean")  # of the statistics: mean optical density on three axes
INNER = 3  # folds of the training slides


@dataclass(frozen=True)
class SlideTable:
    """Slides ready for a model. bags : (N_i, d) each; mean (S, d) feature; density (S, 3), or (S, 0) where features are
    of an encoder that does not tell it; target, counts (S, g); library (S,) counts of the panel; patient (S,); shares
    (S, C) deconvolved, zeros where they must not be known."""

    bags: tuple[np.ndarray, ...]
    mean: np.ndarray
    density: np.ndarray
    target: np.ndarray
    counts: np.ndarray
    library: np.ndarray
    patient: np.ndarray
    shares: np.ndarray

    def __len__(self) -> int:
        return len(self.target)

    def rows(self, chosen: np.ndarray) -> SlideTable:
        """Those slides alone; chosen : bool or numbers of rows."""
        at = np.arange(len(self))[chosen]
        given = {f.name: getattr(self, f.name)[at] for f in fields(self) if f.name != "bags"}
        return replace(self, bags=tuple(self.bags[i] for i in at), **given)

    def inner_folds(self) -> list[np.ndarray]:
        """Held-out slides of each inner fold, by patient."""
        return ex.patient_folds(self.patient, min(INNER, len(np.unique(self.patient))))

    @property
    def group(self) -> np.ndarray:
        """Correlations are taken across all slides: one group."""
        return np.zeros(len(self), int)


SlideFold = Fold[SlideTable]


def make_fold(
    bags: Sequence[np.ndarray], bulk: AnnData, profiles: pd.DataFrame, test: np.ndarray, *, n_genes: int = ex.PANEL,
    train: np.ndarray | None = None,
) -> SlideFold:  # fmt: skip
    """bags : (N_i, d) of the slides of `bulk`, in its order. bulk : raw counts in layers["counts"], obs patient.

    profiles : (C, G of the reference) expected counts. test, train : (S,) bool; train None: all that is not tested.
    Raises InputError for bags that do not fit, fractional counts, too few shared genes, or a patient on both sides.
    """
    if len(bags) != bulk.n_obs:
        msg = f"{len(bags)} bags for {bulk.n_obs} rows of bulk; each slide needs both, in one order"
        raise InputError(msg)
    networks.check_bags(bags, list(bulk.obs_names))
    train = ~test if train is None else train & ~test
    patient = bulk.obs[keys.PATIENT].astype(str).to_numpy()
    ex.audit_patients(patient[train], patient[test])
    counts = bulk.layers[keys.COUNTS]
    if not whole_numbers(counts):
        msg = f"layers[{keys.COUNTS!r}] of the bulk holds numbers that are not whole or negative; the likelihood needs "
        raise InputError(
            msg + "raw counts: expected counts of RSEM are rounded first (io.read_bulk), TPM cannot be used"
        )
    columns = ex.panel(counts, train, n_genes)
    names, level = bulk.var_names[columns], np.asarray(counts[train].sum(0)).ravel() / counts[train].sum() * PER
    apart = take_apart(counts[train], bulk.var_names, profiles, solve=deconvolve_bulk)
    caught, absent = apart.at_level(names, level[columns], apart.found.shares.mean(0))
    shares = np.zeros((len(bags), len(caught)), np.float32)
    shares[train] = apart.found.shares
    patches = np.concatenate([b for b, known in zip(bags, train, strict=True) if known])
    middle, spread = patches.mean(0), patches.std(0) + 1e-6
    ready = tuple(((b - middle) / spread).clip(-FAR, FAR).astype(np.float32) for b in bags)
    mean = np.stack([b.mean(0) for b in ready])
    dense = [feature_names().index(n) for n in DENSITY] if mean.shape[1] == len(feature_names()) else []
    panel = counts[:, columns].toarray().astype(np.float32)
    table = SlideTable(ready, mean, mean[:, dense], ex.target(counts, columns), panel, panel.sum(1), patient, shares)
    return Fold(table.rows(train), table.rows(test), columns, caught, list(profiles.index), absent, apart)


def mean(fold: SlideFold) -> np.ndarray:
    """The training mean: a constant, which has no score."""
    return np.repeat(fold.train.target.mean(0)[None], len(fold.test), axis=0)


def ridge(fold: SlideFold, *, inputs: str = "mean", ranks: tuple = (None,)) -> np.ndarray:
    """Ridge on the "mean" feature or on "density"; with ranks, low-rank ridge as MoSPR's last step."""
    return _linear(getattr(fold.train, inputs), fold, ranks=ranks)(getattr(fold.test, inputs))


def composition_ridge(fold: SlideFold, shares: np.ndarray, of_test: np.ndarray) -> np.ndarray:
    """The oracle: ridge on true shares (S, C), of what no image can tell better."""
    middle, unit = shares.mean(0), shares.std(0) + 1e-3
    return _linear((shares - middle) / unit, fold)((of_test - middle) / unit)


def _linear(x: np.ndarray, fold: SlideFold, *, ranks: tuple = (None,)):
    y, train = fold.train.target, fold.train
    middle, level = x.mean(0), y.mean(0)
    model = baselines.fit_ridge(x - middle, y - level, train.group, train.inner_folds(), ranks=ranks)
    return lambda z: (z - middle) @ model.coef + level


def attention(fold: SlideFold, *, steps: int, seed: int = 0, device: str = "cpu") -> np.ndarray:
    """ABMIL with gated attention, squared error on the target in units of each gene's spread."""
    torch.manual_seed(seed)
    train = fold.train
    level, unit = train.target.mean(0), train.target.std(0) + 1e-3
    y = torch.as_tensor((train.target - level) / unit, device=pick_device(device))
    model = networks.GatedAttention(train.mean.shape[1], y.shape[1])
    networks.train_bags(
        model, train.bags, lambda net, x, mask, rows: F.mse_loss(net(x, mask), y[rows]), steps=steps, seed=seed,
        device=device,
    )  # fmt: skip
    return networks.of_bags(model, fold.test.bags, lambda net, x, mask: net(x, mask)) * unit + level


def no_prototypes(
    fold: SlideFold, *, steps: int, widths: tuple[int, int], seed: int = 0, device: str = "cpu"
) -> np.ndarray:
    """CPNN's trunk and likelihood without its prototypes."""
    torch.manual_seed(seed)
    counts, library = (torch.as_tensor(v, device=pick_device(device)) for v in (fold.train.counts, fold.train.library))
    model = networks.NoPrototypeBags(fold.train.mean.shape[1], counts.mean(0) + 1e-3, widths=widths)

    def loss(net, x, mask, rows):
        return nb_loss(counts[rows], net(x, mask) * library[rows, None], net.log_theta.exp())

    networks.train_bags(model, fold.train.bags, loss, steps=steps, seed=seed, device=device)
    return np.log1p(PER * networks.of_bags(model, fold.test.bags, lambda net, x, mask: net(x, mask)))


def train_cpnn(
    fold: SlideFold, *, steps: int, widths: tuple[int, int], seed: int = 0, device: str = "cpu",
    regularisers: Regularisers | None = None, profiles: np.ndarray | None = None, trainable: bool = True,
    correction: bool = True,
) -> CPNN:  # fmt: skip
    """CPNN's slide variant on the training side of a fold. profiles : others than the fold's, as for an ablation."""
    torch.manual_seed(seed)
    reg = Regularisers() if regularisers is None else regularisers
    start = torch.as_tensor(fold.profiles if profiles is None else profiles, dtype=torch.float32)
    model = CPNN(fold.train.mean.shape[1], start, widths=widths, trainable=trainable, correction=correction)
    model.begin_at(torch.as_tensor(fold.train.shares).mean(0))
    counts, library, shares = (
        torch.as_tensor(v, device=pick_device(device))
        for v in (fold.train.counts, fold.train.library, fold.train.shares)
    )

    def loss(net, x, mask, rows):
        return slide_loss(net, x, mask, counts[rows], library[rows], shares[rows], reg)

    networks.train_bags(model, fold.train.bags, loss, steps=steps, seed=seed, device=device)
    return model


def mixtures(model: CPNN, table: SlideTable) -> tuple[np.ndarray, np.ndarray]:
    """Mean weights (S, C) and profiles (S, g), rows of both sum to 1."""
    both = networks.of_bags(model, table.bags, lambda net, x, mask: torch.cat(net.slide(x, mask), 1))
    genes = model.log_profiles.shape[1]
    return both[:, genes:], both[:, :genes]


def cpnn_answer(model: CPNN, table: SlideTable) -> tuple[np.ndarray, np.ndarray]:
    """Mean weights (S, C) and predictions (S, g) on the scale of the target."""
    weights, profile = mixtures(model, table)
    return weights, np.log1p(PER * profile)


def shuffled_cpnn(fold: SlideFold, *, draw: int, **options) -> np.ndarray:
    """CPNN, bags and their expression (and shares) paired at random before training: across patients, since a patient
    has one slide."""
    order = np.random.default_rng(draw).permutation(len(fold.train))
    mixed = fold.train.rows(order)
    pairs = replace(mixed, bags=fold.train.bags, mean=fold.train.mean, density=fold.train.density)
    return cpnn_answer(train_cpnn(replace(fold, train=pairs), **options), fold.test)[1]


def beyond(fold: SlideFold, model: CPNN, **training) -> tuple[np.ndarray, stacking.Stacked]:
    """CPNN and a low-rank ridge of the mean feature, added: predictions (S, g), and the share of each.

    model : CPNN on the whole training side, whose weights stay the composition. Inner folds train both again, so that
    the shares are those of predictions for slides that neither has seen.
    """
    train, inner = fold.train, fold.train.inner_folds()
    by_cells, by_axes = np.zeros_like(train.target), np.zeros_like(train.target)
    for held_out in inner:
        part = fold.inner(held_out)
        told = cpnn_answer(train_cpnn(part, **training), part.test)[1]
        # The mean of those a network saw runs against the mean of those it did not: between inner folds a prediction
        # would fall where y rises, and a good one would look worse than none.
        by_cells[held_out] = told - told.mean(0)
        if len(np.unique(part.train.patient)) > 1:
            told = METHODS["mospr"](part)
            by_axes[held_out] = told - told.mean(0)
    level = train.target.mean(0)
    stacked = stacking.fit_stack(by_cells, by_axes, train.target - level, inner)
    of_train, of_test = (cpnn_answer(model, table)[1] for table in (train, fold.test))
    return stacked(of_test - of_train.mean(0), METHODS["mospr"](fold) - level) + level, stacked


METHODS = {
    "mean": mean,
    "density": partial(ridge, inputs="density"),
    "ridge": ridge,
    "mospr": partial(ridge, ranks=(*baselines.RANKS, None)),
}
