"""The figure of notebook 40: the same tissue through its nuclei, its expression and its class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from stpath_core.plot.assays import spot_map, tissue_colour
from stpath_core.plot.images import overlay


def three_views(
    picture: np.ndarray,
    mpp: float,
    *,
    close_up: np.ndarray,
    close_mpp: float,
    instances: np.ndarray,
    types: Sequence[int],
    corner_um: Sequence[float],
    xy_um: np.ndarray,
    columns: Mapping[str, tuple[np.ndarray, np.ndarray]],
    titles: Mapping[str, tuple[str, str]],
    spot_um: float = 100.0,
) -> Figure:
    """One section: a piece of it with typed nuclei, the whole in its corner, and a column of spots per further view.

    picture : (H, W, 3) at `mpp`; close_up : (h, w, 3) at `close_mpp` whose upper left corner lies at corner_um (x, y),
    with instances (h, w) and types (n,). xy_um : (S, 2). columns : heading -> what was measured and what the picture
    tells, (S,) numbers or classes of tissue; titles : heading -> what stands above each. Numbers have a scale each,
    since a correlation fixes none. The piece is framed wherever it lies.
    """
    n = len(columns)
    figure = plt.figure(figsize=(6.4 + 3.2 * n, 6.6), layout="constrained")
    grid = figure.add_gridspec(2, n + 2, width_ratios=[1, 1, *[1.0] * n])
    span = np.array(close_up.shape[1::-1]) * close_mpp
    left = figure.add_subplot(grid[:, :2])
    overlay(close_up, close_mpp, instances=instances, types=types, ax=left)
    left.set_title(f"nuclei: found and typed in the picture, {span[0]:.0f} µm", fontsize=11)
    _whole(left, picture, np.asarray(corner_um) / mpp, span / mpp, side=0.27 * float(span.min()))
    for k, (heading, pair) in enumerate(columns.items()):
        axes = [figure.add_subplot(grid[row, k + 2]) for row in (0, 1)]
        for ax, values, title in zip(axes, pair, titles[heading], strict=True):
            spot_map(xy_um, values, spot_um=spot_um, ax=ax, title=title)
            ax.add_patch(Rectangle(corner_um, *span, fill=False, edgecolor="black", linewidth=1.6))
            if np.asarray(values).dtype.kind in "fiub":
                scale = figure.colorbar(ax.collections[0], cax=ax.inset_axes([1.03, 0.0, 0.04, 1.0]))
                scale.ax.tick_params(labelsize=8)
        axes[0].set_title(f"{heading}\n", fontsize=11)
        axes[0].text(0.5, 1.02, titles[heading][0], transform=axes[0].transAxes, ha="center", fontsize=9)
        if np.asarray(pair[1]).dtype.kind not in "fiub":
            _tissue_legend(axes[1], [*pair[0], *pair[1]])
    return figure


def _whole(ax: Axes, picture: np.ndarray, corner_px: np.ndarray, span_px: np.ndarray, *, side: float) -> None:
    """The whole section, `side` um wide, in the upper left corner of a piece of it, which is framed there."""
    scale = side / picture.shape[1]
    height = picture.shape[0] * scale
    limits = ax.get_xlim(), ax.get_ylim()
    ax.imshow(picture, extent=(0, side, height, 0), zorder=4, interpolation="antialiased")
    ax.add_patch(Rectangle((0, 0), side, height, fill=False, edgecolor="white", linewidth=3, zorder=5))
    ax.add_patch(
        Rectangle(corner_px * scale, *(span_px * scale), fill=False, edgecolor="black", linewidth=1.6, zorder=6)
    )
    ax.set(xlim=limits[0], ylim=limits[1])


def _tissue_legend(ax: Axes, classes: Sequence[str]) -> None:
    """Colours of the classes of tissue, under the Axes."""
    names = sorted(set(map(str, classes)), key=lambda name: (name == "undetermined", name))
    handles = [Patch(facecolor=tissue_colour(n), edgecolor="black", linewidth=0.4, label=n) for n in names]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(-0.05, -0.01), ncol=2, frameon=False, fontsize=8,
              handlelength=1, columnspacing=1.2)  # fmt: skip
