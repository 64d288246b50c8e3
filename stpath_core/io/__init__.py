"""Readers and writers of real formats. Importing this room is light; what is heavy is imported where it is used."""

from stpath_core.io.bulk import read_bulk
from stpath_core.io.export import mask_outlines, write_geojson, write_spatialdata
from stpath_core.io.features import Features, read_features, write_features
from stpath_core.io.files import atomic_folder, atomic_path
from stpath_core.io.frame import Frame, frame_of, positions_px, positions_um, same_frame, set_frame
from stpath_core.io.hest import hest_samples, open_hest, open_hest_cells
from stpath_core.io.images import read_image
from stpath_core.io.masks import open_mask_folder, read_mask
from stpath_core.io.reference import open_cells, open_named_cells, open_reference
from stpath_core.io.registry import dataset, registry
from stpath_core.io.sdata import open_spatialdata, spatialdata_table
from stpath_core.io.section import Section
from stpath_core.io.slides import Slide, open_slide
from stpath_core.io.st import open_st, st_labels, st_pictured, st_sections
from stpath_core.io.visium import open_visium
from stpath_core.io.xenium import check_bundle, find_bundles, open_bundles, open_xenium

__all__ = [
    "Features",
    "Frame",
    "Section",
    "Slide",
    "atomic_folder",
    "atomic_path",
    "check_bundle",
    "dataset",
    "find_bundles",
    "frame_of",
    "hest_samples",
    "mask_outlines",
    "open_bundles",
    "open_cells",
    "open_hest",
    "open_hest_cells",
    "open_mask_folder",
    "open_named_cells",
    "open_reference",
    "open_slide",
    "open_spatialdata",
    "open_st",
    "open_visium",
    "open_xenium",
    "positions_px",
    "positions_um",
    "read_bulk",
    "read_features",
    "read_image",
    "read_mask",
    "registry",
    "same_frame",
    "set_frame",
    "spatialdata_table",
    "st_labels",
    "st_pictured",
    "st_sections",
    "write_features",
    "write_geojson",
    "write_spatialdata",
]
