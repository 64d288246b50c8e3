"""Small networks for the expression of spots: CPNN's rivals, and the loop that trains them all alike.

A batch is one section, so that a loss of correlations learns nothing from what lies between patients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stpath_core.fit import fit
from stpath_core.losses import gene_pearson_loss
from stpath_core.models.contrastive import Projection, both_sides
from stpath_core.models.expression_baselines import group_score

if TYPE_CHECKING:
    from stpath_core.spots import SpotTable

NEIGHBOURS = 50  # of retrieval, as BLEEP
DROPOUT = 0.5  # of the features and before the last layer, with prototypes and without: slides and spots are few


class LinearHead(nn.Module):
    """ST-Net's head (He et al. 2020): one linear layer from features to genes, trained by mean squared error."""

    def __init__(self, features: int, genes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, genes)

    def forward(self, x: Tensor) -> Tensor:  # (n, d) -> (n, g)
        return self.linear(x)


class NoPrototypes(nn.Module):
    """CPNN without prototypes: the same trunk, then straight to genes through a softplus (MOSBY's idea)."""

    def __init__(
        self, features: int, genes: int, *, widths: tuple[int, int] = (1024, 512), dropout: float = DROPOUT
    ) -> None:
        super().__init__()
        self.drop, self.trunk = nn.Dropout(dropout), trunk(features, widths, level=True)
        self.genes = nn.Linear(widths[1], genes)

    def forward(self, x: Tensor) -> Tensor:  # (n, d) -> (n, g), log1p of a positive rate
        return F.softplus(self.genes(self.drop(self.trunk(self.drop(x))))).log1p()


class TwoHeads(nn.Module):
    """BLEEP's two projections (Xie et al. 2023): image features and expression into one space, rows of unit length."""

    def __init__(self, features: int, genes: int, *, width: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.image = Projection(features, dim=width, dropout=dropout)
        self.expression = Projection(genes, dim=width, dropout=dropout)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # (n, d), (n, g) -> (n, width) twice
        return self.image(x), self.expression(y)


def trunk(features: int, widths: tuple[int, int], *, level: bool = False) -> nn.Sequential:
    """d -> widths -> GELU after each, Xavier-normal: what CPNN puts before its softmax.

    level : bring every row to mean square 1 first. Where features are relative to a section, the length of a row says
    how unusual the patch is, and noise in a softmax is larger where the row is longer: even a network that has learned
    nothing answers unusual patches with more of the rarer types.
    """
    layers = [nn.Linear(features, widths[0]), nn.GELU(), nn.Linear(*widths), nn.GELU()]
    for layer in layers[::2]:
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*([nn.RMSNorm(features, eps=1e-6, elementwise_affine=False)] if level else []), *layers)


def retrieval_loss(images: Tensor, expressions: Tensor, temperature: float = 1.0) -> Tensor:
    """BLEEP's contrastive loss: cross-entropy against the softmax of the mean of both sides' own similarities.

    images, expressions : (n, w) rows of unit length. No gradient flows through the targets.
    """
    logits = expressions @ images.T / temperature  # (n, n)
    with torch.no_grad():
        wanted = both_sides(images, expressions, softness=1 / temperature)
    rows = -(wanted * logits.log_softmax(1)).sum(1)
    columns = -(wanted.T * logits.T.log_softmax(1)).sum(1)
    return (rows + columns).mean() / 2


def train_by_section(
    model: nn.Module,
    table: SpotTable,
    loss: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor],
    *,
    steps: int,
    lr: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
    held_out: np.ndarray | None = None,
    predict: Callable[[nn.Module, Tensor], Tensor] | None = None,
) -> list[dict[str, float]]:
    """Train on one section a step, in an order drawn by `seed`; the history of `fit`.

    loss(model, x, y, rows) : of one section, x (n, d), y (n, g) its target, rows (n,) of the table. held_out : rows
    (n,) bool of an inner patient that stops the training early by the correlation of predict(model, x).
    """
    from stpath_core.fit import pick_device

    where = pick_device(device)
    x, y = (torch.as_tensor(np.asarray(v, np.float32), device=where) for v in (table.features, table.target))
    kept = np.ones(len(table), bool) if held_out is None else ~held_out
    sections = [rows[kept[rows]] for rows in table.sections()]
    sections = [torch.as_tensor(rows, device=where) for rows in sections if len(rows) > 2]
    order = np.random.default_rng([seed, 2]).integers(len(sections), size=steps)

    def step_loss(net: nn.Module, rows: Tensor) -> dict[str, Tensor]:
        return {"loss": loss(net, x[rows], y[rows], rows)}

    def validate(net: nn.Module) -> float:
        with torch.no_grad():
            pred = predict(net, x[torch.as_tensor(held_out, device=where)]).cpu().numpy()
        return -group_score(table.target[held_out], pred, table.section[held_out])

    stop = {} if held_out is None else {"validate": validate, "validate_every": max(1, steps // 12), "patience": 4}
    return fit(model, step_loss, lambda step: sections[order[step]], steps=steps, lr=lr, clip=0.5, device=where,
               seed=seed, mixed=False, **stop)  # fmt: skip


def pearson_step(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """The loss of a network that answers with genes."""
    del rows
    return gene_pearson_loss(model(x), y)


def squared_step(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """Mean squared error around the section's mean: an offset of a patient is not what is scored."""
    del rows
    pred = model(x)
    return F.mse_loss(pred - pred.mean(0), y - y.mean(0))


def retrieval_step(model: TwoHeads, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """BLEEP's, on expression centred in its section."""
    del rows
    return retrieval_loss(*model(x, y - y.mean(0)))


def predicted(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """(n, d) -> (n, g) of a network that answers with genes."""
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        return model(torch.as_tensor(np.asarray(x, np.float32), device=device)).cpu().numpy()


def retrieved(model: TwoHeads, x: np.ndarray, known: np.ndarray, *, k: int = NEIGHBOURS) -> np.ndarray:
    """Predictions (n, g) as the mean of the k training spots whose expression lies nearest the image of each spot.

    x : (n, d) features; known : (m, g) expression of the training spots, centred in their sections.
    """
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        values = torch.as_tensor(np.asarray(known, np.float32), device=device)
        images = model.image(torch.as_tensor(np.asarray(x, np.float32), device=device))
        alike = images @ model.expression(values).T  # (n, m)
        nearest = alike.topk(min(k, len(values)), dim=1).indices
        return values[nearest].mean(1).cpu().numpy()
