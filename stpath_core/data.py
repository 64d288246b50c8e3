"""What the nuclei network trains on: the packed stage file, and batches of tiles drawn from it.

This room imports only numpy, h5py and torch, so that a stage file can be trained on where no single-cell package is
installed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stpath_core import ranks
from stpath_core.augment import stain_augment
from stpath_core.card import Place, TilesOnCard, on_its_way
from stpath_core.errors import InputError
from stpath_core.io.files import atomic_path
from stpath_core.io.guard import FREE_BYTES, MAX_RATIO, check_hdf5, reads
from stpath_core.stain import standardise_stain

SCHEMA = "stpath.nuclei/1"
_BENDS = 6  # points along a tile's side that are displaced; what lies between follows smoothly
ARRAYS = ("labels", "confidence", "truth_instances", "truth_labels")  # optional, beside image and instances


@dataclass(frozen=True)
class NucleiSection:
    """One image with its nuclei, ready for a network.

    image : (H, W, 3) uint8; mpp : micrometres per pixel; instances : (H, W) int32, ids 1..n, 0 background.
    labels : (n + 1,) int8 class index by instance id, -1 unknown, or None where there are no types; confidence alike.
    truth_instances, truth_labels : the planted (or annotated) truth, for evaluation only.
    """

    name: str
    organ: str
    patient: str
    image: np.ndarray
    mpp: float
    instances: np.ndarray
    labels: np.ndarray | None = None
    confidence: np.ndarray | None = None
    truth_instances: np.ndarray | None = None
    truth_labels: np.ndarray | None = None

    def without_labels(self) -> NucleiSection:
        """The same section with its nuclei but no types."""
        return replace(self, labels=None, confidence=None)


def write_nuclei_stage(
    path: str | Path,
    sections: Sequence[NucleiSection],
    *,
    dataset: str,
    classes: Sequence[str],
    holdout: Sequence[str] = (),
    pictures: Callable[[NucleiSection], bytes] | None = None,
) -> None:
    """Pack sections into one HDF5 file (schema stpath.nuclei/1), written aside and moved into place.

    holdout : names of sections that nobody may train on. pictures : the bytes of each image as PNG or JPEG, to be kept
    instead of its pixels (two thirds of their size, and slower to open).
    """
    if not sections:
        msg = "no sections were given to write_nuclei_stage; at least one is needed: check the dataset's folder"
        raise InputError(msg)
    with atomic_path(path) as aside, h5py.File(aside, "w") as file:
        file.attrs.update(schema=SCHEMA, dataset=dataset, classes=json.dumps(list(classes)))
        if holdout:
            file.attrs["holdout"] = json.dumps(list(holdout))
        for s in sections:
            if s.image.shape[:2] != s.instances.shape:
                msg = f"section {s.name}: the mask has shape {s.instances.shape}; its image needs {s.image.shape[:2]}"
                raise InputError(msg)
            group = file.create_group(f"sections/{s.name}")
            group.attrs.update(organ=s.organ, patient=str(s.patient), mpp=s.mpp)
            small = {"compression": "lzf"} if pictures is None else {"compression": "gzip", "shuffle": True}
            if pictures is None:
                group.create_dataset("image", data=s.image, compression="lzf")
            else:
                group.create_dataset("picture", data=np.frombuffer(pictures(s), np.uint8))
            group.create_dataset("instances", data=s.instances.astype(np.int32), **small)
            for name in ARRAYS:
                value = getattr(s, name)
                if value is not None:
                    group.create_dataset(name, data=value, **small)


@reads
def read_nuclei_stage(path: str | Path) -> list[NucleiSection]:
    """Read every section of a stage file; InputError where the file is not one."""
    try:
        check_hdf5(Path(path))
        with h5py.File(path, "r") as file:
            if file.attrs.get("schema") != SCHEMA:
                msg = f"{path} has schema {file.attrs.get('schema')!r}; expected {SCHEMA!r}: make it with notebook 10"
                raise InputError(msg)
            return [_read_section(name, group) for name, group in file["sections"].items()]
    except OSError as error:
        msg = f"{path} is not a readable HDF5 stage file ({error}); make it with notebook 10"
        raise InputError(msg) from error


def _read_section(name: str, group: h5py.Group) -> NucleiSection:
    return NucleiSection(
        name=name,
        organ=group.attrs["organ"],
        patient=group.attrs["patient"],
        image=group["image"][...] if "image" in group else _decoded(group["picture"][...].tobytes(), group.name),
        mpp=float(group.attrs["mpp"]),
        instances=group["instances"][...],
        **{a: group[a][...] if a in group else None for a in ARRAYS},
    )


def _decoded(picture: bytes, name: str) -> np.ndarray:
    """The pixels of a PNG or JPEG, (H, W, 3) uint8."""
    from PIL import Image  # torchvision brings it

    with Image.open(io.BytesIO(picture), formats=("PNG", "JPEG")) as image:
        if 4 * image.width * image.height > max(FREE_BYTES, MAX_RATIO * len(picture)):
            msg = f"the picture of {name} says that it has {image.width} x {image.height} px: it is damaged, or a trap"
            raise InputError(msg)
        return np.array(image.convert("RGB"))


@reads
def read_nuclei_plan(path: str | Path) -> tuple[str, list[str], list[str]]:
    """What a stage file says beside its sections: data set, classes, names of the sections to be held out."""
    check_hdf5(Path(path))
    with h5py.File(path, "r") as file:
        holdout = json.loads(file.attrs.get("holdout", "[]"))
        return str(file.attrs["dataset"]), json.loads(file.attrs["classes"]), holdout


def rescale(section: NucleiSection, mpp: float) -> NucleiSection:
    """The same section at another resolution: the image filtered and resampled, the ids taken at pixel centres."""
    factor = section.mpp / mpp
    if abs(factor - 1) < 0.01:
        return section
    shape = tuple(max(1, round(n * factor)) for n in section.image.shape[:2])
    image = torch.from_numpy(section.image).permute(2, 0, 1)[None].float()
    image = F.interpolate(image, size=shape, mode="bilinear", antialias=factor < 1, align_corners=False)
    rows, cols = (
        np.minimum(((np.arange(n) + 0.5) * old / n).astype(int), old - 1)
        for n, old in zip(shape, section.image.shape[:2], strict=True)
    )
    ids = {
        name: None if value is None else value[rows][:, cols]
        for name, value in (("instances", section.instances), ("truth_instances", section.truth_instances))
    }
    pixels = image[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    return replace(section, image=pixels, mpp=mpp, **ids)


@dataclass(frozen=True)
class NucleiBatch:
    """image : (B, 3, S, S) uint8; instances : (B, S/stride, S/stride) int64; section : (B,) where each tile was cut;
    labels : (B, ids) int64 by instance id, -1 unknown, or None; targets : their `distance_targets`, where they were
    computed beside the training."""

    image: Tensor
    instances: Tensor
    section: Tensor
    labels: Tensor | None
    targets: Tensor | None = None

    def to(self, device: torch.device | str) -> NucleiBatch:
        return NucleiBatch(*(None if v is None else v.to(device) for v in self._parts))

    def share(self) -> NucleiBatch:
        """The tiles of this process, where several train together."""
        mine = ranks.share(len(self.image))
        return NucleiBatch(*(None if v is None else v[mine] for v in self._parts))

    @property
    def _parts(self) -> tuple[Tensor | None, ...]:
        return self.image, self.instances, self.section, self.labels, self.targets


class NucleiTiles:
    """Random tiles of a list of sections: `tiles(step)` is a NucleiBatch that depends on (seed, step) alone.

    Sections are brought to the common stain first, as `predict` does with whatever it is given. A tile is cut with a
    random centre, rotation, scale and flip in one resampling; ids are read exactly at the centres of the network's
    output pixels. Because a batch is a function of its step, a resumed run sees what an uninterrupted one would have
    seen.

    size_px : tile side at `mpp`, a multiple of the encoder's coarsest stride. augment : stain, blur and noise as well.
    bend_um : standard deviation of a smooth random displacement (Simard et al. 2003), as tissue is pulled by the knife.
    """

    def __init__(
        self,
        sections: Sequence[NucleiSection],
        *,
        mpp: float,
        size_px: int = 128,
        stride: int = 2,
        batch_size: int = 12,
        scale: float = 0.4,
        bend_um: float = 0.0,
        augment: bool = True,
        seed: int = 0,
    ):
        if not sections:
            msg = "NucleiTiles was given no sections; at least one is needed: check the split"
            raise InputError(msg)
        self.sections = [rescale(s, mpp) for s in sections]
        stained = [standardise_stain(s.image) for s in self.sections]
        self.images = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in stained]
        self.ids = [torch.from_numpy(s.instances.astype(np.float32))[None] for s in self.sections]  # exact below 2**24
        self.size, self.stride, self.batch_size = size_px, stride, batch_size
        self.scale, self.bend_px, self.augment, self.seed = scale, bend_um / mpp, augment, seed
        self.labels, self.card = None, None
        if all(s.labels is not None for s in self.sections):
            top = max(len(s.labels) for s in self.sections)
            self.labels = torch.full((len(sections), top), -1, dtype=torch.long)
            for row, s in zip(self.labels, self.sections, strict=True):
                row[: len(s.labels)] = torch.from_numpy(s.labels.astype(np.int64))

    def __call__(self, step: int) -> NucleiBatch:
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        which = torch.randint(len(self.sections), (self.batch_size,), generator=rng)
        places = [self._place(int(k), rng) for k in which]
        if self.card is None:
            cut = [self._cut(place) for place in places]
            image, instances = torch.stack([c[0] for c in cut]), torch.stack([c[1] for c in cut]).long()
        else:
            image, instances = self.card.cut(places)  # (B, 3, S, S) in [0, 255], (B, s, s)
            which = on_its_way(which, image.device)
        if self.augment:
            image = stain_augment(image.div_(255), rng).mul_(255)
        image = image.round_().clamp_(0, 255).byte()
        labels = None if self.labels is None else self.labels[which]
        if self.card is None:
            return NucleiBatch(image, instances, which, labels)
        image = image.contiguous(memory_format=torch.channels_last)
        return NucleiBatch(image, instances, which, labels, distance_targets(instances, self.card.top))

    def on(self, device: torch.device | str) -> NucleiTiles:
        """The same tiles, cut on the device where all sections lie from now on; a GPU would wait for a CPU's.

        A batch holds the same places and stains; its noise is the device's own, and grey levels may differ by one.
        """
        tiles = copy(self)
        tiles.card = TilesOnCard(self.images, self.ids, self.size, self.stride, torch.device(device))
        tiles.labels = None if self.labels is None else self.labels.to(device)
        return tiles

    @property
    def n_bytes(self) -> int:
        """What `on` takes of the device's memory."""
        return 8 * sum(ids.numel() for ids in self.ids)

    def _place(self, k: int, rng: torch.Generator) -> Place:
        """Where a tile of section k lies."""
        u = torch.rand(5, generator=rng)
        height, width = self.images[k].shape[-2:]
        zoom = float(torch.exp((2 * u[0] - 1) * self.scale)) if self.augment else 1.0
        angle = float(u[1]) * 2 * np.pi if self.augment else 0.0
        flip = -1.0 if self.augment and u[2] < 0.5 else 1.0
        half = self.size / 2 / zoom
        reach = min(half * 1.42, height / 2, width / 2) if self.augment else half  # the rotated tile's radius
        cy = reach + float(u[3]) * max(height - 2 * reach, 0)
        cx = reach + float(u[4]) * max(width - 2 * reach, 0)
        bend = None
        if self.augment and self.bend_px:
            bend = self.bend_px * torch.randn(1, 2, _BENDS, _BENDS, generator=rng)
        return Place(k, cy, cx, half, np.cos(angle) / zoom, np.sin(angle) / zoom, flip, bend)

    def _cut(self, place: Place) -> tuple[Tensor, Tensor]:
        """One tile: (3, S, S) float in [0, 255] and ids (S/stride, S/stride)."""
        cy, cx, half = place.cy, place.cx, place.half
        top, left = max(int(cy - half * 1.5), 0), max(int(cx - half * 1.5), 0)
        box = np.s_[:, top : int(cy + half * 1.5) + 2, left : int(cx + half * 1.5) + 2]
        image, ids = self.images[place.section][box].float(), self.ids[place.section][box]
        grids, sampled, (h, w) = {}, [], image.shape[-2:]
        for source, n, mode in ((image, self.size, "bilinear"), (ids, self.size // self.stride, "nearest")):
            if n not in grids:
                t = (torch.arange(n) + 0.5) * (self.size / n) - self.size / 2  # centres, tile pixels from the middle
                y, x = t[:, None], t[None] * place.flip
                if place.bend is not None:
                    moved = F.interpolate(place.bend, (n, n), mode="bicubic", align_corners=True)[0]
                    y, x = y + moved[0], x + moved[1]
                sx, sy = cx - left + place.cos * x - place.sin * y, cy - top + place.sin * x + place.cos * y
                grids[n] = torch.stack([sx.mul_(2).div_(w).sub_(1), sy.mul_(2).div_(h).sub_(1)], -1)[None]
            sampled.append(
                F.grid_sample(source[None], grids[n], mode=mode, padding_mode="reflection", align_corners=False)[0]
            )
        return sampled[0], sampled[1][0]


def distance_targets(instances: Tensor, top: int | None = None) -> Tensor:
    """Where in its nucleus a pixel lies: horizontal and vertical position, and depth; 0 outside.

    instances : (B, h, w) ids, unique per image -> (B, 3, h, w) float32. The first two run from -1 to 1 across the
    nucleus, 0 at its centre of mass, scaled on each side (HoVer-Net, Graham et al. 2019, section 3.1). Depth is the
    cone 1 - |(horizontal, vertical)|: 1 at the centre, 0 at the border. It follows from the first two, but a network
    must be asked for it: where it is unsure, it answers 0 to all three, which reads as "centre" in the position maps
    and as "border" in the depth.

    top : no id is above it. Where it is known, nothing has to be counted first, for which a GPU would have to wait.
    """
    shape, device = instances.shape, instances.device
    out = torch.zeros(shape[0], 3, *shape[1:], device=device)
    if top is None:
        b, r, c = instances.nonzero(as_tuple=True)
        if not len(b):
            return out
        keys = b * (int(instances.max()) + 1) + instances[b, r, c]
        _, index = torch.unique(keys, return_inverse=True)
        position = _in_nucleus(torch.stack([c, r]).float(), index, int(index.max()) + 1)
        out[b, 0, r, c], out[b, 1, r, c] = position
        out[b, 2, r, c] = (1 - out[b, :2, r, c].norm(dim=1)).clamp(min=0)
        return out
    image = torch.arange(shape[0], device=device)[:, None, None]
    r, c = (torch.arange(n, device=device, dtype=torch.float32) for n in shape[1:])
    places = torch.stack([c.expand(shape).flatten(), r[:, None].expand(shape).flatten()])  # (2, pixels)
    position = _in_nucleus(places, (image * (top + 1) + instances).flatten(), shape[0] * (top + 1))
    out[:, 0], out[:, 1] = position.view(2, *shape)
    out[:, 2] = (1 - out[:, :2].norm(dim=1)).clamp(min=0)
    return out * (instances > 0)[:, None]


def _in_nucleus(places: Tensor, index: Tensor, n: int) -> Tensor:
    """(2, pixels) positions from -1 to 1 in the nucleus that each pixel belongs to, by its index below n."""
    out = torch.empty_like(places)
    size = torch.zeros(n, device=places.device).index_add_(0, index, torch.ones_like(places[0])).clamp_(min=1)
    for axis, position in enumerate(places):
        centre = torch.zeros(n, device=places.device).index_add_(0, index, position) / size
        offset = position - centre[index]
        flat = (offset > 0).long() * n + index  # the two sides of a nucleus reach differently far
        reach = torch.zeros(2 * n, device=places.device).scatter_reduce(0, flat, offset.abs(), "amax")
        out[axis] = offset / reach[flat].clamp(min=1e-6)
    return out
