"""What `make bench` runs: every race beside the peers, each file in a process of its own; exits 1 where one failed.

    python benchmarks/bench.py [NAME ...]       e.g. speed_genes; all of them without a name

Each writes benchmarks/results/NAME.json (the gene encoder data/results/bench_gene_encoder.json, which notebook 30
shows), and results/bench.json says how long each took. Numerical libraries get one thread (OMP_NUM_THREADS=1), ours
and theirs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
RACES = ("speed_nuclei", "speed_genes", "speed_spots", "bench_gene_encoder", "scaling")
LIMIT = 1800  # seconds for all, on two cores


def main() -> int:
    names = sys.argv[1:] or list(RACES)
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} | dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), environment.get("PYTHONPATH", "")])
    failed, took, began = [], {}, time.perf_counter()
    for name in names:
        begun = time.perf_counter()
        left = LIMIT - (begun - began)
        with subprocess.Popen(
            [sys.executable, str(HERE / f"{name}.py")], env=environment, start_new_session=True
        ) as race:
            try:
                code = race.wait(max(left, 0))
            except subprocess.TimeoutExpired:
                os.killpg(race.pid, signal.SIGKILL)  # with what it started
                code = f"stopped: {LIMIT} s for all were over"
        took[name] = round(time.perf_counter() - begun, 1)
        print(f"{name}: {took[name]:.0f} s" + (f", failed ({code})" if code else ""), flush=True)
        failed += [name] if code else []
    if names == list(RACES) and not failed:
        from beside import write

        write("bench", [], seconds=took, limit=LIMIT)
    subprocess.run([sys.executable, str(HERE / "table.py")], check=True)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
