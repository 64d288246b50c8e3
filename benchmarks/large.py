"""More than memory holds: 50 million transcripts and a slide of 40,000 x 40,000 pixels, and two workers beside one.

    python benchmarks/large.py [--folder DIR] [--smoke]   all; results/large.json. without DIR in a temporary folder
    python benchmarks/large.py STAGE DIR [WORKERS]        one stage on data that are there, as JSON

A virtual section of 500 x 500 um is laid out again and again, picture, nuclei and molecules, on a third of the slide;
the rest is glass with a scanner's noise. Each stage runs in a process of its own: its peak is the resident memory of
that process from its start to its end, with everything that the libraries hold. Before, a smaller slide goes through
the same stages and through memory, and must come out the same. The workers of the Dask cluster have one thread each.
After an interrupt the same call with the same DIR, by the same revision, repeats nothing that is finished.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
from beside import REVISION, sizes, write

MPP = 0.25
UNIT_PX = 2000  # of the section that is laid out
TILE_PX = 400
WHOLE = {"units": 20, "tissue": 133, "transcripts": 50_000_000}
SMALL = {"units": 2, "tissue": 3, "transcripts": 600_000}
RATIO = {"units": 3, "tissue": 9, "transcripts": 1_000_000}
SMOKE = {"units": 1, "tissue": 1, "transcripts": 20_000}
GROW_UM = 3.0
PITCH_UM = 125.0  # of the spots
LIMIT_GIB, GOAL = 3.0, 1.6
ROUNDS = 2  # of one worker and two, in turn
# The network that notebook 11 trains at the cpu profile (notebooks/params/cpu.yaml).
NETWORK = {"out_indices": [0, 1, 2, 3], "channels": [32, 64, 128, 256], "stem_width": 16}


def section_of(folder: Path):
    """The section that is repeated, from its bundle."""
    from stpath_core import io, tissue

    if not folder.exists():
        side = UNIT_PX * MPP
        tissue.write_section(folder, tissue.make_section("breast", size_um=(side, side), patient=1, seed=3, mpp=MPP))
    return io.open_xenium(folder)


def layout(units: int, tissue: int) -> np.ndarray:
    """(tissue, 2) row and column of the units that hold tissue: an ellipse in the middle of the slide."""
    place = np.stack(np.divmod(np.arange(units**2), units), 1)
    away = ((place - (units - 1) / 2) / (1.0, 1.5)) ** 2
    return place[np.sort(np.argsort(away.sum(1), kind="stable")[:tissue])]


def write_slide(path: Path, image: np.ndarray, units: int, where: np.ndarray) -> None:
    """A tiled OME-TIFF (JPEG), tile by tile: never the whole."""
    import tifffile

    rng = np.random.default_rng(0)
    white = rng.normal((243, 240, 243), 1.5, (UNIT_PX, UNIT_PX, 3)).clip(0, 255).astype(np.uint8)
    held = {tuple(at) for at in where}
    n = UNIT_PX // TILE_PX

    def tiles() -> Iterator[np.ndarray]:
        for row in range(units * n):
            for column in range(units * n):
                picture = image if (row // n, column // n) in held else white
                top, left = row % n * TILE_PX, column % n * TILE_PX
                yield np.ascontiguousarray(picture[top : top + TILE_PX, left : left + TILE_PX])

    metadata = {"axes": "YXS", "PhysicalSizeX": MPP, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(
        path, tiles(), shape=(units * UNIT_PX, units * UNIT_PX, 3), dtype=np.uint8, tile=(TILE_PX, TILE_PX), ome=True,
        photometric="rgb", compression="jpeg", compressionargs={"level": 90}, metadata=metadata, bigtiff=True,
        maxworkers=1,
    )  # fmt: skip


def write_transcripts(path: Path, section, where: np.ndarray, n: int) -> None:
    """Molecules of the section, drawn again and moved by half a um, in no order of place, a million rows a part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(1)
    px = section.to_px(section.transcripts[["x_um", "y_um"]].to_numpy())
    gene, names = section.transcripts["gene"].cat.codes.to_numpy(), pa.array(section.genes)
    nobody = pa.array(["UNASSIGNED"])
    writer = None
    for start in range(0, n, 1_000_000):
        m = min(1_000_000, n - start)
        drawn = rng.integers(len(px), size=m)
        corner = where[rng.integers(len(where), size=m)][:, ::-1] * UNIT_PX
        um = ((px[drawn] + corner) * MPP + rng.normal(0, 0.5, (m, 2))).astype(np.float32)
        table = pa.table({
            "cell_id": pa.DictionaryArray.from_arrays(np.zeros(m, np.int32), nobody).cast(pa.string()),
            "feature_name": pa.DictionaryArray.from_arrays(gene[drawn].astype(np.int32), names).cast(pa.string()),
            "x_location": um[:, 0], "y_location": um[:, 1], "qv": np.full(m, 30, np.float32),
        })  # fmt: skip
        writer = writer or pq.ParquetWriter(path, table.schema, use_dictionary=["cell_id", "feature_name"])
        writer.write_table(table, row_group_size=m)
    writer.close()


