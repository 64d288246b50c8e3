"""The three parts joined: typed nuclei counted under spots tie CPNN's weights, and image encoders take turns before it.

A join inherits what its parts were trained on. A patient is scored only where the nuclei network, the image encoder and
the head have all been trained without them: `audit` refuses everybody else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from stpath_core import expression as ex
from stpath_core import keys, predict, spot_methods
from stpath_core.errors import InputError
from stpath_core.losses import gene_pearson_loss
from stpath_core.models import expression_networks as networks
from stpath_core.models.cpnn import CPNN, Regularisers, divergence
from stpath_core.spot_methods import FAR, SpotFold, Training, cpnn_answer
from stpath_core.spots import WHITE, centred, cut_patches
from stpath_core.tissue.cell_types import SUPER_CLASSES, SUPER_OF
from stpath_core.tissue.dissociated import MAJOR_TYPES
from stpath_core.tissue.parallel import each
from stpath_core.tissue.spot_sections import spot_image

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

CLASS_OF = {major: SUPER_OF[fine] for fine, major in MAJOR_TYPES.items()}  # type of the reference -> class of Part 1
LOOK_MPP = 1.0  # um per px of the pictures in which nuclei are counted: spots' counts are as good as at 0.5 um
CLOSE_MPP = 0.5  # of the close-up that is shown
TILES = {"tile_px": 512, "margin_px": 32}  # small ones stay in the processor's cache: a third less time
ARMS = ("deconvolution", "nuclei", "both")
ENCODERS = ("statistics", "nuclei", "contrastive", "random")


# Nuclei under spots


@dataclass(frozen=True)
class SpotNuclei:
    """counts (S, 4) typed nuclei of each spot, in the order of SUPER_CLASSES. features (S, F + 1): the mean of the
    network's features over them, and the logarithm of their number."""

    counts: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class CloseUp:
    """A piece of H&E with its nuclei: image (H, W, 3) at `mpp`, instances (H, W), types (n,), corner_um x, y."""

    image: np.ndarray
    mpp: float
    instances: np.ndarray
    types: np.ndarray
    corner_um: np.ndarray


def mosaic(patches: np.ndarray) -> np.ndarray:
    """Patches (n, P, P, 3) row by row in one picture, as square as it goes; glass where none is left.

    So the network sees all spots of a section at once: stain and types are relative to a picture.
    """
    n, size = patches.shape[:2]
    columns = int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    sheet = np.full((rows * columns, *patches.shape[1:]), WHITE, np.uint8)
    sheet[:n] = patches
    sheet = sheet.reshape(rows, columns, size, size, 3).swapaxes(1, 2)  # (rows, P, columns, P, 3)
    return np.ascontiguousarray(sheet.reshape(rows * size, columns * size, 3))


