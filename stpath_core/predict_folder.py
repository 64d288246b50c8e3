"""A folder of images to masks, GeoJSON and a table, with what must never be written over.

A TIFF larger than LARGE_PX goes tile by tile instead of through memory, and its mask is a zarr array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpath_core import predict
from stpath_core.checks import check_folder
from stpath_core.errors import InputError
from stpath_core.fit import Progress
from stpath_core.io.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd

    from stpath_core.io.slides import Slide

LARGE_PX = 100_000_000  # 10,000 x 10,000


def _image_files(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """The image files of a folder (not below it, not hidden), or those given, with names that do not clash."""
    from stpath_core.io.images import IMAGE_SUFFIXES, is_image_file

    given = [Path(p) for p in ([images] if isinstance(images, str | Path) else images)]
    missing = next((p for p in given if not p.exists()), None)
    if missing is not None:
        msg = f"{missing} does not exist; give an image, or a folder of images"
        raise InputError(msg)
    paths = [f for p in given for f in (filter(is_image_file, sorted(p.iterdir())) if p.is_dir() else [p])]
    if not paths:
        msg = f"no images in {', '.join(map(str, given))}; give a folder of files ending in {', '.join(IMAGE_SUFFIXES)}"
        raise InputError(msg)
    first: dict[str, Path] = {}
    for path in paths:
        if path.stem in first:
            msg = f"{first[path.stem].name} and {path.name} share a name, so their results would overwrite each other"
            raise InputError(msg + ": rename one")
        first[path.stem] = path
    return paths


def cautions(checkpoint: str | Path, classes: Sequence[str]) -> list[str]:
    """What whoever uses a checkpoint should know: no types, or types learned from labels that were shuffled."""
    labels = str(predict.metadata(checkpoint).get("labels", ""))
    told = []
    if not classes:
        told.append(f"{Path(checkpoint).name} has no type head: nuclei are outlined, not typed")
    elif "shuffled" in labels:
        told.append(
            f"{Path(checkpoint).name} is a control whose type head learned from shuffled labels: its outlines are "
            "real, its types mean nothing"
        )
    return told


def _large_slide(path: Path, mpp: float | None) -> Slide | None:
    """The slide behind a TIFF of more than LARGE_PX pixels, checked; None for an image that memory holds."""
    from stpath_core.io.images import TIFF_SUFFIXES
    from stpath_core.io.slides import open_slide
    from stpath_core.large.slide import check_slide

    if path.suffix.lower() not in TIFF_SUFFIXES:
        return None
    slide = open_slide(path, mpp=mpp)
    height, width = slide.shapes[0]
    if height * width <= LARGE_PX:
        return None
    check_slide(slide)
    return slide


def _check_targets(paths: Sequence[Path], out: Path) -> None:
    """Refuse a folder that is none, and to write over an input or over masks that did not come from a prediction.

    A prediction's mask has its GeoJSON beside the folder of masks, or its table beside the zarr array; the annotations
    of a data set have not.
    """
    check_folder(out)
    inputs = {p.resolve() for p in paths}
    for path in paths:
        mask = out / "labels" / f"{path.stem}.png"
        if mask.resolve() in inputs or (mask.exists() and not (out / f"{path.stem}.geojson").exists()):
            msg = f"{mask} exists and was not made by a prediction, so it is not written over: give another folder"
            raise InputError(msg)
        array = out / path.stem / "labels.zarr"
        if array.exists() and not (array.with_name("nuclei.parquet").exists() or array.with_name("tiles").exists()):
            msg = f"{array} exists and was not made by a prediction, so it is not written over: give another folder"
            raise InputError(msg)


def predict_folder(
    checkpoint: str | Path,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    mpp: float | None = None,
    device: str = "auto",
    scheduler: Any = None,
    progress: Progress = iter,
    tile_progress: Progress = iter,
    tell: Callable[[str], None] = print,
) -> Path:
    """Predict every image and write masks, GeoJSON and one table; returns the table's path.

    images : a folder, a file, or several files. mpp : used for images whose file does not say it; one that says
    nothing and is given nothing is refused before anything is written.
    Writes `out/labels/<stem>.png` (uint16 ids at the input's size), `out/<stem>.geojson` for QuPath, and
    `out/nuclei.csv` (image, id, x_um, y_um, area_um2, and with a type head type and confidence). An earlier prediction
    is replaced; an input, or a mask that no prediction made, is not: InputError before anything is written.
    A TIFF of more than LARGE_PX pixels is not read whole: it gets `out/<stem>/labels.zarr` and `nuclei.parquet`
    (`large.predict_slide`) and no GeoJSON. scheduler : of Dask, on whose workers the tiles of such slides are looked
    at. `progress` wraps the images, `tile_progress` the tiles; `tell` gets the `cautions` about the checkpoint.
    """
    import imageio.v3 as iio
    import pandas as pd

    from stpath_core.io import mask_outlines, read_image, write_geojson

    model = predict.load(checkpoint, device=device)
    paths = _image_files(images)
    _check_targets(paths, Path(out))
    slides = {path: _large_slide(path, mpp) for path in paths}
    if scheduler and not any(slides.values()):
        msg = f"no image has more than {LARGE_PX:,} pixels, so there is no work for a scheduler: leave --scheduler out"
        raise InputError(msg)
    for path in paths:  # reading is cheap beside predicting, and nothing is written if one cannot be used
        if slides[path] is None:
            predict.check_image(*read_image(path, mpp=mpp))
    for caution in cautions(checkpoint, model.classes):
        tell(caution)
    out, tables = Path(out), []
    for path in progress(paths):
        if slides[path] is not None:
            large = {"device": device, "scheduler": scheduler, "progress": tile_progress}
            tables.append(_predict_large(checkpoint, slides[path], out / path.stem, **large))
            continue
        image, image_mpp = read_image(path, mpp=mpp)
        nuclei = predict.predict_image(model, image, image_mpp)
        n = len(nuclei.area_px)
        if n > np.iinfo(np.uint16).max:
            msg = f"{path.name} holds {n} nuclei, more than a uint16 mask can number: cut the image into parts"
            raise InputError(msg)
        types = confidence = None
        if nuclei.type_probs is not None:
            types = np.array(nuclei.classes, dtype=object)[nuclei.type_probs.argmax(1)]
            confidence = nuclei.type_probs.max(1)
        outlines = mask_outlines(nuclei.instances)
        scores = None if confidence is None else {"confidence": confidence}
        write_geojson(out / f"{path.stem}.geojson", outlines, classes=types, measurements=scores)
        with atomic_path(out / "labels" / f"{path.stem}.png") as aside:  # second: see _check_targets
            aside.write_bytes(iio.imwrite("<bytes>", nuclei.instances.astype(np.uint16), extension=".png"))
        columns = {
            "image": path.name, "id": np.arange(1, n + 1), "x_um": nuclei.centroids_px[:, 0] * image_mpp,
            "y_um": nuclei.centroids_px[:, 1] * image_mpp, "area_um2": nuclei.area_px * image_mpp**2,
        }  # fmt: skip
        if types is not None:
            columns |= {"type": types, "confidence": confidence}
        tables.append(pd.DataFrame(columns))
    table = out / "nuclei.csv"
    with atomic_path(table) as aside:
        pd.concat(tables).to_csv(aside, index=False, float_format="%.3f")
    return table


def _predict_large(checkpoint: str | Path, slide: Slide, out: Path, **options: Any) -> pd.DataFrame:
    """The rows of one large slide in the table."""
    import pandas as pd

    from stpath_core.large import predict_slide

    table = pd.read_parquet(predict_slide(checkpoint, slide, out, **options).nuclei)
    table.insert(0, "image", slide.path.name)
    return table
