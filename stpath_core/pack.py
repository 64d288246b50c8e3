"""`stpath pack`: what a finished run, or a folder of masks, holds for a GPU server, as one file for `stpath fit`."""

from __future__ import annotations

import io as bytes_io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stpath_core import keys, stages
from stpath_core.data import NucleiSection, write_nuclei_stage
from stpath_core.errors import InputError


def newest(name: str, dataset: str, *, beside: Path | None = None) -> Path:
    """The folder of the last finished run of a notebook on a data set; InputError where there is none.

    beside : the folder of another notebook's run. Only runs of its profile and seed will do: patients and spots have
    the same names in every virtual tissue, so files of two tissues would fit together without a word.
    """
    wanted = "" if beside is None else _kind(beside, dataset)
    found = []
    for folder in (stages.cache_folder() / "stages" / name).glob("*"):
        marker = stages.read_marker(folder)
        if marker and f"-{name}-{dataset}-" in marker["run"] and wanted in ("", _kind(folder, dataset)):
            found.append((marker["finished"], folder))
    if not found:
        which = f"{name} on {dataset}" + (f" beside that of {beside.parent.name} ({wanted})" if beside else "")
        msg = f"no finished run of {which} lies in {stages.cache_folder()}; make one: stpath run {name[:2]}"
        raise InputError(msg + ("" if dataset == "virtual" else f" -p dataset={dataset} -p data_dir=FOLDER"))
    return max(found)[1]


def _kind(stage: Path, dataset: str) -> str:
    """Profile and seed of a finished run, as its name says them: cpu-s0 (a number behind is of runs in one second)."""
    return re.sub(r"(-s-?\d+)-\d+$", r"\1", stages.read_marker(stage)["run"].rpartition(f"-{dataset}-")[2])


