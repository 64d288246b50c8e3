"""What joining buys: out-of-fold predictions of every arm in one table, by patient, and compositions against truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stpath_core import expression as ex
from stpath_core import expression_tables as et
from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.evaluate import Difference, paired_difference
from stpath_core.spot_methods import WEIGHTS, SpotFold
from stpath_core.together import by_class, same_spots

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

OF_PART2 = {"cpnn": "deconvolution", "cpnn_free": "untied", "oracle": "oracle"}  # layers that are taken over
TRUTH = "composition"


class Joined:
    """The arms of notebook 40 beside those of Part 2, spot by spot. spots : predictions of notebook 21, out of fold.

    `table` has layers target, deconvolution, untied, oracle, the draws of the shuffled control and one per new arm;
    obsm composition (planted shares of molecules, by class) and, by class, the weights of each arm, `counted` and
    `told` (what nuclei and deconvolution say of a spot while it is a training spot).
    """

    def __init__(self, spots: AnnData, counted: np.ndarray) -> None:
        self.out = spots.copy()
        for name in list(self.out.layers):
            if name in OF_PART2:
                self.out.layers[OF_PART2[name]] = self.out.layers[name]
            if name != et.TARGET and name != "oracle" and not name.startswith(et.DRAW):
                del self.out.layers[name]
        self.weights = {"deconvolution": spots.obsm[WEIGHTS], "untied": spots.obsm[f"{WEIGHTS}_free"]}
        self.types = list(spots.obsm[WEIGHTS])
        self.counted, self.told = counted, np.full((spots.n_obs, len(self.types)), np.nan, np.float32)

    def fold(self, number: int) -> np.ndarray:
        """(n,) bool, the rows that this fold of notebook 21 held out."""
        return (self.out.obs["fold"] == number).to_numpy()

    def n_genes(self, number: int) -> int:
        """How many genes its panel has."""
        return int((~np.isnan(self.out.layers[et.TARGET][self.fold(number)]).all(0)).sum())

    def add(
        self, number: int, fold: SpotFold, genes: Sequence[str], found: Mapping[str, tuple[np.ndarray, np.ndarray]]
    ) -> None:
        """Keep what `run_fold` found. genes : of the fold's columns."""
        import pandas as pd

        test, column = self.fold(number), self.out.var_names.get_indexer(list(genes))
        if (column < 0).any():
            message = f"{int((column < 0).sum())} genes of fold {number} are not in notebook 21's table: run 21 again"
            raise InputError(message)
        self.told[~test] = fold.train.shares
        for arm, (w, y) in found.items():
            if arm not in self.weights:
                empty = np.full((self.out.n_obs, len(self.types)), np.nan, np.float32)
                self.weights[arm] = pd.DataFrame(empty, index=self.out.obs_names, columns=self.types)
                self.out.layers[arm] = np.full(self.out.shape, np.nan, np.float32)
            self.weights[arm].loc[test] = np.asarray(w, np.float32)
            self.out.layers[arm][np.ix_(test, column)] = y

    def table(self, patients: Sequence[str]) -> AnnData:
        """The spots of the patients that are asked."""
        import pandas as pd

        out = self.out
        shares = {**self.weights, "told": pd.DataFrame(self.told, index=out.obs_names, columns=self.types)}
        for arm, w in shares.items():
            out.obsm[f"weights_{arm}"] = by_class(w)
        planted = by_class(out.obsm[TRUTH])
        out.obsm["weights_counted"] = pd.DataFrame(self.counted, index=out.obs_names, columns=list(planted))
        mine = out[out.obs[keys.PATIENT].astype(str).isin(list(patients))].copy()
        mine.obsm[TRUTH] = planted.loc[mine.obs_names]
        return mine


