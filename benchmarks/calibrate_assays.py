"""Measure real spots and single cells and the virtual ones alike, and write their part of data/calibration.json.

    STPATH_REAL_DATA=/path/to/real python benchmarks/calibrate_assays.py [--write] [--seeds 0 1 2]

Real: HER2ST's eight annotated sections (one per patient), Wu et al.'s CID4465, both on their 2,000 genes of highest
total count; a MERFISH section of lung cancer. Virtual: `AssayEffects()` at its defaults, each tissue seed, and the
cell-level assay of five organs at seed 0. Nothing but the card's own statistics is run. Without --write the comparison
is only printed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from stpath_core import keys, tissue
from stpath_core.io import open_st, st_sections
from stpath_core.tissue.assay_card import (
    LIMITS,
    MEAN_EDGES,
    TOP_GENES,
    Spots,
    cell_counts,
    mean_variance,
    spot_card,
    top_genes,
)
from stpath_core.tissue.calibration import CARD
from stpath_core.tissue.card import MERFISH, card
from stpath_core.tissue.cell_types import ORGANS

HER2ST_PITCH_UM = 200.0
SOURCES = {
    "her2st": "eight annotated sections, one per patient, HER2-positive breast cancer, Andersson et al. 2021; on the "
              "2,000 genes of highest total count; section medians from all 36 sections and all genes; figures only",
    "wu": "CID4465, one donor, 1,564 cells, Wu et al. 2021 (GSE176078); on its 2,000 genes of highest total count; "
          "figures only",
    "merfish": "lung cancer, 3,177 cells, 479 genes, Chen et al. 2024; figures only",
}  # fmt: skip


def her2st(root: Path) -> Spots:
    """The annotated spots over the genes that all eight sections have."""
    tables = open_st(root, st_sections(root, labelled=True))
    spots = anndata.concat(tables, join="inner")
    spots = spots[spots.obs[keys.LABEL] != keys.UNLABELLED]
    xy_um = HER2ST_PITCH_UM * spots.obs[[keys.ARRAY_COL, keys.ARRAY_ROW]].to_numpy(float)
    patient, section, label = (spots.obs[c].to_numpy(str) for c in (keys.PATIENT, keys.SECTION, keys.LABEL))
    return Spots(spots.X[:, top_genes(spots.X, TOP_GENES)].toarray(), patient, section, label, xy_um)


def section_medians(root: Path) -> list[float]:
    """Median total count of each of the 36 sections, all genes."""
    return [float(np.median(np.asarray(table.X.sum(1)))) for table in open_st(root).values()]


def wu(root: Path) -> csr_matrix:
    counts = csr_matrix(anndata.read_h5ad(root / "wu2021_CID4465_TNBC.h5ad").X)
    return counts[:, top_genes(counts, TOP_GENES)]


def virtual_spots(seed: int) -> Spots:
    adata = tissue.spot_cohort(seed=seed)
    words = [adata.obs[name].to_numpy(str) for name in ("patient", "section", "label")]
    return Spots(adata.layers["counts"].toarray(), *words, adata.obsm["spatial"])


def virtual_cells() -> dict[str, float]:
    """Median over the five organs of what the cell-level assay shows at its defaults."""
    cards = [card(s.arch, s.measurement) for s in (tissue.make_section(o, size_um=(500, 500)) for o in ORGANS)]
    return pd.DataFrame(cards)[list(MERFISH)].median().to_dict()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the section `assays` of data/calibration.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="tissue seeds")
    options = parser.parse_args()
    if not os.environ.get("STPATH_REAL_DATA"):
        print("STPATH_REAL_DATA is not set: point it at the folder that holds her2st/ and scrna/", file=sys.stderr)
        return 2
    root = Path(os.environ["STPATH_REAL_DATA"])
    spots, medians = her2st(root / "her2st"), section_medians(root / "her2st")
    cohorts = {seed: virtual_spots(seed) for seed in options.seeds}
    real, each = spot_card(spots), {seed: spot_card(cohort) for seed, cohort in cohorts.items()}
    mean = {name: float(np.mean([values[name] for values in each.values()])) for name in real}
    cells = [cell_counts(tissue.reference(seed=seed).X) for seed in options.seeds]
    out = {
        "sources": SOURCES,
        "strengths": tissue.AssayEffects().as_dict(),
        "limits": {name: list(limits) for name, limits in LIMITS.items()},
        "her2st": real,
        "spots": mean | {"seeds": {str(seed): values for seed, values in each.items()}},
        "section medians, all genes": [min(medians), max(medians)],
        "mean-variance curve": {
            "mean from": list(MEAN_EDGES[:-1]),
            "her2st": mean_variance(spots.counts, spots.section),
            "spots": np.mean([mean_variance(c.counts, c.section) for c in cohorts.values()], axis=0).tolist(),
        },
        "wu": cell_counts(wu(root / "scrna")),
        "reference": {name: float(np.mean([c[name] for c in cells])) for name in cells[0]},
        "merfish": MERFISH,
        "cells": virtual_cells(),
    }
    out = json.loads(json.dumps(out), parse_float=lambda text: round(float(text), 4))
    for left, right in (("her2st", "spots"), ("wu", "reference"), ("merfish", "cells")):
        for name in out[right]:
            if name != "seeds":
                low, high = LIMITS.get(name, (-np.inf, np.inf)) if right == "spots" else (-np.inf, np.inf)
                mark = " " if low <= out[right][name] <= high else "!"
                print(f"{mark} {left:8} {name:28} real {out[left][name]:10.3f}   virtual {out[right][name]:10.3f}")
    print(json.dumps(out["mean-variance curve"]))
    if options.write:
        CARD.write_text(json.dumps(json.loads(CARD.read_text()) | {"assays": out}, indent=1) + "\n")
        print(f"wrote {CARD}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
