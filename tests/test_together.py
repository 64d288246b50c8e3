"""The parts joined: nuclei counted where they lie, ties that teach what they say, nobody asked whom a part has met."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from stpath_core import findings, latest, manifest, spot_methods, spot_nuclei, together, together_tables
from stpath_core.correlation import pearson
from stpath_core.errors import InputError
from stpath_core.expression_folds import Fold
from stpath_core.spots import SpotTable, cut_patches
from stpath_core.tissue import spot_cohort
from stpath_core.tissue.architecture import grow
from stpath_core.tissue.assay_effects import AssayEffects
from stpath_core.tissue.cell_types import FINE_TYPES, SUPER_CLASSES, SUPER_INDEX, SUPER_OF
from stpath_core.tissue.spots import measure_spots, section_size, spot_array

TYPES = ["cancer epithelial", "normal epithelial", "T cells", "B cells", "fibroblasts"]


@pytest.fixture(scope="module")
def section():
    arch = grow("breast", size_um=section_size(4, 5, pitch_um=112.0), seed=1, patient=2)
    xy_um, array = spot_array(4, 5, pitch_um=112.0)
    return arch, xy_um, measure_spots(arch, xy_um, array, effects=AssayEffects.none(), seed=0)


def test_nuclei_counted_per_spot_are_those_that_the_tissue_counts(section):
    """The oracle: the cells of the tissue, brought to the mosaic as its pixels are, are counted as the assay does."""
    arch, xy_um, measured = section
    cells = arch.cells[["x_um", "y_um"]].to_numpy()
    size, columns = 100, 5
    spot, points, types = [], [], []
    for number, centre in enumerate(xy_um):  # what the patch of each spot shows of the section
        near = (np.abs(cells - centre) < size / 2).all(1)
        corner = np.array([number % columns, number // columns]) * size
        points.append(cells[near] - centre + size / 2 + corner)
        types.append(arch.cells["cell_type"].astype(str).map(SUPER_INDEX).to_numpy()[near])
    points, types = np.concatenate(points), np.concatenate(types)
    spot = spot_nuclei.spot_of(points, len(xy_um), patch_px=size)
    counted = spot_nuclei.per_spot(spot, types, np.zeros((len(types), 2)), len(xy_um)).counts
    groups = np.array([[SUPER_OF[fine] == name for name in SUPER_CLASSES] for fine in FINE_TYPES])
    true = measured.composition.fillna(0).to_numpy() @ groups * measured.n_cells[:, None]
    np.testing.assert_allclose(counted, true, atol=1e-6)
    assert counted.sum() > 300


def test_a_mosaic_holds_every_patch_in_its_place():
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    centres = np.array([[12, 12], [40, 12], [70, 12], [12, 40], [70, 40]])
    patches = cut_patches(image, centres, patch_px=20)
    sheet = spot_nuclei.mosaic(patches)
    assert sheet.shape == (40, 60, 3)
    for number, patch in enumerate(patches):
        row, column = divmod(number, 3)
        assert np.array_equal(sheet[row * 20 : row * 20 + 20, column * 20 : column * 20 + 20], patch)
    assert (sheet[20:, 40:] == 255).all()
    middles = np.array([[10.0, 10.0], [50.0, 30.0], [1.0, 1.0]])  # of the first, of glass, in a corner outside the disc
    assert spot_nuclei.spot_of(middles, 5, patch_px=20).tolist() == [0, -1, -1]


def test_unknown_nuclei_describe_a_spot_and_are_not_counted():
    spot, types = np.array([0, 0, 2, -1]), np.array([1, -1, 3, 1])
    found = spot_nuclei.per_spot(spot, types, np.array([[1.0], [3.0], [5.0], [100.0]]), 3)
    assert found.counts.tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(found.features[:, 0], [2, 3, 5])  # an empty spot has the mean of all
    np.testing.assert_allclose(found.features[:, 1], np.log1p([2, 0, 1]))


def test_every_type_of_a_reference_belongs_to_the_class_that_its_fine_types_have():
    groups = together.groups_of(list(together.CLASS_OF))
    assert (groups.sum(1) == 1).all()
    assert together.CLASS_OF["cancer epithelial"] == "neoplastic"
    with pytest.raises(InputError, match="no class of nuclei is known for neurons"):
        together.groups_of(["T cells", "neurons"])


def test_nuclei_become_molecules_by_what_a_cell_of_the_reference_holds():
    reference = pd.DataFrame([[600.0, 600.0], [100, 200], [100, 100], [200, 200]], index=TYPES[:4])
    content = together.class_content(reference)  # epithelial 300, neoplastic 1200, inflammatory (200 + 400) / 2
    np.testing.assert_allclose(content[:3] / content[0], [1, 4, 1])
    shares = together.molecule_shares(np.array([[4, 1, 0, 0], [0, 0, 0, 0]]), content)
    np.testing.assert_allclose(shares, [[0.5, 0.5, 0, 0], [0, 0, 0, 0]], atol=1e-6)


@pytest.fixture(scope="module")
def fold():
    """Pictures that know the composition, expression that is its mixture: what a tie says can be learned."""
    rng = np.random.default_rng(0)
    n, genes = 240, 30
    shares = rng.dirichlet(np.full(len(TYPES), 0.6), n).astype(np.float32)
    profiles = rng.gamma(0.5, 20, (len(TYPES), genes)) + 0.1
    patient = np.repeat(["a", "b", "c", "d"], n // 4)
    features = np.log(shares + 0.05) @ rng.normal(size=(len(TYPES), 12))
    table = SpotTable(
        features=((features - features.mean(0)) / features.std(0)).astype(np.float32),
        density=np.zeros((n, 3), np.float32),
        xy_um=rng.random((n, 2)),
        target=np.log1p(shares @ profiles + rng.normal(0, 0.1, (n, genes)).clip(-0.1)).astype(np.float32),
        patient=patient,
        section=patient,
        shares=shares,
    )
    return Fold(table.rows(patient != "d"), table.rows(patient == "d"), np.arange(genes), profiles, TYPES, [])


def by_class(shares):
    return shares @ together.groups_of(TYPES)


HOW = {"steps": 120, "widths": (32, 16)}


def test_a_tie_to_the_true_composition_recovers_it_by_class_and_a_shuffled_one_does_not(fold):
    truth, of_test = by_class(fold.train.shares), by_class(fold.test.shares)
    noise = np.random.default_rng(3).normal(size=fold.train.target.shape).astype(np.float32)
    fold = replace(fold, train=replace(fold.train, target=noise))  # so that the tie alone can teach
    told = together.ties(fold, truth)
    agreement = {}
    for arm in ("nuclei", "both", "nuclei_shuffled"):
        w, _ = spot_methods.cpnn_answer(together.train_tied(fold, told[arm], **HOW), fold.test)
        there = of_test.std(0) > 1e-6
        agreement[arm] = float(np.median(pearson(of_test[:, there], by_class(w)[:, there])))
    assert agreement["nuclei"] > 0.65
    assert agreement["both"] > 0.65
    assert agreement["nuclei_shuffled"] < 0.35


def test_tied_to_deconvolution_it_is_cpnn_of_part_2(fold):
    torch.set_num_threads(1)
    ours = together.train_tied(fold, together.ties(fold, by_class(fold.train.shares))["deconvolution"], **HOW)
    theirs = spot_methods.train_cpnn(fold, **HOW)
    for mine, their in zip(*(spot_methods.cpnn_answer(m, fold.test) for m in (ours, theirs)), strict=True):
        np.testing.assert_allclose(mine, their, atol=1e-3)


def test_both_ties_together_are_as_strong_as_one(fold):
    told = together.ties(fold, by_class(fold.train.shares))
    assert {arm: sum(t.weight for t in tied) for arm, tied in told.items()} == dict.fromkeys(told, 5.0)


def test_a_shuffled_tie_stays_within_the_patient(fold):
    tie = together.Tie(np.arange(180.0)[:, None], np.ones((5, 1), np.float32))
    mixed = tie.shuffled(fold.train.patient, seed=0).target
    for name in "abc":
        mine = fold.train.patient == name
        assert sorted(mixed[mine, 0]) == sorted(tie.target[mine, 0])
    assert (mixed != tie.target).mean() > 0.9


def test_a_patient_is_answered_by_the_head_on_the_encoder_that_never_saw_them(fold):
    """Features of the encoder of "d" answer "d"; those of another patient's encoder are never looked at."""
    test = np.arange(240) >= 180
    mine = np.vstack([fold.train.features, fold.test.features])
    poison = np.full_like(mine, np.nan)
    answers = together.run_fold(fold, test, {}, {"taught": {"d": mine, "a": poison}}, spot_methods.Training(5, (8, 4)))
    assert list(answers) == ["encoder_taught"]
    assert np.isfinite(answers["encoder_taught"][1]).all()
    unknown = together.run_fold(fold, test, {}, {"taught": {"a": mine}}, spot_methods.Training(5, (8, 4)))
    assert np.isnan(unknown["encoder_taught"][1]).all()  # nobody taught an encoder without "d": no answer


