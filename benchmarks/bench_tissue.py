"""Time the growing and painting of one square millimetre of tissue on one core; prints JSON.

OMP_NUM_THREADS=1 python benchmarks/bench_tissue.py [--size-um 1000] [--mpp 0.5] [--repeats 3]
"""

from __future__ import annotations

import argparse
import itertools
import json
import time

from stpath_core.tissue.architecture import grow
from stpath_core.tissue.cell_types import ORGANS
from stpath_core.tissue.histology import instance_mask, render


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-um", type=float, default=1000.0)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = {}
    for organ in ORGANS:
        seconds = [_once(organ, size_um=options.size_um, mpp=options.mpp) for _ in range(options.repeats)]
        best = {name: min(s[name] for s in seconds) for name in seconds[0]}
        painted = best["render"] + best["mask"]
        best["total"] = best["grow"] + painted
        megapixels = (options.size_um / options.mpp) ** 2 / 1e6
        rows[organ] = {name: round(value, 3) for name, value in best.items()}
        rows[organ]["mpx_per_s"] = round(megapixels / painted, 2)
    print(json.dumps({"size_um": options.size_um, "mpp": options.mpp, "cpu_seconds": rows}, indent=1))


def _once(organ: str, *, size_um: float, mpp: float) -> dict[str, float]:
    """Processor seconds (not wall: other work on the machine should not count) of the three steps."""
    ticks = [time.process_time()]
    arch = grow(organ, size_um=(size_um, size_um), seed=0)
    ticks.append(time.process_time())
    image = render(arch, mpp=mpp, seed=0)
    ticks.append(time.process_time())
    instance_mask(arch.nuclei_um, mpp=mpp, shape=image.shape[:2])
    ticks.append(time.process_time())
    return dict(zip(("grow", "render", "mask"), (b - a for a, b in itertools.pairwise(ticks)), strict=True))


if __name__ == "__main__":
    main()
