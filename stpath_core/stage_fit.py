"""`stpath fit STAGE.h5`: train what a packed stage file is for, where the single-cell stack is not installed.

The file's `schema` says what: nuclei (Part 1), spots (CPNN, Part 2) or recognition (both stages of Part 3). Profiles,
settings and functions are those of the notebooks. What trains imports torch, timm, numpy, h5py and safetensors (yaml
and PIL come with timm and torchvision); scores take scipy and scikit-image. Under torchrun all processes train one
network, except in Part 2, whose networks are so small that each process takes folds of its own.
"""

from __future__ import annotations

import csv
import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stpath_core import manifest, ranks, stages
from stpath_core.errors import InputError
from stpath_core.fit import Progress, pick_device
from stpath_core.io.files import atomic_path
from stpath_core.io.guard import check_hdf5, reads
from stpath_core.prefetch import spare_cores

GRIDS = {  # of notebook 11, for virtual and for real tiles
    True: {"mpp": 0.5, "stride": 1, "blocks": 2, "bend_um": 0.0},
    False: {"mpp": 0.25, "stride": 2, "blocks": 1, "bend_um": 1.0},
}


@dataclass(frozen=True)
class Options:
    """What the command was given. steps, holdout, folds : None or empty is what profile and file say. workers : threads
    that prepare batches; None: the spare cores on a GPU, none on a CPU, where they would take the network's cores."""

    profile: str = "cpu"
    steps: int | None = None
    device: str = "auto"
    seed: int = 0
    out: Path = Path("fitted")
    holdout: Sequence[str] = ()
    folds: int | None = None
    compiled: bool = False
    workers: int | None = None
    progress: Callable[[str], Progress] = lambda label: iter

    def values(self, notebook: str) -> dict[str, Any]:
        """The parameters of a notebook at this profile."""
        return stages.find_notebook(notebook).resolve({"profile": self.profile})

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return torch.device(self.device).type == "cuda"

    @property
    def threads(self) -> int:
        """Of the loader."""
        if self.workers is not None:
            return self.workers
        cores = spare_cores() // max(1, ranks.world())
        return max(1, cores) if self.cuda else 0


@reads
def schema_of(path: str | Path) -> str:
    """What a stage file is."""
    import h5py

    check_hdf5(Path(path))
    with h5py.File(path, "r") as file:
        return str(file.attrs.get("schema"))


