"""Part 1's recipe on top of the network: what a training step minimises, and type heads on cached nucleus features."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stpath_core.data import NucleiBatch, NucleiSection, NucleiTiles, distance_targets, read_nuclei_stage
from stpath_core.errors import InputError
from stpath_core.fit import Progress, fit
from stpath_core.io.files import atomic_path
from stpath_core.losses import distance_loss, nucleus_loss, type_loss
from stpath_core.models.nuclei import NucleiNet, TypeHead, pool_nuclei


def nuclei_step(model: NucleiNet, batch: NucleiBatch) -> dict[str, Tensor]:
    """Losses of one batch: nuclear pixels + distance maps, and types where the batch and the network have them.

    The three terms are added with weight 1, as in HoVer-Net. They are computed in float32, also under autocast.
    """
    logit, distance, features = model(batch.image)
    inside = (batch.instances > 0).float()  # (B, h, w)
    terms = {
        "nucleus": nucleus_loss(logit.float(), inside),
        "distance": distance_loss(distance.float(), distance_targets(batch.instances), inside),
    }
    if model.type_head is not None and batch.labels is not None:
        pooled, keys = pool_nuclei(features, batch.instances)
        if len(pooled) > 1:  # BatchNorm needs two
            terms["type"] = type_loss(model.type_head(pooled).float(), batch.labels[keys[:, 0], keys[:, 1]])
    return {"loss": sum(terms.values()), **terms}


def validation_score(tiles: NucleiTiles, batches: int) -> Callable[[NucleiNet], float]:
    """Mean loss over a fixed set of tiles of the inner validation sections; a function of the model, for `fit`."""

    def score(model: NucleiNet) -> float:
        device = next(model.parameters()).device
        return float(np.mean([nuclei_step(model, tiles(i).to(device))["loss"].item() for i in range(batches)]))

    return score


def open_sections(
    dataset: str, *, stage: str | Path | None = None, data_dir: str = "", mpp: float | None = None
) -> list[NucleiSection]:
    """The sections of a data set: a stage file of notebook 10, or a folder of images with instance masks.

    stage : the packed file, where labels come from transcripts. data_dir, mpp : the folder, and its scale where
    neither its files nor the registry say it. Without types a section's `labels` are None; an annotated mask is its
    own truth.
    """
    if stage is not None:
        return read_nuclei_stage(stage)
    from stpath_core.io import open_mask_folder
    from stpath_core.tissue.cell_types import SUPER_CLASSES, UNKNOWN

    index = {name: i for i, name in enumerate(SUPER_CLASSES)}
    sections = []
    for s in open_mask_folder(data_dir, entry=dataset, mpp=mpp):
        labels = None
        if "type" in s.nuclei:
            labels = np.array([UNKNOWN, *(index.get(t, UNKNOWN) for t in s.nuclei["type"])], np.int8)
        sections.append(
            NucleiSection(
                s.name, s.organ, s.patient, s.image, s.mpp, s.instances(), labels=labels,
                truth_instances=s.instances(), truth_labels=labels,
            )
        )  # fmt: skip
    return sections


def inner_split(
    sections: Sequence[NucleiSection], *, seed: int, share: float = 0.15
) -> tuple[list[NucleiSection], list[NucleiSection]]:
    """Split training sections by patient into fit and validation; `share` of the patients, rounded up, is held back."""
    patients = sorted({s.patient for s in sections})
    if len(patients) < 2:
        msg = f"the training sections come from {len(patients)} patient; 2 are needed for an inner validation split"
        raise InputError(msg)
    n = min(math.ceil(share * len(patients)), len(patients) - 1)
    held = set(np.random.default_rng(seed).permutation(patients)[:n])
    return [s for s in sections if s.patient not in held], [s for s in sections if s.patient in held]


@dataclass(frozen=True)
class Split:
    """Who trains and who is tested, by section name; `suffix` ends the file name of the split's checkpoints."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    suffix: str = ""


