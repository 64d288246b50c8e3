"""All parts at the gpu profile on one card, beside what its encoders alone could do there.

PYTHONPATH=. python benchmarks/gpu.py STAGES --out benchmarks/results/gpu.json --seconds 40

STAGES is a folder of files of `stpath pack` (nuclei, spots, recognition; any number of each). Only torch, timm, numpy,
h5py, safetensors, scipy and scikit-image are needed. For each file:

  per_s          images or spots per second of `stpath fit`: loader, augmentation, losses, clipping and AdamW included
  encoder_per_s  the ceiling: the same timm encoder, forward and backward of the sum of its output, one batch that lies
                 on the card already, same precision and layout; no loader, no loss, no optimiser
  network_per_s  the same of the whole network (encoder and decoder, or what a part has instead of a timm encoder)
  ratio          per_s over encoder_per_s, where there is a timm encoder, else over network_per_s

and what a training of about --seconds reaches on the held-out side. A part that fails is recorded and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import beside
import numpy as np
import torch
from torch import Tensor, nn

from stpath_core import stage_fit
from stpath_core.io.files import atomic_path

GOAL = 0.7
LONGEST = 600  # seconds that a file may take in a process of its own
SETTLE, RACE = 50, 200  # steps before the clock starts, and steps in all: multiples of what is read at once
PACKAGES = ("torch", "timm", "numpy", "h5py", "safetensors", "scipy", "scikit-image", "scikit-learn")


@dataclass
class Clock:
    """When each step began: a `progress` that keeps the time, by label."""

    ticks: dict[str, list[float]] = field(default_factory=dict)

    def of(self, label: str) -> Callable[[Iterable], Iterator]:
        def through(items: Iterable) -> Iterator:
            ticks = self.ticks.setdefault(label, [])
            for item in items:
                ticks.append(time.perf_counter())
                yield item
            ticks.append(time.perf_counter())  # after the last reading from the card, which waits for all steps

        return through

    def rate(self, label: str, settle: int) -> float:
        """Steps per second after the first `settle`; of all but the first, where there are fewer."""
        ticks = self.ticks[label]
        begin = settle if len(ticks) > settle + 1 else min(1, len(ticks) - 2)
        return (len(ticks) - 1 - begin) / (ticks[-1] - ticks[begin])


@dataclass
class Bench:
    """What every part needs. steps : instead of what fits into `seconds`, for a look whether all runs."""

    device: torch.device
    profile: str
    seconds: float
    steps: int | None
    compiled: bool
    workers: int | None
    folder: Path

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def options(self, clock: Clock, name: str, **more: Any) -> stage_fit.Options:
        given = {"device": str(self.device), "profile": self.profile, "compiled": self.compiled, "progress": clock.of}
        return stage_fit.Options(**given, workers=self.workers, out=self.folder / name, **more)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def ceiling(self, model: nn.Module, run: Callable[[nn.Module], Iterable[Tensor]], *, mixed: bool = True) -> float:
        """Forward and backward passes per second of a sum of all outputs."""
        model.to(self.device, memory_format=torch.channels_last).train()
        torch.backends.cudnn.benchmark = self.cuda

        def once() -> None:
            with torch.autocast("cuda", torch.bfloat16) if self.cuda and mixed else nullcontext():
                out = sum(v.float().sum() for v in run(model))
            model.zero_grad(set_to_none=True)
            out.backward()

        for _ in range(10 if self.cuda else 1):
            once()
        self.wait()
        begun, n = time.perf_counter(), 0
        while n < 3 or (self.cuda and time.perf_counter() - begun < 3):
            for _ in range(20 if self.cuda else 1):
                once()
                n += 1
            self.wait()
        return n / (time.perf_counter() - begun)

    def affordable(self, rate: float, most: int) -> int:
        """Steps for about `seconds` at a rate, at most those of the profile."""
        return self.steps or int(np.clip(rate * self.seconds, 20, most))


def images(bench: Bench, n: int, side: int) -> Tensor:
    """A batch as an encoder sees it, on the card."""
    x = torch.randn(n, 3, side, side, device=bench.device)
    return x.contiguous(memory_format=torch.channels_last)


def nuclei(bench: Bench, path: Path) -> list[dict]:
    """Part 1: a short race of the loop without looks at validation tiles, then a training that is scored."""
    import timm

    from stpath_core.data import read_nuclei_plan
    from stpath_core.models.nuclei import NucleiNet

    values = bench.options(Clock(), "").values("11_nuclei_train")
    virtual, args = read_nuclei_plan(path)[0] == "virtual", json.loads(values["encoder_args"])
    side, batch = stage_fit.nuclei_tile_px(values, virtual=virtual), values["batch_size"]
    x = images(bench, batch, side)
    encoder = timm.create_model(values["encoder"], features_only=True, **args)
    of_encoder = bench.ceiling(encoder, lambda net: net(x))
    grid = {name: stage_fit.GRIDS[virtual][name] for name in ("stride", "blocks")}
    net = NucleiNet(encoder=values["encoder"], encoder_args=args, width=values["width"], **grid)
    of_network = bench.ceiling(net, lambda net: net(x)[:2])
    del encoder, net
    alone = loader_rates(bench, path, batch, side, virtual=virtual)
    clock = Clock()
    stage_fit.train_nuclei(path, bench.options(clock, "race", steps=bench.steps or RACE), inner_share=0.0)
    rate = clock.rate("steps", SETTLE)
    n = bench.affordable(rate, values["steps" if virtual else "real_steps"])
    told = stage_fit.fit_stage(path, bench.options(Clock(), path.stem, steps=n))
    return [row("nuclei network", path, "images", f"{batch} x {side} px", rate, batch, of_encoder, of_network,
                **alone, steps=told["steps"], train_seconds=told["seconds"], quality=told["scores"])]  # fmt: skip


def loader_rates(bench: Bench, path: Path, batch: int, side: int, *, virtual: bool) -> dict[str, float]:
    """Tiles per second when nobody waits for anything else: cut on the card, as `train_split` does, and by threads."""
    from stpath_core.data import NucleiTiles, read_nuclei_stage
    from stpath_core.fit import one_torch_thread
    from stpath_core.prefetch import batches, spare_cores

    grid = {name: value for name, value in stage_fit.GRIDS[virtual].items() if name != "blocks"}
    tiles, n = (
        NucleiTiles(read_nuclei_stage(path), **grid, size_px=side, batch_size=batch),
        bench.workers or spare_cores(),
    )
    found = {}
    if bench.cuda:
        there = tiles.on(bench.device)
        for step in range(5):
            there(step)
        bench.wait()
        begun = time.perf_counter()
        for step in range(50):
            there(step)
        bench.wait()
        found["loader_per_s"] = short(50 * batch / (time.perf_counter() - begun))
    with one_torch_thread():
        stream = batches(tiles, range(8 * n), torch.device("cpu"), workers=n)
        for _ in range(2 * n):  # what was asked for at the beginning
            next(stream)
        begun, made = time.perf_counter(), 0
        while made < 6 * n and time.perf_counter() - begun < 4:
            next(stream)
            made += 1
        took = time.perf_counter() - begun
        stream.close()
    return found | {"threads_per_s": short(made * batch / took)}


def spots(bench: Bench, path: Path) -> list[dict]:
    """Part 2: CPNN on every fold; the clock begins with the second."""
    from stpath_core.models.cpnn import CPNN
    from stpath_core.spot_files import read_spot_stage

    fold, values = read_spot_stage(path).folds[0], bench.options(Clock(), "").values("21_cpnn_train")
    n = len(fold.train.sections()[0])
    x = torch.as_tensor(fold.train.features[fold.train.sections()[0]], device=bench.device)
    net = CPNN(
        x.shape[1], torch.as_tensor(fold.profiles), widths=tuple(values["spot_widths"]), correction=False, level=True
    )
    of_network = bench.ceiling(net, lambda net: [net.spot(x)], mixed=False)
    clock = Clock()
    told = stage_fit.fit_stage(path, bench.options(clock, path.stem, steps=bench.steps))
    rate = told["steps"] * clock.rate("folds", 1)
    return [row("CPNN", path, "spots", f"a section of {n}", rate, n, None, of_network, steps=told["steps"],
                train_seconds=told["seconds"], quality=told["scores"])]  # fmt: skip


def recognition(bench: Bench, path: Path) -> list[dict]:
    """Part 3: the gene encoder and the network on patches, one patient held out, or more if time allows."""
    import timm

    from stpath_core.models.gene_encoder import GeneVAE, library
    from stpath_core.recognition_files import read_stage

    stage, options = read_stage(path), bench.options(Clock(), "")
    genes, values = options.values("30_gene_encoder"), options.values("31_contrastive_train")
    args, side = json.loads(values["encoder_args"]), stage.pairs.image.shape[-1]
    who = next(iter(stage.columns))
    train = np.flatnonzero(stage.pairs.patient != who)
    batch, n = min(values["batch_size"], 128, len(train)), min(genes["batch_size"], len(train))
    encoder, x = timm.create_model(values["encoder"], num_classes=0, **args), images(bench, batch, side)
    of_encoder = bench.ceiling(encoder, lambda net: [net(x)])
    counts = torch.as_tensor(stage.counts[train[:n]][:, stage.columns[who]], dtype=torch.float32, device=bench.device)
    vae = GeneVAE(counts.shape[1], len(stage.columns), latent=genes["latent"])
    whose = torch.zeros(n, len(stage.columns), device=bench.device)
    of_genes = bench.ceiling(
        vae, lambda net: net.decoder(net.encode(counts.log1p()), whose, library(counts) + 1)[:1], mixed=False
    )
    steps = bench.affordable(0.7 * of_encoder, values["patch_steps"])
    clock = Clock()
    told = stage_fit.fit_stage(path, bench.options(clock, path.stem, steps=steps, folds=1))
    who = told["held_out"][0]
    gene, image = (clock.rate(f"{what} without {who}", SETTLE) for what in ("genes", "patches"))
    more = {"steps": steps, "train_seconds": told["seconds"]}
    f1 = told["scores"]
    return [
        row("gene encoder", path, "spots", f"{n} x {counts.shape[1]} genes", gene, n, None, of_genes, **more,
            quality={"probe_f1": f1["gene"]}),
        row("patch encoder", path, "images", f"{batch} x {side} px", image, batch, of_encoder, None, **more,
            quality={"probe_f1": f1["image"]}),
    ]  # fmt: skip


def row(
    what: str, path: Path, unit: str, size: str, rate: float, batch: int, encoder: float | None, network: float | None,
    **more: Any,
) -> dict:  # fmt: skip
    """A line of the record; rates are of steps."""
    ceiling = network if encoder is None else encoder
    rates = {"per_s": rate, "encoder_per_s": encoder, "network_per_s": network}
    out = {"part": what, "file": path.name, "unit": unit, "batch": size, "steps_per_s": short(rate)}
    out |= {name: None if v is None else short(v * batch) for name, v in rates.items()}
    out |= {"ratio": short(rate / ceiling), "ratio_network": None if network is None else short(rate / network)}
    return out | {"goal": GOAL, "met": bool(rate / ceiling >= GOAL)} | more


def short(value: float) -> float:
    return float(f"{value:.3g}")


PARTS = {"stpath.nuclei/1": nuclei, "stpath.spots/1": spots, "stpath.recognition/1": recognition}


def measured(bench: Bench, path: Path) -> list[dict]:
    """The rows of a file, or one that says why there are none."""
    begun = time.perf_counter()
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats()
    try:
        rows = PARTS[stage_fit.schema_of(path)](bench, path)
    except Exception as error:  # the other parts must be measured whatever happens to this one
        traceback.print_exc()
        rows = [{"part": path.stem, "file": path.name, "not_measured": f"{type(error).__name__}: {str(error)[:300]}"}]
    peak = short(torch.cuda.max_memory_allocated() / 2**30) if bench.cuda else None
    took = round(time.perf_counter() - begun, 1)
    if bench.cuda:
        torch.cuda.empty_cache()
    return [one | {"peak_gib": peak, "seconds": took} for one in rows]


def elsewhere(path: Path, words: list[str]) -> list[dict]:
    """The rows of a file, measured by a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "one.json"
        command = [sys.executable, __file__, *words, "--only", path.stem, "--out", str(out)]
        try:
            ended = f"its process ended with {subprocess.run(command, check=False, timeout=LONGEST).returncode}"
        except subprocess.TimeoutExpired:
            ended = f"its process was not done after {LONGEST} s"
        if not out.is_file():
            return [{"part": path.stem, "file": path.name, "not_measured": ended}]
        return json.loads(out.read_text())["rows"]


