"""Recognition of unseen patients: pictures of spots, probe, retrieval, gain, checkpoints, arms, maps of attention."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from stpath_core import (
    expression,
    keys,
    leakage,
    probes,
    recognition,
    recognition_arms,
    recognition_files,
    recognition_study,
    tissue,
)
from stpath_core import recognition_scores as scores
from stpath_core.errors import InputError
from stpath_core.spot_pictures import cohort_patches, common_stain, pictured, resized
from test_contrastive import QUICK, planted


@pytest.fixture(scope="module")
def cohort():
    return tissue.spot_cohort(2, rows=3, columns=3, seed=7)


def test_patches_lie_on_their_spots_at_any_resolution(cohort):
    coarse, fine = cohort_patches(cohort, mpp=2.0), cohort_patches(cohort, mpp=1.0)
    assert coarse.shape == (18, 56, 56, 3)
    assert fine.shape == (18, 112, 112, 3)
    together = np.corrcoef(coarse.mean((1, 2)).ravel(), fine.mean((1, 2)).ravel())[0, 1]
    assert together > 0.98
    name = cohort.obs[keys.SECTION].iloc[9]
    image, (x, y) = tissue.spot_image(cohort, name, mpp=2.0), cohort.obsm[keys.SPATIAL][11] / 2.0
    top, left = round(y - 28), round(x - 28)
    assert np.array_equal(coarse[11], image[top : top + 56, left : left + 56])


def test_shuffled_rows_keep_their_own_patch(cohort):
    order = np.random.default_rng(0).permutation(cohort.n_obs)
    assert np.array_equal(cohort_patches(cohort[order].copy()), cohort_patches(cohort)[order])


def test_a_common_stain_takes_the_stain_of_a_section_away_and_leaves_its_pattern():
    rng = np.random.default_rng(0)
    one = rng.integers(60, 200, (6, 40, 40, 3)).astype(np.uint8)
    pale = np.clip(255 * (one / 255.0) ** 0.6, 0, 255).astype(np.uint8)
    both = common_stain(np.concatenate([one, pale]), np.array(["a"] * 6 + ["b"] * 6))
    assert abs(both[:6].mean() - both[6:].mean()) < 0.2 * abs(one.mean() - pale.mean())
    assert np.corrcoef(both[6:].ravel(), pale.ravel())[0, 1] > 0.9


def test_resizing_keeps_what_a_patch_shows():
    patch = np.zeros((1, 64, 64, 3), np.uint8)
    patch[:, :32] = 200
    small = resized(patch, 16)
    assert small.shape == (1, 16, 16, 3)
    assert small[0, :7].min() == 200
    assert small[0, 9:].max() == 0


@pytest.mark.real
def test_spots_with_a_picture_are_those_of_the_six_sections(real_data):
    import anndata

    from stpath_core import io

    folder = real_data / "her2st"
    opened = io.open_st(folder, ["A1", "B4", "D1"])
    spots = anndata.concat(opened, join="inner")
    light = pictured(spots, data_dir=str(folder))
    assert set(light.obs[keys.SECTION].astype(str)) == {"A1", "B4"}
    patches = cohort_patches(light[::40].copy())
    assert patches.shape[1:] == (56, 56, 3)
    assert patches.std((1, 2, 3)).min() > 5
    with pytest.raises(InputError, match="has an image"):
        pictured(spots[spots.obs[keys.SECTION] == "D1"].copy(), data_dir=str(folder))


def test_the_probe_answers_without_the_labels_it_asks_for():
    pairs, z, label = planted()
    folds = {who: z for who in pairs.patients}
    found = probes.judge(folds, label, pairs.patient)
    assert found.pooled > 0.8
    assert set(found.patient) == set(pairs.patients)
    other = np.where(pairs.patient == "p1", np.roll(label, 1), label)
    again = probes.judge({"p1": z}, other, pairs.patient)
    own = pairs.patient == "p1"
    assert np.array_equal(again.predicted[own], found.predicted[own])


def test_undetermined_spots_are_neither_told_nor_asked():
    pairs, z, label = planted()
    some = label.astype(object)
    some[:60] = keys.UNDETERMINED
    found = probes.judge({who: z for who in pairs.patients}, some.astype(str), pairs.patient)
    assert keys.UNDETERMINED not in found.predicted
    without = probes.judge({who: z[60:] for who in pairs.patients}, label[60:], pairs.patient[60:])
    assert found.pooled == pytest.approx(without.pooled)


def test_a_class_of_one_patient_is_named_and_costs_everyone():
    pairs, z, label = planted()
    label = label.astype(object)
    label[(pairs.patient == "p2") & (label == "a")] = "rare"
    label = label.astype(str)
    assert probes.lonely_classes(label, pairs.patient) == ["rare"]
    found = probes.judge({who: z for who in pairs.patients}, label, pairs.patient)
    assert found.patient["p2"] < min(found.patient[who] for who in ("p0", "p1", "p3"))
    with pytest.raises(InputError, match="hold 1 classes"):
        probes.classed(np.array(["a", "a", keys.UNLABELLED]))


def test_retrieval_of_twins_is_perfect_and_of_strangers_chance():
    rng = np.random.default_rng(0)
    u = rng.normal(size=(200, 8))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    section = np.repeat(["a", "b"], 100)
    same = scores.retrieval(u, u, section, np.arange(200))
    assert same["rank.image_to_gene"] == same["rank.gene_to_image"] == 0
    assert same["found.image_to_gene"] == 1
    strange = scores.retrieval(u, u[rng.permutation(200)], section, np.arange(200))
    assert strange["rank.image_to_gene"] == pytest.approx(0.5, abs=0.06)
    assert strange["found.gene_to_image"] == pytest.approx(strange["chance"], abs=0.06)
    flat = scores.retrieval(np.ones((50, 2)), np.ones((50, 2)), np.full(50, "a"), np.arange(50))
    assert flat["rank.image_to_gene"] == pytest.approx(0.5)  # ties are no luck


def test_few_labels_are_so_many_of_each_class_and_none_of_the_held_out():
    pairs, z, label = planted()
    told = scores.few_told(label, pairs.patient, 3, held_out="p1", seed=0)
    assert sorted(label[told]) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    assert not told[pairs.patient == "p1"].any()
    few = scores.judge_few({"p1": z}, label, pairs.patient, {"p1": told})
    assert 0.3 < few.pooled <= probes.judge({"p1": z}, label, pairs.patient).pooled + 0.05


def test_labels_are_transferred_by_expression_to_unlabelled_spots_of_other_patients_only():
    pairs, z, label = planted()
    hidden = np.where((np.arange(240) % 2 == 0) | (pairs.patient == "p0"), label, keys.UNLABELLED)
    hidden[(pairs.patient == "p0") & (np.arange(240) % 3 == 0)] = keys.UNLABELLED
    out = scores.transferred(z, hidden, pairs.patient, "p0")
    filled = (hidden == keys.UNLABELLED) & (pairs.patient != "p0")
    assert (out[filled] == label[filled]).mean() > 0.8
    assert np.array_equal(out[~filled], hidden[~filled])


def test_the_gain_is_paired_over_patients_against_the_better_rival():
    make = lambda values: probes.Scores(0.0, dict(zip("abcd", values, strict=True)), np.array([]))  # noqa: E731
    ours, weak, strong = make([0.6, 0.7, 0.5, 0.8]), make([0.1] * 4), make([0.5, 0.6, 0.4, 0.7])
    lead = scores.gain(ours, [weak, strong])
    assert lead.mean == pytest.approx(0.1)
    assert (lead.lo, lead.hi) == (pytest.approx(0.1), pytest.approx(0.1))


def test_a_checkpoint_comes_back_as_it_was_and_nothing_else_comes_in(tmp_path):
    pairs, z, _ = planted(80)
    model, _ = recognition.train(pairs, z, np.arange(60), settings=QUICK)
    path = recognition_files.save(tmp_path / "m.safetensors", model, settings=QUICK, held_out="p0")
    again = recognition_files.load(path)
    assert np.array_equal(recognition.embed(again, pairs.image), recognition.embed(model, pairs.image))
    small = recognition.Settings(encoder="resnet10t", encoder_args={"channels": [8, 8, 16, 16], "stem_width": 8}, dim=8)
    patches = np.random.default_rng(0).integers(0, 255, (80, 3, 32, 32)).astype(np.uint8)
    seen = recognition.Pairs(patches, pairs.xy_um, pairs.patient, pairs.section)
    deep = recognition.untrained(seen, np.arange(60), settings=small)
    back = recognition_files.load(recognition_files.save(tmp_path / "p.safetensors", deep, settings=small))
    assert np.array_equal(recognition.embed(back, patches[:4]), recognition.embed(deep, patches[:4]))
    (tmp_path / "evil.safetensors").write_bytes(b"\x80\x04.")
    for bad in ("evil.safetensors", "absent.safetensors"):
        with pytest.raises(InputError, match="no checkpoint of an image encoder"):
            recognition_files.load(tmp_path / bad)


def test_covering_what_matters_costs_most():
    class Corner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :1, :16, :16].float().mean((2, 3)) / 255  # looks at the upper left corner alone

    model = nn.Module()
    model.place, model.weight = Corner(), nn.Parameter(torch.zeros(1))
    patches = np.full((2, 3, 48, 48), 40, np.uint8)
    patches[:, :, :16, :16] = 250
    heat = recognition.occlusion(model, patches, np.ones((2, 1), np.float32), cover=16, step=16)
    assert heat.shape == (2, 3, 3)
    assert heat[0, 0, 0] == 1
    assert heat.sum() == pytest.approx(2)


def test_every_arm_is_blind_to_the_labels_of_the_held_out():
    pairs, z, label = planted(160)
    sides = {"p0": dict.fromkeys(("raw", "scvi", "scanvi", "section_z"), z)}
    pictures = {recognition_arms.AS_SCANNED: pairs, recognition_arms.COMMON_STAIN: pairs}
    quick = recognition.Settings(steps=3, dim=4, width=8)

    def stages(told: np.ndarray) -> np.ndarray:
        found = recognition_arms.embed_arms(pictures, sides, told, settings=quick, folds=["p0"])
        assert set(found) == set(recognition_arms.ARMS)
        return np.concatenate([u["p0"] for u in found.values()], axis=1)

    leakage.audit_labels(stages, label, pairs.patient == "p0")
    with pytest.raises(InputError, match="no pictures common stain"):
        recognition_arms.embed_arms({recognition_arms.AS_SCANNED: pairs}, sides, label, settings=quick, folds=["p0"])


def test_turning_the_batch_off_leaves_everything_else():
    usual, calm = tissue.AssayEffects(), recognition_study.with_batch(0.0)
    changed = {k for k, v in usual.as_dict().items() if calm.as_dict()[k] != v}
    assert changed == {*recognition_study.BATCH, recognition_study.DEPTH}
    strong = recognition_study.with_batch(2.0)
    assert strong.expression_batch == 2 * usual.expression_batch
    assert strong.section_depth == usual.section_depth
    assert recognition_study.with_batch(0.5).section_depth == usual.section_depth / 2


def test_pictures_follow_their_spots_by_name():
    grown = recognition_study.grown(3, 5, 3, tissue.AssayEffects())
    number = np.arange(grown.n_obs, dtype=np.float32)[:, None]
    fewer = grown[np.random.default_rng(0).permutation(grown.n_obs)[:40]]
    cohort, pairs = recognition_study.matched(fewer, grown.obs_names[5:], {"number": number[5:]})
    assert cohort.n_obs == len(pairs["number"]) == sum(name in grown.obs_names[5:] for name in fewer.obs_names)
    assert list(grown.obs_names[pairs["number"].image[:, 0].astype(int)]) == list(cohort.obs_names)


def test_leads_are_of_one_arm_for_all_tissues_and_of_every_patient():
    arms = {"raw_clip": 0.5, "bleep": 0.4, "scvi": 0.6, "scanvi_inter": 0.55, "beyond": 0.7, "random_common_stain": 0.8}
    rows = [
        (tissue_, f"{arm}.{who}", value + 0.1 * tissue_ + (0.02 if (arm, who) == ("scvi", "p1") else 0))
        for tissue_ in (0, 1) for who in ("p0", "p1", "pooled", "mean") for arm, value in arms.items()
    ]  # fmt: skip
    rows += [(0, f"{side}.identity.p0", 0.99) for side in recognition_study.GRID]
    found = recognition_study.leads(pd.DataFrame(rows, columns=["tissue", "key", "value"]))
    assert len(found) == 4
    np.testing.assert_allclose(found["gain"].unstack("patient").to_numpy(), [[0.1, 0.12]] * 2)
    np.testing.assert_allclose(found["stain"], 0.1)


def test_gains_of_the_strength_study_are_of_one_pair_of_arms_and_of_each_cell():
    arms = {"raw_clip": 0.4, "bleep": 0.5, "scvi": 0.55, "scanvi_inter": 0.6}
    cells = [(0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (2.0, 0.5)]
    rows = [
        (0, strength, confounding, f"{arm}.{who}", value - (0.1 * strength if arm == "bleep" else 0))
        for strength, confounding in cells[:3] for who in ("p0", "p1") for arm, value in arms.items()
    ]  # fmt: skip
    rows += [(0, *cells[3], f"{arm}.mean", None) for arm in arms]  # a cell that the study leaves out
    found = recognition_study.gains(pd.DataFrame(rows, columns=["tissue", "strength", "confounding", "key", "value"]))
    assert list(found) == ["strength 0", "strength 1", "confounding 0.5"]
    np.testing.assert_allclose(found.to_numpy(), [[0.1, 0.2, 0.2]] * 2)  # over bleep


def test_expression_is_predicted_from_what_tells_it_and_not_from_noise():
    grown = recognition_study.grown(3, 5, 3, tissue.AssayEffects())
    patient, told = grown.obs[keys.PATIENT].astype(str).to_numpy(), {}
    known = expression.target(grown.layers[keys.COUNTS], expression.panel(grown.X, np.arange(grown.n_obs), 10))
    noise = np.random.default_rng(0).normal(size=known.shape).astype(np.float32)
    for name, x in (("known", known), ("noise", noise)):
        folds = dict.fromkeys(sorted(set(patient)), x)
        predicted, measured = recognition_study.predict_expression(grown, folds, genes=10)
        told[name] = np.mean([np.corrcoef(p, m)[0, 1] for p, m in zip(predicted.T, measured.T, strict=True)])
    assert told["known"] > 0.8
    assert abs(told["noise"]) < 0.3
    for some in recognition_study.predict_expression(grown, {patient[0]: known}, genes=10):
        assert np.array_equal(np.isnan(some).all(1), patient != patient[0])


def test_a_frozen_network_is_cut_to_as_many_components_and_fitted_without_the_held_out():
    pairs, _, _ = planted(60)
    patches = np.random.default_rng(0).integers(0, 255, (60, 16, 16, 3)).astype(np.uint8)
    bright = patches.copy()
    bright[pairs.patient == "p0"] //= 2

    encoder = nn.Flatten()
    lower = {name: recognition_arms.frozen_arm(AsFloat(encoder), x, pairs.patient, ["p0"], dim=5)["p0"]
             for name, x in (("as", patches), ("bright", bright))}  # fmt: skip
    others = pairs.patient != "p0"
    assert lower["as"].shape == (60, 5)
    assert np.allclose(lower["as"][others], lower["bright"][others])


class AsFloat(nn.Module):
    """A network that reads whole numbers."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x.float())


def test_a_tissue_goes_from_its_seed_to_scores():
    arms = {name: recognition_arms.ARMS[name] for name in ("random", "supervised", "raw_clip", "beyond")}
    quick = recognition.Settings(steps=2, dim=4, width=8)
    told = recognition_study.run_tissue(3, arms, array=5, patients=3, gene_steps=2, settings=quick)
    assert {"random.pooled", "beyond.mean"} <= set(told)
    assert all(0 <= value <= 1 for value in told.values())
    assert len([key for key in told if key.startswith("raw_clip.")]) == 2 + 3


def test_the_studies_train_the_gene_encoder_as_notebook_30_does():
    from stpath_core import recognition_study, stages

    values = stages.find_notebook("30_gene_encoder").resolve({"profile": "cpu"})
    unguided, guided = recognition_study.ENCODERS["scvi"], recognition_study.ENCODERS["scanvi"]
    assert {name: values[name] for name in unguided} == unguided
    assert {"kl_weight": values["guided_kl_weight"]} | {n: values[n] for n in ("batch_size", "latent")} == guided
    assert values["steps"] == recognition_study.GENE_STEPS
