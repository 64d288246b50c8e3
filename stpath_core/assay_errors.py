"""What the errors of the cell-level assay cost the nuclei model: the same tissue, measured worse and worse.

Only the assay differs between two measurements: the cells, their expression and the H&E are the same, so a difference
in the score of the model is the price of the assay's error.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import anndata
import numpy as np

from stpath_core import evaluate, keys, labels, nuclei, predict
from stpath_core.data import NucleiSection
from stpath_core.errors import InputError
from stpath_core.tissue.cell_types import SUPER_CLASSES
from stpath_core.tissue.cohort import PATIENTS_PER_SEED, make_section, write_section
from stpath_core.tissue.effects import Effects

# Four strengths of each error: none, the tissue's default, and two that are worse.
STRENGTHS = {
    "misregistration_um": (0.0, 0.8, 2.0, 4.0),  # um between the two scans that the alignment file does not know of
    "leakage": (0.0, 0.25, 0.5, 0.75),  # share of transcripts seen away from where they were made
    "merged": (0.0, 0.02, 0.1, 0.3),  # share of nuclei in one polygon with a neighbour
}
SMALL = {"out_indices": [0, 1, 2, 3], "channels": [32, 64, 128, 256], "stem_width": 16}  # the cpu profile's encoder
LEARN_ON, TEST_ON = ("breast", "colon", "lung"), ("kidney", "prostate")


def cost(*, error: str, strength: int, seed: int, size_um: float = 300.0, steps: int = 130) -> dict[str, float]:
    """Train and test the nuclei model on tissue measured with one error at one of its STRENGTHS, the rest as usual.

    error, strength : which of STRENGTHS, and which of its four values. seed : tissue and training. size_um : side of
    each of the three training sections and two test sections. steps : of the network.

    Returns what the labels are worth (accuracy over labelled nuclei, coverage), and on unseen organs detection_f1,
    bpq, type_f1 and type_f1 of the remedies: type_f1.weighed_by_purity, type_f1.forgiving.
    """
    if error not in STRENGTHS or not 0 <= strength < 4:
        msg = f"error={error!r}, strength={strength!r}; expected one of {', '.join(STRENGTHS)} and 0, 1, 2 or 3"
        raise InputError(msg)
    return _cost(replace(Effects(), **{error: STRENGTHS[error][strength]}), seed, size_um, steps)


@cache  # the default strengths of all errors are one measurement
def _cost(effects: Effects, seed: int, size_um: float, steps: int) -> dict[str, float]:
    sections = [measured(organ, effects=effects, seed=seed, size_um=size_um) for organ in LEARN_ON]
    typed = labels.type_nuclei(anndata.concat([labels.count_transcripts(s) for s in sections]))
    rows = typed.obs[keys.SECTION].to_numpy()
    train = [labels.pack_section(s, typed[rows == s.name]) for s in sections]
    typed.obs[keys.INSTANCE] = np.concatenate([labels.instance_ids(s) for s in sections])
    network, _ = nuclei.train_split(
        train, nuclei.everything(train), steps=steps, encoder_args=SMALL, batch_size=6, inner_share=0, seed=seed,
        device="cpu",
    )  # fmt: skip
    table = nuclei.cache_features(network, train)
    taught = table.labels([s.labels for s in train])
    purity = table.labels(labels.by_instance(typed, typed.obs[keys.PURITY].to_numpy(), train, fill=0))
    ways = {"plain": {}, "weighed_by_purity": {"weight": purity}, "forgiving": {"robust": 0.7}}
    heads = {way: nuclei.fit_type_head(table, taught, classes=len(SUPER_CLASSES), **how) for way, how in ways.items()}
    test = unseen(seed, size_um)
    found = [predict.predict_image(network, s.image, s.mpp, average_views=False).instances for s in test]
    described = [predict.describe_nuclei(network, s.image, s.mpp, ids)[0] for s, ids in zip(test, found, strict=True)]
    types = {way: [predict.type_probabilities(h, x).argmax(1) for x in described] for way, h in heads.items()}
    means = evaluate.evaluate_nuclei(test, found, types=types).means(None)
    score = {name: float(np.mean(values)) for name, values in means.items()}
    known = (typed.obs[keys.LABEL] != keys.UNKNOWN).to_numpy()
    right = (
        np.concatenate([labels.planted_types(s, typed[rows == s.name])[keys.SUPER_CLASS].to_numpy() for s in sections])
        == typed.obs[keys.LABEL].astype(str).to_numpy()
    )
    return {
        "labels.accuracy": float(right[known].mean()),
        "labels.coverage": float(known.mean()),
        "detection_f1": score["detection_f1"],
        "bpq": score["bpq"],
        "type_f1": score["type_f1.plain"],
        "type_f1.weighed_by_purity": score["type_f1.weighed_by_purity"],
        "type_f1.forgiving": score["type_f1.forgiving"],
    }


def measured(organ: str, *, effects: Effects, seed: int, size_um: float):
    """A section as the reader of real bundles sees it, planted truth beside it."""
    from stpath_core.io import open_bundles

    patient = PATIENTS_PER_SEED * seed
    section = make_section(organ, size_um=(size_um, size_um), patient=patient, seed=seed, effects=effects)
    with tempfile.TemporaryDirectory() as folder:
        (opened,) = open_bundles([write_section(Path(folder) / section.name, section)])
    return opened


@cache
def unseen(seed: int, size_um: float) -> list[NucleiSection]:
    """Test sections of organs that no training meets; only their image and truth are used."""
    sections = [measured(organ, effects=Effects(), seed=seed, size_um=size_um) for organ in TEST_ON]
    typed = [labels.type_nuclei(labels.count_transcripts(s), margin=0.0) for s in sections]
    return [labels.pack_section(s, t) for s, t in zip(sections, typed, strict=True)]
