"""Folders of images with instance masks, with and without types."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from stpath_core.errors import InputError
from stpath_core.io import dataset, open_mask_folder, registry
from stpath_core.tissue.cell_types import SUPER_CLASSES

PIXELS = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)


def _mask() -> np.ndarray:
    mask = np.zeros((60, 80), np.uint16)
    mask[5:15, 10:20], mask[30:40, 50:62], mask[50:60, 0:6] = 4, 900, 77
    return mask


def _folder(root, stems=("t1",), mask=None):
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for stem in stems:
        Image.fromarray(PIXELS).save(root / "images" / f"{stem}.png")
        Image.fromarray(_mask() if mask is None else mask).save(root / "labels" / f"{stem}.png")
    return root


def test_ids_are_renumbered_and_named(tmp_path):
    first, second = open_mask_folder(_folder(tmp_path, ("b", "a")), mpp=0.25)
    assert [first.name, second.name] == ["a", "b"]
    assert first.nuclei["cell_id"].tolist() == ["4", "77", "900"]
    assert np.array_equal(np.unique(first.instances()), [0, 1, 2, 3])
    assert first.transcripts is None
    np.testing.assert_allclose(first.nuclei.loc[0, ["x_um", "y_um", "area_um2"]].tolist(), [15 * 0.25, 10 * 0.25, 6.25])
    np.testing.assert_allclose(first.centroids_px()[0], [15, 10])
    assert "type" not in first.nuclei  # absent, not zeroed


def test_types_come_with_the_data_set(tmp_path):
    for stem in ("train_x", "test_y"):
        Image.fromarray(PIXELS).save(tmp_path / f"{stem}.png")
        Image.fromarray(_mask()).save(tmp_path / f"{stem}_inst.png")
    table = {"split": ["train"] * 3, "image": ["x"] * 3, "inst_id": [4, 77, 900], "type4_from_detection": [2, 3, 0]}
    pd.DataFrame(table).to_csv(tmp_path / "instances.csv", index=False)
    untyped, typed = open_mask_folder(tmp_path, entry="nucls")
    assert typed.nuclei["type"].tolist() == ["inflammatory", "unknown", "neoplastic"]
    assert untyped.nuclei["type"].tolist() == ["unknown"] * 3
    assert typed.mpp == registry()["nucls"].mpp
    header = "split,image,inst_id,type4_from_detection\n"
    for content, complaint in (
        (b"split,image\ntrain,x\n", "lacks the columns"),
        (b"", "cannot be read as a table"),
        (b"split,image\n\xff\xfe\n", "cannot be read as a table"),
        (b'a\n"b', "cannot be read as a table"),
        (f"{header}train,x,,2\n".encode(), r"instances.csv, row 1: inst_id is nan"),
        (f"{header}train,x,4,2\ntrain,x,four,2\n".encode(), r"instances.csv, row 2: inst_id is four"),
    ):
        (tmp_path / "instances.csv").write_bytes(content)
        with pytest.raises(InputError, match=complaint):
            open_mask_folder(tmp_path, entry="nucls")


def test_a_mask_of_the_wrong_size(tmp_path):
    folder = _folder(tmp_path)
    Image.fromarray(_mask()[:, :79]).save(folder / "labels" / "t1.png")
    with pytest.raises(InputError, match=r"t1\.png has shape \(60, 79\); its image needs \(60, 80\)"):
        open_mask_folder(folder, mpp=0.25)


@pytest.mark.parametrize(
    ("mask", "complaint"),
    [
        ((_mask() > 0).astype(np.uint8) * 255, "each needs its own"),
        (np.zeros((60, 80), np.uint16), "holds a nucleus"),
        (PIXELS, "its image needs"),
    ],
)
def test_masks_that_are_no_instance_masks(tmp_path, mask, complaint):
    with pytest.raises(InputError, match=complaint):
        open_mask_folder(_folder(tmp_path, mask=mask), mpp=0.25)


def test_folders_that_lack_something(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        open_mask_folder(tmp_path / "no", mpp=0.25)
    with pytest.raises(InputError, match="holds no images"):
        open_mask_folder(tmp_path, mpp=0.25)
    folder = _folder(tmp_path, ("t1", "t2"))
    with pytest.raises(InputError, match="pass mpp"):
        open_mask_folder(folder)
    (folder / "labels" / "t2.png").unlink()
    with pytest.raises(InputError, match=r"without a mask, first t2\.png"):
        open_mask_folder(folder, mpp=0.25)


def test_two_images_of_one_name_do_not_share_a_mask(tmp_path):
    folder = _folder(tmp_path)
    Image.fromarray(PIXELS).save(folder / "images" / "t1.jpg")
    with pytest.raises(InputError, match=r"t1\.jpg and t1\.png in .* share a name"):
        open_mask_folder(folder, mpp=0.25)


@pytest.mark.parametrize("suffix", [".tif", ".tiff"])
def test_masks_may_be_tiff(tmp_path, suffix):
    expected = open_mask_folder(_folder(tmp_path / "png"), mpp=0.25)[0]
    folder = _folder(tmp_path / "tif")
    (folder / "labels" / "t1.png").unlink()
    tifffile.imwrite(folder / "labels" / f"t1{suffix}", _mask())
    found = open_mask_folder(folder, mpp=0.25)[0]
    assert np.array_equal(found.instances(), expected.instances())
    Image.fromarray(_mask()).save(folder / "labels" / "t1.png")
    with pytest.raises(InputError, match=rf"has the masks t1\.png and t1\{suffix}"):
        open_mask_folder(folder, mpp=0.25)


def test_a_mask_of_another_kind_is_named_with_what_is_needed(tmp_path):
    folder = _folder(tmp_path)
    (folder / "labels" / "t1.png").rename(folder / "labels" / "t1.npy")
    with pytest.raises(InputError, match=r"found t1\.npy, needed t1\.png \(or \.tif\)"):
        open_mask_folder(folder, mpp=0.25)


def test_hidden_files_are_no_images(tmp_path):
    folder = _folder(tmp_path)
    (folder / "images" / "._t1.png").write_bytes(b"an icon")
    (folder / "images" / "x.png").mkdir()
    assert [s.name for s in open_mask_folder(folder, mpp=0.25)] == ["t1"]


def test_the_registry_states_licences_and_names_what_is_held_out():
    entries = registry()
    assert {"virtual", "xenium", "masks", "monuseg", "nucls"} <= set(entries)
    assert all(e.licence and e.source for e in entries.values())
    monuseg = dataset("monuseg")
    held = [monuseg.organ_of_case(case) for case in monuseg.holdout]
    assert len(held) == len(set(held)) == 4
    assert "unknown" not in held
    assert monuseg.patient_of_case("TCGA-NH-A8F7-01A-01-TS1") == "TCGA-NH-A8F7"
    assert set(entries["nucls"].types["map"].values()) <= set(SUPER_CLASSES)
    with pytest.raises(InputError, match="expected one of virtual"):
        dataset("monsueg")


@pytest.mark.real
def test_real_tiles(real_data):
    tiles = open_mask_folder(real_data / "monuseg", entry="monuseg")
    assert len(tiles) == 13
    assert set(registry()["monuseg"].holdout) <= {t.name for t in tiles}
    assert len({t.patient for t in tiles}) == 13
    assert {t.organ for t in tiles} == {"lung", "breast", "kidney", "prostate", "colon"}
    index = pd.read_csv(real_data / "monuseg" / "index.csv").set_index("case")
    assert all(len(t.nuclei) == index.loc[t.name, "n_instances"] for t in tiles)
    typed = open_mask_folder(real_data / "nucls", entry="nucls")
    assert len(typed) == 15
    assert sum(len(t.nuclei) for t in typed) == 640
    assert {"neoplastic", "connective", "inflammatory"} <= set(pd.concat(t.nuclei["type"] for t in typed))
