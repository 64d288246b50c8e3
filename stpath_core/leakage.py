"""Find out whether train and test share patients, organs, pixels or pictures, before a score flatters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from stpath_core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from stpath_core.data import NucleiSection

NAMELESS = ("", "nan", "nat", "<na>", "na", "n/a", "none", "null", "unknown")  # what missing patients are called

_WINDOW_PX = 16  # side of the windows whose exact repetition betrays an overlap
_SAMPLE = 64  # one window in so many is compared
_SHARED_WINDOWS = 5  # so many equal windows are no accident
_CHANNELS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)  # any odd numbers do
_FACTORS = np.array([0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53], np.uint64)
_THUMBNAIL_PX = 32


def audit_split(
    train: Sequence[NucleiSection], test: Sequence[NucleiSection], *, apart: Sequence[str] = ("patient",)
) -> pd.DataFrame:
    """Refuse a split that leaks; otherwise return what was compared, one row per check.

    train, test : sections with `name`, `image` (H, W, 3) uint8, and every attribute named in `apart`, which must have
    no value in common: add "organ" where the claim is about unseen organs. Images are compared by content, whatever
    they are called: overlapping crops by exactly repeated 16 x 16 windows at any offset, duplicates by thumbnails,
    which also survive recompression, mirroring and quarter turns. An overlap that was resampled first is not seen.
    """
    import pandas as pd

    leaks, rows = [], []
    for name in apart:
        values = [{_attribute(s, name) for s in side} for side in (train, test)]
        shared = sorted(values[0] & values[1])
        leaks += [f"{name} {value!r} is on both sides" for value in shared]
        rows.append((name, len(values[0]), len(values[1]), len(shared)))
    checks = (("overlapping pixels", _windows, _overlap), ("duplicate image", _thumbnail, _same_picture))
    for what, summarise, same in checks:
        left, right = ([(s.name, summarise(s.image)) for s in side] for side in (train, test))
        pairs = [(a, b) for a, x in left for b, y in right if same(x, y)]
        leaks += [f"{what}: {a!r} (train) and {b!r} (test)" for a, b in pairs]
        rows.append((what, len(train), len(test), len(pairs)))
    if leaks:
        message = f"this split leaks, so its test score would flatter: {'; '.join(leaks)}. Move or drop these sections"
        raise InputError(message)
    return pd.DataFrame(rows, columns=["compared", "in train", "in test", "shared"]).set_index("compared")


def _attribute(section: NucleiSection, name: str) -> str:
    value = getattr(section, name, None)
    if str(value).strip().lower() in NAMELESS:
        message = (
            f"section {section.name!r} has no {name}; a split cannot be audited without: fill it in where it is read"
        )
        raise InputError(message)
    return str(value).strip()


def _windows(image: np.ndarray) -> np.ndarray:
    """Sorted hashes of a sample of the 16 x 16 windows; which ones depends on their content, not on their place."""
    if min(image.shape[:2]) < _WINDOW_PX:
        return np.zeros(0, np.uint64)
    hashes = image.astype(np.uint64) @ _CHANNELS  # (H, W), modulo 2^64
    for factor in _FACTORS:  # a rolling polynomial along the columns, then along the rows
        width = hashes.shape[1] - _WINDOW_PX + 1
        rolled = np.zeros((hashes.shape[0], width), np.uint64)
        for step in range(_WINDOW_PX):
            rolled *= factor
            rolled += hashes[:, step : step + width]
        hashes = rolled.T
    hashes = (hashes ^ (hashes >> np.uint64(31))) * _FACTORS[1]  # mix high bits into those that choose the sample
    found, times = np.unique(hashes[(hashes >> np.uint64(40)) % _SAMPLE == 0], return_counts=True)
    return found[times == 1]  # what repeats within one image is empty glass


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    return len(np.intersect1d(a, b, assume_unique=True)) >= _SHARED_WINDOWS


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """Grey picture of 32 x 32 block means; flat where the image is too small to have one."""
    if min(image.shape[:2]) < _THUMBNAIL_PX:
        return np.zeros((_THUMBNAIL_PX, _THUMBNAIL_PX))
    edges = [np.linspace(0, size, _THUMBNAIL_PX + 1).astype(int) for size in image.shape[:2]]
    sums = np.add.reduceat(np.add.reduceat(image.mean(2), edges[0][:-1], 0), edges[1][:-1], 1)
    return sums / np.outer(np.diff(edges[0]), np.diff(edges[1]))


def _same_picture(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether thumbnails agree, in some orientation, in most of their 64 patches: not only in where the glass lies."""
    first = _patches(a)
    for second in (_patches(np.rot90(side, k)) for side in (b, b.T) for k in range(4)):
        norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        textured = norms > 16 * 2**2  # both vary by some 2 grey levels
        if textured.sum() >= 8 and np.median((first * second).sum(1)[textured] / norms[textured]) > 0.95:
            return True
    return False


def _patches(small: np.ndarray) -> np.ndarray:
    """(32, 32) -> (64, 16): patches of 4 x 4, each minus its mean."""
    n = _THUMBNAIL_PX // 4
    patches = small.reshape(n, 4, n, 4).swapaxes(1, 2).reshape(n * n, 16)
    return patches - patches.mean(1, keepdims=True)


def hidden_labels(label: np.ndarray, hidden: np.ndarray, *, blank: str = "unlabelled") -> np.ndarray:
    """The labels (n,) as training may see them: those of the `hidden` rows (n,) bool are replaced by `blank`."""
    out = np.array(label, object)
    out[hidden] = blank
    return out.astype(str)


def audit_labels(
    stages: Callable[[np.ndarray], np.ndarray], label: np.ndarray, hidden: np.ndarray, *, seed: int = 0
) -> None:
    """Prove by experiment that labels of the `hidden` rows (n,) bool reach nothing: permute them and train again.

    stages : labels (n,) of all spots -> an embedding, everything from the first stage on, deterministic. It is called
    with the labels as they are and with those of the hidden rows exchanged for others. InputError where the two
    embeddings differ anywhere: somebody looked.
    """
    words = np.unique(label)
    if len(words) < 2 or not np.any(hidden):
        message = f"{len(words)} different labels, {int(np.sum(hidden))} hidden rows: there is nothing that could leak"
        raise InputError(message)
    other = np.array(label, object)
    at = np.searchsorted(words, np.asarray(label)[hidden])
    step = np.random.default_rng(seed).integers(1, len(words), hidden.sum())
    other[hidden] = words[(at + step) % len(words)]  # every hidden label is another one now
    before, after = (np.asarray(stages(given)) for given in (np.asarray(label, str), other.astype(str)))
    if before.shape != after.shape or not np.array_equal(before, after):
        changed = "its shape" if before.shape != after.shape else f"{int((before != after).any(-1).sum())} rows of it"
        message = f"labels of held-out spots reach the embedding ({changed} changed when only they were changed): pass "
        raise InputError(message + "every stage `leakage.hidden_labels`")
