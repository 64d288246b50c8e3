"""`stpath fit` on packed files: nothing but the named packages, the notebooks' networks, files that come back whole."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from anndata import AnnData
from PIL import Image
from torch import nn

import only_these
import stage_files
from conftest import ROOT
from stpath_core import cli, manifest, nuclei, pack, predict, recognition_files, spot_methods, stage_fit
from stpath_core.data import NucleiTiles, read_nuclei_stage, write_nuclei_stage
from stpath_core.errors import InputError
from stpath_core.expression import patient_folds
from stpath_core.fit import fit
from stpath_core.prefetch import batches
from stpath_core.spot_files import read_spot_stage

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return stage_files.write_all(tmp_path_factory.mktemp("stages"))


def test_training_needs_no_package_beyond_those_named(files, tmp_path):
    parts = ("nuclei", "spots", "recognition")
    small = "--profile smoke --device cpu --folds 1"
    words = " -- ".join(f"fit {files}/{part}.h5 {small} --out {tmp_path}/{part}" for part in parts).split()
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, only_these.__file__, *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    for part in parts:
        assert json.loads((tmp_path / part / "fit.json").read_text())["scores"]
        assert list((tmp_path / part).glob("*.safetensors"))


def test_nuclei_come_out_as_the_notebook_trains_them(files, tmp_path):
    assert cli.main(["fit", str(files / "nuclei.h5"), "--profile", "smoke", "--out", str(tmp_path)]) == cli.OK
    sections = read_nuclei_stage(files / "nuclei.h5")
    assert nuclei.read_splits(tmp_path / "splits.json")[0].test == ("s2",)
    small = {"out_indices": [0, 1, 2], "channels": [8, 8, 16, 16], "stem_width": 8}
    wanted, _ = nuclei.train_split(sections, nuclei.Split(("s0", "s1"), ("s2",)), steps=3, encoder_args=small, width=8,
                                   batch_size=4, tile_px=64)  # fmt: skip
    found = predict.load(tmp_path / "nuclei.safetensors")
    for name, value in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    typed = predict.load(tmp_path / "nuclei_image_oriented.safetensors")
    assert typed.classes == stage_files.CLASSES
    assert {f"nuclei_shuffled_{k}.safetensors" for k in range(3)} <= {p.name for p in tmp_path.iterdir()}


def test_a_perfect_network_scores_one(monkeypatch):
    section = stage_files.sections(patients=1)[0]
    kept = predict.Nuclei(section.instances, *[None] * 6)
    monkeypatch.setattr(predict, "predict_image", lambda *_, **__: kept)
    scores = stage_fit.score_nuclei(None, [section], eight=False)
    assert scores == pytest.approx({"detection_f1": 1, "bpq": 1, "aji": 1, "pq": 1})


def test_packed_spots_are_the_folds_that_were_packed(files):
    table, profiles = stage_files.cohort()
    stage = read_spot_stage(files / "spots.h5")
    for test, found in zip(patient_folds(table.obs["patient"], 2), stage.folds, strict=True):
        wanted = spot_methods.make_fold(table, profiles, test, n_genes=40)
        assert list(stage.genes[found.columns]) == list(table.var_names[wanted.columns])
        np.testing.assert_array_equal(found.profiles, wanted.profiles)
        for side in ("train", "test"):
            for name in ("features", "density", "xy_um", "target", "patient", "section", "shares"):
                got, want = (getattr(getattr(fold, side), name) for fold in (found, wanted))
                np.testing.assert_array_equal(got, want, err_msg=name)
    told = stage_fit.patient_scores(stage.folds[0].test, stage.folds[0].test.target)
    assert [one["scc"] for one in told.values()] == pytest.approx([1.0, 1.0])


def test_a_fold_with_a_patient_on_both_sides_is_refused(files, tmp_path):
    (tmp_path / "leaky.h5").write_bytes((files / "spots.h5").read_bytes())
    with h5py.File(tmp_path / "leaky.h5", "r+") as file:
        test = file["folds/0/test"][...]
        test[test.argmax()] = False
        file["folds/0/test"][...] = test
    with pytest.raises(InputError, match="patients on both sides"):
        read_spot_stage(tmp_path / "leaky.h5")


def test_pictures_come_back_as_the_pixels_they_were(tmp_path):
    sections = stage_files.sections(side=40)

    def png(section):
        out = io.BytesIO()
        Image.fromarray(section.image).save(out, "png")
        return out.getvalue()

    write_nuclei_stage(tmp_path / "x.h5", sections, dataset="virtual", classes=("a",), pictures=png)
    for wanted, found in zip(sections, read_nuclei_stage(tmp_path / "x.h5"), strict=True):
        np.testing.assert_array_equal(found.image, wanted.image)
        np.testing.assert_array_equal(found.instances, wanted.instances)
        np.testing.assert_array_equal(found.labels, wanted.labels)


def test_a_folder_of_masks_is_packed_with_its_own_jpegs(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for s in stage_files.sections(side=64):
        Image.fromarray(s.image).save(tmp_path / "images" / f"{s.name}.jpg", quality=90)
        Image.fromarray(s.instances.astype(np.uint16)).save(tmp_path / "labels" / f"{s.name}.png")
    words = ["pack", "nuclei", "--dataset", "masks", "--data-dir", str(tmp_path), "--mpp", "0.5"]
    assert cli.main([*words, "--to", str(tmp_path / "x.h5")]) == cli.OK
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["sections/s1/picture"][...].tobytes() == (tmp_path / "images" / "s1.jpg").read_bytes()
    seen = nuclei.open_sections("masks", data_dir=str(tmp_path), mpp=0.5)
    for wanted, found in zip(seen, read_nuclei_stage(tmp_path / "x.h5"), strict=True):
        np.testing.assert_array_equal(found.image, wanted.image)
    words = ["fit", str(tmp_path / "x.h5"), "--profile", "smoke", "--out", str(tmp_path), "--holdout", "s0"]
    assert cli.main(words) == cli.OK
    assert json.loads((tmp_path / "fit.json").read_text())["held_out"] == ["s0"]


def test_the_image_encoder_of_each_held_out_patient_is_read_by_the_notebooks(files, tmp_path):
    options = stage_fit.Options(profile="smoke", out=tmp_path, folds=2)
    told = stage_fit.fit_stage(files / "recognition.h5", options)
    assert told["held_out"] == ["p0", "p1"]
    stage = recognition_files.read_stage(files / "recognition.h5")
    model = recognition_files.load(tmp_path / "patch_encoder_p1.safetensors")
    with h5py.File(tmp_path / "embeddings.h5") as file:
        with torch.no_grad():
            again = model.place(torch.from_numpy(stage.pairs.image)).numpy()
        np.testing.assert_allclose(again, file["p1/image"][...], atol=1e-5)
    sides = recognition_files.read_sides(tmp_path / "embeddings.h5")
    assert sides["p0"]["gene"].shape == (len(stage.pairs), options.values("30_gene_encoder")["latent"])


def test_the_gene_encoder_of_real_tables_takes_twice_the_steps_as_in_notebook_30(files, tmp_path):
    told = {}
    for name in ("virtual", "her2st"):
        path = tmp_path / f"{name}.h5"
        path.write_bytes((files / "recognition.h5").read_bytes())
        with h5py.File(path, "r+") as file:
            file.attrs["dataset"] = name
        told[name] = stage_fit.fit_stage(path, stage_fit.Options(profile="smoke", out=tmp_path, folds=1))["steps"]
    assert told["her2st"] == [2 * told["virtual"][0], told["virtual"][1]]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["fit", "none.h5"], "there is no stage file"),
        (["fit", "{files}/odd.h5"], "schema 'other'"),
        (["fit", "{files}/nuclei.h5", "--steps", "0"], "steps is 0"),
        (["fit", "{files}/spots.h5", "--folds", "0"], "folds is 0"),
        (["fit", "{files}/nuclei.h5", "--workers", "-1"], "workers is -1"),
        (["fit", "{files}/spots.h5", "--holdout", "p0"], "--holdout names sections of nuclei"),
        (["fit", "{files}/nuclei.h5", "--profile", "huge"], "no profile 'huge'"),
        (["fit", "{files}/nuclei.h5", "--profile", "smoke", "--holdout", "s9"], "not in the data"),
        (["pack", "spots", "--to", "x.h5", "--data-dir", "tiles"], "are of nuclei"),
        (["pack", "nuclei", "--to", "x.h5", "--most", "-1"], "--most is -1"),
        (["pack", "nuclei", "--to", "x.h5", "--dataset", "monuseg"], "--data-dir FOLDER"),
        (["pack", "spots", "--to", "x.h5", "--dataset", "slides"], "slides are not packed"),
        (["pack", "spots", "--to", "x.h5", "--dataset", "nobody"], "no finished run of 21_cpnn_train"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(files, tmp_path, monkeypatch, capsys, words, hint):
    with h5py.File(files / "odd.h5", "w") as file:
        file.attrs["schema"] = "other"
    monkeypatch.chdir(tmp_path)
    assert cli.main([word.format(files=files) for word in words]) == cli.USAGE
    said = capsys.readouterr().err
    assert hint in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def finished(cache, name, key, kind, day):
    """The folder of a run that is finished."""
    folder = cache / "stages" / name / key
    folder.mkdir(parents=True)
    marker = {"run": f"2026-{name}-{kind}", "finished": f"2026-01-0{day}"}
    (folder / "complete.json").write_text(json.dumps(marker))
    return folder


def test_the_newest_finished_run_of_a_data_set_is_packed(tmp_path, monkeypatch):
    monkeypatch.setenv("STPATH_CACHE", str(tmp_path))
    for key, data, day in (("a", "virtual", 1), ("b", "virtual", 2), ("c", "her2st", 3)):
        finished(tmp_path, "21_cpnn_train", key, f"{data}-cpu-s0", day)
    assert pack.newest("21_cpnn_train", "virtual").name == "b"


def test_pictures_are_packed_with_the_counts_of_their_own_tissue(tmp_path, monkeypatch):
    """Spots are called the same in every virtual tissue, so a newer run of another seed would fit without a word."""
    monkeypatch.setenv("STPATH_CACHE", str(tmp_path))
    patches = np.random.default_rng(0).integers(0, 255, (120, 8, 8, 3)).astype(np.uint8)
    tissues = {0: stage_files.cohort()[0], 1: stage_files.cohort()[0]}
    tissues[1].layers["counts"] = tissues[1].layers["counts"][::-1].tocsr()
    for seed, table in tissues.items():
        table.obs["label"], table.uns["n_genes"] = "gland", 1000
        table.obs.loc[table.obs_names[119], "label"] = np.nan
        table.write_h5ad(
            finished(tmp_path, "30_gene_encoder", f"e{seed}", f"virtual-smoke-s{seed}-2", 2 + seed) / "spots.h5ad"
        )
    trained = finished(tmp_path, "31_contrastive_train", "t", "virtual-smoke-s0", 3)
    shown = np.arange(119, -1, -2)
    np.savez(trained / "pairs.npz", names=tissues[0].obs_names[shown].to_numpy(str), patches=patches[shown])
    assert cli.main(["pack", "recognition", "--to", str(tmp_path / "x.h5")]) == cli.OK
    stage = recognition_files.read_stage(tmp_path / "x.h5")
    np.testing.assert_array_equal(stage.counts, tissues[0].layers["counts"].toarray()[shown])
    np.testing.assert_array_equal(stage.pairs.image, patches[shown].transpose(0, 3, 1, 2))
    assert list(stage.label[:2]) == ["unlabelled", "gland"]  # not a class of its own, called nan
    tissues[0].uns["n_genes"] = 25  # as that run was told, whatever a profile says
    tissues[0].write_h5ad(pack.newest("30_gene_encoder", "virtual", beside=trained) / "spots.h5ad")
    assert cli.main(["pack", "recognition", "--to", str(tmp_path / "few.h5")]) == cli.OK
    columns = recognition_files.read_stage(tmp_path / "few.h5").columns
    assert {len(of) for of in columns.values()} == {25}
    (trained / "complete.json").write_text(
        json.dumps({"run": "2026-31_contrastive_train-virtual-cpu-s0", "finished": "2026"})
    )
    with pytest.raises(InputError, match="no finished run of 30_gene_encoder on virtual beside"):
        pack.pack_recognition(tmp_path / "y.h5", dataset="virtual")


def test_spots_are_packed_with_the_folds_and_the_prototypes_of_their_own_run(tmp_path, monkeypatch):
    monkeypatch.setenv("STPATH_CACHE", str(tmp_path))
    table, profiles = stage_files.cohort()
    for seed in (0, 1):
        folder = finished(tmp_path, "20_prototypes", f"p{seed}", f"virtual-smoke-s{seed}", 2 + seed)
        AnnData(profiles * (1 + np.arange(130) * seed)).write_h5ad(folder / "prototypes_medium.h5ad")
    trained = finished(tmp_path, "21_cpnn_train", "t", "virtual-smoke-s0", 4)
    splits = patient_folds(table.obs["patient"], 2)
    told = AnnData(obs=table.obs.assign(fold=splits[1].astype(int)), var=table.var)
    told.layers["target"] = np.where(np.arange(130) < 40, 0.0, np.nan) * np.ones((len(told), 1))
    table.write_h5ad(trained / "cohort.h5ad")
    told.write_h5ad(trained / "spots.h5ad")
    assert cli.main(["pack", "spots", "--to", str(tmp_path / "x.h5")]) == cli.OK
    for found, test in zip(read_spot_stage(tmp_path / "x.h5").folds, splits, strict=True):
        wanted = spot_methods.make_fold(table, profiles, test, n_genes=40)
        np.testing.assert_array_equal(found.test.xy_um, wanted.test.xy_um)
        np.testing.assert_allclose(found.profiles, wanted.profiles)
        assert found.test.target.shape[1] == 40


def test_threads_ahead_change_no_batch_and_no_training():
    tiles = NucleiTiles(stage_files.sections(), mpp=0.5, stride=1, size_px=32, batch_size=3)
    for step, batch in enumerate(batches(tiles, range(9), CPU, workers=3)):
        assert torch.equal(batch.image, tiles(step).image)
        assert torch.equal(batch.instances, tiles(step).instances)
    histories = []
    for workers in (0, 2):
        torch.manual_seed(0)
        net = nn.Conv2d(3, 1, 3)
        loss = lambda m, b: {"loss": m(b.image.float() / 255).square().mean()}  # noqa: E731
        histories.append(fit(net, loss, tiles, steps=5, workers=workers))
    assert histories[0] == histories[1]


def test_what_is_undefined_is_null_in_what_a_fit_tells():
    told = manifest.without_nan({"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": ("x", 2)}})
    assert told == {"a": None, "b": [1.5, None], "c": {"d": ["x", 2]}}


def test_an_error_of_a_batch_comes_at_its_step_and_no_thread_stays():
    def batch_at(step):
        if step == 3:
            raise ValueError("step three")
        return torch.full((1,), float(step))

    stream = batches(batch_at, range(10), CPU, workers=2)
    assert [float(next(stream)) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="step three"):
        next(stream)
    left = batches(lambda step: torch.zeros(1), range(10**6), CPU, workers=2)
    next(left)
    left.close()
    until = time.monotonic() + 5
    while any(t.name.startswith("batches") for t in threading.enumerate()) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(t.name.startswith("batches") for t in threading.enumerate())


def test_records_read_in_chunks_are_those_read_one_by_one(monkeypatch):
    """On a GPU records come many steps at a time; here the CPU plays the GPU's part in `_read`."""
    from stpath_core import fit as room

    values = [{"loss": torch.tensor(float(k)), "grad_norm": torch.tensor(k / 7)} for k in range(5)]
    pending = [({"step": k + 1}, given) for k, given in enumerate(values)]
    room._read(pending, 0.1)
    assert [r for r, _ in pending] == [
        {"step": k + 1, "loss": k, "grad_norm": torch.tensor(k / 7).item()} for k in range(5)
    ]
    bad = [({"step": 1}, values[0]), ({"step": 2}, {"loss": torch.tensor(float("nan"))})]
    with pytest.raises(InputError, match="at step 2"):
        room._read(bad, 0.1)


def test_a_holdout_that_splits_a_patient_is_refused():
    sections = [replace(s, patient="same") for s in stage_files.sections()]
    with pytest.raises(InputError, match="both sides"):
        stage_fit._nuclei_split(sections, ["s0"], virtual=True)
