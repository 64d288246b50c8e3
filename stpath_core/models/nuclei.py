"""The nuclei network: HoVer-Net's branches on any timm encoder (arXiv 2604.23481; CellViT; HoVer-Net, Graham 2019).

One shared decoder gives a feature vector per output pixel; three small heads read it: is this pixel nucleus, where in
its nucleus does it lie (horizontal and vertical map), and which type has the nucleus. The type head is applied to the
*features of a nucleus* (what its pixels look like on average, how they vary, size, shape, surroundings), so it can be
trained on cached nucleus features, in seconds, for any set of labels, while the segmentation stays exactly as it is.
It reads them relative to the other nuclei of the same image: how dark a nucleus is depends on the stain before it
depends on the type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stpath_core.checks import refuse_places

RGB_MEAN, RGB_STD = (0.70, 0.55, 0.70), (0.18, 0.21, 0.16)  # of H&E in [0, 1]; only a starting scale, not a statistic


def _block(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


class NucleiNet(nn.Module):
    """Nuclear pixel map, distance maps and (where there are classes) nucleus types from H&E.

    encoder : timm name, CNN or ViT (`features_only` must be served); encoder_args go to `timm.create_model`.
    width : features per output pixel. stride : input pixels per output pixel (1, 2 or 4). blocks : convolutions between
    the last skip connection and the maps, 2 or 1; they work on every pixel, and one less makes a step a tenth faster.
    classes : type names; empty leaves the type head out. mpp : micrometres per input pixel the network is trained at.
    """

    def __init__(
        self,
        *,
        encoder: str = "resnet10t",
        encoder_args: dict | None = None,
        width: int = 16,
        stride: int = 1,
        blocks: int = 2,
        classes: Sequence[str] = (),
        mpp: float = 0.5,
        pretrained: bool = False,
    ):
        super().__init__()
        import timm  # 2.5 s: only when a network is built

        refuse_places(encoder, encoder_args or {})
        self.config = {
            "encoder": encoder, "encoder_args": encoder_args or {}, "width": width, "stride": stride,
            "blocks": blocks, "classes": list(classes), "mpp": mpp,
        }  # fmt: skip
        self.encoder = timm.create_model(encoder, pretrained=pretrained, features_only=True, **(encoder_args or {}))
        channels, strides = self.encoder.feature_info.channels(), self.encoder.feature_info.reduction()
        self.strides, self.stride, self.classes, self.mpp = list(strides), stride, tuple(classes), mpp

        # Decoder: from the coarsest stride down to the output's, halving; at each stride come in all encoder maps of
        # that stride (one for a CNN, several for a ViT, whose maps share one stride, none where it has no such map).
        deepest = max(strides)
        self.levels = [deepest // 2**i for i in range((deepest // stride).bit_length())]  # e.g. 16, 8, 4, 2
        widths = {s: min(width * s // stride, 8 * width) for s in self.levels}
        self.lateral = nn.ModuleList(
            nn.Conv2d(c, widths[s], 1) if s in widths else None for c, s in zip(channels, strides, strict=True)
        )
        self.stem = nn.Conv2d(3, width, 2 * stride + 1, stride=stride, padding=stride)  # detail a patch embedding loses
        pairs = list(zip(self.levels[:-1], self.levels[1:], strict=True))
        self.reduce = nn.ModuleList(nn.Conv2d(widths[a], widths[b], 1) for a, b in pairs)
        self.refine = nn.ModuleList(_block(widths[b], widths[b]) for _, b in pairs)
        self.finest = _block(width, width) if blocks == 2 else nn.Identity()
        self.maps = nn.Linear(width, 4)  # of each pixel; as a 1x1 convolution it is slower on CPUs
        context = self.levels[min(1, len(self.levels) - 1)]
        self.coarsest, self.feature_strides = deepest, (stride, context)
        self.type_head = TypeHead(2 * (width + 3) + 3 + widths[context], len(classes)) if classes else None
        self.register_buffer("rgb_mean", torch.tensor(RGB_MEAN)[:, None, None])
        self.register_buffer("rgb_std", torch.tensor(RGB_STD)[:, None, None])

    def forward_features(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of every output pixel, its colours, and its wider surroundings.

        image : (B, 3, H, W) uint8, or float in [0, 1]; H and W multiples of the coarsest stride.
        Returns (B, width, H/stride, W/stride), (B, 3, H/stride, W/stride) and the context (B, C, coarser grid).
        """
        x = image.float() / 255 if image.dtype == torch.uint8 else image
        x = (x - self.rgb_mean) / self.rgb_std
        sides: dict[int, Tensor] = {}
        for s, lateral, f in zip(self.strides, self.lateral, self.encoder(x), strict=True):
            if lateral is not None:
                sides[s] = sides[s] + lateral(f) if s in sides else lateral(f)
        detail = self.stem(x)
        sides[self.stride] = detail + sides[self.stride] if self.stride in sides else detail
        y = context = sides[self.levels[0]]
        for s, reduce, refine in zip(self.levels[1:], self.reduce, self.refine, strict=True):
            y = F.interpolate(reduce(y), scale_factor=2.0, mode="nearest")  # (B, c, H/s, W/s)
            y = refine(y + sides[s] if s in sides else y)
            if s == self.feature_strides[1]:
                context = y
        colour = x if self.stride == 1 else F.avg_pool2d(x, self.stride)
        return y, colour, context

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """(B, 3, H, W) -> nucleus logits (B, h, w), distance maps (B, 3, h, w), and what `pool_nuclei` reads.

        Distance maps: horizontal, vertical, depth (see `stpath_core.data.distance_targets`).
        """
        features = self.forward_features(image)
        maps = self.maps(self.finest(features[0]).permute(0, 2, 3, 1))  # (B, h, w, 4)
        return maps[..., 0], maps[..., 1:].permute(0, 3, 1, 2), features


