"""How tissue is measured, real and virtual alike, so that the two can be laid side by side.

data/calibration.json holds what these functions found on real tiles (benchmarks/calibrate_tissue.py writes it) and what
the virtual tissue shows at its frozen defaults. The strengths themselves are constants in stains.py, cell_types.py and
organs.py; tests hold code and file together.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from scipy import ndimage as ndi

from stpath_core.stain import optical_density, unmix
from stpath_core.tissue.cell_types import CELL_TYPES
from stpath_core.tissue.stains import Stain

CARD = Path(__file__).resolve().parents[2] / "data" / "calibration.json"
QUANTILES = (5, 25, 50, 75, 95)


def load_card() -> dict:
    """The calibration file."""
    return json.loads(CARD.read_text())


def strengths() -> dict:
    """The frozen defaults that the real tiles decided: the mean stain, and nuclear area and density of every type."""
    nuclei = {name: cell_type.nucleus for name, cell_type in CELL_TYPES.items()}
    return {
        "stain": json.loads(json.dumps(asdict(Stain()))),
        "nucleus": {name: {"area_um2": n.area_um2, "density": n.density} for name, n in nuclei.items()},
    }


def stain_densities(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) hematoxylin and eosin by colour deconvolution with the fixed axes of Ruifrok and Johnston."""
    amounts = unmix(optical_density(image))
    return amounts[..., 0], amounts[..., 1]


def measure_tile(image: np.ndarray, instances: np.ndarray, *, mpp: float) -> dict[str, float]:
    """What one H&E tile and its nuclear masks look like in numbers.

    Areas in um^2, density per mm^2; optical densities inside nuclei and outside, by quantile; texture as the standard
    deviation of band-passed density between 0.5 and 16 px at 0.25 um/px, in the background.
    """
    area = np.bincount(instances.ravel())[1:] * mpp**2
    area = area[area > 0]
    nucleus = instances > 0
    out = {f"area_um2.q{q}": float(np.percentile(area, q)) for q in QUANTILES}
    out["density_per_mm2"] = float(len(area) / (instances.size * mpp**2) * 1e6)
    out["nuclear_share"] = float(nucleus.mean())
    for name, amount in zip(("hematoxylin", "eosin"), stain_densities(image), strict=True):
        for place, mask in (("nuclei", nucleus), ("rest", ~nucleus)):
            for q in (5, 50, 95):
                out[f"{name}.{place}.q{q}"] = float(np.percentile(amount[mask], q))
    grey = optical_density(image).mean(2)
    outside = ~ndi.binary_dilation(nucleus, iterations=3)
    smooth = [grey] + [ndi.gaussian_filter(grey, s * 0.25 / mpp) for s in (1, 2, 4, 8, 16)]
    for k, name in enumerate(("0.25", "0.5", "1", "2", "4")):
        out[f"texture.rest.{name}um"] = float((smooth[k] - smooth[k + 1])[outside].std())
    return out


def spread(measured: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Per quantity its smallest, median and largest value over tiles."""
    names = measured[0]
    table = {name: [tile[name] for tile in measured] for name in names}
    return {name: {"min": round(min(v), 4), "median": round(float(np.median(v)), 4), "max": round(max(v), 4)}
            for name, v in table.items()}  # fmt: skip
