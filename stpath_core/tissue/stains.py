"""Stain colours and scanner optics, drawn per patient as widely as the real tiles spread (data/calibration.json)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stpath_core.tissue.cell_types import ORGANS


@dataclass(frozen=True, kw_only=True)
class Stain:
    """How two stain densities become colours."""

    hematoxylin: tuple[float, float, float] = (0.66, 0.67, 0.34)  # optical density per unit of stain, R G B
    eosin: tuple[float, float, float] = (0.185, 0.82, 0.54)
    h_strength: float = 0.82  # optical density (base 10) of a full-strength nucleus
    e_strength: float = 0.84
    white: tuple[float, float, float] = (243.0, 240.0, 243.0)  # grey levels of bare glass
    blur_um: float = 0.22  # standard deviation of the optics' point spread
    sharpening: float = 0.55  # share of the finest detail (below 0.5 um) that the scanner adds again
    noise: float = 2.2  # grey levels


def stain_draw(organ: str, patient: int) -> np.ndarray:
    """(11,) standard normal draws, cut at 1.8, that make a patient's stain; the first four are its colours."""
    rng = np.random.default_rng([ORGANS.index(organ), patient, 31])
    return rng.standard_normal(11).clip(-1.8, 1.8)


def patient_stain(organ: str, patient: int, *, variation: float = 1.0) -> Stain:
    """The stain of one patient; `variation` scales how far patients differ (0: everyone gets the mean stain)."""
    z = stain_draw(organ, patient) * variation
    mean = Stain()
    hematoxylin = np.array(mean.hematoxylin) + z[0] * np.array([0.045, -0.025, -0.02])
    eosin = np.array(mean.eosin) + z[1] * np.array([0.085, -0.015, -0.04])
    return Stain(
        hematoxylin=tuple(hematoxylin / np.linalg.norm(hematoxylin)),
        eosin=tuple(eosin / np.linalg.norm(eosin)),
        h_strength=float(mean.h_strength * np.exp(0.28 * z[2])),
        e_strength=float(mean.e_strength * np.exp(0.26 * z[3])),
        white=tuple(np.clip(np.array(mean.white) + 3 * z[4] + 1.2 * z[5:8], 215, 252)),
        blur_um=float(mean.blur_um * np.exp(0.18 * z[8])),
        sharpening=float(np.clip(mean.sharpening + 0.3 * z[10], 0, 1.4)),
        noise=float(mean.noise * np.exp(0.2 * z[9])),
    )
