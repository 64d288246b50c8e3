"""Figures of Part 3: patches in rows, targets as matrices, losses against blind guessing, where a network looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from stpath_core.plot.assays import tissue_colour
from stpath_core.plot.style import METHOD_COLOURS, scalebar

if TYPE_CHECKING:
    import pandas as pd


def patch_rows(
    patches: np.ndarray,
    rows: Mapping[str, Sequence[int]],
    *,
    mpp: float,
    frames: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
) -> np.ndarray:
    """Patches side by side, a row per name. Array of Axes (rows, columns).

    patches : (n, S, S, 3) uint8; rows : name -> numbers of patches; frames, titles : (n,) class whose colour frames a
    patch, and what stands above it.
    """
    columns = max((len(some) for some in rows.values()), default=1)
    size = (1.25 * columns + 0.8, 1.4 * len(rows) + 0.2)
    axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False, layout="constrained")[1]
    for line, (name, some) in zip(axes, rows.items(), strict=True):
        for ax in line[len(some) :]:
            ax.axis("off")
        for ax, i in zip(line, some, strict=False):
            width = patches.shape[2] * mpp
            ax.imshow(patches[i], extent=(0, width, width, 0))
            ax.set(xticks=[], yticks=[])
            if frames is not None:
                plt.setp(ax.spines.values(), color=tissue_colour(str(frames[i])), linewidth=3)
            if titles is not None:
                ax.set_title(titles[i], fontsize=7)
        line[0].set_ylabel(name, fontsize=8)
    scalebar(axes[0, 0], width_um=patches.shape[2] * mpp)
    return axes


def target_matrices(targets: Mapping[str, np.ndarray], *, group: Sequence[str]) -> np.ndarray:
    """Targets (B, B) beside each other, spots sorted by `group` (B,), whose borders are drawn. Array of Axes."""
    order = np.argsort(np.asarray(group, str), kind="stable")
    edges = np.flatnonzero(np.asarray(group, str)[order][1:] != np.asarray(group, str)[order][:-1]) + 0.5
    axes = plt.subplots(1, len(targets), figsize=(2.5 * len(targets), 2.7), squeeze=False, layout="constrained")[1]
    for ax, (name, wanted) in zip(axes[0], targets.items(), strict=True):
        ax.imshow(np.asarray(wanted)[np.ix_(order, order)] ** 0.5, cmap="magma", vmin=0, vmax=0.6)
        for edge in edges:
            ax.axhline(edge, color="white", lw=0.4)
            ax.axvline(edge, color="white", lw=0.4)
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, fontsize=9)
    axes[0, 0].set(xlabel="expression of spots", ylabel="pictures of spots")
    return axes[0]


def contrastive_curves(history: pd.DataFrame, *, smooth: int = 7, ax: Axes | None = None) -> Axes:
    """Loss against the logarithm of the batch, which blind guessing scores: columns step, loss, log_batch, network."""
    ax = ax or plt.subplots(figsize=(5.2, 3.2))[1]
    for k, (name, run) in enumerate(history.groupby("network", sort=False)):
        mean = run["loss"].rolling(smooth, min_periods=1).mean()
        ax.plot(run["step"], mean, color=METHOD_COLOURS[k % len(METHOD_COLOURS)], ls="-" if k < 6 else "--", label=name)
    ax.axhline(history["log_batch"].max(), color="#666666", ls=":", lw=1)
    right = history["step"].max()
    ax.text(
        right, history["log_batch"].max(), "log(batch): blind", va="bottom", ha="right", fontsize=8, color="#444444"
    )
    ax.set(xlabel="step", ylabel="loss, nats", ylim=(0, None))
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def curve(
    table: pd.DataFrame, *, x: str, y: str, by: str, band: tuple[str, str] | None = None, ax: Axes | None = None
) -> Axes:
    """Lines of y over x, one per value of `by`; band : names of the columns with the ends of an interval."""
    ax = ax or plt.subplots(figsize=(4.6, 3.2))[1]
    for k, (name, part) in enumerate(table.groupby(by, sort=False)):
        colour = METHOD_COLOURS[k % len(METHOD_COLOURS)]
        ax.plot(part[x], part[y], "o-", ms=4, color=colour, label=name)
        if band:
            ax.fill_between(part[x], part[band[0]], part[band[1]], color=colour, alpha=0.12, linewidth=0)
    ax.set(xlabel=x, ylabel=y)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def attention(
    patch: np.ndarray, heat: np.ndarray | None = None, *, mpp: float, title: str = "", ax: Axes | None = None
) -> Axes:
    """A patch (S, S, 3), and laid over it where the network looks: a map (h, w), 0 (unseen) to 1; None: the patch."""
    ax = ax or plt.subplots(figsize=(2.0, 2.2))[1]
    width = patch.shape[1] * mpp
    ax.imshow(patch, extent=(0, width, width, 0))
    if heat is not None:
        look = {"cmap": "plasma", "vmin": 0, "vmax": 1, "interpolation": "bilinear"}
        ax.imshow(heat, extent=(0, width, width, 0), alpha=0.6 * heat.clip(0, 1), **look)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=8)
    return scalebar(ax, width_um=width)
