"""Contrastive training of an image encoder by gene expression (Nishimura et al. 2025, arXiv 2503.07173, stage 2).

A patch of H&E and the embedding of the same spot's expression are brought to one space, and each must find the other
among the batch. What "the other" may be is the target: the spot itself (CLIP, Radford et al. 2021), or all spots in
shares that follow a similarity. Four targets stand below as four functions; the embedding z that comes from stage 1 is
given, never trained here.

Symbols: u (B, D) image and v (B, D) gene side, of unit length; tau the temperature; s = u v' / tau the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stpath_core.checks import refuse_places
from stpath_core.errors import InputError

Target = Callable[[Tensor, Tensor], Tensor]  # u (B, D), v (B, D) of unit length -> (B, B), rows sum to 1
TAU, TAU_BOUNDS = 0.1, (0.02, 1.0)  # where the temperature starts, and the walls it cannot pass
SOFTNESS = 0.1  # temperature of the similarities that make soft targets: cosines lie between -1 and 1


def identity(u: Tensor, v: Tensor) -> Tensor:
    """Each spot is its own and only partner (CLIP; van den Oord et al. 2018 for the loss)."""
    return torch.eye(len(u), device=u.device, dtype=u.dtype)


def both_sides(u: Tensor, v: Tensor, *, softness: float = SOFTNESS) -> Tensor:
    """Partners in shares that follow the mean of image-image and gene-gene similarity (BLEEP, Xie et al. 2023)."""
    return F.softmax((u @ u.T + v @ v.T) / 2 / softness, dim=1)


def gene_side(u: Tensor, v: Tensor) -> Tensor:
    """Partners in shares that follow gene-gene similarity alone: a spot of another patient with the same expression
    is as good a partner, provided that the embedding has no batch in it."""
    return F.softmax(v @ v.T / SOFTNESS, dim=1)


def inter_modal(u: Tensor, v: Tensor) -> Tensor:
    """Partners in shares that follow image-gene similarity, read in both directions, half the weight on the spot.

    The scores alone would be their own target: the gradient of a cross-entropy whose target equals its prediction is
    zero. So the spot itself holds half, as in self-distillation (Li et al. 2021, ALBEF).
    """
    s = u @ v.T
    return 0.5 * identity(u, v) + 0.5 * F.softmax((s + s.T) / 2 / SOFTNESS, dim=1)


def info_nce(u: Tensor, v: Tensor, *, tau: Tensor | float, target: Target = identity) -> Tensor:
    """Symmetric cross-entropy of the scores against a target through which no gradient flows; () tensor.

    u, v : (B, D) of unit length. A batch that has learned nothing scores log(B) with `identity`; with a soft target
    the least that can be reached is the target's entropy, see `floor`.
    """
    with torch.no_grad():
        wanted = target(u.detach(), v.detach())  # (B, B)
    s = u @ v.T / tau  # (B, B), rows are images
    to_gene = -(wanted * F.log_softmax(s, dim=1)).sum(1).mean()
    to_image = -(wanted.T / wanted.T.sum(1, keepdim=True) * F.log_softmax(s.T, dim=1)).sum(1).mean()
    return (to_gene + to_image) / 2


def floor(u: Tensor, v: Tensor, target: Target) -> Tensor:
    """Mean entropy of the target's rows in nats: the loss that perfect scores would have. 0 for `identity`."""
    with torch.no_grad():
        wanted = target(u, v)
        return -torch.special.xlogy(wanted, wanted).sum(1).mean()


