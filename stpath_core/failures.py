"""Where a segmentation fails, and how: kinds of errors, and the worst tiles to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stpath_core import metrics
from stpath_core.evaluate import truth

if TYPE_CHECKING:
    import pandas as pd

    from stpath_core.data import NucleiSection

KINDS = ("missed", "merged", "split", "loose", "crumb", "false_alarm")


def error_kinds(table: metrics.OverlapTable) -> dict[str, int]:
    """Nuclei by what went wrong with them; those that match with IoU > 0.5 are right and not counted.

    missed : no prediction covers a tenth of the true nucleus. merged : a prediction covers at least half of it and of
    another true nucleus. split : two or more predictions lie at least half inside it. loose : found, but its outline is
    too far off. Of predictions: crumb, at least half of it on a true nucleus that another prediction matches;
    false_alarm, less than a tenth of it on true nuclei.
    """
    n_true, n_pred = len(table.true_ids), len(table.pred_ids)
    of_true, of_pred = table.intersection / table.true_area[table.row], table.intersection / table.pred_area[table.col]
    covered = np.bincount(table.row, weights=table.intersection, minlength=n_true) / table.true_area
    on_nuclei = np.bincount(table.col, weights=table.intersection, minlength=n_pred) / table.pred_area
    swallowed = of_true >= 0.5
    swallows = np.bincount(table.col[swallowed], minlength=n_pred)
    right, partner, _ = metrics.match_instances(table)
    wrong, extra = np.ones(n_true, bool), np.ones(n_pred, bool)
    wrong[right] = extra[partner] = False
    kinds = {
        "missed": covered < 0.1,
        "merged": np.bincount(table.row[swallowed & (swallows[table.col] > 1)], minlength=n_true) > 0,
        "split": np.bincount(table.row[of_pred >= 0.5], minlength=n_true) > 1,
        "loose": np.ones(n_true, bool),
    }
    counts = {}
    for kind, found in kinds.items():  # the first that applies
        counts[kind] = int((found & wrong).sum())
        wrong &= ~found
    on_matched = np.isin(table.row, right) & (of_pred >= 0.5)
    crumb = extra & (np.bincount(table.col[on_matched], minlength=n_pred) > 0)
    return counts | {"crumb": int(crumb.sum()), "false_alarm": int((on_nuclei < 0.1).sum())}


def tile_table(
    sections: Sequence[NucleiSection], predicted: Sequence[np.ndarray], *, tile_um: float = 128.0
) -> pd.DataFrame:
    """PQ and kinds of errors of every tile that holds a true nucleus, worst first.

    Columns: section (position), name, organ, x_um, y_um (the tile's middle), pq, n_true, and one per kind.
    """
    import pandas as pd

    rows = []
    for k, (section, pred) in enumerate(zip(sections, predicted, strict=True)):
        true, side = truth(section)[0], round(tile_um / section.mpp)
        for y in range(0, max(1, true.shape[0] - side // 2), side):
            for x in range(0, max(1, true.shape[1] - side // 2), side):
                window = np.s_[y : y + side, x : x + side]
                table = metrics.overlap_table(true[window], pred[window])
                if len(table.true_ids):
                    height, width = true[window].shape
                    centre = ((x + width / 2) * section.mpp, (y + height / 2) * section.mpp)
                    rows.append((k, section.name, section.organ, *centre, metrics.pq(table=table), len(table.true_ids),
                                 *error_kinds(table).values()))  # fmt: skip
    columns = ["section", "name", "organ", "x_um", "y_um", "pq", "n_true", *KINDS]
    return pd.DataFrame(rows, columns=columns).sort_values("pq", ignore_index=True)
