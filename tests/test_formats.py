"""Every format is read as it was written, in one frame, with raw counts; what is wrong gets its one clear error."""

from __future__ import annotations

import json
import warnings

import anndata
import geopandas
import h5py
import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
from PIL import Image
from scipy.sparse import csr_matrix

from stpath_core import io, keys, labels
from stpath_core.errors import InputError
from stpath_core.io.genes import gene_names, known_symbols
from virtual_bundle import bundle, opened

RNG = np.random.default_rng(0)
SYMBOLS = sorted(known_symbols())[:60]
PIXELS = RNG.integers(0, 255, (480, 640, 3), dtype=np.uint8)


def table(n=40, genes=SYMBOLS, **obs):
    counts = RNG.poisson(1.0, (n, len(genes))).astype(np.float32)
    frame = pd.DataFrame(obs, index=[f"cell{i}" for i in range(n)])
    return anndata.AnnData(csr_matrix(counts), obs=frame, var=pd.DataFrame(index=list(genes)))


def saved(adata, path):
    adata.write_h5ad(path)
    return path


# ---- frames


def test_a_frame_survives_the_disk_and_turns_pixels_into_um(tmp_path):
    adata = table()
    adata.obsm[keys.SPATIAL] = RNG.uniform(0, 100, (40, 2))
    frame = io.Frame(
        unit="px", mpp=0.5, mpp_from="given", origin=(2.0, 4.0), to_image=((2, 0, 0), (0, 2, 0), (0, 0, 1))
    )
    io.set_frame(adata, frame)
    back = anndata.read_h5ad(saved(adata, tmp_path / "a.h5ad"))
    assert io.frame_of(back) == frame
    np.testing.assert_allclose(io.positions_um(back), (adata.obsm[keys.SPATIAL] - [2, 4]) * 0.5)
    np.testing.assert_allclose(io.positions_px(back), adata.obsm[keys.SPATIAL] * 2)


def test_a_mismatch_of_frames_raises():
    px, um, bare = table(), table(), table()
    for adata in (px, um, bare):
        adata.obsm[keys.SPATIAL] = np.zeros((40, 2))
    io.set_frame(px, io.Frame(unit="px", mpp=0.5))
    io.set_frame(um, io.Frame(unit="um"))
    with pytest.raises(InputError, match="positions_um of both"):
        io.same_frame(px, um)
    with pytest.raises(InputError, match="say their unit"):
        io.positions_um(bare)
    io.set_frame(bare, io.Frame(unit="px"))
    with pytest.raises(InputError, match="how many micrometres a pixel is"):
        io.positions_um(bare)
    with pytest.raises(InputError, match="unit='pixels'"):
        io.Frame(unit="pixels")


# ---- SpatialData


@pytest.fixture(scope="module")
def zarr_bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("sdata") / "breast_p1.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from spatialdata_io import xenium

        xenium(bundle(), morphology_focus=False, cells_labels=False, nucleus_labels=False).write(path)
    return path


def test_spatialdata_holds_the_section_that_the_bundle_holds(zarr_bundle):
    ours, theirs = io.open_spatialdata(zarr_bundle), opened()
    assert np.array_equal(ours.image, theirs.image)
    assert ours.mpp == pytest.approx(theirs.mpp, rel=1e-3)
    np.testing.assert_allclose(ours.nuclei_px, theirs.nuclei_px, atol=1e-2)
    np.testing.assert_allclose(ours.um_to_px, theirs.um_to_px, atol=1e-4)
    where = [np.sort(s.transcripts[["x_um", "y_um"]].to_numpy(), axis=0) for s in (ours, theirs)]
    np.testing.assert_allclose(*where, atol=1e-3)
    assert labels.count_transcripts(ours).X.sum() == labels.count_transcripts(theirs).X.sum()
    assert ours.stain == "H&E"
    typed = io.spatialdata_table(zarr_bundle)
    assert tuple(typed.var_names) == theirs.genes
    assert typed.layers[keys.COUNTS].dtype == np.int32


