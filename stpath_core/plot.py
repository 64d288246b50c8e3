"""Figures: one colour per cell class everywhere, a scalebar on every image, Axes returned and never shown.

Images are drawn in micrometres (pixel (i, j) covers x from j * mpp to (j + 1) * mpp), so outlines and points in um
fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex, to_rgb, to_rgba_array
from matplotlib.patches import Patch, Rectangle
from mpl_toolkits.axes_grid1 import make_axes_locatable
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from stpath_core.errors import InputError
from stpath_core.keys import UNKNOWN
from stpath_core.tissue.cell_types import CELL_TYPES, SUPER_CLASSES

if TYPE_CHECKING:
    import pandas as pd

# Okabe and Ito's palette, those of it that stand out on purple and pink.
COLOURS = {
    "epithelial": "#009E73",
    "neoplastic": "#D55E00",
    "inflammatory": "#F0E442",
    "connective": "#56B4E9",
    UNKNOWN: "#BBBBBB",
}
METHOD_COLOURS = ("#0072B2", "#E69F00", "#CC79A7", "#999999", "#000000", "#8C6D31")
_RASTER_PX = 1000  # outlines of a view are drawn on a grid of this width, so they are equally thin at every zoom
_LINE_PX = 4  # their width on that grid


def fine_colours() -> dict[str, str]:
    """A shade of its super-class's colour for each fine cell type, from light to dark."""
    shades = {}
    for super_class in SUPER_CLASSES:
        names = [n for n, t in CELL_TYPES.items() if t.super_class == super_class]
        for name, lightness in zip(names, np.linspace(0.55, -0.45, len(names)), strict=True):
            base, end = np.array(to_rgb(COLOURS[super_class])), np.array([1.0 if lightness > 0 else 0.0] * 3)
            shades[name] = to_hex(base + abs(lightness) * (end - base))
    return shades


def type_names(types: Sequence[int] | Sequence[str]) -> np.ndarray:
    """Class names of indices into SUPER_CLASSES (-1: unknown); names pass through."""
    types = np.asarray(types)
    return np.array([*SUPER_CLASSES, UNKNOWN])[types] if types.dtype.kind in "iu" else types.astype(str)


def scalebar(ax: Axes, *, width_um: float) -> Axes:
    """Put a bar of 1, 2 or 5 times a power of ten on Axes whose data are in um; about a fifth of `width_um`."""
    steps = np.multiply.outer(10.0 ** np.arange(-2, 6), [1, 2, 5]).ravel()
    length = steps[steps <= width_um / 4].max()
    bar = AnchoredSizeBar(
        ax.transData, length, f"{length:g} µm", "lower right", pad=0.3, borderpad=0.4, sep=2, label_top=True,
        size_vertical=width_um / 120, fontproperties={"size": 7},
    )  # fmt: skip
    bar.patch.set(alpha=0.8, linewidth=0)
    ax.add_artist(bar)
    return ax


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


def _outline_layer(instances, mpp: float, corner: np.ndarray, span: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """RGBA raster (h, w, 4) of the inner borders of instances within a window in um."""
    n_px = np.maximum(1, np.round(_RASTER_PX * span / span.max())).astype(int)
    x, y = ((corner[k] + (np.arange(n_px[k]) + 0.5) * span[k] / n_px[k]) / mpp for k in (0, 1))
    ids = instances[np.minimum(y.astype(int), len(instances) - 1)][:, np.minimum(x.astype(int), instances.shape[1] - 1)]
    border = np.zeros(ids.shape, bool)
    for axis in (0, 1):
        for shift in (-_LINE_PX, _LINE_PX):
            border |= np.roll(ids, shift, axis) != ids
    layer = np.concatenate([np.zeros((1, 4)), colours])[ids]
    layer[~border] = 0
    return layer


def legend(ax: Axes, names: Sequence[str]) -> Axes:
    """Colours of the classes among `names`, under the Axes."""
    present = [c for c in COLOURS if c in set(names)]
    handles = [Patch(facecolor=COLOURS[c], edgecolor="black", linewidth=0.4, label=c) for c in present]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.01), ncol=5, frameon=False, fontsize=8,
              handlelength=1, columnspacing=1.2)  # fmt: skip
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
    score: np.ndarray | None = None, n_each: int = 10, width_um: float = 18.0, seed: int = 0, ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """One row of nuclei per class, each in the middle of its own window: drawn at random, or by falling `score`.

    instances : (H, W) ids 1..n; types : class index or name of each, (n,); score : (n,).
    """
    from stpath_core.metrics import centroids_um

    half = max(1, round(width_um / mpp / 2))
    names, centres = type_names(types), np.floor(centroids_um(instances, mpp=1.0)).astype(int)
    rank = np.random.default_rng(seed).random(len(names)) if score is None else -np.asarray(score)
    edge = ((centres < half) | (centres > np.array(instances.shape[::-1]) - half)).any(1)
    rank = np.where(edge, np.inf, rank)  # windows cut by the image's edge come last
    classes = [c for c in COLOURS if c in names]
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
    ax = ax or plt.subplots(figsize=(0.8 * n_each, 0.85 * len(classes)))[1]
    _view(ax, sheet, mpp, np.zeros(2), np.array(sheet.shape[1::-1]) * mpp)
    ax.set_yticks((np.arange(len(classes)) + 0.5) * 2 * half * mpp, classes)
    ax.set(xlim=(0, sheet.shape[1] * mpp), ylim=(sheet.shape[0] * mpp, 0))
    return scalebar(ax, width_um=width_um * 2)