def fit_stage(path: str | Path, options: Options) -> dict[str, Any]:
    """Train on a stage file, write checkpoints and fit.json to `options.out`; returns what fit.json holds.

    InputError at once, while another training writes to that folder.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"there is no stage file {path}; `stpath pack` makes one, and notebook 10 its nuclei.h5"
        raise InputError(msg)
    schema = schema_of(path)
    if schema not in FITS:
        msg = f"{path} has schema {schema!r}; expected one of {', '.join(FITS)}: make it with `stpath pack`"
        raise InputError(msg)
    for name, least in (("steps", 1), ("folds", 1), ("workers", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            msg = f"{name} is {value}; at least {least} is needed"
            raise InputError(msg)
    if options.holdout and schema != "stpath.nuclei/1":
        msg = f"--holdout names sections of nuclei; {path.name} has schema {schema!r}, whose folds stand in the file"
        raise InputError(msg)
    with ranks.together(pick_device(options.device)) as device, ranks.only_training(options.out):
        silent = {"progress": lambda label: iter} if ranks.rank() else {}
        given = Options(**{**vars(options), "device": str(device), **silent})
        begun = time.perf_counter()
        found = FITS[schema](path, given)
        took = time.perf_counter() - begun
        if ranks.rank() != 0:
            return {}
        told = {"schema": schema, "stage": path.name, "profile": options.profile, "seed": options.seed}
        told |= {"device": _card(device), "torch": torch.__version__, "python": platform.python_version()}
        told |= {"seconds": round(took, 1), **found}
        told = manifest.without_nan(told)
        manifest.write_json(options.out / "fit.json", told)
    return told


def _card(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _write_history(path: Path, histories: Mapping[str, Sequence[dict[str, float]]]) -> None:
    rows = [{"network": name, **record} for name, history in histories.items() for record in history]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_path(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _resume(path: Path, options: Options, steps: int) -> Path:
    """Where the state of an interrupted training lies: of this file, profile, seed and number of steps."""
    about = path.stat()
    words = [path.name, about.st_size, about.st_mtime_ns, options.profile, options.seed, steps, *options.holdout]
    return options.out / f"resume-{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:12]}.safetensors"


def train_nuclei(path: Path, o: Options, *, inner_share: float | None = None):
    """The network of notebook 11 on the training side of a file: sections, classes, split, network and history.

    inner_share : of the training patients, for early stopping; None: as the notebook.
    """
    from stpath_core import nuclei
    from stpath_core.data import read_nuclei_plan, read_nuclei_stage

    sections, (dataset, classes, named) = read_nuclei_stage(path), read_nuclei_plan(path)
    virtual, v = dataset == "virtual", o.values("11_nuclei_train")
    split = _nuclei_split(sections, o.holdout or named, virtual=virtual)
    steps = o.steps or v["steps" if virtual else "real_steps"]
    share = (0.1 if virtual else 0.0) if inner_share is None else inner_share
    network, history = nuclei.train_split(
        sections, split, steps=steps, encoder=v["encoder"], encoder_args=json.loads(v["encoder_args"]),
        width=v["width"], batch_size=v["batch_size"], tile_px=nuclei_tile_px(v, virtual=virtual), **GRIDS[virtual],
        lr=v["learning_rate"], inner_share=share, seed=o.seed, device=o.device, resume=_resume(path, o, steps),
        progress=o.progress("steps"), workers=o.threads, compiled=o.compiled,
        save_every=2000 if o.cuda else 200,  # weights and optimiser of a large encoder are hundreds of megabytes
    )  # fmt: skip
    return sections, dataset, classes, split, network, history


def nuclei_tile_px(values: Mapping[str, Any], *, virtual: bool) -> int:
    """Side of a tile in its own pixels: real tiles are scanned finer."""
    return values["tile_px"] if virtual else values["tile_px"] * 3 // 2


def fit_nuclei(path: Path, o: Options) -> dict[str, Any]:
    """Part 1: the network of notebook 11, its type heads where there are types, and scores of the sections held out."""
    from stpath_core import nuclei, predict

    sections, dataset, classes, split, network, history = train_nuclei(path, o)
    if ranks.rank() != 0:
        return {}
    said = {"dataset": dataset, "seed": o.seed}
    predict.save(o.out / "nuclei.safetensors", network, **said)
    nuclei.write_splits(o.out / "splits.json", [split])
    _write_history(o.out / "history.csv", {"from scratch": history})
    learners, asked = ([s for s in sections if s.name in side] for side in (split.train, split.test))
    if classes and all(s.labels is not None for s in learners):
        table = nuclei.cache_features(network, learners)
        arms = {"image_oriented": [s.labels for s in learners]}
        arms |= {f"shuffled_{k}": nuclei.shuffled_within_patient(learners, seed=3 * o.seed + k) for k in range(3)}
        for arm, labels in arms.items():
            head = nuclei.fit_type_head(table, table.labels(labels), classes=len(classes))
            twin = predict.with_type_head(network, head, classes)
            predict.save(o.out / f"nuclei_{arm}.safetensors", twin, **said, labels=arm)
    scores = score_nuclei(network, asked, eight=dataset != "virtual") if asked else {}
    return {"steps": len(history), "loss": history[-1]["loss"], "held_out": list(split.test), "scores": scores}


def _nuclei_split(sections: Sequence[Any], holdout: Sequence[str], *, virtual: bool):
    """Named sections held out; or the virtual tissue's unseen organs. Refused where a patient is on both sides."""
    from stpath_core import evaluate, nuclei

    organs = {s.organ for s in sections} if virtual and not holdout else set()
    unseen = [organ for organ in evaluate.UNSEEN_ORGANS if organ in organs]
    split = nuclei.outer_splits(sections, unseen_organs=unseen, holdout=holdout)[0]
    sides = [{s.patient for s in sections if s.name in side} for side in (split.train, split.test)]
    if not split.train or sides[0] & sides[1]:
        what = (
            f"patients {sorted(sides[0] & sides[1])} are on both sides" if split.train else "nobody is left to train on"
        )
        msg = f"held out are {list(split.test)}: {what}; name all sections of a patient with --holdout"
        raise InputError(msg)
    return split


