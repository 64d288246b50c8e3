"""Charts of predicted expression: methods with intervals and a dot for each patient, calibration, gene by gene."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from stpath_core.plot.style import METHOD_COLOURS

if TYPE_CHECKING:
    import pandas as pd

OURS = ("cpnn", "beyond")


def method_scores(
    table: pd.DataFrame,
    *,
    points: Mapping[str, np.ndarray] | None = None,
    ceiling: float | None = None,
    label: str = "Spearman, mean over genes",
    ax: Axes | None = None,
) -> Axes:
    """A row per method: its mean, the interval, and a dot for each patient; best on top.

    table : columns method, mean, lo, hi. points : method -> (n,). An undefined mean is drawn as 0 and says so.
    ceiling : where a perfect predictor would end.
    """
    ax = ax or plt.subplots(figsize=(5.2, 0.34 * len(table) + 0.9))[1]
    rows = table.assign(shown=table["mean"].fillna(0)).sort_values("shown", kind="stable").reset_index(drop=True)
    for y, row in rows.iterrows():
        colour = METHOD_COLOURS[1] if row.method in OURS else METHOD_COLOURS[0]
        colour = METHOD_COLOURS[3] if row.method in ("shuffled", "mean", "oracle", "depth") else colour
        ax.plot([row.lo, row.hi], [y, y], color=colour, lw=2, solid_capstyle="round")
        ax.plot(row.shown, y, "o", color=colour, ms=6)
        values = points.get(row.method) if points else None
        if values is not None:
            ax.plot(values, np.full(len(values), y), "o", ms=3, mfc="white", mec="black", mew=0.5, alpha=0.8)
    ax.axvline(0, color="#999999", lw=0.8)
    if ceiling is not None:
        ax.axvline(ceiling, color="#999999", lw=0.8, ls="--")
        ax.text(ceiling, len(rows) - 0.6, " ceiling", fontsize=7, color="#666666", ha="left")
    names = [m + (" (no score)" if np.isnan(v) else "") for m, v in zip(rows.method, rows["mean"], strict=True)]
    ax.set_yticks(range(len(rows)), names)
    ax.set_xlabel(label)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def pit_histogram(pit: Mapping[str, np.ndarray], *, bins: int = 10, ax: Axes | None = None) -> Axes:
    """Histograms of where the counts lie in their predicted distributions: flat where the spread is right."""
    ax = ax or plt.subplots(figsize=(3.8, 2.8))[1]
    for k, (name, values) in enumerate(pit.items()):
        share = np.histogram(np.ravel(values), bins=bins, range=(0, 1))[0] / np.size(values)
        ax.stairs(share * bins, np.linspace(0, 1, bins + 1), color=METHOD_COLOURS[k], lw=1.6, label=name)
    ax.axhline(1, color="#999999", lw=0.8, ls="--")
    ax.set(xlabel="place of the count in its predicted distribution", ylabel="density", xlim=(0, 1), ylim=(0, None))
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def curves(table: pd.DataFrame, x: str, *, y: str = "value", line: str = "key", ax: Axes | None = None) -> Axes:
    """A line per level of `line`, means over whatever else varies, with the range over it as a band."""
    ax = ax or plt.subplots(figsize=(4.0, 3.0))[1]
    for k, (name, rows) in enumerate(table.groupby(line, sort=False)):
        by = rows.groupby(x)[y]
        mean = by.mean()
        colour = METHOD_COLOURS[k % len(METHOD_COLOURS)]
        ax.plot(mean.index, mean, "o-", ms=4, color=colour, label=str(name))
        ax.fill_between(mean.index, by.min(), by.max(), color=colour, alpha=0.15, lw=0)
    ax.set(xlabel=x.replace("_", " "))
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def gene_scatter(
    x: np.ndarray, y: np.ndarray, names: np.ndarray, *, xlabel: str, ylabel: str, n: int = 3, ax: Axes | None = None
) -> Axes:
    """A dot per gene (g,), the `n` highest and the `n` lowest in y named."""
    ax = ax or plt.subplots(figsize=(4.2, 3.4))[1]
    x, y, names = (np.asarray(v) for v in (x, y, names))
    ax.plot(x, y, "o", ms=3, color=METHOD_COLOURS[0], alpha=0.5, mew=0)
    order = np.argsort(y)
    for k in np.r_[order[:n], order[-n:]]:
        ax.annotate(str(names[k]), (x[k], y[k]), fontsize=6, xytext=(2, 2), textcoords="offset points")
    ax.axhline(0, color="#999999", lw=0.8)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def value_maps(
    xy_um: np.ndarray, values: pd.DataFrame, *, columns: int = 4, spot_um: float = 100.0, shared: bool = False
) -> np.ndarray:
    """Spots coloured by each column of a frame (n, k), a panel each; shared: one scale for all. Array of Axes."""
    from stpath_core.plot.assays import spot_map

    rows = -(-values.shape[1] // columns)
    axes = plt.subplots(rows, columns, figsize=(2.3 * columns, 2.4 * rows), squeeze=False, layout="constrained")[1]
    limits = (float(values.to_numpy().min()), float(values.to_numpy().max())) if shared else None
    for ax, name in zip(axes.flat, values, strict=False):
        spot_map(np.asarray(xy_um), values[name].to_numpy(), spot_um=spot_um, limits=limits, title=str(name), ax=ax)
    for ax in axes.flat[values.shape[1] :]:
        ax.axis("off")
    return axes


def heat(values: pd.DataFrame, *, label: str = "", ax: Axes | None = None) -> Axes:
    """A frame as a heat map around 0, rows and columns named."""
    ax = ax or plt.subplots(figsize=(0.32 * values.shape[1] + 2.2, 0.3 * len(values) + 1.2))[1]
    reach = float(np.abs(values.to_numpy()).max()) or 1.0
    drawn = ax.imshow(values, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
    ax.set_xticks(range(values.shape[1]), values.columns, rotation=90, fontsize=7)
    ax.set_yticks(range(len(values)), values.index, fontsize=8)
    ax.figure.colorbar(drawn, ax=ax, shrink=0.8, label=label)
    return ax
