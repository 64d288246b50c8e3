"""What the five organs are built of: kinds of structure, the stroma between them, and which cells live where.

An organ is a list of compartments (normal glands, in situ and invasive tumour, stroma, fat, immune aggregates); a
compartment is strewn with structures (crypts, ducts, tubules, nests, fat cells) and filled with stroma. Lengths in um.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Mix = dict[str, float]  # fine type -> weight


@dataclass(frozen=True, kw_only=True)
class Structure:
    """One kind of closed structure: its size and spacing, its wall, and the cells of its layers."""

    kind: Literal["gland", "solid", "alveolus", "fat", "vessel", "glomerulus"]
    cells: Mix
    radius_um: float
    spacing_um: float
    radius_sd: float = 0.18  # standard deviation of log radius
    stretch: float = 1.25  # long axis / short axis
    wobble: float = 0.08  # relative amplitude of the outline's low harmonics
    gap_um: float = 8.0  # stroma left between packed neighbours
    height_um: float = 1e3  # thickness of the epithelium; a lumen is what lies deeper
    folds: float = 0.0  # papillary folds of the lumen's outline, relative to the height
    layer_um: float = 6.5  # depth of the main layer of nuclei
    pitch_um: float = 7.5  # distance between nuclei along a layer, and inside a filled structure
    basal: bool = False  # a flat myoepithelial layer beneath
    filled: bool = False  # nuclei at every depth, not in one layer
    holes: float = 0.0  # share of a filled structure that is punched out (cribriform)
    clear: float = 0.0  # how far the cytoplasm is emptied (clear cells, foamy cells)
    mucin: float = 0.0  # how far lumens are filled with secretion


@dataclass(frozen=True, kw_only=True)
class Compartment:
    """A kind of territory: its share of the section's area, its structures, and its stroma."""

    share: float
    structures: tuple[Structure, ...] = ()
    stroma: Mix
    stroma_pitch_um: float = 17.0  # distance between nuclei of the stroma
    muscle: float = 0.0  # share of the stroma that is smooth muscle
    collagen: float = 0.6  # 0: loose and pale, 1: dense and pink


@dataclass(frozen=True, kw_only=True)
class Organ:
    """An organ: its compartments and how large its nuclei are beside the table of cell_types."""

    compartments: dict[str, Compartment]
    nuclear_size: float = 1.0  # factor on nuclear area
    tumour_size: float = 1.0  # further factor on neoplastic nuclear area


_QUIET = {"fibroblast": 9, "endothelial": 1.2, "pericyte": 0.7, "macrophage": 0.6, "t_cd4": 0.45, "t_cd8": 0.35,
          "mast": 0.4, "plasma": 0.4, "smooth_muscle": 0.4}  # fmt: skip
_REACTIVE = {"caf": 7, "endothelial": 0.9, "pericyte": 0.5, "macrophage": 0.8, "t_cd4": 0.9, "t_cd8": 0.8,
             "b_cell": 0.5, "plasma": 0.6, "neutrophil": 0.5, "fibroblast": 0.5}  # fmt: skip
_AGGREGATE = {"t_cd4": 4, "t_cd8": 2.6, "b_cell": 4, "plasma": 1.4, "macrophage": 0.6, "fibroblast": 0.7,
              "endothelial": 0.4, "neutrophil": 0.1}  # fmt: skip
_LAMINA = {"plasma": 3.2, "t_cd4": 1.4, "t_cd8": 1.0, "macrophage": 1.0, "fibroblast": 2.0, "mast": 0.4,
           "endothelial": 1.0, "pericyte": 0.5, "b_cell": 0.6}  # fmt: skip
_INTRUDERS = {"t_cd8": 0.03, "t_cd4": 0.02, "macrophage": 0.015, "neutrophil": 0.01}
_INVASIVE = {"carcinoma_invasive": 0.82, "carcinoma_cycling": 0.08} | _INTRUDERS
_IN_SITU = {"carcinoma_in_situ": 0.88, "carcinoma_cycling": 0.06, "t_cd8": 0.03, "macrophage": 0.015}