def test_spatialdata_that_we_wrote_comes_back(tmp_path):
    section = opened()
    io.write_spatialdata(tmp_path / "mine.zarr", section)
    back = io.open_spatialdata(tmp_path / "mine.zarr")
    assert back.mpp == pytest.approx(section.mpp)
    assert np.array_equal(back.image, section.image)
    assert labels.registration_score(back) == pytest.approx(labels.registration_score(section), abs=0.02)
    with pytest.raises(InputError, match="no tables element"):
        io.spatialdata_table(tmp_path / "mine.zarr")
    with pytest.raises(InputError, match=r"implies 0\.5 um per pixel, mpp=0\.25"):
        io.open_spatialdata(tmp_path / "mine.zarr", mpp=0.25)


# ---- slides


def test_a_region_is_the_same_piece_of_the_whole_image(tmp_path):
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as writer:
        options = {"tile": (64, 64), "photometric": "rgb", "resolutionunit": "CENTIMETER"}
        writer.write(PIXELS, subifds=1, resolution=(20_000, 20_000), **options)
        writer.write(PIXELS[::2, ::2], subfiletype=1, resolution=(10_000, 10_000), **options)
    slide = io.open_slide(path)
    assert (slide.mpp, slide.shapes) == (0.5, ((480, 640), (240, 320)))
    assert (slide.level_for(0.5), slide.level_for(1.0), slide.level_for(0.9)) == (0, 1, 0)
    piece, mpp = slide.region((20.0, 10.0), (50.0, 30.0))
    assert mpp == 0.5
    assert np.array_equal(piece, PIXELS[20:80, 40:140])
    piece, mpp = slide.region((20.0, 10.0), (50.0, 30.0), level=1)
    assert mpp == 1.0
    assert np.array_equal(piece, PIXELS[::2, ::2][10:40, 20:70])
    assert slide.region((300.0, 200.0), (50.0, 80.0))[0].shape == (80, 40, 3)  # cut at the edge
    with pytest.raises(InputError, match="lies outside"):
        slide.region((400.0, 0.0), (10.0, 10.0))
    with pytest.raises(InputError, match="levels 0 to 1"):
        slide.region((0.0, 0.0), (10.0, 10.0), level=2)


def test_plain_slides_need_their_scale(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="pass mpp"):
        io.open_slide(tmp_path / "a.png")
    piece, _ = io.open_slide(tmp_path / "a.png", mpp=0.5).region((20.0, 10.0), (50.0, 30.0))
    assert np.array_equal(piece, PIXELS[20:80, 40:140])


# ---- Visium


def visium(folder, *, layout="2", mpp=0.4, rows=12, columns=10, genes=SYMBOLS):
    """A Space Ranger output with the pitch of 100 um at `mpp`; spots of the last row are not under tissue."""
    spatial = folder / "spatial"
    spatial.mkdir(parents=True)
    places = pd.DataFrame([(r, 2 * c + r % 2) for r in range(rows) for c in range(columns)], columns=["row", "col"])
    y, x = 500 + places["row"] * 100 * np.sqrt(0.75) / mpp, 700 + places["col"] * 50 / mpp
    barcodes = [f"AAAC{i:05d}-1" for i in range(len(places))]
    values = np.column_stack([barcodes, (places["row"] < rows - 1).astype(int), places, y.round(), x.round()])
    header = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
    name = "tissue_positions_list.csv" if layout == "1" else "tissue_positions.csv"
    pd.DataFrame(values, columns=header).to_csv(spatial / name, index=False, header=layout != "1")
    factors = {"spot_diameter_fullres": 65 / mpp, "tissue_hires_scalef": 0.2, "tissue_lowres_scalef": 0.06,
               "fiducial_diameter_fullres": 105 / mpp}  # fmt: skip
    (spatial / "scalefactors_json.json").write_text(json.dumps(factors))
    Image.fromarray(PIXELS).save(spatial / "tissue_hires_image.png")
    counts = csr_matrix(RNG.poisson(2.0, (len(barcodes), len(genes))))
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
        matrix = file.create_group("matrix")
        for key, value in (("data", counts.data), ("indices", counts.indices), ("indptr", counts.indptr)):
            matrix[key] = value
        matrix["shape"], matrix["barcodes"] = np.array(counts.shape[::-1]), np.array(barcodes, "S")
        features = {"id": [f"ENSG{i:011d}" for i in range(len(genes))], "name": genes,
                    "feature_type": ["Gene Expression"] * len(genes), "genome": ["GRCh38"] * len(genes)}  # fmt: skip
        for key, value in features.items():
            matrix[f"features/{key}"] = np.array(value, "S")
    return counts, np.column_stack([x, y])


