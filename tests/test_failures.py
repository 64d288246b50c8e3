"""Each kind of error is planted once and named; the worst tile comes first."""

import numpy as np

from stpath_core import failures, metrics
from stpath_core.data import NucleiSection


def planted():
    true, pred = np.zeros((2, 100, 100), np.int32)
    true[5:15, 5:15], pred[5:15, 5:13] = 1, 1  # right, but for
    pred[5:15, 13:15] = 7  # a crumb
    true[5:15, 30:40] = 2  # missed
    true[30:40, 5:15], true[30:40, 15:25], pred[30:40, 5:25] = 3, 4, 2  # merged
    true[60:70, 5:25], pred[60:70, 5:15], pred[60:70, 15:25] = 5, 3, 4  # split
    true[60:70, 50:60], pred[60:70, 55:65] = 6, 5  # loose
    pred[85:95, 85:95] = 6  # false alarm
    return true, pred


def test_every_kind_of_error_is_counted_once():
    kinds = failures.error_kinds(metrics.overlap_table(*planted()))
    assert kinds == {"missed": 1, "merged": 2, "split": 1, "loose": 1, "crumb": 1, "false_alarm": 1}
    true = planted()[0]
    assert set(failures.error_kinds(metrics.overlap_table(true, true)).values()) == {0}
    nothing = failures.error_kinds(metrics.overlap_table(true, true * 0))
    assert nothing == {"missed": 6, "merged": 0, "split": 0, "loose": 0, "crumb": 0, "false_alarm": 0}


def test_worst_tile_comes_first_with_its_place():
    true, pred = planted()
    true, pred = (np.kron(np.array([[1, 0], [0, 1]]), ids) for ids in (true, pred))  # 200 px: tiles 1 and 4 hold nuclei
    pred[:100, :100] = true[:100, :100]
    section = NucleiSection("s", "colon", "p", np.zeros((200, 200, 3), np.uint8), 0.5, true)
    table = failures.tile_table([section], [pred], tile_um=50)
    assert len(table) == 2
    assert tuple(table.loc[0, ["x_um", "y_um"]]) == (75, 75)
    assert table.loc[0, "pq"] < table.loc[1, "pq"] == 1
    assert table.loc[0, "merged"] == 2
