"""Figures of spots: every spot in its place and colour, shares that fill the bar."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from stpath_core import plot
from stpath_core.tissue.mixtures import LABELS, label_of

XY = np.array([[56.0, 56.0], [168.0, 56.0], [56.0, 168.0]])


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_spots_lie_where_they_are_in_the_colour_of_their_class():
    words = ["invasive cancer", "colon glands", "undetermined"]
    ax = plot.spot_map(XY, words)
    spots = ax.collections[0]
    assert np.array_equal(spots.get_offsets(), XY)
    assert [to_hex(c) for c in spots.get_facecolor()] == [plot.tissue_colour(w).lower() for w in words]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # y runs down, as in the picture
    assert len({plot.tissue_colour(label_of(region, "breast")) for region in LABELS}) == len(LABELS)


def test_numbers_keep_the_scale_they_are_given():
    ax = plot.spot_map(XY, [0.0, 1.0, 2.0], limits=(0, 4), title="x")
    assert ax.collections[0].get_clim() == (0, 4)
    assert ax.get_title() == "x"


def test_bars_stack_to_one():
    ax = plot.share_bars(pd.DataFrame({"invasive": [0.25, 1.0], "gland": [0.75, 0.0]}))
    tops = [bar.get_y() + bar.get_height() for bar in ax.containers[-1]]
    np.testing.assert_allclose(tops, 1)


def test_an_embedding_has_a_colour_per_group():
    ax = plot.embedding(np.random.default_rng(0).normal(size=(20, 3)), ["p1", "p2"] * 10)
    assert len(ax.collections) == 2
    assert len({to_hex(c.get_facecolor()[0]) for c in ax.collections}) == 2
