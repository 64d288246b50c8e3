"""The virtual tissue: sections of five organs grown from a seed, with their truth, in the vendors' own formats.

>>> from stpath_core import tissue
>>> section = tissue.make_section("breast", size_um=(100, 100))     # in memory
>>> section.image.shape, section.counts.shape[1]
((200, 200, 3), 490)

The other assays sum over the same cells: `spot_cohort`, `slide_cohort`, `reference`; `write_assays` writes all three.
"""

from stpath_core.tissue.assay_effects import AssayEffects
from stpath_core.tissue.assays import read_bag, write_assays
from stpath_core.tissue.cohort import VirtualSection, make_section, section_name, write_cohort, write_section
from stpath_core.tissue.dissociated import reference
from stpath_core.tissue.effects import Effects
from stpath_core.tissue.slides import Bag, SlideCohort, slide_cohort
from stpath_core.tissue.spot_sections import spot_cohort, spot_image

__all__ = [
    "AssayEffects", "Bag", "Effects", "SlideCohort", "VirtualSection", "make_section", "read_bag", "reference",
    "section_name", "slide_cohort", "spot_cohort", "spot_image", "write_assays", "write_cohort", "write_section",
]  # fmt: skip
