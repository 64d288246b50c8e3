"""Figures show what they claim: colours by class, outlines where nuclei are, a scalebar of the right length."""

from itertools import combinations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from stpath_core import plot
from stpath_core.errors import InputError
from stpath_core.tissue.cell_types import CELL_TYPES, SUPER_CLASSES


@pytest.fixture(autouse=True)
def no_show(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_: pytest.fail("a library figure called show"))
    yield
    plt.close("all")


@pytest.fixture
def tissue():
    """A grey image of 100 x 200 um at 0.5 um/px with 8 square nuclei."""
    ids = np.zeros((200, 400), np.int32)
    for i in range(8):
        row, col = divmod(i, 4)
        ids[60 + 70 * row :, 60 + 90 * col :][:16, :16] = i + 1
    return np.full((200, 400, 3), 180, np.uint8), ids, np.arange(8) % 4


def bars_of(ax):
    return [a for a in ax.artists if isinstance(a, AnchoredSizeBar)]


def length_um(bar):
    return float(bar.txt_label.get_text().split()[0])


def without_green_cones(rgb):
    """A colour as deuteranopes see it (Machado et al. 2009; applied to gamma-encoded values, enough for distances)."""
    return np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]) @ rgb


def test_class_colours_differ_for_everyone():
    colours = {name: np.array(to_rgb(plot.COLOURS[name])) for name in SUPER_CLASSES}
    for a, b in combinations(colours, 2):
        assert np.linalg.norm(colours[a] - colours[b]) > 0.3, (a, b)
        assert np.linalg.norm(without_green_cones(colours[a]) - without_green_cones(colours[b])) > 0.2, (a, b)
    fine = plot.fine_colours()
    assert set(fine) == set(CELL_TYPES)
    assert len(set(fine.values())) == len(fine)


def test_types_may_be_indices_or_names():
    assert list(plot.type_names([0, 3, -1])) == ["epithelial", "connective", "unknown"]
    assert list(plot.type_names(pd.Series(["neoplastic"], dtype="category"))) == ["neoplastic"]