class Projection(nn.Module):
    """BLEEP's head: linear; GELU, linear and dropout beside it; layer norm. (B, d) -> (B, D), unit length."""

    def __init__(self, d: int, *, dim: int = 64, dropout: float = 0.1):
        super().__init__()
        self.first = nn.Linear(d, dim)
        self.second = nn.Sequential(nn.GELU(), nn.Linear(dim, dim), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return F.normalize(self.norm(x + self.second(x)), dim=1)


class PatchEncoder(nn.Module):
    """A timm network on patches: (B, 3, S, S) uint8, normalised here, on the device -> (B, d)."""

    def __init__(self, name: str = "resnet10t", *, pretrained: bool = False, args: Mapping[str, Any] | None = None):
        super().__init__()
        import timm

        refuse_places(name, args or {})
        try:
            self.body = timm.create_model(name, pretrained=pretrained, num_classes=0, **(args or {}))
        except Exception as error:
            message = f"timm cannot make the encoder {name!r} (pretrained={pretrained}, {dict(args or {})}): "
            raise InputError(message + f"{str(error).splitlines()[0][:160]}") from error
        self.dim = self.body.num_features
        mean, sd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if pretrained else ((0.7,) * 3, (0.2,) * 3)
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("sd", 255 * torch.tensor(sd).view(3, 1, 1))

    def forward(self, patches: Tensor) -> Tensor:
        return self.body((patches.float() - self.mean) / self.sd)


class FeatureEncoder(nn.Module):
    """A small perceptron on features that were computed once, standardised here: (B, d_in) float -> (B, d)."""

    def __init__(self, d_in: int, *, dim: int = 128, dropout: float = 0.1):
        super().__init__()
        self.dim = dim
        self.register_buffer("mean", torch.zeros(d_in))
        self.register_buffer("sd", torch.ones(d_in))
        self.body = nn.Sequential(nn.Linear(d_in, dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(dim, dim))

    def standardise(self, features: np.ndarray) -> FeatureEncoder:
        """Take mean and SD from the features of training spots, (n, d_in)."""
        self.mean.copy_(torch.from_numpy(features.mean(0)))
        self.sd.copy_(torch.from_numpy(features.std(0) + 1e-6))
        return self

    def forward(self, features: Tensor) -> Tensor:
        return self.body((features - self.mean) / self.sd)


class ContrastiveModel(nn.Module):
    """Image encoder, two heads and a temperature that stays between two walls.

    image : a module with an attribute `dim`, its output's width. gene_dim : width of the embedding of stage 1.
    """

    def __init__(self, image: nn.Module, gene_dim: int, *, dim: int = 64, dropout: float = 0.1):
        super().__init__()
        self.image = image
        self.image_head = Projection(image.dim, dim=dim, dropout=dropout)
        self.gene_head = Projection(gene_dim, dim=dim, dropout=dropout)
        self.register_buffer("gene_mean", torch.zeros(gene_dim))
        self.register_buffer("gene_scale", torch.ones(()))
        low, high = TAU_BOUNDS
        share = torch.tensor((TAU - low) / (high - low))
        self.heat = nn.Parameter(torch.logit(share))

    @property
    def tau(self) -> Tensor:
        """The temperature, () tensor: a sigmoid between the walls, so that no step can leave them."""
        low, high = TAU_BOUNDS
        return (low + (high - low) * torch.sigmoid(self.heat)).clamp(low, high)

    def forward(self, image: Tensor, gene: Tensor) -> tuple[Tensor, Tensor]:
        """(B, ...) patches or features and (B, d) embeddings -> u, v (B, D) of unit length."""
        return self.place(image), self.place_genes(gene)

    def place(self, image: Tensor) -> Tensor:
        """u (B, D): image encoder and its head."""
        return self.image_head(self.image(image))

    def place_genes(self, gene: Tensor) -> Tensor:
        """v (B, D) of embeddings (B, k)."""
        return self.gene_head((gene - self.gene_mean) / self.gene_scale)

    def standardise_genes(self, z: np.ndarray) -> ContrastiveModel:
        """Centre the embedding and bring it to one spread, by that of training spots (n, k): all columns by one number,
        so that small components stay small."""
        self.gene_mean.copy_(torch.from_numpy(z.mean(0)))
        self.gene_scale.fill_(float(z.std(0).max()) + 1e-6)
        return self