def test_the_audit_knows_a_person_under_two_names_and_leaves_them_out():
    cohort = spot_cohort(3, rows=2, columns=2, seed=0)
    person = together.people(cohort)
    assert person == {"p0": "breast-0", "p1": "breast-1", "p2": "breast-2"}
    network = {"nuclei network": {p: ["breast-0", "lung-1"] for p in person}}
    encoder = {"image encoder": {p: [person[q] for q in person if q != p] for p in person}}
    asked, table = together.audit(person, network | encoder)
    assert asked == ["p1", "p2"]
    assert table.loc[table["among them"], ["patient", "part"]].to_numpy().tolist() == [["p0", "nuclei network"]]
    careless = {"image encoder": {p: list(person.values()) for p in person}}
    with pytest.raises(InputError, match="nobody is left"):
        together.audit(person, network | careless)


def test_spots_of_two_notebooks_are_matched_by_name_or_refused():
    assert together.same_spots(["b", "a"], ["a", "b", "c"]).tolist() == [1, 0]
    with pytest.raises(InputError, match="1 of 2 spots of notebook 21"):
        together.same_spots(["b", "x"], ["a", "b"])


def test_encoders_are_read_per_held_out_patient(tmp_path):
    np.savez(tmp_path / "embeddings.npz", **{"scvi/p0": np.arange(6.0).reshape(3, 2), "scvi/p1": np.zeros((3, 2))})
    read = together_tables.read_encoders(tmp_path, ["c", "a"], ["a", "b", "c"], {"ours": "scvi"}, ["p0", "p1"])
    np.testing.assert_array_equal(read["ours"]["p0"], [[4, 5], [0, 1]])
    with pytest.raises(InputError, match="has no scvi/p2"):
        together_tables.read_encoders(tmp_path, ["a"], ["a"], {"ours": "scvi"}, ["p2"])