def score_nuclei(network: Any, sections: Sequence[Any], *, eight: bool) -> dict[str, float]:
    """Detection F1 of all nuclei, bPQ over tiles, AJI and PQ over sections; the mean over organs. eight : views."""
    from stpath_core import evaluate, metrics, predict

    by_organ: dict[str, dict[str, list]] = {}
    for s in sections:
        found = predict.predict_image(network, s.image, s.mpp, average_views=eight).instances
        true = evaluate.truth(s)[0]
        xy = [metrics.centroids_um(ids, mpp=s.mpp) for ids in (true, found)]
        xy = [v[np.isfinite(v[:, 0])] for v in xy]
        hit, table = len(metrics.match_centroids(*xy)), metrics.overlap_table(true, found)
        kept = by_organ.setdefault(s.organ, {"counts": [], "bpq": [], "aji": [], "pq": []})
        kept["counts"].append([hit, len(xy[1]) - hit, len(xy[0]) - hit])
        kept["bpq"] += metrics.bpq_tiles(true, found, mpp=s.mpp).tolist()
        kept["aji"].append(metrics.aji(table=table))
        kept["pq"].append(metrics.pq(table=table))
    rows = [
        {"detection_f1": float(metrics.f1(np.sum(kept["counts"], axis=0)))}
        | {name: float(np.nanmean(kept[name])) for name in ("bpq", "aji", "pq")}
        for kept in by_organ.values()
    ]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def fit_spots(path: Path, o: Options) -> dict[str, Any]:
    """Part 2: CPNN on each fold of notebook 21; correlations of genes in the patients that the fold held out."""
    from safetensors.torch import save_file

    from stpath_core.spot_files import read_spot_stage
    from stpath_core.spot_methods import cpnn_answer, train_cpnn

    stage, v = read_spot_stage(path), o.values("21_cpnn_train")
    chosen = range(min(o.folds or len(stage.folds), len(stage.folds)))
    steps, patients = o.steps or v["spot_steps"], {}
    with ranks.alone():
        for k in o.progress("folds")(chosen[ranks.rank() :: ranks.processes()]):
            fold = stage.folds[k]
            model = train_cpnn(fold, steps=steps, widths=tuple(v["spot_widths"]), seed=o.seed, device=o.device)
            state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
            names = {"genes": ",".join(stage.genes[fold.columns])}
            with atomic_path(o.out / f"cpnn_spots_{k}.safetensors") as aside:
                save_file(state, aside, names)
            patients |= patient_scores(fold.test, cpnn_answer(model, fold.test)[1])
    patients = ranks.collected(patients)
    means = {name: float(np.mean([one[name] for one in patients.values()])) for name in ("pcc", "scc")}
    return {"steps": steps, "folds": len(chosen), "scores": means, "patients": patients}


def patient_scores(table: Any, predicted: np.ndarray) -> dict[str, dict[str, float]]:
    """patient -> pcc and scc: mean over genes, then over the patient's sections."""
    from stpath_core.expression import MEASURES, gene_scores

    found: dict[str, list] = {}
    for rows in table.sections():
        scores = gene_scores(table.target[rows], predicted[rows])
        found.setdefault(str(table.patient[rows][0]), []).append([np.nanmean(scores[m]) for m in MEASURES])
    return {who: dict(zip(MEASURES, np.mean(of, axis=0).tolist(), strict=True)) for who, of in found.items()}


