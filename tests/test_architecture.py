"""The grown section: reproducible, well formed, mixed as tissue is, and no nucleus where there is no tissue."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import shapely
from scipy.spatial import cKDTree

from stpath_core.errors import InputError
from stpath_core.tissue.architecture import Architecture, grow, patient_traits
from stpath_core.tissue.cell_types import (
    CELL_TYPES,
    CONTEXT_ONLY,
    FINE_TYPES,
    INSEPARABLE,
    ORGANS,
    REGIONS,
    SUPER_CLASSES,
    SUPER_OF,
)
from stpath_core.tissue.fields import keep_apart, sample, smooth_noise


@lru_cache
def section(organ: str, patient: int = 1, seed: int = 2) -> Architecture:
    return grow(organ, size_um=(500, 500), seed=seed, patient=patient)


def test_one_seed_is_one_tissue_bit_for_bit():
    a, b = (grow("breast", size_um=(240, 200), seed=5, patient=3) for _ in range(2))
    pd.testing.assert_frame_equal(a.cells, b.cells, check_exact=True)
    assert np.array_equal(a.nuclei_um, b.nuclei_um)
    assert np.array_equal(a.cells_um, b.cells_um)
    assert np.array_equal(a.region, b.region)
    for other in (grow("breast", size_um=(240, 200), seed=6, patient=3), grow("breast", size_um=(240, 200), seed=5)):
        assert len(other.cells) != len(a.cells) or not np.array_equal(other.nuclei_um, a.nuclei_um)


def test_the_types_are_as_declared():
    assert len(FINE_TYPES) == 22
    assert set(SUPER_OF.values()) == set(SUPER_CLASSES)
    for pair in INSEPARABLE + CONTEXT_ONLY:
        assert CELL_TYPES[pair[0]].nucleus == CELL_TYPES[pair[1]].nucleus


@pytest.mark.parametrize("organ", ORGANS)
def test_a_section_is_well_formed(organ):
    arch = section(organ)
    cells, n = arch.cells, len(arch.cells)
    assert list(cells.index) == list(range(1, n + 1))
    assert cells.index.name == "cell_id"
    assert (cells.super_class.astype(str) == cells.cell_type.astype(str).map(SUPER_OF)).all()
    assert list(cells.super_class.cat.categories) == list(SUPER_CLASSES)
    assert arch.nuclei_um.shape == arch.cells_um.shape == (n, 32, 2)
    assert arch.region.shape == (250, 250)
    assert arch.region.max() < len(REGIONS)
    for polygons in (arch.nuclei_um, arch.cells_um):
        assert polygons.min() >= -0.01
        assert polygons.max() <= 500.01
        assert shapely.is_valid(shapely.polygons(polygons)).all()
    assert np.abs(arch.nuclei_um.mean(1) - cells[["x_um", "y_um"]]).to_numpy().max() < 3


@pytest.mark.parametrize("organ", ORGANS)
def test_every_training_section_holds_all_super_classes_at_a_real_density(organ):
    arch = section(organ)
    share = arch.cells.super_class.value_counts(normalize=True)
    assert share.min() > 0.03
    assert 4_000 < len(arch.cells) / 0.25 < 8_000


def test_nuclei_touch_but_hardly_overlap_and_lie_in_their_cells():
    nuclei, cells = (shapely.polygons(p) for p in (section("breast").nuclei_um, section("breast").cells_um))
    i, j = shapely.STRtree(nuclei).query(nuclei, predicate="intersects")
    i, j = i[i < j], j[i < j]
    overlap = shapely.area(shapely.intersection(nuclei[i], nuclei[j])).sum() / shapely.area(nuclei).sum()
    touching = len(np.unique(np.r_[i, j])) / len(nuclei)
    assert overlap < 0.03
    assert touching > 0.1
    inside = shapely.area(shapely.intersection(nuclei, cells)) / shapely.area(nuclei)
    assert np.quantile(inside, 0.05) > 0.95
    assert np.median(shapely.area(cells) / shapely.area(nuclei)) > 1.5


def test_neighbours_are_mixed_as_in_real_tissue():
    """Share of the ten nearest neighbours of one's own super-class: .62 in a MERFISH section of lung cancer."""
    shares = []
    for organ in ORGANS:
        cells = section(organ).cells
        near = cKDTree(cells[["x_um", "y_um"]]).query(cells[["x_um", "y_um"]], k=11)[1][:, 1:]
        code = cells.super_class.cat.codes.to_numpy()
        shares.append((code[near] == code[:, None]).mean())
    assert 0.57 < np.mean(shares) < 0.67


