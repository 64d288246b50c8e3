"""Simulated annotators err as much as they are told to, and the tiles that match a score are read off a curve."""

import numpy as np
import pandas as pd
import pytest

from stpath_core import metrics
from stpath_core.annotation import Annotator, annotated_tiles, bootstrap_tiles_to_match, tiles_to_match
from stpath_core.data import NucleiSection
from stpath_core.errors import InputError
from stpath_core.evaluate import MEASURES, NucleiScores

PERFECT = Annotator(missed=0, wobble_um=0, mistyped=0)


def planted(name="a", size=512, mpp=0.5, seed=0):
    """Round nuclei of 8 um on a jittered lattice, of four classes in turn."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((size, size), np.int32)
    y, x = np.mgrid[:size, :size]
    centres = [(cy, cx) for cy in range(20, size - 20, 32) for cx in range(20, size - 20, 32)]
    for k, (cy, cx) in enumerate(centres, 1):
        dy, dx = rng.integers(-4, 5, 2)
        window = np.s_[max(cy - 16, 0) : cy + 16, max(cx - 16, 0) : cx + 16]
        truth[window][(y[window] - cy - dy) ** 2 + (x[window] - cx - dx) ** 2 < 8**2] = k
    labels = np.r_[-1, np.arange(len(centres)) % 4].astype(np.int8)
    image = np.zeros((size, size, 3), np.uint8)
    return NucleiSection(
        name, "breast", name, image, mpp, np.zeros_like(truth), truth_instances=truth, truth_labels=labels
    )


def annotate(annotator, seed=0):
    section = planted()
    return section, annotator.annotate(section, n_classes=4, rng=np.random.default_rng(seed))


def test_a_perfect_annotator_gives_the_truth():
    section, drawn = annotate(PERFECT)
    np.testing.assert_array_equal(drawn.instances, section.truth_instances)
    np.testing.assert_array_equal(drawn.labels, section.truth_labels)


def test_as_many_nuclei_are_missed_and_mistyped_as_was_asked():
    section, drawn = annotate(Annotator(missed=0.3, wobble_um=0, mistyped=0.2))
    n = section.truth_instances.max()
    assert drawn.instances.max() / n == pytest.approx(0.7, abs=0.1)
    assert len(drawn.labels) == drawn.instances.max() + 1
    old = [np.unique(section.truth_instances[drawn.instances == k])[0] for k in range(1, drawn.instances.max() + 1)]
    wrong = drawn.labels[1:] != section.truth_labels[old]
    assert wrong.mean() == pytest.approx(0.2, abs=0.08)
    assert set(drawn.labels[1:]) <= set(range(4))


def test_borders_wobble_as_far_as_was_asked_and_nuclei_stay_where_they_are():
    overlaps = []
    for wobble_um in (0.25, 0.5, 1.0):
        section, drawn = annotate(Annotator(missed=0, wobble_um=wobble_um, mistyped=0))
        overlaps.append(metrics.dice(section.truth_instances, drawn.instances))
        moved = metrics.centroids_um(drawn.instances, mpp=0.5) - metrics.centroids_um(section.truth_instances, mpp=0.5)
        assert np.abs(moved).mean() < wobble_um
    assert 1 > overlaps[0] > overlaps[1] > overlaps[2] > 0.6


def test_tiles_hold_only_themselves_are_nested_and_spread_over_the_sections():
    sections = [planted("a"), planted("b", seed=1)]
    five, two = (annotated_tiles(sections, n, tile_um=64, annotator=PERFECT, seed=3) for n in (5, 2))
    assert [t.patient for t in five] == ["a", "b", "a", "b", "a"]
    for few, many in zip(two, five, strict=False):
        np.testing.assert_array_equal(few.instances, many.instances)
    for t in five:
        assert t.image.shape[:2] == t.instances.shape == (128, 128)
        assert len(t.labels) == t.instances.max() + 1
        assert len(np.unique(t.instances)) == len(t.labels)
    with pytest.raises(InputError, match="wider than section"):
        annotated_tiles(sections, 1, tile_um=300)


def test_no_annotator_is_simulated_for_real_tissue_and_shares_are_shares():
    section = planted()
    real = NucleiSection("r", "breast", "r", section.image, 0.5, section.truth_instances)
    with pytest.raises(InputError, match="no planted truth"):
        Annotator().annotate(real, n_classes=4, rng=np.random.default_rng(0))
    with pytest.raises(InputError, match="between 0 and 1"):
        Annotator(missed=1.5)


def test_the_crossing_is_read_between_points_on_a_log_scale():
    assert tiles_to_match([4, 16], [0.4, 0.6], 0.5) == pytest.approx(8)
    assert tiles_to_match([16, 4], [0.6, 0.4], 0.5) == pytest.approx(8)
    assert tiles_to_match([4, 16], [0.4, 0.6], 0.3) == 4
    assert tiles_to_match([4, 16], [0.4, 0.6], 0.7) == float("inf")
    assert tiles_to_match([4, 8, 16], [0.4, 0.3, 0.6], 0.5) == pytest.approx(8 * 2**0.5)  # a dip is no crossing


def scores_of(dice):
    images = pd.DataFrame(
        {"name": ["a", "b", "c", "d"], "organ": ["x", "x", "y", "y"], "patient": ["a", "b", "c", "d"]}
    )
    images = images.assign(**{m: 0.5 for m in MEASURES} | {"dice": dice})
    return NucleiScores(images, np.ones((4, 3)), np.ones((4, 2)), {})


def test_the_interval_draws_the_same_images_for_curve_and_target():
    spread = np.array([0.1, -0.1, 0.2, -0.2])  # hard and easy images move all methods alike
    curve = {4: scores_of(0.4 + spread), 16: scores_of(0.6 + spread)}
    value, lo, hi = bootstrap_tiles_to_match(curve, scores_of(0.5 + spread), "dice", n=200)
    assert value == pytest.approx(8)
    assert lo == pytest.approx(8)
    assert hi == pytest.approx(8)
