"""What the fuzzed readers are fed: small sound files of every format, and how each is opened."""

from __future__ import annotations

import io as io_bytes
import json
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
import torch
from PIL import Image

import stage_files
from stpath_core import (
    celltyping,
    comparison,
    cpnn_views,
    data,
    gene_embeddings,
    io,
    large,
    manifest,
    nuclei,
    parameters,
    predict,
    recognition,
    recognition_files,
    slide_cohorts,
    spot_files,
    sweep,
    tissue,
)
from stpath_core.io.sniff import find_data
from stpath_core.models.nuclei import NucleiNet
from test_formats import SYMBOLS, hest, hest_cells, saved, st_folder, table, visium

RNG = np.random.default_rng(1)
PIXELS = RNG.integers(0, 255, (96, 128, 3), dtype=np.uint8)
MPP = 0.5


@dataclass(frozen=True)
class Reader:
    """make : writes sound files into a folder. open : reads a folder in which the file `changed` is not sound.
    weight : share of all inputs, by how fast the reader is.
    """

    make: Callable[[Path], Any]
    open: Callable[[Path, Path], Any]
    weight: float


def _images(folder: Path) -> None:
    for name in ("a.png", "b.jpg"):
        Image.fromarray(PIXELS).save(folder / name, dpi=(50_800, 50_800))
    plain = {"photometric": "rgb", "resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(folder / "c.tif", PIXELS, **plain)
    for name, packed in (("d.tif", "zlib"), ("e.tif", "lzw"), ("f.tif", "jpeg")):
        tifffile.imwrite(folder / name, PIXELS, tile=(64, 64), compression=packed, **plain)
    told = {"axes": "YXS", "PhysicalSizeX": MPP, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(folder / "g.ome.tif", PIXELS, photometric="rgb", ome=True, metadata=told, tile=(64, 64))
    tifffile.imwrite(folder / "h.svs", PIXELS, description="Aperio Image\n1x1|MPP = 0.5", photometric="rgb")


def _open_image(_: Path, path: Path) -> None:
    assert io.read_image(path)[0].dtype == np.uint8


def _open_slide(_: Path, path: Path) -> None:
    slide = io.open_slide(path)
    slide.region((4.0, 4.0), (30.0, 20.0), level=len(slide.shapes) - 1)


def _mask(shape: tuple[int, int] = PIXELS.shape[:2]) -> np.ndarray:
    rows, cols = np.indices(shape)
    number = (rows // 16) * (shape[1] // 16) + cols // 16 + 1
    return np.where((rows % 16 > 3) & (cols % 16 > 3), number, 0).astype(np.uint16)


def _masks(folder: Path) -> None:
    Image.fromarray(_mask()).save(folder / "a.png")
    tifffile.imwrite(folder / "b.tif", _mask())
    tifffile.imwrite(folder / "c.tif", _mask(), compression="zlib")


def _mask_folder(folder: Path) -> None:
    Image.fromarray(PIXELS).save(folder / "train_x.png")
    Image.fromarray(_mask()).save(folder / "train_x_inst.png")
    rows = {"split": ["train"] * 9, "image": ["x"] * 9, "inst_id": range(1, 10), "type4_from_detection": [2, 3, 0] * 3}
    pd.DataFrame(rows).to_csv(folder / "instances.csv", index=False)


def _features(folder: Path) -> None:
    values = RNG.normal(size=(20, 8)).astype(np.float32)
    io.write_features(folder / "a.h5", values, RNG.integers(0, 900, (20, 2)), patch_px=448, mpp=MPP, encoder="toy")


def _cells(folder: Path) -> None:
    xy = np.stack(np.meshgrid(np.arange(8) * 9.0, np.arange(5) * 9.0), -1).reshape(-1, 2)
    adata = table(cell_type=["A", "B"] * 20, donor=["p1"] * 20 + ["p2"] * 20, x=xy[:, 0], y=xy[:, 1])
    adata.obsm["spatial"] = xy
    adata.layers["counts"] = adata.X.copy()
    saved(adata, folder / "a.h5ad")


def _hest_cells(folder: Path) -> None:
    hest_cells(folder, "T2")


def _bulk(folder: Path) -> None:
    frame = pd.DataFrame(RNG.poisson(5, (60, 6)), index=SYMBOLS, columns=[f"p{i}_s" for i in range(6)])
    frame.to_csv(folder / "a.tsv", sep="\t")
    frame.T.to_csv(folder / "b.csv.gz")


def _zarr(folder: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        section = io.open_xenium(_bundle(folder / "bundle"))
        adata = table(n=len(section.nuclei), cell_id=section.nuclei["cell_id"].to_numpy())
        io.write_spatialdata(folder / "a.zarr", section, adata)


def _bundle(folder: Path) -> Path:
    tissue.write_section(folder, tissue.make_section("breast", size_um=(110.0, 110.0), patient=1, seed=3))
    return folder


def _open_zarr(folder: Path, _: Path) -> None:
    io.open_spatialdata(folder / "a.zarr")
    io.spatialdata_table(folder / "a.zarr")


def _checkpoints(folder: Path) -> None:
    slim = {"out_indices": [0, 1, 2], "channels": [8, 8, 16, 16], "stem_width": 8}
    net = NucleiNet(encoder_args=slim, width=8, stride=1, classes=("epithelial", "neoplastic"))
    predict.save(folder / "nuclei.safetensors", net, dataset="virtual")
    pairs = recognition.Pairs(RNG.normal(size=(20, 12)).astype(np.float32), RNG.uniform(0, 900, (20, 2)),
                              np.array(["p", "q"] * 10), np.array(["s", "t"] * 10))  # fmt: skip
    settings = recognition.Settings(dim=8)
    model = recognition.untrained(pairs, np.arange(20), settings=settings)
    recognition_files.save(folder / "pairs.safetensors", model, settings=settings)
    from safetensors.numpy import save_file

    profiles = RNG.normal(size=(2, 3)).astype(np.float32)
    save_file({"log_profiles": profiles, "start": profiles}, folder / "cpnn.safetensors", {"genes": "A,B,C"})


def _open_checkpoint(_: Path, path: Path) -> None:
    if path.name == "cpnn.safetensors":
        cpnn_views.read_prototypes(path, ["a", "b"])
        return
    (predict if path.name == "nuclei.safetensors" else recognition_files).load(path)


def _stages(folder: Path) -> None:
    section = data.NucleiSection("s", "breast", "p", PIXELS, MPP, _mask().astype(np.int32))
    data.write_nuclei_stage(folder / "stage.h5", [section], dataset="virtual", classes=("a",))
    encoded = io_bytes.BytesIO()
    Image.fromarray(PIXELS).save(encoded, "png")
    packed = {"dataset": "virtual", "classes": ("a",), "holdout": ["s"], "pictures": lambda _: encoded.getvalue()}
    data.write_nuclei_stage(folder / "packed.h5", [section], **packed)
    stage_files.write_spots(folder / "spots.h5")
    stage_files.write_recognition(folder / "recognition.h5", side=8)
    gene_embeddings.write_embeddings(folder / "z.h5", {"pca": {"p": RNG.normal(size=(20, 3))}})


def _open_stage(_: Path, path: Path) -> None:
    if path.name in ("stage.h5", "packed.h5"):
        data.read_nuclei_stage(path)
        data.read_nuclei_plan(path)
    elif path.name == "spots.h5":
        spot_files.read_spot_stage(path)
    elif path.name == "recognition.h5":
        recognition_files.read_stage(path)
    else:
        gene_embeddings.read_embeddings(path)
        recognition_files.read_sides(path, np.arange(5))


def _words(folder: Path) -> None:
    """Text files that steer: parameters, grids, splits, tables of cases, markers and studies."""
    (folder / "given.yaml").write_text("steps: 200\nsizes: [1, 2]\n11_nuclei_train: {width: 8, note: 'a b'}\n")
    (folder / "grid.yaml").write_text(sweep.EXAMPLE)
    nuclei.write_splits(folder / "splits.json", [nuclei.Split(("a", "b"), ("c",), "_x")])
    (folder / "cases.csv").write_text("slide,patient,sample\ns1,p1,a\ns2,p2,b\n")
    (folder / "markers.csv").write_text("gene,super_class,fine_type\nEPCAM,epithelial,gland\nCD3E,inflammatory,T\n")


def _open_words(_: Path, path: Path) -> None:
    known = parameters.declared("steps: int | None = None\nsizes: list[int] = [1]\nnote: str = ''")
    if path.name == "given.yaml":
        for name, value in parameters.read_parameter_file(path).items():
            if name in known:
                parameters.checked(value, known[name], where="11")
    elif path.name == "grid.yaml":
        sweep.read_grid(path)
    elif path.name == "splits.json":
        nuclei.read_splits(path)
    elif path.name == "cases.csv":
        slide_cohorts.read_cases(path)
    else:
        celltyping.read_markers(path)


def _runs(folder: Path) -> None:
    for i in range(3):
        run = folder / f"run{i}"
        about = {"id": run.name, "notebook": "11_x", "dataset": "virtual", "profile": "cpu", "status": "complete",
                 "begun": "2026-01-01", "seconds": 3.0, "parameters": {"steps": 100 + i, "note": "a"},
                 "expectations": [{"key": "a.b", "inside": True}], "git": {"revision": "abc"}}  # fmt: skip
        manifest.write_json(run / "manifest.json", about)
        manifest.write_json(run / "metrics.json", {"a.b": 0.5 + i, "a.b.lo": 0.1, "a.b.hi": 0.9, "c": None})


def _open_runs(folder: Path, _: Path) -> None:
    comparison.beside(*comparison.collect(comparison.find_runs([folder])))
    manifest.read_json(folder / "run0" / "manifest.json").get("status")


def _visium(folder: Path) -> None:
    visium(folder, rows=6, columns=5)
    Image.fromarray(PIXELS).save(folder / "spatial" / "tissue_hires_image.png")


def _st(folder: Path) -> None:
    st_folder(folder)
    Image.fromarray(PIXELS).save(folder / "images" / "B2.png")
    row = {"section": "B2", "file": "B2.png", "px_per_spotfile_px": 0.1, "mpp": 200 / 29}
    pd.DataFrame([row]).to_csv(folder / "images" / "images.csv", index=False)


def scratch() -> Path:
    """The one folder in which a reader may write; what it writes there must be gone at its end."""
    return Path(tempfile.gettempdir()) / "scratch"


def _count_large(folder: Path, _: Path) -> None:
    large.count_transcripts(io.open_large_xenium(folder), grow_um=0, scratch=scratch())


READERS = {
    "image": Reader(_images, _open_image, 6),
    "slide": Reader(_images, _open_slide, 6),
    "mask": Reader(_masks, lambda _, path: io.read_mask(path, shape=PIXELS.shape[:2]), 4),
    "mask folder": Reader(_mask_folder, lambda folder, _: io.open_mask_folder(folder, entry="nucls"), 4),
    "features": Reader(_features, lambda _, path: io.read_features(path), 5),
    "reference": Reader(_cells, lambda _, path: io.open_reference(path), 6),
    "cells": Reader(_cells, lambda _, path: io.open_cells(path, unit="um", x="x", y="y"), 4),
    "visium": Reader(_visium, lambda folder, _: io.positions_um(io.open_visium(folder)), 6),
    "st": Reader(_st, lambda folder, _: io.open_st(folder), 6),
    "hest": Reader(lambda folder: hest(folder, "T1"), lambda folder, _: io.open_hest(folder, "T1"), 3),
    "hest cells": Reader(_hest_cells, lambda folder, _: io.open_hest_cells(folder, "T2"), 4),
    "bulk": Reader(_bulk, lambda _, path: io.read_bulk(path), 6),
    "zarr": Reader(_zarr, _open_zarr, 2),
    "xenium": Reader(_bundle, lambda folder, _: io.open_xenium(folder), 1),
    "large": Reader(_bundle, _count_large, 1),  # shares with the one above, so every other reader keeps its inputs
    "checkpoint": Reader(_checkpoints, _open_checkpoint, 5),
    "stage": Reader(_stages, _open_stage, 4),
    "words": Reader(_words, _open_words, 8),
    "runs": Reader(_runs, _open_runs, 4),
    "anything": Reader(_bulk, lambda folder, _: find_data(folder), 2),
}


def make_all(folder: Path) -> None:
    """Write the sound files of every reader; each must be read without complaint."""
    torch.manual_seed(0)
    for name, reader in READERS.items():
        (folder / name).mkdir(parents=True)
        reader.make(folder / name)
    (folder / "complete.json").write_text(json.dumps(sorted(READERS)))
