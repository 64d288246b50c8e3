"""Transcripts of a whole slide, counted into nuclei: parts of the file are sorted by tile, then each tile is counted.

A molecule lies in one pixel and a pixel in the core of one tile, so each molecule is counted once. Outlines are drawn
in a tile and in the margin that growing needs, so that nuclei across a border are what they are on the whole slide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stpath_core.errors import InputError
from stpath_core.fit import Progress
from stpath_core.io.guard import told
from stpath_core.io.section import LargeSection
from stpath_core.io.xenium_checks import refuse_outside, refuse_span
from stpath_core.io.xenium_transcripts import n_parts, read_part
from stpath_core.labels import counts_table
from stpath_core.parallel import on_scheduler
from stpath_core.predict import Tile, cut_tiles
from stpath_core.stages import cache_folder
from stpath_core.tissue.histology import instance_mask

if TYPE_CHECKING:
    from anndata import AnnData

TILE_PX = 2048
BINS = 1024  # strips of the slide in which transcripts are counted, to see how far they reach


class _Seen(NamedTuple):
    """Where the transcripts of the panel lie in a part: n of them, `inside` on the slide, (2, BINS) how many of those
    in each strip of it, along x and y."""

    n: int
    inside: int
    strips: np.ndarray


class _Sorted(NamedTuple):
    """A part of the transcripts on the disk, (m, 3) int32 row, column, gene, sorted by tile: `start` (tiles + 1,) says
    where each begins."""

    path: Path
    start: np.ndarray
    seen: _Seen


class _Job(NamedTuple):
    """A tile to count: its nuclei as rows of the table (k,), their outlines (k, V, 2) in um, and its molecules."""

    tile: Tile
    nuclei: np.ndarray
    outlines_um: np.ndarray
    molecules: list[tuple[Path, int, int]]


def count_transcripts(
    section: LargeSection,
    *,
    grow_um: float | None = None,
    tile_px: int = TILE_PX,
    scratch: str | Path | None = None,
    scheduler: Any = None,
    progress: Progress = iter,
) -> AnnData:
    """Raw counts per nucleus of a section on the disk: what `labels.count_transcripts` gives for one in memory.

    grow_um : None counts what the vendor assigned to the nucleus's cell; a number counts what lies within so many um
        of the nucleus, wherever that is nearer to it than to the next (0: inside the nucleus only).
    tile_px : side of a tile in pixels of the H&E. scratch : folder for 12 bytes a transcript, emptied at the end
        (None: the project's cache, data/cache or STPATH_CACHE); workers must see it under the same path. scheduler :
        see `large`. progress wraps the tiles, or the parts where there are none. Nothing is written beside the data.
    """
    _check(section, grow_um, tile_px)
    section = replace(section, transcripts=section.transcripts.absolute())  # workers stand in other folders
    parts, shape = range(n_parts(section.transcripts)), section.slide.shapes[0]
    if grow_um is None:
        count = partial(
            _assigned, section.transcripts, cell_ids=section.nuclei["cell_id"], genes=section.genes,
            min_qv=section.min_qv, um_to_px=section.um_to_px, shape=shape,
        )  # fmt: skip
        counted = list(on_scheduler(count, progress(parts), scheduler=scheduler))
        _check_place(section, [seen for _, seen in counted])
        return _table(section, [found for found, _ in counted])
    with _aside(scratch) as aside:
        sort = partial(
            _sort_part, section.transcripts, genes=section.genes, min_qv=section.min_qv, um_to_px=section.um_to_px,
            shape=shape, tile_px=tile_px, folder=aside,
        )  # fmt: skip
        by_tile = list(on_scheduler(sort, parts, scheduler=scheduler))
        _check_place(section, [one.seen for one in by_tile])
        tiles = cut_tiles(shape, tile_px, math.ceil(grow_um / section.slide.mpp) + 1)
        jobs = _jobs(section, by_tile, progress(list(enumerate(tiles))))
        count = partial(_count_tile, mpp=section.slide.mpp, grow_um=grow_um, n_genes=len(section.genes))
        found = list(on_scheduler(count, jobs, scheduler=scheduler))
    return _table(section, found)


@contextmanager
def _aside(scratch: str | Path | None) -> Iterator[Path]:
    """A folder for the sorted parts, gone at the end."""
    parent = Path(scratch).absolute() if scratch is not None else cache_folder() / "counting"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(prefix=".counting-", dir=parent, ignore_cleanup_errors=True)
    except OSError as error:
        message = f"{parent} cannot be written to ({told(error)}), and 12 bytes a transcript are to lie there while "
        raise InputError(message + "they are counted: give a folder that can, as scratch= or STPATH_CACHE") from error
    with folder as name:
        yield Path(name)


def _check(section: LargeSection, grow_um: float | None, tile_px: int) -> None:
    if len(section.nuclei) == 0:
        message = f"{section.name} has no nuclei: the slide is empty, there is nothing to count"
        raise InputError(message)
    if tile_px < 64:
        message = f"tile_px={tile_px}; expected at least 64 pixels, {TILE_PX} is usual"
        raise InputError(message)
    if grow_um is not None and not 0 <= grow_um <= 100:
        message = f"grow_um={grow_um}; expected micrometres from 0 to 100, or None for the vendor's assignment"
        raise InputError(message)


def _check_place(section: LargeSection, seen: Sequence[_Seen]) -> None:
    n = sum(one.n for one in seen)
    if not n:
        message = f"{section.transcripts}: no transcript is of a gene of the panel with qv >= {section.min_qv:g}: are "
        raise InputError(message + "the file and the count matrix of one run, and is qv the vendor's Phred score?")
    folder, shape = section.transcripts.parent, section.slide.shapes[0]
    refuse_outside(folder, "transcripts", sum(one.inside for one in seen) / n, shape)
    strips = sum(one.strips for one in seen)
    middle = [np.searchsorted(np.cumsum(one) / max(one.sum(), 1), (0.02, 0.98)) for one in strips]
    refuse_span(folder, section.nuclei_px, np.ptp(middle, axis=1) * shape[::-1] / BINS)


def _table(section: LargeSection, found: Sequence[np.ndarray]) -> AnnData:
    """found : (m, 3) int32 nucleus, gene, molecules of each part or tile."""
    nucleus, gene, n = np.concatenate([np.zeros((0, 3), np.int32), *found]).T
    return counts_table(section, nucleus, gene, n)


def _summed(nucleus: np.ndarray, gene: np.ndarray, n_genes: int) -> np.ndarray:
    """(m, 3) int32 nucleus, gene, molecules from the nucleus and gene of each molecule; those below 0 have no say."""
    keep = (nucleus >= 0) & (gene >= 0)
    pair, n = np.unique(nucleus[keep].astype(np.int64) * n_genes + gene[keep], return_counts=True)
    return np.stack([*np.divmod(pair, n_genes), n], 1).astype(np.int32)


def _assigned(
    path: Path, part: int, *, cell_ids, genes: tuple[str, ...], min_qv: float, um_to_px: np.ndarray,
    shape: tuple[int, int],
) -> tuple[np.ndarray, _Seen]:  # fmt: skip
    """The molecules of a part as the vendor assigned them, and where they lie."""
    found, seen = [np.zeros((0, 3), np.int32)], _nothing()
    for rows in read_part(path, part, cell_ids, genes, min_qv=min_qv):
        found.append(_summed(rows["nucleus"].to_numpy(), rows["gene"].cat.codes.to_numpy(), len(genes)))
        seen = _and_seen(seen, *_pixels(rows, um_to_px, shape), shape)
    return np.concatenate(found), seen


def _pixels(rows, um_to_px: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Column and row of the pixel (n, 2) that each transcript lies in, and whether that is on the slide (n,)."""
    xy = rows[["x_um", "y_um"]].to_numpy() @ um_to_px[:2, :2].T + um_to_px[:2, 2]
    pixel = np.floor(xy).astype(np.int64)
    return pixel, ((pixel >= 0) & (pixel < shape[::-1])).all(1)


def _nothing() -> _Seen:
    return _Seen(0, 0, np.zeros((2, BINS), np.int64))


def _and_seen(seen: _Seen, pixel: np.ndarray, inside: np.ndarray, shape: tuple[int, int]) -> _Seen:
    strip = pixel[inside] * BINS // shape[::-1]  # (m, 2)
    strips = np.stack([np.bincount(one, minlength=BINS) for one in strip.T])
    return _Seen(seen.n + len(inside), seen.inside + int(inside.sum()), seen.strips + strips)


def _sort_part(
    path: Path,
    part: int,
    *,
    genes: tuple[str, ...],
    min_qv: float,
    um_to_px: np.ndarray,
    shape: tuple[int, int],
    tile_px: int,
    folder: Path,
) -> _Sorted:
    """The molecules of a part that lie on the slide, written sorted by tile."""
    across, down = (math.ceil(size / tile_px) for size in shape[::-1])
    blocks, seen = [np.zeros((0, 3), np.int32)], _nothing()
    for rows in read_part(path, part, None, genes, min_qv=min_qv):
        pixel, inside = _pixels(rows, um_to_px, shape)
        gene = rows["gene"].cat.codes.to_numpy()
        blocks.append(np.column_stack([pixel[inside, 1], pixel[inside, 0], gene[inside]]).astype(np.int32))
        seen = _and_seen(seen, pixel, inside, shape)
    molecules = np.concatenate(blocks)
    tile = molecules[:, 0] // tile_px * across + molecules[:, 1] // tile_px
    order = np.argsort(tile, kind="stable")
    start = np.searchsorted(tile[order], np.arange(across * down + 1))
    target = folder / f"{part:05d}.npy"
    try:
        np.save(target, molecules[order])  # not by a path aside, which would make the folder anew where it was removed
    except FileNotFoundError as error:
        message = f"{folder} is not there for the worker that is to write in it: give a folder on a disk that all "
        raise InputError(message + "workers see under the same path, as scratch= or STPATH_CACHE") from error
    return _Sorted(target, start, seen)


def _jobs(section: LargeSection, by_tile: Sequence[_Sorted], tiles: Iterable[tuple[int, Tile]]) -> Iterator[_Job]:
    """The tiles (with their numbers) that hold molecules, with the nuclei that reach into what they see."""
    low, high = section.nuclei_px.min(1), section.nuclei_px.max(1)  # (N, 2) x, y
    for k, tile in tiles:
        molecules = [(one.path, one.start[k], one.start[k + 1]) for one in by_tile if one.start[k] < one.start[k + 1]]
        if not molecules:
            continue
        rows, columns = tile.seen
        seen = (low < (columns.stop, rows.stop)) & (high >= (columns.start, rows.start))
        nuclei = np.flatnonzero(seen.all(1))
        if len(nuclei):
            outlines_um = np.asarray(section.nuclei_px[nuclei], np.float64) * section.slide.mpp
            yield _Job(tile, nuclei, outlines_um, molecules)


def _count_tile(job: _Job, *, mpp: float, grow_um: float, n_genes: int) -> np.ndarray:
    """(m, 3) int32 nucleus (row of the table), gene, molecules in the core of a tile."""
    from skimage.segmentation import expand_labels

    rows, columns = job.tile.seen
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    instances = instance_mask(job.outlines_um, mpp=mpp, shape=shape, corner=(rows.start, columns.start))
    if grow_um > 0:
        instances = expand_labels(instances, grow_um / mpp)
    number = np.r_[-1, job.nuclei]
    found = []
    for path, start, stop in job.molecules:
        row, column, gene = np.load(path, mmap_mode="r")[start:stop].T
        nucleus = number[instances[row - rows.start, column - columns.start]]
        found.append(_summed(nucleus, gene, n_genes))
    return np.concatenate(found)
