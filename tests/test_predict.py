"""Prediction: tiling changes nothing, checkpoints carry their configuration, pickles and wrong images are refused."""

import numpy as np
import pytest
import torch

from stpath_core import predict
from stpath_core.data import NucleiSection
from stpath_core.errors import InputError
from stpath_core.models.nuclei import NucleiNet, TypeHead
from stpath_core.nuclei import cache_features
from stpath_core.predict_folder import predict_folder

SLIM = {"out_indices": [0, 1, 2], "channels": [8, 8, 16, 16], "stem_width": 8}
CLASSES = ("epithelial", "neoplastic")


@pytest.fixture(scope="module")
def model():
    """Not trained, but not blind: nuclear probability follows darkness through the last layer's bias and stem."""
    torch.manual_seed(0)
    net = NucleiNet(encoder_args=SLIM, width=8, stride=1, classes=CLASSES).eval()
    return net


class Darkness(NucleiNet):
    """An oracle in place of a trained network: dark pixels are nucleus, depth follows darkness too."""

    def forward(self, image):
        features = super().forward(image)[2]
        x = image.float().mean(1) / 255 if image.dtype == torch.uint8 else image.mean(1)
        zero = torch.zeros_like(x)
        flat = torch.stack([zero, zero, 1 - x], 1)  # the disks grow darker to their centre
        return (0.7 - x) * 40, flat, features