def spot_of(xy_px: np.ndarray, n: int, *, patch_px: int) -> np.ndarray:
    """(N,) number of the spot in whose disc each point (N, 2; x, y) of a mosaic of n patches lies; -1: in none."""
    columns = int(np.ceil(np.sqrt(n)))
    column, row = (xy_px // patch_px).astype(int).T
    spot = row * columns + column
    away = np.hypot(*(xy_px - (np.stack([column, row], 1) + 0.5) * patch_px).T)
    return np.where((away <= patch_px / 2) & (spot < n), spot, -1)


def per_spot(spot: np.ndarray, types: np.ndarray, features: np.ndarray, n: int) -> SpotNuclei:
    """Count and describe: spot (N,) of each nucleus, -1 none; types (N,) class index, -1 unknown; features (N, F).

    A spot without a nucleus has the mean features of the others.
    """
    counts = np.zeros((n, len(SUPER_CLASSES)), int)
    known = (spot >= 0) & (types >= 0)
    np.add.at(counts, (spot[known], types[known]), 1)
    total, found = np.zeros((n, features.shape[1])), np.bincount(spot[spot >= 0], minlength=n)[:, None]
    np.add.at(total, spot[spot >= 0], features[spot >= 0])
    mean = np.where(found > 0, total / np.maximum(found, 1), total.sum(0) / max(int(found.sum()), 1))
    return SpotNuclei(counts, np.hstack([mean, np.log1p(found)]).astype(np.float32))


def look(
    spots: AnnData, *, checkpoint: str | Path, look_um: float, close_um: float = 300.0, device: str = "cpu"
) -> tuple[SpotNuclei, CloseUp | None]:
    """Nuclei of one section's spots, within `look_um` of H&E around the middle of each, found in pictures grown again.

    A close-up of `close_um` around the spot numbered uns["close_up"], where there is one.
    """
    network = predict.load(checkpoint, device=device)
    name, centres_um = str(spots.obs[keys.SECTION].iloc[0]), np.asarray(spots.obsm[keys.SPATIAL])
    size = round(look_um / LOOK_MPP)
    sheet = mosaic(cut_patches(spot_image(spots, name, mpp=LOOK_MPP), centres_um / LOOK_MPP, patch_px=size))
    found = predict.predict_image(network, sheet, LOOK_MPP, average_views=False, **TILES)
    spot = spot_of(found.centroids_px, len(centres_um), patch_px=size)
    under = per_spot(spot, found.type_probs.argmax(1), found.features, len(centres_um))
    if "close_up" not in spots.uns:
        return under, None
    image = spot_image(spots, name, mpp=CLOSE_MPP)
    span = np.minimum(round(close_um / CLOSE_MPP), image.shape[1::-1])  # x, y
    corner = np.round(centres_um[int(spots.uns["close_up"])] / CLOSE_MPP - span / 2).astype(int)
    x, y = np.clip(corner, 0, np.array(image.shape[1::-1]) - span)
    piece = np.ascontiguousarray(image[y : y + span[1], x : x + span[0]])
    near = predict.predict_image(network, piece, CLOSE_MPP, average_views=False)
    whole = np.concatenate([near.features, found.features])  # typed beside the section's other nuclei
    types = predict.type_probabilities(network.type_head, whole)[: len(near.features)].argmax(1)
    return under, CloseUp(piece, CLOSE_MPP, near.instances, types, np.array([x, y]) * CLOSE_MPP)


def look_at_all(
    cohort: AnnData, *, checkpoint: str | Path, look_um: float, close_up: Mapping[str, int] | None = None,
    workers: int = 1, progress: Callable[[Sequence], Sequence] = iter,
) -> tuple[SpotNuclei, dict[str, CloseUp]]:  # fmt: skip
    """The same of a whole virtual cohort, in its order. close_up : section -> number of the spot in the middle of it.

    Images are standardised one by one and no expression is seen, so a section does not depend on the others.
    """
    section = cohort.obs[keys.SECTION].astype(str).to_numpy()
    names = list(dict.fromkeys(section))
    jobs = []
    for name in names:
        job = cohort[section == name, :0].copy()
        job.uns |= {"close_up": close_up[name]} if name in (close_up or {}) else {}
        jobs.append(job)
    made = each(partial(_look_alone, checkpoint=checkpoint, look_um=look_um), jobs, workers=workers)
    parts = dict(zip(progress(names), made, strict=True))
    out = [np.zeros((len(section), v.shape[1]), v.dtype) for v in vars(parts[names[0]][0]).values()]
    for name, (under, _) in parts.items():
        for whole, values in zip(out, vars(under).values(), strict=True):
            whole[section == name] = values
    return SpotNuclei(*out), {name: close for name, (_, close) in parts.items() if close is not None}


def _look_alone(spots: AnnData, **how) -> tuple[SpotNuclei, CloseUp | None]:
    """`look` on one thread: several processes that each start several threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return look(spots, **how)
    finally:
        torch.set_num_threads(threads)


# From nuclei to a composition


def groups_of(types: Sequence[str]) -> np.ndarray:
    """(C, 4) 1 where a type of the reference belongs to a class of Part 1: w @ groups sums weights to classes."""
    strange = [t for t in types if t not in CLASS_OF]
    if strange:
        message = f"no class of nuclei is known for {', '.join(strange)}; known are {', '.join(sorted(CLASS_OF))}"
        raise InputError(message)
    return np.array([[CLASS_OF[t] == name for name in SUPER_CLASSES] for t in types], np.float32)


def class_content(reference: pd.DataFrame) -> np.ndarray:
    """(4,) how many molecules a nucleus of each class stands for, mean 1: means over its types of the counts that a
    cell of the reference (C, G) has. A class without a type there: 1."""
    groups = groups_of(list(reference.index))
    total = reference.to_numpy().sum(1)
    each_class = (total @ groups) / np.maximum(groups.sum(0), 1)
    there = each_class > 0
    return np.where(there, each_class / each_class[there].mean(), 1.0)


def molecule_shares(counts: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Typed nuclei (S, 4) -> the share of the molecules that each class should bring, rows sum to 1.

    A spot without a nucleus has a row of zeros: it says nothing. CPNN's weights are shares of molecules, not of cells.
    """
    molecules = counts * content
    total = molecules.sum(1, keepdims=True)
    return (molecules / np.maximum(total, 1e-12)).astype(np.float32)


# What ties the weights


@dataclass(frozen=True)
class Tie:
    """What a network's weights are told: target (n, K) shares of training spots, groups (C, K) which types each of
    them sums, and what a nat of divergence weighs beside a correlation."""

    target: np.ndarray
    groups: np.ndarray
    weight: float = Regularisers().weights

    def start(self) -> np.ndarray:
        """(C,) the mean target of the spots that say something, divided evenly within each class."""
        said = self.target[self.target.sum(1) > 0]
        mean = said.mean(0) if len(said) else np.full(self.target.shape[1], 1 / self.target.shape[1])
        shares = self.groups @ (mean / np.maximum(self.groups.sum(0), 1))
        return shares / shares.sum()

    def shuffled(self, patient: np.ndarray, *, seed: int) -> Tie:
        """The control: the targets of other spots of the same patient."""
        order, rng = np.arange(len(patient)), np.random.default_rng([seed, 401])
        for name in np.unique(patient):
            rows = np.flatnonzero(patient == name)
            order[rows] = rng.permutation(rows)
        return replace(self, target=self.target[order])

    def times(self, share: float) -> Tie:
        return replace(self, weight=share * self.weight)


def ties(fold: SpotFold, nuclei: np.ndarray, truth: np.ndarray | None = None, *, seed: int = 0) -> dict[str, list[Tie]]:
    """The ways to tie CPNN's weights on the training side of a fold, each as strong as another.

    nuclei : (n, 4) shares of molecules from counted nuclei of the training spots; truth : (n, 4) planted ones.
    """
    groups = groups_of(fold.types)
    by_type = Tie(fold.train.shares, np.eye(len(fold.types), dtype=np.float32))
    by_class = Tie(nuclei, groups)
    out = {"deconvolution": [by_type], "nuclei": [by_class], "both": [by_type.times(0.5), by_class.times(0.5)]}
    out["nuclei_shuffled"] = [by_class.shuffled(fold.train.patient, seed=seed)]
    return out if truth is None else out | {"truth": [Tie(truth, groups)]}


def train_tied(
    fold: SpotFold, tied: Sequence[Tie], *, steps: int, widths: tuple[int, int], seed: int = 0, device: str = "cpu",
    prototypes: float = Regularisers().prototypes,
) -> CPNN:  # fmt: skip
    """CPNN's spot variant whose weights are tied as told. Tied to `deconvolution` it is Part 2's, bit for bit."""
    torch.manual_seed(seed)
    start = torch.as_tensor(fold.profiles, dtype=torch.float32)
    model = CPNN(fold.train.features.shape[1], start, widths=widths, correction=False, level=True)
    model.begin_at(torch.as_tensor(tied[0].start(), dtype=torch.float32))
    told = [(torch.as_tensor(t.target), torch.as_tensor(t.groups), t.weight) for t in tied]

    def step(net: CPNN, x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        w = net.weights(x)
        loss = gene_pearson_loss(net.mixture(w).log1p(), y) + prototypes * net.moved().square().mean()
        for target, groups, weight in told:
            loss = loss + weight * divergence(target.to(x.device)[rows], w @ groups.to(x.device))
        return loss

    networks.train_by_section(model, fold.train, step, steps=steps, seed=seed, device=device)
    return model


# Encoders


def seen_by(fold: SpotFold, features: np.ndarray, train: np.ndarray, test: np.ndarray) -> SpotFold:
    """The fold with other features: (n, d) of all spots of the cohort; train, test : bool (n,), rows of its sides.

    Brought to their section as Part 2 does. The test side may be a part of the fold's.
    """
    section = np.empty(len(features), object)
    section[train], section[test] = fold.train.section, fold.test.section
    either = train | test
    x = np.zeros(features.shape, np.float32)
    x[either] = centred(features[either], section[either].astype(str), scaled=True).clip(-FAR, FAR)
    return replace(fold, train=replace(fold.train, features=x[train]), test=replace(fold.test, features=x[test]))


# One fold, and all of them


def run_fold(
    fold: SpotFold, test: np.ndarray, told: Mapping[str, Sequence[Tie]],
    encoders: Mapping[str, Mapping[str, np.ndarray]], training: Training,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """Arm -> weights (m, C) and predictions (m, g) of the fold's held-out spots.

    told : how CPNN on Part 2's features is tied, by arm. encoders : name -> held-out patient -> features (n, d) of all
    spots from an encoder that never saw that patient; each is read by CPNN tied to deconvolution, as Part 2 ties it.
    An encoder that has not seen anybody's spots names every patient with the same array, and trains one head.
    """
    how = {"steps": training.steps, "widths": training.widths, "seed": training.seed, "device": training.device}
    out = {f"tied_{arm}": cpnn_answer(train_tied(fold, tied, **how), fold.test) for arm, tied in told.items()}
    patient = fold.test.patient
    for name, by_patient in encoders.items():
        w = np.full((len(patient), len(fold.types)), np.nan, np.float32)
        y = np.full(fold.test.target.shape, np.nan, np.float32)
        held = [who for who in np.unique(patient) if who in by_patient]
        for values in {id(by_patient[who]): by_patient[who] for who in held}.values():
            other = seen_by(fold, values, ~test, test)
            model = train_tied(other, ties_of_part2(other), **how)
            mine = np.isin(patient, [who for who in held if by_patient[who] is values])
            w[mine], y[mine] = cpnn_answer(model, other.test.rows(mine))
        out[f"encoder_{name}"] = w, y
    return out


def ties_of_part2(fold: SpotFold) -> list[Tie]:
    """Deconvolved shares of every type: what ties CPNN in Part 2."""
    return [Tie(fold.train.shares, np.eye(len(fold.types), dtype=np.float32))]


def audit(
    held_out: Sequence[str], trained_on: Mapping[str, Mapping[str, Sequence[str]]]
) -> tuple[list[str], pd.DataFrame]:
    """Which of the patients no part has met, and a row per patient and part: on how many it was trained, and whether
    the patient was among them.

    trained_on : part -> held-out patient -> patients it was trained on for them. `expression.audit_patients` judges.
    """
    import pandas as pd

    rows, clean = [], []
    for who in held_out:
        met = []
        for part, of in trained_on.items():
            try:
                ex.audit_patients(of[who], [who])
                met.append(False)
            except InputError:
                met.append(True)
            rows.append((who, part, len(set(of[who])), met[-1]))
        clean += [] if any(met) else [who]
    if not clean:
        message = (
            f"every one of the patients {', '.join(held_out)} has trained some part; there is nobody left to ask: "
        )
        raise InputError(message + "pass -p network_seed with another seed, whose tissue is of other people")
    return clean, pd.DataFrame(rows, columns=["patient", "part", "trained on", "among them"])


def same_spots(names: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Rows of `others` that are the spots of `names`, in their order. InputError where the two cohorts differ."""
    import pandas as pd

    rows = pd.Index(others).get_indexer(list(names))
    if (rows < 0).any():
        message = (
            f"{int((rows < 0).sum())} of {len(rows)} spots of notebook 21 are not among those of notebook 30; give "
        )
        raise InputError(message + "both as many patients and spots: spot_patients as patients, spot_side as across")
    return rows


def by_class(weights: pd.DataFrame) -> pd.DataFrame:
    """Shares (n, C) of the reference's types summed to the four classes of nuclei; other columns are left out."""
    import pandas as pd

    known = [t for t in weights if t in CLASS_OF]
    return pd.DataFrame(weights[known].to_numpy() @ groups_of(known), index=weights.index, columns=list(SUPER_CLASSES))