def where(device: torch.device, revision: str) -> dict:
    """The card, the versions, the revision."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    card = {"card": None}
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        card = {"card": about.name, "card_gib": round(about.total_memory / 2**30, 1), "cuda": torch.version.cuda}
    return {"day": datetime.now(UTC).date().isoformat(), "revision": revision or beside.REVISION, **card,
            "machine": beside.machine(), "versions": versions}  # fmt: skip


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("stages", type=Path, help="folder of stage files")
    words.add_argument("--out", type=Path, help="the record, as JSON")
    words.add_argument("--seconds", type=float, default=40, help="for the training of a network that is scored")
    words.add_argument("--steps", type=int, help="instead: so many steps everywhere")
    words.add_argument("--device", default="auto")
    words.add_argument("--profile", help="default: gpu, and smoke on a CPU")
    words.add_argument("--compile", action="store_true", help="torch.compile the networks with encoders")
    words.add_argument("--workers", type=int, help="threads that prepare batches; default: as stpath fit")
    words.add_argument("--only", nargs="*", default=[], help="names of files, without .h5")
    words.add_argument("--revision", default="", help="of the code, where the folder is no git repository")
    given = words.parse_args()
    device = stage_fit.pick_device(given.device)
    profile = given.profile or ("gpu" if device.type == "cuda" else "smoke")
    record = where(device, given.revision) | {"profile": profile, "compiled": given.compile, "rows": []}
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, profile, given.seconds, given.steps, given.compile, given.workers, Path(folder))
        for path in sorted(given.stages.glob("*.h5")):
            if given.only and path.stem not in given.only:
                continue
            print(f"{path.name}, {time.perf_counter() - begun:.0f} s gone", flush=True)
            broken = any("CUDA error" in row.get("not_measured", "") for row in record["rows"])  # for this process
            record["rows"] += elsewhere(path, sys.argv[1:]) if broken else measured(bench, path)
            record["seconds"] = round(time.perf_counter() - begun, 1)
            if given.out:  # after every file, so that what was measured is kept
                with atomic_path(given.out) as aside:
                    aside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{record['card'] or 'CPU'}, torch {record['versions']['torch']}, profile {profile}, {record['seconds']} s")
    for one in record["rows"]:
        if "not_measured" in one:
            print(f"{one['part']:16} {one['file']:16} FAILED {one['not_measured']}")
        else:
            rates = f"{one['per_s']:>9,.0f} {one['unit']}/s, ratio {one['ratio']:.2f}, of the network "
            print(f"{one['part']:16} {one['file']:16} {rates}{one['ratio_network']}, {one['peak_gib']} GiB")
            print(" " * 34 + ", ".join(f"{name} {value:.3f}" for name, value in one["quality"].items()))


if __name__ == "__main__":
    main()