def cell_map(
    xy_um: np.ndarray, types: Sequence[int] | Sequence[str], *, size: float = 6.0, ax: Axes | None = None
) -> Axes:
    """Cells as dots in the colour of their class: xy_um (N, 2), types (N,) class index or name."""
    ax = ax or plt.subplots(figsize=(4.2, 4.4))[1]
    names = type_names(types)
    ax.scatter(*np.asarray(xy_um).T, c=[COLOURS[n] for n in names], s=size, linewidths=0.2, edgecolors="black")
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.invert_yaxis()
    legend(ax, names)
    return scalebar(ax, width_um=float(np.ptp(ax.get_xlim())))


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


def confusion(counts: np.ndarray, *, classes: Sequence[str] = SUPER_CLASSES, ax: Axes | None = None) -> Axes:
    """Share of each row and count beneath it, from `metrics.type_confusion` (C + 1, C + 1) or a plain (C, C)
    table."""
    ax = ax or plt.subplots(figsize=(1.0 * len(counts) + 1.2, 0.8 * len(counts) + 0.8))[1]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, col), value in np.ndenumerate(share):
        text = f"{value:.2f}\n({counts[row, col]:,})" if counts[row, col] else "·"
        ax.text(col, row, text, ha="center", va="center", fontsize=8, color="white" if value > 0.55 else "black")
    extra = len(counts) > len(classes)
    ax.set_xticks(range(len(counts)), [*classes, *["missed"] * extra], rotation=30, ha="right")
    ax.set_yticks(range(len(counts)), [*classes, *["no nucleus"] * extra])
    for tick, name in zip([*ax.get_xticklabels(), *ax.get_yticklabels()], [*classes, *[""] * extra] * 2, strict=True):
        if name in COLOURS:
            tick.set_bbox({"facecolor": COLOURS[name], "alpha": 0.45, "linewidth": 0, "pad": 1.5})
    ax.set(xlabel="predicted", ylabel="true")
    return ax


