"""Intervals cover what they should; scores add up the way their definitions say."""

from dataclasses import replace

import numpy as np
import pytest

from stpath_core import evaluate, metrics
from stpath_core.data import NucleiSection, read_nuclei_stage, write_nuclei_stage


def section(name, image, organ="breast", patient=None, **more):
    ids = np.zeros(image.shape[:2], np.int32)
    return NucleiSection(name, organ, patient or name, image, 0.5, more.pop("instances", ids), **more)


def test_bootstrap_interval_covers_the_mean_at_its_rate():
    rng = np.random.default_rng(0)
    hits = [lo <= 5 <= hi for _, lo, hi in (evaluate.bootstrap(rng.normal(5, 2, 40), n=400) for _ in range(200))]
    assert 0.88 <= np.mean(hits) <= 0.99


def test_bootstrap_draws_whole_patients():
    rng = np.random.default_rng(0)
    effect = np.repeat(rng.normal(0, 1, 8), 50)  # all variance is between patients
    patients, spots = (evaluate.bootstrap(effect, g) for g in (np.repeat(np.arange(8), 50), None))
    assert patients.hi - patients.lo > 4 * (spots.hi - spots.lo)
    assert patients.mean == pytest.approx(effect.mean())


def test_bootstrap_of_too_little_is_undefined():
    np.testing.assert_equal(evaluate.bootstrap([]), (np.nan, np.nan, np.nan))
    np.testing.assert_equal(evaluate.bootstrap([1.0, np.nan]), (1.0, np.nan, np.nan))
    np.testing.assert_equal(evaluate.bootstrap([1.0, 2.0], ["p", "p"]), (1.5, np.nan, np.nan))


def test_paired_difference_counts_units():
    a, b = np.arange(12.0) % 5, np.arange(12.0) % 5 - 0.1
    result = evaluate.paired_difference(a, b)
    assert result.mean == pytest.approx(0.1)
    assert result.lo == pytest.approx(result.hi) == pytest.approx(0.1)
    assert result.sign_p == pytest.approx(2 / 2**12)
    grouped = evaluate.paired_difference(a, b, np.repeat([0, 1, 2], 4))
    assert grouped.sign_p == pytest.approx(2 / 2**3)
    assert evaluate.paired_difference(a, a).sign_p == 1


def blocks(n_rows=4, n_cols=4, cell=24, body=14):
    ids = np.zeros((n_rows * cell, n_cols * cell), np.int32)
    for i in range(n_rows * n_cols):
        row, col = divmod(i, n_cols)
        ids[row * cell + 4 :, col * cell + 4 :][:body, :body] = i + 1
    return ids


@pytest.fixture
def cohort():
    """Two kidney images (one predicted perfectly, one missing half) and one prostate image with wrong types."""
    ids, labels = blocks(), np.concatenate([[-1], np.arange(16) % 4]).astype(np.int8)
    image = np.full((*ids.shape, 3), 200, np.uint8)
    organs = ["kidney", "kidney", "prostate"]
    sections = [
        section(f"s{i}", image, organ, instances=ids * 0, truth_instances=ids, truth_labels=labels)
        for i, organ in enumerate(organs)
    ]
    half = np.where(ids <= 8, ids, 0)
    right = [labels[1:], labels[1:9], labels[1:]]
    wrong = [right[0], right[1], (right[2] + 1) % 4]
    return sections, [ids, half, ids], {"right": right, "wrong": wrong}


def test_scores_pool_counts_within_organs_and_average_organs(cohort):
    sections, predicted, types = cohort
    scores = evaluate.evaluate_nuclei(sections, predicted, types=types)
    assert list(scores.images.n_true) == [16, 16, 16]
    np.testing.assert_allclose(scores.images.pq, [1, 2 / 3, 1])
    np.testing.assert_allclose(scores.images.aji, [1, 0.5, 1])
    table = evaluate.organ_table(scores)
    assert table.loc["kidney", "detection_f1"] == pytest.approx(2 * 24 / (2 * 24 + 8))  # pooled: not (1 + 2/3) / 2
    assert table.loc["kidney", "aji"] == pytest.approx(0.75)
    assert table.loc["prostate", "type_f1.wrong"] == 0
    assert table.loc["prostate", "type_f1.right"] == 1
    overall = evaluate.summary(scores, n=200)
    assert overall.loc["aji", "mean"] == pytest.approx((0.75 + 1) / 2)
    assert overall.loc["aji", "lo"] == pytest.approx(0.75)
    assert overall.loc["aji", "hi"] == pytest.approx(1)
    assert (overall.lo <= overall["mean"]).all()