def compositions(joined: AnnData, *, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """A row per way to know the composition: median over classes of Pearson with the planted shares and its interval,
    and the mean absolute error of a share."""
    import pandas as pd

    truth, rows = joined.obsm[TRUTH].to_numpy(), {}
    for name in (key for key in joined.obsm if key.startswith("weights_")):
        found = et.composition_interval(joined, weights=name, n=n, seed=seed)
        error = float(np.abs(joined.obsm[name].to_numpy() - truth).mean())
        rows[name.removeprefix("weights_")] = (*found, error)
    columns = ["mean", "lo", "hi", "mean absolute error"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("method")


def composition_of_patients(joined: AnnData, arm: str) -> pd.Series:
    """Patient -> median over classes of Pearson over their spots."""
    import pandas as pd

    patient = joined.obs[keys.PATIENT].astype(str).to_numpy()
    said, truth = joined.obsm[f"weights_{arm}"].to_numpy(), joined.obsm[TRUTH].to_numpy()
    r = {who: np.median(np.nan_to_num(ex.pearson(truth[patient == who], said[patient == who])))
         for who in np.unique(patient)}  # fmt: skip
    return pd.Series(r, name=arm)


def gains(
    by_patient: Mapping[str, pd.Series], pairs: Sequence[tuple[str, str]], *, n: int = 2000, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """How much one method exceeds another on the same patients: mean, lo, hi, sign_p; and each patient's difference.

    by_patient : method -> a value per patient. Names of the rows: "a over b".
    """
    import pandas as pd

    rows, dots = {}, {}
    for a, b in pairs:
        first, second = by_patient[a], by_patient[b].reindex(by_patient[a].index)
        name = f"{a} over {b}"
        rows[name] = paired_difference(first.to_numpy(), second.to_numpy(), n=n, seed=seed)
        dots[name] = (first - second).to_numpy()
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(Difference._fields)), dots


def paired_claims(folder: str | Path, *, n: int = 1000, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Claim of Part 2 -> how much CPNN exceeds its rival on the same patients, with the interval of the difference.

    folder : of notebook 21's outputs. On spots against the network without prototypes; on slides without the patients'
    factors against ridge, and against random prototypes. Two overlapping intervals would hide what a pair shows.
    """
    import anndata

    folder = Path(folder)
    spots = anndata.read_h5ad(folder / "spots.h5ad")
    pair = {m: spots.layers[m] for m in ("cpnn", "no_prototype")}
    scored = ex.score_spots(
        spots.layers[et.TARGET], pair, patient=spots.obs[keys.PATIENT], section=spots.obs["section"]
    )
    out = {"prototypes_on_spots": scored.difference("cpnn", "no_prototype", n=n, seed=seed)[:3]}
    slides = anndata.read_h5ad(folder / "slides_no_batch.h5ad")
    for name in list(slides.layers):
        if name not in (et.TARGET, "cpnn", "ridge", "cpnn_scratch"):
            del slides.layers[name]
    scored = et.slide_scores(slides, n=n, seed=seed)
    rivals = {"prototypes_on_slides": "ridge", "random_prototypes": "cpnn_scratch"}
    return out | {claim: tuple(scored.difference("cpnn", rival)) for claim, rival in rivals.items()}


def read_encoders(
    folder: str | Path, names: Sequence[str], others: Sequence[str], arms: Mapping[str, str], patients: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Image encoders of notebook 32: name -> held-out patient -> (n, D) of the spots `names`.

    folder : of notebook 32's outputs. others : names of the spots that it embedded. arms : our name -> its arm.
    """
    rows = same_spots(names, others)
    with np.load(Path(folder) / "embeddings.npz") as file:
        wanted = {ours: {who: f"{arm}/{who}" for who in patients} for ours, arm in arms.items()}
        lost = [key for keys_ in wanted.values() for key in keys_.values() if key not in file]
        if lost:
            message = f"embeddings.npz of notebook 32 has no {', '.join(lost)}: run 32 again"
            raise InputError(message)
        return {ours: {who: file[key][rows] for who, key in of.items()} for ours, of in wanted.items()}