def test_nothing_lives_in_a_lumen_and_epithelium_lives_in_glands():
    for organ in ("colon", "kidney", "prostate"):
        arch = section(organ)
        x, y = (arch.cells[name].to_numpy() for name in ("x_um", "y_um"))
        lumen = sample(arch.layout.lumen, x, y, grid_um=arch.grid_um)
        fat = arch.cells.cell_type == "adipocyte"
        assert (lumen[~fat] > 3).mean() < 0.02
        epithelial = arch.cells.super_class == "epithelial"
        assert (sample(arch.layout.depth, x, y, grid_um=arch.grid_um)[epithelial] > -1).mean() > 0.95


def test_spindle_nuclei_follow_the_fibres():
    arch = section("prostate")
    cells = arch.cells[(arch.cells.cell_type == "smooth_muscle")]
    row, column = (np.clip((cells[name] / arch.grid_um).astype(int), 0, 249) for name in ("y_um", "x_um"))
    off = np.abs(np.sin(cells.angle - arch.layout.fibre[row, column]))
    assert np.median(off) < 0.35  # 0.71 if they ignored each other


def test_a_mixture_moves_the_regions_and_patients_differ():
    wanted = {"immune": 0.6, "gland": 0.1, "invasive": 0.1, "in_situ": 0.05, "connective": 0.1, "adipose": 0.05}
    arch = grow("breast", size_um=(400, 400), seed=0, mixture=wanted)
    assert (arch.layout.territory == REGIONS.index("immune")).mean() == pytest.approx(0.6, abs=0.08)
    assert (arch.cells.super_class == "inflammatory").mean() > 0.5
    shares = [[c.share for c in patient_traits("breast", p).plan.compartments.values()] for p in range(4)]
    assert np.std(shares, axis=0).max() > 0.03
    assert patient_traits("breast", 2) == patient_traits("breast", 2)


def test_sections_of_any_size_and_shape():
    for size in ((200, 200), (620, 210)):
        arch = grow("lung", size_um=size, seed=1)
        assert arch.region.shape == (size[1] // 2, size[0] // 2)
        assert len(arch.cells) > 50


@pytest.mark.parametrize(
    ("organ", "size", "mixture", "hint"),
    [("liver", (300, 300), None, "choose one of"), ("lung", (30, 300), None, "too small"),
     ("lung", (300, 300), {"adipose": 0.2}, "mixture names")],
)  # fmt: skip
def test_what_cannot_be_grown_is_refused(organ, size, mixture, hint):
    with pytest.raises(InputError, match=hint):
        grow(organ, size_um=size, seed=0, mixture=mixture)


def test_noise_has_unit_spread_and_the_scale_asked_for():
    noise = smooth_noise(np.random.default_rng(0), (400, 300), scale_px=8)
    assert noise.shape == (400, 300)
    assert noise.std() == pytest.approx(1, abs=0.1)
    shifted = [np.corrcoef(noise[:-k].ravel(), noise[k:].ravel())[0, 1] for k in (2, 30)]
    assert shifted[0] > 0.9
    assert abs(shifted[1]) < 0.15


def test_keep_apart_is_the_greedy_walk_from_the_highest_priority_down():
    rng = np.random.default_rng(1)
    xy, reach, priority = rng.uniform(0, 50, (300, 2)), rng.uniform(2, 6, 300), rng.random(300)
    kept: list[int] = []
    for i in np.argsort(-priority):
        if all(np.linalg.norm(xy[i] - xy[k]) >= 0.5 * (reach[i] + reach[k]) for k in kept):
            kept.append(i)
    assert np.array_equal(np.flatnonzero(keep_apart(xy, reach, priority)), np.sort(kept))