def fit_recognition(path: Path, o: Options) -> dict[str, Any]:
    """Part 3: for each patient that has labels, both stages without that patient; the probe's F1 on that patient."""
    import h5py

    from stpath_core import recognition, recognition_files
    from stpath_core.gene_encoding import encode, fit_gene_encoder

    stage = recognition_files.read_stage(path)
    genes, v = o.values("30_gene_encoder"), o.values("31_contrastive_train")
    learn = {name: genes[name] for name in ("batch_size", "latent", "kl_weight", "input_dropout")}
    learn["steps"] = o.steps or genes["steps"] * (1 + (stage.dataset != "virtual"))  # real tables as in notebook 30
    settings = recognition.Settings(
        steps=o.steps or v["patch_steps"], batch_size=min(v["batch_size"], 128), encoder=v["encoder"],
        encoder_args=json.loads(v["encoder_args"]), device=o.device,
    )  # fmt: skip
    embedded: dict[str, dict[str, np.ndarray]] = {"gene": {}, "image": {}}
    histories = {}
    for who in _labelled(stage)[: o.folds or None]:
        counts, rows = stage.counts[:, stage.columns[who]], np.flatnonzero(stage.pairs.patient != who)
        full = rows[counts[rows].sum(1) > 0]
        encoder, histories[f"{who}, genes"] = fit_gene_encoder(
            counts[full], stage.pairs.patient[full], seed=o.seed, device=o.device, **learn,
            progress=o.progress(f"genes without {who}"),
        )  # fmt: skip
        z = encode(encoder, counts)
        model, histories[f"{who}, patches"] = recognition.train(
            stage.pairs, z, rows, settings=settings, seed=o.seed, progress=o.progress(f"patches without {who}"),
            workers=o.threads, compiled=o.compiled,
        )  # fmt: skip
        embedded["gene"][who], embedded["image"][who] = z, recognition.embed(model, stage.pairs.image, at_once=256)
        if ranks.rank() == 0:
            name = f"patch_encoder_{who}.safetensors"
            recognition_files.save(o.out / name, model, settings=settings, held_out=who, side="scvi")
    if ranks.rank() != 0:
        return {}
    _write_history(o.out / "history.csv", histories)
    with atomic_path(o.out / "embeddings.h5") as aside, h5py.File(aside, "w") as file:
        for name, folds in embedded.items():
            for who, values in folds.items():
                file[f"{who}/{name}"] = values
    scores = {name: _probe(folds, stage) for name, folds in embedded.items()}
    return {"steps": [learn["steps"], settings.steps], "held_out": list(embedded["gene"]), "scores": scores}


def _labelled(stage: Any) -> list[str]:
    """Patients whose spots have labels, who can be asked; all, where nobody has."""
    from stpath_core.probes import NOT_A_CLASS

    known = ~np.isin(stage.label, NOT_A_CLASS)
    return [str(p) for p in np.unique(stage.pairs.patient[known] if known.any() else stage.pairs.patient)]


def _probe(folds: Mapping[str, np.ndarray], stage: Any) -> float | None:
    """Pooled macro-F1 of the linear probe, of nearest neighbours where scikit-learn is absent; None without labels."""
    from importlib.util import find_spec

    from stpath_core import probes

    if len(set(stage.label) - set(probes.NOT_A_CLASS)) < 2:
        return None
    probe = probes.lda if find_spec("sklearn") else probes.nearest
    return probes.judge(folds, stage.label, stage.pairs.patient, probe=probe).pooled


FITS: dict[str, Callable[[Path, Options], dict[str, Any]]] = {
    "stpath.nuclei/1": fit_nuclei, "stpath.spots/1": fit_spots, "stpath.recognition/1": fit_recognition,
}  # fmt: skip


def command(arguments: Any, say: Callable[[str], None]) -> None:
    """What the command line does with its words."""
    from stpath_core.progress import track

    options = Options(
        profile=arguments.profile, steps=arguments.steps, device=arguments.device, seed=arguments.seed,
        out=arguments.out, holdout=arguments.holdout, folds=arguments.folds, compiled=arguments.compile,
        workers=arguments.workers,
        progress=lambda label: partial(track, label=label),
    )  # fmt: skip
    told = fit_stage(arguments.stage, options)
    if told:
        say(json.dumps(told["scores"]))
        say(f"wrote {options.out}, in {told['seconds']} s")
