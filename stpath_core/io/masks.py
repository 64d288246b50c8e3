"""Open a folder of H&E images with instance masks, with or without types: MoNuSeg, NuCLS, or your own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from stpath_core.errors import InputError
from stpath_core.io.guard import check_picture, check_tiff, reads, told
from stpath_core.io.images import is_image_file, read_image
from stpath_core.io.registry import Dataset, dataset
from stpath_core.io.section import Section
from stpath_core.tissue.cell_types import SUPER_CLASSES

MASK_SUFFIXES = (".png", ".tif", ".tiff")


@reads
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
    entry = dataset(entry) if isinstance(entry, str) else entry
    pairs = find_pairs(folder, entry)
    folder, types = Path(folder), _types(Path(folder), entry)
    sections = [_open(image, mask, entry, mpp, types) for image, mask in pairs]
    if not any(len(s.nuclei) for s in sections):
        message = f"no mask in {folder} holds a nucleus: masks give every nucleus its own number, 0 is background"
        raise InputError(message)
    return sections


def find_pairs(folder: str | Path, entry: Dataset) -> list[tuple[Path, Path]]:
    """The images of a folder with their masks, in the order of the images' names.

    A mask lies where the entry says, as PNG or TIFF. Hidden files are passed over.
    Raises InputError for an image without a mask or with two, and for images that would share one.
    """
    if not str(folder):
        message = "no folder was given; pass data_dir=FOLDER, where the images and masks lie"
        raise InputError(message)
    folder = Path(folder)
    if entry.layout != "masks":
        message = f"{entry.name} has the layout {entry.layout!r}; open_mask_folder reads folders of images and masks"
        raise InputError(message)
    if not folder.is_dir():
        message = f"{folder} is not a folder; give the one that holds {entry.images}"
        raise InputError(message)
    images = [p for p in sorted(folder.glob(entry.images)) if is_image_file(p)]
    candidates = {p: _masks(folder, entry, p.stem) for p in images}
    if not entry.images.startswith("images/"):  # masks lie among the images: an image is what has a mask
        candidates = {image: masks for image, masks in candidates.items() if masks}
    if not candidates:
        message = f"{folder} holds no images as {entry.images} with masks as {entry.mask}: see data/README.md"
        raise InputError(message)
    _refuse_shared_names(list(candidates))
    absent = [image for image, masks in candidates.items() if not masks]
    if absent:
        needed = Path(entry.mask.format(stem=absent[0].stem))
        there = sorted(p.name for p in (folder / needed.parent).glob(f"{needed.stem}.*"))
        found = f"found {', '.join(there)}, needed" if there else "first"
        message = f"{folder} has {len(absent)} images without a mask, {found} {needed.name} (or .tif): add it, or move "
        raise InputError(message + f"{absent[0].name}")
    twice = next((masks for masks in candidates.values() if len(masks) > 1), None)
    if twice:
        message = f"one image has the masks {' and '.join(m.name for m in twice)} in {twice[0].parent}: remove one"
        raise InputError(message)
    return [(image, masks[0]) for image, masks in candidates.items()]


def _masks(folder: Path, entry: Dataset, stem: str) -> list[Path]:
    """The files that could be an image's mask: as the entry names it, or so with another ending."""
    named = folder / entry.mask.format(stem=stem)
    return [path for suffix in MASK_SUFFIXES if (path := named.with_name(named.stem + suffix)).is_file()]


def _refuse_shared_names(images: list[Path]) -> None:
    """Two images of one stem would get one mask, or overwrite each other's results."""
    first: dict[str, Path] = {}
    for path in images:
        if path.stem in first:
            message = (
                f"{first[path.stem].name} and {path.name} in {path.parent} share a name, so they would share a mask"
            )
            raise InputError(message + ": rename one, and its mask")
        first[path.stem] = path


def read_mask(path: str | Path, *, shape: tuple[int, int]) -> np.ndarray:
    """Read an instance mask (PNG or TIFF) of the given (H, W): int32, 0 background."""
    path = Path(path)
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            import tifffile

            with tifffile.TiffFile(path) as file:
                check_tiff(path, file)
                mask = file.asarray()
        else:
            from PIL import Image

            with Image.open(path) as image:
                check_picture(path, image)
                mask = np.asarray(image)
    except Exception as error:
        message = f"{path} cannot be read as a mask ({told(error)}): is the file complete?"
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
    try:
        table = pd.read_csv(folder / entry.types["file"])
    except (ValueError, OSError) as error:  # empty, no table, not UTF-8
        message = f"{folder / entry.types['file']} cannot be read as a table ({told(error)}): copy it "
        raise InputError(message + "again, or remove it to go on without types") from error
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
    ids = pd.to_numeric(table[entry.types["id"]], errors="coerce")
    bad = table.index[ids.isna() | (ids % 1 != 0)]
    if len(bad):
        given = table[entry.types["id"]][bad[0]]
        message = f"{folder / entry.types['file']}, row {bad[0] + 1}: {entry.types['id']} is {given}; needed: the"
        raise InputError(message + " nucleus' number in its mask")
    stem = [entry.types["stem"].format(**row) for row in table[keys].to_dict("records")]
    name = table[entry.types["class"]].map(entry.types["map"]).fillna("unknown")
    out: dict[str, dict[int, str]] = {}
    for s, i, n in zip(stem, ids, name, strict=True):
        out.setdefault(s, {})[int(i)] = n
    return out
