"""The painted section: pixels where the cells are, stain as asked for, and figures inside what real tiles show."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage as ndi
from skimage.draw import polygon2mask

from stpath_core.errors import InputError
from stpath_core.stain import optical_density
from stpath_core.tissue.architecture import Architecture, grow
from stpath_core.tissue.calibration import load_card, measure_tile, spread, stain_densities, strengths
from stpath_core.tissue.cell_types import ORGANS
from stpath_core.tissue.histology import instance_mask, render
from stpath_core.tissue.stains import Stain, patient_stain

REAL = os.environ.get("STPATH_REAL_DATA")


@lru_cache
def section(organ: str = "breast") -> Architecture:
    return grow(organ, size_um=(250, 250), seed=ORGANS.index(organ), patient=ORGANS.index(organ))


@lru_cache
def picture(organ: str = "breast", mpp: float = 0.5) -> np.ndarray:
    return render(section(organ), mpp=mpp, seed=3)


def test_one_seed_is_one_picture_bit_for_bit():
    image = picture()
    assert image.shape == (500, 500, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(image, render(section(), mpp=0.5, seed=3))
    assert not np.array_equal(image, render(section(), mpp=0.5, seed=4))


def test_nuclei_lie_where_the_mask_says():
    mask = instance_mask(section().nuclei_um, mpp=0.5, shape=(500, 500))
    hematoxylin = stain_densities(picture())[0]
    aside = np.roll(mask, (25, 25), (0, 1))
    assert hematoxylin[mask > 0].mean() - hematoxylin[mask == 0].mean() > 0.2
    assert hematoxylin[mask > 0].mean() - hematoxylin[aside > 0].mean() > 0.15


def test_resolutions_show_the_same_tissue():
    fine = optical_density(picture(mpp=0.25)).mean(2).reshape(250, 4, 250, 4).mean((1, 3))
    coarse = optical_density(picture(mpp=0.5)).mean(2).reshape(250, 2, 250, 2).mean((1, 3))
    assert np.corrcoef(fine.ravel(), coarse.ravel())[0, 1] > 0.85


def test_the_mask_agrees_with_an_independent_rasteriser():
    polygons = section().nuclei_um[:60]
    for i, polygon in enumerate(polygons):
        alone = instance_mask(polygons[i : i + 1], mpp=0.5, shape=(500, 500)) > 0
        oracle = polygon2mask((500, 500), polygon[:, ::-1].astype(float) / 0.5 - 0.5)
        assert (alone ^ oracle).sum() <= 1  # a pixel centre exactly on an edge may fall either way


def test_the_first_polygon_keeps_shared_pixels_and_ids_are_cell_ids():
    square = np.array([[2, 2], [8, 2], [8, 8], [2, 8]], float)
    mask = instance_mask(np.stack([square, square + 3]), mpp=1.0, shape=(12, 12))
    assert mask[6, 6] == 1
    assert mask[9, 9] == 2
    assert (mask == 1).sum() == 36
    assert (mask == 2).sum() == 36 - 9
    arch = section()
    full = instance_mask(arch.nuclei_um, mpp=0.5, shape=(500, 500))
    assert set(np.unique(full)) - {0} <= set(arch.cells.index)
    assert len(np.unique(full)) - 1 > 0.99 * len(arch.cells)


def test_masks_are_clipped_at_the_border_and_may_be_empty():
    square = np.array([[-3, -3], [3, -3], [3, 3], [-3, 3]], float)
    assert (instance_mask(square[None], mpp=1.0, shape=(5, 5)) == 1).sum() == 9
    assert not instance_mask(np.zeros((0, 32, 2)), mpp=0.5, shape=(4, 6)).any()


def test_stain_strengths_act_as_beer_and_lambert_say():
    plain = Stain(noise=0.0)
    images = [render(section(), seed=1, stain=s) for s in (plain, replace(plain, h_strength=0.5 * plain.h_strength))]
    mask = instance_mask(section().nuclei_um, mpp=0.5, shape=(500, 500)) > 0
    strong, weak = (stain_densities(image)[0][mask].mean() for image in images)
    assert weak / strong == pytest.approx(0.5, abs=0.1)
    glass = np.percentile(images[0], 99.5, axis=(0, 1))
    assert np.abs(glass - plain.white).max() < 8


def test_patients_differ_in_stain_and_zero_variation_makes_them_one():
    assert patient_stain("lung", 1) != patient_stain("lung", 2)
    assert patient_stain("lung", 1, variation=0) == patient_stain("colon", 7, variation=0)


def test_a_resolution_that_makes_no_picture_is_refused():
    with pytest.raises(InputError, match="between"):
        render(section(), mpp=0.0, seed=0)


def test_the_virtual_tissue_lies_in_the_range_of_real_tiles():
    real = load_card()["monuseg"]
    tiles = [measure_tile(picture(o, 0.25), instance_mask(section(o).nuclei_um, mpp=0.25, shape=(1000, 1000)), mpp=0.25)
             for o in ORGANS]  # fmt: skip
    ours = spread(tiles)
    outside = {name: (ours[name]["median"], seen) for name, seen in real.items()
               if not 0.9 * seen["min"] <= ours[name]["median"] <= 1.1 * seen["max"]}  # fmt: skip
    assert not outside


def test_the_calibration_card_was_written_from_the_frozen_defaults():
    card = load_card()
    assert card["schema"] == "stpath.calibration/1"
    assert set(card["sources"]) >= {"monuseg", "nucls"}
    assert card["strengths"] == strengths()  # a changed default needs the card written again, beside the real tiles
    for name, seen in card["monuseg"].items():
        assert seen["min"] <= card["virtual"][name]["median"] <= seen["max"], name
    for stain in ("hematoxylin", "eosin"):
        ours, real = (card["stain_vectors"][source][stain] for source in ("virtual", "monuseg"))
        assert np.abs(np.subtract(ours["mean"], real["mean"])).max() < 0.06
        assert ours["sd"][0] > 0.5 * real["sd"][0]  # patients differ in colour as real tiles do


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="STPATH_REAL_DATA is not set")
def test_the_card_holds_what_the_real_tiles_show():
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    from calibrate_tissue import real_tiles

    tiles = real_tiles(Path(REAL))["monuseg"]
    card = load_card()["monuseg"]
    some = [measure_tile(*tile, mpp=0.25) for tile in tiles[:3]]
    for name, seen in card.items():
        assert all(seen["min"] - 1e-3 <= tile[name] <= seen["max"] + 1e-3 for tile in some), name


def test_focus_blurs_but_keeps_the_density():
    sharp, soft = (render(section(), seed=1, stain=Stain(noise=0.0, blur_um=b)) for b in (0.15, 1.0))
    edges = [np.abs(ndi.sobel(optical_density(image).mean(2))).mean() for image in (sharp, soft)]
    assert edges[1] < 0.8 * edges[0]
    assert optical_density(soft).mean() == pytest.approx(optical_density(sharp).mean(), rel=0.05)