@pytest.mark.parametrize("layout", ["1", "2"])
def test_visium_is_read_in_both_layouts_of_positions(tmp_path, layout):
    counts, xy = visium(tmp_path / "s1", layout=layout)
    adata = io.open_visium(tmp_path / "s1", patient="p7")
    assert adata.shape == (110, 60)  # the row outside the tissue is left out
    assert (adata.layers[keys.COUNTS] != counts[:110]).nnz == 0
    np.testing.assert_allclose(adata.obsm[keys.SPATIAL], xy[:110], atol=0.6)
    frame = io.frame_of(adata)
    assert frame.unit == "px"
    assert frame.mpp == pytest.approx(0.4, rel=2e-3)
    assert frame.mpp_from.startswith("derived")
    assert set(adata.obs[keys.PATIENT]) == {"p7"}
    assert set(adata.uns["spatial"]["s1"]) == {"images", "scalefactors", "metadata"}
    assert len(io.open_visium(tmp_path / "s1", in_tissue=False)) == 120


def test_what_is_no_visium_section_is_refused(tmp_path):
    visium(tmp_path / "a")
    with pytest.raises(InputError, match=r"makes 0\.4 um per pixel; mpp=0\.8"):
        io.open_visium(tmp_path / "a", mpp=0.8)
    (tmp_path / "hd" / "binned_outputs").mkdir(parents=True)
    with pytest.raises(InputError, match="Visium HD"):
        io.open_visium(tmp_path / "hd")
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "raw_probe_bc_matrix.h5").write_bytes(b"")
    with pytest.raises(InputError, match="per probe"):
        io.open_visium(tmp_path / "probes")
    (tmp_path / "a" / "spatial" / "scalefactors_json.json").unlink()
    with pytest.raises(InputError, match=r"scalefactors_json\.json is missing"):
        io.open_visium(tmp_path / "a")
    visium(tmp_path / "twice", genes=[*SYMBOLS[:-1], SYMBOLS[0]])
    with pytest.raises(InputError, match="duplicates='sum'"):
        io.open_visium(tmp_path / "twice")
    whole = io.open_visium(tmp_path / "twice", duplicates="number").X.sum()
    assert io.open_visium(tmp_path / "twice", duplicates="sum").X.sum() == whole


# ---- the original ST layout