def joined():
    rng, n = np.random.default_rng(2), 40
    patient = np.repeat(["p0", "p1"], n // 2)
    obs = pd.DataFrame({"patient": patient, "section": patient, "fold": (patient == "p1").astype(int)})
    obs.index = obs.index.astype(str)
    shares = pd.DataFrame(rng.dirichlet(np.ones(5), n), index=obs.index, columns=TYPES)
    spots = AnnData(np.zeros((n, 3), np.float32), obs=obs)
    for name in ("target", "cpnn", "cpnn_free", "oracle", "shuffled_0", "ridge"):
        spots.layers[name] = rng.normal(size=(n, 3)).astype(np.float32)
    for name in ("cell_type_weights", "cell_type_weights_free", "composition"):
        spots.obsm[name] = shares
    return together_tables.Joined(spots, by_class(shares.to_numpy())), shares


def test_arms_stand_beside_part_2s_own_and_perfect_weights_score_one(fold):
    table, shares = joined()
    test = table.fold(1)
    part = Fold(fold.train.rows(np.arange(20)), fold.test.rows(np.arange(20)), np.arange(3), fold.profiles, TYPES, [])
    table.add(1, part, ["0", "2"], {"nuclei": (shares.to_numpy()[test], np.ones((20, 2)))})
    out = table.table(["p1"])
    assert set(out.layers) == {"target", "deconvolution", "untied", "oracle", "shuffled_0", "nuclei"}
    assert out.n_obs == 20
    assert np.isnan(out.layers["nuclei"][:, 1]).all()
    scores = together_tables.compositions(out, n=20)
    assert scores.loc["nuclei", "mean"] == pytest.approx(1, abs=1e-3)
    assert scores.loc["counted", "mean absolute error"] < 1e-6
    each = {arm: together_tables.composition_of_patients(out, arm) for arm in ("nuclei", "counted")}
    gains, dots = together_tables.gains(each, [("nuclei", "counted")], n=20)
    assert abs(gains.loc["nuclei over counted", "mean"]) < 1e-3
    assert len(dots["nuclei over counted"]) == 1


def test_a_close_up_is_taken_where_classes_meet():
    xy_um, _ = spot_array(6, 6, pitch_um=112.0)
    label = np.where(xy_um[:, 0] < 300, "gland", "invasive")
    obs = pd.DataFrame({"label": label, "section": "s"}, index=[str(i) for i in range(36)])
    section = AnnData(np.zeros((36, 1), np.float32), obs=obs, obsm={"spatial": xy_um})
    x, y = xy_um[spot_nuclei.border_spot(section)]
    assert 200 < x < 400
    assert 100 < y < 600


# Findings


def test_every_claim_is_whole_and_names_keys_that_notebooks_report():
    claims = findings.read_claims()
    assert {claim["part"] for claim in claims} == {1, 2, 3, 4}
    for claim in claims:
        assert set(claim["lead"]) <= set(claim["against"])
        assert all(
            key.startswith(("part", "together")) for place in ("virtual", "real") for key in claim[place].values()
        )


def test_what_no_run_has_told_is_said_to_be_missing_and_nothing_is_made_up(tmp_path):
    numbers = findings.known_numbers(tmp_path, results=tmp_path)
    assert numbers == {}
    table = findings.table(numbers)
    assert set(table["virtual tissue"]) == {findings.NOT_RUN}
    assert set(table["real data"]) <= {findings.NOT_RUN, "no data at hand"}
    assert table["verdict"].str.startswith("Not run here").all()
    assert findings.page(table).count("\n## ") == 4


def test_runs_win_over_studies_and_own_numbers_over_both(tmp_path):
    pd.DataFrame({"seed": [0, 1], "key": "a", "value": [0.2, 0.4]}).to_csv(tmp_path / "x.csv")
    assert str(findings.known_numbers(tmp_path, results=tmp_path)["a"]) == ".300 [.200, .400] (2 seeds)"
    manifest.write_json(tmp_path / "latest" / "metrics.json", {"a": 0.5, "a.lo": 0.4, "a.hi": 0.6, "b": None})
    numbers = findings.known_numbers(tmp_path, results=tmp_path)
    assert str(numbers["a"]) == ".500 [.400, .600]"
    assert "b" not in numbers
    assert str(findings.known_numbers(tmp_path, {"a": -0.1}, results=tmp_path)["a"]) == "-.100"


@pytest.mark.parametrize(
    ("numbers", "lead", "word"),
    [({"x": (0.1, 0.05, 0.2)}, "x", "Holds: .100"), ({"x": (0.1, -0.05, 0.2)}, "x", "Not shown: .100"),
     ({"x": (-0.1, -0.2, -0.05)}, "x", "Fails: -.100"), ({"x": (0.1, None, None)}, "x", "Undecided"),
     ({"x": (0.3, 0.2, 0.4), "y": (0.1, 0.0, 0.15)}, ["x", "y"], "Holds: .300 against .100"),
     ({"x": (0.3, 0.2, 0.4), "y": (0.35, 0.3, 0.5)}, ["x", "y"], "Not shown \\(intervals overlap"),
     ({"x": (0.3, 0.2, 0.4), "y": (0.5, 0.45, 0.6)}, ["x", "y"], "Fails: .300"),
     ({"x": (0.3, 0.2, 0.4)}, ["x", "y"], "Not run here")],
)  # fmt: skip
def test_a_verdict_follows_from_intervals(numbers, lead, word):
    import re

    sentence = findings.verdict(lead, "rivals", {key: findings.Number(*value) for key, value in numbers.items()})
    assert re.match(word, sentence), sentence


def test_seconds_of_the_join_are_those_of_notebook_40(tmp_path):
    run = {"id": "r", "notebook": "40_one_tissue_three_views", "dataset": "virtual", "profile": "cpu", "exact": True,
           "status": "complete", "seconds": 51.0, "used": "2026"}  # fmt: skip
    manifest.write_json(tmp_path / "r" / "manifest.json", run)
    manifest.write_json(tmp_path / "r" / "metrics.json", {"together.spot_scc.both": 0.1})
    assert latest.merge(tmp_path)["together.seconds"] == 51.0


def test_leads_of_part_2_are_differences_on_the_same_patients(tmp_path):
    rng = np.random.default_rng(4)
    patient = np.repeat([f"p{k}" for k in range(4)], 25)
    table = AnnData(np.zeros((100, 6), np.float32))
    table.obs = pd.DataFrame({"patient": patient, "section": patient, "fold": 0}, index=table.obs_names)
    truth, noise = (rng.normal(size=(100, 6)).astype(np.float32) for _ in range(2))
    names = {"target": truth, "cpnn": truth + noise, "no_prototype": -truth, "ridge": truth + noise, "mean": noise}
    table.layers.update(names | {"cpnn_scratch": noise})
    for name in ("spots", "slides_no_batch"):
        table.write_h5ad(tmp_path / f"{name}.h5ad")
    leads = together_tables.paired_claims(tmp_path, n=50)
    assert leads["prototypes_on_spots"][1] > 1  # lo: opposite signs
    assert leads["prototypes_on_slides"] == pytest.approx((0, 0, 0))  # the same predictions
    assert leads["random_prototypes"][1] > 0.3  # lo: half signal against none
