"""Open a folder of H&E images with instance masks, with or without types: MoNuSeg, NuCLS, or your own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from stpath_core.errors import InputError
from stpath_core.io.images import IMAGE_SUFFIXES, read_image
from stpath_core.io.registry import Dataset, dataset
from stpath_core.io.section import Section
from stpath_core.tissue.cell_types import SUPER_CLASSES


def open_mask_folder(folder: str | Path, *, entry: Dataset | str = "masks", mpp: float | None = None) -> list[Section]:
    """Read every image that has a mask into a Section, in the order of their names.

    entry : how the files lie (a name in the registry, or a Dataset). mpp : micrometres per pixel, where neither the
    registry nor the files say it; given, it wins over the registry.
    Types, where the data set has them, are in `section.nuclei["type"]`.

    Examples
    --------
    >>> tiles = open_mask_folder("monuseg", entry="monuseg")              # doctest: +SKIP
    >>> mine = open_mask_folder("tiles", mpp=0.25)                        # doctest: +SKIP
    """
    if not str(folder):
        message = "no folder was given; pass data_dir=FOLDER, where the images and masks lie"
        raise InputError(message)
    folder, entry = Path(folder), dataset(entry) if isinstance(entry, str) else entry
    if entry.layout != "masks":
        message = f"{entry.name} has the layout {entry.layout!r}; open_mask_folder reads folders of images and masks"
        raise InputError(message)
    if not folder.is_dir():
        message = f"{folder} is not a folder; give the one that holds {entry.images}"
        raise InputError(message)
    images = sorted(p for p in folder.glob(entry.images) if p.suffix.lower() in IMAGE_SUFFIXES)
    pairs = [(p, folder / entry.mask.format(stem=p.stem)) for p in images]
    if not entry.images.startswith("images/"):  # masks lie among the images: an image is what has a mask
        pairs = [(image, mask) for image, mask in pairs if mask.is_file()]
    if not pairs:
        message = f"{folder} holds no images as {entry.images} with masks as {entry.mask}: see data/README.md"
        raise InputError(message)
    absent = [mask.name for _, mask in pairs if not mask.is_file()]
    if absent:
        message = f"{folder} has {len(absent)} images without a mask, first {absent[0]}: add it, or move the image"
        raise InputError(message)
    types = _types(folder, entry)
    sections = [_open(image, mask, entry, mpp, types) for image, mask in pairs]
    if not any(len(s.nuclei) for s in sections):
        message = f"no mask in {folder} holds a nucleus: masks give every nucleus its own number, 0 is background"
        raise InputError(message)
    return sections


def read_mask(path: str | Path, *, shape: tuple[int, int]) -> np.ndarray:
    """Read an instance mask (PNG or TIFF) of the given (H, W): int32, 0 background."""
    path = Path(path)
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            import tifffile

            mask = tifffile.imread(path)
        else:
            from PIL import Image

            with Image.open(path) as image:
                mask = np.asarray(image)
    except Exception as error:
        message = f"{path} cannot be read as a mask ({error}): is the file complete?"
        raise InputError(message) from error
    if mask.shape != tuple(shape):
        message = f"{path.name} has shape {mask.shape}; its image needs {tuple(shape)}: is it another image's mask?"
        raise InputError(message)
    if mask.dtype.kind not in "ui" or mask.min(initial=0) < 0 or mask.max(initial=0) > 2**31 - 1:
        message = f"{path.name} has type {mask.dtype} and minimum {mask.min()}; expected whole numbers >= 0"
        raise InputError(message)
    return mask.astype(np.int32)


def _open(image_path: Path, mask_path: Path, entry: Dataset, mpp: float | None, types: pd.Series | None) -> Section:
    image, scale = read_image(image_path, mpp=mpp if mpp is not None else entry.mpp)
    raw = read_mask(mask_path, shape=image.shape[:2])
    ids = np.r_[0, np.setdiff1d(pd.unique(raw.ravel()), [0])]
    mask = np.searchsorted(ids, raw).astype(np.int32)
    if len(ids) == 2 and _n_parts(mask) > 1:
        message = f"{mask_path.name} marks {_n_parts(mask)} nuclei with one number; each needs its own"
        raise InputError(message)
    nuclei = pd.DataFrame({"cell_id": ids[1:].astype(str)})
    area = np.maximum(np.bincount(mask.ravel(), minlength=len(ids))[1:], 1)
    rows, cols = np.indices(mask.shape, dtype=np.float32)
    for column, grid in (("x_um", cols), ("y_um", rows)):
        nuclei[column] = (np.bincount(mask.ravel(), grid.ravel() + 0.5, len(ids))[1:] / area) * scale
    nuclei["area_um2"] = area * scale**2
    if types is not None:
        names = types.get(image_path.stem, {})
        nuclei["type"] = [names.get(int(i), "unknown") for i in ids[1:]]
    return Section(
        name=image_path.stem,
        organ=entry.organ_of_case(image_path.stem),
        patient=entry.patient_of_case(image_path.stem),
        dataset=entry.name,
        image=image,
        mpp=scale,
        nuclei=nuclei,
        mask=mask,
        um_to_px=np.diag([1 / scale, 1 / scale, 1.0]),
    )


def _n_parts(mask: np.ndarray) -> int:
    from scipy.ndimage import label

    return label(mask > 0)[1]


def _types(folder: Path, entry: Dataset) -> dict[str, dict[int, str]] | None:
    """Image stem -> nucleus id -> super-class, from the data set's table; None where it has no types."""
    if entry.types is None or not (folder / entry.types["file"]).is_file():
        return None
    table = pd.read_csv(folder / entry.types["file"])
    keys = [part.split("}")[0] for part in entry.types["stem"].split("{")[1:]]
    needed = [*keys, entry.types["id"], entry.types["class"]]
    lacking = [column for column in needed if column not in table]
    if lacking:
        message = f"{folder / entry.types['file']} lacks the columns {lacking}; it has {list(table.columns)}"
        raise InputError(message)
    wrong = set(entry.types["map"].values()) - set(SUPER_CLASSES)
    if wrong:
        message = f"data/registry.yaml, {entry.name}: types {sorted(wrong)} are not among {SUPER_CLASSES}"
        raise InputError(message)
    stem = [entry.types["stem"].format(**row) for row in table[keys].to_dict("records")]
    name = table[entry.types["class"]].map(entry.types["map"]).fillna("unknown")
    out: dict[str, dict[int, str]] = {}
    for s, i, n in zip(stem, table[entry.types["id"]], name, strict=True):
        out.setdefault(s, {})[int(i)] = n
    return out
