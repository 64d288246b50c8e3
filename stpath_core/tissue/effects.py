"""The strengths of everything that makes real data hard. Zero turns an effect off.

A lesson shows what an effect costs by changing one number: ``replace(Effects(), leakage=0.0)``.
The defaults were set beside a MERFISH lung section of 3,177 cells (counts per cell, share of zeros, overdispersion
within a lineage, how far markers show in other lineages, and how well a supervised classifier separates lineages),
never by what a method of ours scores on the virtual tissue. data/README.md shows both columns.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from stpath_core.errors import InputError

_SHARES = ("batch_additive", "ambient", "leakage", "overlap", "unassigned", "low_quality", "missed", "merged", "split")


@dataclass(frozen=True)
class Effects:
    """Strengths of the planted effects, each with its unit."""

    # the image
    stain_variation: float = 1.0  # spread of stain between patients, as a multiple of that of real tiles
    # what a cell expresses
    cell_variation: float = 0.35  # SD (natural log) of a cell's own factor on each marker programme
    niche_visible: float = 0.3  # SD (natural log) of programmes that follow what the image shows (region, crowding)
    niche_hidden: float = 0.3  # SD (natural log) of programmes that follow a smooth field no image shows
    expression_batch: float = 0.35  # SD (natural log) of a gene's factor, per patient
    batch_additive: float = 0.02  # share of a cell's molecules that follow a profile of the patient alone
    # what is measured of it
    depth_variation: float = 1.05  # SD (natural log) of the molecules seen per cell
    section_depth: float = 0.2  # SD (natural log) of the molecules seen per section
    overdispersion: float = 0.6  # negative binomial: variance = mean + overdispersion * mean^2
    gene_sensitivity: float = 0.6  # SD (natural log) of a probe's efficiency, the same in all sections
    ambient: float = 0.06  # share of a cell's molecules that follow the mean of the section
    # where a transcript is seen
    leakage: float = 0.25  # share of transcripts that are seen away from where they were made
    leakage_um: float = 6.0  # um, mean distance of those
    overlap: float = 0.25  # share of cells that lie over or under a neighbour, where half their transcripts are seen
    unassigned: float = 0.08  # share of all transcripts that lie anywhere in the tissue, cell or not
    low_quality: float = 0.06  # share of transcripts below the vendor's quality cut (written, not counted)
    # nuclei as the assay segments them
    missed: float = 0.03  # share of nuclei without a polygon
    merged: float = 0.02  # share of nuclei that share one polygon with their nearest neighbour
    split: float = 0.01  # share of nuclei cut in two
    border_um: float = 0.25  # um, SD of the smooth error of a nuclear border
    # how the assay lies on the H&E, beyond what the alignment file says
    misregistration_um: float = 0.8  # um, shift left over after alignment
    rotation_deg: float = 0.05  # degrees of rotation left over after alignment
    warp_um: float = 0.4  # um, amplitude of a smooth local deformation

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < float("inf"):
                message = f"effect {field.name}={value!r}; strengths are numbers >= 0 (0 turns the effect off)"
                raise InputError(message)
        for name in _SHARES:
            if getattr(self, name) > 0.9:
                message = f"effect {name}={getattr(self, name)}; a share, at most 0.9"
                raise InputError(message)

    @classmethod
    def none(cls) -> Effects:
        """Every effect off: Poisson counts of the pure type profiles, perfect polygons, perfect registration."""
        return cls(**{field.name: 0.0 for field in fields(cls)})

    def as_dict(self) -> dict[str, float]:
        """Name to strength, for records and files."""
        return asdict(self)
