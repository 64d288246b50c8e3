"""Transcripts to nuclei, patches around spots, deconvolution, and the import. Run by `make bench`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
from beside import race, sizes, write

from stpath_core.deconvolution import deconvolve, type_correlations
from stpath_core.io.section import Section
from stpath_core.labels import count_transcripts
from stpath_core.spots import cut_patches

GENES = 100


def section_of(nuclei: int, transcripts: int, *, mpp: float = 0.25) -> Section:
    """Round nuclei of 8 to 12 um on a jittered grid and transcripts everywhere, a gene each."""
    rng = np.random.default_rng(0)
    side = round(nuclei**0.5)
    xy = (np.stack(np.divmod(np.arange(side**2), side), 1) + 0.5) * 15 + rng.normal(0, 1, (side**2, 2))
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    outlines = xy[:, None] + ring * rng.uniform(4, 6, (side**2, 1, 1))
    table = pd.DataFrame({"cell_id": [f"c{i}" for i in range(side**2)], "x_um": xy[:, 0], "y_um": xy[:, 1]})
    place = rng.random((transcripts, 2)) * side * 15
    names = tuple(f"g{i}" for i in range(GENES))
    gene = pd.Categorical.from_codes(rng.integers(GENES, size=transcripts), categories=list(names))
    molecules = pd.DataFrame({"x_um": place[:, 0], "y_um": place[:, 1], "gene": gene})
    size = round(side * 15 / mpp)
    return Section(
        name="s", organ="breast", patient="p", dataset="bench", image=np.zeros((size, size, 3), np.uint8), mpp=mpp,
        nuclei=table, nuclei_px=outlines / mpp, transcripts=molecules, genes=names,
        um_to_px=np.diag([1 / mpp, 1 / mpp, 1.0]),
    )  # fmt: skip


def transcripts(nuclei: int, n: int) -> list[dict]:
    """Counts of each nucleus from where its transcripts lie. We count on a raster of 0.25 um, the peers on outlines."""
    import shapely

    section = section_of(nuclei, n)
    xy = section.transcripts[["x_um", "y_um"]].to_numpy()
    polygons = shapely.polygons(section.nuclei_px * section.mpp)
    code = section.transcripts["gene"].cat.codes.to_numpy()

    def tree() -> np.ndarray:
        points, nucleus = shapely.STRtree(polygons).query(shapely.points(xy), predicate="within")
        return np.bincount(nucleus * GENES + code[points], minlength=len(polygons) * GENES).reshape(-1, GENES)

    def aggregate() -> np.ndarray:
        import dask.dataframe as dd
        import geopandas as gpd
        from spatialdata import aggregate as of
        from spatialdata.models import PointsModel, ShapesModel

        frame = section.transcripts.rename(columns={"x_um": "x", "y_um": "y"})
        values = PointsModel.parse(dd.from_pandas(frame, npartitions=1), coordinates={"x": "x", "y": "y"})
        shapes = ShapesModel.parse(gpd.GeoDataFrame(geometry=polygons))
        table = of(values=values, by=shapes, value_key="gene", agg_func="count").tables["table"]
        return table[:, list(section.genes)].X.toarray()

    def agree(ours: np.ndarray, theirs: np.ndarray) -> str:
        apart = np.abs(ours - theirs).sum() / theirs.sum()
        assert apart < 0.04, apart
        return f"{1 - apart:.1%} of the counts alike: at the rim a raster decides by whole pixels"

    peers = {"shapely STRtree (oracle)": tree, "spatialdata aggregate": aggregate}
    return race(
        "transcripts to nuclei", f"{n:,} transcripts, {len(polygons):,} nuclei",
        lambda: count_transcripts(section, grow_um=0.0).X.toarray(), peers, equal=dict.fromkeys(peers, agree),
        goal={"spatialdata aggregate": 4.0}, rounds=5,
    )  # fmt: skip


def patches(n: int, *, side: int = 224) -> list[dict]:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (2048, 2048, 3), np.uint8)
    xy = rng.integers(side, 2048 - side, (n, 2))

    def stacked() -> np.ndarray:
        half = side // 2
        return np.stack([image[y - half : y + half, x - half : x + half] for x, y in xy])

    def squidpy() -> np.ndarray:
        from anndata import AnnData
        from squidpy.im import ImageContainer

        adata = AnnData(np.zeros((n, 1)), obsm={"spatial": xy.astype(float)})
        adata.uns["spatial"] = {"s": {"scalefactors": {"spot_diameter_fullres": float(side)}}}
        whole = ImageContainer(image, layer="image")
        crops = whole.generate_spot_crops(adata, return_obs=False, as_array="image", squeeze=True, library_id="s")
        return np.stack([crop[:side, :side] for crop in crops])  # its crops are one pixel larger

    def same(ours: np.ndarray, theirs: np.ndarray) -> str:
        assert theirs.dtype == ours.dtype
        assert np.array_equal(ours, theirs)
        return "every pixel"

    def of_one_size(ours: np.ndarray, theirs: np.ndarray) -> str:
        assert theirs.shape == ours.shape, theirs.shape
        share = float(np.mean([np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)]))
        return f"shape; {share:.0%} of the patches alike, the others moved by a pixel of rounding"

    peers = {"slice and stack": stacked, "squidpy generate_spot_crops": squidpy}
    equal = {"slice and stack": same, "squidpy generate_spot_crops": of_one_size}
    return race(
        "spot patches", f"{n:,} of {side} px", lambda: cut_patches(image, xy, patch_px=side), peers, equal=equal,
        rounds=5,
    )  # fmt: skip


def mixtures(n: int, *, genes: int = 500, types: int = 8, epochs: int = 200) -> list[dict]:
    """Shares of types in spots: planted Dirichlet mixtures of known profiles, Poisson counts.

    cell2location is held to `epochs` epochs (its tutorial takes 30,000), which favours its time; accuracy is the median
    over types of the Pearson with the planted shares, given for both.
    """
    rng = np.random.default_rng(2)
    profiles = rng.gamma(0.3, 1, (types, genes)) + 0.01
    profiles /= profiles.sum(1, keepdims=True)
    shares = rng.dirichlet(np.full(types, 0.5), n)
    counts = rng.poisson(shares @ profiles * 5000).astype(np.float32)

    def theirs() -> np.ndarray:
        import scvi
        from anndata import AnnData
        from cell2location.models import Cell2location

        scvi.settings.verbosity, scvi.settings.seed = 40, 0
        adata = AnnData(counts, var=pd.DataFrame(index=[f"g{i}" for i in range(genes)]))
        Cell2location.setup_anndata(adata)
        signatures = pd.DataFrame(profiles.T * 5000, index=adata.var_names, columns=[f"t{c}" for c in range(types)])
        model = Cell2location(adata, cell_state_df=signatures, N_cells_per_location=1, detection_alpha=200)
        model.train(max_epochs=epochs, batch_size=None, train_size=1, accelerator="cpu", enable_progress_bar=False)
        found = model.export_posterior(
            adata, use_quantiles=True, add_to_obsm=["q50"], sample_kwargs={"accelerator": "cpu"}
        )
        w = found.obsm["q50_cell_abundance_w_sf"].to_numpy()
        return w / w.sum(1, keepdims=True)

    def score(found: np.ndarray) -> float:
        return float(np.median(type_correlations(shares, found)))

    def at_least(ours: np.ndarray, found: np.ndarray) -> str:
        assert score(ours) >= score(found) - 0.01
        return f"correlation with the planted shares: ours {score(ours):.4f}, theirs {score(found):.4f}"

    peer = f"cell2location, {epochs:,} epochs"
    return race(
        "deconvolution", f"{n:,} spots, {genes} genes, {types} types",
        lambda: deconvolve(counts, profiles, sensitivity=np.ones(genes)).shares, {peer: theirs}, equal={peer: at_least},
        goal={peer: 100.0}, rounds=3, budget=1.0,
    )  # fmt: skip


def imports() -> list[dict]:
    """A fresh interpreter each time; the time of an empty one is in both."""

    def fresh(module: str) -> Callable[[], str]:
        return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True, capture_output=True).args[
            0
        ]

    peers = {f"import {name}": fresh(name) for name in ("squidpy", "scvi")}
    rows = race(
        "import stpath_core", "-", fresh("stpath_core"), peers, equal=dict.fromkeys(peers, lambda *_: "-"), rounds=3
    )
    for row in rows:
        if "ours_ms" in row:
            row |= {"goal_ms": 300, "met": row["ours_ms"] < 300}
    return rows


def main() -> None:
    smoke = sizes()
    rows = [] if smoke else imports()
    for n in (4,) if smoke else (300, 1000, 3000):
        rows += patches(n)
    for n, epochs in () if smoke else ((50, 2000), (50, 200), (150, 200), (500, 200)):  # 2,000: as near as ours
        rows += mixtures(n, epochs=epochs)
        write("speed_spots", rows)  # after each: the last ones take long
    for nuclei, n in ((36, 2_000),) if smoke else ((400, 100_000), (4_000, 1_000_000), (20_000, 5_000_000)):
        rows += transcripts(nuclei, n)
        if not smoke:
            write("speed_spots", rows)


if __name__ == "__main__":
    main()