def test_without_strata_every_image_counts_once(cohort):
    sections, predicted, types = cohort
    scores = evaluate.evaluate_nuclei(sections, predicted, types=types)
    assert evaluate.summary(scores, strata=None, n=50).loc["aji", "mean"] == pytest.approx((1 + 0.5 + 1) / 3)


def test_oracle_types_are_right_wherever_something_was_found(cohort):
    sections, predicted, _ = cohort
    types = [evaluate.true_types(s, p) for s, p in zip(sections, predicted, strict=True)]
    scores = evaluate.evaluate_nuclei(sections, predicted, types={"oracle": types})
    assert scores.types["oracle"][:, :, 1].sum() == 0  # no false alarm
    assert scores.types["oracle"][:, :, 2].sum() == 8  # what was not found
    extra = predicted[1].copy()
    extra[90:, 90:] = 17  # far from any centre that is still there, or from all
    assert evaluate.true_types(sections[1], np.where(extra == 17, 9, predicted[1]))[8] == -1


def test_bpq_weighs_tiles_within_an_organ():
    small, large = blocks(), np.kron(blocks(), np.ones((6, 6), np.int32))  # 96 px: one tile; 576 px: four
    sections = [
        section(f"s{i}", np.zeros((*ids.shape, 3), np.uint8), truth_instances=ids)
        for i, ids in enumerate((small, large))
    ]
    scores = evaluate.evaluate_nuclei(sections, [small * 0, large])
    assert list(scores.tiles[:, 1]) == [1, 4]
    assert evaluate.organ_table(scores).loc["breast", "bpq"] == pytest.approx(4 / 5)
    assert "type_f1" not in "".join(scores.measures)


def test_annotated_masks_are_their_own_truth_and_lost_ids_are_nobody():
    ids = blocks()
    ids[ids == 3] = 0
    annotated = section("s", np.zeros((*ids.shape, 3), np.uint8), instances=ids)
    scores = evaluate.evaluate_nuclei([annotated], [metrics.resample_nearest(blocks(), mpp=1, to_mpp=1)])
    assert scores.images.n_true[0] == 15
    assert list(scores.detection[0]) == [15, 1, 0]


def test_stored_predictions_keep_the_truth_for_rescoring(cohort, tmp_path):
    sections, predicted, types = cohort
    scores = evaluate.evaluate_nuclei(sections, predicted, types={"right": types["right"]})
    stored = [
        evaluate.with_predictions(s, p, types=t, confidence=np.full(len(t), 0.9))
        for s, p, t in zip(sections, predicted, types["right"], strict=True)
    ]
    write_nuclei_stage(tmp_path / "p.h5", stored, dataset="virtual", classes=("a", "b", "c", "d"))
    back = read_nuclei_stage(tmp_path / "p.h5")
    again = evaluate.evaluate_nuclei(back, [s.instances for s in back], types={"right": [s.labels[1:] for s in back]})
    assert again.images.equals(scores.images)
    bare = evaluate.with_predictions(replace(sections[0], labels=types["right"][0]), predicted[0])
    assert bare.labels is None


def test_one_image_per_organ_has_no_interval(cohort):
    sections, predicted, types = cohort
    scores = evaluate.evaluate_nuclei(sections[1:], predicted[1:], types={k: v[1:] for k, v in types.items()})
    assert evaluate.summary(scores, n=50)[["lo", "hi"]].isna().all(axis=None)


def test_baseline_table_holds_every_method_and_measure(cohort):
    sections, predicted, types = cohort
    methods = {
        "network": evaluate.evaluate_nuclei(sections, predicted, types=types),
        "classical": evaluate.evaluate_nuclei(sections, [p * 0 for p in predicted]),
    }
    table = evaluate.baseline_table(methods, n=50, unit="patient")
    assert len(table) == 7 + 5
    shown = evaluate.readable(table)
    assert list(shown.columns) == ["network", "classical"]
    assert shown.loc["type_f1.wrong", "classical"] == ""
    assert shown.loc["pq", "classical"] == "0.000 [0.00, 0.00]"
    assert table.set_index(["method", "measure"]).loc[("classical", "pq"), "mean"] == 0
