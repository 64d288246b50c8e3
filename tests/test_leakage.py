"""Every kind of leak is planted and found, and what only looks like one is let through."""

from dataclasses import replace
from io import BytesIO

import imageio.v3 as iio
import numpy as np
import pytest

from stpath_core import evaluate
from stpath_core.data import NucleiSection
from stpath_core.errors import InputError


def picture(seed, size_px=160):
    """Noise with structure of some 10 px on it, so that crops differ and thumbnails do too."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.uniform(60, 200, (size_px // 16, size_px // 16, 3)), np.ones((16, 16, 1)))
    return (coarse + rng.normal(0, 12, coarse.shape)).clip(0, 255).astype(np.uint8)


def section(name, image, organ="breast", patient=None):
    ids = np.zeros(image.shape[:2], np.int32)
    return NucleiSection(name, organ, patient or name, image, 0.5, ids)


def test_clean_split_passes_and_says_what_was_compared():
    train, test = [section("a", picture(0)), section("b", picture(1))], [section("c", picture(2), organ="kidney")]
    report = evaluate.audit_split(train, test, apart=("patient", "organ"))
    assert list(report.index) == ["patient", "organ", "overlapping pixels", "duplicate image"]
    assert (report["shared"] == 0).all()
    assert (evaluate.audit_split(train, [])["in test"] == 0).all()  # nothing held out, nothing leaks


def jpeg(image):
    buffer = BytesIO()
    iio.imwrite(buffer, image, extension=".jpg", quality=80)
    return iio.imread(buffer.getvalue(), extension=".jpg")


big = picture(7, 320)
LEAKS = {
    "patient": (section("a", picture(0), patient="P1"), section("b", picture(1), patient="P1"), "patient 'P1'"),
    "organ": (section("a", picture(0)), section("b", picture(1)), "organ 'breast'"),
    "overlap": (section("a", big[:200, :200]), section("b", big[151:311, 139:299], "colon"), "overlapping.*'a'.*'b'"),
    "copy": (section("a", picture(3)), section("b", picture(3), "colon"), "duplicate.*'a'.*'b'"),
    "turned copy": (section("a", big), section("b", np.rot90(big)[:, ::-1], "colon"), "duplicate.*'a'.*'b'"),
    "recompressed copy": (section("a", big), section("b", jpeg(big), "colon"), "duplicate.*'a'.*'b'"),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_every_planted_leak_is_refused_by_name(leak):
    train, test, message = LEAKS[leak]
    others = [section("x", picture(11)), section("y", picture(12), organ="lung")]
    with pytest.raises(InputError, match=message):
        evaluate.audit_split([others[0], train], [others[1], test], apart=("patient", "organ"))


def test_shared_empty_glass_is_no_leak():
    images = [picture(0), picture(1)]
    for image in images:
        image[:120] = 240
        image[150:] = 0
    assert evaluate.audit_split(*([section(f"s{i}", image)] for i, image in enumerate(images))).shared.sum() == 0
    blank = np.full((64, 64, 3), 240, np.uint8)
    assert evaluate.audit_split([section("a", blank)], [section("b", blank)]).shared.sum() == 0


def test_a_section_without_a_patient_cannot_be_audited():
    nobody = replace(section("a", picture(0)), patient="")
    with pytest.raises(InputError, match="'a' has no patient"):
        evaluate.audit_split([nobody], [section("b", picture(1))])
