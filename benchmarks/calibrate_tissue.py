"""Measure real H&E tiles and the virtual tissue alike, and write data/calibration.json.

    STPATH_REAL_DATA=/path/to/real python benchmarks/calibrate_tissue.py [--write]

Without --write the comparison is only printed. Areas and densities are taken from MoNuSeg (0.25 um/px stated by its
authors); the NuCLS tiles come without a scale and add optical densities only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from stpath_core.stain import stain_vectors
from stpath_core.tissue.architecture import grow
from stpath_core.tissue.calibration import CARD, load_card, measure_tile, spread, strengths
from stpath_core.tissue.cell_types import ORGANS
from stpath_core.tissue.histology import instance_mask, render

SOURCES = {
    "monuseg": "13 tiles of 250 x 250 um, 0.25 um/px, TCGA, Kumar et al. 2017 (CC BY-NC-SA 4.0); figures only",
    "nucls": "15 breast tiles of 256 px, Amgad et al. 2022 (CC0); scale not stated: optical densities only",
}


def real_tiles(root: Path) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    monuseg = [(iio.imread(f)[..., :3], iio.imread(root / "monuseg/labels" / f"{f.stem}.png"))
               for f in sorted((root / "monuseg/images").glob("*.jpg"))]  # fmt: skip
    nucls = [(iio.imread(f.with_name(f.name.replace("_inst", "")))[..., :3], iio.imread(f))
             for f in sorted((root / "nucls").glob("*_inst.png"))]  # fmt: skip
    return {"monuseg": monuseg, "nucls": nucls}


def virtual_tiles(n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    tiles = []
    for k in range(n):
        arch = grow(ORGANS[k % 5], size_um=(250, 250), seed=k, patient=k)
        image = render(arch, mpp=0.25, seed=k)
        tiles.append((image, instance_mask(arch.nuclei_um, mpp=0.25, shape=image.shape[:2])))
    return tiles


def stains(tiles: list[tuple[np.ndarray, np.ndarray]]) -> dict:
    """Mean colour vectors and how far patients' vectors, strengths and whites lie apart."""
    vectors = np.stack([stain_vectors(image) for image, _ in tiles])  # (tiles, 2, 3)
    white = np.array([np.percentile(image.min(2), 99) for image, _ in tiles])
    out = {"white": {"mean": white.mean(), "sd": white.std(ddof=1)}}
    for k, name in enumerate(("hematoxylin", "eosin")):
        out[name] = {"mean": vectors[:, k].mean(0).tolist(), "sd": vectors[:, k].std(0, ddof=1).tolist()}
    return json.loads(json.dumps(out), parse_float=lambda s: round(float(s), 4))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write data/calibration.json")
    parser.add_argument("--fields", type=int, default=20, help="virtual fields of 250 um to measure")
    options = parser.parse_args()
    if not os.environ.get("STPATH_REAL_DATA"):
        print("STPATH_REAL_DATA is not set: point it at the folder that holds monuseg/ and nucls/", file=sys.stderr)
        return 2
    real = real_tiles(Path(os.environ["STPATH_REAL_DATA"]))
    virtual = virtual_tiles(options.fields)
    card = {"schema": "stpath.calibration/1", "sources": SOURCES, "strengths": strengths()}
    card["monuseg"] = spread([measure_tile(*tile, mpp=0.25) for tile in real["monuseg"]])
    nucls = spread([measure_tile(*tile, mpp=0.25) for tile in real["nucls"]])
    card["nucls"] = {name: value for name, value in nucls.items() if name.startswith(("hematoxylin", "eosin"))}
    card["virtual"] = spread([measure_tile(*tile, mpp=0.25) for tile in virtual])
    card["stain_vectors"] = {name: stains(tiles) for name, tiles in (real | {"virtual": virtual}).items()}
    for name, seen in card["monuseg"].items():
        ours = card["virtual"][name]
        mark = " " if seen["min"] <= ours["median"] <= seen["max"] else "!"
        print(f"{mark} {name:24} real {seen['min']:9.3f} {seen['median']:9.3f} {seen['max']:9.3f}"
              f"   virtual {ours['min']:9.3f} {ours['median']:9.3f} {ours['max']:9.3f}")  # fmt: skip
    print(json.dumps(card["stain_vectors"], indent=1))
    if options.write:
        CARD.write_text(json.dumps(load_card() | card, indent=1) + "\n")  # the assays' section stays
        print(f"wrote {CARD}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
