"""What hand annotation would have given: a few tiles, some nuclei missed, borders that wobble, some types wrong.

The other side of the ledger of labels from transcripts: how many hand-annotated tiles is a slide of them worth?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from stpath_core.data import NucleiSection
from stpath_core.errors import InputError
from stpath_core.evaluate import NucleiScores, stratified_weights
from stpath_core.postprocess import renumber


@dataclass(frozen=True)
class Annotator:
    """How a person errs; zero turns an error off.

    missed : share of nuclei not outlined. wobble_um : standard deviation of a drawn border about the true one, in um.
    mistyped : share of outlined nuclei given one of the other classes. The defaults are assumptions, on the kind side
    of what is reported when several pathologists annotate the same nuclei (NuCLS, Amgad et al. 2022).
    """

    missed: float = 0.1
    wobble_um: float = 0.4
    mistyped: float = 0.1

    def __post_init__(self):
        if not (0 <= self.missed < 1 and 0 <= self.mistyped <= 1 and self.wobble_um >= 0):
            msg = f"{self}: shares lie between 0 and 1, wobble_um is at least 0"
            raise InputError(msg)

    def annotate(self, section: NucleiSection, *, n_classes: int, rng: np.random.Generator) -> NucleiSection:
        """The section with its true nuclei as this person would have drawn and typed them."""
        if section.truth_instances is None or section.truth_labels is None:
            msg = f"{section.name} has no planted truth, so no annotator of it can be simulated; use virtual tissue"
            raise InputError(msg)
        drawn = _wobble(section.truth_instances, self.wobble_um / section.mpp, rng)
        labels = section.truth_labels.astype(np.int8)
        wrong = (rng.random(len(labels)) < self.mistyped) & (labels >= 0)
        labels = np.where(wrong, (labels + rng.integers(1, n_classes, len(labels))) % n_classes, labels).astype(np.int8)
        seen = rng.random(len(labels)) >= self.missed
        drawn = np.where(seen[drawn], drawn, 0)
        present = np.bincount(drawn.ravel(), minlength=len(labels)) > 0
        present[0] = True
        return replace(section, instances=renumber(drawn), labels=labels[present], confidence=None)


def _wobble(instances: np.ndarray, px: float, rng: np.random.Generator) -> np.ndarray:
    """Push every border about by a smooth random field of standard deviation `px` pixels, a nucleus' width long."""
    if px == 0:
        return instances
    rows, cols = np.indices(instances.shape, dtype=np.float32)
    field = ndimage.gaussian_filter(rng.standard_normal((2, *instances.shape)).astype(np.float32), (0, 4, 4))
    field *= px / field.std()
    at = np.rint(np.stack([rows, cols]) + field).astype(int)
    at = np.clip(at, 0, np.array(instances.shape)[:, None, None] - 1)
    return instances[tuple(at)]


def annotated_tiles(
    sections: Sequence[NucleiSection],
    n: int,
    *,
    tile_um: float = 64.0,
    annotator: Annotator | None = None,
    n_classes: int = 4,
    seed: int = 0,
) -> list[NucleiSection]:
    """`n` square tiles, spread evenly over the sections and at random in each, as a person would have annotated them.

    A tile is a small section of its own, so that nothing outside it can be learned from. The same seed gives nested
    sets: the first five of twenty tiles are the five.
    """
    annotator = annotator or Annotator()
    tiles = []
    for k in range(n):
        rng = np.random.default_rng([seed, k])
        s = sections[k % len(sections)]
        side = round(tile_um / s.mpp)
        if side > min(s.image.shape[:2]):
            msg = f"tile_um={tile_um} is wider than section {s.name} ({min(s.image.shape[:2]) * s.mpp:.0f} um)"
            raise InputError(msg)
        top, left = (int(rng.integers(0, size - side + 1)) for size in s.image.shape[:2])
        window = np.s_[top : top + side, left : left + side]
        ids = s.truth_instances[window]
        kept = np.r_[True, np.bincount(ids.ravel(), minlength=len(s.truth_labels))[1:] > 0]
        cut = replace(
            s, name=f"{s.name}_tile{k}", image=s.image[window], instances=s.instances[window], labels=None,
            confidence=None, truth_instances=renumber(ids), truth_labels=s.truth_labels[kept],
        )  # fmt: skip
        tiles.append(annotator.annotate(cut, n_classes=n_classes, rng=rng))
    return tiles


def tiles_to_match(tiles: Sequence[int], scores: Sequence[float], target: float) -> float:
    """Number of tiles at which a curve first reaches `target`, between its points linear in log(tiles).

    Where even the fewest reach it that number is given (an upper bound), where even the most do not, inf.
    """
    tiles, scores = np.asarray(tiles, float), np.asarray(scores, float)
    order = np.argsort(tiles)
    tiles, best = tiles[order], np.maximum.accumulate(scores[order])  # more tiles can always be left unused
    if best[0] >= target:
        return float(tiles[0])
    if best[-1] < target:
        return float("inf")
    k = int(np.argmax(best >= target))
    share = (target - best[k - 1]) / (best[k] - best[k - 1])
    return float(np.exp(np.log(tiles[k - 1]) + share * np.log(tiles[k] / tiles[k - 1])))


def bootstrap_tiles_to_match(
    by_tiles: dict[int, NucleiScores], target: NucleiScores, measure: str, *, n: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """`tiles_to_match` in the mean over organs, with its 95 % interval from drawing the same test images for all."""
    weights = stratified_weights(target.images, n=n, seed=seed)

    def both(scores: NucleiScores) -> np.ndarray:  # (1 + n,): as it is, then each draw
        return np.r_[*(scores.means(weights=w)[measure].mean(-1) for w in (None, weights))]

    curve, wanted = np.array([both(s) for s in by_tiles.values()]), both(target)
    found = np.array([tiles_to_match(list(by_tiles), curve[:, j], wanted[j]) for j in range(n + 1)])
    lo, hi = np.quantile(found[1:], [0.025, 0.975], method="nearest")
    return float(found[0]), float(lo), float(hi)
