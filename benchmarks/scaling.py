"""Time and peak memory against work over two decades; each point in a process of its own. Run by `make bench`.

    python benchmarks/scaling.py              all; results/scaling.json and .csv, and the figure docs/scaling.png
    python benchmarks/scaling.py NAME WORK    one point, as JSON

Seconds are of the processor (what else the machine does counts less), the median of three or more; memory is the
process' peak above what it held when the work began. The slope is that of the log-log fit of seconds on work: 1 is
linear. Small work has constant costs, which flatten; so the slope over the upper half of the points is given beside it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
DECADES = (1, 3, 10, 32, 100)  # times the smallest work
ROUNDS, SECONDS = 3, 3.0  # so many at least, and more while so long: the median counts, because the first also pays for
# memory that the process has not had before


def labels(work: int) -> Callable[[], object]:
    """Transcripts counted into nuclei, 250 to each nucleus."""
    from speed_spots import section_of

    from stpath_core.labels import count_transcripts

    section = section_of(work // 250, work, mpp=0.5)
    return lambda: count_transcripts(section, grow_um=0.0)


def nuclei(work: int) -> Callable[[], object]:
    """Pixels through the network and the watershed, one view, tiles of 256 pixels."""
    from stpath_core.models.nuclei import NucleiNet
    from stpath_core.predict import predict_image

    side = round(work**0.5)
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    model = NucleiNet(classes=("a", "b")).eval()
    return lambda: predict_image(model, image, 0.5, tile_px=256, average_views=False)


def gene_encoder(work: int) -> Callable[[], object]:
    """Spots of 500 genes, three epochs of batches of 256."""
    from stpath_core.gene_encoding import fit_gene_encoder

    rng = np.random.default_rng(0)
    counts = rng.poisson(1.0, (work, 500)).astype(np.float32)
    patient = np.arange(work) % 4
    steps = 3 * max(1, round(work / 256))
    return lambda: fit_gene_encoder(counts, patient, steps=steps, batch_size=256, device="cpu")


def cpnn_bags(work: int) -> Callable[[], object]:
    """Patches of 32 slides through CPNN's slide variant, forward and back, a batch of 16 slides at a time."""
    import torch

    from stpath_core.models.cpnn import CPNN, Regularisers, slide_loss
    from stpath_core.models.slide_networks import train_bags

    rng = np.random.default_rng(0)
    bags = [rng.normal(size=(work // 32, 64)).astype(np.float32) for _ in range(32)]
    counts = torch.from_numpy(rng.poisson(20.0, (32, 250)).astype(np.float32))
    model = CPNN(64, torch.ones(8, 250), widths=(128, 64))

    def loss(net, x, mask, rows):
        return slide_loss(net, x, mask, counts[rows], counts[rows].sum(1), None, Regularisers())

    return lambda: train_bags(model, bags, loss, steps=4)


def evaluation(work: int) -> Callable[[], object]:
    """Every score of a pair of maps, in true nuclei."""
    from bench_metrics import ellipses

    from stpath_core.data import NucleiSection
    from stpath_core.evaluate import evaluate_nuclei

    rng, side = np.random.default_rng(0), round(work**0.5)
    size = round(side * 100 / 3)
    true, pred = (ellipses(rng, n=side**2, size_px=size, shift_px=shift) for shift in (0.0, 2.0))
    kinds = rng.integers(0, 4, side**2).astype(np.int8)
    section = NucleiSection(
        "s", "breast", "p", np.zeros((*true.shape, 3), np.uint8), 0.5, true, truth_instances=true,
        truth_labels=np.r_[np.int8(-1), kinds],
    )  # fmt: skip
    return lambda: evaluate_nuclei([section], [pred], types={"arm": [kinds[: pred.max()]]})


WORKS = {  # smallest work, its unit
    labels: (20_000, "transcripts"),
    nuclei: (128**2, "pixels"),
    gene_encoder: (256, "spots"),
    cpnn_bags: (640, "patches"),
    evaluation: (100, "nuclei"),
}


def point(name: str, work: int) -> dict:
    """In this process: the smallest work once for what is loaded and compiled, then the work that is timed."""
    of = {f.__name__: f for f in WORKS}[name]
    of(WORKS[of][0])()
    ready = of(work)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    while len(times) < ROUNDS or (sum(times) < SECONDS and len(times) < 30):
        begun = time.process_time()
        ready()
        times.append(time.process_time() - begun)
    seconds = float(np.median(times))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": round(seconds, 4), "peak_mib": round(peak / 1024, 1), "held_mib": round(held / 1024, 1)}


def slope(work: np.ndarray, value: np.ndarray) -> float:
    return round(float(np.polyfit(np.log(work), np.log(value), 1)[0]), 2)


def measure(decades: tuple[int, ...] = DECADES) -> list[dict]:
    rows = []
    for of, (smallest, unit) in WORKS.items():
        for times in decades:
            command = [sys.executable, __file__, of.__name__, str(smallest * times)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append({"what": of.__name__, "unit": unit, "work": smallest * times} | json.loads(done.stdout))
            print(rows[-1], flush=True)
    return rows


def slopes(rows: list[dict]) -> list[dict]:
    out = []
    for of, (_, unit) in WORKS.items():
        mine = [r for r in rows if r["what"] == of.__name__]
        work, seconds, peak = (np.array([r[k] for r in mine], float) for k in ("work", "seconds", "peak_mib"))
        upper = len(work) // 2
        out.append({
            "what": of.__name__, "unit": unit, "slope_time": slope(work, seconds),
            "slope_time_upper": slope(work[upper:], seconds[upper:]), "slope_peak_memory": slope(work, peak),
        })  # fmt: skip
        out[-1]["linear_or_better"] = out[-1]["slope_time_upper"] <= 1.1
    return out


def draw(rows: list[dict], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, key, name in zip(
        figure.subplots(1, 2), ("seconds", "peak_mib"), ("processor s", "peak MiB"), strict=True
    ):
        for (of, (smallest, unit)), mark in zip(WORKS.items(), "os^Dv", strict=False):
            mine = [r for r in rows if r["what"] == of.__name__]
            name_of = f"{of.__name__.replace('_', ' ')}, 1 = {smallest:,} {unit}"
            axes.loglog([r["work"] / smallest for r in mine], [r[key] for r in mine], marker=mark, label=name_of)
        axes.set(xlabel="work, times the smallest", ylabel=name)
        if key == "seconds":
            low, high = axes.get_ylim()
            for start in np.logspace(-4, 2, 7):
                axes.plot([1, 100], [start, 100 * start], color="0.85", lw=0.8, zorder=0)  # slope 1
            axes.set_ylim(low, high)
        else:
            axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(point(sys.argv[1], int(sys.argv[2]))))
        return
    import pandas as pd
    from beside import RESULTS, sizes, write

    if sizes():
        print(slopes(measure((1, 2))))
        return
    rows = measure()
    write("scaling", rows, slopes=slopes(rows))
    pd.DataFrame(rows).to_csv(RESULTS / "scaling.csv", index=False)
    draw(rows, HERE.parent / "docs" / "scaling.png")


if __name__ == "__main__":
    main()
