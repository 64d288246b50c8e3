"""Use a trained nuclei network: checkpoints, and prediction on images of any size."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stpath_core.errors import InputError
from stpath_core.fit import Progress, pick_device
from stpath_core.io.files import atomic_path
from stpath_core.models.nuclei import NucleiNet, TypeHead, pool_nuclei
from stpath_core.postprocess import THRESHOLD, instances_from_maps
from stpath_core.stain import standardise_stain

SCHEMA = "stpath.nuclei-net/3"


@dataclass(frozen=True)
class Nuclei:
    """Predicted nuclei of one image.

    instances : (H, W) int32, ids 1..n at the input's size; centroids_px : (n, 2) x, y; area_px : (n,).
    probability : (H, W) nuclear probability; type_probs : (n, K) or None without a type head; classes : K names.
    features : (n, F) mean network feature of each nucleus, what a type head is trained on.
    """

    instances: np.ndarray
    centroids_px: np.ndarray
    area_px: np.ndarray
    probability: np.ndarray
    features: np.ndarray
    type_probs: np.ndarray | None
    classes: tuple[str, ...]


def save(path: str | Path, model: NucleiNet, **meta: str | float) -> Path:
    """One .safetensors with the weights, and the configuration (JSON) in its metadata; returns its path."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    config = json.dumps({"schema": SCHEMA, "model": model.config, "meta": meta})
    with atomic_path(path) as aside:
        save_file(tensors, aside, {"stpath": config})
    return Path(path)


def load(path: str | Path, *, device: str = "cpu") -> NucleiNet:
    """Read a checkpoint of `save`. Anything else, a pickle above all, is an InputError: nothing in it is executed."""
    config, tensors = _read(Path(path))
    try:
        model = NucleiNet(**config["model"], pretrained=False)
        model.load_state_dict(tensors)
        sound = all(isinstance(name, str) for name in model.classes) and 0 < model.mpp < math.inf
    except Exception as error:  # whatever timm and torch say of sizes and names that are wrong
        msg = f"{path} does not fit its own configuration ({' '.join(str(error).split())[:300]}); train it again"
        raise InputError(msg) from error
    if not sound:
        msg = f"{path} has mpp {model.mpp!r} and classes {model.classes!r}; expected a length and names: train it again"
        raise InputError(msg)
    return model.to(pick_device(device)).eval()


def metadata(path: str | Path) -> dict[str, str | float]:
    """What `save` was told beside the network, such as dataset, seed and labels (what the type head learned from)."""
    meta = _read(Path(path))[0].get("meta")
    return meta if isinstance(meta, dict) else {}