def make(folder: Path, *, units: int, tissue: int, transcripts: int, steps: int = 150) -> None:
    """Everything on the disk: slide, transcripts, nuclei, spots, and a network that has learned the section."""
    from stpath_core import nuclei, predict
    from stpath_core.data import NucleiSection
    from stpath_core.tissue.cell_types import SUPER_CLASSES

    folder.mkdir(parents=True, exist_ok=True)
    section = section_of(folder.parent / "unit")
    where = layout(units, tissue)
    write_slide(folder / "slide.ome.tif", section.image, units, where)
    write_transcripts(folder / "transcripts.parquet", section, where, transcripts)
    outlines = (section.nuclei_px[None] + where[:, None, None, ::-1] * UNIT_PX).reshape(
        -1, *section.nuclei_px.shape[1:]
    )
    spots = (np.stack(np.meshgrid(*2 * [np.arange(PITCH_UM / 2, UNIT_PX * MPP, PITCH_UM)]), -1)).reshape(-1, 2)
    spots = (spots[None] + where[:, None, ::-1] * UNIT_PX * MPP).reshape(-1, 2)
    np.savez(folder / "places.npz", outlines=outlines.astype(np.float32), spots=spots, genes=np.array(section.genes))
    network = folder.parent / "network.safetensors"
    if not network.exists():
        learned = NucleiSection("unit", "breast", "p", section.image, MPP, section.truth["instances"])
        net, _ = nuclei.train_split(
            [learned], nuclei.everything([learned]), steps=steps, inner_share=0, batch_size=8, device="cpu",
            classes=SUPER_CLASSES, encoder_args=NETWORK,
        )  # fmt: skip
        predict.save(network, net)


def opened(folder: Path):
    """The section on the disk, and its spots in um."""
    from stpath_core import io

    with np.load(folder / "places.npz") as file:
        outlines, spots, genes = file["outlines"], file["spots"], tuple(map(str, file["genes"]))
    centre = outlines.mean(1) * MPP
    nuclei = pd.DataFrame({"cell_id": np.arange(len(centre)).astype(str), "x_um": centre[:, 0], "y_um": centre[:, 1]})
    return io.LargeSection(
        name="large", organ="breast", patient="p", slide=io.open_slide(folder / "slide.ome.tif"), nuclei=nuclei,
        nuclei_px=outlines, transcripts=folder / "transcripts.parquet", genes=genes,
        um_to_px=np.diag([1 / MPP, 1 / MPP, 1.0]),
    ), spots  # fmt: skip


def labels(folder: Path, scheduler=None) -> dict:
    from stpath_core import large

    section, _ = opened(folder)
    counted = large.count_transcripts(section, grow_um=GROW_UM, scheduler=scheduler)
    counted.write_h5ad(folder / "labels.h5ad")
    return {"nuclei": counted.n_obs, "molecules_in_nuclei": int(counted.X.sum())}


def inference(folder: Path, scheduler=None, **tiles) -> dict:
    import zarr

    from stpath_core import large

    section, _ = opened(folder)
    network = folder.parent / "network.safetensors"
    found = large.predict_slide(
        network, section.slide, folder / "found", average_views=False, device="cpu", scheduler=scheduler, **tiles
    )
    return {"nuclei": len(pd.read_parquet(found.nuclei)), "pixels": list(zarr.open_array(found.labels, mode="r").shape)}


def patches(folder: Path, scheduler=None) -> dict:
    from stpath_core import io, large

    section, spots = opened(folder)
    path = large.spot_features(section.slide, spots, folder / "spots.h5", scheduler=scheduler)
    return {"spots": len(io.read_features(path).features)}


STAGES = {stage.__name__: stage for stage in (labels, patches, inference)}


def equal(folder: Path) -> dict:
    """A slide that fits: tiles and memory give the same. Raises AssertionError where they do not."""
    import zarr
    from anndata import read_h5ad

    from stpath_core import io, predict, spots
    from stpath_core.labels import count_transcripts

    for stage in STAGES.values():
        stage(folder)
    on_disk, at = opened(folder)
    image, _ = io.read_image(folder / "slide.ome.tif")
    table = pd.read_parquet(folder / "transcripts.parquet", columns=["x_location", "y_location", "feature_name"])
    table = table.set_axis(["x_um", "y_um", "gene"], axis=1)
    table["gene"] = pd.Categorical(table["gene"], categories=list(on_disk.genes))
    section = io.Section(
        name="large", organ="breast", patient="p", dataset="bench", image=image, mpp=MPP, nuclei=on_disk.nuclei,
        nuclei_px=on_disk.nuclei_px, transcripts=table, genes=on_disk.genes, um_to_px=on_disk.um_to_px,
    )  # fmt: skip
    whole = count_transcripts(section, grow_um=GROW_UM)
    assert (read_h5ad(folder / "labels.h5ad").X != whole.X).nnz == 0
    network = predict.load(folder.parent / "network.safetensors")
    nuclei = predict.predict_image(network, image, MPP, average_views=False)
    assert np.array_equal(zarr.open_array(folder / "found" / "labels.zarr", mode="r")[...], nuclei.instances)
    kept, wanted = io.read_features(folder / "spots.h5"), spots.section_features(image, at, mpp=MPP)
    assert np.array_equal(kept.features, wanted.features)
    return {"side_px": len(image), "transcripts": len(table), "nuclei": len(nuclei.area_px), "spots": len(at)}


