"""From a cell-level assay to labelled nuclei: counts per nucleus, types, and how far to trust both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from stpath_core import keys
from stpath_core.celltyping import read_markers, type_nuclei
from stpath_core.cluster_typing import type_by_clusters
from stpath_core.errors import InputError
from stpath_core.tissue.cell_types import SUPER_CLASSES, UNKNOWN

if TYPE_CHECKING:
    from anndata import AnnData

    from stpath_core.data import NucleiSection
    from stpath_core.io.section import LargeSection, Section

__all__ = [
    "by_instance", "count_transcripts", "counts_table", "fine_to_super", "instance_ids", "pack_section",
    "planted_types", "read_markers", "registration_score", "risk_coverage", "shuffle_labels", "type_by_clusters",
    "type_nuclei",
]  # fmt: skip

_HEMATOXYLIN, _EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)  # Ruifrok & Johnston 2001, optical density R G B
_DISPLACED_UM = 12.0  # of the control: farther than a nucleus is wide, nearer than the tissue changes
_AT_ONCE = 2**15  # transcripts: what is computed of them on the way stays in a processor's cache


def count_transcripts(section: Section, *, grow_um: float | None = None) -> AnnData:
    """Raw counts per nucleus: (n_nuclei, n_genes) integers in X and layers["counts"], um in obsm["spatial"].

    grow_um : None counts what the vendor assigned to the nucleus's cell; a number counts what lies within so many um
    of the nucleus, wherever that is nearer to it than to the next (0: inside the nucleus only).
    """
    if section.transcripts is None:
        message = f"{section.name} has no transcripts; count_transcripts needs a cell-level assay (see io.open_xenium)"
        raise InputError(message)
    if len(section.nuclei) == 0:
        message = f"{section.name} has no nuclei: the slide is empty, there is nothing to count"
        raise InputError(message)
    if grow_um is None and "nucleus" not in section.transcripts:
        message = f"{section.name} has transcripts that were moved, so the vendor's assignment is gone: pass grow_um"
        raise InputError(message)
    gene = section.transcripts["gene"].cat.codes.to_numpy()
    nucleus = section.transcripts["nucleus"].to_numpy() if grow_um is None else _locate(section, grow_um)
    keep = (nucleus >= 0) & (gene >= 0)
    return counts_table(section, nucleus[keep], gene[keep], np.ones(int(keep.sum()), np.int32))


def counts_table(section: Section | LargeSection, nucleus: np.ndarray, gene: np.ndarray, n: np.ndarray) -> AnnData:
    """The table of `count_transcripts`: molecules by row of their nucleus and number of their gene, n (int32) each;
    what stands twice is added."""
    from anndata import AnnData

    counts = csr_matrix((n, (nucleus, gene)), shape=(len(section.nuclei), len(section.genes)))
    counts.sum_duplicates()
    obs = section.nuclei[["cell_id"]].astype(str).rename(columns={"cell_id": keys.CELL_ID})
    obs[keys.SECTION], obs[keys.PATIENT], obs[keys.ORGAN] = section.name, section.patient, section.organ
    obs[keys.TOTAL_COUNTS] = np.asarray(counts.sum(1)).ravel()
    obs.index = [f"{section.name}:{i}" for i in range(1, len(obs) + 1)]
    adata = AnnData(counts, obs=obs, var=pd.DataFrame(index=list(section.genes)), layers={keys.COUNTS: counts.copy()})
    adata.obsm[keys.SPATIAL] = section.nuclei[["x_um", "y_um"]].to_numpy(np.float64)
    return adata


def _locate(section: Section, grow_um: float) -> np.ndarray:
    """Row of the nucleus whose outline, grown by `grow_um`, holds each transcript; -1 for none."""
    from skimage.segmentation import expand_labels

    instances = section.instances()
    if grow_um > 0:  # growing by nothing would still measure every pixel's distance
        instances = expand_labels(instances, grow_um / section.mpp)
    xy_um = section.transcripts[["x_um", "y_um"]].to_numpy()
    out = np.full(len(xy_um), -1)
    for start in range(0, len(xy_um), _AT_ONCE):
        col, row = np.floor(section.to_px(xy_um[start : start + _AT_ONCE])).astype(np.int64).T
        inside = (row >= 0) & (row < instances.shape[0]) & (col >= 0) & (col < instances.shape[1])
        out[start : start + _AT_ONCE][inside] = instances[row[inside], col[inside]] - 1
    return out


def registration_score(section: Section) -> float:
    """Hematoxylin at the nuclei minus at displaced copies of them, in optical density (DAPI: in shares of white).

    Far above 0 where outlines lie on dark nuclei; near 0 where image and assay are not registered, whatever both
    look like on their own. The control is the same outlines moved by 12 um in eight directions.
    """
    instances = section.instances()
    row, col = np.nonzero(instances)
    if len(row) == 0:
        message = f"{section.name} has no nuclei inside its image; registration cannot be measured: check the alignment"
        raise InputError(message)
    stain = hematoxylin(section.image) if section.stain == "H&E" else section.image[..., 0] / np.float32(255)
    controls = []
    for angle in np.arange(8) * np.pi / 4:
        r = row + round(np.sin(angle) * _DISPLACED_UM / section.mpp)
        c = col + round(np.cos(angle) * _DISPLACED_UM / section.mpp)
        inside = (r >= 0) & (r < stain.shape[0]) & (c >= 0) & (c < stain.shape[1])
        controls.append(stain[r[inside], c[inside]].mean())
    return float(stain[row, col].mean() - np.mean(controls))


def hematoxylin(image: np.ndarray) -> np.ndarray:
    """Hematoxylin optical density (base 10) of an (H, W, 3) uint8 image by colour deconvolution: (H, W) float32."""
    vectors = np.array([_HEMATOXYLIN, _EOSIN])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    unmix = np.linalg.pinv(vectors)[:, 0].astype(np.float32)  # (3,)
    table = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
    return sum(table[image[..., channel]] * unmix[channel] for channel in range(3))


def planted_types(section: Section, adata: AnnData) -> pd.DataFrame:
    """What the nuclei of a virtual section really are, for evaluation: columns cell_type, super_class, rows as `adata`.

    A polygon that merges two nuclei counts as the one it was drawn for.
    """
    if section.truth is None:
        message = f"{section.name} is real tissue, nothing was planted in it; compare with annotations instead"
        raise InputError(message)
    links = section.truth["links"].set_index("cell_id")["true_cell"]
    cells = section.truth["cells"].set_index("cell_id")[["cell_type", "super_class"]].astype(str)
    truth = cells.loc[links.loc[adata.obs[keys.CELL_ID].astype(str)].to_numpy()]
    return truth.set_axis(adata.obs_names, axis=0)


def risk_coverage(correct: np.ndarray, confidence: np.ndarray, *, points: int = 50) -> pd.DataFrame:
    """Accuracy when only the most confident share is labelled: columns coverage, accuracy, confidence (the threshold).

    correct : (N,) booleans. confidence : (N,); 0 for what could not be typed at all.
    """
    correct, confidence = np.asarray(correct, float), np.asarray(confidence, float)
    order = np.argsort(-confidence, kind="stable")
    kept = np.unique(np.linspace(1, len(order), min(points, len(order))).round().astype(int))
    accuracy = np.cumsum(correct[order])[kept - 1] / kept
    columns = {"coverage": kept / len(order), "accuracy": accuracy, "confidence": confidence[order][kept - 1]}
    return pd.DataFrame(columns)


def shuffle_labels(adata: AnnData, *, rng: np.random.Generator, by: str = keys.PATIENT) -> AnnData:
    """A copy whose labels are permuted among the nuclei of each patient: the control every result stands beside."""
    absent = [column for column in (by, keys.LABEL) if column not in adata.obs]
    if absent:
        message = f"obs lacks {absent}; type the nuclei first, and name the patient of each"
        raise InputError(message)
    order = np.arange(len(adata))
    for rows in adata.obs.groupby(by, observed=True).indices.values():
        order[rows] = rng.permutation(rows)
    out = adata.copy()
    for column in (keys.LABEL, keys.FINE_LABEL, keys.CONFIDENCE, keys.EVIDENCE, keys.PURITY):
        if column in out.obs:
            out.obs[column] = adata.obs[column].array[order]
    return out


def pack_section(section: Section, adata: AnnData) -> NucleiSection:
    """A section as the nuclei network's stage file stores it: instances 1..n without gaps, labels by instance id.

    adata : the section's labelled nuclei, row i for instance i + 1. Nuclei that cover no pixel are left out; planted
    truth rides along for evaluation.
    """
    from stpath_core.data import NucleiSection

    names = adata.obs[keys.LABEL].astype(str).to_numpy()
    if len(names) != len(section.nuclei):
        message = f"{section.name} has {len(section.nuclei)} nuclei, the table {len(names)} rows: pass its own rows"
        raise InputError(message)
    instances, present = _without_gaps(section.instances(), len(section.nuclei))
    confidence = np.r_[0, adata.obs[keys.CONFIDENCE].to_numpy()].astype(np.float32)
    truth = {}
    if section.truth is not None:
        true, kept = _without_gaps(section.truth["instances"], len(section.truth["cells"]))
        codes = _codes(section.truth["cells"]["super_class"].astype(str).to_numpy())[kept]
        truth = {"truth_instances": true, "truth_labels": codes}
    return NucleiSection(
        name=section.name,
        organ=section.organ,
        patient=section.patient,
        image=section.image,
        mpp=section.mpp,
        instances=instances,
        labels=_codes(names)[present],
        confidence=confidence[present],
        **truth,
    )


def instance_ids(section: Section) -> np.ndarray:
    """Id of each nucleus in the mask that `pack_section` stores, (N,); 0 for those that cover no pixel."""
    _, present = _without_gaps(section.instances(), len(section.nuclei))
    ids = np.zeros(len(section.nuclei), int)
    ids[present[1:] - 1] = np.arange(1, len(present))
    return ids


def by_instance(
    adata: AnnData, values: np.ndarray, sections: Sequence[NucleiSection], *, fill: float = -1
) -> list[np.ndarray]:
    """Values of the nuclei of a table (N, ...) as one array by instance id for each section, (n + 1, ...).

    adata : labelled nuclei with obs section and instance; the sections as they stand in the stage file. Background and
    nuclei the table does not hold get `fill`.
    """
    section, ids = adata.obs[keys.SECTION].astype(str).to_numpy(), adata.obs[keys.INSTANCE].to_numpy()
    out = []
    for s in sections:
        rows = np.flatnonzero((section == s.name) & (ids > 0))
        if not len(rows) or ids[rows].max() > s.instances.max():
            message = (
                f"{s.name}: the table has {len(rows)} nuclei with ids up to {ids[rows].max(initial=0)}, its mask "
                f"{s.instances.max()}; give the table and the stage file of one run"
            )
            raise InputError(message)
        mine = np.full((int(s.instances.max()) + 1, *values.shape[1:]), fill, values.dtype)
        mine[ids[rows]] = values[rows]
        out.append(mine)
    return out


def fine_to_super(adata: AnnData) -> pd.DataFrame:
    """Which super-class each fine type of a table belongs to: rows fine types, columns SUPER_CLASSES, one 1 in a row.

    A fine type that several super-classes were called by (a set of markers may speak for more than one) goes to the one
    it was called by most.
    """
    fine, whole = (adata.obs[column].astype(str) for column in (keys.FINE_LABEL_ALL, keys.LABEL_ALL))
    table = pd.crosstab(fine, whole).drop(index=keys.UNKNOWN, errors="ignore")
    table = table.reindex(columns=list(SUPER_CLASSES), fill_value=0)
    most = table.to_numpy().argmax(1)
    return pd.DataFrame(np.eye(len(SUPER_CLASSES))[most], table.index, list(SUPER_CLASSES))


def _codes(names: np.ndarray) -> np.ndarray:
    """Super-class names to (n + 1,) int8 codes by instance id; UNKNOWN for the background and for anything else."""
    code = {name: i for i, name in enumerate(SUPER_CLASSES)}
    return np.array([UNKNOWN, *(code.get(name, UNKNOWN) for name in names)], np.int8)


def _without_gaps(instances: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Renumber the ids that have pixels 1..m; also the old id of each new one, 0 first."""
    present = np.flatnonzero(np.bincount(instances.ravel(), minlength=n + 1))
    present = np.r_[0, present[present > 0]]
    renumber = np.zeros(n + 1, np.int32)
    renumber[present] = np.arange(len(present))
    return renumber[instances], present
