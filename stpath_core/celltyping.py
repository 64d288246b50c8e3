"""Cell types from marker genes: scores smoothed over cells of similar expression, and abstention."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, issparse

from stpath_core import keys
from stpath_core.errors import InputError
from stpath_core.io.counts import whole_numbers
from stpath_core.io.guard import reads
from stpath_core.io.registry import DATA_FOLDER
from stpath_core.tissue.cell_types import SUPER_CLASSES

if TYPE_CHECKING:
    from anndata import AnnData

MIN_COUNTS = 10  # transcripts a nucleus needs before it is typed
NEIGHBOURS = 15  # cells of similar expression that a marker is averaged over
MARGIN = 0.06  # lead of the best class over the next that a label needs: .9 right on virtual tissue of other seeds
EVIDENCE_GENES = 3
LINEAGES = ("epithelial", "inflammatory", "connective")  # epithelial includes neoplastic
_ANY = "any_"  # fine_type of marker sets that speak for a whole lineage


# PanglaoDB's cell types by the lineage that an eye sees; types of other tissues (nerve, germ line, ...) are left out.
_PANGLAO_WORDS = {
    "inflammatory": ("t cells", "t memory", "t helper", "t regulatory", "t cytotoxic", "t follicular", "nk cells",
                     "natural killer", "b cells", "plasma cells", "macrophages", "monocytes", "dendritic", "mast cells",
                     "neutrophils", "eosinophils", "basophils", "kupffer", "langerhans", "myeloid-derived",
                     "nuocytes"),
    "connective": ("fibroblasts", "stromal cells", "endothelial cells", "pericytes", "smooth muscle", "adipocytes",
                   "stellate cells", "mesangial", "chondrocytes", "osteoblasts"),
    "epithelial": ("epithelial", "keratinocytes", "enterocytes", "goblet", "hepatocytes", "pulmonary alveolar type",
                   "clara cells", "ductal cells", "acinar cells", "basal cells", "tubule", "cholangiocytes",
                   "urothelial", "paneth", "tuft", "enteroendocrine", "podocytes", "principal cells", "intercalated",
                   "foveolar", "parietal cells", "gastric chief", "ionocytes", "luminal"),
}  # fmt: skip


@reads
def read_markers(path: str | Path | None = None, *, cancer_genes: str | Path | list[str] | None = None) -> pd.DataFrame:
    """A marker table: columns gene, super_class, fine_type, source. Default: data/markers.csv.

    path : a CSV with those columns, or PanglaoDB's TSV as downloaded (its human rows; cell types merged to lineages).
    cancer_genes : gene symbols, or a CSV with a column "Gene Symbol" (COSMIC's census) or "gene": added as neoplastic.
    """
    path = DATA_FOLDER / "markers.csv" if path is None else Path(path)
    table = _read_table(path)
    if "official gene symbol" in table:
        table = _from_panglaodb(table, path)
    if cancer_genes is not None:
        table = pd.concat([table, _cancer_rows(cancer_genes)], ignore_index=True)
    lacking = [c for c in ("gene", "super_class", "fine_type") if c not in table]
    if lacking:
        message = f"{path} lacks the columns {lacking}; a marker table has gene, super_class, fine_type"
        raise InputError(message)
    wrong = sorted(set(table["super_class"]) - set(SUPER_CLASSES))
    if wrong:
        message = f"{path} names the super-classes {wrong}; expected {', '.join(SUPER_CLASSES)}"
        raise InputError(message)
    return table


def _read_table(path: str | Path) -> pd.DataFrame:
    """A table parted by tabs if its header has any, else by commas; nothing is guessed from the rows."""
    header = "".join(pd.read_csv(path, nrows=0, sep=",").columns)
    return pd.read_csv(path, sep="\t" if "\t" in header else ",")


def _from_panglaodb(raw: pd.DataFrame, path: Path) -> pd.DataFrame:
    lacking = [c for c in ("species", "cell type") if c not in raw]
    if lacking:
        message = f"{path} looks like PanglaoDB's table and lacks {lacking}; give the file as downloaded"
        raise InputError(message)
    human = raw[raw["species"].astype(str).str.split().map(lambda names: "Hs" in names)]
    kind = human["cell type"].astype(str).str.lower()
    words = {word: name for name, several in _PANGLAO_WORDS.items() for word in several}
    whole = {re.compile(rf"\b{word}"): name for word, name in words.items()}  # goblet cells are no T cells
    super_class = kind.map(lambda k: next((name for word, name in whole.items() if word.search(k)), None))
    table = pd.DataFrame({
        "gene": human["official gene symbol"], "super_class": super_class, "fine_type": kind, "source": "PanglaoDB",
    })  # fmt: skip
    return table.dropna(subset=["super_class"]).drop_duplicates().reset_index(drop=True)


def _cancer_rows(genes: str | Path | list[str]) -> pd.DataFrame:
    source = "given"
    if isinstance(genes, str | Path):
        source, table = Path(genes).name, _read_table(genes)
        column = next((c for c in ("Gene Symbol", "gene") if c in table), None)
        if column is None:
            message = f"{genes} has the columns {list(table)}; a list of cancer genes has 'Gene Symbol' or 'gene'"
            raise InputError(message)
        genes = table[column].tolist()
    return pd.DataFrame({"gene": genes, "super_class": "neoplastic", "fine_type": "cancer", "source": source})


def type_nuclei(
    adata: AnnData,
    *,
    markers: pd.DataFrame | None = None,
    min_counts: int = MIN_COUNTS,
    neighbours: int = NEIGHBOURS,
    margin: float = MARGIN,
) -> AnnData:
    """Give each nucleus a super-class that an eye could see, or "unknown". Section by section; the input is kept.

    1. Counts to the section's median depth, log1p; PCA; the `neighbours` most similar nuclei of each.
    2. A marker's activation: its mean over those neighbours, as a share of what its strongest cells show. It weighs as
       much as it varies over the graph beyond noise, so that a silent or ubiquitous gene has no voice.
    3. A marker set's score is the weighted mean of its genes; a lineage (epithelial, which includes neoplastic,
       inflammatory, connective) takes its best set. Inside epithelium, tumour sets are set against sets of normal
       differentiation.
    4. The lead over the next class must reach `margin`; nuclei under `min_counts` are not typed.

    Returns a copy with obs label, fine_label, confidence (the lead, 0 to 1), evidence, purity (share of the similar
    nuclei with the same label); obsm["marker_scores"] (N, 4); obsm["soft_label"] (N, 4), the labels of a nucleus and of
    those most similar to it, as shares.
    """
    known = usable_markers(markers, adata)
    counts = raw_counts(adata)
    out = adata.copy()
    n = len(out)
    columns = {keys.LABEL: np.full(n, keys.UNKNOWN, object), keys.FINE_LABEL: np.full(n, keys.UNKNOWN, object)}
    columns |= {keys.CONFIDENCE: np.zeros(n, np.float32), keys.EVIDENCE: np.full(n, "", object)}
    columns[keys.PURITY] = np.zeros(n, np.float32)
    scores, soft = np.zeros((2, n, len(SUPER_CLASSES)), np.float32)
    section = adata.obs[keys.SECTION].astype(str).to_numpy() if keys.SECTION in adata.obs else np.full(n, "one")
    depth = np.asarray(counts.sum(1)).ravel()
    for name in pd.unique(section):
        rows = np.flatnonzero((section == name) & (depth >= max(min_counts, 1)))
        if len(rows) <= neighbours:
            continue
        typed = _type_section(counts[rows], adata.var_names, known, neighbours=neighbours, margin=margin)
        scores[rows], soft[rows] = typed.pop("scores"), typed.pop("soft")
        for key, values in typed.items():
            columns[key][rows] = values
    categories = [*SUPER_CLASSES, keys.UNKNOWN]
    out.obs[keys.LABEL] = pd.Categorical(columns.pop(keys.LABEL), categories=categories)
    for key, values in columns.items():
        out.obs[key] = values
    out.obsm[keys.SCORES], out.obsm[keys.SOFT_LABEL] = scores, soft
    return out


def raw_counts(adata: AnnData) -> csr_matrix:
    """The raw counts of an AnnData as csr, from layers["counts"] or X; InputError unless whole numbers >= 0."""
    matrix = adata.layers.get(keys.COUNTS, adata.X)
    matrix = matrix.tocsr() if issparse(matrix) else csr_matrix(matrix)
    if not whole_numbers(matrix):
        worst = matrix.data[(matrix.data < 0) | (matrix.data % 1 != 0)][0]
        message = f"counts hold {worst:g}; raw counts are whole numbers >= 0: give them in layers['{keys.COUNTS}']"
        raise InputError(message)
    return matrix


def log_at_median_depth(counts: csr_matrix) -> np.ndarray:
    """(n, G) raw counts -> log1p of counts brought to the median depth, dense float32; an empty row stays 0."""
    depth = np.asarray(counts.sum(1), np.float32).ravel()
    return np.log1p(counts.toarray().astype(np.float32) * (np.median(depth) / np.maximum(depth, 1))[:, None])


def usable_markers(markers: pd.DataFrame | None, adata: AnnData) -> pd.DataFrame:
    """The rows of a marker table (None: ours) whose gene was measured; InputError where they are too few to type by."""
    markers = read_markers() if markers is None else markers
    known = markers[markers["gene"].isin(adata.var_names)]
    lineages = {lineage(name) for name in known["super_class"]}
    if len(known) < 20 or len(lineages) < 3:
        example = ", ".join(map(str, adata.var_names[:4]))
        message = f"{len(known)} markers of {len(lineages)} lineages are among the genes ({example}, ...); 20 of all 3"
        raise InputError(message + " are needed: var_names must be gene symbols of a panel that covers the tissue")
    return known


def lineage(super_class: str) -> str:
    """The lineage of a super-class: neoplastic nuclei here are epithelial ones."""
    return "epithelial" if super_class == "neoplastic" else super_class


def _type_section(counts: csr_matrix, genes, markers: pd.DataFrame, *, neighbours: int, margin: float) -> dict:
    """Label the nuclei of one section; see `type_nuclei`."""
    logged = log_at_median_depth(counts)
    near = expression_neighbours(logged, neighbours)
    table = markers.assign(column=pd.Index(genes).get_indexer(markers["gene"]))
    used = np.unique(table["column"])
    smooth = _smooth(logged[:, used], near)
    activation, weight = _activation(logged[:, used], smooth, neighbours + 1)
    sets = list(dict.fromkeys(zip(table["super_class"], table["fine_type"], strict=True)))
    member = np.zeros((len(used), len(sets)), np.float32)
    where = {pair: j for j, pair in enumerate(sets)}
    member[np.searchsorted(used, table["column"]),
           [where[pair] for pair in zip(table["super_class"], table["fine_type"], strict=True)]] = 1  # fmt: skip
    weighted = member * weight[:, None]
    score = activation @ weighted / (weighted.sum(0) + 0.5)  # (n, n_sets); 0.5: a set with little voice cannot win
    typed = _decide(score, sets, activation * weight, member, np.asarray(genes)[used], margin)
    label = typed[keys.LABEL]
    votes = np.stack([(label[near] == name).sum(1) for name in SUPER_CLASSES], axis=1)  # (n, 4)
    soft = np.where((label != keys.UNKNOWN)[:, None], votes / np.maximum(votes.sum(1, keepdims=True), 1), 0)
    return typed | {keys.PURITY: (label[near[:, 1:]] == label[:, None]).mean(1).astype(np.float32), "soft": soft}


def _smooth(values: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Mean over the neighbours, one neighbour at a time: memory of one array."""
    total = np.zeros_like(values)
    for j in range(near.shape[1]):
        total += values[near[:, j]]
    return total / near.shape[1]