def test_overlay_draws_each_nucleus_in_its_colour_at_its_place(tissue):
    image, ids, types = tissue
    ax = plot.overlay(image, 0.5, instances=ids, types=types)
    layer = ax.images[1].get_array()
    left, right, bottom, top = ax.images[1].get_extent()
    assert (left, right, bottom, top) == (0, 200, 100, 0)
    rows, cols = np.nonzero(layer[..., 3])
    x, y = (cols + 0.5) * 200 / layer.shape[1], (rows + 0.5) * 100 / layer.shape[0]
    owner = ids[(y / 0.5).astype(int), (x / 0.5).astype(int)]
    assert set(owner) == set(range(1, 9))  # every nucleus has an outline, and outlines lie inside
    for i in range(1, 9):
        expected = to_rgb(plot.COLOURS[SUPER_CLASSES[types[i - 1]]])
        np.testing.assert_allclose(np.unique(layer[rows, cols][owner == i, :3], axis=0), [expected])
    assert layer[68 * layer.shape[0] // 200, 68 * layer.shape[1] // 400, 3] == 0  # the middle of a nucleus stays free


def test_zooms_are_framed_and_carry_their_own_scalebar(tissue):
    image, ids, types = tissue
    ax = plot.overlay(image, 0.5, instances=ids, types=types, zooms_um=(90, 40, 10), centre_um=(34, 34))
    views = ax.figure.axes
    assert isinstance(ax, Axes)
    assert [len(v.patches) for v in views] == [1, 1, 0]
    assert [round(abs(np.subtract(*v.get_xlim()))) for v in views] == [90, 40, 10]
    assert [length_um(bars_of(v)[0]) for v in views] == [20, 10, 2]


def test_compare_draws_truth_below_and_prediction_above(tissue):
    image, ids, _ = tissue
    moved = np.roll(ids, 4, axis=1)
    for window in ({}, {"width_um": 60, "centre_um": (40, 40)}):
        ax = plot.compare(image, 0.5, true=ids, predicted=moved, **window)
        true, predicted = (i.get_array() for i in ax.images[1:])
        assert ax.images[1].get_extent() == ax.images[2].get_extent()
        assert not true[true[..., 3] > 0, :3].any()
        np.testing.assert_allclose(np.unique(predicted[predicted[..., 3] > 0, :3], axis=0), [to_rgb("#FFE800")])
        shift = (np.nonzero(predicted[..., 3])[1].min() - np.nonzero(true[..., 3])[1].min()) / true.shape[1]
        assert shift * np.ptp(ax.get_xlim()) == pytest.approx(2, abs=0.2)  # 4 px of 0.5 um
    assert len(plot.compare(image, 0.5, true=ids, predicted=ids * 0).images) == 2


def test_polygons_are_drawn_in_micrometres(tissue):
    image, _, _ = tissue
    ax = plot.overlay(image, 0.5, polygons_px=[np.array([[60, 60], [76, 60], [76, 76]])], types=["neoplastic"])
    path = ax.collections[0].get_paths()[0]
    np.testing.assert_allclose(path.vertices[:3], [[30, 30], [38, 30], [38, 38]])
    np.testing.assert_allclose(ax.collections[0].get_edgecolor()[0][:3], to_rgb(plot.COLOURS["neoplastic"]))


def test_wrong_number_of_types_is_refused(tissue):
    image, ids, types = tissue
    with pytest.raises(InputError, match="7 entries; expected 8"):
        plot.overlay(image, 0.5, instances=ids, types=types[:7])


def test_gallery_has_a_row_per_class_and_outlines_the_chosen_nucleus(tissue):
    image, ids, types = tissue
    ax = plot.gallery(image, 0.5, instances=ids, types=types, n_each=2, width_um=12)
    sheet = ax.images[0].get_array()
    assert [t.get_text() for t in ax.get_yticklabels()] == list(SUPER_CLASSES)
    assert sheet.shape == (4 * 24, 2 * 24, 3)
    outline = (np.array(to_rgb(plot.COLOURS["neoplastic"])) * 255).astype(np.uint8)
    assert (sheet[24:48, :24] == outline).all(-1).sum() == 4 * 16
    some = plot.gallery(image, 0.5, instances=ids, types=types, classes=("neoplastic", "unknown"))
    assert [t.get_text() for t in some.get_yticklabels()] == ["neoplastic"]
    none = plot.gallery(image, 0.5, instances=ids, types=np.full(8, -1), classes=SUPER_CLASSES)
    assert none.texts[0].get_text() == "no such nuclei"
    best = plot.gallery(image, 0.5, instances=ids, types=types, n_each=1, score=np.arange(8), width_um=12)
    assert best.images[0].get_array().shape[1] == 24


def test_maps_and_dots_carry_a_scalebar(tissue):
    image, ids, types = tissue
    assert length_um(bars_of(plot.probability_map((ids > 0) * 0.7, 0.5))[0]) == 50
    dots = plot.cell_map(np.random.default_rng(0).uniform(0, 100, (8, 2)), types)
    assert len(bars_of(dots)) == 1
    assert dots.yaxis_inverted()
    sheet = plot.contact_sheet([image, image[:120]], [0.5, 0.25], titles=["a", "b"])
    assert [round(np.ptp(ax.get_xlim())) for ax in sheet.flat] == [30, 30]  # one scale, the smallest image decides
    tiles = plot.training_tiles(np.zeros((2, 3, 64, 64), np.uint8), np.zeros((2, 3, 32, 32)), mpp=0.5)
    assert tiles.shape == (4, 2)
    assert all(len(bars_of(ax)) == 1 for ax in tiles.flat)


def test_confusion_shows_shares_of_rows():
    counts = np.diag([8, 4, 2, 2, 0])
    counts[0, 4] = 2
    ax = plot.confusion(counts)
    np.testing.assert_allclose(ax.images[0].get_array()[0], [0.8, 0, 0, 0, 0.2])
    assert [t.get_text() for t in ax.get_xticklabels()][-1] == "missed"
    assert len(plot.confusion(np.eye(4, dtype=int)).get_xticklabels()) == 4


def test_bars_draw_undefined_as_zero_and_a_dot_per_image():
    table = pd.DataFrame(
        [("network", "pq", 0.6, 0.5, 0.7), ("classical", "pq", np.nan, np.nan, np.nan)],
        columns=["method", "measure", "mean", "lo", "hi"],
    )
    ax = plot.bars(table, points={"network": pd.DataFrame({"pq": [0.5, 0.6, 0.7]})})
    assert [p.get_height() for p in ax.patches] == [0.6, 0]
    assert max(len(line.get_xdata()) for line in ax.lines if line.get_marker() == "o") == 3


def test_curves_have_a_panel_per_term_and_a_line_per_network():
    history = pd.DataFrame({"step": [1, 2] * 2, "loss": [2.0, 1.0] * 2, "network": ["a", "a", "b", "b"], "lr": 0.1})
    history["validation"] = [np.nan, 1.0, np.nan, 1.2]
    axes = plot.training_curves(history)
    assert [ax.get_title() for ax in axes.flat] == ["loss", "validation"]
    assert len(axes.flat[1].lines) == 2


def test_reliability_bins_hold_equal_counts():
    confidence = np.linspace(0, 1, 100)
    ax = plot.reliability(confidence, confidence > 0.5, n_bins=4)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [0, 0, 1, 1])


