"""Networks for the expression of slides, from bags of patch features: CPNN's rivals, and the loop that trains them all.

A bag is padded to the longest of its batch and carries a mask; nothing that is padded reaches a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stpath_core.errors import InputError
from stpath_core.fit import fit, pick_device
from stpath_core.models.expression_networks import DROPOUT, trunk

AT_MOST = 4096  # patches of a slide that a step sees, drawn anew each time


class GatedAttention(nn.Module):
    """ABMIL with gated attention (Ilse et al. 2018, equation 9), then one linear layer to genes."""

    def __init__(self, features: int, genes: int, *, width: int = 128) -> None:
        super().__init__()
        self.patch = nn.Sequential(nn.Linear(features, width), nn.ReLU())
        self.value, self.gate = nn.Linear(width, width), nn.Linear(width, width)
        self.score = nn.Linear(width, 1)
        self.genes = nn.Linear(width, genes)

    def attention(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, d), (B, N) -> embedded patches (B, N, width), weights (B, N) that sum to 1 over real patches."""
        h = self.patch(x)
        score = self.score(self.value(h).tanh() * self.gate(h).sigmoid())[..., 0]  # (B, N)
        return h, score.masked_fill(~mask.bool(), -torch.inf).softmax(1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # -> (B, G)
        h, weight = self.attention(x, mask)
        return self.genes((weight[..., None] * h).sum(1))


class NoPrototypeBags(nn.Module):
    """CPNN without prototypes: the same trunk, then straight to genes, a softplus, mean over patches (as MOSBY)."""

    def __init__(
        self, features: int, level: Tensor, *, widths: tuple[int, int] = (1024, 512), dropout: float = DROPOUT
    ) -> None:
        super().__init__()
        self.drop, self.trunk = nn.Dropout(dropout), trunk(features, widths)
        self.genes = nn.Linear(widths[1], len(level))
        nn.init.zeros_(self.genes.weight)
        self.register_buffer("level", level / level.sum())  # (G,) mean profile, so that training learns differences
        self.log_theta = nn.Parameter(torch.full((len(level),), 2.0))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # -> profile (B, G), rows sum to 1
        rate = F.softplus(self.genes(self.drop(self.trunk(self.drop(x))))) * self.level
        y = (rate * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return y / y.sum(1, keepdim=True)


def padded(bags: Sequence[np.ndarray], *, rng: np.random.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Bags (N_i, d) of one width -> (B, N, d) float32 and mask (B, N). rng : draw AT_MOST patches of larger bags."""
    if rng is not None:
        bags = [b if len(b) <= AT_MOST else b[rng.choice(len(b), AT_MOST, replace=False)] for b in bags]
    longest = max(map(len, bags))
    x, mask = torch.zeros(len(bags), longest, bags[0].shape[1]), torch.zeros(len(bags), longest)
    for row, seen, bag in zip(x, mask, bags, strict=True):
        row[: len(bag)], seen[: len(bag)] = torch.from_numpy(np.asarray(bag, np.float32)), 1
    return x, mask


def check_bags(bags: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """Raise InputError for a slide without a patch, a bag of another width, or features that are not finite."""
    width = bags[0].shape[1] if len(bags) and bags[0].ndim == 2 else 0
    for name, bag in zip(names, bags, strict=True):
        if bag.ndim != 2 or not len(bag):
            msg = f"slide {name} has a bag of shape {bag.shape}; at least one patch is needed: leave the slide out"
        elif bag.shape[1] != width:
            msg = f"slide {name} has features of width {bag.shape[1]}, {names[0]} of {width}: they are of two encoders"
        elif not np.isfinite(bag).all():
            bad = int((~np.isfinite(bag)).any(1).sum())
            msg = f"slide {name} has {bad} of {len(bag)} patches with NaN or infinite features; leave those patches out"
        else:
            continue
        raise InputError(msg)


def train_bags(
    model: nn.Module,
    bags: Sequence[np.ndarray],
    loss: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor],
    *,
    steps: int,
    batch_size: int = 16,
    lr: float = 3e-3,
    seed: int = 0,
    device: str = "cpu",
) -> list[dict[str, float]]:
    """Train on batches of slides; loss(model, x (B, N, d), mask (B, N), rows (B,)) of the slides in `rows`.

    Every epoch is a permutation of the slides, the last batch of it dropped where it is not full.
    """
    where, n = pick_device(device), len(bags)
    size = min(batch_size, n)
    per_epoch = n // size

    class Drawn:
        """One batch; `to` brings it to the device."""

        def __init__(self, step: int) -> None:
            epoch, part = divmod(step, per_epoch)
            order = np.random.default_rng([seed, epoch]).permutation(n)
            self.rows = torch.from_numpy(order[part * size : (part + 1) * size])
            self.x, self.mask = padded([bags[i] for i in self.rows], rng=np.random.default_rng([seed, step, 1]))

        def to(self, device: torch.device) -> Drawn:
            self.x, self.mask, self.rows = self.x.to(device), self.mask.to(device), self.rows.to(device)
            return self

    return fit(
        model, lambda net, b: {"loss": loss(net, b.x, b.mask, b.rows)}, Drawn, steps=steps, lr=lr, clip=0.5, seed=seed,
        device=where, mixed=False,
    )  # fmt: skip


@torch.no_grad()
def of_bags(
    model: nn.Module, bags: Sequence[np.ndarray], answer: Callable[[nn.Module, Tensor, Tensor], Tensor]
) -> np.ndarray:
    """answer(model, x, mask) of every slide, one at a time and with all its patches: (S, ...)."""
    model.eval()
    device = next(model.parameters()).device
    found = []
    for bag in bags:
        x, mask = padded([bag])
        found.append(answer(model, x.to(device), mask.to(device)).cpu().numpy()[0])
    return np.stack(found)
