"""Open samples that lie as HEST-1k publishes them: `st/ID.h5ad`, `wsis/ID.tif`, `metadata/ID.json`, `patches/ID.h5`,
and for Xenium `xenium_seg/ID_xenium_nucleus_seg.parquet` and `transcripts/ID_transcripts.parquet`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.io.counts import with_counts
from stpath_core.io.frame import Frame, set_frame
from stpath_core.io.genes import unique_genes, with_symbols
from stpath_core.io.guard import check_parquet, reads, told
from stpath_core.io.images import read_image
from stpath_core.io.reference import read_h5ad
from stpath_core.io.sdata import NO_GENE
from stpath_core.io.section import Section
from stpath_core.io.xenium import outlines
from stpath_core.io.xenium_checks import check_nuclear_size

if TYPE_CHECKING:
    from anndata import AnnData


def hest_samples(folder: str | Path) -> list[str]:
    """Ids of the samples that have metadata."""
    found = sorted(p.stem for p in (Path(folder) / "metadata").glob("*.json"))
    if not found:
        message = f"{folder} holds no metadata/*.json: give the folder that holds st/, wsis/ and metadata/"
        raise InputError(message)
    return found


@reads
def open_hest(folder: str | Path, sample: str) -> AnnData:
    """Spots x genes of a Visium or ST sample: raw counts, obsm["spatial"] in pixels of wsis/ID.tif.

    A Xenium sample is refused: its st/ID.h5ad holds squares of about 100 um, not cells; see `open_hest_cells`.
    """
    folder, told = Path(folder), _metadata(folder, sample)
    technology = str(told.get("st_technology", "")).lower()
    if "xenium" in technology:
        message = f"st/{sample}.h5ad holds pseudo-spots of about 100 um that HEST pooled from Xenium, not cells: cells "
        raise InputError(message + "are in xenium_seg/ and transcripts/, opened by io.open_hest_cells")
    adata = with_counts(read_h5ad(folder / "st" / f"{sample}.h5ad"), where=f"st/{sample}.h5ad")
    adata = unique_genes(with_symbols(adata, where=f"st/{sample}.h5ad"), duplicates="refuse")
    if keys.SPATIAL not in adata.obsm:
        message = f"st/{sample}.h5ad has no obsm['spatial']: download it again"
        raise InputError(message)
    affine = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    frame = Frame(unit="px", mpp=_mpp(told, sample), mpp_from="file", to_image=affine)
    set_frame(adata, frame)
    image = folder / "wsis" / f"{sample}.tif"
    if image.is_file():
        adata.uns["image"] = str(image)
    adata.obs[keys.SECTION], adata.obs[keys.PATIENT] = sample, _patient(told, sample)
    adata.obs[keys.ORGAN] = str(told.get("organ", "unknown")).lower()
    return adata


@reads
def open_hest_cells(folder: str | Path, sample: str, *, min_qv: float = 20.0) -> Section:
    """Nuclei and transcripts of a Xenium sample, both in pixels of its H&E, as a Section in um.

    The whole H&E is read into memory.
    """
    folder, told = Path(folder), _metadata(folder, sample)
    files = {"nuclei": folder / "xenium_seg" / f"{sample}_xenium_nucleus_seg.parquet",
             "transcripts": folder / "transcripts" / f"{sample}_transcripts.parquet",
             "image": folder / "wsis" / f"{sample}.tif"}  # fmt: skip
    absent = [str(p.relative_to(folder)) for p in files.values() if not p.is_file()]
    if absent:
        message = f"{folder} lacks {', '.join(absent)}: download them; st/{sample}.h5ad alone holds no cells"
        raise InputError(message)
    mpp = _mpp(told, sample)
    pixels, mpp = read_image(files["image"], mpp=mpp)
    nuclei, outline_px = _nuclei(files["nuclei"])
    nuclei[["x_um", "y_um"]] *= mpp
    nuclei["area_um2"] *= mpp**2
    check_nuclear_size(sample, nuclei, ask="are outlines and H&E of one scale?")
    transcripts, genes = _transcripts(files["transcripts"], nuclei, mpp, min_qv)
    return Section(
        name=sample,
        organ=str(told.get("organ", "unknown")).lower(),
        patient=_patient(told, sample),
        dataset="hest",
        image=pixels,
        mpp=mpp,
        nuclei=nuclei,
        nuclei_px=outline_px.astype(np.float32),
        transcripts=transcripts,
        genes=genes,
        um_to_px=np.diag([1 / mpp, 1 / mpp, 1.0]),
    )


def _metadata(folder: Path, sample: str) -> dict:
    if sample not in hest_samples(folder):
        message = f"{folder} has no metadata/{sample}.json; it has {', '.join(hest_samples(folder)[:5])}"
        raise InputError(message)
    path = folder / "metadata" / f"{sample}.json"
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        message = f"{path} is truncated or no JSON ({told(error)}): download it again"
        raise InputError(message) from error


def _mpp(told: dict, sample: str) -> float:
    """The pixel size that HEST estimated from the spots or the alignment, before the one written in the image."""
    value = told.get("pixel_size_um_estimated") or told.get("pixel_size_um_embedded")
    if not value:
        message = f"metadata/{sample}.json names no pixel_size_um_estimated: nothing says how large a pixel is"
        raise InputError(message)
    return float(value)


def _patient(told: dict, sample: str) -> str:
    patient = told.get("patient")
    return sample if patient in (None, "", "nan") or patient != patient else str(patient)  # NaN is not itself


def _nuclei(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    import geopandas

    try:
        check_parquet(path)
        frame = geopandas.read_parquet(path)
    except Exception as error:
        message = f"{path} is truncated or no table of outlines ({told(error)}): download it again"
        raise InputError(message) from error
    kept = frame[frame.geometry.geom_type == "Polygon"]
    if not len(kept):
        message = f"{path} holds no outline: download it again"
        raise InputError(message)
    return outlines(kept)


def _transcripts(path: Path, nuclei: pd.DataFrame, mpp: float, min_qv: float) -> tuple[pd.DataFrame, tuple[str, ...]]:
    import pyarrow.parquet as pq

    try:
        check_parquet(path)
        there = pq.read_schema(path).names
        lacking = [c for c in ("he_x", "he_y", "feature_name", "cell_id") if c not in there]
        if lacking:
            message = f"{path} lacks the columns {lacking}; it has {there}"
            raise InputError(message)
        columns = ["he_x", "he_y", "feature_name", "cell_id", *(c for c in ("qv", "overlaps_nucleus") if c in there)]
        table = pd.read_parquet(path, columns=columns)
    except InputError:
        raise
    except Exception as error:
        message = f"{path} is truncated or no parquet file ({told(error)}): download it again"
        raise InputError(message) from error
    text = {
        c: table[c].map(lambda v: v.decode() if isinstance(v, bytes) else str(v)) for c in ("feature_name", "cell_id")
    }
    keep = ~text["feature_name"].str.contains(NO_GENE)
    if "qv" in table:
        keep &= table["qv"] >= min_qv
    table, names, owner = table[keep], text["feature_name"][keep], text["cell_id"][keep]
    genes = tuple(sorted(set(names)))
    out = pd.DataFrame({"x_um": table["he_x"].to_numpy() * mpp, "y_um": table["he_y"].to_numpy() * mpp})
    out["gene"] = pd.Categorical(names.to_numpy(), categories=list(genes))
    out["nucleus"] = pd.Index(nuclei["cell_id"]).get_indexer(owner)
    for column in ("qv", "overlaps_nucleus"):
        if column in table:
            out[column] = table[column].to_numpy()
    return out, genes
