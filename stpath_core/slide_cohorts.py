"""Slides of an archive with one bulk profile per sample, as TCGA's are once their features have been computed.

    FOLDER/features/<slide>.h5    CLAM or TRIDENT: features (n, d), coords (n, 2); any encoder, the same for all
    FOLDER/bulk.tsv               raw counts (also .csv, .gz), genes in rows or columns
    FOLDER/cases.csv              slide, patient, sample: a row per slide; sample is its name in the bulk table
    FOLDER/reference.h5ad         single cells with raw counts, types and donors, for notebook 20; or pass scrna=FILE

What stands in only one of the tables is left out and noted. Several slides of a sample become one bag.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.io import atomic_path, read_bulk, read_features, write_features
from stpath_core.io.counts import note
from stpath_core.io.guard import reads

if TYPE_CHECKING:
    from anndata import AnnData

    from stpath_core.tissue.slides import SlideCohort

COLUMNS = ("slide", "patient", "sample")
LEAST = 4  # samples, and patients: two are held out, and of the others one again in an inner fold


def open_slides(folder: str | Path) -> tuple[list[np.ndarray], AnnData]:
    """Bags (N_i, d) and the bulk of the same samples in the same order, as `slide_methods.make_fold` takes them.

    bulk : obs patient, n_slides, n_patches; counts raw in layers["counts"]; notes say what was left out.
    Raises InputError for a folder of another layout, features of two widths, a sample of two patients.
    """
    from stpath_core.models.slide_networks import check_bags

    folder = Path(folder)
    cases, of_bulk = check_archive(folder)
    bulk = read_bulk(of_bulk)
    here = cases["slide"].map(lambda name: _file_of(folder, name).is_file())
    measured = cases["sample"].isin(bulk.obs_names)
    used = cases[here & measured]
    if used["sample"].nunique() < LEAST:
        message = f"{folder} has {used['sample'].nunique()} samples with features and bulk (at least {LEAST}): of "
        message += f"{len(cases)} rows of cases.csv {int((~here).sum())} have no features/<slide>.h5 and "
        message += f"{int((~measured).sum())} no row in {of_bulk.name}, which names {', '.join(bulk.obs_names[:2])}"
        raise InputError(message)
    if used["patient"].nunique() < LEAST:
        message = f"{folder} has slides of {used['patient'].nunique()} patients (at least {LEAST}): whole patients are "
        raise InputError(message + "held out, and of the others some again to choose by")
    slides_of = used.groupby("sample", sort=False)["slide"].agg(list)
    bags = [np.concatenate(_alike([_features(folder, s) for s in names], names)) for names in slides_of]
    check_bags(bags, list(slides_of.index))
    table = bulk[list(slides_of.index)].copy()
    table.obs[keys.PATIENT] = used.groupby("sample", sort=False)["patient"].first().to_numpy()
    table.obs["n_slides"] = slides_of.map(len).to_numpy()
    table.obs["n_patches"] = [len(bag) for bag in bags]
    for lost, what in ((~here, "slides of cases.csv without features"), (~measured, "slides without bulk")):
        if lost.any():
            note(table, f"left out: {int(lost.sum())} {what}, first {cases['slide'][lost].iloc[0]}")
    return bags, table


def check_archive(folder: str | Path) -> tuple[pd.DataFrame, Path]:
    """The rows of cases.csv and the path of the bulk table, or an InputError; looks at no counts and no features."""
    cases = read_cases(Path(folder) / "cases.csv")
    tables = [p for p in Path(folder).glob("bulk.*") if p.name.removesuffix(".gz").endswith((".tsv", ".csv", ".txt"))]
    if len(tables) != 1:
        said = ", ".join(sorted(p.name for p in tables)) or "none"
        message = f"{folder} has {len(tables)} bulk tables ({said}); expected one, bulk.tsv or bulk.csv, also .gz"
        raise InputError(message)
    return cases, tables[0]


def told(bulk: AnnData) -> str:
    """What `open_slides` found, in a line; what it left out is said as it is read and stands in the notes."""
    patches = bulk.obs["n_patches"]
    found = f"{bulk.n_obs} samples of {bulk.obs[keys.PATIENT].nunique()} patients, {bulk.n_vars:,} genes, "
    return f"{found}{patches.min()} to {patches.max()} patches a sample"


@reads
def read_cases(path: Path) -> pd.DataFrame:
    """slide, patient, sample as text; refused where a name is empty, a slide comes twice, a sample has two patients."""
    if not path.is_file():
        message = f"{path} does not exist; it says which slide is of which patient and sample: columns slide, patient, "
        raise InputError(message + "sample")
    cases = pd.read_csv(path, dtype=str)
    absent = [c for c in COLUMNS if c not in cases]
    if absent:
        message = f"{path.name} lacks the columns {', '.join(absent)}; it has {', '.join(cases.columns[:6])}"
        raise InputError(message)
    cases = cases[list(COLUMNS)].apply(lambda column: column.str.strip())
    empty = (cases.isna() | (cases == "")).any(axis=1)
    twice = cases["slide"].duplicated()
    people = cases.groupby("sample")["patient"].nunique()
    for bad, said in (
        (cases["slide"][empty], "rows without a slide, a patient or a sample"),
        (cases["slide"][twice], "slides that come twice"),
        (people.index[people > 1].to_series(), "samples of two patients"),
    ):
        if len(bad):
            message = f"{path.name} has {len(bad)} {said}, first {bad.iloc[0]!r}: a split by patient needs one of each"
            raise InputError(message)
    return cases


def write_slides(folder: str | Path, cohort: SlideCohort) -> Path:
    """A virtual cohort in that layout; cases.csv last, so that an interrupted folder is not taken for a whole one."""
    folder = Path(folder)
    (folder / "features").mkdir(parents=True, exist_ok=True)
    for name, bag in cohort.bags.items():
        write_features(_file_of(folder, name), bag.features, bag.coords, patch_px=bag.tile_px, mpp=bag.mpp,
                       encoder="tile_features")  # fmt: skip
    bulk = cohort.bulk
    counts = pd.DataFrame(bulk.layers[keys.COUNTS].toarray(), index=bulk.obs_names, columns=bulk.var_names)
    cases = pd.DataFrame({"slide": list(cohort.bags), "patient": bulk.obs[keys.PATIENT], "sample": bulk.obs_names})
    with atomic_path(folder / "bulk.tsv") as aside:
        counts.T.to_csv(aside, sep="\t")
    with atomic_path(folder / "cases.csv") as aside:
        cases.to_csv(aside, index=False)
    return folder


def _file_of(folder: Path, slide: str) -> Path:
    return folder / "features" / f"{slide}.h5"


def _features(folder: Path, slide: str) -> np.ndarray:
    return read_features(_file_of(folder, slide)).features


def _alike(bags: list[np.ndarray], names: list[str]) -> list[np.ndarray]:
    widths = {name: bag.shape[1] for name, bag in zip(names, bags, strict=True)}
    if len(set(widths.values())) > 1:
        message = f"slides of one sample have features of different widths, {widths}: they are of different encoders"
        raise InputError(message)
    return bags
