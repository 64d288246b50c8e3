"""What large frozen encoders take on a card: ViT-S/16 and ViT-L/16 of timm, 224 px, bfloat16, random weights.

PYTHONPATH=. python benchmarks/gpu_frozen.py --out benchmarks/results/gpu_frozen.json

  per_s          patches per second from a picture in memory to features in memory: cut around the spots, shipped as
                 bytes, normalised on the card, encoded, fetched (`spots.section_features`, as for any encoder)
  encoder_per_s  the same network on a batch that lies on the card already
  ratio          the first over the second: what the reader leaves of the card
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import timm
import torch
from gpu import GOAL, short, where
from torch import nn

from stpath_core import spots
from stpath_core.fit import pick_device
from stpath_core.manifest import write_json

SIDE, MPP = 224, 0.5
ENCODERS = {"ViT-S/16": "vit_small_patch16_224", "ViT-L/16": "vit_large_patch16_224"}
SMALL = {"the smallest ViT": "test_vit"}  # for a look on a processor whether all runs
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and SD of its channels


def encoder_on(net: nn.Module, device: torch.device) -> Callable[[np.ndarray], np.ndarray]:
    """(b, 224, 224, 3) uint8 -> (b, d) float32 by a network on a device; bytes travel, the card normalises."""
    mean, sd = (torch.tensor(v, device=device)[:, None, None] for v in IMAGENET)

    def encode(patches: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(patches).to(device).permute(0, 3, 1, 2).float() / 255  # (b, 3, 224, 224)
        with torch.inference_mode(), in_bfloat16(device):
            return net((x - mean) / sd).float().cpu().numpy()

    return encode


def in_bfloat16(device: torch.device) -> torch.autocast | nullcontext:
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def per_second(work: Callable[[], None], n: int, device: torch.device) -> float:
    """`n` over the seconds that `work` takes once it is warm, of as many calls as last three seconds on a card."""
    for _ in range(3 if device.type == "cuda" else 1):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun, calls = time.perf_counter(), 0
    while not calls or (device.type == "cuda" and time.perf_counter() - begun < 3):
        work()
        calls += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
    return calls * n / (time.perf_counter() - begun)


def measured(name: str, model: str, device: torch.device, *, batch: int, patches: int) -> dict:
    """One row: an encoder by itself, and with the picture before it."""
    net = timm.create_model(model, num_classes=0, img_size=SIDE).to(device).eval()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (4096, 4096, 3), np.uint8)
    xy_um = rng.uniform(SIDE, 4096 - SIDE, (patches, 2)) * MPP
    there = torch.randn(batch, 3, SIDE, SIDE, device=device)

    def alone() -> None:
        with torch.inference_mode(), in_bfloat16(device):
            net(there)

    encode = encoder_on(net, device)
    ceiling = per_second(alone, batch, device)
    whole = per_second(
        lambda: spots.section_features(image, xy_um, mpp=MPP, patch_um=SIDE * MPP, encode=encode, at_once=batch),
        patches, device,
    )  # fmt: skip
    ratio = whole / ceiling
    rates = {"per_s": short(whole), "encoder_per_s": short(ceiling), "ratio": short(ratio)}
    return {"encoder": name, "model": model, "batch": batch, **rates, "goal": GOAL, "met": bool(ratio >= GOAL)}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", type=Path, required=True, help="the record, as JSON")
    words.add_argument("--device", default="auto")
    words.add_argument("--batch", type=int, default=256)
    words.add_argument("--patches", type=int, default=4096)
    words.add_argument("--revision", default="", help="of the code, where the folder is no git repository")
    given = words.parse_args()
    device = pick_device(given.device)
    of = ENCODERS if device.type == "cuda" else SMALL
    rows = [measured(*one, device, batch=given.batch, patches=given.patches) for one in of.items()]
    write_json(given.out, where(device, given.revision) | {"rows": rows})
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
