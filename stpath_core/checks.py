"""What can be known to be wrong with parameter values before a kernel starts, beyond their names and types.

The parameters are known by name, because they mean the same in every notebook that declares them.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stpath_core.errors import InputError

FETCH = "STPATH_FETCH_ENCODERS"  # 1: encoders may be named that timm has to fetch from a hub or open in a folder
PLACES = ("cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay")


def check_values(values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise InputError for a seed that is none, a device that is not here, an encoder that cannot be built, folds that
    cannot be cut.

    values : all of a notebook's; given : those that were passed. What costs an import is looked at only when passed.
    """
    if not 0 <= values["seed"] < 2**32:
        msg = f"seed={values['seed']}; give a whole number from 0 to 4,294,967,295"
        raise InputError(msg)
    if values["device"] not in ("auto", "cpu"):
        from stpath_core.fit import pick_device

        pick_device(values["device"])
    if given.get("encoder_args") is not None or given.get("encoder") is not None:
        check_encoder(values["encoder"], values.get("encoder_args") or "{}", own_args=bool(given.get("encoder_args")))
    folds = values.get("folds") or 0
    if folds < 0 or folds == 1:
        msg = f"folds={folds}; give 0 for none, or 2 and more"
        raise InputError(msg)
    if values["data_dir"]:
        _check_masks(values, folds)
        _check_slides(values)


def check_folder(out: str | Path) -> None:
    """Raise InputError for a folder that cannot be made or written to. It need not exist, and is not made."""
    there = next(p for p in (Path(out), *Path(out).absolute().parents) if p.exists())
    if not there.is_dir():
        msg = f"{there} is a file, so nothing can be written to the folder {out}: give another one"
        raise InputError(msg)
    if not os.access(there, os.W_OK | os.X_OK):
        msg = f"{there} cannot be written by you, so nothing can be kept in {out}: give another folder"
        raise InputError(msg)


def check_encoder(encoder: str, encoder_args: str, *, own_args: bool) -> None:
    """Build a timm encoder without its weights; own_args : whether encoder_args were passed, or are the profile's."""
    try:
        options = json.loads(encoder_args)
    except json.JSONDecodeError as error:
        msg = f"encoder_args={encoder_args!r} is not JSON ({error}); write '{{\"out_indices\": [0, 1, 2]}}'"
        raise InputError(msg) from error
    if not isinstance(options, dict):
        msg = f"encoder_args={encoder_args!r} is a {type(options).__name__}; write '{{\"out_indices\": [0, 1, 2]}}'"
        raise InputError(msg)
    refuse_places(encoder, options)
    if ":" in encoder:  # on a hub or in a folder: timm itself has to fetch it
        return
    import timm
    import torch

    if not timm.is_model(encoder):
        near = timm.list_models(f"*{encoder[:6]}*")[:5]
        msg = f"encoder={encoder!r} is no timm model" + (f"; there are {', '.join(near)}" if near else "")
        raise InputError(msg + "; `timm.list_models()` names all")
    try:
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):
            timm.create_model(encoder, features_only=True, **options)
    except Exception as error:
        hint = (
            "" if own_args else "; these encoder_args are the profile's: pass some that fit, encoder_args={} for none"
        )
        msg = f"encoder={encoder!r} cannot be built with encoder_args={encoder_args} ({error}){hint}"
        raise InputError(" ".join(msg.split())) from error


def refuse_places(encoder: str, encoder_args: Mapping[str, Any]) -> None:
    """Raise InputError for options of `timm.create_model` that name files and addresses, or fetch, and for names that
    do (`hf-hub:`, `local-dir:`) unless FETCH is set: a grid or a checkpoint of a stranger is to open, write and
    download nothing."""
    named = [name for name in PLACES if name in encoder_args]
    if named:
        msg = f"an encoder cannot be built with encoder_args that name files or addresses: drop {', '.join(named)}"
        raise InputError(msg)
    if ":" in encoder and os.environ.get(FETCH) != "1":
        msg = f"set {FETCH}=1 if you trust the place that encoder={encoder[:80]!r} names, or name a model of timm: "
        raise InputError(msg + "a grid or a checkpoint of a stranger may name files or addresses, too")


def _check_masks(values: Mapping[str, Any], folds: int) -> None:
    """A folder of images and masks must hold both, and a patient for each fold."""
    from stpath_core.io.masks import find_pairs
    from stpath_core.io.registry import registry

    entry = registry().get(values["dataset"])
    if entry is None or entry.layout != "masks":
        return
    patients = {entry.patient_of_case(image.stem) for image, _ in find_pairs(values["data_dir"], entry)}
    if folds > len(patients):
        msg = f"folds={folds} of {len(patients)} patients in {values['data_dir']}; give at most {len(patients)}"
        raise InputError(msg)


def _check_slides(values: Mapping[str, Any]) -> None:
    """An archive of slides must hold its tables and, for the notebook that reads it, a reference of single cells."""
    if values["dataset"] != "slides":
        return
    from stpath_core.prototypes import find_reference
    from stpath_core.slide_cohorts import check_archive

    check_archive(values["data_dir"])
    if "scrna" in values:
        find_reference(values["data_dir"], values["scrna"])