def peak_mib() -> float:
    """The most memory that was resident, of this process alone: ru_maxrss would begin with that of who started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        return round(int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def warm(folder: Path) -> float:
    """On a worker: what it needs is loaded, so that neither count of workers pays for it. Returns its peak so far."""
    import torch

    from stpath_core import predict
    from stpath_core.large import slide  # noqa: F401

    torch.set_num_threads(1)
    predict.load(folder.parent / "network.safetensors")
    return peak_mib()


def one(stage: str, folder: Path, workers: int) -> dict:
    """One stage, in this process or on the workers of a local cluster."""
    from distributed import Client, LocalCluster

    if not workers:
        begun = time.perf_counter()
        result = equal(folder) if stage == "equal" else STAGES[stage](folder)
        seconds = {"seconds": round(time.perf_counter() - begun, 1), "processor_s": round(time.process_time(), 1)}
        return {"stage": stage, **seconds, "peak_mib": peak_mib(), **result}
    tiles = {"tile_px": 512} if stage == "inference" else {}
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as ask,
    ):
        ask.run(warm, folder)
        begun = time.perf_counter()
        result = STAGES[stage](folder, ask, **tiles)
        seconds = time.perf_counter() - begun
        peaks = list(ask.run(peak_mib).values())
    return {
        "stage": stage, "workers": workers, "seconds": round(seconds, 1), "peak_mib": peak_mib(),
        "peak_of_workers_mib": peaks, **result,
    }  # fmt: skip


def in_a_process(stage: str, folder: Path, workers: int = 0, turn: int = 0) -> dict:
    """The row of a stage, from the file of those that an earlier call of this revision finished, or measured now."""
    rows = folder.parent / "rows.jsonl"
    key = [REVISION, stage, folder.name, workers, turn]
    for line in rows.read_text().splitlines() if rows.exists() else ():
        if json.loads(line)["key"] == key:
            return json.loads(line)["row"]
    if workers:  # each turn begins anew; a whole slide that was interrupted goes on, and says so
        shutil.rmtree(folder / "found", ignore_errors=True)
    before = len(list((folder / "found" / "tiles").glob("*/0*.npz")))
    done = subprocess.run(
        [sys.executable, __file__, stage, str(folder), str(workers)], stdout=subprocess.PIPE, text=True, check=True
    )
    row = json.loads(done.stdout.splitlines()[-1]) | {"load": round(os.getloadavg()[0], 1)}
    row |= {"tiles_of_an_interrupted_run": before} if before else {}
    with rows.open("a") as file:
        file.write(json.dumps({"key": key, "row": row}) + "\n")
    print(row, flush=True)
    return row


def ratio_of(rows: list[dict]) -> dict:
    """Time of one worker over that of two, of medians over the rounds."""
    one_s, two_s = (float(np.median([r["seconds"] for r in rows if r["workers"] == n])) for n in (1, 2))
    ratio = round(one_s / two_s, 2)
    return {"one_s": one_s, "two_s": two_s, "ratio": ratio, "goal": GOAL, "met": ratio >= GOAL}


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in (*STAGES, "equal"):
        print(json.dumps(one(sys.argv[1], Path(sys.argv[2]), int([*sys.argv, "0"][3]))))
        return
    given = argparse.ArgumentParser()
    given.add_argument("--folder", type=Path)
    given.add_argument("--smoke", action="store_true")
    asked = given.parse_args()
    with nullcontext(asked.folder) if asked.folder else tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        smoke = sizes()
        for name, size in (("small", SMALL), ("whole", WHOLE), ("ratio", RATIO)):
            made = folder / name / "made"
            if not made.exists():
                make(folder / name, **(SMOKE if smoke else size), steps=2 if smoke else 150)
                made.touch()
        same = in_a_process("equal", folder / "small")
        rows = [in_a_process(stage, folder / "whole") for stage in STAGES]
        turns = [(n, turn) for turn in range(1 if smoke else ROUNDS) for n in (1, 2)]
        workers = [in_a_process("inference", folder / "ratio", n, turn) for n, turn in turns]
        bytes_of = {p.name: p.stat().st_size for p in (folder / "whole").iterdir() if p.is_file()}
    ratio = ratio_of(workers)
    if smoke:
        print(rows, ratio)
        return
    met = all(row["peak_mib"] <= LIMIT_GIB * 1024 for row in rows)
    write(
        "large", rows, whole=WHOLE | {"side_px": WHOLE["units"] * UNIT_PX, "mpp": MPP}, bytes=bytes_of, equal=same,
        limit_mib=LIMIT_GIB * 1024, within_limit=met, workers=workers, ratio=ratio,
    )  # fmt: skip


if __name__ == "__main__":
    main()