def expression_neighbours(logged: np.ndarray, k: int) -> np.ndarray:
    """Each cell and its k nearest in the first 30 principal components: (n, k + 1) row numbers."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    n_components = min(30, *logged.shape)
    with threadpool_limits(1, "blas"):  # its threads spin: beside another process they made this 15 times slower
        space = PCA(n_components, svd_solver="covariance_eigh").fit_transform(logged)
        finder = NearestNeighbors(n_neighbors=min(k + 1, len(space)), algorithm="brute").fit(space)
        return finder.kneighbors(space, return_distance=False)


def _activation(logged: np.ndarray, smooth: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed expression as a share of a gene's strongest cells (n, m), and the gene's voice (m,), 0 to 1."""
    low, high = np.percentile(smooth, 5, axis=0), np.percentile(smooth, 99, axis=0)
    activation = np.clip((smooth - low) / np.maximum(high - low, 0.1), 0, 1.2)
    kept = smooth.var(0) / np.maximum(logged.var(0), 1e-9)  # 1 / k for pure noise, 1 for a clean cluster marker
    return activation, np.clip((kept - 1 / k) / (1 - 1 / k), 0, 1)


def _decide(score: np.ndarray, sets: list[tuple[str, str]], contribution, member, genes, margin: float) -> dict:
    """From set scores to labels with abstention."""
    names = np.array([super_class for super_class, _ in sets])
    fine = np.array([fine_type for _, fine_type in sets])
    lineage_of = np.array([lineage(name) for name in names])
    by_lineage = np.stack([score[:, lineage_of == name].max(1) for name in LINEAGES], axis=1)  # (n, 3)
    ranked = np.sort(by_lineage, axis=1)
    lead = ranked[:, -1] - ranked[:, -2]
    winner = np.array(LINEAGES, object)[by_lineage.argmax(1)]
    normal = (names == "epithelial") & ~np.char.startswith(fine.astype(str), _ANY)
    tumour = names == "neoplastic"
    tumour_lead = (score[:, tumour].max(1) if tumour.any() else 0) - (score[:, normal].max(1) if normal.any() else 0)
    epithelial = winner == "epithelial"
    label = np.where(epithelial & (tumour_lead > 0), "neoplastic", winner)
    lead = np.where(epithelial, np.minimum(lead, np.abs(tumour_lead)), lead)
    best = np.where(names[None, :] == label[:, None], score, -1).argmax(1)
    evidence = np.where(member.T[best] > 0, contribution, -1)  # (n, m)
    top = np.argsort(-evidence, axis=1)[:, :EVIDENCE_GENES]
    unknown = lead < margin
    columns = [pd.Series(genes[top[:, j]]) for j in range(top.shape[1])]
    by_class = [score[:, names == name].max(1, initial=0) for name in SUPER_CLASSES]
    return {
        keys.LABEL: np.where(unknown, keys.UNKNOWN, label),
        keys.FINE_LABEL: np.where(unknown, keys.UNKNOWN, fine[best]),
        keys.CONFIDENCE: np.clip(lead, 0, 1).astype(np.float32),
        keys.EVIDENCE: columns[0].str.cat(columns[1:], sep=",").to_numpy(),
        "scores": np.stack(by_class, axis=1),
    }