def bars(table: pd.DataFrame, *, points: Mapping[str, pd.DataFrame] | None = None, ax: Axes | None = None) -> Axes:
    """Methods beside each other per measure, with intervals, and a dot for each image.

    table : columns method, measure, mean, lo, hi (`evaluate.baseline_table`). points : per method a frame with one
    row per image and a column per measure (`NucleiScores.images`). An undefined mean is drawn as 0.
    """
    methods, measures = (list(dict.fromkeys(table[c])) for c in ("method", "measure"))
    ax = ax or plt.subplots(figsize=(1.4 + 0.35 * len(table), 3.4))[1]
    width = 0.8 / len(methods)
    for k, method in enumerate(methods):
        rows = table[table.method == method]
        x = np.array([measures.index(m) for m in rows.measure]) + (k - (len(methods) - 1) / 2) * width
        mean = rows["mean"].fillna(0).to_numpy()
        reach = np.nan_to_num(np.abs(rows[["lo", "hi"]].to_numpy().T - mean))
        colour = METHOD_COLOURS[k % len(METHOD_COLOURS)]
        ax.bar(x, mean, width * 0.92, yerr=reach, color=colour, label=method, error_kw={"elinewidth": 1, "capsize": 2})
        for at, measure in zip(x, rows.measure, strict=True):
            values = points[method].get(measure) if points and method in points else None
            if values is not None:
                jitter = np.linspace(-0.22, 0.22, len(values)) * width if len(values) > 1 else 0
                ax.plot(at + jitter, values, "o", ms=2.6, mfc="white", mec="black", mew=0.5, alpha=0.9)
    ax.set_xticks(range(len(measures)), measures, rotation=20, ha="right")
    ax.set(ylim=(0, 1), ylabel="score")
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def reliability(confidence: np.ndarray, correct: np.ndarray, *, n_bins: int = 8, ax: Axes | None = None) -> Axes:
    """How often it is right where it says how sure it is: confidence (N,) and correct (N,), in bins of equal
    count."""
    ax = ax or plt.subplots(figsize=(3.4, 3.4))[1]
    groups = [g for g in np.array_split(np.argsort(confidence, kind="stable"), n_bins) if len(g)]
    said, was = ([float(np.mean(np.asarray(v)[g])) for g in groups] for v in (confidence, correct))
    ax.plot([0, 1], [0, 1], "--", color="#999999", lw=1, label="as sure as right")
    ax.plot(said, was, "o-", color=METHOD_COLOURS[0], ms=4, label=f"{len(groups)} bins of equal count")
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share right", aspect="equal")
    ax.legend(frameon=False, fontsize=8)
    return ax


def training_curves(history: pd.DataFrame, *, smooth: int = 15) -> np.ndarray:
    """A panel per loss term and for the validation loss, a line per network. Array of Axes.

    history : columns step, loss and its terms, perhaps validation (in some rows) and network. Thin: every step; bold:
    the running mean over `smooth` steps.
    """
    terms = [
        c for c in ("loss", "nucleus", "distance", "type", "validation") if c in history and history[c].notna().any()
    ]
    axes = plt.subplots(1, len(terms), figsize=(2.7 * len(terms), 2.6), squeeze=False, layout="constrained")[1]
    runs = history.groupby("network", sort=False) if "network" in history else [("", history)]
    for k, (name, run) in enumerate(runs):
        colour = METHOD_COLOURS[k % len(METHOD_COLOURS)]
        for ax, term in zip(axes.flat, terms, strict=True):
            line = run[["step", term]].dropna()
            if term == "validation":
                ax.plot(line.step, line[term], "o-", ms=3, color=colour, label=name)
            else:
                ax.plot(line.step, line[term], lw=0.4, alpha=0.5, color=colour)
                ax.plot(line.step, line[term].rolling(smooth, min_periods=1).mean(), lw=1.8, color=colour, label=name)
            ax.set(title=term, xlabel="step")
            ax.spines[["top", "right"]].set_visible(False)
    if "network" in history:
        axes.flat[0].legend(frameon=False, fontsize=8)
    return axes


def training_tiles(images: np.ndarray, distances: np.ndarray, *, mpp: float, n: int = 4) -> np.ndarray:
    """What a network sees and must answer, a column per tile: image, horizontal and vertical map. Array of Axes.

    images : (B, 3, S, S) uint8 at `mpp`; distances : (B, 2, h, w) in [-1, 1], 0 outside nuclei; arrays or CPU
    tensors.
    """
    images, distances = np.asarray(images)[:n], np.asarray(distances)[:n]
    span = np.full(2, images.shape[-1] * mpp)
    axes = plt.subplots(3, len(images), figsize=(2.1 * len(images), 6.2), squeeze=False, layout="constrained")[1]
    for column, image, maps in zip(axes.T, images, distances, strict=True):
        _view(column[0], image.transpose(1, 2, 0), mpp, np.zeros(2), span)
        for ax, values in zip(column[1:], maps, strict=True):
            ax.imshow(
                values, extent=_extent(np.zeros(2), span), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest"
            )
            ax.set(xticks=[], yticks=[])
        for ax in column:
            scalebar(ax, width_um=span[0])
    for ax, label in zip(axes[:, 0], ("image", "left to right", "top to bottom"), strict=True):
        ax.set_ylabel(label)
    return axes
