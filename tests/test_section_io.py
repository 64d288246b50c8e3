"""Sections: opened, shifted, exported to QuPath and SpatialData, and read back."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from stpath_core import keys, labels
from stpath_core.errors import InputError
from stpath_core.io import find_bundles, mask_outlines, open_bundles, open_xenium, write_geojson, write_spatialdata
from virtual_bundle import bundle, opened, section


def test_an_opened_bundle_is_one_frame():
    got, made = opened(), section()
    assert np.array_equal(got.image, made.image)
    assert got.mpp == 0.5
    assert (got.organ, got.patient, got.dataset, got.name) == ("breast", "breast-1", "virtual", "breast_p1")
    assert got.nuclei["cell_id"].is_unique
    assert len(got.nuclei_px) == len(got.nuclei)
    molecules = got.transcripts
    assert set(molecules["gene"].cat.categories) == set(got.genes)
    assert molecules["qv"].min() >= 20
    inside = molecules[(molecules["nucleus"] >= 0) & (molecules["overlaps_nucleus"] == 1)]
    away = inside[["x_um", "y_um"]].to_numpy() - got.nuclei.loc[inside["nucleus"], ["x_um", "y_um"]].to_numpy()
    assert np.percentile(np.linalg.norm(away, axis=1), 95) < 8  # um: in its own nucleus


def test_counts_agree_with_the_vendors_matrix():
    import scanpy as sc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = sc.read_10x_h5(bundle() / "cell_feature_matrix.h5")
    ours = labels.count_transcripts(opened())
    assert (ours.layers[keys.COUNTS] != theirs[ours.obs[keys.CELL_ID]].X).nnz == 0


def test_shifting_the_assay_moves_it_over_the_image_and_nothing_else():
    got = opened()
    moved = got.shifted(dx_um=5.0, dy_um=-2.0)
    np.testing.assert_allclose(moved.centroids_px() - got.centroids_px(), [[10.0, -4.0]] * len(got.nuclei), atol=1e-3)
    np.testing.assert_allclose(
        moved.nuclei_px - got.nuclei_px, np.broadcast_to([10.0, -4.0], got.nuclei_px.shape), atol=1e-3
    )
    assert moved.transcripts is got.transcripts
    apart = got.transcripts_shifted(dx_um=5.0)
    np.testing.assert_allclose(apart.transcripts["x_um"] - got.transcripts["x_um"], 5, atol=1e-3)
    with pytest.raises(InputError, match="grow_um"):
        labels.count_transcripts(apart)


def test_instances_are_the_outlines():
    got = opened()
    instances = got.instances()
    area_um2 = np.bincount(instances.ravel(), minlength=len(got.nuclei) + 1)[1:] * got.mpp**2
    height, width = instances.shape
    well_inside = ((got.nuclei_px > 4) & (got.nuclei_px < [width - 4, height - 4])).all((1, 2))
    ratio = area_um2[well_inside] / got.nuclei["area_um2"][well_inside]
    assert abs(np.median(ratio) - 1) < 0.05


def test_outlines_of_a_mask_run_along_its_pixels():
    mask = np.zeros((12, 20), np.int32)
    mask[2:6, 3:10], mask[8:11, 0:4] = 1, 2
    outlines = mask_outlines(mask)
    assert list(outlines) == [1, 2]
    np.testing.assert_allclose([outlines[1].min(0), outlines[1].max(0)], [[3, 2], [10, 6]], atol=0.51)
    np.testing.assert_allclose([outlines[2].min(0), outlines[2].max(0)], [[0, 8], [4, 11]], atol=0.51)


def test_geojson_is_what_qupath_reads(tmp_path):
    outlines = {7: np.array([[0.0, 0], [4, 0], [4, 3]]), 9: np.array([[10.0, 10], [12, 10], [12, 12]])}
    path = write_geojson(
        tmp_path / "nuclei.geojson", outlines, classes=["neoplastic", "unknown"], colours={"neoplastic": (200, 0, 0)},
        measurements={"confidence": [0.5, 0.0]},
    )  # fmt: skip
    first, second = json.loads(path.read_text())["features"]
    assert first["properties"]["objectType"] == "detection"
    assert first["geometry"]["type"] == "Polygon"
    ring = first["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1]
    assert len(ring) == 4
    assert first["properties"]["classification"] == {"name": "neoplastic", "color": [200, 0, 0]}
    assert "classification" not in second["properties"]
    assert second["properties"]["measurements"] == {"confidence": 0.0}
    with pytest.raises(InputError, match="classes has 1 entries for 2"):
        write_geojson(tmp_path / "other.geojson", outlines, classes=["neoplastic"])
    assert not (tmp_path / "other.geojson").exists()


def test_spatialdata_reads_back_what_was_written(tmp_path):
    import spatialdata

    got = opened()
    table = labels.type_nuclei(labels.count_transcripts(got))[5:200].copy()
    path = write_spatialdata(tmp_path / "section.zarr", got, table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        back = spatialdata.read_zarr(path)
        extent = spatialdata.get_extent(back, coordinate_system=keys.SD_FRAME, elements=[keys.SD_IMAGE])
        pixels = np.asarray(back[keys.SD_IMAGE].data)
        mask = np.asarray(back[keys.SD_LABELS].data)
    assert np.array_equal(np.moveaxis(pixels, 0, -1), got.image)
    assert np.array_equal(mask, got.instances())
    np.testing.assert_allclose(extent["x"], (0, got.image.shape[1] * got.mpp))
    frame = back[keys.SD_TABLE].obs
    assert frame["instance_id"].tolist() == list(range(6, 201))
    assert frame[keys.LABEL].notna().all()
    with pytest.raises(InputError, match="no nuclei of"):
        write_spatialdata(tmp_path / "wrong.zarr", replace(got, nuclei=got.nuclei.iloc[:3]), table)
    assert [p.name for p in tmp_path.iterdir()] == ["section.zarr"]


def test_a_section_of_ones_own_is_named_by_its_folder(tmp_path):
    from virtual_bundle import bundle_copy

    copy = bundle_copy(tmp_path)
    specs = json.loads((copy / "experiment.xenium").read_text())
    del specs["stpath"]
    (copy / "experiment.xenium").write_text(json.dumps(specs))
    got = open_xenium(copy, organ="breast", patient="A17")
    assert (got.name, got.organ, got.patient, got.dataset) == ("bundle", "breast", "A17", "xenium")


def test_folders_of_the_same_name_become_sections_of_different_names(tmp_path):
    from virtual_bundle import bundle_copy

    for run in ("run1", "run2"):
        (tmp_path / run).mkdir()
        copy = bundle_copy(tmp_path / run)
        specs = json.loads((copy / "experiment.xenium").read_text())
        del specs["stpath"]
        (copy / "experiment.xenium").write_text(json.dumps(specs))
    sections = open_bundles(find_bundles(tmp_path))
    assert [s.name for s in sections] == [s.patient for s in sections] == ["run1_bundle", "run2_bundle"]
    with pytest.raises(InputError, match=r"holds no experiment\.xenium"):
        find_bundles(tmp_path / "run1" / "bundle" / "truth")


def test_outlines_of_different_length_keep_their_area(tmp_path):
    """Real outlines have as many vertices as they need; here every second one loses half of its own."""
    from virtual_bundle import bundle_copy

    copy = bundle_copy(tmp_path)
    table = pd.read_parquet(copy / "nucleus_boundaries.parquet")
    vertex = table.groupby("label_id").cumcount()
    table[(table["label_id"] % 2 == 1) | (vertex % 2 == 0)].to_parquet(copy / "nucleus_boundaries.parquet", index=False)
    got = open_xenium(copy)
    assert len(got.nuclei) == len(opened().nuclei)
    np.testing.assert_allclose(got.nuclei_px[::2], opened().nuclei_px[::2])
    ratio = np.bincount(got.instances().ravel()) / np.maximum(np.bincount(opened().instances().ravel()), 1)
    assert 0.93 < np.median(ratio[1:]) < 1.02


def test_importing_the_readers_is_light():
    import subprocess
    import sys

    heavy = "{'spatialdata', 'torch', 'scanpy', 'dask', 'zarr'}"
    code = f"import sys, stpath_core.io; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