def st_folder(folder, name="B2", n=30, jitter=0.02):
    for part in ("counts", "spots", "labels", "images"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    x, y = np.divmod(np.arange(n), 6)
    x, y = x + 10, y + 8
    fine = np.column_stack([x, y]) + RNG.uniform(-jitter, jitter, (n, 2))
    spots = pd.DataFrame({"x": x, "y": y, "new_x": fine[:, 0], "new_y": fine[:, 1], "pixel_x": fine[:, 0] * 290,
                          "pixel_y": fine[:, 1] * 290, "selected": 1})  # fmt: skip
    spots.to_csv(folder / "spots" / f"{name}_selection.tsv", sep="\t", index=False)
    counts = pd.DataFrame(
        RNG.poisson(1.0, (n, 50)), columns=SYMBOLS[:50], index=[f"{a}x{b}" for a, b in zip(x, y, strict=True)]
    )
    order = RNG.permutation(n)[:-2]  # two spots lost their counts
    counts.iloc[order].to_csv(folder / "counts" / f"{name}.tsv.gz", sep="\t")
    kinds = np.array(["invasive cancer", "adipose tissue"])[(x > 12).astype(int)]
    told = pd.DataFrame(
        {"Row.names": "", "x": fine[:, 0], "y": fine[:, 1], "pixel_x": 0.0, "pixel_y": 0.0, "label": kinds}
    )
    told = pd.concat([told, told.iloc[:1].assign(x=np.nan, y=np.nan)])  # a row that was never placed
    told.to_csv(folder / "labels" / f"{name}_labeled_coordinates.tsv", sep="\t", index=False)
    return counts, counts.index[order], dict(zip(counts.index, kinds, strict=True))


def test_st_joins_counts_spots_and_labels_on_rounded_positions(tmp_path):
    counts, kept, kinds = st_folder(tmp_path)
    adata = io.open_st(tmp_path)["B2"]
    assert np.array_equal(adata.layers[keys.COUNTS].toarray(), counts.loc[kept].to_numpy())
    assert adata.obs[keys.LABEL].astype(str).tolist() == [kinds[s] for s in kept]
    assert set(adata.obs[keys.PATIENT]) == {"B"}
    assert adata.uns["labels"] == {"in_file": 31, "joined": 28, "without_position": 1, "without_counts": 2}
    assert len(io.st_labels(tmp_path, "B2")) == 31
    step = adata.obsm[keys.SPATIAL] / adata.obs[[keys.ARRAY_COL, keys.ARRAY_ROW]].to_numpy()
    np.testing.assert_allclose(step, 200, rtol=0.02)
    assert keys.SPATIAL_PX not in adata.obsm


def test_st_places_spots_on_the_image_by_its_table(tmp_path):
    st_folder(tmp_path)
    Image.fromarray(PIXELS).save(tmp_path / "images" / "B2.png")
    rows = {"section": "B2", "file": "B2.png", "px_per_spotfile_px": 0.1, "mpp": 200 / 29}
    pd.DataFrame([rows]).to_csv(tmp_path / "images" / "images.csv", index=False)
    adata = io.open_st(tmp_path)["B2"]
    np.testing.assert_allclose(io.positions_px(adata), adata.obsm[keys.SPATIAL_PX], rtol=1e-6)
    np.testing.assert_allclose(adata.obsm[keys.SPATIAL_PX] * 200 / 29, adata.obsm[keys.SPATIAL], rtol=0.02)
    pd.DataFrame([rows | {"mpp": 3.0}]).to_csv(tmp_path / "images" / "images.csv", index=False)
    with pytest.raises(InputError, match=r"images\.csv gives B2 3 um per pixel"):
        io.open_st(tmp_path)


def test_st_refuses_what_does_not_fit(tmp_path):
    counts, *_ = st_folder(tmp_path)
    with pytest.raises(InputError, match="no section 'Z9'"):
        io.open_st(tmp_path, ["Z9"])
    path = tmp_path / "counts" / "B2.tsv.gz"
    (counts * 0.5).to_csv(path, sep="\t")
    with pytest.raises(InputError, match="raw counts are whole numbers"):
        io.open_st(tmp_path)
    counts.rename(index={"10x8": "99x99"}).to_csv(path, sep="\t")
    with pytest.raises(InputError, match="first 99x99"):
        io.open_st(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="truncated"):
        io.open_st(tmp_path)


# ---- references and cells in h5ad


def test_counts_are_found_in_x_raw_or_layers(tmp_path, capsys):
    plain = table(celltype_major=["A", "B"] * 20, patient=["p1"] * 20 + ["p2"] * 20)
    counts = plain.X.copy()
    normal = plain.copy()
    normal.X = csr_matrix(np.log1p(counts.toarray() / 3))
    in_raw, in_layer = normal.copy(), normal.copy()
    in_raw.raw = plain
    in_layer.layers[keys.COUNTS] = counts
    for i, adata in enumerate((plain, in_raw, in_layer)):
        got = io.open_reference(saved(adata, tmp_path / f"{i}.h5ad"))
        assert (got.layers[keys.COUNTS] != counts.astype(int)).nnz == 0
        assert got.obs[keys.CELL_TYPE].tolist() == ["A", "B"] * 20
        assert got.obs[keys.DONOR].nunique() == 2
    assert "found in raw.X" in capsys.readouterr().out
    with pytest.raises(InputError, match="a logarithm"):
        io.open_reference(saved(normal, tmp_path / "n.h5ad"))


def test_columns_are_guessed_aloud_or_named_and_genes_need_symbols(tmp_path, capsys):
    adata = table(kind=["A", "B"] * 20)
    path = saved(adata, tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="pass cell_type=COLUMN"):
        io.open_reference(path)
    assert io.open_reference(path, cell_type="kind").obs[keys.DONOR].nunique() == 1
    assert "all cells are taken for one donor's" in capsys.readouterr().out
    adata.var["feature_name"] = SYMBOLS
    adata.var_names = [f"ENSG{i:011d}" for i in range(60)]
    got = io.open_reference(saved(adata, path), cell_type="kind")
    assert list(got.var_names) == SYMBOLS
    assert got.var["gene_id"].iloc[3] == "ENSG00000000003"
    del adata.var["feature_name"]
    with pytest.raises(InputError, match="by Ensembl id"):
        io.open_reference(saved(adata, path), cell_type="kind")
    adata.var_names = [str(i) for i in range(60)]
    with pytest.raises(InputError, match="numbers its genes"):
        io.open_reference(saved(adata, path), cell_type="kind")


@pytest.mark.filterwarnings("ignore:Observation names are not unique", "ignore:Variable names are not unique")
def test_names_that_occur_twice_are_refused_or_settled_by_a_word(tmp_path):
    adata = table(genes=[*SYMBOLS[:-1], SYMBOLS[0]], cell_type=["A"] * 40)
    path = saved(adata, tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="names 1 genes more than once"):
        io.open_reference(path)
    summed = io.open_reference(path, duplicates="sum")
    both = adata.X.toarray()[:, [0, -1]].sum(1)
    assert np.array_equal(summed.layers[keys.COUNTS][:, 0].toarray().ravel(), both)
    assert io.open_reference(path, duplicates="number").var_names.is_unique
    cells = table(cell_type=["A"] * 40)
    cells.obs_names = ["same"] * 40
    with pytest.raises(InputError, match="39 cells of a name"):
        io.open_reference(saved(cells, path))


def test_cells_need_their_unit_and_a_plausible_one(tmp_path):
    adata = table(x_pixel=RNG.uniform(0, 300, 40), y_pixel=RNG.uniform(0, 300, 40))
    path = saved(adata, tmp_path / "a.h5ad")
    got = io.open_cells(path, unit="px", mpp=0.5, x="x_pixel", y="y_pixel")
    np.testing.assert_allclose(io.positions_um(got), adata.obs[["x_pixel", "y_pixel"]] * 0.5)
    with pytest.raises(InputError, match="pass x=COLUMN"):
        io.open_cells(path, unit="px", mpp=0.5)
    with pytest.raises(InputError, match="pass mpp"):
        io.open_cells(path, unit="px", x="x_pixel", y="y_pixel")
    with pytest.raises(InputError, match="is unit='px' right"):
        io.open_cells(path, unit="px", mpp=0.01, x="x_pixel", y="y_pixel")


def test_names_of_genes_tell_what_they_are():
    assert gene_names(SYMBOLS).kind == "symbols"
    assert gene_names(SYMBOLS).species == "human"
    assert gene_names([s.capitalize() for s in ("CD3E", "EPCAM", "VWF", "KRT8")]).species == "mouse"
    assert gene_names([f"ENSMUSG{i:011d}.2" for i in range(9)]) == gene_names([f"ENSMUSG{i:011d}" for i in range(9)])
    assert gene_names([f"ENSMUSG{i:011d}" for i in range(9)]).species == "mouse"
    assert gene_names(["gene_1", "gene_2", "gene_3"]).kind == "unnamed"


# ---- HEST


def hest(folder, sample="TENX1", technology="Visium"):
    for part in ("st", "wsis", "metadata", "xenium_seg", "transcripts"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    meta = {
        "id": sample,
        "st_technology": technology,
        "pixel_size_um_estimated": 0.5,
        "organ": "Breast",
        "patient": "P3",
    }
    (folder / "metadata" / f"{sample}.json").write_text(json.dumps(meta))
    adata = table(pxl_col_in_fullres=RNG.integers(0, 600, 40))
    adata.obsm[keys.SPATIAL] = RNG.integers(0, 480, (40, 2)).astype(float)
    saved(adata, folder / "st" / f"{sample}.h5ad")
    tifffile.imwrite(folder / "wsis" / f"{sample}.tif", PIXELS, photometric="rgb", tile=(128, 128))
    return adata


def hest_cells(folder, sample, transcripts=300):
    """A Xenium sample of HEST: 72 nuclei, transcripts that lie on them. Returns where, and whose each is."""
    hest(folder, sample, "Xenium")
    centres = np.array([(50 + 60 * i, 80 + 40 * j) for i in range(9) for j in range(8)], float)
    ids = [f"c{i}" for i in range(len(centres))]
    frame = geopandas.GeoDataFrame(geometry=[shapely.Point(c).buffer(7) for c in centres], index=ids)
    frame.to_parquet(folder / "xenium_seg" / f"{sample}_xenium_nucleus_seg.parquet")
    owner = RNG.integers(0, len(ids), transcripts)
    rows = {"he_x": centres[owner, 0], "he_y": centres[owner, 1], "feature_name": RNG.choice(SYMBOLS[:5], transcripts),
            "cell_id": np.array(ids)[owner], "qv": 30.0}  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "transcripts" / f"{sample}_transcripts.parquet")
    return centres, owner


def test_hest_spots_open_and_its_pseudo_spots_are_no_cells(tmp_path):
    adata = hest(tmp_path)
    got = io.open_hest(tmp_path, "TENX1")
    np.testing.assert_allclose(io.positions_um(got), adata.obsm[keys.SPATIAL] * 0.5)
    assert (got.obs[keys.PATIENT].iloc[0], got.obs[keys.ORGAN].iloc[0]) == ("P3", "breast")
    hest(tmp_path, "TENX2", "Xenium")
    with pytest.raises(InputError, match="pseudo-spots of about 100 um"):
        io.open_hest(tmp_path, "TENX2")
    with pytest.raises(InputError, match="holds no cells"):
        io.open_hest_cells(tmp_path, "TENX2")


def test_hest_cells_are_nuclei_and_transcripts_on_the_image(tmp_path):
    centres, owner = hest_cells(tmp_path, "TENX2", 500)
    section = io.open_hest_cells(tmp_path, "TENX2")
    np.testing.assert_allclose(section.centroids_px(), centres, atol=0.05)
    counted = labels.count_transcripts(section)
    assert np.array_equal(counted.obs[keys.TOTAL_COUNTS], np.bincount(owner, minlength=len(centres)))
    inside = labels.count_transcripts(section, grow_um=0.0)  # by place, not by the vendor's word
    assert np.array_equal(inside.X.toarray(), counted.X.toarray())


# ---- features


def test_features_come_back_and_other_peoples_layouts_too(tmp_path):
    values, coords = RNG.normal(size=(7, 16)).astype(np.float32), RNG.integers(0, 9000, (7, 2))
    path = io.write_features(tmp_path / "a.h5", values, coords, patch_px=448, mpp=0.25, encoder="toy")
    back = io.read_features(path)
    assert np.array_equal(back.features, values)
    np.testing.assert_allclose(back.centres_um(), (coords + 224) * 0.25)
    assert back.attrs["encoder"] == "toy"
    with h5py.File(tmp_path / "clam.h5", "w") as file:  # one more axis, patches of a lower level
        file["features"] = values[None]
        file["coords"] = coords
        file["coords"].attrs.update({"patch_size": 256, "patch_level": 1, "downsample": [4.0, 4.0]})
    clam = io.read_features(tmp_path / "clam.h5")
    assert (clam.features.shape, clam.patch_px) == ((7, 16), 1024)
    with pytest.raises(InputError, match="do not say mpp"):
        clam.centres_um()
    assert io.read_features(tmp_path / "clam.h5", mpp=0.25).centres_um().shape == (7, 2)


def test_features_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path):
    values, coords = np.ones((7, 16), np.float32), np.zeros((6, 2), int)
    for features, where, hint in (
        (values, coords, r"\(7, 16\) and coords \(6, 2\)"),
        (values * np.nan, np.zeros((7, 2)), "7 rows with NaN"),
        (values, np.full((7, 2), -1), "coords like -1"),
    ):
        with pytest.raises(InputError, match=hint):
            io.write_features(tmp_path / "a.h5", features, where, patch_px=224, mpp=0.5, encoder="toy")
    assert not list(tmp_path.iterdir())
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["embeddings"] = values
    with pytest.raises(InputError, match="lacks features and coords; it has embeddings"):
        io.read_features(tmp_path / "b.h5")