FAT = Structure(kind="fat", cells={"adipocyte": 1}, radius_um=31, radius_sd=0.13, spacing_um=52, stretch=1.1,
                wobble=0.04, gap_um=1.6, height_um=0.6, layer_um=-0.8)  # fmt: skip
VESSEL = Structure(kind="vessel", cells={"endothelial": 0.65, "pericyte": 0.35}, radius_um=11, radius_sd=0.45,
                   spacing_um=105, stretch=1.5, height_um=3.2, layer_um=1.4, pitch_um=9, gap_um=5)  # fmt: skip
CAPILLARY = replace(VESSEL, radius_um=5.5, radius_sd=0.25, spacing_um=52, stretch=2.2, height_um=1.2, layer_um=0.2,
                    pitch_um=13)  # fmt: skip

# Normal glands
_DUCT = Structure(kind="gland", cells={"luminal_epithelial": 0.95, "t_cd8": 0.03, "macrophage": 0.01}, radius_um=38,
                  spacing_um=170, height_um=15, layer_um=8, pitch_um=6.3, basal=True, mucin=0.3)  # fmt: skip
_LOBULE = replace(_DUCT, radius_um=19, spacing_um=46, height_um=12, layer_um=7, gap_um=7)
_CRYPT = Structure(kind="gland", cells={"colonocyte": 0.6, "goblet": 0.34, "t_cd8": 0.04}, radius_um=36, radius_sd=0.1,
                   spacing_um=80, wobble=0.04, height_um=25, layer_um=7, pitch_um=5.8, gap_um=12,
                   mucin=0.5)  # fmt: skip
_ALVEOLUS = Structure(kind="alveolus", cells={"alveolar_type2": 8, "endothelial": 1.8, "pericyte": 1.0, "macrophage": 1,
                      "fibroblast": 0.8, "t_cd4": 0.4}, radius_um=46, spacing_um=62, wobble=0.1, gap_um=7,
                      height_um=0.5, layer_um=-2.2, pitch_um=9)  # fmt: skip
_TUBULE = Structure(kind="gland", cells={"tubule_epithelial": 0.97, "t_cd8": 0.01}, radius_um=25, radius_sd=0.16,
                    spacing_um=45, stretch=1.35, wobble=0.05, height_um=14, layer_um=7, pitch_um=10.5,
                    gap_um=3.5)  # fmt: skip
_GLOMERULUS = Structure(kind="glomerulus", cells={"endothelial": 4, "pericyte": 3, "tubule_epithelial": 3},
                        radius_um=78, radius_sd=0.08, spacing_um=300, stretch=1.1, wobble=0.04, gap_um=5,
                        filled=True, layer_um=1.6, pitch_um=7.4, clear=0.5)  # fmt: skip
_ACINUS = Structure(kind="gland", cells={"luminal_epithelial": 0.97, "t_cd8": 0.02}, radius_um=72, spacing_um=142,
                    wobble=0.2, height_um=19, folds=0.55, layer_um=7, pitch_um=6.3, gap_um=16, basal=True, clear=0.35,
                    mucin=0.35)  # fmt: skip

# In situ: a gland's shape with tumour's cells
_FILLED_DUCT = Structure(kind="solid", cells=_IN_SITU, radius_um=72, spacing_um=165, wobble=0.1, gap_um=18,
                         filled=True, layer_um=9, pitch_um=9.8, basal=True, holes=0.1)  # fmt: skip
_ADENOMA = replace(_CRYPT, cells=_IN_SITU, radius_um=48, spacing_um=104, height_um=30, layer_um=9, pitch_um=7.2,
                   wobble=0.1, clear=0.05)  # fmt: skip
_LEPIDIC = Structure(kind="gland", cells=_IN_SITU, radius_um=48, spacing_um=100, wobble=0.18, height_um=13, folds=0.3,
                     layer_um=7, pitch_um=7.6, gap_um=9)  # fmt: skip
_PAPILLARY = replace(_TUBULE, cells=_IN_SITU, radius_um=40, spacing_um=84, height_um=17, folds=0.4, pitch_um=7.8,
                     gap_um=8)  # fmt: skip
_PIN = replace(_ACINUS, cells=_IN_SITU, height_um=27, folds=0.7, layer_um=9, pitch_um=7.8, clear=0.1)