class TypeHead(nn.Module):
    """Features of nuclei (n, F) -> class logits (n, K): linear in how a nucleus differs from the others of its image.

    `typical` (2, F) holds mean and standard deviation within a training image; an image of few nuclei leans on it.
    """

    BORROWED = 20  # nuclei that `typical` counts for

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.linear = nn.Linear(features, classes)
        self.register_buffer("typical", torch.stack([torch.zeros(features), torch.ones(features)]))

    def relative(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        """(n, F) in standard deviations from the mean of the same image; image (n,) tells them apart, None: one."""
        image = torch.zeros(len(x), dtype=torch.long, device=x.device) if image is None else image
        mean, variance, count = image_moments(x, image)
        if self.training and len(x) > 1:
            with torch.no_grad():
                self.typical.lerp_(torch.stack([mean.mean(0), variance.mean(0).sqrt()]), 0.05)
        share = count / (count + self.BORROWED)  # (images, 1)
        mean = self.typical[0].lerp(mean, share)
        spread = self.typical[1].square().lerp(variance, share).sqrt() + 1e-3
        return (x - mean[image]) / spread[image]

    def forward(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        return self.linear(self.relative(x, image))


def image_moments(x: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (images, F) of features (n, F) within each image, and its number of nuclei (images, 1).

    image : (n,) index from 0; an index without nuclei gives zeros.
    """
    images = int(image.max()) + 1 if len(image) else 1
    count = torch.bincount(image, minlength=images)[:, None].to(x.dtype)

    def mean(values: Tensor) -> Tensor:
        return values.new_zeros(images, values.shape[1]).index_add_(0, image, values) / count.clamp(min=1)

    middle = mean(x)
    return middle, mean((x - middle[image]).square()), count


def pool_nuclei(features: tuple[Tensor, Tensor, Tensor], instances: Tensor) -> tuple[Tensor, Tensor]:
    """Feature of every nucleus of a batch: what it looks like, its size and shape, and what surrounds it.

    features : (B, F, h, w), colours (B, 3, h, w) and context (B, C, h', w') of `NucleiNet.forward`; instances :
    (B, h, w) integer ids, 0 background, unique per image. Returns features (n, 2 (F + 3) + 3 + C) and keys (n, 2):
    image index and instance id, sorted by both. The features are mean and standard deviation of the first two over the
    nucleus' pixels; log area and log half axes, in output pixels; the context at its centroid.
    """
    fine, colour, context = features
    b, r, c = instances.nonzero(as_tuple=True)
    ids = instances[b, r, c].long()
    top = int(ids.max()) + 1 if len(ids) else 1
    runs, run = torch.unique_consecutive(b * top + ids, return_inverse=True)  # ten times fewer than pixels
    keys, key = torch.unique(runs, return_inverse=True)  # (n,), (runs,)
    index = key[run]  # (pixels,)
    image = keys // top
    size = torch.bincount(index, minlength=len(keys)).clamp(min=1)[:, None].float()

    def mean(values: Tensor) -> Tensor:  # (pixels, k) -> (n, k)
        return values.new_zeros(len(keys), values.shape[1]).index_add_(0, index, values) / size

    pixels = torch.cat([fine[b, :, r, c], colour[b, :, r, c]], 1).float()  # (pixels, F + 3)
    middle = mean(pixels)
    spread = (mean((pixels - middle.index_select(0, index)).square()) + 1e-6).sqrt()
    place = torch.stack([r, c], 1).float() + 0.5
    centroid = mean(place)  # (n, 2) row, column
    scale = centroid.new_tensor([context.shape[-2] / fine.shape[-2], context.shape[-1] / fine.shape[-1]])
    around = _bilinear(context, image, centroid * scale - 0.5)
    pooled = torch.cat([middle, spread, _shape(place - centroid.index_select(0, index), size, mean), around], 1)
    return pooled, torch.stack([image, keys % top], 1)


def _shape(offset: Tensor, size: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
    """Log area and the log half axes of the ellipse with the same second moments: (n, 3)."""
    yy, xx, xy = mean(torch.stack([offset[:, 0] ** 2, offset[:, 1] ** 2, offset[:, 0] * offset[:, 1]], 1)).T
    half_trace, root = (yy + xx) / 2, (((yy - xx) / 2).square() + xy.square() + 1e-6).sqrt()
    axes = torch.stack([half_trace + root, (half_trace - root).clamp(min=0)], 1) + 1 / 12  # a pixel has some width
    return torch.cat([size.log(), axes.log() / 2], 1)


def _bilinear(maps: Tensor, image: Tensor, at: Tensor) -> Tensor:
    """Read maps (B, C, h, w) at points `at` (n, 2; row, column of pixel centres) of the images `image` (n,): (n, C)."""
    last = at.new_tensor([maps.shape[-2] - 1, maps.shape[-1] - 1])
    at = at.clamp(min=0).minimum(last)
    low = at.floor()
    t = (at - low)[:, :, None]  # (n, 2, 1)
    (r0, c0), (r1, c1) = low.long().T, torch.minimum(low + 1, last).long().T
    above = maps[image, :, r0, c0] * (1 - t[:, 1]) + maps[image, :, r0, c1] * t[:, 1]
    below = maps[image, :, r1, c0] * (1 - t[:, 1]) + maps[image, :, r1, c1] * t[:, 1]
    return (above * (1 - t[:, 0]) + below * t[:, 0]).float()
