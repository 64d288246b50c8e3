"""The checklist: nothing wrong in what is right, every planted mistake on its own row, and real data as they are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stpath_core import checklist, io, keys, labels, mistakes, registration
from stpath_core.errors import InputError
from stpath_core.io.sniff import find_data
from stpath_core.views import view
from virtual_bundle import bundle, opened


def states(folder, **options):
    return checklist.as_table(checklist.check_folder(folder, **options)).set_index("check")["state"].to_dict()


def test_a_whole_bundle_passes_and_only_its_one_patient_is_remarked():
    expected = dict.fromkeys(checklist.CHECKS, "ok") | {"patients": "look"}
    assert states(bundle()) == expected
    assert checklist.worst(checklist.check_folder(bundle())) == "look"


@pytest.mark.parametrize("mistake", mistakes.MISTAKES)
def test_each_mistake_is_noticed_by_its_own_row(tmp_path, mistake):
    before = sorted((p.name, p.stat().st_size) for p in bundle().iterdir())
    copy = mistakes.break_copy(bundle(), tmp_path / "copy", mistake)
    assert sorted((p.name, p.stat().st_size) for p in bundle().iterdir()) == before
    found = states(copy)
    stopped = {check for check, state in found.items() if state == "stop"}
    assert stopped == {mistakes.SHOWS[mistake]} | (set() if mistake == "swapped axes" else {"opens"})


def test_swapped_axes_open_and_the_finding_names_them(tmp_path):
    copy = mistakes.break_copy(bundle(), tmp_path / "copy", "swapped axes")
    section = io.open_xenium(copy)
    right = labels.registration_score(opened())
    assert labels.registration_score(section) < 0.05
    assert labels.registration_score(registration.swapped(section)) == pytest.approx(right, abs=1e-4)
    rows = checklist.as_table(checklist.check_folder(copy)).set_index("check")
    assert "x and y swapped" in rows.loc["registration", "do"]


def test_an_unknown_mistake_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="expected one of swapped axes"):
        mistakes.break_copy(bundle(), tmp_path / "copy", "typo")
    assert not list(tmp_path.iterdir())


def test_centroids_score_where_they_lie_and_nowhere_else():
    section = opened()
    xy = section.centroids_px()
    scores = {name: registration.centroid_score(section.image, v, mpp=section.mpp)
              for name, v in registration.alternatives(xy, section.image.shape[:2]).items()}  # fmt: skip
    assert scores.pop("as given") > 0.1
    assert max(scores.values()) < 0.03
    assert registration.centroid_score(section.image, xy + 10_000, mpp=section.mpp) == 0  # off the image


def test_spots_score_by_the_tissue_they_lie_on():
    image = np.full((100, 200, 3), 255, np.uint8)
    image[10:40, 20:120] = (200, 120, 180)
    xy = np.array([(x, y) for x in range(25, 120, 10) for y in range(12, 40, 10)], float)
    scores = {k: registration.tissue_score(image, v) for k, v in registration.alternatives(xy, (100, 200)).items()}
    assert scores["as given"] == pytest.approx(1 - 30 * 100 / 20_000)
    assert max(v for k, v in scores.items() if k != "as given") < scores["as given"] - 0.3


@pytest.fixture
def cells(tmp_path):
    """A table of the cells of the virtual section with its picture beside it, x and y in pixels."""
    adata = labels.count_transcripts(opened())
    xy = opened().centroids_px()
    adata.obs["x_pixel"], adata.obs["y_pixel"] = xy.T
    del adata.obsm[keys.SPATIAL]
    Image.fromarray(opened().image).save(tmp_path / "lung.png")

    def save(change=None):
        table = adata.copy()
        if change:
            table = change(table) or table
        table.write_h5ad(tmp_path / "lung.h5ad")
        return tmp_path

    return save


def test_cells_with_a_picture_are_checked_against_it(cells):
    found = states(cells(), mpp=0.5)
    assert found["registration"] == found["units"] == found["raw counts"] == found["ids"] == "ok"
    assert states(cells(lambda t: t.obs.rename(columns={"x_pixel": "y_pixel", "y_pixel": "x_pixel"}, inplace=True)),
                  mpp=0.5)["registration"] == "stop"  # fmt: skip
    assert states(cells())["opens"] == "stop"  # no scale


def test_names_and_counts_are_checked_even_where_the_file_does_not_open(cells):
    def numbers(table):
        table.var_names = [str(i) for i in range(table.n_vars)]

    def logged(table):
        table.X = np.log1p(table.X.toarray().astype(np.float32))
        del table.layers[keys.COUNTS]

    assert states(cells(numbers), mpp=0.5)["gene names"] == "stop"
    assert states(cells(logged), mpp=0.5)["raw counts"] == "stop"


def test_formats_are_told_by_the_files_that_make_them(tmp_path):
    files = "run/experiment.xenium brain/filtered_feature_bc_matrix.h5 store.zarr/.zgroup store.zarr/shapes/x "
    files += "her/counts/A1.tsv.gz her/spots/A1_selection.tsv hest/metadata/T.json hest/st/T.h5ad tiles/images/a.png "
    files += "tiles/labels/a.png z/ref.h5ad z/bag.h5 z/s.svs"
    for name in files.split():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    pd.DataFrame(np.ones((3, 4)), columns=list("abcd")).to_csv(tmp_path / "z" / "table.csv")
    (tmp_path / "z" / "notes.txt").write_text("nothing to read here\n")
    assert [(f.path.name, f.kind) for f in find_data(tmp_path)] == [
        ("brain", "visium"), ("her", "st"), ("hest", "hest"), ("run", "xenium"), ("store.zarr", "spatialdata"),
        ("tiles", "masks"), ("bag.h5", "features"), ("ref.h5ad", "h5ad"), ("s.svs", "image"), ("table.csv", "bulk"),
    ]  # fmt: skip
    for empty in ("", tmp_path / "absent"):
        with pytest.raises(InputError, match="does not exist"):
            find_data(empty)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nothing that can be opened"):
        find_data(tmp_path / "empty")


def test_broken_items_are_told_and_do_not_end_the_check(tmp_path):
    for name in ("a.h5ad", "b.h5", "c.tif"):
        (tmp_path / name).write_bytes(b"not what it says")
    table = checklist.as_table(checklist.check_folder(tmp_path))
    assert table[table["check"] == "opens"]["state"].tolist() == ["stop"] * 3
    assert not table["what"].str.contains("Traceback").any()


def test_a_view_is_ready_to_be_drawn(cells):
    shown = view(find_data(bundle())[0])
    assert shown["instances"].shape == shown["image"].shape[:2]
    item = find_data(cells())[0]
    shown = view(item, mpp=0.5)
    assert shown["polygons_px"].shape == (len(opened().nuclei), 24, 2)
    np.testing.assert_allclose(shown["polygons_px"].mean(1), opened().centroids_px(), atol=1e-6)
    assert view(item) is None  # without a scale nothing can be drawn to scale


def test_a_reference_needs_no_position(tmp_path):
    adata = labels.count_transcripts(opened())
    del adata.obsm[keys.SPATIAL]
    adata.obs["cell_type"], adata.obs["donor"] = "x", np.where(np.arange(len(adata)) % 2, "d1", "d2")
    adata.write_h5ad(tmp_path / "ref.h5ad")
    found = states(tmp_path)
    assert "units" not in found
    assert "registration" not in found
    assert found["patients"] == "ok"  # two donors


@pytest.mark.real
def test_real_data_are_judged_as_they_are(real_data):
    table = checklist.as_table(checklist.check_folder(real_data / "xenium", mpp=2.1)).set_index(["item", "check"])
    swapped = table.loc[("NCBI858.h5ad", "registration")]
    assert swapped["state"] == "stop"
    assert swapped["do"].startswith("x and y swapped")
    unnamed = table.xs("insitupy_sdata")
    assert unnamed.loc["opens", "state"] == "ok"
    assert unnamed.loc["gene names", "state"] == "stop"


@pytest.mark.real
def test_every_item_of_the_folder_opens_or_says_why_not(real_data):
    table = checklist.as_table(checklist.check_folder(real_data))
    rows = table[table["check"] == "opens"].set_index("item")
    assert len(rows) == 14
    stopped = rows[rows["state"] == "stop"]["what"]
    assert sorted(stopped.index) == ["dsb2018_he", "scrna/spacexr_lymphnode_visium_1000spots.h5ad",
                                     "visium/visium_data/2.1.0", "xenium/NCBI858.h5ad"]  # fmt: skip
    assert stopped.str.contains("pass mpp|counts per probe|is unit='um' right").all()