def outer_splits(
    sections: Sequence[NucleiSection], *, unseen_organs: Sequence[str] = (), holdout: Sequence[str] = (), folds: int = 0
) -> list[Split]:
    """Splits by what must not be shared: organs, named cases, or `folds` folds of patients.

    unseen_organs : organs of the test side. holdout : section names. folds : above 1, every patient is tested once,
    each fold drawing from as many organs as it can. Nothing given: one split that trains on all and tests nothing.
    """
    names = [s.name for s in sections]
    unknown = sorted(set(holdout) - set(names)) + sorted(set(unseen_organs) - {s.organ for s in sections})
    if unknown:
        msg = f"to be held out: {unknown}, which is not in the data; it has {names}"
        raise InputError(msg)
    if folds > 1:
        patients = list(dict.fromkeys(s.patient for s in sorted(sections, key=lambda s: (s.organ, s.patient))))
        if folds > len(patients):
            msg = f"folds={folds} of {len(patients)} patients; give at most {len(patients)}"
            raise InputError(msg)
        parts = [{s.name for s in sections if s.patient in patients[k::folds]} for k in range(folds)]
    else:
        parts = [{s.name for s in sections if s.organ in unseen_organs or s.name in holdout}]
    return [
        Split(
            tuple(n for n in names if n not in part),
            tuple(n for n in names if n in part),
            f"_fold{k}" if folds > 1 else "",
        )
        for k, part in enumerate(parts)
    ]


def everything(sections: Sequence[NucleiSection]) -> Split:
    """The split that trains on all sections and tests nothing."""
    return Split(tuple(s.name for s in sections), ())


def write_splits(path: str | Path, splits: Sequence[Split]) -> None:
    """Who trained and who is tested, beside the checkpoints."""
    with atomic_path(path) as aside:
        aside.write_text(json.dumps([asdict(s) for s in splits], indent=1), encoding="utf-8")


def read_splits(path: str | Path) -> list[Split]:
    """The splits that `write_splits` wrote."""
    return [
        Split(tuple(s["train"]), tuple(s["test"]), s["suffix"])
        for s in json.loads(Path(path).read_text(encoding="utf-8"))
    ]


