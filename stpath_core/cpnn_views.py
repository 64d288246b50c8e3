"""Look into a trained CPNN: which types drive a gene, what training changed, which genes are predicted and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stpath_core import expression as ex
from stpath_core import keys, noise
from stpath_core.errors import InputError
from stpath_core.io.guard import reads
from stpath_core.spots import centred

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


@dataclass(frozen=True)
class SavedPrototypes:
    """log_profiles, start : frames (C, g) of L after and before training, natural logarithm of counts per 10,000."""

    log_profiles: pd.DataFrame
    start: pd.DataFrame

    def moved(self) -> pd.DataFrame:
        """(C, g) how far training moved L."""
        return self.log_profiles - self.start


@reads
def read_prototypes(path: str | Path, types: list[str]) -> SavedPrototypes:
    """Prototypes of a checkpoint of notebook 21, whose metadata names the genes."""
    import pandas as pd
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            genes = (file.metadata() or {}).get("genes", "").split(",")
            values = [file.get_tensor(name) for name in ("log_profiles", "start")]
    except (OSError, SafetensorError) as error:
        message = f"{path} is no checkpoint of CPNN ({error}): make it with notebook 21"
        raise InputError(message) from error
    if values[0].shape != (len(types), len(genes)):
        message = (
            f"{Path(path).name} holds {values[0].shape} prototypes; {len(types)} types and {len(genes)} genes are "
        )
        raise InputError(message + "named: are types and checkpoint of one run?")
    return SavedPrototypes(*(pd.DataFrame(v, index=types, columns=genes) for v in values))


def drivers(weights: pd.DataFrame, log_profiles: pd.DataFrame) -> pd.DataFrame:
    """Share of each gene's predicted variance that each type brings in: (C, g), columns sum to 1.

    The prediction is y_g = sum_c w_c exp(L_cg), so var(y) = sum_c cov(w_c exp(L_c), y): what a type adds beyond its own
    share, together with what comes and goes with it. Negative: a type that is absent where the gene is high.
    """
    import pandas as pd

    w = weights[list(log_profiles.index)].to_numpy(float)
    profiles = np.exp(log_profiles.to_numpy(float))
    w = w - w.mean(0)
    y = w @ profiles  # (n, g), centred
    brought = profiles * (w.T @ y) / np.maximum((y**2).sum(0), 1e-12)
    return pd.DataFrame(brought, index=log_profiles.index, columns=log_profiles.columns)


def gene_table(spots: AnnData, cohort: AnnData, *, method: str = "cpnn", coins: int = 2) -> pd.DataFrame:
    """A row per panel gene: mean target, score of the method (mean over sections), ceiling, and correlation with depth.

    Genes outside the panel of some folds are scored on the others.
    """
    import pandas as pd

    section = spots.obs[keys.SECTION].astype(str).to_numpy()
    target = spots.layers["target"]
    scores = ex.score_spots(target, {method: spots.layers[method]}, patient=spots.obs[keys.PATIENT], section=section)
    columns = cohort.var_names.get_indexer(spots.var_names)
    halves = noise.gene_halves(cohort.layers[keys.COUNTS], columns, section, repeats=coins)
    total = centred(np.log1p(spots.obs[keys.TOTAL_COUNTS].to_numpy(float))[:, None], section)
    depth = np.nan_to_num(
        ex.pearson(centred(np.nan_to_num(target), section), np.repeat(total, target.shape[1], axis=1))
    )
    rows = {"mean": np.nanmean(target, axis=0), "pcc": np.nanmean(scores.genes[method, "pcc"], axis=0),
            "ceiling": noise.perfect(halves["pcc"]).mean(0), "with_depth": depth}  # fmt: skip
    return pd.DataFrame(rows, index=spots.var_names)


def section_picture(cohort: AnnData, section: str, *, data_dir: str = "", mpp: float = 2.0) -> tuple[np.ndarray, float]:
    """H&E of one section at about `mpp` um per pixel, and its exact value: painted again, or read and thinned."""
    from stpath_core import io, tissue

    if "recipe" in cohort.uns:
        return tissue.spot_image(cohort, section, mpp=mpp), mpp
    table = io.open_st(data_dir, [section])[section]
    own = io.frame_of(table).mpp
    step = max(1, round(mpp / own))
    return io.read_image(table.uns["image"], mpp=own)[0][::step, ::step], own * step
