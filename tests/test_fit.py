"""The training loop: a resumed run equals an uninterrupted one, the best weights win, bad input is refused."""

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from stpath_core import gene_encoding
from stpath_core.errors import InputError
from stpath_core.fit import fit, pick_device
from stpath_core.models import expression_networks, slide_networks


@dataclass
class Batch:
    x: torch.Tensor
    y: torch.Tensor

    def to(self, device):
        return Batch(self.x.to(device), self.y.to(device))


def batch_at(step):
    rng = torch.Generator().manual_seed(step)
    x = torch.randn(32, 4, generator=rng)
    return Batch(x, x @ torch.tensor([1.0, -2.0, 0.5, 3.0]))


def step_loss(model, batch):
    return {"loss": (model(batch.x)[:, 0] - batch.y).square().mean()}


def new_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 1))


class Stop(Exception):
    pass


def stop_at(n):
    def hook(step, record):
        if step == n:
            raise Stop

    return hook


def test_loss_falls_and_history_has_one_record_per_step():
    model = nn.Linear(4, 1)
    history = fit(model, step_loss, batch_at, steps=200, lr=0.1)
    assert [r["step"] for r in history] == list(range(1, 201))
    assert history[-1]["loss"] < 0.01 * history[0]["loss"]


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    whole, cut = new_model(), new_model()
    expected = fit(whole, step_loss, batch_at, steps=10, seed=3)
    state = tmp_path / "resume.safetensors"
    with pytest.raises(Stop):
        fit(cut, step_loss, batch_at, steps=10, seed=3, resume=state, save_every=5, hook=stop_at(7))
    assert state.exists()
    fresh = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 1))
    history = fit(fresh, step_loss, batch_at, steps=10, seed=3, resume=state, save_every=5)
    assert history == expected
    for a, b in zip(whole.state_dict().values(), fresh.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not state.exists()


def test_a_fused_run_of_convolutions_is_resumed_as_it_was_left(tmp_path):
    """Weights of convolutions lie channels last; fused steps go through moments and weights as they lie."""
    convolutions = lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 3))  # noqa: E731
    image_at = lambda step: torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))  # noqa: E731
    loss = lambda model, x: {"loss": (model(x) - x[:, :1, 2:-2, 2:-2]).square().mean()}  # noqa: E731
    torch.manual_seed(0)
    whole, resume = convolutions(), {"resume": tmp_path / "resume.safetensors", "save_every": 5}
    cut = deepcopy(whole)
    expected = fit(whole, loss, image_at, steps=10, fused=True)
    with pytest.raises(Stop):
        fit(cut, loss, image_at, steps=10, fused=True, hook=stop_at(7), **resume)
    fresh = convolutions()
    assert fit(fresh, loss, image_at, steps=10, fused=True, **resume) == expected
    for a, b in zip(whole.state_dict().values(), fresh.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_weights_of_the_best_validation_are_kept_and_patience_ends_the_run():
    model = nn.Linear(4, 1)
    scores, seen = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0]), []

    def validate(m):
        seen.append(m.weight.detach().clone())
        return next(scores)

    history = fit(model, step_loss, batch_at, steps=60, validate=validate, validate_every=10, patience=2)
    assert len(history) == 40
    assert torch.equal(model.weight, seen[1])


def test_a_loss_that_is_not_finite_stops_with_the_step():
    with pytest.raises(InputError, match="step 1"):
        fit(nn.Linear(4, 1), lambda m, b: {"loss": m(b.x).sum() * float("nan")}, batch_at, steps=3)


def test_unknown_device_and_no_steps_are_refused():
    with pytest.raises(InputError, match="auto, cpu or cuda"):
        pick_device("abacus")
    with pytest.raises(InputError, match="steps is 0"):
        fit(nn.Linear(4, 1), step_loss, batch_at, steps=0)


def test_a_compiled_run_compiles_the_forward_pass_and_leaves_the_network_as_it_came(monkeypatch):
    """What the compiler makes is torch's business; that it was asked, and is gone afterwards, is ours."""
    calls = []

    def traced(module, *args, **kwargs):
        def forward(*given):
            calls.append(len(given))
            return module.forward(*given)

        module._compiled_call_impl = forward

    monkeypatch.setattr(nn.Module, "compile", traced)
    plain, compiled = new_model(), new_model()
    assert fit(compiled, step_loss, batch_at, steps=4, compiled=True) == fit(plain, step_loss, batch_at, steps=4)
    assert calls == [1] * 4
    compiled(torch.zeros(2, 4))
    assert calls == [1] * 4


COUNTS, SECTIONS = np.arange(1, 25).reshape(8, 3), np.repeat(["a", "b"], 4)


class Table:
    """As much of a table of spots as the loop asks for."""

    features = target = COUNTS

    def __len__(self):
        return len(COUNTS)

    def sections(self):
        return [np.arange(4), np.arange(4, 8)]


@pytest.mark.parametrize(
    ("room", "train"),
    [
        (gene_encoding, lambda net: gene_encoding.fit_gene_encoder(COUNTS, SECTIONS, steps=1, device="cpu")),
        (expression_networks, lambda net: expression_networks.train_by_section(net, Table(), None, steps=1)),
        (slide_networks, lambda net: slide_networks.train_bags(net, [COUNTS, COUNTS], None, steps=1)),
    ],
    ids=["gene encoder", "spots", "slides"],
)
def test_likelihoods_of_counts_are_never_trained_in_bfloat16(monkeypatch, room, train):
    """What these losses add up (lgamma of counts, logarithms of small rates) does not survive eight bits."""
    seen = []
    monkeypatch.setattr(room, "fit", lambda *given, **options: seen.append(options) or [])
    train(nn.Linear(3, 3))
    assert [options["mixed"] for options in seen] == [False]
