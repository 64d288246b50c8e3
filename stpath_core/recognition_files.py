"""Files of Part 3: the sides that stage 1 hands over, and checkpoints of image encoders (weights and JSON)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stpath_core.errors import InputError
from stpath_core.fit import pick_device
from stpath_core.io.files import atomic_path
from stpath_core.io.guard import check_hdf5, reads
from stpath_core.models.contrastive import ContrastiveModel, FeatureEncoder, PatchEncoder
from stpath_core.recognition import Settings

SCHEMA = "stpath.contrastive/1"


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
