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
from torch import Tensor, nn

from stpath_core.card import has_room
from stpath_core.data import NucleiBatch, NucleiSection, NucleiTiles, distance_targets, read_nuclei_stage
from stpath_core.errors import InputError
from stpath_core.fit import Progress, fit, pick_device
from stpath_core.io.files import atomic_path
from stpath_core.io.guard import reads
from stpath_core.losses import distance_loss, nucleus_loss, type_loss
from stpath_core.models.nuclei import NucleiNet, TypeHead, image_moments, pool_nuclei


def nuclei_step(model: NucleiNet, batch: NucleiBatch) -> dict[str, Tensor]:
    """Losses of one batch: nuclear pixels + distance maps, and types where the batch and the network have them.

    The three terms are added with weight 1, as in HoVer-Net. They are computed in float32, also under autocast.
    """
    logit, distance, features = model(batch.image)
    inside = (batch.instances > 0).float()  # (B, h, w)
    targets = distance_targets(batch.instances) if batch.targets is None else batch.targets
    terms = {
        "nucleus": nucleus_loss(logit.float(), inside),
        "distance": distance_loss(distance.float(), targets, inside),
    }
    if model.type_head is not None and batch.labels is not None:
        pooled, keys = pool_nuclei(features, batch.instances)
        logits = model.type_head(pooled, keys[:, 0])
        terms["type"] = type_loss(logits.float(), batch.labels[keys[:, 0], keys[:, 1]])
    return {"loss": sum(terms.values()), **terms}


def validation_score(tiles: NucleiTiles, batches: int) -> Callable[[NucleiNet], float]:
    """Mean loss over a fixed set of tiles of the inner validation sections; a function of the model, for `fit`."""
    kept: list[NucleiBatch] = []  # cut once: twenty looks at the same tiles

    def score(model: NucleiNet) -> float:
        device = next(model.parameters()).device
        kept.extend(tiles(i).to(device) for i in range(len(kept), batches))
        return float(np.mean([nuclei_step(model, batch)["loss"].item() for batch in kept]))

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
    sections: Sequence[NucleiSection], *, seed: int, share: float = 0.1
) -> tuple[list[NucleiSection], list[NucleiSection]]:
    """Split training sections by patient into fit and validation; `share` of the patients, rounded up, is held back.

    share=0 holds nobody back: for real tiles, where a patient less to learn from costs more than looking on gains.
    """
    if share == 0:
        return list(sections), []
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


