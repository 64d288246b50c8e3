"""The virtual tissue: sections of five organs grown from a seed, with their truth, in the vendors' own formats.

>>> from stpath_core import tissue
>>> section = tissue.make_section("breast", size_um=(100, 100))     # in memory
>>> section.image.shape, section.counts.shape[1]
((200, 200, 3), 490)
"""

from stpath_core.tissue.cohort import VirtualSection, make_section, section_name, write_cohort, write_section
from stpath_core.tissue.effects import Effects

__all__ = ["Effects", "VirtualSection", "make_section", "section_name", "write_cohort", "write_section"]
