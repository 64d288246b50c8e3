"""What `make bench` runs: every race beside the peers, each file in a process of its own; exits 1 where one failed.

    python benchmarks/bench.py [NAME ...]       e.g. speed_genes; all of them without a name

Each writes benchmarks/results/NAME.json (the gene encoder data/results/bench_gene_encoder.json, which notebook 30
shows). Numerical libraries get one thread (OMP_NUM_THREADS=1), ours and theirs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
RACES = ("speed_nuclei", "speed_genes", "speed_spots", "bench_gene_encoder", "scaling")
LIMIT = 900  # seconds for each: all within 30 minutes on two cores


def main() -> int:
    names = sys.argv[1:] or list(RACES)
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} | dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), environment.get("PYTHONPATH", "")])
    failed = []
    for name in names:
        begun = time.perf_counter()
        try:
            code = subprocess.run(
                [sys.executable, str(HERE / f"{name}.py")], env=environment, timeout=LIMIT, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = f"stopped after {LIMIT} s"
        print(f"{name}: {time.perf_counter() - begun:.0f} s" + (f", failed ({code})" if code else ""), flush=True)
        failed += [name] if code else []
    subprocess.run([sys.executable, str(HERE / "table.py")], check=True)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
