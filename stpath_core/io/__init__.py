"""Readers and writers of real formats. Importing this room is light; what is heavy is imported where it is used."""

from stpath_core.io.export import mask_outlines, write_geojson, write_spatialdata
from stpath_core.io.files import atomic_folder, atomic_path
from stpath_core.io.images import read_image
from stpath_core.io.masks import open_mask_folder, read_mask
from stpath_core.io.registry import dataset, registry
from stpath_core.io.section import Section
from stpath_core.io.xenium import check_bundle, find_bundles, open_bundles, open_xenium

__all__ = [
    "Section",
    "atomic_folder",
    "atomic_path",
    "check_bundle",
    "dataset",
    "find_bundles",
    "mask_outlines",
    "open_bundles",
    "open_mask_folder",
    "open_xenium",
    "read_image",
    "read_mask",
    "registry",
    "write_geojson",
    "write_spatialdata",
]
