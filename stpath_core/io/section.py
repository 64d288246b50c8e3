"""One section of tissue: its H&E, its nuclei, and (for a cell-level assay) its transcripts, in known frames."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stpath_core.errors import InputError

if TYPE_CHECKING:
    from stpath_core.io.slides import Slide


@dataclass(frozen=True, kw_only=True)
class Section:
    """An H&E image with nuclei, ready to be labelled, trained on or drawn.

    image : (H, W, 3) uint8; pixel (row, col) covers um [col * mpp, (col + 1) * mpp).
    nuclei : N rows, instance id = row + 1; columns cell_id, x_um, y_um (centroid in the assay frame), and `type`
        (super-class name) where the data set brings types.
    nuclei_px : (N, V, 2) x, y outlines in pixels of the H&E (short outlines repeat their last vertex), or None where
        `mask` holds the nuclei.
    mask : (H, W) int32 instances 1..N given by the data set, or None.
    transcripts : x_um, y_um (assay frame), gene (category), nucleus (row of `nuclei`, -1 for none),
        overlaps_nucleus, qv; or None.
    genes : the panel, in order; empty without transcripts.
    um_to_px : (3, 3) affine, assay um -> H&E pixels.
    truth : planted truth, for evaluation only, or None.
    stain : "H&E", or "DAPI" where the only picture is a nuclear stain, shown in grey.
    """

    name: str
    organ: str
    patient: str
    dataset: str
    image: np.ndarray
    mpp: float
    nuclei: pd.DataFrame
    nuclei_px: np.ndarray | None = None
    mask: np.ndarray | None = None
    transcripts: pd.DataFrame | None = None
    genes: tuple[str, ...] = ()
    um_to_px: np.ndarray = field(default_factory=lambda: np.eye(3))
    truth: dict | None = None
    stain: str = "H&E"

    def instances(self) -> np.ndarray:
        """Nuclei as (H, W) int32 instance ids 1..N in pixels of the H&E, 0 background."""
        if self.mask is not None:
            return self.mask
        from stpath_core.tissue.histology import instance_mask

        outlines = np.asarray(self.nuclei_px, np.float64) * self.mpp
        return instance_mask(outlines, mpp=self.mpp, shape=self.image.shape[:2])

    def centroids_px(self) -> np.ndarray:
        """(N, 2) x, y of the nuclei in pixels of the H&E."""
        return self.to_px(self.nuclei[["x_um", "y_um"]].to_numpy())

    def to_px(self, xy_um: np.ndarray) -> np.ndarray:
        """(..., 2) assay um -> pixels of the H&E."""
        return np.asarray(xy_um) @ self.um_to_px[:2, :2].T + self.um_to_px[:2, 2]

    def shifted(self, *, dx_um: float = 0.0, dy_um: float = 0.0) -> Section:
        """The same section with the whole assay (nuclei and transcripts) moved over the H&E."""
        if self.nuclei_px is None:
            message = f"{self.name} has a mask and no outlines; only an assay that lies on its image can be shifted"
            raise InputError(message)
        move = np.array([dx_um, dy_um]) / self.mpp
        affine = self.um_to_px.copy()
        affine[:2, 2] += move
        return replace(self, nuclei_px=self.nuclei_px + move, um_to_px=affine)

    def transcripts_shifted(self, *, dx_um: float = 0.0, dy_um: float = 0.0) -> Section:
        """The same section with the transcripts moved over the nuclei; the vendor's cell assignment is dropped."""
        if self.transcripts is None:
            message = f"{self.name} has no transcripts to shift; open a cell-level assay"
            raise InputError(message)
        moved = self.transcripts.drop(columns=["nucleus", "overlaps_nucleus"])
        moved = moved.assign(x_um=moved["x_um"] + dx_um, y_um=moved["y_um"] + dy_um)
        return replace(self, transcripts=moved)


@dataclass(frozen=True, kw_only=True)
class LargeSection:
    """A section of a cell-level assay whose picture and transcripts stay on the disk.

    slide : the H&E. nuclei, nuclei_px, genes, um_to_px : as in `Section`, in memory.
    transcripts : parquet file with x_location, y_location (um of the assay), feature_name, cell_id, and where it has
        one, qv; those below `min_qv` are left out.
    """

    name: str
    organ: str
    patient: str
    slide: Slide
    nuclei: pd.DataFrame
    nuclei_px: np.ndarray
    transcripts: Path
    genes: tuple[str, ...]
    um_to_px: np.ndarray
    min_qv: float = 20.0
