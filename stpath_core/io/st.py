"""Open sections of the original Spatial Transcriptomics assay, as HER2ST is laid out.

A folder holds `counts/NAME.tsv.gz` (spots x genes, rows named XxY), `spots/NAME_selection.tsv` (array and pixel
positions), and perhaps `labels/NAME_labeled_coordinates.tsv` and `images/` with `images.csv`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.io.counts import no_counts, note, whole_numbers
from stpath_core.io.frame import Frame, set_frame
from stpath_core.io.guard import read_text, reads, told

if TYPE_CHECKING:
    from anndata import AnnData

PITCH_UM, DIAMETER_UM = 200.0, 100.0  # between neighbouring spots, and of a spot (Andersson et al. 2021)
CLASSES = ("invasive cancer", "cancer in situ", "connective tissue", "adipose tissue", "immune infiltrate",
           "breast glands")  # fmt: skip
SPOT_COLUMNS = ["x", "y", "new_x", "new_y", "pixel_x", "pixel_y"]


def st_sections(folder: str | Path, *, labelled: bool = False) -> list[str]:
    """Names of the sections in a folder; with `labelled` those that have a file of labels."""
    folder = Path(folder)
    names = [p.name.split(".")[0] for p in sorted((folder / "counts").glob("*.tsv*"))]
    if not names:
        message = f"{folder} holds no counts/*.tsv.gz: give the folder that holds counts/, spots/ and labels/"
        raise InputError(message)
    return [n for n in names if _labels_file(folder, n).is_file()] if labelled else names


def st_pictured(folder: str | Path) -> list[str]:
    """Names of the sections that have counts and, as images.csv says, an image; InputError where it is missing."""
    path = Path(folder) / "images" / "images.csv"
    if not path.is_file():
        message = f"{path} is missing: it says which image belongs to which section, and its um per pixel"
        raise InputError(message)
    return [name for name in st_sections(folder) if _image_row(Path(folder), name) is not None]


@reads
def open_st(
    folder: str | Path, sections: Sequence[str] | None = None, *, patient: str = r"^([A-Za-z]+)"
) -> dict[str, AnnData]:
    """Read sections (None: all) into one AnnData each: spots x genes, raw counts in X and layers["counts"].

    obs : patient, section, label (six classes, "undetermined", or "unlabelled" where no annotator looked), array_row,
    array_col. obsm["spatial"] : x, y in um of the slide; obsm["spatial_px"] : pixels of the image, where there is one
    (`uns["image"]` names it). uns["labels"] : how many labels the file has, and how many could not be joined, and why.
    patient : regular expression whose first group is the patient in a section's name.
    """
    folder = Path(folder)
    there = st_sections(folder)
    wanted = there if sections is None else list(sections)
    absent = [name for name in wanted if name not in there]
    if absent:
        message = f"{folder} has no section {absent[0]!r}; it has {', '.join(there)}"
        raise InputError(message)
    return {name: _open(folder, name, patient) for name in wanted}


def _open(folder: Path, name: str, patient: str) -> AnnData:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    found = re.search(patient, name)
    if not found or not found.groups():
        message = f"patient={patient!r} finds no group in the section {name!r}; give a pattern that fits every name"
        raise InputError(message)
    path = next(iter(sorted((folder / "counts").glob(f"{name}.tsv*"))))
    spots, genes, counts = _counts(path)
    places = _spots(folder, name)
    lost = [s for s in spots if s not in places.index]
    if lost:
        message = f"{path.name}: {len(lost)} spots, first {lost[0]}, are not in spots/{name}_selection.tsv"
        raise InputError(message + ": are the two files of one section?")
    places = places.loc[spots]
    obs = pd.DataFrame({keys.PATIENT: found[1], keys.SECTION: name, keys.ARRAY_ROW: places["y"].astype(int),
                        keys.ARRAY_COL: places["x"].astype(int)})  # fmt: skip
    obs.index = [f"{name}_{s}" for s in spots]
    adata = AnnData(csr_matrix(counts), obs=obs, var=pd.DataFrame(index=genes))
    adata.layers[keys.COUNTS] = adata.X.copy()
    _place(adata, folder, name, places)
    _label(adata, folder, name, spots)
    return adata


def _counts(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Spots, genes and (n, g) int32 of a table with a header of genes; row by row: three times faster than pandas."""
    try:
        header, *lines = read_text(path).splitlines()
        genes = header.split("\t")[1:]
        spots = [line.split("\t", 1)[0] for line in lines]
        values = np.array([np.fromstring(line.split("\t", 1)[1], sep="\t") for line in lines])
        if values.shape != (len(spots), len(genes)):
            message = f"{values.shape} numbers for {len(spots)} spots and {len(genes)} genes"
            raise ValueError(message)
    except Exception as error:
        message = f"{path} is truncated or no table of spots x genes ({told(error)}): copy it again"
        raise InputError(message) from error
    if not whole_numbers(values):
        raise InputError(no_counts(values, where=path.name))
    for what, names in (("spots", spots), ("genes", genes)):
        if len(set(names)) != len(names):
            message = f"{path.name} has {len(names) - len(set(names))} {what} of a name that occurs before: correct it"
            raise InputError(message)
    return spots, genes, values.astype(np.int32)


def _spots(folder: Path, name: str) -> pd.DataFrame:
    """Array and pixel positions by XxY."""
    path = folder / "spots" / f"{name}_selection.tsv"
    table = _table(path, SPOT_COLUMNS)
    table.index = _array_names(table)
    if not table.index.is_unique:
        message = f"{path.name} names {int(table.index.duplicated().sum())} array positions twice: correct it"
        raise InputError(message)
    return table


