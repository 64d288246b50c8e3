"""The strengths of everything that makes spots, bulk and single-cell references hard. Zero turns an effect off.

One dataclass for all assays: what concerns cells, images and the cell-level assay is inherited from `Effects`, with
defaults of its own where spots differ. They were set beside HER2ST (eight annotated sections, one per patient;
Andersson et al. 2021) and Wu et al. 2021 before any method ran, then frozen; data/calibration.json holds both columns.
The batch depends on the class a little: without it no strength gave HER2ST's .54 inside patients and .39 across them.
"""

from __future__ import annotations

from dataclasses import dataclass

from stpath_core.errors import InputError
from stpath_core.tissue.effects import Effects

_SHARES = ("absent", "confounding", "undetermined", "stain_shared", "diffusion", "dropout", "reference_ambient")


@dataclass(frozen=True)
class AssayEffects(Effects):
    """Strengths of the planted effects, each with its unit."""

    # what spots and bulk share with the cell-level assay, at strengths of their own
    expression_batch: float = 0.5  # SD (natural log) of a gene's factor, per patient
    batch_additive: float = 0.1  # share of molecules that follow a profile of the patient alone
    section_depth: float = 0.75  # SD (natural log) of a section's median count (HER2ST, all genes: 648 to 12,428)
    overdispersion: float = 0.1  # negative binomial: variance = mean + overdispersion * mean^2
    ambient: float = 0.2  # share of a spot's molecules that follow the mean of the section
    # composition
    composition: float = 1.0  # spread of the Dirichlet shares of regions and cell types, as a multiple of HER2ST's
    absent: float = 1.0  # how often classes are missing from a patient, as a share of how often in HER2ST
    confounding: float = 0.0  # 0: classes as they come; 1: every patient is of a single class
    label_border_um: float = 40.0  # um, SD of the smooth error of the annotators' borders
    undetermined: float = 0.09  # share of spots, the most mixed ones, that annotators leave undetermined
    # batch
    section_batch: float = 0.1  # SD (natural log) of a gene's factor, per section of a patient
    class_batch: float = 0.2  # SD (natural log) of a gene's factor, per patient and class of tissue
    stain_shared: float = 0.0  # 0: stain and expression batch are independent; 1: the stain says the batch
    # measurement
    mrna_content: float = 1.0  # exponent on the molecules a type holds (0: all types hold as many)
    spot_depth: float = 0.6  # SD (natural log) of a spot's efficiency
    diffusion: float = 0.3  # share of molecules that are caught away from where they were
    diffusion_um: float = 100.0  # um, mean distance of those
    dropout: float = 0.01  # share of (spot, gene) entries that are lost whatever they hold
    bulk_depth: float = 0.4  # SD (natural log) of a slide's total count
    bulk_overdispersion: float = 0.02  # negative binomial, of bulk: technical noise alone
    # the single-cell reference
    dissociation: float = 1.0  # exponent on the share of a type's cells that survive (0: all; adipocytes: none)
    platform: float = 0.5  # SD (natural log) of a gene's efficiency, the same in all donors, unlike that of spots
    donor_batch: float = 0.3  # SD (natural log) of a gene's factor, per donor
    reference_ambient: float = 0.05  # share of a cell's molecules that follow the mean of its donor
    reference_depth: float = 0.75  # SD (natural log) of the molecules seen per cell
    missing_types: float = 1.0  # number of types that the reference lacks although the tissue holds them

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _SHARES:
            if getattr(self, name) > 1:
                message = f"effect {name}={getattr(self, name)}; a share, at most 1"
                raise InputError(message)
        if self.missing_types != int(self.missing_types):
            message = f"effect missing_types={self.missing_types}; a number of types, so a whole number"
            raise InputError(message)
