"""Names of the AnnData and SpatialData slots that stpath reads and writes, in one place."""

from __future__ import annotations

# obs
CELL_ID = "cell_id"  # id of the cell in its own section
SECTION = "section"
PATIENT = "patient"
ORGAN = "organ"
LABEL = "label"  # super-class name, or UNKNOWN
FINE_LABEL = "fine_label"  # finer marker set that gave the label, or UNKNOWN
CONFIDENCE = "confidence"  # 0 to 1
EVIDENCE = "evidence"  # the marker genes that spoke for the label, comma separated
LABEL_ALL, FINE_LABEL_ALL = "label_all", "fine_label_all"  # the same without abstaining
LABEL_RECIPE = "label_recipe"  # what the vote of expression clusters says
PURITY = "purity"  # share of the nuclei of most similar expression that carry the same label, 0 to 1
INSTANCE = "instance"  # id of the nucleus in the stage file's mask, 0 where it has no pixel of its own
TRANSFERRED = "transferred"  # fine type by a reference, or UNKNOWN
TRANSFERRED_CONFIDENCE = "transferred_confidence"  # 0 to 1
CLUSTER = "cluster"  # of expression, where a typing method works by clusters
TOTAL_COUNTS = "total_counts"
SUPER_CLASS = "super_class"  # the true one, where experts or a seed have said it
CELL_TYPE = "cell_type"  # as the source of the data names it
DONOR = "donor"  # of a dissociated cell
ARRAY_ROW, ARRAY_COL = "array_row", "array_col"  # of a spot, whole numbers
IN_TISSUE = "in_tissue"

UNKNOWN = "unknown"
UNDETERMINED = "undetermined"  # a spot that the annotator looked at and did not decide
UNLABELLED = "unlabelled"  # a spot that no annotator looked at

# layers, obsm, uns
COUNTS = "counts"  # layers: raw counts, integers
SPATIAL = "spatial"  # obsm: (N, 2) x, y in um, or in the unit that uns["frame"] names
SPATIAL_PX = "spatial_px"  # obsm: (N, 2) x, y in pixels of the image that can be opened
FRAME = "frame"  # uns: unit, mpp, origin and affine of obsm["spatial"]; see io.frame
NOTES = "notes"  # uns: what a reader had to choose or leave out, one line each
SCORES = "marker_scores"  # obsm: (N, n_super_classes)
SOFT_LABEL = "soft_label"  # obsm: (N, n_super_classes), shares of 1, or zeros where unknown
TYPE_PROBABILITY = "type_probability"  # obsm: frame (N, types of a reference)
NEIGHBOURS = "expression_neighbours"  # obsm: (N, k) row numbers

# elements of an exported SpatialData object
SD_IMAGE = "he_image"
SD_LABELS = "nuclei_mask"
SD_NUCLEI = "nuclei"
SD_TABLE = "table"
SD_FRAME = "um"  # coordinate system in um