def _read(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Configuration and tensors of a checkpoint."""
    if not path.is_file():
        msg = f"there is no checkpoint at {path}; `stpath run 11` trains one and prints its path"
        raise InputError(msg)
    try:
        with safe_open(path, "pt") as file:
            config = json.loads((file.metadata() or {}).get("stpath", "{}"))
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, json.JSONDecodeError, RecursionError) as error:
        msg = (
            f"{path} is not a safetensors checkpoint ({error}); stpath reads no pickles (.pt, .pth), because loading "
            "one can run code: give a .safetensors written by `stpath run 11`"
        )
        raise InputError(msg) from error
    schema = config.get("schema") if isinstance(config, dict) else f"of a {type(config).__name__}"
    if schema != SCHEMA:
        msg = f"{path} has schema {schema!r}; expected {SCHEMA!r}, as written by `stpath run 11`"
        raise InputError(msg)
    return config, tensors


def with_type_head(model: NucleiNet, head: TypeHead, classes: Sequence[str]) -> NucleiNet:
    """A copy of the network (same segmentation weights) with another type head."""
    twin = NucleiNet(**{**model.config, "classes": list(classes)})
    twin.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("type_head")}, strict=False)
    twin.type_head.load_state_dict(head.state_dict())
    return twin.to(next(model.parameters()).device).eval()


def predict_image(
    model: NucleiNet,
    image: np.ndarray,
    mpp: float,
    *,
    threshold: float = THRESHOLD,
    tile_px: int = 1024,
    margin_px: int = 64,
    average_views: bool = True,
    progress: Progress = iter,
) -> Nuclei:
    """Nuclei of an RGB image of any size.

    image : (H, W, 3) uint8; mpp : its micrometres per pixel. It is brought to the common stain first. The network works
    at `model.mpp`; its maps are brought back to the input's grid before they are split into nuclei, so borders are
    drawn at the input's resolution.
    tile_px, margin_px : tiles, in network pixels, each seen with a margin; a nucleus belongs to the tile whose core
    holds its centroid. average_views : mean of the eight ways to turn and mirror a tile. `progress` wraps the tiles.
    """
    check_image(image, mpp)
    image = standardise_stain(image)
    instances = np.zeros(image.shape[:2], np.int32)
    probability = np.zeros(image.shape[:2], np.float32)
    features, type_probs, n = [], None, 0
    for tile in progress(tiles_of(image.shape, model, mpp, tile_px=tile_px, margin_px=margin_px)):
        seen = image[tile.seen]
        found, pooled, maps = nuclei_of_tile(model, seen, tile, mpp, threshold=threshold, average_views=average_views)
        probability[tile.core] = maps[tile.core_in_seen]
        kept = paint(instances[tile.seen], found, n)
        features.append(pooled[kept])
        n += int(kept.sum())
    area, centroids = _measure(instances)
    pooled = np.concatenate(features)
    if model.type_head is not None:
        type_probs = type_probabilities(model.type_head, pooled)
    return Nuclei(instances, centroids, area, probability, pooled, type_probs if model.classes else None, model.classes)


def nuclei_of_tile(
    model: NucleiNet, seen: np.ndarray, tile: Tile, mpp: float, *, threshold: float, average_views: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nuclei that a tile owns, whatever other tiles find: instances 1..k of what it sees (h, w), their features
    (k, F), and the nuclear probability (h, w).

    seen : (h, w, 3) uint8, in the common stain, at `mpp`.
    """
    maps, kept, padded = _network_maps(model, seen, mpp, average_views=average_views)
    found = instances_from_maps(maps[0], maps[1], mpp=mpp, threshold=threshold)
    area, centroids = _measure(found)
    mine = (area > 0) & tile.owns(centroids + tile.origin)
    number = np.concatenate([[0], np.where(mine, np.cumsum(mine), 0)]).astype(np.int32)
    return number[found], _nucleus_features(kept, found, centroids, padded)[mine], maps[0]


def paint(window: np.ndarray, found: np.ndarray, n: int) -> np.ndarray:
    """Add the nuclei of a tile to what the tiles before it left in its window, in place: ids n + 1 and on.

    window, found : (h, w) ids, 0 background. What is painted stays. Returns (k,) bool, which nuclei came in: one whose
    larger part is taken is the same nucleus, which a neighbour holds for its own.
    """
    free = window == 0
    k = int(found.max(initial=0))
    whole, left = (np.bincount(ids, minlength=k + 1)[1:] for ids in (found.ravel(), found[free]))
    kept = 2 * left > whole
    number = np.concatenate([[0], np.where(kept, n + np.cumsum(kept), 0)]).astype(window.dtype)
    np.copyto(window, number[found], where=free)
    return kept


def describe_nuclei(
    model: NucleiNet, image: np.ndarray, mpp: float, instances: np.ndarray, *, tile_px: int = 1024, margin_px: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Network features (m, F) of nuclei that are given, and their ids (m,); ids without a pixel are left out.

    image : (H, W, 3) uint8 at `mpp`; instances : (H, W) ids, 0 background. Tiles as in `predict_image`.
    """
    check_image(image, mpp)
    image = standardise_stain(image)
    area, centroids = _measure(instances)
    features, ids = [], []
    for tile in tiles_of(image.shape, model, mpp, tile_px=tile_px, margin_px=margin_px):
        mine = np.flatnonzero((area > 0) & tile.owns(centroids)) + 1
        if len(mine):
            _, kept, padded = _network_maps(model, image[tile.seen], mpp, average_views=False)
            number = np.zeros(len(area) + 1, np.int32)
            number[mine] = np.arange(1, len(mine) + 1)
            here = centroids[mine - 1] - tile.origin
            features.append(_nucleus_features(kept, number[instances[tile.seen]], here, padded))
            ids.append(mine)
    if not ids:
        msg = f"the mask of shape {instances.shape} holds no nucleus to describe; check the section"
        raise InputError(msg)
    return np.concatenate(features), np.concatenate(ids)


class Tile(NamedTuple):
    """A tile of an image, in its pixels: the core, which owns the nuclei centred in it, and what the network sees."""

    core: tuple[slice, slice]
    seen: tuple[slice, slice]

    @property
    def origin(self) -> np.ndarray:
        """x, y of the first pixel that is seen."""
        return np.array([self.seen[1].start, self.seen[0].start])

    @property
    def core_in_seen(self) -> tuple[slice, slice]:
        return tuple(slice(c.start - s.start, c.stop - s.start) for c, s in zip(self.core, self.seen, strict=True))

    def owns(self, xy: np.ndarray) -> np.ndarray:
        """(n,) bool: points (n, 2; x, y) inside the core."""
        rows, columns = self.core
        x, y = xy.T
        return (x >= columns.start) & (x < columns.stop) & (y >= rows.start) & (y < rows.stop)


def tiles_of(shape: tuple[int, ...], model: NucleiNet, mpp: float, *, tile_px: int, margin_px: int) -> list[Tile]:
    """Tiles that cover an image (H, W, ...) at `mpp`; core and margin are told in pixels of the network."""
    return cut_tiles(shape, round(tile_px * model.mpp / mpp), round(margin_px * model.mpp / mpp))


def cut_tiles(shape: tuple[int, ...], core: int, margin: int) -> list[Tile]:
    """Tiles whose cores of `core` pixels cover an image; each is seen with a margin, as far as there is one."""
    core = max(core, 1)

    def pieces(n: int) -> list[tuple[slice, slice]]:
        starts = range(0, n, core)
        return [(slice(a, min(a + core, n)), slice(max(a - margin, 0), min(a + core + margin, n))) for a in starts]

    return [Tile((r, c), (rs, cs)) for r, rs in pieces(shape[0]) for c, cs in pieces(shape[1])]


def type_probabilities(head: TypeHead, features: np.ndarray) -> np.ndarray:
    """Softmax of a type head on the features of all nuclei of *one* image: (n, F) -> (n, K)."""
    device = next(head.parameters()).device
    with torch.no_grad():
        return head.eval()(torch.from_numpy(features).to(device)).softmax(1).cpu().numpy()


def check_image(image: np.ndarray, mpp: float) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        msg = f"the image has shape {image.shape} and type {image.dtype}; expected (H, W, 3) uint8: give RGB"
        raise InputError(msg)
    if min(image.shape[:2]) < 16:
        msg = f"the image has shape {image.shape}; at least 16 x 16 pixels are needed"
        raise InputError(msg)
    if not 0.05 <= mpp <= 4:
        msg = f"mpp is {mpp}; a nucleus can be outlined between 0.05 and 4 micrometres per pixel: check the unit"
        raise InputError(msg)


@torch.no_grad()
def _network_maps(model: NucleiNet, crop: np.ndarray, mpp: float, *, average_views: bool):
    """Nuclear probability and depth at the crop's own pixels (2, H, W); features at the network's grid.

    The features, as `pool_nuclei` reads them, cover the crop padded to whole strides: its shape comes last.
    """
    device = next(model.parameters()).device
    height, width = crop.shape[:2]
    ratio, step = mpp / model.mpp, model.coarsest
    grid = tuple(math.ceil(n * ratio / step) * step for n in (height, width))  # whole strides of the network
    padded = tuple(max(round(g / ratio), n) for g, n in zip(grid, (height, width), strict=True))
    crop = np.pad(crop, ((0, padded[0] - height), (0, padded[1] - width), (0, 0)), mode="edge")
    x = torch.from_numpy(crop).permute(2, 0, 1)[None].float().to(device) / 255
    x = F.interpolate(x, size=grid, mode="bilinear", antialias=ratio < 1, align_corners=False)
    total, features = 0.0, ()
    views = list(product((0, 1), range(4))) if average_views else [(0, 0)]
    for mirrored, turns in views:
        seen = x.flip(3) if mirrored else x
        logit, distance, kept = model(seen.rot90(turns, (2, 3)))
        answer = torch.stack([logit.sigmoid(), distance[:, 2]], 1).rot90(-turns, (2, 3))
        total = total + (answer.flip(3) if mirrored else answer)
        features = features or kept  # those of the image as it is
    maps = F.interpolate(total / len(views), size=padded, mode="bilinear", align_corners=False)[0]
    return maps[:, :height, :width].cpu().numpy(), tuple(f.float().cpu() for f in features), padded


def _nucleus_features(
    features: tuple[torch.Tensor, ...], instances: np.ndarray, centroids: np.ndarray, padded: tuple[int, int]
) -> np.ndarray:
    """Pooled features per nucleus (n, F). One too small to own an output pixel takes the one at its centroid."""
    n, (h, w) = len(centroids), features[0].shape[-2:]
    instances = np.pad(instances, [(0, p - size) for p, size in zip(padded, instances.shape, strict=True)])
    rows = ((np.arange(h) + 0.5) * padded[0] / h).astype(int)
    cols = ((np.arange(w) + 0.5) * padded[1] / w).astype(int)
    coarse = instances[rows][:, cols]
    missing = np.setdiff1d(np.flatnonzero(np.bincount(instances.ravel(), minlength=n + 1)[1:]) + 1, coarse)
    at = (centroids[missing - 1] * (w / padded[1], h / padded[0])).astype(int)
    coarse[np.minimum(at[:, 1], h - 1), np.minimum(at[:, 0], w - 1)] = missing
    pooled, keys = pool_nuclei(features, torch.from_numpy(coarse)[None])
    out = np.zeros((n, pooled.shape[1]), np.float32)
    out[keys[:, 1].numpy() - 1] = pooled.numpy()
    return out


def _measure(instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area in pixels (n,) and centroid (n, 2) as x, y of pixel centres, for ids 1..n; a missing id has area 0."""
    n = int(instances.max(initial=0))
    r, c = np.nonzero(instances)
    ids = instances[r, c]
    area = np.bincount(ids, minlength=n + 1)[1:]
    xy = [np.bincount(ids, weights=v + 0.5, minlength=n + 1)[1:] / np.maximum(area, 1) for v in (c, r)]
    return area, np.stack(xy, 1)
