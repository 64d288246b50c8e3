"""What all figures share: one colour per cell class, its legend, and the scalebar."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Patch
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from stpath_core.keys import UNKNOWN
from stpath_core.tissue.cell_types import CELL_TYPES, SUPER_CLASSES

# Okabe and Ito's palette, those of it that stand out on purple and pink.
COLOURS = {
    "epithelial": "#009E73",
    "neoplastic": "#D55E00",
    "inflammatory": "#F0E442",
    "connective": "#56B4E9",
    UNKNOWN: "#BBBBBB",
}
METHOD_COLOURS = ("#0072B2", "#E69F00", "#CC79A7", "#999999", "#000000", "#8C6D31")


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


def legend(ax: Axes, names: Sequence[str]) -> Axes:
    """Colours of the classes among `names`, under the Axes."""
    present = [c for c in COLOURS if c in set(names)]
    handles = [Patch(facecolor=COLOURS[c], edgecolor="black", linewidth=0.4, label=c) for c in present]
    columns = max(1, int(ax.get_window_extent().width / ax.figure.dpi / 0.95))  # names are some 0.9 inches wide
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.01), ncol=columns, frameon=False, fontsize=8,
              handlelength=1, columnspacing=1.2)  # fmt: skip
    return ax


def jpeg_in_notebooks(*, quality: int = 85) -> None:
    """Keep a notebook's pictures of tissue as JPEG: as PNG they make it three times as heavy. Elsewhere: nothing."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return
    wish = {
        "figure_formats": {"jpeg"},
        "print_figure_kwargs": {"bbox_inches": "tight", "pil_kwargs": {"quality": quality}},
    }
    shell.config.InlineBackend.update(wish)  # read when the first figure wakes the backend
    for backend in (c for c in shell.configurables if type(c).__name__ == "InlineBackend"):
        backend.set_trait("figure_formats", wish["figure_formats"])
        backend.set_trait("print_figure_kwargs", wish["print_figure_kwargs"])