# Invasive: nests, and glands that have lost their order
_NEST = Structure(kind="solid", cells=_INVASIVE, radius_um=26, spacing_um=54, stretch=1.6, wobble=0.16, gap_um=9,
                  filled=True, layer_um=5.0, pitch_um=9.8)  # fmt: skip
_WILD_GLAND = Structure(kind="gland", cells=_INVASIVE, radius_um=46, radius_sd=0.3, spacing_um=96, stretch=1.6,
                        wobble=0.2, height_um=21, folds=0.3, layer_um=8, pitch_um=7.0, gap_um=11,
                        mucin=0.6)  # fmt: skip
_MICROACINUS = Structure(kind="gland", cells=_INVASIVE, radius_um=25, radius_sd=0.3, spacing_um=50, wobble=0.14,
                         height_um=16, layer_um=7, pitch_um=7.6, gap_um=6, clear=0.25, mucin=0.3)  # fmt: skip


def _normal(share: float, *structures: Structure, **traits) -> Compartment:
    return Compartment(share=share, structures=structures, **({"stroma": _QUIET} | traits))


def _tumour(share: float, *structures: Structure, **traits) -> Compartment:
    traits = {"stroma": _REACTIVE, "stroma_pitch_um": 12.5, "collagen": 0.75} | traits
    return Compartment(share=share, structures=structures, **traits)


_STROMA = _normal(0.16, stroma_pitch_um=15.5)
_ADIPOSE = _normal(0.10, FAT, stroma_pitch_um=22, collagen=0.3)
_IMMUNE = Compartment(share=0.09, stroma=_AGGREGATE, stroma_pitch_um=5.7, collagen=0.15)

ORGAN_PLANS: dict[str, Organ] = {
    "breast": Organ(nuclear_size=0.95, compartments={
        "gland": _normal(0.17, _LOBULE, _DUCT, collagen=0.4),
        "in_situ": _tumour(0.17, _FILLED_DUCT),
        "invasive": _tumour(0.30, _NEST),
        "connective": _STROMA, "adipose": _ADIPOSE, "immune": _IMMUNE,
    }),
    "colon": Organ(compartments={
        "gland": _normal(0.27, _CRYPT, stroma=_LAMINA, stroma_pitch_um=10.5, collagen=0.2),
        "in_situ": _tumour(0.14, _ADENOMA),
        "invasive": _tumour(0.28, _WILD_GLAND, replace(_NEST, spacing_um=150)),
        "connective": replace(_STROMA, muscle=0.5), "adipose": replace(_ADIPOSE, share=0.06), "immune": _IMMUNE,
    }),
    "lung": Organ(nuclear_size=1.05, tumour_size=1.1, compartments={
        "gland": _normal(0.26, _ALVEOLUS, stroma_pitch_um=14, collagen=0.35),
        "in_situ": _tumour(0.13, _LEPIDIC),
        "invasive": _tumour(0.32, replace(_NEST, radius_um=48, spacing_um=98, gap_um=10, pitch_um=10.4)),
        "connective": _STROMA, "immune": _IMMUNE,
    }),
    "kidney": Organ(nuclear_size=0.92, tumour_size=0.85, compartments={
        "gland": _normal(0.36, _TUBULE, _GLOMERULUS, stroma_pitch_um=15, collagen=0.35),
        "in_situ": _tumour(0.09, _PAPILLARY),
        "invasive": _tumour(0.30, replace(_NEST, radius_um=40, spacing_um=72, gap_um=3, pitch_um=11.8, clear=0.85)),
        "connective": _STROMA, "immune": _IMMUNE,
    }),
    "prostate": Organ(tumour_size=0.85, compartments={
        "gland": _normal(0.28, _ACINUS, muscle=0.6),
        "in_situ": _tumour(0.14, _PIN, muscle=0.4),
        "invasive": _tumour(0.30, _MICROACINUS, muscle=0.35),
        "connective": replace(_STROMA, muscle=0.6), "adipose": replace(_ADIPOSE, share=0.05),
        "immune": replace(_IMMUNE, share=0.08),
    }),
}  # fmt: skip
