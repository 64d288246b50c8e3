"""Figures: one colour per cell class everywhere, a scalebar on every image, Axes returned and never shown."""

from stpath_core.plot.assays import TISSUE_COLOURS, embedding, share_bars, spot_map, tissue_colour
from stpath_core.plot.charts import bars, cell_map, confusion, reliability, training_curves
from stpath_core.plot.expression import curves, gene_scatter, heat, method_scores, pit_histogram, value_maps
from stpath_core.plot.images import compare, contact_sheet, gallery, overlay, probability_map, training_tiles
from stpath_core.plot.recognition import attention, contrastive_curves, curve, patch_rows, target_matrices
from stpath_core.plot.style import (
    COLOURS,
    METHOD_COLOURS,
    fine_colours,
    jpeg_in_notebooks,
    legend,
    scalebar,
    type_names,
)
from stpath_core.plot.together import three_views

__all__ = [
    "COLOURS",
    "METHOD_COLOURS",
    "TISSUE_COLOURS",
    "attention",
    "bars",
    "cell_map",
    "compare",
    "confusion",
    "contact_sheet",
    "contrastive_curves",
    "curve",
    "curves",
    "embedding",
    "fine_colours",
    "gallery",
    "gene_scatter",
    "heat",
    "jpeg_in_notebooks",
    "legend",
    "method_scores",
    "overlay",
    "patch_rows",
    "pit_histogram",
    "probability_map",
    "reliability",
    "scalebar",
    "share_bars",
    "spot_map",
    "target_matrices",
    "three_views",
    "tissue_colour",
    "training_curves",
    "training_tiles",
    "type_names",
    "value_maps",
]
