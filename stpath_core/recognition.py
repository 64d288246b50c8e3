"""Stage 2 of Part 3: teach an image encoder by the expression under each spot, then ask it about an unseen patient.

What trains here sees pictures, places and the embedding of stage 1, never a label: `Pairs` has no field for one.
Labels come in at the very end, in `probes.judge`, and those of the held-out patient are what is asked
there, not what is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stpath_core import ranks
from stpath_core.card import has_room, on_its_way
from stpath_core.errors import InputError
from stpath_core.fit import Progress, fit, pick_device
from stpath_core.models.contrastive import ContrastiveModel, FeatureEncoder, PatchEncoder, Target, identity, info_nce
from stpath_core.probes import NOT_A_CLASS

Partner = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # rows -> the rows whose expression they are shown


@dataclass(frozen=True)
class Pairs:
    """Spots as stage 2 sees them: a picture, a place, and whose they are. No label.

    image : (n, d) float32 features of each spot's patch, or the patches themselves, (n, 3, S, S) uint8
    xy_um : (n, 2); patient, section : (n,) words
    """

    image: np.ndarray
    xy_um: np.ndarray
    patient: np.ndarray
    section: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.patient)
        for name in ("image", "xy_um", "section"):
            if len(getattr(self, name)) != n:
                message = f"{len(getattr(self, name))} rows of {name} for {n} spots: patches and spots must be of one "
                raise InputError(message + "table, in one order; cut them again from the spots you have")
        if len(np.unique(self.patient)) < 2:
            message = f"all spots are of patient {str(self.patient[0])!r}" if n else "there are no spots"
            message += "; what holds across patients cannot be learned from one, nor tested: give three or more, "
            raise InputError(message + "better six (with two, one held out leaves one to learn from)")

    def __len__(self) -> int:
        return len(self.patient)

    @property
    def patients(self) -> list[str]:
        """Their names, sorted: each is held out once."""
        return [str(name) for name in np.unique(self.patient)]


@dataclass(frozen=True)
class Settings:
    """How stage 2 trains. They were chosen on virtual tissues of other seeds than any table shows."""

    steps: int = 120
    batch_size: int = 256
    lr: float = 2e-3
    weight_decay: float = 1e-2
    dim: int = 64  # of the space where image and expression meet
    width: int = 128  # of the perceptron on features
    dropout: float = 0.1
    encoder: str = "resnet10t"  # timm, where the pictures are patches
    encoder_args: Mapping | None = None
    pretrained: bool = False
    balanced: bool = False  # as many spots of each patient in a batch
    device: str = "cpu"


@dataclass(frozen=True)
class PairBatch:
    """image (B, d) or (B, 3, S, S) uint8; gene (B, k), or the class (B,) for the supervised control."""

    image: Tensor
    gene: Tensor

    def to(self, device: torch.device | str) -> PairBatch:
        return PairBatch(self.image.to(device), self.gene.to(device))

    def share(self) -> PairBatch:
        """The pairs of this process, where several train together."""
        mine = ranks.share(len(self.image))
        return PairBatch(self.image[mine], self.gene[mine])


def image_encoder(image: np.ndarray, rows: np.ndarray, settings: Settings) -> nn.Module:
    """A perceptron for features (their mean and SD are those of `rows`), a timm network for patches."""
    if image.ndim == 2:
        return FeatureEncoder(image.shape[1], dim=settings.width, dropout=settings.dropout).standardise(image[rows])
    return PatchEncoder(settings.encoder, pretrained=settings.pretrained, args=settings.encoder_args)


def draw_rows(patient: np.ndarray, rows: np.ndarray, n: int, rng: np.random.Generator, *, balanced: bool) -> np.ndarray:
    """n of `rows` without repetition (all, if there are fewer); balanced: as many of each patient as there are to have.

    A batch in which one patient has most of the spots offers mostly negatives of that patient, and they are told apart
    by biology; a balanced one offers many of other patients, and those are told apart by the batch effect, unless the
    embedding is free of it.
    """
    n = min(n, len(rows))
    if not balanced:
        return rng.choice(rows, n, replace=False)
    order = rng.permutation(rows)
    turn = np.empty(len(order), int)  # the how-manieth of its patient a row is, in random order
    for name in np.unique(patient[order]):
        own = patient[order] == name
        turn[own] = np.arange(own.sum())
    return order[np.lexsort((rng.random(len(order)), turn))][:n]


def train(
    pairs: Pairs,
    z: np.ndarray,
    rows: np.ndarray,
    *,
    target: Target = identity,
    settings: Settings | None = None,
    partner: Partner | None = None,
    seed: int = 0,
    progress: Progress = iter,
    workers: int = 0,
    compiled: bool = False,
) -> tuple[ContrastiveModel, list[dict[str, float]]]:
    """Train on the given rows by contrast with the embedding z (n, k) of stage 1; returns the model and its history.

    rows : numbers of the training spots. partner : draws, for each row of a batch, the row whose expression stands
    beside its picture; None: its own. Each record of the history has the loss, the batch's log, and tau.
    """
    s = settings or Settings()
    if len(z) != len(pairs):
        message = (
            f"the embedding has {len(z)} rows for {len(pairs)} spots; give one per spot, in the order of the spots"
        )
        raise InputError(message)
    if not np.isfinite(z[rows]).all():
        message = "the embedding of stage 1 is not finite for every training spot: leave all-zero spots out before it"
        raise InputError(message)
    torch.manual_seed(seed)
    model = ContrastiveModel(image_encoder(pairs.image, rows, s), z.shape[1], dim=s.dim, dropout=s.dropout)
    z = np.asarray(z, np.float32)
    model.standardise_genes(z[rows])
    place = pick_device(s.device)
    image, gene = on_card(torch.from_numpy(pairs.image), place), on_card(torch.from_numpy(z), place)

    def batch_at(step: int) -> PairBatch:
        rng = np.random.default_rng([seed, step])
        some = draw_rows(pairs.patient, rows, s.batch_size, rng, balanced=s.balanced)
        beside = some if partner is None else partner(some, rng)
        some, beside = (on_its_way(torch.from_numpy(v), image.device) for v in (some, beside))
        shown = image[some]
        if shown.is_cuda and shown.ndim == 4:
            shown = shown.contiguous(memory_format=torch.channels_last)
        return PairBatch(shown, gene[beside])

    def step_loss(net: ContrastiveModel, batch: PairBatch) -> dict[str, Tensor]:
        u, v = (ranks.gathered(side) for side in net(batch.image, batch.gene))
        chance = torch.tensor(float(len(u))).log()
        with torch.autocast(u.device.type, enabled=False):  # scores are divided by a small tau: in float32
            loss = info_nce(u.float(), v.float(), tau=net.tau, target=target)
        return {"loss": loss, "log_batch": chance, "tau": net.tau}

    history = fit(model, step_loss, batch_at, steps=s.steps, lr=s.lr, weight_decay=s.weight_decay, seed=seed,
                  device=place, progress=progress, fused=True, workers=1 if image.is_cuda else workers,
                  compiled=compiled)  # fmt: skip
    return model.eval(), history


def on_card(table: Tensor, device: torch.device) -> Tensor:
    """The whole table on the GPU that trains, where it fits well; else as it is, and batches are sent one by one."""
    return table.to(device) if has_room(device, table.nbytes) else table


def untrained(pairs: Pairs, rows: np.ndarray, *, settings: Settings | None = None, seed: int = 0) -> ContrastiveModel:
    """The same network as it starts: the control that says what architecture and features know by themselves."""
    s = settings or Settings()
    torch.manual_seed(seed)
    return ContrastiveModel(image_encoder(pairs.image, rows, s), 1, dim=s.dim, dropout=s.dropout).eval()


def supervised(
    pairs: Pairs, label: np.ndarray, rows: np.ndarray, *, settings: Settings | None = None, seed: int = 0
) -> ContrastiveModel:
    """The same network, taught by the labels of `rows` alone (cross-entropy, classes weighted equal), no expression."""
    s = settings or Settings()
    rows = rows[~np.isin(label[rows], NOT_A_CLASS)]
    classes, code = np.unique(label[rows], return_inverse=True)
    if len(classes) < 2:
        message = f"the labels that may teach hold {len(classes)} classes in {len(rows)} spots; a network is taught by "
        raise InputError(message + "labels of two or more: annotate each class in at least two patients")
    model = untrained(pairs, rows, settings=s, seed=seed).train()
    classify = nn.Linear(s.dim, len(classes))
    both, weight = nn.ModuleList([model, classify]), torch.tensor(len(code) / len(classes) / np.bincount(code))
    image, code = torch.from_numpy(pairs.image), torch.from_numpy(code)

    def batch_at(step: int) -> PairBatch:
        some = np.random.default_rng([seed, step]).choice(len(rows), min(s.batch_size, len(rows)), replace=False)
        return PairBatch(image[rows[some]], code[some])

    def step_loss(nets: nn.ModuleList, batch: PairBatch) -> dict[str, Tensor]:
        scores = nets[1](nets[0].place(batch.image)) * s.dim**0.5  # u has unit length
        return {"loss": F.cross_entropy(scores, batch.gene, weight=weight.float().to(scores.device))}

    fit(both, step_loss, batch_at, steps=s.steps, lr=s.lr, weight_decay=s.weight_decay, seed=seed,
        device=pick_device(s.device), fused=True)  # fmt: skip
    return model.eval()


@torch.no_grad()
def embed(model: ContrastiveModel, image: np.ndarray, *, at_once: int = 1024) -> np.ndarray:
    """(n, D) place of each picture in the common space: image encoder and its head, frozen."""
    device = next(model.parameters()).device
    parts = [torch.from_numpy(image[i : i + at_once]).to(device) for i in range(0, len(image), at_once)]
    return torch.cat([model.place(part) for part in parts]).float().cpu().numpy()


@torch.no_grad()
def embed_genes(model: ContrastiveModel, z: np.ndarray) -> np.ndarray:
    """(n, D) place of each spot's expression in the common space."""
    device = next(model.parameters()).device
    return model.place_genes(torch.from_numpy(np.asarray(z, np.float32)).to(device)).float().cpu().numpy()


