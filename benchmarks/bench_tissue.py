"""Time one square millimetre of tissue on one core, from nothing to the written bundle; prints JSON.

OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/bench_tissue.py [--size-um 1000] [--mpp 0.5] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from stpath_core.tissue import Effects
from stpath_core.tissue.architecture import grow
from stpath_core.tissue.cell_assay import measure
from stpath_core.tissue.cell_types import ORGANS
from stpath_core.tissue.expression import cell_means, counts
from stpath_core.tissue.histology import render
from stpath_core.tissue.xenium import write_bundle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-um", type=float, default=1000.0)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = {}
    for organ in ORGANS:
        tries = [_once(organ, size_um=options.size_um, mpp=options.mpp) for _ in range(options.repeats)]
        best = {name: min(t[0][name] for t in tries) for name in tries[0][0]}
        rows[organ] = {name: round(seconds, 3) for name, seconds in best.items()} | {
            "total": round(sum(best.values()), 2),
            "mpx_per_s": round((options.size_um / options.mpp) ** 2 / 1e6 / best["render"], 2),
            "transcripts": tries[0][1],
            "transcripts_per_s": round(tries[0][1] / (best["count"] + best["measure"])),
        }
    print(json.dumps({"size_um": options.size_um, "mpp": options.mpp, "cpu_seconds": rows}, indent=1))


def _once(organ: str, *, size_um: float, mpp: float) -> tuple[dict[str, float], int]:
    """Processor seconds (not wall: other work on the machine should not count) of each step; transcripts made."""
    seconds, effects = {}, Effects()

    def timed(part, step, *args, **options):
        begun = time.process_time()
        result = step(*args, **options)
        seconds[part] = time.process_time() - begun
        return result

    arch = timed("grow", grow, organ, size_um=(size_um, size_um), seed=0)
    image = timed("render", render, arch, mpp=mpp, seed=0)
    means = timed("express", cell_means, arch, effects=effects, seed=0)
    raw = timed("count", counts, arch, means, effects=effects, seed=0)
    assay = timed("measure", measure, arch, raw, effects=effects, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "bundle"
        timed("bundle", write_bundle, where, arch, image, assay, mpp=mpp, effects=effects, name=organ, settings={})
    return seconds, len(assay.transcripts)


if __name__ == "__main__":
    main()
