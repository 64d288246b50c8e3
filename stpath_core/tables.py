"""Typed nuclei as other tools read them: an AnnData for squidpy, a Section for SpatialData; and who lies by whom."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.metrics import centroids_um
from stpath_core.models.baselines import nuclear_features
from stpath_core.tissue.cell_types import SUPER_CLASSES

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpath_core.data import NucleiSection
    from stpath_core.io import Section


def nuclei_table(section: NucleiSection, *, truth: bool = False) -> AnnData:
    """The nuclei of a section as AnnData, n rows in the order of ids 1..n: X (n, F) nuclear features, positions in um.

    truth : the planted or annotated nuclei instead of the section's own. obs holds cell_id, section, organ, patient
    and, where there are types, label (categorical, colours in uns) and confidence.
    """
    import pandas as pd
    from anndata import AnnData

    instances = section.truth_instances if truth else section.instances
    labels = section.truth_labels if truth else section.labels
    features = nuclear_features(section.image, instances, section.mpp)
    ids = features.index.to_numpy()
    obs = pd.DataFrame({keys.CELL_ID: ids.astype(str), keys.SECTION: section.name, keys.ORGAN: section.organ,
                        keys.PATIENT: section.patient}, index=[f"{section.name}_{i}" for i in ids])  # fmt: skip
    if labels is not None:
        names = np.array([*SUPER_CLASSES, keys.UNKNOWN])[labels[ids]]
        obs[keys.LABEL] = pd.Categorical(names, categories=[c for c in (*SUPER_CLASSES, keys.UNKNOWN) if c in names])
        if section.confidence is not None and not truth:
            obs[keys.CONFIDENCE] = section.confidence[ids]
    table = AnnData(features.to_numpy(np.float32), obs=obs, var=pd.DataFrame(index=features.columns))
    table.obsm[keys.SPATIAL] = centroids_um(instances, mpp=section.mpp)[ids - 1]
    if labels is not None:
        from stpath_core.plot import COLOURS

        table.uns[f"{keys.LABEL}_colors"] = [COLOURS[c] for c in obs[keys.LABEL].cat.categories]
    return table


def enrichment(table: AnnData, *, reach_um: float = 40.0, draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """How much oftener than by chance two classes are neighbours: z-scores, (C, C), rows and columns SUPER_CLASSES.

    Neighbours share an edge of the Delaunay graph no longer than `reach_um`; chance is `draws` permutations of the
    labels. nan where a class is absent. squidpy computes it and leaves graph and scores in the table, so its own
    figures work afterwards.
    """
    import pandas as pd

    if keys.LABEL not in table.obs:
        message = "the table has no obs['label']; type the nuclei first, or use a checkpoint with a type head"
        raise InputError(message)
    table.obs[keys.LABEL] = table.obs[keys.LABEL].cat.remove_unused_categories()
    names = list(table.obs[keys.LABEL].cat.categories)
    if len(table) < 4 or len(names) < 2:
        return pd.DataFrame(np.nan, index=SUPER_CLASSES, columns=SUPER_CLASSES)
    with quiet():
        squidpy().gr.spatial_neighbors_delaunay(table, radius=(0.0, reach_um))
        squidpy().gr.nhood_enrichment(
            table, cluster_key=keys.LABEL, n_perms=draws, seed=seed, n_jobs=1, show_progress_bar=False
        )
    table.uns["spatial_neighbors"]["params"]["radius"] = [0.0, reach_um]  # h5ad and zarr know no tuples
    scores = table.uns[f"{keys.LABEL}_nhood_enrichment"]["zscore"]
    return pd.DataFrame(scores, index=names, columns=names).reindex(index=SUPER_CLASSES, columns=SUPER_CLASSES)


def agreement(a: pd.DataFrame, b: pd.DataFrame) -> float:
    """Pearson correlation of two symmetric (C, C) tables over the pairs that both define; nan below three."""
    upper = np.triu_indices(len(a))
    a, b = a.to_numpy()[upper], b.to_numpy()[upper]
    both = np.isfinite(a) & np.isfinite(b)
    return float(np.corrcoef(a[both], b[both])[0, 1]) if both.sum() > 2 else float("nan")


def io_section(section: NucleiSection, *, dataset: str) -> Section:
    """The same nuclei as `io.write_spatialdata` and the readers know them."""
    import pandas as pd

    from stpath_core.io import Section

    xy = centroids_um(section.instances, mpp=section.mpp)
    ids = np.arange(1, len(xy) + 1)
    nuclei = pd.DataFrame({keys.CELL_ID: ids.astype(str), "x_um": xy[:, 0], "y_um": xy[:, 1]})
    affine = np.diag([1 / section.mpp, 1 / section.mpp, 1.0])
    return Section(name=section.name, organ=section.organ, patient=section.patient, dataset=dataset, mpp=section.mpp,
                   image=section.image, nuclei=nuclei, mask=section.instances, um_to_px=affine)  # fmt: skip


def squidpy() -> ModuleType:
    """squidpy, imported where it is used (5 to 10 s) and without the warnings of the packages below it."""
    with quiet():
        import squidpy

    return squidpy


@contextmanager
def quiet() -> Iterator[None]:
    """Keep other packages' warnings and notes from the reader; errors come through."""
    level = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
