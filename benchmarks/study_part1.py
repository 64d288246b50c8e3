"""Run Part 1 on several tissue seeds, training seed with it, and write what its claims rest on.

    python benchmarks/study_part1.py [--seeds 0 1 2 3 4]        # about five minutes a seed on two cores

Runs notebooks 10, 11, 12 and 14 at the cpu profile; what is unchanged is reused, so an interrupted study goes on where
it stopped. Writes data/results/part1_seeds.csv, a row per seed and key of KEYS, with the revision and the day of the
run; all seeds or nothing.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path

from stpath_core import manifest, stages
from stpath_core.io.files import atomic_path

NOTEBOOKS = ("10", "11", "12", "14")
KEYS = (
    "part1.typing.virtual_accuracy", "part1.typing.virtual_coverage", "part1.typing.virtual_accuracy.recipe",
    "part1.unseen.detection_f1", "part1.unseen.bpq", "part1.unseen.classical.bpq",
    "part1.unseen.type_f1.image_oriented", "part1.unseen.type_f1.shuffled", "part1.unseen.type_f1.colour",
    "part1.labels.merged_abstain", "part1.labels.merged_all", "part1.labels.fine_abstain", "part1.labels.fine_all",
    "part1.unseen.type_f1.recipe", "part1.labels.over_fine_merged", "part1.labels.over_recipe",
    "part1.effort.tiles_to_match", "part1.effort.tiles_to_match.bpq",
    *(f"part1.effort.{m}.{arm}" for m in ("type_f1", "bpq") for arm in ("slide", "tiles_5", "tiles_40")),
    *(f"part1.label_errors.{arm}" for arm in ("random_20", "random_40", "soft", "weighed_by_purity", "forgiving",
                                              "recipe", "recipe_forgiving")),
)  # fmt: skip


def one_seed(seed: int) -> None:
    """Run the notebooks at a seed into a folder of runs of its own."""
    out = folder_of(seed)
    words = [sys.executable, "-m", "stpath_core", "run", *NOTEBOOKS, "--reuse", "--seed", str(seed), "--out", str(out)]
    subprocess.run(words, check=True)


def folder_of(seed: int) -> Path:
    return stages.home() / "runs" / f"study_seed{seed}"


def rows_of(seed: int, folder: Path) -> list[list]:
    """What a seed's runs found: seed, key, value, revision, day."""
    metrics = manifest.read_json(folder / "latest" / "metrics.json")
    runs = [manifest.read_json(p) for p in folder.glob("*14_nuclei_claims*/manifest.json")]
    last = max((run for run in runs if run["status"] == "complete"), key=lambda run: run["begun"])
    run = [str(last["git"].get("revision", ""))[:12], last["begun"][:10]]
    return [[seed, key, f"{metrics[key]:.4f}", *run] for key in KEYS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    seeds = parser.parse_args().seeds
    for seed in seeds:
        one_seed(seed)
    write([row for seed in seeds for row in rows_of(seed, folder_of(seed))])


def write(rows: list[list]) -> None:
    """data/results/part1_seeds.csv, whole or not at all."""
    path = stages.home() / "data" / "results" / "part1_seeds.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["seed", "key", "value", "revision", "day"])
        table.writerows(rows)
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
