"""The nuclei of a slide larger than memory: tile by tile through the network, then painted into one zarr array.

What `predict.predict_image` finds in an image in memory, except on bare glass, which no network looks at. Each tile's
nuclei are a file; after an interrupt the same call keeps those that are there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stpath_core import predict
from stpath_core.fit import Progress
from stpath_core.io.files import atomic_folder, atomic_path, only_one
from stpath_core.io.slides import Slide
from stpath_core.parallel import on_scheduler
from stpath_core.postprocess import THRESHOLD
from stpath_core.predict import Tile
from stpath_core.stain import recoloured, stain_step, stain_tables, stained_pixels, tissue_levels

CHUNK_PX = 512
STAINED_UM2 = 1.0  # of a tile's core that are not white, under which no nucleus (8 um2 and more) can be centred there


class SlideNuclei(NamedTuple):
    """Where the nuclei of a slide lie: labels, a zarr array (H, W) int32 of ids 1..n, 0 background; nuclei, a parquet
    table with a row per nucleus: id, x_um, y_um, area_um2, and with a type head type and confidence."""

    labels: Path
    nuclei: Path


@dataclass(frozen=True)
class _How:
    """What decides what a tile holds, beside the slide."""

    threshold: float
    average_views: bool
    device: str


def predict_slide(
    checkpoint: str | Path,
    slide: Slide,
    out: str | Path,
    *,
    threshold: float = THRESHOLD,
    tile_px: int = 1024,
    margin_px: int = 64,
    average_views: bool = True,
    device: str = "auto",
    scheduler: Any = None,
    progress: Progress = iter,
) -> SlideNuclei:
    """Nuclei of a tiled slide: `out/labels.zarr` and `out/nuclei.parquet`, each written whole or not at all.

    checkpoint : a file of `predict.save`. threshold, tile_px, margin_px, average_views : as in `predict.predict_image`,
    whose nuclei these are. A tile of whose core less than 1 um2 is stained is passed over. scheduler : see `large`;
    workers read checkpoint and slide, and write below `out`. `progress` wraps the tiles. InputError, and nothing
    changed, where another call is at work in `out`.
    """
    checkpoint, out, mpp = Path(checkpoint).resolve(), Path(out).resolve(), slide.mpp
    slide = slide.whole_path()
    model = predict.load(checkpoint)
    check_slide(slide)
    tiles = predict.tiles_of(slide.shapes[0], model, mpp, tile_px=tile_px, margin_px=margin_px)
    how = _How(threshold, average_views, device)
    with only_one(out):
        kept = out / "tiles" / _identity(checkpoint, slide, tiles, how)
        kept.mkdir(parents=True, exist_ok=True)
        levels, stained = _survey(slide, tiles, kept / "survey.npz", scheduler)
        tissue = [k for k in range(len(tiles)) if stained[k] * mpp**2 >= STAINED_UM2]
        jobs = ((k, tiles[k]) for k in progress(tissue) if not _file(kept, k).is_file())
        look = partial(_look, checkpoint, slide, how, stain_tables(levels), kept)
        for _ in on_scheduler(look, jobs, scheduler=scheduler):
            pass
        found = _merge(out, kept, slide, [(k, tiles[k]) for k in tissue], model)
        shutil.rmtree(kept)
        if not any(kept.parent.iterdir()):
            kept.parent.rmdir()
    return found


def check_slide(slide: Slide) -> None:
    """Refuse a slide that no nuclei can be found in, as `predict.check_image` refuses an image; its first pixel tells
    whether it can be read."""
    slide.window(slice(0, 1), slice(0, 1))
    predict.check_image(np.broadcast_to(np.uint8(0), (*slide.shapes[0], 3)), slide.mpp)


def _identity(checkpoint: Path, slide: Slide, tiles: Sequence[Tile], how: _How) -> str:
    """Sixteen digits that are the same where kept tiles may be used: network, slide, tiles, settings."""
    about = slide.path.stat()
    told = [slide.path.name, about.st_size, about.st_mtime_ns, slide.mpp, slide.shapes[0], repr(tiles)]
    told += [hashlib.sha256(checkpoint.read_bytes()).hexdigest(), asdict(how) | {"device": ""}]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _file(kept: Path, k: int) -> Path:
    return kept / f"{k:06d}.npz"


def _survey(slide: Slide, tiles: Sequence[Tile], path: Path, scheduler: Any) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels of the slide's tissue (3, 256), for the common stain, and stained pixels of each core (tiles,)."""
    if not path.is_file():
        each = list(on_scheduler(partial(_survey_tile, slide), tiles, scheduler=scheduler))
        levels, stained = (np.stack(one) for one in zip(*each, strict=True))
        with atomic_path(path) as aside:
            np.savez(aside, levels=levels.sum(0), stained=stained)
    with np.load(path) as file:
        return file["levels"], file["stained"]