def _place(adata: AnnData, folder: Path, name: str, places: pd.DataFrame) -> None:
    """Positions in um by the array's pitch, and in pixels of the image where there is one."""
    per_pitch = np.ptp(places["pixel_x"]) / max(np.ptp(places["new_x"]), 1e-9)
    across = np.ptp(places["pixel_y"]) / max(np.ptp(places["new_y"]), 1e-9)
    if len(places) > 3 and not 0.9 < per_pitch / max(across, 1e-9) < 1.1:
        message = (
            f"{name}: a step on the array is {per_pitch:.0f} px in x and {across:.0f} px in y: are the axes mixed?"
        )
        raise InputError(message)
    um = 2 * PITCH_UM / (per_pitch + across)  # per pixel of the file of spots
    pixel = places[["pixel_x", "pixel_y"]].to_numpy(float)
    adata.obsm[keys.SPATIAL] = pixel * um
    image = _image_row(folder, name)
    frame = Frame(unit="um", mpp_from="derived: pitch of the array, 200 um")
    if image is not None:
        scale, mpp = float(image["px_per_spotfile_px"]), float(image["mpp"])
        if abs(um / scale / mpp - 1) > 0.1:
            message = f"images.csv gives {name} {mpp:.4g} um per pixel, the spots' pitch {um / scale:.4g}: correct one"
            raise InputError(message)
        if abs(um / scale / mpp - 1) > 0.03:
            note(adata, f"{name}: images.csv says {mpp:.4g} um per pixel, the spots' pitch {um / scale:.4g}")
        to_image = ((scale / um, 0.0, 0.0), (0.0, scale / um, 0.0), (0.0, 0.0, 1.0))
        frame = Frame(unit="um", mpp=mpp, mpp_from="file", to_image=to_image)
        adata.obsm[keys.SPATIAL_PX] = pixel * scale
        adata.uns["image"] = str(folder / "images" / str(image["file"]))
    set_frame(adata, frame)


def _image_row(folder: Path, name: str) -> pd.Series | None:
    path = folder / "images" / "images.csv"
    if not path.is_file():
        return None
    table = _table(path, ["section", "file", "px_per_spotfile_px", "mpp"], separator=",")
    rows = table[table["section"].astype(str) == name]
    return rows.iloc[0] if len(rows) and (folder / "images" / str(rows.iloc[0]["file"])).is_file() else None


def _labels_file(folder: Path, name: str) -> Path:
    return folder / "labels" / f"{name}_labeled_coordinates.tsv"


@reads
def st_labels(folder: str | Path, section: str) -> pd.DataFrame:
    """Every row of a section's file of labels: columns spot (XxY, or None where the row has no position), label."""
    path = _labels_file(Path(folder), section)
    table = _table(path, ["x", "y", "label"])
    known = {*CLASSES, keys.UNDETERMINED}
    strange = sorted(set(table["label"].astype(str)) - known)
    if strange:
        message = f"{path.name} has the label {strange[0]!r}; expected one of {', '.join(sorted(known))}"
        raise InputError(message)
    placed = table["x"].notna() & table["y"].notna()
    spot = pd.Series(None, index=table.index, dtype=object)
    spot[placed] = _array_names(table[placed])
    return pd.DataFrame({"spot": spot, "label": table["label"].astype(str)})


def _label(adata: AnnData, folder: Path, name: str, spots: list[str]) -> None:
    adata.obs[keys.LABEL] = keys.UNLABELLED
    if _labels_file(folder, name).is_file():
        table = st_labels(folder, name)
        placed = table.dropna(subset=["spot"])
        if placed["spot"].duplicated().any():
            message = f"labels of {name} name {int(placed['spot'].duplicated().sum())} spots twice: correct the file"
            raise InputError(message)
        by_spot = placed.set_index("spot")["label"]
        adata.obs[keys.LABEL] = by_spot.reindex(spots).fillna(keys.UNLABELLED).to_numpy()
        joined = int(by_spot.index.isin(spots).sum())
        left_out = {"without_position": len(table) - len(placed), "without_counts": len(placed) - joined}
        adata.uns["labels"] = {"in_file": len(table), "joined": joined, **left_out}
        if any(left_out.values()):
            a, b = left_out.values()
            note(adata, f"{name}: of {len(table)} labels {a} have no position and {b} no counts; they are left out")
    levels = [*CLASSES, keys.UNDETERMINED, keys.UNLABELLED]
    adata.obs[keys.LABEL] = pd.Categorical(adata.obs[keys.LABEL], categories=levels)


def _array_names(table: pd.DataFrame) -> list[str]:
    """XxY of whole array positions; refined positions (9.02, 20.994) are rounded to the spot they belong to."""
    xy = table[["x", "y"]].to_numpy(float)
    return [f"{x:.0f}x{y:.0f}" for x, y in xy.round()]


def _table(path: Path, needed: list[str], *, separator: str = "\t") -> pd.DataFrame:
    try:
        table = pd.read_csv(path, sep=separator)
    except Exception as error:
        message = f"{path} is missing or no table ({told(error)}): copy it again"
        raise InputError(message) from error
    lacking = [column for column in needed if column not in table]
    if lacking:
        message = f"{path.name} lacks the columns {lacking}; it has {list(table)}"
        raise InputError(message)
    return table
