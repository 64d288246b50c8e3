"""The 22 fine cell types of the virtual tissue, their super-classes, and what their nuclei look like.

Everything an eye could use to tell two types apart stands in one row of `CELL_TYPES`. Types that no eye can tell apart
(`INSEPARABLE`) and types that only their surroundings tell apart (`CONTEXT_ONLY`) share one `Nucleus`, so they are
alike by construction and not by luck. Sizes were set beside the real tiles of data/calibration.json.
"""

from __future__ import annotations

from dataclasses import dataclass

SUPER_CLASSES = ("epithelial", "neoplastic", "inflammatory", "connective")
UNKNOWN = -1
REGIONS = ("background", "connective", "adipose", "immune", "gland", "in_situ", "invasive")
ORGANS = ("breast", "colon", "lung", "kidney", "prostate")


@dataclass(frozen=True, kw_only=True)
class Nucleus:
    """Morphology of one kind of nucleus: medians over cells, and how much single cells differ from them."""

    area_um2: float  # median area
    area_sd: float = 0.16  # standard deviation of log area
    aspect: float = 1.3  # median long axis / short axis
    aspect_sd: float = 0.12  # standard deviation of log aspect
    wobble: float = 0.045  # relative amplitude of the outline's low harmonics
    lobes: float = 0.0  # relative amplitude of a three- to four-fold outline (neutrophils)
    bend: float = 0.0  # sagitta / half length of bent nuclei (bean shapes, wavy spindles)
    density: float = 0.6  # hematoxylin optical density inside, as a share of the stain's strength
    density_sd: float = 0.17  # standard deviation of log density
    vesicular: float = 0.3  # 0: filled evenly with chromatin; 1: cleared centre behind a dark membrane
    clumps: float = 0.3  # relative contrast of chromatin clumps
    clump_um: float = 0.9  # their size
    nucleoli: float = 0.3  # mean number per nucleus
    nucleolus_um: float = 1.1  # their diameter


@dataclass(frozen=True, kw_only=True)
class Cytoplasm:
    """What surrounds the nucleus, as shares of the eosin and hematoxylin strengths."""

    eosin: float = 0.45
    hematoxylin: float = 0.09
    radius_um: float = 7.0  # how far it reaches when no neighbour stops it
    grain: float = 0.3  # relative contrast of its granules and small vacuoles
    border: float = 0.15  # cell membrane, in eosin density


@dataclass(frozen=True, kw_only=True)
class CellType:
    name: str
    super_class: str
    nucleus: Nucleus
    cytoplasm: Cytoplasm


_LUMINAL = Nucleus(
    area_um2=39, aspect=1.35, wobble=0.045, density=0.52, vesicular=0.4, clumps=0.33, clump_um=0.8, nucleoli=0.5
)
_BASAL = Nucleus(area_um2=30, aspect=1.75, wobble=0.05, density=0.62, vesicular=0.25, clumps=0.35, nucleoli=0.1)
_CARCINOMA = Nucleus(
    area_um2=64, area_sd=0.27, aspect=1.38, aspect_sd=0.17, wobble=0.065, density=0.50, density_sd=0.20,
    vesicular=0.65, clumps=0.36, clump_um=1.1, nucleoli=1.4, nucleolus_um=1.9,
)  # fmt: skip
_LYMPHOCYTE = Nucleus(area_um2=22, area_sd=0.13, aspect=1.14, aspect_sd=0.07, wobble=0.05, density=0.95,
                      density_sd=0.13, vesicular=0.0, clumps=0.28, clump_um=1.2, nucleoli=0.0)  # fmt: skip
_SPINDLE = Nucleus(area_um2=31, area_sd=0.24, aspect=2.9, aspect_sd=0.22, wobble=0.07, bend=0.19, density=0.62,
                   density_sd=0.18, vesicular=0.3, clumps=0.32, nucleoli=0.1)  # fmt: skip
_FLAT = Nucleus(area_um2=21, area_sd=0.2, aspect=3.0, aspect_sd=0.2, wobble=0.06, bend=0.18, density=0.72,
                vesicular=0.1, clumps=0.32, nucleoli=0.0)  # fmt: skip

_PINK = Cytoplasm(eosin=0.42, hematoxylin=0.09)
_TUMOUR = Cytoplasm(eosin=0.34, hematoxylin=0.21, radius_um=9.0, grain=0.35)
_SCANT = Cytoplasm(eosin=0.25, hematoxylin=0.15, radius_um=1.6, grain=0.2)
_FIBRE = Cytoplasm(eosin=0.34, hematoxylin=0.14, radius_um=0.5, grain=0.2, border=0.0)