# ---- bulk


@pytest.mark.parametrize("genes_in", ["rows", "columns"])
def test_bulk_tables_are_turned_by_the_names_of_their_genes(tmp_path, capsys, genes_in):
    counts = pd.DataFrame(RNG.poisson(50, (4, 60)), index=["TCGA-A1", "TCGA-B2", "TCGA-C3", "TCGA-D4"], columns=SYMBOLS)
    (counts.T if genes_in == "rows" else counts).to_csv(tmp_path / "bulk.tsv", sep="\t")
    adata = io.read_bulk(tmp_path / "bulk.tsv", patient=r"TCGA-(\w)")
    assert np.array_equal(adata.layers[keys.COUNTS].toarray(), counts.to_numpy())
    assert list(adata.obs[keys.PATIENT]) == ["A", "B", "C", "D"]
    assert f"genes are its {genes_in}" in capsys.readouterr().out


def test_bulk_takes_ensembl_ids_with_a_column_of_symbols_and_leaves_summaries_out(tmp_path):
    counts = pd.DataFrame(
        RNG.poisson(50, (60, 3)), index=[f"ENSG{i:011d}.4" for i in range(60)], columns=["a", "b", "c"]
    )
    counts.insert(0, "gene_name", SYMBOLS)
    counts.loc["N_unmapped"] = ["", 7, 8, 9]
    counts.to_csv(tmp_path / "star.csv")
    adata = io.read_bulk(tmp_path / "star.csv")
    assert adata.shape == (3, 60)
    assert list(adata.var_names) == SYMBOLS


def test_bulk_refuses_what_are_no_counts_or_no_genes(tmp_path):
    counts = pd.DataFrame(RNG.poisson(50, (4, 60)) + 0.0, columns=SYMBOLS, index=list("abcd"))
    (counts.div(counts.sum(1), axis=0) * 1e6).to_csv(tmp_path / "tpm.csv")
    with pytest.raises(InputError, match="per million or TPM"):
        io.read_bulk(tmp_path / "tpm.csv")
    counts.set_axis([f"thing {i} x" for i in range(60)], axis=1).to_csv(tmp_path / "x.csv")
    with pytest.raises(InputError, match="neither its rows nor its columns"):
        io.read_bulk(tmp_path / "x.csv")
    assert io.read_bulk(tmp_path / "x.csv", genes_in="columns").shape == (4, 60)
