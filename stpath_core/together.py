"""The three parts joined: typed nuclei counted under spots tie CPNN's weights, and image encoders take turns before it.

A join inherits what its parts were trained on. A patient is scored only where the nuclei network, the image encoder and
the head have all been trained without them: `audit` refuses everybody else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from stpath_core import expression as ex
from stpath_core.errors import InputError
from stpath_core.fit import one_torch_thread
from stpath_core.losses import gene_pearson_loss
from stpath_core.models import expression_networks as networks
from stpath_core.models.cpnn import CPNN, Regularisers, divergence
from stpath_core.models.expression_baselines import shuffled
from stpath_core.parallel import each
from stpath_core.spot_methods import FAR, SpotFold, Training, cpnn_answer
from stpath_core.spots import centred
from stpath_core.tissue.cell_types import SUPER_CLASSES, SUPER_OF
from stpath_core.tissue.dissociated import MAJOR_TYPES

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

CLASS_OF = {major: SUPER_OF[fine] for fine, major in MAJOR_TYPES.items()}  # type of the reference -> class of Part 1


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
        return replace(self, target=shuffled(self.target, patient, seed=seed))

    def times(self, share: float) -> Tie:
        return replace(self, weight=share * self.weight)


def ties(fold: SpotFold, nuclei: np.ndarray, truth: np.ndarray | None = None, *, seed: int = 0) -> dict[str, list[Tie]]:
    """The ways to tie CPNN's weights on the training side of a fold, each as strong as another.

    nuclei : (n, 4) shares of molecules from counted nuclei of the training spots; truth : (n, 4) planted ones.
    """
    groups = groups_of(fold.types)
    (by_type,), by_class = ties_of_part2(fold), Tie(nuclei, groups)
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
    out = {arm: cpnn_answer(train_tied(fold, tied, **how), fold.test) for arm, tied in told.items()}
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


def run_folds(
    jobs: Sequence[tuple[SpotFold, np.ndarray, Mapping, Mapping]], training: Training, *, workers: int = 1
) -> Iterator[dict[str, tuple[np.ndarray, np.ndarray]]]:
    """`run_fold` of each (fold, test, told, encoders), in order; small networks gain by processes, not by threads."""
    return each(partial(_fold_alone, training=training), jobs, workers=workers)


def _fold_alone(job: tuple, *, training: Training) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    with one_torch_thread():
        return run_fold(*job, training)


def ties_of_part2(fold: SpotFold) -> list[Tie]:
    """Deconvolved shares of every type: what ties CPNN in Part 2."""
    return [Tie(fold.train.shares, np.eye(len(fold.types), dtype=np.float32))]


def audit(
    asked: Mapping[str, str], trained_on: Mapping[str, Mapping[str, Sequence[str]]]
) -> tuple[list[str], pd.DataFrame]:
    """The patients whom no part has met, and a row per patient and part: how many people trained it, was this one among
    them.

    asked : patient -> the person. trained_on : part -> patient -> the people it was trained on before it is asked about
    that patient. `expression.audit_patients` judges each. InputError where nobody is left.
    """
    import pandas as pd

    rows = []
    for who, one in asked.items():
        for part, of in trained_on.items():
            try:
                ex.audit_patients(of[who], [one])
                met = False
            except InputError:
                met = True
            rows.append((who, part, len(set(of[who])), met))
    table = pd.DataFrame(rows, columns=["patient", "part", "trained on", "among them"])
    known = set(table.loc[table["among them"], "patient"])
    if known == set(asked):
        message = f"each of the patients {', '.join(asked)} has trained some part; nobody is left to be asked: pass "
        raise InputError(message + "-p network_seed with another seed, whose tissue is of other people")
    return [who for who in asked if who not in known], table


def people(cohort: AnnData) -> dict[str, str]:
    """Patient of a virtual cohort of spots -> the person, named as Part 1 names people: "p0" of the breast: "breast-0".

    Two assays give one person two names. Compared as they are, no auditor would notice.
    """
    recipes = cohort.uns["recipe"]["sections"].values()
    return {f"p{int(r['patient'])}": f"{r['organ']}-{int(r['patient'])}" for r in recipes}


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
