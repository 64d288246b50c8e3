"""Images: pixels as they are, micrometres per pixel from the file or the caller, never guessed."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from stpath_core.errors import InputError
from stpath_core.io import read_image

PIXELS = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)


def _tiff(path, **options):
    tifffile.imwrite(path, PIXELS, photometric="rgb", **options)
    return path


def test_plain_images_take_the_callers_scale(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    image, mpp = read_image(tmp_path / "a.png", mpp=0.25)
    assert np.array_equal(image, PIXELS)
    assert mpp == 0.25
    with pytest.raises(InputError, match="pass mpp"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("dpi", [72, 96, 300])
def test_a_screens_resolution_is_not_a_microscopes(tmp_path, dpi):
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", dpi=(dpi, dpi))
    with pytest.raises(InputError, match="pass mpp"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ome": True, "metadata": {"axes": "YXS", "PhysicalSizeX": 0.2125, "PhysicalSizeXUnit": "µm"}}, 0.2125),
        ({"ome": True, "metadata": {"axes": "YXS", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm"}}, 0.25),
        ({"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}, 0.5),
        ({"resolution": (101_600, 101_600), "resolutionunit": "INCH"}, 0.25),
        ({"description": "Aperio Image Library\r\n56x40|AppMag = 20|MPP = 0.4990|Left = 1", "metadata": None}, 0.499),
    ],
)
def test_tiffs_tell_their_scale(tmp_path, options, expected):
    name = "a.ome.tif" if options.get("ome") else "a.tif"
    image, mpp = read_image(_tiff(tmp_path / name, **options))
    assert np.array_equal(image, PIXELS)
    assert mpp == pytest.approx(expected, rel=1e-3)


def test_a_tiff_without_scale_needs_one(tmp_path):
    path = _tiff(tmp_path / "a.tif", metadata=None)
    with pytest.raises(InputError, match="pass mpp"):
        read_image(path)
    assert read_image(path, mpp=0.5)[1] == 0.5


def test_planar_and_alpha_images_become_rgb(tmp_path):
    tifffile.imwrite(tmp_path / "p.tif", np.moveaxis(PIXELS, -1, 0), photometric="rgb", planarconfig="separate")
    assert np.array_equal(read_image(tmp_path / "p.tif", mpp=0.5)[0], PIXELS)
    Image.fromarray(np.dstack([PIXELS, np.full((40, 56), 255, np.uint8)])).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", mpp=0.5)[0], PIXELS)


def test_disagreement_is_an_error_and_not_a_choice(tmp_path):
    path = _tiff(tmp_path / "a.tif", resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    with pytest.raises(InputError, match=r"0\.5 um per pixel, mpp=0\.25 was given"):
        read_image(path, mpp=0.25)
    assert read_image(path, mpp=0.5)[1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("pixels", "complaint"),
    [
        (np.zeros((40, 56), np.uint8), "expected an 8-bit RGB"),
        (np.zeros((40, 56, 3), np.uint16), "expected an 8-bit RGB"),
        (np.zeros((8, 56, 3), np.uint8), "at least 16"),
    ],
)
def test_what_is_no_he_image_is_refused(tmp_path, pixels, complaint):
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    with pytest.raises(InputError, match=complaint):
        read_image(tmp_path / "a.tif", mpp=0.5)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_truncated_images_are_refused(tmp_path, name):
    noise = np.random.default_rng(1).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    if name.endswith("png"):
        Image.fromarray(noise).save(tmp_path / name)
    else:
        tifffile.imwrite(tmp_path / name, noise, compression="zlib")
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path / name, mpp=0.5)


def test_missing_files_and_wrong_scales(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_image(tmp_path / "no.png", mpp=0.5)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="not an image"):
        read_image(tmp_path / "a.txt", mpp=0.5)
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="micrometres per pixel"):
        read_image(tmp_path / "a.png", mpp=40)


@pytest.mark.real
@pytest.mark.parametrize(("name", "mpp"), [("pathml_small_HE.svs", 0.499), ("instanseg_HE_example.tif", 0.5)])
def test_real_slides(real_data, name, mpp):
    image, found = read_image(real_data / "slides" / name)
    assert image.ndim == 3
    assert found == pytest.approx(mpp, rel=1e-3)
