"""Tables keep the order of ids, and enrichment finds who was planted beside whom."""

import numpy as np
import pandas as pd
import pytest

from stpath_core import keys, tables
from stpath_core.data import NucleiSection
from stpath_core.errors import InputError
from stpath_core.tissue.cell_types import SUPER_CLASSES


def planted(labels, n_side=12, cell=20):
    """A lattice of square nuclei with the given classes, one per site, 10 um apart."""
    ids = np.zeros((n_side * cell, n_side * cell), np.int32)
    for i in range(n_side**2):
        row, col = divmod(i, n_side)
        ids[row * cell + 5 :, col * cell + 5 :][:8, :9] = i + 1
    labels = np.concatenate([[-1], labels]).astype(np.int8)
    image = np.full((*ids.shape, 3), 200, np.uint8)
    image[ids > 0] = (90, 60, 130)
    return NucleiSection("s", "colon", "p", image, 0.5, ids, labels, np.linspace(0, 1, len(labels)), ids, labels)


def stripes(n_side=12):
    """Epithelial left, inflammatory right, connective nowhere near the epithelial."""
    return np.tile(np.repeat([0, 2, 3], n_side // 3), n_side)


def test_table_keeps_ids_positions_and_colours():
    section = planted(stripes())
    table = tables.nuclei_table(section)
    assert list(table.obs[keys.CELL_ID][:3]) == ["1", "2", "3"]
    np.testing.assert_allclose(table.obsm[keys.SPATIAL][1], [(20 + 5 + 4.5) * 0.5, (5 + 4) * 0.5])
    assert list(table.obs[keys.LABEL].cat.categories) == ["epithelial", "inflammatory", "connective"]
    assert len(table.uns["label_colors"]) == 3
    np.testing.assert_allclose(table[:, "area_um2"].X, 72 * 0.25)
    np.testing.assert_allclose(table.obs[keys.CONFIDENCE], section.confidence[1:])
    gone = section.instances.copy()
    gone[gone == 2] = 0
    other = tables.nuclei_table(NucleiSection("s", "colon", "p", section.image, 0.5, gone, section.labels))
    assert list(other.obs[keys.CELL_ID][:2]) == ["1", "3"]
    assert other.obs[keys.LABEL].iloc[1] == table.obs[keys.LABEL].iloc[2]


def test_enrichment_finds_stripes_and_not_shuffled_ones(tmp_path):
    table = tables.nuclei_table(planted(stripes()))
    found = tables.enrichment(table, reach_um=12, draws=100)
    table.write_h5ad(tmp_path / "t.h5ad")  # what squidpy left in it can be stored
    assert list(found.index) == list(found.columns) == list(SUPER_CLASSES)
    assert found.loc["epithelial", "epithelial"] > 5
    assert found.loc["epithelial", "connective"] < -3
    assert found.loc["neoplastic"].isna().all()
    mixed = planted(np.random.default_rng(0).permutation(stripes()))
    by_chance = tables.enrichment(tables.nuclei_table(mixed), reach_um=12, draws=100)
    assert np.nanmax(np.abs(by_chance)) < 4
    assert tables.agreement(found, found) == pytest.approx(1)
    assert abs(tables.agreement(found, by_chance)) < 0.9


def test_enrichment_of_too_little_is_undefined():
    one_class = tables.nuclei_table(planted(np.zeros(144, int)))
    assert tables.enrichment(one_class).isna().all(axis=None)
    assert np.isnan(tables.agreement(*[pd.DataFrame(np.full((4, 4), np.nan))] * 2))
    untyped = tables.nuclei_table(planted(stripes()).without_labels())
    with pytest.raises(InputError, match="no obs"):
        tables.enrichment(untyped)


def test_section_for_export_measures_in_um():
    section = tables.io_section(planted(stripes()), dataset="virtual")
    np.testing.assert_allclose(section.centroids_px()[0], [9.5, 9])
    assert (section.instances() == planted(stripes()).instances).all()
