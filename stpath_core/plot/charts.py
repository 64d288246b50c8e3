"""Charts of scores, losses and cells: methods beside each other with intervals and a dot per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from stpath_core.plot.style import COLOURS, METHOD_COLOURS, legend, scalebar, type_names
from stpath_core.tissue.cell_types import SUPER_CLASSES

if TYPE_CHECKING:
    import pandas as pd


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
        reach = np.nan_to_num(np.abs(rows[["lo", "hi"]].to_numpy().T - mean)).tolist()  # arrays of one bar: a warning
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
