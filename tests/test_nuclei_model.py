"""The nuclei network: shapes on CNN and ViT encoders, pooling, losses, and what unknown labels must not do."""

import numpy as np
import pytest
import torch

from stpath_core.data import distance_targets
from stpath_core.errors import InputError
from stpath_core.losses import dice_loss, distance_loss, nucleus_loss, type_loss
from stpath_core.models.nuclei import NucleiNet, TypeHead, pool_nuclei
from stpath_core.nuclei import NucleusTable, fit_type_head

SLIM = {"out_indices": [0, 1, 2, 3], "channels": [8, 8, 16, 16], "stem_width": 8}
VIT = {"out_indices": [1, 3], "dynamic_img_size": True, "depth": 4, "embed_dim": 24, "num_heads": 2}


@pytest.mark.parametrize(("encoder", "args"), [("resnet10t", SLIM), ("vit_tiny_patch16_224", VIT)])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_any_timm_encoder_gives_maps_at_the_asked_stride(encoder, args, stride):
    model = NucleiNet(encoder=encoder, encoder_args=args, width=8, stride=stride, classes=("a", "b")).eval()
    logit, distance, features = model(torch.zeros(2, 3, 64, 96, dtype=torch.uint8))
    h, w = 64 // stride, 96 // stride
    assert logit.shape == (2, h, w)
    assert distance.shape == (2, 3, h, w)
    assert [f.shape[:2] for f in features[:2]] == [(2, 8), (2, 3)]
    assert all(f.shape[2:] == (h, w) for f in features[:2])
    ids = torch.zeros(2, h, w, dtype=torch.long)
    ids[:, :5, :5] = 3
    pooled, keys = pool_nuclei(features, ids)
    assert keys.tolist() == [[0, 3], [1, 3]]
    assert model.type_head(pooled).shape == (2, 2)


def test_uint8_and_unit_float_images_give_the_same_maps():
    model = NucleiNet(encoder_args=SLIM, width=8).eval()
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(model(image)[0], model(image.float() / 255)[0])


def test_no_classes_leave_the_type_head_out():
    assert NucleiNet(encoder_args=SLIM, width=8).type_head is None


def test_pooling_is_the_mean_of_the_pixels_and_the_context_at_the_centroid():
    torch.manual_seed(0)
    fine, colour = torch.rand(2, 2, 8, 8), torch.rand(2, 1, 8, 8)
    rows, cols = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    context = torch.stack([rows, cols])[None].repeat(2, 1, 1, 1)  # says where it is read, at half the resolution
    ids = torch.zeros(2, 8, 8, dtype=torch.long)
    ids[0, 1:4, 2:7], ids[1, 4:8, 2:4], ids[1, 0, 0] = 5, 2, 9
    features, keys = pool_nuclei((fine, colour, context), ids)
    assert keys.tolist() == [[0, 5], [1, 2], [1, 9]]
    for row, (b, k) in zip(features, keys.tolist(), strict=True):
        mask = ids[b] == k
        place = mask.nonzero().float().mean(0) + 0.5  # row, column of the centroid, in fine pixels
        torch.testing.assert_close(row[:2], fine[b][:, mask].mean(1))
        torch.testing.assert_close(row[2], colour[b, 0, mask].mean())
        torch.testing.assert_close(row[6], mask.sum().float().log())
        torch.testing.assert_close(row[9:], (place / 2 - 0.5).clamp(0, 3))


def test_distance_targets_reach_one_at_both_ends_and_zero_at_the_centre():
    ids = torch.zeros(1, 9, 21, dtype=torch.long)
    ids[0, 2:7, 3:16] = 7  # 5 rows, 13 columns
    target = distance_targets(ids)[0]
    assert target[0, 4, 3] == -1
    assert target[0, 4, 15] == 1
    assert target[0, 4, 9] == 0
    assert target[1, 2, 9] == -1
    assert target[1, 6, 9] == 1
    assert target[2, 4, 9] == 1
    assert target[2, 4, 3] == 0
    assert target[:, ids[0] == 0].abs().max() == 0


def test_equal_ids_in_two_images_are_two_nuclei():
    ids = torch.zeros(2, 4, 12, dtype=torch.long)
    ids[0, :, :4] = 1
    ids[1, :, 6:12] = 1
    alone = torch.cat([distance_targets(ids[:1]), distance_targets(ids[1:])])
    torch.testing.assert_close(distance_targets(ids), alone)


def test_losses_are_zero_for_a_perfect_answer_and_grow_with_error():
    target = (torch.rand(2, 16, 16) > 0.5).float()
    sure = (target * 2 - 1) * 50
    assert nucleus_loss(sure, target) < 1e-3
    assert dice_loss(-sure, target) > 0.9
    maps = torch.rand(2, 3, 16, 16)
    assert distance_loss(maps, maps, target) == 0


def test_gradient_term_sees_only_the_inside():
    target, inside = torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8)
    inside[:, 2:6, 2:6] = 1
    wrong = target.clone()
    wrong[:, :2, 0, 0] = 1.0  # an error whose neighbours all lie outside
    mse = wrong[:, :2].square().mean()
    torch.testing.assert_close(distance_loss(wrong, target, inside), mse)


def test_unknown_nuclei_give_the_type_head_no_gradient():
    logits = torch.randn(4, 3, requires_grad=True)
    type_loss(logits, torch.tensor([0, -1, 2, -1])).backward()
    assert logits.grad[[1, 3]].abs().max() == 0
    assert logits.grad[[0, 2]].abs().min() > 0
    only_unknown = type_loss(logits, torch.full((4,), -1))
    assert only_unknown == 0
    only_unknown.backward()


