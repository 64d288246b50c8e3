"""Train small networks by `fit`, alone or as one of the processes of torchrun; the first writes their weights.

python tests/ranks_child.py FILE
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from stage_files import sections
from stpath_core import nuclei, ranks, recognition
from stpath_core.fit import fit, pick_device


@dataclass
class Rows:
    x: torch.Tensor

    def to(self, device):
        return Rows(self.x.to(device))

    def share(self):
        return Rows(self.x[ranks.share(len(self.x))])


def rows_at(step):
    return Rows(torch.randn(12, 4, generator=torch.Generator().manual_seed(step)))


def mean_of_rows():
    """A loss that is a mean over rows, validated and stopped early."""
    torch.manual_seed(ranks.rank())  # the first process's weights must win
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1))
    looks = rows_at(999).x
    history = fit(
        model, lambda net, b: {"loss": (net(b.x)[:, 0] - b.x.sum(1)).square().mean()}, rows_at, steps=12, lr=0.05,
        validate=lambda net: float((net(looks)[:, 0] - looks.sum(1)).square().mean()), validate_every=4, workers=2,
    )  # fmt: skip
    return model, history


def contrast():
    """A loss of the whole batch: each picture must find its own among all."""
    rng = np.random.default_rng(0)
    patient = np.repeat(["a", "b"], 20)
    pairs = recognition.Pairs(rng.normal(size=(40, 5)).astype(np.float32), np.zeros((40, 2)), patient, patient)
    settings = recognition.Settings(steps=6, batch_size=16, dropout=0.0)
    return recognition.train(pairs, rng.normal(size=(40, 3)), np.arange(40), settings=settings)


def convolutions():
    """Weights lie channels last, and the optimiser is fused, as on a GPU: gradients must lie as the weights do."""
    torch.manual_seed(ranks.rank())
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 1, 3))
    images_at = lambda step: torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))  # noqa: E731
    loss = lambda net, x: {"loss": (net(x) - x[:, :1, 2:-2, 2:-2]).square().mean()}  # noqa: E731
    return model, fit(model, loss, images_at, steps=12, lr=0.02, fused=True)


def discs():
    """The nuclei network, whose batch normalisation sees a share here: alike in all processes, not like one."""
    small = {"out_indices": [0, 1], "channels": [8, 8, 16, 16], "stem_width": 8}
    return nuclei.train_split(sections(), nuclei.everything(sections()), steps=2, encoder="resnet10t",
                              encoder_args=small, width=8, batch_size=4, tile_px=32, device="cpu")  # fmt: skip


if __name__ == "__main__":
    with ranks.together(pick_device("cpu")):
        kept = {}
        for work in (mean_of_rows, contrast, convolutions, discs):
            model, history = work()
            state = {
                f"{work.__name__}.{k}": v.detach().float().contiguous().clone() for k, v in model.state_dict().items()
            }
            same = ranks.collected({ranks.rank(): {k: v.sum().item() for k, v in state.items()}})
            assert all(other == same[0] for other in same.values()), f"{work.__name__}: the processes part"
            kept |= state | {f"{work.__name__}.losses": torch.tensor([r["loss"] for r in history])}
        if ranks.rank() == 0:
            save_file(kept, sys.argv[1], {"processes": str(ranks.processes())})
