"""Every item of the folder of real data opens, or gets the one clear error that is right for it."""

from __future__ import annotations

import numpy as np
import pytest

from stpath_core import io, keys, labels
from stpath_core.errors import InputError

LABELLED = {"A1": 348, "B1": 295, "C1": 177, "D1": 309, "E1": 587, "F1": 692, "G2": 475, "H1": 613}

OPENS = {
    "scrna/wu2021_CID4465_TNBC.h5ad": (io.open_reference, {}, (1564, 29733)),
    "scrna/spacexr_lymphnode_ref.h5ad": (io.open_reference, {}, (330, 10237)),
    "cell_st/tessera_merfish_lung_3177.h5ad": (io.open_cells, {"unit": "um"}, (3177, 479)),
    "xenium/NCBI858.h5ad": (io.open_cells, {"unit": "px", "mpp": 2.1, "x": "x_pixel", "y": "y_pixel"}, (200, 338)),
    "visium/visium_data/1.0.0": (io.open_visium, {}, (100, 100)),
}
REFUSED = {
    "visium/visium_data/2.1.0": (io.open_visium, {}, "counts per probe"),
    "xenium/insitupy_sdata": (io.spatialdata_table, {}, "numbers its genes and does not name them"),
    "scrna/spacexr_lymphnode_visium_1000spots.h5ad": (io.open_cells, {"unit": "um"}, "the median cell lies 138 um"),
    "dsb2018_he": (io.open_mask_folder, {"entry": "dsb2018"}, "pass mpp"),
    "xenium/NCBI858.jpg": (io.read_image, {}, "pass mpp"),
    "her2st/images/C3.jpg": (io.open_slide, {}, "pass mpp"),
}


@pytest.mark.real
@pytest.mark.parametrize("item", OPENS)
def test_tables_open(real_data, item):
    reader, options, shape = OPENS[item]
    adata = reader(real_data / item, **options)
    assert adata.shape == shape
    counts = adata.layers[keys.COUNTS]
    assert counts.dtype == np.int32
    assert counts.sum() > 0
    if keys.SPATIAL in adata.obsm:
        assert np.ptp(io.positions_um(adata), axis=0).max() < 12_000  # a slide is no larger


@pytest.mark.real
@pytest.mark.parametrize("item", REFUSED)
def test_what_cannot_be_used_gets_its_error(real_data, item):
    reader, options, hint = REFUSED[item]
    with pytest.raises(InputError, match=hint):
        reader(real_data / item, **options)


@pytest.mark.real
def test_every_labelled_section_of_her2st_joins_its_labels(real_data):
    folder = real_data / "her2st"
    assert len(io.st_sections(folder)) == 36
    assert {name: len(io.st_labels(folder, name)) for name in io.st_sections(folder, labelled=True)} == LABELLED
    sections = io.open_st(folder, LABELLED)
    for name, adata in sections.items():
        told = adata.uns["labels"]
        joined = (adata.obs[keys.LABEL] != keys.UNLABELLED).sum()
        assert told["in_file"] == LABELLED[name] == joined + told["without_position"] + told["without_counts"]
        assert joined == len(adata)  # every spot with counts has its label
        assert np.isin(np.diff(np.unique(adata.obs[keys.ARRAY_COL])), [1, 2]).all()
        assert 150 < np.median(_nearest(io.positions_um(adata))) < 215
    assert sum(len(a) for a in sections.values()) == 3481


def _nearest(xy):
    from scipy.spatial import cKDTree

    return cKDTree(xy).query(xy, k=2)[0][:, 1]


@pytest.mark.real
def test_the_spots_of_her2st_lie_on_the_tissue_of_its_images(real_data):
    adata = io.open_st(real_data / "her2st", ["A1"])["A1"]
    image, _ = io.read_image(adata.uns["image"], mpp=3.19)
    col, row = io.positions_px(adata).round().astype(int).T
    coloured = np.ptp(image.astype(int), axis=2) > 15  # neither white glass nor the black mask around the tissue
    assert coloured[row, col].mean() > coloured.mean() + 0.3
    assert coloured[row, col].mean() > coloured[np.minimum(col, len(image) - 1), row].mean() + 0.1


@pytest.mark.real
def test_spatialdata_without_an_he_shows_its_nuclear_stain(real_data):
    section = io.open_spatialdata(real_data / "xenium" / "insitupy_sdata", min_qv=0)
    assert (len(section.nuclei), section.stain, section.mpp) == (23, "DAPI", pytest.approx(0.2125))
    assert len(section.transcripts) == 1504  # of 1,985, the others are controls and unassigned codewords
    assert labels.registration_score(section) > 0.2


@pytest.mark.real
def test_folders_of_masks_and_slides_open(real_data):
    assert len(io.open_mask_folder(real_data / "monuseg", entry="monuseg")) == 13
    assert len(io.open_mask_folder(real_data / "nucls", entry="nucls")) == 15
    for name in ("pathml_small_HE.svs", "instanseg_HE_example.tif"):
        slide = io.open_slide(real_data / "slides" / name)
        whole, mpp = io.read_image(real_data / "slides" / name)
        piece, _ = slide.region((200 * mpp, 300 * mpp), (64 * mpp, 48 * mpp))
        assert np.array_equal(piece, whole[300:348, 200:264])