def planted_nuclei(seed=0, sections=4, each=500):
    """Features that follow three classes, each section with a stain of its own: a shift and a scale of everything."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, sections * each)
    section = np.repeat(np.arange(sections), each)
    x = 1.5 * np.random.default_rng(9).normal(size=(3, 10))[labels] + rng.normal(size=(len(labels), 10))
    stain = np.random.default_rng(seed + 1)
    x = x * np.exp(stain.normal(size=(sections, 10)))[section] + 4 * stain.normal(size=(sections, 10))[section]
    return NucleusTable(x.astype(np.float32), section, np.arange(len(labels))), labels


def votes(head, table):
    with torch.no_grad():
        return head.eval()(torch.from_numpy(table.features), torch.from_numpy(table.section)).argmax(1).numpy()


def test_a_type_head_reads_through_stains_it_has_never_seen():
    head = fit_type_head(*planted_nuclei(seed=0), classes=3)
    table, labels = planted_nuclei(seed=5)
    assert (votes(head, table) == labels).mean() > 0.9


def test_a_type_head_learns_nothing_from_shuffled_labels():
    table, labels = planted_nuclei(seed=0)
    head = fit_type_head(table, np.random.default_rng(0).permutation(labels), classes=3)
    table, labels = planted_nuclei(seed=5)
    assert (votes(head, table) == labels).mean() < 0.5


def test_unknown_nuclei_count_for_what_is_usual_and_teach_no_type():
    table, labels = planted_nuclei()
    half = np.where(np.arange(len(labels)) % 2, labels, -1)
    head = fit_type_head(table, half, classes=3)
    assert (votes(head, table) == labels)[half < 0].mean() > 0.9
    mean = np.stack([table.features[table.section == k].mean(0) for k in range(4)]).mean(0)
    np.testing.assert_allclose(head.typical[0], mean, rtol=1e-3, atol=1e-3)


def test_an_image_of_few_nuclei_leans_on_the_typical_one():
    head = TypeHead(1, 2).eval()
    head.typical.copy_(torch.tensor([[5.0], [2.0]]))
    one = torch.tensor([[9.0]])
    share = 1 / (1 + TypeHead.BORROWED)
    mean, spread = 5 + share * (9 - 5), (4 * (1 - share)) ** 0.5
    torch.testing.assert_close(head.relative(one), (one - mean) / spread, rtol=1e-3, atol=1e-3)
    crowd = torch.randn(5000, 1) * 7 + 100
    assert head.relative(crowd).mean().abs() < 0.2
    assert abs(head.relative(crowd).std() - 1) < 0.02


def test_a_type_head_can_be_trained_together_with_the_network():
    table, labels = planted_nuclei()
    x, y, section = (torch.from_numpy(v) for v in (table.features, labels, table.section))
    torch.manual_seed(0)
    head = TypeHead(10, 3)
    opt = torch.optim.AdamW(head.parameters(), lr=3e-2)
    for _ in range(80):
        opt.zero_grad()
        type_loss(head(x, section), y).backward()
        opt.step()
    assert (votes(head, table) == labels).mean() > 0.9


def test_one_class_is_too_few_for_a_type_head():
    table, labels = planted_nuclei()
    with pytest.raises(InputError, match="at least 2"):
        fit_type_head(table, np.zeros_like(labels), classes=3)


def test_soft_labels_of_one_class_each_teach_what_hard_labels_teach():
    table, labels = planted_nuclei()
    some = np.where(np.arange(len(labels)) % 3, labels, -1)
    soft = (some[:, None] == np.arange(3)).astype(np.float32)
    hard_head, soft_head = (fit_type_head(table, given, classes=3) for given in (some, soft))
    torch.testing.assert_close(hard_head.linear.weight, soft_head.linear.weight)


def test_a_nucleus_of_no_weight_teaches_nothing():
    table, labels = planted_nuclei()
    wrong = np.arange(len(labels)) % 2 == 0
    spoilt = np.where(wrong, (labels + 1) % 3, labels)
    head = fit_type_head(table, spoilt, classes=3, weight=1.0 - wrong, balance=0)
    clean = fit_type_head(table, np.where(wrong, -1, labels), classes=3, balance=0)
    torch.testing.assert_close(head.linear.weight, clean.linear.weight, rtol=1e-3, atol=1e-4)


def test_a_forgiving_loss_survives_labels_that_are_wrong_with_a_system():
    table, labels = planted_nuclei()
    lied = np.random.default_rng(0).random(len(labels)) < 0.42
    spoilt = np.where(lied & (labels == 0), 1, labels)  # two in five of one class are called by another's name
    test, truth = planted_nuclei(seed=5)
    plain, forgiving = (
        (votes(fit_type_head(table, spoilt, classes=3, robust=q, l2=1e-4), test) == truth).mean() for q in (0, 0.7)
    )
    assert forgiving >= plain
    assert forgiving > 0.9


def test_cached_features_come_back_from_their_file(tmp_path):
    table, _ = planted_nuclei()
    table.save(tmp_path / "features.npz")
    again = NucleusTable.read(tmp_path / "features.npz")
    for name in ("features", "section", "instance"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
    together = NucleusTable.of(table.by_section())
    np.testing.assert_array_equal(together.features, table.features)
    assert together.instance[together.section == 1].tolist() == list(range(1, (table.section == 1).sum() + 1))
