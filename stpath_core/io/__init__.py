"""Readers and writers of real formats. Importing this room is light; a reader is imported when it is first used.

So `io.files` and `io.guard` can be used where pandas, tifffile and the single-cell packages are not installed.
"""

import importlib
from typing import Any

from stpath_core.io.registry import dataset, registry  # now: the function has the name of its module

ROOMS = {
    "bulk": "read_bulk",
    "export": "mask_outlines, write_geojson, write_spatialdata",
    "features": "Features, read_features, write_features",
    "files": "atomic_folder, atomic_path",
    "frame": "Frame, frame_of, positions_px, positions_um, same_frame, set_frame",
    "hest": "hest_samples, open_hest, open_hest_cells",
    "images": "read_image",
    "masks": "open_mask_folder, read_mask",
    "reference": "open_cells, open_named_cells, open_reference",
    "sdata": "open_spatialdata, spatialdata_table",
    "section": "LargeSection, Section",
    "slides": "Slide, open_slide",
    "st": "open_st, st_labels, st_pictured, st_sections",
    "visium": "open_visium",
    "xenium": "check_bundle, find_bundles, open_bundles, open_large_xenium, open_xenium",
}
_WHERE = {name: room for room, names in ROOMS.items() for name in names.split(", ")}

__all__ = ["dataset", "registry", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        msg = f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}"
        raise AttributeError(msg)
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