def pack_nuclei(to: Path, *, dataset: str, data_dir: str = "", mpp: float | None = None, most: int = 0) -> None:
    """Sections with their nuclei, pictures as PNG or as the JPEG they came as. most : so many
    sections, a third of them held out; 0: all."""
    from stpath_core import evaluate, nuclei
    from stpath_core.io import registry
    from stpath_core.tissue.cell_types import SUPER_CLASSES

    if most < 0 or most == 1:
        msg = f"--most is {most}; give 2 or more, of which some train and some are held out, or 0 for all"
        raise InputError(msg)
    if not data_dir and not stages.find_notebook("10_nuclei_labels").serves(dataset):
        msg = f"dataset={dataset} is not labelled by notebook 10; say where its images and masks lie: --data-dir FOLDER"
        raise InputError(msg)
    stage = None if data_dir else newest("10_nuclei_labels", dataset) / "nuclei.h5"
    sections = nuclei.open_sections(dataset, stage=stage, data_dir=data_dir, mpp=mpp)
    known = registry()[dataset].holdout if data_dir else ()
    held = [s for s in sections if s.name in known or (not data_dir and s.organ in evaluate.UNSEEN_ORGANS)]
    others = [s for s in sections if s not in held]
    if most:
        held = _spread(held, max(1, most // 3))
        others = _spread(others, most - len(held))
    pictures = _pictures(data_dir, dataset)
    write_nuclei_stage(
        to, others + held, dataset=dataset, classes=SUPER_CLASSES, holdout=[s.name for s in held], pictures=pictures
    )


def _spread(sections: list[NucleiSection], n: int) -> list[NucleiSection]:
    """n sections, organs in turn."""
    order = {}
    for s in sections:
        order[s.name] = sum(s.organ == other.organ for other in sections if other.name < s.name)
    chosen = sorted(sections, key=lambda s: (order[s.name], s.name))[:n]
    return [s for s in sections if s in chosen]


def _pictures(data_dir: str, dataset: str) -> Callable[[NucleiSection], bytes]:
    """The image file itself where it is a PNG or JPEG of these very pixels, a PNG of them where it is not."""
    from PIL import Image

    from stpath_core.data import _decoded
    from stpath_core.io import registry
    from stpath_core.io.masks import find_pairs

    paths = {image.stem: image for image, _ in find_pairs(data_dir, registry()[dataset])} if data_dir else {}

    def picture(section: NucleiSection) -> bytes:
        path = paths.get(section.name)
        if path is not None and path.suffix.lower() in (".png", ".jpg", ".jpeg"):
            kept = path.read_bytes()
            if np.array_equal(_decoded(kept, section.name), section.image):
                return kept
        out = bytes_io.BytesIO()
        Image.fromarray(section.image).save(out, "png")
        return out.getvalue()

    return picture


def pack_spots(to: Path, *, dataset: str) -> None:
    """The cohort of notebook 21 with the folds that it used and the prototypes of notebook 20."""
    import anndata

    from stpath_core.spot_files import write_spot_stage

    if dataset == "slides":
        msg = "slides are not packed: notebook 21 trains on them where they lie, stpath run 21 -p dataset=slides"
        raise InputError(msg)
    trained = newest("21_cpnn_train", dataset)
    reference = newest("20_prototypes", dataset, beside=trained)
    prototypes = anndata.read_h5ad(reference / "prototypes_medium.h5ad").to_df()
    cohort, told = (anndata.read_h5ad(trained / f"{name}.h5ad") for name in ("cohort", "spots"))
    fold = told.obs["fold"].to_numpy()
    splits = [fold == k for k in np.unique(fold)]
    measured = ~np.isnan(np.asarray(told.layers["target"][splits[0]])).all(0)
    write_spot_stage(to, cohort, prototypes, splits, dataset=dataset, n_genes=int(measured.sum()))


def pack_recognition(to: Path, *, dataset: str) -> None:
    """The spots of notebook 30 that have a picture in notebook 31; genes, as many as there, chosen for each fold."""
    import anndata
    import scipy.sparse as sp

    from stpath_core.gene_embeddings import abundant
    from stpath_core.gene_encoding import highly_variable
    from stpath_core.recognition_cohorts import words
    from stpath_core.recognition_files import write_stage

    trained = newest("31_contrastive_train", dataset)
    encoded = newest("30_gene_encoder", dataset, beside=trained)
    spots = anndata.read_h5ad(encoded / "spots.h5ad")
    if "n_genes" not in spots.uns:
        msg = f"{encoded / 'spots.h5ad'} does not say how many genes were read (older code): run notebook 30 again"
        raise InputError(msg)
    with np.load(trained / "pairs.npz") as kept:
        names, patches = kept["names"], kept["patches"]
    rows = spots.obs_names.get_indexer(names)
    if (rows < 0).any():
        msg = f"{int((rows < 0).sum())} of {len(rows)} pictures belong to no spot of notebook 30: run 31 again after 30"
        raise InputError(msg)
    spots = spots[rows]
    counts = sp.csr_matrix(spots.layers[keys.COUNTS])
    patient, section, label = (words(spots.obs, name) for name in (keys.PATIENT, keys.SECTION, keys.LABEL))
    choose = highly_variable if dataset == "virtual" else abundant
    n = min(int(spots.uns["n_genes"]), counts.shape[1])
    columns = {who: choose(counts[patient != who], patient[patient != who], n=n) for who in np.unique(patient)}
    write_stage(to, counts, columns, patches, spots.obsm[keys.SPATIAL], patient, section, label, dataset=dataset)


PARTS = {"nuclei": pack_nuclei, "spots": pack_spots, "recognition": pack_recognition}


def command(arguments: Any, say: Callable[[str], None]) -> None:
    """What the command line does with its words."""
    given: dict[str, Any] = {"dataset": arguments.dataset}
    of_nuclei = {"data_dir": arguments.data_dir, "mpp": arguments.mpp, "most": arguments.most}
    if arguments.part == "nuclei":
        given |= of_nuclei
    elif any(of_nuclei.values()):
        msg = f"--data-dir, --mpp and --most are of nuclei; {arguments.part} takes --dataset and --to"
        raise InputError(msg)
    PARTS[arguments.part](arguments.to, **given)
    say(f"wrote {arguments.to}, {arguments.to.stat().st_size / 2**20:.1f} MiB")