def train_split(
    sections: Sequence[NucleiSection],
    split: Split,
    *,
    steps: int,
    encoder: str = "resnet10t",
    encoder_args: dict | None = None,
    width: int = 16,
    stride: int = 1,
    classes: Sequence[str] = (),
    start: NucleiNet | None = None,
    batch_size: int = 12,
    tile_px: int = 128,
    lr: float = 2e-3,
    seed: int = 0,
    device: str = "auto",
    resume: str | Path | None = None,
    progress: Progress = iter,
) -> tuple[NucleiNet, list[dict[str, float]]]:
    """Train a nuclei network on the training side of a split; returns it with its history.

    start : a network whose weights are the beginning (fine-tuning); it is not changed. A share of the training
    patients is held back: the validation loss is taken ten times on the same tiles of theirs, the weights of the best
    look are kept, and three looks without a better one end the run.
    """
    fit_on, validate_on = inner_split([s for s in sections if s.name in split.train], seed=seed)
    torch.manual_seed(seed)
    if start is None:
        model = NucleiNet(encoder=encoder, encoder_args=encoder_args, width=width, stride=stride, classes=classes)
    else:
        model = deepcopy(start)
    cut = {"mpp": model.mpp, "stride": model.stride, "batch_size": batch_size, "size_px": tile_px}
    tiles = NucleiTiles(fit_on, **cut, seed=seed)
    looks = NucleiTiles(validate_on, **cut, augment=False, seed=seed + 1)
    history = fit(
        model, nuclei_step, tiles, steps=steps, lr=lr, seed=seed, device=device, resume=resume, progress=progress,
        validate=validation_score(looks, batches=4), validate_every=max(1, steps // 10), patience=3,
    )  # fmt: skip
    return model.eval(), history


@dataclass(frozen=True)
class NucleusTable:
    """Cached features of annotated nuclei: features (n, F) float32, section (n,) index, instance (n,) id.

    A nucleus stands in it as often as a tile showed it, each time in another augmentation.
    """

    features: np.ndarray
    section: np.ndarray
    instance: np.ndarray

    def labels(self, by_section: Sequence[np.ndarray]) -> np.ndarray:
        """Label of each row, (n,) int64, -1 unknown, from one array of labels by instance id per section."""
        top = max(len(labels) for labels in by_section)
        table = np.full((len(by_section), top), -1, np.int64)
        for row, labels in zip(table, by_section, strict=True):
            row[: len(labels)] = labels
        return table[self.section, self.instance]


def cache_features(model: NucleiNet, tiles: NucleiTiles, *, batches: int, progress: Progress = iter) -> NucleusTable:
    """Features of the nuclei of so many batches, by the network as it stands; what the label arms share.

    They come from augmented tiles: on plain ones the network knows its training nuclei too well, and a head trained
    on such features is surer than it should be on a new organ.
    """
    device, found = next(model.parameters()).device, []
    for step in progress(range(batches)):
        batch = tiles(step).to(device)
        with torch.no_grad():
            pooled, keys = pool_nuclei(model.eval()(batch.image)[2], batch.instances)
        found.append((pooled.cpu(), batch.section[keys[:, 0]].cpu(), keys[:, 1].cpu()))
    return NucleusTable(*(torch.cat(column).numpy() for column in zip(*found, strict=True)))


def fit_type_head(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    validation: np.ndarray,
    classes: int,
    seed: int = 0,
    epochs: int = 10,
    balance: float = 0.5,
) -> TypeHead:
    """Train a type head on cached features; unknown labels (-1) are left out.

    features : (n, F); labels : (n,); validation : (n,) booleans, rows of inner validation patients, whose loss after
    each epoch decides which weights are kept: a head that learns labels by heart (shuffled ones cannot be learned
    otherwise) stays at what carries over to other patients. Each class weighs (1 / its frequency) ** balance: 0 as
    frequent, 1 all equal.
    """
    known = labels >= 0
    count = np.bincount(labels[known & ~validation], minlength=classes)
    if (count > 0).sum() < 2:
        msg = f"the labels hold {int((count > 0).sum())} class(es); a type head needs at least 2: check the typing"
        raise InputError(msg)
    x, y = torch.from_numpy(features[known & ~validation]), torch.from_numpy(labels[known & ~validation])
    x_held, y_held = torch.from_numpy(features[known & validation]), torch.from_numpy(labels[known & validation])
    weight = torch.from_numpy((count.sum() / np.maximum(count, 1)) ** balance).float()
    weight = weight / weight.mean()
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    head = TypeHead(features.shape[1], classes)
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=1e-2)
    per_epoch = max(1, len(x) // 256)
    best_loss, best = math.inf, deepcopy(head.state_dict())
    for _ in range(epochs):
        head.train()
        for _ in range(per_epoch):
            rows = torch.randint(len(x), (256,), generator=rng)
            optimiser.zero_grad(set_to_none=True)
            type_loss(head(x[rows]), y[rows], weight).backward()
            optimiser.step()
        with torch.no_grad():
            loss = type_loss(head.eval()(x_held), y_held, weight).item() if len(x_held) else -math.inf
        if loss < best_loss or not len(x_held):  # with nobody to validate on, the last epoch stands
            best_loss, best = loss, deepcopy(head.state_dict())
    head.load_state_dict(best)
    return head.eval()


def shuffled_within_patient(sections: Sequence[NucleiSection], *, seed: int) -> list[np.ndarray]:
    """The shuffled control: labels permuted among the typed nuclei of each patient. One array per section."""
    rng = np.random.default_rng(seed)
    out = [s.labels.copy() for s in sections]
    for patient in sorted({s.patient for s in sections}):
        mine = [k for k, s in enumerate(sections) if s.patient == patient]
        pool = rng.permutation(np.concatenate([out[k][out[k] >= 0] for k in mine]))
        for k in mine:
            known = out[k] >= 0
            out[k][known], pool = pool[: known.sum()], pool[known.sum() :]
    return out