def test_jpeg_is_asked_for_before_and_after_the_backend_wakes(monkeypatch):
    """With the parts of IPython's shell that matter: its config, and the configurables that exist already."""
    from traitlets import Dict, Set
    from traitlets.config import Config, Configurable

    class InlineBackend(Configurable):
        figure_formats = Set({"png"}).tag(config=True)
        print_figure_kwargs = Dict().tag(config=True)

    awake = InlineBackend()
    shell = Configurable(config=Config())
    shell.configurables = [awake]
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    plot.jpeg_in_notebooks(quality=70)
    asleep = InlineBackend(parent=shell)
    for backend in (awake, asleep):
        assert backend.figure_formats == {"jpeg"}
        assert backend.print_figure_kwargs["pil_kwargs"] == {"quality": 70}
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    plot.jpeg_in_notebooks()  # no notebook, nothing to do


def test_methods_genes_and_maps_of_expression_are_drawn():
    table = pd.DataFrame(
        {"method": ["ridge", "mean"], "mean": [0.1, np.nan], "lo": [0.05, np.nan], "hi": [0.2, np.nan]}
    )
    ax = plot.method_scores(table, points={"ridge": np.array([0.08, 0.12])}, ceiling=0.5)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["mean (no score)", "ridge"]
    genes = pd.Series([0.3, 0.1, 0.2], index=["A", "B", "C"])
    ax = plot.gene_scatter(genes, genes, genes.index, xlabel="x", ylabel="y", n=1)
    assert sorted(t.get_text() for t in ax.texts) == ["A", "B"]
    xy_um = 100.0 * np.stack(np.meshgrid(range(3), range(3)), -1).reshape(-1, 2)
    axes = plot.value_maps(xy_um, pd.DataFrame({"a": np.arange(9.0), "b": np.ones(9)}), columns=2)
    assert [ax.get_title() for ax in axes.flat] == ["a", "b"]
    assert plot.heat(pd.DataFrame([[1.0, -2.0]], index=["t"], columns=["g", "h"])).images[0].get_clim() == (-2, 2)
    assert len(plot.pit_histogram({"x": np.linspace(0, 1, 50)}).patches) == 1
    curve = pd.DataFrame({"slides": [1, 2, 1, 2], "key": ["a", "a", "b", "b"], "value": [1.0, 2, 3, 4]})
    assert len(plot.curves(curve, "slides").lines) == 2