_TABLE = (
    ("luminal_epithelial", "epithelial", _LUMINAL, _PINK),
    ("basal_myoepithelial", "epithelial", _BASAL, Cytoplasm(eosin=0.30, radius_um=5.0)),
    ("colonocyte", "epithelial",
     Nucleus(area_um2=40, aspect=1.65, density=0.56, vesicular=0.35, clumps=0.33, nucleoli=0.4), _PINK),
    ("goblet", "epithelial", Nucleus(area_um2=32, aspect=1.5, density=0.66, vesicular=0.1, nucleoli=0.1),
     Cytoplasm(eosin=0.30, hematoxylin=0.09)),
    ("alveolar_type2", "epithelial",
     Nucleus(area_um2=37, aspect=1.2, density=0.54, vesicular=0.45, clumps=0.33, nucleoli=0.7),
     Cytoplasm(eosin=0.40, radius_um=5.0, grain=0.5)),
    ("tubule_epithelial", "epithelial",
     Nucleus(area_um2=36, aspect=1.14, density=0.52, vesicular=0.45, clumps=0.33, nucleoli=0.6),
     Cytoplasm(eosin=0.60, hematoxylin=0.08, radius_um=9.0, grain=0.22)),
    ("carcinoma_invasive", "neoplastic", _CARCINOMA, _TUMOUR),
    ("carcinoma_in_situ", "neoplastic", _CARCINOMA, _TUMOUR),
    ("carcinoma_cycling", "neoplastic",
     Nucleus(area_um2=72, area_sd=0.25, aspect=1.45, aspect_sd=0.2, wobble=0.09, density=0.72, vesicular=0.35,
             clumps=0.5, clump_um=1.6, nucleoli=1.2, nucleolus_um=1.6), _TUMOUR),
    ("t_cd4", "inflammatory", _LYMPHOCYTE, _SCANT),
    ("t_cd8", "inflammatory", _LYMPHOCYTE, _SCANT),
    ("b_cell", "inflammatory",
     Nucleus(area_um2=25, area_sd=0.14, aspect=1.13, density=0.88, vesicular=0.05, clumps=0.35, nucleoli=0.1), _SCANT),
    ("plasma", "inflammatory",
     Nucleus(area_um2=24, area_sd=0.12, aspect=1.15, density=0.90, vesicular=0.1, clumps=0.6, clump_um=1.5,
             nucleoli=0.0),
     Cytoplasm(eosin=0.36, hematoxylin=0.28, radius_um=4.2, grain=0.2)),
    ("macrophage", "inflammatory",
     Nucleus(area_um2=32, area_sd=0.18, aspect=1.4, bend=0.3, density=0.62, vesicular=0.3, clumps=0.4, nucleoli=0.2),
     Cytoplasm(eosin=0.30, hematoxylin=0.07, radius_um=4.5, grain=0.35)),
    ("neutrophil", "inflammatory",
     Nucleus(area_um2=22, area_sd=0.14, aspect=1.9, bend=0.38, lobes=0.14, wobble=0.06, density=0.9,
             vesicular=0.0, clumps=0.15, nucleoli=0.0),
     Cytoplasm(eosin=0.36, hematoxylin=0.04, radius_um=3.6, grain=0.3)),
    ("mast", "inflammatory", Nucleus(area_um2=25, aspect=1.2, density=0.78, vesicular=0.1, nucleoli=0.0),
     Cytoplasm(eosin=0.34, hematoxylin=0.28, radius_um=3.8, grain=0.5)),
    ("fibroblast", "connective", _SPINDLE, _FIBRE),
    ("caf", "connective", _SPINDLE, _FIBRE),
    ("endothelial", "connective", _FLAT, _FIBRE),
    ("pericyte", "connective", _FLAT, _FIBRE),
    ("smooth_muscle", "connective",
     Nucleus(area_um2=33, area_sd=0.2, aspect=3.4, aspect_sd=0.2, bend=0.08, wobble=0.06, density=0.56,
             vesicular=0.3, clumps=0.32, nucleoli=0.1), _FIBRE),
    ("adipocyte", "connective",
     Nucleus(area_um2=16, area_sd=0.2, aspect=3.4, aspect_sd=0.2, bend=0.2, density=0.78, vesicular=0.0, nucleoli=0.0),
     Cytoplasm(eosin=0.0, hematoxylin=0.0, radius_um=2.0, border=0.0)),
)  # fmt: skip

CELL_TYPES: dict[str, CellType] = {
    name: CellType(name=name, super_class=super_class, nucleus=nucleus, cytoplasm=cytoplasm)
    for name, super_class, nucleus, cytoplasm in _TABLE
}
FINE_TYPES: tuple[str, ...] = tuple(CELL_TYPES)
SUPER_OF: dict[str, str] = {name: cell_type.super_class for name, cell_type in CELL_TYPES.items()}
SUPER_INDEX: dict[str, int] = {name: SUPER_CLASSES.index(super_class) for name, super_class in SUPER_OF.items()}

INSEPARABLE = (("t_cd4", "t_cd8"), ("endothelial", "pericyte"))  # by nuclear morphology and by place
CONTEXT_ONLY = (("carcinoma_invasive", "carcinoma_in_situ"), ("fibroblast", "caf"))  # by their surroundings alone
