"""Contrastive training: loss and targets, the temperature's walls, batches, partners, and who may see a label."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stpath_core import leakage, probes, recognition
from stpath_core import recognition_scores as scores
from stpath_core.errors import InputError
from stpath_core.models import contrastive

TARGETS = (contrastive.identity, contrastive.both_sides, contrastive.gene_side, contrastive.inter_modal)
QUICK = recognition.Settings(steps=40, batch_size=64, dim=8, width=32)


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def planted(n: int = 240, patients: int = 4, *, batch: float = 0.0, seed: int = 0):
    """Pairs whose picture and expression share a class and a continuous trait; `batch` shifts expression by patient."""
    rng = np.random.default_rng(seed)
    label, trait = rng.integers(0, 3, n), rng.normal(size=(n, 2))
    patient = np.array([f"p{i}" for i in rng.integers(0, patients, n)])
    cause = np.c_[np.eye(3)[label] * 2, trait]
    image = (cause @ rng.normal(size=(5, 12)) + 0.3 * rng.normal(size=(n, 12))).astype(np.float32)
    shift = {name: rng.normal(size=6) for name in np.unique(patient)}
    z = cause @ rng.normal(size=(5, 6)) + batch * np.stack([shift[p] for p in patient]) + 0.3 * rng.normal(size=(n, 6))
    pairs = recognition.Pairs(image, rng.uniform(0, 1000, (n, 2)), patient, patient)
    return pairs, z.astype(np.float32), np.array(["a", "b", "c"])[label]


@pytest.mark.parametrize("target", TARGETS)
def test_targets_are_shares_and_let_no_gradient_through(target):
    u, v = unit(7, 5, 0).requires_grad_(), unit(7, 5, 1).requires_grad_()
    wanted = target(u, v)
    assert torch.allclose(wanted.sum(1), torch.ones(7), atol=1e-6)
    assert wanted.min() >= 0
    loss = contrastive.info_nce(u, v, tau=0.5, target=target)
    (got,) = torch.autograd.grad(loss, u)
    fixed = target(u.detach(), v.detach())
    (alone,) = torch.autograd.grad(contrastive.info_nce(u, v, tau=0.5, target=lambda *_: fixed), u)
    assert torch.equal(got, alone)


def test_identity_is_the_loss_of_clip():
    u, v = unit(9, 4, 2), unit(9, 4, 3)
    s = u @ v.T / 0.2
    oracle = (F.cross_entropy(s, torch.arange(9)) + F.cross_entropy(s.T, torch.arange(9))) / 2
    assert contrastive.info_nce(u, v, tau=0.2).item() == pytest.approx(oracle.item(), rel=1e-6)


def test_a_network_that_tells_nothing_apart_scores_log_batch():
    same = unit(1, 4, 0).expand(32, 4)
    for target in TARGETS:
        assert contrastive.info_nce(same, same, tau=0.1, target=target).item() == pytest.approx(math.log(32), rel=1e-5)
        least = contrastive.floor(same, same, target).item()
        assert least <= math.log(32) + 1e-5


def test_the_loss_cannot_fall_below_the_entropy_of_its_target():
    u, v = unit(16, 6, 4), unit(16, 6, 5)
    for target in TARGETS:
        assert contrastive.info_nce(u, v, tau=0.3, target=target) >= contrastive.floor(u, v, target) - 1e-5


def test_a_soft_target_gives_a_twin_spot_its_share():
    v = torch.cat([unit(1, 4, 0)] * 2 + [unit(3, 4, 1)])
    u = unit(5, 4, 2)
    wanted = contrastive.gene_side(u, v)
    assert wanted[0, 0] == pytest.approx(wanted[0, 1].item())
    assert contrastive.identity(u, v)[0, 1] == 0


def test_inter_modal_alone_would_teach_nothing_and_with_the_spot_it_does():
    u = unit(6, 5, 0)
    v = u.clone().requires_grad_()  # symmetric scores: prediction and soft part agree at tau = SOFTNESS
    soft = lambda a, b: F.softmax(a @ b.T / contrastive.SOFTNESS, dim=1)  # noqa: E731
    (none,) = torch.autograd.grad(contrastive.info_nce(u, v, tau=contrastive.SOFTNESS, target=soft), v)
    (some,) = torch.autograd.grad(
        contrastive.info_nce(u, v, tau=contrastive.SOFTNESS, target=contrastive.inter_modal), v
    )
    assert some.norm() > 20 * none.norm()


def test_the_temperature_learns_and_stays_between_its_walls():
    model = contrastive.ContrastiveModel(contrastive.FeatureEncoder(3), 2)
    assert model.tau.item() == pytest.approx(contrastive.TAU, rel=1e-4)
    low, high = contrastive.TAU_BOUNDS
    for push in (-50.0, 50.0):
        model.heat.data.fill_(push)
        assert low - 1e-6 <= model.tau.item() <= high + 1e-6
    model.heat.data.fill_(0.0)
    u, v = model(torch.randn(8, 3), torch.randn(8, 2))
    contrastive.info_nce(u, v, tau=model.tau).backward()
    assert model.heat.grad.abs() > 0


def test_both_encoders_take_what_they_are_shown():
    patches = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    small = {"channels": [8, 8, 16, 16], "stem_width": 8}
    encoder = contrastive.PatchEncoder("resnet10t", args=small)
    assert encoder(patches).shape == (2, encoder.dim)
    features = np.random.default_rng(0).normal(3, 5, (50, 4)).astype(np.float32)
    seen = contrastive.FeatureEncoder(4).standardise(features)
    assert torch.allclose(((torch.from_numpy(features) - seen.mean) / seen.sd).std(0), torch.ones(4), atol=0.05)
    with pytest.raises(InputError, match="timm cannot make the encoder 'no_such_net'"):
        contrastive.PatchEncoder("no_such_net")


def test_balanced_batches_hold_as_many_of_each_patient():
    patient = np.array(["a"] * 90 + ["b"] * 20 + ["c"] * 5)
    rows, rng = np.arange(115), np.random.default_rng(0)
    some = recognition.draw_rows(patient, rows, 24, rng, balanced=True)
    counts = dict(zip(*np.unique(patient[some], return_counts=True), strict=True))
    assert len(np.unique(some)) == 24
    assert counts["c"] == 5
    assert abs(counts["a"] - counts["b"]) <= 1
    plain = recognition.draw_rows(patient, rows, 24, rng, balanced=False)
    assert (patient[plain] == "a").mean() > 0.6


def test_training_lifts_an_unseen_patient_above_the_shuffled_control():
    pairs, z, _ = planted()
    rows, test = np.flatnonzero(pairs.patient != "p0"), np.flatnonzero(pairs.patient == "p0")
    found = {}
    for name, shown in (("paired", z), ("shuffled", recognition.shuffled_pairs(z, pairs.patient, seed=0))):
        model, history = recognition.train(pairs, shown, rows, settings=QUICK)
        u, v = recognition.embed(model, pairs.image), recognition.embed_genes(model, z)
        found[name] = scores.retrieval(u, v, pairs.section, test)
        assert history[0]["log_batch"] == pytest.approx(math.log(64))
    assert found["paired"]["rank.image_to_gene"] < 0.15
    assert found["paired"]["found.gene_to_image"] > 2 * found["paired"]["chance"]
    assert 0.35 < found["shuffled"]["rank.image_to_gene"] < 0.65


def test_shuffling_keeps_every_patient_its_own_expression():
    pairs, z, _ = planted(60)
    out = recognition.shuffled_pairs(z, pairs.patient, seed=1)
    for name in pairs.patients:
        own = pairs.patient == name
        assert sorted(out[own][:, 0]) == sorted(z[own][:, 0])
    assert (out != z).any(1).mean() > 0.8


def test_mined_partners_are_mutual_neighbours_of_other_patients():
    pairs, z, label = planted(300, batch=0.0)
    rows = np.flatnonzero(pairs.patient != "p0")
    partner = recognition.mutual_partners(z, pairs.patient, rows, k=5, share=1.0)
    beside = partner(rows, np.random.default_rng(0))
    moved = beside != rows
    assert moved.mean() > 0.5
    assert np.isin(beside, rows).all()
    assert (pairs.patient[beside[moved]] != pairs.patient[rows[moved]]).all()
    assert (label[beside[moved]] == label[rows[moved]]).mean() > 0.9

    def near(i: int, who: str) -> np.ndarray:
        there = rows[pairs.patient[rows] == who]
        return there[np.argsort(np.linalg.norm(z[there] - z[i], axis=1))[:5]]

    for i, j in zip(rows[moved], beside[moved], strict=True):
        assert j in near(i, pairs.patient[j])
        assert i in near(j, pairs.patient[i])
    same = recognition.mutual_partners(z, pairs.patient, rows, k=5, share=0.0)
    assert np.array_equal(same(rows, np.random.default_rng(0)), rows)


def test_one_seed_is_one_model():
    pairs, z, _ = planted(100)
    rows = np.arange(80)
    a, b = (recognition.embed(recognition.train(pairs, z, rows, settings=QUICK)[0], pairs.image) for _ in range(2))
    assert np.array_equal(a, b)


def test_a_supervised_network_knows_the_classes_it_was_told():
    pairs, _, label = planted()
    rows = np.flatnonzero(pairs.patient != "p0")
    model = recognition.supervised(pairs, label, rows, settings=QUICK)
    found = probes.judge({"p0": recognition.embed(model, pairs.image)}, label, pairs.patient)
    assert found.pooled > 0.85


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"patient": np.full(9, "p0")}, "all spots are of patient 'p0'; what holds across patients"),
        ({"image": np.zeros((8, 4), np.float32)}, "8 rows of image for 9 spots"),
        ({"xy_um": np.zeros((10, 2))}, "10 rows of xy_um for 9 spots"),
    ],
)
def test_pairs_that_cannot_teach_are_refused(change, hint):
    good = {"image": np.zeros((9, 4), np.float32), "xy_um": np.zeros((9, 2)), "patient": np.array(list("abcabcabc"))}
    good |= {"section": good["patient"]}
    with pytest.raises(InputError, match=hint):
        recognition.Pairs(**(good | change))


def test_embeddings_that_do_not_fit_the_spots_are_refused():
    pairs, z, _ = planted(40)
    with pytest.raises(InputError, match="39 rows for 40 spots"):
        recognition.train(pairs, z[:39], np.arange(30), settings=QUICK)
    z[3] = np.nan
    with pytest.raises(InputError, match="all-zero spots"):
        recognition.train(pairs, z, np.arange(30), settings=QUICK)


def test_the_auditor_lets_honest_stages_pass_and_hears_of_a_planted_leak():
    pairs, z, label = planted(120)
    held = pairs.patient == "p0"
    rows, quick = np.flatnonzero(~held), recognition.Settings(steps=5, batch_size=64, dim=4, width=8)

    def stages(told: np.ndarray, *, hide: bool) -> np.ndarray:
        seen = leakage.hidden_labels(told, held) if hide else told
        guided = np.c_[z, (seen == "a").astype(np.float32)]  # a stage 1 that is guided by labels
        model, _ = recognition.train(pairs, guided, np.arange(120), settings=quick)  # and that also sees their spots
        return recognition.embed(model, pairs.image)

    leakage.audit_labels(lambda told: stages(told, hide=True), label, held)
    with pytest.raises(InputError, match="labels of held-out spots reach the embedding"):
        leakage.audit_labels(lambda told: stages(told, hide=False), label, held)
    model, _ = recognition.train(pairs, z, rows, settings=quick)
    with pytest.raises(InputError, match="nothing that could leak"):
        leakage.audit_labels(lambda told: recognition.embed(model, pairs.image), label, np.zeros(120, bool))
