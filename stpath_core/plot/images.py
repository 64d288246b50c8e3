"""Pictures of tissue in micrometres: pixel (i, j) covers x from j * mpp to (j + 1) * mpp, so points in um fit."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb, to_rgba_array
from matplotlib.patches import Patch, Rectangle
from mpl_toolkits.axes_grid1 import make_axes_locatable

from stpath_core.errors import InputError
from stpath_core.plot.style import COLOURS, legend, scalebar, type_names

_RASTER_PX = 1000  # outlines of a view are drawn on a grid of this width, so they are equally thin at every zoom
_LINE_PX = 4  # their width on that grid


def overlay(
    image: np.ndarray,
    mpp: float,
    *,
    instances: np.ndarray | None = None,
    polygons_px: Sequence[np.ndarray] | None = None,
    types: Sequence[int] | Sequence[str] | None = None,
    zooms_um: Sequence[float] = (),
    centre_um: tuple[float, float] | None = None,
    colour: str = "#000000",
    ax: Axes | None = None,
) -> Axes:
    """H&E with outlines of nuclei, in colours of their class; further zooms beside it, each framed in the one before.

    image : (H, W, 3) uint8; instances : (H, W) ids 1..n, or polygons_px : n outlines (V, 2) x, y in pixels.
    types : class index or name per nucleus, (n,); without them all outlines have one `colour`.
    zooms_um : widths of the views, the first for the main Axes; none: the whole image. centre_um : x, y of the zooms.
    """
    size_um = np.array(image.shape[1::-1]) * mpp
    ax = ax or plt.subplots(figsize=(4.2 * max(1, len(zooms_um)), 4.4))[1]
    n = len(polygons_px) if polygons_px is not None else int(instances.max(initial=0)) if instances is not None else 0
    if types is not None and len(types) != n:
        message = f"types has {len(types)} entries; expected {n}, one per nucleus in order of id"
        raise InputError(message)
    colours = to_rgba_array([colour] * n if types is None else [COLOURS.get(t, colour) for t in type_names(types)])
    centre = size_um / 2 if centre_um is None else np.asarray(centre_um, float)
    spans = [np.minimum(z, size_um) for z in zooms_um] or [size_um]
    divider, view = make_axes_locatable(ax), ax
    for i, span in enumerate(spans):
        corner = np.clip(centre - span / 2, 0, size_um - span)
        if i:
            view.add_patch(Rectangle(corner, *span, fill=False, edgecolor="black", linewidth=1.2))
            view = divider.append_axes("right", size="100%", pad=0.08)
        _view(view, image, mpp, corner, span)
        if instances is not None and n:
            layer = _outline_layer(instances, mpp, corner, span, colours)
            view.imshow(layer, extent=_extent(corner, span), interpolation="antialiased", interpolation_stage="rgba")
        elif polygons_px is not None:
            outlines = [np.asarray(p) * mpp for p in polygons_px]
            view.add_collection(PolyCollection(outlines, facecolor="none", edgecolor=colours, linewidth=0.9))
            view.set(xlim=(corner[0], corner[0] + span[0]), ylim=(corner[1] + span[1], corner[1]))
        scalebar(view, width_um=span[0])
    if types is not None:
        legend(ax, type_names(types))
    return ax


def _view(ax: Axes, image: np.ndarray, mpp: float, corner: np.ndarray, span: np.ndarray) -> None:
    """Draw the part of an image that a window in um covers."""
    x0, y0 = np.floor(corner / mpp).astype(int)
    x1, y1 = np.ceil((corner + span) / mpp).astype(int)
    part = image[y0:y1, x0:x1]
    origin, shape = np.array([x0, y0]) * mpp, np.array(part.shape[1::-1]) * mpp
    ax.imshow(part, extent=_extent(origin, shape), interpolation="antialiased")
    ax.set(xticks=[], yticks=[])


def _extent(corner: np.ndarray, span: np.ndarray) -> tuple[float, float, float, float]:
    return corner[0], corner[0] + span[0], corner[1] + span[1], corner[1]


def _outline_layer(
    instances: np.ndarray,
    mpp: float,
    corner: np.ndarray,
    span: np.ndarray,
    colours: np.ndarray,
    *,
    line_px: int = _LINE_PX,
) -> np.ndarray:
    """RGBA raster (h, w, 4) of the inner borders of instances within a window in um."""
    n_px = np.maximum(1, np.round(_RASTER_PX * span / span.max())).astype(int)
    x, y = ((corner[k] + (np.arange(n_px[k]) + 0.5) * span[k] / n_px[k]) / mpp for k in (0, 1))
    ids = instances[np.minimum(y.astype(int), len(instances) - 1)][:, np.minimum(x.astype(int), instances.shape[1] - 1)]
    border = np.zeros(ids.shape, bool)
    for axis in (0, 1):
        for shift in (-line_px, line_px):
            border |= np.roll(ids, shift, axis) != ids
    layer = np.concatenate([np.zeros((1, 4)), colours])[ids]
    layer[~border] = 0
    return layer


def compare(
    image: np.ndarray,
    mpp: float,
    *,
    true: np.ndarray,
    predicted: np.ndarray,
    width_um: float | None = None,
    centre_um: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """H&E with true outlines in black and predicted ones in yellow, where they agree both: instance maps (H, W).

    width_um, centre_um : a window; none: the whole image.
    """
    zooms = () if width_um is None else (width_um,)
    ax = overlay(image, mpp, instances=true, zooms_um=zooms, centre_um=centre_um, ax=ax)
    left, right, bottom, top = ax.images[0].get_extent() if width_um is None else (*ax.get_xlim(), *ax.get_ylim())
    corner, span = np.array([left, top]), np.array([right - left, bottom - top])
    yellow = np.repeat(to_rgba_array("#FFE800"), int(predicted.max(initial=0)), axis=0)
    if len(yellow):
        layer = _outline_layer(predicted, mpp, corner, span, yellow, line_px=_LINE_PX // 2)
        ax.imshow(layer, extent=_extent(corner, span), interpolation="antialiased", interpolation_stage="rgba")
    handles = [
        Patch(facecolor=c, edgecolor="black", linewidth=0.4, label=t)
        for c, t in (("black", "true"), ("#FFE800", "predicted"))
    ]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.01), ncol=2, frameon=False, fontsize=8)
    return ax


def contact_sheet(
    images: Sequence[np.ndarray], mpp: float | Sequence[float], *, titles: Sequence[str] | None = None,
    width_um: float | None = None, columns: int = 5,
) -> np.ndarray:  # fmt: skip
    """Images side by side at one scale: the middle `width_um` of each (none: what the smallest has). Array of
    Axes."""
    mpps = np.broadcast_to(np.asarray(mpp, float), len(images))
    width = width_um or min(min(i.shape[:2]) * m for i, m in zip(images, mpps, strict=True))
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.8 * rows), squeeze=False, layout="constrained")[1]
    for i, ax in enumerate(axes.flat):
        if i >= len(images):
            ax.axis("off")
            continue
        overlay(images[i], mpps[i], zooms_um=(width,), ax=ax)
        ax.set_title(titles[i] if titles is not None else "", fontsize=9)
    return axes


def gallery(
    image: np.ndarray, mpp: float, *, instances: np.ndarray, types: Sequence[int] | Sequence[str],
    score: np.ndarray | None = None, classes: Sequence[str] = tuple(COLOURS),
    n_each: int = 10, width_um: float = 18.0, seed: int = 0, ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """One row of nuclei per class, each in the middle of its own window: drawn at random, or by falling `score`.

    instances : (H, W) ids 1..n; types : class index or name of each, (n,); score : (n,); classes : rows, if present.
    """
    from stpath_core.metrics import centroids_um

    half = max(1, round(width_um / mpp / 2))
    names, centres = type_names(types), np.floor(centroids_um(instances, mpp=1.0)).astype(int)
    rank = np.random.default_rng(seed).random(len(names)) if score is None else -np.asarray(score)
    edge = ((centres < half) | (centres > np.array(instances.shape[::-1]) - half)).any(1)
    rank = np.where(edge, np.inf, rank)  # windows cut by the image's edge come last
    classes = [c for c in classes if c in names]
    ax = ax or plt.subplots(figsize=(0.8 * n_each, 0.85 * max(1, len(classes))))[1]
    if not classes:
        ax.text(0.5, 0.5, "no such nuclei", ha="center", va="center", transform=ax.transAxes)
        ax.set(xticks=[], yticks=[])
        return ax
    picked = [np.flatnonzero(names == c)[np.argsort(rank[names == c])][:n_each] for c in classes]
    sheet = np.full((len(classes), 2 * half, n_each, 2 * half, 3), 255, np.uint8)
    pad = ((half, half), (half, half))
    image, ids = np.pad(image, (*pad, (0, 0)), constant_values=255), np.pad(instances, pad)
    for row, (name, chosen) in enumerate(zip(classes, picked, strict=True)):
        for k, i in enumerate(chosen):
            x, y = centres[i]
            window = np.s_[y : y + 2 * half, x : x + 2 * half]
            crop, own = image[window].copy(), ids[window] == i + 1
            around = np.pad(own, 1)
            grown = around[2:, 1:-1] | around[:-2, 1:-1] | around[1:-1, 2:] | around[1:-1, :-2]
            crop[grown & ~own] = np.array(to_rgb(COLOURS[name])) * 255
            sheet[row, :, k] = crop
    sheet = sheet.reshape(len(classes) * 2 * half, n_each * 2 * half, 3)
    _view(ax, sheet, mpp, np.zeros(2), np.array(sheet.shape[1::-1]) * mpp)
    ax.set_yticks((np.arange(len(classes)) + 0.5) * 2 * half * mpp, classes)
    ax.set(xlim=(0, sheet.shape[1] * mpp), ylim=(sheet.shape[0] * mpp, 0))
    return scalebar(ax, width_um=width_um * 2)


def probability_map(
    probability: np.ndarray, mpp: float, *, label: str = "nuclear probability", ax: Axes | None = None
) -> Axes:
    """A map (H, W) of probabilities between 0 and 1, with its colour scale and a scalebar."""
    ax = ax or plt.subplots(figsize=(4.8, 4.2))[1]
    span = np.array(probability.shape[::-1]) * mpp
    drawn = ax.imshow(probability, extent=_extent(np.zeros(2), span), cmap="magma", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.figure.colorbar(drawn, ax=ax, label=label, fraction=0.046, pad=0.02)
    return scalebar(ax, width_um=span[0])


def training_tiles(images: np.ndarray, distances: np.ndarray, *, mpp: float, n: int = 4) -> np.ndarray:
    """What a network sees and must answer, a column per tile: image, horizontal and vertical map, depth.

    Returns an array of Axes.

    images : (B, 3, S, S) uint8 at `mpp`; distances : (B, 3, h, w) in [-1, 1], 0 outside nuclei; arrays or CPU
    tensors.
    """
    images, distances = np.asarray(images)[:n], np.asarray(distances)[:n]
    span = np.full(2, images.shape[-1] * mpp)
    axes = plt.subplots(4, len(images), figsize=(2.1 * len(images), 8.2), squeeze=False, layout="constrained")[1]
    for column, image, maps in zip(axes.T, images, distances, strict=True):
        _view(column[0], image.transpose(1, 2, 0), mpp, np.zeros(2), span)
        for ax, values in zip(column[1:], maps, strict=True):
            ax.imshow(
                values, extent=_extent(np.zeros(2), span), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest"
            )
            ax.set(xticks=[], yticks=[])
        for ax in column:
            scalebar(ax, width_um=span[0])
    for ax, label in zip(axes[:, 0], ("image", "left to right", "top to bottom", "depth"), strict=True):
        ax.set_ylabel(label)
    return axes