def picture(shape=(256, 320), n=12, seed=0):
    """White, with cones that are darkest in their centre; returns the image and the planted centres (x, y)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    grey = np.full(shape, 240.0)
    slots = rng.permutation([(r, c) for r in range(24, shape[0] - 20, 36) for c in range(24, shape[1] - 20, 36)])[:n]
    for cy, cx in slots:
        distance = np.hypot(y - cy, x - cx)
        grey = np.where(distance < 10, 40 + 12 * distance, grey)
    return grey.astype(np.uint8)[..., None].repeat(3, 2), slots[:, ::-1]


@pytest.fixture(scope="module")
def oracle():
    torch.manual_seed(0)
    return Darkness(encoder_args=SLIM, width=8, stride=1, classes=CLASSES).eval()


def test_planted_nuclei_are_found_where_they_lie(oracle):
    image, centres = picture()
    found = predict.predict_image(oracle, image, 0.5, average_views=False)
    assert len(found.centroids_px) == len(centres)
    gap = np.linalg.norm(found.centroids_px[:, None] - (centres + 0.5)[None], axis=2).min(0)
    assert gap.max() < 1.5
    assert found.type_probs.shape == (len(centres), 2)
    np.testing.assert_allclose(found.type_probs.sum(1), 1, rtol=1e-5)
    assert found.instances.shape == image.shape[:2]


def test_tiles_with_margins_give_what_the_whole_image_gives(oracle):
    image, _ = picture()
    whole = predict.predict_image(oracle, image, 0.5, average_views=False)
    tiled = predict.predict_image(oracle, image, 0.5, average_views=False, tile_px=64, margin_px=32)
    assert tiled.instances.max() == whole.instances.max()
    assert ((tiled.instances > 0) == (whole.instances > 0)).mean() > 0.999
    a, b = (np.sort(n.area_px) for n in (whole, tiled))
    assert np.abs(a - b).max() <= 2


@pytest.mark.parametrize("mpp", [0.25, 0.4, 1.0])
def test_other_resolutions_are_brought_to_the_networks_and_back(oracle, mpp):
    image, centres = picture()
    size = tuple(round(n * 0.5 / mpp) for n in image.shape[:2])
    rows, cols = ((np.arange(n) * mpp / 0.5).astype(int) for n in size)
    found = predict.predict_image(oracle, image[rows][:, cols], mpp, average_views=False)
    assert found.instances.shape == size
    assert abs(len(found.area_px) - len(centres)) <= 1


def test_turned_and_mirrored_images_give_turned_and_mirrored_maps_when_views_are_averaged(model):
    image, _ = picture((64, 96), n=2)
    maps, *_ = predict._network_maps(model, image, 0.5, average_views=True)
    mirrored, *_ = predict._network_maps(model, image[:, ::-1], 0.5, average_views=True)
    np.testing.assert_allclose(mirrored, maps[:, :, ::-1], atol=1e-4)
    turned, *_ = predict._network_maps(model, np.rot90(image), 0.5, average_views=True)
    np.testing.assert_allclose(turned, np.rot90(maps, axes=(1, 2)), atol=1e-4)
    single, *_ = predict._network_maps(model, image, 0.5, average_views=False)
    assert np.abs(single - maps).max() > 1e-3


def test_an_empty_image_gives_no_nuclei(oracle):
    found = predict.predict_image(oracle, np.full((80, 80, 3), 245, np.uint8), 0.5)
    assert found.instances.max() == 0
    assert found.type_probs.shape == (0, 2)
    assert found.centroids_px.shape == (0, 2)


def test_a_checkpoint_gives_back_the_same_network(model, tmp_path):
    path = predict.save(tmp_path / "net.safetensors", model, dataset="virtual")
    again = predict.load(path)
    x = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(again(x)[0], model(x)[0])
    assert again.classes == CLASSES


def test_another_type_head_leaves_the_segmentation_as_it_is(model):
    torch.manual_seed(1)
    head = TypeHead(model.type_head.linear.in_features, 2).eval()
    twin = predict.with_type_head(model, head, CLASSES)
    x = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(twin(x)[0], model(x)[0])
    assert torch.equal(twin.type_head.linear.weight, head.linear.weight)


def test_given_nuclei_are_described_as_predicted_ones_are(oracle):
    image = picture()[0]
    found = predict.predict_image(oracle, image, 0.5, average_views=False)
    features, ids = predict.describe_nuclei(oracle, image, 0.5, found.instances)
    assert ids.tolist() == list(range(1, len(found.area_px) + 1))
    np.testing.assert_allclose(features, found.features, rtol=1e-3, atol=1e-4)
    sparse = np.where(found.instances == 3, 0, found.instances)  # ids need not be without gaps
    fewer, left = predict.describe_nuclei(oracle, image, 0.5, sparse)
    assert 3 not in left
    np.testing.assert_allclose(fewer, features[ids != 3], rtol=1e-4, atol=1e-5)


def test_an_image_without_nuclei_cannot_be_described(oracle):
    with pytest.raises(InputError, match="no nucleus"):
        predict.describe_nuclei(oracle, picture()[0], 0.5, np.zeros((256, 320), np.int32))


def test_missing_foreign_and_cut_checkpoints_are_refused(model, tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(InputError, match="there is no checkpoint"):
        predict.load(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="schema"):
        predict.load(tmp_path / "foreign.safetensors")
    path = predict.save(tmp_path / "net.safetensors", model)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a safetensors checkpoint"):
        predict.load(path)


@pytest.mark.parametrize(
    ("image", "mpp", "needed"),
    [
        (np.zeros((64, 64), np.uint8), 0.5, "RGB"),
        (np.zeros((64, 64, 3), np.float32), 0.5, "uint8"),
        (np.zeros((8, 64, 3), np.uint8), 0.5, "16 x 16"),
        (np.zeros((64, 64, 3), np.uint8), 250.0, "check the unit"),
    ],
)
def test_images_that_cannot_be_used_are_refused(model, image, mpp, needed):
    with pytest.raises(InputError, match=needed):
        predict.predict_image(model, image, mpp)


def folder_of_images(tmp_path):
    import imageio.v3 as iio

    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(2):
        iio.imwrite(folder / f"tile{k}.png", picture(seed=k)[0])
    return folder


def test_a_folder_becomes_masks_geojson_and_one_table(model, tmp_path):
    import imageio.v3 as iio
    import pandas as pd

    checkpoint = predict.save(tmp_path / "net.safetensors", model)
    table = predict_folder(checkpoint, folder_of_images(tmp_path), tmp_path / "out", mpp=0.5)
    out = tmp_path / "out"
    assert sorted(p.name for p in out.rglob("*.png")) == ["tile0.png", "tile1.png"]
    mask = iio.imread(out / "labels" / "tile0.png")
    assert mask.dtype == np.uint16
    assert mask.shape == (256, 320)
    assert (out / "tile1.geojson").exists()
    frame = pd.read_csv(table)
    assert list(frame.columns) == ["image", "id", "x_um", "y_um", "area_um2", "type", "confidence"]
    assert (frame["image"] == "tile0.png").sum() == mask.max()


def test_images_without_scale_are_refused_before_anything_is_written(model, tmp_path):
    checkpoint = predict.save(tmp_path / "net.safetensors", model)
    with pytest.raises(InputError, match="mpp"):
        predict_folder(checkpoint, folder_of_images(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_annotations_and_inputs_are_never_written_over(model, tmp_path):
    checkpoint = predict.save(tmp_path / "net.safetensors", model)
    images = folder_of_images(tmp_path)
    first = sorted(images.iterdir())[0]
    (tmp_path / "labels").mkdir()
    annotation = tmp_path / "labels" / f"{first.stem}.png"
    annotation.write_bytes(b"drawn by hand")
    with pytest.raises(InputError, match="not made by a prediction"):
        predict_folder(checkpoint, images, tmp_path, mpp=0.5)
    assert annotation.read_bytes() == b"drawn by hand"
    assert not list(tmp_path.glob("*.geojson"))
    again = tmp_path / "again" / "labels"
    again.mkdir(parents=True)
    (again / first.name).write_bytes(first.read_bytes())
    with pytest.raises(InputError, match="give another folder"):
        predict_folder(checkpoint, again, tmp_path / "again", mpp=0.5)
    assert (again / first.name).read_bytes() == first.read_bytes()


def test_an_earlier_prediction_may_be_replaced_and_a_file_is_no_folder(model, tmp_path):
    checkpoint = predict.save(tmp_path / "net.safetensors", model)
    images = folder_of_images(tmp_path)
    for _ in range(2):
        predict_folder(checkpoint, images, tmp_path / "out", mpp=0.5)
    (tmp_path / "taken").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        predict_folder(checkpoint, images, tmp_path / "taken", mpp=0.5)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("[1, 2]", "of a list"),
        ('"words"', "of a str"),
        ("null", "of a NoneType"),
        ('{"schema": "stpath.nuclei-net/3"}', "does not fit its own"),
        ('{"schema": "stpath.nuclei-net/3", "model": [1]}', "does not fit its own"),
        ('{"schema": "stpath.nuclei-net/3", "model": {"encoder": 3}}', "does not fit its own"),
        ('{"schema": "stpath.nuclei-net/3", "model": {"encoder_args": "x"}}', "does not fit its own"),
        ('{"schema": "stpath.nuclei-net/3", "model": {"mpp": "far"}}', "does not fit its own"),
        ('{"schema": "stpath.nuclei-net/3", "model": {"pretrained": true}}', "does not fit its own"),
    ],
)
def test_metadata_that_is_no_configuration_is_refused(tmp_path, config, said):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "odd.safetensors", {"stpath": config})
    with pytest.raises(InputError, match="odd") as caught:
        predict.load(tmp_path / "odd.safetensors")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_length_that_is_none_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setitem(model.config, "mpp", -0.5)
    path = predict.save(tmp_path / "net.safetensors", model)
    with pytest.raises(InputError, match=r"has mpp -0\.5"):
        predict.load(path)


def test_hidden_files_and_folders_are_passed_over(model, tmp_path):
    import pandas as pd

    images = folder_of_images(tmp_path)
    (images / "._tile0.png").write_bytes(b"an icon")
    (images / "x.png").mkdir()
    checkpoint = predict.save(tmp_path / "net.safetensors", model)
    table = predict_folder(checkpoint, images, tmp_path / "out", mpp=0.5)
    assert set(pd.read_csv(table)["image"]) <= {"tile0.png", "tile1.png"}
    assert sorted(p.stem for p in (tmp_path / "out").glob("*.geojson")) == ["tile0", "tile1"]
    with pytest.raises(InputError, match="nowhere does not exist"):
        predict_folder(checkpoint, tmp_path / "nowhere", tmp_path / "out", mpp=0.5)


def test_two_images_of_one_name_are_both_named(model, tmp_path):
    images = folder_of_images(tmp_path)
    (images / "tile0.jpg").write_bytes((images / "tile0.png").read_bytes())
    checkpoint = predict.save(tmp_path / "net.safetensors", model)
    with pytest.raises(InputError, match=r"tile0\.jpg and tile0\.png share a name"):
        predict_folder(checkpoint, images, tmp_path / "out", mpp=0.5)
    assert not (tmp_path / "out").exists()


def test_whoever_uses_a_checkpoint_is_told_of_missing_and_of_shuffled_types(model, tmp_path, capsys):
    from stpath_core import cli

    torch.manual_seed(0)
    bare = NucleiNet(encoder_args=SLIM, width=8, stride=1)
    images = folder_of_images(tmp_path)
    for network, labels, said in (
        (bare, {}, "nuclei are outlined, not typed"),
        (model, {"labels": "shuffled_0"}, "learned from shuffled labels"),
        (model, {"labels": "image_oriented"}, ""),
        (model, {}, ""),
    ):
        path = predict.save(tmp_path / "net.safetensors", network, dataset="virtual", **labels)
        assert predict.metadata(path) == {"dataset": "virtual", **labels}
        words = ["predict-nuclei", str(path), str(images), "--out", str(tmp_path / "out"), "--mpp", "0.5"]
        assert cli.main([*words, "--device", "cpu"]) == cli.OK
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stpath: ")]
        assert len(told) == bool(said)
        assert said in "".join(told)


def test_a_full_disk_is_one_line_and_leaves_no_half_of_a_file(model, tmp_path, monkeypatch, capsys):
    import errno

    from stpath_core import cli

    checkpoint = predict.save(tmp_path / "net.safetensors", model)
    images = folder_of_images(tmp_path)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    for broken in ("imageio.v3.imwrite", "pandas.DataFrame.to_csv", "os.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(broken, full)
            words = ["predict-nuclei", str(checkpoint), str(images), "--out", str(tmp_path / "out"), "--mpp", "0.5"]
            assert cli.main(words) == cli.FAILED
            told = capsys.readouterr().err.splitlines()[-1]
            assert told.startswith("stpath: ")
            assert "No space left on device" in told
        assert not (tmp_path / "out" / "nuclei.csv").exists()
        assert not list(tmp_path.rglob(".writing-*"))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        predict.save(tmp_path / "new.safetensors", model)
    assert not (tmp_path / "new.safetensors").exists()


def test_a_section_without_nuclei_has_no_features_and_stops_nothing(model):
    image = np.full((64, 64, 3), 200, np.uint8)
    some = np.zeros((64, 64), np.int32)
    some[10:20, 10:20], some[30:44, 30:40] = 1, 2
    sections = [
        NucleiSection(name, "breast", name, image, 0.5, mask) for name, mask in (("fat", some * 0), ("a", some))
    ]
    table = cache_features(model, sections)
    assert table.section.tolist() == [1, 1]
    assert table.labels([np.array([-1]), np.array([-1, 3, 0])]).tolist() == [3, 0]
    with pytest.raises(InputError, match="none of 1 sections"):
        cache_features(model, sections[:1])
