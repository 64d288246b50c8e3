"""The common stain: laboratories become alike, glass has no say, and nothing is made of nothing."""

from __future__ import annotations

import numpy as np
import pytest

from stpath_core.errors import InputError
from stpath_core.stain import (
    MEDIAN,
    SPREAD,
    STAIN_AXES,
    normalise_macenko,
    optical_density,
    stain_vectors,
    standardise_stain,
    unmix,
)
from stpath_core.tissue.architecture import grow
from stpath_core.tissue.histology import render
from stpath_core.tissue.stains import patient_stain


@pytest.fixture(scope="module")
def two_laboratories():
    arch = grow("breast", size_um=(200, 200), seed=1)
    return [render(arch, seed=0, stain=patient_stain("colon", patient)) for patient in (2, 9)]


def apart(a, b):
    return np.abs(a.astype(float) - b).mean()


def test_the_same_tissue_in_two_stains_becomes_alike(two_laboratories):
    after = [standardise_stain(image) for image in two_laboratories]
    assert apart(*after) < 0.5 * apart(*two_laboratories)


def test_tissue_gets_the_common_median_and_spread(two_laboratories):
    image = two_laboratories[0]
    tissue = standardise_stain(image)[image[..., 1] < 220]
    density = -np.log((tissue + 1.0) / 256)
    np.testing.assert_allclose(np.median(density, axis=0), MEDIAN, atol=0.02)
    np.testing.assert_allclose(density.std(0), SPREAD, atol=0.06)  # what turns white is clipped


def test_bare_glass_around_the_tissue_changes_nothing(two_laboratories):
    image = two_laboratories[0]
    framed = np.pad(image, ((150, 150), (150, 150), (0, 0)), constant_values=243)
    np.testing.assert_array_equal(standardise_stain(framed)[150:-150, 150:-150], standardise_stain(image))


@pytest.mark.parametrize("grey", [128, 250])
def test_an_image_without_tissue_or_of_one_tone_stays_calm(grey):
    rng = np.random.default_rng(0)
    flat = (grey + rng.integers(-2, 3, (64, 64, 3))).astype(np.uint8)
    assert standardise_stain(flat)[..., 1].std() < 6 * flat[..., 1].std()
    assert np.array_equal(standardise_stain(flat[:20, :20]), flat[:20, :20])  # too few pixels to know


def test_standardising_twice_is_standardising_once(two_laboratories):
    once = standardise_stain(two_laboratories[1])
    assert apart(standardise_stain(once), once) < 4


def test_macenko_undoes_another_laboratorys_stain():
    """One tissue in two stains looks the same afterwards, and what it holds more of stays more."""
    rng = np.random.default_rng(0)
    amounts = rng.gamma([2.0, 3.0], [0.15, 0.1], (256 * 256, 2)).astype(np.float32)
    amounts[: len(amounts) // 4] *= [2, 0.5]  # a nuclear region
    mine = STAIN_AXES[:2]
    theirs = np.array([[0.56, 0.75, 0.35], [0.15, 0.95, 0.25]])
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)

    def seen(axes, strength):
        light = 256 * 10 ** -(amounts * strength @ axes) - 1
        return light.clip(0, 255).round().astype(np.uint8).reshape(256, 256, 3)

    one, other = seen(mine, [1.0, 1.0]), seen(theirs, [0.6, 1.3])
    before = np.abs(optical_density(one) - optical_density(other)).mean()
    after = np.abs(optical_density(normalise_macenko(one)) - optical_density(normalise_macenko(other))).mean()
    assert after < before / 3
    hematoxylin = unmix(optical_density(normalise_macenko(other)))[..., 0].ravel()
    assert np.corrcoef(hematoxylin, amounts[:, 0])[0, 1] > 0.95


def test_macenko_leaves_bare_glass_alone():
    glass = np.full((64, 64, 3), 240, np.uint8)
    np.testing.assert_array_equal(normalise_macenko(glass), glass)
    with pytest.raises(InputError, match="pixels are stained"):
        stain_vectors(glass)
