"""Files of Part 3: the sides that stage 1 hands over, and checkpoints of image encoders (weights and JSON)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stpath_core.errors import InputError
from stpath_core.fit import pick_device
from stpath_core.io.files import atomic_path
from stpath_core.io.guard import check_hdf5, reads
from stpath_core.models.contrastive import ContrastiveModel, FeatureEncoder, PatchEncoder
from stpath_core.recognition import Pairs, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scipy.sparse import csr_matrix

SCHEMA = "stpath.contrastive/1"
STAGE = "stpath.recognition/1"


@dataclass(frozen=True)
class RecognitionStage:
    """The spots of a cohort for both stages. counts (n, G) raw, of all genes that a fold reads; columns : held-out
    patient -> which of them were chosen without that patient; pairs : the spots with their patches; label (n,) words,
    for the probe at the end alone."""

    dataset: str
    counts: np.ndarray
    columns: dict[str, np.ndarray]
    pairs: Pairs
    label: np.ndarray


def write_stage(
    path: str | Path, counts: csr_matrix, columns: Mapping[str, np.ndarray], patches: np.ndarray, xy_um: np.ndarray,
    patient: np.ndarray, section: np.ndarray, label: np.ndarray, *, dataset: str,
) -> None:  # fmt: skip
    """Pack spots for `stpath fit` (schema stpath.recognition/1). counts (n, all genes); columns : held-out patient ->
    genes chosen on the others; patches (n, S, S, 3) uint8; the rest (n,) words, xy_um (n, 2)."""
    union = np.unique(np.concatenate(list(columns.values())))
    small, words = {"compression": "gzip", "shuffle": True}, h5py.string_dtype()
    with atomic_path(path) as aside, h5py.File(aside, "w") as file:
        file.attrs.update(schema=STAGE, dataset=dataset)
        file.create_dataset("counts", data=counts[:, union].toarray().astype(np.int32), **small)
        file.create_dataset("patches", data=patches, **small)
        file["xy_um"] = np.asarray(xy_um, float)
        for name, values in (("patient", patient), ("section", section), ("label", label)):
            file.create_dataset(name, data=np.asarray(values, str).astype(object), dtype=words)
        for who, chosen in columns.items():
            file[f"columns/{who}"] = np.searchsorted(union, chosen)


@reads
def read_stage(path: str | Path) -> RecognitionStage:
    """What `write_stage` packed; InputError where the file is not one."""
    check_hdf5(Path(path))
    with h5py.File(path) as file:
        if file.attrs.get("schema") != STAGE:
            message = f"{path} has schema {file.attrs.get('schema')!r}; expected {STAGE!r}: make it with "
            raise InputError(message + "`stpath pack recognition`")
        patient, section, label = (file[name].asstr()[...].astype(str) for name in ("patient", "section", "label"))
        pairs = Pairs(
            np.ascontiguousarray(file["patches"][...].transpose(0, 3, 1, 2)), file["xy_um"][...], patient, section
        )
        columns = {who: chosen[...] for who, chosen in file["columns"].items()}
        return RecognitionStage(str(file.attrs["dataset"]), file["counts"][...], columns, pairs, label)


@reads
def read_sides(path: str | Path, rows: np.ndarray | None = None) -> dict[str, dict[str, np.ndarray]]:
    """What stage 1 handed over: held-out patient -> name of the side -> z (n, k) of all spots, or of `rows`."""
    try:
        check_hdf5(Path(path))
        with h5py.File(path) as file:
            return {who: {name: side[...] if rows is None else side[...][rows] for name, side in group.items()}
                    for who, group in file.items()}  # fmt: skip
    except (OSError, AttributeError, TypeError) as error:
        message = f"{path} does not hold embeddings by held-out patient ({error}); make it with notebook 30"
        raise InputError(message) from error


def save(path: str | Path, model: ContrastiveModel, *, settings: Settings, **meta: str | float) -> Path:
    """One .safetensors with the weights; what is needed to build the network again is JSON in its metadata."""
    features = isinstance(model.image, FeatureEncoder)
    shape = {"d_in": len(model.image.mean) if features else 0, "gene_dim": model.gene_head.first.in_features}
    config = {"schema": SCHEMA, "settings": asdict(settings), "shape": shape, "meta": meta}
    with atomic_path(path) as aside:
        tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        save_file(tensors, aside, {"stpath": json.dumps(config)})
    return Path(path)


def load(path: str | Path, *, device: str = "cpu") -> ContrastiveModel:
    """Read a checkpoint of `save`. Anything else, a pickle above all, is an InputError: nothing in it is executed."""
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            config = json.loads((file.metadata() or {}).get("stpath", "{}"))
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
        if not isinstance(config, dict) or config.get("schema") != SCHEMA:
            message = f"its configuration is not of schema {SCHEMA!r}"
            raise ValueError(message)
        s, shape = Settings(**config["settings"]), config["shape"]
        image = (
            FeatureEncoder(shape["d_in"], dim=s.width)
            if shape["d_in"]
            else PatchEncoder(s.encoder, args=s.encoder_args)
        )
        model = ContrastiveModel(image, shape["gene_dim"], dim=s.dim, dropout=s.dropout)
        model.load_state_dict(tensors)
    except (OSError, SafetensorError, RecursionError, ValueError, KeyError, TypeError, RuntimeError) as error:
        message = f"{path} is no checkpoint of an image encoder ({' '.join(str(error).split())[:200]}); train it with "
        raise InputError(message + "notebook 31") from error
    return model.to(pick_device(device)).eval()