def _survey_tile(slide: Slide, tile: Tile) -> tuple[np.ndarray, int]:
    """Grey levels, of the pixels that `standardise_stain` looks at on the whole slide, and stained pixels of a core."""
    pixels = slide.window(*tile.core)
    step = stain_step(slide.shapes[0])
    first = (-side.start % step for side in tile.core)
    some = pixels[tuple(slice(at, None, step) for at in first)]
    return tissue_levels(some), stained_pixels(pixels)


def _look(
    checkpoint: Path, slide: Slide, how: _How, tables: np.ndarray | None, kept: Path, job: tuple[int, Tile]
) -> None:
    """Write the nuclei that a tile owns: ids of what it sees (h, w), and their features (n, F)."""
    k, tile = job
    model = _model(checkpoint, checkpoint.stat().st_mtime_ns, how.device)
    seen = recoloured(slide.window(*tile.seen), tables)
    found, features, _ = predict.nuclei_of_tile(
        model, seen, tile, slide.mpp, threshold=how.threshold, average_views=how.average_views
    )
    with atomic_path(_file(kept, k)) as aside:
        np.savez_compressed(aside, found=found, features=features)


@lru_cache(maxsize=1)
def _model(checkpoint: Path, _changed: int, device: str) -> predict.NucleiNet:
    """The network, read once by each process."""
    return predict.load(checkpoint, device=device)


def _merge(out: Path, kept: Path, slide: Slide, tiles: Sequence[tuple[int, Tile]], model) -> SlideNuclei:
    """Paint the tiles in their order, as `predict_image` does, and measure what was painted; both files are written
    before either takes its place."""
    import zarr

    target = SlideNuclei(out / "labels.zarr", out / "nuclei.parquet")
    measures, features, n = [np.zeros((0, 3))], [np.zeros((0, 0), np.float32)], 0
    with atomic_path(target.nuclei) as table, atomic_folder(target.labels) as aside:
        labels = zarr.create_array(
            store=aside, shape=slide.shapes[0], chunks=(CHUNK_PX, CHUNK_PX), dtype="int32", fill_value=0, overwrite=True
        )
        for k, tile in tiles:
            with np.load(_file(kept, k)) as file:
                found, pooled = file["found"], file["features"]
            window = labels[tile.seen]
            came = predict.paint(window, found, n)
            if came.any():
                labels[tile.seen] = window
            measures.append(_measure(np.where(window > n, window - n, 0), int(came.sum()), tile))
            features.append(pooled[came])
            n += int(came.sum())
        _write_table(table, np.concatenate(measures), features[1:], slide.mpp, model)
    return target


def _measure(painted: np.ndarray, n: int, tile: Tile) -> np.ndarray:
    """(n, 3) area and sums of x and y, in pixels of the slide, of the nuclei 1..n of a window."""
    row, column = np.nonzero(painted)
    ids = painted[row, column]
    x, y = tile.origin
    weights = (None, column + (x + 0.5), row + (y + 0.5))
    return np.stack([np.bincount(ids, w, minlength=n + 1)[1:] for w in weights], 1).astype(float)


def _write_table(path: Path, measures: np.ndarray, features: list[np.ndarray], mpp: float, model) -> None:
    import pandas as pd

    area, x, y = measures.T
    columns = {
        "id": np.arange(1, len(area) + 1), "x_um": x / area * mpp, "y_um": y / area * mpp, "area_um2": area * mpp**2
    }  # fmt: skip
    if model.classes and len(area):
        probabilities = predict.type_probabilities(model.type_head, np.concatenate(features))
        columns["type"] = np.array(model.classes, dtype=object)[probabilities.argmax(1)]
        columns["confidence"] = probabilities.max(1)
    elif model.classes:
        columns |= {"type": np.array([], dtype=object), "confidence": np.zeros(0, np.float32)}
    pd.DataFrame(columns).to_parquet(path, index=False)