def shuffled_pairs(z: np.ndarray, patient: np.ndarray, *, seed: int) -> np.ndarray:
    """The shuffled control: z (n, k) permuted among the spots of each patient, so that no pair belongs together."""
    out, rng = z.copy(), np.random.default_rng([seed, 701])
    for name in np.unique(patient):
        own = np.flatnonzero(patient == name)
        out[own] = z[rng.permutation(own)]
    return out


def mutual_partners(
    z: np.ndarray, patient: np.ndarray, rows: np.ndarray, *, k: int = 10, share: float = 0.5
) -> Partner:
    """Partners mined across patients: with probability `share` a picture stands beside the expression of a spot of
    *another* patient that is among its k nearest there, and that has it among its own k nearest in return.

    z : (n, k) in which patients are comparable (section-standardised). Spots without such a partner keep their own.
    """
    from scipy.spatial import cKDTree

    names = np.unique(patient[rows])
    own = {name: rows[patient[rows] == name] for name in names}
    trees = {name: cKDTree(z[own[name]]) for name in names}
    near = {(a, b): own[b][trees[b].query(z[own[a]], k=min(k, len(own[b])))[1].reshape(len(own[a]), -1)]
            for a in names for b in names if a != b}  # fmt: skip
    found: dict[int, list[int]] = {int(row): [] for row in rows}
    for (a, b), there in near.items():
        back = {int(j): set(map(int, hits)) for j, hits in zip(own[b], near[b, a], strict=True)}
        for i, hits in zip(own[a], there, strict=True):
            found[int(i)] += [int(j) for j in hits if int(i) in back[int(j)]]

    def partner(some: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        across = rng.random(len(some)) < share
        return np.array(
            [rng.choice(found[int(i)]) if go and found[int(i)] else i for i, go in zip(some, across, strict=True)]
        )

    return partner


@torch.no_grad()
def occlusion(
    model: ContrastiveModel, patches: np.ndarray, v: np.ndarray, *, cover: int = 14, step: int = 7
) -> np.ndarray:
    """Where a network on patches looks: how far the match with v falls when a square of each patch is covered.

    patches : (n, 3, S, S) uint8; v : (n, D) of unit length, what each picture is compared with. cover, step : side of
    the grey square and its stride, px. Returns (n, k, k), 1 where covering costs that patch most, 0 where it costs
    nothing or helps. Unlike a map of activations it works for any encoder, and it means what it says.
    """
    size = patches.shape[-1]
    corners = list(range(0, size - cover + 1, step))
    whole = (embed(model, patches) * v).sum(1)  # (n,)
    heat = np.empty((len(patches), len(corners), len(corners)), np.float32)
    for i, top in enumerate(corners):
        for j, left in enumerate(corners):
            covered = patches.copy()
            covered[..., top : top + cover, left : left + cover] = patches.mean((2, 3), keepdims=True).astype(np.uint8)
            heat[:, i, j] = whole - (embed(model, covered) * v).sum(1)
    return heat.clip(0) / np.maximum(heat.max((1, 2), keepdims=True), 1e-6)