@reads
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
    mpp: float = 0.5,
    stride: int = 1,
    blocks: int = 2,
    classes: Sequence[str] = (),
    start: NucleiNet | None = None,
    batch_size: int = 12,
    tile_px: int = 128,
    bend_um: float = 0.0,
    lr: float = 2e-3,
    inner_share: float = 0.1,
    seed: int = 0,
    device: str = "auto",
    resume: str | Path | None = None,
    progress: Progress = iter,
    workers: int = 1,
    compiled: bool = False,
    save_every: int = 200,
) -> tuple[NucleiNet, list[dict[str, float]]]:
    """Train a nuclei network on the training side of a split; returns it with its history.

    mpp, stride, blocks : um per pixel that the network sees, how many of them share one answer, and how much work goes
    into each (`NucleiNet`). start : a network whose weights are the beginning (fine-tuning), and whose grid is kept; it
    is not changed. bend_um : see `NucleiTiles`; it keeps a network from learning a few real tiles by heart.
    inner_share of the training patients is held back: the validation loss is taken twenty times on the same tiles of
    theirs and the weights of the best look are kept. Eight looks without a better one end the run: fewer stop it before
    the schedule has cooled down, which is where the best weights usually are. With inner_share=0 all train, and the
    weights are the last ones.
    """
    fit_on, validate_on = inner_split([s for s in sections if s.name in split.train], seed=seed, share=inner_share)
    torch.manual_seed(seed)
    if start is None:
        model = NucleiNet(
            encoder=encoder, encoder_args=encoder_args, width=width, stride=stride, blocks=blocks, classes=classes,
            mpp=mpp,
        )  # fmt: skip
    else:
        model = deepcopy(start)
    cut = {"mpp": model.mpp, "stride": model.stride, "batch_size": batch_size, "size_px": tile_px}
    tiles = NucleiTiles(fit_on, **cut, bend_um=bend_um, seed=seed)
    place = pick_device(device)
    if has_room(place, tiles.n_bytes):
        tiles, workers = tiles.on(place), 1
    watch = {}
    if validate_on:
        looks = NucleiTiles(validate_on, **cut, augment=False, seed=seed + 1)
        watch = {"validate": validation_score(looks, batches=4), "validate_every": max(1, steps // 20), "patience": 8}
    history = fit(
        model, nuclei_step, tiles, steps=steps, lr=lr, seed=seed, device=device, resume=resume, progress=progress,
        workers=workers, compiled=compiled, save_every=save_every, **watch,
    )  # fmt: skip
    return model.eval(), history


@dataclass(frozen=True)
class NucleusTable:
    """Cached features of annotated nuclei: features (n, F) float32, section (n,) index, instance (n,) id."""

    features: np.ndarray
    section: np.ndarray
    instance: np.ndarray

    def labels(self, by_section: Sequence[np.ndarray]) -> np.ndarray:
        """What each row has in one array by instance id per section: labels (n + 1,), or soft ones (n + 1, K)."""
        out = np.empty((len(self.section), *by_section[0].shape[1:]), np.result_type(*by_section))
        for k, values in enumerate(by_section):
            out[self.section == k] = values[self.instance[self.section == k]]
        return out

    @classmethod
    def of(cls, features: Sequence[np.ndarray]) -> NucleusTable:
        """From the features (n, F) of the nuclei 1..n of each section."""
        section = np.repeat(np.arange(len(features)), [len(f) for f in features])
        return cls(np.concatenate(features), section, np.concatenate([np.arange(1, len(f) + 1) for f in features]))

    def by_section(self) -> list[np.ndarray]:
        """The features of each section, in the order of the rows."""
        return [self.features[self.section == k] for k in range(int(self.section.max(initial=-1)) + 1)]

    def save(self, path: str | Path) -> None:
        """As one .npz that `read` reads."""
        with atomic_path(path) as aside, aside.open("wb") as file:
            np.savez(file, **asdict(self))

    @classmethod
    def read(cls, path: str | Path) -> NucleusTable:
        """A table that was saved."""
        with np.load(path) as file:  # arrays only; numpy refuses pickles
            return cls(**file)


def cache_features(model: NucleiNet, sections: Sequence[NucleiSection], *, progress: Progress = iter) -> NucleusTable:
    """Features of all annotated nuclei of some sections, by the network as it stands: what label arms share.

    A section without a nucleus (a small tile in fat) has no row; InputError where none has any.
    """
    from stpath_core.predict import describe_nuclei  # brings scikit-image, which training alone can do without

    if not any(s.instances.any() for s in sections):
        msg = f"none of {len(sections)} sections holds a nucleus to describe; check their masks"
        raise InputError(msg)
    found = []
    for k, s in enumerate(progress(sections)):
        if not s.instances.any():
            continue
        features, ids = describe_nuclei(model, s.image, s.mpp, s.instances)
        found.append((features, np.full(len(ids), k), ids))
    return NucleusTable(*(np.concatenate(column) for column in zip(*found, strict=True)))


def fit_type_head(
    table: NucleusTable,
    labels: np.ndarray,
    *,
    classes: int,
    weight: np.ndarray | None = None,
    robust: float = 0.0,
    l2: float = 0.02,
    balance: float = 0.5,
) -> TypeHead:
    """Fit a type head to cached features; nuclei of unknown label take part in what is usual in an image only.

    labels : of the table's rows: (n,) class index, -1 unknown, or (n, K) soft labels, a row of zeros unknown.
    weight : (n,) how much each nucleus counts (its purity, say). robust : q of the generalised cross-entropy
    (1 - p^q) / q (Zhang and Sabuncu 2018), 0 is plain cross-entropy. l2 weighs the squared weights beside the mean
    loss, and each class weighs (1 / its frequency) ** balance: 0 as frequent, 1 all equal. With robust=0 the problem is
    convex, so nothing is drawn and nothing stopped early.
    """
    soft = labels if labels.ndim == 2 else (labels[:, None] == np.arange(classes)).astype(np.float32)  # (n, K)
    count = soft.sum(0)
    if (count > 0).sum() < 2:
        msg = f"the labels hold {int((count > 0).sum())} class(es); a type head needs at least 2: check the typing"
        raise InputError(msg)
    features, section = torch.from_numpy(table.features), torch.from_numpy(table.section)
    head = TypeHead(features.shape[1], classes)
    mean, variance, _ = image_moments(features, section)
    head.typical.copy_(torch.stack([mean.mean(0), variance.mean(0).sqrt()]))
    known = soft.sum(1) > 0
    each = np.ones(len(soft)) if weight is None else np.asarray(weight, float)
    share = soft * (count.sum() / np.maximum(count, 1)) ** balance * each[:, None]
    target = torch.from_numpy(share[known] / share[known].sum()).float()  # weight of each nucleus and class, of 1
    x = head.eval().relative(features, section)[torch.from_numpy(known)]
    nn.init.zeros_(head.linear.weight)
    nn.init.zeros_(head.linear.bias)
    optimiser = torch.optim.LBFGS(head.linear.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        log_p = head.linear(x).log_softmax(1)
        cost = -log_p if robust == 0 else (1 - (robust * log_p).exp()) / robust
        value = (target * cost).sum() + l2 * head.linear.weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return head


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
