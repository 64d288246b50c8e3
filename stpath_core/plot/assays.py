"""Figures of spots, slides and references: maps of values and classes, shares as stacked bars, embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from stpath_core.plot.style import METHOD_COLOURS, fine_colours, scalebar

# Okabe and Ito's palette once more; the word "glands" stands for those of any organ
TISSUE_COLOURS = {
    "invasive": "#D55E00", "in_situ": "#E69F00", "connective": "#56B4E9", "adipose": "#F0E442", "immune": "#CC79A7",
    "gland": "#009E73", "undetermined": "#BBBBBB",
}  # fmt: skip
_WORDS = {"invasive cancer": "invasive", "cancer in situ": "in_situ", "connective tissue": "connective",
          "adipose tissue": "adipose", "immune infiltrate": "immune"}  # fmt: skip


def tissue_colour(name: str) -> str:
    """Colour of a region of the virtual tissue or of a pathologist's word for it; black for any other."""
    key = "gland" if name.endswith("glands") else _WORDS.get(name, name)
    return TISSUE_COLOURS.get(key, "#000000")


def spot_map(
    xy_um: np.ndarray,
    values: Sequence[float] | Sequence[str],
    *,
    spot_um: float = 100.0,
    limits: tuple[float, float] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Spots at their places: xy_um (S, 2); values (S,) numbers, by a colour scale, or classes of tissue, by name."""
    from matplotlib.collections import EllipseCollection

    ax = ax or plt.subplots(figsize=(3.0, 3.0))[1]
    values, low, high = np.asarray(values), xy_um.min(0) - spot_um, xy_um.max(0) + spot_um
    size = np.full(len(xy_um), spot_um)
    spots = EllipseCollection(size, size, np.zeros(len(size)), units="xy", offsets=xy_um, offset_transform=ax.transData)
    if values.dtype.kind in "fiub":
        spots.set_array(values)
        spots.set(cmap="viridis", clim=limits or (values.min(), values.max()))
    else:
        spots.set_facecolor([tissue_colour(str(v)) for v in values])
    ax.add_collection(spots)
    ax.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), xticks=[], yticks=[], aspect="equal")
    ax.set_title(title, fontsize=9)
    return scalebar(ax, width_um=high[0] - low[0])


def share_bars(shares: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Shares as stacked bars, a bar per row: columns are regions, words of a pathologist, or fine cell types."""
    ax = ax or plt.subplots(figsize=(0.35 * len(shares) + 1.5, 2.4))[1]
    fine, bottom = fine_colours(), np.zeros(len(shares))
    for name in shares:
        colour = fine.get(name) or tissue_colour(name)
        ax.bar(range(len(shares)), shares[name], bottom=bottom, color=colour, label=name, width=0.85)
        bottom += shares[name].to_numpy()
    ax.set_xticks(range(len(shares)), shares.index, fontsize=7)
    ax.set(ylim=(0, 1), yticks=[0, 1], title=title)
    return ax


def embedding(xy: np.ndarray, group: Sequence[str], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Two columns of an embedding as dots (N, 2), in the colour of their tissue class, or of their patient."""
    ax = ax or plt.subplots(figsize=(3.0, 3.0))[1]
    group = np.asarray(group, str)
    for k, name in enumerate(np.unique(group)):
        known = tissue_colour(name)
        colour = known if known != "#000000" else (*METHOD_COLOURS, "#009E73", "#D55E00")[k % 8]
        ax.scatter(*xy[group == name, :2].T, s=4, color=colour, label=name, linewidths=0)
    ax.set(xticks=[], yticks=[], title=title)
    return ax
