"""Tile statistics: what they measure is what was painted."""

from __future__ import annotations

import numpy as np
import pytest

from stpath_core.errors import InputError
from stpath_core.features import feature_names, tile_features
from stpath_core.stain import STAIN_AXES


def painted(h: np.ndarray, e: np.ndarray) -> np.ndarray:
    """(1, H, W, 3) uint8 picture of given stain densities."""
    od = h[..., None] * STAIN_AXES[0] + e[..., None] * STAIN_AXES[1]
    return np.clip(256 * 10**-od - 1, 0, 255).round().astype(np.uint8)[None]


def of(tiles: np.ndarray, name: str, mpp: float = 0.5) -> float:
    return float(tile_features(tiles, mpp=mpp)[0, feature_names().index(name)])


def stripes(size: int = 128, period: int = 16) -> np.ndarray:
    return 0.3 + 0.2 * np.sign(np.sin(2 * np.pi * (np.arange(size) + 0.5) / period))[None] * np.ones((size, 1))


def test_every_column_has_a_name_and_a_number():
    tiles = np.random.default_rng(0).integers(0, 256, (3, 64, 80, 3), dtype=np.uint8)
    values = tile_features(tiles, mpp=1.0)
    assert values.shape == (3, len(set(feature_names())))
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert 80 <= len(feature_names()) <= 120
    np.testing.assert_allclose(values, np.concatenate([tile_features(t[None], mpp=1.0) for t in tiles]), rtol=1e-4)
    assert np.isfinite(tile_features(np.full((1, 64, 64, 3), 255, np.uint8), mpp=0.5)).all()
    assert tile_features(np.zeros((0, 64, 64, 3), np.uint8), mpp=0.5).shape == (0, len(feature_names()))


def test_stains_are_told_apart():
    flat = np.full((64, 64), 0.4)
    tile = painted(flat, 0.5 * flat)
    assert of(tile, "hematoxylin mean") == pytest.approx(0.4, abs=0.02)
    assert of(tile, "eosin mean") == pytest.approx(0.2, abs=0.02)
    assert of(tile, "hematoxylin above 0.3") == 1
    assert of(tile, "hematoxylin above 0.5") == 0


def test_stripes_have_a_direction_and_a_wavelength():
    tile = painted(stripes(), np.full((128, 128), 0.1))
    assert of(tile, "hematoxylin coherence") > 0.95
    noise = painted(0.3 + 0.05 * np.random.default_rng(1).normal(size=(128, 128)), np.full((128, 128), 0.1))
    assert of(noise, "hematoxylin coherence") < 0.2
    waves = [of(tile, f"hematoxylin wave {i}") for i in range(12)]
    edges = np.geomspace(64, 2, 13)  # um
    loud = int(np.argmax(waves))
    assert edges[loud + 1] <= 16 * 0.5 <= edges[loud]


def test_lengths_are_in_micrometres():
    """The same tissue at two resolutions gives nearly the same statistics."""
    rng = np.random.default_rng(2)
    from scipy import ndimage as ndi

    smooth = 0.3 + 1.5 * ndi.gaussian_filter(rng.normal(size=(256, 256)), 8)
    half = smooth.reshape(128, 2, 128, 2).mean((1, 3))
    fine, coarse = painted(smooth, smooth), painted(half, half)
    for name in ("hematoxylin SD", "hematoxylin autocorrelation 4 um", "hematoxylin band 6 um"):
        assert of(fine, name, 0.5) == pytest.approx(of(coarse, name, 1.0), rel=0.1), name


def test_dark_spots_are_counted():
    h = np.full((200, 200), 0.05)
    y, x = np.mgrid[:200, :200]
    for cy in range(25, 200, 50):
        for cx in range(25, 200, 50):
            h = np.maximum(h, 0.6 * (np.hypot(y - cy, x - cx) < 6))
    spots = of(painted(h, np.full_like(h, 0.1)), "dark spots") * (200 * 0.5) ** 2 / 1e3
    assert spots == pytest.approx(16, abs=1)


@pytest.mark.parametrize(
    ("tiles", "mpp", "hint"),
    [(np.zeros((2, 64, 64), np.uint8), 0.5, "shape"), (np.zeros((1, 64, 64, 3)), 0.5, "float64"),
     (np.zeros((1, 16, 16, 3), np.uint8), 0.5, "32 px"), (np.zeros((1, 64, 64, 3), np.uint8), 0.0, "mpp")],
)  # fmt: skip
def test_what_is_no_tile_is_refused(tiles, mpp, hint):
    with pytest.raises(InputError, match=hint):
        tile_features(tiles, mpp=mpp)


def ellipses(centres: list[tuple[int, int]], long: float, short: float, size: int = 200) -> np.ndarray:
    """Hematoxylin of dark ellipses on a pale ground, half axes in pixels."""
    y, x = np.mgrid[:size, :size]
    inside = [np.hypot((y - cy) / short, (x - cx) / long) < 1 for cy, cx in centres]
    return np.where(np.any(inside, axis=0), 0.6, 0.05)


def test_blobs_have_the_number_size_and_shape_that_were_painted():
    centres = [(cy, cx) for cy in range(20, 200, 40) for cx in range(20, 200, 40)]  # 25, on a fifth of the tile
    eosin = np.full((200, 200), 0.2)
    round_, long = (painted(ellipses(centres, a, b), eosin) for a, b in ((5, 5), (15, 5)))
    per_area = 1e3 / (200 * 0.5) ** 2
    for name, tile, share in (("blobs", round_, 25), ("blobs small and round", round_, 25), ("blobs long", long, 25),
                              ("blobs small and round", long, 0), ("blobs large", round_, 0)):  # fmt: skip
        assert of(tile, name) == pytest.approx(share * per_area, rel=1e-3), name
    for tile, half_axes in ((round_, (5, 5)), (long, (15, 5))):
        rim = (half_axes[0] + 0.8) * (half_axes[1] + 0.8)  # what the blur adds, in pixels
        assert np.exp(of(tile, "blobs log area q50")) == pytest.approx(np.pi * rim * 0.5**2, rel=0.1)
        assert np.exp(of(tile, "blobs log aspect q50")) == pytest.approx(half_axes[0] / half_axes[1], rel=0.15)
        assert of(tile, "blobs eosin around q50") == pytest.approx(0.2, abs=0.03)
        assert of(tile, "blobs filled q50") == pytest.approx(0, abs=0.05)
    pale = of(painted(0.5 * ellipses(centres, 5, 5), eosin), "blobs hematoxylin q50")
    assert of(round_, "blobs hematoxylin q50") == pytest.approx(2 * pale, rel=0.1)


def test_blobs_do_not_depend_on_resolution_and_are_0_where_none_can_be_seen():
    centres = [(50, 50), (50, 150), (150, 100)]
    fine = ellipses(centres, 12, 9)
    half = fine.reshape(100, 2, 100, 2).mean((1, 3))
    for name in ("blobs", "blobs log area q50", "blobs log aspect q50"):
        tiles = painted(fine, fine), painted(half, half)
        assert of(tiles[0], name, 0.5) == pytest.approx(of(tiles[1], name, 1.0), rel=0.12), name
    columns = [name for name in feature_names() if name.startswith("blobs")]
    assert not any(of(painted(half, half), name, 3.0) for name in columns)  # a pixel as large as a nucleus
    assert not any(of(painted(0 * fine, fine), name) for name in columns)
